#include "backbones/exported/run.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/hardswish.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <exception>

#include "backbones/exported/arguments.h"
#include "error.h"

namespace le {

namespace {

using c10::IValue;

bool holds(const IValue& value, ValueKind kind) {
  switch (kind) {
    case ValueKind::kTensor:
      return value.isTensor();
    case ValueKind::kInt:
      return value.isInt();
    case ValueKind::kFloat:
      return value.isDouble();
    case ValueKind::kBool:
      return value.isBool();
    case ValueKind::kNone:
      return true;
  }
  return false;
}

double real(const IValue& value) { return value.isDouble() ? value.toDouble() : static_cast<double>(value.toInt()); }

}  // namespace

void bind_arguments(const ExportedNode& node, std::vector<IValue>& values, c10::Device device, const uint8_t* last,
                    torch::jit::Stack& stack) {
  stack.assign(node.arguments.begin(), node.arguments.end());
  for (const Link& link : node.links) {
    IValue& to = stack[link.position];
    const auto item = [&](size_t i) -> const IValue& {
      return link.slots[i] >= 0 ? values[link.slots[i]] : link.fixed[i];
    };
    switch (link.kind) {
      case Link::Kind::kValue:
        if (last && *last)
          to = std::move(values[link.slots[0]]);
        else
          to = values[link.slots[0]];
        if (last) last++;
        continue;
      case Link::Kind::kFloat:
        to = real(values[link.slots[0]]);
        break;
      case Link::Kind::kWrapped:
        to = exported::wrapped_number(values[link.slots[0]]);
        break;
      case Link::Kind::kTensors: {
        c10::List<at::Tensor> list;
        list.reserve(link.slots.size());
        for (const int slot : link.slots) list.push_back(values[slot].toTensor());
        to = std::move(list);
        break;
      }
      case Link::Kind::kOptionalTensors: {
        c10::List<std::optional<at::Tensor>> list;
        list.reserve(link.slots.size());
        for (const int slot : link.slots)
          list.push_back(slot >= 0 ? std::optional<at::Tensor>(values[slot].toTensor()) : std::nullopt);
        to = std::move(list);
        break;
      }
      case Link::Kind::kInts: {
        std::vector<int64_t> list(link.slots.size());
        for (size_t i = 0; i < list.size(); ++i) list[i] = item(i).toInt();
        to = std::move(list);
        break;
      }
      case Link::Kind::kFloats: {
        std::vector<double> list(link.slots.size());
        for (size_t i = 0; i < list.size(); ++i) list[i] = real(item(i));
        to = std::move(list);
        break;
      }
      case Link::Kind::kBools: {
        c10::List<bool> list;
        for (size_t i = 0; i < link.slots.size(); ++i) list.push_back(item(i).toBool());
        to = std::move(list);
        break;
      }
      case Link::Kind::kArray: {
        c10::List<IValue> list(c10::AnyType::get());
        for (size_t i = 0; i < link.slots.size(); ++i) list.push_back(item(i));
        to = std::move(list);
        break;
      }
      case Link::Kind::kDevice:
        to = device;
        break;
    }
    if (!last) continue;
    for (const int slot : link.slots)
      if (*last++ && slot >= 0) values[slot] = IValue();
  }
}

ExportedPlan::ExportedPlan(std::shared_ptr<const ExportedProgram> program, ExportedPhase phase,
                           std::vector<ExportedCapture> captures, std::vector<int> results,
                           std::vector<FusedConv> fused, std::vector<std::pair<int, at::Tensor>> derived)
    : program_(std::move(program)),
      training_(phase == ExportedPhase::kTraining),
      sampling_(phase == ExportedPhase::kSampling),
      captures_(std::move(captures)),
      results_(std::move(results)),
      fused_(std::move(fused)),
      derived_(std::move(derived)) {
  const auto& nodes = program_->nodes;
  std::vector<int> fused_at(nodes.size(), -1);
  std::vector<bool> skipped(nodes.size());
  for (size_t i = 0; i < fused_.size(); ++i) {
    for (const int node : fused_[i].nodes) skipped[node] = true;
    fused_at[fused_[i].nodes.back()] = static_cast<int>(i);
  }
  std::vector<std::vector<int>> captured_after(nodes.size() + 1);
  for (size_t i = 0; i < captures_.size(); ++i)
    if (captures_[i].slot >= 0) captured_after[captures_[i].after + 1].push_back(static_cast<int>(i));

  // From the end: the first use that is met is the last one.
  std::vector<bool> needed(program_->slot_names.size());
  const auto need = [&](int slot) {
    const bool fresh = !needed[slot];
    needed[slot] = true;
    return fresh;
  };
  for (const int slot : results_)
    if (slot >= 0) need(slot);
  for (const auto& [slot, weight] : program_->mutations)
    if (training_) need(slot);
  for (size_t i = nodes.size(); i-- > 0;) {
    const ExportedNode& node = nodes[i];
    Step step;
    step.node = &node;
    step.fused = fused_at[i];
    step.captures = captured_after[i + 1];
    // What is captured here is needed until here, and may be needed by nobody later.
    for (const int capture : step.captures)
      if (need(captures_[capture].slot)) step.drop.push_back(captures_[capture].slot);
    if (step.fused < 0 && (skipped[i] || (node.only_training && !training_))) {
      if (step.captures.empty()) continue;
      step.node = nullptr;
    } else if (step.fused >= 0) {
      const FusedConv& conv = fused_[step.fused];
      for (const int slot : {conv.output, conv.shortcut, conv.input})
        if (slot >= 0 && need(slot)) step.drop.push_back(slot);
    } else {
      for (const auto& [slot, kind] : node.outputs)
        if (slot >= 0 && need(slot)) step.drop.push_back(slot);
      // The last of several places that name the same slot takes it; nothing is read after.
      for (const Link& link : node.links)
        for (const int slot : link.slots) step.last.push_back(slot >= 0 && !needed[slot]);
      for (const Link& link : node.links)
        for (const int slot : link.slots)
          if (slot >= 0) need(slot);
      size_t at = step.last.size();
      std::vector<int> taken;
      for (auto link = node.links.rbegin(); link != node.links.rend(); ++link)
        for (auto slot = link->slots.rbegin(); slot != link->slots.rend(); ++slot) {
          if (!step.last[--at]) continue;
          if (std::find(taken.begin(), taken.end(), *slot) != taken.end())
            step.last[at] = false;
          else
            taken.push_back(*slot);
        }
    }
    steps_.push_back(std::move(step));
  }
  std::reverse(steps_.begin(), steps_.end());
  in_float_ = std::make_unique<std::atomic<bool>[]>(steps_.size() + 1);
}

ExportedPlan::Result ExportedPlan::run(std::vector<IValue> values, const std::vector<at::Tensor>& weights,
                                       c10::Device device) const {
  for (const auto& [slot, tensor] : derived_) values[slot] = tensor;
  // Evaluation changes nothing; and what training writes back at its end, autograd may have kept for the way back.
  for (const int slot : program_->written_inputs) values[slot] = values[slot].toTensor().clone();
  if (!training_)
    for (const int slot : program_->written) values[slot] = values[slot].toTensor().clone();
  else
    for (const auto& [slot, weight] : program_->mutations)
      values[program_->weights[weight].slot] = weights[weight].clone();
  Result result;
  result.captures.resize(captures_.size());
  const auto capture = [&](int index) {
    const ExportedCapture& wanted = captures_[index];
    if (!values[wanted.slot].isTensor()) return;
    const at::Tensor& tensor = values[wanted.slot].toTensor();
    result.captures[index] = wanted.copy ? tensor.clone() : tensor;
  };
  for (size_t i = 0; i < captures_.size(); ++i)
    if (captures_[i].slot >= 0 && captures_[i].after < 0) capture(static_cast<int>(i));
  torch::jit::Stack stack;
  stack.reserve(32);
  const bool autocast = at::autocast::is_autocast_enabled(device.type()) &&
                        !c10::impl::tls_local_dispatch_key_set().excluded_.has_all(c10::autocast_dispatch_keyset);
  const bool reduced =
      autocast || std::any_of(program_->inputs.begin(), program_->inputs.end(), [&](const auto& input) {
        return input.slot >= 0 && values[input.slot].isTensor() &&
               values[input.slot].toTensor().scalar_type() == at::kBFloat16;
      });
  for (size_t index = 0; index < steps_.size(); ++index) {
    const Step& step = steps_[index];
    try {
      if (step.fused >= 0)
        run_fused(fused_[step.fused], values);
      else if (step.node)
        run_node(index, values, stack, device, weights, reduced);
    } catch (const Error&) {
      throw;
    } catch (const c10::OutOfMemoryError&) {
      throw;
    } catch (const std::bad_alloc&) {
      throw;
    } catch (const std::exception& error) {
      // oneDNN has exceptions of its own.
      const auto* torch = dynamic_cast<const c10::Error*>(&error);
      const std::string cause = torch ? torch->what_without_backtrace() : error.what();
      if (cause.find("allocate memory") != std::string::npos) throw;
      if (reduced && cause.find("BFloat16") != std::string::npos)
        throw Error(code::kOption,
                    "Expected operations that libtorch has in bfloat16 but received " + step.node->name + " (" +
                        step.node->target + "), which it has not: use precision 'fp32'.",
                    cause);
      throw Error(code::kShape,
                  "Expected an input that suits the exported network but received one that its operation " +
                      step.node->name + " (" + step.node->target + ") refuses.",
                  cause);
    }
    for (const int index : step.captures) capture(index);
    for (const int slot : step.drop) values[slot] = IValue();
  }
  if (reduced) in_float_[steps_.size()] = true;
  for (const int slot : results_)
    result.results.push_back(slot >= 0 && values[slot].isTensor() ? values[slot].toTensor() : at::Tensor());
  if (training_) {
    const at::NoGradGuard no_grad;
    for (const auto& [slot, weight] : program_->mutations)
      if (values[slot].isTensor()) weights[weight].copy_(values[slot].toTensor());
  }
  return result;
}

void ExportedPlan::call(size_t index, torch::jit::Stack& stack, bool reduced) const {
  const ExportedNode& node = *steps_[index].node;
  const auto in_float = [&] {
    const auto widened = [](const at::Tensor& tensor) {
      return tensor.defined() && tensor.scalar_type() == at::kBFloat16 ? tensor.to(at::kFloat) : tensor;
    };
    for (IValue& value : stack) {
      if (value.isTensor()) {
        value = widened(value.toTensor());
      } else if (value.isTensorList()) {
        c10::List<at::Tensor> list;
        for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(widened(tensor));
        value = std::move(list);
      } else if (value.isOptionalTensorList()) {
        c10::List<std::optional<at::Tensor>> list;
        for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector())
          list.push_back(tensor ? std::optional(widened(*tensor)) : std::nullopt);
        value = std::move(list);
      }
    }
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    node.op->callBoxed(&stack);
    for (IValue& value : stack)
      if (value.isTensor() && value.toTensor().defined() && value.toTensor().scalar_type() == at::kFloat)
        value = value.toTensor().to(at::kBFloat16);
  };
  if (!reduced) return node.op->callBoxed(&stack);
  if (in_float_[index]) return in_float();
  // What has written to an argument cannot be begun again.
  if (in_float_[steps_.size()] || !node.writes.empty()) return node.op->callBoxed(&stack);
  const torch::jit::Stack before = stack;
  try {
    node.op->callBoxed(&stack);
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const c10::Error&) {
    stack = before;
    const std::exception_ptr first = std::current_exception();
    try {
      in_float();
    } catch (const c10::Error&) {
      std::rethrow_exception(first);
    }
    in_float_[index] = true;
  }
}

void ExportedPlan::run_node(size_t index, std::vector<IValue>& values, torch::jit::Stack& stack, c10::Device device,
                            const std::vector<at::Tensor>& weights, bool reduced) const {
  const Step& step = steps_[index];
  const ExportedNode& node = *step.node;
  if (node.may_write_parameter)
    for (const int slot : node.writes)
      for (size_t i = 0; i < weights.size(); ++i)
        if (program_->weights[i].role == ExportedWeight::Role::kParameter &&
            values[slot].toTensor().is_alias_of(weights[i]))
          fail(code::kCheckpoint, "Expected a network that does not change its parameters but received one whose ",
               "operation ", node.name, " (", node.target, ") writes to ", program_->weights[i].name, ".");
  bind_arguments(node, values, device, step.last.data(), stack);
  if (node.mode) {
    const bool on = training_ || (sampling_ && node.mode->dropout);
    stack[node.mode->position] = on ? node.mode->training : node.mode->evaluating;
  }
  if (node.norm && (node.norm->flag < 0 || stack[node.norm->flag].toBool()))
    check_norm_input(node.norm->kind, stack[node.norm->input].toTensor().sizes(), node.norm->groups);
  const auto wrong = [&](const char* what) {
    fail(code::kInternal, "Expected ", what, " from operation ", node.name, " (", node.target,
         ") of the exported network but received something else.");
  };
  if (node.symbolic) {
    IValue made = node.symbolic(stack);
    stack.clear();
    if (node.outputs.empty() || node.outputs[0].first < 0) return;
    const auto [slot, kind] = node.outputs[0];
    if (kind == ValueKind::kFloat && made.isInt()) made = static_cast<double>(made.toInt());
    if (!holds(made, kind)) wrong("a number of the recorded kind");
    values[slot] = std::move(made);
    return;
  }
  if (node.counter >= 0 && training_) {
    const at::NoGradGuard no_grad;
    weights[node.counter].add_(1);
  }
  // An export ends with buffers that are copied to themselves: what autograd has kept of them would be out of date.
  const bool to_itself =
      node.target == "torch.ops.aten.copy_.default" && stack[0].toTensor().is_same(stack[1].toTensor());
  if (to_itself)
    stack.resize(1);
  else
    call(index, stack, reduced);
  if (node.list_output) {
    if (stack.empty() || !stack[0].isTensorList() || stack[0].toTensorList().size() != node.outputs.size())
      wrong("the recorded number of tensors");
    const auto list = stack[0].toTensorList();
    for (size_t i = 0; i < node.outputs.size(); ++i) values[node.outputs[i].first] = list.get(i);
  } else {
    for (size_t i = 0; i < node.outputs.size(); ++i) {
      const auto [slot, kind] = node.outputs[i];
      if (slot < 0) continue;
      if (i >= stack.size() || !holds(stack[i], kind)) wrong("a result of the recorded kind");
      values[slot] = std::move(stack[i]);
    }
  }
  stack.clear();
}

void ExportedPlan::run_fused(const FusedConv& fused, std::vector<IValue>& values) const {
  const FoldedConv& conv = *fused.conv;
  const at::ScalarType dtype = conv.dtype();
  const at::Tensor x = values[fused.input].toTensor().to(dtype);
  const std::string& activation = fused.activation;
  const std::string_view after = activation.empty() ? "none" : std::string_view(activation);
  at::Tensor y;
  if (fused.shortcut >= 0 && conv.fuses(x)) {
    y = conv.then_add(x, values[fused.shortcut].toTensor().to(dtype), after);
  } else if (fused.shortcut < 0 && conv.fuses(x)) {
    y = conv.then(x, after);
  } else {
    y = conv(x);
    if (fused.shortcut >= 0) y = y.add_(values[fused.shortcut].toTensor());
    if (activation == "relu") at::relu_(y);
    if (activation == "hardswish") at::hardswish_(y);
    if (activation == "swish") at::silu_(y);
    if (activation == "sigmoid") y = at::sigmoid(y);
  }
  values[fused.output] = std::move(y);
}

}  // namespace le
