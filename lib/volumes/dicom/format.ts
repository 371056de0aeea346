// DICOM in the register of formats.
import { dataError } from "../../data/image.js";
import type { VolumeFormat } from "../formats.js";
import { isDicom } from "./parser.js";
import { listSeries, readSeries, readSeriesHead } from "./series.js";

/** DICOM: a folder of slices, or one file. */
export const dicom: VolumeFormat = {
  name: "dicom",
  title: "DICOM",
  extensions: [".dcm"],
  folders: true,
  begins: isDicom,
  list: listSeries,
  read({ path, name }, { maxValues, headOnly, dicom: options }) {
    if (path === undefined) throw dataError(name, "volume", "a folder or a file of DICOM", "bytes");
    return (headOnly ? readSeriesHead : readSeries)(path, { maxValues, ...options });
  },
};
