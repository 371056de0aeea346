#pragma once
// Work off the JavaScript thread. Each model has a thread of its own that runs its jobs in order; results, events and
// questions come back through one thread-safe function per environment.
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "control.h"
#include "napi_setup.h"

namespace le::binding {

using JsTask = std::function<void(Napi::Env)>;
void run_js_task(Napi::Env env, Napi::Function, std::nullptr_t*, JsTask* task);

class Worker;

// Per-environment state: worker threads of Node each load the addon anew.
class Channel {
 public:
  static void install(Napi::Env env);
  static Channel& of(Napi::Env env) { return *env.GetInstanceData<Channel>(); }

  // From any thread. Where the environment is being torn down the task does not run, and false may be returned. Tasks
  // are destroyed on the JavaScript thread on every path, because they may own a worker, which cannot join itself.
  bool post(JsTask task);

  // On the JavaScript thread. The process stays alive while jobs are counted.
  void job_begins(Napi::Env env);
  void job_ends(Napi::Env env);

  // Stops every job and joins every thread of this environment.
  void shut_down();

 private:
  friend class Worker;
  using Function = Napi::TypedThreadSafeFunction<std::nullptr_t, JsTask, run_js_task>;
  Function function_;
  std::set<Worker*> workers_;
  size_t jobs_ = 0;
  std::mutex mutex_;
  std::vector<std::unique_ptr<JsTask>> undelivered_;
};

class Worker {
 public:
  explicit Worker(Napi::Env env);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  struct Job {
    std::shared_ptr<Control> control;
    std::function<void()> work;  // does not throw
  };
  void push(Job job);
  // Stops what runs and what waits, and ends the thread.
  void shut_down();

 private:
  void loop();
  friend class Channel;
  Channel* channel_;  // null once the environment is going away
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> queue_;
  std::shared_ptr<Control> current_;
  bool end_ = false;
  std::thread thread_;
};

// `work` runs on the worker and returns what makes the result on the JavaScript thread.
using Finish = std::function<Napi::Value(Napi::Env)>;
Napi::Value run_job(Napi::Env env, Worker& worker, std::shared_ptr<Control> control, std::function<Finish()> work);

// From a worker: runs `task` on the JavaScript thread and waits for it. ERR_LE_ABORTED where control.stop is set while
// waiting or the environment goes away. A JavaScript exception of the task is rethrown here as ERR_LE_OPTION.
void ask_js(Channel& channel, const Control& control, std::function<void(Napi::Env)> task);

}  // namespace le::binding
