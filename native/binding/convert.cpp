#include "convert.h"

#include <ATen/ops/empty.h>

#include <cstdlib>
#include <cstring>

#include "error.h"

namespace le::binding {

Json to_json(const Napi::Value& value, int depth) {
  if (depth > 16) fail(code::kOption, "Expected options nested at most 16 deep but received more.");
  if (value.IsNull() || value.IsUndefined()) return nullptr;
  if (value.IsBoolean()) return value.As<Napi::Boolean>().Value();
  if (value.IsString()) return value.As<Napi::String>().Utf8Value();
  if (value.IsNumber()) {
    const double number = value.As<Napi::Number>().DoubleValue();
    if (number == static_cast<double>(static_cast<int64_t>(number)) && std::abs(number) < 9e15)
      return static_cast<int64_t>(number);
    return number;
  }
  if (value.IsArray()) {
    const Napi::Array array = value.As<Napi::Array>();
    Json::Array result;
    for (uint32_t i = 0; i < array.Length(); ++i) result.push_back(to_json(array.Get(i), depth + 1));
    return result;
  }
  if (value.IsObject() && !value.IsFunction()) {
    const Napi::Object object = value.As<Napi::Object>();
    Json::Object result;
    const Napi::Array names = object.GetPropertyNames();
    for (uint32_t i = 0; i < names.Length(); ++i) {
      const Napi::Value property = object.Get(names.Get(i));
      if (!property.IsUndefined()) result[names.Get(i).ToString().Utf8Value()] = to_json(property, depth + 1);
    }
    return result;
  }
  fail(code::kOption, "Expected plain data in options but received a function or symbol.");
}

Napi::Value from_json(Napi::Env env, const Json& json) {
  // By way of text: one well-tested path, and no option is large.
  const Napi::Object parser = env.Global().Get("JSON").As<Napi::Object>();
  return parser.Get("parse").As<Napi::Function>().Call(parser, {Napi::String::New(env, json.dump())});
}

std::string to_string(const Napi::Value& value, const char* what) {
  if (!value.IsString()) throw Napi::TypeError::New(value.Env(), std::string("Expected a string for ") + what + ".");
  return value.As<Napi::String>().Utf8Value();
}

at::Tensor to_tensor(const Napi::Value& data, const Napi::Value& shape, const char* what) {
  if (!data.IsTypedArray() || data.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array)
    throw Napi::TypeError::New(data.Env(), std::string("Expected a Float32Array for ") + what + ".");
  const auto array = data.As<Napi::Float32Array>();
  std::vector<int64_t> sizes;
  int64_t count = 1;
  const Json given = to_json(shape);
  for (const Json& axis : given.array(what)) {
    sizes.push_back(axis.integer(what));
    if (sizes.back() < 0 || (sizes.back() > 0 && count > (int64_t{1} << 40) / sizes.back()))
      fail(code::kShape, "Expected sizes of at least 0 for ", what, " but received ", sizes.back(), ".");
    count *= sizes.back();
  }
  if (count != static_cast<int64_t>(array.ElementLength()))
    fail(code::kShape, "Expected ", count, " numbers for ", what, " of shape ", at::IntArrayRef(sizes),
         " but received ", array.ElementLength(), ".");
  at::Tensor tensor = at::empty(sizes, at::kFloat);
  if (count) std::memcpy(tensor.mutable_data_ptr<float>(), array.Data(), static_cast<size_t>(count) * sizeof(float));
  return tensor;
}

HostArray::HostArray(const at::Tensor& tensor) {
  if (!tensor.defined()) return;
  at::Tensor host = tensor.cpu();
  switch (host.scalar_type()) {
    case at::kByte:
      type_ = napi_uint8_array;
      break;
    case at::kDouble:
      type_ = napi_float64_array;
      break;
    case at::kLong:
      host = host.to(at::kDouble);
      type_ = napi_float64_array;
      break;
    default:
      host = host.to(at::kFloat);
  }
  host = host.contiguous();
  shape_ = host.sizes().vec();
  length_ = static_cast<size_t>(host.numel());
  const size_t bytes = length_ * host.element_size();
  data_.reset(std::malloc(bytes ? bytes : 1));
  if (!data_) throw std::bad_alloc();
  std::memcpy(data_.get(), host.const_data_ptr(), bytes);
}

Napi::Value HostArray::release(Napi::Env env) {
  if (!data_) return env.Undefined();
  const size_t width = type_ == napi_uint8_array ? 1 : type_ == napi_float64_array ? 8 : 4;
  void* data = data_.release();
  const auto buffer = Napi::ArrayBuffer::New(env, data, length_ * width, [](Napi::Env, void* p) { std::free(p); });
  napi_value array;
  if (napi_create_typedarray(env, type_, length_, buffer, 0, &array) != napi_ok)
    throw Napi::Error::New(env, "Could not make a typed array");
  Napi::Array shape = Napi::Array::New(env, shape_.size());
  for (size_t i = 0; i < shape_.size(); ++i)
    shape.Set(static_cast<uint32_t>(i), Napi::Number::New(env, static_cast<double>(shape_[i])));
  Napi::Object result = Napi::Object::New(env);
  result.Set("data", Napi::Value(env, array));
  result.Set("shape", shape);
  return result;
}

}  // namespace le::binding
