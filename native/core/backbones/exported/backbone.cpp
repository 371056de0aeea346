// torch.export programs as backbones.
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <unordered_set>

#include "backbones/aliases.h"
#include "backbones/checks.h"
#include "backbones/exported/fusion.h"
#include "backbones/imported.h"
#include "backbones/layout.h"
#include "error.h"

namespace le {

namespace {

using c10::IValue;
using Role = ExportedWeight::Role;

std::string shape_text(at::IntArrayRef sizes) {
  std::string text;
  for (const int64_t size : sizes) text += (text.empty() ? "" : "×") + std::to_string(size);
  return text.empty() ? "no axes" : text;
}

// "N×3×64 to 512×64": what the program allows.
std::string allowed_text(const std::vector<Extent>& extents) {
  std::string text;
  for (size_t i = 0; i < extents.size(); ++i) {
    const Extent& extent = extents[i];
    if (i) text += "×";
    if (extent.fixed()) {
      text += std::to_string(extent.recorded);
      continue;
    }
    static constexpr const char* kNames[] = {"N", "C", "H", "W"};
    static constexpr const char* kNames3d[] = {"N", "C", "D", "H", "W"};
    const std::string name = extents.size() == 4 ? kNames[i] : extents.size() == 5 ? kNames3d[i] : "?";
    const std::string times = extent.factor > 1 ? std::to_string(extent.factor) + "·" + name : name;
    const int64_t least = extent.least * extent.factor;
    const bool bounded = extent.most < INT64_MAX / extent.factor;
    if (extent.least > 0 && bounded)
      text += std::to_string(least) + " to " + std::to_string(extent.most * extent.factor);
    else if (bounded)
      text += "(at most " + std::to_string(extent.most * extent.factor) + ")";
    else if (extent.least > 0)
      text += "(at least " + std::to_string(least) + ")";
    else
      text += times;
    if (extent.factor > 1 && (bounded || extent.least > 0)) text += " in steps of " + std::to_string(extent.factor);
  }
  return text;
}

bool allows(const Extent& extent, int64_t size) {
  if (extent.fixed()) return size == extent.recorded;
  if (size % extent.factor != 0) return false;
  const int64_t symbol = size / extent.factor;
  return size > 0 && symbol >= extent.least && symbol <= extent.most;
}

// A value for an input other than the image.
struct Given {
  IValue value;       // a number, boolean, string or nothing
  at::Tensor tensor;  // or numbers in a shape of their own
  bool fill = false;  // `value` everywhere in the recorded shape
};

class ExportedTapSet final : public TapSet {
 public:
  ExportedTapSet(std::vector<std::string> names, std::vector<ExportedCapture> captures, const void* owner)
      : TapSet(std::move(names)), captures(std::move(captures)), owner(owner) {}
  const std::vector<ExportedCapture> captures;
  const void* const owner;

  // Made when a pass first needs them.
  mutable std::mutex mutex;
  mutable std::shared_ptr<const ExportedPlan> training, evaluation, sampling, derived;
  mutable std::shared_ptr<const DerivedWeights> derived_from;
};

class ExportedBackbone final : public Backbone {
 public:
  ExportedBackbone(LoadedProgram loaded, ImportOptions options)
      : program_(std::move(loaded.program)), weights_(std::move(loaded.weights)), options_(std::move(options)) {
    find_makers();
    choose_image();
    choose_inputs();
    choose_output();
    find_aliases();
    follow_image();
    layout_differs_ = program_->addresses_memory;
    plain_ =
        std::make_shared<ExportedTapSet>(std::vector<std::string>(), std::vector<ExportedCapture>(), program_.get());
  }

  Json config() const override {
    Json::Object config = options_.json();
    config.emplace("kind", "exported");
    return config;
  }
  int64_t in_channels() const override { return options_.in_channels; }
  int64_t spatial_axes() const override { return options_.spatial_axes; }
  std::vector<int64_t> example_size() const override;
  std::vector<Layer> layers() const override;
  std::vector<Call> trace(const at::Tensor& input) override;
  std::shared_ptr<TapSet> tap(std::vector<std::string> names) override;
  Pass forward(const at::Tensor& input, const TapSet* taps) override;
  NamedTensors parameters() const override { return named(Role::kParameter); }
  NamedTensors buffers() const override { return named(Role::kBuffer); }
  std::vector<std::pair<std::string, std::string>> other_names() const override;
  int64_t training_batch() const override;
  void train(bool on) override;
  bool sample(bool on) override;
  void to(c10::Device device, bool channels_last) override;
  void begin_inference(at::ScalarType dtype) override;
  void end_inference() override {
    derived_.reset();
    versions_.clear();
  }
  void save(const std::string& path) const override;

 private:
  const ExportedInput& image() const { return program_->inputs[image_]; }
  size_t input_index(const std::string& name) const;
  void find_makers();
  void find_aliases();
  void follow_image();
  void choose_image();
  void choose_inputs();
  void choose_output();
  Given given(const ExportedInput& input, const Json& value) const;
  std::string why_not(size_t module) const;
  int last_call(size_t module) const;
  ExportedCapture capture_of(int call) const;
  // How many images one pass may take where `images` are asked for.
  int64_t pass_batch(int64_t images) const;
  bool mixes_batch(bool training) const;
  NamedTensors named(Role role) const;
  std::vector<std::pair<const void*, int64_t>> versions() const;
  at::Tensor prepared(const at::Tensor& input, bool channels_last) const;
  void lay_out(bool channels_last);
  std::vector<IValue> bind(const at::Tensor& image) const;
  // One that the program allows.
  Pass pass(const at::Tensor& input, const ExportedTapSet& set);

  std::shared_ptr<const ExportedProgram> program_;
  std::vector<at::Tensor> weights_;
  ImportOptions options_;  // as resolved
  size_t image_ = 0;
  std::vector<Given> given_;                // by input
  int output_ = -1;                         // slot
  std::vector<int> maker_;                  // node by slot, -1: none
  std::vector<bool> from_image_;            // by slot: made of the image
  std::vector<size_t> first_;               // by module: the first one that is the same layer
  std::vector<std::vector<size_t>> names_;  // by such a module: all that are
  std::vector<std::string> untold_;         // by module: why its layer cannot be told; empty where it can
  std::shared_ptr<ExportedTapSet> plain_;
  c10::Device device_ = c10::kCPU;
  bool training_ = false, sampling_ = false;
  bool channels_last_ = false;   // asked for
  bool images_mix_ = false;      // in a batch of a fixed size: found out by trace()
  bool layout_differs_ = false;  // channels_last would mean another thing: found out by trace()

  std::shared_ptr<DerivedWeights> derived_;
  std::vector<std::pair<const void*, int64_t>> versions_;  // that derived_ was made from
};

void ExportedBackbone::find_makers() {
  maker_.assign(program_->slot_names.size(), -1);
  for (size_t i = 0; i < program_->nodes.size(); ++i)
    for (const auto& [slot, kind] : program_->nodes[i].outputs)
      if (slot >= 0) maker_[slot] = static_cast<int>(i);
}

void ExportedBackbone::find_aliases() {
  const auto& modules = program_->modules;
  std::vector<RecordedModule> recorded{{"", "", "", -1}};
  for (const ExportedModule& module : modules) {
    int last = -1;
    for (const int call : module.calls) last = std::max(last, program_->calls[call].last);
    recorded.push_back({module.name, module.calls.empty() ? "" : module.type, module.object, last});
  }
  std::vector<std::pair<std::string, const void*>> weights;
  for (size_t i = 0; i < weights_.size(); ++i)
    if (program_->weights[i].role != Role::kOther)
      weights.emplace_back(program_->weights[i].name, weights_[i].unsafeGetTensorImpl());
  for (const auto& [name, of] : program_->other_names) weights.emplace_back(name, weights_[of].unsafeGetTensorImpl());
  const Aliases found = le::find_aliases(recorded, weights);
  names_.resize(modules.size());
  for (size_t m = 0; m < modules.size(); ++m) {
    first_.push_back(found.first[m + 1] - 1);
    untold_.push_back(found.why_not[m + 1]);
    names_[first_[m]].push_back(m);
  }
}

void ExportedBackbone::follow_image() {
  from_image_.assign(program_->slot_names.size(), false);
  from_image_[image().slot] = true;
  for (const ExportedNode& node : program_->nodes) {
    bool reached = false;
    for (const Link& link : node.links)
      for (const int slot : link.slots)
        reached = reached || (slot >= 0 && from_image_[slot] && program_->slot_kinds[slot] == ValueKind::kTensor);
    if (!reached) continue;
    for (const auto& [slot, kind] : node.outputs)
      if (slot >= 0 && kind == ValueKind::kTensor) from_image_[slot] = true;
    for (const int written : node.writes)
      for (size_t slot = 0; slot < from_image_.size(); ++slot)
        if (program_->roots[slot] == program_->roots[written]) from_image_[slot] = true;
  }
}

size_t ExportedBackbone::input_index(const std::string& name) const {
  for (size_t i = 0; i < program_->inputs.size(); ++i)
    if (program_->inputs[i].name == name) return i;
  if (!name.empty() && name.size() < 6 && name.find_first_not_of("0123456789") == std::string::npos)
    if (const size_t index = std::stoul(name); index < program_->inputs.size()) return index;
  std::string names;
  for (const auto& input : program_->inputs) names += (names.empty() ? "" : ", ") + input.name;
  fail(code::kOption, "Expected one of the exported network's inputs (", names, ") but received '", name, "'.");
}

void ExportedBackbone::choose_image() {
  const auto is_image = [&](size_t i) {
    const ExportedInput& input = program_->inputs[i];
    return !input.constant && input.kind == ValueKind::kTensor &&
           (input.extents.size() == 4 || input.extents.size() == 5) && at::isFloatingType(input.dtype);
  };
  image_ = options_.image.empty() ? 0 : input_index(options_.image);
  if (!is_image(image_))
    fail(options_.image.empty() ? code::kCheckpoint : code::kOption,
         "Expected a floating-point tensor of 4 or 5 axes for the image but received input '", image().name, "' of ",
         image().extents.size(), " axes: name the image's argument by option 'image'.");
  options_.image = image().name;
  const auto& extents = image().extents;
  const int64_t axes = static_cast<int64_t>(extents.size()) - 2;
  if (options_.spatial_axes != 0 && options_.spatial_axes != axes)
    fail(code::kOption, "Expected ", axes, " for option 'spatialAxes', as the network was exported, but received ",
         options_.spatial_axes, ".");
  options_.spatial_axes = axes;
  int64_t channels = extents[1].fixed() ? extents[1].recorded : 0;
  // A network exported for any number of channels, and a convolution that takes but one.
  if (channels == 0)
    for (const auto& weight : program_->weights)
      if (weight.role == Role::kParameter && weight.sizes.size() == extents.size()) {
        channels = options_.in_channels ? options_.in_channels : weight.sizes[1];
        break;
      }
  if (channels == 0) channels = options_.in_channels;
  if (channels == 0)
    fail(code::kOption, "Expected option 'inChannels' for ", program_->file(), ", which does not say how many ",
         "channels it takes.");
  if (options_.in_channels != 0 && options_.in_channels != channels)
    fail(code::kOption, "Expected ", channels, " for option 'inChannels', as the network was exported, but received ",
         options_.in_channels, ".");
  options_.in_channels = channels;
}

Given ExportedBackbone::given(const ExportedInput& input, const Json& value) const {
  Given result;
  const auto scalar = [&](const Json& json) -> IValue {
    if (json.is_null()) return {};
    if (json.is_string()) return json.string("inputs");
    if (!json.is_number()) return json.boolean("inputs");
    const double number = json.number("inputs");
    if (number == std::trunc(number) && std::abs(number) < 0x1p53) return json.integer("inputs");
    return number;
  };
  if (!value.is_array()) {
    result.value = scalar(value);
    result.fill = !input.constant && input.kind == ValueKind::kTensor;
    if (result.fill && !result.value.isInt() && !result.value.isDouble() && !result.value.isBool())
      fail(code::kOption, "Expected numbers for input '", input.name, "' but received something else.");
    return result;
  }
  // Nested arrays of one shape.
  std::vector<int64_t> sizes;
  std::vector<double> numbers;
  const auto visit = [&](const auto& self, const Json& json, size_t depth) -> void {
    if (!json.is_array()) {
      if (depth != sizes.size()) fail(code::kOption, "Expected arrays of one shape for input '", input.name, "'.");
      numbers.push_back(json.is_number() ? json.number("inputs") : json.boolean("inputs"));
      return;
    }
    const auto& items = json.array("inputs");
    if (depth == sizes.size() && numbers.empty()) sizes.push_back(static_cast<int64_t>(items.size()));
    if (depth >= sizes.size() || sizes[depth] != static_cast<int64_t>(items.size()))
      fail(code::kOption, "Expected arrays of one shape for input '", input.name, "'.");
    for (const Json& item : items) self(self, item, depth + 1);
  };
  visit(visit, value, 0);
  if (sizes.size() != input.extents.size())
    fail(code::kOption, "Expected ", allowed_text(input.extents), " for input '", input.name, "' but received ",
         shape_text(sizes), ".");
  for (size_t i = 0; i < sizes.size(); ++i)
    if (!allows(input.extents[i], sizes[i]))
      fail(code::kOption, "Expected ", allowed_text(input.extents), " for input '", input.name, "' but received ",
           shape_text(sizes), ".");
  result.tensor = at::tensor(numbers, at::kDouble).to(input.dtype).view(sizes);
  return result;
}

void ExportedBackbone::choose_inputs() {
  given_.resize(program_->inputs.size());
  std::vector<bool> has(program_->inputs.size());
  for (const auto& [name, value] : options_.inputs) {
    const size_t i = input_index(name);
    const ExportedInput& input = program_->inputs[i];
    if (i == image_) fail(code::kOption, "Expected inputs other than the image but received '", name, "'.");
    if (has[i]) fail(code::kOption, "Expected each input once but received '", name, "' twice.");
    has[i] = true;
    Given gift = given(input, value);
    if (input.constant) {
      const auto number = [](const IValue& v) { return v.isInt() ? static_cast<double>(v.toInt()) : v.toDouble(); };
      const bool numbers =
          (gift.value.isInt() || gift.value.isDouble()) && (input.value.isInt() || input.value.isDouble());
      const bool same = !gift.tensor.defined() &&
                        (numbers ? number(gift.value) == number(input.value)
                                 : gift.value.tagKind() == input.value.tagKind() && gift.value == input.value);
      if (!same)
        fail(code::kOption, "Expected the value of input '", input.name, "' that the network was exported with but ",
             "received another: it is part of the program.");
    } else if (input.kind != ValueKind::kTensor) {
      if (input.kind == ValueKind::kFloat && gift.value.isInt()) gift.value = static_cast<double>(gift.value.toInt());
      const bool fits = input.kind == ValueKind::kInt     ? gift.value.isInt()
                        : input.kind == ValueKind::kFloat ? gift.value.isDouble()
                                                          : gift.value.isBool();
      if (!fits || gift.tensor.defined())
        fail(code::kOption, "Expected a number of the kind that was exported for input '", input.name, "'.");
    }
    given_[i] = std::move(gift);
  }
  for (size_t i = 0; i < program_->inputs.size(); ++i)
    if (const auto& input = program_->inputs[i]; i != image_ && !has[i] && !input.constant)
      fail(code::kOption, "Expected a value for input '", input.name,
           "' of the exported network in option 'inputs' but ", "received none.");
}

void ExportedBackbone::choose_output() {
  // The leaves of a part of the result are numbered from `first`.
  const auto leaves = [](const auto& self, const Json& tree) -> size_t {
    if (tree.is_null()) return 1;
    size_t count = 0;
    for (const Json& item : tree.is_array() ? tree.array("result") : tree.at("items").array("result"))
      count += self(self, item);
    return count;
  };
  const auto refuse = [&](const char* wanted) {
    fail(code::kOption, "Expected ", wanted, " for option 'output' but received ", Json(options_.output).dump(), ".");
  };
  if (leaves(leaves, program_->result) != program_->outputs.size())
    fail(code::kCheckpoint, "Expected a description of the result of ", program_->outputs.size(),
         " values but received another.");
  const Json* tree = &program_->result;
  size_t first = 0;
  const auto enter = [&](size_t index) {
    const auto& items = tree->is_array() ? tree->array("result") : tree->at("items").array("result");
    for (size_t i = 0; i < index; ++i) first += leaves(leaves, items[i]);
    tree = &items[index];
  };
  const auto find_key = [](const Json& object, const Json& step) -> int64_t {
    const auto& keys = object.at("keys").array("keys");
    for (size_t i = 0; i < keys.size(); ++i)
      if (keys[i].dump() == step.dump()) return static_cast<int64_t>(i);
    return -1;
  };
  for (const Json& step : options_.output) {
    if (tree->is_null()) refuse("a path that ends at a tensor");
    int64_t index = tree->is_object() ? find_key(*tree, step) : -1;
    if (index < 0 && step.is_number()) index = step.integer("output");
    const auto& items = tree->is_array() ? tree->array("result") : tree->at("items").array("result");
    if (index < 0 || index >= static_cast<int64_t>(items.size()))
      refuse("keys and indices of what the network returns");
    enter(static_cast<size_t>(index));
  }
  Json::Array path = options_.output;
  while (!tree->is_null()) {
    const auto& items = tree->is_array() ? tree->array("result") : tree->at("items").array("result");
    if (items.empty()) refuse("a path to a tensor");
    // The parts with a tensor in them.
    std::vector<size_t> parts;
    size_t leaf = first;
    for (size_t i = 0; i < items.size(); ++i) {
      const size_t end = leaf + leaves(leaves, items[i]);
      if (std::any_of(program_->outputs.begin() + leaf, program_->outputs.begin() + end,
                      [](int slot) { return slot >= 0; }))
        parts.push_back(i);
      leaf = end;
    }
    if (parts.empty()) refuse("a path to a tensor");
    size_t index = parts[0];
    if (tree->is_object()) {
      std::vector<std::string> keys;
      for (const size_t part : parts) {
        const Json& key = tree->at("keys").array("keys")[part];
        keys.push_back(key.is_string() ? key.string("key") : key.dump());
      }
      index = parts[own_output(keys)];
    }
    path.push_back(tree->is_object() ? tree->at("keys").array("keys")[index] : Json(static_cast<int64_t>(index)));
    enter(index);
  }
  output_ = first < program_->outputs.size() ? program_->outputs[first] : -1;
  if (output_ < 0) refuse("a path to a tensor");
  options_.output = std::move(path);
}

std::vector<int64_t> ExportedBackbone::example_size() const {
  std::vector<int64_t> sizes;
  bool free = true;
  for (size_t i = 2; i < image().extents.size(); ++i) {
    const Extent& extent = image().extents[i];
    sizes.push_back(extent.recorded);
    free = free && !extent.fixed() && extent.factor == 1 && extent.least <= 2 && extent.most == INT64_MAX;
  }
  return free ? std::vector<int64_t>() : sizes;
}

int ExportedBackbone::last_call(size_t module) const {
  int last = -1;
  for (const size_t name : names_[first_[module]])
    for (const int call : program_->modules[name].calls)
      if (last < 0 || program_->calls[call].last > program_->calls[last].last) last = call;
  return last;
}

std::string ExportedBackbone::why_not(size_t module) const {
  if (!untold_[module].empty()) return untold_[module];
  const int call = last_call(module);
  if (call < 0) return "no operation of the exported network belongs to it: it passes its input on, or is never called";
  if (const int slot = program_->calls[call].output; slot >= 0)
    return from_image_[slot] ? "" : "its output does not depend on the image";
  if (program_->calls[call].several) return "it returns something other than one tensor";
  return "its output is not recorded: export with preserve_module_call_signature=('" +
         program_->modules[program_->calls[call].module].name + "',)";
}

std::vector<Layer> ExportedBackbone::layers() const {
  std::vector<Layer> all;
  for (size_t m = 0; m < program_->modules.size(); ++m) {
    Layer layer;
    layer.name = program_->modules[m].name;
    const int call = last_call(m);
    layer.type = program_->modules[call < 0 ? m : program_->calls[call].module].type;
    std::unordered_set<const void*> counted;
    const auto count = [&](const std::string& name, size_t weight) {
      if (program_->weights[weight].role == Role::kParameter && weights_[weight].requires_grad() &&
          name.starts_with(layer.name + ".") && counted.insert(weights_[weight].unsafeGetTensorImpl()).second)
        layer.parameters += weights_[weight].numel();
    };
    for (size_t i = 0; i < weights_.size(); ++i) count(program_->weights[i].name, i);
    for (const auto& [name, of] : program_->other_names) count(name, of);
    layer.why_not = why_not(m);
    layer.tappable = layer.why_not.empty();
    if (first_[m] != m) layer.alias_of = program_->modules[first_[m]].name;
    all.push_back(std::move(layer));
  }
  return all;
}

ExportedCapture ExportedBackbone::capture_of(int call) const {
  const ModuleCall& made = program_->calls[call];
  if (made.output < 0) return {};
  ExportedCapture capture;
  capture.slot = made.output;
  capture.after = std::max(made.last, maker_[made.output]);
  const int root = program_->roots[made.output];
  for (size_t i = static_cast<size_t>(capture.after + 1); i < program_->nodes.size() && !capture.copy; ++i)
    for (const int slot : program_->nodes[i].writes) capture.copy = capture.copy || program_->roots[slot] == root;
  return capture;
}

std::shared_ptr<TapSet> ExportedBackbone::tap(std::vector<std::string> names) {
  tap_slots(names, layers());
  std::vector<ExportedCapture> captures;
  for (const std::string& name : names) captures.push_back(capture_of(last_call(program_->module_of.at(name))));
  return std::make_shared<ExportedTapSet>(std::move(names), std::move(captures), program_.get());
}

at::Tensor ExportedBackbone::prepared(const at::Tensor& input, bool channels_last) const {
  const auto& extents = image().extents;
  const auto refuse = [&] {
    fail(code::kShape, "Expected ", allowed_text(extents), " for the image but received ",
         input.defined() ? shape_text(input.sizes()) : "nothing", ". The exported network was made for this.");
  };
  if (!input.defined() || input.dim() != static_cast<int64_t>(extents.size()) || input.size(1) != options_.in_channels)
    refuse();
  for (size_t i = 0; i < extents.size(); ++i)
    if (!allows(extents[i], input.size(static_cast<int64_t>(i)))) refuse();
  if (!input.is_floating_point())
    fail(code::kShape, "Expected floating-point numbers for the image but received ",
         c10::toString(input.scalar_type()), ".");
  const at::Tensor x = input.to(device_, image().dtype);
  return channels_last ? with_channels_last(x) : x.contiguous();
}

int64_t ExportedBackbone::pass_batch(int64_t images) const {
  const Extent& extent = image().extents[0];
  if (images < 1 || allows(extent, images)) return images;
  if (extent.fixed()) return extent.recorded;
  const int64_t most = std::min(extent.most, images / extent.factor);
  return std::max({most, extent.least, int64_t{1}}) * extent.factor;
}

bool ExportedBackbone::mixes_batch(bool training) const {
  return images_mix_ || std::any_of(program_->nodes.begin(), program_->nodes.end(), [&](const ExportedNode& node) {
           if (!node.norm || node.norm->kind != NormKind::kBatch) return false;
           if (node.mode) return training;
           return node.norm->flag < 0 || node.arguments[node.norm->flag].toBool();
         });
}

int64_t ExportedBackbone::training_batch() const {
  const Extent& extent = image().extents[0];
  return extent.fixed() && mixes_batch(true) ? extent.recorded : 0;
}

std::vector<IValue> ExportedBackbone::bind(const at::Tensor& picture) const {
  std::vector<IValue> values(program_->slot_names.size());
  for (size_t i = 0; i < weights_.size(); ++i) values[program_->weights[i].slot] = weights_[i];
  for (size_t i = 0; i < program_->inputs.size(); ++i) {
    const ExportedInput& input = program_->inputs[i];
    if (input.slot < 0) continue;
    if (i == image_) {
      values[input.slot] = picture;
      continue;
    }
    const Given& gift = given_[i];
    if (gift.tensor.defined()) {
      values[input.slot] = gift.tensor.to(device_);
    } else if (!gift.fill) {
      values[input.slot] = gift.value;
    } else {
      // The batch, and whatever else it shares with the image, has the image's size.
      std::vector<int64_t> sizes;
      for (const Extent& extent : input.extents) {
        int64_t size = extent.recorded;
        for (size_t axis = 0; axis < image().extents.size() && !extent.fixed(); ++axis)
          if (const Extent& other = image().extents[axis]; other.symbol == extent.symbol)
            size = picture.size(static_cast<int64_t>(axis)) / other.factor * extent.factor;
        sizes.push_back(size);
      }
      values[input.slot] = at::full(sizes, gift.value.toScalar(), at::TensorOptions(input.dtype).device(device_));
    }
  }
  return values;
}

std::vector<Call> ExportedBackbone::trace(const at::Tensor& input) {
  const c10::InferenceMode normal(false);
  const at::NoGradGuard no_grad;
  std::vector<ExportedCapture> captures;
  std::vector<int> order;
  for (size_t i = 0; i < program_->calls.size(); ++i) order.push_back(static_cast<int>(i));
  // In the order in which they returned: what is inside before what is around it.
  std::sort(order.begin(), order.end(), [&](int a, int b) {
    const auto& x = program_->calls[a];
    const auto& y = program_->calls[b];
    return x.last != y.last ? x.last < y.last : a > b;
  });
  for (const int call : order) captures.push_back(capture_of(call));
  const ExportedPlan plan(program_, ExportedPhase::kEvaluation, captures, {output_});
  if (channels_last_) lay_out(false);
  for (size_t i = 1; i < image().extents.size(); ++i)
    if (input.dim() != static_cast<int64_t>(image().extents.size()) ||
        !allows(image().extents[i], input.size(static_cast<int64_t>(i))))
      prepared(input, false);  // refuses it as it was given
  const int64_t images = input.size(0), batch = pass_batch(images);
  at::Tensor source = input.is_inference() ? input.clone() : input;
  if (batch != images) source = at::cat(std::vector<at::Tensor>(static_cast<size_t>(batch), source.narrow(0, 0, 1)));
  const auto result = plan.run(bind(prepared(source, false)), weights_, device_);

  images_mix_ = false;
  if (batch > 1 && !allows(image().extents[0], 1)) {
    // Batches may have to be filled up: does what the others show matter to the first image?
    const at::Tensor others =
        at::cat({source.narrow(0, 0, 1),
                 at::arange(source.numel(), source.options()).sin().view_as(source).narrow(0, 1, batch - 1)});
    const auto other = plan.run(bind(prepared(others, false)), weights_, device_);
    const auto first = [](const at::Tensor& tensor) { return tensor.dim() > 0 ? tensor.narrow(0, 0, 1) : tensor; };
    images_mix_ = !at::allclose(first(result.results[0]), first(other.results[0]), 1e-3, 1e-4, /*equal_nan=*/true);
  }

  layout_differs_ = program_->addresses_memory;
  if (channels_last_ && !layout_differs_) {
    lay_out(true);
    const auto agrees = [](const at::Tensor& a, const at::Tensor& b) {
      if (!a.defined() || !b.defined()) return a.defined() == b.defined();
      if (a.sizes() != b.sizes()) return false;
      if (!a.is_floating_point()) return true;
      const double scale = a.abs().max().item<double>();
      return a.numel() == 0 || (a - b).abs().max().item<double>() <= 1e-3 * scale + 1e-6;
    };
    try {
      const auto other = plan.run(bind(prepared(source, true)), weights_, device_);
      layout_differs_ = !agrees(result.results[0], other.results[0]);
      for (size_t i = 0; i < captures.size() && !layout_differs_; ++i)
        layout_differs_ = !agrees(result.captures[i], other.captures[i]);
    } catch (const Error&) {
      layout_differs_ = true;
    }
    if (layout_differs_) lay_out(false);
  }
  std::vector<Call> calls;
  for (size_t i = 0; i < order.size(); ++i)
    calls.push_back({program_->modules[first_[program_->calls[order[i]].module]].name,
                     result.captures[i].defined() ? result.captures[i].sizes().vec() : std::vector<int64_t>()});
  for (Call& call : calls)
    if (batch != images && !call.shape.empty() && call.shape[0] == batch) call.shape[0] = images;
  for (size_t m = 0; m < first_.size(); ++m) {
    const auto last = std::find_if(calls.rbegin(), calls.rend(), [&](const Call& call) {
      return first_[m] != m && call.name == program_->modules[first_[m]].name;
    });
    if (last != calls.rend()) calls.insert(std::prev(last.base()), {program_->modules[m].name, last->shape});
  }
  return calls;
}

Pass ExportedBackbone::forward(const at::Tensor& input, const TapSet* taps) {
  const auto* set = dynamic_cast<const ExportedTapSet*>(taps);
  if (taps && (!set || set->owner != program_.get()))
    fail(code::kInternal, "Expected taps made by this backbone but received another's.");
  if (!set) set = plain_.get();
  if (input.defined() && input.dim() > 0)
    if (const int64_t images = input.size(0), batch = pass_batch(images); batch != images) {
      if (mixes_batch(training_))
        fail(code::kShape, "Expected batches of ", allowed_text({image().extents[0]}), " images but received ", images,
             ": the network was exported for these, and what it makes of an image depends on the others (batch norm). ",
             "Use batchSize ", batch, " and a number of images that it divides, or export with a dynamic batch.");
      return in_batches(input, batch, [&](const at::Tensor& part) { return pass(part, *set); });
    }
  return pass(input, *set);
}

Pass ExportedBackbone::pass(const at::Tensor& input, const ExportedTapSet& set) {
  at::Tensor x = prepared(input, channels_last_ && !layout_differs_);
  const bool derived = derived_ && !training_ && !sampling_ && !at::GradMode::is_enabled();
  const ExportedPhase phase = training_   ? ExportedPhase::kTraining
                              : sampling_ ? ExportedPhase::kSampling
                                          : ExportedPhase::kEvaluation;
  std::shared_ptr<const ExportedPlan> plan;
  {
    const std::lock_guard lock(set.mutex);
    auto& made = training_ ? set.training : sampling_ ? set.sampling : derived ? set.derived : set.evaluation;
    if (derived && set.derived_from != derived_) made.reset();
    if (!made) {
      if (derived) {
        // Derived weights outlive a pass that may run without version counters.
        const c10::InferenceMode normal(false);
        const at::NoGradGuard no_grad;
        made = std::make_shared<const ExportedPlan>(fused_plan(program_, weights_, *derived_, set.captures, {output_}));
        set.derived_from = derived_;
      } else {
        made = std::make_shared<const ExportedPlan>(program_, phase, set.captures, std::vector<int>{output_});
      }
    }
    plan = made;
  }
  ExportedPlan::Result result;
  if (derived && derived_->whole) {
    // Derived weights have their type already. Autocast would look at each operation again, and do some in float.
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    result = plan->run(bind(x.to(derived_->dtype)), weights_, device_);
  } else {
    result = plan->run(bind(x), weights_, device_);
  }
  Pass pass{as_feature(std::move(result.results[0])), std::move(result.captures)};
  for (at::Tensor& tap : pass.taps) tap = as_feature(std::move(tap));
  return pass;
}

std::vector<std::pair<std::string, std::string>> ExportedBackbone::other_names() const {
  std::vector<std::pair<std::string, std::string>> all;
  for (const Role role : {Role::kParameter, Role::kBuffer}) {
    std::unordered_map<const at::TensorImpl*, const std::string*> listed;
    for (size_t i = 0; i < weights_.size(); ++i) {
      const ExportedWeight& weight = program_->weights[i];
      if (weight.role != role) continue;
      const auto [first, fresh] = listed.emplace(weights_[i].unsafeGetTensorImpl(), &weight.name);
      if (!fresh) all.emplace_back(weight.name, *first->second);
    }
    for (const auto& [name, of] : program_->other_names)
      if (program_->weights[of].role == role) all.emplace_back(name, *listed.at(weights_[of].unsafeGetTensorImpl()));
  }
  return all;
}

NamedTensors ExportedBackbone::named(Role role) const {
  // One tensor under two names is listed once, by the first, as named_parameters() does: an optimiser would step twice.
  NamedTensors all;
  std::unordered_set<const at::TensorImpl*> seen;
  for (size_t i = 0; i < weights_.size(); ++i)
    if (program_->weights[i].role == role && seen.insert(weights_[i].unsafeGetTensorImpl()).second)
      all.emplace_back(program_->weights[i].name, weights_[i]);
  return all;
}

void ExportedBackbone::train(bool on) {
  if (on && !program_->cannot_train.empty())
    fail(code::kOption, "Expected a network that can be trained but received ", program_->file(), ": ",
         program_->cannot_train, ".");
  if (on) end_inference();
  training_ = on;
  sampling_ = false;
}

bool ExportedBackbone::sample(bool on) {
  const bool any = std::any_of(program_->nodes.begin(), program_->nodes.end(),
                               [](const ExportedNode& node) { return node.mode && node.mode->dropout; });
  sampling_ = on && any;
  return any;
}

void ExportedBackbone::to(c10::Device device, bool channels_last) {
  device_ = device;
  channels_last_ = channels_last;
  lay_out(channels_last && !layout_differs_);
}

void ExportedBackbone::lay_out(bool channels_last) {
  end_inference();
  const at::NoGradGuard no_grad;
  // set_data keeps each tensor's identity: an optimiser may already hold it.
  for (size_t i = 0; i < weights_.size(); ++i) {
    at::Tensor moved = weights_[i].detach().to(device_);
    if (program_->weights[i].role == Role::kParameter && (moved.dim() == 4 || moved.dim() == 5))
      moved = channels_last ? moved.contiguous(moved.dim() == 4 ? at::MemoryFormat::ChannelsLast
                                                                : at::MemoryFormat::ChannelsLast3d)
                            : moved.contiguous();
    weights_[i].set_data(moved);
  }
}

std::vector<std::pair<const void*, int64_t>> ExportedBackbone::versions() const {
  std::vector<std::pair<const void*, int64_t>> all;
  for (const at::Tensor& tensor : weights_) all.emplace_back(tensor.const_data_ptr(), tensor._version());
  return all;
}

void ExportedBackbone::begin_inference(at::ScalarType dtype) {
  if (program_->addresses_memory) return;  // derived weights bring a layout of their own
  auto now = versions();
  if (derived_ && derived_->dtype == dtype && versions_ == now) return;
  derived_ = std::make_shared<DerivedWeights>();
  derived_->dtype = dtype;
  derived_->whole = dtype != at::kFloat && runs_in_half(*program_);
  versions_ = std::move(now);
}

void ExportedBackbone::save(const std::string& path) const {
  const at::NoGradGuard no_grad;
  const Archive& archive = *program_->archive;
  std::string stem = path.substr(path.find_last_of('/') + 1);
  stem = stem.substr(0, stem.rfind('.'));
  ArchiveWriter writer(path, stem.empty() ? "archive" : stem);
  for (const auto& entry : archive.entries()) {
    at::Tensor bytes = archive.bytes(entry.name);
    for (size_t i = 0; i < weights_.size(); ++i)
      if (const auto& weight = program_->weights[i]; weight.entry == entry.name && bytes.numel() > 0)
        weight_in(bytes, weight).copy_(weights_[i]);
    writer.add(entry.name, bytes.const_data_ptr(), static_cast<uint64_t>(bytes.numel()));
  }
  writer.finish();
}

}  // namespace

std::unique_ptr<Backbone> load_exported(const ImportOptions& options) {
  return std::make_unique<ExportedBackbone>(read_exported(options.file), options);
}

}  // namespace le
