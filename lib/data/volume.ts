// Volumes keep their voxels: they are cropped and padded about their centre, never resampled.
import type { NdArray } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";

/** [depth, height, width]. */
export type VolumeSize = readonly [depth: number, height: number, width: number];

/** Where a volume lies in the network's input: centred; what does not fit is cropped, the rest padded. Plain JSON. */
export interface VolumePlacement {
  /** As stored. */
  original: VolumeSize;
  /** Of the network's input. */
  size: VolumeSize;
}

/**
 * Moves every plane (C×D×H×W has C) from one size to another about the common centre; what nothing moves to is `fill`. The
 * way back is exact for what was not cropped.
 */
export function recentre<T extends Float32Array | Uint8Array>(
  data: T,
  planes: number,
  from: VolumeSize,
  to: VolumeSize,
  fill: (plane: number) => number = () => 0,
): T {
  const count = to[0] * to[1] * to[2];
  const out = new (data.constructor as new (length: number) => T)(planes * count);
  // One and the same offset whichever way: the smaller side's place in the larger one.
  const spans = from.map((side, axis) => {
    const other = to[axis] as number;
    const margin = Math.abs(side - other) >> 1;
    return { length: Math.min(side, other), read: side > other ? margin : 0, write: side > other ? 0 : margin };
  });
  const [z, y, x] = spans as [(typeof spans)[0], (typeof spans)[0], (typeof spans)[0]];
  for (let plane = 0; plane < planes; plane++) {
    const value = fill(plane);
    if (value !== 0) out.fill(value, plane * count, (plane + 1) * count);
    for (let i = 0; i < z.length; i++)
      for (let j = 0; j < y.length; j++) {
        const start = ((plane * from[0] + z.read + i) * from[1] + y.read + j) * from[2] + x.read;
        const target = ((plane * to[0] + z.write + i) * to[1] + y.write + j) * to[2] + x.write;
        out.set(data.subarray(start, start + x.length), target);
      }
  }
  return out;
}

/** The planes before the last three axes, which must be `size`. @throws ERR_LE_SHAPE */
export function volumePlanes(what: string, { data, shape }: NdArray<Float32Array | Uint8Array>, size: VolumeSize) {
  const leading = shape.slice(0, -3);
  const planes = leading.reduce((product, n) => product * n, 1);
  const fits = shape.length >= 3 && size.every((side, axis) => shape.at(axis - 3) === side);
  if (!fits || data.length !== planes * size[0] * size[1] * size[2])
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected an array that ends in ${size.join("×")} ${what} but received shape [${shape}] with ${data.length} values`,
    );
  return { planes, leading };
}
