// How far two masks are apart, per foreground class of one image, in two or three dimensions.
import { type NdArray, stridesOf } from "../arrays.js";
import { fail } from "../checks.js";
import { checkOptions, option } from "../options.js";
import { mean, quantile } from "../statistics/spread.js";
import { squaredDistances } from "./distance-transform.js";
import { checkInput, type Masks, type Region, regions, SURFACE_OPTIONS, type SurfaceOptions } from "./regions.js";

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

/** The nearest distances between two masks, both directions. */
export interface Distances {
  /** Between boundaries, pooled, ascending. */
  pooled: Float64Array;
  /** Mean of each direction. */
  boundaryMeans: [number, number];
  /** Mean of each direction between whole masks. */
  maskMeans: [number, number];
}

export const EMPTY_PENALTY = option.oneOf(["nan", "half-height"]);

/** The measures of distance. */
export const DISTANCES = {
  hausdorff: ({ pooled }) => pooled.at(-1) as number,
  hd95: ({ pooled }) => quantile(pooled, 0.95),
  modifiedHausdorff: ({ maskMeans }) => Math.max(...maskMeans),
  modifiedHausdorffBoundary: ({ boundaryMeans }) => Math.max(...boundaryMeans),
  assd: ({ pooled }) => mean(pooled),
} as const satisfies Record<string, (of: Distances) => number>;

/** Those for which a class that one mask alone has may count something. */
export const PENALISED: readonly string[] = ["modifiedHausdorff", "modifiedHausdorffBoundary"];

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
  return byDistances("hausdorff", prediction, truth, options, DISTANCES.hausdorff);
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
  return byDistances("hd95", prediction, truth, options, DISTANCES.hd95);
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
  return byDistances("assd", prediction, truth, options, DISTANCES.assd);
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
  const measure = DISTANCES[on === "mask" ? "modifiedHausdorff" : "modifiedHausdorffBoundary"];
  return byDistances("modifiedHausdorff", prediction, truth, rest, measure, penalised);
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
    if (c > 0) result[c] = distanceOf(region, distancesOf(input, c, region), measure, oneEmpty);
  });
  return result;
}

/** Between the masks of a class; null where one of them is empty. */
export function distancesOf(masks: Masks, c: number, region: Region): Distances | null {
  return region.predicted > 0 && region.real > 0 ? distances(masks, c, region) : null;
}

/** A measure of a class: 0 where both masks are empty, `oneEmpty` where one is, NaN where no pixel counts. */
export function distanceOf(
  { pixels, predicted, real }: Region,
  between: Distances | null,
  measure: (distances: Distances) => number,
  oneEmpty: number,
): number {
  if (pixels === 0) return Number.NaN;
  if (between) return measure(between);
  return predicted + real === 0 ? 0 : oneEmpty;
}

/** What a class that one mask alone has counts. */
export function penalty(
  emptyPenalty: "nan" | "half-height",
  shape: readonly number[],
  spacing?: readonly number[],
): number {
  if (emptyPenalty === "nan") return Number.NaN;
  const height = shape.at(-2);
  if (height === undefined) {
    fail("ERR_LE_SHAPE", "truth", "at least two axes, as emptyPenalty is 'half-height',", shape.join("×"));
  }
  return (height * (spacing?.at(-2) ?? 1)) / 2;
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
  const strides = stridesOf(shape);
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
