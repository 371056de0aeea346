#include "errors.h"

#include <c10/util/Exception.h>

#include <new>

#include "error.h"

namespace le::binding {

Failure describe(std::exception_ptr exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    return {error.code(), error.what(), error.cause()};
  } catch (const std::bad_alloc&) {
    return {code::kMemory, "Expected enough memory but the system refused it: use smaller batches or images.", ""};
  } catch (const c10::Error& error) {
    const std::string detail = error.what_without_backtrace();
    const bool memory =
        dynamic_cast<const c10::OutOfMemoryError*>(&error) || detail.find("can't allocate memory") != std::string::npos;
    if (memory)
      return {code::kMemory, "Expected enough memory but the device refused it: use smaller batches.", detail};
    return {code::kInternal, "libtorch refused an operation: " + detail.substr(0, detail.find('\n')), detail};
  } catch (const std::exception& error) {
    return {code::kInternal, std::string("An operation failed: ") + error.what(), ""};
  } catch (...) {
    return {code::kInternal, "An operation failed for an unknown reason.", ""};
  }
}

Napi::Error to_error(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, failure.message);
  error.Set("code", Napi::String::New(env, failure.code));
  if (!failure.detail.empty()) error.Set("detail", Napi::String::New(env, failure.detail));
  return error;
}

}  // namespace le::binding
