#pragma once
// Samples in memory, and batches of them made ahead of the training step on a thread of their own.
#include <ATen/core/Tensor.h>

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "data/augment.h"

namespace le {

struct Dataset {
  std::vector<Sample> samples;

  // Every image finite, of `channels` channels and `axes` spatial axes, every mask of its image's size with labels
  // below `classes` or equal to `ignore_index`, all of one size: else ERR_LE_SHAPE or ERR_LE_VALUE naming the sample by
  // `what` and index.
  void validate(const std::string& what, int64_t channels, int64_t axes, int64_t classes, int64_t ignore_index) const;
};

struct Batch {
  at::Tensor images;   // N×C×s float
  at::Tensor targets;  // N×s int64
  int64_t size() const { return images.size(0); }
};

// Copies samples into one batch on the CPU, in pinned memory where asked.
Batch collate(const std::vector<const Sample*>& samples, bool pinned);

// The order of one epoch: the samples shuffled by (seed, epoch), cut into batches whose sizes differ by at most one, so
// that no tiny last batch disturbs batch norm.
std::vector<std::vector<size_t>> epoch_batches(size_t samples, size_t batch_size, uint64_t seed, int64_t epoch);

// Makes the batches of one epoch in order, at most `ahead` of the reader. What a batch holds depends on (seed, epoch,
// sample) alone, never on timing.
class Loader {
 public:
  Loader(const Dataset& data, std::vector<std::vector<size_t>> batches, const AugmentOptions& augmentation,
         uint64_t seed, int64_t epoch, bool pinned, size_t ahead = 3);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  size_t batches() const { return batches_.size(); }
  Batch next();  // rethrows what the loading thread threw

 private:
  void run();
  const Dataset& data_;
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
