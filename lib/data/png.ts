import { promisify } from "node:util";
import { inflate, inflateSync } from "node:zlib";
import { crc32 } from "./crc.js";
import { exifOrientation, type Orientation } from "./orientation.js";
import type { ByteSource } from "./tiff.js";

/** A PNG's stored samples: no gamma, colour profile, palette or bit-depth conversion is applied. */
export interface PngImage {
  width: number;
  height: number;
  /** 1 grey or palette index, 2 grey and alpha, 3 RGB, 4 RGBA. */
  channels: number;
  /** Bits per sample as stored: 1, 2, 4, 8 or 16. */
  bitDepth: number;
  /** height × width × channels samples, interleaved. */
  data: Uint8Array | Uint16Array;
  /** RGB triples, for images that store palette indices. */
  palette?: Uint8Array;
  /** Whether a tRNS chunk makes a pixel of it transparent, in part or whole. */
  transparent: boolean;
  /** What its EXIF says; the data are as stored. */
  orientation: Orientation;
  /** More than 1 for an animation. */
  frames: number;
}

/** What a PNG's first 26 bytes say. */
export type PngHeader = Pick<PngImage, "width" | "height" | "channels" | "bitDepth"> & {
  indexed: boolean;
  interlaced: boolean;
};

const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
const channelsOf: Record<number, number> = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const bitDepthsOf: Record<number, number[]> = {
  0: [1, 2, 4, 8, 16],
  2: [8, 16],
  3: [1, 2, 4, 8],
  4: [8, 16],
  6: [8, 16],
};
const inflateAsync = promisify(inflate) as (data: Uint8Array, options: { maxOutputLength: number }) => Promise<Buffer>;

/** True if the bytes begin as a PNG does. */
export function isPng(bytes: Uint8Array): boolean {
  return bytes.length >= 8 && signature.equals(bytes.subarray(0, 8));
}

/**
 * Reads a PNG's header. At least the first 33 bytes are needed.
 * @throws Error that says what is wrong with the bytes
 */
export function readPngHeader(bytes: Buffer): PngHeader {
  if (!isPng(bytes)) throw new Error("bytes that are no PNG");
  if (bytes.length < 33) throw new Error("a PNG that is cut short");
  if (bytes.readUInt32BE(8) !== 13 || bytes.toString("latin1", 12, 16) !== "IHDR") {
    throw new Error("a PNG without a header");
  }
  checkCrc(bytes, 8, 13);
  const [bitDepth, colour, interlace] = [bytes[24] as number, bytes[25] as number, bytes[28] as number];
  const [width, height] = [bytes.readUInt32BE(16), bytes.readUInt32BE(20)];
  if (width === 0 || height === 0) throw new Error("a PNG without pixels");
  if (!bitDepthsOf[colour]?.includes(bitDepth) || bytes[26] !== 0 || bytes[27] !== 0 || interlace > 1) {
    throw new Error("a PNG with an invalid header");
  }
  const channels = channelsOf[colour] as number;
  return { width, height, channels, bitDepth, indexed: colour === 3, interlaced: interlace === 1 };
}

/**
 * Decodes a PNG to its stored samples (PNG specification, third edition).
 * @throws Error that says what is wrong with the bytes
 */
export async function decodePng(bytes: Buffer): Promise<PngImage> {
  const header = readPngHeader(bytes);
  const { width, height, channels, bitDepth } = header;
  const compressed: Buffer[] = [];
  let palette: Uint8Array | undefined;
  let transparency: Buffer | undefined;
  let exif: Orientation | undefined;
  let profile: Orientation | undefined;
  let frames = 1;
  let ended = false;
  for (let at = 33; !ended; ) {
    if (at + 12 > bytes.length) throw new Error("a PNG that is cut short");
    const length = bytes.readUInt32BE(at);
    if (at + 12 + length > bytes.length) throw new Error("a PNG that is cut short");
    checkCrc(bytes, at, length);
    const type = bytes.toString("latin1", at + 4, at + 8);
    const body = bytes.subarray(at + 8, at + 8 + length);
    if (type === "IDAT") compressed.push(body);
    else if (type === "PLTE") palette = new Uint8Array(body);
    else if (type === "tRNS") transparency = body;
    else if (type === "eXIf") exif = exifOrientation(body);
    else if (textChunks.has(type)) profile ??= profileOrientation(type, body);
    else if (type === "acTL" && length >= 4) frames = body.readUInt32BE(0);
    ended = type === "IEND";
    at += 12 + length;
  }
  const passes = header.interlaced ? adam7(width, height) : [{ x: 0, y: 0, dx: 1, dy: 1, width, height }];
  const stride = (columns: number) => Math.ceil((columns * channels * bitDepth) / 8);
  const size = passes.reduce((sum, pass) => sum + pass.height * (stride(pass.width) + 1), 0);
  let raw: Buffer;
  try {
    // Some writers leave bytes behind the pixels, which all readers pass over; a bomb goes on for longer.
    raw = await inflateAsync(Buffer.concat(compressed), { maxOutputLength: 2 * size + 65536 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ERR_BUFFER_TOO_LARGE")
      throw new Error("a PNG with far more pixel data than its size needs", { cause: error });
    throw new Error("a PNG with damaged pixel data", { cause: error });
  }
  if (raw.length < size) throw new Error("a PNG with too little pixel data");

  const count = width * height * channels;
  const data = bitDepth === 16 ? new Uint16Array(count) : new Uint8Array(count);
  let offset = 0;
  for (const pass of passes) {
    const rowBytes = stride(pass.width);
    unfilter(raw, offset, rowBytes, pass.height, Math.max(1, (channels * bitDepth) >> 3));
    for (let row = 0; row < pass.height; row++) {
      const source = offset + row * (rowBytes + 1) + 1;
      const target = ((pass.y + row * pass.dy) * width + pass.x) * channels;
      if (bitDepth === 8 && pass.dx === 1) data.set(raw.subarray(source, source + rowBytes), target);
      else unpackRow(raw, source, pass.width, channels, bitDepth, data, target, pass.dx);
    }
    offset += pass.height * (rowBytes + 1);
  }
  const transparent = transparency !== undefined && showsThrough(transparency, header, data);
  const orientation = exif ?? profile ?? 1;
  const image: PngImage = { width, height, channels, bitDepth, data, transparent, orientation, frames };
  if (header.indexed) {
    if (!palette || palette.length === 0 || palette.length % 3 !== 0) throw new Error("a PNG with a missing palette");
    const entries = palette.length / 3;
    if (data.some((index) => index >= entries)) throw new Error("a PNG with an index outside its palette");
    image.palette = palette;
  }
  return image;
}

/** What a PNG's EXIF says of its orientation; it may stand anywhere before the end. */
export async function readPngOrientation(source: ByteSource): Promise<Orientation> {
  let window: Buffer = Buffer.alloc(0);
  let start = 0;
  const read = async (at: number, length: number) => {
    if (at < start || at + length > start + window.length) {
      window = await source.read(at, Math.min(Math.max(length, 65536), source.size - at));
      start = at;
    }
    return window.subarray(at - start, at - start + length);
  };
  let profile: Orientation | undefined;
  for (let at = 33; at + 12 <= source.size; ) {
    const head = await read(at, 8);
    const length = head.readUInt32BE(0);
    const type = head.toString("latin1", 4, 8);
    if (type === "IEND") break;
    const whole = at + 12 + length <= source.size;
    if (whole && type === "eXIf") return exifOrientation(await read(at + 8, length));
    if (whole && textChunks.has(type)) profile ??= profileOrientation(type, await read(at + 8, length));
    at += 12 + length;
  }
  return profile ?? 1;
}

const textChunks = new Set(["tEXt", "zTXt", "iTXt"]);
const maxProfile = 1 << 20;

/**
 * The orientation of EXIF that stands in a text chunk, as it was written before PNG had a chunk for it.
 * @returns undefined where the text is another, or damaged
 */
function profileOrientation(type: string, body: Buffer): Orientation | undefined {
  const end = body.indexOf(0);
  if (!/^Raw profile type (exif|APP1)$/i.test(body.toString("latin1", 0, Math.max(0, end)))) return undefined;
  let packed = type === "zTXt";
  let from = end + (packed ? 2 : 1);
  if (type === "iTXt") {
    packed = body[end + 1] === 1;
    // A language and a translated keyword stand before the text.
    from = body.indexOf(0, body.indexOf(0, end + 3) + 1) + 1;
  }
  let text: string;
  try {
    const bytes = body.subarray(from);
    text = (packed ? inflateSync(bytes, { maxOutputLength: maxProfile }) : bytes).toString("latin1");
  } catch {
    return undefined;
  }
  const [, digits] = /^\s*\w+\s+\d+\s+([0-9a-fA-F\s]+)$/.exec(text) ?? [];
  return digits === undefined ? undefined : exifOrientation(Buffer.from(digits.replace(/\s/g, ""), "hex"));
}

/** The PNG with its orientation in EXIF, for pixels in the order of a file that has one. */
export function withOrientation(png: Buffer, orientation: Orientation): Buffer {
  if (orientation === 1) return png;
  const chunk = Buffer.from(
    "0000001a65584966" + "4d4d002a00000008" + "0001" + "011200030000000100000000" + "00000000" + "00000000",
    "hex",
  );
  chunk.writeUInt16BE(orientation, 26);
  chunk.writeUInt32BE(crc32(chunk.subarray(4, -4)), chunk.length - 4);
  return Buffer.concat([png.subarray(0, 33), chunk, png.subarray(33)]);
}

/** Whether a tRNS chunk makes any pixel transparent: entries of the palette that are used, or one grey value or colour. */
function showsThrough(transparency: Buffer, { indexed, channels }: PngHeader, data: Uint8Array | Uint16Array): boolean {
  if (indexed) return data.some((index) => (transparency[index] ?? 255) < 255);
  if (transparency.length < 2 * channels || (channels !== 1 && channels !== 3)) return false;
  const key = Array.from({ length: channels }, (_, i) => transparency.readUInt16BE(2 * i));
  for (let i = 0; i < data.length; i += channels) if (key.every((value, k) => data[i + k] === value)) return true;
  return false;
}

function checkCrc(bytes: Buffer, at: number, length: number): void {
  if (crc32(bytes.subarray(at + 4, at + 8 + length)) !== bytes.readUInt32BE(at + 8 + length)) {
    throw new Error("a PNG with a wrong checksum");
  }
}

function adam7(width: number, height: number) {
  return [
    [0, 0, 8, 8],
    [4, 0, 8, 8],
    [0, 4, 4, 8],
    [2, 0, 4, 4],
    [0, 2, 2, 4],
    [1, 0, 2, 2],
    [0, 1, 1, 2],
  ]
    .map(([x = 0, y = 0, dx = 1, dy = 1]) => {
      return { x, y, dx, dy, width: Math.ceil((width - x) / dx), height: Math.ceil((height - y) / dy) };
    })
    .filter((pass) => pass.width > 0 && pass.height > 0);
}

/** Undoes the row filters in place. `step` is the distance in bytes to the same sample of the pixel before. */
function unfilter(raw: Buffer, offset: number, rowBytes: number, rows: number, step: number): void {
  for (let row = 0; row < rows; row++) {
    const start = offset + row * (rowBytes + 1) + 1;
    const above = start - rowBytes - 1;
    const filter = raw[start - 1] as number;
    if (filter > 4) throw new Error("a PNG with damaged pixel data");
    for (let i = 0; i < rowBytes; i++) {
      const left = i >= step ? (raw[start + i - step] as number) : 0;
      const up = row > 0 ? (raw[above + i] as number) : 0;
      const corner = row > 0 && i >= step ? (raw[above + i - step] as number) : 0;
      const value = raw[start + i] as number;
      if (filter === 1) raw[start + i] = value + left;
      else if (filter === 2) raw[start + i] = value + up;
      else if (filter === 3) raw[start + i] = value + ((left + up) >> 1);
      else if (filter === 4) raw[start + i] = value + paeth(left, up, corner);
    }
  }
}

function paeth(left: number, up: number, corner: number): number {
  const toLeft = Math.abs(up - corner);
  const toUp = Math.abs(left - corner);
  const toCorner = Math.abs(left + up - 2 * corner);
  if (toLeft <= toUp && toLeft <= toCorner) return left;
  return toUp <= toCorner ? up : corner;
}

function unpackRow(
  raw: Buffer,
  source: number,
  columns: number,
  channels: number,
  bitDepth: number,
  data: Uint8Array | Uint16Array,
  target: number,
  dx: number,
): void {
  const mask = (1 << bitDepth) - 1;
  for (let column = 0; column < columns; column++) {
    for (let channel = 0; channel < channels; channel++) {
      const sample = column * channels + channel;
      const out = target + column * dx * channels + channel;
      if (bitDepth === 16) {
        data[out] = raw.readUInt16BE(source + sample * 2);
      } else {
        const bit = sample * bitDepth;
        data[out] = ((raw[source + (bit >> 3)] as number) >> (8 - bitDepth - (bit & 7))) & mask;
      }
    }
  }
}
