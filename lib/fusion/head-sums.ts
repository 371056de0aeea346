// What the maps need of the heads' logits, in one pass: several times as fast as softmax, entropy and variance of each head
// one after the other. Rounding apart, the results are the same.
import { arrayType } from "../arrays.js";
import type { FloatArray } from "../checks.js";
import { expOfNegative, lnOfPositive } from "./exp-log.js";
import { kernels } from "./kernels.js";

/** What the pass over the heads comes to. S pixels. */
export interface HeadSums {
  /** C×S: (1/K) Σ_k p_k. */
  probabilities: Float64Array;
  /** Of `probabilities`. */
  mean: ClassSums;
  /** S each: the maps of these names. */
  expectedEntropy: Float32Array;
  mutualInformation: Float32Array;
  variance: Float32Array;
  /** K×S: labels m_k. */
  labels: Uint8Array;
  /** K×C×2: Σ p_k,c, Σ p_k,c over m_k = c. */
  ofHeads: Float64Array;
  /** S each, where known: the labels of the heads before and after the middle as 32-bit numbers in base C, if they fit. */
  codes?: readonly [Int32Array, Int32Array];
  /** Whether every value was a finite number; nothing else holds where not. */
  finite: boolean;
}

/** What the sums over the classes of one distribution per pixel come to. S each. */
export interface ClassSums {
  /** The largest probability. */
  most: Float64Array;
  /** Its class, the lowest of equals. */
  labels: Uint8Array;
  /** Σ_c p_c². */
  squares: Float64Array;
  /** The map of this name: -Σ_c p_c ln p_c. */
  entropy: Float32Array;
}

/** Pixels that are worked on together, so that their sums stay in the fastest cache. */
const BLOCK = 512;
/** Heads whose Σ exp are multiplied before a logarithm is taken: at most 256³² in all. */
const HEADS_PER_LOGARITHM = 32;

/** @param heads Logits of each head, C×S. */
export function sumOfHeads(heads: readonly FloatArray[], classes: number, pixels: number): HeadSums {
  const single = heads.every((head): head is Float32Array => arrayType(head) === "Float32Array");
  return (single && kernels()?.sumOfHeads(heads, classes, pixels)) || sumOfHeadsInScript(heads, classes, pixels);
}

/** @param probabilities C×S. */
export function sumOfClasses(probabilities: Float64Array, classes: number, pixels: number): ClassSums {
  return (
    kernels()?.sumOfClasses(probabilities, classes, pixels) ?? sumOfClassesInScript(probabilities, classes, pixels)
  );
}

/** {@link sumOfHeads} without WebAssembly. */
export function sumOfHeadsInScript(heads: readonly FloatArray[], classes: number, pixels: number): HeadSums {
  const sums = newHeadSums(heads.length, classes, pixels);
  const { probabilities, labels, ofHeads } = sums;
  const entropy = new Float64Array(pixels);
  const squares = new Float64Array(pixels);
  const exponentials = new Float64Array(classes);
  /** By pixel of the block: Π_k Σ_c exp(z_k,c - max z_k). */
  const products = new Float64Array(BLOCK).fill(1);
  let check = 0; // NaN where a logit is not finite
  for (let start = 0; start < pixels; start += BLOCK) {
    const end = Math.min(pixels, start + BLOCK);
    for (let k = 0; k < heads.length; k++) {
      const z = heads[k] as FloatArray;
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
        labels[k * pixels + i] = label;
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
        for (let c = 0, at = i, to = k * classes * 2; c < classes; c++, at += pixels, to += 2) {
          const p = (exponentials[c] as number) * scale;
          probabilities[at] = (probabilities[at] as number) + p;
          ofHeads[to] = (ofHeads[to] as number) + p;
          if (c === label) ofHeads[to + 1] = (ofHeads[to + 1] as number) + p;
        }
        squares[i] = (squares[i] as number) + square * scale * scale;
        // H = ln Σ e - Σ p d: one logarithm for all heads, of the product of their sums.
        entropy[i] = (entropy[i] as number) - product * scale;
        products[i - start] = (products[i - start] as number) * sum;
      }
      if (k === heads.length - 1 || k % HEADS_PER_LOGARITHM === HEADS_PER_LOGARITHM - 1) {
        for (let i = start; i < end; i++) {
          entropy[i] = (entropy[i] as number) + lnOfPositive(products[i - start] as number);
        }
        products.fill(1);
      }
    }
  }
  measureInScript(sums, entropy, squares, heads.length, classes);
  return { ...sums, finite: check === 0 };
}

/** {@link sumOfHeads} of heads that are probabilities. */
export function sumOfProbabilities(heads: readonly FloatArray[], classes: number, pixels: number): HeadSums {
  const sums = newHeadSums(heads.length, classes, pixels);
  const { probabilities, labels, ofHeads } = sums;
  const entropy = new Float64Array(pixels);
  const squares = new Float64Array(pixels);
  heads.forEach((head, k) => {
    const most = head.slice(0, pixels);
    for (let c = 0, at = 0; c < classes; c++) {
      let total = 0;
      for (let i = 0; i < pixels; i++, at++) {
        const value = head[at] as number;
        if (value > (most[i] as number)) {
          most[i] = value;
          labels[k * pixels + i] = c;
        }
        const p = Math.max(0, value);
        total += p;
        probabilities[at] = (probabilities[at] as number) + p;
        squares[i] = (squares[i] as number) + p * p;
        if (p > 0) entropy[i] = (entropy[i] as number) - p * lnOfPositive(p);
      }
      ofHeads[(k * classes + c) * 2] = total;
    }
    for (let i = 0; i < pixels; i++) {
      const to = (k * classes + (labels[k * pixels + i] as number)) * 2 + 1;
      ofHeads[to] = (ofHeads[to] as number) + (most[i] as number);
    }
  });
  measureInScript(sums, entropy, squares, heads.length, classes);
  return { ...sums, finite: true };
}

/** From sums over the heads: Σ p_k in the place of p̄, Σ H(p_k), Σ_k Σ_c p². */
function measureInScript(
  sums: Omit<HeadSums, "finite">,
  entropy: Float64Array,
  squares: Float64Array,
  heads: number,
  classes: number,
): void {
  const { probabilities, expectedEntropy, mutualInformation, variance } = sums;
  // By division: where all heads are sure, shares are then exact.
  for (let at = 0; at < probabilities.length; at++) probabilities[at] = (probabilities[at] as number) / heads;
  sums.mean = sumOfClassesInScript(probabilities, classes, entropy.length, (i, ofMean, squaresOfMean) => {
    const expected = Math.max(0, (entropy[i] as number) / heads);
    expectedEntropy[i] = expected;
    if (heads === 1) return;
    mutualInformation[i] = Math.max(0, ofMean - expected);
    variance[i] = Math.max(0, ((squares[i] as number) / heads - squaresOfMean) / classes);
  });
}

/** {@link sumOfClasses} without WebAssembly. `each` sees entropy and squares of each pixel in double precision. */
export function sumOfClassesInScript(
  probabilities: Float64Array,
  classes: number,
  pixels: number,
  each?: (pixel: number, entropy: number, squares: number) => void,
): ClassSums {
  const sums = newClassSums(pixels);
  for (let i = 0; i < pixels; i++) {
    let best = 0;
    let most = probabilities[i] as number;
    let squares = 0;
    let entropy = 0;
    for (let c = 0, at = i; c < classes; c++, at += pixels) {
      const p = probabilities[at] as number;
      if (p > most) {
        most = p;
        best = c;
      }
      squares += p * p;
      if (p > 0) entropy -= p * lnOfPositive(p);
    }
    sums.most[i] = most;
    sums.labels[i] = best;
    sums.squares[i] = squares;
    sums.entropy[i] = Math.max(0, entropy);
    each?.(i, entropy, squares);
  }
  return sums;
}

/** For K heads; what is not given is 0. */
export function newHeadSums(heads: number, classes: number, pixels: number): Omit<HeadSums, "finite"> {
  return {
    probabilities: new Float64Array(classes * pixels),
    mean: newClassSums(pixels),
    expectedEntropy: new Float32Array(pixels),
    mutualInformation: new Float32Array(pixels),
    variance: new Float32Array(pixels),
    labels: new Uint8Array(heads * pixels),
    ofHeads: new Float64Array(heads * classes * 2),
  };
}

export function newClassSums(pixels: number): ClassSums {
  return {
    most: new Float64Array(pixels),
    labels: new Uint8Array(pixels),
    squares: new Float64Array(pixels),
    entropy: new Float32Array(pixels),
  };
}

/** Four sums at a time, as each addition waits for the one before it. */
export function total(values: Float64Array, start: number, count: number): number {
  const end = start + count;
  let [a, b, c, d] = [0, 0, 0, 0];
  let i = start;
  for (; i + 3 < end; i += 4) {
    a += values[i] as number;
    b += values[i + 1] as number;
    c += values[i + 2] as number;
    d += values[i + 3] as number;
  }
  for (; i < end; i++) a += values[i] as number;
  return a + b + c + d;
}
