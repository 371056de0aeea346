#include "convolutions/guard.h"

#include <ATen/ops/_convolution_native.h>
#include <ATen/ops/convolution_backward_native.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>

#include "convolutions/plain.h"

namespace le {

namespace {

std::mutex found_lock;
std::map<ConvolutionCall, Detour> found;
std::atomic<bool> any_found{false};

thread_local std::optional<Detour> forced;
thread_local Recording* recording = nullptr;

at::Tensor laid_out(const at::Tensor& tensor, bool last, int64_t axes) {
  return tensor.defined() ? tensor.contiguous(last ? channels_last_format(axes) : at::MemoryFormat::Contiguous)
                          : tensor;
}

// A tensor as the detour wants it.
at::Tensor led(const at::Tensor& tensor, Detour detour) {
  if (!tensor.defined()) return tensor;
  const bool in_float = detour == Detour::kFloat || detour == Detour::kFloatContiguous;
  const at::Tensor other = in_float ? tensor.to(at::kFloat) : tensor;
  return detour == Detour::kFloat ? other : other.contiguous();
}

at::Tensor convolution(const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                       at::IntArrayRef output_padding, int64_t groups, bool benchmark, bool deterministic,
                       bool cudnn_enabled, bool allow_tf32) {
  const auto run = [&](const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& b) {
    return at::native::_convolution(x, w, b, stride, padding, dilation, transposed, output_padding, groups, benchmark,
                                    deterministic, cudnn_enabled, allow_tf32);
  };
  const bool has_bias = bias && bias->defined();
  const auto call =
      convolution_call(input, weight, has_bias, stride, padding, dilation, transposed, output_padding, groups);
  if (!call) return run(input, weight, bias);
  const bool last = call->input_last || call->weight_last;
  if (recording) {
    const std::vector<int64_t> shape = call->output_shape();
    if (std::all_of(shape.begin(), shape.end(), [](int64_t side) { return side > 0; })) {
      recording->add(*call);
      return laid_out(at::zeros(shape, input.options()), last, call->axes);
    }
  }
  const Detour detour = detour_of(*call);
  if (detour == Detour::kNone) return run(input, weight, bias);
  const at::Tensor b = has_bias ? *bias : at::Tensor();
  const at::Tensor result =
      detour == Detour::kPlain
          ? plain_convolution(*call, input, weight, b)
          : run(led(input, detour), led(weight, detour), has_bias ? std::make_optional(led(b, detour)) : std::nullopt);
  return laid_out(result.to(input.scalar_type()), last, call->axes);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& gradient, const at::Tensor& input, const at::Tensor& weight, at::OptionalIntArrayRef bias_sizes,
    at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
    at::IntArrayRef output_padding, int64_t groups, std::array<bool, 3> wanted) {
  const auto run = [&](const at::Tensor& g, const at::Tensor& x, const at::Tensor& w) {
    return at::native::convolution_backward(g, x, w, bias_sizes, stride, padding, dilation, transposed, output_padding,
                                            groups, wanted);
  };
  auto call = convolution_call(input, weight, wanted[2], stride, padding, dilation, transposed, output_padding, groups);
  if (!call || gradient.layout() != at::kStrided || gradient.scalar_type() != input.scalar_type())
    return run(gradient, input, weight);
  call->backward = true;
  call->wanted = wanted;
  call->gradient_last = is_channels_last(gradient);
  if (recording) {
    recording->add(*call);
    const auto zeros = [&](bool is_wanted, at::IntArrayRef shape) {
      return is_wanted ? at::zeros(shape, input.options()) : at::Tensor();
    };
    return {zeros(wanted[0], input.sizes()), zeros(wanted[1], weight.sizes()), zeros(wanted[2], {call->out_channels})};
  }
  const Detour detour = detour_of(*call);
  if (detour == Detour::kNone) return run(gradient, input, weight);
  auto [of_input, of_weight, of_bias] = detour == Detour::kPlain
                                            ? plain_convolution_backward(*call, gradient, input, weight)
                                            : run(led(gradient, detour), led(input, detour), led(weight, detour));
  const auto back = [&](const at::Tensor& tensor, bool last) {
    return tensor.defined() ? laid_out(tensor.to(input.scalar_type()), last, call->axes) : tensor;
  };
  return {back(of_input, call->input_last || call->weight_last), back(of_weight, call->weight_last),
          back(of_bias, false)};
}

}  // namespace

void guard_convolutions() {
  // Below autograd and autocast, where all front ends meet: aten::convolution calls aten::_convolution, which traced
  // networks call themselves. libtorch has no kernel of the CPU's own for either.
  static const torch::Library library = [] {
    torch::Library guarded(torch::Library::IMPL, "aten", c10::DispatchKey::CPU, __FILE__, __LINE__);
    guarded.impl("_convolution", TORCH_FN(convolution));
    guarded.impl("convolution_backward", TORCH_FN(convolution_backward));
    return guarded;
  }();
  (void)library;
}

Detour detour_of(const ConvolutionCall& call) {
  if (forced) return *forced;
  if (any_found.load(std::memory_order_acquire)) {
    const std::lock_guard lock(found_lock);
    const auto entry = found.find(call);
    if (entry != found.end()) return entry->second;
  }
  return known_detour(call);
}

void remember_detour(const ConvolutionCall& call, Detour detour) {
  const std::lock_guard lock(found_lock);
  found[call] = detour;
  any_found.store(true, std::memory_order_release);
}

ForcedDetour::ForcedDetour(Detour detour) : before_(forced) { forced = detour; }

ForcedDetour::~ForcedDetour() { forced = before_; }

Recording::Recording() : before_(recording) { recording = this; }

Recording::~Recording() { recording = before_; }

void Recording::add(const ConvolutionCall& call) {
  if (std::find(calls_.begin(), calls_.end(), call) == calls_.end()) calls_.push_back(call);
}

bool Recording::active() { return recording != nullptr; }

}  // namespace le
