// Every measure of a predicted mask against the true one, per foreground class of one image.
import type { NdArray } from "../arrays.js";
import { checkOptions } from "../options.js";
import { mean } from "../statistics/spread.js";
import { checkInput, type Region, regions, SURFACE_OPTIONS, type SurfaceOptions } from "./regions.js";
import { DISTANCES, distanceOf, distancesOf, EMPTY_PENALTY, PENALISED, penalty } from "./surface.js";

/** The measures of overlap and size. */
const COUNTS = {
  dice: ({ pixels, predicted, real, both }) =>
    pixels === 0 ? Number.NaN : predicted + real === 0 ? 1 : (2 * both) / (predicted + real),
  iou: ({ pixels, predicted, real, both }) =>
    pixels === 0 ? Number.NaN : predicted + real === 0 ? 1 : both / (predicted + real - both),
  sensitivity: ({ both, real }) => both / real,
  precision: ({ both, predicted }) => both / predicted,
  specificity: ({ pixels, predicted, real, both }) => (pixels - predicted - real + both) / (pixels - real),
  volumeError: ({ predicted, real }) => (real === 0 ? Number.NaN : (predicted - real) / real),
} as const satisfies Record<string, (of: Region) => number>;

/** The measures of {@link quality}. */
export type QualityName = keyof typeof COUNTS | keyof typeof DISTANCES;

const { dice, iou, ...more } = COUNTS;

/** Every {@link QualityName}, in the order of reports. */
export const QUALITY_NAMES = Object.keys({ dice, iou, ...DISTANCES, ...more }) as QualityName[];

/** Options of {@link quality}. */
export interface QualityOptions extends SurfaceOptions {
  /** Of `modifiedHausdorff` and `modifiedHausdorffBoundary`. @default "nan" */
  emptyPenalty?: "nan" | "half-height";
}

/** Every measure of one image. */
export interface Quality {
  /** By class 1..C-1. */
  perClass: Record<number, Record<QualityName, number>>;
  /** Mean over the classes where the measure is not NaN; NaN where it is NaN for all. */
  image: Record<QualityName, number>;
  /** Number of classes where the measure is NaN. */
  leftOut: Record<QualityName, number>;
}

/**
 * Share of the truth that is found, #(A∩B) / #B with A the predicted mask and B the true one.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, in [0, 1]; NaN where the truth is empty.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function sensitivity(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: SurfaceOptions,
): Record<number, number> {
  return byCounts("sensitivity", prediction, truth, options, COUNTS.sensitivity);
}

/**
 * Share of the prediction that is right, #(A∩B) / #A with A the predicted mask and B the true one.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, in [0, 1]; NaN where the prediction is empty.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function precision(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: SurfaceOptions,
): Record<number, number> {
  return byCounts("precision", prediction, truth, options, COUNTS.precision);
}

/**
 * Share of what is not of the class in the truth that is not in the prediction either.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, in [0, 1]; NaN where the truth is of the class everywhere.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function specificity(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: SurfaceOptions,
): Record<number, number> {
  return byCounts("specificity", prediction, truth, options, COUNTS.specificity);
}

/**
 * Signed relative error of the size, (#A - #B) / #B with A the predicted mask and B the true one.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, at least -1; NaN where the truth is empty.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function volumeError(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: SurfaceOptions,
): Record<number, number> {
  return byCounts("volumeError", prediction, truth, options, COUNTS.volumeError);
}

/**
 * Every measure of overlap and distance at once, with one distance transform per mask.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function quality(prediction: NdArray<Uint8Array>, truth: NdArray<Uint8Array>, options: QualityOptions): Quality {
  const specs = { ...SURFACE_OPTIONS, emptyPenalty: EMPTY_PENALTY };
  const { emptyPenalty = "nan", ...rest } = checkOptions("quality", options, specs);
  const input = checkInput("quality", prediction, truth, rest);
  const penalised = penalty(emptyPenalty, input.shape, rest.spacing);
  const perClass: Quality["perClass"] = {};
  for (const [c, region] of regions(input).entries()) {
    if (c === 0) continue;
    const between = distancesOf(input, c, region);
    const far = (name: keyof typeof DISTANCES) =>
      distanceOf(region, between, DISTANCES[name], PENALISED.includes(name) ? penalised : Number.NaN);
    const of = (name: QualityName) =>
      name in COUNTS ? COUNTS[name as keyof typeof COUNTS](region) : far(name as keyof typeof DISTANCES);
    perClass[c] = Object.fromEntries(QUALITY_NAMES.map((name) => [name, of(name)])) as Record<QualityName, number>;
  }
  const image = {} as Quality["image"];
  const leftOut = {} as Quality["leftOut"];
  for (const name of QUALITY_NAMES) {
    const all = Object.values(perClass).map((of) => of[name]);
    const defined = all.filter((value) => !Number.isNaN(value));
    image[name] = mean(defined);
    leftOut[name] = all.length - defined.length;
  }
  return { perClass, image, leftOut };
}

function byCounts(
  name: string,
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: SurfaceOptions,
  measure: (region: Region) => number,
): Record<number, number> {
  const input = checkInput(name, prediction, truth, checkOptions(name, options, SURFACE_OPTIONS));
  const result: Record<number, number> = {};
  regions(input).forEach((region, c) => {
    if (c > 0) result[c] = measure(region);
  });
  return result;
}
