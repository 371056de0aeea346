// NumPy's .npy format. https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
import type { NdArray, NumericArray } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";

const magic = Buffer.from("\x93NUMPY", "latin1");
/** Bytes of a header that is read: NumPy's own have some hundred. */
const maxHeader = 1 << 16;
/** As NumPy had it before version 2. */
const maxAxes = 32;

/** How the values of a type are made of their little-endian bytes, by its `descr` without the byte order. */
const types: Record<string, { bytes: number; read(bytes: ArrayBuffer): NumericArray }> = {
  f2: { bytes: 2, read: (bytes) => Float32Array.from(new Uint16Array(bytes), halfToFloat) },
  f4: { bytes: 4, read: (bytes) => new Float32Array(bytes) },
  f8: { bytes: 8, read: (bytes) => new Float64Array(bytes) },
  b1: { bytes: 1, read: (bytes) => new Uint8Array(bytes).map((value) => (value === 0 ? 0 : 1)) },
  u1: { bytes: 1, read: (bytes) => new Uint8Array(bytes) },
  u2: { bytes: 2, read: (bytes) => new Uint16Array(bytes) },
  u4: { bytes: 4, read: (bytes) => new Uint32Array(bytes) },
  u8: { bytes: 8, read: (bytes) => Float64Array.from(new BigUint64Array(bytes), Number) },
  i1: { bytes: 1, read: (bytes) => new Int8Array(bytes) },
  i2: { bytes: 2, read: (bytes) => new Int16Array(bytes) },
  i4: { bytes: 4, read: (bytes) => new Int32Array(bytes) },
  i8: { bytes: 8, read: (bytes) => Float64Array.from(new BigInt64Array(bytes), Number) },
};

/** What cannot be read, by the letter of its type. */
const otherTypes: Record<string, string> = {
  c: "complex numbers",
  f: "floating-point numbers of that many bytes",
  S: "text",
  U: "text",
  O: "Python objects",
  V: "records",
  M: "dates",
  m: "durations",
};

/** What a file's header says. */
export interface NpyHeader {
  shape: number[];
  /** NumPy's type without the byte order, such as `f4`. */
  type: string;
  bigEndian: boolean;
  /** The first axis runs fastest. */
  fortran: boolean;
  /** Where the numbers begin. */
  offset: number;
  /** Bytes of the whole file. */
  size: number;
}

/** Most bytes that {@link parseNpyHeader} looks at. */
export const npyHeaderLimit = 12 + maxHeader;

/**
 * Reads the header of an .npy file, versions 1 to 3.
 * @param bytes The file, or its first {@link npyHeaderLimit} bytes.
 * @param name The file's name, for messages.
 * @param size The file's length. Default: that of the bytes
 * @throws ERR_LE_DATA for another kind of file or of values, and for one that is cut short or longer than its header says
 */
export function parseNpyHeader(bytes: Uint8Array, name: string, size: number = bytes.length): NpyHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 10 || !magic.equals(bytes.subarray(0, 6)))
    refuse(name, "a NumPy array (an .npy file)", bytes.length === 0 ? "an empty file" : "another kind of file");
  const version = bytes[6] as number;
  if (version < 1 || version > 3) refuse(name, "version 1 to 3 of the .npy format", `version ${version}`);
  const start = version === 1 ? 10 : 12;
  const length = version === 1 ? view.getUint16(8, true) : bytes.length < 12 ? 0 : view.getUint32(8, true);
  if (length > maxHeader) refuse(name, `a header of at most ${maxHeader} bytes`, `one of ${length}`);
  if (start + length > bytes.length || length === 0)
    refuse(name, `a header of ${length} bytes`, "one that is cut short");
  const text = Buffer.from(bytes.subarray(start, start + length)).toString("latin1");
  const { descr, fortran, shape } = parseDictionary(text, name);
  const [, order = "", type = ""] = /^([<>|=]?)([a-zA-Z]\d*)$/.exec(descr) ?? [];
  const known = Object.hasOwn(types, type) ? types[type] : undefined;
  if (!known) {
    const received = otherTypes[type[0] ?? ""] ?? "another type";
    refuse(name, `integers, booleans or floats (${Object.keys(types).join(", ")})`, `${received} ('${descr}')`);
  }
  // As the sizes are checked against the bytes there are, a hostile header makes nothing large.
  const count = shape.reduce((product, side) => product * side, 1);
  const expected = start + length + count * known.bytes;
  if (size !== expected) {
    const of = `a file of ${expected} bytes, ${count * known.bytes} of them data for the shape (${shape.join(", ")})`;
    refuse(name, of, `${size}, ${size - start - length} of them data`);
  }
  const bigEndian = order === ">" && known.bytes > 1;
  return { shape, type, bigEndian, fortran, offset: start + length, size };
}

/**
 * Makes an array of an .npy file's numbers: any integer or floating-point type or booleans, in either byte order, in C or
 * Fortran order. Half precision becomes single; 64-bit integers become doubles (exact up to 2⁵³), booleans 0 and 1.
 * @param own The bytes after the header; they become the array.
 */
export function npyArray({ shape, type, bigEndian, fortran }: NpyHeader, own: ArrayBuffer): NdArray<NumericArray> {
  const { bytes, read } = types[type] as (typeof types)[string];
  if (bigEndian) {
    const buffer = Buffer.from(own);
    if (bytes === 2) buffer.swap16();
    else if (bytes === 4) buffer.swap32();
    else buffer.swap64();
  }
  const data = read(own);
  // With one long axis both orders are the same.
  return { data: fortran && shape.filter((side) => side > 1).length > 1 ? toCOrder(data, shape) : data, shape };
}

/**
 * Reads the bytes of an .npy file: see {@link npyArray}.
 * @param name The file's name, for messages.
 * @throws ERR_LE_DATA as {@link parseNpyHeader}
 */
export function parseNpy(bytes: Uint8Array, name: string): NdArray<NumericArray> {
  const header = parseNpyHeader(bytes, name);
  // Copied: in the file the values need not be aligned.
  return npyArray(header, new Uint8Array(bytes.subarray(header.offset)).buffer);
}

/** IEEE 754 half precision. */
export function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

/** The header's Python dictionary, its keys in any order. */
function parseDictionary(text: string, name: string): { descr: string; fortran: boolean; shape: number[] } {
  const descr = /'descr'\s*:\s*(?:'([^']{1,32})'|(\[))/.exec(text);
  const fortran = /'fortran_order'\s*:\s*(True|False)/.exec(text)?.[1];
  const tuple = /'shape'\s*:\s*\(([\d\s,L]*)\)/.exec(text)?.[1];
  if (descr?.[2]) refuse(name, "an array of numbers", "an array of records");
  if (descr?.[1] === undefined || fortran === undefined || tuple === undefined) {
    const shown = JSON.stringify(text.trim().slice(0, 80));
    refuse(name, "a header with descr, fortran_order and shape of plain numbers", shown);
  }
  const shape = tuple
    .split(",")
    .map((side) => side.trim().replace(/L$/, ""))
    .filter((side) => side !== "")
    .map(Number);
  if (shape.length > maxAxes || !shape.every(Number.isSafeInteger))
    refuse(name, `a shape of at most ${maxAxes} axes`, `(${tuple.trim()})`);
  return { descr: descr[1], fortran: fortran === "True", shape };
}

function toCOrder(data: NumericArray, shape: readonly number[]): NumericArray {
  const out = new (data.constructor as new (length: number) => NumericArray)(data.length);
  const strides = shape.map((_, axis) => shape.slice(0, axis).reduce((product, side) => product * side, 1));
  const index = shape.map(() => 0);
  const axes = shape.length;
  for (let target = 0, source = 0; target < data.length; target++) {
    out[target] = data[source] as number;
    for (let axis = axes - 1; axis >= 0; axis--) {
      source += strides[axis] as number;
      if (++(index[axis] as number) < (shape[axis] as number)) break;
      source -= (strides[axis] as number) * (shape[axis] as number);
      index[axis] = 0;
    }
  }
  return out;
}

function refuse(name: string, expected: string, received: string): never {
  throw new LayerEnsemblesError("ERR_LE_DATA", `Expected ${expected} for ${name} but received ${received}.`);
}
