// Times the fused pass over the heads alone: N = 5 images of 256×256, 10 heads of U-Net-like sizes.
// reduce_bench [repetitions = 30] [reference]. Per image: wall-clock time, and processor time summed over threads
// (which other processes disturb less), also as ticks of the x86 time-stamp counter per pixel.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "platform/allocator.h"
#include "kernels/isa.h"
#include "prediction/reduce.h"

namespace {

double wall_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double processor_ms() { return 1e3 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// Ticks of the time-stamp counter per millisecond; 0 where there is none.
double tick_rate() {
#if defined(__x86_64__)
  const double start = wall_ms();
  const uint64_t first = __rdtsc();
  while (wall_ms() < start + 50) continue;
  return static_cast<double>(__rdtsc() - first) / (wall_ms() - start);
#else
  return 0;
#endif
}

void measure(int64_t classes, at::ScalarType type, bool all, int repetitions, bool reference) {
  constexpr int64_t kImages = 5, kSide = 256;
  static const double rate = tick_rate();
  std::vector<at::Tensor> logits;
  for (const int64_t side : {8, 16, 16, 32, 32, 64, 64, 128, 128, 256})
    logits.push_back(
        at::randn({kImages, classes, side, side}).mul_(4).to(type).contiguous(at::MemoryFormat::ChannelsLast));
  le::ReduceOptions options;
  if (!all) options.maps = 0;
  std::vector<double> wall, processor;
  for (int i = 0; i < repetitions; ++i) {
    const double wall_start = wall_ms(), processor_start = processor_ms();
    const le::Reduced result = (reference ? le::reduce_reference : le::reduce)(logits, {kSide, kSide}, options);
    wall.push_back((wall_ms() - wall_start) / kImages);
    processor.push_back((processor_ms() - processor_start) / kImages);
  }
  std::sort(wall.begin(), wall.end());
  std::sort(processor.begin(), processor.end());
  const double median = processor[processor.size() / 2];
  std::printf(
      "%-9s C=%lld %-8s %-8s  wall: median %7.3f ms, best %7.3f ms;  processor: median %7.3f ms, %6.1f ticks/pixel\n",
      reference ? "reference" : le::chosen_isa().c_str(), static_cast<long long>(classes),
      type == at::kFloat ? "float" : "bfloat16", all ? "all maps" : "no maps", wall[wall.size() / 2], wall.front(),
      median, median * rate / static_cast<double>(kSide * kSide));
}

}  // namespace

int main(int argc, char** argv) {
  const int repetitions = argc > 1 ? std::atoi(argv[1]) : 30;
  const bool reference = argc > 2 && !std::strcmp(argv[2], "reference");
  le::use_pool_allocator(true);  // as the addon does: fresh pages for each result cost as much as the pass
  std::printf("%d threads\n", at::get_num_threads());
  for (const int64_t classes : {2, 4, 7})
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) measure(classes, type, true, repetitions, reference);
  measure(2, at::kBFloat16, false, repetitions, reference);
  measure(4, at::kBFloat16, false, repetitions, reference);
}
