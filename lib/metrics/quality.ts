import type { NdArray } from "../arrays.js";
import { checkLabels, checkShape } from "../check.js";

/** What counts in a comparison with the truth. */
export interface OverlapOptions {
  /** Number of classes with background. */
  classes: number;
  /** Label of the truth that counts nowhere. @default 255 */
  ignoreIndex?: number;
}

/** Per foreground class: pixels of the prediction, of the truth, and of both, ignored pixels left out. */
function overlaps(prediction: NdArray<Uint8Array>, truth: NdArray<Uint8Array>, options: OverlapOptions) {
  const { classes, ignoreIndex = 255 } = options;
  checkShape(prediction.shape, truth.shape, "prediction");
  checkLabels(prediction, classes, "prediction");
  checkLabels(truth, classes, "truth", ignoreIndex);
  const counts = Array.from({ length: classes }, () => ({ predicted: 0, true: 0, both: 0 }));
  for (let i = 0; i < truth.data.length; i++) {
    const y = truth.data[i] as number;
    if (y === ignoreIndex) continue;
    const m = prediction.data[i] as number;
    (counts[m] as { predicted: number }).predicted++;
    (counts[y] as { true: number }).true++;
    if (m === y) (counts[m] as { both: number }).both++;
  }
  return counts.slice(1);
}

/**
 * Dice (DSC), 2·#(A∩B) / (#A + #B), for each foreground class; both empty: 1, one empty: 0.
 * @param prediction S class indices
 * @param truth S class indices
 * @returns by class index, each in [0, 1]
 */
export function dice(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: OverlapOptions,
): Record<number, number> {
  return Object.fromEntries(
    overlaps(prediction, truth, options).map(({ predicted, true: size, both }, c) => [
      c + 1,
      predicted + size === 0 ? 1 : (2 * both) / (predicted + size),
    ]),
  );
}

/** Intersection over union (Jaccard index) for each foreground class; both empty: 1, one empty: 0. */
export function iou(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: OverlapOptions,
): Record<number, number> {
  return Object.fromEntries(
    overlaps(prediction, truth, options).map(({ predicted, true: size, both }, c) => [
      c + 1,
      predicted + size === 0 ? 1 : both / (predicted + size - both),
    ]),
  );
}
