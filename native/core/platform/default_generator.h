#pragma once
// libtorch's default generator, borrowed: dropout inside of a network draws from it, and cannot be given another.
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <mutex>

namespace le {

// While it lives, the device's default generator starts from `seed`; afterwards it goes on where it was. What is drawn
// depends on the seed alone: others of these wait, so that two trainings in one process draw what each would draw
// alone.
class SeededDefaultGenerator {
 public:
  SeededDefaultGenerator(c10::Device device, uint64_t seed);
  ~SeededDefaultGenerator();
  SeededDefaultGenerator(const SeededDefaultGenerator&) = delete;
  SeededDefaultGenerator& operator=(const SeededDefaultGenerator&) = delete;

 private:
  const std::lock_guard<std::mutex> turn_;
  at::Generator generator_;
  at::Tensor before_;
};

}  // namespace le
