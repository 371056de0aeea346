#pragma once
// The evaluation graph of a TorchScript network: constants instead of attributes, and convolutions together with the
// batch norm, the shortcut and the activation that follow them as one operation each (see folded_conv.h).
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <memory>
#include <vector>

#include "backbones/folded_conv.h"

namespace le::script {

// A program for passes in evaluation mode without gradients.
struct Derived {
  torch::jit::Code program;
  std::vector<FoldedConv> convolutions;
  // All of it computes in the type that was asked for: the input is to have that type, and autocast to stay out.
  bool whole = false;

  void run(torch::jit::Stack& stack) const;
};

// `tapped` is what with_taps() gave, with all modules in evaluation mode now; it is changed. Null where the network
// changes what it holds as it runs, or consists of parts that are not known before the pass.
std::shared_ptr<const Derived> derive(std::shared_ptr<torch::jit::Graph> tapped, const torch::jit::Module& root,
                                      at::ScalarType dtype);

}  // namespace le::script
