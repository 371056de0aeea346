// The images and masks of a data folder, whatever their format: pictures, volumes of the register, and arrays of NumPy.
import { stat } from "node:fs/promises";
import type { NdArray, NumericArray } from "../arrays.js";
import { farthest, type Grid, orientationOf, reorient, SAME_PLACE } from "../grid/index.js";
import type { SeriesOptions } from "../volumes/dicom/index.js";
import { formatByName, readVolume, readVolumeHead } from "../volumes/read.js";
import type { Volume } from "../volumes/volume.js";
import { bandsError, dataError, type ReadOptions, readImage, readSize } from "./image.js";
import { isNpy, readArrayMask, readMask } from "./mask.js";
import { readNpy, readNpyHeader } from "./npy-file.js";
import type { Orientation } from "./orientation.js";
import type { Preprocessing } from "./preprocess.js";
import { Rounding } from "./rounding.js";

/** Stored values, C×H×W, or C×D×H×W for a volume; shown upright. */
export interface StoredImage extends NdArray<Float32Array | Uint8Array | Uint16Array> {
  /** The file's EXIF orientation, by which the values were turned; absent for 1. */
  readonly orientation?: Orientation;
  /** Where a volume lies; null where its file does not say, undefined for an image. */
  readonly grid?: Grid | null;
  /** What the file of a volume says beside its values: what a writer of the same format keeps. */
  readonly volume?: VolumeHead;
}

/** A volume without its values. */
export type VolumeHead = Omit<Volume, "data">;

/** What a network takes, which decides what an array's axes are. */
export interface Wanted extends Pick<Preprocessing, "channels"> {
  /** 2 for images, 3 for volumes; undefined where nothing says so. */
  spatialAxes: 2 | 3 | undefined;
}

/** What images become, by how they are preprocessed. */
export function wantedOf({ channels, size, grid }: Pick<Preprocessing, "channels" | "size" | "grid">): Wanted {
  return { channels, spatialAxes: size ? (size.length as 2 | 3) : grid ? 3 : undefined };
}

/** How images and masks are read. */
export interface StoredOptions extends ReadOptions {
  /** What may be asked of DICOM series. */
  dicom?: SeriesOptions;
}

/** Whether a path is of a format of volumes that is no plain array; a folder is a DICOM series. */
export async function isVolumeFile(path: string): Promise<boolean> {
  if (isNpy(path)) return false;
  if (formatByName(path)) return true;
  return (await stat(path).catch(() => undefined))?.isDirectory() ?? false;
}

/**
 * Reads an image or a volume.
 * @param files one, or each of its channels
 * @throws ERR_LE_DATA as `readImage`, `readVolume` and `readNpy`, for an array whose axes do not fit (see {@link toStored}), and for
 * channels that lie on different grids
 */
export async function readStored(
  files: string | readonly string[],
  wanted: Wanted,
  options: StoredOptions = {},
): Promise<StoredImage> {
  const [first, ...others] = typeof files === "string" ? [files] : files;
  if (others.length === 0) return readOne(first as string, wanted, options);
  checkCount(files, wanted);
  const one = { ...wanted, channels: 1 };
  let read: StoredImage | undefined;
  let data: Float32Array = new Float32Array(0);
  // One at a time: the files of all would take the memory twice.
  for (const [i, file] of [first as string, ...others].entries()) {
    const channel = await readOne(file, one, options);
    if (!read) {
      read = channel;
      data = new Float32Array(channel.data.length * (others.length + 1));
    } else checkSameGrid(file, channel, first as string, read);
    data.set(channel.data, i * channel.data.length);
  }
  const { shape, ...rest } = read as StoredImage;
  return { ...rest, data, shape: [others.length + 1, ...shape.slice(1)] };
}

function checkCount(files: string | readonly string[], { channels }: Wanted): void {
  const count = typeof files === "string" ? 1 : files.length;
  if (count > 1 && count !== channels)
    throw dataError(files[0] as string, "image", `${channels} channels`, `${count} files (_0000, _0001, …)`);
}

async function readOne(path: string, wanted: Wanted, options: StoredOptions): Promise<StoredImage> {
  if (await isVolumeFile(path)) {
    return storedVolume(path, wanted, (channels) => readVolume(path, { ...channels, ...limits(options) }));
  }
  if (!isNpy(path)) return readImage(path, { ...options, channels: wanted.channels });
  return toStored(await readNpy(path, options), path, wanted);
}

/**
 * A volume as an image that a network takes.
 * @param read reads it, with several values of a voxel where that is said
 * @throws ERR_LE_DATA for a network of images, another number of channels, values that are not finite
 */
export async function storedVolume(
  path: string,
  wanted: Wanted,
  read: (options: { channels: boolean }) => Promise<Volume>,
): Promise<StoredImage> {
  checkVolumes(path, wanted);
  const { data, ...volume } = await read({ channels: wanted.channels > 1 });
  const channels = volume.shape.length === 4 ? (volume.shape[0] as number) : 1;
  if (channels !== wanted.channels) throw bandsError(path, wanted.channels, `a volume of ${channels}`);
  if (volume.nonFinite > 0)
    throw dataError(path, "volume", "finite values", `${volume.nonFinite} that are NaN or infinite`);
  const shape = volume.shape.length === 4 ? volume.shape : [1, ...volume.shape];
  return { data: held(data, path, "volume"), shape, grid: volume.grid, volume };
}

function limits({ maxPixels, dicom }: StoredOptions) {
  return { ...(maxPixels !== undefined && { maxValues: maxPixels }), ...(dicom && { dicom }) };
}

/** Files of volumes are for networks of volumes. */
function checkVolumes(path: string, { spatialAxes }: Wanted): void {
  if (spatialAxes === 2)
    throw dataError(
      path,
      "image",
      "a picture or an array of H×W, which the size of two sides asks for,",
      "a file of volumes: a size of three sides takes them",
    );
}

/** What is known of an image without its values. */
export interface StoredHead {
  /** H×W or D×H×W. */
  size: number[];
  /** As {@link StoredImage.grid}. */
  grid?: Grid | null;
  /** What a person should know of the file, a sentence each. */
  warnings: readonly string[];
}

/** Size and place of an image, mostly from its header. @throws ERR_LE_DATA as {@link readStored} */
export async function readStoredHead(
  files: string | readonly string[],
  wanted: Wanted,
  options: StoredOptions = {},
): Promise<StoredHead> {
  const [first, ...others] = (typeof files === "string" ? [files] : files) as [string, ...string[]];
  checkCount(files, wanted);
  const one = others.length > 0 ? { ...wanted, channels: 1 } : wanted;
  const head = await headOf(first, one, options);
  for (const file of others) {
    const other = await headOf(file, one, options);
    checkSameGrid(file, { shape: [1, ...other.size], grid: other.grid }, first, {
      shape: [1, ...head.size],
      grid: head.grid,
    });
  }
  return head;
}

async function headOf(path: string, wanted: Wanted, options: StoredOptions): Promise<StoredHead> {
  if (await isVolumeFile(path)) {
    checkVolumes(path, wanted);
    const { shape, grid, warnings } = await readVolumeHead(path, { channels: wanted.channels > 1, ...limits(options) });
    return { size: shape.slice(-3), grid, warnings };
  }
  if (!isNpy(path)) return { size: await readSize(path), warnings: [] };
  const shape = storedShape((await readNpyHeader(path, options)).shape, path, wanted);
  return { size: shape.slice(1), ...(shape.length === 4 && { grid: null }), warnings: [] };
}

/** @throws ERR_LE_DATA where two files of one case do not lie voxel on voxel */
function checkSameGrid(
  file: string,
  own: { readonly shape: readonly number[]; readonly grid?: Grid | null | undefined },
  other: string,
  of: { readonly shape: readonly number[]; readonly grid?: Grid | null | undefined },
): void {
  const size = of.shape.slice(1).join("×");
  if (own.shape.slice(1).join("×") !== size)
    throw dataError(file, "channel", `the ${size} of ${other}`, own.shape.slice(1).join("×"));
  if (!own.grid || !of.grid) {
    if (!own.grid !== !of.grid)
      throw dataError(
        file,
        "channel",
        `a place in the world exactly where ${other} has one`,
        own.grid ? "one" : "none",
      );
    return;
  }
  const distance = farthest(own.grid, of.grid);
  if (distance > SAME_PLACE)
    throw dataError(
      file,
      "channel",
      `the grid of ${other}`,
      `one that lies up to ${distance.toPrecision(3)} voxels away`,
    );
}

/** The numbers of a mask, voxel on voxel as its image is stored. */
export interface StoredMask extends NdArray<NumericArray> {
  /** What a person should know, a sentence each. */
  readonly warnings?: readonly string[];
}

/**
 * Reads the numbers of a mask: a picture (`readMask`), an array (`readArrayMask`), or a label map, whose axes are turned to
 * those of its image.
 * @param image where the image lies, as its file says; null where it does not; undefined where it is no volume
 * @throws ERR_LE_DATA; also where a label map lies elsewhere than its image, by more than a tenth of a voxel
 */
export async function readStoredMask(
  file: string,
  image: Grid | null | undefined,
  options: StoredOptions = {},
): Promise<StoredMask> {
  if (!(await isVolumeFile(file))) {
    // Which of an array's axes is x, an image that lies somewhere cannot tell of an array that lies nowhere.
    if (image)
      throw dataError(file, "mask", "a file that says where its voxels lie, as its image's does,", "one that does not");
    return isNpy(file) ? readArrayMask(file, options) : readMask(file, options);
  }
  const mask = await readVolume(file, { kind: "label", ...limits(options) });
  const { data, shape, grid, warnings } = mask;
  if (image && !grid)
    throw dataError(file, "mask", "a file that says where its voxels lie, as its image's does,", "one that does not");
  if (!image || !grid) return { data, shape, warnings };
  const axes = orientationOf(image);
  const turned = orientationOf(grid) === axes ? { data, shape, grid } : reorient({ data, shape, grid }, axes);
  const size = image.shape.join("×");
  if (turned.shape.join("×") !== size)
    throw dataError(file, "mask", `the ${size} voxels of its image`, turned.shape.join("×"));
  const distance = farthest(turned.grid, image);
  if (distance > SAME_PLACE)
    throw dataError(
      file,
      "mask",
      "a label map that lies where its image does",
      `one whose voxels are up to ${distance.toPrecision(3)} voxels away: resample it onto the image's grid, or mend its header`,
    );
  return { data: turned.data, shape: turned.shape, warnings };
}

/**
 * An array as an image: H×W or C×H×W, or of a volume D×H×W or C×D×H×W.
 * @returns C×H×W or C×D×H×W as stored where the type is uint8, uint16 or float32, else as float32
 * @throws ERR_LE_DATA where the axes do not fit what the network takes, or may mean one thing or the other
 */
export function toStored({ data, shape }: NdArray<NumericArray>, name: string, wanted: Wanted): StoredImage {
  const stored = storedShape(shape, name, wanted);
  return { data: held(data, name, "image"), shape: stored, ...(stored.length === 4 && { grid: null }) };
}

/** Numbers in a type that images have. @throws ERR_LE_DATA for those that float32 would merge */
function held(data: NumericArray, name: string, what: string): StoredImage["data"] {
  if (data instanceof Float32Array || data instanceof Uint8Array || data instanceof Uint16Array) return data;
  const rounding = new Rounding();
  const rounded = rounding.round(data);
  const { lost } = rounding;
  if (lost) throw dataError(name, what, lost.expected, lost.received);
  return rounded;
}
function storedShape(shape: readonly number[], name: string, wanted: Wanted): number[] {
  const axes = wanted.spatialAxes ?? impliedAxes(shape, name, wanted.channels);
  const layouts = axes === 2 ? "H×W or C×H×W" : "D×H×W or C×D×H×W";
  if (shape.length !== axes && shape.length !== axes + 1)
    throw dataError(
      name,
      axes === 2 ? "image" : "volume",
      `${layouts} numbers`,
      `the shape ${shape.join("×") || "()"}`,
    );
  const stored = shape.length === axes ? [1, ...shape] : [...shape];
  const [bands] = stored as [number];
  // An array does not say that its three bands are red, green and blue, so that they have no luma.
  if (axes === 2 && bands !== wanted.channels && !(bands === 1 && wanted.channels === 3))
    throw bandsError(name, wanted.channels, `an array of ${bands} bands: ${layouts} of ${shape.join("×")}`);
  return stored;
}

/** Where no size says whether these are images or volumes, axes and channels do, if they leave no doubt. */
function impliedAxes(shape: readonly number[], name: string, channels: number): 2 | 3 {
  if (shape.length !== 3) return shape.length < 3 ? 2 : 3;
  // A volume of one band has no other number of channels, an image of one band no other first axis.
  if (channels !== 1) return 2;
  if (shape[0] !== 1) return 3;
  throw dataError(
    name,
    "array",
    "a size of two sides for images or three for volumes, which says what the axes are,",
    `the shape ${shape.join("×")} without one`,
  );
}
