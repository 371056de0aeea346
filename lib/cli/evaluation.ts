import { dice, nll } from "../metrics/index.js";
import { spearman } from "../statistics/index.js";
import type { Result } from "./inference.js";

/** Quality and confidence of one image. Quality is at the stored size, against the stored mask. */
export interface ImageScore {
  id: string;
  group?: string;
  /** Mean over the foreground classes. */
  dice: number;
  /** By class, from class 1 on. */
  classDice: number[];
  /** Of each kept head's own mask, in depth order; mean over the foreground classes. */
  headDice: number[];
  nll: number;
  aula: number | null;
  aulaNormalised: number | null;
  /** Whether no head predicts any foreground, which makes AULA full by definition. */
  empty: boolean;
  pairwiseAgreement: number;
  softDiceConfidence: number;
  predictionDepth: number | null;
  /** Sum, mean and mean over the foreground of each uncertainty map, as `entropy.sum`. */
  uncertainty: Record<string, number>;
}

/** Mean and spread of one quantity; what is undefined is left out and counted. */
export interface Spread {
  mean: number;
  /** Standard deviation, divisor n - 1. */
  sd: number;
  n: number;
  leftOut: number;
}

/** How well a confidence ranks images by Dice: near 1 for a good confidence, near -1 for a good uncertainty. */
export interface Correlation {
  rho: number;
  p: number;
  n: number;
}

/** What an evaluation comes to. */
export interface Summary {
  images: number;
  dice: Spread;
  nll: Spread;
  aula: Spread;
  aulaNormalised: Spread;
  classDice: Record<string, Spread>;
  headDice: Record<string, Spread>;
  spearmanWithDice: Record<string, Correlation>;
}

/** Compares one prediction with its truth. */
export function scoreImage(result: Result, classes: number, ignoreIndex: number): ImageScore {
  const { prediction, probabilities, mask, labels, truth } = result;
  if (!truth) throw new Error("unreachable: datasets for evaluation require masks");
  const { aula } = prediction;
  const pixels = mask.data.length;
  const classDice = dicePerClass(mask.data, truth.data, classes, ignoreIndex);
  const headDice = prediction.heads.map((_, k) =>
    mean(dicePerClass(labels!.data.subarray(k * pixels, (k + 1) * pixels), truth.data, classes, ignoreIndex)),
  );
  const uncertainty: Record<string, number> = {};
  for (const [name, values] of Object.entries(prediction.summaries))
    for (const [how, value] of Object.entries(values)) uncertainty[`${name}.${how}`] = value;
  return {
    id: result.id,
    ...(result.group !== undefined && { group: result.group }),
    dice: mean(classDice),
    classDice,
    headDice,
    nll: nll(probabilities, truth, { ignoreIndex }),
    aula: aula?.value ?? null,
    aulaNormalised: aula?.normalised ?? null,
    empty: aula?.empty ?? false,
    pairwiseAgreement: prediction.pairwiseAgreement.overall,
    softDiceConfidence: prediction.softDiceConfidence.overall,
    predictionDepth: prediction.predictionDepth?.mean ?? null,
    uncertainty,
  };
}

/** Means, spreads and rank correlations over images. */
export function summarise(
  scores: readonly ImageScore[],
  classNames: readonly string[],
  heads: readonly string[],
): Summary {
  const all = (pick: (score: ImageScore) => number | null) => scores.map((score) => pick(score) ?? Number.NaN);
  const ranks: Record<string, number[]> = {
    aula: all((score) => score.aula),
    pairwiseAgreement: all((score) => score.pairwiseAgreement),
    softDiceConfidence: all((score) => score.softDiceConfidence),
    predictionDepth: all((score) => score.predictionDepth),
  };
  for (const name of Object.keys(scores[0]?.uncertainty ?? {}))
    ranks[name] = all((score) => score.uncertainty[name] ?? null);
  const quality = all((score) => score.dice);
  return {
    images: scores.length,
    dice: spread(quality),
    nll: spread(all((score) => score.nll)),
    aula: spread(all((score) => score.aula)),
    aulaNormalised: spread(all((score) => score.aulaNormalised)),
    classDice: Object.fromEntries(
      classNames.slice(1).map((name, c) => [name, spread(all((score) => score.classDice[c] ?? null))]),
    ),
    headDice: Object.fromEntries(heads.map((name, k) => [name, spread(all((score) => score.headDice[k] ?? null))])),
    spearmanWithDice: Object.fromEntries(
      Object.entries(ranks).map(([name, values]) => [name, correlate(values, quality)]),
    ),
  };
}

function dicePerClass(mask: Uint8Array, truth: Uint8Array, classes: number, ignoreIndex: number): number[] {
  return Object.values(
    dice({ data: mask, shape: [mask.length] }, { data: truth, shape: [truth.length] }, { classes, ignoreIndex }),
  );
}

/** Spearman's rank correlation of pairs where both are defined. */
export function correlate(values: readonly number[], quality: readonly number[]): Correlation {
  const kept = values
    .map((value, i) => [value, quality[i] as number] as const)
    .filter((pair) => !pair.some(Number.isNaN));
  const { rho, p } = spearman(
    kept.map(([value]) => value),
    kept.map(([, dice]) => dice),
  );
  return { rho, p, n: kept.length };
}

/** Mean and standard deviation of what is not NaN. */
export function spread(values: readonly number[]): Spread {
  const defined = values.filter((value) => !Number.isNaN(value));
  const centre = mean(defined);
  const squares = defined.reduce((sum, value) => sum + (value - centre) ** 2, 0);
  const sd = defined.length > 1 ? Math.sqrt(squares / (defined.length - 1)) : Number.NaN;
  return { mean: centre, sd, n: defined.length, leftOut: values.length - defined.length };
}

/** NaN for no values; what is NaN is left out. */
function mean(values: readonly number[]): number {
  const defined = values.filter((value) => !Number.isNaN(value));
  return defined.reduce((sum, value) => sum + value, 0) / defined.length;
}
