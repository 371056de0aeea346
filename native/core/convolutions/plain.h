#pragma once
// Convolutions and their gradients by the definition: what each tap of the kernel sees, times its weight, by matrix
// products in float32. No convolution of oneDNN has a part in it: it is what these are checked against, and what is
// used instead where one is wrong.
#include <ATen/core/Tensor.h>

#include <tuple>

#include "convolutions/convolution.h"

namespace le {

// What the taps see of the planes of one image. planes: C×s, float or double. Of a convolution that is
// u[p·stride + k·dilation - padding] for tap k at the place p of `size`, of its transpose
// u[(p + padding - k·dilation) / stride], and 0 outside and between. Returns C×K×P, K the taps and P the places.
at::Tensor seen_by_taps(const at::Tensor& planes, const ConvolutionCall& call, bool transpose, at::IntArrayRef size);

// Of call.output_shape(), in the input's type and in the usual layout.
at::Tensor plain_convolution(const ConvolutionCall& call, const at::Tensor& input, const at::Tensor& weight,
                             const at::Tensor& bias);

// Gradients of input, weight and bias: those wanted, in the input's type; the others are undefined.
std::tuple<at::Tensor, at::Tensor, at::Tensor> plain_convolution_backward(const ConvolutionCall& call,
                                                                          const at::Tensor& gradient,
                                                                          const at::Tensor& input,
                                                                          const at::Tensor& weight);

}  // namespace le
