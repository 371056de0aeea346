#pragma once
// The heads' source rows, brought to the output's width and kept while the output's rows lie between them.
#include <cstdint>
#include <cstring>

#include "kernels/reduce_kernel.h"
#include "kernels/vector_masks.h"

namespace le::kernel {
namespace {

inline float widen(float x) { return x; }
inline float widen(uint16_t x) {  // bfloat16
  const uint32_t b = static_cast<uint32_t>(x) << 16;
  float y;
  memcpy(&y, &b, sizeof y);
  return y;
}

// 1 for NaN and the infinities.
inline uint32_t special(float x) {
  uint32_t b;
  memcpy(&b, &x, sizeof b);
  return (b & 0x7f800000u) == 0x7f800000u;
}

// Beyond this, sums of two would overflow.
constexpr float kLargest = 0x1p+126f;
inline float keep_in_range(float x) {
  const float low = x < -kLargest ? -kLargest : x;
  return low > kLargest ? kLargest : low;
}

// `count` samples as floats; 1 where one is NaN or infinite.
template <class T>
uint32_t read_samples(const T* from, int64_t stride, int64_t count, float* to) {
  uint32_t bad = 0;
  const auto read = [&](int64_t at, int64_t i) {
    const float x = widen(from[at]);
    bad |= special(x);
    to[i] = keep_in_range(x);
  };
  if (stride == 1) {  // apart from the others for the compiler to see that it can use vectors
    for (int64_t i = 0; i < count; ++i) read(i, i);
  } else {
    for (int64_t i = 0; i < count; ++i) read(i * stride, i);
  }
  return bad;
}

// Every stride-th sample of a row; `minus`, unless null: less those of another row.
template <int kStride>
void pick_samples(const float* from, const float* minus, int64_t stride, int64_t count, float* to) {
  if (kStride) stride = kStride;
  if (minus) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * stride] - minus[i * stride];
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * stride];
  }
}

void pick_samples(const float* from, const float* minus, int64_t stride, int64_t count, float* to) {
  switch (stride) {
    case 1:
      return pick_samples<1>(from, minus, stride, count, to);
    case 2:
      return pick_samples<2>(from, minus, stride, count, to);
    case 3:
      return pick_samples<3>(from, minus, stride, count, to);
    case 4:
      return pick_samples<4>(from, minus, stride, count, to);
    default:
      return pick_samples<0>(from, minus, stride, count, to);
  }
}

// Source row `y` of a head, mixed in depth and brought to the output's width, for columns x … x + columns.
uint32_t widen_row(const Task& task, const Head& head, int64_t image, int64_t z, int64_t y, int64_t x, int64_t columns,
                   const Scratch& s, float* to) {
  const Axis &depth = head.axis[0], &width = head.axis[2];
  const int64_t classes = task.classes;
  const int64_t first = width.index[x], last = least(width.index[x + columns - 1] + 1, width.source - 1);
  const int64_t count = last - first + 1;

  // channels_last: the classes of a pixel lie together, and a piece of a row is one run of samples.
  const bool together = head.class_stride == 1 && head.stride[2] == classes;
  const int64_t runs = together ? 1 : classes, run = together ? count * classes : count;
  const int64_t stride = together ? 1 : head.stride[2];
  const int64_t offset =
      image * head.image_stride + depth.index[z] * head.stride[0] + y * head.stride[1] + first * head.stride[2];
  const float behind = depth.weight[z], before = 1 - behind;
  uint32_t bad = 0;
  const int64_t bytes = head.bfloat16 ? 2 : 4, ahead = y + 1 < head.axis[1].source ? head.stride[1] : 0;
  const auto read = [&](int64_t at, float* out) {
    // The tile's next row is too far away for the processor to guess.
    const char* next = static_cast<const char*>(head.data) + (at + ahead) * bytes;
    for (int64_t i = 0; i < (run - 1) * stride * bytes + 1; i += 64) __builtin_prefetch(next + i);
    return head.bfloat16 ? read_samples(static_cast<const uint16_t*>(head.data) + at, stride, run, out)
                         : read_samples(static_cast<const float*>(head.data) + at, stride, run, out);
  };
  for (int64_t i = 0; i < runs; ++i) {
    const int64_t at = offset + i * head.class_stride;
    float* samples = s.samples + i * run;
    bad |= read(at, samples);
    if (behind == 0) continue;
    bad |= read(at + head.stride[0], s.next);
    for (int64_t j = 0; j < run; ++j) samples[j] = before * samples[j] + behind * s.next[j];
  }

  const bool same = width.same, enlarges = width.source <= task.size[2];
  const int64_t of_class = together ? 1 : count, of_sample = together ? classes : 1;
  for (int64_t channel = 0; channel < channels_of(task); ++channel, to += kTile) {
    float* row = same ? to : s.segment;
    if (classes == 2) {
      pick_samples(s.samples + of_class, s.samples, of_sample, same ? columns : count, row);
    } else {
      pick_samples(s.samples + channel * of_class, nullptr, of_sample, same ? columns : count, row);
    }
    if (same) continue;
    row[count] = row[count - 1];  // the last sample's neighbour, taken with weight 0
    if (enlarges) {
      for (int64_t i = 0; i < columns; i += kLanes) {
        V left, right;
        pairs_at(row + (width.index[x + i] - first), width.index + x + i, left, right);
        const V share = load(width.weight + x + i);
        store(to + i, (set(1.0f) - share) * left + share * right);
      }
    } else {
      for (int64_t i = 0; i < columns; ++i) {
        const float *at = row + (width.index[x + i] - first), share = width.weight[x + i];
        to[i] = (1 - share) * at[0] + share * at[1];
      }
    }
  }
  return bad;
}

// Brings all heads to output row (z, y). Two rows of each are kept, at the parity of their index.
void prepare_rows(const Task& task, int64_t image, int64_t z, int64_t y, int64_t x, int64_t columns, const Scratch& s,
                  uint8_t* not_finite) {
  const int64_t row_size = channels_of(task) * kTile;
  for (int64_t k = 0; k < task.heads; ++k) {
    const Head& head = task.head[k];
    const float share = head.axis[1].weight[y];
    const int64_t source[2] = {head.axis[1].index[y], head.axis[1].index[y] + (share != 0)};
    const float* wide[2];
    for (int i = 0; i < 2; ++i) {
      const int64_t slot = 2 * k + (source[i] & 1);
      float* to = s.wide + slot * row_size;
      if (s.cached[slot] != source[i]) {
        s.cached[slot] = source[i];
        if (widen_row(task, head, image, z, source[i], x, columns, s, to)) not_finite[k] = 1;
      }
      wide[i] = to;
    }
    s.rows[k] = {wide[0], wide[1], 1 - share, share};
  }
}

}  // namespace
}  // namespace le::kernel
