#pragma once
// What reduce() is asked for, and what it gives.
#include <ATen/core/Tensor.h>

#include <array>
#include <vector>

namespace le {

enum class Fusion { kMean, kLogitMean, kVote, kLast, kStaple };
enum Map : unsigned {
  kEntropy = 1u << 0,
  kExpectedEntropy = 1u << 1,
  kMutualInformation = 1u << 2,
  kVariance = 1u << 3,
  kDisagreement = 1u << 4,
  kVariationRatio = 1u << 5,
};
inline constexpr unsigned kMapCount = 6, kAllMaps = (1u << kMapCount) - 1;

struct ReduceOptions {
  Fusion fusion = Fusion::kMean;
  std::vector<double> weights;  // one per head, used by mean and logit-mean; empty: all 1
  double temperature = 1;       // of the fused probabilities: p̄^(1/τ), normalised; the mask stays
  unsigned maps = kAllMaps;     // which maps to bring out, as a set of Map bits
  bool probabilities = true;    // bring out the fused probabilities
  bool labels = false;          // bring out each head's label map
};

// N images, K heads, C classes, S = the output's spatial size.
template <class Array>
struct ReducedAs {
  Array probabilities;                // N×C×S float; undefined unless asked for
  Array mask;                         // N×S uint8
  std::array<Array, kMapCount> maps;  // N×S float each; undefined unless asked for
  Array labels;                       // N×K×S uint8; undefined unless asked for
  Array summaries;  // N×6×2 double: the sum of each map over all pixels, and over pixels with mask ≠ 0; 0 where not
                    // asked for
  Array class_sums;     // N×C×3 double: #(mask = c), sum of p̄_c, sum of p̄_c where mask = c
  Array head_sums;      // N×K×C×2 double: sum of p_k,c, sum of p_k,c where m_k = c
  Array counts;         // N×K×C int64: #(m_k = c)
  Array intersections;  // N×K×K×C int64: #(m_i = c and m_j = c), symmetric, diagonal = counts
  // Of Fusion::kStaple alone. N×K×C×C double: chance that head k says s where the estimated truth is t, NaN for a class
  // that is nowhere; and N×2 int64: rounds, and whether it converged.
  Array confusion, rounds;

  // What `made` makes of every array.
  template <class F>
  auto each(F made) const {
    const auto& m = maps;
    return ReducedAs<decltype(made(mask))>{
        made(probabilities), made(mask),      {made(m[0]), made(m[1]), made(m[2]), made(m[3]), made(m[4]), made(m[5])},
        made(labels),        made(summaries), made(class_sums),
        made(head_sums),     made(counts),    made(intersections),
        made(confusion),     made(rounds)};
  }
};
using Reduced = ReducedAs<at::Tensor>;

}  // namespace le
