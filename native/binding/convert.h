#pragma once
// JavaScript values ↔ the core's values. Everything is copied: no array of JavaScript is read off its thread, and none
// is held while code of the caller may run (a getter, a Proxy's trap), which may detach or shrink it.
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "files/json.h"
#include "napi_setup.h"

namespace le::binding {

// Plain data only: functions and symbols are ERR_LE_OPTION; undefined properties are left out.
// Each property is read once; a million values at most.
Json to_json(const Napi::Value& value);
Napi::Value from_json(Napi::Env env, const Json& json);

std::string to_string(const Napi::Value& value, const char* what);

// A float tensor with a copy of the Float32Array's numbers. ERR_LE_SHAPE where data and shape do not fit.
at::Tensor to_tensor(const Napi::Value& data, const Napi::Value& shape, const char* what);
at::Tensor to_tensor(const Napi::Value& data, const std::vector<int64_t>& shape, const char* what);
// The same of a Uint8Array.
at::Tensor to_bytes(const Napi::Value& data, const Napi::Value& shape, const char* what);

// Memory that is filled off the JavaScript thread and then handed over to it without a copy. What is large, and shares
// its memory with no other tensor, is the tensor's own; anything else is copied.
class HostArray {
 public:
  HostArray() = default;
  explicit HostArray(const at::Tensor& tensor);  // float, double, uint8 or int64 (which becomes double)
  // {data: typed array, shape: number[]}; undefined for a HostArray of no tensor.
  Napi::Value release(Napi::Env env);

 private:
  std::shared_ptr<void> data_;
  size_t length_ = 0;
  napi_typedarray_type type_ = napi_float32_array;
  std::vector<int64_t> shape_;
};

}  // namespace le::binding
