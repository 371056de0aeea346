// What is measured of one image: the same for `evaluate` and for `compare`.
import type { NdArray } from "../arrays.js";
import { type Cropped, croppedOf } from "../data/cropped.js";
import { addIgnored, type Ignored } from "../data/labels.js";
import { storedGrid } from "../data/preprocess.js";
import { LayerEnsemblesError } from "../errors.js";
import { type Grid, shearOf, spacingOf, type Units, unitsOf } from "../grid/index.js";
import type { Result } from "../inference/inference.js";
import { type Calibration, calibration, dice, type Quality, type QualityName, quality } from "../metrics/index.js";
import type { Values } from "../options.js";
import { MEASURED, overClasses } from "../quality/quality.js";
import type { ImageRecord } from "../results/comparison.js";
import { COMPARED_MEASURES, type ComparedMeasure, SIZE_MEASURES, type SizeMeasure } from "../results/measures.js";
import type { PredictedDice } from "../scores/predicted-dice.js";
import { recordScores } from "../scores/scores.js";
import { mean, orNull } from "../statistics/spread.js";

/** What counts, how far pixels are apart, and what decides measures beside. */
export interface Scoring extends Values<typeof MEASURED> {
  /** Classes of the network, background included. */
  classes: number;
  /** Foreground classes that are scored, ascending; the others count as background, in truth and prediction. */
  scored: readonly number[];
  /** Label of the truth that does not count. */
  ignoreIndex: number;
  /** One number per axis of the stored image, in mm. @default a volume's own, where it says where it lies; else all is in pixels */
  spacing?: readonly number[];
}

/** All that is measured of one image. Quality is at the stored size, against the stored mask. */
export interface ImageScore extends ImageRecord {
  /** Dice of each kept head's own mask, in depth order, mean over the scored classes; empty where no masks were asked for. */
  headDice: number[];
  /** Of the scored classes, and over them. */
  quality: Quality;
  /** Of this image's pixels; classes that are not scored are part of the background. */
  calibration: Calibration;
  /** Of its lengths and sizes. */
  units: Units;
  /** Of neighbouring pixels along each axis, in mm; null where nobody says. */
  spacing: readonly number[] | null;
  /** With bounds and classes, where the run has a fit. */
  predictedDiceOf?: PredictedDice;
}

/** All foreground classes. */
export function foreground(classes: number): number[] {
  return Array.from({ length: classes - 1 }, (_, c) => c + 1);
}

/**
 * Foreground classes to score, ascending.
 * @param chosen by index; undefined takes all
 * @throws ERR_LE_VALUE for one that is none
 */
export function scoredClasses(chosen: readonly number[] | undefined, classNames: readonly string[]): number[] {
  const classes = chosen ?? foreground(classNames.length);
  const wrong = classes.find((c) => c < 1 || c >= classNames.length);
  if (wrong !== undefined)
    throw new LayerEnsemblesError(
      "ERR_LE_VALUE",
      `Expected foreground classes from 1 to ${classNames.length - 1} (${classNames.slice(1).join(", ")}) to score but received ${wrong}.`,
    );
  return [...new Set(classes)].sort((a, b) => a - b);
}

/** Compares one prediction with its truth, which must be there. */
export function scoreImage(result: Result, scoring: Scoring): ImageScore {
  const { prediction, truth: stored } = result;
  if (!stored) throw new Error("unreachable: datasets for evaluation require masks");
  const { classes, scored, ignoreIndex } = scoring;
  const rule = ruleOf(scoring);
  const spacing = scoring.spacing ?? ownSpacing(result);
  const { mask, truth, probabilities, labels } = withBackground(result, stored, scoring);
  const all = quality(mask, truth, {
    ...{ classes, ignoreIndex, ...rule },
    ...(spacing && { spacing: [...spacing] }),
  });
  const perClass = Object.fromEntries(scored.map((c) => [c, all.perClass[c] as Record<QualityName, number>]));
  const measured = { perClass, ...overClasses(Object.values(perClass)) };
  const of = calibration(probabilities, truth, { ignoreIndex });
  const { image } = measured;
  return {
    id: result.id,
    group: result.group ?? null,
    ...(Object.fromEntries(
      Object.entries(COMPARED_MEASURES).map(([name, measure]) => [
        name,
        orNull(measure in image ? image[measure as QualityName] : of[measure as "nll" | "brier"]),
      ]),
    ) as Record<ComparedMeasure, number | null>),
    classDice: scored.map((c) => orNull(measured.perClass[c]?.dice)),
    classMhd: scored.map((c) => orNull(measured.perClass[c]?.modifiedHausdorff)),
    classSizes: Object.fromEntries(
      SIZE_MEASURES.map((name) => [name, scored.map((c) => orNull(measured.perClass[c]?.[name]))]),
    ) as Record<SizeMeasure, (number | null)[]>,
    ignored: truth.data.length - of.n,
    cropped: result.cropped,
    ece: orNull(of.ece),
    agreements: prediction.aula?.curve ?? null,
    ...recordScores(prediction),
    headDice: labels ? headDice(labels, truth, prediction.heads.length, scoring) : [],
    quality: measured,
    calibration: of,
    units: { ...unitsOf(spacing, truth.shape.length), tolerance: rule.tolerance },
    spacing: spacing ?? null,
    ...(prediction.predictedDice && { predictedDiceOf: prediction.predictedDice }),
  };
}

/** What decides measures, where nothing else is said. */
export function ruleOf(scoring: Values<typeof MEASURED>): Required<Values<typeof MEASURED>> {
  const { tolerance, lesionOverlap, neighbours } = MEASURED;
  return {
    tolerance: scoring.tolerance ?? tolerance.default,
    lesionOverlap: scoring.lesionOverlap ?? lesionOverlap.default,
    neighbours: scoring.neighbours ?? neighbours.default,
  };
}

/** The part of a score that results.json keeps. */
export function recordOf(score: ImageScore): ImageRecord {
  const { headDice, quality, calibration, units, spacing, predictedDiceOf, ...record } = score;
  return record;
}

/** Pixels that do not count, of images that were scored. */
export function ignoredIn(images: readonly { ignored?: number; nll: number | null }[]): Ignored {
  const sum: Ignored = { pixels: 0, images: 0, unlabelled: 0 };
  for (const { ignored = 0, nll } of images) addIgnored(sum, ignored, nll !== null);
  return sum;
}

/** What a network did not see of images that were scored. */
export function croppedIn(images: readonly { cropped?: number }[]): Cropped {
  return croppedOf(images.map(({ cropped = 0 }) => cropped));
}

/** Turns the classes that are not scored into background: labels become 0, their probability the background's. */
export function withBackground(result: Result, truth: NdArray<Uint8Array>, { classes, scored, ignoreIndex }: Scoring) {
  const { mask, probabilities, labels } = result;
  if (scored.length === classes - 1) return { mask, truth, probabilities, labels };
  const left = foreground(classes).filter((c) => !scored.includes(c));
  const become = Uint8Array.from({ length: 256 }, (_, c) => (left.includes(c) ? 0 : c));
  const relabel = (from: NdArray<Uint8Array>, keep?: number) => ({
    data: from.data.map((label) => (label === keep ? label : (become[label] as number))),
    shape: from.shape,
  });
  const pixels = mask.data.length;
  const merged = probabilities.data.slice();
  for (const c of left) {
    for (let i = 0; i < pixels; i++) merged[i] = (merged[i] as number) + (merged[c * pixels + i] as number);
    merged.fill(0, c * pixels, (c + 1) * pixels);
  }
  return {
    mask: relabel(mask),
    truth: relabel(truth, ignoreIndex),
    probabilities: { data: merged, shape: probabilities.shape },
    ...(labels && { labels: relabel(labels) }),
  };
}

/** A sheared grid bends distances by so much of them at most, and is measured by its spacing; one that is more is not. */
const MOST_BENT = 0.002;

/**
 * Distances of a volume's neighbours along its axes; undefined where nobody says them.
 * @throws ERR_LE_DATA for a volume whose axes are not at right angles
 */
export function ownSpacing({ id, placement }: Pick<Result, "id" | "placement">): readonly number[] | undefined {
  const grid = storedGrid(placement);
  return grid ? rightSpacing(grid, id) : undefined;
}

/** The spacing of a grid by which distances are measured. @throws ERR_LE_DATA for axes that are not at right angles */
export function rightSpacing(grid: Grid, id: string): readonly number[] {
  const degrees = shearOf(grid);
  if (Math.sin((degrees * Math.PI) / 180) <= MOST_BENT) return spacingOf(grid);
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected axes at right angles, by which distances in millimetres are measured, for ${id} but received axes up to ${degrees.toFixed(2)} degrees off; resample it, or say --spacing.`,
  );
}

/**
 * The units of all images' lengths and sizes; pixels where there are none.
 * @throws ERR_LE_DATA where some are in millimetres and others in pixels
 */
export function commonUnits(scores: readonly Pick<ImageScore, "id" | "units">[]): Units {
  const [first] = scores;
  if (!first) return unitsOf(undefined, 2);
  const other = scores.find(({ units }) => units.length !== first.units.length || units.size !== first.units.size);
  if (!other) return first.units;
  const [known, unknown] = first.units.length === "mm" ? [first, other] : [other, first];
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected images that all say how far their pixels are apart, or none, but received ${known.id} (lengths in ${known.units.length}, sizes in ${known.units.size}) and ${unknown.id} (${unknown.units.length}, ${unknown.units.size}); say --spacing.`,
  );
}

/** What to say where surface Dice counts nothing but boundaries that coincide; undefined where it does not, and of a tolerance of 0. */
export function describeBlind(
  images: readonly { spacing: readonly number[] | null; units: Units }[],
): string | undefined {
  const least = Math.min(...images.map(({ spacing }) => Math.min(...(spacing ?? [1]))));
  const { tolerance = 0, length } = images[0]?.units ?? {};
  if (!(tolerance > 0 && tolerance < least && Number.isFinite(least))) return undefined;
  return `the tolerance of surface Dice, ${tolerance} ${length}, is less than neighbours are apart (${Number(least.toPrecision(4))} ${length} and more): only boundaries that coincide count; say --tolerance`;
}

function headDice(
  labels: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  heads: number,
  { classes, scored, ignoreIndex }: Scoring,
): number[] {
  const pixels = truth.data.length;
  const flat = { data: truth.data, shape: [pixels] };
  return Array.from({ length: heads }, (_, k) => {
    const mask = { data: labels.data.subarray(k * pixels, (k + 1) * pixels), shape: [pixels] };
    const of = dice(mask, flat, { classes, ignoreIndex });
    return mean(scored.map((c) => of[c] as number));
  });
}
