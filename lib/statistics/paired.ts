// Do two methods differ on the same images? Two lists of scores, one entry per image each.
import { ranks } from "./correlation.js";
import { checkPaired } from "./input.js";
import { mean } from "./spread.js";
import { normalP, studentP } from "./student.js";

/** Wilcoxon's signed-rank test. */
export interface Wilcoxon {
  /** Differences that are not zero. */
  n: number;
  /** The smaller of the two sums of ranks, at least 0; NaN where n is 0. */
  statistic: number;
  /** Two-sided, in [0, 1]; NaN where n is 0. */
  p: number;
  /** How p was found; `"none"` where n is 0. */
  method: "exact" | "asymptotic" | "none";
}

/** Student's t of paired differences. */
export interface PairedT {
  /** Positive where x is larger. NaN for fewer than two pairs or where all differences are 0. */
  t: number;
  /** Degrees of freedom, n - 1. */
  df: number;
  /** Two-sided, in [0, 1]; NaN where `t` is. */
  p: number;
}

/** Up to here the 2ⁿ ways to give signs are counted; a double holds their number exactly. */
const LARGEST_EXACT = 50;

/**
 * Wilcoxon's signed-rank test of x - y, two-sided. Differences of zero are dropped. p is exact for at most 50 differences
 * without ties among their sizes; else from the normal approximation, its variance corrected for ties, without correction
 * for continuity.
 * @param x n finite numbers.
 * @param y n finite numbers.
 * @throws ERR_LE_SHAPE for lists of different length, ERR_LE_VALUE
 */
export function wilcoxon(x: ArrayLike<number>, y: ArrayLike<number>): Wilcoxon {
  checkPaired(["x", x], ["y", y], 0);
  const differences = Float64Array.from(x, (value, i) => value - (y[i] as number)).filter((d) => d !== 0);
  const n = differences.length;
  if (n === 0) return { n, statistic: Number.NaN, p: Number.NaN, method: "none" };
  const sizes = differences.map(Math.abs);
  const rank = ranks(sizes);
  const all = (n * (n + 1)) / 2;
  const positive = rank.reduce((sum, value, i) => ((differences[i] as number) > 0 ? sum + value : sum), 0);
  const statistic = Math.min(positive, all - positive);
  const ties = tieTerm(sizes.sort());
  if (n <= LARGEST_EXACT && ties === 0) {
    return { n, statistic, p: Math.min(1, 2 * shareOfSigns(n, statistic)), method: "exact" };
  }
  const variance = (n * (n + 1) * (2 * n + 1)) / 24 - ties / 48;
  return { n, statistic, p: normalP((statistic - all / 2) / Math.sqrt(variance)), method: "asymptotic" };
}

/**
 * Student's t-test of the paired differences x - y, two-sided.
 * @param x n finite numbers.
 * @param y n finite numbers.
 * @throws ERR_LE_SHAPE for lists of different length, ERR_LE_VALUE
 */
export function pairedT(x: ArrayLike<number>, y: ArrayLike<number>): PairedT {
  checkPaired(["x", x], ["y", y], 0);
  const n = x.length;
  const df = n - 1;
  const differences = Float64Array.from(x, (value, i) => value - (y[i] as number));
  const center = mean(differences);
  const squares = differences.reduce((sum, d) => sum + (d - center) ** 2, 0);
  if (n < 2 || (squares === 0 && center === 0)) return { t: Number.NaN, df, p: Number.NaN };
  const t = center / Math.sqrt(squares / df / n);
  return { t, df, p: studentP(t, df) };
}

/** Share of the 2ⁿ ways to give signs to the ranks 1..n whose positive ones sum to at most `limit`. */
function shareOfSigns(n: number, limit: number): number {
  const ways = new Float64Array((n * (n + 1)) / 2 + 1);
  ways[0] = 1;
  for (let rank = 1; rank <= n; rank++) {
    for (let sum = (rank * (rank + 1)) / 2; sum >= rank; sum--) {
      ways[sum] = (ways[sum] as number) + (ways[sum - rank] as number);
    }
  }
  return ways.subarray(0, limit + 1).reduce((total, count) => total + count, 0) / 2 ** n;
}

/** Σ t³ - t over the groups of t equal values. */
function tieTerm(ascending: Float64Array): number {
  let sum = 0;
  for (let start = 0, end = 0; start < ascending.length; start = end) {
    while (end < ascending.length && ascending[end] === ascending[start]) end++;
    sum += (end - start) ** 3 - (end - start);
  }
  return sum;
}
