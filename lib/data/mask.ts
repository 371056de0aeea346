// Masks as stored: numbers, before a rule (labels.ts) says what they mean.
import { extname } from "node:path";
import type { NdArray, NumericArray } from "../arrays.js";
import { dataError, type ReadOptions, readBytes, readPng } from "./image.js";
import { parseNpy } from "./npy.js";
import { readNpy } from "./npy-file.js";
import { orient } from "./orientation.js";
import { isPng } from "./png.js";

/**
 * Reads the numbers of a mask from a PNG, exactly as stored: a grey value; a palette's index; the common value of R, G and B
 * where grey was saved as RGB. Grey images of 1, 2 or 4 bits give the stored number. A mask
 * that has an EXIF orientation of its own is turned as it says; others were drawn on the image as it is shown. Shape H×W.
 * @throws ERR_LE_DATA for a file that is missing, damaged, no PNG, coloured, or with transparency
 */
export async function readMask(path: string, options: ReadOptions = {}): Promise<NdArray<Uint8Array | Uint16Array>> {
  return decodePngMask(await readBytes(path, "mask"), path, options);
}

/**
 * The numbers of a mask from a file's bytes, PNG as {@link readMask} or .npy as {@link readArrayMask}, told apart by content.
 * @throws ERR_LE_DATA
 */
export async function decodeMask(
  bytes: Buffer,
  path: string,
  options: ReadOptions = {},
): Promise<NdArray<NumericArray>> {
  if (isPng(bytes)) return decodePngMask(bytes, path, options);
  return checkAxes(parseNpy(bytes, path), path);
}

async function decodePngMask(
  bytes: Buffer,
  path: string,
  options: ReadOptions,
): Promise<NdArray<Uint8Array | Uint16Array>> {
  if (!isPng(bytes)) throw dataError(path, "mask", "a PNG", `a file of another kind${kindOf(bytes)}`);
  const { width, height, channels, palette, bitDepth, data, orientation, frames } = await readPng(
    path,
    bytes,
    options.maxPixels,
  );
  if (frames > 1) throw dataError(path, "mask", "one frame", `an animated PNG of ${frames} frames`);
  const shape = [height, width];
  if (palette || channels === 1) return orient({ data, shape }, orientation);
  const opaque = (1 << bitDepth) - 1;
  const colours = channels >= 3 ? 3 : 1;
  const labels = new (data.constructor as Uint8ArrayConstructor)(width * height);
  for (let i = 0, at = 0; i < labels.length; i++, at += channels) {
    if (channels > colours && data[at + colours] !== opaque)
      throw dataError(
        path,
        "mask",
        "class indices (grey, or a palette)",
        "an alpha channel that is not opaque: whether the object is what is visible or what is bright cannot be told, so save one grey channel",
      );
    if (colours === 3 && (data[at] !== data[at + 1] || data[at] !== data[at + 2]))
      throw dataError(path, "mask", "class indices (grey, or a palette)", "an RGB image with colours");
    labels[i] = data[at] as number;
  }
  return orient({ data: labels, shape }, orientation);
}

/**
 * Reads the numbers of a mask that is an array: H×W, or of a volume D×H×W, of any type.
 * @throws ERR_LE_DATA as `readNpy`, and for other axes
 */
export async function readArrayMask(path: string, options: ReadOptions = {}): Promise<NdArray<NumericArray>> {
  return checkAxes(await readNpy(path, options), path);
}

function checkAxes<T extends NumericArray>(array: NdArray<T>, path: string): NdArray<T> {
  if (array.shape.length !== 2 && array.shape.length !== 3)
    throw dataError(path, "mask", "H×W or D×H×W labels", `the shape ${array.shape.join("×") || "()"}`);
  return array;
}

/** Whether a file holds an array. */
export function isNpy(file: string): boolean {
  return extname(file).toLowerCase() === ".npy";
}

function kindOf(bytes: Buffer): string {
  const head = bytes.subarray(0, 4).toString("latin1");
  if (head.startsWith("\xff\xd8")) return " (JPEG, which blurs labels: save the mask as PNG where it was drawn)";
  if (head === "II*\0" || head === "MM\0*") return " (TIFF: save it as PNG)";
  return "";
}
