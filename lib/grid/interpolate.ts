import { type NumericArray, zerosLike } from "../arrays.js";

/** How values between voxels are found. */
export type Interpolation = "nearest" | "linear" | "cubic";

/**
 * Which values of an extended line each output takes, and with what weights: output i takes `count` of them, from
 * `first[i]` on.
 */
interface Taps {
  readonly first: Int32Array;
  readonly count: number;
  readonly weights: Float64Array;
}

interface Kernel {
  /** How often the ends of a line are repeated on each side, so that every tap lies inside. */
  readonly margin: number;
  /** The first of the taps around place `x`, and their weights. */
  tap(x: number): [first: number, ...weights: number[]];
  /** Makes of the values of extended lines what the taps take. Position k of line b is at `k * batch + b`. */
  prefilter?(lines: Float64Array, length: number, batch: number): void;
}

/** The pole of the filter that turns values into coefficients of cubic B-splines (Unser 1999, table 1). */
const POLE = Math.sqrt(3) - 2;

/**
 * Beyond its ends a line is as its ends are. native/core/grid/resample.cpp does the same operations in the same order: what
 * comes out is equal to the bit. All agree with `scipy.ndimage.zoom(grid_mode=True, mode="nearest")`.
 */
const KERNELS: Record<Interpolation, Kernel> = {
  nearest: { margin: 0, tap: (x) => [Math.floor(x + 0.5), 1] },
  linear: {
    margin: 1,
    tap: (x) => {
      const first = Math.floor(x);
      return [first, 1 - (x - first), x - first];
    },
  },
  cubic: {
    margin: 12, // what is cut off beyond is less than 1e-6 of a value there: POLE ** 11
    tap: (x) => {
      const first = Math.floor(x);
      const t = x - first;
      const s = 1 - t;
      return [
        first - 1,
        (s * s * s) / 6,
        2 / 3 - (t * t * (2 - t)) / 2,
        2 / 3 - (s * s * (2 - s)) / 2,
        (t * t * t) / 6,
      ];
    },
    prefilter: (lines, length, batch) => {
      const end = length * batch;
      // As though the ends went on for ever: the sums of the geometric series.
      for (let b = 0; b < batch; b++) lines[b]! /= 1 - POLE;
      for (let i = batch; i < end; i++) lines[i]! += POLE * lines[i - batch]!;
      const gain = (1 - POLE) * (1 - POLE); // 6 = -gain / POLE, the filter's gain
      for (let i = end - batch; i < end; i++) lines[i]! *= gain / (1 - POLE);
      for (let i = end - batch - 1; i >= 0; i--) lines[i] = gain * lines[i]! + POLE * lines[i + batch]!;
    },
  },
};

/** Where the centre of voxel `i` of `to` lies among `from` voxels over the same extent: voxels meet at half integers. */
function placeOf(i: number, from: number, to: number): number {
  return (i + 0.5) * (from / to) - 0.5;
}

function tapsOf(kernel: Kernel, from: number, to: number): Taps {
  const first = new Int32Array(to);
  const count = kernel.tap(0).length - 1;
  const weights = new Float64Array(to * count);
  for (let i = 0; i < to; i++) {
    const [at, ...own] = kernel.tap(placeOf(i, from, to));
    first[i] = at + kernel.margin;
    weights.set(own, i * count);
  }
  return { first, count, weights };
}

/** Lines that are worked on at a time: enough to run along memory, few enough to stay in a cache. */
const BATCH = 32;

/** An array of shape [outer, from, inner] as [outer, to, inner]. */
export function interpolate<T extends NumericArray>(
  data: T,
  [outer, from, inner]: readonly [number, number, number],
  to: number,
  interpolation: Interpolation,
): T {
  const kernel = KERNELS[interpolation];
  const { margin, prefilter } = kernel;
  const taps = tapsOf(kernel, from, to);
  const out = zerosLike(data, outer * to * inner);
  const length = from + 2 * margin;
  // Neighbouring lines lie side by side, or, along the last axis, one after the other.
  const last = inner === 1;
  const groups = last ? 1 : outer;
  const lines = last ? outer : inner;
  const step = (size: number) => (last ? size : 1);
  const buffer = new Float64Array(length * Math.min(BATCH, lines));
  for (let group = 0; group < groups; group++) {
    for (let line = 0; line < lines; line += BATCH) {
      const batch = Math.min(BATCH, lines - line);
      const source = group * from * inner + line * step(from);
      for (let k = 0; k < length; k++) {
        const at = source + Math.min(from - 1, Math.max(0, k - margin)) * inner;
        for (let b = 0; b < batch; b++) buffer[k * batch + b] = data[at + b * step(from)] as number;
      }
      prefilter?.(buffer, length, batch);
      const target = group * to * inner + line * step(to);
      write(out, buffer, taps, { batch, target, along: inner, across: step(to) });
    }
  }
  return out;
}

function write(
  out: NumericArray,
  lines: Float64Array,
  { first, count, weights }: Taps,
  { batch, target, along, across }: { batch: number; target: number; along: number; across: number },
): void {
  for (let i = 0; i < first.length; i++) {
    const from = first[i]! * batch;
    for (let b = 0; b < batch; b++) {
      let sum = 0;
      for (let tap = 0; tap < count; tap++) sum += weights[i * count + tap]! * lines[from + tap * batch + b]!;
      out[target + i * along + b * across] = sum;
    }
  }
}
