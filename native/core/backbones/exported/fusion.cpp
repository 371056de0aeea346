#include "backbones/exported/fusion.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "backbones/words.h"

namespace le {

namespace {

constexpr std::string_view kAten = "torch.ops.aten.";

std::string_view operation(const ExportedNode& node) {
  std::string_view name = node.target;
  if (!name.starts_with(kAten)) return {};
  name.remove_prefix(kAten.size());
  if (name.ends_with(".default")) name.remove_suffix(8);
  return name;
}

// As oneDNN calls it; empty: none that it fuses.
std::string activation_of(const ExportedNode& node) {
  static const std::unordered_map<std::string_view, const char*> names = {
      {"relu", "relu"},  {"relu_", "relu"},  {"hardswish", "hardswish"}, {"hardswish_", "hardswish"},
      {"silu", "swish"}, {"silu_", "swish"}, {"sigmoid", "sigmoid"},     {"sigmoid_", "sigmoid"}};
  const auto found = names.find(operation(node));
  return found == names.end() ? "" : found->second;
}

class Search {
 public:
  Search(const ExportedProgram& program, const std::vector<at::Tensor>& weights, DerivedWeights& derived,
         const std::vector<ExportedCapture>& captures, const std::vector<int>& results)
      : program_(program),
        weights_(weights),
        derived_(derived),
        users_(program.slot_names.size()),
        weight_of_(program.slot_names.size(), -1),
        taken_(program.nodes.size()) {
    for (size_t i = 0; i < program.nodes.size(); ++i) {
      if (program.nodes[i].only_training) continue;
      for (const Link& link : program.nodes[i].links)
        for (const int slot : link.slots)
          if (slot >= 0) users_[slot].push_back(static_cast<int>(i));
    }
    for (const auto& capture : captures)
      if (capture.slot >= 0) users_[capture.slot].push_back(-1);
    for (const int slot : results)
      if (slot >= 0) users_[slot].push_back(-1);
    for (size_t i = 0; i < program.weights.size(); ++i) weight_of_[program.weights[i].slot] = static_cast<int>(i);
  }

  std::vector<FusedConv> convolutions() {
    std::vector<FusedConv> all;
    // Of two convolutions that are added, the later one takes the sum.
    for (size_t i = program_.nodes.size(); i-- > 0;) convolution(static_cast<int>(i), all);
    return all;
  }

  std::vector<std::pair<int, at::Tensor>> casts() {
    std::vector<std::pair<int, at::Tensor>> all;
    for (const auto& weight : program_.weights) {
      const at::Tensor& tensor = weights_[weight_of_[weight.slot]];
      if (!tensor.is_floating_point() || tensor.scalar_type() == derived_.dtype) continue;
      bool any = false, all_cast = true, norm = false;
      for (const int user : users_[weight.slot]) {
        if (user < 0) {
          all_cast = false;
          continue;
        }
        if (taken_[user]) continue;  // has a copy of its own
        any = true;
        const std::string_view name = operation(program_.nodes[user]);
        norm = norm || name.find("batch_norm") != std::string_view::npos;
        all_cast = all_cast && (name == "linear" || name.starts_with("conv"));
      }
      // Batch norm takes 16-bit images with statistics in float.
      if (!any || norm || !(derived_.whole || all_cast)) continue;
      at::Tensor& cast = derived_.cast[weight.slot];
      if (!cast.defined()) cast = tensor.detach().to(derived_.dtype);
      all.emplace_back(weight.slot, cast);
    }
    return all;
  }

 private:
  // The weight that fills an argument: its index, -1 where the argument is None, -2 for anything else.
  int weight_at(const ExportedNode& node, int position) const {
    if (position < 0) return -2;
    for (const Link& link : node.links)
      if (static_cast<int>(link.position) == position)
        return link.kind == Link::Kind::kValue && weight_of_[link.slots[0]] >= 0 ? weight_of_[link.slots[0]] : -2;
    return node.arguments[position].isNone() ? -1 : -2;
  }
  at::Tensor tensor(int weight) const { return weight >= 0 ? weights_[weight] : at::Tensor(); }

  static bool linked(const ExportedNode& node, int position) {
    return std::any_of(node.links.begin(), node.links.end(),
                       [&](const Link& link) { return static_cast<int>(link.position) == position; });
  }

  std::optional<ConvGeometry> geometry(const ExportedNode& node) const {
    const auto name = operation(node);
    if (name != "conv2d" && name != "conv3d" && name != "conv1d" && name != "convolution") return std::nullopt;
    const int weight = weight_at(node, node.position("weight"));
    if (weight < 0 || weight_at(node, node.position("bias")) < -1 || !weights_[weight].is_floating_point())
      return std::nullopt;
    const size_t axes = static_cast<size_t>(weights_[weight].dim() - 2);
    ConvGeometry geometry;
    for (const auto& [key, list] : {std::pair{"stride", &geometry.stride}, std::pair{"padding", &geometry.padding},
                                    std::pair{"dilation", &geometry.dilation}}) {
      const int position = node.position(key);
      if (position < 0 || linked(node, position) || !node.arguments[position].isIntList()) return std::nullopt;
      *list = node.arguments[position].toIntVector();
      if (list->size() == 1) list->resize(axes, list->front());
      if (list->size() != axes) return std::nullopt;
    }
    if (const int position = node.position("transposed");
        position >= 0 && (!node.arguments[position].isBool() || node.arguments[position].toBool()))
      return std::nullopt;
    const int groups = node.position("groups");
    if (linked(node, groups) || !node.arguments[groups].isInt()) return std::nullopt;
    geometry.groups = node.arguments[groups].toInt();
    return geometry;
  }

  std::optional<NormStatistics> norm(const ExportedNode& node) const {
    const auto name = operation(node);
    if (name == "batch_norm") {
      const int training = node.position("training");
      const at::IValue& fixed = node.mode ? node.mode->evaluating : node.arguments[training];
      if (!fixed.isBool() || fixed.toBool()) return std::nullopt;
    } else if (name != "_native_batch_norm_legit_no_training") {
      return std::nullopt;
    }
    const int weight = weight_at(node, node.position("weight")), bias = weight_at(node, node.position("bias"));
    const int mean = weight_at(node, node.position("running_mean")),
              var = weight_at(node, node.position("running_var"));
    const at::IValue& eps = node.arguments[node.position("eps")];
    if (weight < -1 || bias < -1 || mean < 0 || var < 0 || !eps.isDouble()) return std::nullopt;
    return NormStatistics{tensor(weight).defined() ? tensor(weight).detach() : at::Tensor(),
                          tensor(bias).defined() ? tensor(bias).detach() : at::Tensor(), weights_[mean], weights_[var],
                          eps.toDouble()};
  }

  // The node that alone uses a value, as its first argument or (for a sum) any; or -1.
  int sole_user(int slot) const {
    return users_[slot].size() == 1 && users_[slot][0] >= 0 && !taken_[users_[slot][0]] ? users_[slot][0] : -1;
  }

  bool written_between(int from, int to, int slot, const std::vector<int>& own) const {
    for (int i = from + 1; i <= to; ++i) {
      if (std::find(own.begin(), own.end(), i) != own.end()) continue;
      for (const int written : program_.nodes[i].writes)
        if (program_.roots[written] == program_.roots[slot]) return true;
    }
    return false;
  }

  void convolution(int index, std::vector<FusedConv>& all) {
    const ExportedNode& node = program_.nodes[index];
    if (!node.op || taken_[index]) return;
    const auto shape = geometry(node);
    const int input = node.op ? node.slot_at(0) : -1;
    if (!shape || input < 0 || node.outputs.size() != 1 || node.outputs[0].first < 0) return;
    FusedConv fused;
    fused.input = input;
    fused.nodes = {index};
    fused.output = node.outputs[0].first;
    std::optional<NormStatistics> statistics;
    int norm_index = -1;
    if (const int next = sole_user(fused.output); next >= 0 && program_.nodes[next].op) {
      const ExportedNode& after = program_.nodes[next];
      if (after.slot_at(0) == fused.output && (statistics = norm(after)) && after.outputs[0].first >= 0 &&
          !others_used(after)) {
        norm_index = next;
        extend(fused, next);
      } else {
        statistics.reset();
      }
    }
    if (const int next = sole_user(fused.output); next >= 0 && program_.nodes[next].op) {
      if (!activation_of(program_.nodes[next]).empty()) {
        fused.activation = activation_of(program_.nodes[next]);
        extend(fused, next);
      } else {
        sum(fused, next);
      }
    }
    if (written_between(index, fused.nodes.back(), input, fused.nodes) ||
        (fused.shortcut >= 0 && written_between(index, fused.nodes.back(), fused.shortcut, fused.nodes))) {
      fused = {nullptr, {index}, input, -1, node.outputs[0].first, ""};
      statistics.reset();
      norm_index = -1;
    }
    auto& conv = derived_.convs[{index, norm_index}];
    try {
      if (!conv)
        conv = std::make_shared<const FoldedConv>(tensor(weight_at(node, node.position("weight"))),
                                                  tensor(weight_at(node, node.position("bias"))), *shape, statistics,
                                                  derived_.dtype);
    } catch (const std::exception&) {
      return;  // a convolution that cannot be: running it as it is written will say why
    }
    fused.conv = conv;
    for (const int i : fused.nodes) taken_[i] = true;
    all.push_back(std::move(fused));
  }

  bool others_used(const ExportedNode& node) const {
    for (size_t i = 1; i < node.outputs.size(); ++i)
      if (node.outputs[i].first >= 0 && !users_[node.outputs[i].first].empty()) return true;
    return false;
  }

  void extend(FusedConv& fused, int next) const {
    fused.nodes.push_back(next);
    fused.output = program_.nodes[next].outputs[0].first;
  }

  // conv(x) + y, and relu of it.
  void sum(FusedConv& fused, int next) const {
    const ExportedNode& node = program_.nodes[next];
    const auto name = operation(node);
    if ((name != "add.Tensor" && name != "add_.Tensor") || node.outputs.size() != 1 || node.outputs[0].first < 0)
      return;
    const int first = node.slot_at(0), second = node.slot_at(1), alpha = node.position("alpha");
    const bool is_first = first == fused.output;
    const int other = is_first ? second : first;
    if (other < 0 || other == fused.output || (!is_first && name == "add_.Tensor")) return;
    if (linked(node, alpha) || !node.arguments[alpha].isInt() || node.arguments[alpha].toInt() != 1) return;
    // Of one shape, as far as was recorded: oneDNN does not broadcast.
    if (program_.slot_shapes[other].empty() || program_.slot_shapes[other] != program_.slot_shapes[fused.output])
      return;
    if (weight_of_[other] >= 0) return;
    fused.shortcut = other;
    extend(fused, next);
    if (const int last = sole_user(fused.output); last >= 0 && activation_of(program_.nodes[last]) == "relu") {
      fused.activation = "relu";
      extend(fused, last);
    }
  }

  const ExportedProgram& program_;
  const std::vector<at::Tensor>& weights_;
  DerivedWeights& derived_;
  std::vector<std::vector<int>> users_;  // nodes by slot; -1: brought out
  std::vector<int> weight_of_;
  std::vector<bool> taken_;
};

}  // namespace

bool runs_in_half(const ExportedProgram& program) {
  static const auto known = words(
      "conv1d conv2d conv3d convolution conv2d.padding conv_transpose2d.input conv_transpose3d.input batch_norm "
      "_native_batch_norm_legit_no_training relu relu_ relu6 relu6_ hardtanh hardtanh_ hardswish hardswish_ "
      "hardsigmoid hardsigmoid_ silu silu_ sigmoid sigmoid_ gelu leaky_relu leaky_relu_ tanh max_pool2d "
      "max_pool3d avg_pool2d avg_pool3d adaptive_avg_pool2d adaptive_avg_pool3d add.Tensor add_.Tensor "
      "mul.Tensor mul_.Tensor cat upsample_nearest2d.vec upsample_bilinear2d.vec upsample_nearest3d.vec "
      "upsample_trilinear3d.vec linear flatten.using_ints view reshape dropout dropout_ feature_dropout "
      "slice.Tensor permute transpose.int contiguous pad constant_pad_nd chunk split.Tensor split_with_sizes "
      "unsqueeze squeeze.dim pixel_shuffle mean.dim identity");
  return std::all_of(program.nodes.begin(), program.nodes.end(), [](const ExportedNode& node) {
    return node.symbolic || node.only_training || known.contains(operation(node));
  });
}

ExportedPlan fused_plan(const std::shared_ptr<const ExportedProgram>& program, const std::vector<at::Tensor>& weights,
                        DerivedWeights& derived, std::vector<ExportedCapture> captures, std::vector<int> results) {
  Search search(*program, weights, derived, captures, results);
  auto fused = search.convolutions();
  auto casts = search.casts();
  return ExportedPlan(program, ExportedPhase::kEvaluation, std::move(captures), std::move(results), std::move(fused),
                      std::move(casts));
}

}  // namespace le
