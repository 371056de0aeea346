#pragma once
// Sums and sums of squares, for the statistics of feature maps and of images. Compiled once per instruction
// set, and so free of library templates: see loss_kernel.h.
#include <cstdint>

namespace le::kernel {

// `columns` numbers lie side by side, `rows` times, each row `stride` numbers behind the one before. Each column is
// summed from its own origin, so that numbers which hardly differ keep what they differ by: `sums` and `squares` are
// set to Σ (x - origin) and Σ (x - origin)², accumulated in double every few rows.
struct ColumnTask {
  const void* data;
  bool bfloat16;  // else float
  int64_t rows, columns, stride;
  const float* origin;
  double *sums, *squares;
};

// How far `count` numbers u = (x - shift) scale lie below each threshold t: to its place in `sums` and `squares` are
// added Σ max(0, t - u) and Σ max(0, t - u)².
struct BelowTask {
  const float* data;
  int64_t count;
  float shift, scale;
  const float* thresholds;
  int64_t thresholds_count;
  double *sums, *squares;
};

using ChannelSums = void (*)(const ColumnTask& task);
using BelowSums = void (*)(const BelowTask& task);
void channel_sums_generic(const ColumnTask& task);
void below_sums_generic(const BelowTask& task);
#if defined(__x86_64__)
void channel_sums_avx2(const ColumnTask& task);
void channel_sums_avx512(const ColumnTask& task);
void below_sums_avx2(const BelowTask& task);
void below_sums_avx512(const BelowTask& task);
#endif

}  // namespace le::kernel
