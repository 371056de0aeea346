// The register of formats. A reader or writer is one entry; nothing else names formats.
import type { NdArray, NumericArray } from "../arrays.js";
import type { Grid } from "../grid/index.js";
import type { VolumeInput } from "./bytes.js";
import { dicom, type SeriesInfo, type SeriesOptions } from "./dicom/index.js";
import { metaImage } from "./metaimage.js";
import { nifti } from "./nifti.js";
import { npy } from "./npy.js";
import { nrrd } from "./nrrd.js";
import type { Volume } from "./volume.js";

/** What a reader is asked for. */
export interface VolumeReading {
  /** Whether several values of a voxel are taken, as [C, D, H, W]; a file that has them is refused otherwise. */
  readonly channels: boolean;
  /** Most values that a file may claim. */
  readonly maxValues: number;
  /** Whether everything but the voxels is read: `data` is then {@link UNREAD}. */
  readonly headOnly?: boolean;
  /** Of DICOM alone. */
  readonly dicom?: SeriesOptions;
}

/** What a writer is given. */
export interface VolumeWriting extends NdArray<NumericArray> {
  /** What messages call it. */
  readonly name: string;
  readonly grid: Grid | null;
  /** Whether the values are labels: the data are then a Uint8Array or Uint16Array. */
  readonly label: boolean;
  /** The header of a volume of the same format and grid, which is kept. */
  readonly header?: Uint8Array;
}

/** A format of volumes. */
export interface VolumeFormat {
  readonly name: string;
  /** What a person calls it. */
  readonly title: string;
  /** Endings of its files' names, in lower case. */
  readonly extensions: readonly string[];
  /** Those of files that another one tells of, by whose name a volume is called where both are there. */
  readonly beside?: readonly string[];
  /** Whether its files cannot say where voxels lie. */
  readonly placeless?: boolean;
  /** Whether a folder may hold a volume of it. */
  readonly folders?: boolean;
  /** Whether a file that begins so is of it. At most 540 bytes, unpacked where the file is gzip. */
  begins(head: Buffer): boolean;
  /** @throws ERR_LE_DATA for what is damaged or not read */
  read(input: VolumeInput, options: VolumeReading): Promise<Volume>;
  /** The volumes of a file or folder, of formats of which it may hold several. @throws ERR_LE_DATA as `read` */
  list?(path: string, options: SeriesOptions): Promise<SeriesInfo[]>;
  /** By the ending of a name, the bytes of such a file. Absent where the format is not written. */
  readonly write?: Readonly<Record<string, (volume: VolumeWriting) => Promise<Uint8Array>>>;
}

/** Every format, in the order in which they are tried. */
export const VOLUME_FORMATS: readonly VolumeFormat[] = [nifti, nrrd, metaImage, npy, dicom];
