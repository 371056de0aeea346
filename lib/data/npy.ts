import type { NdArray, NumericArray } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";

/** Bytes of a header that is read: NumPy's own have some hundred. */
const MAX_HEADER = 1 << 16;
/** As NumPy had it before version 2. */
const MAX_AXES = 32;

/** How the values of a type are read, from bytes of their own. */
const READERS: Record<string, { bytes: number; read(bytes: ArrayBuffer): NumericArray }> = {
  f2: { bytes: 2, read: (bytes) => Float32Array.from(new Uint16Array(bytes), halfToFloat) },
  f4: { bytes: 4, read: (bytes) => new Float32Array(bytes) },
  f8: { bytes: 8, read: (bytes) => new Float64Array(bytes) },
  b1: { bytes: 1, read: (bytes) => new Uint8Array(bytes) },
  u1: { bytes: 1, read: (bytes) => new Uint8Array(bytes) },
  u2: { bytes: 2, read: (bytes) => new Uint16Array(bytes) },
  u4: { bytes: 4, read: (bytes) => new Uint32Array(bytes) },
  u8: { bytes: 8, read: (bytes) => Float64Array.from(new BigUint64Array(bytes), Number) },
  i1: { bytes: 1, read: (bytes) => Int16Array.from(new Int8Array(bytes)) },
  i2: { bytes: 2, read: (bytes) => new Int16Array(bytes) },
  i4: { bytes: 4, read: (bytes) => new Int32Array(bytes) },
  i8: { bytes: 8, read: (bytes) => Float64Array.from(new BigInt64Array(bytes), Number) },
};

/**
 * Reads the bytes of a NumPy `.npy` file, versions 1 to 3: numbers, little-endian, in C order. Half precision becomes single;
 * 8-bit signed integers become 16-bit, 64-bit ones doubles (exact up to 2⁵³), booleans 0 and 1.
 * @param name The file's name, for messages.
 * @throws ERR_LE_DATA for anything else, and for a file that is cut short or longer than its header says
 */
export function parseNpy(bytes: Uint8Array, name: string): NdArray<NumericArray> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 10 || !bytes.subarray(0, 6).every((byte, i) => byte === [0x93, 78, 85, 77, 80, 89][i])) {
    refuse(name, "a NumPy array (.npy)", bytes.length === 0 ? "an empty file" : "something else");
  }
  const version = bytes[6] as number;
  if (version < 1 || version > 3) refuse(name, "version 1, 2 or 3 of the .npy format", `version ${version}`);
  const start = version === 1 ? 10 : 12;
  const length = version === 1 ? view.getUint16(8, true) : bytes.length < 12 ? MAX_HEADER + 1 : view.getUint32(8, true);
  if (length > MAX_HEADER || start + length > bytes.length) {
    refuse(name, "a whole header", `one cut short or too long, of ${length} bytes`);
  }
  const header = new TextDecoder("latin1").decode(bytes.subarray(start, start + length));
  const { descr, shape } = parseHeader(header, name);
  const reader = READERS[descr];
  if (!reader) refuse(name, "numbers, little-endian", `the type '${descr}'`);
  // As the sizes are checked against the bytes there are, a hostile header makes nothing large.
  const size = shape.reduce((product, axis) => product * axis, 1);
  const rest = bytes.length - start - length;
  if (size * reader.bytes !== rest) {
    refuse(name, `${size * reader.bytes} bytes of data for the shape ${shape.join("×") || "()"}`, `${rest}`);
  }
  // Copied: in the file the values need not be aligned.
  const own = new Uint8Array(bytes.subarray(start + length));
  return { data: reader.read(own.buffer), shape };
}

/** The dictionary that the header is, its keys in any order. */
function parseHeader(header: string, name: string): { descr: string; shape: number[] } {
  const descr = /'descr':\s*'([<|=]?)([a-z]\d+)'/.exec(header);
  const shape = /'shape':\s*\(([\d,\sL]*)\)/.exec(header)?.[1];
  const order = /'fortran_order':\s*(True|False)/.exec(header)?.[1];
  if (/'descr':\s*'>/.test(header)) refuse(name, "little-endian numbers", "big-endian ones");
  if (!descr || shape === undefined || order === undefined) {
    const shown = header.trim().slice(0, 80);
    refuse(name, "an array of numbers with descr, fortran_order and shape", JSON.stringify(shown));
  }
  const sizes = shape
    .split(",")
    .map((text) => text.trim().replace(/L$/, ""))
    .filter((text) => text !== "")
    .map(Number);
  if (sizes.length > MAX_AXES || !sizes.every((size) => Number.isSafeInteger(size))) {
    refuse(name, `a shape of at most ${MAX_AXES} axes`, `(${shape})`);
  }
  // An array with one axis is in both orders.
  if (order === "True" && sizes.length > 1) {
    refuse(name, "an array in C order", "one in Fortran order. Save numpy.ascontiguousarray of it");
  }
  return { descr: descr[2] as string, shape: sizes };
}

/** IEEE 754 half precision. */
export function halfToFloat(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}

function refuse(name: string, expected: string, received: string): never {
  throw new LayerEnsemblesError("ERR_LE_DATA", `Expected ${expected} for ${name} but received ${received}.`);
}
