#pragma once
// From the heads' logits to everything that one prediction says: SPEC sections 4 to 6 in one pass over the pixels.
#include <ATen/core/Tensor.h>

#include <vector>

#include "prediction/reduced.h"

namespace le {

// `logits`: K tensors N×C×s_k, each of its own spatial size, float or bfloat16, any memory format, 2 or 3 spatial axes.
// `size`: the output's spatial size; each head is interpolated to it (bilinear or trilinear, align_corners=false).
// Argument errors: ERR_LE_SHAPE, ERR_LE_VALUE (a logit that is not finite). C ≤ 255. Results are on the CPU.
// On the CPU a fused kernel runs on all intra-op threads; elsewhere reduce_reference does.
Reduced reduce(const std::vector<at::Tensor>& logits, at::IntArrayRef size, const ReduceOptions& options);

// The same by library operations, one head after another, on whatever device the logits are. Slower on the CPU; it is
// what CUDA runs, and what the kernel is tested against.
Reduced reduce_reference(const std::vector<at::Tensor>& logits, at::IntArrayRef size, const ReduceOptions& options);

// Throws what reduce() says about arguments, all but the finiteness of the logits.
void check_reduce_arguments(const std::vector<at::Tensor>& logits, at::IntArrayRef size, const ReduceOptions& options);

// ERR_LE_VALUE for the logits of a head.
[[noreturn]] void fail_not_finite(size_t head);

}  // namespace le
