#pragma once
// Comparisons of the vectors of vector_math.h, and what is done where they hold, by each instruction set's own means.
#include <cstdint>
#include <cstring>
#if LE_LANES > 4
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 says so of its own _mm512_undefined_ps()
#include <immintrin.h>
#endif

#include "kernels/vector_math.h"

namespace le::kernel {
namespace {

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

}  // namespace
}  // namespace le::kernel
