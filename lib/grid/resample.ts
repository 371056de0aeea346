import { arrayType, type NumericArray } from "../arrays.js";
import { checkFinite, type FloatArray, fail } from "../checks.js";
import { checkOptions, describe, option } from "../options.js";
import { type Grid, spacingOf } from "./grid.js";
import type { Interpolation } from "./interpolate.js";
import {
  affineOf,
  type Checked,
  checkPlaced,
  columnsOf,
  type Moved,
  type Placed,
  shapeOver,
  type Triple,
  type Vector,
} from "./placed.js";
import { byDefinition, type Moving } from "./stretching.js";

const INTERPOLATIONS = ["nearest", "linear", "cubic"] as const satisfies readonly Interpolation[];

/** A voxel that is more than so many times longer than wide makes the long axis one that is not interpolated across. */
const ANISOTROPIC = 3;

/** For {@link resample}. One of `spacing` and `shape`. */
export interface ResampleOptions {
  /**
   * Lengths of a voxel's edges along z, y and x in mm, above 0. The extent is kept, so that what comes out is the nearest
   * that a whole number of voxels allows.
   */
  readonly spacing?: Triple;
  /** [D, H, W]. */
  readonly shape?: Triple;
  /**
   * How values between voxels are found: `"cubic"` (default, for images; B-splines, which may overshoot), `"linear"` (for
   * probabilities) or `"nearest"` (for labels). One for all: across the one axis whose spacing, before or after, is above
   * 3 times the least, it is `"nearest"`. Or one for each of z, y and x, which are taken as they are.
   */
  readonly order?: Interpolation | readonly Interpolation[];
}

const above0 = option.array(option.number({ above: 0 }), { length: 3 });
const interpolation = option.oneOf(INTERPOLATIONS);
const OPTIONS = {
  spacing: above0,
  shape: option.array(option.integer({ min: 1 }), { length: 3 }),
  order: option.anyOf(interpolation, option.array(interpolation, { length: 3 })),
};

/**
 * A volume over the same extent with other voxels. Outer faces of outer voxels stay where they are (half-voxel rule,
 * `align_corners=false`); beyond them values go on as at the rim. Equal to `scipy.ndimage.zoom` with `grid_mode=True` and
 * `mode="nearest"`.
 * @returns `"nearest"` along every axis: the volume's type. Else 32-bit floats, or 64-bit ones of 64-bit ones.
 * @throws LayerEnsemblesError `ERR_LE_OPTION`; `ERR_LE_SHAPE`; `ERR_LE_VALUE` for a value that is not finite, unless
 *   `"nearest"`; `ERR_LE_TOO_LARGE` for more values than an array holds
 */
export function resample(volume: Placed<FloatArray>, options: ResampleOptions): Moved<FloatArray>;
export function resample<T extends NumericArray>(
  volume: Placed<T>,
  options: ResampleOptions & { order: "nearest" },
): Moved<T>;
export function resample(volume: Placed, options: ResampleOptions): Moved;
export function resample(volume: Placed, options: ResampleOptions): Moved {
  return byDefinition(resampling(volume, options));
}

/** {@link resample}. */
export function* resampling(volume: Placed, options: ResampleOptions, labels = false): Moving<Moved> {
  const own = checkPlaced("the volume", volume);
  const { spacing, shape, order = "cubic" } = checkOptions("resample", options, OPTIONS);
  if ((spacing === undefined) === (shape === undefined)) {
    return fail("ERR_LE_OPTION", "resample", "one of the options 'spacing' and 'shape'", spacing ? "both" : "neither");
  }
  const old = spacingOf(own.grid);
  // Never to nothing: an extent below half a voxel is one voxel.
  const to = spacing?.map((mm, axis) => Math.max(1, Math.round((own.size[axis]! * old[axis]!) / mm))) ?? shape;
  return yield* stretch(own, to as unknown as Triple, order as ResampleOptions["order"] & {}, labels);
}

/**
 * A label map over the same extent with other voxels: each label's share is interpolated linearly (across thick slices by the
 * nearest), and the label of the largest share wins, of equal ones the least. Unlike `"nearest"` it keeps the area of thin
 * structures where voxels grow.
 * @param options One of `spacing` and `shape`, as for {@link resample}.
 * @throws LayerEnsemblesError as {@link resample}
 */
export function resampleLabels<T extends NumericArray>(
  volume: Placed<T>,
  options: Pick<ResampleOptions, "spacing" | "shape">,
): Moved<T> {
  return byDefinition(resamplingLabels(volume, options));
}

/** {@link resampleLabels}. */
export function resamplingLabels<T extends NumericArray>(
  volume: Placed<T>,
  options: Pick<ResampleOptions, "spacing" | "shape">,
): Moving<Moved<T>> {
  return resampling(volume, { ...options, order: "linear" }, true) as Moving<Moved<T>>;
}

/**
 * @param order As in {@link ResampleOptions}
 * @param labels Whether values are labels: see {@link resampleLabels}
 */
export function* stretch(
  volume: Checked<NumericArray>,
  shape: Triple,
  order: Interpolation | readonly Interpolation[],
  labels = false,
): Moving<Moved> {
  const { grid, channels, size, steps } = volume;
  const ratios = size.map((n, axis) => n / shape[axis]!) as unknown as Triple;
  const columns = columnsOf(grid.affine).map((column, axis) => column.map((value) => value * ratios[axis]!) as Vector);
  const affine = affineOf(grid.affine, columns, ratios.map((ratio) => (ratio - 1) / 2) as unknown as Triple);
  const orders = typeof order === "string" ? ordersOf(grid, shape, order) : order;
  // Axes that shrink come first: less is left for the others.
  const axes = [0, 1, 2].filter((axis) => size[axis] !== shape[axis]).sort((a, b) => ratios[b]! - ratios[a]!);
  const stretches = axes.map((axis) => ({
    axis: axis + 1,
    size: shape[axis] as number,
    between: orders[axis] as Interpolation,
  }));
  const at = [channels, ...size];
  for (const one of stretches) {
    at[one.axis] = one.size;
    checkSize(at.reduce((product, n) => product * n, 1));
  }
  const data = labels || orders.every((name) => name === "nearest") ? volume.data : floatsOf(volume.data);
  return {
    data: axes.length ? yield { data, shape: [channels, ...size], stretches, labels } : data.slice(),
    shape: shapeOver(volume, shape),
    grid: { shape, affine },
    steps: [...steps, { op: "resample", from: grid }],
  };
}

/** One interpolation for all axes of a grid that gets another shape, but the one across which slices lie apart. */
export function ordersOf(grid: Grid, shape: Triple, order: Interpolation): Interpolation[] {
  return across(order, spacingOf(grid), grid.shape.map((n, axis) => n / shape[axis]!) as unknown as Triple);
}

function across(order: Interpolation, spacing: Triple, ratios: Triple): Interpolation[] {
  const after = spacing.map((mm, axis) => mm * ratios[axis]!);
  for (const lengths of [spacing, after]) {
    const least = Math.min(...lengths);
    const long = [0, 1, 2].filter((axis) => lengths[axis]! > ANISOTROPIC * least);
    if (long.length === 1) return [0, 1, 2].map((axis) => (axis === long[0] ? "nearest" : order));
  }
  return [order, order, order];
}

function floatsOf(data: NumericArray): FloatArray {
  checkFinite("the volume's values", data);
  const float = ["Float32Array", "Float64Array"].includes(arrayType(data) as string);
  return float ? (data as FloatArray) : Float32Array.from(data);
}

/** The most values that arrays here may have. */
const MOST_VALUES = 2 ** 32;

function checkSize(values: number): void {
  if (values > MOST_VALUES) fail("ERR_LE_TOO_LARGE", "resample", `at most ${MOST_VALUES} values`, describe(values));
}
