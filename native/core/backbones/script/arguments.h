#pragma once
// What forward is called with, and what of its result is the network's own.
#include <ATen/core/Tensor.h>
#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <string>
#include <vector>

#include "backbones/imported.h"

namespace le::script {

struct Arguments {
  size_t image;  // index, self not counted
  std::string image_name;
  std::vector<c10::IValue> values;  // of all, in order; that of the image is empty
};

// As the options say; ERR_LE_OPTION where they do not fit.
Arguments resolve_arguments(const c10::FunctionSchema& schema, const ImportOptions& options);

// What forward returned, as options.output asks for.
at::Tensor chosen_output(c10::IValue value, const Json::Array& path);

}  // namespace le::script
