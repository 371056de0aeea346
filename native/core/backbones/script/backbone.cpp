// TorchScript files as backbones.
#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/runtime/interpreter.h>
#include <torch/csrc/jit/serialization/export.h>

#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <numeric>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "backbones/aliases.h"
#include "backbones/checks.h"
#include "backbones/imported.h"
#include "backbones/script/arguments.h"
#include "backbones/script/file.h"
#include "backbones/script/fusion.h"
#include "backbones/script/graph.h"
#include "error.h"
#include "files/file.h"

namespace le {

namespace {

using script::Submodule;
using script::Widened;
using torch::jit::Code;
using torch::jit::Graph;
using torch::jit::Stack;

// Names resolved to modules.
class ScriptTapSet final : public TapSet {
 public:
  ScriptTapSet(std::vector<std::string> names, std::vector<int> slots, const void* owner)
      : TapSet(std::move(names)), slots(std::move(slots)), owner(owner) {}
  const std::vector<int> slots;  // by module: the place in `names`, or -1
  const void* const owner;
};

c10::impl::GenericList tap_list(size_t count) {
  c10::impl::GenericList list(c10::OptionalType::ofTensor());
  list.resize(count);
  return list;
}

// What a pass with certain taps runs.
struct Program {
  Code plain;
  std::shared_ptr<const script::Derived> derived;  // null: none asked for, or none possible
  bool derived_known = false;
};

class ScriptBackbone final : public Backbone {
 public:
  ScriptBackbone(torch::jit::Module module, ImportOptions options, Widened widened)
      : module_(std::move(module)),
        options_(std::move(options)),
        modules_(script::named_modules(module_)),
        widened_(std::move(widened)),
        traced_(script::is_traced(module_)),
        arguments_(script::resolve_arguments(module_.get_method("forward").function().getSchema(), options_)),
        inlined_(script::inlined_forward(module_, modules_)),
        fates_(modules_.size(), Fate::kUnknown) {
    script::widen_constants(*inlined_, widened_.types, module_);
    writes_ = script::possible_writes(*inlined_, module_, modules_.size(), arguments_.image);
    addresses_memory_ = script::addresses_memory(*inlined_);
    if (addresses_memory_) channels_last_works_ = false;
    note_frozen();
    const auto made_of_inputs = script::made_of_inputs(*inlined_, modules_.size());
    for (size_t i = 1; i < modules_.size(); ++i)
      if (modules_[i].why_not.empty() && !made_of_inputs[i])
        modules_[i].why_not = "its output does not depend on the image";
    find_aliases();
    note_power_iterations();
    script::refuse_training_only(*inlined_, module_, options_.file);
    resolve_shape();
    no_taps_ = std::make_shared<ScriptTapSet>(std::vector<std::string>(), std::vector<int>(modules_.size(), -1), this);
  }

  Json config() const override {
    Json::Object config = options_.json();
    config.emplace("kind", "torchscript");
    return config;
  }
  int64_t in_channels() const override { return options_.in_channels; }
  int64_t spatial_axes() const override { return options_.spatial_axes; }
  std::vector<Layer> layers() const override;
  std::vector<Call> trace(const at::Tensor& input) override;
  std::shared_ptr<TapSet> tap(std::vector<std::string> names) override;
  Pass forward(const at::Tensor& input, const TapSet* taps) override;
  NamedTensors parameters() const override { return named_tensors(true); }
  NamedTensors buffers() const override { return named_tensors(false); }
  std::vector<std::pair<std::string, std::string>> other_names() const override;
  int64_t training_batch() const override { return batch_; }
  void train(bool on) override;
  bool sample(bool on) override;
  void to(c10::Device device, bool channels_last) override;
  void begin_inference(at::ScalarType dtype) override;
  void end_inference() override;
  void save(const std::string& path) const override;

 private:
  void note_frozen();
  void find_aliases();
  void note_power_iterations();
  // Finds out what one pass may take, and whether evaluation would change the network.
  void examine(const at::Tensor& image);
  Pass pass(const at::Tensor& input, const ScriptTapSet& set);
  void refuse_reduced(const at::Tensor& input, const Error& error) const;
  void resolve_shape();
  NamedTensors named_tensors(bool parameters) const;
  torch::jit::Module copied() const;
  // Moves every tensor of the network, those in its graphs too.
  void lay_out(c10::Device device, bool channels_last);
  at::Tensor laid_out(const at::Tensor& input) const;
  // What forward gets: `image` and the other arguments, then `lists`.
  Stack stack_of(const at::Tensor& image, std::vector<c10::IValue> lists,
                 const torch::jit::Module* self = nullptr) const;
  // forward's result. `program` takes the stack.
  template <class Run>
  at::Tensor result_of(Stack stack, const Run& program) const;
  Program program(const std::vector<int>& slots, bool derived);
  bool deriving() const;
  std::vector<std::pair<const void*, int64_t>> versions() const;

  torch::jit::Module module_;
  ImportOptions options_;  // as resolved
  std::vector<Submodule> modules_;
  // By module: whether train(true) reaches it. A file that was saved in training mode with some module in evaluation
  // mode (batch norm frozen by bn.eval()) means that module to stay so. One saved in evaluation mode says nothing
  // about what its author would freeze, so that all follow, as model.train() does.
  std::vector<bool> follows_;
  Widened widened_;
  const bool traced_;
  std::vector<std::pair<std::string, size_t>> aliases_;  // other names of objects
  // By module: the one that is called for it. A file may have an object for each name of a layer, and calls one of
  // them.
  std::vector<size_t> called_;
  std::vector<std::string> first_;               // by module: the first name of its layer
  std::vector<std::vector<std::string>> names_;  // by module that is called: the others, then the first
  // Found out by the first pass in evaluation, which changes nothing: a network that keeps a state of its own gets a
  // copy of itself for each pass.
  bool examined_ = false;
  int64_t batch_ = 0;  // that a trace is fixed to; 0: any
  bool images_mix_ = false, keeps_state_ = false;
  bool addresses_memory_ = false;  // derived weights and channels_last bring another layout
  script::Writes writes_;
  script::Arguments arguments_;
  const std::shared_ptr<Graph> inlined_;
  std::vector<Fate> fates_;
  bool training_ = true;  // any module, perhaps
  bool sampling_ = false;
  // By slots. Made by the first pass that needs it; dropped when what they were made from changes.
  std::map<std::vector<int>, Program> programs_;
  std::mutex mutex_;  // of programs_
  // The weights that derived programs are made from: counts of in-place changes tell whether they are still those.
  struct Source {
    at::ScalarType dtype;
    std::vector<std::pair<const void*, int64_t>> versions;
  };
  std::unique_ptr<Source> source_;
  c10::Device device_ = c10::kCPU;
  bool channels_last_ = false, channels_last_asked_ = false;
  std::optional<bool> channels_last_works_;  // unknown before the first trace
  std::shared_ptr<ScriptTapSet> no_taps_;
};

void ScriptBackbone::note_frozen() {
  const bool training = module_.is_training();
  for (const Submodule& module : modules_)
    follows_.push_back(!training || torch::jit::Module(module.object).is_training());
}

void ScriptBackbone::resolve_shape() {
  options_.image = arguments_.image_name;
  int64_t groups = 1;
  const at::Tensor weight =
      script::first_convolution(*inlined_, inlined_->inputs()[arguments_.image + 1], module_, groups);
  const auto resolve = [&](int64_t& option, const char* name, int64_t found) {
    if (option == 0 && !weight.defined())
      fail(code::kOption, "Expected option '", name, "' for ", options_.file,
           ", because the network does not begin with a convolution that would show it.");
    if (option == 0) option = found;
  };
  resolve(options_.in_channels, "inChannels", weight.defined() ? weight.size(1) * groups : 0);
  resolve(options_.spatial_axes, "spatialAxes", weight.defined() ? weight.dim() - 2 : 0);
}

std::vector<Layer> ScriptBackbone::layers() const {
  std::vector<Layer> all;
  for (size_t i = 1; i < modules_.size(); ++i) {
    Layer layer;
    layer.name = modules_[i].name;
    layer.type = modules_[i].type;
    layer.tappable = modules_[i].why_not.empty();
    layer.why_not = modules_[i].why_not;
    if (first_[i] != layer.name) layer.alias_of = first_[i];
    std::unordered_set<const void*> counted;
    for (const auto& tensor : torch::jit::Module(modules_[i].object).parameters())
      if (counted.insert(tensor.unsafeGetTensorImpl()).second) layer.parameters += tensor.numel();
    all.push_back(std::move(layer));
  }
  for (const auto& [name, of] : aliases_) {
    Layer layer = all[of - 1];
    layer.name = name;
    layer.alias_of = first_[of];
    all.push_back(std::move(layer));
  }
  return all;
}

// A module that is registered twice: named_modules() lists it once, state_dict() under every name.
void ScriptBackbone::find_aliases() {
  std::unordered_map<const void*, size_t> index_of;
  for (size_t i = 0; i < modules_.size(); ++i) index_of.emplace(modules_[i].object.get(), i);
  const auto visit = [&](const auto& self, const std::string& name, const torch::jit::Module& module) -> void {
    const size_t index = index_of.at(module._ivalue().get());
    if (modules_[index].name != name && index > 0) {
      if (aliases_.size() >= 100'000)
        fail(code::kCheckpoint, "Expected at most 100000 names of modules but received more.");
      aliases_.emplace_back(name, index);
    }
    for (const auto& child : module.named_children())
      self(self, name.empty() ? child.name : name + "." + child.name, child.value);
  };
  visit(visit, "", module_);

  // Both scripts and traces have an object for each name of a layer. In a script their types are one, which has all
  // that is fixed of a layer; in a trace every object has a type of its own, and what is never called no forward.
  std::vector<RecordedModule> recorded;
  std::vector<std::pair<std::string, const void*>> weights;
  for (const Submodule& module : modules_) {
    const auto& type = module.object->type();
    const std::string exact = type->name()->qualifiedName();
    recorded.push_back({module.name, type->findMethod("forward") ? exact : module.type, "", module.last_call});
    for (size_t i = 0; i < type->numAttributes(); ++i)
      if (const c10::IValue& value = module.object->slots()[i];
          (type->is_parameter(i) || type->is_buffer(i)) && value.isTensor() && value.toTensor().defined())
        weights.emplace_back(module.name + "." + type->getAttributeName(i), value.toTensor().unsafeGetTensorImpl());
  }
  const Aliases found = le::find_aliases(recorded, weights);
  names_.resize(modules_.size());
  std::vector<size_t> runs(modules_.size());  // by first name
  std::iota(runs.begin(), runs.end(), size_t{0});
  for (size_t i = 0; i < modules_.size(); ++i)
    if (modules_[i].last_call >= 0) runs[found.first[i]] = i;
  for (size_t i = 0; i < modules_.size(); ++i) {
    called_.push_back(runs[found.first[i]]);
    first_.push_back(modules_[found.first[i]].name);
    if (!found.why_not[i].empty()) modules_[i].why_not = found.why_not[i];
    if (called_[i] != i) modules_[i].why_not = modules_[called_[i]].why_not;
    if (first_[i] != modules_[i].name) names_[called_[i]].push_back(modules_[i].name);
  }
  for (const auto& [name, of] : aliases_) names_[called_[of]].push_back(name);
  for (size_t i = 0; i < modules_.size(); ++i) names_[i].push_back(first_[i]);
}

// Power iteration (spectral norm) in a trace is that of the mode it was traced in.
void ScriptBackbone::note_power_iterations() {
  if (!traced_) return;
  for (Submodule& module : modules_) {
    const auto has = [&](const std::string& name) {
      return module.object->type()->findAttributeSlot(name).has_value();
    };
    bool spectral = has("_u") && has("_v");
    for (size_t i = 0; i < module.object->type()->numAttributes() && !spectral; ++i)
      if (const std::string& key = module.object->type()->getAttributeName(i); key.ends_with("_u")) {
        const std::string stem = key.substr(0, key.size() - 2);
        spectral = has(stem + "_v") && has(stem + "_orig");
      }
    if (!spectral) continue;
    if (has("training") && torch::jit::Module(module.object).is_training())
      fail(code::kCheckpoint, "Expected a trace whose spectral norm (", module.name, ") is that of evaluation in ",
           options_.file, " but received one made in training mode, where every pass changes it: trace the network ",
           "after model.eval(), or use torch.jit.script.");
    module.cannot_train = "its spectral norm (" + module.name +
                          ") was fixed to evaluation by the trace; use torch.jit.script, or remove it "
                          "(torch.nn.utils.parametrize.remove_parametrizations) before";
  }
}

std::vector<std::pair<std::string, std::string>> ScriptBackbone::other_names() const {
  std::vector<std::pair<std::string, std::string>> all;
  for (const bool parameters : {true, false}) {
    std::unordered_map<const void*, std::string> listed;
    for (const auto& [name, tensor] : named_tensors(parameters)) listed.emplace(tensor.unsafeGetTensorImpl(), name);
    const auto add = [&](const std::string& module, const torch::jit::ModulePtr& object) {
      const auto& type = object->type();
      for (size_t i = 0; i < type->numAttributes(); ++i) {
        const c10::IValue& value = object->slots()[i];
        if (!(parameters ? type->is_parameter(i) : type->is_buffer(i)) || !value.isTensor()) continue;
        const auto found = listed.find(value.toTensor().unsafeGetTensorImpl());
        const std::string name = module.empty() ? type->getAttributeName(i) : module + "." + type->getAttributeName(i);
        if (found != listed.end() && found->second != name) all.emplace_back(name, found->second);
      }
    };
    for (const Submodule& module : modules_) add(module.name, module.object);
    for (const auto& [name, of] : aliases_) add(name, modules_[of].object);
  }
  return all;
}

void ScriptBackbone::examine(const at::Tensor& input) {
  const Code plain(script::with_taps(*inlined_, no_taps_->slots, fates_), "forward");
  const auto repeated = [&](int64_t count) {
    return at::cat(std::vector<at::Tensor>(static_cast<size_t>(count), input));
  };
  torch::jit::Module self = copied();
  const auto run = [&](const at::Tensor& image) {
    return result_of(stack_of(image, {tap_list(0)}, &self),
                     [&](Stack& stack) { torch::jit::InterpreterState(plain).run(stack); });
  };
  // The result where the network takes `count` images and gives a result for each.
  const auto works = [&](int64_t count) -> std::optional<at::Tensor> {
    try {
      const at::Tensor output = run(laid_out(repeated(count)));
      if (output.dim() > 0 && output.size(0) == count * input.size(0)) return output;
    } catch (const Error& error) {
      if (error.code() != code::kShape) throw;
    }
    return std::nullopt;
  };
  batch_ = 0;
  images_mix_ = false;
  if (traced_ && input.size(0) == 1) {
    if (!works(1)) {
      for (const int64_t count : {2, 3, 4, 5, 6, 8, 10, 12, 16, 32})
        if (batch_ == 0 && works(count)) batch_ = count;
    } else if (!works(2)) {
      batch_ = 1;
    }
    if (batch_ > 1) {
      at::Tensor others = repeated(batch_);
      const at::Tensor first = run(laid_out(others)).narrow(0, 0, 1);
      others.narrow(0, 1, batch_ - 1).copy_(at::arange(others.numel()).sin().view_as(others).narrow(0, 1, batch_ - 1));
      images_mix_ = !at::allclose(first, run(laid_out(others)).narrow(0, 0, 1), 1e-3, 1e-4, /*equal_nan=*/true);
    }
  }

  self = copied();
  const auto state = [&] {
    std::vector<c10::IValue> all;
    for (const Submodule& module : script::named_modules(self))
      for (const c10::IValue& value : module.object->slots()) {
        all.push_back(value);
        if (value.isTensor() && value.toTensor().defined())
          all.emplace_back(static_cast<int64_t>(value.toTensor()._version()));
      }
    return all;
  };
  const auto before = state();
  run(laid_out(repeated(std::max<int64_t>(batch_, 1))).clone());
  const auto after = state();
  examined_ = true;
  keeps_state_ = after.size() != before.size();
  for (size_t i = 0; i < before.size() && !keeps_state_; ++i) {
    const c10::IValue &a = before[i], &b = after[i];
    keeps_state_ = a.tagKind() != b.tagKind() || (a.isTensor() && !a.toTensor().is_same(b.toTensor())) ||
                   ((a.isInt() || a.isDouble() || a.isBool() || a.isString()) && a != b);
  }
}

at::Tensor ScriptBackbone::laid_out(const at::Tensor& input) const {
  return checked_input(input, options_.in_channels, options_.spatial_axes, device_, channels_last_);
}

Stack ScriptBackbone::stack_of(const at::Tensor& image, std::vector<c10::IValue> lists,
                               const torch::jit::Module* self) const {
  Stack stack{(self ? *self : module_)._ivalue()};
  for (size_t i = 0; i < arguments_.values.size(); ++i)
    stack.push_back(i == arguments_.image ? c10::IValue(image) : arguments_.values[i]);
  for (auto& list : lists) stack.push_back(std::move(list));
  return stack;
}

template <class Run>
at::Tensor ScriptBackbone::result_of(Stack stack, const Run& program) const {
  const std::vector<int64_t> shape = stack[arguments_.image + 1].toTensor().sizes().vec();
  // Calls that could not be inlined go through libtorch's optimising executor, whose first passes differ from later
  // ones in time and rounding.
  const torch::jit::GraphOptimizerEnabledGuard as_written(false);
  try {
    program(stack);
  } catch (const std::exception& error) {
    const std::string cause = script::message_of(error);
    if (cause.find("can't allocate memory") != cause.npos || cause.find("out of memory") != cause.npos)
      throw Error(code::kMemory, "Expected enough memory but the device refused it: use smaller batches or images.",
                  cause);
    if (cause.find("Expected more than one value per") != cause.npos)
      throw Error(code::kShape, cause.substr(cause.find("Expected more than one value per")));
    std::ostringstream message;
    message << "Expected the network of " << options_.file << " to take an input of " << at::IntArrayRef(shape)
            << " but it refused. It may need another size, or option 'inChannels' or 'inputs' other values.";
    throw Error(code::kShape, message.str(), cause);
  }
  return script::chosen_output(std::move(stack.back()), options_.output);
}

bool ScriptBackbone::deriving() const {
  return source_ && !keeps_state_ && !addresses_memory_ && !training_ && !sampling_ && !at::GradMode::is_enabled();
}

Program ScriptBackbone::program(const std::vector<int>& slots, bool derived) {
  const std::lock_guard lock(mutex_);
  Program& found = programs_[slots];
  if (derived && !found.derived_known) {
    // Constants of the network, which outlive this pass and its inference mode.
    const c10::InferenceMode normal(false);
    found.derived = script::derive(script::with_taps(*inlined_, slots, fates_), module_, source_->dtype);
    found.derived_known = true;
  }
  if (!(derived && found.derived) && !found.plain)
    found.plain = Code(script::with_taps(*inlined_, slots, fates_), "forward");
  return found;
}

std::vector<Call> ScriptBackbone::trace(const at::Tensor& input) {
  // Normal tensors are needed for their version counters, even where the caller is in inference mode.
  const c10::InferenceMode normal(false);
  const at::NoGradGuard no_grad;
  std::vector<bool> modes;
  for (const Submodule& module : modules_) modes.push_back(torch::jit::Module(module.object).is_training());
  const struct Restore {
    ScriptBackbone& self;
    const std::vector<bool>& modes;
    const bool training = self.training_;
    ~Restore() {
      self.training_ = training;
      for (size_t i = 0; i < modes.size(); ++i)
        if (self.modules_[i].object->type()->findAttributeSlot("training"))
          self.modules_[i].object->setAttr("training", static_cast<bool>(modes[i]));
    }
  } restore{*this, modes};
  train(false);

  const bool channels_last = channels_last_;
  lay_out(device_, false);
  c10::List<int64_t> indices, versions;
  c10::impl::GenericList outputs(c10::OptionalType::ofTensor());
  examine(input);
  const at::Tensor image = batch_ > 1 ? at::cat(std::vector<at::Tensor>(static_cast<size_t>(batch_), input)) : input;
  const Code traced(script::with_trace(*inlined_), "trace");
  const torch::jit::Module probed = copied();
  const auto run = [](const Code& code) {
    return [&code](Stack& stack) { torch::jit::InterpreterState(code).run(stack); };
  };
  const at::Tensor expected =
      result_of(stack_of(laid_out(image).clone(), {indices, outputs, versions}, &probed), run(traced));

  std::vector<Call> calls;
  std::vector<Fate> fates(modules_.size(), Fate::kUnknown);
  for (size_t i = 0; i < indices.size(); ++i) {
    const auto module = static_cast<size_t>(indices.get(i));
    const c10::IValue output = outputs.get(i);
    std::vector<int64_t> shape;
    if (output.isTensor() && output.toTensor().defined()) {
      const at::Tensor& tensor = output.toTensor();
      if (!tensor.is_complex() && tensor.is_floating_point()) shape = tensor.sizes().vec();
      if (batch_ > 1 && !shape.empty() && shape[0] == batch_) shape[0] = input.size(0);
      // A module that ran more than once shares only what every call allows.
      if (tensor.is_inference() || tensor._version() != versions.get(i))
        fates[module] = Fate::kOverwritten;
      else if (fates[module] == Fate::kUnknown)
        fates[module] = Fate::kKept;
    }
    for (const std::string& name : names_[module]) calls.push_back({name, shape});
  }
  for (size_t i = 0; i < fates.size(); ++i)
    if (writes_.returned[i]) fates[i] = Fate::kUnknown;
  fates_ = std::move(fates);
  programs_.clear();

  if (!channels_last_works_) {
    // A graph that was written or traced for contiguous tensors may view them in ways that another layout forbids.
    channels_last_works_ = false;
    try {
      lay_out(device_, true);
      const Code plain = program(no_taps_->slots, false).plain;
      const torch::jit::Module other = copied();
      const at::Tensor output = result_of(stack_of(laid_out(image).clone(), {tap_list(0)}, &other), run(plain));
      const auto scale = expected.abs().max().item<double>();
      channels_last_works_ =
          output.sizes() == expected.sizes() && (output - expected).abs().max().item<double>() <= 1e-3 * scale;
    } catch (const std::exception&) {
    }
  }
  lay_out(device_, (channels_last || channels_last_asked_) && *channels_last_works_);
  return calls;
}

std::shared_ptr<TapSet> ScriptBackbone::tap(std::vector<std::string> names) {
  std::vector<int> slots = tap_slots(names, layers());
  slots.insert(slots.begin(), -1);  // the root
  for (size_t i = 0; i < aliases_.size(); ++i)
    if (const int slot = slots[modules_.size() + i]; slot >= 0) slots[aliases_[i].second] = slot;
  slots.resize(modules_.size());
  for (size_t i = 0; i < modules_.size(); ++i)
    if (called_[i] != i && slots[i] >= 0) slots[called_[i]] = std::exchange(slots[i], -1);
  return std::make_shared<ScriptTapSet>(std::move(names), std::move(slots), this);
}

Pass ScriptBackbone::forward(const at::Tensor& input, const TapSet* taps) {
  const auto* set = taps ? dynamic_cast<const ScriptTapSet*>(taps) : no_taps_.get();
  if (!set || set->owner != this) fail(code::kInternal, "Expected taps made by this backbone but received another's.");
  if (!examined_ && !training_ && input.defined() && input.dim() > 0 && input.size(0) > 0) {
    // Normal tensors are needed for their version counters.
    const c10::InferenceMode normal(false);
    const at::NoGradGuard no_grad;
    examine(input.narrow(0, 0, 1).clone());
  }
  if (batch_ == 0 || !input.defined() || input.dim() == 0 || input.size(0) == batch_ || input.size(0) == 0)
    return pass(input, *set);
  if (training_ || images_mix_)
    fail(code::kShape, "Expected batches of ", batch_, " images but received ", input.size(0), ": the network of ",
         options_.file, " was traced for these. Use batchSize ", batch_,
         " and a number of images that it divides, or trace a network that takes any batch.");
  return in_batches(input, batch_, [&](const at::Tensor& part) { return pass(part, *set); });
}

Pass ScriptBackbone::pass(const at::Tensor& input, const ScriptTapSet& set) {
  const c10::impl::GenericList list = tap_list(set.names.size());
  const Program program = this->program(set.slots, deriving());
  at::Tensor image = laid_out(input);
  if (writes_.image && image.is_alias_of(input)) image = image.clone();
  std::optional<torch::jit::Module> copy;
  if (keeps_state_ && !training_) copy = copied();
  Pass pass;
  try {
    if (deriving() && program.derived) {
      // What has its type already is not autocast's to look at: it would do some operations in float.
      std::optional<c10::impl::ExcludeDispatchKeyGuard> no_autocast;
      if (program.derived->whole) no_autocast.emplace(c10::autocast_dispatch_keyset);
      pass.output = result_of(stack_of(program.derived->whole ? image.to(source_->dtype) : image, {list}),
                              [&](Stack& stack) { program.derived->run(stack); });
    } else {
      pass.output = result_of(stack_of(image, {list}, copy ? &*copy : nullptr),
                              [&](Stack& stack) { torch::jit::InterpreterState(program.plain).run(stack); });
    }
  } catch (const Error& error) {
    const bool reduced = (source_ && source_->dtype != at::kFloat) || image.scalar_type() != at::kFloat ||
                         at::autocast::is_autocast_enabled(device_.type());
    if (error.code() == code::kShape && reduced) refuse_reduced(input, error);
    throw;
  }
  pass.output = as_feature(std::move(pass.output));
  for (size_t i = 0; i < set.names.size(); ++i) {
    const c10::IValue value = list.get(i);
    pass.taps.push_back(value.isTensor() ? as_feature(value.toTensor()) : at::Tensor());
  }
  return pass;
}

// Where the same pass works in float, what was refused is the number type and not the image.
void ScriptBackbone::refuse_reduced(const at::Tensor& input, const Error& error) const {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const at::NoGradGuard no_grad;
  const torch::jit::Module self = copied();
  const Code plain(script::with_taps(*inlined_, no_taps_->slots, fates_), "forward");
  try {
    result_of(stack_of(laid_out(input).to(at::kFloat, /*non_blocking=*/false, /*copy=*/true), {tap_list(0)}, &self),
              [&](Stack& stack) { torch::jit::InterpreterState(plain).run(stack); });
  } catch (const Error&) {
    return;
  }
  const std::string& cause = error.cause();
  constexpr std::string_view kReason = "RuntimeError: ";
  const size_t at = cause.rfind(kReason), begin = at == cause.npos ? 0 : at + kReason.size();
  throw Error(code::kOption,
              "Expected operations that libtorch has in bfloat16 but the network of " + options_.file +
                  " has one that it has not (" + cause.substr(begin, cause.find('\n', begin) - begin) +
                  "): use precision 'fp32'.",
              cause);
}

NamedTensors ScriptBackbone::named_tensors(bool parameters) const {
  NamedTensors all;
  std::unordered_set<const void*> seen;  // a tensor with two names is listed once, as Python does
  for (const Submodule& module : modules_) {
    const auto& type = module.object->type();
    for (size_t i = 0; i < type->numAttributes(); ++i) {
      const bool wanted = parameters ? type->is_parameter(i) : type->is_buffer(i);
      const c10::IValue& value = module.object->slots()[i];
      if (!wanted || !value.isTensor() || !value.toTensor().defined()) continue;
      const std::string& key = type->getAttributeName(i);
      if (seen.insert(value.toTensor().unsafeGetTensorImpl()).second)
        all.emplace_back(module.name.empty() ? key : module.name + "." + key, value.toTensor());
    }
  }
  return all;
}

// Known by their class: what a function drops, a flag of the module around it decides, which norms may share.
bool ScriptBackbone::sample(bool on) {
  bool any = false;
  for (const Submodule& module : modules_) {
    if (module.type.find("Dropout") == std::string::npos || !module.object->type()->findAttributeSlot("training"))
      continue;
    module.object->setAttr("training", on);
    any = true;
  }
  sampling_ = on && any;
  return any;
}

void ScriptBackbone::train(bool on) {
  if (on) end_inference();
  for (size_t i = 0; i < modules_.size() && on; ++i)
    if (!modules_[i].cannot_train.empty() && follows_[i])
      fail(code::kOption, "Expected a network that can be trained but received ", options_.file, ": ",
           modules_[i].cannot_train, ".");
  training_ = on;
  sampling_ = false;
  for (size_t i = 0; i < modules_.size(); ++i)
    if (modules_[i].object->type()->findAttributeSlot("training"))
      modules_[i].object->setAttr("training", on && follows_[i]);
}

void ScriptBackbone::to(c10::Device device, bool channels_last) {
  end_inference();
  channels_last_asked_ = channels_last;
  lay_out(device, channels_last && channels_last_works_.value_or(true));
}

void ScriptBackbone::lay_out(c10::Device device, bool channels_last) {
  if (device == device_ && channels_last == channels_last_) return;
  const at::NoGradGuard no_grad;
  // set_data keeps each tensor's identity: an optimiser may already hold it.
  for (auto& [name, tensor] : parameters())
    tensor.set_data(tensor.detach().to(device).contiguous(layout(tensor.dim(), channels_last)));
  if (device != device_) {
    std::unordered_set<const void*> moved;
    const auto move = [&](const c10::IValue& value) {
      value.visit([&](const c10::IValue& inner) {
        if (inner.isTensor() && inner.toTensor().defined() &&
            moved.insert(inner.toTensor().unsafeGetTensorImpl()).second && inner.toTensor().device() != device) {
          const at::Tensor& tensor = inner.toTensor();
          tensor.set_data(tensor.detach().to(device));
        }
        return false;
      });
    };
    move(module_._ivalue());
    for (const c10::IValue& value : arguments_.values) move(value);
    script::move_constants(*inlined_, device);
    programs_.clear();
  }
  device_ = device;
  channels_last_ = channels_last;
}

std::vector<std::pair<const void*, int64_t>> ScriptBackbone::versions() const {
  std::vector<std::pair<const void*, int64_t>> all;
  for (const bool parameters : {true, false})
    for (const auto& [name, tensor] : named_tensors(parameters))
      all.emplace_back(tensor.data_ptr(), tensor.is_inference() ? -1 : static_cast<int64_t>(tensor._version()));
  return all;
}

void ScriptBackbone::begin_inference(at::ScalarType dtype) {
  auto now = versions();
  if (source_ && source_->dtype == dtype && source_->versions == now) return;
  end_inference();
  source_ = std::make_unique<Source>(Source{dtype, std::move(now)});
}

void ScriptBackbone::end_inference() {
  source_.reset();
  for (auto& [slots, program] : programs_) program.derived.reset(), program.derived_known = false;
}

torch::jit::Module ScriptBackbone::copied() const {
  // Without gradients: a clone would otherwise remember what it was cloned from. (InferenceMode would turn them on.)
  const c10::InferenceMode normal(false);
  const at::NoGradGuard no_grad;
  torch::jit::Module copy = module_.deepcopy();
  const auto from = script::named_modules(module_), to = script::named_modules(copy);
  for (size_t m = 0; m < from.size(); ++m)
    for (size_t i = 0; i < from[m].object->slots().size(); ++i) {
      const c10::IValue &value = from[m].object->slots()[i], &twin = to[m].object->slots()[i];
      if (value.isTensor() && value.toTensor().defined() && value.toTensor().is_leaf())
        twin.toTensor().set_requires_grad(value.toTensor().requires_grad());
    }
  return copy;
}

void ScriptBackbone::save(const std::string& path) const {
  // A copy, because the modes in the file are not those of this moment: evaluation, which is what a reader expects,
  // unless some modules are frozen, which only a file in training mode can say.
  torch::jit::Module copy = copied();
  const auto modules = script::named_modules(copy);
  const bool any_frozen = std::find(follows_.begin(), follows_.end(), false) != follows_.end();
  for (size_t i = 0; i < modules.size(); ++i)
    if (modules[i].object->type()->findAttributeSlot("training"))
      modules[i].object->setAttr("training", any_frozen && follows_[i]);
  if (!device_.is_cpu()) copy.to(c10::kCPU);
  widened_.undo(copy);

  OutputFile file(path);
  // libtorch's writer finishes the archive in its destructor, where an exception would end the process: what the system
  // refuses is kept until the writer is gone.
  std::exception_ptr refused;
  const std::function<size_t(const void*, size_t)> write = [&](const void* from, size_t bytes) {
    try {
      if (!refused) file.write(from, bytes);
    } catch (...) {
      refused = std::current_exception();
    }
    return bytes;
  };
  try {
    torch::jit::ExportModule(copy, write);
  } catch (const std::exception& error) {
    fail(code::kIo, "Expected to write ", path, " but received: ", script::message_of(error), ".");
  }
  if (refused) std::rethrow_exception(refused);
  file.commit();
}

}  // namespace

std::unique_ptr<Backbone> load_script(const ImportOptions& options) {
  torch::jit::Module module = script::load_module(options.file);
  if (!module.find_method("forward"))
    fail(code::kCheckpoint, "Expected a module with a forward method in ", options.file,
         " but received one without: export the network itself, not a part that is called otherwise.");
  if (module.parameters().size() == 0)
    fail(code::kCheckpoint, "Expected a network with parameters in ", options.file,
         " but received one that has none, as torch.jit.freeze and torch.jit.optimize_for_inference leave it: save ",
         "torch.jit.script(model) or torch.jit.trace(model, example) without them.");
  script::refuse_foreign_operators(module, options.file);
  try {
    Widened widened = script::widen(module, options.file);
    return std::make_unique<ScriptBackbone>(std::move(module), options, std::move(widened));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(code::kCheckpoint,
                "Expected a network that can be taken apart in " + options.file +
                    " but libtorch refused: export it again with torch.jit.script or torch.jit.trace.",
                script::message_of(error));
  }
}

}  // namespace le
