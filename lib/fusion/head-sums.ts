import { expOfNegative, lnOfPositive } from "./elementary.js";
// One pass over the logits of all heads for what the maps need, several times as fast as softmax, entropy and variance of
// each head one after the other. Rounding apart, the results are the same.

import type { FloatArray } from "./input.js";

/** What the pass over the heads comes to. S pixels. */
export interface HeadSums {
  /** C×S: (1/K) Σ_k p_k. */
  probabilities: Float64Array;
  /** S: Σ_k H(p_k), in nats; rounding may leave it below 0. */
  entropy: Float64Array;
  /** S: Σ_k Σ_c p_k,c². */
  squares: Float64Array;
  /** K×S: labels m_k. */
  labels: Uint8Array;
  /** Whether every value was a finite number; nothing else holds where not. */
  finite: boolean;
}

/** Pixels that are worked on together, so that their sums stay in the fastest cache. */
const BLOCK = 512;
/** Heads whose Σ exp are multiplied before a logarithm is taken: at most 256³² in all. */
const HEADS_PER_LOGARITHM = 32;

/** @param heads Logits of each head, C×S. */
export function sumOfHeads(heads: readonly FloatArray[], classes: number, pixels: number): HeadSums {
  const probabilities = new Float64Array(classes * pixels);
  const entropy = new Float64Array(pixels);
  const squares = new Float64Array(pixels);
  const labels = new Uint8Array(heads.length * pixels);
  const products = new Float64Array(BLOCK);
  const sums = { probabilities, entropy, squares, labels, products, classes, pixels };
  const add = classes <= 4 ? fewClasses(heads, sums) : manyClasses(heads, sums);
  let check = 0;
  for (let start = 0; start < pixels; start += BLOCK) {
    const end = Math.min(pixels, start + BLOCK);
    products.fill(1);
    for (let k = 0; k < heads.length; k++) {
      check += add(k, start, end);
      if (k === heads.length - 1 || k % HEADS_PER_LOGARITHM === HEADS_PER_LOGARITHM - 1) {
        for (let i = start; i < end; i++) {
          entropy[i] = (entropy[i] as number) + lnOfPositive(products[i - start] as number);
        }
        products.fill(1);
      }
    }
    for (let c = 0; c < classes; c++) divide(probabilities, c * pixels + start, c * pixels + end, heads.length);
  }
  return { probabilities, entropy, squares, labels, finite: check === 0 };
}

/** Last, and by division: where all heads are sure, shares are then exact. */
function divide(values: Float64Array, start: number, end: number, divisor: number): void {
  for (let i = start; i < end; i++) values[i] = (values[i] as number) / divisor;
}

/** Adds head k's part of the pixels from `start` to before `end`. Returns 0 where all its values are finite, else NaN. */
type Adder = (k: number, start: number, end: number) => number;

interface Sums extends Omit<HeadSums, "finite"> {
  /** By pixel of the block: Π_k Σ_c exp(z_k,c - max z_k). */
  products: Float64Array;
  classes: number;
  pixels: number;
}

/** Any number of classes. */
function manyClasses(
  heads: readonly FloatArray[],
  { probabilities, entropy, squares, labels, products, classes, pixels }: Sums,
): Adder {
  const exponentials = new Float64Array(classes);
  return (k, start, end) => {
    const z = heads[k] as FloatArray;
    const own = k * pixels;
    let check = 0;
    for (let i = start; i < end; i++) {
      let most = z[i] as number;
      let label = 0;
      for (let c = 1, at = i + pixels; c < classes; c++, at += pixels) {
        const value = z[at] as number;
        if (value > most) {
          most = value;
          label = c;
        }
      }
      labels[own + i] = label;
      let sum = 0;
      let square = 0;
      let product = 0;
      for (let c = 0, at = i; c < classes; c++, at += pixels) {
        const d = (z[at] as number) - most;
        const e = expOfNegative(d);
        check += d * 0;
        exponentials[c] = e;
        sum += e;
        square += e * e;
        product += e * d;
      }
      const scale = 1 / sum;
      for (let c = 0, at = i; c < classes; c++, at += pixels) {
        probabilities[at] = (probabilities[at] as number) + (exponentials[c] as number) * scale;
      }
      squares[i] = (squares[i] as number) + square * scale * scale;
      // H = ln Σ e - Σ p d: one logarithm for all heads, of the product of their sums.
      entropy[i] = (entropy[i] as number) - product * scale;
      products[i - start] = (products[i - start] as number) * sum;
    }
    return check;
  };
}

/**
 * Up to four classes, which stay in registers: twice as fast. Classes that are missing have the lowest logits there are, and
 * a weight of 0 for where the others are as low.
 */
function fewClasses(
  heads: readonly FloatArray[],
  { probabilities, entropy, squares, labels, products, classes, pixels }: Sums,
): Adder {
  const missing = Array.from({ length: 4 }, (_, c) => c >= classes);
  const single = heads[0] instanceof Float32Array;
  const lowest = single
    ? new Float32Array(pixels).fill(-3.4028234663852886e38)
    : new Float64Array(pixels).fill(-Number.MAX_VALUE);
  const scratch = new Float64Array(pixels);
  const row = (of: FloatArray, c: number) => of.subarray(c * pixels, (c + 1) * pixels);
  const z = heads.map((head) => missing.map((left, c) => (left ? lowest : row(head, c))));
  const p = missing.map((left, c) => (left ? scratch : row(probabilities, c))) as Float64Array[];
  const [w1, w2, w3] = missing.slice(1).map((left) => (left ? 0 : 1)) as [number, number, number];
  const weights = [w1, w2, w3] as const;
  const sums = { squares, entropy, products, labels };
  return (k, start, end) => addFew(z[k] as FloatArray[], p, weights, sums, k * pixels, start, end);
}

type Rows<T> = readonly T[];

function addFew(
  [z0, z1, z2, z3]: Rows<FloatArray>,
  [p0, p1, p2, p3]: Rows<Float64Array>,
  [w1, w2, w3]: readonly [number, number, number],
  { squares, entropy, products, labels }: Pick<Sums, "squares" | "entropy" | "products" | "labels">,
  own: number,
  start: number,
  end: number,
): number {
  let check = 0;
  for (let i = start; i < end; i++) {
    const a = z0![i] as number;
    const b = z1![i] as number;
    const c = z2![i] as number;
    const d = z3![i] as number;
    let most = a;
    let label = 0;
    if (b > most) {
      most = b;
      label = 1;
    }
    if (c > most) {
      most = c;
      label = 2;
    }
    if (d > most) {
      most = d;
      label = 3;
    }
    labels[own + i] = label;
    const da = a - most;
    const db = b - most;
    const dc = c - most;
    const dd = d - most;
    check += (a + b + c + d) * 0;
    const ea = expOfNegative(da);
    const eb = expOfNegative(db) * w1;
    const ec = expOfNegative(dc) * w2;
    const ed = expOfNegative(dd) * w3;
    const sum = ea + eb + ec + ed;
    const scale = 1 / sum;
    p0![i] = (p0![i] as number) + ea * scale;
    p1![i] = (p1![i] as number) + eb * scale;
    p2![i] = (p2![i] as number) + ec * scale;
    p3![i] = (p3![i] as number) + ed * scale;
    squares[i] = (squares[i] as number) + (ea * ea + eb * eb + ec * ec + ed * ed) * scale * scale;
    entropy[i] = (entropy[i] as number) - (ea * da + eb * db + ec * dc + ed * dd) * scale;
    products[i - start] = (products[i - start] as number) * sum;
  }
  return check;
}
