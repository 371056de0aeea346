#pragma once
// What evaluation may compute otherwise than the file says: convolutions joined with the batch norm, activation and
// addition that follow, and weights that are cast once.
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "backbones/exported/run.h"

namespace le {

// The derived weights of one network at one time. Plans share them.
struct DerivedWeights {
  at::ScalarType dtype = at::kFloat;
  bool whole = false;  // the whole program runs in `dtype`, without autocast
  std::map<std::pair<int, int>, std::shared_ptr<const FoldedConv>> convs;  // by the nodes of convolution and norm (-1)
  std::map<int, at::Tensor> cast;                                          // by slot
};

// Whether every operation of the program may be done in a 16-bit float: none has reasons to want more.
bool runs_in_half(const ExportedProgram& program);

// The plan for evaluation with derived weights, which it adds to where it needs more of them.
ExportedPlan fused_plan(const std::shared_ptr<const ExportedProgram>& program, const std::vector<at::Tensor>& weights,
                        DerivedWeights& derived, std::vector<ExportedCapture> captures, std::vector<int> results);

}  // namespace le
