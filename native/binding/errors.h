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

}  // namespace le::binding
