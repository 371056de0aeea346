#include "control.h"

namespace le {

namespace {
thread_local const Control* heard = nullptr;
}  // namespace

HeardInside::HeardInside(const Control& control) : outer_(heard) { heard = &control; }
HeardInside::~HeardInside() { heard = outer_; }

void HeardInside::check() {
  if (heard && heard->stop.load(std::memory_order_relaxed)) fail(code::kAborted, "The job was aborted.");
}

}  // namespace le
