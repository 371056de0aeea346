// Whether predicted Dice holds: how often the bounds cover the Dice, and how wide they are, beside one width for all images.
import type { Coverage, PredictedDiceCoverage } from "../results/comparison.js";
import { percent } from "../results/format.js";
import { toText } from "../results/table.js";
import { coverageTable } from "../results/tables.js";
import type { ConstantDice, DiceEstimate, PredictedDiceFit } from "../scores/predicted-dice.js";
import { mean } from "../statistics/spread.js";
import type { ImageScore } from "./records.js";

/** @param scored foreground classes; where some are left out, so is what is over all of them */
export function coverageOf(
  scores: readonly ImageScore[],
  fit: PredictedDiceFit,
  { classNames, scored }: { classNames: readonly string[]; scored: readonly number[] },
): PredictedDiceCoverage | null {
  const { intervals, constant } = fit.overall;
  if (!intervals) return null;
  const all = scored.length === classNames.length - 1;
  const overall = scores.map(({ dice, predictedDiceOf }) => pair(dice, predictedDiceOf?.overall));
  const classes = scored.map((c, i) => {
    const pairs = scores.map(({ classDice, predictedDiceOf }) => pair(classDice[i], predictedDiceOf?.perClass[c]));
    return [classNames[c] as string, coverage(pairs, fit.perClass[c]?.constant ?? constant)] as const;
  });
  return {
    alpha: intervals.alpha,
    from: intervals.from,
    of: { ...(all && { "": coverage(overall, constant) }), ...(scored.length > 1 && Object.fromEntries(classes)) },
  };
}

interface Pair extends DiceEstimate {
  real: number;
}

function pair(real: number | null | undefined, estimate: DiceEstimate | undefined): Pair[] {
  const known = real !== null && real !== undefined && !Number.isNaN(real) && estimate && estimate.dice !== null;
  return known ? [{ ...estimate, real }] : [];
}

function coverage(nested: readonly Pair[][], constant: ConstantDice): Coverage {
  const pairs = nested.flat();
  const meanOf = (values: readonly number[]) => (values.length === 0 ? null : mean(values));
  const bounded = pairs.flatMap(({ lower, real }) => (lower === null ? [] : [Number(real >= lower)]));
  const inside = pairs.flatMap(({ interval, real }) =>
    interval ? [{ hit: Number(real >= interval[0] && real <= interval[1]), width: interval[1] - interval[0] }] : [],
  );
  const { dice, both } = constant;
  const [low, high] = [Math.max(0, dice - (both ?? 0)), Math.min(1, dice + (both ?? 0))];
  return {
    images: pairs.length,
    error: meanOf(pairs.map((one) => Math.abs((one.dice as number) - one.real))),
    constantError: meanOf(pairs.map(({ real }) => Math.abs(dice - real))),
    lower: meanOf(bounded),
    interval: meanOf(inside.map(({ hit }) => hit)),
    width: meanOf(inside.map(({ width }) => width)),
    constantInterval: both === null ? null : meanOf(pairs.map(({ real }) => Number(real >= low && real <= high))),
    constantWidth: both === null ? null : high - low,
  };
}

/** For the terminal. */
export function describeCoverage({ alpha, from, of }: PredictedDiceCoverage): string {
  const table = toText(coverageTable(Object.entries(of).map(([name, row]) => ({ name, ...row }))));
  const source = from === "calibration" ? "a calibration split" : "validation images, each left out of the fit";
  return `${table}Bounds are to hold in ${percent(1 - alpha)} of the images; they are of ${source}.\n`;
}
