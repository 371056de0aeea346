#pragma once
// How a long job hears from its caller and speaks to it. Both ends may be on different threads.
#include <atomic>
#include <functional>

#include "error.h"
#include "json.h"

namespace le {

struct Control {
  std::atomic<bool> stop{false};
  // Called on the job's thread with one event; may be empty.
  std::function<void(const Json& event)> report;

  // Called once per batch and at the borders of stages.
  void check() const {
    if (stop.load(std::memory_order_relaxed)) fail(code::kAborted, "The job was aborted.");
  }
};

}  // namespace le
