import type { NdArray } from "../arrays.js";
import { checkOptions, option } from "../options.js";
import { checkClasses, checkLabels } from "./input.js";
import { findPatterns, pairUp } from "./patterns.js";

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

/** What {@link stapleOf} finds: W by pattern, and the pattern of each pixel. */
export interface PatternStaple extends Omit<Staple, "probabilities"> {
  /** D×C. */
  posterior: Float64Array;
}

/** Chances are kept this far from 0 and 1 inside logarithms, so that one head cannot rule a class out. */
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
  const pixels = labels.data.length / heads;
  const halves = halvesOf(labels.data, heads, classes);
  const { posterior, ...rest } = stapleOf(halves, classes, options);
  const data = new Float32Array(classes * pixels);
  for (let c = 0; c < classes; c++) {
    for (let i = 0; i < pixels; i++) data[c * pixels + i] = posterior[(halves.of[i] as number) * classes + c] as number;
  }
  return { probabilities: { data, shape: [classes, ...spatial] }, ...rest };
}

/** The patterns of the first half of the heads and of the second, and which pairs of them occur. */
export interface Halves {
  heads: number;
  halves: readonly [Half, Half];
  /** D: pixels of each pair. */
  counts: Float64Array;
  /** S: the pair of each pixel. */
  of: Int32Array;
}

/** Some of the heads. */
interface Half {
  /** Index of the first of them. */
  first: number;
  heads: number;
  /** Number of its patterns. */
  patterns: number;
  /** Patterns×heads. */
  labels: Uint8Array;
  /** D: the pattern in each pair. */
  of: Int32Array;
}

/**
 * Splits the heads in two. Likelihoods of a pattern are products over its heads: worked out for the few patterns of each
 * half, they take one multiplication for a whole pattern.
 */
export function halvesOf(maps: Uint8Array, heads: number, classes: number): Halves {
  const middle = heads >> 1;
  const a = findPatterns(maps, heads, classes, 0, middle);
  const b = findPatterns(maps, heads, classes, middle, heads);
  const { pairs, left, right, of } = pairUp(a.of, a.counts.length, b.of, b.counts.length);
  const counts = new Float64Array(pairs);
  for (let i = 0; i < of.length; i++) counts[of[i] as number]!++;
  return {
    heads,
    halves: [
      { first: 0, heads: a.heads, patterns: a.counts.length, labels: a.labels, of: left.subarray(0, pairs) },
      { first: middle, heads: b.heads, patterns: b.counts.length, labels: b.labels, of: right.subarray(0, pairs) },
    ],
    counts,
    of,
  };
}

/** {@link staple} on patterns: the same expectation maximisation, each pattern counting as many pixels as it has. */
export function stapleOf(patterns: Halves, classes: number, options: StapleOptions = {}): PatternStaple {
  const { maxRounds = 100, tolerance = 1e-7 } = options;
  const { heads, halves, counts } = patterns;
  const [a, b] = halves;
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
  const inProducts = heads <= MOST_HEADS_IN_PRODUCTS;
  const [sumA, sumB] = sums as [Float64Array, Float64Array];
  const [factorA, factorB] = factors as [Float64Array, Float64Array];

  /** Σ W over the pixels with a pattern, by half. */
  const addUp = () => {
    sumA.fill(0);
    sumB.fill(0);
    for (let d = 0; d < distinct; d++) {
      const n = counts[d] as number;
      const atA = (a.of[d] as number) * classes;
      const atB = (b.of[d] as number) * classes;
      for (let t = 0; t < classes; t++) {
        const w = n * (posterior[d * classes + t] as number);
        sumA[atA + t] = (sumA[atA + t] as number) + w;
        sumB[atB + t] = (sumB[atB + t] as number) + w;
      }
    }
  };
  /** W from the likelihoods of both halves. */
  const expect = () => {
    for (let d = 0; d < distinct; d++) {
      const atA = (a.of[d] as number) * classes;
      const atB = (b.of[d] as number) * classes;
      const at = d * classes;
      let sum = 0;
      if (inProducts) {
        for (let t = 0; t < classes; t++) {
          const w = (factorA[atA + t] as number) * (factorB[atB + t] as number);
          posterior[at + t] = w;
          sum += w;
        }
      } else {
        let most = Number.NEGATIVE_INFINITY;
        for (let t = 0; t < classes; t++) {
          most = Math.max(most, (factorA[atA + t] as number) + (factorB[atB + t] as number));
        }
        for (let t = 0; t < classes; t++) {
          const w = Math.exp((factorA[atA + t] as number) + (factorB[atB + t] as number) - most);
          posterior[at + t] = w;
          sum += w;
        }
      }
      const scale = 1 / sum;
      for (let t = 0; t < classes; t++) posterior[at + t] = (posterior[at + t] as number) * scale;
    }
  };

  addUp();
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
    halves.forEach((half, h) => {
      likelihoods(half, chances, classes, h === 0 ? prior : undefined, inProducts, factors[h] as Float64Array);
    });
    expect();
    addUp();
    converged = rounds > 1 && largestMove(before, chances) <= tolerance;
  }
  const confusion = Array.from({ length: heads }, (_, k) =>
    Array.from({ length: classes }, (_, t) => [
      ...chances.subarray((k * classes + t) * classes, (k * classes + t + 1) * classes),
    ]),
  );
  return {
    posterior,
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

/** D×C: share of the heads with each label. */
function votes({ heads, halves, counts }: Halves, classes: number): Float64Array {
  const shares = new Float64Array(counts.length * classes);
  for (const half of halves) {
    for (let d = 0; d < counts.length; d++) {
      const from = (half.of[d] as number) * half.heads;
      for (let k = 0; k < half.heads; k++) shares[d * classes + (half.labels[from + k] as number)]!++;
    }
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

/**
 * By pattern of a half and class: the likelihood of its labels, times the prior where one is given; or its logarithm. A class
 * without W has none: it cannot come back.
 */
function likelihoods(
  { first, heads, labels }: Half,
  chances: Float64Array,
  classes: number,
  prior: Float64Array | undefined,
  inProducts: boolean,
  out: Float64Array,
): void {
  const logs = chances.map((chance) =>
    Number.isNaN(chance)
      ? Number.NEGATIVE_INFINITY
      : Math.log(Math.min(1 - CHANCE_LIMIT, Math.max(CHANCE_LIMIT, chance))),
  );
  for (let from = 0, at = 0; at < out.length; from += heads, at += classes) {
    for (let t = 0; t < classes; t++) {
      let sum = prior ? Math.log(prior[t] as number) : 0;
      for (let k = 0; k < heads; k++) {
        sum += logs[((first + k) * classes + t) * classes + (labels[from + k] as number)] as number;
      }
      out[at + t] = inProducts ? Math.exp(sum) : sum;
    }
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
