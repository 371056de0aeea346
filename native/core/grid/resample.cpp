#include "grid/resample.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "error.h"
#include "kernels/isa.h"
#include "kernels/resample_kernel.h"

namespace le {

namespace {

using kernel::kLines;

// Which values of a line, whose ends are repeated `margin` times, each output takes, and with what weights.
struct Taps {
  Taps(Between between, int64_t from, int64_t to);
  int64_t margin, count;
  std::vector<int32_t> first;
  std::vector<double> weights;
};

Taps::Taps(Between between, int64_t from, int64_t to)
    : margin(between == Between::kCubic    ? 12  // beyond, the filter's pole leaves less than 1e-6 of a value
             : between == Between::kLinear ? 1
                                           : 0),
      count(between == Between::kCubic    ? 4
            : between == Between::kLinear ? 2
                                          : 1) {
  const double step = static_cast<double>(from) / static_cast<double>(to);
  for (int64_t i = 0; i < to; ++i) {
    // Voxels meet at half integers.
    const double x = (static_cast<double>(i) + 0.5) * step - 0.5;
    const double below = std::floor(between == Between::kNearest ? x + 0.5 : x), t = x - below, s = 1 - t;
    const auto at = static_cast<int32_t>(below) + static_cast<int32_t>(margin);
    switch (between) {
      case Between::kNearest:
        first.push_back(at);
        weights.push_back(1);
        break;
      case Between::kLinear:
        first.push_back(at);
        weights.insert(weights.end(), {s, t});
        break;
      case Between::kCubic:
        first.push_back(at - 1);
        weights.insert(weights.end(),
                       {s * s * s / 6, 2.0 / 3 - t * t * (2 - t) / 2, 2.0 / 3 - s * s * (2 - s) / 2, t * t * t / 6});
    }
  }
}

kernel::ResampleLines chosen_kernel() {
  [[maybe_unused]] const std::string isa = chosen_isa();
#if defined(__x86_64__)
  if (isa == "avx512") return kernel::resample_lines_avx512;
  if (isa == "avx2") return kernel::resample_lines_avx2;
#endif
  return kernel::resample_lines_generic;
}

void check(const at::Tensor& volume, const std::vector<Stretch>& stretches) {
  if (volume.dim() != 4 || volume.numel() == 0 || !volume.device().is_cpu() || !volume.is_contiguous())
    fail(code::kShape, "Expected C×D×H×W values on the CPU for a volume to resample but received shape ",
         volume.sizes(), ".");
  unsigned seen = 0;
  for (const Stretch& stretch : stretches) {
    if (stretch.axis < 1 || stretch.axis > 3 || seen >> stretch.axis & 1)
      fail(code::kShape, "Expected axes 1 to 3, each once, to resample along but received ", stretch.axis, ".");
    if (stretch.size < 1 || stretch.size > INT32_MAX || volume.size(stretch.axis) > INT32_MAX - 64)
      fail(code::kShape, "Expected 1 to 2^31 - 1 voxels for an axis to resample but received ", stretch.size, ".");
    seen |= 1u << stretch.axis;
  }
}

std::vector<int64_t> shape_after(const at::Tensor& volume, const Stretch& stretch) {
  std::vector<int64_t> shape = volume.sizes().vec();
  shape[stretch.axis] = stretch.size;
  return shape;
}

at::Tensor stretched(const at::Tensor& volume, const Stretch& stretch) {
  const Taps taps(stretch.between, volume.size(stretch.axis), stretch.size);
  const at::Tensor out = at::empty(shape_after(volume, stretch), at::kFloat);
  const int64_t inner = volume.stride(stretch.axis), from = volume.size(stretch.axis);
  const int64_t outer = volume.numel() / (inner * from);
  const kernel::LineTask task{volume.const_data_ptr<float>(),
                              out.mutable_data_ptr<float>(),
                              from,
                              stretch.size,
                              inner,
                              taps.margin,
                              taps.count,
                              taps.first.data(),
                              taps.weights.data(),
                              stretch.between == Between::kCubic};
  // Neighbouring lines lie side by side, or, along the last axis, one after the other.
  const int64_t groups = inner == 1 ? 1 : outer, lines = inner == 1 ? outer : inner;
  const int64_t per_group = (lines + kLines - 1) / kLines;
  const kernel::ResampleLines run = chosen_kernel();
  at::parallel_for(0, groups * per_group, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> buffer((from + 2 * taps.margin) * kLines);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t line = item % per_group * kLines;
      run(task, item / per_group, line, std::min(kLines, lines - line), buffer.data());
    }
  });
  return out;
}

// Bytes of the nearest voxels.
at::Tensor picked(const at::Tensor& volume, const Stretch& stretch) {
  const int64_t inner = volume.stride(stretch.axis), from = volume.size(stretch.axis), to = stretch.size;
  const Taps taps(Between::kNearest, from, to);
  const at::Tensor out = at::empty(shape_after(volume, stretch), at::kByte);
  const auto* const source = volume.const_data_ptr<uint8_t>();
  auto* const target = out.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, volume.numel() / (inner * from), 1, [&](int64_t begin, int64_t end) {
    for (int64_t group = begin; group < end; ++group)
      for (int64_t i = 0; i < to; ++i)
        std::copy_n(source + (group * from + taps.first[i]) * inner, inner, target + (group * to + i) * inner);
  });
  return out;
}

// Which voxels of an axis an output lies between, and their shares of it.
struct Sides {
  std::vector<int64_t> near, far;
  std::vector<double> near_share, far_share;  // empty where there is but one
};

Sides sides_of(int64_t from, const Stretch* stretch) {
  Sides sides;
  if (!stretch) {
    sides.near.resize(from);
    std::iota(sides.near.begin(), sides.near.end(), 0);
    sides.far = sides.near;
    return sides;
  }
  const Taps taps(stretch->between, from, stretch->size);
  const auto inside = [&](int64_t at) { return std::clamp<int64_t>(at - taps.margin, 0, from - 1); };
  for (int64_t i = 0; i < stretch->size; ++i) {
    sides.near.push_back(inside(taps.first[i]));
    sides.far.push_back(inside(taps.first[i] + taps.count - 1));
    if (taps.count == 1) continue;
    sides.near_share.push_back(taps.weights[2 * i]);
    sides.far_share.push_back(taps.weights[2 * i + 1]);
  }
  return sides;
}

}  // namespace

at::Tensor resample(const at::Tensor& volume, const std::vector<Stretch>& stretches, const Control& control) {
  check(volume, stretches);
  const bool bytes = volume.scalar_type() == at::kByte;
  at::Tensor at = volume;
  for (const Stretch& stretch : stretches) {
    control.check();
    if (bytes && stretch.between != Between::kNearest)
      fail(code::kValue, "Expected the nearest voxels of bytes but received values between them.");
    at = (bytes ? picked : stretched)(at, stretch);
  }
  return at;
}

at::Tensor resample_labels(const at::Tensor& labels, const std::vector<Stretch>& stretches, const Control& control) {
  check(labels, stretches);
  control.check();
  std::vector<int64_t> shape = labels.sizes().vec();
  const Stretch* of_axis[4] = {};
  for (const Stretch& stretch : stretches) {
    if (stretch.between == Between::kCubic)
      fail(code::kValue,
           "Expected shares of labels that are linear, or of the nearest voxel, but received cubic ones.");
    of_axis[stretch.axis] = &stretch;
    shape[stretch.axis] = stretch.size;
  }
  const Sides z_sides = sides_of(labels.size(1), of_axis[1]), y_sides = sides_of(labels.size(2), of_axis[2]),
              x_sides = sides_of(labels.size(3), of_axis[3]);
  const Sides* const sides[3] = {&z_sides, &y_sides, &x_sides};
  // Axes with two sides, in the order in which shares are mixed and rounded, as places of z, y and x.
  std::vector<int> mixed;
  for (const Stretch& stretch : stretches)
    if (!sides[stretch.axis - 1]->near_share.empty()) mixed.push_back(static_cast<int>(stretch.axis) - 1);

  const at::Tensor out = at::empty(shape, at::kByte);
  const auto* const source = labels.const_data_ptr<uint8_t>();
  auto* const target = out.mutable_data_ptr<uint8_t>();
  const int64_t depth = shape[1], height = shape[2], width = shape[3], row = labels.size(3);
  at::parallel_for(0, shape[0] * depth * height, 16, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t y = line % height, z = line / height % depth, c = line / (height * depth);
      const int64_t near_z = (c * labels.size(1) + z_sides.near[z]) * labels.size(2),
                    far_z = (c * labels.size(1) + z_sides.far[z]) * labels.size(2);
      // Corners by bits: 4 of z, 2 of y, 1 of x.
      const uint8_t* const rows[4] = {
          source + (near_z + y_sides.near[y]) * row, source + (near_z + y_sides.far[y]) * row,
          source + (far_z + y_sides.near[y]) * row, source + (far_z + y_sides.far[y]) * row};
      for (int64_t x = 0; x < width; ++x) {
        const int64_t near_x = x_sides.near[x], far_x = x_sides.far[x];
        uint8_t corners[8];
        bool same = true;
        for (int r = 0; r < 4; ++r) {
          corners[2 * r] = rows[r][near_x];
          corners[2 * r + 1] = rows[r][far_x];
          same = same && corners[2 * r] == corners[0] && corners[2 * r + 1] == corners[0];
        }
        uint8_t& winner = target[line * width + x];
        winner = corners[0];
        if (same) continue;
        const int64_t at[3] = {z, y, x};
        uint8_t sorted[8];
        std::copy_n(corners, 8, sorted);
        std::sort(sorted, sorted + 8);
        float best = -1;
        for (int i = 0; i < 8; ++i) {
          if (i > 0 && sorted[i] == sorted[i - 1]) continue;
          float shares[8];
          for (int corner = 0; corner < 8; ++corner) shares[corner] = corners[corner] == sorted[i];
          for (const int axis : mixed) {
            const double near = sides[axis]->near_share[at[axis]], far = sides[axis]->far_share[at[axis]];
            const int bit = 4 >> axis;
            for (int corner = 0; corner < 8; ++corner)
              if (!(corner & bit))
                shares[corner] = static_cast<float>(near * shares[corner] + far * shares[corner | bit]);
          }
          if (shares[0] <= best) continue;
          best = shares[0];
          winner = sorted[i];
        }
      }
    }
  });
  return out;
}

}  // namespace le
