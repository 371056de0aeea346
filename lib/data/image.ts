import type { Sharp } from "sharp";
import { arrayType, type NdArray, type NumericArray } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";
import { isMissing, openRegular, readRegular } from "./files.js";
import { type Orientation, orient, orientSize, toOrientation } from "./orientation.js";
import { decodePng, isPng, readPngHeader, readPngOrientation } from "./png.js";
import { type ByteSource, decodeTiff, isTiff, readTiffHeader, TiffError, type TiffHeader } from "./tiff.js";

/** An image's samples exactly as stored, shown upright. Shape C×H×W: C = 1 (grey), 3 (RGB) or the number of bands. */
export interface ImageArray extends NdArray<Uint8Array | Uint16Array | Float32Array> {
  /** The file's EXIF orientation, by which the samples were turned; absent for 1. `orientBack` turns arrays back. */
  readonly orientation?: Orientation;
}

/** How images and masks are read. */
export interface ReadOptions {
  /**
   * Most pixels (height × width) that a file may claim, against decompression bombs; of more than four bands accordingly fewer.
   * @default 100_000_000
   */
  maxPixels?: number;
  /**
   * How many channels the network takes. An image of another number of bands is refused, but grey for 3 (it will be
   * repeated) and RGB for 1 (it will become luma).
   * @default as many as the image has
   */
  channels?: number;
}

/** File name endings of images, in lower case. */
export const imageExtensions: readonly string[] = [".png", ".jpg", ".jpeg", ".tif", ".tiff"];

const defaultMaxPixels = 100_000_000;

/**
 * Reads a PNG, JPEG or TIFF image, told apart by content. Stored values are kept: no gamma, colour profile, scale or
 * background is applied. Samples of 16 bits keep every bit; signed ones, those of 32 and 64 bits and half and double precision become float32; PNGs of 1, 2 and 4 bits are
 * scaled to 0..255, which those of 8 bits hold for the same picture, and TIFFs are not; a palette gives its colours. The EXIF
 * orientation is applied. Alpha is left out where all of it is opaque; the `channels` may count it as a band.
 * @throws ERR_LE_DATA for a file that is missing, damaged, cut short, too large, of several pages or frames, not finite, in part
 * transparent, in CMYK or another colour space, or of bands that are not those of `channels`
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
  return upright(await samplesOf(bytes, path, options.maxPixels ?? defaultMaxPixels), path, options.channels);
}

async function samplesOf(bytes: Buffer, path: string, maxPixels: number): Promise<Samples> {
  if (bytes.length === 0) throw emptyError(path, "image");
  if (isPng(bytes)) return pngSamples(path, bytes, maxPixels);
  return isTiff(bytes) ? tiffSamples(path, bytes, maxPixels) : jpegSamples(path, bytes, maxPixels);
}

function upright(samples: Samples, path: string, channels: number | undefined): ImageArray {
  const bands = chooseBands(samples, path, channels);
  const { orientation } = samples;
  if (orientation === 1) return bands;
  return { ...orient(bands, orientation), orientation };
}

/** An image, and how its file stores it. */
export interface DescribedImage {
  image: ImageArray;
  format: "png" | "jpeg" | "tiff";
  /** Of a sample. */
  bits: number;
  /** Bands and what they are, in words. */
  description: string;
}

/**
 * Reads an image as {@link readImage}, and says how its file stores it.
 * @throws ERR_LE_DATA
 */
export async function readDescribed(path: string): Promise<DescribedImage> {
  const samples = await samplesOf(await readBytes(path, "image"), path, defaultMaxPixels);
  const { format, bits, description } = samples;
  return { image: upright(samples, path, undefined), format, bits, description };
}

/** All that a file stores, before anything is left out. */
interface Samples extends Pick<DescribedImage, "format" | "bits" | "description"> {
  data: ImageArray["data"];
  height: number;
  width: number;
  /** Samples of a pixel, alpha too. */
  count: number;
  /** Plane after plane, rather than a pixel's samples side by side. */
  planar: boolean;
  /** What they are, without alpha. */
  colour: "grey" | "rgb" | "bands";
  /** The value of a pixel that nothing shows through, where the last sample is alpha. */
  opaque?: number;
  orientation: Orientation;
}

/** Leaves alpha out where nothing shows through, and refuses bands that the network's channels cannot be. */
function chooseBands(of: Samples, path: string, channels: number | undefined): NdArray<ImageArray["data"]> {
  const { data, height, width, count, planar, colour, opaque, description } = of;
  if (opaque === undefined || count === channels) {
    const fits =
      channels === undefined ||
      count === channels ||
      (colour === "grey" && count === 1 && channels === 3) ||
      (colour === "rgb" && count === 3 && channels === 1);
    if (!fits) throw bandsError(path, channels, description);
    return planar ? { data, shape: [count, height, width] } : toPlanes(data, height, width, count, count);
  }
  const pixels = height * width;
  const [first, step] = planar ? [(count - 1) * pixels, 1] : [count - 1, count];
  for (let i = 0; i < pixels; i++)
    if (data[first + i * step] !== opaque) {
      const expected = "an image that nothing shows through (flatten it, or count its alpha among the channels)";
      const where = `alpha ${data[first + i * step]} at row ${Math.floor(i / width)}, column ${i % width}`;
      throw dataError(path, "image", expected, `${description}, with ${where}`);
    }
  const kept = planar
    ? { data: data.slice(0, first), shape: [count - 1, height, width] }
    : toPlanes(data, height, width, count, count - 1);
  const rest = { ...of, data: kept.data, count: count - 1, planar: true, opaque: undefined };
  return chooseBands(rest as Samples, path, channels);
}

/** The refusal of bands that cannot be the network's channels. */
export function bandsError(path: string, channels: number, received: string) {
  const expected =
    channels === 1 ? "1 band, or the 3 of RGB," : channels === 3 ? "3 bands, or 1 of grey," : `${channels} bands`;
  return dataError(path, "image", `${expected} (its channels)`, received);
}

/**
 * An image's [height, width] as shown, without decoding it.
 * @throws ERR_LE_DATA for a file that is missing or no image
 */
export async function readSize(path: string): Promise<[height: number, width: number]> {
  let file: Awaited<ReturnType<typeof openRegular>>;
  try {
    file = await openRegular(path);
  } catch (error) {
    throw unreadable(path, "image", error);
  }
  try {
    const { size } = await file.stat();
    if (size === 0) throw emptyError(path, "image");
    const read = async (at: number, length: number) => {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(length), 0, length, at);
      return buffer.subarray(0, bytesRead);
    };
    return (await extentOf({ size, read }, path, path)).size;
  } catch (error) {
    if (error instanceof LayerEnsemblesError) throw error;
    throw unreadable(path, "image", error);
  } finally {
    await file.close();
  }
}

/**
 * How large the bytes of an image file claim to be, without decoding them.
 * @param path The file's name, for messages.
 * @returns [height, width] as shown, and the bytes of all decoded samples
 * @throws ERR_LE_DATA for bytes that are no image
 */
export async function decodeExtent(
  bytes: Buffer,
  path: string,
): Promise<{ size: [height: number, width: number]; bytes: number }> {
  if (bytes.length === 0) throw emptyError(path, "image");
  return extentOf(sourceOf(bytes), path, bytes);
}

/** The bytes as a {@link ByteSource}. */
function sourceOf(bytes: Buffer): ByteSource {
  return { size: bytes.length, read: (at, length) => bytes.subarray(at, at + length) };
}

async function extentOf(source: ByteSource, path: string, whole: string | Buffer): ReturnType<typeof decodeExtent> {
  const head = await source.read(0, Math.min(33, source.size));
  if (isTiff(head)) {
    const { height, width, orientation, unpacked, bits } = await tiffHeader(source, path);
    return { size: orientSize([height, width], orientation), bytes: unpacked * (bits <= 8 ? 1 : bits <= 16 ? 2 : 4) };
  }
  if (!isPng(head)) {
    const { height, width, orientation, channels } = await sharpMetadata(path, await loadSharp(whole));
    return { size: orientSize([height, width], toOrientation(orientation)), bytes: height * width * channels };
  }
  try {
    const { height, width, channels, bitDepth, indexed } = readPngHeader(head);
    return {
      size: orientSize([height, width], await readPngOrientation(source)),
      bytes: height * width * (indexed ? 3 : channels) * (bitDepth > 8 ? 2 : 1),
    };
  } catch (error) {
    throw dataError(path, "image", "a whole PNG", (error as Error).message, error);
  }
}

/**
 * Grey values from 0 to 255 for display, H×W: 8-bit images as they are, others stretched from their 0.5th to their
 * 99.5th percentile. Three bands are taken for RGB and become luma (ITU-R BT.601); of any other number the first is shown.
 */
export function toDisplay(image: ImageArray): NdArray<Uint8Array> {
  const [bands, height, width] = image.shape as [number, number, number];
  const first = { data: image.data.subarray(0, height * width), shape: [1, height, width] };
  const grey = toGrey(bands === 3 ? image : first);
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
export function percentiles(values: NumericArray, levels: readonly number[]): number[] {
  const work = values.slice();
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
function select(work: NumericArray, k: number): number {
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

function emptyError(path: string, what: string) {
  return dataError(path, what, "an image", "an empty file");
}

/** A file that must not be empty. @throws ERR_LE_DATA */
export async function readBytes(path: string, what: string): Promise<Buffer> {
  let bytes: Buffer;
  try {
    bytes = await readRegular(path);
  } catch (error) {
    throw unreadable(path, what, error);
  }
  if (bytes.length === 0) throw emptyError(path, what);
  return bytes;
}

/** The refusal of a file that cannot be opened. */
export function unreadable(path: string, what: string, error: unknown) {
  return dataError(path, what, "a readable file", isMissing(error) ? "none" : (error as Error).message, error);
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

async function pngSamples(path: string, bytes: Buffer, maxPixels: number): Promise<Samples> {
  const { width, height, channels, bitDepth, data, palette, transparent, orientation, frames } = await readPng(
    path,
    bytes,
    maxPixels,
  );
  const kind = palette ? "a palette" : ["", "grey", "grey and alpha", "RGB", "RGB and alpha"][channels];
  const description = `a PNG of ${channels === 1 ? "1 band" : `${channels} bands`} (${kind}) of ${bitDepth} bits`;
  if (frames > 1) throw dataError(path, "image", "one frame", `an animated PNG of ${frames} frames`);
  if (transparent)
    throw dataError(
      path,
      "image",
      "an image that nothing shows through (flatten it)",
      `${description} with a transparent colour`,
    );
  const common = { height, width, orientation, description, planar: false, format: "png", bits: bitDepth } as const;
  if (palette) {
    const colours = new Uint8Array(data.length * 3);
    for (let i = 0; i < data.length; i++) {
      const entry = data[i]! * 3;
      colours[i * 3] = palette[entry]!;
      colours[i * 3 + 1] = palette[entry + 1]!;
      colours[i * 3 + 2] = palette[entry + 2]!;
    }
    if (!isGrey(colours, 3)) return { ...common, data: colours, count: 3, colour: "rgb" };
    return { ...common, data: data.map((index) => palette[index * 3]!), count: 1, colour: "grey" };
  }
  return {
    ...common,
    data: bitDepth < 8 ? data.map((value) => (value * 255) / ((1 << bitDepth) - 1)) : data,
    count: channels,
    colour: channels < 3 ? "grey" : "rgb",
    ...(channels % 2 === 0 && { opaque: 2 ** bitDepth - 1 }),
  };
}

async function tiffHeader(source: ByteSource, path: string): Promise<TiffHeader> {
  return naming(path, () => readTiffHeader(source));
}

async function naming<T>(path: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof TiffError) throw dataError(path, "image", error.expected, error.message, error.cause);
    throw error;
  }
}

async function tiffSamples(path: string, bytes: Buffer, maxPixels: number): Promise<Samples> {
  const header = await tiffHeader(sourceOf(bytes), path);
  const { height, width, samples, unpacked, alpha, bits, format, orientation, description } = header;
  if (width * height > maxPixels)
    throw dataError(path, "image", `at most ${maxPixels} pixels`, tooLarge(width, height));
  // Room for the padding of tiles of a small image.
  if (Math.max(unpacked, samples * width * height) > Math.max(4 * maxPixels, 2 ** 22)) {
    const received = `${unpacked} of ${description} (raise maxPixels to read it)`;
    throw dataError(path, "image", `at most ${4 * maxPixels} samples`, received);
  }
  const colour = header.colour === "palette" ? "rgb" : header.colour;
  const common = { height, width, colour, orientation, description, format: "tiff", bits } as const;
  if (header.jpeg) {
    const data = await decodeJpeg(path, await loadSharp(bytes), { height, width, samples });
    return { ...common, data, count: samples, planar: false };
  }
  const { data, samples: count } = await naming(path, () => decodeTiff(bytes, header));
  checkFinite(path, data, width, height);
  const planes = { ...common, data, count, planar: true };
  if (header.colour === "palette" && isGreyPlanes(data))
    return { ...planes, data: data.slice(0, data.length / 3), count: 1, colour: "grey" };
  if (!alpha) return planes;
  return { ...planes, opaque: format === "float" ? 1 : Math.fround(2 ** (format === "signed" ? bits - 1 : bits) - 1) };
}

async function jpegSamples(path: string, bytes: Buffer, maxPixels: number): Promise<Samples> {
  const image = await loadSharp(bytes);
  const { width, height, space, channels, format, orientation, depth } = await sharpMetadata(path, image);
  if (format !== "jpeg") throw dataError(path, "image", "a PNG, JPEG or TIFF", `a ${format} file`);
  if (width * height > maxPixels)
    throw dataError(path, "image", `at most ${maxPixels} pixels`, tooLarge(width, height));
  const grey = space === "b-w" && channels === 1;
  if ((!grey && !(space === "srgb" && channels === 3)) || depth !== "uchar") {
    const bands = `${channels} ${channels === 1 ? "band" : "bands"} (${space.toUpperCase()}, ${depth})`;
    throw dataError(path, "image", "a JPEG of grey or RGB of 8 bits (convert it)", `one of ${bands}`);
  }
  const data = await decodeJpeg(path, image, { height, width, samples: channels });
  return {
    data,
    height,
    width,
    count: channels,
    planar: false,
    colour: grey ? "grey" : "rgb",
    orientation: toOrientation(orientation),
    ...{ format: "jpeg", bits: 8 },
    description: `a JPEG of ${grey ? "1 band (grey)" : "3 bands (RGB)"} of 8 bits`,
  };
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

/** The samples of a JPEG, or of a TIFF that is compressed so: grey or RGB of 8 bits. */
async function decodeJpeg(
  path: string,
  image: Sharp,
  of: { height: number; width: number; samples: number },
): Promise<Uint8Array> {
  let decoded: Awaited<ReturnType<typeof raw>>;
  const raw = () =>
    image
      .toColourspace(of.samples === 1 ? "b-w" : "srgb")
      .raw()
      .toBuffer({ resolveWithObject: true });
  try {
    decoded = await raw();
  } catch (error) {
    throw dataError(path, "image", "a whole JPEG", firstLine(error), error);
  }
  const { width, height, channels } = decoded.info;
  if (width !== of.width || height !== of.height || channels !== of.samples) {
    const expected = `${of.samples} bands of ${of.height}×${of.width} pixels, by its header,`;
    throw dataError(path, "image", expected, `${channels} of ${height}×${width}`);
  }
  return new Uint8Array(decoded.data);
}

function checkFinite(path: string, data: ImageArray["data"], width: number, height: number): void {
  if (!(data instanceof Float32Array)) return;
  const bad = data.findIndex((value) => !Number.isFinite(value));
  if (bad < 0) return;
  const pixel = bad % (width * height);
  const place = `${data[bad]} at row ${Math.floor(pixel / width)}, column ${pixel % width}`;
  throw dataError(path, "image", "finite values", place);
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

function isGreyPlanes(data: ImageArray["data"]): boolean {
  const plane = data.length / 3;
  for (let i = 0; i < plane; i++) if (data[i] !== data[plane + i] || data[i] !== data[2 * plane + i]) return false;
  return true;
}

/** Interleaved samples to the first `keep` planes. */
function toPlanes<T extends ImageArray["data"]>(
  data: T,
  height: number,
  width: number,
  channels: number,
  keep: number,
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
