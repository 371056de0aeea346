#include "backbones/script/arguments.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>

#include <utility>

#include "error.h"

namespace le::script {

namespace {

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

// "x: Tensor, n: int = 3"
std::string listed(const std::vector<c10::Argument>& arguments) {
  std::string text;
  for (size_t i = 1; i < arguments.size(); ++i)
    text += (i > 1 ? ", " : "") + arguments[i].name() + ": " + arguments[i].type()->repr_str();
  return text.empty() ? "none" : text;
}

}  // namespace

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

namespace {

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

}  // namespace

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

}  // namespace le::script
