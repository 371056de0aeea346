// The images and masks of a data folder, whatever their format: pictures, and arrays of NumPy.
import type { NdArray, NumericArray } from "../arrays.js";
import { bandsError, dataError, type ReadOptions, readImage, readSize } from "./image.js";
import { isNpy } from "./mask.js";
import { readNpy, readNpyHeader } from "./npy-file.js";
import type { Orientation } from "./orientation.js";
import type { Preprocessing } from "./preprocess.js";
import { Rounding } from "./rounding.js";

/** Stored values, C×H×W, or C×D×H×W for a volume; shown upright. */
export interface StoredImage extends NdArray<Float32Array | Uint8Array | Uint16Array> {
  /** The file's EXIF orientation, by which the values were turned; absent for 1. */
  readonly orientation?: Orientation;
}

/** What a network takes, which decides what an array's axes are. */
export interface Wanted extends Pick<Preprocessing, "channels"> {
  /** 2 for images, 3 for volumes; undefined where nothing says so. */
  spatialAxes: 2 | 3 | undefined;
}

/** What images become, by how they are preprocessed. */
export function wantedOf({ channels, size }: Pick<Preprocessing, "channels" | "size">): Wanted {
  return { channels, spatialAxes: size ? (size.length as 2 | 3) : undefined };
}

/**
 * Reads an image or a volume.
 * @throws ERR_LE_DATA as `readImage` and `readNpy`, and for an array whose axes do not fit: see {@link toStored}
 */
export async function readStored(path: string, wanted: Wanted, options: ReadOptions = {}): Promise<StoredImage> {
  if (!isNpy(path)) return readImage(path, { ...options, channels: wanted.channels });
  return toStored(await readNpy(path, options), path, wanted);
}

/** The H×W or D×H×W of an image, mostly from its header. @throws ERR_LE_DATA as {@link readStored} */
export async function readStoredSize(path: string, wanted: Wanted, options: ReadOptions = {}): Promise<number[]> {
  if (!isNpy(path)) return readSize(path);
  return storedShape((await readNpyHeader(path, options)).shape, path, wanted).slice(1);
}

/**
 * An array as an image: H×W or C×H×W, or of a volume D×H×W or C×D×H×W.
 * @returns C×H×W or C×D×H×W as stored where the type is uint8, uint16 or float32, else as float32
 * @throws ERR_LE_DATA where the axes do not fit what the network takes, or may mean one thing or the other
 */
export function toStored({ data, shape }: NdArray<NumericArray>, name: string, wanted: Wanted): StoredImage {
  const stored = storedShape(shape, name, wanted);
  const kept = data instanceof Float32Array || data instanceof Uint8Array || data instanceof Uint16Array;
  if (kept) return { data, shape: stored };
  const rounding = new Rounding();
  const rounded = rounding.round(data);
  const { lost } = rounding;
  if (lost) throw dataError(name, "image", lost.expected, lost.received);
  return { data: rounded, shape: stored };
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
