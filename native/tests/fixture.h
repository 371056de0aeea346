#pragma once
// What PyTorch computed, read from a safetensors file, and how a tensor is compared with it.
#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/max.h>

#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "check.h"
#include "files/safetensors.h"

namespace le::test {

class Fixture {
 public:
  explicit Fixture(const std::string& path) : file_(read_safetensors(path)) {}

  // Tensors whose names begin with `prefix`, without it.
  std::map<std::string, at::Tensor> under(const std::string& prefix) const {
    std::map<std::string, at::Tensor> found;
    for (const auto& [name, tensor] : file_.tensors)
      if (name.starts_with(prefix)) found.emplace(name.substr(prefix.size()), tensor);
    return found;
  }
  const at::Tensor& at(const std::string& name) const { return file_.tensors.at(name); }
  bool has(const std::string& name) const { return file_.tensors.contains(name); }
  const std::string& metadata(const std::string& name) const { return file_.metadata.at(name); }

 private:
  SafetensorsFile file_;
};

// Largest difference, as a share of the largest magnitude expected, or of `least` where that is more. Infinite where
// the tensor is missing, has another shape or is not finite.
inline double relative_error(const at::Tensor& actual, const at::Tensor& expected, double least = 0) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (!actual.defined() || actual.sizes() != expected.sizes()) return kInfinity;
  if (expected.numel() == 0) return 0;
  const at::Tensor a = actual.detach().to(at::kCPU, at::kDouble), e = expected.to(at::kDouble);
  const double scale = std::max(e.abs().max().item<double>(), least);
  const double error = (a - e).abs().max().item<double>() / (scale > 0 ? scale : 1);
  return std::isfinite(error) ? error : kInfinity;
}

inline void check_close(const std::string& what, const at::Tensor& actual, const at::Tensor& expected,
                        double tolerance) {
  if (!actual.defined()) failed(__FILE__, __LINE__, what, " is undefined");
  if (actual.sizes() != expected.sizes()) failed(__FILE__, __LINE__, what, " has shape ", actual.sizes());
  const double error = relative_error(actual, expected);
  if (!(error <= tolerance)) failed(__FILE__, __LINE__, what, " differs by ", error, " of its largest value");
}

inline std::vector<std::string> names_of(const std::map<std::string, at::Tensor>& tensors) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) names.push_back(name);
  return names;
}

// cos(0), cos(1), …: what backward passes start from. Python's scripts compute the same.
inline at::Tensor cosines(const at::Tensor& like) {
  return at::arange(like.numel(), at::kFloat).cos().view(like.sizes());
}

}  // namespace le::test
