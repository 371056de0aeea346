// Small safetensors files of floating-point arrays: https://github.com/huggingface/safetensors
import type { NdArray } from "../arrays.js";
import { parseJson } from "./json.js";

/** What this module reads and writes, by safetensors' name. */
const TYPES = { F32: Float32Array, F64: Float64Array } as const;

/** Most bytes of a header. */
const MAX_HEADER = 2 ** 24;
const MAX_AXES = 8;

/** What a file holds. */
export interface Tensors {
  arrays: Record<string, NdArray<Float32Array | Float64Array>>;
  /** Text by name. */
  metadata: Record<string, string>;
}

/** The bytes of a file. */
export function encodeSafetensors({ arrays, metadata }: Tensors): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: metadata };
  let offset = 0;
  const parts = Object.entries(arrays).map(([name, { data, shape }]) => {
    const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    header[name] = {
      dtype: data instanceof Float64Array ? "F64" : "F32",
      shape,
      data_offsets: [offset, offset + bytes.length],
    };
    offset += bytes.length;
    return bytes;
  });
  const text = Buffer.from(JSON.stringify(header));
  // Numbers of 8 bytes begin at multiples of 8.
  const padded = Buffer.concat([text, Buffer.alloc(-text.length & 7, " ")]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  return Buffer.concat([length, padded, ...parts]);
}

/**
 * What the bytes of a file hold, which somebody else may have written.
 * @throws Error that says what is wrong
 */
export function decodeSafetensors(bytes: Uint8Array): Tensors {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (buffer.length < 8) throw new Error(`${buffer.length} bytes, where 8 give the header's length`);
  const length = Number(buffer.readBigUInt64LE(0));
  if (length > Math.min(MAX_HEADER, buffer.length - 8)) throw new Error(`a header of ${length} bytes`);
  const header = parseJson(buffer.subarray(8, 8 + length).toString("utf8"));
  if (!isObject(header)) throw new Error("a header that is no object");
  const { __metadata__: metadata = {}, ...entries } = header;
  if (!isObject(metadata) || !Object.values(metadata).every((value) => typeof value === "string"))
    throw new Error("metadata that are no texts by name");
  const body = buffer.subarray(8 + length);
  const arrays = Object.entries(entries).map(([name, entry]) => [name, arrayOf(name, entry, body)] as const);
  return { arrays: Object.fromEntries(arrays), metadata: metadata as Record<string, string> };
}

function arrayOf(name: string, entry: unknown, body: Buffer): NdArray<Float32Array | Float64Array> {
  const { dtype, shape, data_offsets: offsets } = isObject(entry) ? entry : {};
  const Type = Object.hasOwn(TYPES, String(dtype)) ? TYPES[dtype as keyof typeof TYPES] : undefined;
  if (!Type) throw new Error(`an array ${name} of type ${String(dtype)}`);
  if (!isSizes(shape) || shape.length > MAX_AXES) throw new Error(`an array ${name} without a shape`);
  if (!isSizes(offsets) || offsets.length !== 2) throw new Error(`an array ${name} without a place`);
  const [begin, end] = offsets as [number, number];
  const count = shape.reduce((product, size) => product * size, 1);
  if (begin > end || end > body.length || count * Type.BYTES_PER_ELEMENT !== end - begin)
    throw new Error(`an array ${name} of ${shape.join("×")} numbers in bytes ${begin} to ${end} of ${body.length}`);
  // A copy: its numbers may lie at any byte of the file.
  const own = Uint8Array.from(body.subarray(begin, end)).buffer;
  return { data: new Type(own), shape };
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
