// The scores of an image: what ranks images, gates them, and is tuned, compared, drawn, served and exported. A new score is
// one entry here, and, where a result does not hold it yet, the computing of its value.
import type { Aula, PairwiseAgreement, PredictionDepth } from "../agreement/index.js";
import type { TapDistance } from "../shift/index.js";
import {
  MAP_NAMES,
  MAPS,
  type MapName,
  type MapSummary,
  type SoftDiceConfidences,
  SUMMARIES,
} from "../uncertainty/index.js";
import type { PredictedDice } from "./predicted-dice.js";

/** What scores are read from: one image's result, be it a prediction or the score of given heads. */
export interface Scored {
  /** Whether no kept head of any member finds any foreground: agreement is then about nothing, and full by definition. */
  empty: boolean;
  /** Null where it is not defined: with fewer than three heads, and for heads that have no order in depth. */
  aula: Aula | null;
  /** Mean Dice over all pairs of heads; NaN for a single head. */
  pairwiseAgreement: PairwiseAgreement;
  /** Where in depth the prediction settles; null where it is not defined. */
  predictionDepth: PredictionDepth | null;
  /** Soft Dice of the fused probabilities with their own mask, and of each head's with its own. */
  softDiceConfidence: SoftDiceConfidences;
  /** The Dice that the mask probably has; where the run has a fit for it. */
  predictedDice?: PredictedDice;
  /** Image-level summaries of the maps that there are. */
  summaries: Partial<Record<MapName, MapSummary>>;
  /** How far the image is from those of the training; null or left out without a fit in the run. */
  tapDistance?: TapDistance | null;
}

/** A score of an image. K kept heads, C classes. */
export interface ScoreEntry {
  /** As tables, axes and pages call it. */
  title: string;
  /** The same over a narrow column. @default its title */
  short?: string;
  /** What it is, in a sentence. */
  text: string;
  /** Between which bounds it lies. */
  range: readonly [low: number, high: number | string];
  /** Which values are of surer results. */
  surer: "high" | "low";
  /** What a method must have for it. */
  needs: {
    /** How many. */
    heads: number;
    /** Whether they need an order in depth, as only those of a Layer Ensemble have. */
    ordered?: boolean;
    /** What must have been fitted to validation images, and be in the run. */
    fit?: boolean;
  };
  /** Of its values, where they have one. */
  unit?: string;
  /** How many of its values are shown. @default 3 */
  decimals?: number;
  /** The score that has the same order of images, where they are ranked: this one is left out there. */
  ranksAs?: string;
  /** The map that it is a summary of, where it is one. */
  map?: MapName;
  /** Whether the alarm over a service's cases watches it, whatever score decides. @default false */
  watched?: boolean;
  /** Whether a comparison of methods has it. @default true */
  compared?: boolean;
  /** Its value; NaN or undefined where it is not defined. */
  of(result: Scored): number | undefined;
}

/** Scores of a result as a whole. */
export const IMAGE_SCORES = {
  aula: {
    title: "AULA",
    text: "Area under layer agreement: how much neighbouring heads agree, from the first on",
    range: [0, "K - 2"],
    surer: "high",
    needs: { heads: 3, ordered: true },
    of: ({ aula }) => aula?.value,
  },
  aulaNormalised: {
    title: "AULA, normalised",
    short: "normalised",
    text: "AULA / (K - 2)",
    range: [0, 1],
    surer: "high",
    needs: { heads: 3, ordered: true },
    ranksAs: "aula",
    compared: false,
    of: ({ aula }) => aula?.normalised,
  },
  aulaSlope: {
    title: "slope of layer agreement",
    short: "slope",
    text: "Least-squares slope of the agreement of neighbouring heads over depth",
    range: [-1, 1],
    surer: "low",
    needs: { heads: 3, ordered: true },
    compared: false,
    of: ({ aula }) => aula?.slope.value,
  },
  pairwiseAgreement: {
    title: "pairwise agreement",
    short: "agreement",
    text: "Mean Dice over all pairs of heads",
    range: [0, 1],
    surer: "high",
    needs: { heads: 2 },
    unit: "Dice",
    of: ({ pairwiseAgreement }) => pairwiseAgreement.overall,
  },
  softDiceConfidence: {
    title: "soft Dice confidence",
    short: "soft Dice",
    text: "Soft Dice of the fused probabilities with their own mask",
    range: [0, 1],
    surer: "high",
    needs: { heads: 1 },
    of: ({ softDiceConfidence }) => softDiceConfidence.overall,
  },
  "softDiceConfidence.final": {
    title: "soft Dice confidence of the last head",
    short: "soft Dice, last",
    text: "Soft Dice of the last head's probabilities with its own mask",
    range: [0, 1],
    surer: "high",
    needs: { heads: 1 },
    of: ({ softDiceConfidence }) => softDiceConfidence.heads.at(-1)?.overall,
  },
  predictedDice: {
    title: "predicted Dice",
    text: "The Dice that the mask probably has, by a fit to validation images",
    range: [0, 1],
    surer: "high",
    needs: { heads: 1, fit: true },
    unit: "Dice",
    compared: false,
    of: ({ predictedDice }) => predictedDice?.overall.dice ?? undefined,
  },
  predictionDepth: {
    title: "prediction depth",
    short: "depth",
    text: "Where in depth the agreement of neighbouring heads settles",
    range: [1, "K - 1"],
    surer: "low",
    needs: { heads: 2, ordered: true },
    compared: false,
    of: ({ predictionDepth }) => predictionDepth?.mean,
  },
  tapDistance: {
    title: "distance from the training",
    short: "distance",
    text: "How far the image's features are from those of the training's images, ranked in validation",
    range: [0, 1],
    surer: "low",
    needs: { heads: 1, fit: true },
    watched: true,
    of: ({ tapDistance }) => tapDistance?.value,
  },
} as const satisfies Record<string, ScoreEntry>;

/** How the pixels of a map come to one number. */
const OVER = {
  sum: { title: "sum over pixels", times: "N ", text: "over all pixels, N of them" },
  mean: { title: "mean over pixels", times: "", text: "over all pixels" },
  foreground: { title: "mean over foreground", times: "", text: "over the pixels predicted as foreground" },
} as const;

/** Maps of which a comparison of methods has a summary. */
export const COMPARED_MAPS = ["entropy", "mutualInformation", "variance"] as const satisfies readonly MapName[];

/** Scores that are summaries of a pixel map: see {@link MapSummary}. */
export const MAP_SCORES = Object.fromEntries(
  MAP_NAMES.flatMap((map) =>
    SUMMARIES.map((summary): [string, ScoreEntry] => {
      const { title, most, heads, ...more } = MAPS[map];
      const { times, ...over } = OVER[summary];
      return [
        `${map}.${summary}`,
        {
          title: `${title}, ${over.title}`,
          short: `${title}, ${summary}`,
          text: `${summary === "sum" ? "Sum" : "Mean"} of the map ${map} ${over.text}`,
          range: [0, times + most.text],
          surer: "low",
          needs: { heads },
          ...("unit" in more && { unit: more.unit }),
          decimals: 4,
          map,
          of: ({ summaries }) => summaries[map]?.[summary],
        },
      ];
    }),
  ),
) as Record<`${MapName}.${keyof MapSummary}`, ScoreEntry>;
