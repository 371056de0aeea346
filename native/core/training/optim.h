#pragma once
// Adam, AdamW and SGD over libtorch's fused kernels. State is plain named tensors, so that a checkpoint is one file.
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "files/json.h"
#include "files/safetensors.h"

namespace le {

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // One update from the parameters' gradients; a parameter without a gradient is left alone.
  virtual void step(double learning_rate) = 0;
  void zero_grad();  // drops the gradients
  // For the steps from now on: Adam's first beta, or SGD's momentum, from 0 to below 1.
  virtual void set_momentum(double momentum) = 0;
  // Moments and step counts under "<parameter>.exp_avg" and so on; and the reverse, ERR_LE_CHECKPOINT on a mismatch.
  virtual NamedTensors state() const = 0;
  virtual void load_state(const std::map<std::string, at::Tensor>& state) = 0;

 protected:
  explicit Optimizer(NamedTensors parameters) : parameters_(std::move(parameters)) {}
  NamedTensors parameters_;
};

// {"name": "adam" | "adamw" | "sgd", "betas": [0.9, 0.999], "eps": 1e-8, "weightDecay": 0, "momentum": 0,
//  "nesterov": false, "fused": true}. Defaults are PyTorch's (adamw: weightDecay 0.01). `fused: false` runs the same
// arithmetic by single operations. Equal to torch.optim to 1e-6 relative per step.
std::unique_ptr<Optimizer> make_optimizer(const Json& options, NamedTensors parameters);

// Scales all gradients so that their joint L2 norm is at most max_norm; gives the norm before. As
// torch.nn.utils.clip_grad_norm_.
double clip_gradients(const NamedTensors& parameters, double max_norm);

}  // namespace le
