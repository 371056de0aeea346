#pragma once
// Samples, wherever they are kept, and batches of them made ahead of the training step on a thread of their own.
#include <ATen/core/Tensor.h>

#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "data/augment.h"

namespace le {

// A sample as its readers see it: C×s float and s labels, which stay where they are for as long as the view lives.
struct SampleView {
  int64_t channels = 0;
  std::vector<int64_t> size;
  const float* image = nullptr;
  const uint8_t* mask = nullptr;
  std::shared_ptr<const void> kept;  // what owns them, where nobody else does

  int64_t pixels() const { return le::pixels(size); }
  int64_t values() const { return channels * pixels(); }
};

// Where samples are kept; readers ask for one after another, and for each anew.
struct Dataset {
  std::vector<Sample> samples;

  size_t size() const { return samples.size(); }
  SampleView view(size_t index) const;

  // Every image finite, of `channels` channels and `axes` spatial axes, every mask of its image's size with labels
  // below `classes` or equal to `ignore_index`, all of one size unless they are of `any_size`: else ERR_LE_SHAPE or
  // ERR_LE_VALUE naming the sample by `what` and index.
  void validate(const std::string& what, int64_t channels, int64_t axes, int64_t classes, int64_t ignore_index,
                bool any_size = false) const;
};

// A view of a sample in memory, which must outlive it.
SampleView view_of(const Sample& sample);

// A copy that may be changed.
Sample copy_of(const SampleView& view);

struct Batch {
  at::Tensor images;   // N×C×s float
  at::Tensor targets;  // N×s int64
  int64_t size() const { return images.size(0); }
};

// A batch for samples of this shape, not yet filled; on the CPU, in pinned memory where asked.
Batch empty_batch(size_t count, int64_t channels, const std::vector<int64_t>& size, bool pinned);

// Copies a sample, of the batch's shape, to its place there.
void put(const SampleView& sample, size_t place, Batch& batch);

// Copies samples of one shape into one batch, asking for one at a time.
Batch collate(const Dataset& data, const std::vector<size_t>& indices, bool pinned);

// The order of one epoch: the samples shuffled by (seed, epoch), cut into batches whose sizes differ by at most one, so
// that no tiny last batch disturbs batch norm.
std::vector<std::vector<size_t>> epoch_batches(size_t samples, size_t batch_size, uint64_t seed, int64_t epoch);

class Patches;

// Makes the batches of one epoch in order, at most `ahead` of the reader: of samples, or of patches of them where there
// are any. What a batch holds depends on (seed, epoch, number of the sample or patch) alone, never on timing.
class Loader {
 public:
  Loader(const Dataset& data, const Patches* patches, std::vector<std::vector<size_t>> batches,
         const AugmentOptions& augmentation, uint64_t seed, int64_t epoch, bool pinned, size_t ahead = 3);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  size_t batches() const { return batches_.size(); }
  Batch next();  // rethrows what the loading thread threw

 private:
  void run();
  Batch made(const std::vector<size_t>& numbers) const;
  const Dataset& data_;
  const Patches* const patches_;
  const std::vector<std::vector<size_t>> batches_;
  const AugmentOptions augmentation_;
  const uint64_t seed_;
  const int64_t epoch_;
  const bool pinned_;
  const size_t ahead_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;
  std::exception_ptr failure_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace le
