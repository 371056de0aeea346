import type { NdArray } from "../arrays.js";
import { checkLabels, checkProbabilities, checkSameShape, type FloatArray, singleView } from "../fusion/input.js";
import { checkOptions, option } from "../options.js";

/** Options of {@link nll} and {@link brier}. */
export interface LikelihoodOptions {
  /** Label of the truth that is left out. @default 255 */
  ignoreIndex?: number;
  /** Only the pixels with y ≠ 0 or ŷ ≠ 0. @default false */
  foreground?: boolean;
}

/** Specifications of {@link LikelihoodOptions}. */
export const LIKELIHOOD_OPTIONS = {
  ignoreIndex: option.integer({ min: 0, max: 255 }),
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
  checkOptions("nll", options, LIKELIHOOD_OPTIONS);
  return nllOf(checkCounted(probabilities, truth, options));
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
  checkOptions("brier", options, LIKELIHOOD_OPTIONS);
  return brierOf(checkCounted(probabilities, truth, options));
}

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
  /** Their positions, in row-major order; from here on by counted pixel. */
  at: Uint32Array;
  /** Probability of the most probable class. */
  confidence: Float64Array;
  /** Whether that class, the lowest of equals, is the truth: 1 or 0. */
  right: Uint8Array;
}

/** Checks what comes from outside, and selects. */
export function checkCounted(
  probabilities: NdArray<FloatArray>,
  truth: NdArray<Uint8Array>,
  { ignoreIndex = 255, foreground = false }: LikelihoodOptions,
): CountedPixels {
  const input = singleView("probabilities", probabilities);
  checkProbabilities("probabilities", input);
  checkLabels("truth", truth, { classes: input.classes, rank: 1, axes: "S", ignoreIndex });
  checkSameShape("truth", truth.shape, input.spatial);
  return countPixels(input.view, truth.data, input.classes, ignoreIndex, foreground);
}

/** Selects the pixels that count. */
export function countPixels(
  probabilities: FloatArray,
  truth: Uint8Array,
  classes: number,
  ignoreIndex: number,
  foreground: boolean,
): CountedPixels {
  const pixels = truth.length;
  const at = new Uint32Array(pixels);
  const confidence = new Float64Array(pixels);
  const right = new Uint8Array(pixels);
  let count = 0;
  for (let i = 0; i < pixels; i++) {
    const y = truth[i] as number;
    if (y === ignoreIndex) continue;
    let best = 0;
    let most = probabilities[i] as number;
    for (let c = 1; c < classes; c++) {
      const p = probabilities[c * pixels + i] as number;
      if (p > most) {
        most = p;
        best = c;
      }
    }
    if (foreground && (y | best) === 0) continue;
    at[count] = i;
    confidence[count] = most;
    right[count] = best === y ? 1 : 0;
    count++;
  }
  return { probabilities, truth, classes, pixels, count, at, confidence, right };
}

/** {@link nll} of what was checked before. */
export function nllOf({ probabilities, truth, at, count, pixels }: CountedPixels): number {
  let sum = 0;
  for (let j = 0; j < count; j++) {
    const i = at[j] as number;
    const p = probabilities[(truth[i] as number) * pixels + i] as number;
    sum -= Math.log(Math.min(1, Math.max(0, p)) + NLL_EPSILON);
  }
  return sum / count;
}

/** {@link brier} of what was checked before. */
export function brierOf({ probabilities, truth, at, count, classes, pixels }: CountedPixels): number {
  let sum = 0;
  for (let c = 0; c < classes; c++) {
    for (let j = 0; j < count; j++) {
      const i = at[j] as number;
      const difference = (probabilities[c * pixels + i] as number) - (truth[i] === c ? 1 : 0);
      sum += difference * difference;
    }
  }
  return sum / count;
}
