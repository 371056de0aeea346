// What is done to an image before and after the model. It takes longer than an event loop should wait, so it runs on worker
// threads: see image-pool.ts.
import type { NdArray, NumericArray } from "../arrays.js";
import { display } from "../data/dataset.js";
import { decodeImage, decodeSize } from "../data/image.js";
import { parseNpy } from "../data/npy.js";
import { encodeNpy } from "../data/npy-file.js";
import { type Placement, type Preprocessing, preprocess, restore } from "../data/preprocess.js";
import { MAP_NAMES, type Prediction } from "../ensemble/prediction.js";
import { LayerEnsemblesError } from "../errors.js";
import { argmax } from "../fusion/index.js";
import { encodePng, probabilityToGrey } from "../report/png.js";
import { type Extent, extentOf, largestValue, middleSlice } from "../report/record.js";
import { heatMap, overlay } from "../report/render.js";
import type { MapName } from "../uncertainty/index.js";

/** What can be answered beside numbers: the mask, the fused probabilities, the mask's outline on the image, and the maps. */
export const OUTPUTS = ["mask", "probabilities", "overlay", ...MAP_NAMES] as const;

/** One of {@link OUTPUTS}. */
export type OutputName = (typeof OUTPUTS)[number];

/** What the images of a model are. */
export interface ImageKind {
  preprocessing: Preprocessing;
  /** 3 for volumes. */
  spatialAxes: 2 | 3;
  /** Most pixels (voxels) of an image. */
  maxPixels: number;
}

/** An image as the model takes it. */
export interface Prepared {
  /** C×H×W or C×D×H×W. */
  input: NdArray;
  placement: Placement;
  /** Grey values as stored, H×W or D×H×W, where asked for. */
  display?: NdArray<Uint8Array>;
}

/**
 * Decodes a PNG, JPEG, TIFF or .npy file, told apart by content, and makes the model's input of it.
 * @throws ERR_LE_DATA, ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_TOO_LARGE
 */
export async function prepare(task: {
  bytes: Uint8Array;
  name: string;
  kind: ImageKind;
  display: boolean;
}): Promise<Prepared> {
  const { name, kind } = task;
  const bytes = Buffer.from(task.bytes.buffer, task.bytes.byteOffset, task.bytes.byteLength);
  const stored = formatOf(bytes, name) === "npy" ? decodeArray(bytes, name, kind) : await decode(bytes, name, kind);
  return prepareArray(stored, kind, task.display);
}

/** The same for an array of stored values: C×H×W, or C×D×H×W for a volume. */
export function prepareArray(stored: StoredImage, kind: ImageKind, withDisplay = false): Prepared {
  checkPixels(stored.shape.slice(1), kind.maxPixels);
  const { image, placement } = preprocess(stored, kind.preprocessing);
  return { input: image, placement, ...(withDisplay && { display: display(stored) }) };
}

/** Stored values, C×H×W or C×D×H×W. */
export type StoredImage = NdArray<Float32Array | Uint8Array | Uint16Array>;

/** Only what is meant to be read is given to a decoder. */
function formatOf(bytes: Buffer, name: string): "npy" | "image" {
  const head = bytes.toString("latin1", 0, 8);
  if (head.startsWith("\x93NUMPY")) return "npy";
  if (["\x89PNG\r\n\x1a\n", "\xff\xd8\xff", "II*\0", "II+\0", "MM\0*", "MM\0+"].some((magic) => head.startsWith(magic)))
    return "image";
  const received = bytes.length === 0 ? "an empty body" : "bytes of another kind";
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected a PNG, JPEG, TIFF or .npy file for ${name} but received ${received}.`,
  );
}

async function decode(bytes: Buffer, name: string, { spatialAxes, maxPixels }: ImageKind): Promise<StoredImage> {
  if (spatialAxes === 3)
    throw new LayerEnsemblesError("ERR_LE_SHAPE", `Expected a volume (.npy) for ${name} but received a flat image.`);
  checkPixels(await decodeSize(bytes, name), maxPixels);
  return decodeImage(bytes, name, { maxPixels });
}

function decodeArray(bytes: Buffer, name: string, { spatialAxes }: ImageKind): StoredImage {
  const { data, shape } = parseNpy(bytes, name);
  const channels = shape.length === spatialAxes + 1;
  if (!channels && shape.length !== spatialAxes) {
    const expected = spatialAxes === 2 ? "H×W or C×H×W" : "D×H×W or C×D×H×W";
    const received = `shape (${shape.join(", ")})`;
    throw new LayerEnsemblesError("ERR_LE_SHAPE", `Expected ${expected} numbers for ${name} but received ${received}.`);
  }
  return { data: storedType(data), shape: channels ? shape : [1, ...shape] };
}

/** 8 and 16 bits as they are, all else as floats. */
export function storedType(data: NumericArray): StoredImage["data"] {
  const kept = data instanceof Float32Array || data instanceof Uint8Array || data instanceof Uint16Array;
  return kept ? data : Float32Array.from(data);
}

function checkPixels(size: readonly number[], maxPixels: number): void {
  if (size.reduce((product, side) => product * side, 1) > maxPixels)
    throw new LayerEnsemblesError(
      "ERR_LE_TOO_LARGE",
      `Expected at most ${maxPixels} pixels for an image but received ${size.join("×")}.`,
    );
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

/** A file of an answer. */
export interface OutputFile {
  /** Its content type. */
  type: "image/png" | "application/x-npy";
  /** Its content. */
  bytes: Uint8Array;
}

/** A finished image: what its record needs of the mask, and the files asked for by name, such as `probabilities.lesion`. */
export interface Finished {
  extent: Extent;
  files: Record<string, OutputFile>;
}

/**
 * Makes the files of an answer, of the stored size (the overlay of a small image is enlarged, for a thin outline). As pictures: a mask of class indices (0 and 255 for two classes), one
 * probability per foreground class from 0 to 255, heat maps whose brightest colour is the largest possible value. As arrays
 * (which volumes always are): uint8 classes, float32 probabilities C×H×W and maps.
 */
export async function finish(task: {
  prediction: SpatialPrediction;
  prepared: Pick<Prepared, "placement" | "display">;
  outputs: readonly OutputName[];
  arrays: boolean;
  classNames: readonly string[];
  ignoreIndex: number;
}): Promise<Finished> {
  const { prepared, outputs, classNames, ignoreIndex } = task;
  const restored = restorePrediction(task.prediction, prepared.placement);
  const { mask, probabilities, maps } = restored;
  const volume = mask.shape.length === 3;
  const files: Record<string, OutputFile> = {};
  const png = async (name: string, picture: Parameters<typeof encodePng>[0]) => {
    files[name] = { type: "image/png", bytes: await encodePng(picture) };
  };
  for (const output of outputs) {
    if (output === "overlay") {
      const [image, outline] = [prepared.display as NdArray<Uint8Array>, mask].map((array) =>
        volume ? middleSlice(array) : array,
      ) as [NdArray<Uint8Array>, NdArray<Uint8Array>];
      await png(output, overlay(image, { prediction: outline, ignoreIndex }));
    } else if (task.arrays || volume) {
      const array = output === "mask" || output === "probabilities" ? restored[output] : maps[output];
      if (array) files[output] = { type: "application/x-npy", bytes: encodeNpy(array) };
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
      if (map) await png(output, heatMap(map, { range: [0, largestValue(output, classNames.length)] }));
    }
  }
  return { extent: extentOf(mask, classNames.length), files };
}
