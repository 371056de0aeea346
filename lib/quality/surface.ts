// How far two masks are apart, and how often they agree: per foreground class of one image, in two or three dimensions.
import type { NdArray } from "../arrays.js";
import { checkClasses, checkLabels, checkSameShape, fail } from "../checks.js";
import { checkOptions, describe, option } from "../options.js";
import { squaredDistances } from "./distance-transform.js";
import { checkSaid, IGNORE_INDEX, leftOut } from "./ignored.js";

/** Options of the distances between masks. */
export interface SurfaceOptions {
  /** C, from 1 to 256. */
  classes: number;
  /**
   * Label of the truth that is left out, in both masks, before boundaries and distances; null leaves none out.
   * @default 255, where that is no class
   */
  ignoreIndex?: number | null;
  /** Distance of neighbouring pixels along each axis, positive; its unit is that of the results. @default 1 each */
  spacing?: readonly number[];
}

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

/** Options of {@link quality}. */
export interface QualityOptions extends SurfaceOptions {
  /** Of `modifiedHausdorff` and `modifiedHausdorffBoundary`. @default "nan" */
  emptyPenalty?: "nan" | "half-height";
}

/** The measures of {@link quality}. */
export type QualityName =
  | "dice"
  | "iou"
  | "hausdorff"
  | "hd95"
  | "modifiedHausdorff"
  | "modifiedHausdorffBoundary"
  | "assd"
  | "sensitivity"
  | "precision"
  | "specificity"
  | "volumeError";

/** Every measure of one image. */
export interface Quality {
  /** By class 1..C-1. */
  perClass: Record<number, Record<QualityName, number>>;
  /** Mean over the classes where the measure is not NaN; NaN where it is NaN for all. */
  image: Record<QualityName, number>;
  /** Number of classes where the measure is NaN. */
  leftOut: Record<QualityName, number>;
}

/** Every {@link QualityName}, in the order of reports. */
export const QUALITY_NAMES = [
  "dice",
  "iou",
  "hausdorff",
  "hd95",
  "modifiedHausdorff",
  "modifiedHausdorffBoundary",
  "assd",
  "sensitivity",
  "precision",
  "specificity",
  "volumeError",
] as const satisfies readonly QualityName[];

/** Of one class: pixel counts, and where the class is. */
interface Region {
  /** Pixels that are not ignored. */
  pixels: number;
  /** Of them, those with the class in the prediction, in the truth, in both. */
  predicted: number;
  real: number;
  both: number;
  /** First and last index along each axis where prediction or truth has the class. */
  low: number[];
  high: number[];
}

/** The nearest distances between two masks, both directions. */
interface Distances {
  /** Between boundaries, pooled, ascending. */
  pooled: Float64Array;
  /** Mean of each direction. */
  boundaryMeans: [number, number];
  /** Mean of each direction between whole masks. */
  maskMeans: [number, number];
}

const SURFACE_OPTIONS = {
  classes: option.required(option.integer()),
  ignoreIndex: IGNORE_INDEX,
  spacing: option.array(option.number({ above: 0 }), { min: 1 }),
};
const EMPTY_PENALTY = option.oneOf(["nan", "half-height"]);

/**
 * Hausdorff distance of each foreground class: the largest distance from a boundary pixel of one mask to the nearest
 * boundary pixel of the other. A boundary pixel has a face neighbour outside the mask or outside the image.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, at least 0, in the unit of the spacing; 0 where both masks are empty, NaN where one is,
 * and where no pixel counts.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function hausdorff(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: SurfaceOptions,
): Record<number, number> {
  return byDistances("hausdorff", prediction, truth, options, ({ pooled }) => pooled.at(-1) as number);
}

/**
 * 95th percentile of the distances of {@link hausdorff}, both directions pooled, linear between order statistics.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, at least 0, in the unit of the spacing; 0 where both masks are empty, NaN where one is,
 * and where no pixel counts.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function hd95(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: SurfaceOptions,
): Record<number, number> {
  return byDistances("hd95", prediction, truth, options, ({ pooled }) => percentile(pooled, 0.95));
}

/**
 * Average symmetric surface distance: mean of the distances of {@link hausdorff}, both directions pooled.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, at least 0, in the unit of the spacing; 0 where both masks are empty, NaN where one is,
 * and where no pixel counts.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function assd(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: SurfaceOptions,
): Record<number, number> {
  return byDistances("assd", prediction, truth, options, ({ pooled }) => mean(pooled));
}

/**
 * Modified Hausdorff distance (Dubuisson & Jain, 1994): the larger of the two mean distances from the pixels of one mask
 * to the nearest of the other.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns By class 1..C-1, at least 0, in the unit of the spacing; 0 where both masks are empty; where one is, NaN or what
 * `emptyPenalty` says; NaN where no pixel counts.
 * @throws ERR_LE_SHAPE also for `"half-height"` of an image with one axis; ERR_LE_VALUE, ERR_LE_OPTION
 */
export function modifiedHausdorff(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: ModifiedHausdorffOptions,
): Record<number, number> {
  const specs = { ...SURFACE_OPTIONS, on: option.oneOf(["mask", "boundary"]), emptyPenalty: EMPTY_PENALTY };
  const { on = "mask", emptyPenalty = "nan", ...rest } = checkOptions("modifiedHausdorff", options, specs);
  const { shape, spacing } = checkInput("modifiedHausdorff", prediction, truth, rest);
  const penalised = penalty(emptyPenalty, shape, spacing);
  const measure = (of: Distances) => Math.max(...(on === "mask" ? of.maskMeans : of.boundaryMeans));
  return byDistances("modifiedHausdorff", prediction, truth, rest, measure, penalised);
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
  return byCounts("sensitivity", prediction, truth, options, sensitivityOf);
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
  return byCounts("precision", prediction, truth, options, precisionOf);
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
  return byCounts("specificity", prediction, truth, options, specificityOf);
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
  return byCounts("volumeError", prediction, truth, options, volumeErrorOf);
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
    const { predicted, real } = region;
    const far = { hausdorff: 0, hd95: 0, modifiedHausdorff: 0, modifiedHausdorffBoundary: 0, assd: 0 };
    if (predicted > 0 && real > 0) {
      const of = distances(input, c, region);
      far.hausdorff = of.pooled.at(-1) as number;
      far.hd95 = percentile(of.pooled, 0.95);
      far.modifiedHausdorff = Math.max(...of.maskMeans);
      far.modifiedHausdorffBoundary = Math.max(...of.boundaryMeans);
      far.assd = mean(of.pooled);
    } else if (predicted > 0 || real > 0 || region.pixels === 0) {
      far.hausdorff = far.hd95 = far.assd = Number.NaN;
      far.modifiedHausdorff = far.modifiedHausdorffBoundary = region.pixels === 0 ? Number.NaN : penalised;
    }
    perClass[c] = {
      dice: diceOf(region),
      iou: iouOf(region),
      ...far,
      sensitivity: sensitivityOf(region),
      precision: precisionOf(region),
      specificity: specificityOf(region),
      volumeError: volumeErrorOf(region),
    };
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

const diceOf = ({ pixels, predicted, real, both }: Region) =>
  pixels === 0 ? Number.NaN : predicted + real === 0 ? 1 : (2 * both) / (predicted + real);
const iouOf = ({ pixels, predicted, real, both }: Region) =>
  pixels === 0 ? Number.NaN : predicted + real === 0 ? 1 : both / (predicted + real - both);
const sensitivityOf = ({ both, real }: Region) => both / real;
const precisionOf = ({ both, predicted }: Region) => both / predicted;
const specificityOf = ({ pixels, predicted, real, both }: Region) =>
  (pixels - predicted - real + both) / (pixels - real);
const volumeErrorOf = ({ predicted, real }: Region) => (real === 0 ? Number.NaN : (predicted - real) / real);

/** Checked masks. */
interface Masks {
  prediction: Uint8Array;
  truth: Uint8Array;
  shape: readonly number[];
  spacing: readonly number[];
  classes: number;
  ignoreIndex: number;
}

function checkInput(
  name: string,
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  { classes, ignoreIndex: given, spacing }: SurfaceOptions,
): Masks {
  checkClasses(`option 'classes' of ${name}`, classes);
  const { data, shape } = checkLabels("prediction", prediction, { classes, rank: 1, axes: "S" });
  const ignoreIndex = leftOut(given, classes);
  const real = checkLabels("truth", truth, { classes, rank: 1, axes: "S", ignoreIndex });
  checkSameShape("truth", real.shape, shape);
  checkSaid(given, classes, [["truth", real.data]]);
  if (spacing && spacing.length !== shape.length) {
    fail("ERR_LE_OPTION", `option 'spacing' of ${name}`, `${shape.length} numbers, one per axis`, describe(spacing));
  }
  return { prediction: data, truth: real.data, shape, spacing: spacing ?? shape.map(() => 1), classes, ignoreIndex };
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

function byDistances(
  name: string,
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: SurfaceOptions,
  measure: (distances: Distances) => number,
  oneEmpty = Number.NaN,
): Record<number, number> {
  const input = checkInput(name, prediction, truth, checkOptions(name, options, SURFACE_OPTIONS));
  const result: Record<number, number> = {};
  regions(input).forEach((region, c) => {
    if (c === 0) return;
    const [a, b] = [region.predicted > 0, region.real > 0];
    if (region.pixels === 0) result[c] = Number.NaN;
    else result[c] = a && b ? measure(distances(input, c, region)) : a || b ? oneEmpty : 0;
  });
  return result;
}

function penalty(emptyPenalty: "nan" | "half-height", shape: readonly number[], spacing?: readonly number[]): number {
  if (emptyPenalty === "nan") return Number.NaN;
  const height = shape.at(-2);
  if (height === undefined) {
    fail("ERR_LE_SHAPE", "truth", "at least two axes, as emptyPenalty is 'half-height',", shape.join("×"));
  }
  return (height * (spacing?.at(-2) ?? 1)) / 2;
}

/** Counts and extents of every class in one pass. */
function regions({ prediction, truth, shape, classes, ignoreIndex }: Masks): Region[] {
  const rank = shape.length;
  const width = shape[rank - 1] as number;
  const predicted = new Float64Array(classes);
  const real = new Float64Array(classes);
  const both = new Float64Array(classes);
  const low = Array.from({ length: rank }, () => new Int32Array(classes).fill(0x7fffffff));
  const high = Array.from({ length: rank }, () => new Int32Array(classes).fill(-1));
  const [left, right] = [low[rank - 1] as Int32Array, high[rank - 1] as Int32Array];
  const inLine = new Uint8Array(classes);
  const index = new Array<number>(rank - 1).fill(0);
  let pixels = 0;
  for (let start = 0; start < truth.length; start += width) {
    inLine.fill(0);
    // Run by run of equal labels, of which there are few.
    for (let x = 0; x < width; ) {
      const y = truth[start + x] as number;
      const label = prediction[start + x] as number;
      const first = x;
      do x++;
      while (x < width && truth[start + x] === y && prediction[start + x] === label);
      if (y === ignoreIndex) continue;
      const run = x - first;
      pixels += run;
      predicted[label] = (predicted[label] as number) + run;
      real[y] = (real[y] as number) + run;
      if (label === y) both[y] = (both[y] as number) + run;
      // Background is no foreground class: its extent is not needed.
      if ((label | y) === 0) continue;
      inLine[label] = inLine[y] = 1;
      if (first < (left[label] as number)) left[label] = first;
      if (x - 1 > (right[label] as number)) right[label] = x - 1;
      if (first < (left[y] as number)) left[y] = first;
      if (x - 1 > (right[y] as number)) right[y] = x - 1;
    }
    for (let axis = 0; axis < rank - 1; axis++) {
      const at = index[axis] as number;
      for (let c = 1; c < classes; c++) {
        if (inLine[c] === 0) continue;
        if (at < (low[axis]![c] as number)) low[axis]![c] = at;
        if (at > (high[axis]![c] as number)) high[axis]![c] = at;
      }
    }
    for (let axis = rank - 2; axis >= 0 && ++index[axis]! === shape[axis]; axis--) index[axis] = 0;
  }
  return Array.from({ length: classes }, (_, c) => ({
    pixels,
    predicted: predicted[c] as number,
    real: real[c] as number,
    both: both[c] as number,
    low: low.map((of) => of[c] as number),
    high: high.map((of) => of[c] as number),
  }));
}

/**
 * Distances between the two masks of a class that both have. All happens in the box around both, with a margin of one pixel
 * so that every pixel of a mask has neighbours. One transform per mask is enough, that of its boundary: the pixel of a mask
 * that is nearest to a pixel outside is on its boundary, as from any other one a step towards that pixel stays in the mask.
 */
function distances(masks: Masks, c: number, { low, high, predicted, real }: Region): Distances {
  const shape = low.map((first, axis) => (high[axis] as number) - first + 3);
  const size = shape.reduce((product, axis) => product * axis, 1);
  const a = new Uint8Array(size);
  const b = new Uint8Array(size);
  cut(masks, c, low, shape, a, b);
  const edgeA = boundary(a, shape);
  const edgeB = boundary(b, shape);
  const toA = squaredDistances(edgeA.flags, shape, masks.spacing);
  const toB = squaredDistances(edgeB.flags, shape, masks.spacing);
  const pooled = new Float64Array(edgeA.at.length + edgeB.at.length);
  const sumA = roots(toB, edgeA.at, pooled, 0);
  const sumB = roots(toA, edgeB.at, pooled, edgeA.at.length);
  pooled.sort();
  let outsideB = 0;
  let outsideA = 0;
  for (let i = 0; i < size; i++) {
    if (a[i] === b[i]) continue;
    if (a[i] === 1) outsideB += Math.sqrt(toB[i] as number);
    else outsideA += Math.sqrt(toA[i] as number);
  }
  return {
    pooled,
    boundaryMeans: [sumA / edgeA.at.length, sumB / edgeB.at.length],
    maskMeans: [outsideB / predicted, outsideA / real],
  };
}

/** Copies the masks of a class into the box that begins one pixel before `low`. */
function cut(
  { prediction, truth, shape: full, ignoreIndex }: Masks,
  c: number,
  low: readonly number[],
  shape: readonly number[],
  a: Uint8Array,
  b: Uint8Array,
): void {
  const rank = shape.length;
  const width = shape[rank - 1] as number;
  const index = new Array<number>(rank - 1).fill(1);
  const lines = shape.slice(0, -1).reduce((product, axis) => product * (axis - 2), 1);
  for (let line = 0; line < lines; line++) {
    let from = 0;
    let to = 0;
    for (let axis = 0; axis < rank - 1; axis++) {
      from = from * (full[axis] as number) + (low[axis] as number) + (index[axis] as number) - 1;
      to = to * (shape[axis] as number) + (index[axis] as number);
    }
    from = from * (full[rank - 1] as number) + (low[rank - 1] as number);
    to = to * width + 1;
    for (let x = 0; x < width - 2; x++) {
      const y = truth[from + x] as number;
      if (y === c) b[to + x] = 1;
      if (prediction[from + x] === c && y !== ignoreIndex) a[to + x] = 1;
    }
    for (let axis = rank - 2; axis >= 0 && ++index[axis]! === (shape[axis] as number) - 1; axis--) index[axis] = 1;
  }
}

/** The pixels of a mask with a face neighbour outside it. The mask does not touch the border of its box. */
function boundary(mask: Uint8Array, shape: readonly number[]): { flags: Uint8Array; at: Int32Array } {
  const flags = new Uint8Array(mask.length);
  const at = new Int32Array(mask.length);
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((product, size) => product * size, 1));
  let n = 0;
  for (let i = 0; i < mask.length; i++) {
    if (mask[i] === 0) continue;
    let inside = 1;
    for (let axis = 0; axis < strides.length; axis++) {
      const stride = strides[axis] as number;
      inside &= (mask[i - stride] as number) & (mask[i + stride] as number);
    }
    if (inside === 1) continue;
    flags[i] = 1;
    at[n++] = i;
  }
  return { flags, at: at.subarray(0, n) };
}

/** Writes the roots of some squares to `out`, from `start` on, and returns their sum. */
function roots(squares: Float64Array, at: Int32Array, out: Float64Array, start: number): number {
  let sum = 0;
  for (let i = 0; i < at.length; i++) {
    const root = Math.sqrt(squares[at[i] as number] as number);
    out[start + i] = root;
    sum += root;
  }
  return sum;
}

function percentile(ascending: Float64Array, share: number): number {
  const at = share * (ascending.length - 1);
  const below = Math.floor(at);
  const low = ascending[below] as number;
  return low + (at - below) * ((ascending[below + 1] ?? low) - low);
}

/** NaN for no values. */
function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] as number;
  return sum / values.length;
}
