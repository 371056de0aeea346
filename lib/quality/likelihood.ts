import type { NdArray } from "../arrays.js";
import { checkLabels, checkSameShape, type FloatArray } from "../checks.js";
import type { ClassSums } from "../fusion/head-sums.js";
import { checkProbabilities, singleView } from "../fusion/heads.js";
import { checkOptions, option } from "../options.js";
import { checkSaid, IGNORE_INDEX, leftOut } from "./ignored.js";

/** Options of {@link nll} and {@link brier}. */
export interface LikelihoodOptions {
  /** Label of the truth that is left out; null leaves none out. @default 255, where that is no class */
  ignoreIndex?: number | null;
  /** Only the pixels with y ≠ 0 or ŷ ≠ 0. @default false */
  foreground?: boolean;
}

/** Specifications of {@link LikelihoodOptions}. */
export const LIKELIHOOD_OPTIONS = {
  ignoreIndex: IGNORE_INDEX,
  foreground: option.boolean(),
};

/** As published with the method: keeps the logarithm finite. */
export const NLL_EPSILON = 1e-5;

/**
 * Negative log-likelihood of the truth: mean of -ln(p̄_y + 1e-5) over the pixels that are not left out.
 * @param probabilities Fused, C×S.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns In nats, in [-1e-5, 11.513]; NaN where no pixel is left.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function nll(
  probabilities: NdArray<FloatArray>,
  truth: NdArray<Uint8Array>,
  options: LikelihoodOptions = {},
): number {
  return nllOf(checkCounted(probabilities, truth, checkOptions("nll", options, LIKELIHOOD_OPTIONS)));
}

/**
 * Brier score: mean of Σ_c (p̄_c - [y=c])² over the pixels that are not left out.
 * @param probabilities Fused, C×S.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns In [0, 2]; NaN where no pixel is left.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function brier(
  probabilities: NdArray<FloatArray>,
  truth: NdArray<Uint8Array>,
  options: LikelihoodOptions = {},
): number {
  return brierOf(checkCounted(probabilities, truth, checkOptions("brier", options, LIKELIHOOD_OPTIONS)));
}

/** What {@link CountedPixels.hits} holds. */
export const WRONG = 0;
export const RIGHT = 1;
export const LEFT_OUT = 2;

/** Checked probabilities and truth, and the pixels that count. */
export interface CountedPixels {
  /** C×S. */
  probabilities: FloatArray;
  /** S. */
  truth: Uint8Array;
  classes: number;
  pixels: number;
  /** Number of pixels that count. */
  count: number;
  /** S: probability of the most probable class, the lowest of equals. */
  confidence: Float64Array;
  /** S: whether that class is the truth, {@link RIGHT} or {@link WRONG}; or else {@link LEFT_OUT}. */
  hits: Uint8Array;
  /** S: Σ_c p̄_c², where known. */
  squares: Float64Array | undefined;
}

/** Checks what comes from outside, and selects. */
export function checkCounted(
  probabilities: NdArray<FloatArray>,
  truth: NdArray<Uint8Array>,
  { ignoreIndex: given, foreground = false }: LikelihoodOptions,
): CountedPixels {
  const input = singleView("probabilities", probabilities);
  checkProbabilities("probabilities", input);
  const { classes } = input;
  const ignoreIndex = leftOut(given, classes);
  const { data, shape } = checkLabels("truth", truth, { classes, rank: 1, axes: "S", ignoreIndex });
  checkSameShape("truth", shape, input.spatial);
  checkSaid(given, classes, [["truth", data]]);
  return countPixels(input.view, data, input.classes, ignoreIndex, foreground);
}

/**
 * Selects the pixels that count.
 * @param sums Of the probabilities, where known.
 */
export function countPixels(
  probabilities: FloatArray,
  truth: Uint8Array,
  classes: number,
  ignoreIndex: number,
  foreground: boolean,
  sums: TopClasses & Partial<ClassSums> = topClasses(probabilities, classes, truth.length),
): CountedPixels {
  const pixels = truth.length;
  const hits = new Uint8Array(pixels);
  const { most: confidence, labels, squares } = sums;
  let count = 0;
  for (let i = 0; i < pixels; i++) {
    const y = truth[i] as number;
    const label = labels[i] as number;
    if (y === ignoreIndex || (foreground && (y | label) === 0)) {
      hits[i] = LEFT_OUT;
    } else {
      hits[i] = label === y ? RIGHT : WRONG;
      count++;
    }
  }
  return { probabilities, truth, classes, pixels, count, confidence, hits, squares };
}

type TopClasses = Pick<ClassSums, "most" | "labels">;

/** Of each pixel, the largest probability and its class, the lowest of equals. */
function topClasses(probabilities: FloatArray, classes: number, pixels: number): TopClasses {
  const most = Float64Array.from(probabilities.subarray(0, pixels));
  const labels = new Uint8Array(pixels);
  for (let c = 1, at = pixels; c < classes; c++) {
    for (let i = 0; i < pixels; i++, at++) {
      const p = probabilities[at] as number;
      if (p > (most[i] as number)) {
        most[i] = p;
        labels[i] = c;
      }
    }
  }
  return { most, labels };
}

/** So many likelihoods, of at least 1e-5, are multiplied before a logarithm is taken. */
const PER_LOGARITHM = 32;

/** {@link nll} of what was checked before. */
export function nllOf({ probabilities, truth, hits, count, pixels }: CountedPixels): number {
  let sum = 0;
  let product = 1;
  for (let i = 0, factors = 0; i < pixels; i++) {
    if (hits[i] === LEFT_OUT) continue;
    const p = probabilities[(truth[i] as number) * pixels + i] as number;
    product *= Math.min(1, Math.max(0, p)) + NLL_EPSILON;
    if (++factors === PER_LOGARITHM) {
      sum -= Math.log(product);
      product = 1;
      factors = 0;
    }
  }
  return (sum - Math.log(product)) / count;
}

/** {@link brier} of what was checked before: Σ_c p_c² with (1 - p_y)² in the place of p_y². */
export function brierOf({ probabilities, truth, hits, count, classes, pixels, squares }: CountedPixels): number {
  let sum = 0;
  for (let i = 0; i < pixels; i++) {
    if (hits[i] === LEFT_OUT) continue;
    let square = 0;
    if (squares) square = squares[i] as number;
    else for (let c = 0, at = i; c < classes; c++, at += pixels) square += (probabilities[at] as number) ** 2;
    const p = probabilities[(truth[i] as number) * pixels + i] as number;
    sum += Math.max(0, square - p * p) + (1 - p) * (1 - p);
  }
  return sum / count;
}
