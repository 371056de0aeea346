#include "tiles/plan.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <cmath>

#include "error.h"

namespace le {

namespace {

constexpr double kSigma = 1.0 / 8, kLeast = 1e-3;

}  // namespace

int64_t TilePlan::count() const {
  int64_t count = 1;
  for (const auto& axis : starts) count *= static_cast<int64_t>(axis.size());
  return count;
}

std::vector<int64_t> TilePlan::offset(int64_t index) const {
  std::vector<int64_t> offset(starts.size());
  for (size_t axis = starts.size(); axis-- > 0;) {
    const auto steps = static_cast<int64_t>(starts[axis].size());
    offset[axis] = starts[axis][index % steps];
    index /= steps;
  }
  return offset;
}

std::vector<Part> TilePlan::parts() const {
  std::vector<Part> parts;
  for (size_t axis = 0; axis < image.size(); ++axis) parts.push_back({before[axis], image[axis], padded[axis]});
  return parts;
}

TilePlan plan_tiles(at::IntArrayRef image, at::IntArrayRef tile, double overlap) {
  if (image.size() != 2 && image.size() != 3)
    fail(code::kShape, "Expected 2 or 3 spatial axes for an image in tiles but received ", image, ".");
  if (tile.size() != image.size())
    fail(code::kOption, "Expected ", image.size(), " numbers, one per spatial axis, for option 'tile' but received ",
         tile, ".");
  if (!(overlap >= 0 && overlap < 1))
    fail(code::kOption, "Expected a number from 0 up and below 1 for option 'overlap' but received ", overlap, ".");
  TilePlan plan{image.vec(), tile.vec(), {}, {}, {}};
  for (size_t axis = 0; axis < image.size(); ++axis) {
    const int64_t n = image[axis], t = tile[axis];
    if (n < 1) fail(code::kShape, "Expected an image but received size ", image, ".");
    if (t < 1) fail(code::kOption, "Expected positive numbers for option 'tile' but received ", tile, ".");
    const int64_t padded = std::max(n, t), rest = padded - t;
    plan.padded.push_back(padded);
    plan.before.push_back((padded - n) / 2);
    const auto steps =
        static_cast<int64_t>(std::ceil(static_cast<double>(rest) / (static_cast<double>(t) * (1 - overlap))));
    std::vector<int64_t>& starts = plan.starts.emplace_back();
    // A step below one pixel would lay a tile twice.
    for (int64_t i = 0; i <= std::min(steps, rest); ++i)
      starts.push_back(i == 0 ? 0 : std::llrint(static_cast<double>(rest) / std::min(steps, rest) * i));
  }
  return plan;
}

at::Tensor tile_weights(TileWeights weights, at::IntArrayRef samples) {
  at::Tensor all = at::ones(samples, at::kFloat);
  if (weights == TileWeights::kConstant) return all;
  for (size_t axis = 0; axis < samples.size(); ++axis) {
    const auto size = static_cast<double>(samples[axis]);
    const at::Tensor x = (at::arange(samples[axis], at::kDouble) - (size - 1) / 2) / (size * kSigma);
    std::vector<int64_t> along(samples.size(), 1);
    along[axis] = samples[axis];
    all.mul_((x * x / -2).exp().to(at::kFloat).view(along));
  }
  return all.clamp_min_(kLeast);
}

}  // namespace le
