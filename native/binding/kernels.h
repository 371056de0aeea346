#pragma once
// Checks of libtorch's kernels: see native/core/convolutions.
#include "convolutions/convolution.h"
#include "files/json.h"
#include "napi_setup.h"

namespace le::binding {

// {"call", "text", "ways": names of the detours to try, in order}
Json describe_kernel(const ConvolutionCall& call);

void export_kernels(Napi::Object exports);

}  // namespace le::binding
