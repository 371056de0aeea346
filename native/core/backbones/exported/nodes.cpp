#include "backbones/exported/reader.h"

#include <ATen/core/function_schema.h>

#include <algorithm>

#include "backbones/exported/arguments.h"
#include "backbones/exported/operators.h"
#include "backbones/exported/schema.h"
#include "error.h"

namespace le::exported {

void Reader::read_node(const Json& json) {
  ExportedNode node;
  node.target = json.at("target").string("target");
  node.name = json.string_or("name", "");
  if (is_ignored(node.target)) return;
  if (node.target.starts_with("torch.ops.higher_order."))
    fail(code::kCheckpoint, "Expected plain operations but received the higher-order operator ", node.target.substr(23),
         ", which cannot be run here: export a network without it (for control flow, use ",
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

void Reader::read_call(ExportedNode& node, const Json::Array& inputs) {
  std::string name = node.target.substr(15), overload;
  if (const size_t dot = name.find('.'); dot != std::string::npos) {
    overload = name.substr(dot + 1);
    name.resize(dot);
  }
  if (overload == "default") overload.clear();
  if (is_refused(name))
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

template <class AddLink, class AddConstant>
void Reader::read_symbols(const AddLink& link, const AddConstant& constant, const std::string& kind, const Json& value,
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

// `type`: what the operator takes; null for a symbol operator, which takes anything.
void Reader::read_argument(ExportedNode& node, size_t position, const c10::Type* type, int32_t count,
                           const Json& argument) {
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
    require(element && (optional || (is_tensor(*element) && std::find(slots.begin(), slots.end(), -1) == slots.end())));
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

IValue Reader::fixed_value(const std::string& kind, const Json& value) const {
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

void Reader::read_outputs(ExportedNode& node, const Json::Array& outputs) {
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

}  // namespace le::exported
