// What is done to an image before and after the model. It takes longer than an event loop should wait, so it runs on worker
// threads: see image-pool.ts.
import type { NdArray } from "../arrays.js";
import { croppedShare } from "../data/cropped.js";
import { display } from "../data/dataset.js";
import { encodePng, probabilityToGrey } from "../data/encode-png.js";
import { decodeExtent, decodeImage } from "../data/image.js";
import { contentOf } from "../data/leaks.js";
import { parseNpy } from "../data/npy.js";
import { encodeNpy } from "../data/npy-file.js";
import { type Orientation, orientBack } from "../data/orientation.js";
import { isPng, readPngHeader, withOrientation } from "../data/png.js";
import { isVolume, type Placement, type Preprocessing, preprocessAside, restore } from "../data/preprocess.js";
import { type StoredImage, storedVolume, toStored, type VolumeHead } from "../data/stored.js";
import type { Prediction } from "../ensemble/prediction.js";
import { LayerEnsemblesError } from "../errors.js";
import { argmax } from "../fusion/index.js";
import { type Extent, extentOf } from "../inference/record.js";
import { heatMap, overlay } from "../pictures/render.js";
import { volumeOverlay } from "../pictures/volume.js";
import { SET_NAMES, type SetThresholds, setsOf } from "../sets/index.js";
import type { MapName } from "../uncertainty/index.js";
import { MAP_NAMES, MAPS } from "../uncertainty/index.js";
import { VOLUME_FORMATS } from "../volumes/formats.js";
import { readVolume, readVolumeHead } from "../volumes/read.js";
import { encodeVolume } from "../volumes/write.js";
import { type KeptMask, packMask } from "./outcome-work.js";

const DOUBLE = 8;

/**
 * What can be answered beside numbers: the mask, the masks of what is surely and what is perhaps of a class, the fused probabilities,
 * the outlines of these masks on the image, and the maps.
 */
export const OUTPUTS = ["mask", "inner", "outer", "probabilities", "overlay", ...MAP_NAMES] as const;

/** One of {@link OUTPUTS}. */
export type OutputName = (typeof OUTPUTS)[number];

/** Whether inner and outer masks are asked for; then the overlay shows them too. */
export function wantsSets(outputs: readonly OutputName[]): boolean {
  return SET_NAMES.some((name) => outputs.includes(name));
}

/** What the images of a model are, and how large one may be as stored. */
export interface ImageKind {
  preprocessing: Preprocessing;
  /** 3 for volumes. */
  spatialAxes: 2 | 3;
  /** Of its answers. */
  classes: number;
  /** Maps that its gate needs whatever is asked for. */
  maps: number;
  /** Most pixels (voxels) of an image. */
  maxPixels: number;
  /** Most pixels of a side. */
  maxSide: number;
}

/** What an image is as stored, by its head. */
export interface ImageSize {
  /** H×W, or D×H×W. */
  size: number[];
  /** Of all its samples, once they are decoded. */
  bytes: number;
}

/** The part of {@link measure} that takes no time: for PNG and .npy files. Undefined for others. */
export function quickMeasure(bytes: Uint8Array, name: string): ImageSize | undefined {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const format = formatOf(file, name);
  if (format === "npy") {
    // What the header claims is checked against the bytes that there are before anything is made of it.
    const shape = /'shape'\s*:\s*\(([\d\s,L]*)\)/.exec(file.toString("latin1", 0, 1024))?.[1];
    const sides = (shape?.split(",") ?? []).map((side) => Number.parseInt(side, 10)).filter((side) => side > 0);
    return {
      size: sides.slice(-3),
      bytes:
        DOUBLE *
        Math.min(
          sides.reduce((all, side) => all * side, 1),
          bytes.length,
        ),
    };
  }
  if (!isPng(file)) return undefined;
  try {
    const { height, width, channels, bitDepth, indexed } = readPngHeader(file);
    return { size: [height, width], bytes: height * width * (indexed ? 3 : channels) * (bitDepth > 8 ? 2 : 1) };
  } catch {
    // Its decoder says what is wrong.
    return { size: [1, 1], bytes: 1 };
  }
}

/**
 * Reads an image's head.
 * @throws ERR_LE_DATA
 */
export async function measure({ bytes, name }: { bytes: Uint8Array; name: string }): Promise<ImageSize> {
  const quick = quickMeasure(bytes, name);
  if (quick) return quick;
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (formatOf(file, name) !== "volume") return decodeExtent(file, name);
  // Its values are not unpacked: they are checked against what is claimed as they are.
  const { shape } = await readVolumeHead(file, { name, channels: true });
  return { size: shape.slice(-3), bytes: DOUBLE * shape.reduce((product, side) => product * side, 1) };
}

/**
 * @throws ERR_LE_TOO_LARGE for an image that is too large as stored
 */
export function checkSize(
  size: readonly number[],
  { maxPixels, maxSide }: Pick<ImageKind, "maxPixels" | "maxSide">,
): void {
  const received = size.join("×");
  if (size.some((side) => side > maxSide))
    throw new LayerEnsemblesError(
      "ERR_LE_TOO_LARGE",
      `Expected sides of at most ${maxSide} pixels for an image but received ${received}.`,
    );
  if (size.reduce((product, side) => product * side, 1) > maxPixels)
    throw new LayerEnsemblesError(
      "ERR_LE_TOO_LARGE",
      `Expected at most ${maxPixels} pixels for an image but received ${received}.`,
    );
}

/** An image as the model takes it. */
export interface Prepared {
  /** C×H×W or C×D×H×W. */
  input: NdArray;
  placement: Placement;
  /** Grey values as stored, H×W or D×H×W, where asked for. */
  display?: NdArray<Uint8Array>;
  /** A hash of what it shows, where asked for; an image of one value has none. */
  content?: string;
  /** What the file of a volume says beside its values, where it says where they lie. */
  volume?: VolumeHead;
}

/**
 * Decodes a PNG, JPEG, TIFF or .npy file, or a volume (NIfTI, NRRD, MetaImage), told apart by content, and makes the model's input of it.
 * @throws ERR_LE_DATA, ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_TOO_LARGE
 */
export async function prepare(task: {
  bytes: Uint8Array;
  name: string;
  kind: ImageKind;
  display: boolean;
  content: boolean;
}): Promise<Prepared> {
  const { name, kind } = task;
  const bytes = Buffer.from(task.bytes.buffer, task.bytes.byteOffset, task.bytes.byteLength);
  const stored = await DECODE[formatOf(bytes, name)](bytes, name, kind);
  const content = task.content ? contentOf(stored) : undefined;
  const { volume } = stored;
  checkSize(stored.shape.slice(1), kind);
  const { image, placement } = await preprocessAside(stored, kind.preprocessing);
  return {
    ...{ input: image, placement, ...(task.display && { display: display(stored) }) },
    ...(content !== undefined && { content }),
    ...(volume?.grid && { volume }),
  };
}

const DECODE = {
  npy: async (bytes: Buffer, name: string, kind: ImageKind) => arrayOf(parseNpy(bytes, name), name, kind),
  volume: decodeVolume,
  image: decode,
};

async function decodeVolume(bytes: Buffer, name: string, kind: ImageKind): Promise<StoredImage> {
  const { channels } = kind.preprocessing;
  const wanted = { channels, spatialAxes: kind.spatialAxes };
  return storedVolume(name, wanted, (options) =>
    readVolume(bytes, { ...options, name, maxValues: kind.maxPixels * channels }),
  );
}

/** The same for an array of stored values: C×H×W, or C×D×H×W for a volume. */
export async function prepareArray(stored: StoredImage, kind: ImageKind): Promise<Prepared> {
  checkSize(stored.shape.slice(1), kind);
  const { image, placement } = await preprocessAside(stored, kind.preprocessing);
  return { input: image, placement };
}

/** Only what is meant to be read is given to a decoder. */
function formatOf(bytes: Buffer, name: string): "npy" | "volume" | "image" {
  const head = bytes.toString("latin1", 0, 8);
  if (head.startsWith("\x93NUMPY")) return "npy";
  if (head.startsWith(GZIP) || VOLUMES.some(({ begins }) => begins(bytes.subarray(0, 540)))) return "volume";
  if (["\x89PNG\r\n\x1a\n", "\xff\xd8\xff", "II*\0", "II+\0", "MM\0*", "MM\0+"].some((magic) => head.startsWith(magic)))
    return "image";
  const received = bytes.length === 0 ? "an empty body" : "bytes of another kind";
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected a PNG, JPEG, TIFF or .npy file, or a volume in one file (NIfTI, NRRD, MetaImage), for ${name} but received ${received}.`,
  );
}

/** A volume that is one file; DICOM's are folders. */
const VOLUMES = VOLUME_FORMATS.filter(({ folders, name }) => !folders && name !== "npy");
const GZIP = "\x1f\x8b";

async function decode(bytes: Buffer, name: string, kind: ImageKind): Promise<StoredImage> {
  if (kind.spatialAxes === 3)
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected a volume (NIfTI, NRRD, MetaImage or .npy) for ${name} but received a flat image.`,
    );
  checkSize((await decodeExtent(bytes, name)).size, kind);
  return decodeImage(bytes, name, { maxPixels: kind.maxPixels, channels: kind.preprocessing.channels });
}

/** An array as an image of the model: see {@link toStored}. */
function arrayOf(array: Parameters<typeof toStored>[0], name: string, kind: ImageKind): StoredImage {
  return toStored(array, name, { channels: kind.preprocessing.channels, spatialAxes: kind.spatialAxes });
}

/** What of a prediction is spatial, at the network's input size. */
export interface SpatialPrediction {
  probabilities: NdArray;
  maps: Prediction["maps"];
}

/** The same brought back to the stored size: probabilities and maps bilinearly, the mask as their argmax. */
export interface Restored extends SpatialPrediction {
  mask: NdArray<Uint8Array>;
}

/** Brings a prediction back to the stored size. */
export function restorePrediction({ probabilities, maps }: SpatialPrediction, placement: Placement): Restored {
  const restored = restore(probabilities, placement);
  const restoredMaps: Prediction["maps"] = {};
  for (const [name, map] of Object.entries(maps)) restoredMaps[name as MapName] = restore(map, placement);
  return { probabilities: restored, mask: argmax(restored), maps: restoredMaps };
}

/** A prediction in the order of its image's file, whose EXIF orientation this is. */
function asStored({ probabilities, mask, maps }: Restored, orientation: Orientation | undefined): Restored {
  return {
    probabilities: orientBack(probabilities, orientation),
    mask: orientBack(mask, orientation),
    maps: Object.fromEntries(Object.entries(maps).map(([name, map]) => [name, orientBack(map, orientation)])),
  };
}

/** A file of an answer. */
export interface OutputFile {
  /** Its content type. */
  type: "image/png" | "application/x-npy" | "application/x-nifti";
  /** Its content. */
  bytes: Uint8Array;
}

/** A finished image: what its record needs of the mask, and the files asked for by name, such as `probabilities.lesion`. */
export interface Finished {
  extent: Extent;
  files: Record<string, OutputFile>;
  /** Its mask, where it is to be kept. */
  kept?: KeptMask;
}

/**
 * Makes the files of an answer, of the stored size and order (the overlay alone is upright; pictures carry the EXIF orientation of the
 * image; the overlay of a small image is enlarged, for a thin outline). As pictures: a mask of class indices (0 and 255 for two classes), an
 * inner and an outer mask of 0 and 255 per foreground class, one probability per foreground class from 0 to 255, heat maps whose brightest colour is the largest possible value. As arrays
 * (which volumes always are): uint8 classes, float32 probabilities C×H×W and maps; of a volume that says where it lies as NIfTI (.nii.gz) in
 * its own grid, unless arrays are asked for.
 */
export async function finish(task: {
  prediction: SpatialPrediction;
  prepared: Pick<Prepared, "placement" | "display" | "volume">;
  outputs: readonly OutputName[];
  /** Thresholds of inner and outer masks by class, where these are asked for. */
  sets: Record<number, SetThresholds> | undefined;
  arrays: boolean;
  classNames: readonly string[];
  ignoreIndex: number;
  /** Most bytes of its files. */
  maxBytes: number;
  /** Whether the mask is to be kept, as the image is shown. */
  keep: boolean;
}): Promise<Finished> {
  const { prepared, outputs, classNames, ignoreIndex, maxBytes } = task;
  const shown = restorePrediction(task.prediction, prepared.placement);
  // What is laid on the file, pixel on pixel, is in the file's own order; the overlay is looked at.
  const orientation = "orientation" in prepared.placement ? prepared.placement.orientation : undefined;
  const restored = asStored(shown, orientation);
  const { mask, probabilities, maps } = restored;
  const volume = mask.shape.length === 3;
  const sets = task.sets && setsOf(shown.probabilities, task.sets);
  const files: Record<string, OutputFile> = {};
  let written = 0;
  const add = (name: string, file: OutputFile) => {
    written += file.bytes.length;
    if (written > maxBytes)
      throw new LayerEnsemblesError(
        "ERR_LE_TOO_LARGE",
        `Expected at most ${maxBytes} bytes for the files of an answer but received more. Ask for fewer outputs.`,
      );
    files[name] = file;
  };
  const png = async (name: string, picture: Parameters<typeof encodePng>[0]) =>
    add(name, {
      type: "image/png",
      bytes: withOrientation(await encodePng(picture), name === "overlay" ? 1 : (orientation ?? 1)),
    });
  const array = async (name: string, values: NdArray<Float32Array | Uint8Array>) => {
    const like = prepared.volume;
    if (task.arrays || !like) return add(name, { type: "application/x-npy", bytes: encodeNpy(values) });
    const label = values.data instanceof Uint8Array;
    return add(name, {
      type: "application/x-nifti",
      bytes: await encodeVolume(`${name}.nii.gz`, values, { like, label }),
    });
  };
  for (const output of outputs) {
    if (output === "overlay") {
      const image = prepared.display as NdArray<Uint8Array>;
      const drawn = { prediction: shown.mask, sets: Object.values(sets ?? {}), ignoreIndex };
      const { placement } = prepared;
      await png(output, isVolume(placement) ? volumeOverlay(image, placement.stored, drawn) : overlay(image, drawn));
    } else if (output === "inner" || output === "outer") {
      for (const [c, masks] of Object.entries(sets ?? {})) {
        const found = masks[output];
        if (!found) continue;
        const name = classNames.length === 2 ? output : `${output}.${classNames[Number(c)]}`;
        const one = orientBack(found, orientation);
        if (task.arrays || volume) await array(name, one);
        else await png(name, { data: one.data.map((inside) => inside * 255), shape: one.shape });
      }
    } else if (task.arrays || volume) {
      const values = output === "mask" || output === "probabilities" ? restored[output] : maps[output];
      if (values) await array(output, values);
    } else if (output === "mask") {
      const binary = classNames.length === 2;
      await png(output, binary ? { data: mask.data.map((label) => label * 255), shape: mask.shape } : mask);
    } else if (output === "probabilities") {
      const pixels = mask.data.length;
      for (const [c, name] of classNames.entries())
        if (c > 0) {
          const map = { data: probabilities.data.subarray(c * pixels, (c + 1) * pixels), shape: mask.shape };
          await png(`probabilities.${name}`, probabilityToGrey(map));
        }
    } else {
      const map = maps[output];
      if (map) await png(output, heatMap(map, { range: [0, MAPS[output].most.of(classNames.length)] }));
    }
  }
  const kept = task.keep && packMask(shown.mask);
  const cropped = croppedShare(prepared.placement);
  return { extent: extentOf(mask, classNames.length, { cropped, orientation }, sets), files, ...(kept && { kept }) };
}
