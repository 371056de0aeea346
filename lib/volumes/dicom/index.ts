// DICOM series to volumes.
export { dicom } from "./format.js";
export {
  listSeries,
  readSeries,
  type SeriesInfo,
  type SeriesVolume,
  type SliceSource,
} from "./series.js";
export { SERIES_OPTIONS, type SeriesOptions } from "./series-options.js";
