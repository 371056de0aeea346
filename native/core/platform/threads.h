#pragma once
// The threads that jobs run on, and how they end. None is ever joined without a limit: a network may loop for ever, and
// the process, or a worker thread of Node that loaded the addon, must be able to end all the same.
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "control.h"

namespace le {

// How long an end waits for a job that was told to stop.
inline constexpr std::chrono::seconds kPatience{2};

struct Job {
  std::shared_ptr<Control> control;
  std::function<void()> work;  // does not throw
};

// Runs jobs in order on a thread of its own, which starts with the first of them. The thread owns what it uses, so that
// it may outlive this object and everything else of its environment.
class JobThread {
 public:
  // `owner` names the environment, for end_threads().
  explicit JobThread(const void* owner);
  // Lets the thread end by itself: stops what runs and what waits.
  ~JobThread();
  JobThread(const JobThread&) = delete;
  JobThread& operator=(const JobThread&) = delete;

  void push(Job job);
  // The thread ends as soon as it has nothing to do; a later job starts another.
  void close();
  // Tells all jobs to stop.
  void stop();
  // The sum of the jobs' signs of life so far (Control::life), and of those that ended.
  uint64_t life() const;

  struct State;

 private:
  const std::shared_ptr<State> state_;
};

// Tells the jobs of all threads of `owner` (null: of the process) to stop and waits for these threads, kPatience at
// most for all together. False where some still run; they are then left alone, and the end of the process will not run
// destructors under them.
bool end_threads(const void* owner);

// Makes the end of the process wait for all threads first, whichever way it is reached: by the end of main, by exit()
// with or without Node's 'exit' event. Where one does not end within kPatience, the process ends at once, with the exit
// code that it was given and without destructors. Called on the JavaScript thread of each environment.
void end_threads_at_exit();

}  // namespace le
