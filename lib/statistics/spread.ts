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
  const defined = Float64Array.from(values).filter((value) => !Number.isNaN(value));
  const n = defined.length;
  const center = mean(defined);
  const squares = defined.reduce((sum, value) => sum + (value - center) ** 2, 0);
  return { mean: center, sd: n > 1 ? Math.sqrt(squares / (n - 1)) : Number.NaN, n, leftOut: values.length - n };
}

/** NaN for no values. */
export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] as number;
  return sum / values.length;
}

/** The mean of what is known; null for nothing. */
export function meanOfKnown(values: readonly (number | null)[]): number | null {
  const known = values.filter((value) => value !== null);
  return known.length === 0 ? null : mean(known);
}

/** Null for what is not defined, as files have it. */
export function orNull(value: number | null | undefined): number | null {
  return value === undefined || value === null || Number.isNaN(value) ? null : value;
}

/** The value at a share of the way through values in ascending order, linear between them; NaN for none. */
export function quantile(ascending: ArrayLike<number>, share: number): number {
  const at = share * (ascending.length - 1);
  const below = Math.floor(at);
  const low = ascending[below] ?? Number.NaN;
  return low + (at - below) * ((ascending[below + 1] ?? low) - low);
}
