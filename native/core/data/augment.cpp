#include "augment.h"

#include <algorithm>
#include <cmath>

#include "error.h"

namespace le {

namespace {

double checked(const Json& options, const char* name, double high) {
  const double value = options.number_or(name, 0);
  if (!(value >= 0 && value <= high))
    fail(code::kOption, "Expected 0 to ", high, " for option '", name, "' of augment but received ", value, ".");
  return value;
}

template <class T>
void mirror(T* values, int64_t rows, int64_t columns, bool horizontally, bool vertically) {
  if (horizontally)
    for (int64_t y = 0; y < rows; ++y) std::reverse(values + y * columns, values + (y + 1) * columns);
  if (vertically)
    for (int64_t y = 0; y < rows / 2; ++y)
      std::swap_ranges(values + y * columns, values + (y + 1) * columns, values + (rows - 1 - y) * columns);
}

// Where each output pixel comes from: source = matrix · (output - centre) + centre + shift, in pixels.
struct Motion {
  double xx, xy, yx, yy, shift_x, shift_y;
};

void move(Sample2d& sample, const Motion& motion, uint8_t outside) {
  const int64_t h = sample.height, w = sample.width;
  const std::vector<float> image = sample.image;
  const std::vector<uint8_t> mask = sample.mask;
  const double cx = static_cast<double>(w - 1) / 2, cy = static_cast<double>(h - 1) / 2;
  for (int64_t y = 0; y < h; ++y) {
    for (int64_t x = 0; x < w; ++x) {
      const double dx = static_cast<double>(x) - cx, dy = static_cast<double>(y) - cy;
      const double sx = motion.xx * dx + motion.xy * dy + cx + motion.shift_x;
      const double sy = motion.yx * dx + motion.yy * dy + cy + motion.shift_y;
      const auto nearest_x = static_cast<int64_t>(std::floor(sx + 0.5));
      const auto nearest_y = static_cast<int64_t>(std::floor(sy + 0.5));
      const bool inside = nearest_x >= 0 && nearest_x < w && nearest_y >= 0 && nearest_y < h;
      sample.mask[y * w + x] = inside ? mask[nearest_y * w + nearest_x] : outside;
      const double px = std::clamp(sx, 0.0, static_cast<double>(w - 1)),
                   py = std::clamp(sy, 0.0, static_cast<double>(h - 1));
      const auto x0 = static_cast<int64_t>(px), y0 = static_cast<int64_t>(py);
      const int64_t x1 = std::min(x0 + 1, w - 1), y1 = std::min(y0 + 1, h - 1);
      const auto fx = static_cast<float>(px - static_cast<double>(x0)),
                 fy = static_cast<float>(py - static_cast<double>(y0));
      for (int64_t c = 0; c < sample.channels; ++c) {
        const float* plane = image.data() + c * h * w;
        const float top = plane[y0 * w + x0] * (1 - fx) + plane[y0 * w + x1] * fx;
        const float bottom = plane[y1 * w + x0] * (1 - fx) + plane[y1 * w + x1] * fx;
        sample.image[(c * h + y) * w + x] = top * (1 - fy) + bottom * fy;
      }
    }
  }
}

}  // namespace

AugmentOptions AugmentOptions::from(const Json& options) {
  AugmentOptions result;
  result.flip_horizontal = checked(options, "flipHorizontal", 1);
  result.flip_vertical = checked(options, "flipVertical", 1);
  result.rotation = checked(options, "rotation", 360);
  result.translation = checked(options, "translation", 1);
  result.brightness = checked(options, "brightness", 100);
  result.contrast = checked(options, "contrast", 1);
  result.noise = checked(options, "noise", 100);
  const auto scale = options.numbers_or("scale", {1, 1});
  if (scale.size() != 2 || !(scale[0] > 0 && scale[0] <= scale[1] && scale[1] <= 100))
    fail(code::kOption, "Expected [low, high] with 0 < low ≤ high for option 'scale' of augment but received others.");
  result.scale_low = scale[0];
  result.scale_high = scale[1];
  return result;
}

bool AugmentOptions::any() const {
  return flip_horizontal > 0 || flip_vertical > 0 || rotation > 0 || scale_low != 1 || scale_high != 1 ||
         translation > 0 || brightness > 0 || contrast > 0 || noise > 0;
}

void augment(Sample2d& sample, const AugmentOptions& options, Random& random) {
  // All draws come first, and always all of them: switching one part off leaves the others as they were.
  const bool horizontally = random.chance(options.flip_horizontal), vertically = random.chance(options.flip_vertical);
  const double angle = random.uniform(-options.rotation, options.rotation) * 3.14159265358979323846 / 180;
  const double scale = random.uniform(options.scale_low, options.scale_high);
  const double right = random.uniform(-options.translation, options.translation) * static_cast<double>(sample.width);
  const double down = random.uniform(-options.translation, options.translation) * static_cast<double>(sample.height);
  const double brightness = random.uniform(-options.brightness, options.brightness);
  const double contrast = random.uniform(1 - options.contrast, 1 + options.contrast);

  for (int64_t c = 0; c < sample.channels; ++c)
    mirror(sample.image.data() + c * sample.height * sample.width, sample.height, sample.width, horizontally,
           vertically);
  mirror(sample.mask.data(), sample.height, sample.width, horizontally, vertically);
  if (angle != 0 || scale != 1 || right != 0 || down != 0) {
    const double cosine = std::cos(angle) / scale, sine = std::sin(angle) / scale;
    move(sample, {cosine, sine, -sine, cosine, -right, -down}, options.fill_mask);
  }
  if (brightness == 0 && contrast == 1 && options.noise == 0) return;
  double sum = 0, squares = 0;
  for (const float value : sample.image) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  const auto count = static_cast<double>(sample.image.size());
  const double mean = sum / count, deviation = std::sqrt(std::max(0.0, squares / count - mean * mean));
  for (float& value : sample.image) {
    double changed = mean + (value - mean) * contrast + brightness * deviation;
    if (options.noise > 0) changed += random.normal() * options.noise * deviation;
    value = static_cast<float>(changed);
  }
}

}  // namespace le
