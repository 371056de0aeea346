// The Dice that a mask probably has, from what its heads say of it: a fit that was made on images with masks, applied.
import { type NdArray, stridesOf } from "../arrays.js";
import { fail } from "../checks.js";
import { type Isotonic, isotonicAt } from "../statistics/isotonic.js";
import type { MapName } from "../uncertainty/index.js";
import { connectedComponents, eachRow } from "./components.js";
import type { Scored } from "./register.js";

/** Maps whose summaries are among the features. */
export const FEATURE_MAPS = ["entropy", "mutualInformation"] as const satisfies readonly MapName[];

/** What is known of one image's prediction, for each foreground class and for all of them. Plain JSON. */
export interface DiceFeatures {
  /** By foreground class. */
  perClass: Record<number, ClassFeatures>;
  /** Share of the pixels that are foreground; 0 where the mask is empty. */
  volume: number;
}

/** What is known of a class in the prediction. K kept heads. */
export interface ClassFeatures {
  /** Share of the pixels that are predicted as it; 0 where none is. */
  volume: number;
  /** Soft Dice confidence of the fusion, in [0, 1]. */
  softDiceConfidence: number;
  /**
   * Where the heads have an order: agreements a_1..a_{K-1} and AULA / (K-2); for two heads or more pairwise agreement; soft Dice
   * confidence of the fusion and of each head; entropy and, for two heads or more, mutual information in the foreground; the
   * volume, the number of connected parts, and the share of the class's pixels that are on its boundary.
   */
  values: number[];
}

/** How Dice is predicted from the features; plain JSON, as a run's predicted-dice.json has it. */
export interface PredictedDiceFit {
  /** By foreground class. */
  perClass: Record<number, ClassDiceFit>;
  /** Bounds of the mean over the foreground classes. */
  overall: {
    /** Null where there are none. */
    intervals: DiceIntervals | null;
    /** What it is compared with. */
    constant: ConstantDice;
  };
}

/** The fit of a class. */
export interface ClassDiceFit {
  /** What the prediction is made from: soft Dice confidence alone, the baseline, unless all features together do better. */
  by: "softDiceConfidence" | "features";
  /** Of `"features"`: standardised by mean and scale (0: left out), weighted and added to the intercept. */
  ridge: Ridge | null;
  /** Of what `by` gives, to Dice; null where no image of the fit had the class in its mask. */
  isotonic: Isotonic | null;
  /** Dice of images whose mask does not have the class; null where there was none. */
  empty: {
    /** Their mean. */
    dice: number;
    /** How many. */
    cases: number;
  } | null;
  /** Cross-validated mean absolute error of both; the difference has the standard error `se`. Null where there were too few images. */
  error: {
    /** By soft Dice confidence alone. */
    baseline: number;
    /** By all features. */
    features: number | null;
    /** Of the difference. */
    se: number | null;
  } | null;
  /** Null where there are none. */
  intervals: DiceIntervals | null;
  /** What it is compared with. */
  constant: ConstantDice;
}

/** A linear model of standardised features. */
export interface Ridge {
  /** Of each feature. */
  mean: number[];
  /** Standard deviation; 0 for a feature that never differs, which counts nothing. */
  scale: number[];
  /** Of each standardised feature. */
  weights: number[];
  /** Added. */
  intercept: number;
  /** Penalty of the squared weights. */
  penalty: number;
}

/** The distance from predicted to real Dice in so many cases of 1 - α. Bounds hold for cases exchangeable with those that were counted. */
export interface DiceIntervals {
  /** α. */
  alpha: number;
  /**
   * Whose distances: of a calibration split that chose nothing, or of the images of the fit, each predicted by a fit without it
   * (its fold), where coverage is about 1 - α but not promised.
   */
  from: "calibration" | "out-of-fold";
  /** Volumes that part the masks of the fit that are not empty into thirds. */
  thirds: number[];
  /** Of masks without the class. */
  empty: DiceDistances;
  /** Of the others by volume, ascending: three where each has 100 cases, else one. */
  bands: (DiceDistances & {
    /** Largest volume; null: any. */
    upTo: number | null;
  })[];
}

/** Quantiles of distances. */
export interface DiceDistances {
  /** How many. */
  cases: number;
  /** Of how many groups (patients), where some have several. */
  groups?: number;
  /** Of D̂ - D: what to subtract for a lower bound; null where there are too few cases for α. */
  lower: number | null;
  /** Of |D̂ - D|. */
  both: number | null;
}

/** What one would say without looking at the image: the mean Dice, and one width for all. */
export interface ConstantDice {
  /** That mean. */
  dice: number;
  /** Of |D - mean|; null where there are too few cases for α. */
  both: number | null;
}

/** The Dice that a mask, or a class of it, probably has. */
export interface DiceEstimate {
  /** In [0, 1]; null where the fit has seen nothing like it. */
  dice: number | null;
  /** Dice is at least this in 1 - α of cases; null where too few cases were seen for that. */
  lower: number | null;
  /** Dice is between these in 1 - α of cases; null likewise. */
  interval: [low: number, high: number] | null;
}

/** Of one image. */
export interface PredictedDice {
  /** Mean over the foreground classes. */
  overall: DiceEstimate;
  /** By foreground class. */
  perClass: Record<number, DiceEstimate>;
  /** α of the bounds; null without them. */
  alpha: number | null;
  /** Of which images the bounds are: see {@link DiceIntervals}; null without them. */
  from: DiceIntervals["from"] | null;
}

/** What features are read from. */
export type DiceSource = Pick<Scored, "aula" | "pairwiseAgreement" | "softDiceConfidence" | "summaries"> & {
  /** S: ŷ. */
  mask: NdArray<Uint8Array>;
};

/** The features of a prediction, whose summaries have entropy and, for two heads or more, mutual information. */
export function diceFeatures(result: DiceSource): DiceFeatures {
  return featuresOf(result, valuesOf(result));
}

/** What a fit reads of a prediction: all features, or the few that the baseline needs. */
export function featuresFor(fit: PredictedDiceFit, result: DiceSource): DiceFeatures {
  return featuresOf(result, readsFeatures(fit) ? valuesOf(result) : () => []);
}

/** Whether a fit looks at more than soft Dice confidence. */
export function readsFeatures({ perClass }: PredictedDiceFit): boolean {
  return Object.values(perClass).some(({ by }) => by === "features");
}

function featuresOf({ softDiceConfidence, mask }: DiceSource, values: (c: number) => number[]): DiceFeatures {
  const classes = Object.keys(softDiceConfidence.perClass).map(Number);
  const counts = countsOf(mask.data);
  const volumes = classes.map((c) => (counts[c] as number) / mask.data.length);
  return {
    perClass: Object.fromEntries(
      classes.map((c, i): [number, ClassFeatures] => [
        c,
        {
          volume: volumes[i] as number,
          softDiceConfidence: softDiceConfidence.perClass[c] as number,
          values: values(c),
        },
      ]),
    ),
    volume: volumes.reduce((sum, volume) => sum + volume, 0),
  };
}

/** How often each label is there. */
function countsOf(data: Uint8Array): Float64Array {
  // Four tables: one more in a place that was just written waits for it, and neighbours have one label.
  const tables = new Uint32Array(4 * 256);
  for (let i = 0; i < data.length; i++) {
    const at = ((i & 3) << 8) | (data[i] as number);
    tables[at] = (tables[at] as number) + 1;
  }
  return Float64Array.from({ length: 256 }, (_, label) =>
    [0, 256, 512, 768].reduce((n, at) => n + (tables[at + label] as number), 0),
  );
}

/** {@link ClassFeatures.values} by class. */
function valuesOf({ aula, pairwiseAgreement, softDiceConfidence, summaries, mask }: DiceSource) {
  const shapes = shapesOf(mask);
  const several = softDiceConfidence.heads.length > 1;
  const { entropy, mutualInformation } = summaries;
  const maps = [entropy, several ? mutualInformation : undefined].flatMap((map) => (map ? [map.foreground] : []));
  return (c: number): number[] => {
    const { voxels, parts, boundary } = shapes[c] ?? { voxels: 0, parts: 0, boundary: 0 };
    const agreements = aula?.agreements[c] ?? [];
    return [
      ...agreements,
      ...(aula ? [(aula.perClass[c] as number) / (agreements.length - 1)] : []),
      ...(several ? [pairwiseAgreement.perClass[c] as number] : []),
      softDiceConfidence.perClass[c] as number,
      ...softDiceConfidence.heads.map((head) => head.perClass[c] as number),
      ...maps,
      voxels / mask.data.length,
      parts,
      voxels === 0 ? 0 : boundary / voxels,
    ];
  };
}

/** The Dice that a prediction with these features probably has. */
export function predictDice(fit: PredictedDiceFit, features: DiceFeatures): PredictedDice {
  const perClass: PredictedDice["perClass"] = {};
  const dice: (number | null)[] = [];
  for (const [name, of] of Object.entries(features.perClass)) {
    const c = Number(name);
    const own = fit.perClass[c];
    const value = own ? classDice(own, of) : null;
    dice.push(value);
    perClass[c] = estimate(value, own?.intervals ?? null, of.volume);
  }
  const known = dice.filter((value) => value !== null);
  const mean = known.length < dice.length ? null : known.reduce((sum, value) => sum + value, 0) / known.length;
  // All bounds of a fit are of the same images.
  const { intervals } = fit.overall;
  return {
    overall: estimate(mean, intervals, features.volume),
    perClass,
    alpha: intervals?.alpha ?? null,
    from: intervals?.from ?? null,
  };
}

/** The Dice of a class; null where the fit has seen nothing like it. */
export function classDice(
  { by, ridge, isotonic, empty }: Pick<ClassDiceFit, "by" | "ridge" | "isotonic" | "empty">,
  features: ClassFeatures,
): number | null {
  if (features.volume === 0) return empty?.dice ?? null;
  if (!isotonic) return null;
  const { values } = features;
  if (ridge && values.length !== ridge.mean.length)
    fail("ERR_LE_SHAPE", "features", `the ${ridge.mean.length} values of the fit`, `${values.length}`);
  return isotonicAt(isotonic, by === "features" ? ridgeAt(ridge as Ridge, values) : features.softDiceConfidence);
}

/** What a linear model gives. */
export function ridgeAt({ mean, scale, weights, intercept }: Ridge, values: readonly number[]): number {
  return values.reduce((sum, value, j) => {
    const step = scale[j] as number;
    return step === 0 ? sum : sum + ((value - (mean[j] as number)) / step) * (weights[j] as number);
  }, intercept);
}

/** Which distances count for a mask of this volume. */
export function distancesFor({ empty, bands }: DiceIntervals, volume: number): DiceDistances {
  if (volume === 0) return empty;
  return bands.find(({ upTo }) => upTo === null || volume <= upTo) as DiceDistances;
}

function estimate(dice: number | null, intervals: DiceIntervals | null, volume: number): DiceEstimate {
  if (dice === null || !intervals) return { dice, lower: null, interval: null };
  const { lower, both } = distancesFor(intervals, volume);
  const inside = (value: number) => Math.min(1, Math.max(0, value));
  return {
    dice,
    lower: lower === null ? null : inside(dice - lower),
    interval: both === null ? null : [inside(dice - both), inside(dice + both)],
  };
}

/** In a sentence; undefined where nothing is known. */
export function describePredictedDice({ overall: { dice, lower }, alpha, from }: PredictedDice): string | undefined {
  if (dice === null) return undefined;
  const [about, so] = from === "calibration" ? ["", "calibrated"] : ["about ", "not calibrated"];
  const bound =
    lower === null || alpha === null
      ? ""
      : `, at least ${lower.toFixed(2)} in ${about}${inTen(1 - alpha)} cases (${so})`;
  return `This mask's Dice is probably ${dice.toFixed(2)}${bound}`;
}

/** A share as "9 of 10", or in percent. */
function inTen(share: number): string {
  const tens = Math.round(share * 1e9) / 1e8;
  return Number.isInteger(tens) ? `${tens} of 10` : `${Number((100 * share).toPrecision(6))} % of`;
}

/** Of each label: its pixels, connected parts, and pixels with a face neighbour of another label or at the image's border. */
function shapesOf({
  data,
  shape,
}: NdArray<Uint8Array>): Record<number, { voxels: number; parts: number; boundary: number }> {
  const [voxels, boundary] = [new Float64Array(256), new Float64Array(256)];
  const strides = stridesOf(shape);
  eachRow(shape, (start, row, length) => {
    const atBorder = row.some((at, axis) => at === 0 || at === (shape[axis] as number) - 1);
    for (let x = 0; x < length; x++) {
      const i = start + x;
      const label = data[i] as number;
      if (label === 0) continue;
      voxels[label]!++;
      let outside = atBorder || x === 0 || x === length - 1;
      for (let axis = strides.length - 1; !outside && axis >= 0; axis--) {
        const stride = strides[axis] as number;
        outside = data[i - stride] !== label || data[i + stride] !== label;
      }
      if (outside) boundary[label]!++;
    }
  });
  const of: ReturnType<typeof shapesOf> = {};
  for (const label of connectedComponents(data, shape).labels) {
    of[label] ??= { voxels: voxels[label] as number, parts: 0, boundary: boundary[label] as number };
    of[label].parts++;
  }
  return of;
}
