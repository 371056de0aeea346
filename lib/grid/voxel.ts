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
