#pragma once
// What the losses need of a batch: sums over its pixels. They carry gradients, so that a loss is arithmetic on N×C
// numbers.
#include <ATen/core/Tensor.h>

namespace le {

struct PixelSums {       // over the counted pixels of each image, y ≠ ignore_index
  at::Tensor hits;       // N×C: Σ p_c over y = c
  at::Tensor predicted;  // N×C: Σ p_c
  at::Tensor nll;        // N: Σ w_y · -ln p_y
  at::Tensor all_nll;    // N: Σ Σ_c w_c · -ln p_c
  at::Tensor focal;      // N: Σ w_y · (1 - p_y)^γ · -ln p_y
  at::Tensor truth;      // N×C: #(y = c); no gradient
  at::Tensor counted;    // N: # of pixels; no gradient
};

// Those of the logarithmic sums that are not asked for may be left 0.
struct PixelSumsOptions {
  int64_t ignore_index = 255;
  bool nll = false, all_nll = false, focal = false;
  double gamma = 2;  // at least 0
};

// p is the softmax over the classes of `logits` (N×C×S, float, double or bfloat16), interpolated to the target's size
// (bilinear or trilinear, align_corners=false) where it has another. `target`: N×S, int64 or uint8. `class_weights`: C,
// on the CPU. On the CPU everything is one pass over the pixels, and its gradient another, in which nothing of
// the target's size is kept; sums do not depend on the number of threads. ERR_LE_SHAPE for sizes that do not fit;
// ERR_LE_VALUE there for a label that is neither a class nor ignore_index.
PixelSums sum_pixels(const at::Tensor& logits, const at::Tensor& target, const at::Tensor& class_weights,
                     const PixelSumsOptions& options);

// The softmax of logits at the target's size, N×C×S with S flat, in at least single precision; and the target as int64.
// Checked as sum_pixels checks them.
struct Pixels {
  at::Tensor p, target;
};
Pixels probabilities(const at::Tensor& logits, const at::Tensor& target, int64_t ignore_index);

// sum_pixels by library operations, on any device.
PixelSums sum_pixels_reference(const at::Tensor& logits, const at::Tensor& target, const at::Tensor& class_weights,
                               const PixelSumsOptions& options);

}  // namespace le
