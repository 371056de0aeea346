#pragma once
// Fusions that need a second look at the pixels, after the pass of reduce(): STAPLE, and the temperature of the fused
// probabilities. The mask, the entropy and every sum over the predicted foreground follow the new probabilities.
#include "prediction/reduced.h"

namespace le {

bool needs_second_pass(const ReduceOptions& options);
// What the first pass has to bring out.
ReduceOptions of_first_pass(ReduceOptions options);
// From the first pass's result, on the CPU.
Reduced second_pass(Reduced pass, const ReduceOptions& options);

// What `first`, given its options, makes of the pixels, and the second pass where there is one.
template <class First>
Reduced in_passes(const ReduceOptions& options, First first) {
  return needs_second_pass(options) ? second_pass(first(of_first_pass(options)), options) : first(options);
}

}  // namespace le
