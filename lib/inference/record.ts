import type { NdArray } from "../arrays.js";
import type { Orientation } from "../data/orientation.js";
import { type Placement, storedGrid } from "../data/preprocess.js";
import { unlikeRange } from "../data/volume.js";
import type { Prediction } from "../ensemble/prediction.js";
import { type Affine, type Grid, orientationOf, spacingOf, voxelVolumeOf } from "../grid/index.js";
import type { RunNotes } from "../runs/notes.js";
import { describePredictedDice } from "../scores/predicted-dice.js";
import { recordScores, type ScoreValues } from "../scores/scores.js";
import { type PixelSets, type SetName, setSizes } from "../sets/index.js";

/** Where a volume lies, and how large what was found in it is. Plain JSON. */
export interface PlaceRecord {
  /** Where x, y and z grow as stored, such as LPS. */
  orientation: string;
  /** Lengths of a voxel's edges along z, y and x, in mm. */
  spacing: readonly [z: number, y: number, x: number];
  /** From voxels x, y and z to mm in RAS+. */
  affine: Affine;
  /** Volume of each class in ml. */
  ml: Record<string, number>;
  /** In what it is unlike the training's volumes, a sentence each: a reason to have a person look. */
  unlikeTraining: string[];
}

/** In what a volume's axes or voxels lie outside of what the training had, a sentence each; nothing where nobody knows. */
export function unlikeTraining(placement: Placement, { preprocessing, data }: RunNotes): string[] {
  const grid = storedGrid(placement);
  const { axes } = preprocessing.grid ?? {};
  return grid && axes && data.grids ? unlikeRange(grid, data.grids, axes) : [];
}

/** What a gate is asked about: a result, and in what its volume lies outside of what the training had. */
export type Gated<T> = T & { unlikeTraining: readonly string[] };

/** What a gate is asked about a result: of a volume it also looks at where it lies. Services and certificates ask in the same way. */
export function gated<T extends object>(prediction: T, placement: Placement, notes: RunNotes): Gated<T> {
  return { ...prediction, unlikeTraining: unlikeTraining(placement, notes) };
}

/** Of a voxel. */
export function millilitresOf(grid: Grid): number {
  return voxelVolumeOf(grid) / 1000;
}

/**
 * Where a volume lies, as its file says; undefined where it does not, and for images.
 * @param areas voxels of each class
 */
export function placeRecord(placement: Placement, areas: readonly number[], notes: RunNotes): PlaceRecord | undefined {
  const grid = storedGrid(placement);
  if (!grid) return undefined;
  const millilitres = millilitresOf(grid);
  return {
    orientation: orientationOf(grid),
    spacing: spacingOf(grid),
    affine: grid.affine,
    ml: Object.fromEntries(notes.classNames.map((name, c) => [name, (areas[c] ?? 0) * millilitres])),
    unlikeTraining: unlikeTraining(placement, notes),
  };
}

/** What a prediction says in numbers, as plain JSON. */
export type PredictionRecord = ReturnType<typeof predictionRecord>;

/** A mask's shape, H×W or D×H×W, and its pixels by class. */
export interface Extent {
  /** H×W, or D×H×W. */
  shape: readonly number[];
  /** Pixels (voxels) of each class, by its index. */
  areas: number[];
  /** The image file's EXIF orientation, where it has one. */
  orientation?: Orientation;
  /** Share of the stored image that the network did not see, in [0, 1). */
  cropped: number;
  /** Pixels (voxels) of inner and outer masks, by class index, where they were asked for. */
  sets?: Record<number, Partial<Record<SetName, number>>>;
}

/**
 * Counts the pixels of each class.
 * @param of what is known of its image
 * @param sets its inner and outer masks, where they were asked for
 */
export function extentOf(
  { data, shape }: NdArray<Uint8Array>,
  classes: number,
  { cropped, orientation }: { cropped: number; orientation?: Orientation | undefined },
  sets?: Readonly<Record<number, PixelSets>>,
): Extent {
  const areas = new Array<number>(classes).fill(0);
  for (const label of data) areas[label] = (areas[label] ?? 0) + 1;
  const sizes = sets && Object.fromEntries(Object.entries(sets).map(([c, of]) => [c, setSizes(of)]));
  return { shape, areas, cropped, ...(orientation && { orientation }), ...(sizes && { sets: sizes }) };
}

/**
 * A prediction's numbers as plain JSON, classes by name.
 * @param extent Of the mask at the stored image's size.
 */
export function predictionRecord(
  prediction: Omit<Prediction, "mask" | "maps">,
  { shape, areas, cropped, orientation, sets }: Extent,
  classNames: readonly string[],
) {
  const byName = <T>(perClass: Readonly<Record<number, T>>) =>
    Object.fromEntries(Object.entries(perClass).map(([c, value]) => [classNames[Number(c)] ?? c, value]));
  const { aula, pairwiseAgreement, predictionDepth, softDiceConfidence, predictedDice = null } = prediction;
  const { empty, uncertainty, ...scores } = recordScores(prediction);
  return {
    ...(shape.length === 3 && {
      /** Of a volume's mask, at the stored size. */
      depth: shape[0],
      /** Share of the volume that the network did not see, in [0, 1): what is beyond its input is background, and scores and predicted Dice are of the rest. */
      cropped,
    }),
    /** Of the mask, at the stored image's size. */
    height: shape.at(-2),
    /** Likewise. */
    width: shape.at(-1),
    ...(orientation && {
      /** EXIF orientation of the image's file, in whose order mask, probabilities and maps are. */
      orientation,
    }),
    /** Pixels (voxels) of each class. */
    area: byName(Object.fromEntries(areas.entries())),
    ...(sets && {
      /** Pixels (voxels) that are surely of each foreground class, and that perhaps are. */
      sets: byName(sets),
    }),
    ...(prediction.tiles && {
      /** How it was made by tiles; where the run's own predictions are not, predicted Dice and the distance from the training's images are left out. */
      tiles: prediction.tiles,
    }),
    /** Names of the kept heads, in depth order. */
    heads: prediction.heads,
    /** Area under layer agreement; null where it is not defined. */
    aula: aula && {
      /** In [0, K - 2]. */
      value: aula.value,
      /** The value over K - 2, in [0, 1]. */
      normalised: aula.normalised,
      /** The value of each foreground class alone. */
      perClass: byName(aula.perClass),
      /** Of each foreground class: Dice of neighbouring heads, in depth order. */
      agreements: byName(aula.agreements),
      /** Least-squares slope of the agreements over depth, in [-1, 1]. */
      slope: {
        /** Over the classes that a head finds. */
        value: aula.slope.value,
        /** Each foreground class alone. */
        perClass: byName(aula.slope.perClass),
      },
      /** Whether no head finds any foreground, so that AULA is full by definition. */
      empty: aula.empty,
    },
    /** Mean Dice over all pairs of heads. */
    pairwiseAgreement: {
      /** Mean over the foreground classes. */
      overall: pairwiseAgreement.overall,
      /** Each foreground class alone. */
      perClass: byName(pairwiseAgreement.perClass),
    },
    /** Where in depth the prediction settles; null where it is not defined. */
    predictionDepth: predictionDepth && {
      /** Mean over the foreground classes. */
      mean: predictionDepth.mean,
      /** Each foreground class alone. */
      perClass: byName(predictionDepth.perClass),
    },
    /** Soft Dice of the probabilities with their own mask. */
    softDiceConfidence: {
      /** Mean over the foreground classes. */
      overall: softDiceConfidence.overall,
      /** Each foreground class alone. */
      perClass: byName(softDiceConfidence.perClass),
      /** The same of each kept head's own probabilities and mask. */
      heads: softDiceConfidence.heads.map(({ overall, perClass }) => ({
        /** Mean over the foreground classes. */
        overall,
        /** Each foreground class alone. */
        perClass: byName(perClass),
      })),
    },
    /** The Dice that the mask probably has, at the network's input size; null without a fit for it. */
    predictedDice: predictedDice && {
      /** Mean over the foreground classes, with bounds. */
      overall: predictedDice.overall,
      /** Each foreground class alone. */
      perClass: byName(predictedDice.perClass),
      /** The bounds hold in 1 - α of cases; null without any. */
      alpha: predictedDice.alpha,
      /** Of which images they are: of a calibration split, or of those of the fit, each left out of it; null without them. */
      from: predictedDice.from,
      /** For people; null where nothing is known. */
      sentence: describePredictedDice(predictedDice) ?? null,
    },
    /** How far the image is from those of the training; null where the run does not know them. */
    tapDistance: prediction.tapDistance && {
      /** Mean rank over the chosen layers, in [0, 1]. */
      value: prediction.tapDistance.value,
      /** The largest of these ranks. */
      max: prediction.tapDistance.max,
      /** How far above validation's distances, in their standard deviations; null for features that are not finite. */
      excess: finite(prediction.tapDistance.excess),
      /** Each layer's distance, and its rank in validation. */
      taps: Object.fromEntries(
        Object.entries(prediction.tapDistance.taps).map(([tap, { distance, rank }]) => [
          tap,
          {
            /** By the fit's measure; null for features that are not finite. */
            distance: finite(distance),
            /** Share of the validation images that are nearer. */
            rank,
          },
        ]),
      ),
    },
    /** Whether no kept head finds any foreground. */
    empty,
    /** Every score of the result as a whole, null where it is not defined. */
    scores: scores as ScoreValues,
    /** Image-level summaries of each map that was asked for. */
    summaries: prediction.summaries,
  };
}

/** Null for what JSON has no number for. */
function finite(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}
