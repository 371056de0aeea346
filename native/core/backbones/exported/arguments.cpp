#include "backbones/exported/arguments.h"

#include <ATen/ops/scalar_tensor.h>

#include <algorithm>
#include <string>
#include <vector>

#include "backbones/exported/schema.h"
#include "error.h"

namespace le::exported {

using c10::IValue;

at::Tensor wrapped_number(const IValue& value) {
  at::Tensor tensor = value.isBool()  ? at::scalar_tensor(value.toBool(), at::kBool)
                      : value.isInt() ? at::scalar_tensor(value.toInt(), at::kLong)
                                      : at::scalar_tensor(value.toDouble(), at::kDouble);
  tensor.unsafeGetTensorImpl()->set_wrapped_number(true);
  return tensor;
}

IValue coerced(const c10::Type& type, int32_t count, IValue value) {
  const auto refuse = [&]() -> IValue {
    fail(code::kCheckpoint, "Expected ", type.repr_str(), " for an argument but received ", value.tagKind(), ".");
  };
  switch (type.kind()) {
    case c10::TypeKind::OptionalType:
      if (value.isNone()) return value;
      return coerced(*type.castRaw<c10::OptionalType>()->getElementType(), count, std::move(value));
    case c10::TypeKind::TensorType:
      return value.isInt() || value.isDouble() || value.isBool() ? wrapped_number(value) : refuse();
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

}  // namespace le::exported
