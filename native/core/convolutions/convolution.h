#pragma once
// One call of a convolution, or of its gradients, as far as the choice of a kernel depends on it: shapes, layouts and
// the numbers' type, but no numbers.
#include <ATen/core/Tensor.h>

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>

#include "files/json.h"

namespace le {

struct ConvolutionCall {
  using Axes = std::array<int64_t, 3>;  // of depth, height, width; the last `axes` of them count

  bool backward = false, transposed = false, bias = false;
  bool bf16 = false;  // else float
  // Whether they lie in channels_last order; gradient: that of the output.
  bool input_last = false, weight_last = false, gradient_last = false;
  std::array<bool, 3> wanted{};  // backward: of which a gradient is wanted: input, weight, bias
  int64_t axes = 2, batch = 1, in_channels = 1, out_channels = 1, groups = 1;
  Axes size{1, 1, 1}, kernel{1, 1, 1}, stride{1, 1, 1}, padding{0, 0, 0}, dilation{1, 1, 1}, output_padding{0, 0, 0};

  auto operator<=>(const ConvolutionCall&) const = default;

  // Of the axes that count.
  std::vector<int64_t> counting(const Axes& values) const { return {values.end() - axes, values.end()}; }
  // All of the output's axes, those that do not count being 1.
  Axes output_size() const;
  std::vector<int64_t> input_shape() const, weight_shape() const, output_shape() const;

  // "bfloat16 gradients of a 3×3×3 convolution, stride 2, 64 to 64 channels, of 2×64×2×8×8, channels_last"
  std::string describe() const;
  Json json() const;
  static ConvolutionCall from(const Json& json);
};

// Nothing for what has no oneDNN kernel: other types than float and bfloat16, other devices than the CPU.
std::optional<ConvolutionCall> convolution_call(const at::Tensor& input, const at::Tensor& weight, bool bias,
                                                at::IntArrayRef stride, at::IntArrayRef padding,
                                                at::IntArrayRef dilation, bool transposed,
                                                at::IntArrayRef output_padding, int64_t groups);

// Whether a tensor lies in channels_last order and not in the usual one as well.
bool is_channels_last(const at::Tensor& tensor);

// That of tensors of so many spatial axes.
at::MemoryFormat channels_last_format(int64_t axes);

}  // namespace le
