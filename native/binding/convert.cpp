#include "convert.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "error.h"

namespace le::binding {

namespace {

class Reader {
 public:
  Json read(const Napi::Value& value, int depth) {
    if (depth > 16) fail(code::kOption, "Expected options nested at most 16 deep but received more.");
    if (++values_ > kMostValues) too_many();
    if (value.IsNull() || value.IsUndefined()) return nullptr;
    if (value.IsBoolean()) return value.As<Napi::Boolean>().Value();
    if (value.IsString()) return value.As<Napi::String>().Utf8Value();
    if (value.IsNumber()) {
      const double number = value.As<Napi::Number>().DoubleValue();
      if (std::abs(number) < 9e15 && number == std::trunc(number)) return static_cast<int64_t>(number);
      return number;
    }
    if (value.IsArray()) {
      const Napi::Array array = value.As<Napi::Array>();
      const uint32_t length = array.Length();
      if (length > kMostValues) too_many();
      Json::Array result;
      for (uint32_t i = 0; i < length; ++i) result.push_back(read(array.Get(i), depth + 1));
      return result;
    }
    if (value.IsObject() && !value.IsFunction()) {
      const Napi::Object object = value.As<Napi::Object>();
      Json::Object result;
      const Napi::Array names = object.GetPropertyNames();
      for (uint32_t i = 0; i < names.Length(); ++i) {
        const Napi::Value name = names.Get(i), property = object.Get(name);
        if (!property.IsUndefined()) result[name.ToString().Utf8Value()] = read(property, depth + 1);
      }
      return result;
    }
    fail(code::kOption, "Expected plain data in options but received a function or symbol.");
  }

 private:
  static constexpr uint32_t kMostValues = 1'000'000;
  [[noreturn]] static void too_many() {
    fail(code::kOption, "Expected at most ", kMostValues, " values in options but received more.");
  }
  uint32_t values_ = 0;
};

}  // namespace

Json to_json(const Napi::Value& value) { return Reader().read(value, 0); }

Napi::Value from_json(Napi::Env env, const Json& json) {
  // By way of text: one well-tested path, and no option is large.
  const Napi::Object parser = env.Global().Get("JSON").As<Napi::Object>();
  return parser.Get("parse").As<Napi::Function>().Call(parser, {Napi::String::New(env, json.dump())});
}

std::string to_string(const Napi::Value& value, const char* what) {
  if (!value.IsString()) throw Napi::TypeError::New(value.Env(), std::string("Expected a string for ") + what + ".");
  return value.As<Napi::String>().Utf8Value();
}

namespace {

std::vector<int64_t> sizes_of(const Napi::Value& shape, const char* what) {
  std::vector<int64_t> sizes;
  const Json given = to_json(shape);
  for (const Json& axis : given.array(what)) sizes.push_back(axis.integer(what));
  return sizes;
}

at::Tensor copied(const Napi::Value& data, const std::vector<int64_t>& shape, napi_typedarray_type type,
                  const char* what) {
  constexpr int64_t kMostNumbers = int64_t{1} << 40;
  int64_t count = 1;
  for (const int64_t size : shape) {
    if (size < 0 || size > kMostNumbers / std::max<int64_t>(1, count))
      fail(code::kShape, "Expected sizes of at least 0, and ", kMostNumbers, " numbers at most, for ", what,
           " but received a size of ", size, ".");
    count = std::max<int64_t>(1, count) * size;
  }
  const bool bytes = type == napi_uint8_array;
  if (!data.IsTypedArray() || data.As<Napi::TypedArray>().TypedArrayType() != type)
    throw Napi::TypeError::New(
        data.Env(), std::string("Expected a ") + (bytes ? "Uint8Array" : "Float32Array") + " for " + what + ".");
  // From here to the copy no JavaScript runs. Other threads may still write to memory that is shared: what is checked
  // is the copy.
  const size_t length = data.As<Napi::TypedArray>().ElementLength();
  if (count != static_cast<int64_t>(length))
    fail(code::kShape, "Expected ", count, " numbers for ", what, " of shape ", at::IntArrayRef(shape),
         " but received ", length, ".");
  at::Tensor tensor = at::empty(shape, bytes ? at::kByte : at::kFloat);
  const void* const from = bytes ? static_cast<const void*>(data.As<Napi::Uint8Array>().Data())
                                 : static_cast<const void*>(data.As<Napi::Float32Array>().Data());
  if (count) std::memcpy(tensor.mutable_data_ptr(), from, tensor.nbytes());
  return tensor;
}

}  // namespace

at::Tensor to_tensor(const Napi::Value& data, const Napi::Value& shape, const char* what) {
  return to_tensor(data, sizes_of(shape, what), what);
}

at::Tensor to_tensor(const Napi::Value& data, const std::vector<int64_t>& shape, const char* what) {
  return copied(data, shape, napi_float32_array, what);
}

at::Tensor to_bytes(const Napi::Value& data, const Napi::Value& shape, const char* what) {
  return copied(data, sizes_of(shape, what), napi_uint8_array, what);
}

// Bytes from which on two copies at a time are worth avoiding; below, memory of a batch would be held for one image of
// it.
constexpr size_t kLarge = size_t{8} << 20;

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
  if (bytes >= kLarge && host.storage().nbytes() == bytes) {
    data_ = {host.mutable_data_ptr(), [host](void*) mutable { host.reset(); }};
    return;
  }
  data_ = {std::malloc(bytes ? bytes : 1), std::free};
  if (!data_) throw std::bad_alloc();
  std::memcpy(data_.get(), host.const_data_ptr(), bytes);
}

Napi::Value HostArray::release(Napi::Env env) {
  if (!data_) return env.Undefined();
  const size_t width = type_ == napi_uint8_array ? 1 : type_ == napi_float64_array ? 8 : 4;
  auto owner = std::make_unique<std::shared_ptr<void>>(std::move(data_));
  data_.reset();
  const auto give_back = [](Napi::Env, void*, std::shared_ptr<void>* owner) { delete owner; };
  const auto buffer = Napi::ArrayBuffer::New(env, owner->get(), length_ * width, give_back, owner.get());
  owner.release();
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
