#pragma once
// The Python functions on numbers that torch.export leaves in a program: sizes are computed with them.
#include <ATen/core/ivalue.h>

#include <string>
#include <vector>

namespace le {

// Takes its arguments and returns the result. ERR_LE_SHAPE for a division by zero, an overflow, or kinds of number that
// do not fit: such sizes come from the shape of the input.
using Symbolic = c10::IValue (*)(const std::vector<c10::IValue>& arguments);

// By the name in the program, such as "_operator.floordiv"; null where it is not known.
Symbolic symbolic(const std::string& target);

}  // namespace le
