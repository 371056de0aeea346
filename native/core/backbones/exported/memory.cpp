#include "backbones/exported/reader.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "backbones/exported/operators.h"
#include "backbones/exported/schema.h"
#include "error.h"

namespace le::exported {

namespace {

int root(std::vector<int>& roots, int slot) {
  while (roots[slot] != slot) slot = roots[slot] = roots[roots[slot]];
  return slot;
}

void share(std::vector<int>& roots, int a, int b) { roots[root(roots, b)] = root(roots, a); }

}  // namespace

// A value of the recorded kind and shape that has no data; none where nothing is recorded.
IValue Reader::stand_in(const std::string& name, ValueKind kind) const {
  constexpr int64_t kMost = 1 << 16;  // an operator may take a step for each place of an axis
  const auto size_of = [](const Json& size) -> int64_t {
    const auto [as, value] = variant(size, "size");
    if (as == "as_int") return value.integer("size");
    return value.has("hint") ? value.at("hint").integer_or("as_int", -1) : -1;
  };
  if (kind == ValueKind::kInt) {
    if (!sym_ints_->has(name)) return {};
    const int64_t size = size_of(sym_ints_->at(name));
    return size < 0 || size > kMost ? IValue() : IValue(size);
  }
  const auto meta = tensor_values_->find(name);
  if (kind != ValueKind::kTensor || meta == tensor_values_->end()) return {};
  std::vector<int64_t> sizes, strides;
  for (const Json& size : meta->second.at("sizes").array("sizes")) sizes.push_back(size_of(size));
  for (const Json& stride : meta->second.at("strides").array("strides")) strides.push_back(size_of(stride));
  for (const int64_t size : sizes)
    if (size < 0 || size > kMost) return {};
  const auto options =
      at::TensorOptions(widened(scalar_type(meta->second.at("dtype").integer("dtype")))).device(c10::kMeta);
  const bool known = strides.size() == sizes.size() &&
                     std::all_of(strides.begin(), strides.end(), [](int64_t s) { return s >= 0 && s < 1ll << 40; });
  return known ? at::empty_strided(sizes, strides, options) : at::empty(sizes, options);
}

// Which results lie in the memory of which arguments (slots), found by calling the operator on stand-ins. Nothing:
// it cannot be called so.
std::optional<std::vector<std::pair<int, int>>> Reader::tried(const ExportedNode& node) {
  std::vector<std::pair<int, int>> shared;
  try {
    const c10::InferenceMode normal(false);
    const at::NoGradGuard no_grad;
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    std::vector<int> flags;  // what may be switched later: dropout passes its argument on in evaluation alone
    for (const char* name : {"training", "train"})
      if (const int at = node.position(name); at >= 0 && node.arguments[at].isBool()) flags.push_back(at);
    for (const bool on : {false, true}) {
      torch::jit::Stack stack;
      bind_arguments(node, stand_ins_, c10::kMeta, nullptr, stack);
      for (const int flag : flags) stack[flag] = on;
      node.op->callBoxed(&stack);
      std::vector<IValue> results = stack;
      if (node.list_output) results = stack.at(0).toListRef().vec();
      for (size_t i = 0; i < node.outputs.size(); ++i) {
        const int output = node.outputs[i].first;
        if (output < 0 || i >= results.size() || !results[i].isTensor()) continue;
        for (const Link& link : node.links)
          for (const int slot : link.slots)
            if (slot >= 0 && stand_ins_[slot].isTensor() &&
                stand_ins_[slot].toTensor().is_alias_of(results[i].toTensor()))
              shared.emplace_back(slot, output);
      }
      if (flags.empty()) break;
    }
  } catch (const std::exception&) {
    return std::nullopt;
  }
  return shared;
}

// Which results may share memory with which arguments, and which arguments are written to. Where a schema says
// nothing, an operator with a kernel of its own makes new memory; one that consists of others may pass an argument
// on (dropout) or not (einsum, lstm), and is tried. What cannot be tried is taken to share: it is copied where that
// is harmless, and looked at in the pass where it is not.
void Reader::link_memory(ExportedNode& node) {
  const auto& schema = node.op->schema();
  const bool may_return_argument = node.op->hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd) &&
                                   !returns_fresh(schema.operator_name().name.substr(6));
  std::vector<const c10::AliasInfo*> announced;
  for (const auto& result : schema.returns()) announced.push_back(result.alias_info());
  const bool any_announced =
      std::any_of(announced.begin(), announced.end(), [](const c10::AliasInfo* info) { return info; });
  const auto found = may_return_argument && !any_announced ? tried(node) : std::nullopt;
  if (found)
    for (const auto& [slot, output] : *found)
      for (auto* roots : {&program_->roots, &announced_}) share(*roots, slot, output);
  for (const Link& link : node.links) {
    if (link.kind == Link::Kind::kDevice) continue;
    const c10::AliasInfo* info = schema.arguments()[link.position].alias_info();
    for (const int slot : link.slots) {
      if (slot < 0 || program_->slot_kinds[slot] != ValueKind::kTensor) continue;
      if (info && info->isWrite()) node.writes.push_back(slot);
      if ((info && any_announced) || (may_return_argument && !any_announced && !found))
        for (const auto& [output, kind] : node.outputs)
          if (output >= 0 && kind == ValueKind::kTensor) {
            share(program_->roots, slot, output);
            if (info && any_announced) share(announced_, slot, output);
          }
    }
  }
}

void Reader::find_writes() {
  for (auto* roots : {&program_->roots, &announced_})
    for (size_t i = 0; i < roots->size(); ++i) (*roots)[i] = root(*roots, static_cast<int>(i));
  std::unordered_set<int> changed, surely_changed, of_parameters;
  for (const ExportedNode& node : program_->nodes)
    for (const int slot : node.writes) {
      changed.insert(program_->roots[slot]);
      surely_changed.insert(announced_[slot]);
    }
  for (const auto& weight : program_->weights) {
    if (weight.role != Role::kParameter) {
      if (changed.contains(program_->roots[weight.slot])) program_->written.push_back(weight.slot);
      continue;
    }
    if (surely_changed.contains(announced_[weight.slot]))
      fail(code::kCheckpoint, "Expected a network that does not change its parameters but received one that writes to ",
           weight.name, ".");
    of_parameters.insert(program_->roots[weight.slot]);
  }
  for (ExportedNode& node : program_->nodes)
    node.may_write_parameter = std::any_of(node.writes.begin(), node.writes.end(),
                                           [&](int slot) { return of_parameters.contains(program_->roots[slot]); });
  for (const auto& input : program_->inputs)
    if (input.slot >= 0 && changed.contains(program_->roots[input.slot]))
      program_->written_inputs.push_back(input.slot);

  std::unordered_set<int> used(program_->outputs.begin(), program_->outputs.end());
  for (const auto& node : program_->nodes)
    for (const Link& link : node.links) used.insert(link.slots.begin(), link.slots.end());
  for (auto& node : program_->nodes) {
    const bool unused = std::none_of(node.outputs.begin(), node.outputs.end(),
                                     [&](const auto& output) { return used.contains(output.first); });
    const bool buffers = !node.writes.empty() && std::all_of(node.writes.begin(), node.writes.end(),
                                                             [&](int slot) { return weight_of_slot_.contains(slot); });
    node.only_training = unused && buffers && !node.mode;
    // Where a tensor is written through a view, the view has to be one.
    if (node.target == "torch.ops.aten.view.default" && node.outputs.size() == 1 && node.outputs[0].first >= 0 &&
        !changed.contains(program_->roots[node.outputs[0].first]))
      if (const auto reshape = c10::Dispatcher::singleton().findSchema({"aten::reshape", ""})) node.op = reshape;
  }
}

}  // namespace le::exported
