#pragma once
// Work off the JavaScript thread. Each model has a thread of its own that runs its jobs in order; results, events and
// questions come back through one thread-safe function per environment. What a thread uses it owns, with others or
// alone: nothing here waits without a limit for another thread, or reads what another may have left.
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "control.h"
#include "napi_setup.h"
#include "platform/answer.h"
#include "platform/threads.h"

namespace le::binding {

using JsTask = std::function<void(Napi::Env)>;
void run_js_task(Napi::Env env, Napi::Function, std::nullptr_t*, JsTask* task);

// Per-environment state: worker threads of Node each load the addon anew.
class Channel {
 public:
  static void install(Napi::Env env);
  static std::shared_ptr<Channel> of(Napi::Env env) { return *env.GetInstanceData<std::shared_ptr<Channel>>(); }

  // From any thread. Where the environment is going away the task does not run. It may be destroyed on any thread.
  void post(JsTask task);

  // On the JavaScript thread. The process stays alive while jobs are counted.
  void job_begins(Napi::Env env);
  void job_ends(Napi::Env env);

 private:
  // Stops every job of this environment, and waits for its threads as long as end_threads() does.
  void shut_down();
  using Function = Napi::TypedThreadSafeFunction<std::nullptr_t, JsTask, run_js_task>;
  Function function_;
  size_t jobs_ = 0;
  std::mutex mutex_;
  bool open_ = true;
};

// What waits for a job: a promise, which is settled once, on the JavaScript thread, by the job's end or by giving up.
struct Pending {
  explicit Pending(Napi::Env env) : deferred(env), channel(Channel::of(env)) {}
  Napi::Promise::Deferred deferred;
  std::shared_ptr<Channel> channel;
  bool settled = false;

  // True the first time. The process need no longer stay alive for the job.
  bool settle(Napi::Env env);
  // ERR_LE_ABORTED, though the job may still run.
  void give_up(Napi::Env env);
};

// The caller's end of a job.
struct JobControl : Control {
  std::weak_ptr<Pending> pending;  // for the JavaScript thread alone
};

// The thread of one network, and who waits for its jobs.
class Worker {
 public:
  explicit Worker(Napi::Env env) : thread_(Channel::of(env).get()) {}

  // `work` runs on the thread and returns what makes the result on the JavaScript thread.
  using Finish = std::function<Napi::Value(Napi::Env)>;
  Napi::Value run(Napi::Env env, const std::shared_ptr<JobControl>& call, std::function<Finish()> work);

  JobThread& thread() { return thread_; }
  // Gives up all jobs that are under way; see Pending.
  void give_up(Napi::Env env);

 private:
  JobThread thread_;
  std::vector<std::weak_ptr<Pending>> pending_;
};
using Finish = Worker::Finish;

// From a job's thread: runs `task` on the JavaScript thread and waits for what it, or what it starts there, answers.
// ERR_LE_ABORTED where `control` says stop meanwhile, or the environment goes away; the task may then still be running,
// or run later, so that it must own what it uses. A JavaScript exception of the task is rethrown here as ERR_LE_OPTION.
template <class T>
T ask_js_later(Channel& channel, const std::shared_ptr<const Control>& control,
               std::function<void(Napi::Env, const std::shared_ptr<Answer<T>>&)> task) {
  const auto answer = std::make_shared<Answer<T>>();
  channel.post([answer, control, task = std::move(task)](Napi::Env env) {
    if (control->stop) return;  // nobody waits
    try {
      task(env, answer);
    } catch (const Napi::Error& thrown) {
      const std::string message = thrown.Message().empty() ? "an exception" : thrown.Message();
      answer->fail(std::make_exception_ptr(Error(code::kOption, "A callback threw: " + message, message)));
    } catch (...) {
      answer->fail(std::current_exception());
    }
  });
  // A task that is dropped never answers: then the environment goes away, which stops every job.
  return answer->wait(*control);
}

// The same of a task whose result is the answer.
template <class T>
T ask_js(Channel& channel, const std::shared_ptr<const Control>& control, std::function<T(Napi::Env)> task) {
  return ask_js_later<T>(channel, control,
                         [task = std::move(task)](Napi::Env env, const auto& answer) { answer->give(task(env)); });
}

}  // namespace le::binding
