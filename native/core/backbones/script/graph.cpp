#include "backbones/script/graph.h"

#include <torch/csrc/jit/api/compilation_unit.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/runtime/custom_operator.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "backbones/checks.h"
#include "backbones/imported.h"
#include "backbones/words.h"
#include "error.h"

namespace le::script {

namespace {

namespace aten = c10::aten;
namespace attr = c10::attr;
namespace prim = c10::prim;
using c10::Symbol;
using torch::jit::Block;
using torch::jit::WithInsertPoint;

// Marks where a module returned: one input (the value), and in attribute value the index of the module. Never executed.
const Symbol& returned_mark() {
  static const Symbol symbol = Symbol::fromQualString("layer_ensembles::returned");
  return symbol;
}

// Inlining repeats a graph for each call: ten levels that call the next ten times would be 10^10 nodes.
constexpr size_t kMostNodes = 1'000'000;
constexpr size_t kMostModules = 100'000;
constexpr int kMostDepth = 200;

// "__torch__.torch.nn.modules.conv.___torch_mangle_0.Conv2d" → "Conv2d"
std::string class_name(const c10::ClassType& type) { return type.name()->name(); }

template <class Visit>
void each_node(Block* block, const Visit& visit) {
  for (auto it = block->nodes().begin(); it != block->nodes().end();) {
    Node* node = *it;
    ++it;  // visit may destroy the node
    for (Block* inner : node->blocks()) each_node(inner, visit);
    visit(node);
  }
}

bool is_module(const c10::TypePtr& type) {
  const auto cls = type->cast<c10::ClassType>();
  return cls && cls->is_module();
}

// Tracing calls the second call of one module forward1, the third forward2, and so on; scripting calls the overloads of
// one forward forward__0, forward__1, and so on.
bool is_forward(const std::string& method) {
  if (!method.starts_with("forward")) return false;
  const size_t digits = method.compare(7, 2, "__") == 0 ? 9 : 7;
  return std::all_of(method.begin() + digits, method.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// A traced method is a list of operations and calls of submodules: what chooses, or reads numbers, was written by hand.
bool is_traced(Graph& graph) {
  bool traced = true;
  each_node(graph.block(), [&](Node* node) {
    if (node->kind() == prim::If || node->kind() == prim::Loop || node->kind() == prim::CallFunction) traced = false;
    if (node->kind() == prim::GetAttr && !is_module(node->output()->type()) &&
        !node->output()->type()->isSubtypeOf(*c10::TensorType::get()))
      traced = false;
  });
  return traced;
}

void add_nodes(size_t& count, Block* block) {
  each_node(block, [&](Node*) { ++count; });
  if (count > kMostNodes)
    fail(code::kCheckpoint, "Expected a network of at most ", kMostNodes, " operations but received more.");
}

// Where an operator takes one of the arguments named.
std::optional<size_t> argument_of(const Node& node, std::initializer_list<const char*> names) {
  const auto* schema = node.maybeSchema();
  for (size_t i = 0; schema && node.kind().is_aten() && i < schema->arguments().size() && i < node.inputs().size(); ++i)
    for (const char* name : names)
      if (schema->arguments()[i].name() == name) return i;
  return std::nullopt;
}

// The argument that says whether this is training: of norms, dropout, recurrent layers.
std::optional<size_t> mode_argument(const Node& node) {
  return argument_of(node, {"training", "train", "use_input_stats"});
}

class Inliner {
 public:
  Inliner(const torch::jit::Module& root, std::vector<Submodule>& modules)
      : root_(root), modules_(modules), seen_(modules.size()) {
    for (size_t i = 0; i < modules.size(); ++i) index_of_.emplace(modules[i].object.get(), i);
  }

  std::shared_ptr<Graph> operator()() {
    const auto forward = torch::jit::tryToGraphFunction(root_.get_method("forward").function());
    if (!forward) fail(code::kCheckpoint, "Expected a forward method with a graph but received a built-in one.");
    graph_ = forward->graph()->copy();
    add_nodes(count_, graph_->block());
    use_live_mode(*forward->graph(), graph_->block()->nodes().begin(), graph_->block()->nodes().end(),
                  graph_->inputs()[0]);
    inline_range(*graph_->block()->nodes().begin(), graph_->block()->return_node(), 0);
    drop_messages();
    name_convolutions(graph_->block());
    check_norms();
    explain();
    return graph_;
  }

 private:
  struct Seen {
    bool called = false, dynamic = false, interface = false;
    c10::TypePtr not_tensor;
  };

  // Traces have one general convolution, which autocast does not know on the CPU: training in bfloat16 would run in
  // float. It becomes conv2d and its like, as in a script.
  void name_convolutions(Block* block) {
    for (Node *node = *block->nodes().begin(), *next = nullptr; node != block->return_node(); node = next) {
      next = node->next();
      for (Block* inner : node->blocks()) name_convolutions(inner);
      if (node->kind() != Symbol::aten("_convolution") && node->kind() != Symbol::aten("convolution")) continue;
      const auto transposed = torch::jit::toIValue(node->input(6));
      const Node* const strides = node->input(3)->node();
      const auto constant = torch::jit::toIValue(node->input(3));
      const size_t axes = strides->kind() == prim::ListConstruct ? strides->inputs().size()
                          : constant && constant->isIntList()    ? constant->toIntList().size()
                                                                 : 0;
      if (!transposed || !transposed->isBool() || axes < 1 || axes > 3) continue;
      const bool up = transposed->toBool();
      const auto in = [&](size_t index) { return node->input(index); };
      const WithInsertPoint here(node);
      std::vector<torch::jit::NamedValue> arguments{in(0), in(1), in(2), in(3), in(4)};
      if (up)
        arguments.insert(arguments.end(), {in(7), in(8), in(5)});
      else
        arguments.insert(arguments.end(), {in(5), in(8)});
      const std::string name = (up ? "conv_transpose" : "conv") + std::to_string(axes) + "d";
      Value* const output = graph_->insert(Symbol::aten(name), arguments);
      output->setType(node->output()->type());
      node->output()->replaceAllUsesWith(output);
      node->destroy();
    }
  }

  // Inlines the calls in [begin, end), which lie in one block.
  void inline_range(Node* begin, Node* end, int depth) {
    if (depth > kMostDepth)
      fail(code::kCheckpoint, "Expected calls nested at most ", kMostDepth, " deep but received more.");
    for (Node* node = begin; node != end;) {
      for (Block* block : node->blocks()) inline_range(*block->nodes().begin(), block->return_node(), depth + 1);
      Node* const next = node->next();
      if (node->kind() == prim::CallFunction)
        inline_function(node, depth);
      else if (node->kind() == prim::CallMethod)
        inline_method(node, depth);
      node = next;
    }
  }

  void inline_function(Node* call, int depth) {
    const auto type = call->input(0)->type()->cast<c10::FunctionType>();
    auto* function = type ? torch::jit::tryToGraphFunction(*type->function()) : nullptr;
    if (!function) return;
    Node *const before = call->prev(), *const after = call->next();
    call->removeInput(0);
    add_nodes(count_, function->graph()->block());
    torch::jit::inlineCallTo(call, function, function->graph().get());
    inline_range(before->next(), after, depth + 1);
  }

  void inline_method(Node* call, int depth) {
    Value* const self = call->input(0);
    const std::string method = call->s(attr::name);
    const auto object = known_value(self, *graph_, root_);
    const auto found = object && object->isObject() ? index_of_.find(object->toObject().get()) : index_of_.end();
    Seen* seen = found == index_of_.end() ? nullptr : &seen_[found->second];
    const auto cls = self->type()->cast<c10::ClassType>();
    if (!cls) {
      // An interface: which module it is may change from pass to pass.
      if (!seen) return;
      seen->interface = true;
      modules_[found->second].last_call = calls_++;
      return;
    }
    auto* function = torch::jit::tryToGraphFunction(cls->getMethod(method));
    if (!function) return;

    Node *const before = call->prev(), *const after = call->next();
    add_nodes(count_, function->graph()->block());
    const auto outputs = torch::jit::inlineCallTo(call, function, function->graph().get());
    if (cls->is_module()) use_live_mode(*function->graph(), before->next()->iterator(), after->iterator(), self);
    if (cls->is_module() && is_forward(method)) {
      if (!seen) {
        dynamic_.insert(cls->name()->qualifiedName());
      } else {
        seen->called = true;
        Value* const output = outputs.at(0);
        if (!output->type()->isSubtypeOf(*c10::TensorType::get())) seen->not_tensor = output->type();
        Node* mark = graph_->create(returned_mark(), {output}, 0);
        mark->i_(attr::value, static_cast<int64_t>(found->second));
        mark->insertBefore(after);
        modules_[found->second].last_call = calls_++;
      }
    }
    inline_range(before->next(), after, depth + 1);
  }

  // Tracing leaves the mode that it was done in as a constant. `method` is the graph from which the nodes in
  // [begin, end) were copied, `owner` the module that it belongs to. Dropout and batch norm of torch.nn count batches
  // and draw numbers in training alone; so does the graph from here on, whichever mode it was traced in. (What a trace
  // left out altogether, such as stochastic depth traced in evaluation, cannot be brought back.)
  void use_live_mode(Graph& method, torch::jit::graph_node_list_iterator begin,
                     torch::jit::graph_node_list_iterator end, Value* owner) {
    const auto cls = owner->type()->cast<c10::ClassType>();
    const auto training = cls ? cls->findAttribute("training") : nullptr;
    if (!training || training->kind() != c10::TypeKind::BoolType || !is_traced(method)) return;
    for (auto it = begin; it != end;) {
      Node* const node = *it;
      ++it;
      // Counted anew below.
      if (node->kind() == aten::add_ && !node->output()->hasUses() && is_batch_count(node->input(0))) {
        node->destroy();
        continue;
      }
      if (const auto chance = argument_of(*node, {"dropout_p"})) {
        drop_in_training(node, *chance, owner);
        continue;
      }
      const auto flag = mode_argument(*node);
      if (!flag || node->input(*flag)->node()->kind() != prim::Constant) continue;
      // Norms without running statistics take those of the batch in either mode.
      if (const auto mean = argument_of(*node, {"running_mean"}); mean && node->input(*mean)->mustBeNone()) continue;
      const WithInsertPoint here(node);
      if (const auto object = known_value(owner, *graph_, root_);
          node->kind() == aten::batch_norm && object && object->isObject()) {
        const auto baked = torch::jit::toIValue(node->input(*flag));
        note_momentum(node, *object, baked && baked->isBool() && baked->toBool());
      }
      Value* const live = graph_->insertGetAttr(owner, "training");
      node->replaceInput(*flag, live);
      // Instance norm has the counter too, and never counts.
      if (node->kind() == aten::batch_norm && cls->findAttribute("num_batches_tracked") &&
          cls->getAttribute("num_batches_tracked")->isSubtypeOf(*c10::TensorType::get())) {
        Node* branch = graph_->insertNode(graph_->create(prim::If, {live}, 0));
        Block* counting = branch->addBlock();
        branch->addBlock();
        const WithInsertPoint inside(counting);
        graph_->insert(aten::add_, {graph_->insertGetAttr(owner, "num_batches_tracked"), int64_t{1}});
      }
    }
  }

  // Attention has no mode: it was traced with a probability that is 0 in evaluation.
  void drop_in_training(Node* node, size_t chance, Value* owner) {
    const auto baked = torch::jit::toIValue(node->input(chance));
    if (!baked || !baked->isDouble() || baked->toDouble() == 0) return;
    const WithInsertPoint here(node);
    Node* const choice = graph_->insertNode(graph_->create(prim::If, {graph_->insertGetAttr(owner, "training")}, 1));
    for (const double value : {baked->toDouble(), 0.0}) {
      Block* const block = choice->addBlock();
      const WithInsertPoint inside(block);
      block->registerOutput(graph_->insertConstant(value));
    }
    choice->output()->setType(c10::FloatType::get());
    node->replaceInput(chance, choice->output());
  }

  // Norms of a single value are refused in the pass, as PyTorch's functions do: a trace has none of their checks.
  void check_norms() {
    static const torch::jit::RegisterOperators registered({torch::jit::Operator(
        "layer_ensembles::check_norm(Tensor x, bool takes, int kind, int groups) -> ()",
        [](torch::jit::Stack& stack) {
          const int64_t groups = torch::jit::pop(stack).toInt(), kind = torch::jit::pop(stack).toInt();
          const bool takes = torch::jit::pop(stack).toBool();
          const at::Tensor x = torch::jit::pop(stack).toTensor();
          if (takes) check_norm_input(static_cast<NormKind>(kind), x.sizes(), groups);
        },
        c10::AliasAnalysisKind::CONSERVATIVE)});
    each_node(graph_->block(), [&](Node* node) {
      std::optional<NormKind> kind;
      if (node->kind() == aten::batch_norm) kind = NormKind::kBatch;
      if (node->kind() == aten::instance_norm) kind = NormKind::kInstance;
      if (node->kind() == Symbol::aten("group_norm")) kind = NormKind::kGroup;
      if (!kind) return;
      const WithInsertPoint here(node);
      const bool group = *kind == NormKind::kGroup;
      Value* const takes = group ? graph_->insertConstant(true) : node->input(5);
      Value* const groups = group ? node->input(1) : graph_->insertConstant(int64_t{1});
      graph_->insertNode(
          graph_->create(Symbol::fromQualString("layer_ensembles::check_norm"),
                         {node->input(0), takes, graph_->insertConstant(static_cast<int64_t>(*kind)), groups}, 0));
    });
  }

  // A mean over all batches (momentum None) is traced as the weight that one batch had then: 0 in evaluation, else
  // 1/(number of batches), which for the tenth is the default momentum: far more probably that.
  void note_momentum(const Node* norm, const c10::IValue& owner, bool traced_in_training) {
    const auto momentum = torch::jit::toIValue(norm->input(6));
    const auto found = index_of_.find(owner.toObject().get());
    if (!momentum || !momentum->isDouble() || found == index_of_.end()) return;
    const auto slot = owner.toObjectRef().type()->findAttributeSlot("num_batches_tracked");
    if (!slot || !owner.toObjectRef().getSlot(*slot).isTensor()) return;
    const double batches = owner.toObjectRef().getSlot(*slot).toTensor().item<double>();
    const double weight = momentum->toDouble();
    const bool is_share = weight == 1 || (std::abs(weight * batches - 1) < 1e-9 && weight != 0.1);
    if (traced_in_training ? !is_share : weight != 0) return;
    modules_[found->second].cannot_train =
        "its batch norm " + modules_[found->second].name +
        " seems to have momentum None, which a trace does not keep; use torch.jit.script, another momentum, or freeze "
        "the backbone";
  }

  static bool is_batch_count(const Value* value) {
    return value->node()->kind() == prim::GetAttr && value->node()->s(attr::name) == "num_batches_tracked";
  }

  // Printing is no part of a network's result, and may be in the way of a program whose output is read by another.
  void drop_messages() {
    static const std::set<Symbol> messages{prim::Print, aten::warn, Symbol::prim("warn")};
    each_node(graph_->block(), [](Node* node) {
      if (messages.contains(node->kind()) &&
          std::none_of(node->outputs().begin(), node->outputs().end(), [](Value* v) { return v->hasUses(); }))
        node->destroy();
    });
  }

  // Says of each module why it cannot be tapped.
  void explain() {
    std::string behind_interface;  // the last module found to be one; what is below it is not seen either
    for (size_t i = 1; i < modules_.size(); ++i) {
      Submodule& module = modules_[i];
      const Seen& seen = seen_[i];
      if (seen.interface) behind_interface = module.name + ".";
      const auto cls = module.object->type();
      if (seen.interface || (!behind_interface.empty() && module.name.starts_with(behind_interface))) {
        module.why_not = "it is called through an interface, which may be another module in the next pass";
      } else if (seen.called) {
        if (!seen.not_tensor) continue;
        const auto kind = seen.not_tensor->kind();
        module.why_not =
            kind == c10::TypeKind::TupleType || kind == c10::TypeKind::ListType || kind == c10::TypeKind::DictType
                ? "it returns several values"
                : "it returns " + seen.not_tensor->repr_str() + ", which is not always a tensor";
      } else if (dynamic_.contains(cls->name()->qualifiedName())) {
        module.why_not = "which module is called is decided only while the network runs";
      } else if (module.type == "ModuleList" || module.type == "ModuleDict") {
        module.why_not =
            module.type == "ModuleList" ? "it is a list and is never called" : "it is a dictionary and is never called";
      } else {
        module.why_not = "it is never called in forward by this name";
      }
    }
  }

  const torch::jit::Module& root_;
  std::vector<Submodule>& modules_;
  std::vector<Seen> seen_;
  std::unordered_map<const void*, size_t> index_of_;
  std::set<std::string> dynamic_;  // classes of modules that are called without it being known which
  std::shared_ptr<Graph> graph_;
  size_t count_ = 0;
  int calls_ = 0;
};

// Gives each mark to `replace` together with the module's index and destroys it.
template <class Replace>
void replace_marks(Graph& graph, const Replace& replace) {
  each_node(graph.block(), [&](Node* node) {
    if (node->kind() != returned_mark()) return;
    {
      const WithInsertPoint here(node);
      replace(node->input(0), static_cast<size_t>(node->i(attr::value)));
    }
    node->destroy();
  });
}

Value* add_list(Graph& graph, const char* name, c10::TypePtr element) {
  return graph.addInput(name)->setType(c10::ListType::create(std::move(element)));
}

bool is_tensor(const Value* value) { return value->type()->isSubtypeOf(*c10::TensorType::get()); }

}  // namespace

std::vector<Submodule> named_modules(const torch::jit::Module& root) {
  std::vector<Submodule> all;
  std::unordered_set<const void*> seen;
  const auto collect = [&](const auto& self, const std::string& name, const torch::jit::Module& module,
                           int depth) -> void {
    if (!seen.insert(module._ivalue().get()).second) return;
    if (all.size() >= kMostModules || depth > kMostDepth)
      fail(code::kCheckpoint, "Expected at most ", kMostModules, " modules, nested at most ", kMostDepth,
           " deep, but received more.");
    all.push_back({name, class_name(*module.type()), module._ivalue(), ""});
    for (const auto& child : module.named_children())
      self(self, name.empty() ? child.name : name + "." + child.name, child.value, depth + 1);
  };
  collect(collect, "", root, 0);
  return all;
}

void refuse_foreign_operators(const torch::jit::Module& root, const std::string& path) {
  // Files and other processes, and what trusts numbers that it is given to be right addresses.
  static const auto refused = words(
      "aten::save aten::load aten::from_file aten::open aten::set_ aten::set_data "
      "aten::_sparse_coo_tensor_unsafe aten::_sparse_compressed_tensor_unsafe aten::_sparse_csr_tensor_unsafe "
      "aten::_sparse_csc_tensor_unsafe aten::_sparse_bsr_tensor_unsafe aten::_sparse_bsc_tensor_unsafe "
      "aten::_nested_view_from_buffer aten::_nested_view_from_buffer_copy");
  for (torch::jit::Function* function : root._ivalue()->compilation_unit()->get_functions()) {
    auto* with_graph = torch::jit::tryToGraphFunction(*function);
    if (!with_graph) continue;
    each_node(with_graph->graph()->block(), [&](Node* node) {
      const std::string name = node->kind().toQualString();
      if (name.starts_with("prim::rpc") || name == "prim::PythonOp" || refused.contains(name))
        fail(code::kCheckpoint, "Expected a network that computes in ", path, " but received one that uses ", name,
             ": export it without.");
      if (!node->kind().is_aten() && !node->kind().is_prim())
        fail(code::kCheckpoint, "Expected operators of libtorch in ", path, " but received ", name,
             ", which is not in libtorch: export the network without that operator.");
    });
  }
}

std::optional<c10::IValue> known_value(const Value* value, const Graph& graph, const torch::jit::Module& root) {
  if (value == graph.inputs()[0]) return c10::IValue(root._ivalue());
  const Node* node = value->node();
  if (node->kind() != prim::GetAttr) return std::nullopt;
  const auto object = known_value(node->input(0), graph, root);
  if (!object || !object->isObject()) return std::nullopt;
  const auto slot = object->toObjectRef().type()->findAttributeSlot(node->s(attr::name));
  if (!slot) return std::nullopt;
  return object->toObjectRef().getSlot(*slot);
}

std::shared_ptr<Graph> inlined_forward(const torch::jit::Module& root, std::vector<Submodule>& modules) {
  return Inliner(root, modules)();
}

std::shared_ptr<Graph> with_taps(const Graph& inlined, const std::vector<int>& slots, const std::vector<Fate>& fates) {
  auto graph = const_cast<Graph&>(inlined).copy();
  Value* const list = add_list(*graph, "taps", c10::OptionalType::ofTensor());
  replace_marks(*graph, [&](Value* output, size_t module) {
    if (slots[module] < 0) return;
    if (fates[module] != Fate::kKept) output = graph->insert(aten::clone, {output});
    graph->insert(aten::_set_item, {list, static_cast<int64_t>(slots[module]), output});
  });
  torch::jit::EliminateDeadCode(graph);
  graph->lint();
  return graph;
}

std::shared_ptr<Graph> with_trace(const Graph& inlined) {
  auto graph = const_cast<Graph&>(inlined).copy();
  Value* const indices = add_list(*graph, "indices", c10::IntType::get());
  Value* const outputs = add_list(*graph, "outputs", c10::OptionalType::ofTensor());
  Value* const versions = add_list(*graph, "versions", c10::IntType::get());
  replace_marks(*graph, [&](Value* output, size_t module) {
    graph->insert(aten::append, {indices, static_cast<int64_t>(module)});
    if (is_tensor(output)) {
      graph->insert(aten::append, {outputs, output});
      graph->insert(aten::append, {versions, graph->insert(Symbol::aten("_version"), {output})});
    } else {
      graph->insert(aten::append, {outputs, c10::IValue()});
      graph->insert(aten::append, {versions, int64_t{0}});
    }
  });
  graph->lint();
  return graph;
}

Writes possible_writes(const Graph& inlined, const torch::jit::Module& root, size_t modules, size_t image) {
  static const Symbol seen_mark = Symbol::fromQualString("layer_ensembles::seen");
  static const torch::jit::RegisterOperators registered({torch::jit::Operator(
      "layer_ensembles::seen(Tensor x) -> ()", [](torch::jit::Stack& stack) { torch::jit::pop(stack); },
      c10::AliasAnalysisKind::FROM_SCHEMA)});
  const auto graph = const_cast<Graph&>(inlined).copy();
  std::vector<std::pair<Node*, size_t>> marks;
  replace_marks(*graph, [&](Value* output, size_t module) {
    if (is_tensor(output)) marks.emplace_back(graph->insertNode(graph->create(seen_mark, {output}, 0)), module);
  });
  // Of which nothing is known to libtorch, so that it would take all tensors for one.
  each_node(graph->block(), [](Node* node) {
    if (node->kind() == Symbol::fromQualString("layer_ensembles::check_norm")) node->destroy();
  });
  const torch::jit::AliasDb aliases(graph);
  Writes writes{std::vector<bool>(modules), aliases.hasWriters(graph->inputs()[image + 1])};

  std::vector<Node*> undecided;  // that write to a tensor, or do not, as the mode or the image decides
  const auto collect = [&](const auto& self, Block* block, bool branch) -> void {
    for (Node* node : block->nodes()) {
      if (node->kind() == prim::If) {
        auto condition = torch::jit::toIValue(node->input(0));
        const Node* source = node->input(0)->node();
        if (!condition && !(source->kind() == prim::GetAttr && source->s(attr::name) == "training"))
          condition = known_value(node->input(0), *graph, root);
        for (const bool taken : {true, false})
          if (!condition || !condition->isBool() || condition->toBool() == taken)
            self(self, node->blocks()[taken ? 0 : 1], branch || !condition || !condition->isBool());
        continue;
      }
      for (Block* inner : node->blocks()) self(self, inner, true);
      const auto* schema = node->maybeSchema();
      const bool unknown = node->kind() == prim::CallMethod || node->kind() == prim::CallFunction;
      if (unknown || (schema && schema->is_mutable() && (branch || mode_argument(*node)))) undecided.push_back(node);
    }
  };
  collect(collect, graph->block(), false);
  const auto in_one_loop = [](const Node* a, const Node* b) {
    for (const Node* x = a; x; x = x->owningBlock()->owningNode())
      if (x->kind() == prim::Loop)
        for (const Node* y = b; y; y = y->owningBlock()->owningNode())
          if (x == y) return true;
    return false;
  };
  for (const auto& [mark, module] : marks)
    for (Node* node : undecided) {
      if (writes.returned[module]) break;
      writes.returned[module] =
          (node->isAfter(mark) || in_one_loop(node, mark)) && aliases.writesToAlias(node, {mark->input(0)});
    }
  return writes;
}

std::vector<bool> made_of_inputs(const Graph& inlined, size_t modules) {
  std::unordered_set<const Value*> reached(inlined.inputs().begin() + 1, inlined.inputs().end());
  std::set<std::string> attributes;  // of modules, that something of the inputs is kept in
  bool more = true;
  // What is written to a value is in all that it is a view of.
  const auto reach = [&](const auto& self, const Value* value, bool written) -> void {
    more |= reached.insert(value).second;
    if (written && !value->node()->inputs().empty() && value->node()->kind() != prim::GetAttr)
      self(self, value->node()->input(0), true);
  };
  const auto walk = [&](const auto& self, Block* block) -> void {
    for (Node* node : block->nodes()) {
      const bool calls = node->kind() == prim::CallMethod || node->kind() == prim::CallFunction;
      bool any = calls || (node->kind() == prim::GetAttr && attributes.contains(node->s(attr::name))) ||
                 std::any_of(node->inputs().begin(), node->inputs().end(),
                             [&](const Value* input) { return reached.contains(input); });
      for (Block* inner : node->blocks()) {
        for (const Value* input : inner->inputs())
          if (any) reach(reach, input, false);
        self(self, inner);
        any |= std::any_of(inner->outputs().begin(), inner->outputs().end(),
                           [&](const Value* output) { return reached.contains(output); });
      }
      if (!any) continue;
      for (const Value* output : node->outputs()) reach(reach, output, false);
      const auto* schema = node->maybeSchema();
      if (node->kind() == prim::SetAttr) more |= attributes.insert(node->s(attr::name)).second;
      for (size_t i = 0; schema && i < schema->arguments().size() && i < node->inputs().size(); ++i)
        if (const auto* info = schema->arguments()[i].alias_info(); info && info->isWrite())
          reach(reach, node->input(i), true);
    }
  };
  while (std::exchange(more, false)) walk(walk, const_cast<Graph&>(inlined).block());
  std::vector<bool> made(modules, false);
  each_node(const_cast<Graph&>(inlined).block(), [&](Node* node) {
    if (node->kind() == returned_mark() && reached.contains(node->input(0)))
      made[static_cast<size_t>(node->i(attr::value))] = true;
  });
  return made;
}

bool is_traced(const torch::jit::Module& root) {
  const auto forward = torch::jit::tryToGraphFunction(root.get_method("forward").function());
  return forward && is_traced(*forward->graph());
}

void refuse_training_only(const Graph& inlined, const torch::jit::Module& root, const std::string& path) {
  const auto made_in_training = [&] {
    if (root.is_training()) return true;
    // A mode that was fixed when it was recorded.
    bool on = false;
    for (torch::jit::Function* function : root._ivalue()->compilation_unit()->get_functions()) {
      auto* with_graph = torch::jit::tryToGraphFunction(*function);
      if (!with_graph || !is_traced(*with_graph->graph())) continue;
      each_node(with_graph->graph()->block(), [&](Node* node) {
        const auto flag = mode_argument(*node);
        if (!flag) return;
        const auto mean = argument_of(*node, {"running_mean"});
        const auto baked = torch::jit::toIValue(node->input(*flag));
        on |= baked && baked->isBool() && baked->toBool() && !(mean && node->input(*mean)->mustBeNone());
      });
    }
    return on;
  };
  const auto refuse = [&](const std::string& alone, const std::string& received) {
    fail(code::kCheckpoint, "Expected a trace made in evaluation mode, or one that ", alone, ", in ", path,
         " but received one that ", received,
         ", which evaluation may not do: trace the network after model.eval(), or ", "use torch.jit.script.");
  };
  const auto refuse_state = [&](const std::string& name) {
    if (name != "running_mean" && name != "running_var" && name != "num_batches_tracked" && made_in_training())
      refuse("changes the statistics of its norms alone", "changes " + name);
  };
  if (!is_traced(root)) return;
  for (const Node* node : const_cast<Graph&>(inlined).block()->nodes()) {  // what is in a branch was written by hand
    if (node->kind() == prim::SetAttr && is_tensor(node->input(1))) refuse_state(node->s(attr::name));
    const auto* schema = node->maybeSchema();
    if (!schema || !node->kind().is_aten()) continue;
    if (draws_always(*schema) && made_in_training())
      refuse("draws random numbers in dropout alone",
             std::string("draws some by ") + node->kind().toUnqualString() + " (stochastic depth)");
    for (size_t i = 0; i < schema->arguments().size() && i < node->inputs().size(); ++i) {
      if (const auto* info = schema->arguments()[i].alias_info(); !info || !info->isWrite()) continue;
      const Node* from = node->input(i)->node();
      while (from->kind().is_aten() && from->maybeSchema() && !from->schema().returns().empty() &&
             from->schema().returns()[0].alias_info() && !from->inputs().empty())
        from = from->input(0)->node();
      if (from->kind() == prim::GetAttr) refuse_state(from->s(attr::name));
    }
  }
}

bool addresses_memory(const Graph& inlined) {
  bool any = false;
  each_node(const_cast<Graph&>(inlined).block(), [&](Node* node) {
    const std::string_view name = node->kind().toUnqualString();
    any |= name == "stride" || name.find("strided") != name.npos;
  });
  return any;
}

void widen_constants(Graph& graph, const std::set<at::ScalarType>& types, const torch::jit::Module& root) {
  if (types.empty()) return;
  each_node(graph.block(), [&](Node* node) {
    if (node->kind() == prim::Constant && node->hasAttribute(attr::value) &&
        node->kindOf(attr::value) == torch::jit::AttributeKind::t && types.contains(node->t(attr::value).scalar_type()))
      node->t_(attr::value, node->t(attr::value).to(at::kFloat));
    const auto* schema = node->maybeSchema();
    if (!schema) return;
    for (size_t i = 0; i < node->inputs().size() && i < schema->arguments().size(); ++i) {
      if (schema->arguments()[i].name() != "dtype") continue;
      auto value = torch::jit::toIValue(node->input(i));
      if (!value) value = known_value(node->input(i), graph, root);
      if (!value || !value->isInt() || !types.contains(static_cast<at::ScalarType>(value->toInt()))) continue;
      const WithInsertPoint here(node);
      node->replaceInput(i, graph.insertConstant(static_cast<int64_t>(at::kFloat)));
    }
  });
}

void move_constants(Graph& graph, c10::Device device) {
  each_node(graph.block(), [&](Node* node) {
    if (node->kind() == prim::Constant && node->hasAttribute(attr::value) &&
        node->kindOf(attr::value) == torch::jit::AttributeKind::t)
      node->t_(attr::value, node->t(attr::value).to(device));
  });
}

at::Tensor first_convolution(const Graph& inlined, const Value* image, const torch::jit::Module& root,
                             int64_t& groups) {
  // By operator: where its number of groups is.
  static const std::map<std::string, size_t> convolutions{
      {"aten::conv2d", 6}, {"aten::conv3d", 6}, {"aten::convolution", 8}, {"aten::_convolution", 8}};
  // Behind these, what was a channel may be something else.
  static const auto mixing = words(
      "aten::cat aten::stack aten::concat aten::view aten::reshape aten::permute aten::transpose aten::flatten "
      "aten::pixel_unshuffle aten::select aten::slice aten::index aten::chunk aten::split aten::unfold "
      "aten::narrow aten::mean aten::sum aten::expand aten::repeat aten::einsum aten::matmul aten::linear "
      "aten::movedim aten::squeeze aten::unsqueeze aten::index_select aten::gather aten::tile "
      "aten::pixel_shuffle");
  std::unordered_set<const Value*> reached{image};
  at::Tensor weight;
  const auto walk = [&](const auto& self, const Block* block) -> bool {
    for (const Node* node : block->nodes()) {
      const std::string kind = node->kind().toQualString();
      bool from_image = std::any_of(node->inputs().begin(), node->inputs().end(),
                                    [&](const Value* input) { return reached.contains(input); });
      if (const auto found = convolutions.find(kind); found != convolutions.end()) {
        if (!from_image || !reached.contains(node->input(0))) continue;
        const auto value = known_value(node->input(1), inlined, root);
        const auto number = torch::jit::toIValue(node->input(found->second));
        if (!value || !value->isTensor() || !number || !number->isInt()) return true;
        weight = value->toTensor();
        groups = number->toInt();
        return true;
      }
      for (const Block* inner : node->blocks()) {
        for (size_t i = 0; i < inner->inputs().size(); ++i)
          if (from_image) reached.insert(inner->inputs()[i]);
        if (self(self, inner)) return true;
        for (const Value* output : inner->outputs()) from_image |= reached.contains(output);
      }
      if (!from_image || mixing.contains(kind)) continue;
      for (const Value* output : node->outputs())
        if (is_tensor(output) || !node->blocks().empty()) reached.insert(output);
    }
    return false;
  };
  walk(walk, const_cast<Graph&>(inlined).block());
  return weight;
}

}  // namespace le::script
