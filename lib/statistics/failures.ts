// Does a confidence find the failures? n images; a high confidence should mean a low risk. Images with equal confidence
// cannot be told apart: no result depends on the order in which they are given.
import { fail } from "../checks.js";
import { checkOptions, describe, option } from "../options.js";
import { ranks } from "./correlation.js";
import { checkPaired } from "./input.js";
import { mean } from "./spread.js";

/** What remains when only the images with a confidence of at least some threshold are kept, from all to none. */
export interface RiskCoverage {
  /** Share of the images that is kept: from 1 down to 0. */
  coverage: number[];
  /** Mean risk of those kept; at coverage 0 the last one again. */
  risk: number[];
  /** Sum of the risk of those kept, divided by n; at coverage 0 it is 0. */
  generalisedRisk: number[];
}

/** Options of {@link qualityControlCurve}. */
export interface QualityControlOptions {
  /** τ: an image has failed where its Dice is below this. In [0, 1]. */
  tau: number;
  /** How many fractions, evenly from 0 to 1, the curve is given at; at least 2. @default 21 */
  points?: number;
}

/** Failures that stay unseen when the images of lowest confidence are flagged for review. */
export interface QualityControlCurve {
  /** Flagged share of the images. */
  f: number[];
  /** Failed images that are not flagged, as a share of all images. */
  y: number[];
  /** The same, flagging at random. */
  random: number[];
  /** The same, flagging failures first. */
  ideal: number[];
  /** Exact area under `y`, not only between the points given. */
  area: number;
  /** The same under `random`. */
  areaRandom: number;
  /** The same under `ideal`. */
  areaIdeal: number;
  /** The smallest f that leaves at most 5 % of the failures unseen. */
  remaining5: number;
}

/** Images of equal confidence. */
interface Group {
  /** Images in this group and all before it, in the order of sorting. */
  count: number;
  /** Sum of the risk of these. */
  risk: number;
}

/**
 * Risk-coverage points: one per distinct confidence, and the end at coverage 0.
 * @param confidence n ≥ 1 finite numbers.
 * @param risk n finite numbers, such as 1 - Dice, or 1 for a failure and 0 for none.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function riskCoverage(confidence: ArrayLike<number>, risk: ArrayLike<number>): RiskCoverage {
  checkPaired(["confidence", confidence], ["risk", risk], 1);
  const n = risk.length;
  const points = groups(confidence, risk, "highest first").reverse();
  const means = points.map((group) => group.risk / group.count);
  return {
    coverage: [...points.map((group) => group.count / n), 0],
    risk: [...means, means.at(-1) as number],
    generalisedRisk: [...points.map((group) => group.risk / n), 0],
  };
}

/**
 * Area under the risk-coverage curve, by trapezoids. The mean risk where all confidences are equal.
 * @param confidence n ≥ 1 finite numbers.
 * @param risk n finite numbers.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function aurc(confidence: ArrayLike<number>, risk: ArrayLike<number>): number {
  const points = riskCoverage(confidence, risk);
  return areaUnder(points.coverage, points.risk);
}

/**
 * AURC in excess of AURC*, that of the images in the order of their risk, each at a point of its own.
 * @param confidence n ≥ 1 finite numbers.
 * @param risk n finite numbers.
 * @returns 0 for the ideal order. At least 0 where no confidence is tied; ties leave points out of the curve, which can
 * bring the area slightly below AURC*, also in the bootstrap's resamples, where copies of an image are tied.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function eaurc(confidence: ArrayLike<number>, risk: ArrayLike<number>): number {
  return aurc(confidence, risk) - idealAurc(risk);
}

/**
 * Normalised AURC (Cattelan & Silva): {@link eaurc} divided by that of a random confidence. 0 is ideal, 1 is random, above
 * 1 is worse than random.
 * @param confidence n ≥ 1 finite numbers.
 * @param risk n finite numbers.
 * @returns NaN where all risks are equal.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function naurc(confidence: ArrayLike<number>, risk: ArrayLike<number>): number {
  const excess = eaurc(confidence, risk);
  const risks = Array.from(risk);
  if (risks.every((value) => value === risks[0])) return Number.NaN;
  return excess / (mean(risks) - idealAurc(risk));
}

/**
 * Area under the generalised-risk-coverage curve (arXiv 2407.01032), by trapezoids.
 * @param confidence n ≥ 1 finite numbers.
 * @param risk n finite numbers.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function augrc(confidence: ArrayLike<number>, risk: ArrayLike<number>): number {
  const points = riskCoverage(confidence, risk);
  return areaUnder(points.coverage, points.generalisedRisk);
}

/**
 * Chance that an image that has not failed has a higher confidence than one that has; ties count half.
 * @param confidence n ≥ 1 finite numbers.
 * @param failed n times 1 or true for a failure, 0 or false for none.
 * @returns In [0, 1]; NaN where all or none have failed.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function auroc(confidence: ArrayLike<number>, failed: ArrayLike<number | boolean>): number {
  const failures = binary(failed);
  checkPaired(["confidence", confidence], ["failed", failures], 1);
  const rank = ranks(confidence);
  let good = 0;
  let sum = 0;
  for (let i = 0; i < failures.length; i++) {
    if (failures[i] !== 0) continue;
    good++;
    sum += rank[i] as number;
  }
  return (sum - (good * (good + 1)) / 2) / (good * (failures.length - good));
}

/**
 * The smallest share of failures that a threshold on the confidence lets pass while it lets pass at least 95 % of the
 * images that have not failed; without interpolation.
 * @param confidence n ≥ 1 finite numbers.
 * @param failed n times 1 or true for a failure, 0 or false for none.
 * @returns In [0, 1]; NaN where all or none have failed.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function fpr95(confidence: ArrayLike<number>, failed: ArrayLike<number | boolean>): number {
  const failures = binary(failed);
  checkPaired(["confidence", confidence], ["failed", failures], 1);
  const kept = groups(confidence, failures, "highest first");
  const all = kept.at(-1) as Group;
  const good = all.count - all.risk;
  if (good === 0 || all.risk === 0) return Number.NaN;
  const first = kept.find((group) => (group.count - group.risk) / good >= 0.95) as Group;
  return first.risk / all.risk;
}

/**
 * How many failures stay unseen when a share f of the images, those of lowest confidence, is flagged for review. Inside a
 * group of equal confidence the expected number is taken, so y is piecewise linear in f.
 * @param confidence n ≥ 1 finite numbers.
 * @param dice n finite numbers.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function qualityControlCurve(
  confidence: ArrayLike<number>,
  dice: ArrayLike<number>,
  options: QualityControlOptions,
): QualityControlCurve {
  const { tau, points = 21 } = checkOptions("qualityControlCurve", options, {
    tau: option.required(option.number({ min: 0, max: 1 })),
    points: option.integer({ min: 2, max: 1_000_000 }),
  });
  checkPaired(["confidence", confidence], ["dice", dice], 1);
  const n = dice.length;
  const failures = Float64Array.from(dice, (value) => (value < tau ? 1 : 0));
  const flagged = [{ count: 0, risk: 0 }, ...groups(confidence, failures, "lowest first")];
  const failed = (flagged.at(-1) as Group).risk;
  const unseen = flagged.map((group) => failed - group.risk);

  const f = Array.from({ length: points }, (_, i) => i / (points - 1));
  let segment = 1;
  const y = f.map((fraction) => {
    while (segment < flagged.length - 1 && (flagged[segment] as Group).count < fraction * n) segment++;
    return interpolate(flagged, unseen, segment, fraction * n) / n;
  });
  const share = failed / n;
  return {
    f,
    y,
    random: f.map((fraction) => share * (1 - fraction)),
    ideal: f.map((fraction) => Math.max(0, share - fraction)),
    area: -areaUnder(
      flagged.map((group) => group.count / n),
      unseen.map((count) => count / n),
    ),
    areaRandom: share / 2,
    areaIdeal: (share * share) / 2,
    remaining5: crossing(flagged, unseen, 0.05 * failed) / n,
  };
}

/** unseen at `count` flagged images, which lies in the segment that ends at index `end`. */
function interpolate(flagged: readonly Group[], unseen: readonly number[], end: number, count: number): number {
  const [a, b] = [flagged[end - 1] as Group, flagged[end] as Group];
  const t = (count - a.count) / (b.count - a.count);
  return (unseen[end - 1] as number) * (1 - t) + (unseen[end] as number) * t;
}

/** The smallest number of flagged images at which no more than `level` are unseen. */
function crossing(flagged: readonly Group[], unseen: readonly number[], level: number): number {
  const end = unseen.findIndex((count) => count <= level);
  if (end === 0) return 0;
  const [a, b] = [flagged[end - 1] as Group, flagged[end] as Group];
  const [above, below] = [unseen[end - 1] as number, unseen[end] as number];
  return a.count + ((above - level) / (above - below)) * (b.count - a.count);
}

/** Running totals at the end of each group of equal confidence. */
function groups(
  confidence: ArrayLike<number>,
  risk: ArrayLike<number>,
  order: "highest first" | "lowest first",
): Group[] {
  const sign = order === "lowest first" ? 1 : -1;
  // Ties by risk, so that the sums are the same to the last bit in whatever order the images are given.
  const sorted = Uint32Array.from({ length: risk.length }, (_, i) => i).sort(
    (a, b) =>
      sign * ((confidence[a] as number) - (confidence[b] as number)) || (risk[a] as number) - (risk[b] as number),
  );
  const result: Group[] = [];
  let sum = 0;
  sorted.forEach((image, i) => {
    sum += risk[image] as number;
    const next = sorted[i + 1];
    if (next === undefined || confidence[next] !== confidence[image]) result.push({ count: i + 1, risk: sum });
  });
  return result;
}

/** AURC*: of the images in the order of their risk, ties broken. */
function idealAurc(risk: ArrayLike<number>): number {
  const ascending = Float64Array.from(risk).sort();
  const order = ascending.map((_, i) => -i);
  return aurc(order, ascending);
}

/** ∫ y dx by trapezoids, for x that falls. */
function areaUnder(x: readonly number[], y: readonly number[]): number {
  let area = 0;
  for (let i = 1; i < x.length; i++) {
    area += (((x[i - 1] as number) - (x[i] as number)) * ((y[i - 1] as number) + (y[i] as number))) / 2;
  }
  return area;
}

function binary(failed: ArrayLike<number | boolean>): Float64Array {
  return Float64Array.from({ length: failed.length }, (_, i) => {
    const value = failed[i];
    if (value === 0 || value === 1 || typeof value === "boolean") return Number(value);
    return fail("ERR_LE_VALUE", "failed", "0 or 1, or booleans", `${describe(value)} at index ${i}`);
  });
}
