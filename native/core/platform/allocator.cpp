#include "platform/allocator.h"

#include <c10/core/CPUAllocator.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "control.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace le {

namespace {

constexpr size_t kAlignment = 64;  // room for the block's header, and what vector loads want
constexpr size_t kAddressable = SIZE_MAX >> 16;
constexpr size_t kHugePage = size_t{2} << 20;

// Sizes are rounded up to four classes per power of two, so that a block of one batch fits the next; at most a quarter
// is wasted.
size_t size_class(size_t bytes) {
  if (bytes <= 4096) return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  size_t power = 4096;
  while (power * 2 < bytes) power *= 2;
  const size_t step = power / 4;
  return (bytes + step - 1) / step * step;
}

class PoolAllocator final : public c10::Allocator {
 public:
  // Never destroyed: tensors with static storage may be freed after every destructor of this library has run.
  static PoolAllocator& instance() {
    static auto* allocator = new PoolAllocator;
    return *allocator;
  }

  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device cpu(c10::kCPU);
    if (bytes == 0) return {nullptr, nullptr, &release, cpu};
    if (bytes > kAddressable) throw std::bad_alloc();
    HeardInside::check();
    const size_t size = size_class(bytes);
    void* block = take(size);
    if (!block) block = fresh(size);
    *static_cast<size_t*>(block) = size;
    void* data = static_cast<char*>(block) + kAlignment;
    return {data, data, &release, cpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }

  // Whether freed blocks are kept for reuse.
  void keep(bool on) {
    {
      std::lock_guard lock(mutex_);
      keep_ = on;
    }
    if (!on) free_until(0);
  }
  void limit(size_t bytes) {
    {
      std::lock_guard lock(mutex_);
      limit_ = bytes;
    }
    free_until(bytes);
  }
  AllocatorStats stats() {
    std::lock_guard lock(mutex_);
    return {live_, cached_};
  }

 private:
  void* take(size_t size) {
    std::lock_guard lock(mutex_);
    live_ += size;
    const auto found = free_.find(size);
    if (found == free_.end() || found->second.empty()) return nullptr;
    void* block = found->second.back();
    found->second.pop_back();
    cached_ -= size;
    return block;
  }

  void* fresh(size_t size) {
    const size_t total = size + kAlignment;
    const size_t alignment = total >= kHugePage ? kHugePage : kAlignment;
    void* block = nullptr;
    if (posix_memalign(&block, alignment, total) != 0) {
      free_until(0);  // what is cached in other sizes may be what is missing
      if (posix_memalign(&block, alignment, total) != 0) {
        std::lock_guard lock(mutex_);
        live_ -= size;
        throw std::bad_alloc();
      }
    }
#if defined(__linux__)
    if (total >= kHugePage) madvise(block, total, MADV_HUGEPAGE);
#endif
    return block;
  }

  static void release(void* data) {
    if (!data) return;
    void* block = static_cast<char*>(data) - kAlignment;
    const size_t size = *static_cast<size_t*>(block);
    PoolAllocator& pool = instance();
    std::unique_lock lock(pool.mutex_);
    pool.live_ -= size;
    if (pool.keep_ && pool.cached_ + size <= pool.limit_) {
      try {
        pool.free_[size].push_back(block);
        pool.cached_ += size;
        return;
      } catch (const std::bad_alloc&) {  // no room to note it: a deleter must not throw
      }
    }
    lock.unlock();
    std::free(block);
  }

  // Frees cached blocks, the largest first, until no more than `bytes` are left.
  void free_until(size_t bytes) {
    std::lock_guard lock(mutex_);
    while (cached_ > bytes) {
      const auto largest = std::prev(free_.end());
      if (largest->second.empty()) {
        free_.erase(largest);
        continue;
      }
      std::free(largest->second.back());
      largest->second.pop_back();
      cached_ -= largest->first;
    }
  }

  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;
  size_t live_ = 0, cached_ = 0, limit_ = kDefaultCachedLimit;
  bool keep_ = true;
};

}  // namespace

void use_pool_allocator(bool on) {
  // Once and for good. What libtorch takes by raw_allocate() (oneDNN's weights) it gives to raw_deallocate() of
  // whatever allocator is set then: another one would free what it never made.
  static const bool once = [] {
    constexpr uint8_t kPriority = 10;  // above libtorch's own
    c10::SetCPUAllocator(&PoolAllocator::instance(), kPriority);
    return true;
  }();
  (void)once;
  PoolAllocator::instance().keep(on);
}

void limit_cached_memory(size_t bytes) { PoolAllocator::instance().limit(bytes); }

AllocatorStats allocator_stats() { return PoolAllocator::instance().stats(); }

}  // namespace le
