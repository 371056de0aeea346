// Affines of what files say.
import type { Affine, AffineRow, Grid } from "../grid/index.js";
import { determinant, type Vector } from "../grid/placed.js";

/** Signs of coordinates to the left, to the back and up. */
export const LPS: readonly number[] = [-1, -1, 1];

/** The affine of three rows; undefined where it is not finite or has no inverse. */
export function affineOfRows(rows: readonly (readonly number[])[]): Affine | undefined {
  // Without -0.
  const [x, y, z] = rows.map((row) => row.map((value) => value + 0)) as unknown as [AffineRow, AffineRow, AffineRow];
  const [a, b, c] = [x, y, z].map((row) => row.slice(0, 3)) as [Vector, Vector, Vector];
  const volume = determinant([a, b, c]);
  if (volume === 0 || ![...x, ...y, ...z, volume].every(Number.isFinite)) return undefined;
  return [x, y, z, [0, 0, 0, 1]];
}

/**
 * The affine of three axes' steps and the first voxel's centre, in a space of whose coordinates some run against RAS+.
 * @param signs of the space's coordinates: -1 where one runs to the left, or to the back
 * @returns undefined as {@link affineOfRows}
 */
export function affineOfSteps(
  steps: readonly (readonly number[])[],
  origin: readonly number[],
  signs: readonly number[],
): Affine | undefined {
  return affineOfRows(signs.map((sign, row) => [...steps, origin].map((vector) => sign * (vector[row] as number))));
}

/** The three steps and the first voxel's centre in left-posterior-superior. */
export function stepsInLps(affine: Affine): { steps: number[][]; origin: number[] } {
  const column = (j: number) => [-(affine[0][j] as number) + 0, -(affine[1][j] as number) + 0, affine[2][j] as number];
  return { steps: [0, 1, 2].map(column), origin: column(3) };
}

/** Whether two affines put a voxel in the same place, to a millionth of its numbers. */
export function isSamePlace(a: Grid, b: Grid): boolean {
  return a.affine.every((row, i) =>
    row.every((value, j) => {
      const other = b.affine[i]?.[j] as number;
      return Math.abs(value - other) <= 1e-6 * Math.max(1, Math.abs(value), Math.abs(other));
    }),
  );
}
