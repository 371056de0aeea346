import type { NdArray } from "../arrays.js";
import { checkClasses, checkLabels } from "../checks.js";
import { checkOptions, option } from "../options.js";
import { findPatterns, type Half, type Patterns } from "./patterns.js";

/** Options of {@link staple}. */
export interface StapleOptions {
  /** Rounds after which it stops where it has not converged. @default 100 */
  maxRounds?: number;
  /** It has converged where no entry of a head's performance moves by more than this in a round. @default 1e-7 */
  tolerance?: number;
}

/** What {@link staple} finds of one image. Performance is against the estimated truth W, not against a real one. */
export interface Staple {
  /** W, C×S: posterior probability of each class at each pixel, in [0, 1], never NaN. */
  probabilities: NdArray;
  /** By head, true class t, label s: chance that the head says s where the truth is t. NaN in rows of classes without W. */
  confusion: number[][][];
  /** Share of each class among all labels of all heads. */
  prior: number[];
  /** By head, for two classes only: p_j, chance to say 1 where the truth is 1; NaN where W is 0 everywhere. */
  sensitivity?: number[];
  /** By head, for two classes only: q_j, chance to say 0 where the truth is 0; NaN where W is 1 everywhere. */
  specificity?: number[];
  /** Whether it stopped by itself. */
  converged: boolean;
  /** Rounds of expectation and maximisation; 0 where there is nothing to estimate. */
  rounds: number;
}

/** What {@link stapleOf} finds. */
export interface PatternStaple extends Omit<Staple, "probabilities"> {
  /** D×width: W by pattern; C classes, then zeros. */
  posterior: Float64Array;
  width: number;
  /** S: the pattern of each pixel. */
  of: Int32Array;
}

/** Chances are kept this far from 0 and 1 inside likelihoods, so that one head cannot rule a class out. */
const CHANCE_LIMIT = 1e-7;
/** Up to so many heads, products of chances stay far above the smallest double. */
const MOST_HEADS_IN_PRODUCTS = 40;

/**
 * Simultaneous truth and performance level estimation (Warfield, Zou & Wells, 2004) of one image's label maps: the hidden
 * truth and each head's confusion matrix, by expectation maximisation. It starts from the votes, with the labels' frequencies
 * as prior. Two classes are the binary method. It assumes that the heads err independently; the heads of one network do not,
 * so that W is too sure of itself.
 *
 * One head alone, or a single class in all labels, needs no estimate: W is the label map.
 * @param labels K×S, of {@link labelMaps}.
 * @param classes C, from 1 to 256.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function staple(labels: NdArray<Uint8Array>, classes: number, options: StapleOptions = {}): Staple {
  const checked = checkOptions("staple", options, {
    maxRounds: option.integer({ min: 1 }),
    tolerance: option.number({ min: 0 }),
  });
  checkClasses("classes", classes);
  const { data, shape } = checkLabels("labels", labels, { classes, rank: 2, axes: "K×S" });
  const [heads, ...spatial] = shape as [number, ...number[]];
  return expand(stapleOf(findPatterns(data, heads, classes), classes, checked), spatial);
}

/**
 * {@link staple} on patterns: the same expectation maximisation, each pattern counting as many pixels as it has. Arrays have room
 * for a multiple of four classes, so that loops can take four at a time; those that are not there have prior 0, and no W.
 */
export function stapleOf(patterns: Patterns, classes: number, options: StapleOptions = {}): PatternStaple {
  const { maxRounds = 100, tolerance = 1e-7 } = options;
  const { heads, halves, counts } = patterns;
  const width = (classes + 3) & ~3;
  const posterior = votes(patterns, width);
  const prior = new Float64Array(width);
  let pixels = 0;
  for (let d = 0; d < counts.length; d++) {
    const n = counts[d] as number;
    pixels += n;
    for (let c = 0; c < classes; c++) prior[c] = (prior[c] as number) + n * (posterior[d * width + c] as number);
  }
  for (let c = 0; c < classes; c++) prior[c] = (prior[c] as number) / pixels;

  /** By half, patterns×C: Σ W over the pixels with the pattern; and the likelihood of the pattern's labels. */
  const sums = halves.map((half) => new Float64Array(half.patterns * width));
  const factors = sums.map((sum) => new Float64Array(sum.length));
  /** By head, label s, true class t. */
  let chances = new Float64Array(heads * width * width);
  let before = new Float64Array(chances.length);
  const ones = new Float64Array(width).fill(1);
  const inProducts = heads <= MOST_HEADS_IN_PRODUCTS;
  const maximise = () => {
    chances.fill(0);
    halves.forEach((half, h) => {
      countLabels(half, sums[h] as Float64Array, width, chances);
    });
    normalise(chances, width);
  };
  addUp(halves, posterior, counts, width, sums);
  let rounds = 0;
  let converged = heads === 1 || prior.some((share) => share === 1);
  if (converged) maximise();
  while (!converged && rounds < maxRounds) {
    rounds++;
    [before, chances] = [chances, before];
    maximise();
    const within = bounded(chances);
    halves.forEach((half, h) => {
      const of = inProducts ? likelihoods : logLikelihoods;
      of(half, within, width, h === 0 ? prior : ones, factors[h] as Float64Array);
    });
    if (inProducts) multiply(halves, factors, width, posterior);
    else multiplyLogarithms(halves, factors, width, posterior);
    addUp(halves, posterior, counts, width, sums);
    converged = rounds > 1 && largestMove(before, chances) <= tolerance;
  }
  const all = Array.from({ length: classes }, (_, c) => c);
  const confusion = Array.from({ length: heads }, (_, k) =>
    all.map((t) => all.map((s) => chances[(k * width + s) * width + t] as number)),
  );
  return {
    posterior,
    width,
    of: patterns.of,
    confusion,
    prior: [...prior.subarray(0, classes)],
    ...(classes === 2 && {
      sensitivity: confusion.map((rows) => rows[1]?.[1] as number),
      specificity: confusion.map((rows) => rows[0]?.[0] as number),
    }),
    converged,
    rounds,
  };
}

/** W by pixel. */
export function expand({ posterior, width, of, ...rest }: PatternStaple, spatial: readonly number[]): Staple {
  const classes = rest.prior.length;
  const pixels = of.length;
  const data = new Float32Array(classes * pixels);
  const ofClass = new Float32Array(posterior.length / width);
  for (let c = 0, at = 0; c < classes; c++) {
    for (let d = 0; d < ofClass.length; d++) ofClass[d] = posterior[d * width + c] as number;
    for (let i = 0; i < pixels; i++) data[at++] = ofClass[of[i] as number] as number;
  }
  return { probabilities: { data, shape: [classes, ...spatial] }, ...rest };
}

/** D×C: share of the heads with each label. */
function votes({ heads, labels, counts }: Patterns, width: number): Float64Array {
  const shares = new Float64Array(counts.length * width);
  for (let d = 0, at = 0; d < counts.length; d++) {
    for (let k = 0; k < heads; k++) shares[d * width + (labels[at++] as number)]!++;
  }
  for (let i = 0; i < shares.length; i++) shares[i] = (shares[i] as number) / heads;
  return shares;
}

/** Adds Σ W_t over the pixels with label s to chances[k][s][t], from the sums by pattern. */
function countLabels({ first, heads, labels }: Half, sums: Float64Array, width: number, chances: Float64Array): void {
  for (let from = 0, at = 0; from < labels.length; from += heads, at += width) {
    for (let t = 0; t < width; t += 4) {
      const w0 = sums[at + t] as number;
      const w1 = sums[at + t + 1] as number;
      const w2 = sums[at + t + 2] as number;
      const w3 = sums[at + t + 3] as number;
      for (let k = 0; k < heads; k++) {
        const to = ((first + k) * width + (labels[from + k] as number)) * width + t;
        chances[to] = (chances[to] as number) + w0;
        chances[to + 1] = (chances[to + 1] as number) + w1;
        chances[to + 2] = (chances[to + 2] as number) + w2;
        chances[to + 3] = (chances[to + 3] as number) + w3;
      }
    }
  }
}

/** Divides the chances of each head and true class by their sum over the labels; NaN where that is 0. */
function normalise(chances: Float64Array, width: number): void {
  const square = width * width;
  for (let head = 0; head < chances.length; head += square) {
    for (let t = head; t < head + width; t++) {
      let sum = 0;
      for (let at = t; at < head + square; at += width) sum += chances[at] as number;
      for (let at = t; at < head + square; at += width) chances[at] = (chances[at] as number) / sum;
    }
  }
}

/** Chances kept away from 0 and 1. A class without W has none, so that it cannot come back. */
function bounded(chances: Float64Array): Float64Array {
  const result = new Float64Array(chances.length);
  for (let i = 0; i < chances.length; i++) {
    const chance = chances[i] as number;
    result[i] = Number.isNaN(chance) ? 0 : Math.min(1 - CHANCE_LIMIT, Math.max(CHANCE_LIMIT, chance));
  }
  return result;
}

/** By pattern of a half and class: the likelihood of its labels, times `scale` of the class. */
function likelihoods(
  { first, heads, labels }: Half,
  chances: Float64Array,
  width: number,
  scale: Float64Array,
  out: Float64Array,
): void {
  for (let from = 0, at = 0; at < out.length; from += heads, at += width) {
    for (let t = 0; t < width; t += 4) {
      let w0 = scale[t] as number;
      let w1 = scale[t + 1] as number;
      let w2 = scale[t + 2] as number;
      let w3 = scale[t + 3] as number;
      for (let k = 0; k < heads; k++) {
        const chance = ((first + k) * width + (labels[from + k] as number)) * width + t;
        w0 *= chances[chance] as number;
        w1 *= chances[chance + 1] as number;
        w2 *= chances[chance + 2] as number;
        w3 *= chances[chance + 3] as number;
      }
      out[at + t] = w0;
      out[at + t + 1] = w1;
      out[at + t + 2] = w2;
      out[at + t + 3] = w3;
    }
  }
}

/** {@link likelihoods} as logarithms. */
function logLikelihoods(
  { first, heads, labels }: Half,
  chances: Float64Array,
  width: number,
  scale: Float64Array,
  out: Float64Array,
): void {
  const logs = chances.map(Math.log);
  for (let from = 0, at = 0; at < out.length; from += heads, at += width) {
    for (let t = 0; t < width; t++) {
      let sum = Math.log(scale[t] as number);
      for (let k = 0; k < heads; k++) {
        sum += logs[((first + k) * width + (labels[from + k] as number)) * width + t] as number;
      }
      out[at + t] = sum;
    }
  }
}

/** Patterns of each half×C: Σ W over the pixels with the pattern. */
function addUp(
  [a, b]: readonly [Half, Half],
  posterior: Float64Array,
  counts: Float64Array,
  width: number,
  sums: readonly Float64Array[],
): void {
  const [toA, toB] = sums as [Float64Array, Float64Array];
  const [ofA, ofB] = [a.of, b.of];
  toA.fill(0);
  toB.fill(0);
  for (let d = 0, at = 0; d < counts.length; d++) {
    const n = counts[d] as number;
    let atA = (ofA[d] as number) * width;
    let atB = (ofB[d] as number) * width;
    for (const end = at + width; at < end; at += 4, atA += 4, atB += 4) {
      const w0 = n * (posterior[at] as number);
      const w1 = n * (posterior[at + 1] as number);
      const w2 = n * (posterior[at + 2] as number);
      const w3 = n * (posterior[at + 3] as number);
      toA[atA] = (toA[atA] as number) + w0;
      toA[atA + 1] = (toA[atA + 1] as number) + w1;
      toA[atA + 2] = (toA[atA + 2] as number) + w2;
      toA[atA + 3] = (toA[atA + 3] as number) + w3;
      toB[atB] = (toB[atB] as number) + w0;
      toB[atB + 1] = (toB[atB + 1] as number) + w1;
      toB[atB + 2] = (toB[atB + 2] as number) + w2;
      toB[atB + 3] = (toB[atB + 3] as number) + w3;
    }
  }
}

/** W: the products of both halves' likelihoods, normalised over the classes. */
function multiply(
  [a, b]: readonly [Half, Half],
  factors: readonly Float64Array[],
  width: number,
  posterior: Float64Array,
): void {
  const [fromA, fromB] = factors as [Float64Array, Float64Array];
  const [ofA, ofB] = [a.of, b.of];
  if (width === 4) {
    for (let d = 0, at = 0; d < ofA.length; d++, at += 4) {
      const atA = (ofA[d] as number) * 4;
      const atB = (ofB[d] as number) * 4;
      const w0 = (fromA[atA] as number) * (fromB[atB] as number);
      const w1 = (fromA[atA + 1] as number) * (fromB[atB + 1] as number);
      const w2 = (fromA[atA + 2] as number) * (fromB[atB + 2] as number);
      const w3 = (fromA[atA + 3] as number) * (fromB[atB + 3] as number);
      const scale = 1 / (w0 + w1 + (w2 + w3));
      posterior[at] = w0 * scale;
      posterior[at + 1] = w1 * scale;
      posterior[at + 2] = w2 * scale;
      posterior[at + 3] = w3 * scale;
    }
    return;
  }
  for (let d = 0, at = 0; d < ofA.length; d++, at += width) {
    const atA = (ofA[d] as number) * width;
    const atB = (ofB[d] as number) * width;
    let sum = 0;
    for (let t = 0; t < width; t++) {
      const w = (fromA[atA + t] as number) * (fromB[atB + t] as number);
      posterior[at + t] = w;
      sum += w;
    }
    const scale = 1 / sum;
    for (let t = 0; t < width; t++) posterior[at + t] = (posterior[at + t] as number) * scale;
  }
}

/** {@link multiply} of likelihoods that are given as logarithms. */
function multiplyLogarithms(
  [a, b]: readonly [Half, Half],
  factors: readonly Float64Array[],
  width: number,
  posterior: Float64Array,
): void {
  const [fromA, fromB] = factors as [Float64Array, Float64Array];
  for (let d = 0, at = 0; d < a.of.length; d++, at += width) {
    const atA = (a.of[d] as number) * width;
    const atB = (b.of[d] as number) * width;
    let most = Number.NEGATIVE_INFINITY;
    for (let t = 0; t < width; t++) most = Math.max(most, (fromA[atA + t] as number) + (fromB[atB + t] as number));
    let sum = 0;
    for (let t = 0; t < width; t++) {
      const w = Math.exp((fromA[atA + t] as number) + (fromB[atB + t] as number) - most);
      posterior[at + t] = w;
      sum += w;
    }
    for (let t = 0; t < width; t++) posterior[at + t] = (posterior[at + t] as number) / sum;
  }
}

/** NaN stays NaN, which is no move. */
function largestMove(before: Float64Array, after: Float64Array): number {
  let most = 0;
  for (let i = 0; i < after.length; i++) {
    const move = Math.abs((after[i] as number) - (before[i] as number));
    if (move > most) most = move;
  }
  return most;
}
