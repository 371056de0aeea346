#pragma once
// A pooling CPU allocator: freed tensor memory is kept for the next batch. Fresh pages and glibc's fragmentation cost a
// third of a pass otherwise.
#include <cstddef>

namespace le {

// Sets the allocator of CPU tensors, for the whole process and for good. Off: freed memory goes back to the system at
// once. To be called first before libtorch takes any memory.
void use_pool_allocator(bool on);

// At most this many bytes are kept for reuse; what is above it is given back at once.
inline constexpr size_t kDefaultCachedLimit = size_t{2} << 30;
void limit_cached_memory(size_t bytes);

struct AllocatorStats {
  size_t live = 0;    // bytes in use, as rounded up
  size_t cached = 0;  // bytes kept for reuse
};
AllocatorStats allocator_stats();

}  // namespace le
