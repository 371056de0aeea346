#include "platform/allocator.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "check.h"
#include "error.h"

using namespace le;

namespace {

// The pool within a test; off after it.
class Pool {
 public:
  Pool() {
    use_pool_allocator(false);
    use_pool_allocator(true);
  }
  ~Pool() {
    use_pool_allocator(false);
    limit_cached_memory(kDefaultCachedLimit);
  }
};

at::Tensor bytes(int64_t count) { return at::empty({count}, at::kByte); }

}  // namespace

TEST("allocator: blocks are aligned, at most a quarter larger than asked for, and accounted for") {
  const Pool pool;
  const size_t before = allocator_stats().live;
  for (int64_t size = 1; size < (int64_t{1} << 26); size = size * 5 / 3 + 1) {
    const at::Tensor tensor = bytes(size);
    CHECK(reinterpret_cast<uintptr_t>(tensor.data_ptr()) % 64 == 0);
    const auto live = static_cast<int64_t>(allocator_stats().live - before);
    CHECK(live >= size);
    CHECK(live <= std::max(size + 64, size * 5 / 4));
    std::memset(tensor.data_ptr(), 1, static_cast<size_t>(size));
  }
  CHECK(allocator_stats().live == before);
}

TEST("allocator: a freed block is used again, by the same class of size alone") {
  const Pool pool;
  const int64_t size = 3 << 20;
  at::Tensor tensor = bytes(size);
  const void* address = tensor.data_ptr();
  tensor = at::Tensor();
  const size_t cached = allocator_stats().cached;
  CHECK(cached >= static_cast<size_t>(size));
  const at::Tensor larger = bytes(8 << 20);
  CHECK(allocator_stats().cached == cached);
  tensor = bytes(size - 1000);
  CHECK(tensor.data_ptr() == address);
  CHECK(allocator_stats().cached == 0);
}

TEST("allocator: switched off, it gives back what is cached") {
  const Pool pool;
  for (const int64_t size : {100, 100000, 10000000}) bytes(size);
  CHECK(allocator_stats().cached > 10000000);
  use_pool_allocator(false);
  CHECK(allocator_stats().cached == 0);
}

TEST("allocator: no more is cached than the limit") {
  const Pool pool;
  limit_cached_memory(6 << 20);
  std::vector<at::Tensor> tensors;
  for (int i = 0; i < 8; ++i) tensors.push_back(bytes(2 << 20));
  tensors.clear();
  CHECK(allocator_stats().cached <= 6 << 20);
  CHECK(allocator_stats().cached >= 4 << 20);
  limit_cached_memory(1 << 20);
  CHECK(allocator_stats().cached <= 1 << 20);
}

TEST("allocator: nothing is kept where the pool is off, and what was made before outlives the switch") {
  use_pool_allocator(false);
  at::Tensor before = at::full({1 << 20}, 7, at::kByte);
  at::Tensor pooled;
  // As oneDNN does for its copies of weights: freed by whichever allocator is set then.
  void* const raw_before = c10::GetCPUAllocator()->raw_allocate(100000);
  void* raw_pooled = nullptr;
  {
    const Pool pool;
    pooled = at::full({1 << 20}, 9, at::kByte);
    raw_pooled = c10::GetCPUAllocator()->raw_allocate(100000);
    c10::GetCPUAllocator()->raw_deallocate(raw_before);
    CHECK(before[12345].item<uint8_t>() == 7);
    before = at::Tensor();
    CHECK(allocator_stats().cached >= 1 << 20);
  }
  CHECK(pooled[54321].item<uint8_t>() == 9);
  const size_t live = allocator_stats().live;
  c10::GetCPUAllocator()->raw_deallocate(raw_pooled);
  pooled = at::Tensor();
  CHECK(allocator_stats().live < live);
  CHECK(allocator_stats().cached == 0);
}

TEST("allocator: raw allocation, cloning and empty blocks") {
  const Pool pool;
  c10::Allocator* allocator = c10::GetCPUAllocator();
  CHECK(allocator->raw_deleter() != nullptr);
  char* raw = static_cast<char*>(allocator->raw_allocate(1000));
  std::memset(raw, 5, 1000);
  {
    const c10::DataPtr copy = allocator->clone(raw, 1000);
    CHECK(copy.get() != raw);
    CHECK(std::memcmp(copy.get(), raw, 1000) == 0);
    CHECK(copy.device() == c10::Device(c10::kCPU));
  }
  allocator->raw_deallocate(raw);
  CHECK(allocator->allocate(0).get() == nullptr);
  CHECK(bytes(0).numel() == 0);
}

TEST("allocator: more than there is fails and leaves the accounts right") {
  const Pool pool;
  std::vector<size_t> sizes = {size_t{1} << 60, SIZE_MAX - 10};
#if !defined(__SANITIZE_ADDRESS__)  // which ends the process where the system refuses
  sizes.push_back(SIZE_MAX >> 17);
#endif
  bytes(1 << 20);  // cached, and given back before giving up
  const AllocatorStats before = allocator_stats();
  for (const size_t size : sizes) {
    bool refused = false;
    try {
      c10::GetCPUAllocator()->allocate(size);
    } catch (const std::bad_alloc&) {
      refused = true;
    }
    CHECK(refused);
    CHECK(allocator_stats().live == before.live);
  }
}

TEST("allocator: threads that make and free each other's tensors") {
  const Pool pool;
  const size_t before = allocator_stats().live;
  std::vector<at::Tensor> shared(16);
  std::vector<std::thread> threads;
  std::atomic<int> damaged{0};
  std::mutex mutex;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      uint32_t state = 12345u + static_cast<uint32_t>(t);
      for (int i = 0; i < 2000; ++i) {
        state = state * 1664525u + 1013904223u;
        const auto size = static_cast<int64_t>(1 + state % 70000);
        const auto mark = static_cast<uint8_t>(state >> 24);
        at::Tensor mine = bytes(size);
        auto* data = mine.mutable_data_ptr<uint8_t>();
        std::memset(data, mark, static_cast<size_t>(size));
        std::this_thread::yield();
        for (int64_t at = 0; at < size; at += 997) damaged += data[at] != mark;
        const std::lock_guard lock(mutex);
        std::swap(shared[state % 16], mine);
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(damaged == 0);
  shared.clear();
  CHECK(allocator_stats().live == before);
}
