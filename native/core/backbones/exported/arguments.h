#pragma once
// What Python's argument parser makes of numbers.
#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>

#include <cstdint>

namespace le::exported {

// The tensor that it makes of a number between tensors: it does not decide the type of the result.
at::Tensor wrapped_number(const c10::IValue& value);

// What it makes of a constant where an operator takes `type`, of lists `count` elements.
c10::IValue coerced(const c10::Type& type, int32_t count, c10::IValue value);

}  // namespace le::exported
