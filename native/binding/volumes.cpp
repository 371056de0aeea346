#include "volumes.h"

#include "convert.h"
#include "errors.h"
#include "grid/resample.h"
#include "jobs.h"
#include "options.h"

namespace le::binding {

namespace {

// In the order of Between.
constexpr const char* kBetweenNames[] = {"nearest", "linear", "cubic"};

std::vector<Stretch> stretches_of(const Json& given) {
  std::vector<Stretch> stretches;
  for (const Json& one : given.array("stretches"))
    stretches.push_back({one.at("axis").integer("axis"), one.at("size").integer("size"),
                         static_cast<Between>(one_of("between", one.at("between").string("between"), kBetweenNames))});
  return stretches;
}

// resample(data, shape, stretches, labels) → Promise<NdArray>, of the data's type
Napi::Value resample_volume(const Napi::CallbackInfo& info) {
  const std::vector<Stretch> stretches = stretches_of(to_json(info[2]));
  const bool labels = info[3].ToBoolean();
  const bool bytes = info[0].IsTypedArray() && info[0].As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array;
  at::Tensor volume = bytes ? to_bytes(info[0], info[1], "volume") : to_tensor(info[0], info[1], "volume");
  if (labels && !bytes) throw Napi::TypeError::New(info.Env(), "Expected a Uint8Array for labels.");
  auto worker = std::make_shared<Worker>(info.Env());  // goes with the job
  const auto control = std::make_shared<JobControl>();
  const Napi::Value result =
      worker->run(info.Env(), control, [worker, control, volume = std::move(volume), stretches, labels]() -> Finish {
        auto array = std::make_shared<HostArray>((labels ? resample_labels : resample)(volume, stretches, *control));
        return [array](Napi::Env env) { return array->release(env); };
      });
  worker->thread().close();
  return result;
}

}  // namespace

void export_volumes(Napi::Object exports) { export_function<resample_volume>(exports, "resample"); }

}  // namespace le::binding
