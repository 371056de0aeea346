#pragma once
// From the heads' logits to everything that one prediction says: SPEC sections 4 to 6 in one pass over the pixels.
#include <ATen/core/Tensor.h>

#include <vector>

#include "kernels/interpolation.h"
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

// Some rows of a head (planes of a volume), which are samples of its first spatial axis.
struct HeadRows {
  at::Tensor logits;     // N×C×rows×…
  int64_t first, whole;  // which row the first is, and how many there are in all
};

// A piece of an output: what lies from `begin` on, before `end`, on its first spatial axis; and the part of the heads'
// extent that the whole output covers, axis by axis.
struct Slab {
  std::vector<Part> parts;
  int64_t begin, end;
};
// The first pass of reduce() (see second_pass.h) for a piece of an output of `size`; counts and sums are the piece's.
// For arguments on the CPU that check_reduce_arguments() has let pass, and with all rows of the heads that the piece
// reads. ERR_LE_VALUE for a logit that is read and not finite: where a head has more samples than the output, some are
// not.
Reduced reduce_slab(const std::vector<HeadRows>& heads, at::IntArrayRef size, const Slab& slab,
                    const ReduceOptions& options);

// Throws what reduce() says about arguments, all but the finiteness of the logits.
void check_reduce_arguments(const std::vector<at::Tensor>& logits, at::IntArrayRef size, const ReduceOptions& options);

// ERR_LE_VALUE where one of a head's logits N×C×s is not finite. Class by class: the temporaries have the size of one.
void check_finite_logits(const at::Tensor& logits, size_t head);

}  // namespace le
