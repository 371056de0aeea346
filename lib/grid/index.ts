// What moves a volume and its place in the world together. Loads no addon.
export { type Affine, type AffineRow, type Grid, spacingOf } from "./grid.js";
export type { Interpolation } from "./interpolate.js";
export { orientationOf, reorient } from "./orientation.js";
export type { Moved, Placed, Step, Triple } from "./placed.js";
export { ordersOf, type ResampleOptions, resample, resampleLabels, resampling } from "./resample.js";
export { following, followLabels, type RestoreOptions, restore, restoring } from "./restore.js";
export { aside, byDefinition, isNative, type Moving, type Stretching, useStretchKernel } from "./stretching.js";
export { pixelSize, type Units, unitsOf } from "./units.js";
export { farthest, SAME_PLACE, shearOf, voxelVolumeOf } from "./voxel.js";
export { type Box, centre, crop, type Fill, nonZeroBox, pad } from "./window.js";
