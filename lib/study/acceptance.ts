// What a certificate would accept, and whether it would keep its promise: calibrated on one half of the images, tried on the other.
import { certify, type RuleName, scoreThresholds } from "../certificate/index.js";
import { Random } from "../random.js";
import type { AcceptanceCurve, AcceptancePoint } from "../results/comparison.js";
import type { ScoreName } from "../scores/scores.js";
import { mean, quantile } from "../statistics/spread.js";
import type { Units } from "./resampling.js";

/** Promises that are tried, α. */
const ALPHAS = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5] as const;

/** δ. */
const DELTA = 0.1;

/** How often the images are halved. */
const HALVES = 100;

/** Images, one entry each. */
export interface AcceptanceCases {
  /** Higher where surer; -Infinity for an image that no threshold accepts. */
  confidence: Float64Array;
  /** NaN for an image that has none: it is left out. */
  dice: Float64Array;
  /** What is on one side of a halving together. */
  units: Units;
}

/** One half's images. */
interface Half {
  confidence: Float64Array;
  dice: Float64Array;
  groups: number[];
}

/**
 * The share that a certificate of one random half accepts of the other, by what is promised. The thresholds that it tests are of the
 * other half's confidences, of which no Dice is asked. Null where there are fewer than two units, and for a τ of 0 or 1.
 */
export function acceptanceCurve(
  score: ScoreName,
  { confidence, dice, units }: AcceptanceCases,
  { tau, seed }: { tau: number; seed: number },
): AcceptanceCurve | null {
  const known = Array.from(dice.keys()).filter((i) => !Number.isNaN(dice[i] as number));
  const ids = [...new Set(known.map((i) => units.of[i] as number))];
  // No certificate is of a Dice that every image has, or none.
  if (ids.length < 2 || !(tau > 0 && tau < 1)) return null;
  const rule: RuleName = ids.length < known.length ? "betting" : "conditional";
  const random = new Random(seed);
  const halves = Array.from({ length: HALVES }, () => {
    const first = new Set(random.shuffled(ids).slice(0, ids.length >> 1));
    const half = (isFirst: boolean): Half => {
      const own = known.filter((i) => first.has(units.of[i] as number) === isFirst);
      return {
        confidence: Float64Array.from(own, (i) => confidence[i] as number),
        dice: Float64Array.from(own, (i) => dice[i] as number),
        groups: own.map((i) => units.of[i] as number),
      };
    };
    return { cases: half(true), other: half(false) };
  });
  const points = ALPHAS.map((alpha): AcceptancePoint => {
    const tried = halves.map(({ cases, other }) => {
      const thresholds = scoreThresholds(other.confidence);
      const found = certify(cases, { alpha, delta: DELTA, tau, rule, seed, thresholds });
      return found.certified ? accepted(other, found.threshold, tau) : { share: 0, failed: 0 };
    });
    const failed = Float64Array.from(tried, (one) => one.failed).sort();
    return {
      alpha,
      accepted: mean(tried.map(({ share }) => share)),
      failed: mean(failed),
      failedHigh: quantile(failed, 1 - DELTA),
    };
  });
  return { score, rule, tau, delta: DELTA, halves: HALVES, points };
}

/** The share that a threshold accepts, and of these the share that failed: a promise about none is kept. */
function accepted({ confidence, dice }: Half, threshold: number, tau: number): { share: number; failed: number } {
  const taken = dice.filter((_, i) => (confidence[i] as number) >= threshold);
  const failures = taken.filter((value) => value < tau).length;
  return { share: taken.length / dice.length, failed: taken.length === 0 ? 0 : failures / taken.length };
}
