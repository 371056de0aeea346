import type { NdArray } from "../arrays.js";
import { checkOptions, option } from "../options.js";
import { checkClasses, checkLabels } from "./input.js";
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
  /** D×C: W by pattern. */
  posterior: Float64Array;
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
  checkOptions("staple", options, {
    maxRounds: option.integer({ min: 1 }),
    tolerance: option.number({ min: 0 }),
  });
  checkClasses("classes", classes);
  checkLabels("labels", labels, { classes, rank: 2, axes: "K×S" });
  const [heads, ...spatial] = labels.shape as [number, ...number[]];
  return expand(stapleOf(findPatterns(labels.data, heads, classes), classes, options), spatial);
}

/** {@link staple} on patterns: the same expectation maximisation, each pattern counting as many pixels as it has. */
export function stapleOf(patterns: Patterns, classes: number, options: StapleOptions = {}): PatternStaple {
  const { maxRounds = 100, tolerance = 1e-7 } = options;
  const { heads, halves, counts } = patterns;
  const distinct = counts.length;
  const posterior = votes(patterns, classes);
  const prior = new Float64Array(classes);
  let pixels = 0;
  for (let d = 0; d < distinct; d++) {
    const n = counts[d] as number;
    pixels += n;
    for (let c = 0; c < classes; c++) prior[c] = (prior[c] as number) + n * (posterior[d * classes + c] as number);
  }
  for (let c = 0; c < classes; c++) prior[c] = (prior[c] as number) / pixels;

  const sums = halves.map((half) => new Float64Array(half.patterns * classes));
  const factors = sums.map((sum) => new Float64Array(sum.length));
  let chances = new Float64Array(heads * classes * classes);
  let before = new Float64Array(chances.length);
  const ones = new Float64Array(classes).fill(1);
  const inProducts = heads <= MOST_HEADS_IN_PRODUCTS;
  halves.forEach((half, h) => {
    addUp(half, posterior, counts, classes, sums[h] as Float64Array);
  });
  let rounds = 0;
  let converged = heads === 1 || prior.some((share) => share === 1);
  if (converged) {
    halves.forEach((half, h) => {
      countLabels(half, sums[h] as Float64Array, classes, chances);
    });
    normaliseRows(chances, classes);
  }
  while (!converged && rounds < maxRounds) {
    rounds++;
    [before, chances] = [chances, before];
    chances.fill(0);
    halves.forEach((half, h) => {
      countLabels(half, sums[h] as Float64Array, classes, chances);
    });
    normaliseRows(chances, classes);
    const within = bounded(chances);
    halves.forEach((half, h) => {
      const of = inProducts ? likelihoods : logLikelihoods;
      of(half, within, classes, h === 0 ? prior : ones, factors[h] as Float64Array);
    });
    if (inProducts) multiply(halves, factors, classes, posterior);
    else multiplyLogarithms(halves, factors, classes, posterior);
    halves.forEach((half, h) => {
      addUp(half, posterior, counts, classes, sums[h] as Float64Array);
    });
    converged = rounds > 1 && largestMove(before, chances) <= tolerance;
  }
  const confusion = Array.from({ length: heads }, (_, k) =>
    Array.from({ length: classes }, (_, t) => [
      ...chances.subarray((k * classes + t) * classes, (k * classes + t + 1) * classes),
    ]),
  );
  return {
    posterior,
    of: patterns.of,
    confusion,
    prior: [...prior],
    ...(classes === 2 && {
      sensitivity: confusion.map((rows) => rows[1]?.[1] as number),
      specificity: confusion.map((rows) => rows[0]?.[0] as number),
    }),
    converged,
    rounds,
  };
}

/** W by pixel. */
export function expand({ posterior, of, ...rest }: PatternStaple, spatial: readonly number[]): Staple {
  const classes = rest.prior.length;
  const pixels = of.length;
  const data = new Float32Array(classes * pixels);
  for (let c = 0; c < classes; c++) {
    for (let i = 0; i < pixels; i++) data[c * pixels + i] = posterior[(of[i] as number) * classes + c] as number;
  }
  return { probabilities: { data, shape: [classes, ...spatial] }, ...rest };
}

/** D×C: share of the heads with each label. */
function votes({ heads, labels, counts }: Patterns, classes: number): Float64Array {
  const shares = new Float64Array(counts.length * classes);
  for (let d = 0, at = 0; d < counts.length; d++) {
    for (let k = 0; k < heads; k++) shares[d * classes + (labels[at++] as number)]!++;
  }
  for (let i = 0; i < shares.length; i++) shares[i] = (shares[i] as number) / heads;
  return shares;
}

/** Adds Σ W_t over the pixels with label s to chances[k][t][s], from the sums by pattern. */
function countLabels({ first, heads, labels }: Half, sums: Float64Array, classes: number, chances: Float64Array): void {
  for (let from = 0, at = 0; from < labels.length; from += heads, at += classes) {
    for (let k = 0; k < heads; k++) {
      const to = (first + k) * classes * classes + (labels[from + k] as number);
      for (let t = 0; t < classes; t++) {
        chances[to + t * classes] = (chances[to + t * classes] as number) + (sums[at + t] as number);
      }
    }
  }
}

/** Divides each row by its sum; NaN where that is 0. */
function normaliseRows(chances: Float64Array, classes: number): void {
  for (let row = 0; row < chances.length; row += classes) {
    let sum = 0;
    for (let s = 0; s < classes; s++) sum += chances[row + s] as number;
    for (let s = 0; s < classes; s++) chances[row + s] = (chances[row + s] as number) / sum;
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
  classes: number,
  scale: Float64Array,
  out: Float64Array,
): void {
  for (let from = 0, at = 0; at < out.length; from += heads, at += classes) {
    for (let t = 0; t < classes; t++) out[at + t] = scale[t] as number;
    for (let k = 0; k < heads; k++) {
      const chance = (first + k) * classes * classes + (labels[from + k] as number);
      for (let t = 0; t < classes; t++) {
        out[at + t] = (out[at + t] as number) * (chances[chance + t * classes] as number);
      }
    }
  }
}

/** {@link likelihoods} as logarithms. */
function logLikelihoods(
  { first, heads, labels }: Half,
  chances: Float64Array,
  classes: number,
  scale: Float64Array,
  out: Float64Array,
): void {
  const logs = chances.map(Math.log);
  for (let from = 0, at = 0; at < out.length; from += heads, at += classes) {
    for (let t = 0; t < classes; t++) {
      let sum = Math.log(scale[t] as number);
      for (let k = 0; k < heads; k++) {
        sum += logs[((first + k) * classes + t) * classes + (labels[from + k] as number)] as number;
      }
      out[at + t] = sum;
    }
  }
}

/** Patterns of a half×C: Σ W over the pixels with the pattern. */
function addUp({ of }: Half, posterior: Float64Array, counts: Float64Array, classes: number, sums: Float64Array): void {
  sums.fill(0);
  for (let d = 0, at = 0; d < counts.length; d++) {
    const n = counts[d] as number;
    const to = (of[d] as number) * classes;
    for (let t = 0; t < classes; t++, at++) {
      sums[to + t] = (sums[to + t] as number) + n * (posterior[at] as number);
    }
  }
}

/** W: the products of both halves' likelihoods, normalised over the classes. */
function multiply(
  [a, b]: readonly [Half, Half],
  factors: readonly Float64Array[],
  classes: number,
  posterior: Float64Array,
): void {
  const [fromA, fromB] = factors as [Float64Array, Float64Array];
  const [ofA, ofB] = [a.of, b.of];
  for (let d = 0, at = 0; d < ofA.length; d++, at += classes) {
    const atA = (ofA[d] as number) * classes;
    const atB = (ofB[d] as number) * classes;
    let sum = 0;
    for (let t = 0; t < classes; t++) {
      const w = (fromA[atA + t] as number) * (fromB[atB + t] as number);
      posterior[at + t] = w;
      sum += w;
    }
    const scale = 1 / sum;
    for (let t = 0; t < classes; t++) posterior[at + t] = (posterior[at + t] as number) * scale;
  }
}

/** {@link multiply} of likelihoods that are given as logarithms. */
function multiplyLogarithms(
  [a, b]: readonly [Half, Half],
  factors: readonly Float64Array[],
  classes: number,
  posterior: Float64Array,
): void {
  const [fromA, fromB] = factors as [Float64Array, Float64Array];
  for (let d = 0, at = 0; d < a.of.length; d++, at += classes) {
    const atA = (a.of[d] as number) * classes;
    const atB = (b.of[d] as number) * classes;
    let most = Number.NEGATIVE_INFINITY;
    for (let t = 0; t < classes; t++) most = Math.max(most, (fromA[atA + t] as number) + (fromB[atB + t] as number));
    let sum = 0;
    for (let t = 0; t < classes; t++) {
      const w = Math.exp((fromA[atA + t] as number) + (fromB[atB + t] as number) - most);
      posterior[at + t] = w;
      sum += w;
    }
    for (let t = 0; t < classes; t++) posterior[at + t] = (posterior[at + t] as number) / sum;
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
