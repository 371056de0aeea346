#pragma once
// Fusions that need a second look at the pixels, after the pass of reduce(): STAPLE, and the temperature of the fused
// probabilities. The mask, the entropy and every sum over the predicted foreground follow the new probabilities.
#include "reduce.h"

namespace le {

// Whether these options ask for one.
bool refuses(const ReduceOptions& options);
// What the first pass has to bring out.
ReduceOptions before_refusing(ReduceOptions options);
// From the first pass's result, on the CPU.
Reduced refused(Reduced pass, const ReduceOptions& options);

}  // namespace le
