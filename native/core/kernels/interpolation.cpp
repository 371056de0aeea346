#include "kernels/interpolation.h"

#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/upsample_nearest2d.h>
#include <ATen/ops/upsample_nearest3d.h>
#include <ATen/ops/upsample_trilinear3d.h>

#include <algorithm>
#include <cmath>

namespace le {

at::Tensor resized(const at::Tensor& x, at::IntArrayRef size, Upsampling how) {
  if (x.sizes().slice(2) == size) return x;
  const bool volume = size.size() == 3;
  if (how == Upsampling::kNearest) return volume ? at::upsample_nearest3d(x, size) : at::upsample_nearest2d(x, size);
  const bool aligned = how == Upsampling::kLinearAlignedCorners;
  return volume ? at::upsample_trilinear3d(x, size, aligned) : at::upsample_bilinear2d(x, size, aligned);
}

AxisPlan::AxisPlan(Samples samples, int64_t size, int64_t padding, Part part)
    : source(samples.count),
      size(size),
      same(samples.count == size && samples.whole == size && part.all() && !part.nearest) {
  const int64_t padded = (size + padding - 1) / padding * padding, whole = samples.whole;
  const auto scaled = [&](int64_t of_whole) {
    return static_cast<double>(whole * of_whole) / static_cast<double>(part.whole);
  };
  const int64_t places = part.nearest ? part.length : size;
  const auto place = [&](int64_t i) {
    if (!part.nearest) return i;
    const double step = static_cast<double>(places) / static_cast<double>(size);
    // As lib/grid/interpolate.ts has it, to the bit.
    const auto at = static_cast<int64_t>(std::floor((static_cast<double>(i) + 0.5) * step - 0.5 + 0.5));
    return std::min(at, places - 1);
  };
  const float scale = static_cast<float>(scaled(part.length)) / static_cast<float>(places);
  const auto origin = static_cast<float>(scaled(part.before) - 0.5);
  for (int64_t i = 0; i < padded; ++i) {
    const float at = std::fma(scale, static_cast<float>(place(std::min(i, size - 1))) + 0.5f, origin);
    const float position = std::max(at, 0.0f);
    const int64_t below = std::min(static_cast<int64_t>(position), whole - 1);
    index.push_back(static_cast<int32_t>(below - samples.first));
    weight.push_back(below == whole - 1 ? 0.0f : std::min(position - static_cast<float>(below), 1.0f));
  }
}

}  // namespace le
