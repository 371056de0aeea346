// Source of the kernel; included once per instruction set, with LE_LANES (floats in a vector) and LE_RUN (its name).
//
// Per item: each head's source rows are brought to the output's width once and kept while the output's rows lie between
// them; then, for LE_LANES pixels at a time, one loop over the heads mixes two such rows, exponentiates, and adds to
// everything that is asked for.
#include <cstdint>
#include <cstring>
#if LE_LANES > 4
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 says so of its own _mm512_undefined_ps()
#include <immintrin.h>
#endif

#include "reduce_kernel.h"
#include "vector_math.h"

namespace le::kernel {
namespace {

// ---------------------------------------------------------------------------------------------------------- vectors

#if LE_LANES == 16
using Mask = __mmask16;
inline Mask greater(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline Mask equal(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline V select(Mask m, V a, V b) { return _mm512_mask_blend_ps(m, b, a); }
inline V add_if(Mask m, V sum, V x) { return _mm512_mask_add_ps(sum, m, sum, x); }
inline V min(V a, V b) { return _mm512_min_ps(a, b); }
inline V max(V a, V b) { return _mm512_max_ps(a, b); }
inline V abs(V a) { return _mm512_abs_ps(a); }
inline uint32_t bits(Mask m) { return m; }
inline Mask mask_of(uint32_t b) { return static_cast<Mask>(b); }
inline void store_bytes(uint8_t* p, V x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(x)));
}
// p[offset[i]] and p[offset[i] + 1] for offsets relative to the first, all below LE_LANES.
inline void pairs_at(const float* p, const int32_t* offset, V& left, V& right) {
  const __m512i from = _mm512_sub_epi32(_mm512_loadu_si512(offset), _mm512_set1_epi32(offset[0]));
  left = _mm512_permutexvar_ps(from, load(p));
  right = _mm512_permutexvar_ps(from, load(p + 1));
}
#elif LE_LANES == 8
using Mask = __m256;
inline Mask greater(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
inline Mask equal(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
inline V select(Mask m, V a, V b) { return _mm256_blendv_ps(b, a, m); }
inline V add_if(Mask m, V sum, V x) { return sum + _mm256_and_ps(m, x); }
inline V min(V a, V b) { return _mm256_min_ps(a, b); }
inline V max(V a, V b) { return _mm256_max_ps(a, b); }
inline V abs(V a) { return _mm256_andnot_ps(set(-0.0f), a); }
inline uint32_t bits(Mask m) { return static_cast<uint32_t>(_mm256_movemask_ps(m)); }
inline Mask mask_of(uint32_t b) {
  const __m256i lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i all = _mm256_set1_epi32(static_cast<int32_t>(b));
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all, lane), lane));
}
inline void store_bytes(uint8_t* p, V x) {
  const __m256i i = _mm256_cvttps_epi32(x);
  const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
}
inline void pairs_at(const float* p, const int32_t* offset, V& left, V& right) {
  const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offset));
  const __m256i from = _mm256_sub_epi32(all, _mm256_set1_epi32(offset[0]));
  left = _mm256_permutevar8x32_ps(load(p), from);
  right = _mm256_permutevar8x32_ps(load(p + 1), from);
}
#else
// By the compiler: SSE2, NEON or whatever there is.
using Mask = Ints;
inline Mask greater(V a, V b) { return a > b; }
inline Mask equal(V a, V b) { return a == b; }
inline V select(Mask m, V a, V b) { return as_floats((as_ints(a) & m) | (as_ints(b) & ~m)); }
inline V add_if(Mask m, V sum, V x) { return sum + as_floats(as_ints(x) & m); }
inline V min(V a, V b) { return select(a < b, a, b); }
inline V max(V a, V b) { return select(a > b, a, b); }
inline V abs(V a) { return as_floats(as_ints(a) & 0x7fffffff); }
inline uint32_t bits(Mask m) {
  m = m & Ints{1, 2, 4, 8};
  return static_cast<uint32_t>(m[0] | m[1] | m[2] | m[3]);
}
inline Mask mask_of(uint32_t b) { return (Ints{1, 2, 4, 8} & static_cast<int32_t>(b)) != 0; }
inline void store_bytes(uint8_t* p, V x) {
  for (int i = 0; i < 4; ++i) p[i] = static_cast<uint8_t>(x[i]);
}
inline void pairs_at(const float* p, const int32_t* offset, V& left, V& right) {
  const int32_t o = offset[0], a = offset[1] - o, b = offset[2] - o, c = offset[3] - o;
  left = V{p[0], p[a], p[b], p[c]};
  right = V{p[1], p[a + 1], p[b + 1], p[c + 1]};
}
#endif

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Differences of logits stop here: e^-41.5 is 0 beside 1, and its square is still a normal number.
constexpr float kFarthest = 41.5f;

// -p ln p, 0 for p = 0.
inline V entropy_term(V p) { return -p * ln(max(p, set(1e-37f))); }

// ------------------------------------------------------------------------------------------------------ source rows

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

  const bool same = width.source == task.size[2], enlarges = width.source <= task.size[2];
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

// ---------------------------------------------------------------------------------------------------- pixels of a row

// Where the row's results go, and the sums over it.
struct Output {
  float* maps[kMaps];
  float* probabilities;
  int64_t class_stride;
  uint8_t* mask;
  uint8_t* labels;
  int64_t head_stride;
  uint64_t* words;  // of head 0, class 0, this row; classes kBand apart, heads classes × kBand apart
  float* sums;      // vectors: (map, map where mask ≠ 0) × kMaps, (p̄_c, p̄_c where mask = c) × classes
  int64_t* counts;  // pixels with mask = c
};

inline void add_to(float* sums, int64_t i, Mask where, V x) {
  store(sums + i * kLanes, add_if(where, load(sums + i * kLanes), x));
}

inline Mask both(Mask a, uint32_t valid) { return mask_of(bits(a) & valid); }

// Stores a map's values and adds them to its sums.
inline void emit(const Output& out, int map, int64_t i, V value, Mask valid, Mask foreground) {
  store(out.maps[map] + i, value);
  add_to(out.sums, 2 * map, valid, value);
  add_to(out.sums, 2 * map + 1, foreground, value);
}

inline void emit_class(const Output& out, int64_t c, int64_t i, V p, Mask valid, Mask here, uint32_t here_bits) {
  if (out.probabilities) store(out.probabilities + c * out.class_stride + i, p);
  add_to(out.sums, 2 * (kMaps + c), valid, p);
  add_to(out.sums, 2 * (kMaps + c) + 1, here, p);
  out.counts[c] += __builtin_popcount(here_bits);
}

inline void put_bits(uint64_t* word, int64_t i, uint32_t b) { *word |= static_cast<uint64_t>(b) << i; }

// Lanes of the vector at column i that lie inside the image.
inline uint32_t valid_lanes(int64_t i, int64_t columns) {
  return columns - i >= kLanes ? static_cast<uint32_t>((uint64_t{1} << kLanes) - 1)
                               : static_cast<uint32_t>((uint64_t{1} << (columns - i)) - 1);
}

// Two classes. d = z_1 - z_0 decides all: with e = exp(-|d|), the less likely class has q = e / (1 + e), and the
// entropy is ln(1 + e) + |d| q. Sums of q keep their relative accuracy where the heads are certain, which sums of p
// near 1 would not.
template <Fused kFused>
void binary_row(const Task& task, const Scratch& s, const Output& out, int64_t columns) {
  const int64_t heads = task.heads;
  const V one = set(1.0f), zero = set(0.0f), count = set(static_cast<float>(heads));
  for (int64_t i = 0; i < columns; i += kLanes) {
    const uint32_t valid_bits = valid_lanes(i, columns);
    V votes = zero, minor = zero, minor_up = zero, squares = zero, moment = zero, logs = zero;
    V fused[2] = {zero, zero}, fused_d = zero;
    V d = zero, e = zero, q = zero, r = zero;
    Mask up = greater(zero, zero);
    // Σ ln(1 + e_k) = ln Π (1 + e_k), which stays in range for 64 heads; kept as Π - 1 to be exact where it is small.
    for (int64_t begin = 0; begin < heads; begin += 64) {
      V product = zero;
      const int64_t end = least(heads, begin + 64);
      for (int64_t k = begin; k < end; ++k) {
        const Row& row = s.rows[k];
        d = set(row.upper_weight) * load(row.upper + i) + set(row.lower_weight) * load(row.lower + i);
        up = greater(d, zero);
        const uint32_t up_bits = bits(up) & valid_bits;
        put_bits(out.words + (2 * k + 1) * kBand, i, up_bits);
        const V t = min(abs(d), set(kFarthest));
        e = exp_of_minus(t);
        r = one / (one + e);
        q = e * r;
        votes = add_if(up, votes, one);
        minor = minor + q;
        minor_up = add_if(up, minor_up, q);
        squares = q * q + squares;
        moment = t * q + moment;
        product = product * e + (product + e);
        if constexpr (kFused == Fused::kWeightedMean) {
          const V share = set(task.head[k].share);
          fused[0] = select(up, q, r) * share + fused[0];
          fused[1] = select(up, r, q) * share + fused[1];
        }
        if constexpr (kFused == Fused::kLogitMean) fused_d = d * set(task.head[k].share) + fused_d;
        if (out.labels) store_bytes(out.labels + k * out.head_stride + i, select(up, one, zero));
      }
      logs = logs + ln_1p(product);
    }

    const V votes_0 = count - votes, tilt = (minor - minor_up) - minor_up;
    const V mean[2] = {(votes_0 - tilt) / count, (votes + tilt) / count};
    if constexpr (kFused == Fused::kMean) {
      fused[0] = mean[0];
      fused[1] = mean[1];
    } else if constexpr (kFused == Fused::kVote) {
      fused[0] = votes_0 / count;
      fused[1] = votes / count;
    } else if constexpr (kFused != Fused::kWeightedMean) {
      if constexpr (kFused == Fused::kLogitMean) {
        up = greater(fused_d, zero);
        e = exp_of_minus(min(abs(fused_d), set(kFarthest)));
        r = one / (one + e);
        q = e * r;
      }
      fused[0] = select(up, q, r);
      fused[1] = select(up, r, q);
    }
    const Mask valid = mask_of(valid_bits);
    const Mask says_1 = both(greater(fused[1], fused[0]), valid_bits);
    const uint32_t bits_1 = bits(says_1), bits_0 = valid_bits & ~bits_1;
    store_bytes(out.mask + i, select(says_1, one, zero));
    emit_class(out, 0, i, fused[0], valid, mask_of(bits_0), bits_0);
    emit_class(out, 1, i, fused[1], valid, says_1, bits_1);

    const auto entropy = [&](V a, V b) {
      const V small = min(a, b);
      return entropy_term(small) - (one - small) * ln_1p(-small);
    };
    V total = zero;
    if (out.maps[0] || (kFused == Fused::kMean && out.maps[2])) {
      total = entropy(fused[0], fused[1]);
      if (out.maps[0]) emit(out, 0, i, total, valid, says_1);
    }
    const V expected = (moment + logs) / count;
    if (out.maps[1]) emit(out, 1, i, expected, valid, says_1);
    if (out.maps[2]) {
      if constexpr (kFused != Fused::kMean) total = entropy(mean[0], mean[1]);
      emit(out, 2, i, max(total - expected, zero), valid, says_1);
    }
    if (out.maps[3]) {
      // Var(p_1) with p_1 = [up] ± q, expanded so that nothing large cancels where all heads agree.
      const V v = votes / count, u = minor_up / count, l = (minor - minor_up) / count, rest = votes_0 / count;
      const V variance = v * rest + (squares / count - (l - u) * (l - u)) - set(2.0f) * (v * l + rest * u);
      emit(out, 3, i, max(variance, zero), valid, says_1);
    }
    if (out.maps[4]) {
      const V pairs = max(count * (count - one), one);
      emit(out, 4, i, set(2.0f) * votes * votes_0 / pairs, valid, says_1);
    }
    if (out.maps[5]) emit(out, 5, i, min(votes, votes_0) / count, valid, says_1);
  }
}

// Any number of classes; kClasses 0: known only at run time, and vectors per class lie in memory.
template <int kClasses, Fused kFused>
void multi_row(const Task& task, const Scratch& s, const Output& out, int64_t columns) {
  const int64_t heads = task.heads, classes = kClasses ? kClasses : task.classes;
  const V one = set(1.0f), zero = set(0.0f), count = set(static_cast<float>(heads));
  V local[5][kClasses ? kClasses : 1];
  const auto vectors = [&](int which) {
    return kClasses ? local[which] : reinterpret_cast<V*>(s.lanes) + which * task.classes;
  };
  V *const p = vectors(0), *const mean = vectors(1), *const first = vectors(2), *const votes = vectors(3),
           *const fused = vectors(4);
  // A product of sums of exponentials, each in [1, C], stays in range for so many heads: 2^120.
  int64_t group = 0;
  for (int64_t c = classes, log2 = 0; group == 0; c = (c + 1) / 2, ++log2)
    if (c <= 1) group = 120 / log2;
  for (int64_t i = 0; i < columns; i += kLanes) {
    const uint32_t valid_bits = valid_lanes(i, columns);
    for (int64_t c = 0; c < classes; ++c) mean[c] = first[c] = votes[c] = fused[c] = zero;
    V squares = zero, moment = zero, logs = zero;
    for (int64_t begin = 0; begin < heads; begin += group) {
      V product = one;
      const int64_t end = least(heads, begin + group);
      for (int64_t k = begin; k < end; ++k) {
        const Row& row = s.rows[k];
        const V upper = set(row.upper_weight), lower = set(row.lower_weight);
        V highest = zero, label = zero;
        for (int64_t c = 0; c < classes; ++c) {
          const V z = upper * load(row.upper + c * kTile + i) + lower * load(row.lower + c * kTile + i);
          p[c] = z;
          if (c == 0) {
            highest = z;
          } else {
            label = select(greater(z, highest), set(static_cast<float>(c)), label);
            highest = max(z, highest);
          }
          if constexpr (kFused == Fused::kLogitMean) fused[c] = z * set(task.head[k].share) + fused[c];
        }
        V sum = zero, spread = zero;
        for (int64_t c = 0; c < classes; ++c) {
          const V t = min(highest - p[c], set(kFarthest)), e = exp_of_minus(t);
          p[c] = e;
          sum = sum + e;
          spread = t * e + spread;
        }
        const V r = one / sum;
        product = product * sum;
        moment = spread * r + moment;
        for (int64_t c = 0; c < classes; ++c) {
          p[c] = p[c] * r;
          if (k == 0) first[c] = p[c];
          mean[c] = mean[c] + p[c];
          const V x = p[c] - first[c];
          squares = x * x + squares;
          const Mask here = equal(label, set(static_cast<float>(c)));
          votes[c] = add_if(here, votes[c], one);
          put_bits(out.words + (k * classes + c) * kBand, i, bits(here) & valid_bits);
          if constexpr (kFused == Fused::kWeightedMean) fused[c] = p[c] * set(task.head[k].share) + fused[c];
        }
        if (out.labels) store_bytes(out.labels + k * out.head_stride + i, label);
      }
      logs = logs + ln(product);
    }

    V shift = zero, agree = zero, most = zero;  // Σ_c (mean - first)², Σ_c n_c², max_c n_c
    for (int64_t c = 0; c < classes; ++c) {
      mean[c] = mean[c] / count;
      const V x = mean[c] - first[c];
      shift = x * x + shift;
      agree = votes[c] * votes[c] + agree;
      most = max(votes[c], most);
      if constexpr (kFused == Fused::kMean) fused[c] = mean[c];
      if constexpr (kFused == Fused::kVote) fused[c] = votes[c] / count;
      if constexpr (kFused == Fused::kLast) fused[c] = p[c];
    }
    if constexpr (kFused == Fused::kLogitMean) {
      V highest = fused[0], sum = zero;
      for (int64_t c = 1; c < classes; ++c) highest = max(fused[c], highest);
      for (int64_t c = 0; c < classes; ++c) {
        fused[c] = exp_of_minus(min(highest - fused[c], set(kFarthest)));
        sum = sum + fused[c];
      }
      for (int64_t c = 0; c < classes; ++c) fused[c] = fused[c] / sum;
    }
    const Mask valid = mask_of(valid_bits);
    V label = zero, highest = fused[0];
    for (int64_t c = 1; c < classes; ++c) {
      label = select(greater(fused[c], highest), set(static_cast<float>(c)), label);
      highest = max(fused[c], highest);
    }
    store_bytes(out.mask + i, label);
    const Mask foreground = both(greater(label, zero), valid_bits);
    for (int64_t c = 0; c < classes; ++c) {
      const uint32_t here = bits(equal(label, set(static_cast<float>(c)))) & valid_bits;
      emit_class(out, c, i, fused[c], valid, mask_of(here), here);
    }

    V total = zero;
    const auto entropy = [&](const V* of) {
      V sum = zero;
      for (int64_t c = 0; c < classes; ++c) sum = sum + entropy_term(of[c]);
      return max(sum, zero);
    };
    if (out.maps[0] || (kFused == Fused::kMean && out.maps[2])) {
      total = entropy(fused);
      if (out.maps[0]) emit(out, 0, i, total, valid, foreground);
    }
    const V expected = (moment + logs) / count;
    if (out.maps[1]) emit(out, 1, i, expected, valid, foreground);
    if (out.maps[2]) {
      if constexpr (kFused != Fused::kMean) total = entropy(mean);
      emit(out, 2, i, max(total - expected, zero), valid, foreground);
    }
    // Σ (p - first)² / K - (mean - first)²: the shift keeps small variances from cancelling.
    if (out.maps[3])
      emit(out, 3, i, max(squares / count - shift, zero) / set(static_cast<float>(classes)), valid, foreground);
    if (out.maps[4]) {
      const V pairs = max(count * (count - one), one);
      emit(out, 4, i, (count * count - agree) / pairs, valid, foreground);
    }
    if (out.maps[5]) emit(out, 5, i, (count - most) / count, valid, foreground);
  }
}

using RowFunction = void (*)(const Task& task, const Scratch& s, const Output& out, int64_t columns);

template <Fused kFused>
RowFunction row_function(int64_t classes) {
  switch (classes) {
    case 2:
      return binary_row<kFused>;
    case 3:
      return multi_row<3, kFused>;
    case 4:
      return multi_row<4, kFused>;
    default:
      return multi_row<0, kFused>;
  }
}

RowFunction row_function(const Task& task) {
  switch (task.fused) {
    case Fused::kMean:
      return row_function<Fused::kMean>(task.classes);
    case Fused::kWeightedMean:
      return row_function<Fused::kWeightedMean>(task.classes);
    case Fused::kLogitMean:
      return row_function<Fused::kLogitMean>(task.classes);
    case Fused::kVote:
      return row_function<Fused::kVote>(task.classes);
    default:
      return row_function<Fused::kLast>(task.classes);
  }
}

// --------------------------------------------------------------------------------------------------------- agreement

int64_t common(const uint64_t* a, const uint64_t* b) {
  int64_t n = 0;
  for (int y = 0; y < kBand; ++y) n += __builtin_popcountll(a[y] & b[y]);
  return n;
}

// Adds the item's pixels where heads i and j ≤ i both say c. With two classes only class 1 has words.
void count_pairs(const Task& task, const uint64_t* words, int64_t* pairs) {
  const int64_t heads = task.heads, classes = task.classes, head_words = classes * kBand;
  for (int64_t c = classes == 2; c < classes; ++c) {
    for (int64_t i = 0; i < heads; ++i) {
      const uint64_t* own = words + i * head_words + c * kBand;
      const int64_t pixels = common(own, own);
      if (pixels == 0) continue;
      pairs[(i * heads + i) * classes + c] += pixels;
      for (int64_t j = 0; j < i; ++j)
        pairs[(i * heads + j) * classes + c] += common(own, words + j * head_words + c * kBand);
    }
  }
}

void add_lanes(const float* row, int64_t n, double* totals) {
  for (int64_t i = 0; i < n; ++i) totals[i] += row[i];
}

double sum_of_lanes(const double* lanes) {
  double sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

}  // namespace

// -------------------------------------------------------------------------------------------------------------- item

void LE_RUN(const Task& task, int64_t item, const Scratch& s, const Partial& partial) {
  const int64_t height = task.size[1], width = task.size[2], plane = height * width, volume = task.size[0] * plane;
  const int64_t tile = item % tiles_of(task), band = item / tiles_of(task) % bands_of(task),
                z = item / (tiles_of(task) * bands_of(task)) % task.size[0], image = item / items_per_image(task);
  const int64_t x = tile * kTile, columns = least(kTile, width - x);
  const int64_t top = band * kBand, bottom = least(top + kBand, height);
  const int64_t heads = task.heads, classes = task.classes, sums = 2 * (kMaps + classes);
  const RowFunction row = row_function(task);

  for (int64_t i = 0; i < 2 * heads; ++i) s.cached[i] = -1;
  for (int64_t i = 0; i < heads * classes * kBand; ++i) s.words[i] = 0;
  for (int64_t i = 0; i < sums * kLanes; ++i) s.totals[i] = 0;
  for (int64_t c = 0; c < classes; ++c) s.counts[c] = 0;

  for (int64_t y = top; y < bottom; ++y) {
    prepare_rows(task, image, z, y, x, columns, s, partial.not_finite);
    // A vector may reach over the image's border: there, results go to `edge` and what is valid is copied.
    const bool cut = columns % kLanes != 0;
    const int64_t pixel = z * plane + y * width + x, at = image * volume + pixel;
    float* const probabilities = task.probabilities ? task.probabilities + image * classes * volume + pixel : nullptr;
    uint8_t* const labels = task.labels ? task.labels + image * heads * volume + pixel : nullptr;
    Output out;
    for (int map = 0; map < kMaps; ++map)
      out.maps[map] = !task.maps[map] ? nullptr : cut ? s.edge + map * kTile : task.maps[map] + at;
    out.probabilities = probabilities && cut ? s.edge + kMaps * kTile : probabilities;
    out.class_stride = cut ? kTile : volume;
    out.mask = cut ? s.edge_bytes : task.mask + at;
    out.labels = labels && cut ? s.edge_bytes + kTile : labels;
    out.head_stride = cut ? kTile : volume;
    out.words = s.words + (y - top);
    out.sums = s.lanes + 5 * classes * kLanes;
    out.counts = s.counts;
    for (int64_t i = 0; i < sums * kLanes; ++i) out.sums[i] = 0;
    row(task, s, out, columns);
    add_lanes(out.sums, sums * kLanes, s.totals);
    if (cut) {
      const size_t floats = static_cast<size_t>(columns) * sizeof(float), bytes = static_cast<size_t>(columns);
      for (int map = 0; map < kMaps; ++map)
        if (task.maps[map]) memcpy(task.maps[map] + at, out.maps[map], floats);
      for (int64_t c = 0; probabilities && c < classes; ++c)
        memcpy(probabilities + c * volume, out.probabilities + c * kTile, floats);
      memcpy(task.mask + at, out.mask, bytes);
      for (int64_t k = 0; labels && k < heads; ++k) memcpy(labels + k * volume, out.labels + k * kTile, bytes);
    }
  }

  for (int64_t i = 0; i < 2 * kMaps; ++i) partial.sums[i] = sum_of_lanes(s.totals + i * kLanes);
  for (int64_t c = 0; c < classes; ++c) {
    double* of_class = partial.sums + 2 * kMaps + 3 * c;
    const double* lanes = s.totals + 2 * (kMaps + c) * kLanes;
    of_class[0] = static_cast<double>(s.counts[c]);
    of_class[1] = sum_of_lanes(lanes);
    of_class[2] = sum_of_lanes(lanes + kLanes);
  }
  count_pairs(task, s.words, partial.pairs);
}

}  // namespace le::kernel
