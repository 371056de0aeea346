/** Mean and spread of one quantity; what is undefined is left out and counted. */
export interface Spread {
  /** NaN for no value. */
  mean: number;
  /** Standard deviation, divisor n - 1; NaN for fewer than two values. */
  sd: number;
  n: number;
  leftOut: number;
}

/** Mean and standard deviation of what is not NaN. */
export function spread(values: ArrayLike<number>): Spread {
  const defined = Array.from(values).filter((value) => !Number.isNaN(value));
  const n = defined.length;
  const mean = defined.reduce((sum, value) => sum + value, 0) / n;
  const squares = defined.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, sd: n > 1 ? Math.sqrt(squares / (n - 1)) : Number.NaN, n, leftOut: values.length - n };
}
