#include "convolutions/plain.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

namespace le {

namespace {

// in: the channels of what is read, by groups; `weights`: groups × out × in × taps. One image: C×s → O×P.
at::Tensor combine(const at::Tensor& planes, const at::Tensor& weights, const ConvolutionCall& call, bool transpose,
                   at::IntArrayRef size) {
  const at::Tensor seen = seen_by_taps(planes, call, transpose, size);
  const int64_t groups = call.groups, places = seen.size(2);
  return at::matmul(weights.reshape({groups, weights.size(1), -1}), seen.reshape({groups, -1, places}))
      .reshape({groups * weights.size(1), places});
}

}  // namespace

at::Tensor seen_by_taps(const at::Tensor& planes, const ConvolutionCall& call, bool transpose, at::IntArrayRef size) {
  const std::vector<int64_t> stride = call.counting(call.stride), padding = call.counting(call.padding),
                             dilation = call.counting(call.dilation), kernel = call.counting(call.kernel);
  at::Tensor from = planes;
  if (transpose) {
    // Zeros between, so that tap k at place p sees number p + padding - k·dilation.
    std::vector<int64_t> wide{planes.size(0)};
    for (int64_t axis = 0; axis < call.axes; ++axis) wide.push_back((planes.size(axis + 1) - 1) * stride[axis] + 1);
    from = at::zeros(wide, planes.options());
    at::Tensor there = from;
    for (int64_t axis = 0; axis < call.axes; ++axis) there = there.slice(axis + 1, 0, wide[axis + 1], stride[axis]);
    there.copy_(planes);
  }
  // As much on either side that no tap looks outside. F.pad's order: the last axis first.
  std::vector<int64_t> around;
  for (int64_t axis = call.axes - 1; axis >= 0; --axis) {
    const int64_t reach = dilation[axis] * (kernel[axis] - 1), step = transpose ? 1 : stride[axis];
    const int64_t before = transpose ? reach - padding[axis] : padding[axis];
    around.push_back(before);
    around.push_back((size[axis] - 1) * step + reach + 1 - before - from.size(axis + 1));
  }
  from = at::constant_pad_nd(from, around, 0);
  std::vector<at::Tensor> seen;
  std::vector<int64_t> tap(call.axes, 0);
  for (;;) {
    at::Tensor one = from;
    for (int64_t axis = 0; axis < call.axes; ++axis) {
      const int64_t place = transpose ? kernel[axis] - 1 - tap[axis] : tap[axis];
      const int64_t start = place * dilation[axis], step = transpose ? 1 : stride[axis];
      one = one.slice(axis + 1, start, start + (size[axis] - 1) * step + 1, step);
    }
    seen.push_back(one.reshape({planes.size(0), -1}));
    int64_t axis = call.axes - 1;
    while (axis >= 0 && ++tap[axis] == kernel[axis]) tap[axis--] = 0;
    if (axis < 0) break;
  }
  return at::stack(seen, 1);
}

at::Tensor plain_convolution(const ConvolutionCall& call, const at::Tensor& input, const at::Tensor& weight,
                             const at::Tensor& bias) {
  const int64_t groups = call.groups;
  const std::vector<int64_t> size = call.counting(call.output_size());
  at::Tensor weights = weight.to(at::kFloat).contiguous();
  // To groups × out × in × taps: of a transposed convolution the weight is in × out.
  weights = call.transposed
                ? weights.reshape({groups, call.in_channels / groups, call.out_channels / groups, -1}).transpose(1, 2)
                : weights.reshape({groups, call.out_channels / groups, call.in_channels / groups, -1});
  weights = weights.contiguous();
  at::Tensor output = at::empty(call.output_shape(), input.options());
  for (int64_t n = 0; n < call.batch; ++n) {
    at::Tensor one = combine(input[n].to(at::kFloat), weights, call, call.transposed, size);
    if (bias.defined()) one = one + bias.to(at::kFloat).unsqueeze(1);
    output[n].copy_(one.reshape(output[n].sizes()));
  }
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> plain_convolution_backward(const ConvolutionCall& call,
                                                                          const at::Tensor& gradient,
                                                                          const at::Tensor& input,
                                                                          const at::Tensor& weight) {
  const int64_t groups = call.groups;
  at::Tensor of_input, of_weight, of_bias;
  if (call.wanted[0]) {
    at::Tensor weights = weight.to(at::kFloat).contiguous();
    weights =
        call.transposed
            ? weights.reshape({groups, call.in_channels / groups, call.out_channels / groups, -1})
            : weights.reshape({groups, call.out_channels / groups, call.in_channels / groups, -1}).transpose(1, 2);
    weights = weights.contiguous();
    of_input = at::empty(call.input_shape(), input.options());
    for (int64_t n = 0; n < call.batch; ++n)
      of_input[n].copy_(combine(gradient[n].to(at::kFloat), weights, call, !call.transposed, call.counting(call.size))
                            .reshape(of_input[n].sizes()));
  }
  if (call.wanted[1]) {
    // Of a convolution the taps see the input, of a transposed one the output's gradient.
    at::Tensor sum;
    for (int64_t n = 0; n < call.batch; ++n) {
      const at::Tensor x = input[n].to(at::kFloat), g = gradient[n].to(at::kFloat);
      const at::Tensor& still = call.transposed ? x : g;
      const at::Tensor seen = seen_by_taps(call.transposed ? g : x, call, false,
                                           call.counting(call.transposed ? call.size : call.output_size()));
      const at::Tensor one = at::matmul(still.reshape({groups, -1, seen.size(2)}),
                                        seen.reshape({groups, -1, seen.size(2)}).transpose(1, 2));
      sum = sum.defined() ? sum + one : one;
    }
    of_weight = sum.reshape(call.weight_shape()).to(weight.scalar_type());
  }
  if (call.wanted[2]) of_bias = gradient.to(at::kFloat).transpose(0, 1).flatten(1).sum(1).to(weight.scalar_type());
  return {of_input, of_weight, of_bias};
}

}  // namespace le
