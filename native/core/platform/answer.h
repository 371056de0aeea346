#pragma once
// What one thread waits for and another gives: a value or an exception, once.
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>

#include "control.h"

namespace le {

// Not a std::future, which asks for a newer libstdc++ than libtorch does. Shared by both sides: either may be gone
// first.
template <class T>
class Answer {
 public:
  void give(T value) {
    const std::lock_guard lock(mutex_);
    value_.emplace(std::move(value));
    changed_.notify_all();
  }

  void fail(std::exception_ptr failure) {
    const std::lock_guard lock(mutex_);
    failure_ = std::move(failure);
    changed_.notify_all();
  }

  // The value, or throws the exception; ERR_LE_ABORTED soon after `control` says stop, for an answer may never come.
  T wait(const Control& control) {
    std::unique_lock lock(mutex_);
    while (!value_ && !failure_) {
      control.check();
      changed_.wait_for(lock, std::chrono::milliseconds(50));
    }
    if (failure_) std::rethrow_exception(failure_);
    return std::move(*value_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<T> value_;
  std::exception_ptr failure_;
};

}  // namespace le
