#pragma once
// Augmentation of one sample on the CPU, off the JavaScript thread. The mask moves with the image.
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include "files/json.h"
#include "random.h"

namespace le {

inline int64_t pixels(const std::vector<int64_t>& size) {
  return std::accumulate(size.begin(), size.end(), int64_t{1}, std::multiplies<>());
}

// An image or a volume. image: C×s float, mask: s uint8, both row-major.
struct Sample {
  int64_t channels = 0;
  std::vector<int64_t> size;  // s: height and width, or depth, height and width
  std::vector<float> image;
  std::vector<uint8_t> mask;

  int64_t pixels() const { return le::pixels(size); }
};

// Ranges are sampled uniformly; a value of 0 (or an empty range) switches that part off.
struct AugmentOptions {
  // Probabilities, along the last axis, the last but one, and a volume's first.
  double flip_horizontal = 0, flip_vertical = 0, flip_depth = 0;
  double rotation = 0;                   // degrees, ±
  double scale_low = 1, scale_high = 1;  // zoom factor
  double translation = 0;                // share of the side, ±
  double brightness = 0;                 // added, ±, in units of the image's own standard deviation
  double contrast = 0;                   // factor 1 ± contrast about the image's mean
  double noise = 0;                      // standard deviation of Gaussian noise, in units of the image's own
  uint8_t fill_mask = 0;                 // label of pixels that come from outside (ignore_index to leave them out)

  // {"flipHorizontal", "flipVertical", "flipDepth", "rotation", "scale": [low, high], "translation", "brightness",
  // "contrast", "noise"}
  static AugmentOptions from(const Json& options);
  bool any() const;
};

// A volume is turned, zoomed and shifted in the plane of its last two axes, all slices alike.
// Image values are interpolated bilinearly (borders replicated), labels by nearest neighbour, both at the same places.
// With flips only, the result is exact. Draws from `random` in a fixed order and number, whichever parts are on.
void augment(Sample& sample, const AugmentOptions& options, Random& random);

}  // namespace le
