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

/** Labels the parts: runs of one label along the rows, and a forest of the runs that touch. */
export function connectedComponents(
  data: Uint8Array,
  shape: readonly number[],
  neighbours: Neighbours = "face",
): Components {
  // Runs in row-major order, and the first one of each row.
  const starts: number[] = [];
  const ends: number[] = [];
  const firsts: number[] = [];
  const parents: number[] = [];
  const rootOf = (run: number) => {
    let root = run;
    while (parents[root] !== root) root = parents[root] as number;
    for (let at = run; at !== root; ) [at, parents[at]] = [parents[at] as number, root];
    return root;
  };
  const before = steps(shape.slice(0, -1), neighbours).filter(({ offset }) => offset < 0);
  const reach = neighbours === "all" ? 1 : 0;
  eachRow(shape, (start, row, length) => {
    const here = starts.length;
    firsts.push(here);
    for (let i = start; i < start + length; ) {
      const label = data[i] as number;
      const first = i;
      do i++;
      while (i < start + length && data[i] === label);
      if (label === 0) continue;
      parents.push(starts.length);
      starts.push(first);
      ends.push(i);
    }
    for (const { axes, offset } of before) {
      if (!inside(row, axes, shape)) continue;
      const other = firsts.length - 1 + offset;
      const last = firsts[other + 1] as number;
      const away = -offset * length;
      let low = firsts[other] as number;
      for (let run = here; run < starts.length; run++) {
        const [left, right] = [(starts[run] as number) - away - reach, (ends[run] as number) - away + reach];
        while (low < last && (ends[low] as number) <= left) low++;
        for (let near = low; near < last && (starts[near] as number) < right; near++) {
          if (data[starts[near] as number] !== data[starts[run] as number]) continue;
          const [a, b] = [rootOf(run), rootOf(near)];
          // The lower one is the root, so that parts keep the order of their first pixels.
          parents[Math.max(a, b)] = Math.min(a, b);
        }
      }
    }
  });
  const of = new Int32Array(data.length);
  const names = new Int32Array(starts.length);
  const labels: number[] = [];
  for (const [run, start] of starts.entries()) {
    const root = rootOf(run);
    if (root === run) names[run] = labels.push(data[start] as number);
    of.fill(names[root] as number, start, ends[run]);
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
  const index = shape.map(() => 0);
  eachRow(shape, (start, row, length) => {
    for (const [axis, at] of row.entries()) index[axis] = at;
    for (let x = 0; x < length; x++) {
      if (data[start + x] === 0) continue;
      index[index.length - 1] = x;
      visit(start + x, index);
    }
  });
}

/** Every row along the last axis, in row-major order: its first pixel, and its index along the other axes, an array that is used again. */
export function eachRow(
  shape: readonly number[],
  visit: (start: number, row: readonly number[], length: number) => void,
): void {
  const row = shape.slice(0, -1).map(() => 0);
  const length = shape.at(-1) as number;
  const pixels = shape.reduce((product, side) => product * side, 1);
  for (let start = 0; start < pixels; start += length) {
    visit(start, row, length);
    for (let axis = row.length - 1; axis >= 0; axis--) {
      row[axis] = (row[axis] as number) + 1;
      if (row[axis] !== shape[axis]) break;
      row[axis] = 0;
    }
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

/** Whether a step from an index stays inside. */
function inside(index: readonly number[], axes: readonly number[], shape: readonly number[]): boolean {
  for (let axis = 0; axis < index.length; axis++) {
    const at = (index[axis] as number) + (axes[axis] as number);
    if (at < 0 || at >= (shape[axis] as number)) return false;
  }
  return true;
}
