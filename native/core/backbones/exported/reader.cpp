#include "backbones/exported/reader.h"

#include <algorithm>
#include <string_view>

#include "backbones/exported/schema.h"
#include "error.h"

namespace le::exported {

namespace {

constexpr uint64_t kMaxJson = 512u << 20;
constexpr size_t kMaxNodes = 1'000'000;
constexpr const char* kModel = "models/model.json";
constexpr const char* kWeights = "data/weights/";

// Where a weight lies: the same for all its names.
std::string place_of(const ExportedWeight& weight) {
  std::string key = weight.entry + "/" + std::to_string(weight.offset);
  for (const int64_t n : weight.sizes) key += "x" + std::to_string(n);
  for (const int64_t n : weight.strides) key += "s" + std::to_string(n);
  return key;
}

}  // namespace

LoadedProgram Reader::read() {
  const Archive& archive = *program_->archive;
  if (!archive.find(kModel)) {
    std::string other;
    for (const auto& entry : archive.entries())
      if (entry.name.starts_with("models/")) other = entry.name;
    if (!other.empty() || archive.find("serialized_exported_program.json"))
      fail(code::kCheckpoint, "Expected one program at ", kModel, " but received ",
           other.empty() ? "a file of PyTorch 2.7 or older: export it again with 2.8 or newer" : other, ".");
    fail(code::kCheckpoint, "Expected ", kModel, " in a torch.export file but received an archive without it.");
  }
  archive.check_all();
  if (const auto* order = archive.find("byteorder"); order && archive.text("byteorder", 64) != "little")
    fail(code::kCheckpoint, "Expected little-endian weights but received another byte order.");
  const Json model = Json::parse(archive.text(kModel, kMaxJson), code::kCheckpoint);
  const int64_t major = model.at("schema_version").at("major").integer("schema_version");
  if (major != 8)
    fail(code::kCheckpoint, "Expected schema version 8 of torch.export but received ", major,
         ": export the network with PyTorch 2.8 to 2.13.");
  const Json& module = model.at("graph_module");
  const Json& graph = module.at("graph");
  tensor_values_ = &graph.at("tensor_values").object("tensor_values");
  ranges_ = &model.at("range_constraints");
  sym_ints_ = &graph.at("sym_int_values");
  const Json::Array& nodes = graph.at("nodes").array("nodes");
  if (nodes.size() > kMaxNodes)
    fail(code::kCheckpoint, "Expected at most ", kMaxNodes, " operations but received ", nodes.size(), ".");

  read_payloads(kWeights, "data/weights/model_weights_config.json");
  read_payloads("data/constants/", "data/constants/model_constants_config.json");
  note_widened();
  for (const Json& spec : module.at("signature").at("input_specs").array("input_specs")) read_input(spec);
  for (const Json& node : nodes) {
    try {
      read_node(node);
    } catch (const Error& error) {
      fail(code::kCheckpoint, where(node), error.what());
    } catch (const c10::Error& error) {
      throw Error(code::kCheckpoint, where(node) + "libtorch refuses it.", error.what_without_backtrace());
    }
  }
  for (const Json& spec : module.at("signature").at("output_specs").array("output_specs")) read_output(spec);
  read_modules(module.at("module_call_graph").array("module_call_graph"));
  find_other_names();
  find_norms();
  find_modes();
  find_writes();
  find_power_iterations();
  if (!made_in_evaluation_) refuse_own_state();
  if (program_->inputs.empty()) fail(code::kCheckpoint, "Expected an input but received a program without any.");
  return {program_, std::move(tensors_)};
}

std::string Reader::where(const Json& node) {
  return "In operation " + node.string_or("name", "?") + " (" + node.string_or("target", "?") + "): ";
}

int Reader::define(const std::string& name, ValueKind kind) {
  const int slot = static_cast<int>(program_->slot_names.size());
  if (!slot_of_.emplace(name, slot).second)
    fail(code::kCheckpoint, "Expected each value to be made once but received '", name, "' twice.");
  program_->slot_names.push_back(name);
  program_->slot_kinds.push_back(kind);
  const auto value = tensor_values_->find(name);
  program_->slot_shapes.push_back(value == tensor_values_->end() ? "" : value->second.at("sizes").dump());
  program_->roots.push_back(slot);
  announced_.push_back(slot);
  stand_ins_.push_back(stand_in(name, kind));
  return slot;
}

int Reader::use(const std::string& name) const {
  const auto found = slot_of_.find(name);
  if (found == slot_of_.end())
    fail(code::kCheckpoint, "Expected a value that is made before its use but received '", name, "'.");
  return found->second;
}

int Reader::use_tensor(const Json& argument) const {
  const std::string& name = argument.at("name").string("name");
  const int slot = use(name);
  if (program_->slot_kinds[slot] != ValueKind::kTensor)
    fail(code::kCheckpoint, "Expected a tensor but received '", name, "'.");
  return slot;
}

void Reader::read_payloads(const std::string& folder, const std::string& config) {
  const Archive& archive = *program_->archive;
  if (!archive.find(config)) return;
  const Json json = Json::parse(archive.text(config, kMaxJson), code::kCheckpoint);
  for (const auto& [name, meta] : json.at("config").object("config")) {
    if (meta.boolean_or("use_pickle", false) || !meta.has("tensor_meta")) {
      pickled_.insert(name);
      continue;
    }
    const Json& tensor = meta.at("tensor_meta");
    Payload payload;
    payload.weight.name = name;
    payload.weight.entry = folder + meta.at("path_name").string("path_name");
    payload.parameter = meta.boolean_or("is_param", false);
    payload.requires_grad = tensor.boolean_or("requires_grad", false);
    payload.weight.dtype = scalar_type(tensor.at("dtype").integer("dtype"));
    if (const int64_t layout = tensor.at("layout").integer("layout"); layout != 7)
      fail(code::kCheckpoint, "Expected a dense tensor for ", name, " but received layout ", layout, ".");
    for (const Json& size : tensor.at("sizes").array("sizes")) payload.weight.sizes.push_back(fixed_size(size));
    for (const Json& stride : tensor.at("strides").array("strides"))
      payload.weight.strides.push_back(fixed_size(stride));
    payload.weight.offset = fixed_size(tensor.at("storage_offset"));
    payloads_.insert_or_assign(name, std::move(payload));
  }
}

// A network whose parameters are half, bfloat16 or double runs in float32: its parameters, buffers and constants of
// such a type, and what its operations cast to it. One with float32 parameters keeps what it casts by itself.
void Reader::note_widened() {
  for (const auto& [name, payload] : payloads_)
    if (payload.parameter && c10::isFloatingType(payload.weight.dtype) && payload.weight.dtype != at::kFloat)
      widened_.insert(payload.weight.dtype);
}

// The program of strict=True has one name of each weight that it uses; the file has all of the state dict.
void Reader::find_other_names() {
  std::unordered_map<std::string, size_t> listed;
  for (size_t i = 0; i < program_->weights.size(); ++i)
    if (program_->weights[i].role != Role::kOther) listed.emplace(place_of(program_->weights[i]), i);
  const std::map<std::string, Payload> all(payloads_.begin(), payloads_.end());
  for (const auto& [name, payload] : all) {
    if (weight_of_.contains(name) || !payload.weight.entry.starts_with(kWeights)) continue;
    const auto [same, fresh] = listed.emplace(place_of(payload.weight), program_->weights.size());
    if (fresh)
      add_weight(name, payload.parameter ? Role::kParameter : Role::kBuffer,
                 define(name + " (unused)", ValueKind::kTensor));
    else
      program_->other_names.emplace_back(name, same->second);
    weight_of_.emplace(name, same->second);
  }
}

at::Tensor Reader::load(const ExportedWeight& weight) {
  // Weights that share memory in the file stay one tensor where they are the same part of it.
  at::Tensor& tensor = loaded_[place_of(weight)];
  if (tensor.defined()) return tensor;
  const at::Tensor payload = program_->archive->bytes(weight.entry);
  const at::Tensor part = weight_in(payload, weight);
  if (const at::ScalarType type = widened(weight.dtype); type != weight.dtype)
    return tensor = part.to(type, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Preserve);
  tensor = part.numel() * static_cast<int64_t>(part.element_size()) <= payload.numel()
               ? part.clone(at::MemoryFormat::Preserve)
               : part.detach();
  return tensor;
}

void Reader::add_weight(const std::string& name, Role role, int slot) {
  const auto found = payloads_.find(name);
  if (found == payloads_.end()) {
    if (pickled_.contains(name))
      fail(code::kCheckpoint, "Expected plain bytes for ", name, " but received a pickled object: export a network ",
           "whose parameters and buffers are plain tensors.");
    fail(code::kCheckpoint, "Expected the values of ", name, " but received a file without them.");
  }
  ExportedWeight weight = found->second.weight;
  weight.role = role;
  weight.slot = slot;
  if (role != Role::kOther && c10::isComplexType(weight.dtype))
    fail(code::kCheckpoint, "Expected real numbers for ", name, " but received ", c10::toString(weight.dtype),
         ", which is neither trained nor saved here: keep its parts as real tensors (torch.view_as_real) and join ",
         "them in forward (torch.view_as_complex).");
  at::Tensor tensor = load(weight);
  if (role == Role::kParameter && found->second.requires_grad && tensor.is_floating_point())
    tensor.set_requires_grad(true);
  tensors_.push_back(std::move(tensor));
  weight_of_slot_.emplace(slot, program_->weights.size());
  weight_of_.emplace(name, program_->weights.size());
  program_->weights.push_back(std::move(weight));
}

// Symbol('s77', …), or Mul(Integer(8), Symbol('s77', …)): others are left to the program's own checks.
Extent Reader::extent(const Json& size) const {
  const auto [kind, value] = variant(size, "size");
  Extent extent;
  if (kind == "as_int") {
    extent.recorded = value.integer("size");
    return extent;
  }
  if (kind != "as_expr") fail(code::kCheckpoint, "Expected a size but received ", kind, ".");
  const std::string& text = value.at("expr_str").string("expr_str");
  if (value.has("hint")) extent.recorded = value.at("hint").integer_or("as_int", 0);
  extent.symbol = text;
  std::string_view rest = text;
  if (rest.starts_with("Mul(Integer(")) {
    rest.remove_prefix(12);
    int64_t factor = 0;
    while (!rest.empty() && rest.front() >= '0' && rest.front() <= '9' && factor < 1'000'000) {
      factor = factor * 10 + (rest.front() - '0');
      rest.remove_prefix(1);
    }
    if (factor < 1 || !rest.starts_with("), ")) return extent;
    rest.remove_prefix(3);
    extent.factor = factor;
  }
  const auto quote = rest.find('\'', 8);
  if (!rest.starts_with("Symbol('") || quote == std::string_view::npos ||
      rest.find("Symbol", quote) != std::string_view::npos) {
    extent.factor = 1;
    return extent;
  }
  extent.symbol = std::string(rest.substr(8, quote - 8));
  if (!ranges_->has(extent.symbol)) return extent;
  const Json& range = ranges_->at(extent.symbol);
  // 2 is what PyTorch records where the author gave nothing: it treats 0 and 1 as special when it records.
  if (const int64_t least = range.integer_or("min_val", 0); least > 2) extent.least = least;
  extent.most = range.integer_or("max_val", INT64_MAX);
  return extent;
}

void Reader::read_input(const Json& spec) {
  const auto [kind, value] = variant(spec, "input spec");
  if (kind == "parameter") {
    const std::string& name = value.at("arg").at("name").string("name");
    add_weight(value.at("parameter_name").string("parameter_name"), Role::kParameter, define(name, ValueKind::kTensor));
  } else if (kind == "buffer") {
    const std::string& name = value.at("arg").at("name").string("name");
    add_weight(value.at("buffer_name").string("buffer_name"),
               value.boolean_or("persistent", true) ? Role::kBuffer : Role::kOther, define(name, ValueKind::kTensor));
  } else if (kind == "tensor_constant") {
    const std::string& name = value.at("arg").at("name").string("name");
    add_weight(value.at("tensor_constant_name").string("tensor_constant_name"), Role::kOther,
               define(name, ValueKind::kTensor));
  } else if (kind == "constant_input") {
    ExportedInput input;
    input.name = value.at("name").string("name");
    input.constant = true;
    const auto [type, constant] = variant(value.at("value"), "constant input");
    if (type == "as_int")
      input.value = constant.integer("value");
    else if (type == "as_float")
      input.value = number(constant);
    else if (type == "as_string")
      input.value = constant.string("value");
    else if (type == "as_bool")
      input.value = constant.boolean("value");
    program_->inputs.push_back(std::move(input));
  } else if (kind == "user_input") {
    read_user_input(value.at("arg"));
  } else {
    fail(code::kCheckpoint, "Expected tensors and numbers for inputs of the program but received ", kind, ".");
  }
}

void Reader::read_user_input(const Json& argument) {
  const auto [kind, value] = variant(argument, "user input");
  ExportedInput input;
  if (kind == "as_tensor") {
    input.name = value.at("name").string("name");
    input.slot = define(input.name, ValueKind::kTensor);
    const auto meta = tensor_values_->find(input.name);
    if (meta == tensor_values_->end())
      fail(code::kCheckpoint, "Expected the shape of input '", input.name, "' but received none.");
    input.dtype = widened(scalar_type(meta->second.at("dtype").integer("dtype")));
    for (const Json& size : meta->second.at("sizes").array("sizes")) input.extents.push_back(extent(size));
  } else if (const auto symbol = symbol_kind(kind)) {
    if (!value.has("as_name"))
      fail(code::kCheckpoint, "Expected a name for an input of the program but received a value.");
    input.name = value.at("as_name").string("as_name");
    input.kind = *symbol;
    input.slot = define(input.name, *symbol);
  } else if (kind == "as_none") {
    input.name = "input_" + std::to_string(program_->inputs.size());
    input.constant = true;
  } else {
    fail(code::kCheckpoint, "Expected tensors and numbers for inputs of the program but received ", kind, ".");
  }
  program_->inputs.push_back(std::move(input));
}

void Reader::read_output(const Json& spec) {
  const auto [kind, value] = variant(spec, "output spec");
  if (kind == "user_output") {
    const auto [type, argument] = variant(value.at("arg"), "output");
    program_->outputs.push_back(type == "as_tensor" ? use_tensor(argument) : -1);
  } else if (kind == "buffer_mutation") {
    const std::string& name = value.at("buffer_name").string("buffer_name");
    const auto weight = weight_of_.find(name);
    if (weight == weight_of_.end())
      fail(code::kCheckpoint, "Expected a buffer of the program but received '", name, "'.");
    program_->mutations.emplace_back(use_tensor(value.at("arg")), weight->second);
  } else {
    fail(code::kCheckpoint, "Expected a network whose outputs are values and buffers but received ", kind,
         ": export the network alone, without its loss, and without changes to its inputs or parameters.");
  }
}

}  // namespace le::exported

namespace le {

LoadedProgram read_exported(const std::string& file) {
  try {
    return exported::Reader(file).read();
  } catch (const Error& error) {
    // What is wrong with a field is wrong with the file here, never with an option of the caller.
    if (error.code() == code::kIo) throw;
    const std::string what = error.what();
    throw Error(code::kCheckpoint,
                what.find(file) == std::string::npos ? "Cannot read the exported network " + file + ": " + what : what,
                error.cause());
  } catch (const c10::Error& error) {
    throw Error(code::kCheckpoint, "Cannot read the exported network " + file + ": libtorch refuses it.",
                error.what_without_backtrace());
  }
}

}  // namespace le
