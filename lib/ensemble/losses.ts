import type { NdArray } from "../arrays.js";
import { option, type Values } from "../options.js";

/**
 * The losses, by name; docs/metrics.md defines them, losses.cpp of the core computes them. Those of regression (mse, mae,
 * huber) come with its heads in a later version.
 */
export const LOSSES = [
  "softDice",
  "crossEntropy",
  "diceCrossEntropy",
  "focal",
  "tversky",
  "jaccard",
  "lovaszSoftmax",
  "boundary",
] as const;

/** A loss: each a mean over the batch. See docs/metrics.md. */
export type LossName = (typeof LOSSES)[number];

/**
 * A loss of the caller's own: from one head's logits (N×C×H×W or N×C×D×H×W) and the target (N×H×W or N×D×H×W class indices, 255 where ignored) to
 * its value and the gradient of the value with respect to the logits (as many numbers, in the same order).
 */
export type CustomLoss = (
  logits: NdArray<Float32Array>,
  target: NdArray<Uint8Array>,
) => {
  /** The loss, a finite number. */
  value: number;
  /** Its derivatives, N·C·H·W numbers in the order of the logits. */
  gradient: Float32Array;
};

const nonNegative = option.number({ min: 0 });

export const LOSS_OPTIONS = {
  /** Which loss. */
  name: option.required(option.oneOf(LOSSES)),
  /** softDice, diceCrossEntropy, tversky, jaccard, boundary: average over class 0 too. @default false */
  includeBackground: option.boolean(),
  /** softDice and kin: added to numerator and denominator. @default 1e-5 */
  smooth: nonNegative,
  /** crossEntropy, diceCrossEntropy, focal: one weight per class. @default all 1 */
  classWeights: option.array(nonNegative),
  /** crossEntropy, diceCrossEntropy: share of the target spread over all classes, 0 to below 1. @default 0 */
  labelSmoothing: option.number({ min: 0, max: 1 }),
  /** focal: exponent. @default 2 */
  gamma: nonNegative,
  /** tversky: weight of false positives. @default 0.5 */
  alpha: nonNegative,
  /** tversky: weight of false negatives. @default 0.5 */
  beta: nonNegative,
};

/** A loss with its options. */
export interface LossOptions extends Values<typeof LOSS_OPTIONS> {}
