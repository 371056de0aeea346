// What the figures take from a comparison.

import type { Comparison, MethodResult, RunRecord } from "../../results/comparison.js";
import { fixed as rounded, typeset } from "../../results/format.js";
import { METHOD_TITLES, type MethodName } from "../../runs/methods.js";
import { type ConfidenceName, confidenceTitle, suited } from "../../scores/scores.js";

/** A method's name in a figure: "LE". */
export function short(method: MethodName): string {
  return METHOD_TITLES[method].short;
}

/**
 * The confidence that suits a method best of those it has: AULA for a Layer Ensemble, pairwise agreement for other
 * ensembles, soft Dice confidence for one head. (A sum of entropy is larger for a larger object, however sure the method.)
 */
export function suitedConfidence(method: MethodResult): ConfidenceName {
  return suited((name) => method.confidence[name])?.name ?? "entropy";
}

/** "LE: AULA" */
export function ranked(method: MethodName, confidence: ConfidenceName): string {
  return `${short(method)}: ${confidenceTitle(confidence)}`;
}

/** The first run (seed) of a method. */
export function firstRun(comparison: Comparison, method: MethodName): RunRecord | undefined {
  const index = comparison.methods.find((result) => result.method === method)?.runs[0];
  return index === undefined ? undefined : comparison.runs[index];
}

/** Rounded for a label; an en dash where there is no value. */
export function fixed(value: number | null | undefined, digits = 3): string {
  return typeset(rounded(value, digits));
}
