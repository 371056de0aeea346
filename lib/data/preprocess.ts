import type { NdArray } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";
import { aside, byDefinition, type Grid, type Moving } from "../grid/index.js";
import { percentiles, toGrey } from "./image.js";
import type { Orientation } from "./orientation.js";
import { resizeBilinear, resizeLabels, resizeNearest } from "./resample.js";
import { type GridPreprocessing, placing, placingMask, unplacing, type VolumePlacement } from "./volume.js";

/** How the size is reached: see {@link Preprocessing.resize}. */
export type Resize = "stretch" | "pad" | "none-with-pad";

/** Values of {@link Preprocessing.resize}. */
export const RESIZES = ["stretch", "pad", "none-with-pad"] as const satisfies Resize[];

/** Kinds of {@link Normalise}. */
export const NORMALISATIONS = [
  "zscore",
  "percentile",
  "window",
  "training",
  "none",
] as const satisfies Normalise["kind"][];

/** How intensities are scaled, per image: see {@link Preprocessing.normalise}. */
export type Normalise =
  | {
      /** Mean 0 and standard deviation 1. */
      kind: "zscore";
    }
  | {
      /** Two percentiles become 0 and 1. */
      kind: "percentile";
      /** The percentile that becomes 0, in [0, 100]. */
      low: number;
      /** The percentile that becomes 1, above `low`, up to 100. */
      high: number;
    }
  | {
      /** Two stored values become 0 and 1, such as -160 and 240 Hounsfield units. */
      kind: "window";
      /** The value that becomes 0. */
      low: number;
      /** The value that becomes 1, above `low`. */
      high: number;
    }
  | {
      /** By what the training's labelled pixels are: see {@link Dataset.intensities}. */
      kind: "training";
      /** One, or one for each channel that is scaled alone. */
      channels: readonly TrainingIntensity[];
    }
  | {
      /** Stored values. */
      kind: "none";
    };

/** Stored values of a training's labelled pixels: see {@link Dataset.intensities}. */
export interface TrainingIntensity {
  /** 0.5th percentile: what is below becomes it. */
  low: number;
  /** 99.5th percentile: what is above becomes it. */
  high: number;
  /** What becomes 0. */
  mean: number;
  /** What becomes 1 beside 0; above 0. */
  deviation: number;
}

/** Whether images can be scaled by these. */
export function areIntensities(channels: unknown): channels is readonly TrainingIntensity[] {
  const isOne = (one: unknown) => {
    const { low, high, mean, deviation } = (one ?? {}) as TrainingIntensity;
    return [low, high, mean, deviation].every(Number.isFinite) && low < high && deviation > 0;
  };
  return Array.isArray(channels) && channels.length > 0 && channels.every(isOne);
}

/** From a stored image to a network's input. Plain JSON; a run keeps it, so that prediction repeats it. */
export interface Preprocessing {
  /** [height, width] of the network's input, for volumes [depth, height, width]; null keeps each image's own size. */
  size: [height: number, width: number] | [depth: number, height: number, width: number] | null;
  /**
   * `stretch` scales each axis to the size. `pad` keeps the aspect ratio: scales until the image just fits, then pads.
   * `none-with-pad` keeps every pixel and pads; a larger image is an error. Padding is centred; its value is 0 after
   * normalisation, its label 0 (background). A volume is always cropped and padded about its centre; {@link grid} says whether
   * it was resampled before.
   */
  resize: Resize;
  /**
   * `zscore`: subtract the image's mean, divide by its standard deviation. `percentile`: the `low`th percentile
   * becomes 0, the `high`th 1, values outside are clipped. `window`: the same of stored values. `training`: clipped to
   * two percentiles of the training's labelled pixels, then minus their mean, divided by their standard deviation. `none`: stored values. All
   * channels of an image are scaled together unless {@link perChannel}, before resizing and after cropping. A constant
   * image becomes all zeros (not with `window`, `training` and `none`).
   */
  normalise: Normalise;
  /** 1: grey (RGB becomes luma); 3: RGB (grey is repeated); up to 32: as many bands as the images have. */
  channels: number;
  /** Names of the channels, in order; absent where none were given. */
  bands?: readonly string[];
  /** Whether each channel is scaled alone, as those of different scans are. @default false */
  perChannel?: boolean;
  /** Of volumes that have a place in the world; absent where they have none. */
  grid?: GridPreprocessing;
}

/** Where an image or a volume lies in the network's input; enough to undo the resizing. Plain JSON. */
export type Placement = ImagePlacement | VolumePlacement;

/** Where an image lies in the network's input. */
export interface ImagePlacement {
  /** [height, width] of the image as shown: as stored, but for a file whose {@link orientation} is a quarter turn. */
  original: [height: number, width: number];
  /** The file's EXIF orientation where it has one. What is restored is shown upright; `orientBack` turns it as stored. */
  orientation?: Orientation;
  /** [height, width] of the network's input. */
  size: [height: number, width: number];
  /** The part of the input that shows the image; the rest is padding. */
  content: {
    /** First row. */
    top: number;
    /** First column. */
    left: number;
    /** Rows. */
    height: number;
    /** Columns. */
    width: number;
  };
}

/** Mean and standard deviation of stored values, which normalisation takes away. */
export interface Intensity {
  /** In the file's units. */
  mean: number;
  /** At least 0; divisor: the number of values. */
  deviation: number;
}

/** A network's input, and what it does not show any more. */
export interface NetworkInput extends NdArray {
  /** Of all channels together, or of each where they are scaled alone. A prediction takes it from here: see `tapDistance`. */
  readonly stored?: readonly Intensity[];
}

/** Own size, z-score, one channel. */
export const defaultPreprocessing: Readonly<Preprocessing> = {
  size: null,
  resize: "stretch",
  normalise: { kind: "zscore" },
  channels: 1,
};

/**
 * Makes a network's input from an image or a volume.
 * @param image H×W or C×H×W with C = 1, 3 (of which one channel takes the luma) or the number of channels, or a volume of C×D×H×W with as
 * many channels as the network has
 * @returns the image, channels × H × W (× D before H for a volume), and how to undo the resizing
 * @throws ERR_LE_SHAPE for another shape or, with `none-with-pad`, a larger image; ERR_LE_VALUE for NaN or infinity; ERR_LE_DATA for a
 * volume without a place where the others had one, or the other way round
 */
export function preprocess(image: Unprepared, preprocessing: Preprocessing): PreparedImage {
  return byDefinition(preparing(image, preprocessing));
}

/** {@link preprocess} off this thread, by the native kernels, where the addon is loaded. The result is the same. */
export async function preprocessAside(image: Unprepared, preprocessing: Preprocessing): Promise<PreparedImage> {
  return aside(preparing(image, preprocessing));
}

/** A stored image or volume. */
export interface Unprepared extends NdArray<Float32Array | Uint8Array | Uint16Array> {
  /** As it was read: see {@link ImagePlacement.orientation}. */
  readonly orientation?: Orientation;
  /** Where a volume lies. @default null: unknown */
  readonly grid?: Grid | null;
}

/** A network's input, and where the image lies in it. */
export interface PreparedImage {
  /** C×H×W or C×D×H×W, of the network's input size. */
  image: NetworkInput;
  /** For {@link restore} and {@link restoreLabels}. */
  placement: Placement;
}

function* preparing(image: Unprepared, preprocessing: Preprocessing): Moving<PreparedImage> {
  if (image.shape.length === 4) return yield* preparingVolume(image, preprocessing);
  const shape = image.shape.length === 2 ? [1, ...image.shape] : image.shape;
  const [planes, height, width] = shape as [number, number, number];
  const { channels } = preprocessing;
  const bands = planes === channels || (planes === 1 && channels === 3) || (planes === 3 && channels === 1);
  const fits = shape.length === 3 && bands && height > 0 && width > 0;
  if (!fits || image.data.length !== planes * height * width) {
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected ${expectedShapes(channels)} values for the image but received shape [${image.shape}] with ${image.data.length} values`,
    );
  }
  const grey = channels === 1;
  const source = grey ? toGrey({ data: image.data, shape }) : Float32Array.from(image.data);
  const intensities = scale(source, grey ? 1 : planes, preprocessing);
  const placement = {
    ...place([height, width], preprocessing),
    ...(image.orientation && { orientation: image.orientation }),
  };
  const { content, size } = placement;
  const stored = source.length / (height * width);
  const resized = resizeBilinear(source, stored, [height, width], [content.height, content.width]);
  const padded = embed(resized, stored, placement);
  if (stored === channels) return { image: { data: padded, shape: [stored, ...size], stored: intensities }, placement };
  const repeated = new Float32Array(padded.length * 3);
  for (let channel = 0; channel < 3; channel++) repeated.set(padded, channel * padded.length);
  return { image: { data: repeated, shape: [3, ...size], stored: intensities }, placement };
}

function expectedShapes(channels: number): string {
  if (channels === 1 || channels === 3) return "H×W, 1×H×W or 3×H×W";
  return `${channels}×H×W`;
}

function* preparingVolume(image: Unprepared, preprocessing: Preprocessing): Moving<PreparedImage> {
  const [channels] = image.shape as [number, number, number, number];
  const count = image.shape.reduce((product, n) => product * n, 1);
  if (channels !== preprocessing.channels || count < 1 || image.data.length !== count)
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected ${preprocessing.channels}×D×H×W values for the volume but received shape [${image.shape}] with ${image.data.length} values`,
    );
  const { size, grid: how = null } = preprocessing;
  if (size?.length === 2)
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected a size of depth×height×width for a volume but received ${size.join("×")}`,
    );
  const grid = image.grid ?? null;
  if ((grid === null) !== (how === null))
    throw new LayerEnsemblesError(
      "ERR_LE_DATA",
      how
        ? "Expected a volume that says where it lies, as those of the training did, but received one that does not: its voxels could be of any size."
        : "Expected a volume without a place in the world, as those of the training were, but received one that has one: what size its voxels would have to be is not known. Train on files that say where they lie.",
    );
  const source = { data: Float32Array.from(image.data), shape: image.shape, grid };
  let stored: readonly Intensity[] = [];
  const placed = yield* placing(source, how, size, (values) => {
    stored = scale(values, channels, preprocessing);
  });
  return { ...placed, image: { ...placed.image, stored } };
}

/** Scales intensities in place: of all channels together, or of each alone. @returns what they were */
function scale(
  values: Float32Array,
  channels: number,
  { normalise: how, perChannel = false }: Preprocessing,
): Intensity[] {
  const part = perChannel ? values.length / channels : values.length;
  const parts = Array.from({ length: values.length / part }, (_, i) => values.subarray(i * part, (i + 1) * part));
  if (how.kind === "training" && how.channels.length !== parts.length)
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected ${how.channels.length} channels that are scaled by the training's intensities but received ${parts.length}`,
    );
  return parts.map((one, i) => normalise(one, how, i));
}

/** Whether this is the place of a volume. */
export function isVolume(placement: Placement): placement is VolumePlacement {
  return placement.original.length === 3;
}

/** Where a volume lies as its file says; null where it does not, and for images. */
export function storedGrid(placement: Placement): Grid | null {
  return isVolume(placement) ? placement.stored : null;
}

/**
 * Moves a mask as its image was moved: labels by area vote, padding 0.
 * @param mask H×W, or D×H×W for a volume; of the stored size
 * @returns H×W or D×H×W, of the network's input size
 */
export function preprocessMask(mask: NdArray<Uint8Array>, placement: Placement): NdArray<Uint8Array> {
  if (isVolume(placement)) return byDefinition(placingMask(mask, placement));
  const { original, content, size } = placement;
  if (mask.shape.length !== 2 || mask.shape[0] !== original[0] || mask.shape[1] !== original[1]) {
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected ${original.join("×")} labels for the mask but received ${mask.shape.join("×")}`,
    );
  }
  const resized = resizeLabels(mask.data, original, [content.height, content.width]);
  return { data: embed(resized, 1, placement), shape: [...size] };
}

/** {@link preprocessMask} off this thread, as {@link preprocessAside}. */
export async function preprocessMaskAside(
  mask: NdArray<Uint8Array>,
  placement: Placement,
): Promise<NdArray<Uint8Array>> {
  return isVolume(placement) ? aside(placingMask(mask, placement)) : preprocessMask(mask, placement);
}

/**
 * Brings probabilities or an uncertainty map back to the image's stored size: padding is cut off, the rest resampled
 * bilinearly (trilinearly). Probabilities still sum to 1; the mask at the stored size is their argmax. Of a volume, what had been
 * cropped is 0 in maps and certain background in probabilities.
 * @param array H×W or C×H×W (D×H×W or C×D×H×W), of the network's input size
 * @returns the same, of the stored size
 */
export function restore(array: NdArray, placement: Placement): NdArray {
  if (isVolume(placement)) return byDefinition(unplacing(array, placement));
  const { planes, leading } = splitShape(array, placement);
  const { content, original } = placement;
  const cut = crop(array.data, planes, placement);
  const data = resizeBilinear(cut, planes, [content.height, content.width], original);
  return { data, shape: [...leading, ...original] };
}

/** {@link restore} off this thread, as {@link preprocessAside}. */
export async function restoreAside(array: NdArray, placement: Placement): Promise<NdArray> {
  return isVolume(placement) ? aside(unplacing(array, placement)) : restore(array, placement);
}

/**
 * Brings labels back to the image's stored size by the nearest pixel. Of a volume, what had been cropped is 0.
 * @param labels H×W or K×H×W (D×H×W or K×D×H×W), of the network's input size
 * @returns the same, of the stored size
 */
export function restoreLabels(labels: NdArray<Uint8Array>, placement: Placement): NdArray<Uint8Array> {
  if (isVolume(placement)) return byDefinition(unplacing(labels, placement));
  const { planes, leading } = splitShape(labels, placement);
  const { content, original } = placement;
  const cut = crop(labels.data, planes, placement);
  const data = resizeNearest(cut, planes, [content.height, content.width], original);
  return { data, shape: [...leading, ...original] };
}

/** {@link restoreLabels} off this thread, as {@link preprocessAside}. */
export async function restoreLabelsAside(
  labels: NdArray<Uint8Array>,
  placement: Placement,
): Promise<NdArray<Uint8Array>> {
  return isVolume(placement) ? aside(unplacing(labels, placement)) : restoreLabels(labels, placement);
}

/** Where an image of this size lies in the network's input. */
export function place(original: [height: number, width: number], preprocessing: Preprocessing): ImagePlacement {
  const [height, width] = original;
  const size = preprocessing.size ?? original;
  if (size.length !== 2)
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected a size of height×width for an image but received ${size.join("×")}`,
    );
  let content: [number, number] = [size[0], size[1]];
  if (preprocessing.resize === "pad") {
    const scale = Math.min(size[0] / height, size[1] / width);
    content = [Math.round(height * scale), Math.round(width * scale)].map((n, axis) =>
      Math.min(size[axis]!, Math.max(1, n)),
    ) as [number, number];
  } else if (preprocessing.resize === "none-with-pad") {
    if (height > size[0] || width > size[1]) {
      throw new LayerEnsemblesError(
        "ERR_LE_SHAPE",
        `Expected at most ${size.join("×")} pixels for an image that is padded without resizing but received ${height}×${width}`,
      );
    }
    content = [height, width];
  }
  const top = (size[0] - content[0]) >> 1;
  const left = (size[1] - content[1]) >> 1;
  return {
    original: [height, width],
    size: [size[0], size[1]],
    content: { top, left, height: content[0], width: content[1] },
  };
}

/** Scales intensities in place. @returns what they were */
function normalise(values: Float32Array, how: Normalise, channel: number): Intensity {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]!;
  if (!Number.isFinite(sum)) {
    const bad = values.findIndex((value) => !Number.isFinite(value));
    throw new LayerEnsemblesError(
      "ERR_LE_VALUE",
      `Expected finite values for the image but received ${values[bad]} at index ${bad}`,
    );
  }
  const mean = sum / values.length;
  let squares = 0;
  let constant = true;
  for (let i = 0; i < values.length; i++) {
    squares += (values[i]! - mean) ** 2;
    constant &&= values[i] === values[0];
  }
  const stored = { mean, deviation: Math.sqrt(squares / values.length) };
  if (how.kind === "none") return stored;
  if (how.kind === "training") {
    const known = how.channels[channel] as TrainingIntensity;
    for (let i = 0; i < values.length; i++)
      values[i] = (Math.min(known.high, Math.max(known.low, values[i]!)) - known.mean) / known.deviation;
    return stored;
  }
  let shift: number;
  let scale: number;
  if (how.kind === "zscore") {
    shift = mean;
    scale = constant ? 0 : Math.sqrt(values.length / squares);
  } else {
    const { kind, low: least, high: most } = how;
    const [low, high] = kind === "window" ? [least, most] : (percentiles(values, [least, most]) as [number, number]);
    shift = low;
    scale = high > low ? 1 / (high - low) : 0;
  }
  for (let i = 0; i < values.length; i++) values[i] = (values[i]! - shift) * scale;
  if (how.kind !== "zscore") for (let i = 0; i < values.length; i++) values[i] = Math.min(1, Math.max(0, values[i]!));
  // -0 from a constant image's scale of 0 would print as such.
  if (scale === 0) values.fill(0);
  return stored;
}

function embed<T extends Float32Array | Uint8Array>(data: T, planes: number, { size, content }: ImagePlacement): T {
  if (content.height === size[0] && content.width === size[1]) return data;
  const out = new (data.constructor as new (length: number) => T)(planes * size[0] * size[1]);
  for (let row = 0; row < planes * content.height; row++) {
    const plane = Math.floor(row / content.height);
    const y = content.top + (row % content.height);
    const source = data.subarray(row * content.width, (row + 1) * content.width);
    out.set(source, (plane * size[0] + y) * size[1] + content.left);
  }
  return out;
}

function crop<T extends Float32Array | Uint8Array>(data: T, planes: number, { size, content }: ImagePlacement): T {
  if (content.height === size[0] && content.width === size[1]) return data;
  const out = new (data.constructor as new (length: number) => T)(planes * content.height * content.width);
  for (let row = 0; row < planes * content.height; row++) {
    const plane = Math.floor(row / content.height);
    const y = content.top + (row % content.height);
    const source = (plane * size[0] + y) * size[1] + content.left;
    out.set(data.subarray(source, source + content.width), row * content.width);
  }
  return out;
}

function splitShape({ data, shape }: NdArray<Float32Array | Uint8Array>, { size }: ImagePlacement) {
  const leading = shape.slice(0, -2);
  const planes = leading.reduce((product, n) => product * n, 1);
  const fits = shape.length >= 2 && shape.at(-2) === size[0] && shape.at(-1) === size[1];
  if (!fits || data.length !== planes * size[0] * size[1]) {
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected an array that ends in ${size.join("×")} to restore but received shape [${shape}] with ${data.length} values`,
    );
  }
  return { planes, leading };
}
