#include "backbones/layers.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "error.h"

namespace le {

namespace {

// Derived weights serve passes that record no gradients and change no statistics; anything else needs the parameters.
bool evaluating(const Module& module) { return !module.training() && !at::GradMode::is_enabled(); }

// oneDNN's convolution with what follows it, as PyTorch's own CPU compiler calls it. There is no C++ function for it.
using Pointwise = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, at::IntArrayRef,
                             at::IntArrayRef, at::IntArrayRef, int64_t, std::string_view,
                             c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
using PointwiseBinary = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                   const std::optional<at::Tensor>&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef,
                                   int64_t, std::string_view, std::optional<at::Scalar>,
                                   std::optional<std::string_view>, c10::List<std::optional<at::Scalar>>,
                                   std::optional<std::string_view>);

c10::OperatorHandle operation(const char* name, const char* overload) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
}

bool can_fuse(const at::Tensor& weight) {
  if (!weight.is_cpu() || !at::globalContext().userEnabledMkldnn()) return false;
  auto& dispatcher = c10::Dispatcher::singleton();
  if (!dispatcher.findSchema({"mkldnn::_convolution_pointwise", "binary"})) return false;
  if (weight.scalar_type() == at::kFloat) return true;
  const auto supported = dispatcher.findSchema({"mkldnn::_is_mkldnn_bf16_supported", ""});
  if (!supported || weight.scalar_type() != at::kBFloat16) return false;
  torch::jit::Stack stack;
  supported->callBoxed(stack);
  return stack.front().toBool();
}

// In the layout that oneDNN would otherwise make of it in every pass.
at::Tensor packed(const at::Tensor& weight, int64_t stride, int64_t padding) {
  torch::jit::Stack stack{weight,
                          c10::List<int64_t>({padding, padding}),
                          c10::List<int64_t>({stride, stride}),
                          c10::List<int64_t>({1, 1}),
                          int64_t{1},
                          c10::IValue()};
  operation("mkldnn::_reorder_convolution_weight", "").callBoxed(stack);
  return stack.front().toTensor();
}

struct Fans {
  double in, out;
};
Fans fans(const at::Tensor& weight) {
  const double field = static_cast<double>(weight.numel() / (weight.size(0) * weight.size(1)));
  return {static_cast<double>(weight.size(1)) * field, static_cast<double>(weight.size(0)) * field};
}

void init_uniform(const at::Tensor& weight, double bound, at::Generator& generator) {
  const at::NoGradGuard no_grad;
  weight.uniform_(-bound, bound, generator);
}

}  // namespace

Conv2d::Conv2d(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t padding, bool bias)
    : weight(parameter("weight", at::zeros({out, in, kernel, kernel}))),
      bias(bias ? parameter("bias", at::zeros({out})) : at::Tensor()),
      stride_(stride),
      padding_(padding) {}

at::Tensor Conv2d::convolve(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) const {
  return at::conv2d(x, weight, bias, {stride_, stride_}, {padding_, padding_});
}

at::Tensor Conv2d::forward(const at::Tensor& x) {
  if (cast_weight_.defined() && evaluating(*this)) return convolve(x, cast_weight_, cast_bias_);
  return convolve(x, weight, bias);
}

at::Tensor Conv2d::pointwise(const at::Tensor& x, std::string_view then) const {
  static const auto run = operation("mkldnn::_convolution_pointwise", "").typed<Pointwise>();
  return run.call(x, folded_weight_, folded_bias_, {padding_, padding_}, {stride_, stride_}, {1, 1}, 1, then,
                  c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

at::Tensor Conv2d::folded(const at::Tensor& x) const {
  return fuses_ ? pointwise(x, "none") : convolve(x, folded_weight_, folded_bias_);
}

at::Tensor Conv2d::fused(const at::Tensor& x, const at::Tensor& shortcut) const {
  if (!shortcut.defined()) return pointwise(x, "relu");
  static const auto run = operation("mkldnn::_convolution_pointwise", "binary").typed<PointwiseBinary>();
  return run.call(x, shortcut, folded_weight_, folded_bias_, {padding_, padding_}, {stride_, stride_}, {1, 1}, 1, "add",
                  at::Scalar(1.0), "relu", c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

void Conv2d::begin_inference(at::ScalarType dtype) {
  const at::NoGradGuard no_grad;
  cast_weight_ = weight.detach().to(dtype);
  cast_bias_ = bias.defined() ? bias.detach().to(dtype) : bias;
  if (!norm_) return;
  // w·γ/σ and (b - μ)·γ/σ + β: what the two layers compute in evaluation.
  const at::Tensor scale = norm_->weight * (norm_->running_var + BatchNorm2d::kEps).rsqrt();
  const at::Tensor shift = bias.defined() ? bias - norm_->running_mean : -norm_->running_mean;
  folded_weight_ = (weight * scale.view({-1, 1, 1, 1})).to(dtype).contiguous(weight.suggest_memory_format());
  folded_bias_ = (norm_->bias + shift * scale).to(dtype);
  fuses_ = can_fuse(folded_weight_);
  if (fuses_) folded_weight_ = packed(folded_weight_, stride_, padding_);
}

void Conv2d::end_inference() { cast_weight_ = cast_bias_ = folded_weight_ = folded_bias_ = at::Tensor(); }

BatchNorm2d::BatchNorm2d(int64_t channels)
    : weight(parameter("weight", at::ones({channels}))),
      bias(parameter("bias", at::zeros({channels}))),
      running_mean(buffer("running_mean", at::zeros({channels}))),
      running_var(buffer("running_var", at::ones({channels}))),
      num_batches_tracked(buffer("num_batches_tracked", at::zeros({}, at::kLong))) {}

at::Tensor BatchNorm2d::forward(const at::Tensor& x) {
  if (training()) {
    if (x.numel() == x.size(1))
      fail(code::kShape, "Expected more than one value per channel to train batch norm but received shape ", x.sizes(),
           ": use a larger batch or larger images.");
    const at::NoGradGuard no_grad;
    num_batches_tracked.add_(1);
  }
  return at::batch_norm(x, weight, bias, running_mean, running_var, training(), kMomentum, kEps, true);
}

at::Tensor ReLU::forward(const at::Tensor& x) {
  at::Tensor out = x;
  return out.relu_();
}

at::Tensor Sigmoid::forward(const at::Tensor& x) { return at::sigmoid(x); }

at::Tensor MaxPool2d::forward(const at::Tensor& x) {
  return at::max_pool2d(x, {kernel_, kernel_}, {stride_, stride_}, {padding_, padding_}, {1, 1}, ceil_mode_);
}

at::Tensor AdaptiveAvgPool2d::forward(const at::Tensor& x) { return at::adaptive_avg_pool2d(x, {1, 1}); }

Linear::Linear(int64_t in, int64_t out)
    : weight(parameter("weight", at::zeros({out, in}))), bias(parameter("bias", at::zeros({out}))) {}

at::Tensor Linear::forward(const at::Tensor& x) {
  const bool cast = cast_weight_.defined() && evaluating(*this);
  return at::linear(x, cast ? cast_weight_ : weight, cast ? cast_bias_ : bias);
}

void Linear::begin_inference(at::ScalarType dtype) {
  cast_weight_ = weight.detach().to(dtype);
  cast_bias_ = bias.detach().to(dtype);
}

void Linear::end_inference() { cast_weight_ = cast_bias_ = at::Tensor(); }

at::Tensor conv_norm(Conv2d& conv, BatchNorm2d& norm, const at::Tensor& x) {
  if (conv.has_folded() && evaluating(norm) && !wanted(conv)) return norm.report(conv.folded(x));
  return norm(conv(x));
}

at::Tensor conv_norm_relu(Conv2d& conv, BatchNorm2d& norm, ReLU& relu, const at::Tensor& x,
                          const at::Tensor& shortcut) {
  if (conv.has_fused() && evaluating(norm) && !wanted(conv) && !wanted(norm))
    return relu.report(conv.fused(x, shortcut));
  at::Tensor y = conv_norm(conv, norm, x);
  return relu(shortcut.defined() ? y.add_(shortcut) : y);
}

void Sequential::append(UnaryModule& module) {
  const Step step{&module, dynamic_cast<Conv2d*>(&module), dynamic_cast<BatchNorm2d*>(&module),
                  dynamic_cast<ReLU*>(&module)};
  if (step.norm && !steps_.empty() && steps_.back().conv) steps_.back().conv->folds_into(*step.norm);
  steps_.push_back(step);
}

at::Tensor Sequential::forward(const at::Tensor& x) {
  at::Tensor y = x;
  for (size_t i = 0; i < steps_.size();) {
    const Step* step = &steps_[i];
    const bool pair = step[0].conv && i + 1 < steps_.size() && step[1].norm;
    if (pair && i + 2 < steps_.size() && step[2].relu) {
      y = conv_norm_relu(*step[0].conv, *step[1].norm, *step[2].relu, y);
      i += 3;
    } else if (pair) {
      y = conv_norm(*step[0].conv, *step[1].norm, y);
      i += 2;
    } else {
      y = (*step[0].module)(y);
      i += 1;
    }
  }
  return y;
}

// He et al. 2015.
void init_kaiming_normal_fan_out(const at::Tensor& weight, at::Generator& generator) {
  const at::NoGradGuard no_grad;
  weight.normal_(0, std::sqrt(2 / fans(weight).out), generator);
}

void init_kaiming_uniform_fan_in(const at::Tensor& weight, at::Generator& generator) {
  init_uniform(weight, std::sqrt(6 / fans(weight).in), generator);
}

// Glorot and Bengio 2010.
void init_xavier_uniform(const at::Tensor& weight, at::Generator& generator) {
  init_uniform(weight, std::sqrt(6 / (fans(weight).in + fans(weight).out)), generator);
}

void init_linear(const Linear& linear, at::Generator& generator) {
  const double bound = 1 / std::sqrt(static_cast<double>(linear.weight.size(1)));
  init_uniform(linear.weight, bound, generator);
  init_uniform(linear.bias, bound, generator);
}

}  // namespace le
