import type { NdArray } from "../arrays.js";
import { checkClasses, checkLabels, checkSameShape } from "../checks.js";
import { checkOptions, option } from "../options.js";
import { checkSaid, IGNORE_INDEX, leftOut } from "./ignored.js";

/** Options of {@link dice} and {@link iou}. */
export interface OverlapOptions {
  /** C, from 1 to 256. */
  classes: number;
  /** Label of the truth that is left out, in both masks; null leaves none out. @default 255, where that is no class */
  ignoreIndex?: number | null;
}

/**
 * Dice overlap of each foreground class, 2·#(A∩B) / (#A + #B): 1 where both are empty, 0 where one is,
 * NaN where no pixel counts.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, in [0, 1].
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function dice(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: OverlapOptions,
): Record<number, number> {
  return overlap("dice", prediction, truth, options, (a, b, both) => (2 * both) / (a + b));
}

/**
 * The mean of {@link dice} over the foreground classes; NaN where no pixel counts.
 * @throws as {@link dice}
 */
export function meanDice(prediction: NdArray<Uint8Array>, truth: NdArray<Uint8Array>, options: OverlapOptions): number {
  return meanOfClasses(dice(prediction, truth, options));
}

/** The mean of an overlap over the foreground classes; NaN where no pixel counts. */
export function meanOfClasses(perClass: Record<number, number>): number {
  const known = Object.values(perClass).filter((one) => !Number.isNaN(one));
  return known.reduce((sum, one) => sum + one, 0) / known.length;
}

/**
 * Intersection over union of each foreground class, #(A∩B) / #(A∪B): 1 where both are empty, 0 where one is, NaN
 * where no pixel counts.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, in [0, 1].
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function iou(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: OverlapOptions,
): Record<number, number> {
  return overlap("iou", prediction, truth, options, (a, b, both) => both / (a + b - both));
}

function overlap(
  name: string,
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: OverlapOptions,
  measure: (predicted: number, real: number, both: number) => number,
): Record<number, number> {
  const { classes, ignoreIndex: given } = checkOptions(name, options, {
    classes: option.required(option.integer()),
    ignoreIndex: IGNORE_INDEX,
  });
  checkClasses(`option 'classes' of ${name}`, classes);
  const found = checkLabels("prediction", prediction, { classes, rank: 1, axes: "S" });
  const ignoreIndex = leftOut(given, classes);
  const right = checkLabels("truth", truth, { classes, rank: 1, axes: "S", ignoreIndex });
  checkSameShape("truth", right.shape, found.shape);
  checkSaid(given, classes, [["truth", right.data]]);
  const predicted = new Uint32Array(classes);
  const real = new Uint32Array(classes);
  const both = new Uint32Array(classes);
  let counted = 0;
  for (let i = 0; i < right.data.length; i++) {
    const y = right.data[i] as number;
    if (y === ignoreIndex) continue;
    counted++;
    const label = found.data[i] as number;
    predicted[label] = (predicted[label] as number) + 1;
    real[y] = (real[y] as number) + 1;
    if (label === y) both[y] = (both[y] as number) + 1;
  }
  const result: Record<number, number> = {};
  for (let c = 1; c < classes; c++) {
    const [a, b] = [predicted[c] as number, real[c] as number];
    result[c] = counted === 0 ? Number.NaN : a + b === 0 ? 1 : measure(a, b, both[c] as number);
  }
  return result;
}
