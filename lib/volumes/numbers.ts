// Numbers as files of volumes store them.
import type { NumericArray } from "../arrays.js";
import { dataError } from "../data/image.js";
import { npyArray } from "../data/npy.js";

/** A type of numbers, as NumPy's `descr` has it without the byte order: `u1` to `u8`, `i1` to `i8`, `f4`, `f8`. */
export type NumberType = `${"u" | "i"}${1 | 2 | 4 | 8}` | "f4" | "f8";

const KINDS = { u: "uint", i: "int", f: "float" } as const;

/** Bytes of one number. */
export function bytesOf(type: NumberType): number {
  return Number(type[1]);
}

/** A type's name, such as `int16`. */
export function dtypeOf(type: NumberType): string {
  return `${KINDS[type[0] as keyof typeof KINDS]}${8 * bytesOf(type)}`;
}

/**
 * The numbers that bytes are; integers of 64 bits as doubles.
 * @param bytes memory of their own, which the numbers take
 * @throws ERR_LE_DATA for integers that a double does not hold
 */
export function numbersOf(bytes: Uint8Array<ArrayBuffer>, type: NumberType, bigEndian: boolean, name: string) {
  const shape = [bytes.length / bytesOf(type)];
  const swapped = bigEndian && bytesOf(type) > 1;
  const of = { shape, type, bigEndian: swapped, fortran: false, offset: 0, size: bytes.length };
  const { data } = npyArray(of, bytes.buffer);
  if (type === "i8" || type === "u8") checkExact(data, name);
  return data;
}

/** Refuses integers of 64 bits that a double does not hold. @throws ERR_LE_DATA */
export function checkExact(data: NumericArray, name: string): void {
  for (let i = 0; i < data.length; i++)
    if (!Number.isSafeInteger(data[i]))
      throw dataError(name, "volume", "integers within ±(2⁵³ - 1)", `${data[i]} at position ${i}`);
}

/** The type that a typed array is of. */
export function typeOf(data: NumericArray): NumberType {
  const kind =
    data instanceof Float32Array || data instanceof Float64Array
      ? "f"
      : /^Uint/.test(data.constructor.name)
        ? "u"
        : "i";
  return `${kind}${data.BYTES_PER_ELEMENT}` as NumberType;
}

/** A type that numbers can be written as. */
export type WrittenType = "uint8" | "int8" | "uint16" | "int16" | "uint32" | "int32" | "float32" | "float64";

const ARRAYS = {
  ...{ uint8: Uint8Array, int8: Int8Array, uint16: Uint16Array, int16: Int16Array, uint32: Uint32Array },
  ...{ int32: Int32Array, float32: Float32Array, float64: Float64Array },
} as const satisfies Record<WrittenType, unknown>;

/** Every {@link WrittenType}. */
export const WRITTEN_TYPES = Object.keys(ARRAYS) as WrittenType[];

/**
 * The same numbers as another type.
 * @param refuse throws for one that the type does not hold
 */
export function asType(
  data: NumericArray,
  type: WrittenType,
  refuse: (expected: string, received: string) => never,
): NumericArray {
  const out = new ARRAYS[type](data.length);
  for (let i = 0; i < out.length; i++) {
    const value = data[i] as number;
    out[i] = value;
    if (out[i] !== value && !(Number.isNaN(value) && Number.isNaN(out[i])))
      refuse(`values that ${type} holds`, `${value} at position ${i}`);
  }
  return out;
}

/** The bytes of numbers, copied where they are to be swapped. */
export function toBytes(data: NumericArray, bigEndian: boolean): Buffer {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  if (!bigEndian || data.BYTES_PER_ELEMENT === 1) return bytes;
  const swapped = Buffer.from(bytes);
  if (data.BYTES_PER_ELEMENT === 2) return swapped.swap16();
  return data.BYTES_PER_ELEMENT === 4 ? swapped.swap32() : swapped.swap64();
}

/**
 * value · slope + intercept, computed in double precision; single precision holds it, but of stored numbers of 32 bits or more, which
 * become doubles.
 */
export function rescale(data: NumericArray, slope: number, intercept: number): Float32Array | Float64Array {
  const wide = data.BYTES_PER_ELEMENT > 2 && !(data instanceof Float32Array);
  const out = wide ? new Float64Array(data.length) : new Float32Array(data.length);
  for (let i = 0; i < out.length; i++) out[i] = (data[i] as number) * slope + intercept;
  return out;
}

/** Values of which those of a voxel stand together, as planes: [C, …]. */
export function toPlanes(data: NumericArray, channels: number): NumericArray {
  return transpose(data, data.length / channels, channels);
}

/** Planes as values of which those of a voxel stand together. */
export function toVoxels(data: NumericArray, channels: number): NumericArray {
  return transpose(data, channels, data.length / channels);
}

function transpose(data: NumericArray, rows: number, columns: number): NumericArray {
  const out = new (data.constructor as new (length: number) => NumericArray)(data.length);
  for (let row = 0, at = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) out[column * rows + row] = data[at++] as number;
  return out;
}
