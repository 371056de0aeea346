// Volumes of files and where they lie: `layer-ensembles/volumes`. Loads no addon and no codec.
export { LayerEnsemblesError } from "../errors.js";
export {
  type Affine,
  type AffineRow,
  type Box,
  centre,
  crop,
  type Fill,
  followLabels,
  type Grid,
  type Interpolation,
  type Moved,
  nonZeroBox,
  orientationOf,
  type Placed,
  pad,
  type ResampleOptions,
  type RestoreOptions,
  reorient,
  resample,
  resampleLabels,
  restore,
  type Step,
  shearOf,
  spacingOf,
  type Triple,
  voxelVolumeOf,
} from "../grid/index.js";
export {
  type Code,
  type DerivedOptions,
  listSeries,
  type ParametricMapOptions,
  readSeries,
  type Segment,
  type SegmentationOptions,
  type SegmentName,
  type SeriesInfo,
  type SeriesOptions,
  type SeriesVolume,
  type SliceSource,
  type WritableMap,
  type WritableSegmentation,
  type WrittenInstance,
  writeParametricMap,
  writeSegmentation,
} from "./dicom/index.js";
export type { WrittenType } from "./numbers.js";
export { type ReadVolumeOptions, readVolume, readVolumeHead } from "./read.js";
export type { Volume } from "./volume.js";
export { type WritableVolume, type WriteVolumeOptions, writeVolume } from "./write.js";
