import { checkPaired } from "./input.js";

/** A function that never falls: linear between its points, constant outside them. */
export interface Isotonic {
  /** Ascending. */
  x: number[];
  /** Not falling. */
  y: number[];
}

/**
 * Isotonic regression: the function that never falls and has the least sum of squares, by pooling adjacent violators (Ayer et al.
 * 1955). Between the points that were seen it is linear.
 * @param x n ≥ 1 finite numbers; equal ones count by the mean of their y.
 * @param y n finite numbers.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function fitIsotonic(x: ArrayLike<number>, y: ArrayLike<number>): Isotonic {
  checkPaired(["x", x], ["y", y], 1);
  const order = Uint32Array.from({ length: x.length }, (_, i) => i).sort((a, b) => (x[a] as number) - (x[b] as number));
  const blocks: { low: number; high: number; sum: number; count: number }[] = [];
  const meanOf = (block: { sum: number; count: number }) => block.sum / block.count;
  for (let at = 0; at < order.length; ) {
    const value = x[order[at] as number] as number;
    let block = { low: value, high: value, sum: 0, count: 0 };
    for (; at < order.length && x[order[at] as number] === value; at++) {
      block.sum += y[order[at] as number] as number;
      block.count++;
    }
    for (let last = blocks.at(-1); last && meanOf(last) >= meanOf(block); last = blocks.at(-1)) {
      blocks.pop();
      block = { low: last.low, high: block.high, sum: last.sum + block.sum, count: last.count + block.count };
    }
    blocks.push(block);
  }
  const points = blocks.flatMap((block) =>
    (block.low === block.high ? [block.low] : [block.low, block.high]).map((at) => [at, meanOf(block)] as const),
  );
  return { x: points.map(([at]) => at), y: points.map(([, value]) => value) };
}

/** Its value at a point. */
export function isotonicAt({ x, y }: Isotonic, at: number): number {
  let low = 0;
  let high = x.length - 1;
  if (at <= (x[low] as number)) return y[low] as number;
  if (at >= (x[high] as number)) return y[high] as number;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if ((x[middle] as number) <= at) low = middle;
    else high = middle;
  }
  const [left, right] = [x[low] as number, x[high] as number];
  const share = (at - left) / (right - left);
  return (1 - share) * (y[low] as number) + share * (y[high] as number);
}
