#include "jobs.h"

#include <ATen/Parallel.h>

#include <chrono>

#include "errors.h"

namespace le::binding {

void run_js_task(Napi::Env env, Napi::Function, std::nullptr_t*, JsTask* task) {
  const std::unique_ptr<JsTask> owned(task);
  if (static_cast<napi_env>(env) == nullptr) return;  // the environment is going away
  try {
    (*owned)(env);
  } catch (const Napi::Error& error) {
    napi_fatal_exception(env, error.Value());
  }
}

void Channel::install(Napi::Env env) {
  auto* channel = new Channel;
  env.SetInstanceData<Channel>(channel);  // deletes it with the environment
  channel->function_ = Function::New(env, "layer-ensembles", 0, 1, nullptr);
  channel->function_.Unref(env);
  // Runs before the thread-safe function's own clean-up, which was registered earlier: no thread outlives it.
  napi_add_env_cleanup_hook(
      env, [](void* data) { static_cast<Channel*>(data)->shut_down(); }, channel);
}

bool Channel::post(JsTask task) {
  auto owned = std::make_unique<JsTask>(std::move(task));
  if (function_.NonBlockingCall(owned.get()) == napi_ok) {
    owned.release();
    return true;
  }
  std::lock_guard lock(mutex_);
  undelivered_.push_back(std::move(owned));
  return false;
}

void Channel::job_begins(Napi::Env env) {
  if (jobs_++ == 0) function_.Ref(env);
}

void Channel::job_ends(Napi::Env env) {
  if (--jobs_ == 0) function_.Unref(env);
}

void Channel::shut_down() {
  const std::set<Worker*> workers = std::move(workers_);
  workers_.clear();
  for (Worker* worker : workers) {
    worker->channel_ = nullptr;
    worker->shut_down();
  }
}

Worker::Worker(Napi::Env env) : channel_(&Channel::of(env)), thread_([this] { loop(); }) {
  channel_->workers_.insert(this);
}

Worker::~Worker() {
  if (channel_) channel_->workers_.erase(this);
  shut_down();
}

void Worker::push(Job job) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
  }
  changed_.notify_one();
}

void Worker::shut_down() {
  {
    std::lock_guard lock(mutex_);
    end_ = true;
    if (current_) current_->stop = true;
    for (auto& job : queue_) job.control->stop = true;
  }
  changed_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Worker::loop() {
  at::init_num_threads();  // the thread count is per thread in OpenMP
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      current_.reset();
      changed_.wait(lock, [&] { return end_ || !queue_.empty(); });
      if (queue_.empty()) return;
      job = std::move(queue_.front());
      queue_.pop_front();
      current_ = job.control;
    }
    job.work();
  }
}

Napi::Value run_job(Napi::Env env, Worker& worker, std::shared_ptr<Control> control, std::function<Finish()> work) {
  Channel& channel = Channel::of(env);
  const auto deferred = std::make_shared<Napi::Promise::Deferred>(env);
  const Napi::Promise promise = deferred->Promise();
  channel.job_begins(env);
  // What the closure owns may own this worker, so it travels to the JavaScript thread and is destroyed there.
  auto held = std::make_shared<std::function<Finish()>>(std::move(work));
  worker.push({control, [&channel, deferred, control, held = std::move(held)]() mutable {
                 Finish finish;
                 std::exception_ptr failure;
                 try {
                   control->check();
                   finish = (*held)();
                 } catch (...) {
                   failure = std::current_exception();
                 }
                 channel.post([&channel, deferred = std::move(deferred), held = std::move(held),
                               finish = std::move(finish), failure](Napi::Env env) {
                   channel.job_ends(env);
                   if (failure) return deferred->Reject(to_error(env, describe(failure)).Value());
                   try {
                     deferred->Resolve(finish ? finish(env) : env.Undefined());
                   } catch (const Napi::Error& error) {
                     deferred->Reject(error.Value());
                   } catch (...) {
                     deferred->Reject(to_error(env, describe(std::current_exception())).Value());
                   }
                 });
               }});
  return promise;
}

void ask_js(Channel& channel, const Control& control, std::function<void(Napi::Env)> task) {
  struct Answer {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
    std::string error;
  };
  const auto answer = std::make_shared<Answer>();
  const bool posted = channel.post([answer, task = std::move(task)](Napi::Env env) {
    std::string error;
    try {
      task(env);
    } catch (const Napi::Error& thrown) {
      error = thrown.Message().empty() ? "an exception" : thrown.Message();
    } catch (const std::exception& thrown) {
      error = thrown.what();
    }
    std::lock_guard lock(answer->mutex);
    answer->error = error;
    answer->done = true;
    answer->changed.notify_all();
  });
  std::unique_lock lock(answer->mutex);
  while (posted && !answer->done) {
    control.check();
    answer->changed.wait_for(lock, std::chrono::milliseconds(50));
  }
  if (!posted) fail(code::kAborted, "The environment is going away.");
  if (!answer->error.empty()) throw Error(code::kOption, "A callback threw: " + answer->error, answer->error);
}

}  // namespace le::binding
