// The loops over all heads, classes and pixels as WebAssembly SIMD, in AssemblyScript (https://www.assemblyscript.org).
//   npx tsx scripts/kernels.ts      # after a change here: makes the *.wasm.ts in lib, which are committed
// lib/fusion/kernels.ts calls them and is where to start reading. They work on one block of n pixels at a time, whose arrays are
// at fixed places of the memory. A vector of 128 bits holds two pixels in double precision, or four in single precision.

/** Number of classes C, and of pixels n, a multiple of 4. */
let classes: i32 = 0;
let n: usize = 0;

// Addresses. C×n logits of one head, in single precision.
export let logits: usize = 0;
/** C×n: Σ p_k, and p̄ at last. From here on, n values; in double precision: Σ_k Σ_c p², Σ_k H(p_k), Π_k Σ_c exp(z - max z). */
export let probabilities: usize = 0;
let squares: usize = 0;
let entropy: usize = 0;
let products: usize = 0;
/** Of p̄, and until it is known of the last head: the largest probability. Of p̄: Σ_c p̄². */
export let most: usize = 0;
export let squaresOfMean: usize = 0;
/** The maps, in single precision. */
export let entropyOfMean: usize = 0;
export let expectedEntropy: usize = 0;
export let mutualInformation: usize = 0;
export let variance: usize = 0;
/** The labels of the heads so far as one 32-bit number in base C. */
export let codes: usize = 0;
/** Bytes: labels of the last head, and of p̄. */
export let labels: usize = 0;
export let labelsOfMean: usize = 0;
/** Exponentials of four pixels. */
let scratch: usize = 0;

/** Bytes in the memory that a block may need. */
export function size(classes: i32, n: usize): usize { return 2048 + n * (12 * classes + 64) + 32 * classes; }

/** Lays the arrays out. */
export function layOut(ofClasses: i32, pixels: usize): void {
  classes = ofClasses;
  n = pixels;
  const single = n * 4;
  const double = n * 8;
  logits = 2048;
  probabilities = logits + single * classes;
  squares = probabilities + double * classes;
  entropy = squares + double;
  products = entropy + double;
  most = products + double;
  squaresOfMean = most + double;
  entropyOfMean = squaresOfMean + double;
  expectedEntropy = entropyOfMean + single;
  mutualInformation = expectedEntropy + single;
  variance = mutualInformation + single;
  codes = variance + single;
  labels = codes + single;
  labelsOfMean = labels + n;
  scratch = labelsOfMean + n;
}

/** Begins a block: sums of nothing. */
export function begin(): void {
  memory.fill(probabilities, 0, products - probabilities);
  memory.fill(codes, 0, n * 4);
  for (let at: usize = 0; at < n * 8; at += 16) v128.store(products + at, constant(ONE));
}

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
/** 2^r by powers of r, for |r| ≤ 1/2: the smallest relative error that a polynomial with 1 at 0 can have. */
const POWER = memory.data<f64>([
  1, 0.6931471807045368, 0.2402265106656761, 0.055504103659766685, 0.009618038131313806, 0.0013333935066409315,
  0.00015466756516920895, 0.000015196154211569512,
]);
/** The same of artanh(s) / s by powers of s², for s up to (√2-1)/(√2+1). */
const ARTANH = memory.data<f64>([
  1, 0.3333333334125819, 0.1999999688958276, 0.1428613853611142, 0.11084970645777757, 0.09833004155801593,
]);
@inline function constant(at: usize, index: usize = 0): Pair { return v128.load64_splat(at + index * 8); }
/** a + b x of two neighbours among coefficients. Pairs of pairs are faster than one after the other (Estrin's scheme). */
@inline function linear(coefficients: usize, index: usize, x: Pair): Pair {
  return add(constant(coefficients, index), mul(x, constant(coefficients, index + 1)));
}

/** e^x for x ≤ 0, to a relative error of 1e-10: exactly 1 for 0, and 0 below -708. */
@inline function exp(x: Pair): Pair {
  const t = mul(x, constant(LOG2_E));
  const n = add(t, constant(ROUNDER));
  const r = sub(t, sub(n, constant(ROUNDER)));
  const r2 = mul(r, r);
  const low = add(linear(POWER, 0, r), mul(r2, linear(POWER, 2, r)));
  const high = add(linear(POWER, 4, r), mul(r2, linear(POWER, 6, r)));
  const p = add(low, mul(mul(r2, r2), high));
  return v128.and(i64x2.add(p, i64x2.shl(n, 52)), f64x2.gt(x, constant(LOWEST)));
}

/** ln x for normal x > 0, to an error of 1e-14 (1 + |ln x|): x = 2^n m with m from √½ to √2, ln m = 2 artanh((m-1)/(m+1)). */
@inline function ln(x: Pair): Pair {
  const t = i64x2.add(x, i64x2.sub(constant(ONE), constant(ROOT_HALF)));
  const n = sub(v128.or(i64x2.shr_u(t, 52), constant(EXPONENT, 0)), constant(EXPONENT, 1));
  const m = i64x2.add(v128.and(t, constant(MANTISSA)), constant(ROOT_HALF));
  const s = f64x2.div(sub(m, constant(ONE)), add(m, constant(ONE)));
  const u = mul(s, s);
  const u2 = mul(u, u);
  const p = add(linear(ARTANH, 0, u), mul(u2, add(linear(ARTANH, 2, u), mul(u2, linear(ARTANH, 4, u)))));
  return add(mul(n, constant(LN_2)), mul(add(s, s), p));
}

@inline function increase(at: usize, by: Pair): void { v128.store(at, add(v128.load(at), by)); }
@inline function lower(fours: v128): Pair { return f64x2.promote_low_f32x4(fours); }
@inline function upper(fours: v128): Pair {
  return f64x2.promote_low_f32x4(v128.shuffle<i64>(fours, fours, 1, 1));
}

/** Labels of four pixels. */
@inline function putLabels(i: usize, label: v128): void {
  const words = i16x8.narrow_i32x4_u(label, label);
  v128.store32_lane(labels + i, i8x16.narrow_i16x8_u(words, words), 0);
  const code = codes + i * 4;
  v128.store(code, i32x4.add(i32x4.mul(v128.load(code), i32x4.splat(classes)), label));
}

/** Adds a head to the sums. A logit that is not finite makes the entropy NaN, by 0·∞ or ∞-∞. */
export function addHead(): void {
  if (classes == 2) addHeadOfTwo();
  else addHeadOfMany();
}

function addHeadOfMany(): void {
  const single = n * 4;
  const double = n * 8;
  for (let i: usize = 0; i < n; i += 4) {
    const first = logits + i * 4;
    let highest = v128.load(first);
    let label = zero();
    for (let c = 1, at = first + single; c < classes; c++, at += single) {
      const z = v128.load(at);
      label = v128.bitselect(i32x4.splat(c), label, f32x4.gt(z, highest));
      highest = f32x4.pmax(highest, z);
    }
    putLabels(i, label);

    const highestA = lower(highest);
    const highestB = upper(highest);
    let sumA = zero();
    let sumB = zero();
    let squareA = zero();
    let squareB = zero();
    let productA = zero();
    let productB = zero();
    for (let c = 0, at = first, to = scratch; c < classes; c++, at += single, to += 32) {
      const z = v128.load(at);
      const dA = sub(lower(z), highestA);
      const dB = sub(upper(z), highestB);
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
    for (let c = 0, to = probabilities + at, from = scratch; c < classes; c++, to += double, from += 32) {
      increase(to, mul(v128.load(from), scaleA));
      increase(to + 16, mul(v128.load(from, 16), scaleB));
    }
    addSums(at, sumA, scaleA, squareA, productA);
    addSums(at + 16, sumB, scaleB, squareB, productB);
  }
}

/** H = ln Σ e - Σ p d: one logarithm for all heads, of the product of their sums. */
@inline function addSums(at: usize, sum: Pair, scale: Pair, square: Pair, product: Pair): void {
  v128.store(most + at, scale);
  increase(squares + at, mul(square, mul(scale, scale)));
  increase(entropy + at, f64x2.neg(mul(product, scale)));
  v128.store(products + at, mul(v128.load(products + at), sum));
}

/** One exponential is enough for two classes, that of minus the distance of the logits. */
function addHeadOfTwo(): void {
  for (let i: usize = 0; i < n; i += 4) {
    const z0 = v128.load(logits + i * 4);
    const z1 = v128.load(logits + (n + i) * 4);
    putLabels(i, i32x4.neg(f32x4.gt(z1, z0)));
    addTwo(i * 8, lower(z0), lower(z1));
    addTwo(i * 8 + 16, upper(z0), upper(z1));
  }
}

@inline function addTwo(at: usize, z0: Pair, z1: Pair): void {
  const d = f64x2.neg(f64x2.abs(sub(z1, z0)));
  const e = exp(d);
  const sum = add(e, constant(ONE));
  const scale = f64x2.div(constant(ONE), sum);
  const less = mul(e, scale);
  const wins = f64x2.gt(z1, z0);
  const to = probabilities + at;
  increase(to, v128.bitselect(less, scale, wins));
  increase(to + n * 8, v128.bitselect(scale, less, wins));
  addSums(at, sum, scale, add(constant(ONE), mul(e, e)), mul(e, d));
}

/** To be called after every 32 heads at most, as the products of their sums then stay below 256³². */
export function addLogarithms(): void {
  for (let at: usize = 0; at < n * 8; at += 16) {
    increase(entropy + at, ln(v128.load(products + at)));
    v128.store(products + at, constant(ONE));
  }
}

/** Never below 0. */
@inline function putSingles(at: usize, i: usize, values: Pair): void {
  v128.store64_lane(at + i * 4, f32x4.demote_f64x2_zero(f64x2.pmax(zero(), values)), 0);
}

/** Ends a block: all that is to be known of the mean of K heads, and the maps. Returns 0 if all logits were finite, else NaN. */
export function measure(heads: i32): f64 {
  let check = zero();
  const divisor = f64x2.splat(heads);
  for (let i: usize = 0; i < n; i += 2) {
    let largest = zero();
    let label = zero();
    let square = zero();
    let product = zero();
    for (let c = 0, at = probabilities + i * 8; c < classes; c++, at += n * 8) {
      const p = f64x2.div(v128.load(at), divisor); // exact where all heads are sure
      v128.store(at, p);
      label = v128.bitselect(i64x2.splat(c), label, f64x2.gt(p, largest));
      largest = f64x2.pmax(largest, p);
      square = add(square, mul(p, p));
      product = add(product, v128.and(mul(p, ln(p)), f64x2.gt(p, zero())));
    }
    v128.store(most + i * 8, largest);
    v128.store(squaresOfMean + i * 8, square);
    const bytes = v128.shuffle<i8>(label, label, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8);
    v128.store16_lane(labelsOfMean + i, bytes, 0);
    const ofMean = f64x2.neg(product);
    const ofHeads = v128.load(entropy + i * 8);
    check = add(check, mul(ofHeads, zero()));
    const expected = f64x2.pmax(zero(), f64x2.div(ofHeads, divisor));
    putSingles(entropyOfMean, i, ofMean);
    putSingles(expectedEntropy, i, expected);
    putSingles(mutualInformation, i, sub(ofMean, expected));
    const spread = sub(f64x2.div(v128.load(squares + i * 8), divisor), square);
    putSingles(variance, i, f64x2.div(spread, f64x2.splat(classes)));
  }
  return f64x2.extract_lane(check, 0) + f64x2.extract_lane(check, 1);
}
