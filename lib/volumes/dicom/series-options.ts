import { option, type Values } from "../../options.js";

export const SERIES_OPTIONS = {
  /** Of several volumes, the one to read: its id or its number, from 1, in the list. @default the only one there is */
  series: option.string({
    ...{ otherwise: "the only one there is", arg: "id" },
    text: "DICOM: of several volumes in a folder the one to read, by its id or its number in the list",
  }),
  /** Takes slices whose steps are not along their normal (gantry tilt): the grid is sheared, and a warning says so. @default false */
  allowTilt: option.boolean({
    default: false,
    text: "DICOM: take slices of a tilted gantry, in a grid that is sheared",
  }),
  /** Takes missing or uneven slices as evenly spaced from the first to the last: a warning says how far off they are. @default false */
  allowUneven: option.boolean({
    ...{ default: false, text: "DICOM: take missing or uneven slices as evenly spaced; a warning says how far off" },
  }),
  /** Takes slices of several acquisitions as one volume. @default false */
  mergeAcquisitions: option.boolean({
    ...{ default: false, text: "DICOM: take slices of several acquisitions as one volume" },
  }),
  /** Most values that a volume may have. @default 1000000000 */
  maxValues: option.integer({ min: 1, default: 1_000_000_000 }),
};

/** What may be asked of a DICOM series. */
export interface SeriesOptions extends Values<typeof SERIES_OPTIONS> {}
