import { open, readFile } from "node:fs/promises";
import type { Sharp } from "sharp";
import { arrayType, type NdArray } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";
import { isMissing } from "./files.js";
import { decodePng, isPng, readPngHeader } from "./png.js";

/** An image's samples exactly as stored: 8-bit, 16-bit or float. Shape C×H×W, C = 1 (grey) or 3 (RGB). */
export type ImageArray = NdArray<Uint8Array | Uint16Array | Float32Array>;

/** How images and masks are read. */
export interface ReadOptions {
  /**
   * Most pixels (height × width) that a file may claim, against decompression bombs.
   * @default 100_000_000
   */
  maxPixels?: number;
}

/** File name endings of images, in lower case. */
export const imageExtensions: readonly string[] = [".png", ".jpg", ".jpeg", ".tif", ".tiff"];

const defaultMaxPixels = 100_000_000;

/**
 * Reads a PNG, JPEG or TIFF image, told apart by content. Stored values are kept: no gamma, colour profile or
 * orientation tag is applied, 16-bit samples keep every bit, an alpha channel is dropped.
 * @throws ERR_LE_DATA for a file that is missing, damaged, cut short, too large, of several pages, or not finite
 */
export async function readImage(path: string, options: ReadOptions = {}): Promise<ImageArray> {
  return decodeImage(await readBytes(path, "image"), path, options);
}

/**
 * Decodes the bytes of a PNG, JPEG or TIFF file: see {@link readImage}.
 * @param path The file's name, for messages.
 * @throws ERR_LE_DATA
 */
export async function decodeImage(bytes: Buffer, path: string, options: ReadOptions = {}): Promise<ImageArray> {
  const maxPixels = options.maxPixels ?? defaultMaxPixels;
  if (isPng(bytes)) {
    const png = await readPng(path, bytes, maxPixels);
    if (png.palette) {
      const colours = new Uint8Array(png.data.length * 3);
      for (let i = 0; i < png.data.length; i++) {
        colours.set(png.palette.subarray(png.data[i]! * 3, png.data[i]! * 3 + 3), i * 3);
      }
      return toPlanes(colours, png.height, png.width, 3, isGrey(colours, 3) ? 1 : 3);
    }
    const data = png.bitDepth < 8 ? png.data.map((value) => (value * 255) / ((1 << png.bitDepth) - 1)) : png.data;
    return toPlanes(data, png.height, png.width, png.channels, png.channels < 3 ? 1 : 3);
  }
  return decodeWithSharp(path, bytes, maxPixels);
}

/**
 * An image's [height, width], from its header alone where it is a PNG.
 * @throws ERR_LE_DATA for a file that is missing or no image
 */
export async function readSize(path: string): Promise<[height: number, width: number]> {
  const head = await readBytes(path, "image", 33);
  if (isPng(head)) return pngSize(head, path);
  const metadata = await sharpMetadata(path, await loadSharp(path));
  return [metadata.height, metadata.width];
}

/**
 * The [height, width] that the bytes of an image file claim, without decoding them.
 * @param path The file's name, for messages.
 * @throws ERR_LE_DATA for bytes that are no image
 */
export async function decodeSize(bytes: Buffer, path: string): Promise<[height: number, width: number]> {
  if (isPng(bytes)) return pngSize(bytes, path);
  const metadata = await sharpMetadata(path, await loadSharp(bytes));
  return [metadata.height, metadata.width];
}

function pngSize(head: Buffer, path: string): [height: number, width: number] {
  try {
    const { height, width } = readPngHeader(head);
    return [height, width];
  } catch (error) {
    throw dataError(path, "image", "a whole PNG", (error as Error).message, error);
  }
}

/**
 * Grey values from 0 to 255 for display, H×W: 8-bit images as they are, others stretched from their 0.5th to their
 * 99.5th percentile. RGB becomes luma (ITU-R BT.601).
 */
export function toDisplay(image: ImageArray): NdArray<Uint8Array> {
  const grey = toGrey(image);
  const [, height, width] = image.shape as [number, number, number];
  const data = new Uint8Array(grey.length);
  if (arrayType(image.data) === "Uint8Array") {
    for (let i = 0; i < data.length; i++) data[i] = Math.round(grey[i]!);
    return { data, shape: [height, width] };
  }
  const [low, high] = percentiles(grey, [0.5, 99.5]) as [number, number];
  const scale = high > low ? 255 / (high - low) : 0;
  for (let i = 0; i < data.length; i++) data[i] = Math.round(Math.min(255, Math.max(0, (grey[i]! - low) * scale)));
  return { data, shape: [height, width] };
}

/** The one grey plane of a C×H×W image as floats: itself, or luma 0.299 R + 0.587 G + 0.114 B (exact where R = G = B). */
export function toGrey(image: NdArray<ImageArray["data"]>): Float32Array {
  const { data } = image;
  if (image.shape[0] === 1) return Float32Array.from(data);
  const plane = data.length / 3;
  const grey = new Float32Array(plane);
  for (let i = 0; i < plane; i++) {
    const r = data[i]!;
    const g = data[plane + i]!;
    const b = data[2 * plane + i]!;
    grey[i] = r === g && g === b ? r : 0.299 * r + 0.587 * g + 0.114 * b;
  }
  return grey;
}

/**
 * Percentiles of values, linear between order statistics (NumPy's default).
 * @param levels percentiles in [0, 100]
 */
export function percentiles(values: Float32Array, levels: readonly number[]): number[] {
  const work = Float32Array.from(values);
  return levels.map((level) => {
    const position = (level / 100) * (work.length - 1);
    const index = Math.floor(position);
    const low = select(work, index);
    const fraction = position - index;
    if (fraction === 0) return low;
    return low + (select(work, index + 1) - low) * fraction;
  });
}

/** The k-th smallest value (Hoare's quickselect, median of three); reorders `work`. */
function select(work: Float32Array, k: number): number {
  let low = 0;
  let high = work.length - 1;
  while (low < high) {
    const [a, b, c] = [work[low]!, work[(low + high) >> 1]!, work[high]!];
    const pivot = Math.max(Math.min(a, b), Math.min(Math.max(a, b), c));
    let i = low;
    let j = high;
    while (i <= j) {
      while (work[i]! < pivot) i++;
      while (work[j]! > pivot) j--;
      if (i <= j) {
        const swap = work[i]!;
        work[i++] = work[j]!;
        work[j--] = swap;
      }
    }
    if (k <= j) high = j;
    else if (k >= i) low = i;
    else break;
  }
  return work[k]!;
}

/** An ERR_LE_DATA in the one sentence shape, naming the file. */
export function dataError(path: string, what: string, expected: string, received: string, cause?: unknown) {
  const message = `Expected ${expected} for the ${what} ${path} but received ${received}`;
  return new LayerEnsemblesError("ERR_LE_DATA", message, cause === undefined ? undefined : { cause });
}

/** A file that must not be empty. @throws ERR_LE_DATA */
export async function readBytes(path: string, what: string, length?: number): Promise<Buffer> {
  let bytes: Buffer;
  try {
    bytes = length === undefined ? await readFile(path) : await readHead(path, length);
  } catch (error) {
    throw dataError(path, what, "a readable file", isMissing(error) ? "none" : (error as Error).message, error);
  }
  if (bytes.length === 0) throw dataError(path, what, "an image", "an empty file");
  return bytes;
}

async function readHead(path: string, length: number): Promise<Buffer> {
  const file = await open(path);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

/** Decodes a PNG whose header claims no more than so many pixels. @throws ERR_LE_DATA */
export async function readPng(path: string, bytes: Buffer, maxPixels = defaultMaxPixels) {
  try {
    const { width, height } = readPngHeader(bytes);
    if (width * height > maxPixels) throw new Error(tooLarge(width, height));
    return await decodePng(bytes);
  } catch (error) {
    throw dataError(path, "image", `a whole PNG of at most ${maxPixels} pixels`, (error as Error).message, error);
  }
}

function tooLarge(width: number, height: number): string {
  return `${width}×${height} pixels (raise maxPixels to read it)`;
}

async function loadSharp(input: string | Buffer): Promise<Sharp> {
  const { default: sharp } = await import("sharp");
  return sharp(input, { failOn: "error", ignoreIcc: true, limitInputPixels: false });
}

async function sharpMetadata(path: string, image: Sharp) {
  try {
    return await image.metadata();
  } catch (error) {
    throw dataError(
      path,
      "image",
      "a PNG, JPEG or TIFF",
      `bytes that cannot be read as one: ${firstLine(error)}`,
      error,
    );
  }
}

async function decodeWithSharp(path: string, bytes: Buffer, maxPixels: number): Promise<ImageArray> {
  const image = await loadSharp(bytes);
  const { width, height, space, depth, pages, format } = await sharpMetadata(path, image);
  if (format !== "jpeg" && format !== "tiff") throw dataError(path, "image", "a PNG, JPEG or TIFF", `a ${format} file`);
  if (width * height > maxPixels) {
    throw dataError(path, "image", `at most ${maxPixels} pixels`, tooLarge(width, height));
  }
  if ((pages ?? 1) > 1) {
    throw dataError(path, "image", "one page", `${pages} pages (save each slice as a file of its own)`);
  }
  if (depth !== "uchar" && depth !== "ushort" && depth !== "float") {
    throw dataError(path, "image", "8-bit, unsigned 16-bit or 32-bit float samples", `samples of type ${depth}`);
  }
  let decoded: { data: Buffer; info: { channels: number } };
  try {
    decoded = await image
      .toColourspace(space === "cmyk" ? "srgb" : space)
      .raw({ depth })
      .toBuffer({ resolveWithObject: true });
  } catch (error) {
    throw dataError(path, "image", `a whole ${format.toUpperCase()}`, firstLine(error), error);
  }
  const { buffer, byteOffset, byteLength } = decoded.data;
  const copy = buffer.slice(byteOffset, byteOffset + byteLength);
  const { channels } = decoded.info;
  const data =
    depth === "uchar" ? new Uint8Array(copy) : depth === "ushort" ? new Uint16Array(copy) : new Float32Array(copy);
  if (data instanceof Float32Array) {
    const bad = data.findIndex((value) => !Number.isFinite(value));
    if (bad >= 0) {
      const pixel = Math.floor(bad / channels);
      const place = `${data[bad]} at row ${Math.floor(pixel / width)}, column ${pixel % width}`;
      throw dataError(path, "image", "finite values", place);
    }
  }
  return toPlanes(data, height, width, channels, channels < 3 ? 1 : 3);
}

function firstLine(error: unknown): string {
  return (error as Error).message.split("\n")[0]!;
}

function isGrey(samples: ArrayLike<number>, channels: number): boolean {
  for (let i = 0; i + 2 < samples.length; i += channels) {
    if (samples[i] !== samples[i + 1] || samples[i] !== samples[i + 2]) return false;
  }
  return true;
}

/** Interleaved samples to the first `keep` planes. */
function toPlanes<T extends ImageArray["data"]>(
  data: T,
  height: number,
  width: number,
  channels: number,
  keep: 1 | 3,
): NdArray<T> {
  const shape = [keep, height, width];
  if (channels === 1) return { data, shape };
  const plane = height * width;
  const out = new (data.constructor as new (length: number) => T)(plane * keep);
  for (let channel = 0; channel < keep; channel++) {
    for (let i = 0; i < plane; i++) out[channel * plane + i] = data[i * channels + channel]!;
  }
  return { data: out, shape };
}
