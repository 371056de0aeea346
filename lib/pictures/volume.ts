// Volumes as pictures: in three planes where their file says where they lie, else their middle slice.
import type { NdArray } from "../arrays.js";
import type { Picture } from "../data/encode-png.js";
import { type Grid, reorient, spacingOf, type Triple } from "../grid/index.js";
import type { PixelSets } from "../sets/index.js";
import { type OverlayOptions, overlay } from "./render.js";

/** Options of {@link volumeOverlay}; all of D×H×W. */
export type VolumeOverlayOptions = Pick<OverlayOptions, "prediction" | "truth" | "sets" | "ignoreIndex">;

type Labels = NdArray<Uint8Array>;

/** Columns grow to the patient's left, rows backwards and downwards, as radiologists look at them. */
const SHOWN = "LPI";

/** Pixels of the longest side of a plane. */
const SIDE = 420;

/** Pixels between planes. */
const GAP = 8;

/**
 * Draws the outlines of a prediction and of the truth on a volume: side by side an axial, a coronal and a sagittal plane, each where
 * the prediction covers most of it, in true proportions, the patient's right on the left, front on top (of the sagittal one on the left). Of a volume
 * that does not say where it lies: its middle slice, as stored.
 * @param image D×H×W grey values
 * @param grid where it lies; null where nobody knows
 */
export function volumeOverlay(image: Labels, grid: Grid | null, options: VolumeOverlayOptions = {}): Picture {
  const { prediction, truth, sets = [], ignoreIndex } = options;
  if (!grid) return planeOverlay(image, options, 0, (image.shape[0] as number) >> 1);
  const turn = (volume: Labels): Labels => reorient({ ...volume, grid }, SHOWN);
  const { grid: shown, ...turned } = reorient({ ...image, grid }, SHOWN);
  const labels: VolumeOverlayOptions = {
    ...options,
    ...(prediction && { prediction: turn(prediction) }),
    ...(truth && { truth: turn(truth) }),
    sets: sets.map((one) => mapSets(one, turn)),
  };
  const spacing = spacingOf(shown);
  const extent = shown.shape.map((side, axis) => side * spacing[axis]!) as unknown as Triple;
  const perMillimetre = SIDE / Math.max(...extent);
  const places = fullest(labels.prediction, shown.shape, ignoreIndex ?? 255);
  const planes = [0, 1, 2].map((axis) => {
    const sides = [0, 1, 2].filter((other) => other !== axis);
    const size = sides.map((side) => Math.max(1, Math.round(extent[side]! * perMillimetre)));
    return planeOverlay(turned, labels, axis, places[axis] as number, size as unknown as [number, number]);
  });
  return beside(planes);
}

/** Draws a slice across an axis. */
function planeOverlay(
  image: Labels,
  { prediction, truth, sets = [], ignoreIndex }: VolumeOverlayOptions,
  axis: number,
  index: number,
  size?: readonly [number, number],
): Picture {
  const cut = (volume: Labels) => planeOf(volume, axis, index);
  return overlay(cut(image), {
    ...(prediction && { prediction: cut(prediction) }),
    ...(truth && { truth: cut(truth) }),
    sets: sets.map((one) => mapSets(one, cut)),
    ...(ignoreIndex !== undefined && { ignoreIndex }),
    ...(size && { size }),
  });
}

/** Of each axis the slice in which most is labelled; the middle one where nothing is. */
function fullest(labels: Labels | undefined, shape: Triple, ignored: number): number[] {
  const counts = shape.map((side) => new Uint32Array(side));
  const [, height, width] = shape;
  for (let i = 0; labels && i < labels.data.length; i++) {
    const label = labels.data[i] as number;
    if (label === 0 || label === ignored) continue;
    const place = [Math.floor(i / (height * width)), Math.floor(i / width) % height, i % width];
    for (const [axis, of] of counts.entries()) of[place[axis] as number]!++;
  }
  return counts.map((of) => {
    const most = of.reduce((a, b) => Math.max(a, b), 0);
    return most === 0 ? of.length >> 1 : of.indexOf(most);
  });
}

/** A slice across an axis. */
function planeOf({ data, shape }: Labels, axis: number, index: number): Labels {
  const strides = [shape[1]! * shape[2]!, shape[2] as number, 1];
  const [rows, columns] = [0, 1, 2].filter((other) => other !== axis) as [number, number];
  const [height, width] = [shape[rows] as number, shape[columns] as number];
  const out = new Uint8Array(height * width);
  const from = index * strides[axis]!;
  for (let y = 0, i = 0; y < height; y++)
    for (let x = 0; x < width; x++) out[i++] = data[from + y * strides[rows]! + x * strides[columns]!] as number;
  return { data: out, shape: [height, width] };
}

function mapSets(sets: PixelSets, cut: (mask: Labels) => Labels): PixelSets {
  return Object.fromEntries(Object.entries(sets).map(([name, mask]) => [name, cut(mask)]));
}

/** Pictures next to each other on black, about a common middle line. */
function beside(pictures: readonly Picture[]): Picture {
  const width = pictures.reduce((sum, one) => sum + one.width, GAP * (pictures.length - 1));
  const height = Math.max(...pictures.map((one) => one.height));
  const data = new Uint8Array(3 * width * height);
  let left = 0;
  for (const one of pictures) {
    const top = (height - one.height) >> 1;
    for (let y = 0; y < one.height; y++)
      data.set(one.data.subarray(3 * y * one.width, 3 * (y + 1) * one.width), 3 * ((top + y) * width + left));
    left += one.width + GAP;
  }
  return { data, width, height };
}
