#pragma once
// From one spatial size to another: by libtorch, and what our own kernels need to do the same.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "kernels/axis.h"

namespace le {

enum class Upsampling { kNearest, kLinear, kLinearAlignedCorners };
// x: N×C×s, 2 or 3 spatial axes, resampled to `size`; as it is where it has that size already.
at::Tensor resized(const at::Tensor& x, at::IntArrayRef size, Upsampling how);
// Interpolation of SPEC section 2 from a head's own size to the input's: bilinear or trilinear, align_corners=false.
// In float and contiguous: resizing bfloat16 channels_last logits takes five to seven times as long.
inline at::Tensor interpolate(const at::Tensor& logits, at::IntArrayRef size) {
  return resized(logits.to(at::kFloat).contiguous(), size, Upsampling::kLinear);
}

// Where an output lies in what a head's samples cover: from `before` on, for `length`, of a `whole`, in any one unit.
// `nearest`: that unit is an image's voxels, and each output takes what is at the centre of the nearest of them.
struct Part {
  int64_t before = 0, length = 1, whole = 1;
  bool nearest = false;
  bool all() const { return length == whole; }
};

// Which samples of an axis are at hand: `count` from the first on, of a whole.
struct Samples {
  Samples(int64_t all) : count(all), whole(all) {}
  Samples(int64_t first, int64_t count, int64_t whole) : first(first), count(count), whole(whole) {}
  int64_t first = 0, count, whole;
};

// One axis of an interpolation with align_corners=false from all samples of it to `size` outputs that cover `part` of
// their extent, in single precision and with a fused multiply-add, as libtorch computes it: both then take the same
// weights. Indices count from the first sample at hand; they are below 0, or past the last, for outputs that read what
// is not. The arrays go on to a multiple of `padding`.
struct AxisPlan {
  AxisPlan(Samples samples, int64_t size, int64_t padding, Part part = {});
  // Of the outputs from `begin` on, before `end`.
  kernel::Axis axis(int64_t begin, int64_t end) const {
    return {index.data() + begin, weight.data() + begin, source, end - begin, same && begin == 0};
  }
  kernel::Axis axis() const { return axis(0, size); }

  int64_t source, size;
  bool same;
  std::vector<int32_t> index;
  std::vector<float> weight;
};

}  // namespace le
