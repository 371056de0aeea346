// The addon's entry point, and what concerns the process as a whole.
#include <ATen/Parallel.h>
#include <torch/version.h>

#include "convert.h"
#include "convolutions/guard.h"
#include "errors.h"
#include "jobs.h"
#include "kernels.h"
#include "models.h"
#include "napi_setup.h"
#include "options.h"
#include "platform/allocator.h"
#include "platform/device.h"
#include "platform/threads.h"
#include "version.h"
#include "volumes.h"

namespace {

using namespace le;
using namespace le::binding;

// configure(options)
Napi::Value configure(const Napi::CallbackInfo& info) {
  const Json options = to_json(info[0]);
  if (options.has("threads")) {
    const int64_t threads = options.at("threads").integer("threads");
    at::set_num_threads(static_cast<int>(in_range("threads", threads, {1, 1024})));
  }
  if (options.has("allocator")) use_pool_allocator(options.at("allocator").string("allocator") == "pool");
  return info.Env().Undefined();
}

// info(): of the device, libtorch and this addon
Napi::Value info(const Napi::CallbackInfo& info) {
  Napi::Object result = from_json(info.Env(), device_info()).As<Napi::Object>();
  result.Set("addon", kVersion);
  result.Set("builtFor", TORCH_VERSION);
  return result;
}

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  static const bool pooled = (use_pool_allocator(true), true);  // once per process; configure() may switch it off
  (void)pooled;
  end_threads_at_exit();
  guard_convolutions();
  Channel::install(env);
  export_function<configure>(exports, "configure");
  export_function<info>(exports, "info");
  export_models(exports);
  export_kernels(exports);
  export_volumes(exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(layer_ensembles, initialise)
