// The pictures inside a comparison, decoded.
import type { NdArray } from "../../arrays.js";
import type { ShownImage } from "../../results/comparison.js";

/** One byte per pixel: the grey image or a label map, H×W. */
export function bytesOf(shown: ShownImage, base64: string): NdArray<Uint8Array> {
  return { data: new Uint8Array(Buffer.from(base64, "base64")), shape: [shown.height, shown.width] };
}

/** A float32 map, H×W. */
export function floatsOf(shown: ShownImage, base64: string): NdArray {
  const bytes = Buffer.from(base64, "base64");
  const data = new Float32Array(bytes.length >> 2);
  for (let i = 0; i < data.length; i++) data[i] = bytes.readFloatLE(4 * i);
  return { data, shape: [shown.height, shown.width] };
}
