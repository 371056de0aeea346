import { toldOf, type Values } from "../options.js";
import { SERIES_OPTIONS as SERIES, type SeriesOptions } from "../volumes/dicom/series-options.js";
import { givenOf } from "./arguments.js";

/** What every command that reads volumes may be told of a DICOM series. */
export const SERIES_OPTIONS = toldOf(SERIES);

/** What may be given of them. */
export type SeriesFlags = Values<typeof SERIES_OPTIONS>;

/** The same as options of a reader. */
export function seriesOf(flags: SeriesFlags): SeriesOptions {
  return givenOf(flags, SERIES_OPTIONS);
}
