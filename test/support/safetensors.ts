import { readFileSync } from "node:fs";

/** A tensor of a safetensors file. */
export interface Tensor {
  shape: number[];
  data: Float32Array | BigInt64Array;
}

/** Reads a small, trusted safetensors file: an independent reader, so that tests do not rely on the addon's own. */
export function readSafetensors(file: string): Record<string, Tensor> {
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors: Record<string, Tensor> = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const [begin, end] = data_offsets;
    const own = Uint8Array.from(bytes.subarray(8 + length + begin, 8 + length + end)).buffer;
    tensors[name] = { shape, data: dtype === "I64" ? new BigInt64Array(own) : new Float32Array(own) };
  }
  return tensors;
}
