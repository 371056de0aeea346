#pragma once
// Lines of a volume interpolated along one axis. Compiled once per instruction set, and so free of library templates:
// see reduce_kernel.h.
#include <cstdint>

namespace le::kernel {

// Lines that are worked on side by side.
inline constexpr int64_t kLines = 32;

// An array [outer, from, inner] as [outer, to, inner]. Output i is the sum of `count` values of a line, each end of
// which is repeated `margin` times, from first[i] on, times weights[i · count] and what follows.
struct LineTask {
  const float* data;
  float* out;
  int64_t from, to, inner;
  int64_t margin, count;
  const int32_t* first;
  const double* weights;
  bool filtered;  // of the coefficients of cubic B-splines, not of the values
};

// `lines` at most kLines of them, from line `line` of group `group` on: those along the last axis (inner 1) are one
// group. `buffer` holds (from + 2 · margin) · kLines numbers. Every sum is in double, in one order, without fused
// multiply-adds: the same to the bit for every instruction set, and as lib/grid/interpolate.ts.
using ResampleLines = void (*)(const LineTask& task, int64_t group, int64_t line, int64_t lines, double* buffer);
void resample_lines_generic(const LineTask& task, int64_t group, int64_t line, int64_t lines, double* buffer);
#if defined(__x86_64__)
void resample_lines_avx2(const LineTask& task, int64_t group, int64_t line, int64_t lines, double* buffer);
void resample_lines_avx512(const LineTask& task, int64_t group, int64_t line, int64_t lines, double* buffer);
#endif

}  // namespace le::kernel
