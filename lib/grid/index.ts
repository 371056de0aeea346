// What moves a volume and its place in the world together. Loads no addon.
export { type Affine, type AffineRow, type Grid, spacingOf } from "./grid.js";
export type { Interpolation } from "./interpolate.js";
export { orientationOf, reorient } from "./orientation.js";
export type { Moved, Placed, Step, Triple } from "./placed.js";
export { type ResampleOptions, resample, resampleLabels } from "./resample.js";
export { followLabels, type RestoreOptions, restore } from "./restore.js";
export { pixelSize, type Units, unitsOf } from "./units.js";
export { shearOf, voxelVolumeOf } from "./voxel.js";
export { type Box, centre, crop, type Fill, nonZeroBox, pad } from "./window.js";
