// From which distance on an image is taken for one unlike the training's.
import { fail } from "../checks.js";
import { binomialCdf } from "../statistics/binomial.js";
import { membersOf } from "../statistics/groups.js";
import { checkPaired } from "../statistics/input.js";
import { spread } from "../statistics/spread.js";

/** A threshold on {@link TapDistance.excess}, and what it comes to on the images that it was chosen by. */
export interface DistanceThreshold {
  threshold: number;
  /** In words. */
  rule: string;
  /** Share of those images that are above it. */
  flagged: number;
}

/** Most of what is like the training's that may be above the threshold, and how sure that is to be. */
const SHARE = 0.05;
const CONFIDENCE = 0.95;
/** Quantiles of the normal distribution: of 1 - SHARE, and of CONFIDENCE. */
const [Z_SHARE, Z_CONFIDENCE] = [1.6448536269514722, 1.6448536269514722];

/**
 * The lowest threshold above which there is, with a confidence of 95 %, at most 5 % of what comes from where the images come
 * from: a tolerance limit. Of 59 images or more it is one of their own values (Wilks 1941): as many may be above it as have a
 * binomial chance of at most 5 % where 5 % are. Of fewer not even the largest will do: they are taken for normal, and the limit
 * is mean + k standard deviations (the approximation of k that NIST's handbook gives, 7.2.6.3), or the largest where that is more.
 * @param excess n ≥ 2 finite numbers.
 * @param groups One per image, such as its patient. Ranks are then of groups, each by the largest of its images; and k is that of as
 *   many images as there are groups.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function distanceThreshold(excess: ArrayLike<number>, groups?: readonly (string | number)[]): DistanceThreshold {
  checkPaired(["excess", excess], ["excess", excess], 2);
  if (groups && groups.length !== excess.length)
    fail("ERR_LE_SHAPE", "groups", `${excess.length} values, one per image,`, `${groups.length}`);
  const of = groups && new Set(groups).size < groups.length ? membersOf(groups) : Array.from(excess, (_, i) => [i]);
  const values = Float64Array.from(of, (members) => Math.max(...members.map((i) => excess[i] as number))).sort();
  const n = values.length;
  const unit = n < excess.length ? "groups" : "images";
  let above = -1;
  while (above + 1 < n && binomialCdf(above + 1, n, SHARE) <= 1 - CONFIDENCE) above++;
  const threshold =
    above >= 0 ? (values[n - 1 - above] as number) : Math.max(values[n - 1] as number, normalLimit(excess, n));
  const how = above >= 0 ? `by ranks: ${above} of ${n} ${unit} are above it` : `${n} ${unit} taken for normal`;
  const flagged = Array.from(excess).filter((value) => value > threshold).length / excess.length;
  return {
    threshold,
    rule: `at most 0.05 of ${unit} like those of validation above it, with confidence 0.95 (${how})`,
    flagged,
  };
}

/** Of values that say as much as n that are drawn on their own. */
function normalLimit(values: ArrayLike<number>, n: number): number {
  const { mean, sd } = spread(values);
  const a = 1 - Z_CONFIDENCE ** 2 / (2 * (n - 1));
  const b = Z_SHARE ** 2 - Z_CONFIDENCE ** 2 / n;
  return mean + (sd * (Z_SHARE + Math.sqrt(Math.max(0, Z_SHARE ** 2 - a * b)))) / a;
}
