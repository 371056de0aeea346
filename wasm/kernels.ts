// The loops over all heads, classes and pixels as WebAssembly SIMD, in AssemblyScript (https://www.assemblyscript.org).
//   npx tsx scripts/kernels.ts      # after a change here: makes lib/fusion/kernels.wasm.ts, which is committed
// lib/fusion/kernels.ts calls them and is where to start reading. A vector of 128 bits holds two pixels in double precision.
// Arrays are addresses; a row is the n values of one class; n is a multiple of 4. Nothing here allocates.

type Pair = v128;

@inline function add(a: Pair, b: Pair): Pair { return f64x2.add(a, b); }
@inline function sub(a: Pair, b: Pair): Pair { return f64x2.sub(a, b); }
@inline function mul(a: Pair, b: Pair): Pair { return f64x2.mul(a, b); }
@inline function zero(): Pair { return i64x2.splat(0); }

// Constants are loaded from memory: V8 would make vectors of literals anew in every round of a loop.
const ONE = memory.data<f64>([1]);
const LOG2_E = memory.data<f64>([1.4426950408889634]);
const LN_2 = memory.data<f64>([0.6931471805599453]);
const LOWEST = memory.data<f64>([-708]);
/** 1.5·2^52: added to a number, it leaves the nearest integer in the low bits. */
const ROUNDER = memory.data<f64>([6755399441055744]);
/** 2^52 with an exponent's bits in its low bits is 2^52 + 1023 for numbers from 1 to 2. */
const EXPONENT = memory.data<f64>([4503599627370496, 4503599627371519]);
const MANTISSA = memory.data<u64>([0x000fffffffffffff]);
const ROOT_HALF = memory.data<f64>([0.7071067811865476]);
/** 2^r for |r| ≤ 1/2, from the highest power down: the smallest relative error that a polynomial with 1 at 0 can have. */
const POWER = memory.data<f64>([
  0.000015196154211569512, 0.00015466756516920895, 0.0013333935066409315, 0.009618038131313806, 0.055504103659766685,
  0.2402265106656761, 0.6931471807045368, 1,
]);
/** The same of artanh(s) / s by powers of s², for s up to (√2-1)/(√2+1). */
const ARTANH = memory.data<f64>([
  0.09833004155801593, 0.11084970645777757, 0.1428613853611142, 0.1999999688958276, 0.3333333334125819, 1,
]);
@inline function constant(at: usize, index: usize = 0): Pair { return v128.load64_splat(at + index * 8); }
/** One step of Horner's rule. */
@inline function step(sum: Pair, x: Pair, coefficients: usize, index: usize): Pair {
  return add(constant(coefficients, index), mul(x, sum));
}

/** e^x for x ≤ 0, to a relative error of 1e-10: exactly 1 for 0, and 0 below -708. */
@inline function exp(x: Pair): Pair {
  const t = mul(x, constant(LOG2_E));
  const n = add(t, constant(ROUNDER));
  const r = sub(t, sub(n, constant(ROUNDER)));
  let p = step(constant(POWER), r, POWER, 1);
  p = step(p, r, POWER, 2);
  p = step(p, r, POWER, 3);
  p = step(p, r, POWER, 4);
  p = step(p, r, POWER, 5);
  p = step(p, r, POWER, 6);
  p = step(p, r, POWER, 7);
  return v128.and(i64x2.add(p, i64x2.shl(n, 52)), f64x2.gt(x, constant(LOWEST)));
}

/** ln x for normal x > 0, to an error of 1e-14 (1 + |ln x|): x = 2^n m with m from √½ to √2, ln m = 2 artanh((m-1)/(m+1)). */
@inline function ln(x: Pair): Pair {
  const t = i64x2.add(x, i64x2.sub(constant(ONE), constant(ROOT_HALF)));
  const n = sub(v128.or(i64x2.shr_u(t, 52), constant(EXPONENT, 0)), constant(EXPONENT, 1));
  const m = i64x2.add(v128.and(t, constant(MANTISSA)), constant(ROOT_HALF));
  const s = f64x2.div(sub(m, constant(ONE)), add(m, constant(ONE)));
  const u = mul(s, s);
  let p = step(constant(ARTANH), u, ARTANH, 1);
  p = step(p, u, ARTANH, 2);
  p = step(p, u, ARTANH, 3);
  p = step(p, u, ARTANH, 4);
  p = step(p, u, ARTANH, 5);
  return add(mul(n, constant(LN_2)), mul(add(s, s), p));
}

@inline function increase(at: usize, by: Pair): void { v128.store(at, add(v128.load(at), by)); }
@inline function lower(fours: v128): Pair { return f64x2.promote_low_f32x4(fours); }
@inline function upper(fours: v128): Pair {
  return f64x2.promote_low_f32x4(v128.shuffle<i64>(fours, fours, 1, 1));
}

/** Labels of four pixels, as bytes; and as the next digit of the pixels' codes, in base `classes`. */
@inline function putLabels(labels: usize, codes: usize, i: usize, label: v128, classes: i32): void {
  const words = i16x8.narrow_i32x4_u(label, label);
  v128.store32_lane(labels + i, i8x16.narrow_i16x8_u(words, words), 0);
  const at = codes + i * 4;
  v128.store(at, i32x4.add(i32x4.mul(v128.load(at), i32x4.splat(classes)), label));
}

/** Adds one head's share of the sums. Returns 0 if all logits are finite, else NaN. */
export function addHead(
  z: usize, p: usize, squares: usize, entropy: usize, products: usize, labels: usize, codes: usize, scratch: usize,
  classes: i32, n: usize,
): f32 {
  let check = zero();
  for (let i: usize = 0; i < n; i += 4) {
    const first = z + i * 4;
    let most = v128.load(first);
    let label = zero();
    for (let c = 1, at = first + n * 4; c < classes; c++, at += n * 4) {
      const value = v128.load(at);
      label = v128.bitselect(i32x4.splat(c), label, f32x4.gt(value, most));
      most = f32x4.pmax(most, value);
    }
    putLabels(labels, codes, i, label, classes);

    const mostA = lower(most);
    const mostB = upper(most);
    let sumA = zero();
    let sumB = zero();
    let squareA = zero();
    let squareB = zero();
    let productA = zero();
    let productB = zero();
    for (let c = 0, at = first, to = scratch; c < classes; c++, at += n * 4, to += 32) {
      const value = v128.load(at);
      check = f32x4.add(check, f32x4.mul(value, zero()));
      const dA = sub(lower(value), mostA);
      const dB = sub(upper(value), mostB);
      const eA = exp(dA);
      const eB = exp(dB);
      v128.store(to, eA);
      v128.store(to, eB, 16);
      sumA = add(sumA, eA);
      sumB = add(sumB, eB);
      squareA = add(squareA, mul(eA, eA));
      squareB = add(squareB, mul(eB, eB));
      productA = add(productA, mul(eA, dA));
      productB = add(productB, mul(eB, dB));
    }
    const at = i * 8;
    const scaleA = f64x2.div(constant(ONE), sumA);
    const scaleB = f64x2.div(constant(ONE), sumB);
    for (let c = 0, to = p + at, from = scratch; c < classes; c++, to += n * 8, from += 32) {
      increase(to, mul(v128.load(from), scaleA));
      increase(to + 16, mul(v128.load(from, 16), scaleB));
    }
    addSums(squares + at, entropy + at, products + at, sumA, scaleA, squareA, productA);
    addSums(squares + at + 16, entropy + at + 16, products + at + 16, sumB, scaleB, squareB, productB);
  }
  return sumOfFour(check);
}

@inline function addSums(
  squares: usize, entropy: usize, products: usize, sum: Pair, scale: Pair, square: Pair, product: Pair,
): void {
  increase(squares, mul(square, mul(scale, scale)));
  increase(entropy, f64x2.neg(mul(product, scale)));
  v128.store(products, mul(v128.load(products), sum));
}

@inline function sumOfFour(x: v128): f32 {
  return f32x4.extract_lane(x, 0) + f32x4.extract_lane(x, 1) + f32x4.extract_lane(x, 2) + f32x4.extract_lane(x, 3);
}

/** {@link addHead} for two classes: one exponential is enough, that of minus the distance of the logits. */
export function addHeadOfTwo(
  z: usize, p: usize, squares: usize, entropy: usize, products: usize, labels: usize, codes: usize, n: usize,
): f32 {
  let check = zero();
  for (let i: usize = 0; i < n; i += 4) {
    const z0 = v128.load(z + i * 4);
    const z1 = v128.load(z + (n + i) * 4);
    const wins = f32x4.gt(z1, z0);
    putLabels(labels, codes, i, i32x4.neg(wins), 2);
    check = f32x4.add(check, f32x4.mul(f32x4.add(z0, z1), zero()));
    const at = i * 8;
    const next = at + 16;
    const to = p + n * 8;
    addTwo(lower(z0), lower(z1), p + at, to + at, squares + at, entropy + at, products + at);
    addTwo(upper(z0), upper(z1), p + next, to + next, squares + next, entropy + next, products + next);
  }
  return sumOfFour(check);
}

@inline function addTwo(
  z0: Pair, z1: Pair, p0: usize, p1: usize, squares: usize, entropy: usize, products: usize,
): void {
  const d = f64x2.neg(f64x2.abs(sub(z1, z0)));
  const e = exp(d);
  const sum = add(e, constant(ONE));
  const scale = f64x2.div(constant(ONE), sum);
  const less = mul(e, scale);
  const wins = f64x2.gt(z1, z0);
  increase(p0, v128.bitselect(less, scale, wins));
  increase(p1, v128.bitselect(scale, less, wins));
  addSums(squares, entropy, products, sum, scale, add(constant(ONE), mul(e, e)), mul(e, d));
}

/** entropy += ln products; products = 1. */
export function addLogarithms(entropy: usize, products: usize, n: usize): void {
  for (let at: usize = 0; at < n * 8; at += 16) {
    increase(entropy + at, ln(v128.load(products + at)));
    v128.store(products + at, constant(ONE));
  }
}

/** Divides p, and of the quotients: the largest of each pixel, its class, Σ q², and -Σ q ln q. */
export function measure(
  p: usize, most: usize, labels: usize, squares: usize, entropy: usize, classes: i32, n: usize, divisor: f64,
): void {
  for (let i: usize = 0; i < n; i += 2) {
    let largest = zero();
    let label = zero();
    let square = zero();
    let product = zero();
    for (let c = 0, at = p + i * 8; c < classes; c++, at += n * 8) {
      const q = f64x2.div(v128.load(at), f64x2.splat(divisor));
      v128.store(at, q);
      label = v128.bitselect(i64x2.splat(c), label, f64x2.gt(q, largest));
      largest = f64x2.pmax(largest, q);
      square = add(square, mul(q, q));
      product = add(product, v128.and(mul(q, ln(q)), f64x2.gt(q, zero())));
    }
    v128.store(most + i * 8, largest);
    v128.store16_lane(labels + i, v128.shuffle<i8>(label, label, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8), 0);
    v128.store(squares + i * 8, square);
    v128.store(entropy + i * 8, f64x2.neg(product));
  }
}
