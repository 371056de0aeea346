// NumPy's .npy files, the format of volumes here. https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
import { open } from "node:fs/promises";
import type { NdArray, NumericArray } from "../arrays.js";
import { isMissing } from "./files.js";
import { dataError, type ReadOptions } from "./image.js";

const magic = Buffer.from("\x93NUMPY", "latin1");
const maxHeader = 1 << 16;
const maxAxes = 8;
const defaultMaxValues = 1_000_000_000;

/** Types that can be read, by their `descr` without the byte order. */
const types = {
  u1: Uint8Array,
  i1: Int8Array,
  b1: Uint8Array,
  u2: Uint16Array,
  i2: Int16Array,
  u4: Uint32Array,
  i4: Int32Array,
  f4: Float32Array,
  f8: Float64Array,
} as const;

/** What a file's header says. */
export interface NpyHeader {
  shape: number[];
  /** NumPy's type without the byte order, such as `f4`. */
  type: keyof typeof types;
  /** Where the numbers begin. */
  offset: number;
}

/**
 * Reads an array's header alone.
 * @throws ERR_LE_DATA as {@link readNpy}
 */
export async function readNpyHeader(path: string, options: ReadOptions = {}): Promise<NpyHeader> {
  return withFile(path, (file) => header(path, file, options));
}

/**
 * Reads an array of integers or floats in little-endian C order. Nothing is allocated before the header has been compared
 * with the file's length.
 * @param options.maxPixels most numbers that a file may claim. Default 1_000_000_000
 * @throws ERR_LE_DATA for a file that is missing, damaged, cut short or too long, or holds another kind of array
 */
export async function readNpy(path: string, options: ReadOptions = {}): Promise<NdArray<NumericArray>> {
  return withFile(path, async (file) => {
    const { shape, type, offset } = await header(path, file, options);
    const data = new types[type](product(shape));
    const bytes = new Uint8Array(data.buffer);
    let read = 0;
    while (read < bytes.length) {
      const { bytesRead } = await file.read(bytes, read, bytes.length - read, offset + read);
      if (bytesRead === 0) throw dataError(path, "array", `${bytes.length} bytes of numbers`, `${read}`);
      read += bytesRead;
    }
    return { data, shape } as NdArray<NumericArray>;
  });
}

/**
 * Reads a volume: D×H×W, or C×D×H×W.
 * @returns C×D×H×W as stored where the type is uint8 or uint16, else as float32
 * @throws ERR_LE_DATA as {@link readNpy}
 */
export async function readVolume(
  path: string,
  options: ReadOptions = {},
): Promise<NdArray<Float32Array | Uint8Array | Uint16Array>> {
  const { data, shape } = await readNpy(path, options);
  const kept = data instanceof Float32Array || data instanceof Uint8Array || data instanceof Uint16Array;
  return { data: kept ? data : Float32Array.from(data), shape: volumeShape(path, shape) };
}

/** The D×H×W of a volume's file, from its header. @throws ERR_LE_DATA as {@link readNpy} */
export async function readVolumeSize(path: string, options: ReadOptions = {}): Promise<number[]> {
  return volumeShape(path, (await readNpyHeader(path, options)).shape).slice(1);
}

/** The bytes of an .npy file (version 1.0) that holds the array. */
export function encodeNpy({ data, shape }: NdArray<Float32Array | Uint8Array>): Buffer {
  const descr = data instanceof Float32Array ? "<f4" : "|u1";
  const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (${tuple}), }`;
  const padded = `${text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11)}\n`;
  const length = Buffer.alloc(2);
  length.writeUInt16LE(padded.length);
  const numbers = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return Buffer.concat([magic, Buffer.from([1, 0]), length, Buffer.from(padded, "latin1"), numbers]);
}

type File = Awaited<ReturnType<typeof open>>;

async function withFile<T>(path: string, work: (file: File) => Promise<T>): Promise<T> {
  let file: File;
  try {
    file = await open(path);
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
  const start = Buffer.alloc(12);
  const { bytesRead } = await file.read(start, 0, 12, 0);
  const version = start[6] as number;
  if (bytesRead < 12 || !start.subarray(0, 6).equals(magic)) throw dataError(path, "array", "an .npy file", "another");
  if (version < 1 || version > 3) throw dataError(path, "array", "an .npy file of version 1 to 3", `${version}`);
  const [at, length] = version === 1 ? [10, start.readUInt16LE(8)] : [12, start.readUInt32LE(8)];
  if (length > maxHeader) throw dataError(path, "array", `a header of at most ${maxHeader} bytes`, `${length}`);
  const text = Buffer.alloc(length);
  if ((await file.read(text, 0, length, at)).bytesRead < length)
    throw dataError(path, "array", `a header of ${length} bytes`, "a file that is cut short");
  const { descr, fortran, shape } = parse(path, text.toString("latin1"));
  const match = /^([<>|=])([a-z]\d+)$/.exec(descr);
  const type = match?.[2] as keyof typeof types;
  if (!match || !Object.hasOwn(types, type))
    throw dataError(path, "array", `one of the types ${Object.keys(types).join(", ")}`, `"${descr}"`);
  const { BYTES_PER_ELEMENT: width } = types[type];
  if (match[1] === ">" && width > 1) throw dataError(path, "array", "little-endian numbers", `"${descr}"`);
  if (fortran && shape.filter((side) => side > 1).length > 1)
    throw dataError(path, "array", "C order (numpy.ascontiguousarray)", "Fortran order");
  const count = product(shape);
  if (!(count >= 1 && count <= maxPixels))
    throw dataError(path, "array", `1 to ${maxPixels} numbers`, `the shape (${shape.join(", ")})`);
  const { size } = await file.stat();
  const expected = at + length + count * width;
  if (size !== expected) throw dataError(path, "array", `a file of ${expected} bytes, by its header`, `${size}`);
  return { shape, type, offset: at + length };
}

/** The header's Python dictionary, which NumPy writes in one way only: three keys with literals. */
function parse(path: string, text: string): { descr: string; fortran: boolean; shape: number[] } {
  const descr = /'descr'\s*:\s*'([^']{1,16})'/.exec(text)?.[1];
  const fortran = /'fortran_order'\s*:\s*(True|False)/.exec(text)?.[1];
  const tuple = /'shape'\s*:\s*\(([\d\s,]*)\)/.exec(text)?.[1];
  if (descr === undefined || fortran === undefined || tuple === undefined)
    throw dataError(path, "array", "a header with descr, fortran_order and shape of plain numbers", "another");
  const shape = tuple
    .split(",")
    .map((side) => side.trim())
    .filter((side) => side !== "")
    .map(Number);
  if (shape.length > maxAxes || !shape.every(Number.isSafeInteger))
    throw dataError(path, "array", `at most ${maxAxes} axes`, `the shape (${tuple.trim()})`);
  return { descr, fortran: fortran === "True", shape };
}

function volumeShape(path: string, shape: readonly number[]): number[] {
  if (shape.length === 3) return [1, ...shape];
  if (shape.length === 4) return [...shape];
  throw dataError(path, "volume", "D×H×W or C×D×H×W numbers", `the shape ${shape.join("×") || "()"}`);
}

function product(shape: readonly number[]): number {
  return shape.reduce((all, side) => all * side, 1);
}
