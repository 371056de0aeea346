import type { NdArray } from "../arrays.js";
import { fail } from "../checks.js";
import { FUSIONS, type Fusion, type TrustOptions } from "../fusion/fuse.js";
import type { Heads } from "../fusion/heads.js";
import { checkOptions, defaultsOf, describe, option, type Values } from "../options.js";
import { IGNORE_INDEX, leftOut, UnsaidLabels } from "../quality/ignored.js";
import { spearman } from "../statistics/correlation.js";
import { aurc } from "../statistics/failures.js";
import { spread } from "../statistics/spread.js";
import { type SubsetScore, SubsetScorer } from "./subsets.js";

/** Options of {@link skipCurve}. */
export interface SkipCurveOptions extends TrustOptions {
  /** Label of the truth that is left out; null leaves none out. @default 255 */
  ignoreIndex?: number | null;
  /** @default "mean" */
  fusion?: Fusion;
}

/** Quality of a validation set under one choice of heads. */
export interface QualityPoint {
  /** Mean over the images that have a pixel that counts. */
  nll: number;
  /** Its standard deviation over images (divisor n - 1; NaN for one image). */
  nllSd: number;
  /** Mean over the same images of each one's mean over the foreground classes, in [0, 1]. */
  dice: number;
  /** Its standard deviation over images (divisor n - 1; NaN for one image). */
  diceSd: number;
  /** AURC of AULA, in `tune` of the chosen score, over the same images for the risk 1 - dice; NaN where it is not defined. */
  aurc: number;
}

/** The same, with what tells whether the confidence orders the images. */
export interface RankedPoint extends QualityPoint {
  /** Spearman's correlation of the confidence with Dice; NaN where it is not defined, and where {@link spearman} is. */
  spearman: number;
}

/** A validation set without its first T heads. */
export interface SkipPoint extends QualityPoint {
  /** T. */
  skip: number;
}

/** How one of several points is chosen; every {@link ChooseSkipOptions.rule} that has a name. */
export const RULES = ["nll", "dice", "aurc"] as const;

/** One of {@link RULES}. */
export type Rule = (typeof RULES)[number];

/** What says how a point is chosen. */
export const CHOOSE = {
  /** See {@link ChooseSkipOptions.rule}. @default "nll" */
  rule: option.oneOf(RULES, {
    default: "nll",
    text: "nll or aurc: the lowest among those of nearly the best Dice; dice: the highest",
  }),
  /** How far mean Dice may be below the best. @default 0.005 */
  margin: option.number({ min: 0, default: 0.005, text: "how far mean Dice may be below the best", arg: "d" }),
};

/** Options of {@link chooseSkip}. */
export interface ChooseSkipOptions extends Omit<Values<typeof CHOOSE>, "rule"> {
  /**
   * - `"nll"`: the lowest nll among those whose mean Dice is within `margin` of the best.
   * - `"dice"`: the highest mean Dice; of equals the lowest nll.
   * - `"aurc"`: the lowest AURC of AULA among those whose mean Dice is within `margin` of the best.
   * - a function that gets the points and returns the T of one.
   *
   * Of equals the lower T. @default "nll"
   */
  rule?: Rule | ((curve: readonly SkipPoint[]) => number);
}

/**
 * Quality of a validation set for every number T of first heads that can be left out, 0..K-3: at least three heads remain,
 * as AULA needs. All T cost one pass over the heads, from the last to the first.
 * @param images Logits of all heads (K×C×S or K arrays C×S), and the truth S; at least one image. K ≥ 3 is the same for all.
 * @throws ERR_LE_SHAPE, ERR_LE_OPTION; ERR_LE_VALUE also for what look like probabilities
 */
export function skipCurve(
  images: Iterable<{ heads: Heads; truth: NdArray<Uint8Array> }>,
  options: SkipCurveOptions = {},
): SkipPoint[] {
  const {
    fusion = "mean",
    ignoreIndex: ignored,
    trust = false,
  } = checkOptions("skipCurve", options, {
    trust: option.boolean(),
    ignoreIndex: IGNORE_INDEX,
    fusion: option.oneOf(FUSIONS),
  });
  const ignoreIndex = leftOut(ignored, 2);
  const scores: SubsetScore[][] = [];
  const unsaid = new UnsaidLabels();
  for (const { heads, truth } of images) {
    const argument = `images[${scores.length}].heads`;
    const scorer = new SubsetScorer(argument, heads, truth, { fusion, ignoreIndex, trust });
    const before = scores[0] && scores[0].length + 2;
    if (before === undefined) {
      if (scorer.heads < 3) fail("ERR_LE_SHAPE", argument, "at least 3 heads", `K = ${scorer.heads}`);
    } else if (scorer.heads !== before) {
      fail("ERR_LE_SHAPE", argument, `${before} heads, as before,`, `${scorer.heads}`);
    }
    unsaid.see(`images[${scores.length}].truth`, scorer.truth);
    scores.push(scorer.suffixes());
  }
  if (ignored === undefined) unsaid.check();
  if (scores.length === 0) fail("ERR_LE_SHAPE", "images", "at least one image", "none");
  return curveOf(scores).map(({ spearman: _, ...point }) => point);
}

/** The curve of images whose scores are known for each T. */
export function curveOf(scores: readonly (readonly SubsetScore[])[]): (SkipPoint & RankedPoint)[] {
  const [first = []] = scores;
  return first.map((_, skip) => ({ skip, ...qualityOf(scores.map((image) => image[skip] as SubsetScore)) }));
}

/** What the images' scores come to. */
export function qualityOf(scores: readonly SubsetScore[]): RankedPoint {
  // An image of which no pixel counts has neither.
  const counted = scores.filter((score) => !Number.isNaN(score.dice));
  const nll = spread(counted.map((score) => score.nll));
  const quality = counted.map((score) => score.dice);
  const dice = spread(quality);
  const confidence = counted.map((score) => score.confidence);
  const ranked = counted.length > 0 && !confidence.some(Number.isNaN);
  return {
    nll: nll.mean,
    nllSd: nll.sd,
    dice: dice.mean,
    diceSd: dice.sd,
    aurc: ranked
      ? aurc(
          confidence,
          quality.map((value) => 1 - value),
        )
      : Number.NaN,
    spearman: ranked ? spearman(confidence, quality).rho : Number.NaN,
  };
}

/**
 * How many first heads to leave out.
 * @param curve Of {@link skipCurve}; at least one point, nll and dice finite.
 * @returns T, that of one of the points.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION also for a rule that returns no T of the curve
 */
export function chooseSkip(curve: readonly SkipPoint[], options: ChooseSkipOptions = {}): number {
  const { rule, margin } = {
    ...defaultsOf(CHOOSE),
    ...checkOptions("chooseSkip", options, { ...CHOOSE, rule: option.anyOf(CHOOSE.rule, option.callback()) }),
  };
  if (!Array.isArray(curve) || curve.length === 0) {
    fail("ERR_LE_SHAPE", "curve", "at least one point", describe(curve));
  }
  for (const { skip, nll, dice, aurc } of curve) {
    if (!(Number.isFinite(nll) && Number.isFinite(dice))) {
      fail("ERR_LE_VALUE", "curve", "finite nll and dice", `nll ${nll} and dice ${dice} for T = ${skip}`);
    }
    if (rule === "aurc" && !Number.isFinite(aurc)) {
      fail("ERR_LE_VALUE", "curve", "a finite aurc, as the rule needs it,", `aurc ${aurc} for T = ${skip}`);
    }
  }
  if (typeof rule !== "function") return choose(curve, rule, margin).skip;
  const chosen = rule(curve);
  if (!curve.some(({ skip }) => skip === chosen)) {
    fail("ERR_LE_OPTION", "option 'rule' of chooseSkip", "a function that returns the T of a point", describe(chosen));
  }
  return chosen;
}

/** The point that a rule takes, the first of equals. */
export function choose<P extends QualityPoint>(points: readonly P[], rule: Rule, margin: number): P {
  const best = Math.max(...points.map((point) => point.dice));
  const good = points.filter(({ dice }) => (rule === "dice" ? dice === best : dice >= best - margin));
  const by = rule === "aurc" ? "aurc" : "nll";
  return good.reduce((chosen, point) => (point[by] < chosen[by] ? point : chosen));
}
