#pragma once
// Runs a checked torch.export program, operation by operation through PyTorch's dispatcher, so that autograd, autocast
// and devices work as they do in Python.
#include <ATen/core/Tensor.h>

#include <atomic>
#include <memory>
#include <vector>

#include "backbones/exported/program.h"
#include "backbones/folded_conv.h"

namespace le {

// A value that a pass brings out.
struct ExportedCapture {
  int slot = -1;
  int after = -1;     // node after which it is taken: a module has returned by then
  bool copy = false;  // a later node writes to its memory
};

// Some nodes as one convolution, at the place of the last of them.
struct FusedConv {
  std::shared_ptr<const FoldedConv> conv;
  std::vector<int> nodes;
  int input = -1, shortcut = -1, output = -1;
  std::string activation;  // as FoldedConv::then() takes it; empty: none
};

// kSampling: evaluation, with dropout.
enum class ExportedPhase { kEvaluation, kSampling, kTraining };

// The order of work for one set of captures: what runs, what is kept, and where each value is used for the last time.
class ExportedPlan {
 public:
  // fused: may be empty. derived: tensors that stand for weights, by slot. Nodes only of training are left out
  // elsewhere.
  ExportedPlan(std::shared_ptr<const ExportedProgram> program, ExportedPhase phase,
               std::vector<ExportedCapture> captures, std::vector<int> results, std::vector<FusedConv> fused = {},
               std::vector<std::pair<int, at::Tensor>> derived = {});

  struct Result {
    std::vector<at::Tensor> captures;  // in the order given; undefined where there is none
    std::vector<at::Tensor> results;
  };
  // `values`: one per slot, with weights and inputs in place. ERR_LE_SHAPE where an operation refuses its arguments:
  // shapes are all that varies.
  Result run(std::vector<c10::IValue> values, const std::vector<at::Tensor>& weights, c10::Device device) const;

 private:
  struct Step {
    const ExportedNode* node = nullptr;
    int fused = -1;             // index in fused_; the node is not run then
    std::vector<uint8_t> last;  // by link and slot, in order: used for the last time
    std::vector<int> drop;      // slots of nobody's interest afterwards
    std::vector<int> captures;  // indices of captures to take afterwards
  };
  // reduced: the pass computes in bfloat16.
  void run_node(size_t index, std::vector<c10::IValue>& values, torch::jit::Stack& stack, c10::Device device,
                const std::vector<at::Tensor>& weights, bool reduced) const;
  void call(size_t index, torch::jit::Stack& stack, bool reduced) const;
  void run_fused(const FusedConv& fused, std::vector<c10::IValue>& values) const;

  std::shared_ptr<const ExportedProgram> program_;
  const bool training_, sampling_;
  std::vector<ExportedCapture> captures_;
  std::vector<int> results_;
  std::vector<FusedConv> fused_;
  std::vector<std::pair<int, at::Tensor>> derived_;
  std::vector<Step> steps_;
  // By step: whether it runs in float because libtorch has it in no bfloat16. Behind them: whether all are known.
  std::unique_ptr<std::atomic<bool>[]> in_float_;
};

}  // namespace le
