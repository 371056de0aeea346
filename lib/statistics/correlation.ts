import { checkPaired } from "./input.js";
import { correlationP } from "./student.js";

/** A rank correlation. */
export interface Spearman {
  /** In [-1, 1]; NaN for fewer than three values or a constant list. */
  rho: number;
  /** Two-sided, in [0, 1]; NaN where `rho` is. */
  p: number;
}

/** A linear correlation. */
export interface Pearson {
  /** In [-1, 1]; NaN for fewer than three values or a constant list. */
  r: number;
  /** Two-sided, in [0, 1]; NaN where `r` is. */
  p: number;
}

/**
 * Pearson's correlation of two lists; p from Student's t with n-2 degrees of freedom.
 * @param x n finite numbers.
 * @param y n finite numbers.
 * @throws ERR_LE_SHAPE for lists of different length, ERR_LE_VALUE
 */
export function pearson(x: ArrayLike<number>, y: ArrayLike<number>): Pearson {
  checkPaired(["x", x], ["y", y], 0);
  return correlate(x, y);
}

/**
 * Spearman's rank correlation of two lists: Pearson's of their ranks, ties having their average rank.
 * @param x n finite numbers.
 * @param y n finite numbers.
 * @throws ERR_LE_SHAPE for lists of different length, ERR_LE_VALUE
 */
export function spearman(x: ArrayLike<number>, y: ArrayLike<number>): Spearman {
  checkPaired(["x", x], ["y", y], 0);
  const { r: rho, p } = correlate(ranks(x), ranks(y));
  return { rho, p };
}

/** Ranks from 1; ties have the average of theirs. */
export function ranks(values: ArrayLike<number>): Float64Array {
  const order = Uint32Array.from({ length: values.length }, (_, i) => i).sort(
    (a, b) => (values[a] as number) - (values[b] as number),
  );
  const result = new Float64Array(values.length);
  for (let start = 0, end = 0; start < order.length; start = end) {
    const value = values[order[start] as number];
    while (end < order.length && values[order[end] as number] === value) end++;
    for (let i = start; i < end; i++) result[order[i] as number] = (start + end + 1) / 2;
  }
  return result;
}

function correlate(x: ArrayLike<number>, y: ArrayLike<number>): Pearson {
  const n = x.length;
  if (n < 3 || isConstant(x) || isConstant(y)) return { r: Number.NaN, p: Number.NaN };
  const dx = deviations(x);
  const dy = deviations(y);
  let xy = 0;
  let xx = 0;
  let yy = 0;
  for (let i = 0; i < n; i++) {
    const [a, b] = [dx[i] as number, dy[i] as number];
    xy += a * b;
    xx += a * a;
    yy += b * b;
  }
  const r = Math.min(1, Math.max(-1, xy / (Math.sqrt(xx) * Math.sqrt(yy))));
  return { r, p: correlationP(r, n - 2) };
}

/** From the mean, scaled to at most 1, so that no square overflows or vanishes. */
function deviations(values: ArrayLike<number>): Float64Array {
  const n = values.length;
  let largest = 0;
  for (let i = 0; i < n; i++) largest = Math.max(largest, Math.abs(values[i] as number));
  let mean = 0;
  for (let i = 0; i < n; i++) mean += (values[i] as number) / largest / n;
  const result = Float64Array.from(values, (value) => value / largest - mean);
  const widest = result.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return widest > 0 ? result.map((value) => value / widest) : result;
}

function isConstant(values: ArrayLike<number>): boolean {
  for (let i = 1; i < values.length; i++) if (values[i] !== values[0]) return false;
  return true;
}
