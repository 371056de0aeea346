#include "platform/threads.h"

#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/syscall.h>
#elif defined(__APPLE__)
#include <pthread.h>
#endif

namespace le {

struct JobThread::State {
  const void* owner = nullptr;
  mutable std::mutex mutex;
  std::condition_variable changed;
  std::deque<Job> queue;
  std::shared_ptr<Control> current;
  bool close = false;
  bool running = false;
  uint64_t past_life = 0;

  // With the mutex held.
  void stop_all() const {
    if (current) current->stop = true;
    for (const Job& job : queue) job.control->stop = true;
  }
};

namespace {

// Whether a thread has ended: set when the last destructor of its own variables has run. (Not a std::future, which asks
// for a newer libstdc++ than libtorch does.)
struct End {
  std::mutex mutex;
  std::condition_variable changed;
  bool reached = false;

  // True where it is reached by then.
  bool wait_until(std::chrono::steady_clock::time_point deadline) {
    std::unique_lock lock(mutex);
    return changed.wait_until(lock, deadline, [this] { return reached; });
  }
};

struct Running {
  std::shared_ptr<JobThread::State> state;
  std::shared_ptr<End> end;
};

struct Registry {
  std::mutex mutex;
  std::vector<Running> threads;

  // Never destroyed: a thread that was left alone may use it for as long as the process lives.
  static Registry& instance() {
    static auto* registry = new Registry;
    return *registry;
  }
};

bool has_ended(const Running& thread) {
  const std::lock_guard lock(thread.end->mutex);
  return thread.end->reached;
}

void loop(const std::shared_ptr<JobThread::State>& state) {
  at::init_num_threads();  // the thread count is per thread in OpenMP
  for (;;) {
    Job job;
    {
      std::unique_lock lock(state->mutex);
      if (state->current) state->past_life += state->current->life + 1;
      state->current.reset();
      state->changed.wait(lock, [&] { return state->close || !state->queue.empty(); });
      if (state->queue.empty()) {
        state->running = false;
        return;
      }
      job = std::move(state->queue.front());
      state->queue.pop_front();
      state->current = job.control;
    }
    job.work();
  }
}

void start(const std::shared_ptr<JobThread::State>& state) {
  Registry& registry = Registry::instance();
  const auto end = std::make_shared<End>();
  const std::lock_guard lock(registry.mutex);
  std::erase_if(registry.threads, has_ended);
  registry.threads.push_back({state, end});
  try {
    std::thread([state, end] {
      // Made before any other variable of the thread's own, so destroyed after them.
      struct Signal {
        std::shared_ptr<End> end;
        ~Signal() {
          if (!end) return;
          const std::lock_guard lock(end->mutex);
          end->reached = true;
          end->changed.notify_all();
        }
      };
      thread_local Signal signal;
      signal.end = end;
      loop(state);
    }).detach();
  } catch (...) {
    registry.threads.pop_back();
    throw;
  }
}

// A process that ends destroys libtorch's globals: not under the hands of a thread that still works.
void end_of_process(int status) {
  if (!end_threads(nullptr)) _exit(status);
}

// The handlers of exit() run in reverse order, among the destructors of what was made since they were registered. So it
// is registered where something could outlive it, and at last by exit() itself: see LastHandler.
void register_handler() {
#if defined(__GLIBC__)
  on_exit([](int status, void*) { end_of_process(status); }, nullptr);
#else
  std::atexit([] { end_of_process(EXIT_FAILURE); });  // the exit code is not known here
#endif
}

bool on_main_thread() {
#if defined(__linux__)
  return syscall(SYS_gettid) == getpid();
#elif defined(__APPLE__)
  return pthread_main_np() != 0;
#else
  return false;
#endif
}

// exit() begins with the destructors of its thread's own variables: what is registered there runs before all else.
struct LastHandler {
  ~LastHandler() { register_handler(); }
};

}  // namespace

JobThread::JobThread(const void* owner) : state_(std::make_shared<State>()) { state_->owner = owner; }

JobThread::~JobThread() {
  stop();
  close();
}

void JobThread::push(Job job) {
  std::lock_guard lock(state_->mutex);
  if (!state_->running) {
    start(state_);
    state_->running = true;
  }
  state_->queue.push_back(std::move(job));
  state_->changed.notify_one();
}

void JobThread::close() {
  std::lock_guard lock(state_->mutex);
  state_->close = true;
  state_->changed.notify_one();
}

void JobThread::stop() {
  std::lock_guard lock(state_->mutex);
  state_->stop_all();
}

uint64_t JobThread::life() const {
  std::lock_guard lock(state_->mutex);
  return state_->past_life + (state_->current ? state_->current->life.load() : 0);
}

bool end_threads(const void* owner) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  Registry& registry = Registry::instance();
  std::vector<Running> threads;
  {
    const std::lock_guard lock(registry.mutex);
    for (const Running& thread : registry.threads)
      if (!owner || thread.state->owner == owner) threads.push_back(thread);
  }
  for (const Running& thread : threads) {
    const std::lock_guard lock(thread.state->mutex);
    thread.state->stop_all();
    thread.state->close = true;
    thread.state->changed.notify_one();
  }
  const bool all = std::all_of(threads.begin(), threads.end(),
                               [&](const Running& thread) { return thread.end->wait_until(deadline); });
  if (!all) register_handler();
  return all;
}

void end_threads_at_exit() {
  static const bool once = (register_handler(), true);
  (void)once;
  if (!on_main_thread()) return;
  thread_local const LastHandler last;
  (void)last;
}

}  // namespace le
