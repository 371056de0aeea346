#include "models.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <mutex>
#include <set>

#include "backbones/backbone.h"
#include "backbones/encoder_weights.h"
#include "backbones/output_flow.h"
#include "convert.h"
#include "ensemble.h"
#include "errors.h"
#include "files/file_kind.h"
#include "files/weights_file.h"
#include "handles.h"
#include "jobs.h"
#include "kernels.h"
#include "numbers.h"
#include "platform/device.h"
#include "prediction/predict.h"
#include "tiles/predict_tiles.h"
#include "training/train.h"

namespace le::binding {

namespace {

// A backbone and the thread that runs everything done with it, so that no two jobs touch one network at a time.
struct BackboneHandle {
  explicit BackboneHandle(Napi::Env env) : worker(env) {}
  std::shared_ptr<Backbone> backbone;  // null before it is created and after it is disposed of
  Worker worker;
  std::mutex in_use;  // a prediction by several networks runs on the worker of the first
  bool disposed = false;
  std::atomic<bool> may_loop{false};  // a program whose pass may never come back
  int64_t bytes = 0;
  int64_t reported = 0;  // of `bytes`, as external memory, to V8; for the JavaScript thread alone

  void report_memory(napi_env env, int64_t now) {
    int64_t total = 0;
    napi_adjust_external_memory(env, now - reported, &total);
    reported = now;
  }

  Backbone& get() const {
    if (!backbone) fail(code::kDisposed, "Expected a backbone that is in use but received one that was disposed of.");
    return *backbone;
  }
};

struct EnsembleHandle {
  explicit EnsembleHandle(std::shared_ptr<BackboneHandle> owner) : owner(std::move(owner)) {}
  std::shared_ptr<BackboneHandle> owner;
  std::unique_ptr<Ensemble> ensemble;
  at::ScalarType dtype = at::kFloat;
  bool disposed = false;

  Ensemble& get() const {
    if (!ensemble || !owner->backbone)
      fail(code::kDisposed, "Expected an ensemble that is in use but received one that was disposed of.");
    return *ensemble;
  }
};

std::shared_ptr<BackboneHandle> backbone_of(const Napi::CallbackInfo& info) {
  auto handle = from_handle<BackboneHandle>(info[0], kBackboneTag, "backbone");
  if (handle->disposed) fail(code::kDisposed, "Expected a backbone in use but received one that was disposed of.");
  return handle;
}

std::shared_ptr<EnsembleHandle> ensemble_of(const Napi::CallbackInfo& info) {
  auto handle = from_handle<EnsembleHandle>(info[0], kEnsembleTag, "ensemble");
  if (handle->disposed || handle->owner->disposed)
    fail(code::kDisposed, "Expected an ensemble in use but received one that was disposed of.");
  return handle;
}

// The caller's end of the job, or a fresh one where it gave none.
std::shared_ptr<JobControl> control_of(const Napi::Value& value) {
  if (value.IsUndefined() || value.IsNull()) return std::make_shared<JobControl>();
  return from_handle<JobControl>(value, kControlTag, "control");
}

// Work on one network, on its own thread and with no other work on it.
Napi::Value run_on(Napi::Env env, const std::shared_ptr<BackboneHandle>& owner,
                   const std::shared_ptr<JobControl>& control, std::function<Finish()> work) {
  return owner->worker.run(env, control, [owner, work = std::move(work)]() -> Finish {
    const std::lock_guard lock(owner->in_use);
    return work();
  });
}

// The same where a stop may be heard in the middle: what only reads the network.
Napi::Value read_on(Napi::Env env, const std::shared_ptr<BackboneHandle>& owner, std::function<Finish()> work) {
  const auto control = std::make_shared<JobControl>();
  return run_on(env, owner, control, [control, work = std::move(work)] {
    const HeardInside heard(*control);
    return work();
  });
}

// The ensembles whose heads make one prediction.
std::vector<std::shared_ptr<EnsembleHandle>> members_of(const Napi::CallbackInfo& info) {
  if (!info[0].IsArray()) throw Napi::TypeError::New(info.Env(), "Expected an array of ensembles.");
  const Napi::Array given = info[0].As<Napi::Array>();
  std::vector<std::shared_ptr<EnsembleHandle>> members;
  for (uint32_t i = 0; i < given.Length(); ++i) {
    members.push_back(from_handle<EnsembleHandle>(given.Get(i), kEnsembleTag, "ensemble"));
    if (members.back()->disposed || members.back()->owner->disposed)
      fail(code::kDisposed, "Expected an ensemble in use but received one that was disposed of.");
  }
  if (members.empty()) throw Napi::TypeError::New(info.Env(), "Expected an array of ensembles.");
  return members;
}

// Work on several networks, on the thread of the first and with no other work on any of them.
Napi::Value run_on_all(Napi::Env env, std::vector<std::shared_ptr<EnsembleHandle>> members,
                       const std::shared_ptr<JobControl>& control,
                       std::function<Finish(const Members&, at::ScalarType)> work) {
  Worker& worker = members.front()->owner->worker;
  return worker.run(env, control, [members = std::move(members), work = std::move(work)]() -> Finish {
    // In one order, whoever asks: two that wait for each other would wait forever.
    std::set<BackboneHandle*> owners;
    for (const auto& member : members) owners.insert(member->owner.get());
    std::vector<std::unique_lock<std::mutex>> locks;
    for (BackboneHandle* owner : owners) locks.emplace_back(owner->in_use);
    Members all;
    for (const auto& member : members) all.push_back(&member->get());
    return work(all, members.front()->dtype);
  });
}

Finish finish_json(Json json) {
  return [json = std::move(json)](Napi::Env env) { return from_json(env, json); };
}

int64_t bytes_of(const NamedTensors& tensors) {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : tensors) bytes += static_cast<int64_t>(tensor.nbytes());
  return bytes;
}

Json describe_layers(const Backbone& backbone) {
  Json::Array layers;
  for (const Layer& layer : backbone.layers()) {
    Json::Object entry{
        {"name", layer.name}, {"type", layer.type}, {"parameters", layer.parameters}, {"tappable", layer.tappable}};
    if (!layer.tappable) entry["whyNot"] = layer.why_not;
    if (!layer.alias_of.empty()) entry["aliasOf"] = layer.alias_of;
    layers.emplace_back(std::move(entry));
  }
  return layers;
}

Json integers(const std::vector<int64_t>& values) { return Json::Array(values.begin(), values.end()); }

// A copy: the file holds what the tensors were when the job ran.
NamedTensors backbone_state(const Backbone& backbone, const std::string& prefix) {
  NamedTensors chosen;
  for (auto& [name, tensor] : state_of(backbone))
    if (name.starts_with(prefix)) chosen.emplace_back(name.substr(prefix.size()), std::move(tensor));
  return chosen;
}

// createBackbone(config) → {handle, ready: Promise<RawBackbone>}
Napi::Value create_backbone(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto handle = std::make_shared<BackboneHandle>(env);
  Napi::Object result = Napi::Object::New(env);
  result.Set("handle", make_handle(env, handle, kBackboneTag));
  result.Set("ready",
             run_on(env, handle, std::make_shared<JobControl>(), [handle, config = to_json(info[0])]() -> Finish {
               handle->backbone = make_backbone(config);
               handle->bytes = bytes_of(handle->backbone->parameters());
               handle->may_loop = handle->backbone->config().string_or("kind", "") == "torchscript";
               const Json described = Json::Object{{"layers", describe_layers(*handle->backbone)},
                                                   {"inChannels", handle->backbone->in_channels()},
                                                   {"spatialAxes", handle->backbone->spatial_axes()},
                                                   {"exampleSize", integers(handle->backbone->example_size())},
                                                   {"config", handle->backbone->config()}};
               return [handle, described](Napi::Env env) {
                 if (!handle->disposed) handle->report_memory(env, handle->bytes);
                 return from_json(env, described);
               };
             }));
  return result;
}

// fileKind(path) → Promise<FileKind>
Napi::Value kind_of_file(const Napi::CallbackInfo& info) {
  const std::string path = to_string(info[0], "path");
  auto worker = std::make_shared<Worker>(info.Env());  // goes with the job
  const Napi::Value result = worker->run(info.Env(), std::make_shared<JobControl>(), [worker, path]() -> Finish {
    return finish_json(kind_name(file_kind(path)));
  });
  worker->thread().close();
  return result;
}

// disposeBackbone(backbone) → Promise<void>, after the jobs before it
Napi::Value dispose_backbone(const Napi::CallbackInfo& info) {
  auto handle = from_handle<BackboneHandle>(info[0], kBackboneTag, "backbone");
  if (handle->disposed) {
    const auto deferred = Napi::Promise::Deferred::New(info.Env());
    deferred.Resolve(info.Env().Undefined());
    return deferred.Promise();
  }
  handle->disposed = true;
  const Napi::Value result = run_on(info.Env(), handle, std::make_shared<JobControl>(), [handle]() -> Finish {
    handle->backbone.reset();
    return [handle](Napi::Env env) {
      handle->report_memory(env, 0);
      return env.Undefined();
    };
  });
  handle->worker.thread().close();
  return result;
}

// The network of a backbone's handle or of an ensemble's, disposed of or not.
std::shared_ptr<BackboneHandle> owner_of(const Napi::Value& value) {
  if (value.IsObject() && value.As<Napi::Object>().CheckTypeTag(&kEnsembleTag))
    return from_handle<EnsembleHandle>(value, kEnsembleTag, "ensemble")->owner;
  return from_handle<BackboneHandle>(value, kBackboneTag, "backbone");
}

// jobsLife(network) → a number that changes while its jobs get on; undefined for a network that cannot loop
Napi::Value jobs_life(const Napi::CallbackInfo& info) {
  const auto owner = owner_of(info[0]);
  if (!owner->may_loop) return info.Env().Undefined();
  return Napi::Number::New(info.Env(), static_cast<double>(owner->worker.thread().life()));
}

// stopJobs(network): tells all its jobs to stop
Napi::Value stop_jobs(const Napi::CallbackInfo& info) {
  owner_of(info[0])->worker.thread().stop();
  return info.Env().Undefined();
}

// giveUpJobs(network): rejects what waits for its jobs, though one may still run
Napi::Value give_up_jobs(const Napi::CallbackInfo& info) {
  const auto owner = owner_of(info[0]);
  owner->worker.thread().stop();
  owner->worker.give_up(info.Env());
  return info.Env().Undefined();
}

// Where the network is: one that is used as a model may be on another device than the CPU.
c10::Device device_of(const Backbone& backbone) {
  const NamedTensors parameters = backbone.parameters();
  return parameters.empty() ? c10::Device(c10::kCPU) : parameters.front().second.device();
}

// traceBackbone(backbone, shape) → Promise<[{name, shape}]>
Napi::Value trace_backbone(const Napi::CallbackInfo& info) {
  auto handle = backbone_of(info);
  std::vector<int64_t> shape;
  const Json given = to_json(info[1]);
  for (const Json& axis : given.array("input shape")) shape.push_back(axis.integer("input shape"));
  return read_on(info.Env(), handle, [handle, shape]() -> Finish {
    Json::Array calls;
    for (const Call& call : handle->get().trace(at::zeros(shape, device_of(handle->get()))))
      calls.emplace_back(Json::Object{{"name", call.name}, {"shape", integers(call.shape)}});
    return finish_json(std::move(calls));
  });
}

// traceOutput(backbone, shape, features) → Promise<{shape, features?, reason?}>: of what forward returns
Napi::Value trace_output(const Napi::CallbackInfo& info) {
  auto handle = backbone_of(info);
  std::vector<int64_t> shape;
  const Json given = to_json(info[1]);
  for (const Json& axis : given.array("input shape")) shape.push_back(axis.integer("input shape"));
  return read_on(info.Env(), handle, [handle, shape, find = info[2].ToBoolean().Value()]() -> Finish {
    Backbone& backbone = handle->get();
    const at::Tensor image = at::randn(shape, at::detail::createCPUGenerator(0));
    Json::Object result;
    if (find) {
      const Features features = find_features(backbone, image);
      result = {{"features", features.layer}, {"reason", features.reason}};
    } else {
      const at::NoGradGuard no_grad;
      backbone.train(false);
      const at::Tensor output = backbone.forward(image, nullptr).output;
      result = {{"shape", integers(is_map(output, image) ? output.sizes().vec() : std::vector<int64_t>())}};
    }
    return finish_json(std::move(result));
  });
}

// Adds the file's name to an error that does not know it.
template <class Work>
auto of_file(const std::string& path, Work work) {
  try {
    return work();
  } catch (const Error& error) {
    if (error.code() != code::kCheckpoint || std::string(error.what()).find(path) != std::string::npos) throw;
    throw Error(error.code(), path + ": " + error.what(), error.cause());
  }
}

Json described(const LoadReport& report) {
  return Json::Object{{"missing", Json::Array(report.missing.begin(), report.missing.end())},
                      {"unexpected", Json::Array(report.unexpected.begin(), report.unexpected.end())},
                      {"prefix", report.prefix},
                      {"loaded", static_cast<int64_t>(report.loaded)}};
}

// A string, or none where JavaScript gave null.
std::optional<std::string> optional_string(const Napi::Value& value, const char* name) {
  if (value.IsNull() || value.IsUndefined()) return std::nullopt;
  return to_string(value, name);
}

// loadEncoder(backbone, path, prefix) → Promise<RawLoadReport>
Napi::Value load_encoder_weights(const Napi::CallbackInfo& info) {
  auto handle = backbone_of(info);
  return run_on(info.Env(), handle, std::make_shared<JobControl>(),
                [handle, path = to_string(info[1], "path"), prefix = optional_string(info[2], "prefix")]() -> Finish {
                  return finish_json(described(
                      of_file(path, [&] { return load_encoder(handle->get(), read_state_dicts(path), prefix); })));
                });
}

// loadBackbone(backbone, path, options) → Promise<RawLoadReport>
Napi::Value load_backbone(const Napi::CallbackInfo& info) {
  auto handle = backbone_of(info);
  const Json given = to_json(info[2]);
  LoadOptions options{given.at("strict").boolean("strict"), given.at("part").string("part"), {}};
  if (given.has("prefix")) options.prefix = given.at("prefix").string("prefix");
  return run_on(info.Env(), handle, std::make_shared<JobControl>(),
                [handle, path = to_string(info[1], "path"), options]() -> Finish {
                  return finish_json(described(
                      of_file(path, [&] { return load_weights(handle->get(), read_state_dicts(path), options); })));
                });
}

// What is written is read back by others, who would not look.
void check_saved(const NamedTensors& parameters, const NamedTensors& buffers) {
  check_numbers(parameters, buffers, code::kDiverged, "a network to save", "its training diverged: load it anew");
}

// saveBackbone(backbone, path, prefix) → Promise<void>
Napi::Value save_backbone(const Napi::CallbackInfo& info) {
  auto handle = backbone_of(info);
  return run_on(info.Env(), handle, std::make_shared<JobControl>(),
                [handle, path = to_string(info[1], "path"), prefix = to_string(info[2], "prefix")]() -> Finish {
                  const NamedTensors state = backbone_state(handle->get(), prefix);
                  check_saved(handle->get().parameters(), handle->get().buffers());
                  if (state.empty())
                    fail(code::kOption, "Expected the prefix of some parameter but received '", prefix, "'.");
                  write_safetensors(path, state, {{"format", "pt"}});
                  return {};
                });
}

// saveModel(backbone, path) → Promise<void>, in the format that the network came from
Napi::Value save_model(const Napi::CallbackInfo& info) {
  auto handle = backbone_of(info);
  return run_on(info.Env(), handle, std::make_shared<JobControl>(),
                [handle, path = to_string(info[1], "path")]() -> Finish {
                  check_saved(handle->get().parameters(), handle->get().buffers());
                  handle->get().save(path);
                  return {};
                });
}

// createEnsemble(backbone, options) → {handle, ready: Promise<RawEnsemble>}
Napi::Value create_ensemble(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto handle = std::make_shared<EnsembleHandle>(backbone_of(info));
  Napi::Object result = Napi::Object::New(env);
  result.Set("handle", make_handle(env, handle, kEnsembleTag));
  const auto work = [handle, options = to_json(info[1])]() -> Finish {
    handle->owner->get();
    const c10::Device device = resolve_device(options.at("device").string("device"));
    prepare_device(device);
    handle->dtype = resolve_precision(options.at("precision").string("precision"), device);
    // The probe runs where the backbone is put last: on the CPU.
    handle->owner->backbone->to(c10::kCPU, false);
    handle->ensemble = std::make_unique<Ensemble>(handle->owner->backbone, EnsembleOptions::from(options));
    handle->ensemble->to(device, options.at("channelsLast").boolean("channelsLast"));
    Json::Array heads;
    for (const HeadInfo& head : handle->ensemble->heads())
      heads.emplace_back(Json::Object{
          {"name", head.name}, {"tap", head.tap}, {"channels", head.channels}, {"size", integers(head.size)}});
    return finish_json(Json::Object{{"heads", std::move(heads)},
                                    {"device", device.str()},
                                    {"precision", handle->dtype == at::kBFloat16 ? "bf16" : "fp32"},
                                    {"parameters", handle->ensemble->parameter_count()},
                                    {"hasDropout", handle->ensemble->has_dropout()}});
  };
  result.Set("ready", run_on(env, handle->owner, std::make_shared<JobControl>(), work));
  return result;
}

// disposeEnsemble(ensemble) → Promise<void>; the backbone stays
Napi::Value dispose_ensemble(const Napi::CallbackInfo& info) {
  auto handle = from_handle<EnsembleHandle>(info[0], kEnsembleTag, "ensemble");
  handle->disposed = true;
  return run_on(info.Env(), handle->owner, std::make_shared<JobControl>(), [handle]() -> Finish {
    handle->ensemble.reset();
    return {};
  });
}

// Logits by head, as arrays.
Finish heads_of(const std::vector<at::Tensor>& logits) {
  const auto arrays = std::make_shared<std::vector<HostArray>>();
  for (const at::Tensor& head : logits) arrays->emplace_back(head);
  return [arrays](Napi::Env env) {
    Napi::Array result = Napi::Array::New(env, arrays->size());
    for (size_t k = 0; k < arrays->size(); ++k) result.Set(static_cast<uint32_t>(k), (*arrays)[k].release(env));
    return result;
  };
}

// forward(ensembles, data, shape, sampling, control?) → Promise<NdArray[]>, by head
Napi::Value forward_images(const Napi::CallbackInfo& info) {
  const Json sampling = to_json(info[3]);
  auto control = control_of(info[4]);
  auto members = members_of(info);
  return run_on_all(
      info.Env(), std::move(members), control,
      [images = to_tensor(info[1], info[2], "images"), count = sampling.at("passes").integer("passes"),
       seed = sampling.at("seed").integer("seed"), control](const Members& all, at::ScalarType dtype) -> Finish {
        const HeardInside heard(*control);
        return heads_of(forward(all, images, dtype, count, static_cast<uint64_t>(seed)));
      });
}

// One prediction, filled off the JavaScript thread.
class PredictionArrays {
 public:
  explicit PredictionArrays(const Predicted& predicted) {
    const auto one = [](const at::Tensor& tensor) { return tensor.defined() ? HostArray(tensor[0]) : HostArray(); };
    reduced_ = predicted.each(one);
    for (const at::Tensor& values : predicted.tap_statistics) statistics_.push_back(one(values));
  }

  // RawPrediction
  Napi::Object release(Napi::Env env) {
    Napi::Object result = Napi::Object::New(env);
    Napi::Array maps = Napi::Array::New(env, kMapCount);
    for (unsigned map = 0; map < kMapCount; ++map) maps.Set(map, reduced_.maps[map].release(env));
    result.Set("probabilities", reduced_.probabilities.release(env));
    result.Set("mask", reduced_.mask.release(env));
    result.Set("maps", maps);
    result.Set("labels", reduced_.labels.release(env));
    result.Set("summaries", reduced_.summaries.release(env));
    result.Set("classSums", reduced_.class_sums.release(env));
    result.Set("headSums", reduced_.head_sums.release(env));
    result.Set("counts", reduced_.counts.release(env));
    result.Set("intersections", reduced_.intersections.release(env));
    result.Set("confusion", reduced_.confusion.release(env));
    result.Set("rounds", reduced_.rounds.release(env));
    Napi::Array taps = Napi::Array::New(env, statistics_.size());
    for (uint32_t t = 0; t < statistics_.size(); ++t) taps.Set(t, statistics_[t].release(env));
    result.Set("tapStatistics", taps);
    return result;
  }

 private:
  ReducedAs<HostArray> reduced_;
  std::vector<HostArray> statistics_;
};

// predict(ensembles, data, shapes, options, control?) → Promise<RawPrediction[]>
Napi::Value predict_images(const Napi::CallbackInfo& info) {
  PredictOptions options = PredictOptions::from(to_json(info[3]));
  auto control = control_of(info[4]);
  if (!info[1].IsArray() || !info[2].IsArray())
    throw Napi::TypeError::New(info.Env(), "Expected arrays of data and of shapes.");
  const Napi::Array data = info[1].As<Napi::Array>(), shapes = info[2].As<Napi::Array>();
  std::vector<at::Tensor> images;
  for (uint32_t i = 0; i < data.Length(); ++i) images.push_back(to_tensor(data.Get(i), shapes.Get(i), "image"));
  auto members = members_of(info);  // last: what was disposed of in mid-call is seen
  return run_on_all(
      info.Env(), std::move(members), control,
      [images = std::move(images), options, control](const Members& networks, at::ScalarType dtype) -> Finish {
        PredictOptions in_type = options;
        in_type.dtype = dtype;
        auto all = std::make_shared<std::vector<PredictionArrays>>();
        for (const Predicted& predicted : predict(networks, images, in_type, *control)) all->emplace_back(predicted);
        return [all](Napi::Env env) {
          Napi::Array results = Napi::Array::New(env, all->size());
          for (size_t i = 0; i < all->size(); ++i) results.Set(static_cast<uint32_t>(i), (*all)[i].release(env));
          return results;
        };
      });
}

// Functions of JavaScript that a job calls. References may only be dropped on the JavaScript thread, so they are
// dropped by the job's last step there, never by a destructor.
struct Callbacks {
  Napi::FunctionReference event, question;
  explicit Callbacks(const Napi::CallbackInfo& info, size_t event_index, size_t question_index) {
    event.SuppressDestruct();
    question.SuppressDestruct();
    if (info[event_index].IsFunction()) event = Napi::Persistent(info[event_index].As<Napi::Function>());
    if (info[question_index].IsFunction()) question = Napi::Persistent(info[question_index].As<Napi::Function>());
  }
  void drop() {
    if (!event.IsEmpty()) event.Reset();
    if (!question.IsEmpty()) question.Reset();
  }
};

// The job `work`, whose events are told to `callbacks`, which are dropped behind it.
template <class Work>
auto told(Napi::Env env, const std::shared_ptr<Callbacks>& callbacks, const std::shared_ptr<JobControl>& control,
          Work work) {
  const std::shared_ptr<Channel> channel = Channel::of(env);
  control->report = [channel, callbacks](const Json& event) {
    channel->post([callbacks, text = event.dump()](Napi::Env env) {
      if (!callbacks->event.IsEmpty()) callbacks->event.Call({Napi::String::New(env, text)});
    });
  };
  return [channel, callbacks, control, work = std::move(work)](auto&&... given) -> Finish {
    const auto end = [&] {
      control->report = nullptr;
      channel->post([callbacks](Napi::Env) { callbacks->drop(); });
    };
    try {
      Finish finish = work(given...);
      end();
      return finish;
    } catch (...) {
      end();
      throw;
    }
  };
}

// The rows of an image that the caller reads: its function gets (begin, end, answer) and calls answer(Float32Array), or
// answer(message) where there are none.
ImageSource callback_source(std::vector<int64_t> shape, const std::shared_ptr<Channel>& channel,
                            const std::shared_ptr<Callbacks>& callbacks,
                            const std::shared_ptr<const Control>& control) {
  const auto read = [shape, channel, callbacks, control](int64_t begin, int64_t end) {
    std::vector<int64_t> sizes = shape;
    sizes[1] = end - begin;
    return ask_js_later<at::Tensor>(
        *channel, control,
        [callbacks, begin, end, sizes](Napi::Env env, const std::shared_ptr<Answer<at::Tensor>>& answer) {
          const auto take = [answer, sizes](const Napi::CallbackInfo& info) {
            try {
              if (info[0].IsString()) fail(code::kOption, to_string(info[0], "message"));
              answer->give(to_tensor(info[0], sizes, "the rows of an image"));
            } catch (...) {
              answer->fail(std::current_exception());
            }
          };
          callbacks->question.Call({Napi::Number::New(env, static_cast<double>(begin)),
                                    Napi::Number::New(env, static_cast<double>(end)), Napi::Function::New(env, take)});
        });
  };
  return {std::move(shape), read};
}

// A job on an image that is read by rows: (ensembles, shape, read, tiles, options, onEvent, control?). `work` gives
// what finishes it.
template <typename Work>
Napi::Value on_tiles(const Napi::CallbackInfo& info, const Work& work) {
  const Napi::Env env = info.Env();
  std::vector<int64_t> shape;
  const Json given = to_json(info[1]);
  for (const Json& axis : given.array("image shape")) shape.push_back(axis.integer("image shape"));
  const TileOptions tiles = TileOptions::from(to_json(info[3]));
  PredictOptions options = PredictOptions::from(to_json(info[4]));
  if (!info[2].IsFunction()) throw Napi::TypeError::New(env, "Expected a function that reads rows.");
  const auto control = control_of(info[6]);
  const auto callbacks = std::make_shared<Callbacks>(info, 5, 2);
  const auto source = callback_source(std::move(shape), Channel::of(env), callbacks, control);
  auto members = members_of(info);
  return run_on_all(
      env, std::move(members), control,
      told(env, callbacks, control,
           [source, tiles, options, control, work](const Members& networks, at::ScalarType dtype) -> Finish {
             PredictOptions in_type = options;
             in_type.dtype = dtype;
             return work(networks, source, tiles, in_type, *control);
           }));
}

// predictTiles(ensembles, shape, read, tiles, options, onEvent, control?) → Promise<RawTilesPrediction>
Napi::Value predict_image_by_tiles(const Napi::CallbackInfo& info) {
  return on_tiles(info, [](const auto&... given) -> Finish {
    const TilesPredicted predicted = predict_tiles(given...);
    const auto arrays = std::make_shared<PredictionArrays>(predicted);
    return [arrays, passes = predicted.passes](Napi::Env env) {
      Napi::Object result = arrays->release(env);
      result.Set("passes", Napi::Number::New(env, static_cast<double>(passes)));
      return result;
    };
  });
}

// forwardTiles(ensembles, shape, read, tiles, options, onEvent, control?) → Promise<NdArray[]>, by head
Napi::Value forward_image_by_tiles(const Napi::CallbackInfo& info) {
  return on_tiles(info, [](const auto&... given) -> Finish { return heads_of(forward_tiles(given...)); });
}

// createDataset() → dataset
Napi::Value create_dataset(const Napi::CallbackInfo& info) {
  return make_handle(info.Env(), std::make_shared<Dataset>(), kDatasetTag);
}

// addSample(dataset, image, shape, mask), C×H×W or C×D×H×W
Napi::Value add_sample(const Napi::CallbackInfo& info) {
  auto dataset = from_handle<Dataset>(info[0], kDatasetTag, "dataset");
  if (dataset.use_count() > 2)
    fail(code::kOption, "Expected a dataset that is not in use but received one in training.");
  const at::Tensor image = to_tensor(info[1], info[2], "image");
  if (image.dim() != 3 && image.dim() != 4)
    fail(code::kShape, "Expected C×H×W for an image or C×D×H×W for a volume but received ", image.dim(), " axes.");
  if (!info[3].IsTypedArray() || info[3].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    throw Napi::TypeError::New(info.Env(), "Expected a Uint8Array for a mask.");
  const auto mask = info[3].As<Napi::Uint8Array>();
  Sample sample{image.size(0), image.sizes().slice(1).vec(), {}, {}};
  if (static_cast<int64_t>(mask.ElementLength()) != sample.pixels())
    fail(code::kShape, "Expected ", sample.pixels(), " labels for a mask but received ", mask.ElementLength(), ".");
  sample.image.assign(image.const_data_ptr<float>(), image.const_data_ptr<float>() + image.numel());
  sample.mask.assign(mask.Data(), mask.Data() + mask.ElementLength());
  dataset->samples.push_back(std::move(sample));
  return info.Env().Undefined();
}

// The caller's loss: (logits, target), each as {data, shape}, → {value, gradient: Float32Array}
Loss callback_loss(const std::shared_ptr<Channel>& channel, const std::shared_ptr<Callbacks>& callbacks,
                   const std::shared_ptr<const Control>& control) {
  return external_loss([channel, callbacks, control](const at::Tensor& logits, const at::Tensor& target) {
    auto host_logits = std::make_shared<HostArray>(logits),
         host_target = std::make_shared<HostArray>(target.to(at::kByte));
    // By value throughout: this frame may be gone before the task runs, or while it does.
    return ask_js<LossAndGradient>(
        *channel, control, [callbacks, host_logits, host_target, sizes = logits.sizes().vec()](Napi::Env env) {
          const Napi::Value answer = callbacks->question.Call({host_logits->release(env), host_target->release(env)});
          const Napi::Value value = answer.IsObject() ? answer.As<Napi::Object>().Get("value") : env.Undefined();
          if (!value.IsNumber()) fail(code::kOption, "Expected {value: number, gradient: Float32Array} from the loss.");
          const Napi::Value gradient = answer.As<Napi::Object>().Get("gradient");
          return LossAndGradient{value.As<Napi::Number>().DoubleValue(),
                                 to_tensor(gradient, sizes, "the gradient of the loss")};
        });
  });
}

// fit(ensemble, training, validation, options, onEvent, loss, control?) → Promise<history>
Napi::Value fit(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  TrainOptions options = TrainOptions::from(to_json(info[3]));
  auto handle = ensemble_of(info);
  std::shared_ptr<const Dataset> training = from_handle<Dataset>(info[1], kDatasetTag, "dataset"), validation;
  if (!info[2].IsNull() && !info[2].IsUndefined()) validation = from_handle<Dataset>(info[2], kDatasetTag, "dataset");
  auto control = control_of(info[6]);
  const auto callbacks = std::make_shared<Callbacks>(info, 4, 5);
  return run_on(
      env, handle->owner, control,
      told(env, callbacks, control,
           [handle, training, validation, options, callbacks, control, channel = Channel::of(env)]() -> Finish {
             TrainOptions in_type = options;
             in_type.dtype = handle->dtype;
             std::optional<Loss> loss;
             if (!callbacks->question.IsEmpty()) loss = callback_loss(channel, callbacks, control);
             return finish_json(train(handle->get(), *training, validation.get(), in_type, loss, *control));
           }));
}

// What a training is prepared by: no loss of the caller's has a part in it.
struct Plan {
  explicit Plan(const Napi::CallbackInfo& info)
      : options(TrainOptions::from(to_json(info[3]))),
        handle(ensemble_of(info)),
        training(from_handle<Dataset>(info[1], kDatasetTag, "dataset")) {
    if (!info[2].IsNull() && !info[2].IsUndefined()) validation = from_handle<Dataset>(info[2], kDatasetTag, "dataset");
  }
  TrainOptions options;
  std::shared_ptr<EnsembleHandle> handle;
  std::shared_ptr<const Dataset> training, validation;
};

// trainingKernels(ensemble, training, validation, options, precision, control?) → Promise<RawKernel[]>
Napi::Value kernels_of_training(const Napi::CallbackInfo& info) {
  Plan plan(info);
  plan.options.dtype = to_string(info[4], "precision") == "bf16" ? at::kBFloat16 : at::kFloat;
  const auto control = control_of(info[5]);
  return run_on(info.Env(), plan.handle->owner, control, [plan, control]() -> Finish {
    Json::Array kernels;
    for (const ConvolutionCall& call :
         training_kernels(plan.handle->get(), *plan.training, plan.validation.get(), plan.options, *control))
      kernels.push_back(describe_kernel(call));
    return finish_json(std::move(kernels));
  });
}

// timeSteps(ensemble, training, validation, options, control?) → Promise<{fp32, bf16}>, seconds
Napi::Value time_both(const Napi::CallbackInfo& info) {
  const Plan plan(info);
  const auto control = control_of(info[4]);
  return run_on(info.Env(), plan.handle->owner, control, [plan, control]() -> Finish {
    const StepSeconds seconds = time_steps(plan.handle->get(), *plan.training, plan.options, *control);
    return finish_json(Json::Object{{"fp32", seconds.fp32}, {"bf16", seconds.bf16}});
  });
}

// setPrecision(ensemble, precision) → Promise<void>, for the jobs behind it
Napi::Value set_precision(const Napi::CallbackInfo& info) {
  auto handle = ensemble_of(info);
  return run_on(info.Env(), handle->owner, std::make_shared<JobControl>(),
                [handle, name = to_string(info[1], "precision")]() -> Finish {
                  handle->dtype = resolve_precision(name, handle->get().device());
                  return {};
                });
}

// saveEnsemble(ensemble, path) → Promise<void>
Napi::Value save_ensemble(const Napi::CallbackInfo& info) {
  auto handle = ensemble_of(info);
  return run_on(info.Env(), handle->owner, std::make_shared<JobControl>(),
                [handle, path = to_string(info[1], "path")]() -> Finish {
                  check_saved(handle->get().parameters(), handle->get().backbone().buffers());
                  write_safetensors(path, handle->get().state(), handle->get().metadata());
                  return {};
                });
}

// loadEnsemble(ensemble, path) → Promise<void>
Napi::Value load_ensemble(const Napi::CallbackInfo& info) {
  auto handle = ensemble_of(info);
  return run_on(info.Env(), handle->owner, std::make_shared<JobControl>(),
                [handle, path = to_string(info[1], "path")]() -> Finish {
                  of_file(path, [&] { handle->get().load_state(read_safetensors(path).tensors); });
                  return {};
                });
}

// createControl() → control
Napi::Value create_control(const Napi::CallbackInfo& info) {
  return make_handle(info.Env(), std::make_shared<JobControl>(), kControlTag);
}

// stopControl(control): tells its job to stop
Napi::Value stop_control(const Napi::CallbackInfo& info) {
  from_handle<JobControl>(info[0], kControlTag, "control")->stop = true;
  return info.Env().Undefined();
}

// giveUpControl(control): rejects what waits for its job, though that may still run
Napi::Value give_up_control(const Napi::CallbackInfo& info) {
  const auto call = from_handle<JobControl>(info[0], kControlTag, "control");
  call->stop = true;
  if (const auto pending = call->pending.lock()) pending->give_up(info.Env());
  return info.Env().Undefined();
}

}  // namespace

void export_models(Napi::Object exports) {
  export_function<create_backbone>(exports, "createBackbone");
  export_function<dispose_backbone>(exports, "disposeBackbone");
  export_function<trace_backbone>(exports, "traceBackbone");
  export_function<trace_output>(exports, "traceOutput");
  export_function<load_backbone>(exports, "loadBackbone");
  export_function<load_encoder_weights>(exports, "loadEncoder");
  export_function<save_backbone>(exports, "saveBackbone");
  export_function<save_model>(exports, "saveModel");
  export_function<kind_of_file>(exports, "fileKind");
  export_function<create_ensemble>(exports, "createEnsemble");
  export_function<dispose_ensemble>(exports, "disposeEnsemble");
  export_function<forward_images>(exports, "forward");
  export_function<predict_images>(exports, "predict");
  export_function<predict_image_by_tiles>(exports, "predictTiles");
  export_function<forward_image_by_tiles>(exports, "forwardTiles");
  export_function<create_dataset>(exports, "createDataset");
  export_function<add_sample>(exports, "addSample");
  export_function<fit>(exports, "fit");
  export_function<kernels_of_training>(exports, "trainingKernels");
  export_function<time_both>(exports, "timeSteps");
  export_function<set_precision>(exports, "setPrecision");
  export_function<save_ensemble>(exports, "saveEnsemble");
  export_function<load_ensemble>(exports, "loadEnsemble");
  export_function<create_control>(exports, "createControl");
  export_function<stop_control>(exports, "stopControl");
  export_function<give_up_control>(exports, "giveUpControl");
  export_function<jobs_life>(exports, "jobsLife");
  export_function<stop_jobs>(exports, "stopJobs");
  export_function<give_up_jobs>(exports, "giveUpJobs");
}

}  // namespace le::binding
