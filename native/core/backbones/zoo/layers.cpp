#include "backbones/zoo/layers.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/conv_transpose3d.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/feature_dropout.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/instance_norm.h>
#include <ATen/ops/leaky_relu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/max_pool3d.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "backbones/checks.h"
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

std::vector<int64_t> conv_shape(int64_t first, int64_t second, at::IntArrayRef kernel) {
  std::vector<int64_t> shape{first, second};
  shape.insert(shape.end(), kernel.begin(), kernel.end());
  return shape;
}

void init_uniform(const at::Tensor& weight, double bound, at::Generator& generator) {
  const at::NoGradGuard no_grad;
  weight.uniform_(-bound, bound, generator);
}

}  // namespace

WeightedModule::WeightedModule(at::Tensor weight, at::Tensor bias)
    : weight(parameter("weight", std::move(weight))),
      bias(bias.defined() ? parameter("bias", std::move(bias)) : at::Tensor()) {}

void WeightedModule::begin_inference(at::ScalarType dtype) {
  cast_weight_ = weight.detach().to(dtype);
  cast_bias_ = bias.defined() ? bias.detach().to(dtype) : bias;
}

void WeightedModule::end_inference() { cast_weight_ = cast_bias_ = at::Tensor(); }

bool WeightedModule::casts() const { return cast_weight_.defined() && evaluating(*this); }
const at::Tensor& WeightedModule::current_weight() const { return casts() ? cast_weight_ : weight; }
const at::Tensor& WeightedModule::current_bias() const { return casts() ? cast_bias_ : bias; }

Conv::Conv(int64_t axes, int64_t in, int64_t out, int64_t kernel, const ConvOptions& options)
    : Conv(in, out, std::vector<int64_t>(axes, kernel),
           {std::vector<int64_t>(axes, options.stride), std::vector<int64_t>(axes, options.padding),
            std::vector<int64_t>(axes, options.dilation), options.groups},
           options.bias) {}

Conv::Conv(int64_t in, int64_t out, at::IntArrayRef kernel, ConvGeometry geometry, bool bias)
    : WeightedModule(at::zeros(conv_shape(out, in / geometry.groups, kernel)), bias ? at::zeros({out}) : at::Tensor()),
      geometry_(std::move(geometry)) {}

at::Tensor Conv::forward(const at::Tensor& x) {
  // Not at::convolution, which autocast does not know on the CPU.
  const auto& [stride, padding, dilation, groups] = geometry_;
  return axes() == 3 ? at::conv3d(x, current_weight(), current_bias(), stride, padding, dilation, groups)
                     : at::conv2d(x, current_weight(), current_bias(), stride, padding, dilation, groups);
}

void Conv::begin_inference(at::ScalarType dtype) {
  const at::NoGradGuard no_grad;
  WeightedModule::begin_inference(dtype);
  if (!norm_) return;
  const NormStatistics norm{norm_->weight.detach(), norm_->bias.detach(), norm_->running_mean, norm_->running_var,
                            BatchNorm::kEps};
  folded_ = FoldedConv(weight, bias, geometry_, norm, dtype);
}

void Conv::end_inference() {
  WeightedModule::end_inference();
  folded_ = FoldedConv();
}

TransposedConv::TransposedConv(int64_t in, int64_t out, std::vector<int64_t> stride)
    : WeightedModule(at::zeros(conv_shape(in, out, stride)), at::zeros({out})), stride_(std::move(stride)) {}

at::Tensor TransposedConv::forward(const at::Tensor& x) {
  return stride_.size() == 3 ? at::conv_transpose3d(x, current_weight(), current_bias(), stride_)
                             : at::conv_transpose2d(x, current_weight(), current_bias(), stride_);
}

BatchNorm::BatchNorm(int64_t axes, int64_t channels)
    : weight(parameter("weight", at::ones({channels}))),
      bias(parameter("bias", at::zeros({channels}))),
      running_mean(buffer("running_mean", at::zeros({channels}))),
      running_var(buffer("running_var", at::ones({channels}))),
      num_batches_tracked(buffer("num_batches_tracked", at::zeros({}, at::kLong))),
      axes_(axes) {}

at::Tensor BatchNorm::forward(const at::Tensor& x) {
  if (training()) {
    check_norm_input(NormKind::kBatch, x.sizes());
    const at::NoGradGuard no_grad;
    num_batches_tracked.add_(1);
  }
  return at::batch_norm(x, weight, bias, running_mean, running_var, training(), kMomentum, kEps, true);
}

InstanceNorm::InstanceNorm(int64_t axes, int64_t channels)
    : WeightedModule(at::ones({channels}), at::zeros({channels})), axes_(axes) {}

at::Tensor InstanceNorm::forward(const at::Tensor& x) {
  if (training()) check_norm_input(NormKind::kInstance, x.sizes());
  return at::instance_norm(x, weight, bias, {}, {}, true, BatchNorm::kMomentum, BatchNorm::kEps, true);
}

GroupNorm::GroupNorm(int64_t groups, int64_t channels)
    : WeightedModule(at::ones({channels}), at::zeros({channels})), groups_(groups) {}

at::Tensor GroupNorm::forward(const at::Tensor& x) {
  return at::group_norm(x, groups_, current_weight(), current_bias(), BatchNorm::kEps);
}

at::Tensor Dropout::forward(const at::Tensor& x) {
  if (!training() || p_ == 0) return x;
  return of_ == Of::kNumbers ? at::dropout(x, p_, true) : at::feature_dropout(x, p_, true);
}

at::Tensor ReLU::forward(const at::Tensor& x) {
  at::Tensor out = x;
  return out.relu_();
}

at::Tensor LeakyReLU::forward(const at::Tensor& x) {
  at::Tensor out = x;
  return at::leaky_relu_(out, kSlope);
}

at::Tensor Sigmoid::forward(const at::Tensor& x) { return at::sigmoid(x); }

at::Tensor MaxPool::forward(const at::Tensor& x) {
  const std::vector<int64_t> kernel(axes_, kernel_), stride(axes_, stride_), padding(axes_, padding_), ones(axes_, 1);
  return axes_ == 3 ? at::max_pool3d(x, kernel, stride, padding, ones, ceil_mode_)
                    : at::max_pool2d(x, kernel, stride, padding, ones, ceil_mode_);
}

at::Tensor AdaptiveAvgPool2d::forward(const at::Tensor& x) { return at::adaptive_avg_pool2d(x, {1, 1}); }

Linear::Linear(int64_t in, int64_t out) : WeightedModule(at::zeros({out, in}), at::zeros({out})) {}

at::Tensor Linear::forward(const at::Tensor& x) { return at::linear(x, current_weight(), current_bias()); }

at::Tensor conv_norm(Conv& conv, BatchNorm& norm, const at::Tensor& x) {
  if (conv.folded().defined() && evaluating(norm) && !wanted(conv)) return norm.report(conv.folded()(x));
  return norm(conv(x));
}

at::Tensor conv_norm_relu(Conv& conv, BatchNorm& norm, ReLU& relu, const at::Tensor& x, const at::Tensor& shortcut) {
  const FoldedConv& folded = conv.folded();
  if (evaluating(norm) && !wanted(conv) && !wanted(norm) && folded.fuses(x))
    return relu.report(shortcut.defined() ? folded.then_add(x, shortcut, "relu") : folded.then(x, "relu"));
  at::Tensor y = conv_norm(conv, norm, x);
  return relu(shortcut.defined() ? y.add_(shortcut) : y);
}

void Sequential::append(UnaryModule& module) {
  const Step step{&module, dynamic_cast<Conv*>(&module), dynamic_cast<BatchNorm*>(&module),
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

void init_kaiming_normal_fan_in(const at::Tensor& weight, at::Generator& generator) {
  const at::NoGradGuard no_grad;
  constexpr double kSlope = LeakyReLU::kSlope;
  weight.normal_(0, std::sqrt(2 / ((1 + kSlope * kSlope) * fans(weight).in)), generator);
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
