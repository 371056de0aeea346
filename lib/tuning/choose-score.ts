// Which score ranks the validation images best: what the gate then looks at.
import { fail } from "../checks.js";
import { checkOptions, option } from "../options.js";
import { SCORE_NAMES, SCORES, type ScoreName } from "../scores/scores.js";
import { bootstrapValues } from "../statistics/bootstrap.js";
import { aurc } from "../statistics/failures.js";
import { spread } from "../statistics/spread.js";

/** A score on the validation images. */
export interface ScoreValidation {
  /** Which. */
  name: ScoreName;
  /** n finite numbers, higher where the result is surer. */
  confidence: ArrayLike<number>;
  /** n finite numbers: 1 - Dice of the same images. */
  risk: ArrayLike<number>;
}

/** How a score ranks the validation images. */
export interface ScoreRanking {
  /** Which. */
  name: ScoreName;
  /** Area under its risk-coverage curve. */
  aurc: number;
  /** How much that is above the least; 0 of the least. */
  above: number;
  /** Standard error of `above`, by paired bootstrap. */
  se: number;
}

/** A score that was chosen, and why. */
export interface ChosenScore {
  /** Which. */
  name: ScoreName;
  /** In words. */
  why: string;
  /** Every score that there is, least AURC first. */
  ranking: ScoreRanking[];
}

/** Options of {@link chooseScore}. */
export interface ChooseScoreOptions {
  /** One name per image, such as its patient: images of one group are drawn together. @default every image alone */
  groups?: readonly (string | number)[];
  /** Of the bootstrap. @default 0 */
  seed?: number;
}

/** Enough for a standard error, which then has one of 5 % itself. */
const RESAMPLES = 200;

/** The simplest first; the others are as simple as they come early in the register, and after them those that are fitted. */
const SIMPLEST: readonly ScoreName[] = ["softDiceConfidence", "softDiceConfidence.final", "aula", "pairwiseAgreement"];
const bySimplicity = [...new Set([...SIMPLEST, ...SCORE_NAMES])];

/**
 * The score of least AURC; where simpler ones are within one standard error of it, the simplest of them. The error is that of the
 * difference of the two, over images (or groups) that are drawn anew for both together.
 * @param scores At least one, all of the same images; their risks may differ, as where each has heads of its own.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function chooseScore(scores: readonly ScoreValidation[], options: ChooseScoreOptions = {}): ChosenScore {
  const { groups, seed = 0 } = checkOptions("chooseScore", options, {
    groups: option.array(option.anyOf(option.string({ empty: true }), option.number())),
    seed: option.integer(),
  });
  if (scores.length === 0) fail("ERR_LE_SHAPE", "scores", "at least one", "none");
  // Simplest first, which of equals is taken.
  const known = [...scores]
    .sort((a, b) => simplicity(a.name) - simplicity(b.name))
    .map((score) => ({ ...score, aurc: aurc(score.confidence, score.risk) }));
  const least = known.reduce((best, score) => (score.aurc < best.aurc ? score : best));
  const ranking = known
    .map((score): ScoreRanking => {
      const { name } = score;
      if (score === least) return { name, aurc: score.aurc, above: 0, se: 0 };
      const differences = bootstrapValues(
        score.confidence.length,
        (images) => aurcOf(score, images) - aurcOf(least, images),
        { resamples: RESAMPLES, seed, ...(groups && { groups }) },
      );
      return { name, aurc: score.aurc, above: score.aurc - least.aurc, se: spread(differences).sd };
    })
    .sort((a, b) => a.aurc - b.aurc);
  const tied = ranking.filter(({ above, se }) => above <= se);
  const { name } = tied.reduce((best, one) => (simplicity(one.name) < simplicity(best.name) ? one : best));
  return { name, why: whyOf(name, least.name, scores.length), ranking };
}

function whyOf(name: ScoreName, least: ScoreName, count: number): string {
  if (count === 1) return "the only one that there is";
  const of = `of ${count} scores`;
  return name === least
    ? `the least AURC ${of}`
    : `the simplest ${of} within one standard error of the least AURC, which ${least} has`;
}

function aurcOf({ confidence, risk }: ScoreValidation, images: Uint32Array): number {
  const at = (values: ArrayLike<number>) => Float64Array.from(images, (i) => values[i] as number);
  return aurc(at(confidence), at(risk));
}

/** Small for a simple one. */
function simplicity(name: ScoreName): number {
  return bySimplicity.indexOf(name) + (SCORES[name].needs.fit ? bySimplicity.length : 0);
}
