#pragma once
// A handle is a plain JavaScript object that owns a shared_ptr and carries a type tag.
#include <memory>

#include "type_tags.h"

namespace le::binding {

template <class T>
Napi::Object make_handle(Napi::Env env, std::shared_ptr<T> value, const napi_type_tag& tag) {
  Napi::Object handle = Napi::Object::New(env);
  auto box = std::make_unique<std::shared_ptr<T>>(std::move(value));
  // Runs no JavaScript, and waits for nothing.
  const auto finalize = [](napi_env env, void* data, void*) {
    const std::unique_ptr<std::shared_ptr<T>> box(static_cast<std::shared_ptr<T>*>(data));
    if constexpr (requires { (*box)->report_memory(env, 0); }) (*box)->report_memory(env, 0);
  };
  if (napi_wrap(env, handle, box.get(), finalize, nullptr, nullptr) != napi_ok)
    throw Napi::Error::New(env, "Could not wrap a native object");
  box.release();
  handle.TypeTag(&tag);
  return handle;
}

// TypeError for anything that make_handle did not make with this tag.
template <class T>
std::shared_ptr<T> from_handle(const Napi::Value& value, const napi_type_tag& tag, const char* what) {
  if (value.IsObject()) {
    Napi::Object object = value.As<Napi::Object>();
    void* data = nullptr;
    if (object.CheckTypeTag(&tag) && napi_unwrap(value.Env(), object, &data) == napi_ok)
      return *static_cast<std::shared_ptr<T>*>(data);
  }
  throw Napi::TypeError::New(value.Env(), std::string("Expected a native ") + what + " but received something else.");
}

}  // namespace le::binding
