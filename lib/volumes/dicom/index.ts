// DICOM series to volumes.
export {
  listSeries,
  readSeries,
  type SeriesInfo,
  type SeriesOptions,
  type SeriesVolume,
  seriesOptionSpecs,
} from "./series.js";
