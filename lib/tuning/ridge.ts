// Linear regression with a penalty on its weights, which is chosen by leaving out one group after the other.
import type { Ridge } from "../scores/predicted-dice.js";
import { mean } from "../statistics/spread.js";

/** A model, and what models that have not seen a case say of it. */
export interface FittedRidge {
  ridge: Ridge;
  /** n: each case by the model without its fold, at the chosen penalty. */
  outOfFold: number[];
}

/** Penalties that are tried, times the number of cases: features are standardised, so that 1 halves what a lone one counts. */
const PENALTIES = Array.from({ length: 13 }, (_, i) => 10 ** (i / 2 - 4));

/**
 * Ridge regression on standardised features: the least Σ (y - prediction)² + penalty · Σ weight², with an intercept that is not
 * penalised. The penalty is the one of least squared error on folds that are left out; of equals the largest.
 * @param rows n×p
 * @param folds n numbers; cases of one number are left out together. At least two.
 */
export function fitRidge(
  rows: readonly (readonly number[])[],
  y: readonly number[],
  folds: readonly number[],
): FittedRidge {
  const n = rows.length;
  const center = columns(rows, mean);
  const scale = columns(rows, spreadOf);
  // Standardised, and 1 for the intercept.
  const inputs = rows.map((row) => [
    ...row.map((value, j) => (scale[j] === 0 ? 0 : (value - (center[j] as number)) / (scale[j] as number))),
    1,
  ]);
  const all = momentsOf(inputs, y);
  const parts = [...new Set(folds)].map((fold) => {
    const cases = [...folds.keys()].filter((i) => folds[i] === fold);
    const own = momentsOf(
      cases.map((i) => inputs[i] as number[]),
      cases.map((i) => y[i] as number),
    );
    return { cases, rest: minus(all, own) };
  });
  let best = { penalty: 0, error: Number.POSITIVE_INFINITY, outOfFold: [] as number[] };
  for (const relative of PENALTIES) {
    const penalty = relative * n;
    const outOfFold = new Array<number>(n).fill(0);
    for (const { cases, rest } of parts) {
      const weights = solve(rest, penalty);
      for (const i of cases) outOfFold[i] = dot(inputs[i] as number[], weights);
    }
    const error = outOfFold.reduce((sum, value, i) => sum + (value - (y[i] as number)) ** 2, 0);
    if (error <= best.error) best = { penalty, error, outOfFold };
  }
  const weights = solve(all, best.penalty);
  const intercept = weights.pop() as number;
  return { ridge: { mean: center, scale, weights, intercept, penalty: best.penalty }, outOfFold: best.outOfFold };
}

function columns(rows: readonly (readonly number[])[], of: (values: number[]) => number): number[] {
  return (rows[0] as readonly number[]).map((_, j) => of(rows.map((row) => row[j] as number)));
}

/** Standard deviation (divisor n); 0 where what differs is rounding. */
function spreadOf(values: readonly number[]): number {
  const center = mean(values);
  const sd = Math.sqrt(mean(values.map((value) => (value - center) ** 2)));
  return sd > 1e-9 * Math.max(1, Math.abs(center)) ? sd : 0;
}

/** Σ z zᵀ, row by row, and Σ z y. */
interface Moments {
  squares: number[][];
  products: number[];
}

function momentsOf(inputs: readonly (readonly number[])[], y: readonly number[]): Moments {
  const size = inputs[0]?.length ?? 0;
  const squares = Array.from({ length: size }, () => new Array<number>(size).fill(0));
  const products = new Array<number>(size).fill(0);
  inputs.forEach((z, i) => {
    for (let a = 0; a < size; a++) {
      const value = z[a] as number;
      products[a]! += value * (y[i] as number);
      for (let b = 0; b <= a; b++) squares[a]![b]! += value * (z[b] as number);
    }
  });
  return { squares, products };
}

function minus(a: Moments, b: Moments): Moments {
  return {
    squares: a.squares.map((row, i) => row.map((value, j) => value - (b.squares[i]?.[j] as number))),
    products: a.products.map((value, i) => value - (b.products[i] as number)),
  };
}

/** Weights, the intercept last, by Cholesky's factor of the lower triangle. */
function solve({ squares, products }: Moments, penalty: number): number[] {
  const size = products.length;
  const factor = squares.map((row) => [...row]);
  for (let j = 0; j < size; j++) {
    for (let i = j; i < size; i++) {
      let sum = factor[i]![j] as number;
      if (i === j && j < size - 1) sum += penalty;
      for (let k = 0; k < j; k++) sum -= (factor[i]![k] as number) * (factor[j]![k] as number);
      factor[i]![j] = i === j ? Math.sqrt(Math.max(sum, Number.MIN_VALUE)) : sum / (factor[j]![j] as number);
    }
  }
  const half: number[] = [];
  for (let i = 0; i < size; i++) {
    let sum = products[i] as number;
    for (let k = 0; k < i; k++) sum -= (factor[i]![k] as number) * (half[k] as number);
    half.push(sum / (factor[i]![i] as number));
  }
  const weights = new Array<number>(size).fill(0);
  for (let i = size - 1; i >= 0; i--) {
    let sum = half[i] as number;
    for (let k = i + 1; k < size; k++) sum -= (factor[k]![i] as number) * (weights[k] as number);
    weights[i] = sum / (factor[i]![i] as number);
  }
  return weights;
}

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);
}
