import { arrayType, type NumericArray, zerosLike } from "../arrays.js";
import { type Interpolation, interpolate } from "./interpolate.js";

/** What takes long of moving a volume: interpolation along its axes, one after the other. */
export interface Stretching {
  readonly data: NumericArray;
  /** [C, D, H, W]. */
  readonly shape: readonly number[];
  /** Axes of that shape, each once and none the channels', and how many voxels they are to have. */
  readonly stretches: readonly { readonly axis: number; readonly size: number; readonly between: Interpolation }[];
  /** Whether values are labels: each is interpolated alone, and the largest share wins, of equal ones the least label. */
  readonly labels: boolean;
}

/**
 * A volume on its way, which asks for each interpolation and goes on with what is answered: so one description serves both
 * {@link byDefinition} and {@link aside}.
 */
export type Moving<R> = Generator<Stretching, R, NumericArray>;

/** What interpolates as {@link define}, to the bit, off this thread; undefined for arrays of types that it does not take. */
export type StretchKernel = (task: Stretching) => Promise<NumericArray> | undefined;

let kernel: StretchKernel | undefined;

/** Has {@link aside} interpolate by a kernel: called where the addon is loaded. */
export function useStretchKernel(native: StretchKernel): void {
  kernel = native;
}

/** Interpolates here and now. */
export function byDefinition<R>(moving: Moving<R>): R {
  let step = moving.next();
  while (!step.done) step = moving.next(define(step.value));
  return step.value;
}

/** The same by the kernel where there is one. */
export async function aside<R>(moving: Moving<R>): Promise<R> {
  let step = moving.next();
  while (!step.done) step = moving.next((await kernel?.(step.value)) ?? define(step.value));
  return step.value;
}

/** What {@link Stretching} means. */
export function define({ data, shape, stretches, labels }: Stretching): NumericArray {
  if (labels) return largestShares(data, shape, stretches);
  const at = [...shape];
  let moved = data;
  for (const { axis, size, between } of stretches) {
    const outer = at.slice(0, axis).reduce((product, n) => product * n, 1);
    const inner = at.slice(axis + 1).reduce((product, n) => product * n, 1);
    moved = interpolate(moved, [outer, at[axis] as number, inner], size, between);
    at[axis] = size;
  }
  return moved;
}

function largestShares(data: NumericArray, shape: readonly number[], stretches: Stretching["stretches"]): NumericArray {
  const to = shape.map((side, axis) => stretches.find((one) => one.axis === axis)?.size ?? side);
  const out = zerosLike(
    data,
    to.reduce((product, side) => product * side, 1),
  );
  const best = new Float32Array(out.length).fill(-1);
  for (const label of [...new Set(data)].sort((a, b) => a - b)) {
    const own = Float32Array.from(data, (value) => (value === label ? 1 : 0));
    const shares = define({ data: own, shape, stretches, labels: false });
    for (let i = 0; i < best.length; i++) {
      if ((shares[i] as number) <= best[i]!) continue;
      best[i] = shares[i] as number;
      out[i] = label;
    }
  }
  return out;
}

/** Whether the native kernel takes such a task. */
export function isNative({ data, stretches, labels }: Stretching): boolean {
  const type = arrayType(data);
  if (type === "Uint8Array") return labels || stretches.every(({ between }) => between === "nearest");
  return type === "Float32Array" && !labels;
}
