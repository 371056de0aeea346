// DICOM series to volumes, and what is made of them to DICOM.
export type { Code, DerivedOptions, WrittenInstance } from "./derived.js";
export { dicom } from "./format.js";
export { type ParametricMapOptions, type WritableMap, writeParametricMap } from "./parametric-map.js";
export {
  checkSegmentNames,
  checkSource,
  type Segment,
  type SegmentationOptions,
  type WritableSegmentation,
  writeSegmentation,
} from "./segmentation.js";
export {
  listSeries,
  readSeries,
  type SegmentName,
  type SeriesInfo,
  type SeriesVolume,
  type SliceSource,
} from "./series.js";
export { SERIES_OPTIONS, type SeriesOptions } from "./series-options.js";
