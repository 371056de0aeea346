import type { NdArray } from "../arrays.js";
import { argmax } from "../fusion/fuse.js";
import { checkLabels, checkProbabilities, checkSameShape, type FloatArray, singleView } from "../fusion/input.js";
import { checkOptions, option } from "../options.js";

/** Options of {@link nll} and {@link brier}. */
export interface LikelihoodOptions {
  /** Label of the truth that is left out. @default 255 */
  ignoreIndex?: number;
  /** Only the pixels with y ≠ 0 or ŷ ≠ 0. @default false */
  foreground?: boolean;
}

/** As published with the method: keeps the logarithm finite. */
const NLL_EPSILON = 1e-5;

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
  const counted = countedPixels("nll", probabilities, truth, options);
  const pixels = truth.data.length;
  let sum = 0;
  for (const i of counted) {
    const p = probabilities.data[(truth.data[i] as number) * pixels + i] as number;
    sum -= Math.log(Math.min(1, Math.max(0, p)) + NLL_EPSILON);
  }
  return sum / counted.length;
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
  const counted = countedPixels("brier", probabilities, truth, options);
  const pixels = truth.data.length;
  const classes = probabilities.shape[0] as number;
  let sum = 0;
  for (const i of counted) {
    const y = truth.data[i] as number;
    for (let c = 0; c < classes; c++) {
      const difference = (probabilities.data[c * pixels + i] as number) - (c === y ? 1 : 0);
      sum += difference * difference;
    }
  }
  return sum / counted.length;
}

/** Positions of the pixels that count, in row-major order. */
function countedPixels(
  name: string,
  probabilities: NdArray<FloatArray>,
  truth: NdArray<Uint8Array>,
  options: LikelihoodOptions,
): Uint32Array {
  checkOptions(name, options, { ignoreIndex: option.integer({ min: 0, max: 255 }), foreground: option.boolean() });
  const { ignoreIndex = 255, foreground = false } = options;
  const input = singleView("probabilities", probabilities);
  checkProbabilities("probabilities", input);
  checkLabels("truth", truth, { classes: input.classes, rank: 1, axes: "S", ignoreIndex });
  checkSameShape("truth", truth.shape, input.spatial);
  const labels = foreground ? argmax(probabilities).data : undefined;
  const counted = new Uint32Array(input.pixels);
  let n = 0;
  for (let i = 0; i < input.pixels; i++) {
    const y = truth.data[i] as number;
    if (y === ignoreIndex || (labels && y === 0 && labels[i] === 0)) continue;
    counted[n++] = i;
  }
  return counted.subarray(0, n);
}
