// The predicted mask against the true one, per foreground class of one image.
import type { NdArray } from "../arrays.js";
import { checkOptions, defaultsOf, option, type Values } from "../options.js";
import { mean } from "../statistics/spread.js";
import { LESION_RULE } from "./lesions.js";
import { checkInput, regions, SURFACE_OPTIONS, type SurfaceOptions } from "./regions.js";
import {
  ClassMasks,
  checkPenalty,
  type MeasureSettings,
  QUALITY,
  QUALITY_NAMES,
  type QualityName,
} from "./register.js";

export const EMPTY_PENALTY = option.oneOf(["nan", "half-height"], { default: "nan" });

/** What decides measures beside masks and spacing. */
export const MEASURED = {
  /** Surface Dice: how far a boundary may lie from the other one, in mm, or pixels without a spacing. @default 1 */
  tolerance: option.number({
    ...{ min: 0, default: 1, arg: "length" },
    text: "surface Dice: how far a boundary may lie from the other one, in mm, or in pixels where no spacing is known",
  }),
  ...LESION_RULE,
};

const QUALITY_OPTIONS = {
  ...{ ...SURFACE_OPTIONS, ...MEASURED },
  /**
   * Of `modifiedHausdorff` and `modifiedHausdorffBoundary`: what a class that one of the two masks alone has counts, NaN or
   * H·spacing/2 with H the length of the last axis but one, as published. @default "nan"
   */
  emptyPenalty: EMPTY_PENALTY,
};

/** Options of {@link quality}. */
export interface QualityOptions extends SurfaceOptions, Omit<Values<typeof QUALITY_OPTIONS>, keyof SurfaceOptions> {}

/** Options of {@link modifiedHausdorff}. */
export interface ModifiedHausdorffOptions extends SurfaceOptions {
  /** Which pixels the distances are between: all of the masks, as published for this method, or those of their boundaries. @default "mask" */
  on?: "mask" | "boundary";
  /**
   * What a class that one of the two masks alone has counts: NaN, or H·spacing/2 with H the length of the last axis but
   * one, as published. @default "nan"
   */
  emptyPenalty?: "nan" | "half-height";
}

/** Options of {@link surfaceDice}. */
export interface SurfaceDiceOptions extends SurfaceOptions {
  /** How far a boundary may lie from the other one, at least 0: in mm, or pixels without a spacing. @default 1 */
  tolerance?: number;
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
 * Hausdorff distance of each foreground class: the largest distance from a boundary pixel of one mask to the nearest
 * boundary pixel of the other. A boundary pixel has a face neighbour outside the mask or outside the image.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, at least 0, in mm, or pixels without a spacing; 0 where both masks are empty, NaN where one is,
 * and where no pixel counts.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function hausdorff(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: SurfaceOptions,
): Record<number, number> {
  return byName("hausdorff", prediction, truth, options);
}

/**
 * 95th percentile of the distances of {@link hausdorff}, both directions pooled, linear between order statistics.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, at least 0, in mm, or pixels without a spacing; 0 where both masks are empty, NaN where one is,
 * and where no pixel counts.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function hd95(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: SurfaceOptions,
): Record<number, number> {
  return byName("hd95", prediction, truth, options);
}

/**
 * Average symmetric surface distance: mean of the distances of {@link hausdorff}, both directions pooled.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, at least 0, in mm, or pixels without a spacing; 0 where both masks are empty, NaN where one is,
 * and where no pixel counts.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function assd(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: SurfaceOptions,
): Record<number, number> {
  return byName("assd", prediction, truth, options);
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
  return byName("sensitivity", prediction, truth, options);
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
  return byName("precision", prediction, truth, options);
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
  return byName("specificity", prediction, truth, options);
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
  return byName("volumeError", prediction, truth, options);
}

/**
 * Normalised surface Dice: of the boundary pixels of both masks together, the share that is at most `tolerance` (and a billionth of it)
 * from the other mask's boundary. Boundary pixels and distances are those of {@link hausdorff}; each pixel counts once, whatever the
 * area of its face.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, in [0, 1]; 1 where both masks are empty, 0 where one is, NaN where no pixel counts.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function surfaceDice(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: SurfaceDiceOptions,
): Record<number, number> {
  return byName("surfaceDice", prediction, truth, options, { tolerance: MEASURED.tolerance });
}

/**
 * Modified Hausdorff distance (Dubuisson & Jain, 1994): the larger of the two mean distances from the pixels of one mask
 * to the nearest of the other.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, at least 0, in mm, or pixels without a spacing; 0 where both masks are empty; where one is, NaN or what
 * `emptyPenalty` says; NaN where no pixel counts.
 * @throws ERR_LE_SHAPE also for `"half-height"` of an image with one axis; ERR_LE_VALUE, ERR_LE_OPTION
 */
export function modifiedHausdorff(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: ModifiedHausdorffOptions,
): Record<number, number> {
  const specs = { ...SURFACE_OPTIONS, on: option.oneOf(["mask", "boundary"]), emptyPenalty: EMPTY_PENALTY };
  const { on = "mask", ...rest } = checkOptions("modifiedHausdorff", options, specs);
  const name = on === "mask" ? "modifiedHausdorff" : "modifiedHausdorffBoundary";
  return byName(name, prediction, truth, rest, { emptyPenalty: EMPTY_PENALTY });
}

/**
 * Every measure at once, with one distance transform per mask.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function quality(prediction: NdArray<Uint8Array>, truth: NdArray<Uint8Array>, options: QualityOptions): Quality {
  const perClass: Quality["perClass"] = {};
  for (const masks of classesOf("quality", prediction, truth, options, QUALITY_OPTIONS)) {
    const all = QUALITY_NAMES.map((name) => [name, QUALITY[name].of(masks)] as const);
    perClass[masks.index] = Object.fromEntries(all) as Record<QualityName, number>;
  }
  return { perClass, ...overClasses(Object.values(perClass)) };
}

/** Means over classes of what is defined; how many were not. */
export function overClasses(classes: readonly Record<QualityName, number>[]): Pick<Quality, "image" | "leftOut"> {
  const image = {} as Quality["image"];
  const leftOut = {} as Quality["leftOut"];
  for (const name of QUALITY_NAMES) {
    const defined = classes.map((of) => of[name]).filter((value) => !Number.isNaN(value));
    image[name] = mean(defined);
    leftOut[name] = classes.length - defined.length;
  }
  return { image, leftOut };
}

function byName(
  name: QualityName,
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: QualityOptions,
  more: Partial<typeof QUALITY_OPTIONS> = {},
): Record<number, number> {
  const all = classesOf(name, prediction, truth, options, { ...SURFACE_OPTIONS, ...more });
  return Object.fromEntries(all.map((masks) => [masks.index, QUALITY[name].of(masks)]));
}

/** The masks of each foreground class. @param specs the options that the caller takes */
function classesOf(
  name: string,
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: QualityOptions,
  specs: Partial<typeof QUALITY_OPTIONS>,
): ClassMasks[] {
  const { classes, ignoreIndex, spacing, ...settings } = {
    ...(defaultsOf(QUALITY_OPTIONS) as MeasureSettings),
    ...checkOptions(name, options, specs),
  };
  const given = { ...(ignoreIndex !== undefined && { ignoreIndex }), ...(spacing && { spacing }) };
  const masks = checkInput(name, prediction, truth, { classes, ...given });
  checkPenalty(masks, settings);
  return regions(masks).flatMap((region, c) => (c === 0 ? [] : [new ClassMasks(masks, c, region, settings)]));
}
