// Source of the kernel; included once per instruction set, with LE_NAME (its suffix).
#include <cstdint>

#include "kernels/resample_kernel.h"

namespace le::kernel {
namespace {

// Loops over lines side by side have one length, whatever is there of the last ones, so that they become vectors.
inline void filter(double* lines, int64_t length) {
  const double pole = __builtin_sqrt(3.0) - 2, gain = (1 - pole) * (1 - pole);
  for (int64_t b = 0; b < kLines; ++b) lines[b] /= 1 - pole;
  for (int64_t k = 1; k < length; ++k) {
    double* const at = lines + k * kLines;
    for (int64_t b = 0; b < kLines; ++b) at[b] = at[b] + pole * at[b - kLines];
  }
  double* const last = lines + (length - 1) * kLines;
  for (int64_t b = 0; b < kLines; ++b) last[b] *= gain / (1 - pole);
  for (int64_t k = length - 1; k-- > 0;) {
    double* const at = lines + k * kLines;
    for (int64_t b = 0; b < kLines; ++b) at[b] = gain * at[b] + pole * at[b + kLines];
  }
}

template <int kCount>
inline void mix(const double* lines, const double* weights, float* out) {
  for (int64_t b = 0; b < kLines; ++b) {
    double sum = 0;
    for (int tap = 0; tap < kCount; ++tap) sum += weights[tap] * lines[tap * kLines + b];
    out[b] = static_cast<float>(sum);
  }
}

inline void mix(const LineTask& task, int64_t i, const double* buffer, float* out) {
  const double* const lines = buffer + task.first[i] * kLines;
  const double* const weights = task.weights + i * task.count;
  switch (task.count) {
    case 1:
      return mix<1>(lines, weights, out);
    case 2:
      return mix<2>(lines, weights, out);
    default:
      return mix<4>(lines, weights, out);
  }
}

constexpr int64_t kBlock = 16;  // outputs along the last axis that are written together

}  // namespace

void LE_NAME(resample_lines)(const LineTask& task, int64_t group, int64_t line, int64_t lines, double* buffer) {
  const int64_t from = task.from, to = task.to, inner = task.inner, margin = task.margin, length = from + 2 * margin;
  const bool along_rows = inner == 1;
  const float* const source = task.data + group * from * inner + line * (along_rows ? from : 1);
  float* const target = task.out + group * to * inner + line * (along_rows ? to : 1);
  for (int64_t k = 0; k < from; ++k) {
    double* const at = buffer + (margin + k) * kLines;
    if (along_rows)
      for (int64_t b = 0; b < lines; ++b) at[b] = source[b * from + k];
    else
      for (int64_t b = 0; b < lines; ++b) at[b] = source[k * inner + b];
    for (int64_t b = lines; b < kLines; ++b) at[b] = 0;
  }
  for (int64_t k = 0; k < margin; ++k) {
    double *const near = buffer + k * kLines, *const far = buffer + (length - 1 - k) * kLines;
    for (int64_t b = 0; b < kLines; ++b) {
      near[b] = buffer[margin * kLines + b];
      far[b] = buffer[(margin + from - 1) * kLines + b];
    }
  }
  if (task.filtered) filter(buffer, length);
  float mixed[kBlock * kLines];
  if (!along_rows) {
    for (int64_t i = 0; i < to; ++i) {
      if (lines == kLines) {
        mix(task, i, buffer, target + i * inner);
        continue;
      }
      mix(task, i, buffer, mixed);
      for (int64_t b = 0; b < lines; ++b) target[i * inner + b] = mixed[b];
    }
    return;
  }
  for (int64_t begin = 0; begin < to; begin += kBlock) {
    const int64_t count = to - begin < kBlock ? to - begin : kBlock;
    for (int64_t i = 0; i < count; ++i) mix(task, begin + i, buffer, mixed + i * kLines);
    for (int64_t b = 0; b < lines; ++b)
      for (int64_t i = 0; i < count; ++i) target[b * to + begin + i] = mixed[i * kLines + b];
  }
}

}  // namespace le::kernel
