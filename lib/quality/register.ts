// The register of measures of a predicted mask against the true one: each once, with its name, unit, range, text and body.
import { fail } from "../checks.js";
import { pixelSize } from "../grid/units.js";
import { mean, quantile } from "../statistics/spread.js";
import { type LesionCounts, type LesionRule, lesionCounts } from "./lesions.js";
import type { Masks, Region } from "./regions.js";
import { type Distances, distancesOf } from "./surface.js";

/** What decides measures beside the masks. */
export interface MeasureSettings extends Required<LesionRule> {
  /** Of surface Dice, in the unit of lengths. */
  tolerance: number;
  emptyPenalty: "nan" | "half-height";
}

/** The two masks of a class, and what is worked out of them once, when a measure first asks for it. */
export class ClassMasks {
  #distances: Distances | null | undefined;
  #lesions: LesionCounts | undefined;

  constructor(
    readonly masks: Masks,
    readonly index: number,
    readonly region: Region,
    readonly settings: MeasureSettings,
  ) {}

  /** Null where one of the masks is empty. */
  get distances(): Distances | null {
    this.#distances ??= distancesOf(this.masks, this.index, this.region);
    return this.#distances;
  }

  get lesions(): LesionCounts {
    this.#lesions ??= lesionCounts(this.masks, this.index, this.region, this.settings);
    return this.#lesions;
  }
}

/** A measure of one foreground class of one image. */
export interface QualityMeasure {
  /** What a person calls it. */
  readonly title: string;
  /** What it is, in a line. */
  readonly text: string;
  /** A number without a unit, or how many; a length or a size, in units by whether the spacing is known; what depends on the tolerance. */
  readonly unit: "none" | "count" | "length" | "size" | "tolerance";
  /** As documented. */
  readonly range: string;
  /** Absent where it is no matter of better or worse, or the best is in the middle. */
  readonly better?: "high" | "low";
  /** How many are shown. @default 3 */
  readonly decimals?: number;
  /** NaN where it is not defined, and where no pixel counts. */
  of(masks: ClassMasks): number;
}

const overlap = (of: (region: Region) => number): QualityMeasure["of"] => {
  return ({ region }) => {
    const { pixels, predicted, real } = region;
    if (pixels === 0) return Number.NaN;
    return predicted + real === 0 ? 1 : of(region);
  };
};

/** 0 where both masks are empty; where one is, NaN or what `oneEmpty` gives. */
const distance = (of: (distances: Distances) => number, oneEmpty: QualityMeasure["of"] = () => Number.NaN) => {
  return (masks: ClassMasks) => {
    const { pixels, predicted, real } = masks.region;
    if (pixels === 0) return Number.NaN;
    if (masks.distances) return of(masks.distances);
    return predicted + real === 0 ? 0 : oneEmpty(masks);
  };
};

/** What a class that one mask alone has counts. */
const penalty: QualityMeasure["of"] = ({ masks: { shape, spacing }, settings: { emptyPenalty } }) => {
  if (emptyPenalty === "nan") return Number.NaN;
  return ((shape.at(-2) as number) * (spacing.at(-2) as number)) / 2;
};

/** @throws ERR_LE_SHAPE */
export function checkPenalty({ shape }: Masks, { emptyPenalty }: Pick<MeasureSettings, "emptyPenalty">): void {
  if (emptyPenalty === "half-height" && shape.length < 2)
    fail("ERR_LE_SHAPE", "truth", "at least two axes, as emptyPenalty is 'half-height',", shape.join("×"));
}

const size = (of: (region: Region) => number): QualityMeasure["of"] => {
  return ({ masks: { given }, region }) => (region.pixels === 0 ? Number.NaN : of(region) * pixelSize(given));
};

/** Rounding must not decide: `tolerance` may be a step of the spacing. */
const SLACK = 1 + 1e-9;

const near: QualityMeasure["of"] = ({ distances, region, settings }) => {
  if (region.pixels === 0) return Number.NaN;
  if (!distances) return region.predicted + region.real === 0 ? 1 : 0;
  const { pooled } = distances; // ascending
  const within = settings.tolerance * SLACK;
  let count = 0;
  while (count < pooled.length && (pooled[count] as number) <= within) count++;
  return count / pooled.length;
};

const counted = (of: (lesions: LesionCounts) => number): QualityMeasure["of"] => {
  return (masks) => (masks.region.pixels === 0 ? Number.NaN : of(masks.lesions));
};

const share = { unit: "none", range: "[0, 1]", better: "high" } as const;
const length = { unit: "length", range: "≥ 0", better: "low", decimals: 2 } as const;

/** Every measure, in the order of reports. A is the prediction, B the truth. */
export const QUALITY = {
  dice: {
    ...{ ...share, title: "Dice" },
    text: "overlap of prediction and truth, 2·|A∩B| / (|A|+|B|); 1 is the same, 0 is nothing in common",
    of: overlap(({ predicted, real, both }) => (2 * both) / (predicted + real)),
  },
  iou: {
    ...{ ...share, title: "IoU", text: "intersection over union, |A∩B| / |A∪B|" },
    of: overlap(({ predicted, real, both }) => both / (predicted + real - both)),
  },
  surfaceDice: {
    ...{ ...share, unit: "tolerance", title: "surface Dice" },
    text: "share of both boundaries that is within the tolerance of the other one",
    of: near,
  },
  hausdorff: {
    ...{ ...length, title: "Hausdorff distance" },
    text: "largest of the nearest distances between the two boundaries",
    of: distance(({ pooled }) => pooled.at(-1) as number),
  },
  hd95: {
    ...{ ...length, title: "HD95" },
    text: "95th percentile of the nearest distances between the two boundaries",
    of: distance(({ pooled }) => quantile(pooled, 0.95)),
  },
  modifiedHausdorff: {
    ...{ ...length, title: "MHD" },
    text: "modified Hausdorff distance: the larger of the two mean nearest distances between the masks",
    of: distance(({ maskMeans }) => Math.max(...maskMeans), penalty),
  },
  modifiedHausdorffBoundary: {
    ...{ ...length, title: "MHD, boundaries", text: "the same between the boundaries" },
    of: distance(({ boundaryMeans }) => Math.max(...boundaryMeans), penalty),
  },
  assd: {
    ...{ ...length, title: "ASSD", text: "mean of the nearest distances between the two boundaries" },
    of: distance(({ pooled }) => mean(pooled)),
  },
  sensitivity: {
    ...{ ...share, title: "sensitivity", text: "share of the truth that is found" },
    of: ({ region: { both, real } }) => both / real,
  },
  precision: {
    ...{ ...share, title: "precision", text: "share of the prediction that is true" },
    of: ({ region: { both, predicted } }) => both / predicted,
  },
  specificity: {
    ...{ ...share, title: "specificity", text: "share of what is not in the truth that is not predicted" },
    of: ({ region: { pixels, predicted, real, both } }) => (pixels - predicted - real + both) / (pixels - real),
  },
  volumeError: {
    ...{ unit: "none", range: "≥ -1", title: "volume error, relative" },
    text: "volume of the prediction beyond that of the truth, as a share of the truth’s",
    of: ({ region: { predicted, real } }) => (real === 0 ? Number.NaN : (predicted - real) / real),
  },
  volume: {
    ...{ unit: "size", range: "≥ 0", decimals: 2, title: "volume", text: "size of the prediction" },
    of: size(({ predicted }) => predicted),
  },
  trueVolume: {
    ...{ unit: "size", range: "≥ 0", decimals: 2, title: "true volume", text: "size of the truth" },
    of: size(({ real }) => real),
  },
  lesionSensitivity: {
    ...{ ...share, title: "lesions found", text: "share of the truth’s connected parts that are found" },
    of: counted(({ sensitivity }) => sensitivity),
  },
  falsePositives: {
    ...{ unit: "count", range: "≥ 0", better: "low", decimals: 2, title: "false lesions" },
    text: "connected parts of the prediction that are none of the truth; their mean is false positives per case",
    of: counted(({ falsePositives }) => falsePositives),
  },
} as const satisfies Record<string, QualityMeasure>;

/** The measures of `quality`. */
export type QualityName = keyof typeof QUALITY;

/** Every {@link QualityName}, in the order of reports. */
export const QUALITY_NAMES = Object.keys(QUALITY) as QualityName[];
