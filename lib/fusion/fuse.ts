import type { NdArray } from "../arrays.js";
import { checkFinite, type FloatArray, fail } from "../checks.js";
import { checkOptions, describe, option } from "../options.js";
import {
  checkLogits,
  checkNoShares,
  checkProbabilities,
  type Heads,
  type HeadViews,
  headViews,
  singleView,
} from "./heads.js";

/**
 * How K heads become one probability map p̄ (SPEC: fusion):
 * - `"mean"`: weighted mean of the heads' probabilities.
 * - `"logit-mean"`: softmax of the weighted mean of the logits.
 * - `"vote"`: share of the heads whose label is the class.
 * - `"last"`: the deepest head alone.
 */
export type Fusion = (typeof FUSIONS)[number];

/** Every {@link Fusion}. */
export const FUSIONS = ["mean", "logit-mean", "vote", "last"] as const;

/** How heads may be fused in a prediction: `"staple"` estimates the truth from the kept heads' masks, image by image. */
export type PredictionFusion = (typeof PREDICTION_FUSIONS)[number];

/** Every {@link PredictionFusion} (SPEC §4). */
export const PREDICTION_FUSIONS = [...FUSIONS, "staple"] as const;

/** What makes logits of values that look like something else. */
export interface TrustOptions {
  /**
   * Takes the values for logits also where they are none negative and sum to 1, 100 or 255 over the classes (or the heads) at
   * every pixel, as probabilities do, which are refused otherwise.
   * @default false
   */
  trust?: boolean;
}

/** Options of {@link fuse}. */
export interface FuseOptions extends TrustOptions {
  /** What the heads are. Probabilities have neither `"logit-mean"` nor `temperatures`. @default "logits" */
  values?: "logits" | "probabilities";
  /** @default "mean" */
  fusion?: Fusion;
  /** One per head, at least 0, not all 0. Used by `"mean"` and `"logit-mean"`. @default 1 each */
  weights?: readonly number[];
  /** One per head, positive: its logits are divided by it first. @default 1 each */
  temperatures?: readonly number[];
  /**
   * Of the result; `"double"` is a Float64Array, in which calibration finds confidences that are on the border of two bins.
   * @default "single"
   */
  precision?: "single" | "double";
}

const FUSE_OPTIONS = {
  trust: option.boolean(),
  values: option.oneOf(["logits", "probabilities"]),
  fusion: option.oneOf(FUSIONS),
  weights: option.array(option.number({ min: 0 })),
  temperatures: option.array(option.number({ above: 0 })),
  precision: option.oneOf(["single", "double"]),
};

/**
 * Probabilities of one map of logits.
 * @param logits C×S, finite.
 * @returns C×S, in [0, 1], summing to 1 over the classes.
 * @throws ERR_LE_SHAPE; ERR_LE_VALUE also for what are probabilities already
 */
export function softmax(logits: NdArray<FloatArray>): NdArray {
  const heads = singleView("logits", logits);
  checkLogits("logits", heads, null);
  // No option says otherwise: `map(softmax)` gives it an index.
  checkNoShares(
    "logits",
    heads,
    "they are probabilities already",
    "subtract 1 of all, which leaves the softmax as it is",
  );
  const out = new Float32Array(logits.data.length);
  softmaxInto(heads.view, heads, out);
  return { data: out, shape: [...logits.shape] };
}

/**
 * Fuses the heads of one image; computed in double precision.
 * @param heads Logits, or as `values` says, K×C×S or K arrays C×S, finite.
 * @returns p̄, C×S, in [0, 1], summing to 1 over the classes.
 * @throws ERR_LE_SHAPE; ERR_LE_VALUE also for what look like probabilities and are not said to be; ERR_LE_OPTION for an unknown
 * fusion, or options that do not fit the heads
 */
export function fuse(heads: Heads, options?: FuseOptions & { precision?: "single" }): NdArray;
export function fuse(heads: Heads, options: FuseOptions & { precision: "double" }): NdArray<Float64Array>;
export function fuse(heads: Heads, options: FuseOptions): NdArray<FloatArray>;
export function fuse(heads: Heads, options: FuseOptions = {}): NdArray<FloatArray> {
  const {
    values = "logits",
    fusion = "mean",
    precision = "single",
    ...more
  } = checkOptions("fuse", options, FUSE_OPTIONS);
  const logits = values === "logits";
  if (!logits && fusion === "logit-mean")
    fail("ERR_LE_OPTION", "option 'fusion' of fuse", "another fusion, as the heads are probabilities,", fusion);
  if (!logits && more.temperatures)
    fail("ERR_LE_OPTION", "option 'temperatures' of fuse", "none, as the heads are probabilities,", "some: see temper");
  const input = headViews("heads", heads);
  if (logits) checkLogits("heads", input, more.trust ? null : PROBABILITIES);
  else checkProbabilities("heads", input);
  const toShares = logits ? softmaxInto : copyInto;
  const weights = scaledWeights(more.weights, input.views.length);
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const { classes, pixels, spatial } = input;
  const views = tempered(input.views, more.temperatures);
  const data = new (precision === "double" ? Float64Array : Float32Array)(classes * pixels);
  switch (fusion) {
    case "mean": {
      const p = new Float64Array(data.length);
      const sum = new Float64Array(data.length);
      views.forEach((view, k) => {
        toShares(view, input, p);
        addScaled(sum, p, weights[k] as number);
      });
      // Divided last: where heads of weight 1 are sure, their shares are then exact.
      for (let i = 0; i < data.length; i++) data[i] = (sum[i] as number) / total;
      break;
    }
    case "logit-mean": {
      const sum = new Float64Array(data.length);
      views.forEach((view, k) => {
        addScaled(sum, view, (weights[k] as number) / total);
      });
      softmaxInto(sum, input, data);
      break;
    }
    case "vote": {
      const votes = new Uint32Array(data.length);
      const labels = new Uint8Array(pixels);
      for (const view of views) {
        argmaxInto(view, input, labels);
        for (let i = 0; i < pixels; i++) {
          const at = (labels[i] as number) * pixels + i;
          votes[at] = (votes[at] as number) + 1;
        }
      }
      for (let i = 0; i < data.length; i++) data[i] = (votes[i] as number) / views.length;
      break;
    }
    case "last":
      toShares(views[views.length - 1] as FloatArray, input, data);
  }
  return { data, shape: [classes, ...spatial] };
}

/**
 * The heads that remain when the first `skip` are left out, sharing memory with the given ones.
 * @param skip T, 0 ≤ T < K.
 * @throws ERR_LE_SHAPE; ERR_LE_VALUE for a T that leaves no head
 */
export function skipHeads<T extends FloatArray>(heads: NdArray<T> | readonly NdArray<T>[], skip: number): NdArray<T>[] {
  const { views, classes, spatial } = headViews("heads", heads);
  if (!Number.isSafeInteger(skip) || skip < 0 || skip >= views.length) {
    fail(
      "ERR_LE_VALUE",
      "skip",
      `an integer from 0 to ${views.length - 1}, as there are ${views.length} heads`,
      describe(skip),
    );
  }
  return views.slice(skip).map((view) => ({ data: view as T, shape: [classes, ...spatial] }));
}

/**
 * The label map ŷ of one map of probabilities or logits: the class with the highest value, ties to the lower class.
 * @param map C×S, finite.
 * @returns S.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function argmax(map: NdArray<FloatArray>): NdArray<Uint8Array> {
  const input = singleView("map", map);
  checkFinite("map", input.view);
  const data = new Uint8Array(input.pixels);
  argmaxInto(input.view, input, data);
  return { data, shape: [...input.spatial] };
}

/**
 * The label maps m_k of the heads: {@link argmax} of each.
 * @param heads Probabilities or logits, K×C×S or K arrays C×S, finite.
 * @returns K×S.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function labelMaps(heads: Heads): NdArray<Uint8Array> {
  const input = headViews("heads", heads);
  checkLogits("heads", input, null);
  const { views, pixels, spatial } = input;
  const data = new Uint8Array(views.length * pixels);
  views.forEach((view, k) => {
    argmaxInto(view, input, data.subarray(k * pixels, (k + 1) * pixels));
  });
  return { data, shape: [views.length, ...spatial] };
}

/** What to do with probabilities where both may be given. */
export const PROBABILITIES = 'they are probabilities: say so by values: "probabilities" (--probabilities)';

type Layout = Pick<HeadViews, "classes" | "pixels">;

function copyInto(shares: FloatArray, _: Layout, out: FloatArray): void {
  out.set(shares);
}

function softmaxInto(logits: FloatArray, { classes, pixels }: Layout, out: FloatArray): void {
  const exponentials = new Float64Array(classes);
  for (let i = 0; i < pixels; i++) {
    let max = logits[i] as number;
    for (let c = 1; c < classes; c++) {
      const z = logits[c * pixels + i] as number;
      if (z > max) max = z;
    }
    let sum = 0;
    for (let c = 0; c < classes; c++) {
      const z = logits[c * pixels + i] as number;
      const e = z === max ? 1 : Math.exp(z - max);
      exponentials[c] = e;
      sum += e;
    }
    for (let c = 0; c < classes; c++) out[c * pixels + i] = (exponentials[c] as number) / sum;
  }
}

/** Class by class, so that memory is read in order. */
function argmaxInto(values: FloatArray, { classes, pixels }: Layout, labels: Uint8Array): void {
  const best = values.slice(0, pixels);
  labels.fill(0);
  for (let c = 1; c < classes; c++) {
    const offset = c * pixels;
    for (let i = 0; i < pixels; i++) {
      const value = values[offset + i] as number;
      if (value > (best[i] as number)) {
        best[i] = value;
        labels[i] = c;
      }
    }
  }
}

function addScaled(sum: Float64Array, values: FloatArray, scale: number): void {
  for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + scale * (values[i] as number);
}

function tempered(views: readonly FloatArray[], temperatures?: readonly number[]): readonly FloatArray[] {
  if (!temperatures) return views;
  if (temperatures.length !== views.length) {
    fail("ERR_LE_OPTION", "option 'temperatures' of fuse", `${views.length} of them`, `${temperatures.length}`);
  }
  return views.map((view, k) => Float64Array.from(view, (z) => z / (temperatures[k] as number)));
}

/** Divided by the largest, so that weights that are equal are exactly 1. */
export function scaledWeights(weights: readonly number[] | undefined, heads: number): number[] {
  if (!weights) return new Array<number>(heads).fill(1);
  if (weights.length !== heads) {
    fail("ERR_LE_OPTION", "option 'weights' of fuse", `${heads} weights, one per head`, `${weights.length}`);
  }
  const largest = Math.max(...weights);
  if (!(largest > 0 && Number.isFinite(weights.reduce((sum, weight) => sum + weight, 0)))) {
    fail("ERR_LE_OPTION", "option 'weights' of fuse", "weights with a positive, finite sum", describe(weights));
  }
  return weights.map((weight) => weight / largest);
}
