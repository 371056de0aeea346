import { type NumericArray, zerosLike } from "../arrays.js";
import { fail } from "../checks.js";
import { describe } from "../options.js";
import {
  affineOf,
  type Checked,
  checkPlaced,
  columnsOf,
  isTriple,
  type Moved,
  type Placed,
  shapeOver,
  type Triple,
  volumeOf,
} from "./placed.js";

/** Part of a volume in voxels along z, y and x: from `start` to before `end`. */
export interface Box {
  /** The first voxel along each axis. */
  readonly start: Triple;
  /** One behind the last. */
  readonly end: Triple;
}

/** What lies outside: a number for all, or one for each channel. */
export type Fill = number | readonly number[];

/**
 * A part of a volume.
 * @param box Inside the volume; not empty.
 * @throws LayerEnsemblesError `ERR_LE_OPTION` for a box that is not, `ERR_LE_SHAPE`, `ERR_LE_VALUE`
 */
export function crop<T extends NumericArray>(volume: Placed<T>, box: Box): Moved<T> {
  const own = checkPlaced("the volume", volume);
  const { start, end } = box ?? {};
  const fits = (axis: number) => 0 <= start[axis]! && start[axis]! < end[axis]! && end[axis]! <= own.size[axis]!;
  if (!isIntegers(start) || !isIntegers(end) || ![0, 1, 2].every(fits)) {
    return fail(
      "ERR_LE_OPTION",
      "the box",
      `integers 0 ≤ start < end ≤ [${own.size.join(", ")}]`,
      `start ${describe(start)} and end ${describe(end)}`,
    );
  }
  return view(own, start, end.map((stop, axis) => stop - start[axis]!) as unknown as Triple, 0);
}

/**
 * A volume with more around it.
 * @param margins Voxels to add before the first and after the last along z, y and x; at least 0.
 * @param fill What is there, 0 by default; the array's type must hold it.
 * @throws LayerEnsemblesError `ERR_LE_OPTION`, `ERR_LE_SHAPE`, `ERR_LE_VALUE`
 */
export function pad<T extends NumericArray>(
  volume: Placed<T>,
  margins: { readonly before: Triple; readonly after: Triple },
  fill: Fill = 0,
): Moved<T> {
  const own = checkPlaced("the volume", volume);
  const { before, after } = margins ?? {};
  if (![before, after].every((margin) => isIntegers(margin) && margin.every((voxels) => voxels >= 0))) {
    const received = `before ${describe(before)} and after ${describe(after)}`;
    return fail("ERR_LE_OPTION", "the margins", "three integers of at least 0 each", received);
  }
  const start = before.map((voxels) => 0 - voxels) as unknown as Triple;
  return view(own, start, own.size.map((n, axis) => before[axis]! + n + after[axis]!) as unknown as Triple, fill);
}

/**
 * A volume cropped where it is larger than a size and padded where it is smaller, about the common centre; of an odd difference
 * the smaller half comes first, so that it undoes itself where nothing was cropped.
 * @param size [D, H, W], positive.
 * @param fill What is padded, 0 by default; the array's type must hold it.
 * @throws LayerEnsemblesError `ERR_LE_OPTION`, `ERR_LE_SHAPE`, `ERR_LE_VALUE`
 */
export function centre<T extends NumericArray>(volume: Placed<T>, size: Triple, fill: Fill = 0): Moved<T> {
  const own = checkPlaced("the volume", volume);
  if (!isIntegers(size) || !size.every((side) => side > 0)) {
    return fail("ERR_LE_OPTION", "the size", "three positive integers", describe(size));
  }
  const start = own.size.map((side, axis) => {
    const margin = Math.abs(side - size[axis]!) >> 1;
    return side > size[axis]! ? margin : 0 - margin;
  });
  return view(own, start as unknown as Triple, size, fill);
}

/**
 * The smallest box that holds every voxel that is not 0 in some channel; NaN is not 0.
 * @returns null where there is none
 * @throws LayerEnsemblesError `ERR_LE_SHAPE`, `ERR_LE_VALUE`
 */
export function nonZeroBox(volume: Placed): Box | null {
  const { data, channels, size } = checkPlaced("the volume", volume);
  const [depth, height, width] = size;
  const start = [...size] as [number, number, number];
  const end = [0, 0, 0] as [number, number, number];
  for (let row = 0; row < channels * depth * height; row++) {
    const from = row * width;
    let first = 0;
    while (first < width && data[from + first] === 0) first++;
    if (first === width) continue;
    let last = width;
    while (data[from + last - 1] === 0) last--;
    const z = Math.floor(row / height) % depth;
    const y = row % height;
    start[0] = Math.min(start[0], z);
    start[1] = Math.min(start[1], y);
    start[2] = Math.min(start[2], first);
    end[0] = Math.max(end[0], z + 1);
    end[1] = Math.max(end[1], y + 1);
    end[2] = Math.max(end[2], last);
  }
  return end[2] === 0 ? null : { start, end };
}

function isIntegers(value: unknown): value is Triple {
  return isTriple(value) && value.every((number) => Number.isSafeInteger(number));
}

/** The array of `shape` that begins at voxel `start` of a volume, outside of which is `fill`. */
export function view<T extends NumericArray>(volume: Checked<T>, start: Triple, shape: Triple, fill: Fill): Moved<T> {
  const { data, grid, channels, size, steps } = volume;
  const [depth, height, width] = shape;
  const out = zerosLike(data, channels * volumeOf(shape));
  fillWith(out, channels, fill);
  const from = start.map((at) => Math.max(0, at)) as unknown as Triple;
  const to = size.map((n, axis) => Math.min(n, start[axis]! + shape[axis]!)) as unknown as Triple;
  for (let c = 0; c < channels; c++) {
    for (let z = from[0]; z < to[0]; z++) {
      for (let y = from[1]; y < to[1] && from[2] < to[2]; y++) {
        const row = ((c * size[0] + z) * size[1] + y) * size[2];
        const at = ((c * depth + z - start[0]) * height + y - start[1]) * width + from[2] - start[2];
        out.set(data.subarray(row + from[2], row + to[2]), at);
      }
    }
  }
  return {
    data: out,
    shape: shapeOver(volume, shape),
    grid: { shape, affine: affineOf(grid.affine, columnsOf(grid.affine), start) },
    steps: [...steps, { op: "window", from: grid, start }],
  };
}

function fillWith(out: NumericArray, channels: number, fill: Fill): void {
  const values = typeof fill === "number" ? new Array<number>(channels).fill(fill) : fill;
  if (!Array.isArray(values) || values.length !== channels) {
    fail("ERR_LE_OPTION", "the fill", `a number, or one for each of ${channels} channels,`, describe(fill));
  }
  const length = out.length / channels;
  values.forEach((value, c) => {
    if (typeof value !== "number") fail("ERR_LE_OPTION", "the fill", "numbers", describe(value));
    out.fill(value, c * length, (c + 1) * length);
    const kept = out[c * length];
    if (!Object.is(kept, value) && !(out instanceof Float32Array && Number.isFinite(kept))) {
      fail("ERR_LE_OPTION", "the fill", `numbers that a ${out.constructor.name} holds`, describe(value));
    }
  });
}
