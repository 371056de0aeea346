#pragma once
#include <cstdint>
#include <vector>

#include "axis.h"

namespace le {

// One axis of an interpolation with align_corners=false from `source` samples to `size`, in single precision and with a
// fused multiply-add, as libtorch computes it: both then take the same weights. The arrays go on to a multiple of
// `padding`.
struct AxisPlan {
  AxisPlan(int64_t source, int64_t size, int64_t padding);
  kernel::Axis axis() const { return {index.data(), weight.data(), source, size}; }

  int64_t source, size;
  std::vector<int32_t> index;
  std::vector<float> weight;
};

}  // namespace le
