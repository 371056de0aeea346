#include "backbones/exported_program.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_strided.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/WrapDimMinimal.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <string_view>
#include <unordered_set>

#include "backbones/checks.h"
#include "backbones/imported.h"
#include "error.h"

namespace le {

namespace {

using c10::IValue;
using Role = ExportedWeight::Role;

constexpr uint64_t kMaxJson = 512u << 20;
constexpr size_t kMaxNodes = 1'000'000;
constexpr const char* kModel = "models/model.json";
constexpr const char* kWeights = "data/weights/";

// Operators that read or write files, give a tensor memory of its choosing, or have kernels that trust their caller.
bool refused(const std::string& name) {
  static const std::unordered_set<std::string> names = {
      "from_file",     "save",       "set_",      "set_data",     "resize_",
      "resize_as_",    "resize",     "resize_as", "set",          "resize_as_sparse_",
      "record_stream", "pin_memory", "to_mkldnn", "unsafe_chunk", "embedding_bag"};
  static const std::vector<std::string_view> prefixes = {"sparse_",   "cudnn_",   "mkldnn_",      "miopen_",
                                                         "fbgemm_",   "quantize", "quantized",    "fake_quantize",
                                                         "to_sparse", "mps_",     "sym_constrain"};
  // Of the internal ones, those that PyTorch's own exports contain.
  static const std::unordered_set<std::string> internal = {"_native_batch_norm_legit",
                                                           "_native_batch_norm_legit_no_training",
                                                           "_native_batch_norm_legit_functional",
                                                           "_log_softmax",
                                                           "_softmax",
                                                           "_safe_softmax",
                                                           "_to_copy",
                                                           "_unsafe_view",
                                                           "_unsafe_index",
                                                           "_unsafe_index_put",
                                                           "_reshape_alias",
                                                           "_adaptive_avg_pool2d",
                                                           "_adaptive_avg_pool3d",
                                                           "_scaled_dot_product_flash_attention",
                                                           "_scaled_dot_product_flash_attention_for_cpu",
                                                           "_scaled_dot_product_efficient_attention",
                                                           "_scaled_dot_product_attention_math",
                                                           "_weight_norm",
                                                           "_weight_norm_interface",
                                                           "_upsample_bilinear2d_aa",
                                                           "_upsample_bicubic2d_aa",
                                                           "_upsample_nearest_exact1d",
                                                           "_upsample_nearest_exact2d",
                                                           "_upsample_nearest_exact3d",
                                                           "_assert_async",
                                                           "_convolution",
                                                           "_local_scalar_dense",
                                                           "_cdist_forward",
                                                           "_euclidean_dist",
                                                           "_trilinear",
                                                           "_transformer_encoder_layer_fwd",
                                                           "_native_multi_head_attention",
                                                           "_conj",
                                                           "_fft_r2c",
                                                           "_fft_c2r",
                                                           "_fft_c2c",
                                                           "_unique2",
                                                           "_prelu_kernel",
                                                           "_is_all_true",
                                                           "_is_any_true"};
  if (names.contains(name)) return true;
  for (const auto prefix : prefixes)
    if (name.starts_with(prefix)) return true;
  return name.starts_with('_') && !internal.contains(name);
}

// Checks that compare what the network was recorded with: other numbers and devices are allowed here.
bool ignored(const std::string& target) {
  return target == "torch.ops.aten._assert_tensor_metadata.default" ||
         target.starts_with("torch.ops.aten.sym_constrain_range");
}

// Compositions that make new memory always: most have no implementation without data in C++, to be tried with.
bool returns_fresh(const std::string& name) {
  static const std::unordered_set<std::string> names = {"conv1d",
                                                        "conv2d",
                                                        "conv3d",
                                                        "conv_transpose1d",
                                                        "conv_transpose2d",
                                                        "conv_transpose3d",
                                                        "batch_norm",
                                                        "instance_norm",
                                                        "group_norm",
                                                        "layer_norm",
                                                        "rms_norm",
                                                        "linear",
                                                        "max_pool1d",
                                                        "max_pool2d",
                                                        "max_pool3d",
                                                        "avg_pool1d",
                                                        "adaptive_avg_pool2d",
                                                        "adaptive_avg_pool3d",
                                                        "matmul",
                                                        "softmax",
                                                        "log_softmax",
                                                        "upsample_nearest2d",
                                                        "upsample_bilinear2d",
                                                        "upsample_trilinear3d",
                                                        "upsample_nearest3d",
                                                        "upsample_bicubic2d",
                                                        "scaled_dot_product_attention",
                                                        "silu",
                                                        "selu",
                                                        "relu6",
                                                        "cross_entropy_loss",
                                                        "square",
                                                        "pixel_shuffle",
                                                        "embedding",
                                                        "one_hot",
                                                        "std",
                                                        "var"};
  return names.contains(name);
}

bool is_tensor(const c10::Type& type) { return type.kind() == c10::TypeKind::TensorType; }

at::ScalarType scalar_type(int64_t code) {
  using T = at::ScalarType;
  static const std::map<int64_t, T> types = {{1, T::Byte},
                                             {2, T::Char},
                                             {3, T::Short},
                                             {4, T::Int},
                                             {5, T::Long},
                                             {6, T::Half},
                                             {7, T::Float},
                                             {8, T::Double},
                                             {9, T::ComplexHalf},
                                             {10, T::ComplexFloat},
                                             {11, T::ComplexDouble},
                                             {12, T::Bool},
                                             {13, T::BFloat16},
                                             {28, T::UInt16},
                                             {29, T::Float8_e4m3fn},
                                             {30, T::Float8_e5m2},
                                             {31, T::Float8_e4m3fnuz},
                                             {32, T::Float8_e5m2fnuz},
                                             {33, T::Float8_e8m0fnu},
                                             {34, T::UInt32},
                                             {35, T::UInt64}};
  const auto found = types.find(code);
  if (found == types.end()) fail(code::kCheckpoint, "Expected a known number type but received code ", code, ".");
  return found->second;
}

// A union of the schema: an object with one key.
std::pair<const std::string&, const Json&> variant(const Json& json, const char* what) {
  const Json::Object& object = json.object(what);
  if (object.size() != 1) fail(code::kCheckpoint, "Expected one kind for ", what, " but received ", object.size(), ".");
  return *object.begin();
}

double number(const Json& json) {
  if (!json.is_string()) return json.number("number");
  const std::string& text = json.string("number");
  if (text == "Infinity") return std::numeric_limits<double>::infinity();
  if (text == "-Infinity") return -std::numeric_limits<double>::infinity();
  if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
  fail(code::kCheckpoint, "Expected a number but received '", text, "'.");
}

// A size of a tensor that must be known: {"as_int": n}.
int64_t fixed_size(const Json& json) {
  const auto [kind, value] = variant(json, "size");
  if (kind != "as_int") fail(code::kCheckpoint, "Expected fixed sizes for a weight but received a symbol.");
  return value.integer("size");
}

// "L['self'].layer1", "getattr(L['self'].layer1, '0')" and "self.layer1" as named_modules() has it.
std::string normalised(std::string path) {
  if (path.starts_with("getattr(") && path.ends_with("')")) {
    const size_t comma = path.rfind(", '");
    if (comma != std::string::npos) {
      const std::string base = normalised(path.substr(8, comma - 8)),
                        leaf = path.substr(comma + 3, path.size() - comma - 5);
      return base.empty() ? leaf : base + '.' + leaf;
    }
  }
  for (const std::string root : {"L['self']", "L__self__", "self"})
    if (path == root || path.starts_with(root + ".") || path.starts_with(root + "[")) {
      path.erase(0, root.size());
      break;
    }
  std::string out;
  for (size_t i = 0; i < path.size();) {
    if (path.compare(i, 10, "._modules[") == 0) {
      i += 9;
    } else if (path[i] == '[') {
      const size_t end = path.find(']', i);
      if (end == std::string::npos) return path;
      std::string key = path.substr(i + 1, end - i - 1);
      if (key.size() >= 2 && (key.front() == '\'' || key.front() == '"')) key = key.substr(1, key.size() - 2);
      (out += '.') += key;
      i = end + 1;
    } else {
      out += path[i++];
    }
  }
  return out.starts_with('.') ? out.substr(1) : out;
}

class Reader {
 public:
  explicit Reader(const std::string& file) : program_(std::make_shared<ExportedProgram>()) {
    program_->archive = std::make_shared<const Archive>(file);
  }

  LoadedProgram read() {
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

 private:
  static std::string where(const Json& node) {
    return "In operation " + node.string_or("name", "?") + " (" + node.string_or("target", "?") + "): ";
  }

  // --- slots ---
  int define(const std::string& name, ValueKind kind) {
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
  int use(const std::string& name) const {
    const auto found = slot_of_.find(name);
    if (found == slot_of_.end())
      fail(code::kCheckpoint, "Expected a value that is made before its use but received '", name, "'.");
    return found->second;
  }
  int use_tensor(const Json& argument) const {
    const std::string& name = argument.at("name").string("name");
    const int slot = use(name);
    if (program_->slot_kinds[slot] != ValueKind::kTensor)
      fail(code::kCheckpoint, "Expected a tensor but received '", name, "'.");
    return slot;
  }

  // --- weights ---
  void read_payloads(const std::string& folder, const std::string& config) {
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
  void note_widened() {
    for (const auto& [name, payload] : payloads_)
      if (payload.parameter && c10::isFloatingType(payload.weight.dtype) && payload.weight.dtype != at::kFloat)
        widened_.insert(payload.weight.dtype);
  }
  at::ScalarType widened(at::ScalarType type) const { return widened_.contains(type) ? at::kFloat : type; }

  // Where a weight lies: the same for all its names.
  static std::string place_of(const ExportedWeight& weight) {
    std::string key = weight.entry + "/" + std::to_string(weight.offset);
    for (const int64_t n : weight.sizes) key += "x" + std::to_string(n);
    for (const int64_t n : weight.strides) key += "s" + std::to_string(n);
    return key;
  }

  // The program of strict=True has one name of each weight that it uses; the file has all of the state dict.
  void find_other_names() {
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

  at::Tensor load(const ExportedWeight& weight) {
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

  void add_weight(const std::string& name, Role role, int slot) {
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

  // --- inputs and outputs ---
  // Symbol('s77', …), or Mul(Integer(8), Symbol('s77', …)): others are left to the program's own checks.
  Extent extent(const Json& size) const {
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

  void read_input(const Json& spec) {
    const auto [kind, value] = variant(spec, "input spec");
    if (kind == "parameter") {
      const std::string& name = value.at("arg").at("name").string("name");
      add_weight(value.at("parameter_name").string("parameter_name"), Role::kParameter,
                 define(name, ValueKind::kTensor));
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

  void read_user_input(const Json& argument) {
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

  static std::optional<ValueKind> symbol_kind(const std::string& kind) {
    if (kind == "as_sym_int") return ValueKind::kInt;
    if (kind == "as_sym_float") return ValueKind::kFloat;
    if (kind == "as_sym_bool") return ValueKind::kBool;
    return std::nullopt;
  }

  void read_output(const Json& spec) {
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

  // --- nodes ---
  void read_node(const Json& json) {
    ExportedNode node;
    node.target = json.at("target").string("target");
    node.name = json.string_or("name", "");
    if (ignored(node.target)) return;
    if (node.target.starts_with("torch.ops.higher_order."))
      fail(code::kCheckpoint, "Expected plain operations but received the higher-order operator ",
           node.target.substr(23), ", which cannot be run here: export a network without it (for control flow, use ",
           "TorchScript; for no_grad blocks inside the network: those that training alone has, as spectral norm does, ",
           "are gone after model.eval(); remove others).");
    const Json::Array& inputs = json.at("inputs").array("inputs");
    node.symbolic = symbolic(node.target);
    if (node.symbolic) {
      node.arguments.resize(inputs.size());
      for (size_t i = 0; i < inputs.size(); ++i) read_argument(node, i, nullptr, 0, inputs[i].at("arg"));
    } else if (node.target.starts_with("torch.ops.aten.")) {
      read_call(node, inputs);
    } else {
      fail(code::kCheckpoint, "Expected an operator of PyTorch (torch.ops.aten) but received ", node.target,
           ": custom operators and this Python function cannot be run here.");
    }
    node.call = find_call(json);
    read_outputs(node, json.at("outputs").array("outputs"));
    if (node.op) link_memory(node);
    const int index = static_cast<int>(program_->nodes.size());
    for (int call = node.call; call >= 0; call = program_->calls[call].parent) {
      if (program_->calls[call].first < 0) program_->calls[call].first = index;
      program_->calls[call].last = index;
    }
    program_->nodes.push_back(std::move(node));
  }

  void read_call(ExportedNode& node, const Json::Array& inputs) {
    std::string name = node.target.substr(15), overload;
    if (const size_t dot = name.find('.'); dot != std::string::npos) {
      overload = name.substr(dot + 1);
      name.resize(dot);
    }
    if (overload == "default") overload.clear();
    if (refused(name))
      fail(code::kCheckpoint, "Expected an operator that is safe to run but received ", node.target, ".");
    node.op = c10::Dispatcher::singleton().findSchema({"aten::" + name, overload});
    if (!node.op)
      fail(code::kCheckpoint, "Expected an operator of this libtorch but received ", node.target,
           ": export the network with the PyTorch version of the libtorch that is used here.");
    const auto& arguments = node.op->schema().arguments();
    std::vector<bool> given(arguments.size());
    for (const auto& argument : arguments) {
      if (argument.is_out())
        fail(code::kCheckpoint, "Expected an operator that returns its result but received ", node.target, ".");
      node.arguments.push_back(argument.default_value() ? *argument.default_value() : IValue());
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      const std::string& key = inputs[i].at("name").string("name");
      const int position = node.position(key);
      if (position < 0) fail(code::kCheckpoint, "Expected an argument of the operator but received '", key, "'.");
      if (given[position]) fail(code::kCheckpoint, "Expected argument '", key, "' once but received it twice.");
      given[position] = true;
      const auto& argument = arguments[position];
      read_argument(node, position, argument.type().get(), argument.N().value_or(0), inputs[i].at("arg"));
    }
    bool tensors = false;
    for (size_t i = 0; i < arguments.size(); ++i) {
      if (!given[i] && !arguments[i].default_value() && arguments[i].type()->kind() != c10::TypeKind::OptionalType)
        fail(code::kCheckpoint, "Expected argument '", arguments[i].name(), "' but received none.");
      tensors = tensors || (given[i] && is_tensor(*arguments[i].type()));
    }
    // What makes a tensor of nothing makes it where the network is.
    if (const int device = node.position("device"); device >= 0 && !tensors && node.arguments[device].isNone())
      node.links.push_back({Link::Kind::kDevice, static_cast<size_t>(device), {}, {}});
  }

  // `type`: what the operator takes; null for a symbol operator, which takes anything.
  void read_argument(ExportedNode& node, size_t position, const c10::Type* type, int32_t count, const Json& argument) {
    const auto [kind, value] = variant(argument, "argument");
    const auto link = [&](Link::Kind as, std::vector<int> slots, std::vector<IValue> fixed = {}) {
      node.links.push_back({as, position, std::move(slots), std::move(fixed)});
    };
    const c10::Type* plain = type;
    if (plain && plain->kind() == c10::TypeKind::OptionalType)
      plain = plain->castRaw<c10::OptionalType>()->getElementType().get();
    const auto constant = [&](IValue given) {
      node.arguments[position] = type ? coerced(*type, count, std::move(given)) : std::move(given);
    };
    const auto require = [&](bool fits) {
      if (!fits)
        fail(code::kCheckpoint, "Expected ", type->repr_str(), " for argument ", position, " but received ", kind, ".");
    };
    const Json* tensor = kind == "as_tensor" ? &value : nullptr;
    if (kind == "as_optional_tensor") {
      const auto [inner, item] = variant(value, "optional tensor");
      if (inner == "as_none") return constant(IValue());
      tensor = &item;
    }
    if (tensor) {
      require(!plain || is_tensor(*plain));
      return link(Link::Kind::kValue, {use_tensor(*tensor)});
    }
    if (symbol_kind(kind)) {
      const auto [inner, item] = variant(value, "symbol");
      if (inner != "as_name") return constant(fixed_value(inner, item));
      const int slot = use(item.string("name"));
      const ValueKind held = program_->slot_kinds[slot];
      if (held == ValueKind::kTensor || held == ValueKind::kNone)
        fail(code::kCheckpoint, "Expected a number but received '", item.string("name"), "'.");
      if (!plain) return link(Link::Kind::kValue, {slot});
      switch (plain->kind()) {
        case c10::TypeKind::TensorType:
          return link(Link::Kind::kWrapped, {slot});
        case c10::TypeKind::FloatType:
          require(held != ValueKind::kBool);
          return link(Link::Kind::kFloat, {slot});
        case c10::TypeKind::NumberType:
          return link(Link::Kind::kValue, {slot});
        case c10::TypeKind::IntType:
          require(held == ValueKind::kInt);
          return link(Link::Kind::kValue, {slot});
        case c10::TypeKind::BoolType:
          require(held == ValueKind::kBool);
          return link(Link::Kind::kValue, {slot});
        case c10::TypeKind::ListType:
          require(held == ValueKind::kInt &&
                  plain->castRaw<c10::ListType>()->getElementType()->kind() == c10::TypeKind::IntType);
          return link(Link::Kind::kInts, std::vector<int>(std::max(count, 1), slot));
        default:
          require(false);
      }
    }
    const c10::Type* element = plain && plain->kind() == c10::TypeKind::ListType
                                   ? plain->castRaw<c10::ListType>()->getElementType().get()
                                   : nullptr;
    if (kind == "as_tensors" || kind == "as_optional_tensors") {
      std::vector<int> slots;
      for (const Json& item : value.array("tensors")) {
        if (kind == "as_tensors") {
          slots.push_back(use_tensor(item));
          continue;
        }
        const auto [inner, name] = variant(item, "optional tensor");
        slots.push_back(inner == "as_none" ? -1 : use_tensor(name));
      }
      const bool optional = element && element->kind() == c10::TypeKind::OptionalType &&
                            is_tensor(*element->castRaw<c10::OptionalType>()->getElementType());
      require(element &&
              (optional || (is_tensor(*element) && std::find(slots.begin(), slots.end(), -1) == slots.end())));
      return link(optional ? Link::Kind::kOptionalTensors : Link::Kind::kTensors, std::move(slots),
                  optional ? std::vector<IValue>(slots.size()) : std::vector<IValue>());
    }
    if (kind == "as_sym_ints" || kind == "as_sym_floats" || kind == "as_sym_bools")
      return read_symbols(link, constant, kind, value, element, type != nullptr);
    if (kind == "as_device") {
      require(!plain || plain->kind() == c10::TypeKind::DeviceObjType);
      return link(Link::Kind::kDevice, {});
    }
    constant(fixed_value(kind, value));
  }

  template <class AddLink, class AddConstant>
  void read_symbols(const AddLink& link, const AddConstant& constant, const std::string& kind, const Json& value,
                    const c10::Type* element, bool typed) {
    std::vector<int> slots;
    std::vector<IValue> fixed;
    bool all_fixed = true;
    for (const Json& item : value.array("symbols")) {
      const auto [inner, symbol] = variant(item, "symbol");
      if (inner == "as_name") {
        const int slot = use(symbol.string("name"));
        const ValueKind held = program_->slot_kinds[slot];
        const bool fits = kind == "as_sym_ints"    ? held == ValueKind::kInt
                          : kind == "as_sym_bools" ? held == ValueKind::kBool
                                                   : held == ValueKind::kInt || held == ValueKind::kFloat;
        if (!fits) fail(code::kCheckpoint, "Expected ", kind, " but received '", symbol.string("name"), "'.");
        slots.push_back(slot);
        fixed.emplace_back();
        all_fixed = false;
        continue;
      }
      slots.push_back(-1);
      fixed.push_back(kind == "as_sym_ints"    ? IValue(symbol.integer("symbol"))
                      : kind == "as_sym_bools" ? IValue(symbol.boolean("symbol"))
                                               : IValue(number(symbol)));
    }
    if (!typed) return link(Link::Kind::kArray, std::move(slots), std::move(fixed));
    const auto wanted = element ? element->kind() : c10::TypeKind::NoneType;
    if (all_fixed && kind == "as_sym_ints") {
      c10::List<int64_t> list;
      for (const IValue& item : fixed) list.push_back(item.toInt());
      return constant(std::move(list));
    }
    if (wanted == c10::TypeKind::IntType && kind == "as_sym_ints")
      return link(Link::Kind::kInts, std::move(slots), std::move(fixed));
    if (wanted == c10::TypeKind::FloatType && kind != "as_sym_bools")
      return link(Link::Kind::kFloats, std::move(slots), std::move(fixed));
    if (wanted == c10::TypeKind::BoolType && kind == "as_sym_bools")
      return link(Link::Kind::kBools, std::move(slots), std::move(fixed));
    fail(code::kCheckpoint, "Expected another type than ", kind, " for an argument.");
  }

  IValue fixed_value(const std::string& kind, const Json& value) const {
    if (kind == "as_none") return {};
    if (kind == "as_int") return value.integer("int");
    if (kind == "as_float") return number(value);
    if (kind == "as_bool") return value.boolean("bool");
    if (kind == "as_string") return value.string("string");
    if (kind == "as_complex") return c10::complex<double>(number(value.at("real")), number(value.at("imag")));
    if (kind == "as_scalar_type") return static_cast<int64_t>(widened(scalar_type(value.integer("scalar type"))));
    if (kind == "as_layout") {
      if (value.integer("layout") != 7) fail(code::kCheckpoint, "Expected dense tensors but received another layout.");
      return static_cast<int64_t>(at::kStrided);
    }
    if (kind == "as_memory_format") {
      static constexpr at::MemoryFormat kFormats[] = {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast,
                                                      at::MemoryFormat::ChannelsLast3d, at::MemoryFormat::Preserve};
      const int64_t format = value.integer("memory format");
      if (format < 1 || format > 4) fail(code::kCheckpoint, "Expected a memory format but received code ", format, ".");
      return static_cast<int64_t>(kFormats[format - 1]);
    }
    if (kind == "as_ints") {
      c10::List<int64_t> list;
      for (const Json& item : value.array("ints")) list.push_back(item.integer("int"));
      return list;
    }
    if (kind == "as_floats") {
      c10::List<double> list;
      for (const Json& item : value.array("floats")) list.push_back(number(item));
      return list;
    }
    if (kind == "as_bools") {
      c10::List<bool> list;
      for (const Json& item : value.array("bools")) list.push_back(item.boolean("bool"));
      return list;
    }
    if (kind == "as_strings") {
      c10::List<std::string> list;
      for (const Json& item : value.array("strings")) list.push_back(item.string("string"));
      return list;
    }
    fail(code::kCheckpoint, "Expected arguments of plain operators but received one of kind ", kind, ".");
  }

  // What Python's argument parser makes of a constant.
  static IValue coerced(const c10::Type& type, int32_t count, IValue value) {
    const auto refuse = [&]() -> IValue {
      fail(code::kCheckpoint, "Expected ", type.repr_str(), " for an argument but received ", value.tagKind(), ".");
    };
    switch (type.kind()) {
      case c10::TypeKind::OptionalType:
        if (value.isNone()) return value;
        return coerced(*type.castRaw<c10::OptionalType>()->getElementType(), count, std::move(value));
      case c10::TypeKind::TensorType:
        return value.isInt() || value.isDouble() || value.isBool() ? wrapped(value) : refuse();
      case c10::TypeKind::NumberType:
        return value.isInt() || value.isDouble() || value.isBool() || value.isComplexDouble() ? value : refuse();
      case c10::TypeKind::IntType:
        if (value.isBool()) return int64_t{value.toBool()};
        return value.isInt() ? value : refuse();
      case c10::TypeKind::FloatType:
        if (value.isInt()) return static_cast<double>(value.toInt());
        return value.isDouble() ? value : refuse();
      case c10::TypeKind::BoolType:
        return value.isBool() ? value : refuse();
      case c10::TypeKind::StringType:
        return value.isString() ? value : refuse();
      case c10::TypeKind::ListType: {
        const auto element = type.castRaw<c10::ListType>()->getElementType()->kind();
        const size_t copies = static_cast<size_t>(std::clamp(count, 1, 8));
        if (element == c10::TypeKind::IntType) {
          if (value.isInt()) return c10::List<int64_t>(std::vector<int64_t>(copies, value.toInt()));
          if (value.isIntList()) return value;
        } else if (element == c10::TypeKind::FloatType) {
          if (value.isDouble()) return c10::List<double>(std::vector<double>(copies, value.toDouble()));
          if (value.isDoubleList()) return value;
          if (value.isIntList()) {
            c10::List<double> list;
            for (const int64_t item : value.toIntVector()) list.push_back(static_cast<double>(item));
            return list;
          }
        } else if (element == c10::TypeKind::BoolType) {
          if (value.isBool()) return c10::List<bool>({value.toBool()});
          if (value.isBoolList()) return value;
        } else if (element == c10::TypeKind::StringType) {
          if (value.isList() && value.toListRef().size() && value.toListRef()[0].isString()) return value;
        } else if (is_tensor(*type.castRaw<c10::ListType>()->getElementType())) {
          if (value.isList() && value.toListRef().empty()) return c10::List<at::Tensor>();
        }
        // An empty list says nothing of its type.
        if (value.isList() && value.toListRef().empty()) {
          if (element == c10::TypeKind::IntType) return c10::List<int64_t>();
          if (element == c10::TypeKind::FloatType) return c10::List<double>();
          if (element == c10::TypeKind::BoolType) return c10::List<bool>();
        }
        return refuse();
      }
      default:
        return value.isNone() ? value : refuse();
    }
  }

  void read_outputs(ExportedNode& node, const Json::Array& outputs) {
    const auto one = [&](const std::string& kind, const Json& value) {
      if (kind == "as_tensor")
        node.outputs.emplace_back(define(value.at("name").string("name"), ValueKind::kTensor), ValueKind::kTensor);
      else if (kind == "as_none")
        node.outputs.emplace_back(-1, ValueKind::kNone);
      else if (const auto symbol = symbol_kind(kind))
        node.outputs.emplace_back(define(value.at("as_name").string("as_name"), *symbol), *symbol);
      else
        fail(code::kCheckpoint, "Expected tensors and numbers as results but received ", kind, ".");
    };
    for (const Json& output : outputs) {
      const auto [kind, value] = variant(output, "output");
      if (kind == "as_tensors") {
        if (outputs.size() != 1) fail(code::kCheckpoint, "Expected one list as a result but received several results.");
        node.list_output = true;
        for (const Json& item : value.array("tensors")) one("as_tensor", item);
      } else {
        one(kind, value);
      }
    }
    if (node.symbolic) {
      if (node.list_output || node.outputs.size() > 1)
        fail(code::kCheckpoint, "Expected one number as a result but received several.");
      return;
    }
    const auto& returns = node.op->schema().returns();
    const bool list = returns.size() == 1 && returns[0].type()->kind() == c10::TypeKind::ListType;
    if (node.list_output != list || (!list && node.outputs.size() > std::max<size_t>(returns.size(), 1)))
      fail(code::kCheckpoint, "Expected the operator's ", returns.size(), " results but received others.");
    for (size_t i = 0; !list && i < node.outputs.size() && i < returns.size(); ++i) {
      const bool tensor = is_tensor(*returns[i].type());
      if (node.outputs[i].second != ValueKind::kNone && tensor != (node.outputs[i].second == ValueKind::kTensor))
        fail(code::kCheckpoint, "Expected ", returns[i].type()->repr_str(), " as a result but received another kind.");
    }
    if (returns.empty())
      for (auto& [slot, kind] : node.outputs)
        if (kind != ValueKind::kNone) fail(code::kCheckpoint, "Expected no result but received one.");
  }

  // --- memory ---
  static int root(std::vector<int>& roots, int slot) {
    while (roots[slot] != slot) slot = roots[slot] = roots[roots[slot]];
    return slot;
  }
  static void share(std::vector<int>& roots, int a, int b) { roots[root(roots, b)] = root(roots, a); }

  // A value of the recorded kind and shape that has no data; none where nothing is recorded.
  IValue stand_in(const std::string& name, ValueKind kind) const {
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
  std::optional<std::vector<std::pair<int, int>>> tried(const ExportedNode& node) {
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
  void link_memory(ExportedNode& node) {
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

  void find_writes() {
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
        fail(code::kCheckpoint,
             "Expected a network that does not change its parameters but received one that writes to ", weight.name,
             ".");
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
      const bool buffers = !node.writes.empty() && std::all_of(node.writes.begin(), node.writes.end(), [&](int slot) {
        return weight_of_slot_.contains(slot);
      });
      node.only_training = unused && buffers && !node.mode;
      // Where a tensor is written through a view, the view has to be one.
      if (node.target == "torch.ops.aten.view.default" && node.outputs.size() == 1 && node.outputs[0].first >= 0 &&
          !changed.contains(program_->roots[node.outputs[0].first]))
        if (const auto reshape = c10::Dispatcher::singleton().findSchema({"aten::reshape", ""})) node.op = reshape;
    }
  }

  // --- training and evaluation ---
  void find_norms() {
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
  void find_power_iterations() {
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
  void refuse_own_state() {
    for (const ExportedNode& node : program_->nodes)
      if (node.op && draws_always(node.op->schema()))
        fail(
            code::kCheckpoint, "Expected a program exported in evaluation mode, or one that draws random numbers in ",
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
        fail(code::kCheckpoint,
             "Expected a program exported in evaluation mode, or one that changes the statistics of ",
             "its norms alone, but received one that changes ", weight.name, ", which evaluation may not do: export ",
             "the network after model.eval(), or save it with torch.jit.script.");
    }
  }

  void find_modes() {
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
      if (const auto counter = weight_of_.find(name); counter != weight_of_.end() && !counted.contains(name) &&
                                                      tensors_[counter->second].scalar_type() == at::kLong)
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
  std::string layer_of(const ExportedNode& node) const {
    return node.call < 0 ? node.name : program_->modules[program_->calls[node.call].module].name;
  }

  // --- modules ---
  int find_call(const Json& node) {
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
      const std::string name = normalised(path.substr(0, path.find('@')));
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

  bool within(int call, int outer) const {
    for (; call >= 0; call = program_->calls[call].parent)
      if (call == outer) return true;
    return false;
  }

  void read_modules(const Json::Array& entries) {
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
  void find_outputs() {
    auto& calls = program_->calls;
    std::vector<int> maker(program_->slot_names.size(), -1);
    std::vector<std::vector<int>> candidates(calls.size());
    const auto used_by = [&](int slot, int user) {
      for (int call = maker[slot]; call >= 0 && !within(user, call); call = calls[call].parent)
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

  // [1, {"type", "context", "children_spec"}] as the tree that ExportedProgram::result describes.
  static Json treespec(const std::string& text) {
    const Json json = Json::parse(text, code::kCheckpoint);
    const Json::Array& parts = json.array("treespec");
    if (parts.size() != 2) fail(code::kCheckpoint, "Expected a tree of version 1 for the result but received another.");
    return tree(parts[1]);
  }
  static Json tree(const Json& node) {
    if (!node.has("type")) return nullptr;
    Json::Array items;
    for (const Json& child : node.at("children_spec").array("children_spec")) items.push_back(tree(child));
    if (!node.has("context")) return items;
    Json keys;
    try {
      keys = node.at("context").is_string() ? Json::parse(node.at("context").string("context"), code::kCheckpoint)
                                            : node.at("context");
    } catch (const Error&) {
      return items;  // the type's own notation
    }
    if (!keys.is_array() || keys.array("keys").size() != items.size()) return items;
    for (const Json& key : keys.array("keys"))
      if (!key.is_string() && !key.is_number()) return items;
    return Json::Object{{"keys", keys}, {"items", items}};
  }

  // Arguments of forward have their Python names where each is one value.
  void name_inputs(const Json& signature) {
    if (!signature.has("forward_arg_names")) return;
    const Json::Array& names = signature.at("forward_arg_names").array("forward_arg_names");
    if (names.size() != program_->inputs.size()) return;
    for (size_t i = 0; i < names.size(); ++i) program_->inputs[i].name = names[i].string("name");
  }

  struct Payload {
    ExportedWeight weight;
    bool parameter = false, requires_grad = false;
  };
  std::shared_ptr<ExportedProgram> program_;
  std::vector<at::Tensor> tensors_;
  std::vector<int> announced_;                  // as roots, by what is known alone
  std::unordered_set<at::ScalarType> widened_;  // see note_widened()
  bool made_in_evaluation_ = false;             // for certain: see find_modes()
  const Json::Object* tensor_values_ = nullptr;
  const Json *ranges_ = nullptr, *sym_ints_ = nullptr;
  std::vector<IValue> stand_ins_;  // by slot
  std::unordered_map<std::string, int> slot_of_;
  std::unordered_map<std::string, Payload> payloads_;
  std::unordered_set<std::string> pickled_;
  std::unordered_map<std::string, at::Tensor> loaded_;
  std::unordered_map<int, size_t> weight_of_slot_;
  std::unordered_map<std::string, size_t> weight_of_;
  std::unordered_map<std::string, size_t> found_modules_;
  std::vector<ExportedModule> ordered_modules_;  // as they first ran
  std::map<std::tuple<int, std::string, std::string>, int> call_of_;

 public:
  static at::Tensor wrapped(const IValue& value) {
    at::Tensor tensor = value.isBool()  ? at::scalar_tensor(value.toBool(), at::kBool)
                        : value.isInt() ? at::scalar_tensor(value.toInt(), at::kLong)
                                        : at::scalar_tensor(value.toDouble(), at::kDouble);
    tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
    return tensor;
  }
};

}  // namespace

int ExportedNode::position(std::string_view argument) const {
  const auto& arguments = op->schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i)
    if (arguments[i].name() == argument) return static_cast<int>(i);
  return -1;
}

int ExportedNode::slot_at(int position) const {
  for (const Link& link : links)
    if (link.kind == Link::Kind::kValue && static_cast<int>(link.position) == position) return link.slots[0];
  return -1;
}

at::Tensor wrapped_number(const IValue& value) { return Reader::wrapped(value); }

at::Tensor weight_in(const at::Tensor& payload, const ExportedWeight& weight) {
  const auto wrong = [&](const char* what) {
    fail(code::kCheckpoint, "Expected ", what, " for ", weight.name, " but received sizes ",
         at::IntArrayRef(weight.sizes), ", strides ", at::IntArrayRef(weight.strides), " and offset ", weight.offset,
         " in ", payload.numel(), " bytes.");
  };
  const int64_t width = static_cast<int64_t>(c10::elementSize(weight.dtype));
  if (weight.sizes.size() != weight.strides.size() || weight.sizes.size() > 64) wrong("a stride for each size");
  int64_t count = 1, end = weight.offset;
  if (weight.offset < 0) wrong("an offset that is not negative");
  for (size_t i = 0; i < weight.sizes.size(); ++i) {
    int64_t reach;
    if (weight.sizes[i] < 0 || weight.strides[i] < 0) wrong("sizes and strides that are not negative");
    if (__builtin_mul_overflow(count, weight.sizes[i], &count) ||
        __builtin_mul_overflow(std::max<int64_t>(weight.sizes[i] - 1, 0), weight.strides[i], &reach) ||
        __builtin_add_overflow(end, reach, &end))
      wrong("sizes that a memory can hold");
  }
  const int64_t available = payload.numel() / width;
  if (count > 0 && end >= available) wrong("a tensor within its bytes");
  const at::NoGradGuard no_grad;
  if (count == 0) return payload.slice(0, 0, 0).view(weight.dtype).reshape(weight.sizes);
  return payload.slice(0, 0, available * width)
      .view(weight.dtype)
      .as_strided(weight.sizes, weight.strides, weight.offset);
}

LoadedProgram read_exported(const std::string& file) {
  try {
    return Reader(file).read();
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
