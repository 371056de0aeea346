// How much the heads of one image agree with each other. Heads of a Layer Ensemble have an order, that of depth: AULA and
// prediction depth are about it. Classes are foreground classes 1..C-1.
import type { NdArray } from "../arrays.js";
import { fail } from "../checks.js";
import { LayerEnsemblesError } from "../errors.js";
import { checkOptions, describe, option } from "../options.js";
import {
  type AgreementCounts,
  checkCounts,
  countAgreement,
  countNeighbours,
  headDice,
  isEmpty,
  isPredicted,
} from "./counts.js";

/** Area under layer agreement (Kushibar et al., MICCAI 2022). High where the heads agree from early on. */
export interface Aula {
  /** Mean over the foreground classes that at least one head predicts, in [0, K-2]; K-2 where none does. */
  value: number;
  /** `value` / (K-2), in [0, 1]. */
  normalised: number;
  /** Of every foreground class, in [0, K-2]. */
  perClass: Record<number, number>;
  /** By class: Dice a_1..a_{K-1} of each head with the next, in depth order. */
  agreements: Record<number, number[]>;
  /** The curve that `value` is the area under: the mean of `agreements` over the classes that `value` averages; 1s where none. */
  curve: number[];
  /** Least-squares slopes of the agreements over j, the number of the earlier head. */
  slope: {
    /** Of `curve`, in [-1, 1]; 0 where no head predicts any foreground. */
    value: number;
    /** Of every foreground class. */
    perClass: Record<number, number>;
  };
  /** Whether no head predicts any foreground, so that the agreement is about nothing. */
  empty: boolean;
}

/** Options of {@link aula} and {@link aulaFromCounts}. */
export interface AulaOptions {
  /** T: how many heads were left out before; for the error message alone. @default 0 */
  skipped?: number;
}

/** Mean Dice over all pairs of heads. */
export interface PairwiseAgreement {
  /** In [0, 1]; NaN for a single head. */
  perClass: Record<number, number>;
  /** Mean over the foreground classes that at least one head predicts; 1 where none does, NaN for a single head. */
  overall: number;
}

/** Where in depth the agreement settles. */
export interface PredictionDepth {
  /** Index of an agreement, 1..K-1; NaN for a single head. */
  perClass: Record<number, number>;
  /** Mean over the foreground classes that at least one head predicts; 1 where none does, NaN for a single head. */
  mean: number;
}

/**
 * Area under layer agreement: the trapezoid rule, at unit spacing, over the Dice of each head with the next.
 * @param labels K×S, K ≥ 3, in depth order.
 * @param classes C.
 * @throws ERR_LE_SHAPE also for fewer than three heads; ERR_LE_VALUE
 */
export function aula(labels: NdArray<Uint8Array>, classes: number, options: AulaOptions = {}): Aula {
  return aulaFromCounts(countNeighbours(labels, classes), options);
}

/**
 * {@link aula} from counts.
 * @throws ERR_LE_SHAPE also for fewer than three heads; ERR_LE_VALUE
 */
export function aulaFromCounts(counts: AgreementCounts, options: AulaOptions = {}): Aula {
  const { skipped = 0 } = checkOptions("aula", options, { skipped: option.integer({ min: 0 }) });
  checkCounts(counts);
  const { heads: k } = counts;
  if (k < 3) {
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected at least 3 heads for AULA but received K = ${k} after skipping T = ${skipped}.`,
    );
  }
  const agreements = byClass(counts, (c) => neighbourDice(counts, c));
  const perClass = byClass(counts, (c) => areaUnder(agreements[c] as number[]));
  const value = overPredicted(counts, perClass, k - 2);
  const curve = Array.from({ length: k - 1 }, (_, j) =>
    overPredicted(
      counts,
      byClass(counts, (c) => (agreements[c] as number[])[j] as number),
      1,
    ),
  );
  const slope = { value: slopeOf(curve), perClass: byClass(counts, (c) => slopeOf(agreements[c] as number[])) };
  return { value, normalised: value / (k - 2), perClass, agreements, curve, slope, empty: isEmpty(counts) };
}

/**
 * Mean Dice over all K(K-1)/2 pairs of heads; unlike AULA it does not depend on their order.
 * @param labels K×S.
 * @param classes C.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function pairwiseAgreement(labels: NdArray<Uint8Array>, classes: number): PairwiseAgreement {
  return pairwiseAgreementFromCounts(countAgreement(labels, classes));
}

/**
 * {@link pairwiseAgreement} from counts.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function pairwiseAgreementFromCounts(counts: AgreementCounts): PairwiseAgreement {
  checkCounts(counts);
  const { heads } = counts;
  const perClass = byClass(counts, (c) => {
    let sum = 0;
    for (let j = 0; j < heads; j++) for (let k = j + 1; k < heads; k++) sum += headDice(counts, j, k, c);
    return sum / ((heads * (heads - 1)) / 2);
  });
  return { perClass, overall: overPredicted(counts, perClass, heads > 1 ? 1 : Number.NaN) };
}

/**
 * The smallest index i, from 1, such that every later agreement differs from the one before it by at most 1-θ.
 * @param labels K×S, in depth order.
 * @param classes C.
 * @param theta θ, in [0, 1].
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function predictionDepth(labels: NdArray<Uint8Array>, classes: number, theta = 0.95): PredictionDepth {
  return predictionDepthFromCounts(countNeighbours(labels, classes), theta);
}

/**
 * {@link predictionDepth} from counts.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function predictionDepthFromCounts(counts: AgreementCounts, theta = 0.95): PredictionDepth {
  if (!(theta >= 0 && theta <= 1)) fail("ERR_LE_VALUE", "theta", "a number from 0 to 1", describe(theta));
  checkCounts(counts);
  const perClass = byClass(counts, (c) => depthOf(neighbourDice(counts, c), 1 - theta));
  return { perClass, mean: overPredicted(counts, perClass, counts.heads > 1 ? 1 : Number.NaN) };
}

function neighbourDice(counts: AgreementCounts, c: number): number[] {
  return Array.from({ length: counts.heads - 1 }, (_, j) => headDice(counts, j, j + 1, c));
}

function areaUnder(values: readonly number[]): number {
  let area = 0;
  for (let j = 1; j < values.length; j++) area += ((values[j - 1] as number) + (values[j] as number)) / 2;
  return area;
}

/** Least-squares slope over the index, of at least two values. */
function slopeOf(values: readonly number[]): number {
  const middle = (values.length - 1) / 2;
  let along = 0;
  let squares = 0;
  values.forEach((value, j) => {
    along += (j - middle) * value;
    squares += (j - middle) ** 2;
  });
  return along / squares;
}

function depthOf(agreements: readonly number[], step: number): number {
  if (agreements.length === 0) return Number.NaN;
  let depth = agreements.length;
  while (depth > 1 && Math.abs((agreements[depth - 1] as number) - (agreements[depth - 2] as number)) <= step) depth--;
  return depth;
}

function byClass<T>({ classes }: AgreementCounts, measure: (c: number) => T): Record<number, T> {
  const result: Record<number, T> = {};
  for (let c = 1; c < classes; c++) result[c] = measure(c);
  return result;
}

/** Mean over the foreground classes that at least one head predicts; `none` where no class is. */
function overPredicted(counts: AgreementCounts, perClass: Record<number, number>, none: number): number {
  let sum = 0;
  let predicted = 0;
  for (let c = 1; c < counts.classes; c++) {
    if (!isPredicted(counts, c)) continue;
    sum += perClass[c] as number;
    predicted++;
  }
  return predicted > 0 ? sum / predicted : none;
}
