#pragma once
// A TorchScript file, looked through before libtorch reads it, and in the numbers that it runs in here.
#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>

#include <exception>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace le::script {

// What libtorch says, without a backtrace.
std::string message_of(const std::exception& error);

// ERR_LE_CHECKPOINT where it is no TorchScript, or brings along what would run while it loads.
torch::jit::Module load_module(const std::string& path);

// A network whose parameters are half, bfloat16 or double runs in float32: all its tensors of such a type, and what its
// operations cast to it. One with float32 parameters keeps what it casts by itself.
struct Widened {
  std::set<at::ScalarType> types;
  std::vector<std::pair<size_t, at::ScalarType>> tensors;  // by place among all, with the type in the file

  void undo(const torch::jit::Module& copy) const;
};
Widened widen(const torch::jit::Module& module, const std::string& file);

}  // namespace le::script
