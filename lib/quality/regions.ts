// Counts of one image’s masks, and where they are: what measures of overlap and distance are made of.
import type { NdArray } from "../arrays.js";
import { checkClasses, checkLabels, checkSameShape, fail } from "../checks.js";
import { describe, option } from "../options.js";
import { checkSaid, IGNORE_INDEX, leftOut } from "./ignored.js";

/** Options of what compares masks. */
export interface SurfaceOptions {
  /** C, from 1 to 256. */
  classes: number;
  /**
   * Label of the truth that is left out, in both masks, before boundaries and distances; null leaves none out.
   * @default 255, where that is no class
   */
  ignoreIndex?: number | null;
  /**
   * Distance of neighbouring pixels along each axis in mm, positive: lengths are then in mm, and sizes in ml (of two axes mm²).
   * @default all is counted in pixels
   */
  spacing?: readonly number[];
}

export const SURFACE_OPTIONS = {
  classes: option.required(option.integer()),
  ignoreIndex: IGNORE_INDEX,
  spacing: option.array(option.number({ above: 0 }), {
    min: 1,
    ...{ otherwise: "in pixels", text: "distance of neighbouring pixels along each axis in mm, as 2.5,0.8,0.8" },
  }),
};

/** Of one class: pixel counts, and where the class is. */
export interface Region {
  /** Pixels that are not ignored. */
  pixels: number;
  /** Of them, those with the class in the prediction, in the truth, in both. */
  predicted: number;
  real: number;
  both: number;
  /** First and last index along each axis where prediction or truth has the class. */
  low: number[];
  high: number[];
}

/** Checked masks. */
export interface Masks {
  prediction: Uint8Array;
  truth: Uint8Array;
  shape: readonly number[];
  spacing: readonly number[];
  /** The spacing, where one was given. */
  given: readonly number[] | undefined;
  classes: number;
  ignoreIndex: number;
}

export function checkInput(
  name: string,
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  { classes, ignoreIndex: given, spacing }: SurfaceOptions,
): Masks {
  checkClasses(`option 'classes' of ${name}`, classes);
  const { data, shape } = checkLabels("prediction", prediction, { classes, rank: 1, axes: "S" });
  const ignoreIndex = leftOut(given, classes);
  const real = checkLabels("truth", truth, { classes, rank: 1, axes: "S", ignoreIndex });
  checkSameShape("truth", real.shape, shape);
  checkSaid(given, classes, [["truth", real.data]]);
  if (spacing && spacing.length !== shape.length) {
    fail("ERR_LE_OPTION", `option 'spacing' of ${name}`, `${shape.length} numbers, one per axis`, describe(spacing));
  }
  return {
    ...{ prediction: data, truth: real.data, shape, classes, ignoreIndex },
    ...{ spacing: spacing ?? shape.map(() => 1), given: spacing },
  };
}

/** Counts and extents of every class in one pass. */
export function regions({ prediction, truth, shape, classes, ignoreIndex }: Masks): Region[] {
  const rank = shape.length;
  const width = shape[rank - 1] as number;
  const predicted = new Float64Array(classes);
  const real = new Float64Array(classes);
  const both = new Float64Array(classes);
  const low = Array.from({ length: rank }, () => new Int32Array(classes).fill(0x7fffffff));
  const high = Array.from({ length: rank }, () => new Int32Array(classes).fill(-1));
  const [left, right] = [low[rank - 1] as Int32Array, high[rank - 1] as Int32Array];
  const inLine = new Uint8Array(classes);
  const index = new Array<number>(rank - 1).fill(0);
  let pixels = 0;
  for (let start = 0; start < truth.length; start += width) {
    inLine.fill(0);
    // Run by run of equal labels, of which there are few.
    for (let x = 0; x < width; ) {
      const y = truth[start + x] as number;
      const label = prediction[start + x] as number;
      const first = x;
      do x++;
      while (x < width && truth[start + x] === y && prediction[start + x] === label);
      if (y === ignoreIndex) continue;
      const run = x - first;
      pixels += run;
      predicted[label] = (predicted[label] as number) + run;
      real[y] = (real[y] as number) + run;
      if (label === y) both[y] = (both[y] as number) + run;
      // Background is no foreground class: its extent is not needed.
      if ((label | y) === 0) continue;
      inLine[label] = inLine[y] = 1;
      if (first < (left[label] as number)) left[label] = first;
      if (x - 1 > (right[label] as number)) right[label] = x - 1;
      if (first < (left[y] as number)) left[y] = first;
      if (x - 1 > (right[y] as number)) right[y] = x - 1;
    }
    for (let axis = 0; axis < rank - 1; axis++) {
      const at = index[axis] as number;
      for (let c = 1; c < classes; c++) {
        if (inLine[c] === 0) continue;
        if (at < (low[axis]![c] as number)) low[axis]![c] = at;
        if (at > (high[axis]![c] as number)) high[axis]![c] = at;
      }
    }
    for (let axis = rank - 2; axis >= 0 && ++index[axis]! === shape[axis]; axis--) index[axis] = 0;
  }
  return Array.from({ length: classes }, (_, c) => ({
    pixels,
    predicted: predicted[c] as number,
    real: real[c] as number,
    both: both[c] as number,
    low: low.map((of) => of[c] as number),
    high: high.map((of) => of[c] as number),
  }));
}

/** The masks of a class, in the prediction and in the truth, in the box around both with a margin of one pixel: 1 where it is, else 0. */
export function cut(
  { prediction, truth, shape: full, ignoreIndex }: Masks,
  c: number,
  { low, high }: Region,
): { shape: number[]; a: Uint8Array; b: Uint8Array } {
  const shape = low.map((first, axis) => (high[axis] as number) - first + 3);
  const size = shape.reduce((product, axis) => product * axis, 1);
  const a = new Uint8Array(size);
  const b = new Uint8Array(size);
  const rank = shape.length;
  const width = shape[rank - 1] as number;
  const index = new Array<number>(rank - 1).fill(1);
  const lines = shape.slice(0, -1).reduce((product, axis) => product * (axis - 2), 1);
  for (let line = 0; line < lines; line++) {
    let from = 0;
    let to = 0;
    for (let axis = 0; axis < rank - 1; axis++) {
      from = from * (full[axis] as number) + (low[axis] as number) + (index[axis] as number) - 1;
      to = to * (shape[axis] as number) + (index[axis] as number);
    }
    from = from * (full[rank - 1] as number) + (low[rank - 1] as number);
    to = to * width + 1;
    for (let x = 0; x < width - 2; x++) {
      const y = truth[from + x] as number;
      if (y === ignoreIndex) continue;
      if (y === c) b[to + x] = 1;
      if (prediction[from + x] === c) a[to + x] = 1;
    }
    for (let axis = rank - 2; axis >= 0 && ++index[axis]! === (shape[axis] as number) - 1; axis--) index[axis] = 1;
  }
  return { shape, a, b };
}
