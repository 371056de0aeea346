#include "training/optim.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "numbers.h"
#include "options.h"

namespace le {

namespace {

constexpr const char* kOf = " of the optimizer";

// Copies the tensors of those names from a saved state; nothing is changed where one is missing or of another shape.
void load(const std::map<std::string, at::Tensor>& state, const NamedTensors& into) {
  for (const auto& [name, tensor] : into) {
    const auto found = state.find(name);
    if (found == state.end())
      fail(code::kCheckpoint, "Expected '", name, "' in the optimizer's state but received none.");
    if (found->second.sizes() != tensor.sizes())
      fail(code::kCheckpoint, "Expected shape ", tensor.sizes(), " for '", name,
           "' in the optimizer's state but received ", found->second.sizes(), ".");
  }
  NamedTensors saved;
  for (const auto& [name, tensor] : into) saved.emplace_back(name, state.at(name).to(tensor.scalar_type()));
  check_numbers(saved, {}, code::kCheckpoint, "the optimizer's state", kDamagedWeights);
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : into) tensor.copy_(state.at(name));
}

// Kingma and Ba 2015; decoupled: Loshchilov and Hutter 2019.
class Adam final : public Optimizer {
 public:
  Adam(const Json& options, NamedTensors parameters, bool decoupled)
      : Optimizer(std::move(parameters)),
        decoupled_(decoupled),
        fused_(options.boolean_or("fused", true)),
        decay_(in_range(options, "weightDecay", decoupled ? 0.01 : 0.0, at_least(0.0), kOf)),
        eps_(in_range(options, "eps", 1e-8, at_least(0.0), kOf)) {
    const auto betas = options.numbers_or("betas", {0.9, 0.999});
    if (betas.size() != 2 || !(betas[0] >= 0 && betas[0] < 1 && betas[1] >= 0 && betas[1] < 1))
      fail(code::kOption, "Expected two numbers from 0 to below 1 for option 'betas' of the optimizer but received ",
           options.at("betas").dump(), ".");
    beta1_ = betas[0];
    beta2_ = betas[1];
    for (const auto& [name, parameter] : parameters_) {
      mean_.push_back(at::zeros_like(parameter, parameter.options().requires_grad(false)));
      square_.push_back(at::zeros_like(parameter, parameter.options().requires_grad(false)));
      steps_.push_back(at::zeros({}, parameter.options().dtype(at::kFloat).requires_grad(false)));
    }
  }

  void step(double rate) override {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> values, gradients, means, squares, steps;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const at::Tensor& gradient = parameters_[i].second.grad();
      if (!gradient.defined()) continue;
      values.push_back(parameters_[i].second);
      gradients.push_back(gradient);
      means.push_back(mean_[i]);
      squares.push_back(square_[i]);
      steps.push_back(steps_[i]);
      steps_[i].add_(1);
    }
    if (values.empty()) return;
    if (!fused_) {
      for (size_t i = 0; i < values.size(); ++i)
        by_operations(values[i], gradients[i], means[i], squares[i], steps[i], rate);
    } else if (decoupled_) {
      at::_fused_adamw_(values, gradients, means, squares, {}, steps, rate, beta1_, beta2_, decay_, eps_, false, false);
    } else {
      at::_fused_adam_(values, gradients, means, squares, {}, steps, rate, beta1_, beta2_, decay_, eps_, false, false);
    }
  }

  void set_momentum(double momentum) override { beta1_ = momentum; }

  NamedTensors state() const override {
    NamedTensors all;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      all.emplace_back(parameters_[i].first + ".exp_avg", mean_[i]);
      all.emplace_back(parameters_[i].first + ".exp_avg_sq", square_[i]);
      all.emplace_back(parameters_[i].first + ".step", steps_[i]);
    }
    return all;
  }
  void load_state(const std::map<std::string, at::Tensor>& saved) override { load(saved, state()); }

 private:
  void by_operations(at::Tensor value, const at::Tensor& gradient, at::Tensor mean, at::Tensor square,
                     const at::Tensor& steps, double rate) const {
    const double step = steps.item<double>();
    at::Tensor g = gradient;
    if (decoupled_)
      value.mul_(1 - rate * decay_);
    else if (decay_ != 0)
      g = g + value * decay_;
    mean.mul_(beta1_).add_(g, 1 - beta1_);
    square.mul_(beta2_).addcmul_(g, g, 1 - beta2_);
    const double correction1 = 1 - std::pow(beta1_, step), correction2 = 1 - std::pow(beta2_, step);
    value.addcdiv_(mean, square.sqrt().div_(std::sqrt(correction2)).add_(eps_), -rate / correction1);
  }

  const bool decoupled_, fused_;
  const double decay_, eps_;
  double beta1_ = 0, beta2_ = 0;
  std::vector<at::Tensor> mean_, square_, steps_;
};

class Sgd final : public Optimizer {
 public:
  Sgd(const Json& options, NamedTensors parameters)
      : Optimizer(std::move(parameters)),
        fused_(options.boolean_or("fused", true)),
        nesterov_(options.boolean_or("nesterov", false)),
        decay_(in_range(options, "weightDecay", 0.0, at_least(0.0), kOf)),
        momentum_(in_range(options, "momentum", 0.0, {0, 1, kBelow}, kOf)) {
    if (nesterov_ && momentum_ == 0)
      fail(code::kOption, "Expected a positive 'momentum' with 'nesterov' but received 0.");
    if (momentum_ != 0) make_velocity();
  }

  void set_momentum(double momentum) override {
    momentum_ = momentum;
    make_velocity();
  }

  void step(double rate) override {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> values, gradients, velocities;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const at::Tensor& gradient = parameters_[i].second.grad();
      if (!gradient.defined()) continue;
      values.push_back(parameters_[i].second);
      gradients.push_back(gradient);
      if (!velocity_.empty()) velocities.push_back(velocity_[i]);
    }
    if (values.empty()) return;
    if (fused_) {
      // A velocity of zero makes the first step what PyTorch's first step is (dampening is 0).
      at::_fused_sgd_(values, gradients, velocities, decay_, momentum_, rate, 0.0, nesterov_, false, false);
      return;
    }
    for (size_t i = 0; i < values.size(); ++i) {
      at::Tensor g = decay_ != 0 ? gradients[i] + values[i] * decay_ : gradients[i];
      if (!velocity_.empty()) {
        velocities[i].mul_(momentum_).add_(g);
        g = nesterov_ ? g + velocities[i] * momentum_ : velocities[i];
      }
      values[i].add_(g, -rate);
    }
  }

  NamedTensors state() const override {
    NamedTensors all;
    for (size_t i = 0; i < velocity_.size(); ++i)
      all.emplace_back(parameters_[i].first + ".momentum_buffer", velocity_[i]);
    return all;
  }
  void load_state(const std::map<std::string, at::Tensor>& saved) override { load(saved, state()); }

 private:
  void make_velocity() {
    if (!velocity_.empty()) return;
    for (const auto& [name, parameter] : parameters_)
      velocity_.push_back(at::zeros_like(parameter, parameter.options().requires_grad(false)));
  }

  const bool fused_, nesterov_;
  const double decay_;
  double momentum_;
  std::vector<at::Tensor> velocity_;
};

}  // namespace

void Optimizer::zero_grad() {
  for (auto& [name, parameter] : parameters_) parameter.mutable_grad() = at::Tensor();
}

std::unique_ptr<Optimizer> make_optimizer(const Json& options, NamedTensors parameters) {
  const std::string& name = options.at("name").string("name of the optimizer");
  if (name == "adam") return std::make_unique<Adam>(options, std::move(parameters), false);
  if (name == "adamw") return std::make_unique<Adam>(options, std::move(parameters), true);
  if (name == "sgd") return std::make_unique<Sgd>(options, std::move(parameters));
  fail(code::kOption, "Expected adam, adamw or sgd for the name of the optimizer but received '", name, "'.");
}

double clip_gradients(const NamedTensors& parameters, double max_norm) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> norms;
  for (const auto& [name, parameter] : parameters)
    if (parameter.grad().defined()) norms.push_back(at::norm(parameter.grad()));
  if (norms.empty()) return 0;
  const at::Tensor total = at::norm(at::stack(norms));
  // The factor stays on the device: reading it there would stall the queue. 1e-6 as in PyTorch.
  const at::Tensor factor = (max_norm / (total + 1e-6)).clamp_max(1.0);
  for (const auto& [name, parameter] : parameters)
    if (parameter.grad().defined()) parameter.grad().mul_(factor);
  return total.item<double>();
}

}  // namespace le
