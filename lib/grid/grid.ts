/** One row of an {@link Affine}. */
export type AffineRow = readonly [x: number, y: number, z: number, one: number];

/**
 * From voxel indices (x, y, z, 1) to millimetres in RAS+ (to the patient's right, anterior, superior), of voxel centres;
 * nibabel's convention. The last row is 0, 0, 0, 1.
 */
export type Affine = readonly [AffineRow, AffineRow, AffineRow, AffineRow];

/** Where a volume lies in the world. Plain JSON. Its arrays are C-ordered with x fastest, the byte order of NIfTI. */
export interface Grid {
  /** Voxels along z, y and x. */
  readonly shape: readonly [depth: number, height: number, width: number];
  /** From voxel indices to millimetres. */
  readonly affine: Affine;
}

/** Lengths of a voxel's edges along z, y and x in millimetres: the norms of the affine's columns, in the order of the shape. */
export function spacingOf({ affine }: Grid): [z: number, y: number, x: number] {
  const norm = (column: 0 | 1 | 2) => Math.hypot(affine[0][column], affine[1][column], affine[2][column]);
  return [norm(2), norm(1), norm(0)];
}
