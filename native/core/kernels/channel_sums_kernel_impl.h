// Source of the kernel; included once per instruction set, with LE_LANES (floats in a vector) and LE_NAME (its suffix).
#include <cstdint>
#include <cstring>

#include "kernels/channel_sums_kernel.h"
#include "kernels/vector_math.h"

namespace le::kernel {
namespace {

typedef uint16_t Halves __attribute__((vector_size(LE_LANES * 2)));

inline V widened(const float* p) { return load(p); }
inline V widened(const uint16_t* p) {  // bfloat16
  Halves x;
  memcpy(&x, p, sizeof x);
  return as_floats(__builtin_convertvector(x, Ints) << 16);
}

constexpr int64_t kRows = 128;  // summed in float before they are added in double

// `kWide` vectors of columns.
template <int kWide, class T>
inline void add_columns(const T* data, const ColumnTask& task, int64_t column) {
  V origin[kWide];
  for (int v = 0; v < kWide; ++v) origin[v] = load(task.origin + column + v * kLanes);
  for (int64_t first = 0; first < task.rows; first += kRows) {
    const int64_t last = task.rows - first < kRows ? task.rows : first + kRows;
    V sum[kWide] = {}, square[kWide] = {};
    for (int64_t row = first; row < last; ++row) {
      const T* p = data + row * task.stride + column;
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) {
        const V x = widened(p + v * kLanes) - origin[v];
        sum[v] += x;
        square[v] += x * x;
      }
    }
    for (int v = 0; v < kWide; ++v)
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        task.sums[column + v * kLanes + lane] += sum[v][lane];
        task.squares[column + v * kLanes + lane] += square[v][lane];
      }
  }
}

inline float widened_one(const float* p) { return *p; }
inline float widened_one(const uint16_t* p) {
  const uint32_t bits = static_cast<uint32_t>(*p) << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

template <class T>
inline void add_all(const ColumnTask& task) {
  const T* data = static_cast<const T*>(task.data);
  for (int64_t c = 0; c < task.columns; ++c) task.sums[c] = task.squares[c] = 0;
  int64_t column = 0;
  for (; column + 4 * kLanes <= task.columns; column += 4 * kLanes) add_columns<4>(data, task, column);
  for (; column + kLanes <= task.columns; column += kLanes) add_columns<1>(data, task, column);
  for (; column < task.columns; ++column)
    for (int64_t row = 0; row < task.rows; ++row) {
      const double x = widened_one(data + row * task.stride + column) - task.origin[column];
      task.sums[column] += x;
      task.squares[column] += x * x;
    }
}

inline V positive(V x) { return as_floats(as_ints(x) & (x > V{})); }

}  // namespace

void LE_NAME(channel_sums)(const ColumnTask& task) {
  if (task.bfloat16)
    add_all<uint16_t>(task);
  else
    add_all<float>(task);
}

void LE_NAME(below_sums)(const BelowTask& task) {
  constexpr int64_t kBlock = kRows * kLanes;  // stays in the first cache while threshold after threshold reads it
  const V shift = set(task.shift), scale = set(task.scale);
  for (int64_t from = 0; from < task.count; from += kBlock) {
    const float* const x = task.data + from;
    const int64_t count = task.count - from < kBlock ? task.count - from : kBlock, whole = count / kLanes * kLanes;
    for (int64_t t = 0; t < task.thresholds_count; ++t) {
      const V threshold = set(task.thresholds[t]);
      V sum{}, square{};
      const auto add = [&](V values) {
        const V below = positive(threshold - (values - shift) * scale);
        sum += below;
        square += below * below;
      };
      for (int64_t i = 0; i < whole; i += kLanes) add(load(x + i));
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        task.sums[t] += sum[lane];
        task.squares[t] += square[lane];
      }
      for (int64_t i = whole; i < count; ++i) {
        const float below = task.thresholds[t] - (x[i] - task.shift) * task.scale;
        if (!(below > 0)) continue;
        task.sums[t] += below;
        task.squares[t] += static_cast<double>(below) * below;
      }
    }
  }
}

}  // namespace le::kernel
