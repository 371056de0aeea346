import { type NdArray, type NumericArray, snapshot } from "../arrays.js";
import { fail } from "../checks.js";
import { describe } from "../options.js";
import type { Affine, AffineRow, Grid } from "./grid.js";

/** Three numbers along z, y and x, in the order of a shape. */
export type Triple = readonly [z: number, y: number, x: number];

/** What was done to a volume: enough to undo it. Plain JSON. */
export type Step = {
  /** The grid before it. */
  readonly from: Grid;
} & (
  | {
      /** Axes were permuted and turned round. */
      readonly op: "reorient";
      /** Axis k of the new array is axis `axes[k]` of the old one. */
      readonly axes: Triple;
      /** Whether axis k is read backwards. */
      readonly flips: readonly boolean[];
    }
  | {
      /** Voxels were cut off or added. */
      readonly op: "window";
      /** The voxel of the old array at which the new one begins: before it where that is negative. */
      readonly start: Triple;
    }
  | {
      /** Values were interpolated on another number of voxels over the same extent. */
      readonly op: "resample";
    }
);

/** An array with its place in the world; the two never part. Channels, where there are any, come first and share the place. */
export interface Placed<T extends NumericArray = NumericArray> extends NdArray<T> {
  /** [D, H, W], or [C, D, H, W]. */
  readonly shape: readonly number[];
  /** Where it lies. */
  readonly grid: Grid;
  /** What was done since it was read, oldest first; `restore` undoes it. What a model makes of a volume takes the volume's. */
  readonly steps?: readonly Step[];
}

/** A {@link Placed} that something was done to. */
export interface Moved<T extends NumericArray = NumericArray> extends Placed<T> {
  /** Where it lies now. */
  readonly grid: Grid;
  /** What was done since it was read, oldest first. */
  readonly steps: readonly Step[];
}

/** A {@link Placed} that was looked at, each property once. */
export interface Checked<T extends NumericArray> extends Moved<T> {
  /** 1 where there is no axis of channels. */
  readonly channels: number;
  /** [D, H, W]. */
  readonly size: Triple;
}

/** @throws LayerEnsemblesError `ERR_LE_SHAPE`, `ERR_LE_VALUE` for an affine that is none or that has no inverse */
export function checkPlaced<T extends NumericArray>(argument: string, volume: Placed<T>): Checked<T> {
  const own = snapshot(volume);
  if (!own) return fail("ERR_LE_SHAPE", argument, "a volume with data, shape and grid", describe(volume));
  const { grid, steps = [] } = volume;
  checkGrid(`the grid of ${argument}`, grid);
  const { data, shape } = own;
  const lead = shape.length - 3;
  if ((lead !== 0 && lead !== 1) || grid.shape.some((size, axis) => shape[lead + axis] !== size)) {
    const expected = `a shape [${grid.shape.join(", ")}] as its grid's, or with an axis of channels before it,`;
    fail("ERR_LE_SHAPE", argument, expected, `[${shape.join(", ")}]`);
  }
  const channels = lead ? (shape[0] as number) : 1;
  const length = channels * volumeOf(grid.shape);
  if (!Number.isSafeInteger(channels) || channels < 1 || data.length !== length) {
    fail("ERR_LE_SHAPE", argument, `${length} values (${shape.join("×")})`, `${data.length}`);
  }
  return { data: data as T, shape, grid, steps, channels, size: grid.shape };
}

/** @throws LayerEnsemblesError `ERR_LE_SHAPE`, `ERR_LE_VALUE` */
export function checkGrid(argument: string, grid: Grid): void {
  const { shape, affine } = grid ?? {};
  if (!isTriple(shape) || !shape.every((size) => Number.isSafeInteger(size) && size > 0)) {
    fail("ERR_LE_SHAPE", argument, "a shape [depth, height, width] of positive sizes", describe(shape));
  }
  const rows = Array.isArray(affine) && affine.length === 4 && affine.every((row) => Array.isArray(row));
  if (!rows || !affine.every((row) => row.length === 4 && row.every(Number.isFinite))) {
    fail("ERR_LE_VALUE", argument, "an affine of 4×4 finite numbers", describe(affine));
  }
  const volume = Math.abs(determinant(linearOf(affine)));
  const lengths = columnsOf(affine).map((column) => Math.hypot(...column));
  if (String(affine[3]) !== "0,0,0,1" || !(volume > 1e-9 * (lengths[0]! * lengths[1]! * lengths[2]!))) {
    fail("ERR_LE_VALUE", argument, "an affine that has an inverse and ends with 0, 0, 0, 1", JSON.stringify(affine));
  }
}

export function isTriple(value: unknown): value is Triple {
  return Array.isArray(value) && value.length === 3;
}

export function volumeOf([d, h, w]: Triple): number {
  return d * h * w;
}

/** The shape of the same channels over another grid. */
export function shapeOver({ shape }: { shape: readonly number[] }, size: Triple): number[] {
  return [...shape.slice(0, -3), ...size];
}

/** A 3×3 matrix, its rows. */
export type Matrix = [Vector, Vector, Vector];
/** Along world x, y and z. */
export type Vector = [number, number, number];

function linearOf(affine: Affine): Matrix {
  return [0, 1, 2].map((row) => affine[row as 0].slice(0, 3)) as Matrix;
}

export function determinant([[a, b, c], [d, e, f], [g, h, i]]: Matrix): number {
  return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
}

/** How far a step along z, y and x of the array goes, in the order of the shape. */
export function columnsOf(affine: Affine): [z: Vector, y: Vector, x: Vector] {
  return [2, 1, 0].map((column) => [0, 1, 2].map((row) => affine[row as 0][column as 0])) as [Vector, Vector, Vector];
}

/** The affine whose steps are these and whose voxel 0 lies where voxel `at` (fractions and outside allowed) of `affine` does. */
export function affineOf(affine: Affine, columns: readonly Vector[], at: Triple): Affine {
  const old = columnsOf(affine);
  const row = (i: number): AffineRow => {
    const [z, y, x] = columns.map((column) => column[i] as number) as Vector;
    const origin = old.reduce((sum, column, axis) => sum + column[i]! * at[axis]!, affine[i as 0][3]);
    return [x, y, z, origin];
  };
  return [row(0), row(1), row(2), [0, 0, 0, 1]];
}
