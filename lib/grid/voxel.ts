// What a voxel measures.
import type { Grid } from "./grid.js";
import { columnsOf, determinant, type Matrix } from "./placed.js";

/** Of a voxel, in mm³; of a sheared one too. */
export function voxelVolumeOf({ affine }: Grid): number {
  return Math.abs(determinant(columnsOf(affine) as Matrix));
}

/** How far the axes of a grid are from right angles, in degrees; 0 where it is not sheared. */
export function shearOf({ affine }: Grid): number {
  const [z, y, x] = columnsOf(affine).map((column) =>
    column.map((mm) => mm / Math.hypot(...column)),
  ) as unknown as Matrix;
  const cosine = (a: Matrix[0], b: Matrix[0]) => Math.abs(a[0] * b[0] + a[1] * b[1] + a[2] * b[2]);
  return (Math.asin(Math.min(1, Math.max(cosine(x, y), cosine(x, z), cosine(y, z)))) * 180) / Math.PI;
}

/** How far a voxel of one and the same grid may lie from its place in another file, in voxels. */
export const SAME_PLACE = 0.1;

/** How far the corners of a grid lie from those of another of the same shape, in voxels of it. */
export function farthest(grid: Grid, of: Grid): number {
  const norms = [0, 1, 2].map((column) => Math.hypot(...[0, 1, 2].map((row) => of.affine[row as 0][column as 0])));
  const least = Math.min(...norms);
  const last = [...grid.shape].reverse().map((side) => side - 1);
  let most = 0;
  for (let corner = 0; corner < 8; corner++) {
    const at = [...last.map((end, axis) => ((corner >> axis) & 1) * end), 1];
    const apart = [0, 1, 2].map((row) =>
      at.reduce(
        (sum, x, column) => sum + x * (grid.affine[row as 0][column as 0] - of.affine[row as 0][column as 0]),
        0,
      ),
    );
    most = Math.max(most, Math.hypot(...apart) / least);
  }
  return most;
}
