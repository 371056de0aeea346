#include "convolutions/memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

namespace le {

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kMargin = 16 * kPage;  // on either side; behind it an address that cannot be used
constexpr int kFill = 0xff;             // NaN in each type of floating point
constexpr size_t kMostSpare = size_t{1} << 28;

std::mutex lock;
std::map<void*, size_t> blocks;      // by what the caller got: bytes
std::multimap<size_t, void*> spare;  // mappings by their length: fresh pages cost as much as a check's arithmetic
size_t spare_bytes = 0;
std::atomic<bool> intact{true};

size_t mapped(size_t bytes) { return kMargin + (bytes + kPage - 1) / kPage * kPage + kMargin + kPage; }

bool filled(const uint8_t* begin, const uint8_t* end) {
  return begin == end || (*begin == kFill && std::memcmp(begin, begin + 1, static_cast<size_t>(end - begin) - 1) == 0);
}

bool is_intact(const void* block, size_t bytes) {
  const auto* data = static_cast<const uint8_t*>(block);
  return filled(data - kMargin, data) && filled(data + bytes, data - kMargin + mapped(bytes) - kPage);
}

void give_back(void* block) {
  if (!block) return;
  const std::lock_guard guard(lock);
  const auto entry = blocks.find(block);
  if (entry == blocks.end()) return;  // of the allocator before
  if (!is_intact(block, entry->second)) intact = false;
  const size_t length = mapped(entry->second);
  uint8_t* start = static_cast<uint8_t*>(block) - kMargin;
  blocks.erase(entry);
  if (spare_bytes + length > kMostSpare) {
    munmap(start, length);
  } else {
    spare.emplace(length, start);
    spare_bytes += length;
  }
}

// With an address behind its end that cannot be used.
uint8_t* mapping(size_t length) {
  {
    const std::lock_guard guard(lock);
    if (const auto entry = spare.find(length); entry != spare.end()) {
      void* start = entry->second;
      spare.erase(entry);
      spare_bytes -= length;
      return static_cast<uint8_t*>(start);
    }
  }
  void* start = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) throw std::bad_alloc();
  madvise(start, length - kPage, MADV_HUGEPAGE);
  mprotect(static_cast<uint8_t*>(start) + length - kPage, kPage, PROT_NONE);
  return static_cast<uint8_t*>(start);
}

class CheckedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &give_back, c10::kCPU};
    uint8_t* start = mapping(mapped(bytes));
    std::memset(start, kFill, mapped(bytes) - kPage);
    void* block = start + kMargin;
    const std::lock_guard guard(lock);
    blocks.emplace(block, bytes);
    return {block, block, &give_back, c10::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
};

}  // namespace

void use_checked_memory() {
  static CheckedAllocator allocator;
  c10::SetCPUAllocator(&allocator, /*priority=*/200);
}

bool memory_is_intact() {
  const std::lock_guard guard(lock);
  for (const auto& [block, bytes] : blocks)
    if (!is_intact(block, bytes)) intact = false;
  return intact.exchange(true);
}

}  // namespace le
