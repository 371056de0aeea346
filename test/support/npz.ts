import { readFileSync } from "node:fs";
import { unzipSync } from "fflate";
import type { NdArray } from "../../lib/arrays.js";

const TYPES = { "<f4": Float32Array, "<f8": Float64Array, "|u1": Uint8Array, "<i4": Int32Array } as const;

type Entry = NdArray<Float32Array | Float64Array | Uint8Array | Int32Array>;

/** The arrays of a NumPy `.npz` file, by key; row-major and little-endian only. */
export function readNpz(file: string): Record<string, Entry> {
  const entries = Object.entries(unzipSync(readFileSync(file)));
  return Object.fromEntries(entries.map(([name, bytes]) => [name.replace(/\.npy$/, ""), parseNpy(name, bytes)]));
}

function parseNpy(name: string, bytes: Uint8Array): Entry {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const long = (bytes[6] as number) > 1;
  const start = long ? 12 : 10;
  const end = start + (long ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder("latin1").decode(bytes.subarray(start, end));
  const type = /'descr': '([^']*)'/.exec(header)?.[1] as keyof typeof TYPES;
  const shape = /'shape': \(([^)]*)\)/.exec(header)?.[1];
  if (!(type in TYPES) || shape === undefined || !header.includes("'fortran_order': False"))
    throw new Error(`${name}: cannot read ${header}`);
  return {
    // Copied: the bytes in the archive are not aligned.
    data: new TYPES[type](bytes.slice(end).buffer),
    shape: shape
      .split(",")
      .filter((size) => size.trim())
      .map(Number),
  };
}
