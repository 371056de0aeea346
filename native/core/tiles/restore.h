#pragma once
// From logits at low resolution straight to an original's voxels, slab by slab.
#include <ATen/core/Tensor.h>

#include <vector>

#include "control.h"
#include "prediction/reduce.h"

namespace le {

// Pixels of a slab unless its thickness is given: a few megabytes a class, and work enough for every thread.
inline constexpr int64_t kSlabPixels = int64_t{1} << 20;

// The first pass of reduce() (see second_pass.h) for an original of `size` that covers `parts` of the heads' extent
// (see TilePlan::parts(); the extent is kept, whatever the original's spacing), from heads whose rows come little by
// little. A slab is at most `rows` of the output's first spatial axis; 0: what holds kSlabPixels, one row at least. The
// result is the same to rounding for every `rows`, however the heads' rows come.
//
// Memory beside the heads and the result: one slab of the result, that is
//   P · (4 · (C where probabilities are made + the maps made) + 1 + (K where labels are made)) bytes, P its pixels;
// and each thread's scratch, under 2 MB for 25 classes and 5 heads.
class Restoration {
 public:
  // ERR_LE_SHAPE, ERR_LE_VALUE.
  Restoration(std::vector<Part> parts, at::IntArrayRef size, ReduceOptions options, int64_t rows = 0);

  // Brings out every row of the output that these rows of the heads tell. Of one image, on the CPU, finite; the first
  // is needed() or before. `control` is checked before each slab and told {"stage": "restore", "done", "of"} after it,
  // in rows.
  void take(const std::vector<HeadRows>& heads, const Control& control);
  // Of each head of take(), the first row that the output's next one reads.
  std::vector<int64_t> needed() const;
  // Once all rows are out.
  Reduced result() &&;

 private:
  const std::vector<Part> parts_;
  const std::vector<int64_t> size_;
  const ReduceOptions options_;
  const int64_t rows_;
  std::vector<AxisPlan> plans_;  // of each head's first axis
  int64_t done_ = 0;
  Reduced all_;
};

// reduce() of `logits`, K tensors 1×C×s_k on the CPU, as a Restoration of all their rows, with a second pass where
// there is one. That of STAPLE and of a temperature brings out, for the whole output, K bytes a pixel (STAPLE), C
// floats a pixel, and a second mask and entropy. To look for logits that are not finite takes 8 bytes a sample of one
// class of the largest head. Errors as reduce().
Reduced restore(const std::vector<at::Tensor>& logits, const std::vector<Part>& parts, at::IntArrayRef size,
                const ReduceOptions& options, const Control& control, int64_t rows = 0);

}  // namespace le
