import { type OptionSpec, option, type Values } from "../options.js";
import type { SeriesOptions } from "../volumes/dicom/index.js";
import { SERIES_OPTIONS } from "../volumes/dicom/index.js";
import type { SampleInfo } from "./dataset.js";
import { LABEL_OPTIONS, type LabelOptions } from "./labels.js";
import { areIntensities, defaultPreprocessing, NORMALISATIONS, type Normalise, RESIZES } from "./preprocess.js";
import { CROPS, GRID_PREPROCESSING, type GridPreprocessing, isAxes } from "./volume.js";

/** How masks store labels: see {@link LabelOptions.scale}. */
export type MaskValues = "auto" | "index" | "0/255";

const side = option.integer({ min: 1 });
const sides = option.anyOf(option.array(side, { length: 2 }), option.array(side, { length: 3 })) as OptionSpec<
  readonly [height: number, width: number] | readonly [depth: number, height: number, width: number]
>;

/** Kinds that are said by their name alone. */
type Named = Exclude<Normalise["kind"], "window" | "training">;
const kinds = option.oneOf(NORMALISATIONS.filter((kind): kind is Named => kind !== "window" && kind !== "training"));
const percentile = option.number({ min: 0, max: 100 });
const finite = option.number();
const bounded = option.custom<Normalise>(
  '{ kind: "percentile", low, high } or { kind: "window", low, high } with low < high, or what Dataset.intensities() gives',
  (value) => {
    const { kind, low, high } = (value ?? {}) as { kind?: unknown; low?: number; high?: number };
    if (kind === "training") return areIntensities((value as { channels?: unknown }).channels);
    if (kind === "window") return finite.accepts(low) && finite.accepts(high) && (low as number) < (high as number);
    const [least, most] = [low ?? PERCENTILES.low, high ?? PERCENTILES.high];
    return kinds.accepts(kind) && percentile.accepts(least) && percentile.accepts(most) && least < most;
  },
);

/** What becomes 0 and 1 where nothing is said. */
const PERCENTILES = { low: 0.5, high: 99.5 };

/** How intensities are scaled, as it is written down. */
export function normaliseOf(given: DatasetOptions["normalise"] = normalise): Normalise {
  const how = typeof given === "string" ? ({ kind: given } as Normalise) : given;
  if (how.kind === "percentile") return { ...PERCENTILES, ...how };
  if (how.kind === "training")
    return {
      kind: how.kind,
      channels: how.channels.map(({ low, high, mean, deviation }) => ({ low, high, mean, deviation })),
    };
  return how.kind === "window" ? { kind: how.kind, low: how.low, high: how.high } : { kind: how.kind };
}

const names = (min: number, max: number) =>
  option.custom<readonly string[]>(`${min} to ${max} distinct names`, (value) => {
    const all: readonly unknown[] = Array.isArray(value) ? value : [];
    const distinct = new Set(all.filter((name) => typeof name === "string" && name !== ""));
    return all.length >= min && all.length <= max && distinct.size === all.length;
  });

const { resize, normalise } = defaultPreprocessing;
const fraction = { min: 0, below: 1, otherwise: "0.15, or 0 with a split.csv" } as const;

export const DATASET = {
  /**
   * Input size of the network: [height, width] (one number for both), [depth, height, width] for volumes, or null for each
   * image's own.
   * @default null
   */
  size: option.orNull(option.anyOf(side, sides)),
  /** See {@link Preprocessing.resize}. @default "stretch" */
  resize: option.oneOf(RESIZES, { default: resize, text: "how the size is reached", arg: "how" }),
  /** See {@link Preprocessing.normalise}; `"percentile"` alone takes percentiles 0.5 and 99.5. @default "zscore" */
  normalise: option.with(option.anyOf(kinds, bounded), {
    default: normalise.kind as Named,
    text: "how intensities are scaled; window:-160,240 makes 0 and 1 of two stored values",
    arg: "how",
  }),
  /** Whether each channel is scaled alone. @default where channels are files of their own */
  perChannel: option.boolean(),
  /** Of volumes that say where they lie: the directions in which x, y and z grow, to which they are turned. @default "RAS" */
  axes: option.with(option.custom<string>("three letters, of R or L, A or P, S or I one each", isAxes), {
    default: "RAS",
    text: "of volumes with a place: where x, y and z grow, to which they are turned",
    arg: "code",
  }),
  /**
   * Of volumes that say where they lie: lengths of a voxel's edges along z, y and x of `axes` in mm, to which they are resampled;
   * `"median"` of all of them, `"native"`: each one's own. @default "median"
   */
  spacing: option.with(
    option.anyOf(option.oneOf(["median", "native"]), option.array(option.number({ above: 0 }), { length: 3 })),
    { default: "median" as const, text: "of volumes with a place: voxels to resample to, in mm, as z,y,x", arg: "how" },
  ),
  /** Of volumes that say where they lie: what is kept of them before they are resampled. @default "none" */
  crop: option.oneOf(CROPS, {
    default: "none",
    text: "of volumes with a place: nonzero cuts off the rim in which every channel is 0",
    arg: "how",
  }),
  /**
   * What {@link Dataset.preprocessing} of another dataset says of volumes, instead of `axes`, `spacing` and `crop`; null where those
   * did not say where they lie, so that ones that do are refused.
   * @default decided here
   */
  grid: option.orNull(option.object<GridPreprocessing>(GRID_PREPROCESSING)),
  /**
   * 1: grey (RGB becomes luma); 3: RGB (grey is repeated); up to 32: images of as many bands.
   * @default as many as `bands`, or as a case has files of channels, else 1
   */
  channels: option.integer({
    min: 1,
    max: 32,
    otherwise: "as many as --bands, or as a case has files, else 1",
    text: "1: grey, 3: RGB, up to 32: images of as many bands",
  }),
  /** Names of the channels, in order. They are recorded; files are not asked for them. @default none */
  bands: names(1, 32),
  /** Number of classes with background, or their names, background first. @default what the masks hold, at least 2 */
  classes: option.anyOf(option.integer({ min: 2, max: 255 }), names(2, 255)),
  /** What the numbers in masks mean: one rule for all of them. @default decided from all masks together */
  labels: option.object<LabelOptions>(LABEL_OPTIONS),
  /** The same as `labels.ignore`. */
  ignoreIndex: LABEL_OPTIONS.ignore,
  /** The same as `labels.scale`. */
  maskValues: LABEL_OPTIONS.scale,
  /** Share of images for "val", in [0, 1). @default 0 */
  valFraction: option.number({ ...fraction, text: "draw the validation split, whole groups at a time" }),
  /** Share of images for "test", in [0, 1). @default 0 */
  testFraction: option.number({ ...fraction, text: "draw the test split" }),
  /** Of the drawing. @default 0 */
  seed: option.integer(),
};

/** Options that every dataset has. */
export interface DatasetOptions extends Values<typeof DATASET> {}

export const FOLDER = {
  ...DATASET,
  /** File name of the table of splits. @default "split.csv", if there is one */
  splitFile: option.string(),
  /** Whether an image without a mask is an error. @default "required" */
  masks: option.oneOf(["required", "optional"]),
  /** Most pixels of an image or mask. @default 100_000_000, of volumes 1_000_000_000 */
  maxPixels: option.integer({ min: 1 }),
  /** What may be asked of DICOM series. */
  dicom: option.object<SeriesOptions>(SERIES_OPTIONS),
  /**
   * Which images are opened; the others need no file. What masks mean does not depend on it: unless `labels.scale` and
   * `classes` are given, all masks of the folder are read for that.
   * @default all
   */
  only: option.callback<(info: Pick<SampleInfo, "id" | "split" | "group">) => boolean>(),
};

/** Options of {@link Dataset.fromFolder}. */
export interface FolderOptions extends Values<typeof FOLDER> {}

export const LOAD = {
  /** Stops before the next image; the promise rejects with `signal.reason`. */
  signal: option.signal(),
  /** Called after each image. */
  onProgress: option.callback<(progress: { done: number; total: number }) => void>(),
  /** Images read at the same time. @default 4 */
  concurrency: option.integer({ min: 1 }),
};

/** Options of {@link Dataset.loadAll}. */
export interface LoadOptions extends Values<typeof LOAD> {}
