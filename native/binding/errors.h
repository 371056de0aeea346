#pragma once
// From C++ exceptions to JavaScript errors with `code` and, where libtorch or the system said more, `detail`.
#include <exception>
#include <string>

#include "napi_setup.h"

namespace le::binding {

struct Failure {
  std::string code, message, detail;
};

// Describes the exception in flight. May run on any thread.
Failure describe(std::exception_ptr exception);

Napi::Error to_error(Napi::Env env, const Failure& failure);

// C++ exceptions on the JavaScript thread (arguments that do not fit) become JavaScript errors here.
template <Napi::Value (*function)(const Napi::CallbackInfo&)>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  try {
    return function(info);
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_error(info.Env(), describe(std::current_exception()));
  }
}

template <Napi::Value (*function)(const Napi::CallbackInfo&)>
void export_function(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New(exports.Env(), guarded<function>, name));
}

}  // namespace le::binding
