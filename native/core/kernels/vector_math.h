#pragma once
// Vectors of LE_LANES floats and their functions, for the kernels' sources. Everything here is internal to the
// translation unit, which is compiled for one instruction set.
#include <cstdint>
#include <cstring>

namespace le::kernel {
namespace {

typedef float V __attribute__((vector_size(LE_LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LE_LANES * 4)));
constexpr int64_t kLanes = LE_LANES;

inline V set(float x) { return x - V{}; }  // not x + V{}, which makes 0 of -0
inline V load(const float* p) {
  V x;
  memcpy(&x, p, sizeof x);
  return x;
}
inline void store(float* p, V x) { memcpy(p, &x, sizeof x); }
inline Ints as_ints(V x) { return reinterpret_cast<Ints>(x); }
inline V as_floats(Ints x) { return reinterpret_cast<V>(x); }

// e^-x for 0 ≤ x ≤ 87, and 1 for 0. x log2 e is split into an integer and f in [-½, ½], for which there is a minimax
// polynomial of degree 5; relative error below 1.7e-7 + 2e-8 x.
inline V exp_of_minus(V x) {
  const V magic = set(0x1.8p23f), log2e = set(0x1.715476p+0f);  // adding magic rounds to an integer, in the low bits
  const V rounded = magic - x * log2e;
  const V f = (magic - rounded) - x * log2e;
  V y = set(0x1.5bba16p-10f);
  y = y * f + 0x1.3cea88p-7f;
  y = y * f + 0x1.c6b752p-5f;
  y = y * f + 0x1.ebf9bcp-3f;
  y = y * f + 0x1.62e42ap-1f;
  y = y * f + 1.0f;
  return as_floats(as_ints(y) + (as_ints(rounded) << 23));
}

// ln x for a normal x > 0. x = 2^e (1 + f) with √½ ≤ 1 + f < √2 and a minimax polynomial of degree 9 for ln(1 + f);
// relative error below 1.5e-7.
inline V ln(V x) {
  const Ints e = (as_ints(x) - 0x3f3504f3) >> 23;
  const V f = as_floats(as_ints(x) - (e << 23)) - 1.0f;
  V y = set(0x1.65c778p-4f);
  y = y * f - 0x1.25049ep-3f;
  y = y * f + 0x1.318524p-3f;
  y = y * f - 0x1.535d3p-3f;
  y = y * f + 0x1.98d2cp-3f;
  y = y * f - 0x1.00049ap-2f;
  y = y * f + 0x1.5556f4p-2f;
  y = y * f - 0x1.fffffap-2f;
  return __builtin_convertvector(e, V) * 0x1.62e43p-1f + (f * f * y + f);
}

// ln(1 + x) for x ≥ 0, and for -½ ≤ x ≤ 0: the logarithm of the rounded sum, plus what rounding took from it.
inline V ln_1p(V x) {
  const V sum = x + 1.0f;
  return ln(sum) + (x - (sum - 1.0f)) / sum;
}

}  // namespace
}  // namespace le::kernel
