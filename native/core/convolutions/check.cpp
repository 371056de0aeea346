#include "convolutions/check.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "convolutions/guard.h"
#include "convolutions/memory.h"
#include "convolutions/plain.h"

namespace le {

namespace {

// bfloat16 rounds to 2^-9 of a number, and numbers are up to five standard deviations; sums in float keep 1e-5.
constexpr double kToleranceBf16 = 0.08, kToleranceFloat = 1e-3;
// Channels of which one random combination is compared, instead of each.
constexpr int64_t kBlock = 8;
// Of what numbers of these kinds come to without cancelling: the least that errors are measured by.
constexpr double kLeast = 0.3;

double root_mean_square(const at::Tensor& x) {
  return at::norm(x, 2).item<double>() / std::sqrt(static_cast<double>(x.numel()));
}

// The input is one plane for each image, times a factor for each channel, and so is the output's gradient: every number
// of the result follows from these two planes. The factors differ, so that a channel taken for another shows.
class Check {
 public:
  Check(const ConvolutionCall& call, Detour detour)
      : call_(call), detour_(detour), generator_(at::detail::createCPUGenerator(20130)) {}

  KernelVerdict run() {
    const at::NoGradGuard no_grad;
    std::vector<int64_t> shape = call_.weight_shape();
    double seen = 1;
    for (size_t axis = 1; axis < shape.size(); ++axis) seen *= static_cast<double>(shape[axis]);
    weight_ = laid_out(at::empty(shape, at::kFloat).normal_(0, 1 / std::sqrt(seen), generator_), call_.weight_last);
    input_plane_ = plane(call_.input_shape());
    input_factors_ = factors(call_.in_channels);
    input_ = spread(input_plane_, input_factors_, call_.input_last);
    if (call_.backward)
      backward();
    else
      forward();
    if (!memory_is_intact()) note("memory outside of its arrays", INFINITY);
    return verdict_;
  }

 private:
  void forward() {
    const at::Tensor bias =
        call_.bias ? at::empty({call_.out_channels}, at::kFloat).normal_(0, 1, generator_).to(type()) : at::Tensor();
    at::Tensor output;
    {
      const ForcedDetour forced(detour_);
      output =
          at::convolution(input_, weight_, bias.defined() ? std::make_optional(bias) : std::nullopt,
                          call_.counting(call_.stride), call_.counting(call_.padding), call_.counting(call_.dilation),
                          call_.transposed, call_.counting(call_.output_padding), call_.groups);
    }
    compare("output", output, summed(input_factors_, call_.transposed ? 1 : 2), bias, input_plane_, call_.transposed,
            call_.counting(call_.output_size()));
  }

  void backward() {
    const at::Tensor gradient_plane = plane(call_.output_shape()), gradient_factors = factors(call_.out_channels);
    const at::Tensor gradient = spread(gradient_plane, gradient_factors, call_.gradient_last);
    at::Tensor of_input, of_weight, of_bias;
    {
      const ForcedDetour forced(detour_);
      const std::vector<int64_t> bias_sizes{call_.out_channels};
      std::tie(of_input, of_weight, of_bias) =
          at::convolution_backward(gradient, input_, weight_, bias_sizes, call_.counting(call_.stride),
                                   call_.counting(call_.padding), call_.counting(call_.dilation), call_.transposed,
                                   call_.counting(call_.output_padding), call_.groups, call_.wanted);
    }
    if (call_.wanted[0])
      compare("gradient of the input", of_input, summed(gradient_factors, call_.transposed ? 2 : 1), at::Tensor(),
              gradient_plane, !call_.transposed, call_.counting(call_.size));
    const double terms = static_cast<double>(gradient_plane.numel());
    if (call_.wanted[1]) {
      const at::Tensor &from = call_.transposed ? gradient_plane : input_plane_,
                       &still = call_.transposed ? input_plane_ : gradient_plane;
      at::Tensor by_tap = at::zeros({weight_.flatten(2).size(2)}, at::kDouble);
      for (int64_t n = 0; n < call_.batch; ++n)
        by_tap +=
            at::matmul(seen_by_taps(from[n].unsqueeze(0), call_, false, still.sizes().slice(1))[0], still[n].flatten());
      const int64_t groups = call_.groups;
      const at::Tensor a = input_factors_.view({groups, -1}), b = gradient_factors.view({groups, -1});
      const at::Tensor pairs = call_.transposed ? a.unsqueeze(2) * b.unsqueeze(1) : b.unsqueeze(2) * a.unsqueeze(1);
      difference("gradient of the weight", of_weight.flatten(2).to(at::kFloat, false, true),
                 pairs.flatten(0, 1).unsqueeze(2).to(at::kFloat) * by_tap.to(at::kFloat),
                 root_mean_square(pairs) * std::sqrt(static_cast<double>(still.numel())));
    }
    if (call_.wanted[2])
      difference("gradient of the bias", of_bias.to(at::kDouble), gradient_factors * gradient_plane.sum(),
                 root_mean_square(gradient_factors) * std::sqrt(terms));
  }

  at::ScalarType type() const { return call_.bf16 ? at::kBFloat16 : at::kFloat; }

  at::Tensor laid_out(const at::Tensor& tensor, bool last) const {
    return tensor.to(type()).contiguous(last ? channels_last_format(call_.axes) : at::MemoryFormat::Contiguous);
  }

  // N×s random numbers that the type can hold.
  at::Tensor plane(const std::vector<int64_t>& shape) {
    std::vector<int64_t> without_channels = shape;
    without_channels.erase(without_channels.begin() + 1);
    return at::empty(without_channels, at::kFloat).normal_(0, 1, generator_).to(type()).to(at::kDouble);
  }

  // ±1 and ±2: a number of the plane times one of these has no rounding.
  at::Tensor factors(int64_t channels) {
    const at::Tensor numbers = at::empty({channels}, at::kDouble).uniform_(-2, 2, generator_);
    return numbers.sign() * (1 + numbers.abs().gt(1).to(at::kDouble));
  }

  at::Tensor spread(const at::Tensor& plane, const at::Tensor& factors, bool last) const {
    std::vector<int64_t> per_channel(plane.dim() + 1, 1);
    per_channel[1] = -1;
    return laid_out(plane.to(at::kFloat).unsqueeze(1) * factors.to(at::kFloat).view(per_channel), last);
  }

  // The weight of each tap of one plane for each channel of the result: channels×K. The weight is, by groups, of two
  // axes of channels, of which `axis` is the one that is summed over.
  at::Tensor summed(const at::Tensor& factors, int64_t axis) const {
    const int64_t groups = call_.groups;
    const at::Tensor weights =
        weight_.to(at::kFloat).contiguous().view({groups, weight_.size(0) / groups, weight_.size(1), -1});
    const at::Tensor by_channel = axis == 1 ? factors.view({groups, -1, 1, 1}) : factors.view({groups, 1, -1, 1});
    return (weights * by_channel.to(at::kFloat)).sum(axis).flatten(0, 1).to(at::kDouble);
  }

  // result: N×channels×s; weights: channels×K, of what the taps see of `from`.
  void compare(const char* what, const at::Tensor& result, const at::Tensor& weights, const at::Tensor& bias,
               const at::Tensor& from, bool transpose, at::IntArrayRef size) {
    const int64_t channels = weights.size(0), blocks = (channels + kBlock - 1) / kBlock;
    at::Tensor signs = at::zeros({blocks, channels}, at::kDouble);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = block * kBlock, count = std::min(kBlock, channels - begin);
      signs[block].narrow(0, begin, count).copy_(at::empty({count}, at::kDouble).uniform_(-1, 1, generator_).sign());
    }
    const at::Tensor in_float = signs.to(at::kFloat), mixed = at::matmul(signs, weights);
    const double block = std::sqrt(static_cast<double>(std::min(channels, kBlock)));
    const double expected = root_mean_square(weights) * std::sqrt(static_cast<double>(weights.size(1))) * block;
    for (int64_t n = 0; n < call_.batch; ++n) {
      at::Tensor right = at::matmul(mixed, seen_by_taps(from[n].unsqueeze(0), call_, transpose, size)[0]);
      if (bias.defined()) right = right + at::matmul(signs, bias.to(at::kDouble)).unsqueeze(1);
      difference(what, at::matmul(in_float, result[n].to(at::kFloat).flatten(1)).to(at::kDouble), right, expected);
    }
  }

  // `actual` is used up: some are large, and new memory costs more than the arithmetic.
  void difference(const char* what, at::Tensor actual, const at::Tensor& right, double expected) {
    const double scale = std::max(root_mean_square(right), kLeast * expected);
    note(what, actual.sub_(right).abs_().max().item<double>() / scale);
  }

  void note(const char* what, double error) {
    if (!(error <= verdict_.error)) {  // a NaN too
      verdict_.error = std::isnan(error) ? INFINITY : error;
      verdict_.what = what;
    }
    verdict_.right = verdict_.error <= (call_.bf16 ? kToleranceBf16 : kToleranceFloat);
  }

  const ConvolutionCall call_;
  const Detour detour_;
  at::Generator generator_;
  at::Tensor weight_, input_plane_, input_factors_, input_;
  KernelVerdict verdict_{true, 0, ""};
};

}  // namespace

KernelVerdict check_kernel(const ConvolutionCall& call, Detour detour) { return Check(call, detour).run(); }

}  // namespace le
