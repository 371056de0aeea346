#include "backbones/layers.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "error.h"

namespace le {

namespace {

// Derived weights serve passes that record no gradients and change no statistics; anything else needs the parameters.
bool evaluating(const Module& module) { return !module.training() && !at::GradMode::is_enabled(); }

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

void Conv2d::begin_inference(at::ScalarType dtype) {
  const at::NoGradGuard no_grad;
  cast_weight_ = weight.detach().to(dtype);
  cast_bias_ = bias.defined() ? bias.detach().to(dtype) : bias;
  if (!norm_) return;
  const NormStatistics norm{norm_->weight.detach(), norm_->bias.detach(), norm_->running_mean, norm_->running_var,
                            BatchNorm2d::kEps};
  folded_ = FoldedConv(weight, bias, {{stride_, stride_}, {padding_, padding_}, {1, 1}, 1}, norm, dtype);
}

void Conv2d::end_inference() {
  cast_weight_ = cast_bias_ = at::Tensor();
  folded_ = FoldedConv();
}

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
  if (conv.folded().defined() && evaluating(norm) && !wanted(conv)) return norm.report(conv.folded()(x));
  return norm(conv(x));
}

at::Tensor conv_norm_relu(Conv2d& conv, BatchNorm2d& norm, ReLU& relu, const at::Tensor& x,
                          const at::Tensor& shortcut) {
  const FoldedConv& folded = conv.folded();
  if (folded.fuses() && evaluating(norm) && !wanted(conv) && !wanted(norm))
    return relu.report(shortcut.defined() ? folded.then_add(x, shortcut, "relu") : folded.then(x, "relu"));
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
