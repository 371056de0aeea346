// TIFF as a container of samples: what is stored is what comes out, of any type and number of bands. Libraries for pictures
// convert on the way (half precision to integers, alpha divided out, MinIsWhite turned over); those for maps unpack strips
// without a bound. TIFF 6.0, its Technical Notes 1 (trees) and 3 (floating-point predictor), and BigTIFF.
import { promisify } from "node:util";
import { inflate, inflateSync } from "node:zlib";
import { halfToFloat } from "./npy.js";
import { type Orientation, toOrientation } from "./orientation.js";
import { Rounding } from "./rounding.js";

/** Where bytes come from: a buffer, or a file of which little is needed. */
export interface ByteSource {
  /** Bytes that there are. */
  size: number;
  /** `length` bytes from `at`, which lie within `size`. */
  read(at: number, length: number): Buffer | Promise<Buffer>;
}

/** What a TIFF's directory says of its one image. */
export interface TiffHeader {
  width: number;
  height: number;
  /** Samples of a pixel, extra ones too. */
  samples: number;
  /** Bits of a sample. */
  bits: number;
  format: "unsigned" | "signed" | "float";
  /** What the samples are, without alpha: grey, RGB, a palette's indices, or bands of no colour. */
  colour: "grey" | "rgb" | "palette" | "bands";
  /** Whether the last sample is alpha. */
  alpha: boolean;
  orientation: Orientation;
  /** In words, such as "4 bands (RGB, alpha) of 16-bit unsigned samples". */
  description: string;
  /** Compressed by JPEG, which an image library has to unpack. */
  jpeg: boolean;
  /** Samples with the padding of tiles, which is unpacked too. */
  unpacked: number;
  layout: Layout;
}

interface Layout {
  little: boolean;
  compression: number;
  predictor: number;
  /** Bits of a byte run from the lowest one. */
  reversed: boolean;
  /** Each band has blocks of its own. */
  planar: boolean;
  /** Size of a tile; of a strip the whole width and so many rows. */
  block: { width: number; height: number; tiled: boolean };
  offsets: number[];
  counts: number[];
  palette?: number[];
}

/** A refusal in two halves of a sentence: Expected `expected` but received `message`. */
export class TiffError extends Error {
  readonly expected: string;
  constructor(expected: string, received: string, options?: ErrorOptions) {
    super(received, options);
    this.expected = expected;
  }
}

const whole = "a whole TIFF";
const damaged = (received: string, cause?: unknown) => new TiffError(whole, received, { cause });

/** Bytes of each field type. */
const typeSizes: Record<number, number> = {
  1: 1,
  2: 1,
  3: 2,
  4: 4,
  6: 1,
  7: 1,
  8: 2,
  9: 4,
  13: 4,
  16: 8,
  17: 8,
  18: 8,
};

const tags = {
  subfile: 254,
  width: 256,
  height: 257,
  bits: 258,
  compression: 259,
  photometric: 262,
  fillOrder: 266,
  description: 270,
  stripOffsets: 273,
  orientation: 274,
  samples: 277,
  rowsPerStrip: 278,
  stripCounts: 279,
  planar: 284,
  predictor: 317,
  palette: 320,
  tileWidth: 322,
  tileHeight: 323,
  tileOffsets: 324,
  tileCounts: 325,
  extra: 338,
  format: 339,
  depth: 32997,
} as const;

const photometrics: Record<number, string> = {
  0: "grey, 0 is white",
  1: "grey",
  2: "RGB",
  3: "palette",
  4: "a transparency mask",
  5: "CMYK or other inks",
  6: "YCbCr",
  8: "CIE L*a*b*",
  9: "ICC L*a*b*",
  10: "ITU L*a*b*",
  32803: "a colour filter array",
  32844: "LogL",
  32845: "LogLuv",
  34892: "linear raw",
};
const compressions: Record<number, string> = {
  2: "CCITT Huffman",
  3: "CCITT group 3",
  4: "CCITT group 4",
  6: "old-style JPEG",
  34661: "JBIG",
  34712: "JPEG 2000",
  34887: "LERC",
  34925: "LZMA",
  50000: "Zstandard",
  50001: "WebP",
  50002: "JPEG XL",
};
/** Unpacked here. */
const plain = [1, 5, 8, 32773, 32946];
/** Unpacked by an image library. */
const jpeg = 7;
const maxSamples = 1024;
const maxPages = 10_000;
/** Of one field: a million strips, or the palette of 16 bits. */
const maxValues = 1 << 20;

/** True if the bytes begin as a TIFF or a BigTIFF does. */
export function isTiff(bytes: Uint8Array): boolean {
  const head = Buffer.from(bytes.subarray(0, 4)).toString("latin1");
  return ["II*\0", "II+\0", "MM\0*", "MM\0+"].includes(head);
}

/**
 * Reads a TIFF's directory: of its one image at full resolution (reduced copies and thumbnails are passed over).
 * @throws TiffError for what is damaged, several pages, or samples that are not numbers of one type
 */
export async function readTiffHeader(source: ByteSource): Promise<TiffHeader> {
  const { fields, little } = await readDirectory(source);
  const [width, height] = [required(fields, tags.width), required(fields, tags.height)];
  if (!(width > 0 && height > 0 && width * height < Number.MAX_SAFE_INTEGER))
    throw damaged(`${width}×${height} pixels`);
  const samples = one(fields, tags.samples, 1);
  if (samples < 1 || samples > maxSamples) throw new TiffError(`1 to ${maxSamples} bands`, `${samples}`);
  checkHiddenSlices(fields, width * height * samples);

  const bits = same(fields, tags.bits, 1, "bits");
  const code = same(fields, tags.format, 1, "sample formats");
  const count = samples === 1 ? "1 band" : `${samples} bands`;
  const photometric = one(fields, tags.photometric, 1);
  const named = photometrics[photometric] ?? `photometric interpretation ${photometric}`;
  if (code === 5 || code === 6) throw new TiffError("real numbers", `${count} of ${bits}-bit complex samples`);
  const format = code === 2 ? "signed" : code === 3 ? "float" : "unsigned";
  const sizes = { unsigned: [8, 16, 32, 64], signed: [8, 16, 32, 64], float: [16, 32, 64] }[format];
  if (!sizes.includes(bits) && !(format === "unsigned" && bits >= 1 && bits < 16))
    throw new TiffError(
      "integers of up to 64 bits, or floats of 16, 32 or 64",
      `${count} of ${bits}-bit ${format} samples`,
    );

  const compression = one(fields, tags.compression, 1);
  const inks = { 0: 1, 1: 1, 2: 3, 3: 1, 5: Math.min(4, samples), 6: 3 }[photometric];
  const extra = many(fields, tags.extra);
  const alpha = extra.filter((kind) => kind === 1 || kind === 2).length === 1 && extra.at(-1) !== 0;
  const description = `${count} (${named}${alpha ? ", alpha" : ""}) of ${bits}-bit ${format} samples`;
  if (inks === undefined || (photometric === 6 && compression !== jpeg))
    throw new TiffError("grey, RGB, a palette, or bands of no colour", description);
  // Read as stored, it would be the negative of the same picture in another file.
  if (photometric === 0)
    throw new TiffError("samples of which 0 is black (invert them, and save them so)", description);
  if (samples < inks) throw damaged(description);
  const bands = samples - (alpha ? 1 : 0);
  const colour =
    photometric === 3
      ? "palette"
      : bands === 1 && photometric === 1
        ? "grey"
        : bands === 3 && (photometric === 2 || photometric === 6)
          ? "rgb"
          : "bands";
  if (colour === "palette" && (bands !== 1 || alpha || format !== "unsigned" || bits > 16)) throw damaged(description);
  if (!plain.includes(compression) && compression !== jpeg) {
    const name = compressions[compression] ?? `number ${compression}`;
    throw new TiffError("no compression, or LZW, deflate, PackBits or JPEG", `compression ${name}`);
  }
  const picture = bits === 8 && format === "unsigned" && !alpha && (colour === "grey" || colour === "rgb");
  if (compression === jpeg && !picture)
    throw new TiffError("grey or RGB samples of 8 bits where JPEG is the compression", description);
  const layout = layoutOf(source, fields, { little, width, height, samples, bits, format, compression, colour });
  const { block } = layout;
  const blocks = Math.ceil(width / block.width) * Math.ceil(height / block.height);
  return {
    width,
    height,
    samples,
    bits,
    format,
    colour,
    alpha,
    orientation: toOrientation(one(fields, tags.orientation, 1)),
    description,
    jpeg: compression === jpeg,
    unpacked: Math.max(width * height, blocks * block.width * block.height) * samples,
    layout,
  };
}

/**
 * Unpacks a TIFF's samples, plane after plane.
 * @returns samples × height × width: unsigned samples of 8 bits as uint8, of other numbers up to 16 as uint16 (which displays are
 * stretched from), all else as float32. A palette gives three planes of its colours, of 8 bits where they have no more.
 * @throws TiffError for data that are damaged or missing
 */
export async function decodeTiff(
  bytes: Buffer,
  header: TiffHeader,
): Promise<{ data: Uint8Array | Uint16Array | Float32Array; samples: number }> {
  const { width, height, samples, bits, format, layout } = header;
  const { block, planar } = layout;
  const plane = width * height;
  const Type = format !== "unsigned" || bits > 16 ? Float32Array : bits === 8 ? Uint8Array : Uint16Array;
  const data = new Type(plane * samples);
  const across = Math.ceil(width / block.width);
  const down = Math.ceil(height / block.height);
  const together = planar ? 1 : samples;
  const rounding = new Rounding();
  for (let index = 0; index < layout.offsets.length; index++) {
    const place = index % (across * down);
    const [left, top] = [(place % across) * block.width, Math.floor(place / across) * block.height];
    const rows = block.tiled ? block.height : Math.min(block.height, height - top);
    const values = await readBlock(bytes, header, { index, rows, together, rounding });
    const [shownRows, shownColumns] = [Math.min(rows, height - top), Math.min(block.width, width - left)];
    for (let sample = 0; sample < together; sample++) {
      const base = (planar ? Math.floor(index / (across * down)) : sample) * plane;
      for (let row = 0; row < shownRows; row++) {
        const target = base + (top + row) * width + left;
        const from = row * block.width * together + sample;
        if (together === 1) data.set(values.subarray(from, from + shownColumns), target);
        else for (let x = 0; x < shownColumns; x++) data[target + x] = values[from + x * together] as number;
      }
    }
  }
  const { lost } = rounding;
  if (lost) throw new TiffError(lost.expected, `${lost.received}, ${header.description}`);
  if (header.colour !== "palette") return { data, samples };
  return { data: colours(data as Uint8Array | Uint16Array, layout.palette as number[]), samples: 3 };
}

/** The fields of a directory that are needed, by tag. */
type Fields = Map<number, number[] | string>;

/** Where the values of a field lie. */
interface Entry {
  type: number;
  values: number;
  /** Themselves, where they are few, else where they begin. */
  at: Buffer | number;
}

/** A reader of whole numbers in the file's byte order. */
interface Numbers {
  little: boolean;
  of(bytes: Buffer, at: number, width: number): number;
}

const numbersOf = (little: boolean): Numbers => ({
  little,
  of(bytes, at, width) {
    if (width === 1) return bytes[at] as number;
    if (width === 2) return little ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at);
    if (width === 4) return little ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at);
    // Beyond 2⁵³ no file reaches, so that a rounded number is refused as an exact one is.
    return Number(little ? bytes.readBigUInt64LE(at) : bytes.readBigUInt64BE(at));
  },
});

/** The directory of the one page at full resolution. */
async function readDirectory(source: ByteSource): Promise<{ fields: Fields; little: boolean }> {
  const read = async (at: number, length: number) => {
    if (!(at + length <= source.size)) throw damaged("one that is cut short");
    return source.read(at, length);
  };
  const start = await read(0, 8);
  const numbers = numbersOf(start[0] === 0x49);
  const big = numbers.of(start, 2, 2) === 43;
  if (big && (numbers.of(start, 4, 2) !== 8 || numbers.of(start, 6, 2) !== 0))
    throw damaged("a BigTIFF with a header of another kind");
  const width = big ? 8 : 4;
  const countWidth = big ? 8 : 2;
  const entrySize = big ? 20 : 12;
  let at = numbers.of(big ? await read(8, 8) : start, big ? 0 : 4, width);

  const wanted = new Set<number>(Object.values(tags));
  const seen = new Set<number>();
  const pages: { reduced: boolean; entries: Map<number, Entry> }[] = [];
  while (at !== 0 && pages.length < maxPages) {
    if (seen.has(at)) throw damaged("pages that follow each other in a circle");
    seen.add(at);
    const count = numbers.of(await read(at, countWidth), 0, countWidth);
    if (count > 4096) throw damaged(`a directory of ${count} fields`);
    const table = await read(at + countWidth, count * entrySize + width);
    const entries = new Map<number, Entry>();
    for (let i = 0; i < count; i++) {
      const [tag, type] = [numbers.of(table, i * entrySize, 2), numbers.of(table, i * entrySize + 2, 2)];
      const each = typeSizes[type];
      if (!wanted.has(tag) || each === undefined || entries.has(tag)) continue;
      const values = numbers.of(table, i * entrySize + 4, width);
      if (values > maxValues) throw damaged(`a field of ${values} values`);
      const inline = i * entrySize + 4 + width;
      const few = values * each <= width;
      entries.set(tag, {
        type,
        values,
        at: few ? table.subarray(inline, inline + width) : numbers.of(table, inline, width),
      });
    }
    const subfile = entries.get(tags.subfile);
    const reduced =
      subfile !== undefined &&
      typeof subfile.at === "object" &&
      (numbers.of(subfile.at, 0, typeSizes[subfile.type] as number) & 1) === 1;
    pages.push({ reduced, entries });
    at = numbers.of(table, count * entrySize, width);
  }
  const full = pages.filter(({ reduced }) => !reduced);
  const candidates = full.length > 0 ? full : pages;
  if (candidates.length === 0) throw damaged("one without a directory");
  if (candidates.length > 1) {
    const received = `${candidates.length} pages (save each slice as a file of its own, and bands as samples of one page)`;
    throw new TiffError("one page", received);
  }
  const fields: Fields = new Map();
  for (const [tag, { type, values, at }] of candidates[0]?.entries ?? []) {
    const each = typeSizes[type] as number;
    const bytes = typeof at === "number" ? await read(at, values * each) : at;
    if (type === 2) fields.set(tag, bytes.toString("latin1", 0, Math.min(values, 1 << 16)));
    else
      fields.set(
        tag,
        Array.from({ length: values }, (_, i) => numbers.of(bytes, i * each, each)),
      );
  }
  return { fields, little: numbers.little };
}

function many(fields: Fields, tag: number): number[] {
  const values = fields.get(tag);
  return typeof values === "object" ? values : [];
}

function one(fields: Fields, tag: number, otherwise: number): number {
  return many(fields, tag)[0] ?? otherwise;
}

function required(fields: Fields, tag: number): number {
  const value = many(fields, tag)[0];
  if (value === undefined) throw damaged(`one without field ${tag}`);
  return value;
}

function same(fields: Fields, tag: number, otherwise: number, what: string): number {
  const values = many(fields, tag);
  if (values.some((value) => value !== values[0]))
    throw new TiffError("bands of one type", `${values.length} bands with ${what} ${values.slice(0, 8).join(", ")}`);
  return values[0] ?? otherwise;
}

/** ImageJ and tifffile may say in words that more slices follow the one that the directory describes. */
function checkHiddenSlices(fields: Fields, values: number): void {
  const depth = one(fields, tags.depth, 1);
  const text = fields.get(tags.description);
  let slices = depth;
  if (typeof text === "string") {
    if (text.startsWith("ImageJ=")) slices = Math.max(slices, Number(/^images=(\d+)/m.exec(text)?.[1] ?? 1));
    const shape = /^\{"shape": \[([\d, ]+)\]/.exec(text)?.[1];
    if (shape)
      slices = Math.max(slices, shape.split(",").reduce((product, side) => product * Number(side), 1) / values);
  }
  if (slices > 1) throw new TiffError("one page", `${slices} slices (save each as a file of its own)`);
}

function layoutOf(
  source: ByteSource,
  fields: Fields,
  of: {
    little: boolean;
    width: number;
    height: number;
    samples: number;
    bits: number;
    format: string;
    compression: number;
    colour: string;
  },
): Layout {
  const { width, height, samples, bits, compression } = of;
  const tiled = fields.has(tags.tileWidth) || fields.has(tags.tileOffsets);
  const block = tiled
    ? { width: required(fields, tags.tileWidth), height: required(fields, tags.tileHeight), tiled }
    : { width, height: Math.min(height, one(fields, tags.rowsPerStrip, height)), tiled };
  if (!(block.width > 0 && block.height > 0 && block.width * block.height < Number.MAX_SAFE_INTEGER))
    throw damaged(`tiles or strips of ${block.width}×${block.height} pixels`);
  const planar = one(fields, tags.planar, 1) === 2 && samples > 1;
  const predictor = one(fields, tags.predictor, 1);
  const predicted =
    predictor === 1 ||
    (predictor === 2 && [8, 16, 32, 64].includes(bits)) ||
    (predictor === 3 && of.format === "float");
  if (plain.includes(compression) && (!predicted || (predictor !== 1 && [1, 32773].includes(compression))))
    throw new TiffError(
      "a predictor that fits samples and compression",
      `predictor ${predictor} of ${bits}-bit ${of.format} samples with compression ${compression}`,
    );
  const palette = of.colour === "palette" ? many(fields, tags.palette) : undefined;
  if (palette && palette.length !== 3 * 2 ** bits) throw damaged(`a palette of ${palette.length} values`);

  const blocks = Math.ceil(width / block.width) * Math.ceil(height / block.height) * (planar ? samples : 1);
  const offsets = many(fields, tiled ? tags.tileOffsets : tags.stripOffsets);
  let counts = many(fields, tiled ? tags.tileCounts : tags.stripCounts);
  if (offsets.length !== blocks) throw damaged(`${offsets.length} tiles or strips where ${blocks} are needed`);
  // Old files may lack it: the one strip goes on to the end.
  if (counts.length === 0 && blocks === 1) counts = [source.size - (offsets[0] as number)];
  if (counts.length !== blocks) throw damaged(`${counts.length} lengths of ${blocks} tiles or strips`);
  for (let i = 0; i < blocks; i++) {
    const [offset, count] = [offsets[i] as number, counts[i] as number];
    if (offset === 0 || count <= 0) throw damaged("a tile or strip that is missing");
    if (offset + count > source.size) throw damaged("one that is cut short");
  }
  return {
    little: of.little,
    compression,
    predictor,
    reversed: one(fields, tags.fillOrder, 1) === 2,
    planar,
    block,
    offsets,
    counts,
    ...(palette && { palette }),
  };
}

const inflateAsync = promisify(inflate) as (data: Uint8Array, options: { maxOutputLength: number }) => Promise<Buffer>;

/** The samples of one tile or strip, row by row, `together` of a pixel side by side. */
async function readBlock(
  bytes: Buffer,
  header: TiffHeader,
  of: { index: number; rows: number; together: number; rounding: Rounding },
) {
  const { index, rows, together, rounding } = of;
  const { bits, format, layout } = header;
  const columns = layout.block.width * together;
  const rowBytes = Math.ceil((columns * bits) / 8);
  const offset = layout.offsets[index] as number;
  const packed = bytes.subarray(offset, offset + (layout.counts[index] as number));
  const raw = await unpack(
    layout.reversed ? packed.map((byte) => reversedBits[byte] as number) : packed,
    layout,
    rowBytes * rows,
  );
  if (bits < 8 || (bits < 16 && bits > 8)) return unpackBits(raw, rows, columns, rowBytes, bits);
  // Copied: typed arrays are aligned, and what is done to it must not reach the file's bytes.
  const own: Uint8Array<ArrayBuffer> = new Uint8Array(raw);
  if (layout.predictor === 3) joinBytes(own, rows, rowBytes, together, bits / 8);
  else if (!layout.little) swap(own, bits);
  if (layout.predictor === 2) addUp(own, bits, rows, columns, together);
  return toNumbers(own.buffer, format, bits, rounding);
}

async function unpack(packed: Buffer | Uint8Array, { compression }: Layout, size: number): Promise<Uint8Array> {
  let raw: Uint8Array;
  if (compression === 1) raw = packed;
  else if (compression === 5) raw = unpackLzw(packed, size);
  else if (compression === 32773) raw = unpackBytes(packed, size);
  else {
    // Some writers pad the last strip to its full height; a bomb goes on for longer.
    const options = { maxOutputLength: 2 * size + 65536 };
    try {
      raw = size < 1 << 18 ? inflateSync(packed, options) : await inflateAsync(packed, options);
    } catch (error) {
      throw damaged("one with damaged pixel data", error);
    }
  }
  if (raw.length < size) throw damaged("one with too little pixel data");
  return raw.subarray(0, size);
}

const reversedBits = Uint8Array.from({ length: 256 }, (_, byte) => {
  let out = 0;
  for (let bit = 0; bit < 8; bit++) if (byte & (1 << bit)) out |= 128 >> bit;
  return out;
});

/**
 * TIFF's LZW: codes of 9 to 12 bits from the highest bit on. A string of the table is a stretch of what has been written, so
 * that the table holds places alone.
 */
function unpackLzw(packed: Uint8Array, size: number): Uint8Array {
  if (packed[0] === 0 && ((packed[1] as number) & 1) === 1)
    throw new TiffError("LZW as TIFF 5 and 6 have it", "LZW of the older kind");
  const out = new Uint8Array(size);
  const [starts, lengths] = [new Uint32Array(4096), new Uint32Array(4096)];
  let [window, available, width, next] = [0, 0, 9, 258];
  let [last, lastLength, at, read] = [-1, 0, 0, 0];
  while (at < size) {
    while (available < width && read < packed.length) {
      window = ((window << 8) | (packed[read++] as number)) & 0xffffff;
      available += 8;
    }
    if (available < width) break;
    available -= width;
    const code = (window >>> available) & ((1 << width) - 1);
    if (code === 257) break;
    if (code === 256) {
      [width, next, last] = [9, 258, -1];
      continue;
    }
    let length = 1;
    if (code < 256) out[at] = code;
    else {
      if (last < 0 || code > next) throw damaged("one with damaged pixel data");
      const start = code === next ? last : (starts[code] as number);
      length = code === next ? lastLength + 1 : (lengths[code] as number);
      length = Math.min(length, size - at);
      // Byte by byte, as the string may reach into itself.
      for (let i = 0; i < length; i++) out[at + i] = out[start + i] as number;
    }
    if (last >= 0 && next < 4096) {
      starts[next] = last;
      lengths[next++] = lastLength + 1;
      if (next === (1 << width) - 1 && width < 12) width++;
    }
    [last, lastLength] = [at, length];
    at += length;
  }
  return out.subarray(0, at);
}

/** PackBits: runs of equal bytes, and stretches as they are. */
function unpackBytes(packed: Uint8Array, size: number): Uint8Array {
  const out = new Uint8Array(size);
  let at = 0;
  for (let read = 0; at < size && read < packed.length; ) {
    const code = packed[read++] as number;
    if (code === 128) continue;
    if (code > 128) {
      out.fill(packed[read++] ?? 0, at, at + 257 - code);
      at += 257 - code;
    } else {
      const stretch = packed.subarray(read, read + Math.min(code + 1, size - at));
      out.set(stretch, at);
      read += code + 1;
      at += stretch.length;
      if (stretch.length < code + 1) break;
    }
  }
  return out.subarray(0, Math.min(at, size));
}

function unpackBits(raw: Uint8Array, rows: number, columns: number, rowBytes: number, bits: number) {
  const out = bits > 8 ? new Uint16Array(rows * columns) : new Uint8Array(rows * columns);
  const mask = (1 << bits) - 1;
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const bit = column * bits;
      const at = row * rowBytes + (bit >> 3);
      const window = ((raw[at] as number) << 16) | ((raw[at + 1] ?? 0) << 8) | (raw[at + 2] ?? 0);
      out[row * columns + column] = (window >> (24 - (bit & 7) - bits)) & mask;
    }
  return out;
}

function swap(bytes: Uint8Array, bits: number): void {
  const buffer = Buffer.from(bytes.buffer);
  if (bits === 16) buffer.swap16();
  else if (bits === 32) buffer.swap32();
  else if (bits === 64) buffer.swap64();
}

/** Predictor 2: each sample was stored as the difference to the same one of the pixel before. */
function addUp(bytes: Uint8Array<ArrayBuffer>, bits: number, rows: number, columns: number, together: number): void {
  if (bits === 64) {
    const values = new BigUint64Array(bytes.buffer);
    for (let row = 0; row < rows; row++)
      for (let i = row * columns + together; i < (row + 1) * columns; i++)
        values[i] = (values[i] as bigint) + (values[i - together] as bigint);
    return;
  }
  const Type = bits === 8 ? Uint8Array : bits === 16 ? Uint16Array : Uint32Array;
  const values = new Type(bytes.buffer);
  for (let row = 0; row < rows; row++)
    for (let i = row * columns + together; i < (row + 1) * columns; i++)
      values[i] = (values[i] as number) + (values[i - together] as number);
}

/** Predictor 3: a row's highest bytes first, then the next ones, differences of all of them; gives little-endian numbers. */
function joinBytes(bytes: Uint8Array, rows: number, rowBytes: number, together: number, each: number): void {
  const line = new Uint8Array(rowBytes);
  const columns = rowBytes / each;
  for (let row = 0; row < rows; row++) {
    const at = row * rowBytes;
    for (let i = together; i < rowBytes; i++)
      bytes[at + i] = (bytes[at + i] as number) + (bytes[at + i - together] as number);
    line.set(bytes.subarray(at, at + rowBytes));
    for (let column = 0; column < columns; column++)
      for (let byte = 0; byte < each; byte++)
        bytes[at + column * each + each - 1 - byte] = line[byte * columns + column] as number;
  }
}

function toNumbers(buffer: ArrayBuffer, format: TiffHeader["format"], bits: number, rounding: Rounding) {
  if (format === "float") {
    if (bits === 16) return Float32Array.from(new Uint16Array(buffer), halfToFloat);
    return bits === 32 ? new Float32Array(buffer) : rounding.round(new Float64Array(buffer));
  }
  const signed = format === "signed";
  if (bits === 8) return signed ? Float32Array.from(new Int8Array(buffer)) : new Uint8Array(buffer);
  if (bits === 16) return signed ? Float32Array.from(new Int16Array(buffer)) : new Uint16Array(buffer);
  if (bits === 32) return rounding.round(signed ? new Int32Array(buffer) : new Uint32Array(buffer));
  return rounding.round(
    signed
      ? Float64Array.from(new BigInt64Array(buffer), Number)
      : Float64Array.from(new BigUint64Array(buffer), Number),
  );
}

/** Three planes of a palette's 16-bit colours; of 8 bits where no more are used (written as v·257 or v·256). */
function colours(indices: Uint8Array | Uint16Array, palette: readonly number[]): Uint8Array | Uint16Array {
  const entries = palette.length / 3;
  const byte = palette.every((value) => value % 257 === 0) || palette.every((value) => value % 256 === 0);
  const table = byte ? Uint8Array.from(palette, (value) => value >> 8) : Uint16Array.from(palette);
  const out = new (table.constructor as new (length: number) => typeof table)(indices.length * 3);
  for (let channel = 0; channel < 3; channel++)
    for (let i = 0; i < indices.length; i++)
      out[channel * indices.length + i] = table[channel * entries + (indices[i] as number)] as number;
  return out;
}
