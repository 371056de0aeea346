#pragma once
// A convolution made ready for evaluation: a batch norm folded into its weights, these cast and laid out as oneDNN
// wants them, and what follows (an activation, a shortcut) done in the same operation where that is possible.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace le {

// One number per spatial axis.
struct ConvGeometry {
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups = 1;
};

// What batch norm does in evaluation: (x - mean) / √(var + eps) · weight + bias. weight and bias may be undefined.
struct NormStatistics {
  at::Tensor weight, bias, mean, var;
  double eps = 1e-5;
};

// The slope that FoldedConv's ReLU has below 0: what it lets through, and layers later makes of exact zeros, is far
// below kRounding, where no answer may depend on it.
inline constexpr double kAlmostZero = 1e-30, kRounding = 1e-20;

class FoldedConv {
 public:
  FoldedConv() = default;
  // bias may be undefined; norm absent: the convolution alone. Everything is computed in the weights' own type and then
  // cast to `dtype`. The weights are copied: later changes to them do not show.
  FoldedConv(const at::Tensor& weight, const at::Tensor& bias, ConvGeometry geometry,
             const std::optional<NormStatistics>& norm, at::ScalarType dtype);

  bool defined() const { return weight_.defined(); }
  // That of the weights and of what it takes.
  at::ScalarType dtype() const { return dtype_; }
  // Whether one operation can also add and activate for this x: then_*() may be called. Not where oneDNN's kernel is
  // wrong for its shape.
  bool fuses(const at::Tensor& x) const;

  // Of what this makes of x.
  std::vector<int64_t> output_sizes(const at::Tensor& x) const;

  // norm(conv(x)). x has the type given to the constructor.
  at::Tensor operator()(const at::Tensor& x) const;
  // activation(norm(conv(x))); activation: "relu", or another that oneDNN fuses ("hardswish", "swish", "sigmoid", …)
  // and that keeps NaN, as each of these does.
  at::Tensor then(const at::Tensor& x, std::string_view activation) const;
  // activation(norm(conv(x)) + shortcut); activation: "relu", or "none".
  at::Tensor then_add(const at::Tensor& x, const at::Tensor& shortcut, std::string_view activation) const;

 private:
  ConvGeometry geometry_;
  at::ScalarType dtype_ = at::kFloat;
  at::Tensor weight_, bias_;
  at::Tensor packed_;  // the weight in oneDNN's own layout, where one operation can do more
};

}  // namespace le
