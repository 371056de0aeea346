#pragma once
// Segmentation heads: [dropout] → convolution (3×3 or 3×3×3, padding 1, bias). SPEC section 2.
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace le {

class SegmentationHead {
 public:
  // Initialised as PyTorch's Conv2d: weight and bias uniform in ±1/√fan_in, drawn from `generator`.
  SegmentationHead(int64_t channels, int64_t classes, int64_t spatial_axes, double dropout, at::Generator& generator);

  // features: N×channels×s → logits N×classes×s, at the features' own size; interpolation comes later, where it is
  // cheapest. `generator` draws the dropout mask; null: no dropout (evaluation).
  at::Tensor forward(const at::Tensor& features, at::Generator* generator) const;

  at::Tensor weight, bias;
  // Casts of weight and bias for inference in another type; undefined while training.
  at::Tensor inference_weight, inference_bias;

 private:
  double dropout_;
};

}  // namespace le
