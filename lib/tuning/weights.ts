import type { NdArray } from "../arrays.js";
import { fail } from "../checks.js";
import { lnOfPositive } from "../fusion/exp-log.js";
import { checkProbabilities, type Heads, headViews } from "../fusion/heads.js";
import { checkOptions, option } from "../options.js";
import { checkSaid, IGNORE_INDEX, leftOut } from "../quality/ignored.js";
import { NLL_EPSILON } from "../quality/likelihood.js";
import { checkTruth } from "./samples.js";

/** Options of {@link fitHeadWeights}. */
export interface HeadWeightOptions {
  /** Label of the truth that is left out; null leaves none out. @default 255 */
  ignoreIndex?: number | null;
  /** Rounds after which it stops where it has not converged. @default 500 */
  maxRounds?: number;
  /** It has converged where a round lowers the nll by no more than this. @default 1e-9 */
  tolerance?: number;
}

/** Weights that were fitted. */
export interface HeadWeights {
  /** One per head, at least 0, summing to 1; equal where no pixel is left. For option `weights` of {@link fuse}. */
  weights: number[];
  /** Mean nll over all pixels with these weights; NaN where no pixel is left. */
  nll: number;
  /** Whether it stopped by itself. */
  converged: boolean;
  /** Rounds of expectation and maximisation. */
  rounds: number;
}

/**
 * The weights, at least 0 and summing to 1, for which the fusion `"mean"` has the lowest nll over all pixels of all images
 * that are not left out. The nll is convex in the weights; expectation maximisation for the weights of a mixture lowers it in
 * every round, from equal weights on, and ends at the same weights whatever the order of the images.
 * @param probabilities One image's heads each, K×C×S or K arrays C×S.
 * @param truths One S per image, labels 0..C-1 or `ignoreIndex`.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function fitHeadWeights(
  probabilities: readonly Heads[],
  truths: readonly NdArray<Uint8Array>[],
  options: HeadWeightOptions = {},
): HeadWeights {
  const {
    ignoreIndex: ignored,
    maxRounds = 500,
    tolerance = 1e-9,
  } = checkOptions("fitHeadWeights", options, {
    ignoreIndex: IGNORE_INDEX,
    maxRounds: option.integer({ min: 1 }),
    tolerance: option.number({ min: 0 }),
  });
  const ignoreIndex = leftOut(ignored, 2);
  const { chances, heads } = gather(probabilities, truths, ignoreIndex, ignored);
  const pixels = chances.length / heads;
  let weights = new Float64Array(heads).fill(1 / heads);
  if (pixels === 0) return { weights: [...weights], nll: Number.NaN, converged: true, rounds: 0 };
  let nll = nllOf(chances, weights);
  let converged = heads === 1;
  let rounds = 0;
  while (!converged && rounds < maxRounds) {
    rounds++;
    weights = improved(chances, weights);
    const next = nllOf(chances, weights);
    converged = nll - next <= tolerance;
    nll = next;
  }
  return { weights: [...weights], nll, converged, rounds };
}

/** n×K: each head's probability of the truth, with nll's 1e-5. As weights sum to 1, a mixture of these has it too. */
function gather(
  probabilities: readonly Heads[],
  truths: readonly NdArray<Uint8Array>[],
  ignoreIndex: number,
  said: number | null | undefined,
): { chances: Float64Array; heads: number } {
  if (probabilities.length !== truths.length) {
    fail("ERR_LE_SHAPE", "truths", `${probabilities.length} maps`, `${truths.length}`);
  }
  if (probabilities.length === 0) fail("ERR_LE_SHAPE", "probabilities", "at least one image", "none");
  const inputs = probabilities.map((of, n) => {
    const input = headViews(`probabilities[${n}]`, of);
    checkProbabilities(`probabilities[${n}]`, input);
    const truth = truths[n] as NdArray<Uint8Array>;
    return { ...input, ...checkTruth(`truths[${n}]`, truth, input, ignoreIndex) };
  });
  const heads = inputs[0]?.views.length as number;
  checkSaid(
    said,
    inputs[0]?.classes as number,
    inputs.map(({ truth }, n) => [`truths[${n}]`, truth]),
  );
  const chances = new Float64Array(inputs.reduce((sum, { counted }) => sum + counted, 0) * heads);
  let at = 0;
  inputs.forEach(({ views, truth, pixels }, n) => {
    if (views.length !== heads) fail("ERR_LE_SHAPE", `probabilities[${n}]`, `${heads} heads`, `${views.length}`);
    for (let i = 0; i < pixels; i++) {
      const y = truth[i] as number;
      if (y === ignoreIndex) continue;
      for (const view of views) {
        chances[at++] = Math.min(1, Math.max(0, view[y * pixels + i] as number)) + NLL_EPSILON;
      }
    }
  });
  return { chances, heads };
}

/** One round: each head's weight becomes its mean share of the mixture. */
function improved(chances: Float64Array, weights: Float64Array): Float64Array<ArrayBuffer> {
  const heads = weights.length;
  const shares = new Float64Array(heads);
  for (let from = 0; from < chances.length; from += heads) {
    let mixture = 0;
    for (let k = 0; k < heads; k++) mixture += (weights[k] as number) * (chances[from + k] as number);
    const scale = 1 / mixture;
    for (let k = 0; k < heads; k++) shares[k] = (shares[k] as number) + (chances[from + k] as number) * scale;
  }
  const pixels = chances.length / heads;
  for (let k = 0; k < heads; k++) shares[k] = ((shares[k] as number) * (weights[k] as number)) / pixels;
  return shares;
}

function nllOf(chances: Float64Array, weights: Float64Array): number {
  const heads = weights.length;
  let total = 0;
  for (let from = 0; from < chances.length; from += heads) {
    let mixture = 0;
    for (let k = 0; k < heads; k++) mixture += (weights[k] as number) * (chances[from + k] as number);
    total -= lnOfPositive(mixture);
  }
  return total / (chances.length / heads);
}
