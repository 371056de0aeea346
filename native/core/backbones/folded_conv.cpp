#include "backbones/folded_conv.h"

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/rsqrt.h>

#include "convolutions/guard.h"

namespace le {

namespace {

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
  if (weight.dim() != 4 || !weight.is_cpu() || !at::globalContext().userEnabledMkldnn()) return false;
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
at::Tensor packed(const at::Tensor& weight, const ConvGeometry& geometry) {
  torch::jit::Stack stack{weight,
                          c10::List<int64_t>(geometry.padding),
                          c10::List<int64_t>(geometry.stride),
                          c10::List<int64_t>(geometry.dilation),
                          geometry.groups,
                          c10::IValue()};
  operation("mkldnn::_reorder_convolution_weight", "").callBoxed(stack);
  return stack.front().toTensor();
}

}  // namespace

FoldedConv::FoldedConv(const at::Tensor& weight, const at::Tensor& bias, ConvGeometry geometry,
                       const std::optional<NormStatistics>& norm, at::ScalarType dtype)
    : geometry_(std::move(geometry)), dtype_(dtype) {
  const at::NoGradGuard no_grad;
  at::Tensor w = weight.detach(), b = bias.defined() ? bias.detach() : bias;
  if (norm) {
    // w·γ/σ and (b - μ)·γ/σ + β: what the two layers compute in evaluation.
    at::Tensor scale = (norm->var + norm->eps).rsqrt();
    if (norm->weight.defined()) scale = norm->weight * scale;
    b = (b.defined() ? b - norm->mean : -norm->mean) * scale;
    if (norm->bias.defined()) b = b + norm->bias;
    std::vector<int64_t> per_output(weight.dim(), 1);
    per_output[0] = -1;
    w = (w * scale.view(per_output)).contiguous(weight.suggest_memory_format());
  }
  weight_ = w.to(dtype);
  bias_ = b.defined() ? b.to(dtype) : b;
  if (!norm && weight_.is_alias_of(weight)) weight_ = weight_.clone();
  if (can_fuse(weight_)) packed_ = packed(weight_, geometry_);
}

bool FoldedConv::fuses(const at::Tensor& x) const {
  if (!packed_.defined()) return false;
  if (Recording::active()) return false;
  const std::vector<int64_t> no_output_padding(geometry_.stride.size(), 0);
  const auto call = convolution_call(x, weight_, bias_.defined(), geometry_.stride, geometry_.padding,
                                     geometry_.dilation, false, no_output_padding, geometry_.groups);
  return !call || detour_of(*call) == Detour::kNone;
}

std::vector<int64_t> FoldedConv::output_sizes(const at::Tensor& x) const {
  std::vector<int64_t> sizes{x.size(0), weight_.size(0)};
  for (size_t axis = 0; axis < geometry_.stride.size(); ++axis) {
    const int64_t kernel = geometry_.dilation[axis] * (weight_.size(static_cast<int64_t>(axis) + 2) - 1) + 1;
    sizes.push_back((x.size(axis + 2) + 2 * geometry_.padding[axis] - kernel) / geometry_.stride[axis] + 1);
  }
  return sizes;
}

at::Tensor FoldedConv::operator()(const at::Tensor& x) const {
  if (fuses(x)) return then(x, "none");
  const std::vector<int64_t> no_output_padding(geometry_.stride.size(), 0);
  return at::convolution(x, weight_, bias_, geometry_.stride, geometry_.padding, geometry_.dilation, false,
                         no_output_padding, geometry_.groups);
}

at::Tensor FoldedConv::then(const at::Tensor& x, std::string_view activation) const {
  static const auto run = operation("mkldnn::_convolution_pointwise", "").typed<Pointwise>();
  c10::List<std::optional<at::Scalar>> scalars;
  // oneDNN's ReLU makes 0 of NaN, so that an overflow would look like an answer. Its leaky ReLU keeps NaN, and a slope
  // so small is lost in rounding; its square underflows to 0, not to the slow numbers below the smallest normal one.
  if (activation == "relu") {
    activation = "leaky_relu";
    scalars.push_back(at::Scalar(kAlmostZero));
  }
  return run.call(x, packed_, bias_, geometry_.padding, geometry_.stride, geometry_.dilation, geometry_.groups,
                  activation, scalars, std::nullopt);
}

at::Tensor FoldedConv::then_add(const at::Tensor& x, const at::Tensor& shortcut, std::string_view activation) const {
  static const auto run = operation("mkldnn::_convolution_pointwise", "binary").typed<PointwiseBinary>();
  at::Tensor y =
      run.call(x, shortcut, packed_, bias_, geometry_.padding, geometry_.stride, geometry_.dilation, geometry_.groups,
               "add", at::Scalar(1.0), std::nullopt, c10::List<std::optional<at::Scalar>>(), std::nullopt);
  // Not in the same operation, whose only activation is the ReLU that makes 0 of NaN.
  return activation == "none" ? y : at::relu_(y);
}

}  // namespace le
