#include "platform/default_generator.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>

namespace le {

namespace {

std::mutex& one_at_a_time() {
  static std::mutex mutex;
  return mutex;
}

}  // namespace

SeededDefaultGenerator::SeededDefaultGenerator(c10::Device device, uint64_t seed)
    : turn_(one_at_a_time()), generator_(at::globalContext().defaultGenerator(device)) {
  const std::lock_guard lock(generator_.mutex());
  before_ = generator_.get_state();
  generator_.set_current_seed(seed);
}

SeededDefaultGenerator::~SeededDefaultGenerator() {
  const std::lock_guard lock(generator_.mutex());
  generator_.set_state(before_);
}

}  // namespace le
