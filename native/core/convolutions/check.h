#pragma once
// Whether a kernel of libtorch computes what the definition says.
#include "convolutions/convolution.h"
#include "convolutions/detours.h"

namespace le {

struct KernelVerdict {
  bool right = false;
  double error = 0;  // largest difference, in standard deviations of the right numbers
  std::string what;  // of what: "output", "gradient of the input", …
};

// Runs one call on random numbers of its shapes, by the given detour, and compares every number of the result with the
// definition. Costs about as much as the call: the numbers are chosen so that the definition is cheap. A wrong kernel
// may end the process, or write anywhere.
KernelVerdict check_kernel(const ConvolutionCall& call, Detour detour);

}  // namespace le
