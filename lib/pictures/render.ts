import type { NdArray } from "../arrays.js";
import type { Picture } from "../data/encode-png.js";
import { resizeBilinear } from "../data/resample.js";
import { LayerEnsemblesError } from "../errors.js";
import type { PixelSets } from "../sets/index.js";
import { type Colour, type ColourMapName, colourMap, predictionColour, setsColour, truthColour } from "./colours.js";

/** Options of {@link heatMap}. */
export interface HeatMapOptions {
  /** Values that get the first and the last colour. @default 0 and the map's largest value */
  range?: readonly [low: number, high: number];
  /** @default "magma" */
  colours?: ColourMapName;
  /** Enlargement, a whole number. @default 1 */
  scale?: number;
}

/** Options of {@link overlay}. */
export interface OverlayOptions {
  /** H×W labels, outlined in orange. */
  prediction?: NdArray<Uint8Array>;
  /** H×W labels, outlined in cyan, under the prediction's outline. */
  truth?: NdArray<Uint8Array>;
  /** Inner and outer masks, H×W, of some classes: between the two lies a veil with fine edges, under the outlines. */
  sets?: readonly PixelSets[];
  /** Enlargement, a whole number; outlines are about 2 pixels wide after it. @default until the longer side is about 640 */
  scale?: number;
  /** Rows and columns of the picture, in place of `scale`: of pixels that are not square. */
  size?: readonly [height: number, width: number];
  /** Half the width of the prediction's outline, in pixels of the enlarged picture. @default 1/450 of the shorter side, at least 1 */
  lineWidth?: number;
  /** Strength of a tint over the predicted area, 0 to 1. @default 0 */
  tint?: number;
  /** Label that has no outline. @default 255 */
  ignoreIndex?: number;
}

/**
 * Colours a map, such as entropy. NaN becomes mid-grey.
 * @param map H×W
 */
export function heatMap(map: NdArray, options: HeatMapOptions = {}): Picture {
  const [height, width] = sizeOf(map, "heat map");
  const { range = [0, largest(map.data)], colours = "magma", scale = 1 } = options;
  const table = colourMap(colours);
  const [low, high] = range;
  const data = new Uint8Array(height * width * 3);
  for (let i = 0; i < map.data.length; i++) {
    const value = map.data[i]!;
    const at = i * 3;
    if (Number.isNaN(value)) {
      data[at] = data[at + 1] = data[at + 2] = 128;
      continue;
    }
    const share = high > low ? Math.min(1, Math.max(0, (value - low) / (high - low))) : 0;
    const level = Math.round(share * 255) * 3;
    data[at] = table[level]!;
    data[at + 1] = table[level + 1]!;
    data[at + 2] = table[level + 2]!;
  }
  return enlarge({ data, width, height }, scale);
}

/**
 * Draws the outlines of a prediction and of the truth on an image. Outlines are smooth and thin because they are found
 * in the enlarged picture, with the labels' borders interpolated.
 * @param image H×W grey values
 */
export function overlay(image: NdArray<Uint8Array>, options: OverlayOptions = {}): Picture {
  const [height, width] = sizeOf(image, "overlay");
  const { prediction, truth, sets = [], tint = 0, ignoreIndex = 255 } = options;
  const scale = options.scale ?? Math.max(1, Math.round(640 / Math.max(height, width)));
  const [rows, columns] = options.size ?? [height * scale, width * scale];
  const grey = resizeBilinear(Float32Array.from(image.data), 1, [height, width], [rows, columns]);
  const picture: Picture = { data: new Uint8Array(grey.length * 3), width: columns, height: rows };
  const from: Size = [height, width];
  for (let i = 0; i < grey.length; i++) {
    const value = Math.round(grey[i]!);
    picture.data[i * 3] = picture.data[i * 3 + 1] = picture.data[i * 3 + 2] = value;
  }
  // The truth's outline is wider, so that it shows on both sides where the two coincide.
  const thin = options.lineWidth ?? Math.max(1, Math.min(picture.width, picture.height) / 450);
  for (const one of sets) veil(picture, one, from, Math.max(0.5, 0.6 * thin));
  if (truth)
    outline(picture, truth, from, truthColour, prediction ? Math.max(2.1 * thin, thin + 1.2) : thin, ignoreIndex);
  if (prediction) outline(picture, prediction, from, predictionColour, thin, ignoreIndex, tint);
  return picture;
}

/** Repeats each pixel `scale` times along both axes. */
export function enlarge(picture: Picture, scale: number): Picture {
  if (scale === 1) return picture;
  const { data, width, height } = picture;
  const out: Picture = {
    data: new Uint8Array(data.length * scale * scale),
    width: width * scale,
    height: height * scale,
  };
  for (let y = 0; y < out.height; y++) {
    const source = Math.floor(y / scale) * width;
    for (let x = 0; x < out.width; x++) {
      const from = (source + Math.floor(x / scale)) * 3;
      out.data.set(data.subarray(from, from + 3), (y * out.width + x) * 3);
    }
  }
  return out;
}

/** Rows and columns of an image. */
type Size = readonly [rows: number, columns: number];

/** Draws the outlines of each class: for each pixel, its distance to the class's border gives the line's strength. */
function outline(
  picture: Picture,
  labels: NdArray<Uint8Array>,
  size: Size,
  colour: Colour,
  width: number,
  ignoreIndex: number,
  tint = 0,
): void {
  checkFits(labels, size);
  const present = new Set(labels.data);
  present.delete(0);
  present.delete(ignoreIndex);
  for (const label of present) {
    const soft = softened(picture, labels, size, label);
    if (tint > 0) blend(picture, soft, colour, (value) => tint * Math.min(1, Math.max(0, 4 * value - 1.5)));
    stroke(picture, soft, colour, width);
  }
}

/** Tints what lies between an inner and an outer mask, and draws the edges of both. */
function veil(picture: Picture, { inner, outer }: PixelSets, size: Size, width: number): void {
  for (const mask of [inner, outer]) if (mask) checkFits(mask, size);
  const [least, most] = [inner, outer].map((mask) => mask && softened(picture, mask, size));
  if (most)
    blend(
      picture,
      most,
      setsColour,
      (value, x, y) => VEIL * (filled(value) - filled(least?.[y * picture.width + x] ?? 0)),
    );
  // The inner mask's edge is the brighter: holes of the veil are of either kind.
  if (most) stroke(picture, most, setsColour, width, 0.5);
  if (least) stroke(picture, least, setsColour, width);
}

/** Strength of a veil. */
const VEIL = 0.22;

/** How far a pixel is inside by its softened label, 0 to 1: a little sharper than the label. */
function filled(value: number): number {
  return Math.min(1, Math.max(0, 2 * value - 0.5));
}

/** @throws ERR_LE_SHAPE for labels of another size than the image's */
function checkFits(labels: NdArray<Uint8Array>, [rows, columns]: Size): void {
  if (labels.shape[0] !== rows || labels.shape[1] !== columns) {
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected ${rows}×${columns} labels for the overlay but received ${labels.shape.join("×")}`,
    );
  }
}

/** Where a label is, from 0 to 1, at the picture's size. */
function softened({ width, height }: Picture, labels: NdArray<Uint8Array>, size: Size, label = 1): Float32Array {
  const [rows, columns] = size;
  const inside = new Float32Array(labels.data.length);
  for (let i = 0; i < inside.length; i++) inside[i] = labels.data[i] === label ? 1 : 0;
  return resizeBilinear(smooth(inside, rows, columns), 1, [rows, columns], [height, width]);
}

/** A 3×3 binomial blur, so that the half-way line of a staircase is straight. */
function smooth(values: Float32Array, height: number, width: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let sum = 0;
      for (let dy = -1; dy <= 1; dy++) {
        for (let dx = -1; dx <= 1; dx++) {
          const row = Math.min(height - 1, Math.max(0, y + dy));
          const column = Math.min(width - 1, Math.max(0, x + dx));
          sum += (2 - Math.abs(dx)) * (2 - Math.abs(dy)) * values[row * width + column]!;
        }
      }
      out[y * width + x] = sum / 16;
    }
  }
  return out;
}

/** Paints the line where `values` cross one half. Distance to it: (value - 1/2) / |gradient|, to first order. */
function stroke(picture: Picture, values: Float32Array, colour: Colour, lineWidth: number, strength = 1): void {
  const { width, height } = picture;
  blend(picture, values, colour, (value, x, y) => {
    if (value <= 0 || value >= 1) return 0;
    const dx = values[y * width + Math.min(width - 1, x + 1)]! - values[y * width + Math.max(0, x - 1)]!;
    const dy = values[Math.min(height - 1, y + 1) * width + x]! - values[Math.max(0, y - 1) * width + x]!;
    const distance = (2 * Math.abs(value - 0.5)) / Math.max(Math.hypot(dx, dy), 1e-6);
    return strength * Math.min(1, Math.max(0, lineWidth + 0.5 - distance));
  });
}

/** Mixes a colour into each pixel by a strength from 0 to 1. */
function blend(
  { data, width, height }: Picture,
  values: Float32Array,
  colour: Colour,
  strengthOf: (value: number, x: number, y: number) => number,
): void {
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      const strength = strengthOf(values[i]!, x, y);
      if (strength === 0) continue;
      for (let c = 0; c < 3; c++)
        data[3 * i + c] = Math.round(data[3 * i + c]! * (1 - strength) + colour[c]! * strength);
    }
  }
}

function largest(values: Float32Array): number {
  let found = 0;
  for (const value of values) if (value > found) found = value;
  return found;
}

function sizeOf(array: NdArray<Float32Array | Uint8Array>, what: string): [height: number, width: number] {
  const [height = 0, width = 0] = array.shape;
  if (array.shape.length !== 2 || height * width === 0 || array.data.length !== height * width) {
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected H×W values for the ${what} but received shape [${array.shape}] with ${array.data.length} values`,
    );
  }
  return [height, width];
}
