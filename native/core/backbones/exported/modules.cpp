#include "backbones/exported/reader.h"

#include <algorithm>

#include "backbones/exported/schema.h"
#include "error.h"

namespace le::exported {

namespace {

bool within(const std::vector<ModuleCall>& calls, int call, int outer) {
  for (; call >= 0; call = calls[call].parent)
    if (call == outer) return true;
  return false;
}

}  // namespace

int Reader::find_call(const Json& node) {
  if (!node.at("metadata").has("nn_module_stack")) return -1;
  const std::string& text = node.at("metadata").at("nn_module_stack").string("nn_module_stack");
  int parent = -1;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(';', begin), text.size());
    const std::string entry = text.substr(begin, end - begin);
    begin = end + 1;
    // key,path,type: a path in Python notation may itself have commas.
    const size_t first = entry.find(','), last = entry.rfind(',');
    if (first == std::string::npos || last == first) continue;
    const std::string path = entry.substr(first + 1, last - first - 1), type = entry.substr(last + 1);
    if (path == "_empty_nn_module_stack_from_metadata_hook") return -1;
    const std::string name = module_name(path.substr(0, path.find('@')));
    if (name.empty()) continue;
    const auto [module, added] = found_modules_.try_emplace(name, ordered_modules_.size());
    const std::string key = entry.substr(0, first);
    const size_t at = key.find('@');
    if (added) {
      // Recorded by strict=True, keys are the numbers of Python's objects; else they are names once more.
      const std::string object = key.substr(0, at);
      const bool number = !object.empty() && object.find_first_not_of("0123456789") == std::string::npos;
      ordered_modules_.push_back({name, type.substr(type.rfind('.') + 1), {}, number ? object : ""});
    }
    const auto [call, fresh] = call_of_.try_emplace({parent, name, at == std::string::npos ? "" : key.substr(at)},
                                                    static_cast<int>(program_->calls.size()));
    if (fresh) {
      ModuleCall made;
      made.module = module->second;
      made.key = name + (at == std::string::npos ? "" : key.substr(at));
      made.parent = parent;
      program_->calls.push_back(std::move(made));
    }
    parent = call->second;
  }
  return parent;
}

void Reader::read_modules(const Json::Array& entries) {
  std::unordered_map<std::string, int> recorded;  // call key → slot
  std::unordered_map<std::string, bool> signatures;
  std::vector<std::string> order;
  for (const Json& entry : entries) {
    const std::string& fqn = entry.at("fqn").string("fqn");
    const bool root_entry = fqn.empty();
    if (!root_entry && fqn.find('@') == std::string::npos) order.push_back(fqn);
    if (!entry.has("signature")) continue;
    const Json& signature = entry.at("signature");
    const Json result = treespec(signature.at("out_spec").string("out_spec"));
    if (root_entry) {
      program_->result = result;
      name_inputs(signature);
      continue;
    }
    const Json::Array& outputs = signature.at("outputs").array("outputs");
    signatures[fqn] = true;
    if (!result.is_null() || outputs.size() != 1) continue;
    const auto [kind, value] = variant(outputs[0], "module output");
    if (kind != "as_tensor") continue;
    const auto slot = slot_of_.find(value.at("name").string("name"));
    if (slot != slot_of_.end()) recorded[fqn] = slot->second;
  }
  // Registration order where the file has it, and after that whatever else ran.
  std::vector<size_t> place(ordered_modules_.size());
  const auto add = [&](ExportedModule module) {
    const auto [at, fresh] = program_->module_of.emplace(module.name, program_->modules.size());
    if (fresh) program_->modules.push_back(std::move(module));
    return at->second;
  };
  for (const std::string& name : order) {
    const auto found = found_modules_.find(name);
    add(found == found_modules_.end() ? ExportedModule{name, "Module", {}, ""} : ordered_modules_[found->second]);
  }
  for (size_t i = 0; i < ordered_modules_.size(); ++i) place[i] = add(ordered_modules_[i]);

  find_outputs();
  for (size_t i = 0; i < program_->calls.size(); ++i) {
    ModuleCall& call = program_->calls[i];
    call.module = place[call.module];
    program_->modules[call.module].calls.push_back(static_cast<int>(i));
    if (signatures.contains(call.key)) {
      const auto slot = recorded.find(call.key);
      call.output = slot == recorded.end() ? -1 : slot->second;
      call.several = call.output < 0;
    }
  }
}

// The value made inside a call that is used outside of it, where there is just one.
void Reader::find_outputs() {
  auto& calls = program_->calls;
  std::vector<int> maker(program_->slot_names.size(), -1);
  std::vector<std::vector<int>> candidates(calls.size());
  const auto used_by = [&](int slot, int user) {
    for (int call = maker[slot]; call >= 0 && !within(calls, user, call); call = calls[call].parent)
      if (auto& all = candidates[call]; std::find(all.begin(), all.end(), slot) == all.end()) all.push_back(slot);
  };
  for (const ExportedNode& node : program_->nodes) {
    // Sizes of anything may be asked for anywhere.
    for (const Link& link : node.links)
      for (const int slot : link.slots)
        if (slot >= 0 && program_->slot_kinds[slot] == ValueKind::kTensor && !node.symbolic) used_by(slot, node.call);
    for (const auto& [slot, kind] : node.outputs)
      if (slot >= 0 && kind == ValueKind::kTensor) maker[slot] = node.call;
  }
  for (const int slot : program_->outputs)
    if (slot >= 0) used_by(slot, -1);
  for (size_t i = 0; i < calls.size(); ++i)
    if (candidates[i].size() == 1) calls[i].output = candidates[i][0];
}

// Arguments of forward have their Python names where each is one value.
void Reader::name_inputs(const Json& signature) {
  if (!signature.has("forward_arg_names")) return;
  const Json::Array& names = signature.at("forward_arg_names").array("forward_arg_names");
  if (names.size() != program_->inputs.size()) return;
  for (size_t i = 0; i < names.size(); ++i) program_->inputs[i].name = names[i].string("name");
}

}  // namespace le::exported
