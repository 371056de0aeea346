#pragma once
// Augmentation of one sample on the CPU, off the JavaScript thread. The mask moves with the image.
#include <cstdint>
#include <vector>

#include "json.h"
#include "random.h"

namespace le {

// image: C×H×W float, mask: H×W uint8, both row-major and of one size.
struct Sample2d {
  int64_t channels = 0, height = 0, width = 0;
  std::vector<float> image;
  std::vector<uint8_t> mask;
};

// Ranges are sampled uniformly; a value of 0 (or an empty range) switches that part off.
struct AugmentOptions {
  double flip_horizontal = 0, flip_vertical = 0;  // probabilities
  double rotation = 0;                            // degrees, ±
  double scale_low = 1, scale_high = 1;           // zoom factor
  double translation = 0;                         // share of the side, ±
  double brightness = 0;                          // added, ±, in units of the image's own standard deviation
  double contrast = 0;                            // factor 1 ± contrast about the image's mean
  double noise = 0;                               // standard deviation of Gaussian noise, in units of the image's own
  uint8_t fill_mask = 0;  // label of pixels that come from outside (ignore_index to leave them out)

  // {"flipHorizontal", "flipVertical", "rotation", "scale": [low, high], "translation", "brightness", "contrast",
  // "noise"}
  static AugmentOptions from(const Json& options);
  bool any() const;
};

// Image values are interpolated bilinearly (borders replicated), labels by nearest neighbour, both at the same places.
// With flips only, the result is exact. Draws from `random` in a fixed order and number, whichever parts are on.
void augment(Sample2d& sample, const AugmentOptions& options, Random& random);

}  // namespace le
