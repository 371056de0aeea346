#include "kernels.h"

#include "convert.h"
#include "convolutions/check.h"
#include "convolutions/detours.h"
#include "convolutions/guard.h"
#include "convolutions/memory.h"
#include "errors.h"

namespace le::binding {

namespace {

// useCheckedMemory(): for a process that does nothing but check kernels
Napi::Value checked_memory(const Napi::CallbackInfo& info) {
  use_checked_memory();
  return info.Env().Undefined();
}

// describeKernel(call) → RawKernel
Napi::Value describe_one(const Napi::CallbackInfo& info) {
  return from_json(info.Env(), describe_kernel(ConvolutionCall::from(to_json(info[0]))));
}

// checkKernel(call, way) → {right, error, what}
Napi::Value check(const Napi::CallbackInfo& info) {
  const ConvolutionCall call = ConvolutionCall::from(to_json(info[0]));
  const KernelVerdict verdict = check_kernel(call, detour_named(to_string(info[1], "way")));
  return from_json(info.Env(),
                   Json::Object{{"right", verdict.right}, {"error", verdict.error}, {"what", verdict.what}});
}

// rememberKernel(call, way)
Napi::Value remember(const Napi::CallbackInfo& info) {
  remember_detour(ConvolutionCall::from(to_json(info[0])), detour_named(to_string(info[1], "way")));
  return info.Env().Undefined();
}

}  // namespace

Json describe_kernel(const ConvolutionCall& call) {
  // What is known to be wrong on some machine is not tried on this one.
  const Detour known = known_detour(call);
  Json::Array ways;
  for (const Detour detour : kDetours)
    if (detour == known || (detour > known && makes_a_difference(detour, call))) ways.emplace_back(detour_name(detour));
  return Json::Object{{"call", call.json()}, {"text", call.describe()}, {"ways", std::move(ways)}};
}

void export_kernels(Napi::Object exports) {
  export_function<checked_memory>(exports, "useCheckedMemory");
  export_function<describe_one>(exports, "describeKernel");
  export_function<check>(exports, "checkKernel");
  export_function<remember>(exports, "rememberKernel");
}

}  // namespace le::binding
