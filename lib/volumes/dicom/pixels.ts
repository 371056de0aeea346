// The stored values of a file's frames.
import { CodecError, unpackFrame } from "./codecs.js";
import type { Frame } from "./frames.js";
import { type DataSet, type Element, refuseFile } from "./parser.js";
import type { TransferSyntax } from "./syntaxes.js";

const SEQUENCE_END = 0xfffee0dd;
const ITEM = 0xfffee000;

/**
 * Gives a function that reads a frame's stored values: integers, bits above the stored ones left out, the sign at the highest
 * stored one.
 * @throws ERR_LE_DATA for fragments that are cut short, or that cannot be told apart
 */
export function pixelReader(
  data: DataSet,
  syntax: TransferSyntax,
  path: string,
): (frame: Frame) => Promise<StoredValues> {
  const element = data.elements.x7fe00010 as Element;
  const { coding } = syntax;
  if (!coding) {
    const bytes = data.byteArray.subarray(element.dataOffset, element.dataOffset + element.length);
    return async (frame) => {
      if (frame.bitsAllocated === 1) return bitsOf(bytes, frame);
      const size = (frame.rows * frame.columns * frame.bitsAllocated) / 8;
      // Words of 16 bits are swapped in big endian, two samples of a byte in one of them, too: PS3.5 §7.3, §8.1.1.
      const words = syntax.bigEndian && (frame.bitsAllocated === 16 || element.vr === "OW");
      const from = frame.index * size;
      const whole = from - (words ? from % 2 : 0);
      const own = Buffer.from(bytes.subarray(whole, Math.min(bytes.length, from + size + (words ? size % 2 : 0))));
      if (words) {
        if (own.length % 2) refuseFile(path, "an even number of bytes in words", `${own.length}`);
        own.swap16();
      }
      return valuesOf(own.subarray(from - whole, from - whole + size), (frame.bitsAllocated / 8) as 1 | 2 | 4, frame);
    };
  }
  const packed = fragmentsOf(data, element, path);
  const starts = startsOf(data, packed, path);
  return async (frame) => {
    const count = frame.file.frames.length;
    const frames = starts(count, coding !== "none" && coding !== "rle" ? isStreamStart : undefined);
    const parts = frames[frame.index] as Uint8Array[];
    const whole = parts.length === 1 ? (parts[0] as Uint8Array) : Buffer.concat(parts);
    try {
      const { bytes, width } = await unpackFrame(whole, coding, frame);
      return valuesOf(bytes, width, frame);
    } catch (error) {
      if (!(error instanceof CodecError)) throw error;
      const of =
        count > 1 ? `whole ${syntax.name} pixel data of frame ${frame.index + 1}` : `whole ${syntax.name} pixel data`;
      return refuseFile(path, of, error.message, error);
    }
  };
}

/** Values as stored, without slope and intercept. */
export type StoredValues = Uint8Array | Int8Array | Uint16Array | Int16Array | Uint32Array | Int32Array;

function valuesOf(bytes: Uint8Array, width: 1 | 2 | 4, { bitsStored, signed }: Frame): StoredValues {
  // Copied: typed arrays are aligned, and the file's bytes stay.
  const { buffer } = new Uint8Array(bytes);
  const shift = width * 8 - bitsStored;
  if (width === 1) return masked(signed ? new Int8Array(buffer) : new Uint8Array(buffer), shift);
  if (width === 2) return masked(signed ? new Int16Array(buffer) : new Uint16Array(buffer), shift);
  return masked(signed ? new Int32Array(buffer) : new Uint32Array(buffer), shift);
}

/** Through the array's own type: shifted up, the unused bits fall out; shifted back, the sign spreads. */
function masked<T extends StoredValues>(values: T, shift: number): T {
  if (shift <= 0) return values;
  const up = 2 ** shift;
  for (let i = 0; i < values.length; i++) {
    values[i] = (values[i] as number) * up;
    values[i] = Math.floor((values[i] as number) / up);
  }
  return values;
}

/** PS3.5 §8.1.1: bits from the lowest one on; frames follow one another without a gap. */
function bitsOf(bytes: Uint8Array, { rows, columns, index }: Frame): Uint8Array {
  const pixels = rows * columns;
  const start = index * pixels;
  const bits = new Uint8Array(pixels);
  for (let i = 0, at = start; i < pixels; i++, at++) bits[i] = ((bytes[Math.floor(at / 8)] as number) >> (at % 8)) & 1;
  return bits;
}

interface Fragment {
  /** From the first fragment's item tag, as the offset tables count. */
  offset: number;
  bytes: Uint8Array;
}

interface Fragments {
  table: number[];
  fragments: Fragment[];
}

/** The items of encapsulated pixel data: PS3.5 Annex A.4. */
function fragmentsOf({ byteArray }: DataSet, { dataOffset }: Element, path: string): Fragments {
  const view = new DataView(byteArray.buffer, byteArray.byteOffset, byteArray.byteLength);
  const items: Fragment[] = [];
  let first = 0;
  for (let at = dataOffset; ; ) {
    if (at + 8 > byteArray.length) refuseFile(path, "whole fragments of pixel data", "ones that are cut short");
    const tag = view.getUint16(at, true) * 0x10000 + view.getUint16(at + 2, true);
    const length = view.getUint32(at + 4, true);
    if (tag === SEQUENCE_END) break;
    if (tag !== ITEM) refuseFile(path, "fragments of pixel data", `something else at byte ${at}`);
    if (length > byteArray.length - at - 8)
      refuseFile(path, `a fragment of ${length} bytes`, `${byteArray.length - at - 8}; the file is cut short`);
    if (items.length === 1) first = at;
    items.push({ offset: at - first, bytes: byteArray.subarray(at + 8, at + 8 + length) });
    at += 8 + length;
  }
  const [table, ...fragments] = items;
  if (!table || fragments.length === 0) return refuseFile(path, "pixel data", "none: no fragment");
  if (table.bytes.length % 4) refuseFile(path, "an offset table of 4 bytes each", `${table.bytes.length} bytes`);
  const words = new DataView(table.bytes.buffer, table.bytes.byteOffset, table.bytes.byteLength);
  return { table: Array.from({ length: table.bytes.length / 4 }, (_, i) => words.getUint32(4 * i, true)), fragments };
}

/** Which fragments belong to which frame: by the offset tables, else one each, else where a stream begins. */
function startsOf(data: DataSet, { table, fragments }: Fragments, path: string) {
  let made: Uint8Array[][] | undefined;
  return (count: number, isStart?: (bytes: Uint8Array) => boolean): Uint8Array[][] => {
    if (made) return made;
    const group = (starts: readonly number[]) =>
      starts.map((from, i) => fragments.slice(from, starts[i + 1] ?? fragments.length).map(({ bytes }) => bytes));
    if (data.elements.x7fe00001) refuseFile(path, "a basic offset table or none", "an extended one");
    if (count === 1) made = group([0]);
    else if (table.length > 0) {
      const starts = table.map((offset) => fragments.findIndex((fragment) => fragment.offset === offset));
      const rising = starts.every((start, i) => (i === 0 ? start === 0 : start > (starts[i - 1] as number)));
      if (starts.length !== count || !rising)
        refuseFile(
          path,
          `an offset table of ${count} frames that begin with a fragment`,
          `offsets ${table.slice(0, 8).join(", ")}`,
        );
      made = group(starts);
    } else if (fragments.length === count) made = fragments.map(({ bytes }) => [bytes]);
    else {
      const starts = isStart ? fragments.flatMap(({ bytes }, i) => (isStart(bytes) ? [i] : [])) : [];
      if (starts.length !== count || starts[0] !== 0)
        refuseFile(
          path,
          `fragments of ${count} frames`,
          `${fragments.length} without an offset table that tells them apart`,
        );
      made = group(starts);
    }
    return made;
  };
}

/** A JPEG's or a JPEG 2000 code stream's first marker. */
function isStreamStart(bytes: Uint8Array): boolean {
  return bytes[0] === 0xff && (bytes[1] === 0xd8 || (bytes[1] === 0x4f && bytes[2] === 0xff && bytes[3] === 0x51));
}
