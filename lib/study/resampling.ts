// The statistics of a comparison on resampled images. What a bootstrap draws is kept as how often each image was drawn, so
// that images are sorted once and a resample costs one walk through them. The definitions are those of lib/statistics.
import { Random } from "../random.js";
import { quantile } from "../statistics/spread.js";

/** Groups of images that are drawn together. */
export interface Units {
  /** How many there are. */
  count: number;
  /** The unit of each image. */
  of: Int32Array;
}

/** Units of images, in the order of first appearance; without groups every image alone. A null is a group of its own. */
export function unitsOf(groups: readonly (string | null)[], unit: "group" | "image"): Units {
  const known = new Map<string, number>();
  let count = 0;
  const of = Int32Array.from(groups, (group) => {
    if (unit === "image" || group === null) return count++;
    const there = known.get(group);
    if (there !== undefined) return there;
    known.set(group, count);
    return count++;
  });
  return { count, of };
}

/**
 * How often each unit is drawn in each resample: as many draws as there are units, with replacement. The same seed draws as
 * `bootstrap` of lib/statistics does.
 * @returns one array of `count` numbers per resample
 */
export function draw(count: number, resamples: number, seed: number): Uint16Array[] {
  const random = new Random(seed);
  return Array.from({ length: resamples }, () => {
    const times = new Uint16Array(count);
    for (let i = 0; i < count; i++) {
      const at = random.integer(count);
      times[at] = (times[at] as number) + 1;
    }
    return times;
  });
}

/** Some images sorted by a value; equal values are a tie. Images whose value is NaN are left out. */
export interface Sorted {
  /** Indices of images, lowest value first. */
  order: Uint32Array;
  /** Where each tie ends in `order`, exclusive. */
  ends: Uint32Array;
}

/** Sorts once what many resamples are taken of. */
export function sorted(values: ArrayLike<number>): Sorted {
  const order = Uint32Array.from(
    Array.from({ length: values.length }, (_, i) => i).filter((i) => !Number.isNaN(values[i] as number)),
  ).sort((a, b) => (values[a] as number) - (values[b] as number) || a - b);
  const ends: number[] = [];
  for (let i = 0; i < order.length; i++) {
    if (i + 1 === order.length || values[order[i + 1] as number] !== values[order[i] as number]) ends.push(i + 1);
  }
  return { order, ends: Uint32Array.from(ends) };
}

/** Average ranks from 1 of images of which image i is there `times[i]` times; written to `ranks`. */
export function weightedRanks({ order, ends }: Sorted, times: Float64Array, ranks: Float64Array): void {
  let below = 0;
  let start = 0;
  for (let g = 0; g < ends.length; g++) {
    const end = ends[g] as number;
    let here = 0;
    for (let i = start; i < end; i++) here += times[order[i] as number] as number;
    const rank = below + (here + 1) / 2;
    for (let i = start; i < end; i++) ranks[order[i] as number] = rank;
    below += here;
    start = end;
  }
}

/** Spearman's correlation of the values sorted in `x` with what has the ranks `of`, among images that `times` counts in both. */
export function weightedSpearman({ order, ends }: Sorted, times: Float64Array, of: Float64Array): number {
  let below = 0;
  let start = 0;
  let xy = 0;
  let xx = 0;
  let yy = 0;
  for (let g = 0; g < ends.length; g++) {
    const end = ends[g] as number;
    let here = 0;
    let sum = 0;
    for (let i = start; i < end; i++) {
      const image = order[i] as number;
      const n = times[image] as number;
      const rank = of[image] as number;
      here += n;
      sum += n * rank;
      yy += n * rank * rank;
    }
    const rank = below + (here + 1) / 2;
    xy += rank * sum;
    xx += here * rank * rank;
    below += here;
    start = end;
  }
  // Ranks are half whole numbers, so these differences are exact and 0 for what is constant.
  const square = (below * (below + 1) * (below + 1)) / 4;
  const spread = Math.sqrt(xx - square) * Math.sqrt(yy - square);
  if (below < 3 || !(spread > 0)) return Number.NaN;
  return Math.min(1, Math.max(-1, (xy - square) / spread));
}

/**
 * AURC of the images in the order of their risk, each copy at a point of its own, where a confidence ties them: see `eaurc`.
 * @param sorted by Dice, the lowest risk last
 */
export function weightedIdealAurc({ order }: Sorted, times: Float64Array, risk: Float64Array): number {
  let count = 0;
  let sum = 0;
  let before = 0;
  let area = 0;
  for (let i = order.length - 1; i >= 0; i--) {
    const image = order[i] as number;
    for (let copy = times[image] as number; copy > 0; copy--) {
      sum += risk[image] as number;
      count++;
      const mean = sum / count;
      area += count === 1 ? mean : (before + mean) / 2;
      before = mean;
    }
  }
  return area / count;
}

/** How well a confidence finds the failures; NaN where it is not defined. */
export interface FailureStatistics {
  aurc: number;
  augrc: number;
  auroc: number;
  fpr95: number;
  qcArea: number;
  remaining5: number;
}

/** All of {@link FailureStatistics} in one walk, from the highest confidence down. */
export function weightedFailures(
  { order, ends }: Sorted,
  times: Float64Array,
  risk: Float64Array,
  failed: Uint8Array,
): FailureStatistics {
  let n = 0;
  let failures = 0;
  for (let i = 0; i < order.length; i++) {
    const image = order[i] as number;
    n += times[image] as number;
    failures += (times[image] as number) * (failed[image] as number);
  }
  const good = n - failures;
  const level = 0.05 * failures;
  let kept = 0;
  let sum = 0;
  let bad = 0;
  let meanBefore = 0;
  let aurc = 0;
  let augrc = 0;
  let pairs = 0;
  let unseen = 0;
  let fpr95 = Number.NaN;
  let keptAtLevel = 0;
  let reached = false;
  for (let g = ends.length - 1; g >= 0; g--) {
    const start = g === 0 ? 0 : (ends[g - 1] as number);
    let here = 0;
    let riskHere = 0;
    let badHere = 0;
    for (let i = start; i < (ends[g] as number); i++) {
      const image = order[i] as number;
      const copies = times[image] as number;
      here += copies;
      riskHere += copies * (risk[image] as number);
      badHere += copies * (failed[image] as number);
    }
    if (here === 0) continue;
    const goodBefore = kept - bad;
    pairs += badHere * (goodBefore + (here - badHere) / 2);
    unseen += here * (bad + badHere / 2);
    augrc += here * (sum + riskHere / 2);
    if (!reached) {
      reached = bad + badHere > level;
      keptAtLevel = reached ? kept + (here * (level - bad)) / badHere : kept + here;
    }
    kept += here;
    bad += badHere;
    sum += riskHere;
    const mean = sum / kept;
    aurc += here * (kept === here ? mean : (meanBefore + mean) / 2);
    meanBefore = mean;
    if (Number.isNaN(fpr95) && (kept - bad) / good >= 0.95) fpr95 = bad / failures;
  }
  const both = good > 0 && failures > 0;
  return {
    aurc: aurc / n,
    augrc: augrc / (n * n),
    auroc: both ? pairs / (good * failures) : Number.NaN,
    fpr95: both ? fpr95 : Number.NaN,
    qcArea: unseen / (n * n),
    remaining5: n === 0 ? Number.NaN : (n - keptAtLevel) / n,
  };
}

/** The bounds that hold the middle 95 % of some values, linear between order statistics; NaN are left out, null for none. */
export function interval(values: Float64Array): { low: number | null; high: number | null } {
  const ascending = values.filter((value) => !Number.isNaN(value)).sort();
  if (ascending.length === 0) return { low: null, high: null };
  return { low: quantile(ascending, 0.025), high: quantile(ascending, 0.975) };
}
