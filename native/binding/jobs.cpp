#include "jobs.h"

#include <algorithm>

#include "errors.h"

namespace le::binding {

// Nothing may leave this function: where the environment may run no more JavaScript every call of Node-API fails.
void run_js_task(Napi::Env env, Napi::Function, std::nullptr_t*, JsTask* task) {
  const std::unique_ptr<JsTask> owned(task);
  if (static_cast<napi_env>(env) == nullptr) return;  // the environment is going away
  try {
    (*owned)(env);
  } catch (const Napi::Error& error) {
    try {
      napi_fatal_exception(env, error.Value());
    } catch (...) {
    }
  } catch (...) {
  }
}

void Channel::install(Napi::Env env) {
  auto channel = std::make_shared<Channel>();
  channel->function_ = Function::New(env, "layer-ensembles", 0, 1, nullptr);
  channel->function_.Unref(env);
  env.SetInstanceData<std::shared_ptr<Channel>>(new std::shared_ptr<Channel>(channel));  // deleted with the environment
  // Runs before the thread-safe function's own clean-up, which was registered earlier: no thread calls it after that.
  napi_add_env_cleanup_hook(
      env,
      [](void* data) {
        const std::unique_ptr<std::shared_ptr<Channel>> held(static_cast<std::shared_ptr<Channel>*>(data));
        (*held)->shut_down();
      },
      new std::shared_ptr<Channel>(channel));
}

void Channel::post(JsTask task) {
  auto owned = std::make_unique<JsTask>(std::move(task));
  const std::lock_guard lock(mutex_);
  if (open_ && function_.NonBlockingCall(owned.get()) == napi_ok) owned.release();
}

void Channel::job_begins(Napi::Env env) {
  if (jobs_++ == 0) function_.Ref(env);
}

void Channel::job_ends(Napi::Env env) {
  if (--jobs_ == 0) function_.Unref(env);
}

void Channel::shut_down() {
  {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }
  end_threads(this);
}

bool Pending::settle(Napi::Env env) {
  if (std::exchange(settled, true)) return false;
  channel->job_ends(env);
  return true;
}

void Pending::give_up(Napi::Env env) {
  if (settle(env)) deferred.Reject(to_error(env, {code::kAborted, "The job was given up.", ""}).Value());
}

void Worker::give_up(Napi::Env env) {
  for (const auto& weak : std::exchange(pending_, {}))
    if (const auto pending = weak.lock()) pending->give_up(env);
}

Napi::Value Worker::run(Napi::Env env, const std::shared_ptr<JobControl>& call, std::function<Finish()> work) {
  const auto pending = std::make_shared<Pending>(env);
  const Napi::Promise promise = pending->deferred.Promise();
  std::erase_if(pending_, [](const auto& weak) { return weak.expired(); });
  pending_.push_back(pending);
  call->pending = pending;
  thread_.push({call, [pending, call, work = std::move(work)]() mutable {
                  Finish finish;
                  std::exception_ptr failure;
                  try {
                    call->check();
                    finish = work();
                  } catch (...) {
                    failure = std::current_exception();
                  }
                  Failure described;
                  if (failure) described = describe(failure);
                  // However it ended: TorchScript's interpreter makes an error of its own of every exception.
                  if (failure && call->stop) described = {code::kAborted, "The job was aborted.", ""};
                  // Given away, so that nothing is destroyed here after the promise was settled there.
                  const auto channel = pending->channel;
                  channel->post([pending = std::move(pending), work = std::move(work), finish = std::move(finish),
                                 failed = failure != nullptr, described = std::move(described)](Napi::Env env) {
                    if (!pending->settle(env)) return;
                    try {
                      if (failed) return pending->deferred.Reject(to_error(env, described).Value());
                      pending->deferred.Resolve(finish ? finish(env) : env.Undefined());
                    } catch (const Napi::Error& error) {
                      pending->deferred.Reject(error.Value());
                    } catch (...) {
                      pending->deferred.Reject(to_error(env, describe(std::current_exception())).Value());
                    }
                  });
                }});
  pending->channel->job_begins(env);
  return promise;
}

}  // namespace le::binding
