// Where the heads of a NumPy file lie, as arrays beside them say: what distances are in millimetres by.
import type { NdArray, NumericArray } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";
import { type Affine, farthest, type Grid, SAME_PLACE, spacingOf } from "../grid/index.js";
import { checkGrid } from "../grid/placed.js";
import { rightSpacing } from "../study/records.js";

/** Arrays that say it, beside the heads and the truth. */
export const PLACE_ARRAYS = ["spacing", "affine", "truth_affine"] as const;

/** How far a spacing may be from that of an affine, as a share: what rounding in files makes of one and the same. */
const ROUNDING = 1e-3;

type Arrays = Partial<Record<string, NdArray<NumericArray>>>;

/**
 * Distances of neighbouring pixels along the axes of the heads, in mm: the array `spacing`, one number for each axis, or the columns'
 * lengths of `affine`, 4×4 from voxels x, y and z to mm (of arrays D×H×W, x is along the last axis). Undefined where neither is there.
 * @param shape of the mask
 * @throws ERR_LE_DATA for arrays that do not fit, that contradict each other, and for a truth that lies elsewhere than the heads
 */
export function spacingInFile(file: string, arrays: Arrays, shape: readonly number[]): readonly number[] | undefined {
  const { spacing, affine, truth_affine: ofTruth } = arrays;
  const grid = affine && gridOf(file, "affine", affine, shape);
  const other = ofTruth && gridOf(file, "truth_affine", ofTruth, shape);
  if (other && !grid) throw refusal(file, 'the array "affine" of the heads beside "truth_affine"', "none");
  const distance = grid && other ? farthest(other, grid) : 0;
  if (distance > SAME_PLACE)
    throw refusal(
      file,
      "a truth that lies where the heads do",
      `one whose voxels are up to ${distance.toPrecision(3)} voxels away: resample it onto their grid, or mend its affine`,
    );
  const told = spacing && numbersOf(file, spacing, shape.length);
  if (!grid) return told;
  const own = told ? spacingOf(grid) : rightSpacing(grid, file);
  if (told?.some((mm, axis) => Math.abs(mm - (own[axis] as number)) > ROUNDING * mm))
    throw refusal(
      file,
      `a "spacing" of ${own.map((mm) => Number(mm.toPrecision(6))).join(", ")} along the axes of the heads, as "affine" has it,`,
      told.join(", "),
    );
  return told ?? own;
}

function numbersOf(file: string, { data, shape }: NdArray<NumericArray>, axes: number): number[] {
  const values = Array.from(data, Number);
  if (shape.length !== 1 || values.length !== axes || !values.every((mm) => mm > 0 && Number.isFinite(mm)))
    throw refusal(
      file,
      `${axes} positive numbers, one for each axis of the mask, for "spacing"`,
      `${values.slice(0, 8).join(", ") || "none"} (${shape.join("×") || "a single number"})`,
    );
  return values;
}

function gridOf(file: string, name: string, { data, shape }: NdArray<NumericArray>, size: readonly number[]): Grid {
  if (size.length !== 3) throw refusal(file, `heads K×C×D×H×W beside "${name}"`, `masks of ${size.length} axes`);
  if (shape.join("×") !== "4×4") throw refusal(file, `4×4 numbers for "${name}"`, shape.join("×") || "a single number");
  const rows = [0, 1, 2, 3].map((row) => Array.from(data.slice(row * 4, row * 4 + 4), Number));
  const grid = { shape: size as unknown as Grid["shape"], affine: rows as unknown as Affine };
  try {
    checkGrid(`"${name}" of ${file}`, grid);
  } catch (cause) {
    throw new LayerEnsemblesError("ERR_LE_DATA", (cause as Error).message, { cause });
  }
  return grid;
}

function refusal(file: string, expected: string, received: string): LayerEnsemblesError {
  return new LayerEnsemblesError("ERR_LE_DATA", `Expected ${expected} for ${file} but received ${received}.`);
}
