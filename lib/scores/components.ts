// Connected parts of a label map.
import { stridesOf } from "../arrays.js";

/** Which pixels touch: `"face"`: 4 in 2D, 6 in 3D; `"all"`: corners too, 8 in 2D, 26 in 3D. */
export const NEIGHBOURS = ["face", "all"] as const;

/** One of {@link NEIGHBOURS}. */
export type Neighbours = (typeof NEIGHBOURS)[number];

/** The connected parts of the foreground of a label map S; pixels of different labels never connect. */
export interface Components {
  /** S: 0 where the label is 0, else the number of the part, from 1, in row-major order of their first pixels. */
  of: Int32Array;
  /** Label of each part, by its number - 1. */
  labels: number[];
}

/** Labels the parts: two passes and a forest of the numbers that turn out to be of one part. */
export function connectedComponents(
  data: Uint8Array,
  shape: readonly number[],
  neighbours: Neighbours = "face",
): Components {
  const of = new Int32Array(data.length);
  const before = steps(shape, neighbours).filter(({ offset }) => offset < 0);
  const parents: number[] = [0];
  const rootOf = (number: number) => {
    let root = number;
    while (parents[root] !== root) root = parents[root] as number;
    for (let at = number; at !== root; ) [at, parents[at]] = [parents[at] as number, root];
    return root;
  };
  foreground(data, shape, (i, index) => {
    const label = data[i] as number;
    let number = 0;
    for (const { offset, axes } of before) {
      if (!inside(index, axes, shape) || data[i + offset] !== label) continue;
      const other = rootOf(of[i + offset] as number);
      if (number === 0) number = other;
      // The lower number is the root, so that parts keep the order of their first pixels.
      else if (other < number) [parents[number], number] = [other, other];
      else parents[other] = number;
    }
    if (number === 0) number = parents.push(parents.length) - 1;
    of[i] = number;
  });
  const names = new Int32Array(parents.length);
  const labels: number[] = [];
  for (let i = 0; i < of.length; i++) {
    if (of[i] === 0) continue;
    const root = rootOf(of[i] as number);
    if (names[root] === 0) names[root] = labels.push(data[i] as number);
    of[i] = names[root] as number;
  }
  return { of, labels };
}

/**
 * Gives each pixel the number of the nearest part that a label has, in steps over faces; of equally near ones the part whose
 * wave comes first, waves going out in row-major order. 0 everywhere where the label has no part.
 */
export function nearestComponent({ of, labels }: Components, label: number, shape: readonly number[]): Int32Array {
  const nearest = of.map((number) => (number > 0 && labels[number - 1] === label ? number : 0));
  const queue = new Int32Array(of.length);
  let filled = 0;
  for (let i = 0; i < nearest.length; i++) if (nearest[i] !== 0) queue[filled++] = i;
  const strides = stridesOf(shape);
  for (let next = 0; next < filled; next++) {
    const i = queue[next] as number;
    for (const [axis, size] of shape.entries()) {
      const stride = strides[axis] as number;
      const at = Math.floor(i / stride) % size;
      for (const to of [at > 0 ? i - stride : i, at < size - 1 ? i + stride : i]) {
        if (nearest[to] !== 0) continue;
        nearest[to] = nearest[i] as number;
        queue[filled++] = to;
      }
    }
  }
  return nearest;
}

/** Every pixel whose label is not 0, in row-major order, with its index along each axis, an array that is used again. */
export function foreground(
  data: ArrayLike<number>,
  shape: readonly number[],
  visit: (i: number, index: readonly number[]) => void,
): void {
  const strides = stridesOf(shape);
  const index = shape.map(() => 0);
  for (let i = 0; i < data.length; i++) {
    if (data[i] === 0) continue;
    for (let axis = 0, left = i; axis < index.length; axis++) {
      const stride = strides[axis] as number;
      index[axis] = Math.floor(left / stride);
      left %= stride;
    }
    visit(i, index);
  }
}

/** Steps to the neighbours of a pixel: -1, 0 or 1 along each axis. */
function steps(shape: readonly number[], neighbours: Neighbours): { axes: number[]; offset: number }[] {
  const strides = stridesOf(shape);
  let all: number[][] = [[]];
  for (const _ of shape) all = all.flatMap((axes) => [-1, 0, 1].map((step) => [...axes, step]));
  return all
    .map((axes) => ({ axes, offset: axes.reduce((sum, step, axis) => sum + step * (strides[axis] as number), 0) }))
    .filter(({ axes }) => {
      const moved = axes.filter((step) => step !== 0).length;
      return neighbours === "face" ? moved === 1 : moved > 0;
    });
}

/** Whether a step from a pixel stays inside. */
function inside(index: readonly number[], axes: readonly number[], shape: readonly number[]): boolean {
  for (let axis = 0; axis < axes.length; axis++) {
    const at = (index[axis] as number) + (axes[axis] as number);
    if (at < 0 || at >= (shape[axis] as number)) return false;
  }
  return true;
}
