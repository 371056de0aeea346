// Volumes of files and where they lie: `layer-ensembles/volumes`. Loads no addon and no codec.
export { LayerEnsemblesError } from "../errors.js";
export { type Affine, type AffineRow, type Grid, spacingOf } from "../grid/index.js";
export {
  listSeries,
  readSeries,
  type SeriesInfo,
  type SeriesOptions,
  type SeriesVolume,
  type SliceSource,
} from "./dicom/index.js";
export { type ReadVolumeOptions, readVolume } from "./read.js";
export type { Volume } from "./volume.js";
export { type WritableVolume, type WriteVolumeOptions, writeVolume } from "./write.js";
