#include "backbones/script/fusion.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/hardswish.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tanh.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/runtime/custom_operator.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "backbones/script/graph.h"
#include "backbones/words.h"

namespace le::script {

namespace {

namespace aten = c10::aten;
namespace attr = c10::attr;
namespace prim = c10::prim;
using torch::jit::Block;
using torch::jit::Stack;
using torch::jit::toIValue;
using torch::jit::WithInsertPoint;

// ---- The operation

// The convolutions of the program that runs on this thread: a graph's constants cannot hold them.
thread_local const std::vector<FoldedConv>* current_convolutions = nullptr;

at::Tensor activated(at::Tensor y, const std::string& activation) {
  if (activation == "relu") return at::relu(y);
  if (activation == "hardswish") return at::hardswish(y);
  if (activation == "swish") return at::silu(y);
  if (activation == "sigmoid") return at::sigmoid(y);
  if (activation == "tanh") return at::tanh(y);
  return y;
}

void run_folded_conv(Stack& stack) {
  const std::string activation = torch::jit::pop(stack).toStringRef();
  const auto index = static_cast<size_t>(torch::jit::pop(stack).toInt());
  const c10::IValue shortcut_value = torch::jit::pop(stack);
  at::Tensor x = torch::jit::pop(stack).toTensor();
  const FoldedConv& conv = current_convolutions->at(index);
  if (x.scalar_type() != conv.dtype()) x = x.to(conv.dtype());
  at::Tensor shortcut = shortcut_value.isTensor() ? shortcut_value.toTensor() : at::Tensor();
  at::Tensor y;
  if (!conv.fuses(x)) {
    y = conv(x);
    if (shortcut.defined()) y = y + shortcut;
    y = activated(y, activation);
  } else if (!shortcut.defined()) {
    y = conv.then(x, activation);
  } else if (shortcut.scalar_type() == x.scalar_type() && shortcut.sizes() == conv.output_sizes(x)) {
    y = conv.then_add(x, shortcut, activation);
  } else {
    y = activated(conv(x) + shortcut, activation);
  }
  torch::jit::push(stack, std::move(y));
}

void register_folded_conv() {
  static const torch::jit::RegisterOperators registered({torch::jit::Operator(
      "layer_ensembles::folded_conv(Tensor x, Tensor? shortcut, int index, str activation) -> Tensor", run_folded_conv,
      c10::AliasAnalysisKind::FROM_SCHEMA)});
}

// ---- Finding what folds

// What oneDNN can do after a convolution, by operator.
const std::map<std::string, std::string>& activations() {
  static const std::map<std::string, std::string> all{
      {"aten::relu", "relu"},           {"aten::relu_", "relu"},
      {"aten::hardswish", "hardswish"}, {"aten::hardswish_", "hardswish"},
      {"aten::silu", "swish"},          {"aten::silu_", "swish"},
      {"aten::sigmoid", "sigmoid"},     {"aten::sigmoid_", "sigmoid"},
      {"aten::tanh", "tanh"},           {"aten::tanh_", "tanh"}};
  return all;
}

// Operators that give in bfloat16 what they give in float, up to rounding, where all their inputs are bfloat16.
// A graph that has others is left to autocast, which knows operator by operator.
bool computes_in_any_type(const Node* node) {
  static const auto known = words(
      "aten::batch_norm aten::relu aten::relu_ aten::relu6 aten::relu6_ aten::leaky_relu aten::leaky_relu_ "
      "aten::hardtanh aten::hardtanh_ aten::hardswish aten::hardswish_ aten::silu aten::silu_ aten::gelu "
      "aten::sigmoid aten::sigmoid_ aten::hardsigmoid aten::hardsigmoid_ aten::tanh aten::tanh_ aten::elu "
      "aten::elu_ aten::add aten::add_ aten::mul aten::mul_ aten::sub aten::cat aten::max_pool2d "
      "aten::max_pool3d aten::avg_pool2d aten::avg_pool3d aten::adaptive_avg_pool2d aten::adaptive_avg_pool3d "
      "aten::upsample_nearest1d aten::upsample_linear1d aten::upsample_nearest2d aten::upsample_nearest3d "
      "aten::upsample_bilinear2d aten::upsample_trilinear3d aten::conv2d aten::conv3d aten::_convolution "
      "aten::convolution aten::conv_transpose2d aten::conv_transpose3d aten::linear aten::flatten aten::reshape "
      "aten::view aten::permute aten::transpose aten::contiguous aten::slice aten::select aten::chunk "
      "aten::split aten::unsqueeze aten::squeeze aten::pad aten::constant_pad_nd aten::pixel_shuffle "
      "aten::dropout aten::dropout_ aten::feature_dropout aten::feature_dropout_ aten::clone aten::detach "
      "aten::expand aten::size aten::dim aten::len aten::append aten::_set_item aten::__getitem__ aten::floordiv "
      "aten::Int aten::ScalarImplicit aten::IntImplicit aten::eq aten::ne aten::lt aten::gt aten::le aten::ge "
      "aten::__not__ aten::__is__ aten::__isnot__ aten::__and__ aten::__or__ aten::remainder aten::floor "
      "aten::ceil aten::format aten::insert aten::extend aten::pop layer_ensembles::check_norm "
      "layer_ensembles::folded_conv");
  static const auto structure = words(
      "prim::Constant prim::GetAttr prim::ListConstruct prim::ListUnpack prim::TupleConstruct prim::TupleUnpack "
      "prim::TupleIndex prim::DictConstruct prim::If prim::Loop prim::NumToTensor prim::unchecked_cast "
      "prim::RaiseException prim::Uninitialized prim::ConstantChunk prim::min prim::max");
  const std::string kind = node->kind().toQualString();
  if (structure.contains(kind)) return true;
  if (known.contains(kind)) return true;
  // Arithmetic on numbers and lists of them.
  const auto touches_tensor = [](const Value* value) {
    return value->type()->kind() == c10::TypeKind::TensorType ||
           value->type()->str().find("Tensor") != std::string::npos;
  };
  return node->kind().is_aten() && std::none_of(node->inputs().begin(), node->inputs().end(), touches_tensor) &&
         std::none_of(node->outputs().begin(), node->outputs().end(), touches_tensor);
}

template <class Visit>
void each_node(Block* block, const Visit& visit) {
  for (auto it = block->nodes().begin(); it != block->nodes().end();) {
    Node* node = *it;
    ++it;
    for (Block* inner : node->blocks()) each_node(inner, visit);
    visit(node);
  }
}

bool writes(const Node* node) {
  if (!node->blocks().empty()) return true;
  if (node->kind().is_prim()) return node->kind() == prim::SetAttr;
  const auto* schema = node->maybeSchema();
  return !schema || (schema->is_mutable() && node->kind() != aten::_set_item);
}

// What a node takes as argument i, where that is constant.
std::optional<c10::IValue> constant(const Node* node, size_t i) {
  return i < node->inputs().size() ? toIValue(node->input(i)) : std::nullopt;
}

at::Tensor tensor_or_none(const c10::IValue& value) { return value.isTensor() ? value.toTensor() : at::Tensor(); }

struct Convolution {
  at::Tensor weight, bias;
  ConvGeometry geometry;
};

std::optional<Convolution> as_convolution(const Node* node) {
  const std::string kind = node->kind().toQualString();
  const bool general = kind == "aten::_convolution" || kind == "aten::convolution";
  if (!general && kind != "aten::conv2d" && kind != "aten::conv3d") return std::nullopt;
  std::vector<c10::IValue> arguments;
  for (size_t i = 1; i < (general ? 9u : 7u); ++i) {
    const auto value = constant(node, i);
    if (!value) return std::nullopt;
    arguments.push_back(*value);
  }
  if (!arguments[0].isTensor() || !arguments[0].toTensor().is_floating_point()) return std::nullopt;
  for (const size_t i : {2u, 3u, 4u})
    if (!arguments[i].isIntList()) return std::nullopt;       // padding "same"
  if (general && arguments[5].toBool()) return std::nullopt;  // transposed
  Convolution result{arguments[0].toTensor(),
                     tensor_or_none(arguments[1]),
                     {arguments[2].toIntVector(), arguments[3].toIntVector(), arguments[4].toIntVector(),
                      arguments[general ? 7 : 5].toInt()}};
  const auto axes = static_cast<size_t>(result.weight.dim() - 2);
  for (auto* numbers : {&result.geometry.stride, &result.geometry.padding, &result.geometry.dilation}) {
    if (numbers->size() == 1) numbers->resize(axes, numbers->front());
    if (numbers->size() != axes) return std::nullopt;
  }
  return result;
}

class Folder {
 public:
  Folder(std::shared_ptr<Graph> graph, const torch::jit::Module& root, at::ScalarType dtype)
      : graph_(std::move(graph)), root_(root), dtype_(dtype) {}

  std::shared_ptr<const Derived> operator()() {
    if (!make_constant()) return nullptr;
    auto derived = std::make_shared<Derived>();
    std::vector<Node*> found;
    each_node(graph_->block(), [&](Node* node) {
      if (as_convolution(node)) found.push_back(node);
    });
    for (Node* node : found) fold(node, derived->convolutions);
    torch::jit::EliminateDeadCode(graph_);
    derived->whole = true;
    each_node(graph_->block(), [&](Node* node) { derived->whole = derived->whole && computes_in_any_type(node); });
    if (derived->whole && dtype_ != at::kFloat) cast_constants();
    graph_->lint();
    derived->program = torch::jit::Code(graph_, "evaluation");
    return derived;
  }

 private:
  bool make_constant() {
    bool constant_network = true;
    each_node(graph_->block(), [&](Node* node) {
      if (node->kind() == prim::SetAttr || node->kind() == prim::fork || node->kind() == prim::CallMethod ||
          node->kind() == prim::CallFunction)
        constant_network = false;
      if (node->kind() != prim::GetAttr) return;
      auto value = known_value(node->output(), *graph_, root_);
      if (!value || value->isObject()) return;
      if (value->isTensor()) value = value->toTensor().detach();
      const WithInsertPoint here(node);
      if (const auto made = torch::jit::tryInsertConstant(*graph_, *value)) node->output()->replaceAllUsesWith(*made);
    });
    if (!constant_network) return false;
    // Modules ask how many axes a tensor has, to refuse it or to choose between operators. Each answer can bring out
    // more convolutions, from which more answers follow.
    for (bool more = true; more;) {
      torch::jit::EliminateDeadCode(graph_);
      torch::jit::ConstantPropagation(graph_);
      more = answer_axes();
    }
    // Norms that use their own statistics take none from their input.
    each_node(graph_->block(), [](Node* node) {
      if (node->kind() != c10::Symbol::fromQualString("layer_ensembles::check_norm")) return;
      if (const auto takes = toIValue(node->input(1)); takes && takes->isBool() && !takes->toBool()) node->destroy();
    });
    // A constant that is written to is no constant.
    each_node(graph_->block(), [&](Node* node) {
      const auto* schema = node->maybeSchema();
      if (!schema || !schema->is_mutable()) return;
      for (size_t i = 0; i < node->inputs().size() && i < schema->arguments().size(); ++i) {
        const auto* alias = schema->arguments()[i].alias_info();
        const Node* source = node->input(i)->node();
        if (alias && alias->isWrite() && (source->kind() == prim::Constant || source->kind() == prim::GetAttr))
          constant_network = false;
      }
    });
    return constant_network;
  }

  // Replaces the number of axes of what convolutions give, and of what is made of it without changing them.
  bool answer_axes() {
    static const auto keeping = words(
        "aten::batch_norm aten::dropout aten::dropout_ aten::feature_dropout aten::max_pool2d aten::max_pool3d "
        "aten::avg_pool2d aten::avg_pool3d aten::relu aten::relu_ aten::leaky_relu aten::leaky_relu_ "
        "aten::hardswish aten::hardswish_ aten::silu aten::silu_ aten::sigmoid aten::gelu aten::hardtanh "
        "aten::hardtanh_ aten::add_ aten::mul_ aten::adaptive_avg_pool2d aten::adaptive_avg_pool3d "
        "aten::upsample_nearest2d aten::upsample_bilinear2d aten::upsample_nearest3d aten::upsample_trilinear3d");
    std::map<const Value*, int64_t> axes;
    std::vector<Node*> questions;
    const auto walk = [&](const auto& self, Block* block) -> void {
      for (Node* node : block->nodes()) {
        for (Block* inner : node->blocks()) self(self, inner);
        if (node->kind() == prim::If)
          for (size_t i = 0; i < node->outputs().size(); ++i) {
            const auto first = axes.find(node->blocks()[0]->outputs()[i]);
            const auto second = axes.find(node->blocks()[1]->outputs()[i]);
            if (first != axes.end() && second != axes.end() && first->second == second->second)
              axes[node->output(i)] = first->second;
          }
        if (node->inputs().empty() || node->outputs().size() != 1) continue;
        if (const auto conv = as_convolution(node)) axes[node->output()] = conv->weight.dim();
        const Value* source = node->input(0);
        if (node->kind() == aten::cat && source->node()->kind() == prim::ListConstruct &&
            !source->node()->inputs().empty())
          source = source->node()->input(0);
        const auto known = axes.find(source);
        if (known == axes.end()) continue;
        if (node->kind() == aten::dim) questions.push_back(node);
        if (node->kind() == aten::cat || keeping.contains(node->kind().toQualString()))
          axes[node->output()] = known->second;
      }
    };
    walk(walk, graph_->block());
    for (Node* node : questions) {
      const WithInsertPoint here(node);
      node->output()->replaceAllUsesWith(graph_->insertConstant(axes.at(node->input(0))));
      node->destroy();
    }
    return !questions.empty();
  }

  void fold(Node* conv, std::vector<FoldedConv>& convolutions) {
    const Convolution convolution = *as_convolution(conv);
    std::vector<Node*> chain{conv};
    std::optional<NormStatistics> norm;
    Node* next = chain_next(chain);
    if (next && next->kind() == aten::batch_norm && next->input(0) == conv->output() && (norm = as_norm(next))) {
      chain.push_back(next);
      next = chain_next(chain);
    }
    Value* shortcut = nullptr;
    std::string activation = "none";
    if (next && (next->kind() == aten::add || next->kind() == aten::add_)) {
      const Value* current = chain.back()->output();
      const auto alpha = constant(next, 2);
      const size_t other = next->input(0) == current ? 1 : 0;
      // Whatever add_ writes to must be the chain's own.
      if (alpha && alpha->isInt() && alpha->toInt() == 1 && (other == 1 || next->kind() == aten::add) &&
          next->input(other)->type()->isSubtypeOf(*c10::TensorType::get())) {
        shortcut = next->input(other);
        chain.push_back(next);
        next = chain_next(chain);
      }
    }
    if (next) {
      const auto found = activations().find(next->kind().toQualString());
      // With a shortcut only what oneDNN does after an addition.
      if (found != activations().end() && (!shortcut || found->second == "relu")) {
        activation = found->second;
        chain.push_back(next);
      }
    }
    Node* const last = chain.back();
    const WithInsertPoint here(last);
    Value* const none = shortcut ? shortcut : graph_->insertConstant(c10::IValue());
    Node* folded = graph_->insertNode(
        graph_->create(c10::Symbol::fromQualString("layer_ensembles::folded_conv"),
                       {conv->input(0), none, graph_->insertConstant(static_cast<int64_t>(convolutions.size())),
                        graph_->insertConstant(activation)}));
    folded->output()->setType(last->output()->type());
    last->output()->replaceAllUsesWith(folded->output());
    for (auto it = chain.rbegin(); it != chain.rend(); ++it) (*it)->destroy();
    convolutions.emplace_back(convolution.weight, convolution.bias, convolution.geometry, norm, dtype_);
  }

  // The only node that uses what the chain gives, where it comes later in the same block, and nothing on the way there
  // writes to memory: what is folded is computed there, from inputs that must still be what they were.
  static Node* chain_next(const std::vector<Node*>& chain) {
    const Value* value = chain.back()->output();
    if (value->uses().size() != 1) return nullptr;
    Node* user = value->uses().front().user;
    if (user->owningBlock() != chain.front()->owningBlock() || user->kind() == prim::Return) return nullptr;
    for (Node* between = chain.front()->next(); between != user; between = between->next())
      if (writes(between) && std::find(chain.begin(), chain.end(), between) == chain.end()) return nullptr;
    return user;
  }

  static std::optional<NormStatistics> as_norm(const Node* node) {
    std::vector<c10::IValue> arguments;
    for (size_t i = 1; i < 8; ++i) {
      const auto value = constant(node, i);
      if (!value) return std::nullopt;
      arguments.push_back(*value);
    }
    if (!arguments[2].isTensor() || !arguments[3].isTensor() || arguments[4].toBool()) return std::nullopt;
    return NormStatistics{tensor_or_none(arguments[0]), tensor_or_none(arguments[1]), arguments[2].toTensor(),
                          arguments[3].toTensor(), arguments[6].toDouble()};
  }

  // Batch norm takes its statistics in float beside an input of another type.
  void cast_constants() {
    each_node(graph_->block(), [&](Node* node) {
      if (node->kind() != prim::Constant) return;
      const auto value = toIValue(node->output());
      if (!value || !value->isTensor() || value->toTensor().scalar_type() != at::kFloat) return;
      for (const auto& use : node->output()->uses())
        if (use.user->kind() == aten::batch_norm) return;
      node->t_(attr::value, value->toTensor().to(dtype_));
      node->output()->inferTypeFrom(node->t(attr::value));
    });
  }

  std::shared_ptr<Graph> graph_;
  const torch::jit::Module& root_;
  const at::ScalarType dtype_;
};

}  // namespace

void Derived::run(Stack& stack) const {
  const struct Current {
    const std::vector<FoldedConv>* outer = current_convolutions;
    ~Current() { current_convolutions = outer; }
  } restore;
  current_convolutions = &convolutions;
  torch::jit::InterpreterState(program).run(stack);
}

std::shared_ptr<const Derived> derive(std::shared_ptr<Graph> tapped, const torch::jit::Module& root,
                                      at::ScalarType dtype) {
  register_folded_conv();
  const at::NoGradGuard no_grad;
  return Folder(std::move(tapped), root, dtype)();
}

}  // namespace le::script
