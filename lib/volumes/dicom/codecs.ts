// Packed frames to stored samples. What a code stream claims is compared with the file's header before a codec sees it.
import { loadPeer, type Peer } from "./peer.js";

/** How a frame is packed. */
export type Coding = "none" | "rle" | "jpeg" | "jpeg-lossless" | "jpeg-ls" | "jpeg2000" | "htj2k";

/** What the file's header says of a frame. */
export interface FrameSize {
  rows: number;
  columns: number;
  bitsAllocated: number;
  bitsStored: number;
  signed: boolean;
}

/** A code stream that is damaged or contradicts the file. */
export class CodecError extends Error {}

/** A frame's samples as bytes, little-endian, of the width that was unpacked. */
interface Unpacked {
  bytes: Uint8Array;
  width: 1 | 2 | 4;
}

interface StreamInfo {
  rows: number;
  columns: number;
  components: number;
  precision: number;
  signed?: boolean;
}

/** The decoders of the cornerstone packages. */
interface Decoder {
  getEncodedBuffer(length: number): Uint8Array;
  decode(): void;
  getDecodedBuffer(): Uint8Array;
  getFrameInfo(): { width: number; height: number; bitsPerSample: number; componentCount: number };
  delete(): void;
}
type Module = Record<string, new () => Decoder>;

/** A loaded module of a codec: it has a memory of its own, so that one is enough. */
const modules = new Map<Peer, Promise<Module>>();
/** What a codec had to say while it unpacked, which it does at once: it goes on with pixels of its own making. */
let complaints: string[] = [];
const output = {
  print: (text: string) => {
    if (/^\[(WARNING|ERROR)\]/.test(text)) complaints.push(text);
  },
  printErr: (text: string) => {
    complaints.push(text);
  },
};

async function byModule(peer: Peer, className: string, packed: Uint8Array, info: StreamInfo): Promise<Unpacked> {
  let loading = modules.get(peer);
  if (!loading) {
    const load = async () =>
      (await loadPeer<(options: typeof output) => Promise<Module>>(peer, "pixel data that are packed so"))({
        ...output,
      });
    loading = load();
    modules.set(peer, loading);
    loading.catch(() => modules.delete(peer));
  }
  const module = await loading;
  const decoder = new (module[className] as new () => Decoder)();
  complaints = [];
  try {
    decoder.getEncodedBuffer(packed.length).set(packed);
    decoder.decode();
    if (complaints.length > 0) throw new CodecError(complaints.slice(0, 2).join("; "));
    const { width, height, bitsPerSample, componentCount } = decoder.getFrameInfo();
    if (width !== info.columns || height !== info.rows || componentCount !== 1)
      throw new CodecError(`${height}×${width} pixels of ${componentCount} components after unpacking`);
    // Copied: the module's memory is used again.
    return { bytes: decoder.getDecodedBuffer().slice(), width: bitsPerSample > 8 ? 2 : 1 };
  } catch (error) {
    // The modules throw addresses in their memory.
    throw error instanceof CodecError ? error : new CodecError("pixel data that do not unpack", { cause: error });
  } finally {
    decoder.delete();
  }
}

interface LosslessDecoder {
  decode(buffer: ArrayBuffer): ArrayBufferView;
  /** Rows that are done. */
  yLoc: number;
}

async function jpegLossless(packed: Uint8Array, { precision, rows }: StreamInfo): Promise<Unpacked> {
  type Package = { Decoder: new () => LosslessDecoder };
  const { Decoder } = await loadPeer<Package>("jpeg-lossless-decoder-js", "lossless JPEG pixel data");
  const decoder = new Decoder();
  try {
    const out = decoder.decode(new Uint8Array(packed).buffer);
    if (decoder.yLoc !== rows) throw new CodecError(`pixel data of ${decoder.yLoc} rows, not ${rows}`);
    return { bytes: new Uint8Array(out.buffer, out.byteOffset, out.byteLength), width: precision > 8 ? 2 : 1 };
  } catch (error) {
    throw error instanceof CodecError ? error : new CodecError("pixel data that do not unpack", { cause: error });
  }
}

/** Each packing: what its stream claims, and how it is unpacked. */
const streams: Record<
  Exclude<Coding, "none" | "rle">,
  {
    inspect(packed: Uint8Array): StreamInfo;
    unpack(packed: Uint8Array, info: StreamInfo): Promise<Unpacked>;
    /** Most bits of a sample that the codec takes. */
    bits: number;
  }
> = {
  jpeg: {
    inspect: jpegHeader([0xc0, 0xc1]),
    unpack: (packed, info) => byModule("@cornerstonejs/codec-libjpeg-turbo-8bit", "JPEGDecoder", packed, info),
    bits: 8,
  },
  "jpeg-lossless": { inspect: jpegHeader([0xc3]), unpack: jpegLossless, bits: 16 },
  "jpeg-ls": {
    inspect: jpegHeader([0xf7]),
    unpack: (packed, info) => byModule("@cornerstonejs/codec-charls", "JpegLSDecoder", packed, info),
    bits: 16,
  },
  jpeg2000: {
    inspect: jpeg2000Header,
    unpack: (packed, info) => byModule("@cornerstonejs/codec-openjpeg", "J2KDecoder", packed, info),
    bits: 16,
  },
  htj2k: {
    inspect: jpeg2000Header,
    unpack: (packed, info) => byModule("@cornerstonejs/codec-openjph", "HTJ2KDecoder", packed, info),
    bits: 16,
  },
};

/**
 * Unpacks a frame.
 * @returns its samples as little-endian bytes of `width` each; 16 bits where the stream has more than 8
 * @throws CodecError for a stream that is cut short, damaged or of another size; ERR_LE_DATA for a codec that is not installed
 */
export async function unpackFrame(packed: Uint8Array, coding: Coding, size: FrameSize): Promise<Unpacked> {
  const width = (size.bitsAllocated / 8) as 1 | 2 | 4;
  const pixels = size.rows * size.columns;
  if (coding === "none") {
    if (packed.length < pixels * width) throw new CodecError(`${packed.length} bytes of ${pixels * width}`);
    return { bytes: packed.slice(0, pixels * width), width };
  }
  if (coding === "rle") return { bytes: unpackRle(packed, pixels, width), width };
  const stream = streams[coding];
  const end = endOf(packed);
  // A decoder would fill what is missing without a word.
  if (packed[end - 2] !== 0xff || packed[end - 1] !== 0xd9) throw new CodecError("pixel data that are cut short");
  const info = stream.inspect(packed);
  if (info.rows !== size.rows || info.columns !== size.columns || info.components !== 1)
    throw new CodecError(
      `a code stream of ${info.rows}×${info.columns} pixels of ${info.components} components in a file of ${size.rows}×${size.columns}`,
    );
  if (info.precision > Math.min(stream.bits, size.bitsAllocated))
    throw new CodecError(`samples of ${info.precision} bits, which are not read here`);
  if (info.signed !== undefined && info.signed !== size.signed)
    throw new CodecError(`${info.signed ? "signed" : "unsigned"} samples in a file that says otherwise`);
  if (size.signed && info.signed === undefined && info.precision < size.bitsStored)
    throw new CodecError(`signed samples of ${size.bitsStored} bits in ${info.precision}`);
  const out = await stream.unpack(packed.subarray(0, end), info);
  if (out.bytes.length !== pixels * out.width)
    throw new CodecError(`${out.bytes.length} bytes after unpacking, not ${pixels * out.width}`);
  return out;
}

/** Where a stream ends: a fragment is padded to an even length, sometimes further. */
function endOf(packed: Uint8Array): number {
  let end = packed.length;
  while (end > 0 && packed[end - 1] === 0) end--;
  return end;
}

/** PS3.5 Annex G: a segment per byte of the sample, the highest first, each by PackBits. */
export function unpackRle(packed: Uint8Array, pixels: number, width: number): Uint8Array {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  if (packed.length < 64) throw new CodecError("an RLE header that is cut short");
  const segments = view.getUint32(0, true);
  if (segments !== width) throw new CodecError(`${segments} RLE segments for samples of ${width} bytes`);
  // 128 bytes of two.
  if (pixels > packed.length * 64) throw new CodecError(`${packed.length} bytes, too few for ${pixels} pixels`);
  const out = new Uint8Array(pixels * width);
  for (let segment = 0; segment < segments; segment++) {
    const start = view.getUint32(4 + 4 * segment, true);
    const end = segment + 1 < segments ? view.getUint32(8 + 4 * segment, true) : packed.length;
    if (start < 64 || end < start || end > packed.length) throw new CodecError("RLE segments that lie outside");
    const place = width - 1 - segment;
    let at = 0;
    for (let read = start; at < pixels && read < end; ) {
      const code = packed[read++] as number;
      if (code === 128) continue;
      const count = code > 128 ? 257 - code : code + 1;
      const bytes = code > 128 ? 1 : count;
      if (read + bytes > end || at + count > pixels) throw new CodecError("an RLE segment that is damaged");
      for (let i = 0; i < count; i++) out[(at + i) * width + place] = packed[code > 128 ? read : read + i] as number;
      read += bytes;
      at += count;
    }
    if (at < pixels) throw new CodecError("an RLE segment that is cut short");
  }
  return out;
}

/** The frame header of a JPEG or JPEG-LS stream (ITU-T T.81 B.2.2, T.87 C.2.2). @param kinds of frame that are read */
function jpegHeader(kinds: readonly number[]): (packed: Uint8Array) => StreamInfo {
  return (packed) => {
    const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
    if (packed[0] !== 0xff || packed[1] !== 0xd8) throw new CodecError("no JPEG stream");
    for (let at = 2; at + 4 <= packed.length; ) {
      if (packed[at] !== 0xff) break;
      const marker = packed[at + 1] as number;
      if (marker === 0xff) {
        at++;
        continue;
      }
      const frame = (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) || marker === 0xf7;
      if (frame) {
        if (!kinds.includes(marker)) throw new CodecError(`a JPEG process that is not read here (marker ${marker})`);
        if (at + 10 > packed.length) break;
        return {
          precision: packed[at + 4] as number,
          rows: view.getUint16(at + 5),
          columns: view.getUint16(at + 7),
          components: packed[at + 9] as number,
        };
      }
      if (marker === 0xda) break;
      at += 2 + view.getUint16(at + 2);
    }
    throw new CodecError("a JPEG stream without a frame");
  };
}

/** The SIZ segment of a JPEG 2000 code stream (ITU-T T.800 A.5.1). */
function jpeg2000Header(packed: Uint8Array): StreamInfo {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  if (packed.length < 43 || view.getUint32(0) !== 0xff4fff51) throw new CodecError("no JPEG 2000 code stream");
  const depth = packed[42] as number;
  return {
    columns: view.getUint32(8) - view.getUint32(16),
    rows: view.getUint32(12) - view.getUint32(20),
    components: view.getUint16(40),
    precision: (depth & 127) + 1,
    signed: depth > 127,
  };
}
