// What lengths and sizes are told in: millimetres where the spacing of pixels is known, else pixels, which are voxels in volumes. Never both in
// one table.

/** The units of a table. */
export interface Units {
  readonly length: "mm" | "px" | "voxels";
  /** Of volumes, of areas where there are two axes, and of numbers of pixels (voxels). */
  readonly size: "ml" | "mm²" | "mm" | "px" | "voxels";
  /** How far boundaries may lie apart for surface Dice, in the unit of lengths. */
  readonly tolerance?: number;
}

/** Of images with so many axes, with a spacing or without. */
export function unitsOf(spacing: readonly number[] | undefined, axes: number): Units {
  if (!spacing) return axes === 3 ? { length: "voxels", size: "voxels" } : { length: "px", size: "px" };
  return { length: "mm", size: axes === 3 ? "ml" : axes === 2 ? "mm²" : "mm" };
}

/** The size of one pixel or voxel in the unit that {@link unitsOf} names: 1 without a spacing. */
export function pixelSize(spacing: readonly number[] | undefined): number {
  if (!spacing) return 1;
  return spacing.reduce((product, mm) => product * mm, 1) / (spacing.length === 3 ? 1000 : 1);
}
