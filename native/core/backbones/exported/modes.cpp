#include "backbones/exported/reader.h"

#include <algorithm>
#include <string_view>

#include "backbones/imported.h"
#include "error.h"

namespace le::exported {

void Reader::find_norms() {
  for (ExportedNode& node : program_->nodes) {
    if (!node.op) continue;
    const std::string name = node.op->operator_name().name.substr(6);
    const auto flag = [&](const char* argument) {
      const int position = node.position(argument);
      return position >= 0 && node.arguments[position].isBool() ? position : -1;
    };
    const int groups = node.position("num_groups");
    if (name == "batch_norm" || name == "native_batch_norm" || name.starts_with("_native_batch_norm_legit")) {
      if (name != "_native_batch_norm_legit_no_training") node.norm = {NormKind::kBatch, 0, flag("training")};
    } else if (name == "instance_norm") {
      node.norm = {NormKind::kInstance, 0, flag("use_input_stats")};
    } else if (name == "group_norm" && groups >= 0 && node.arguments[groups].isInt()) {
      node.norm = {NormKind::kGroup, 0, -1, node.arguments[groups].toInt()};
    }
  }
}

// Power iteration (spectral norm) is a matter of plain operations that are recorded in training or left out in
// evaluation: such a program has one of its modes alone.
void Reader::find_power_iterations() {
  for (const auto& weight : program_->weights) {
    if (weight.role != Role::kBuffer) continue;
    std::string layer;
    for (const std::string_view end : {"_u", "._u"})
      if (weight.name.ends_with(end)) {
        const std::string stem = weight.name.substr(0, weight.name.size() - end.size());
        const std::string sibling = stem + (end == "_u" ? "_v" : "._v");
        const std::string original = end == "_u" ? stem + "_orig" : "";
        if (weight_of_.contains(sibling) && (original.empty() || weight_of_.contains(original))) layer = stem;
      }
    if (layer.empty()) continue;
    const bool iterates =
        std::any_of(program_->mutations.begin(), program_->mutations.end(),
                    [&](const auto& m) { return program_->weights[m.second].name == weight.name; }) ||
        std::find(program_->written.begin(), program_->written.end(), weight.slot) != program_->written.end();
    if (iterates)
      fail(code::kCheckpoint, "Expected a program whose spectral norm (", layer,
           ") is that of evaluation but received one exported in training mode, where every pass changes it: export ",
           "the network after model.eval(), or save it with torch.jit.script.");
    program_->cannot_train = "its spectral norm (" + layer +
                             ") was fixed to evaluation by the export; use torch.jit.script, or remove it "
                             "(torch.nn.utils.parametrize.remove_parametrizations) before the export";
  }
}

// What a program that may have been exported in training mode does to a buffer of the network's own, or by chance,
// evaluation may not do: an `if self.training` leaves no trace in it.
void Reader::refuse_own_state() {
  for (const ExportedNode& node : program_->nodes)
    if (node.op && draws_always(node.op->schema()))
      fail(code::kCheckpoint, "Expected a program exported in evaluation mode, or one that draws random numbers in ",
           "dropout alone, but received one with ", node.name, " (", node.target, ") in ", layer_of(node),
           ", which evaluation may not do (stochastic depth): export the network after model.eval(), or save it with ",
           "torch.jit.script.");
  for (const ExportedWeight& weight : program_->weights) {
    const bool changes =
        std::any_of(program_->mutations.begin(), program_->mutations.end(),
                    [&](const auto& m) { return program_->weights[m.second].name == weight.name; }) ||
        std::find(program_->written.begin(), program_->written.end(), weight.slot) != program_->written.end();
    const auto is = [&](const char* name) { return weight.name.ends_with(name); };
    if (changes && !is("running_mean") && !is("running_var") && !is("num_batches_tracked"))
      fail(code::kCheckpoint, "Expected a program exported in evaluation mode, or one that changes the statistics of ",
           "its norms alone, but received one that changes ", weight.name, ", which evaluation may not do: export ",
           "the network after model.eval(), or save it with torch.jit.script.");
  }
}

void Reader::find_modes() {
  struct Flag {
    ExportedNode* node;
    size_t position;
    bool norm;
  };
  std::vector<Flag> flags;
  bool norm_trains = false, any_norm = false, any_trains = false;
  for (ExportedNode& node : program_->nodes) {
    program_->addresses_memory |= node.target.find("stride") != std::string::npos;
    if (!node.op) continue;
    if (const int chance = node.position("dropout_p"); chance >= 0 && node.arguments[chance].isDouble())
      any_trains = any_trains || node.arguments[chance].toDouble() > 0;
    if (node.target == "torch.ops.aten._native_batch_norm_legit_no_training.default")
      program_->cannot_train =
          "its batch norm was fixed to evaluation by run_decompositions(); export it without, or in training mode";
    for (const char* name : {"training", "train", "use_input_stats"}) {
      const int position = node.position(name);
      if (position < 0 || !node.arguments[position].isBool()) continue;
      const int mean = node.position("running_mean");
      // Without running statistics, a norm uses those of its input always.
      if (mean >= 0 && node.slot_at(mean) < 0) continue;
      const bool on = node.arguments[position].toBool();
      flags.push_back({&node, static_cast<size_t>(position), mean >= 0});
      any_norm = any_norm || mean >= 0;
      any_trains = any_trains || on;
      norm_trains = norm_trains || (mean >= 0 && on);
    }
  }
  // The file does not say in which mode it was made. Norms tell, for nobody switches them on in evaluation; without
  // norms, dropout does.
  const bool made_in_training = any_norm ? norm_trains : any_trains;
  std::unordered_set<std::string> counted;
  for (const ExportedNode& node : program_->nodes)
    for (const Link& link : node.links)
      for (const int slot : link.slots)
        if (const auto weight = weight_of_slot_.find(slot); weight != weight_of_slot_.end())
          counted.insert(program_->weights[weight->second].name);
  for (const auto& [node, position, norm] : flags) {
    const bool on = node->arguments[position].toBool();
    // Off in a network that trains: frozen by its author. On in one that does not: meant to be random always.
    if (on != made_in_training) continue;
    node->mode = {position, true, false, !norm};
    if (!norm || made_in_training) continue;
    // Recorded in evaluation, momentum None (a mean over all batches) is 0 as well.
    const int momentum = node->position("momentum");
    if (momentum >= 0 && node->arguments[momentum].isDouble() && node->arguments[momentum].toDouble() == 0)
      program_->cannot_train = "its batch norm " + layer_of(*node) +
                               " has momentum None or 0, which an export in evaluation mode does not tell apart; "
                               "use torch.jit.script, another momentum, or freeze the backbone";
    if (node->position("use_input_stats") >= 0) continue;  // instance norm has the counter too, and never counts
    const auto mean = weight_of_slot_.find(node->slot_at(node->position("running_mean")));
    if (mean == weight_of_slot_.end()) continue;
    std::string name = program_->weights[mean->second].name;
    if (!name.ends_with("running_mean")) continue;
    name.replace(name.size() - 12, 12, "num_batches_tracked");
    if (const auto counter = weight_of_.find(name);
        counter != weight_of_.end() && !counted.contains(name) && tensors_[counter->second].scalar_type() == at::kLong)
      node->counter = static_cast<int>(counter->second);
  }
  made_in_evaluation_ = !flags.empty() && !made_in_training;
  for (ExportedNode& node : program_->nodes) {
    const int dropout = node.op ? node.position("dropout_p") : -1;
    if (made_in_training && dropout >= 0 && node.arguments[dropout].isDouble() && !node.mode)
      node.mode = {static_cast<size_t>(dropout), node.arguments[dropout], 0.0};
  }
}

// The module that a node belongs to.
std::string Reader::layer_of(const ExportedNode& node) const {
  return node.call < 0 ? node.name : program_->modules[program_->calls[node.call].module].name;
}

}  // namespace le::exported
