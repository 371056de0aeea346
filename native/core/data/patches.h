#pragma once
// Parts of samples, all of one size: random patches to train on, and the tiles by which a sample is validated.
#include <cstdint>
#include <vector>

#include "data/dataset.h"
#include "files/json.h"
#include "random.h"

namespace le {

struct PatchOptions {
  std::vector<int64_t> size;  // per spatial axis; empty: samples are trained on whole
  double foreground = 0;      // share of patches about a pixel of a class above 0
  int64_t per_sample = 0;     // of an epoch; 0: as many as have a sample's pixels, of the mean sample

  // {"patch", "patchForeground", "patchesPerCase"}: none of them, or all but the last
  static PatchOptions from(const Json& options);
  bool any() const { return !size.empty(); }
};

// What of a sample lies from `start` on within `size`, per spatial axis; zeros and label 0 where the sample is not.
Sample part_of(const SampleView& sample, const std::vector<int64_t>& start, const std::vector<int64_t>& size);

// Random parts of samples of whatever sizes, as nnU-Net takes them (Isensee et al. 2021). A share of them lies about a
// pixel of the foreground: a class above 0 that the sample has is drawn, then one of its pixels, which is the patch's
// middle as far as the sample's borders let it be. The others lie anywhere within the sample; where some of its pixels
// do not count, about one that does. Along an axis on which the sample is smaller than a patch it is in the middle of
// it.
class Patches {
 public:
  // Reads every mask once. `data` must outlive it and stay as it is.
  Patches(const Dataset& data, const PatchOptions& options, int64_t ignore_index, uint64_t seed);

  // In an epoch: as many of each sample.
  size_t count() const { return places_.size() * per_sample_; }
  // Of the sample that patch `number` is of.
  size_t sample_of(size_t number) const { return number / per_sample_; }
  // What patch `number`, below count(), holds hangs on seed, epoch and number alone.
  Sample draw(size_t number, int64_t epoch) const;

 private:
  // Where pixels of one kind lie: how many are in the rows (a volume's planes) up to each, that one counted.
  using Upto = std::vector<int64_t>;
  struct Places {
    std::vector<uint8_t> labels;  // that are there and above 0, ascending
    std::vector<Upto> of_label;
    Upto counted;  // empty where all pixels count
  };
  Places places_of(const SampleView& sample) const;
  std::vector<int64_t> start_of(const SampleView& sample, const Places& places, Random& random) const;

  const Dataset& data_;
  const PatchOptions options_;
  const int64_t ignore_index_;
  const uint64_t seed_;
  std::vector<Places> places_;
  size_t per_sample_ = 1;
};

// A tile of a sample (see part_of()), and the pixels that are judged in it: from `from` on, before `to`, within the
// tile. Each pixel of a sample is judged once, in the tile whose middle is nearest along each axis. Where `size` is
// empty it is the whole sample.
struct JudgedTile {
  size_t sample;
  std::vector<int64_t> start, size, from, to;
};

// The tiles of all samples, in order, as plan_tiles() lays them; where `size` is empty, the samples whole.
std::vector<JudgedTile> judged_tiles(const Dataset& data, const std::vector<int64_t>& size, double overlap);

}  // namespace le
