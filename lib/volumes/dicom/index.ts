// DICOM series to volumes.
export { dicom } from "./format.js";
export {
  listSeries,
  readSeries,
  SERIES_OPTIONS,
  type SeriesInfo,
  type SeriesOptions,
  type SeriesVolume,
  type SliceSource,
} from "./series.js";
