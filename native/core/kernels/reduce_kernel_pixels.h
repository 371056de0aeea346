#pragma once
// LE_LANES pixels of a row at a time: one loop over the heads mixes two source rows, exponentiates, and adds to
// everything that is asked for.
#include <cstdint>

#include "kernels/reduce_kernel.h"
#include "kernels/vector_masks.h"

namespace le::kernel {
namespace {

// Differences of logits stop here: e^-41.5 is 0 beside 1, and its square is still a normal number.
constexpr float kFarthest = 41.5f;

// -p ln p, 0 for p = 0.
inline V entropy_term(V p) { return -p * ln(max(p, set(1e-37f))); }

// Where the row's results go, and the sums over it.
struct Output {
  float* maps[kMaps];
  float* probabilities;
  int64_t class_stride;
  uint8_t* mask;
  uint8_t* labels;
  int64_t head_stride;
  uint64_t* words;   // of head 0, class 0, this row; classes kBand apart, heads classes × kBand apart
  float* sums;       // vectors: (map, map where mask ≠ 0) × kMaps, (p̄_c, p̄_c where mask = c) × classes
  int64_t* counts;   // pixels with mask = c
  float* head_sums;  // vectors: as le::kernel::Partial::sums has them
};

inline void add_to(float* sums, int64_t i, V x) { store(sums + i * kLanes, load(sums + i * kLanes) + x); }
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
    const Mask valid = mask_of(valid_bits);
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
        const V inside = add_if(valid, zero, q);
        add_to(out.head_sums, 2 * k, inside);
        add_to(out.head_sums, 2 * k + 1, up, inside);
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
    const Mask valid = mask_of(valid_bits);
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
          const V inside = add_if(valid, zero, p[c]);
          add_to(out.head_sums, 2 * (k * classes + c), inside);
          add_to(out.head_sums, 2 * (k * classes + c) + 1, here, inside);
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

}  // namespace
}  // namespace le::kernel
