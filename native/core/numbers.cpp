#include "numbers.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/isfinite.h>
#include <c10/core/InferenceMode.h>

#include <cmath>

#include "error.h"

namespace le {

namespace {

// Zeros and -infinity alone, as attention adds them to leave places out.
bool is_mask(const at::Tensor& tensor) {
  return tensor.dim() >= 2 && at::logical_or(tensor == 0, tensor == -INFINITY).all().item<bool>();
}

}  // namespace

std::string flaw(const std::string& name, const at::Tensor& tensor, Weight kind) {
  const bool complex = tensor.defined() && tensor.is_complex();
  if (!tensor.defined() || tensor.numel() == 0 || !(tensor.is_floating_point() || complex)) return {};
  const at::NoGradGuard no_grad;
  const at::Tensor values = tensor.detach();
  if (complex) return at::isfinite(values).all().item<bool>() ? "" : "NaN or infinity";
  // One pass, nothing of the tensor's size; NaN is kept. Some small types (float8) have no arithmetic of their own.
  const auto [low, high] = at::aminmax(values.element_size() < 2 ? values.to(at::kFloat) : values);
  const auto least = low.item<double>(), most = high.item<double>();
  if (!std::isfinite(least) || !std::isfinite(most)) {
    if (kind == Weight::kBuffer && most == 0 && is_mask(values)) return {};
    return std::isnan(least) || std::isnan(most) ? "NaN" : "infinity";
  }
  if (kind == Weight::kBuffer && least < 0 && name.ends_with("running_var")) return "a variance below zero";
  return {};
}

std::string flaws(const NamedTensors& parameters, const NamedTensors& buffers) {
  std::string first;
  size_t others = 0;
  const auto look = [&](const NamedTensors& tensors, Weight kind) {
    for (const auto& [name, tensor] : tensors) {
      const std::string found = flaw(name, tensor, kind);
      if (found.empty()) continue;
      if (first.empty())
        first = found + " in weight '" + name + "'";
      else
        ++others;
    }
  };
  look(parameters, Weight::kParameter);
  look(buffers, Weight::kBuffer);
  return others ? first + " and in " + std::to_string(others) + " others" : first;
}

void check_numbers(const NamedTensors& parameters, const NamedTensors& buffers, const char* code,
                   const std::string& subject, const std::string& advice) {
  if (const std::string found = flaws(parameters, buffers); !found.empty())
    fail(code, "Expected finite numbers for the weights of ", subject, " but received ", found, ": ", advice, ".");
}

void check_numbers(const Backbone& backbone, const std::string& subject) {
  check_numbers(backbone.parameters(), backbone.buffers(), code::kCheckpoint, subject, kDamagedWeights);
}

}  // namespace le
