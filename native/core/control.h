#pragma once
// How a long job hears from its caller and speaks to it. Both ends may be on different threads.
#include <atomic>
#include <cstdint>
#include <functional>

#include "error.h"
#include "files/json.h"

namespace le {

struct Control {
  std::atomic<bool> stop{false};
  // Called on the job's thread with one event; may be empty.
  std::function<void(const Json& event)> report;
  // Grows at every check. Whoever waits for a job that shows no sign of life for long may give it up.
  mutable std::atomic<uint64_t> life{0};

  // Called once per batch and at the borders of stages.
  void check() const {
    life.fetch_add(1, std::memory_order_relaxed);
    if (stop.load(std::memory_order_relaxed)) fail(code::kAborted, "The job was aborted.");
  }
};

// While one lives, `control` is also checked wherever this thread takes memory for a tensor from the pool allocator: so
// a stop is heard between the operations of a pass, in a network of any kind. For code that an exception may leave at
// any operation, as lack of memory may: not for what changes weights.
class HeardInside {
 public:
  explicit HeardInside(const Control& control);
  ~HeardInside();
  HeardInside(const HeardInside&) = delete;
  HeardInside& operator=(const HeardInside&) = delete;
  // What the allocator calls.
  static void check();

 private:
  const Control* const outer_;
};

}  // namespace le
