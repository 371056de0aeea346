// Counts of what happens with one probability.
import { fail } from "../checks.js";
import { describe } from "../options.js";
import { incompleteBeta } from "./student.js";

/** An interval of a share. */
export interface ShareInterval {
  /** In [0, 1]. */
  low: number;
  /** In [0, 1]. */
  high: number;
}

/**
 * P(Bin(n, p) ≤ k): exact, by the regularised incomplete beta function I_{1-p}(n - k, k + 1); relative error below 1e-9 for n up
 * to a million.
 * @param k An integer; below 0 gives 0, from n on 1.
 * @param n An integer of at least 0.
 * @param p In [0, 1].
 * @throws ERR_LE_VALUE
 */
export function binomialCdf(k: number, n: number, p: number): number {
  if (!Number.isSafeInteger(k)) fail("ERR_LE_VALUE", "k", "an integer", describe(k));
  if (!Number.isSafeInteger(n) || n < 0) fail("ERR_LE_VALUE", "n", "an integer of at least 0", describe(n));
  if (!(p >= 0 && p <= 1)) fail("ERR_LE_VALUE", "p", "a number from 0 to 1", describe(p));
  if (k < 0) return 0;
  if (k >= n) return 1;
  return incompleteBeta(n - k, k + 1, 1 - p);
}

/**
 * Clopper and Pearson's interval (1934) of a probability, from k of n: quantiles of the beta distribution. It covers the probability
 * with at least `level`, whatever that is.
 * @param k An integer from 0 to n.
 * @param n An integer of at least 0; of 0 the interval is [0, 1].
 * @param level Between 0 and 1. @default 0.95
 * @throws ERR_LE_VALUE
 */
export function clopperPearson(k: number, n: number, level = 0.95): ShareInterval {
  if (!Number.isSafeInteger(n) || n < 0) fail("ERR_LE_VALUE", "n", "an integer of at least 0", describe(n));
  if (!Number.isSafeInteger(k) || k < 0 || k > n)
    fail("ERR_LE_VALUE", "k", `an integer from 0 to n = ${n}`, describe(k));
  if (!(level > 0 && level < 1)) fail("ERR_LE_VALUE", "level", "a number above 0 and below 1", describe(level));
  const tail = (1 - level) / 2;
  // The upper end by its mirror image: a tail of 1 - 1e-20 would be 1.
  return {
    low: k === 0 ? 0 : betaQuantile(tail, k, n - k + 1),
    high: k === n ? 1 : 1 - betaQuantile(tail, n - k, k + 1),
  };
}

/** x with I_x(a, b) = share, by bisection to the last bit; a and b of at least 1/2. */
function betaQuantile(share: number, a: number, b: number): number {
  let [low, high] = [0, 1];
  for (;;) {
    const middle = (low + high) / 2;
    if (middle <= low || middle >= high) return middle;
    if (incompleteBeta(a, b, middle) < share) low = middle;
    else high = middle;
  }
}
