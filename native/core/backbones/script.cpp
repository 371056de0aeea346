// TorchScript files as backbones.
#include <ATen/TensorOperators.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <c10/core/InferenceMode.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/runtime/interpreter.h>
#include <torch/csrc/jit/serialization/export.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstring>
#include <exception>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <numeric>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "archive.h"
#include "backbones/aliases.h"
#include "backbones/checks.h"
#include "backbones/imported.h"
#include "backbones/script_fusion.h"
#include "backbones/script_graph.h"
#include "error.h"
#include "file.h"

namespace le {

namespace {

using script::Submodule;
using torch::jit::Code;
using torch::jit::Graph;
using torch::jit::Stack;

std::string message_of(const std::exception& error) {
  const auto* from_libtorch = dynamic_cast<const c10::Error*>(&error);
  return from_libtorch ? from_libtorch->what_without_backtrace() : error.what();
}

// ---- Reading the file

// Looks through the file before libtorch's reader does. Loading runs what a file brings along as __setstate__, and
// rebuilds objects of C++ classes from bytes that their code trusts: neither belongs in a network that can be tapped.
void check_file(const std::string& path) {
  const Archive archive(path);
  archive.check_all();
  if (!archive.has_folder("code") || !archive.find("data.pkl") || !archive.find("constants.pkl"))
    fail(code::kCheckpoint, "Expected a TorchScript file (torch.jit.script or torch.jit.trace, then .save) at ", path,
         " but received another archive.");
  constexpr uint64_t kMostText = 64 << 20;
  caffe2::serialize::PyTorchStreamReader reader(path);
  for (const Archive::Entry& entry : archive.entries()) {
    const bool source = entry.name.starts_with("code/") && entry.name.ends_with(".py");
    const bool text_of_it = source || entry.name == "data.pkl" || entry.name == "constants.pkl";
    if (!text_of_it && !entry.compressed) continue;
    if (entry.size > kMostText)
      fail(code::kCheckpoint, "Expected at most ", kMostText, " bytes for ", entry.name, " in ", path, " but received ",
           entry.size, ".");
    const auto [data, size] = reader.getRecord(entry.name);
    archive.check(entry, data.get(), size);  // libtorch's reader is built without
    if (!text_of_it) continue;
    const std::string_view text(static_cast<const char*>(data.get()), size);
    const auto refuse = [&](const char* what) {
      fail(code::kCheckpoint, "Expected a network of torch.nn modules in ", path, " but received one with ", what,
           ": export the network without (not quantised, not compiled for a backend).");
    };
    if (source && text.find("__setstate__") != text.npos)
      refuse("a __setstate__ method, which would run while it loads");
    if (text.find("torch.classes") != text.npos) refuse("objects of C++ classes");
  }
}

torch::jit::Module load_module(const std::string& path) {
  try {
    check_file(path);
    // Without the debug files: they hold the names of the exporter's sources, which nobody needs here.
    return torch::jit::load(path, c10::kCPU, /*load_debug_files=*/false);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(code::kCheckpoint,
                "Expected a TorchScript module in " + path +
                    " but libtorch could not read it: export it again with torch.jit.script or torch.jit.trace, "
                    "with a version of PyTorch not newer than this libtorch.",
                message_of(error));
  }
}

// ---- Arguments and results

std::string type_of(const Json& value) {
  return value.is_null()     ? "null"
         : value.is_string() ? "a string"
         : value.is_number() ? "a number"
         : value.is_array()  ? "an array"
         : value.is_object() ? "an object"
                             : "a boolean";
}

bool is_integral(const Json& value) {
  try {
    value.integer("");
    return true;
  } catch (const Error&) {
    return false;
  }
}

// A number, or nested arrays of numbers, as a tensor: of float, because JSON does not tell 1 from 1.0. Or of booleans.
at::Tensor tensor_from(const Json& value, const std::string& what) {
  if (value.is_array()) {
    std::vector<at::Tensor> rows;
    for (const Json& item : value.array(what)) rows.push_back(tensor_from(item, what));
    if (rows.empty()) return at::empty({0});
    for (const at::Tensor& row : rows)
      if (row.sizes() != rows[0].sizes())
        fail(code::kOption, "Expected rows of one length for ", what, " but received ", rows[0].sizes(), " and ",
             row.sizes(), ".");
    return at::stack(rows);
  }
  if (value.is_number()) return at::scalar_tensor(value.number(what), at::kFloat);
  return at::scalar_tensor(value.boolean(what), at::kBool);
}

c10::IValue argument_from(const Json& value, const c10::TypePtr& type, const std::string& what) {
  switch (type->kind()) {
    case c10::TypeKind::OptionalType:
      if (value.is_null()) return {};
      return argument_from(value, type->expectRef<c10::OptionalType>().getElementType(), what);
    case c10::TypeKind::IntType:
      return value.integer(what);
    case c10::TypeKind::FloatType:
      return value.number(what);
    case c10::TypeKind::NumberType:
      return is_integral(value) ? c10::IValue(value.integer(what)) : c10::IValue(value.number(what));
    case c10::TypeKind::BoolType:
      return value.boolean(what);
    case c10::TypeKind::StringType:
      return value.string(what);
    case c10::TypeKind::NoneType:
      if (value.is_null()) return {};
      break;
    case c10::TypeKind::TensorType:
      return tensor_from(value, what);
    case c10::TypeKind::ListType: {
      const auto element = type->expectRef<c10::ListType>().getElementType();
      c10::impl::GenericList list(element);
      for (const Json& item : value.array(what)) list.push_back(argument_from(item, element, what));
      return list;
    }
    case c10::TypeKind::TupleType: {
      const auto elements = type->expectRef<c10::TupleType>().elements();
      const Json::Array& items = value.array(what);
      if (items.size() != elements.size())
        fail(code::kOption, "Expected ", elements.size(), " elements for ", what, " but received ", items.size(), ".");
      std::vector<c10::IValue> tuple;
      for (size_t i = 0; i < items.size(); ++i) tuple.push_back(argument_from(items[i], elements[i], what));
      return c10::ivalue::Tuple::create(std::move(tuple));
    }
    default:
      break;
  }
  fail(code::kOption, "Expected ", type->repr_str(), " for ", what, ", which ", type_of(value), " cannot give.");
}

struct Arguments {
  size_t image;  // index, self not counted
  std::string image_name;
  std::vector<c10::IValue> values;  // of all, in order; that of the image is empty
};

// "x: Tensor, n: int = 3"
std::string listed(const std::vector<c10::Argument>& arguments) {
  std::string text;
  for (size_t i = 1; i < arguments.size(); ++i)
    text += (i > 1 ? ", " : "") + arguments[i].name() + ": " + arguments[i].type()->repr_str();
  return text.empty() ? "none" : text;
}

Arguments resolve_arguments(const c10::FunctionSchema& schema, const ImportOptions& options) {
  const auto& all = schema.arguments();  // the first is self
  const auto index_of = [&](const std::string& name, const std::string& option) -> size_t {
    for (size_t i = 1; i < all.size(); ++i)
      if (all[i].name() == name || std::to_string(i - 1) == name) return i - 1;
    fail(code::kOption, "Expected an argument of forward (", listed(all), ") for option '", option, "' but received '",
         name, "'.");
  };
  if (all.size() < 2)
    fail(code::kCheckpoint, "Expected a forward method that takes an image in ", options.file,
         " but received one without arguments.");
  Arguments result;
  result.image = options.image.empty() ? 0 : index_of(options.image, "image");
  result.image_name = all[result.image + 1].name();
  const auto& image_type = all[result.image + 1].type();
  if (!c10::TensorType::get()->isSubtypeOf(*image_type))
    fail(code::kOption, "Expected a tensor for option 'image' but received argument '", result.image_name, "' of type ",
         image_type->repr_str(), ". The arguments of forward are ", listed(all), ".");
  std::vector<const Json*> given(all.size() - 1, nullptr);
  for (const auto& [name, value] : options.inputs) {
    const size_t index = index_of(name, "inputs");
    if (index == result.image)
      fail(code::kOption, "Expected values for the arguments other than the image for option 'inputs' but received '",
           name, "', which takes the image.");
    given[index] = &value;
  }
  for (size_t i = 0; i < given.size(); ++i) {
    const c10::Argument& argument = all[i + 1];
    if (i == result.image)
      result.values.emplace_back();
    else if (given[i])
      result.values.push_back(
          argument_from(*given[i], argument.type(), "argument '" + argument.name() + "' of forward"));
    else if (argument.default_value())
      result.values.push_back(*argument.default_value());
    else if (argument.type()->kind() == c10::TypeKind::OptionalType)
      result.values.emplace_back();
    else
      fail(code::kOption, "Expected a value in option 'inputs' for argument '", argument.name(), "' of type ",
           argument.type()->repr_str(), " but received none. The arguments of forward are ", listed(all), ".");
  }
  return result;
}

std::vector<std::pair<std::string, c10::IValue>> entries(const c10::IValue& dictionary) {
  std::vector<std::pair<std::string, c10::IValue>> all;
  for (const auto& entry : dictionary.toGenericDict()) {
    std::ostringstream key;
    if (entry.key().isString())
      key << entry.key().toStringRef();
    else
      key << entry.key();
    all.emplace_back(key.str(), entry.value());
  }
  return all;
}

bool has_tensor(const c10::IValue& value) {
  if (value.isTensor()) return value.toTensor().defined();
  if (value.isTuple()) return std::ranges::any_of(value.toTupleRef().elements().vec(), has_tensor);
  if (value.isList()) return std::ranges::any_of(value.toListRef(), has_tensor);
  return value.isGenericDict() &&
         std::ranges::any_of(entries(value), [](const auto& entry) { return has_tensor(entry.second); });
}

// A network's own output among what its forward returned: the first tensor, and of a dictionary what own_output() says;
// undefined where there is none.
at::Tensor own_tensor(const c10::IValue& value) {
  const auto first_of = [](const auto& items) {
    for (const c10::IValue& item : items)
      if (has_tensor(item)) return own_tensor(item);
    return at::Tensor();
  };
  if (value.isTensor()) return value.toTensor();
  if (value.isTuple()) return first_of(value.toTupleRef().elements().vec());
  if (value.isList()) return first_of(value.toListRef());
  if (!value.isGenericDict()) return {};
  auto all = entries(value);
  std::erase_if(all, [](const auto& entry) { return !has_tensor(entry.second); });
  if (all.empty()) return {};
  std::vector<std::string> keys;
  for (const auto& entry : all) keys.push_back(entry.first);
  return own_tensor(all[own_output(keys)].second);
}

// What forward returned, as options.output asks for.
at::Tensor chosen_output(c10::IValue value, const Json::Array& path) {
  const auto refuse = [&](const std::string& received) {
    fail(code::kOption, "Expected the place of a tensor in what forward returns for option 'output' but received ",
         Json(path).dump(), ": ", received, ".");
  };
  for (const Json& step : path) {
    if (value.isTuple()) {
      const auto& tuple = value.toTupleRef();
      size_t index = tuple.elements().size();
      if (step.is_string()) {
        const auto schema = value.type()->expectRef<c10::TupleType>().schema();
        for (size_t i = 0; schema && i < schema->arguments().size(); ++i)
          if (schema->arguments()[i].name() == step.string("output")) index = i;
      } else {
        index = static_cast<size_t>(step.integer("output"));
      }
      if (index >= tuple.elements().size())
        refuse("there is no " + step.dump() + " in a tuple of " + std::to_string(tuple.elements().size()));
      const c10::IValue item = tuple.elements()[index];
      value = item;
    } else if (value.isList()) {
      const auto items = value.toListRef();
      const auto index = static_cast<size_t>(step.integer("output"));
      if (index >= items.size()) refuse("there is no " + step.dump() + " in a list of " + std::to_string(items.size()));
      const c10::IValue item = items[index];
      value = item;
    } else if (value.isGenericDict()) {
      const auto dict = value.toGenericDict();
      const c10::IValue key =
          step.is_string() ? c10::IValue(step.string("output")) : c10::IValue(step.integer("output"));
      const auto found = dict.find(key);
      if (found == dict.end()) {
        std::string keys;
        for (const auto& entry : dict)
          keys += (keys.empty() ? "" : ", ") +
                  (entry.key().isString() ? entry.key().toStringRef() : std::to_string(entry.key().toInt()));
        refuse("there is no " + step.dump() + " in a dictionary of " + keys);
      }
      const c10::IValue item = found->value();
      value = item;
    } else {
      refuse("there is nothing below " + value.tagKind());
    }
  }
  if (!path.empty() && !value.isTensor()) refuse("it is " + value.tagKind());
  at::Tensor output = own_tensor(value);
  if (!output.defined())
    fail(code::kShape,
         "Expected a network that returns a tensor, or several in a tuple, list or dictionary, but received ",
         value.tagKind(), ".");
  return output;
}

// ---- The backbone

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

// Every tensor of a network once, in an order that its copies share.
std::vector<at::Tensor> all_tensors(const torch::jit::Module& module) {
  std::vector<at::Tensor> all;
  std::unordered_set<const void*> seen;
  c10::IValue(module._ivalue()).visit([&](const c10::IValue& value) {
    if (value.isTensor() && value.toTensor().defined() && seen.insert(value.toTensor().unsafeGetTensorImpl()).second)
      all.push_back(value.toTensor());
    return false;
  });
  return all;
}

// A network whose parameters are half, bfloat16 or double runs in float32: all its tensors of such a type, and what its
// operations cast to it. One with float32 parameters keeps what it casts by itself.
struct Widened {
  std::set<at::ScalarType> types;
  std::vector<std::pair<size_t, at::ScalarType>> tensors;  // by place in all_tensors(), with the type in the file

  void undo(const torch::jit::Module& copy) const {
    const auto all = all_tensors(copy);
    for (const auto& [place, type] : tensors) all.at(place).set_data(all.at(place).detach().to(type));
  }
};

Widened widen(const torch::jit::Module& module, const std::string& file) {
  const at::NoGradGuard no_grad;
  Widened widened;
  const auto refuse_complex = [&](const auto& named) {
    if (named.value.is_complex())
      fail(code::kCheckpoint, "Expected real numbers for ", named.name, " in ", file, " but received ",
           c10::toString(named.value.scalar_type()), ", which is neither trained nor saved here: keep its parts as ",
           "real tensors (torch.view_as_real) and join them in forward (torch.view_as_complex).");
  };
  for (const auto& parameter : module.named_parameters()) {
    refuse_complex(parameter);
    if (const auto type = parameter.value.scalar_type(); c10::isFloatingType(type) && type != at::kFloat)
      widened.types.insert(type);
  }
  for (const auto& buffer : module.named_buffers()) refuse_complex(buffer);
  if (widened.types.empty()) return widened;
  const auto all = all_tensors(module);
  for (size_t i = 0; i < all.size(); ++i)
    if (const auto type = all[i].scalar_type(); widened.types.contains(type)) {
      widened.tensors.emplace_back(i, type);
      all[i].set_data(all[i].detach().to(at::kFloat));
    }
  return widened;
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
        arguments_(resolve_arguments(module_.get_method("forward").function().getSchema(), options_)),
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
  Arguments arguments_;
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
    const std::string cause = message_of(error);
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
  return chosen_output(std::move(stack.back()), options_.output);
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
    fail(code::kIo, "Expected to write ", path, " but received: ", message_of(error), ".");
  }
  if (refused) std::rethrow_exception(refused);
  file.commit();
}

}  // namespace

std::unique_ptr<Backbone> load_script(const ImportOptions& options) {
  torch::jit::Module module = load_module(options.file);
  if (!module.find_method("forward"))
    fail(code::kCheckpoint, "Expected a module with a forward method in ", options.file,
         " but received one without: export the network itself, not a part that is called otherwise.");
  if (module.parameters().size() == 0)
    fail(code::kCheckpoint, "Expected a network with parameters in ", options.file,
         " but received one that has none, as torch.jit.freeze and torch.jit.optimize_for_inference leave it: save ",
         "torch.jit.script(model) or torch.jit.trace(model, example) without them.");
  script::refuse_foreign_operators(module, options.file);
  try {
    Widened widened = widen(module, options.file);
    return std::make_unique<ScriptBackbone>(std::move(module), options, std::move(widened));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(code::kCheckpoint,
                "Expected a network that can be taken apart in " + options.file +
                    " but libtorch refused: export it again with torch.jit.script or torch.jit.trace.",
                message_of(error));
  }
}

}  // namespace le
