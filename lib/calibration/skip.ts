import { aula } from "../agreement/index.js";
import type { NdArray } from "../arrays.js";
import { argmax, FUSIONS, type Fusion, fuse, labelMaps, skipHeads } from "../fusion/fuse.js";
import { fail, type Heads, headViews } from "../fusion/input.js";
import { nll } from "../metrics/likelihood.js";
import { dice } from "../metrics/overlap.js";
import { checkOptions, describe, option } from "../options.js";
import { aurc } from "../statistics/failures.js";

/** Options of {@link skipCurve}. */
export interface SkipCurveOptions {
  /** Label of the truth that is left out. @default 255 */
  ignoreIndex?: number;
  /** @default "mean" */
  fusion?: Fusion;
}

/** A validation set without its first T heads. */
export interface SkipPoint {
  /** T. */
  skip: number;
  /** Mean over the images, and standard deviation (divisor n - 1; NaN for one image). */
  nll: number;
  nllSd: number;
  /** Of each image's mean over the foreground classes; the same. */
  dice: number;
  diceSd: number;
  /** AURC of AULA for the risk 1 - dice. */
  aurc: number;
}

/** Options of {@link chooseSkip}. */
export interface ChooseSkipOptions {
  /**
   * - `"nll"`: the lowest nll among those whose mean Dice is within `margin` of the best.
   * - `"dice"`: the highest mean Dice.
   * - a function that gets the points and returns the T of one.
   *
   * Of equals the lower T. @default "nll"
   */
  rule?: "nll" | "dice" | ((curve: readonly SkipPoint[]) => number);
  /** @default 0.005 */
  margin?: number;
}

/**
 * Quality of a validation set for every number T of first heads that can be left out, 0..K-3: at least three heads remain,
 * as AULA needs.
 * @param images Logits of all heads (K×C×S or K arrays C×S), and the truth S; at least one image. K ≥ 3 is the same for all.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function skipCurve(
  images: Iterable<{ heads: Heads; truth: NdArray<Uint8Array> }>,
  options: SkipCurveOptions = {},
): SkipPoint[] {
  checkOptions("skipCurve", options, {
    ignoreIndex: option.integer({ min: 0, max: 255 }),
    fusion: option.oneOf(FUSIONS),
  });
  const { ignoreIndex = 255, fusion = "mean" } = options;
  const scores: { nll: number; dice: number; aula: number }[][] = [];
  let count = 0;
  for (const { heads, truth } of images) {
    const { views, classes } = headViews(`images[${count}].heads`, heads);
    if (count === 0) {
      if (views.length < 3) fail("ERR_LE_SHAPE", "images[0].heads", "at least 3 heads", `K = ${views.length}`);
      for (let skip = 0; skip <= views.length - 3; skip++) scores.push([]);
    } else if (views.length !== scores.length + 2) {
      fail("ERR_LE_SHAPE", `images[${count}].heads`, `${scores.length + 2} heads, as before,`, `${views.length}`);
    }
    scores.forEach((of, skip) => {
      const kept = skipHeads(heads, skip);
      const fused = fuse(kept, { fusion });
      const overlap = Object.values(dice(argmax(fused), truth, { classes, ignoreIndex }));
      of.push({
        nll: nll(fused, truth, { ignoreIndex }),
        dice: overlap.reduce((sum, value) => sum + value, 0) / overlap.length,
        aula: aula(labelMaps(kept), classes).value,
      });
    });
    count++;
  }
  if (count === 0) fail("ERR_LE_SHAPE", "images", "at least one image", "none");
  return scores.map((of, skip) => {
    const likelihood = spread(of.map((score) => score.nll));
    const overlap = spread(of.map((score) => score.dice));
    return {
      skip,
      nll: likelihood.mean,
      nllSd: likelihood.sd,
      dice: overlap.mean,
      diceSd: overlap.sd,
      aurc: aurc(
        of.map((score) => score.aula),
        of.map((score) => 1 - score.dice),
      ),
    };
  });
}

/**
 * How many first heads to leave out.
 * @param curve Of {@link skipCurve}; at least one point, nll and dice finite.
 * @returns T, that of one of the points.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION also for a rule that returns no T of the curve
 */
export function chooseSkip(curve: readonly SkipPoint[], options: ChooseSkipOptions = {}): number {
  checkOptions("chooseSkip", options, {
    rule: option.anyOf(option.oneOf(["nll", "dice"]), option.callback()),
    margin: option.number({ min: 0 }),
  });
  const { rule = "nll", margin = 0.005 } = options;
  if (!Array.isArray(curve) || curve.length === 0) {
    fail("ERR_LE_SHAPE", "curve", "at least one point", describe(curve));
  }
  for (const { skip, nll, dice } of curve) {
    if (!(Number.isFinite(nll) && Number.isFinite(dice))) {
      fail("ERR_LE_VALUE", "curve", "finite nll and dice", `nll ${nll} and dice ${dice} for T = ${skip}`);
    }
  }
  if (typeof rule === "function") {
    const chosen = rule(curve);
    if (!curve.some(({ skip }) => skip === chosen)) {
      fail(
        "ERR_LE_OPTION",
        "option 'rule' of chooseSkip",
        "a function that returns the T of a point",
        describe(chosen),
      );
    }
    return chosen;
  }
  const best = Math.max(...curve.map((point) => point.dice));
  const good =
    rule === "dice" ? curve.filter(({ dice }) => dice === best) : curve.filter(({ dice }) => dice >= best - margin);
  return good.reduce((chosen, point) => (point.nll < chosen.nll ? point : chosen)).skip;
}

function spread(values: readonly number[]): { mean: number; sd: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, sd: values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : Number.NaN };
}
