#pragma once
// Free of library templates, for the kernels.
#include <cstdint>

namespace le::kernel {

// How an output axis reads a source axis: output i lies between samples index[i] and index[i] + 1, and takes weight[i]
// of the second (0 where there is none). Both arrays may go on beyond `size` by repeating their last entry.
struct Axis {
  const int32_t* index;
  const float* weight;
  int64_t source, size;  // number of samples, of outputs
  bool same;             // output i is sample i
};

}  // namespace le::kernel
