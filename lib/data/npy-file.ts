import type { NdArray, NumericArray } from "../arrays.js";
import { isMissing, openRegular } from "./files.js";
import { dataError, type ReadOptions } from "./image.js";
import { type NpyHeader, npyArray, npyHeaderLimit, parseNpyHeader } from "./npy.js";

const defaultMaxValues = 1_000_000_000;

/**
 * Reads an array's header alone.
 * @throws ERR_LE_DATA as {@link readNpy}
 */
export async function readNpyHeader(path: string, options: ReadOptions = {}): Promise<NpyHeader> {
  return withFile(path, (file) => header(path, file, options));
}

/**
 * Reads an array of integers or floats: see `npyArray`. Nothing is allocated before the header has been compared with the file's
 * length.
 * @param options.maxPixels most numbers that a file may claim. Default 1_000_000_000
 * @throws ERR_LE_DATA for a file that is missing, damaged, empty, cut short or too long, or holds another kind of array
 */
export async function readNpy(path: string, options: ReadOptions = {}): Promise<NdArray<NumericArray>> {
  return withFile(path, async (file) => {
    const parsed = await header(path, file, options);
    const bytes = new Uint8Array(parsed.size - parsed.offset);
    const read = await fill(file, bytes, parsed.offset);
    if (read < bytes.length) throw dataError(path, "array", `${bytes.length} bytes of numbers`, `${read}`);
    return npyArray(parsed, bytes.buffer);
  });
}

/** NumPy's names of numbers, little-endian as memory is. */
const DESCRIPTIONS = {
  Uint8Array: "|u1",
  Uint8ClampedArray: "|u1",
  Int8Array: "|i1",
  Uint16Array: "<u2",
  Int16Array: "<i2",
  Uint32Array: "<u4",
  Int32Array: "<i4",
  Float32Array: "<f4",
  Float64Array: "<f8",
};

/** The bytes of an .npy file (version 1.0) that holds the array. */
export function encodeNpy({ data, shape }: NdArray<NumericArray>): Buffer {
  const descr = DESCRIPTIONS[data[Symbol.toStringTag] as keyof typeof DESCRIPTIONS];
  const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${tuple}), }`;
  const padded = `${text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11)}\n`;
  const length = Buffer.alloc(2);
  length.writeUInt16LE(padded.length);
  const numbers = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return Buffer.concat([Buffer.from("\x93NUMPY\x01\0", "latin1"), length, Buffer.from(padded, "latin1"), numbers]);
}

type File = Awaited<ReturnType<typeof openRegular>>;

async function withFile<T>(path: string, work: (file: File) => Promise<T>): Promise<T> {
  let file: File;
  try {
    file = await openRegular(path);
  } catch (error) {
    const received = isMissing(error) ? "none" : (error as Error).message;
    throw dataError(path, "array", "a readable .npy file", received, error);
  }
  try {
    return await work(file);
  } finally {
    await file.close();
  }
}

async function header(path: string, file: File, { maxPixels = defaultMaxValues }: ReadOptions): Promise<NpyHeader> {
  const { size } = await file.stat();
  const start = new Uint8Array(Math.min(size, npyHeaderLimit));
  const parsed = parseNpyHeader(start.subarray(0, await fill(file, start, 0)), path, size);
  const count = parsed.shape.reduce((product, side) => product * side, 1);
  if (!(count >= 1 && count <= maxPixels))
    throw dataError(path, "array", `1 to ${maxPixels} numbers`, `the shape (${parsed.shape.join(", ")})`);
  return parsed;
}

/** Reads until the array is full or the file at its end; gives how many bytes. */
async function fill(file: File, bytes: Uint8Array, from: number): Promise<number> {
  let read = 0;
  while (read < bytes.length) {
    const { bytesRead } = await file.read(bytes, read, bytes.length - read, from + read);
    if (bytesRead === 0) break;
    read += bytesRead;
  }
  return read;
}
