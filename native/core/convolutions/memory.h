#pragma once
// Memory for checks: what is not written reads as NaN, and what is written outside of a block is noticed.
#include <cstddef>

namespace le {

// Every later CPU tensor of the process, and oneDNN's scratch memory, is of this kind. For processes that check
// kernels and do nothing else: it is slow, and gives nothing back.
void use_checked_memory();

// Whether nothing was written outside of any block, those freed since the last call included.
bool memory_is_intact();

}  // namespace le
