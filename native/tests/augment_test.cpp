#include "data/augment.h"

#include <array>
#include <cmath>

#include "check.h"
#include "error.h"

namespace {

using le::augment;
using le::AugmentOptions;
using le::Json;
using le::Random;
using le::Sample;

// Blocks of three labels, and an image whose channel c is [label = c].
Sample one_hot(int64_t height, int64_t width) {
  Sample sample{3, {height, width}, std::vector<float>(3 * height * width, 0.0f), std::vector<uint8_t>(height * width)};
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      const auto label = static_cast<uint8_t>((y / 5 * 7 + x / 6 * 2 + y * x / 97) % 3);
      sample.mask[y * width + x] = label;
      sample.image[(label * height + y) * width + x] = 1;
    }
  return sample;
}

Sample smooth(int64_t height, int64_t width) {
  Sample sample{1, {height, width}, std::vector<float>(height * width), std::vector<uint8_t>(height * width)};
  for (int64_t i = 0; i < height * width; ++i) sample.image[i] = std::sin(0.05f * static_cast<float>(i));
  return sample;
}

bool same(const Sample& a, const Sample& b) { return a.image == b.image && a.mask == b.mask; }

double mean(const std::vector<float>& values) {
  double sum = 0;
  for (const float value : values) sum += value;
  return sum / static_cast<double>(values.size());
}
double deviation(const std::vector<float>& values) {
  const double centre = mean(values);
  double sum = 0;
  for (const float value : values) sum += (value - centre) * (value - centre);
  return std::sqrt(sum / static_cast<double>(values.size()));
}

}  // namespace

TEST("augment: all off changes nothing") {
  const Sample before = one_hot(17, 23);
  Sample after = before;
  Random random(1, 2);
  augment(after, AugmentOptions{}, random);
  CHECK(same(before, after));
  CHECK(!AugmentOptions{}.any());
}

TEST("augment: flips are exact, also of odd sides") {
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{5, 7}, {6, 4}, {1, 3}}) {
    for (int which = 1; which < 4; ++which) {
      const bool horizontal = which & 1, vertical = which & 2;
      AugmentOptions options;
      options.flip_horizontal = horizontal;
      options.flip_vertical = vertical;
      CHECK(options.any());
      const Sample before = one_hot(height, width);
      Sample after = before;
      Random random(3, 4);
      augment(after, options, random);
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x) {
          const int64_t from_y = vertical ? height - 1 - y : y, from_x = horizontal ? width - 1 - x : x;
          CHECK(after.mask[y * width + x] == before.mask[from_y * width + from_x]);
          for (int64_t c = 0; c < 3; ++c)
            CHECK(after.image[(c * height + y) * width + x] == before.image[(c * height + from_y) * width + from_x]);
        }
    }
  }
}

TEST("augment: a flip of chance one half happens about half of the time") {
  AugmentOptions options;
  options.flip_horizontal = 0.5;
  const Sample before = one_hot(8, 9);
  int flipped = 0;
  for (uint64_t i = 0; i < 400; ++i) {
    Sample after = before;
    Random random(5, i);
    augment(after, options, random);
    flipped += !same(before, after);
  }
  CHECK(flipped > 150 && flipped < 250);
}

TEST("augment: rotation turns the image and its mask about the centre by the angle drawn") {
  AugmentOptions options;
  options.rotation = 90;
  Random probe(7, 7);
  probe.chance(0);
  probe.chance(0);
  const double angle = probe.uniform(-90, 90) * 3.14159265358979323846 / 180;
  // Clockwise on the screen for a positive angle, because y points down.
  Sample sample{1, {99, 99}, {}, {}};
  const int64_t height = 99, width = 99;
  sample.image.assign(height * width, 0.0f);
  sample.mask.assign(height * width, 0);
  const double centre = static_cast<double>(width - 1) / 2;
  const double dx = 30, dy = -12;
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      const double squared = std::pow(x - centre - dx, 2) + std::pow(y - centre - dy, 2);
      sample.image[y * width + x] = static_cast<float>(std::exp(-squared / 18));
      sample.mask[y * width + x] = squared < 25;
    }
  Random random(7, 7);
  augment(sample, options, random);
  double weight = 0, at_x = 0, at_y = 0, label_x = 0, label_y = 0, labels = 0;
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      const double value = sample.image[y * width + x], label = sample.mask[y * width + x];
      weight += value, at_x += value * x, at_y += value * y;
      labels += label, label_x += label * x, label_y += label * y;
    }
  const double expected_x = centre + dx * std::cos(angle) - dy * std::sin(angle);
  const double expected_y = centre + dx * std::sin(angle) + dy * std::cos(angle);
  CHECK_NEAR(at_x / weight, expected_x, 0.05);
  CHECK_NEAR(at_y / weight, expected_y, 0.05);
  CHECK_NEAR(label_x / labels, expected_x, 0.2);
  CHECK_NEAR(label_y / labels, expected_y, 0.2);
}

TEST("augment: translation moves by a share of the side, and zoom about the centre") {
  const int64_t side = 101;
  const auto blob = [&] {
    Sample sample{1, {side, side}, std::vector<float>(side * side), std::vector<uint8_t>(side * side)};
    for (int64_t y = 0; y < side; ++y)
      for (int64_t x = 0; x < side; ++x)
        sample.image[y * side + x] =
            static_cast<float>(std::exp(-(std::pow(x - 60.0, 2) + std::pow(y - 45.0, 2)) / 32));
    return sample;
  };
  const auto centre_of = [&](const Sample& sample) {
    double weight = 0, x_sum = 0, y_sum = 0;
    for (int64_t y = 0; y < side; ++y)
      for (int64_t x = 0; x < side; ++x) {
        const double value = sample.image[y * side + x];
        weight += value, x_sum += value * x, y_sum += value * y;
      }
    return std::array<double, 3>{x_sum / weight, y_sum / weight, weight};
  };
  Random probe(11, 1);
  for (int i = 0; i < 4; ++i) probe.bits();
  const double shift_x = probe.uniform(-0.2, 0.2) * side, shift_y = probe.uniform(-0.2, 0.2) * side;
  AugmentOptions options;
  options.translation = 0.2;
  Sample moved = blob();
  Random random(11, 1);
  augment(moved, options, random);
  const auto [x, y, weight] = centre_of(moved);
  CHECK_NEAR(x, 60 + shift_x, 0.05);
  CHECK_NEAR(y, 45 + shift_y, 0.05);

  AugmentOptions zoom;
  zoom.scale_low = zoom.scale_high = 1.5;
  Sample larger = blob();
  Random other(11, 1);
  augment(larger, zoom, other);
  const auto [zoomed_x, zoomed_y, zoomed_weight] = centre_of(larger);
  CHECK_NEAR(zoomed_x, 50 + 10 * 1.5, 0.05);
  CHECK_NEAR(zoomed_y, 50 - 5 * 1.5, 0.05);
  CHECK_NEAR(zoomed_weight / centre_of(blob())[2], 2.25, 0.02);
}

TEST("augment: the mask moves with the image, and what comes from outside has the fill label") {
  AugmentOptions options;
  options.flip_horizontal = options.flip_vertical = 0.5;
  options.rotation = 40;
  options.scale_low = 0.7;
  options.scale_high = 1.3;
  options.translation = 0.15;
  options.fill_mask = 255;
  int64_t outside = 0, pure = 0;
  for (uint64_t i = 0; i < 30; ++i) {
    Sample sample = one_hot(41, 64);
    Random random(13, i);
    augment(sample, options, random);
    const int64_t plane = sample.pixels();
    for (int64_t pixel = 0; pixel < plane; ++pixel) {
      const uint8_t label = sample.mask[pixel];
      if (label == 255) {
        ++outside;
        continue;
      }
      float sum = 0;
      for (int64_t c = 0; c < 3; ++c) {
        const float value = sample.image[c * plane + pixel];
        CHECK(value >= -1e-6f && value <= 1 + 1e-6f);
        if (value > 1 - 1e-6f) {
          ++pure;
          CHECK(label == c);  // all four neighbours have this label
        }
        sum += value;
      }
      CHECK_NEAR(sum, 1, 1e-5);
      // The nearest of four neighbours has at least a quarter of the weight.
      CHECK(sample.image[label * plane + pixel] >= 0.25f - 1e-6f);
    }
  }
  CHECK(outside > 1000);
  CHECK(pure > 10000);
}

TEST("augment: brightness and contrast are in units of the image's own spread") {
  const Sample before = smooth(64, 64);
  const double centre = mean(before.image), spread = deviation(before.image);
  double lowest = 1e9, highest = -1e9, least = 1e9, most = -1e9;
  for (uint64_t i = 0; i < 300; ++i) {
    AugmentOptions options;
    options.brightness = 0.5;
    options.contrast = 0.25;
    Sample after = before;
    Random random(17, i);
    augment(after, options, random);
    const double shift = (mean(after.image) - centre) / spread, factor = deviation(after.image) / spread;
    lowest = std::min(lowest, shift), highest = std::max(highest, shift);
    least = std::min(least, factor), most = std::max(most, factor);
    CHECK(after.mask == before.mask);
  }
  CHECK(lowest >= -0.5001 && lowest < -0.47);
  CHECK(highest <= 0.5001 && highest > 0.47);
  CHECK(least >= 0.7499 && least < 0.765);
  CHECK(most <= 1.2501 && most > 1.235);
}

TEST("augment: noise is Gaussian, of the stated deviation, and white") {
  const Sample before = smooth(200, 201);
  Sample after = before;
  AugmentOptions options;
  options.noise = 0.1;
  Random random(19, 0);
  augment(after, options, random);
  const double spread = 0.1 * deviation(before.image);
  const auto n = static_cast<double>(before.image.size());
  double sum = 0, squares = 0, fourth = 0, neighbours = 0, last = 0;
  for (size_t i = 0; i < before.image.size(); ++i) {
    const double z = (after.image[i] - before.image[i]) / spread;
    sum += z, squares += z * z, fourth += z * z * z * z, neighbours += z * last;
    last = z;
  }
  CHECK_NEAR(sum / n, 0, 5 / std::sqrt(n));
  CHECK_NEAR(squares / n, 1, 5 * std::sqrt(2 / n));
  CHECK_NEAR(fourth / n, 3, 5 * std::sqrt(96 / n));
  CHECK_NEAR(neighbours / n, 0, 5 / std::sqrt(n));
}

TEST("augment: the same stream gives the same sample, another one another") {
  AugmentOptions options;
  options.rotation = 20;
  options.noise = 0.1;
  options.brightness = 0.2;
  Sample a = smooth(20, 21), b = a, c = a;
  Random first(23, 1), second(23, 1), third(23, 2);
  augment(a, options, first);
  augment(b, options, second);
  augment(c, options, third);
  CHECK(same(a, b));
  CHECK(!same(a, c));
}

TEST("augment: the number of draws does not depend on what is on") {
  AugmentOptions everything;
  everything.flip_horizontal = everything.flip_vertical = everything.flip_depth = 0.5;
  everything.rotation = 10;
  everything.scale_high = 1.2;
  everything.translation = 0.1;
  everything.brightness = everything.contrast = everything.noise = 0.1;
  Sample a = smooth(8, 8), b = a;
  Random first(29, 1), second(29, 1);
  augment(a, AugmentOptions{}, first);
  augment(b, everything, second);
  CHECK(first.bits() == second.bits());
}

TEST("augment: a volume is flipped along each axis, and all of its slices move alike") {
  const int64_t depth = 3, height = 8, width = 11, plane = height * width;
  const Sample slice = one_hot(height, width);
  Sample volume{3, {depth, height, width}, {}, {}};
  for (int64_t z = 0; z < depth; ++z)
    for (const uint8_t label : slice.mask) volume.mask.push_back(static_cast<uint8_t>(label + 3 * z));
  for (int64_t c = 0; c < 3; ++c)
    for (int64_t z = 0; z < depth; ++z)
      for (int64_t i = 0; i < plane; ++i)
        volume.image.push_back(slice.image[c * plane + i] + static_cast<float>(10 * z));

  AugmentOptions flips;
  flips.flip_depth = 1;
  Sample flipped = volume;
  Random random(3, 4);
  augment(flipped, flips, random);
  for (int64_t z = 0; z < depth; ++z)
    for (int64_t i = 0; i < plane; ++i) {
      CHECK(flipped.mask[z * plane + i] == volume.mask[(depth - 1 - z) * plane + i]);
      for (int64_t c = 0; c < 3; ++c)
        CHECK(flipped.image[(c * depth + z) * plane + i] == volume.image[(c * depth + depth - 1 - z) * plane + i]);
    }

  // In the plane, each slice becomes what it would have become alone.
  AugmentOptions all;
  all.flip_horizontal = all.flip_vertical = 1;
  all.rotation = 30;
  all.scale_low = 0.8;
  all.translation = 0.1;
  all.fill_mask = 255;
  Sample moved = volume;
  Random together(5, 6);
  augment(moved, all, together);
  for (int64_t z = 0; z < depth; ++z) {
    Sample alone{3, {height, width}, {}, {volume.mask.begin() + z * plane, volume.mask.begin() + (z + 1) * plane}};
    for (int64_t c = 0; c < 3; ++c) {
      const auto begin = volume.image.begin() + (c * depth + z) * plane;
      alone.image.insert(alone.image.end(), begin, begin + plane);
    }
    Random again(5, 6);
    augment(alone, all, again);
    for (int64_t i = 0; i < plane; ++i) {
      CHECK(moved.mask[z * plane + i] == alone.mask[i]);
      for (int64_t c = 0; c < 3; ++c) CHECK(moved.image[(c * depth + z) * plane + i] == alone.image[c * plane + i]);
    }
  }
}

TEST("augment: a constant image and a single pixel stay finite") {
  AugmentOptions options;
  options.rotation = 45;
  options.scale_low = 0.5;
  options.scale_high = 2;
  options.translation = 1;
  options.brightness = options.contrast = options.noise = 0.5;
  for (const int64_t side : {1, 2, 9}) {
    Sample sample{2, {side, side}, std::vector<float>(2 * side * side, 3.0f), std::vector<uint8_t>(side * side, 1)};
    Random random(31, static_cast<uint64_t>(side));
    augment(sample, options, random);
    for (const float value : sample.image) CHECK(std::abs(value - 3) < 1e-5);
  }
}

TEST("augment: options out of range are refused, all of them are read") {
  const auto from = [](const char* text) { return AugmentOptions::from(Json::parse(text, le::code::kOption)); };
  const AugmentOptions all = from(
      R"({"flipHorizontal": 0.5, "flipVertical": 0.25, "flipDepth": 0.75, "rotation": 15, "scale": [0.9, 1.1], "translation": 0.05,
               "brightness": 0.2, "contrast": 0.3, "noise": 0.02})");
  CHECK(all.flip_horizontal == 0.5 && all.flip_vertical == 0.25 && all.flip_depth == 0.75 && all.rotation == 15 &&
        all.scale_low == 0.9 && all.scale_high == 1.1 && all.translation == 0.05 && all.brightness == 0.2 &&
        all.contrast == 0.3 && all.noise == 0.02);
  CHECK(!from("{}").any());
  for (const char* bad : {R"({"flipHorizontal": 1.5})", R"({"flipVertical": -0.1})", R"({"rotation": 200})",
                          R"({"scale": [1.2, 0.8]})", R"({"scale": [0, 1]})", R"({"scale": [1]})",
                          R"({"translation": 2})", R"({"contrast": 1.1})", R"({"noise": -1})", R"({"rotation": "x"})"})
    CHECK_THROWS(from(bad), "ERR_LE_OPTION");
}
