import { checkPaired } from "../statistics/input.js";

/** A threshold on a confidence: an image is flagged for review where its confidence is below it. */
export interface GateThreshold {
  threshold: number;
  /** Share of the images that are flagged. */
  flagged: number;
  /** Share of the failures that are not flagged; NaN where there are none, or where it is not known what a failure is. */
  unseen: number;
}

/**
 * The threshold that flags a given share of the images: the nearest share that there is, as images of equal confidence are
 * flagged together or not at all; of two as near the smaller.
 * @param confidence n ≥ 1 finite numbers.
 * @param share In [0, 1].
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function thresholdForShare(confidence: ArrayLike<number>, share: number): GateThreshold {
  checkPaired(["confidence", confidence], ["confidence", confidence], 1);
  const cuts = cutsOf(confidence);
  const wanted = share * confidence.length;
  const best = cuts.reduce((chosen, cut) =>
    Math.abs(cut.below - wanted) < Math.abs(chosen.below - wanted) ? cut : chosen,
  );
  return { threshold: best.threshold, flagged: best.below / confidence.length, unseen: Number.NaN };
}

/**
 * The lowest threshold that leaves at most a share of the failures unseen. Where the surest image has failed, that may flag all
 * images; where none has failed it flags none.
 * @param confidence n ≥ 1 finite numbers.
 * @param dice n numbers; an image of NaN, which has no Dice, is neither a failure nor counted among the images.
 * @param tau An image has failed where its Dice is below this.
 * @param unseen In [0, 1]. @default 0.05
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function thresholdForFailures(
  confidence: ArrayLike<number>,
  dice: ArrayLike<number>,
  tau: number,
  unseen = 0.05,
): GateThreshold {
  const known = Array.from({ length: dice.length }, (_, i) => i).filter((i) => !Number.isNaN(dice[i]));
  const of = (values: ArrayLike<number>) =>
    values.length === dice.length ? known.map((i) => values[i] as number) : values;
  checkPaired(["confidence", of(confidence)], ["dice", of(dice)], 1);
  const judged = known.map((i) => confidence[i] as number);
  const failures = known.filter((i) => (dice[i] as number) < tau).map((i) => confidence[i] as number);
  const passed = (threshold: number) => failures.filter((value) => value >= threshold).length;
  const cut = cutsOf(judged).find(({ threshold }) => passed(threshold) <= unseen * failures.length) as Cut;
  return {
    threshold: cut.threshold,
    flagged: cut.below / judged.length,
    unseen: passed(cut.threshold) / failures.length,
  };
}

/** A threshold, and the number of images below it. */
interface Cut {
  threshold: number;
  below: number;
}

/** Below all confidences, between distinct ones, and just above all: from the lowest. */
function cutsOf(confidence: ArrayLike<number>): Cut[] {
  const sorted = Float64Array.from(confidence).sort();
  const cuts = [{ threshold: sorted[0] as number, below: 0 }];
  for (let i = 1; i < sorted.length; i++) {
    const [a, b] = [sorted[i - 1] as number, sorted[i] as number];
    if (a === b) continue;
    const middle = a + (b - a) / 2;
    cuts.push({ threshold: middle > a ? middle : b, below: i });
  }
  const most = sorted.at(-1) as number;
  return [...cuts, { threshold: most + Math.max(1, Math.abs(most)) * 1e-9, below: sorted.length }];
}
