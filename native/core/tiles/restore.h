#pragma once
// From logits at low resolution straight to an original's voxels, slab by slab.
#include <ATen/core/Tensor.h>

#include <vector>

#include "control.h"
#include "prediction/reduce.h"

namespace le {

// Pixels of a slab unless its thickness is given: a few megabytes a class, and work enough for every thread.
inline constexpr int64_t kSlabPixels = int64_t{1} << 20;

// reduce() of `logits`, K tensors 1×C×s_k, for an original of `size` that covers `parts` of their extent (see
// TilePlan::parts(); the extent is kept, whatever the original's spacing). A slab is `rows` of the output's first
// spatial axis; 0: what holds kSlabPixels, one row at least. The result is the same to rounding for every `rows`.
//
// Memory beside the logits and the result: the larger of one slab of the result, that is
//   P · (4 · (C where probabilities are made + the maps made) + 1 + (K where labels are made)) bytes, P its pixels,
// and 8 bytes a sample of one class of the largest head; and each thread's scratch, under 2 MB for 25 classes and 5
// heads. The second pass of STAPLE and of a temperature brings out, for the whole output, K bytes a pixel (STAPLE), C
// floats a pixel, and a second mask and entropy.
//
// `control` is checked before each slab and told {"stage": "restore", "done", "of"} after it, in rows. Errors as
// reduce().
Reduced restore(const std::vector<at::Tensor>& logits, const std::vector<Part>& parts, at::IntArrayRef size,
                const ReduceOptions& options, const Control& control, int64_t rows = 0);

}  // namespace le
