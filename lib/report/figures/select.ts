// What the figures take from a comparison.
import { METHOD_TITLES, type MethodName } from "../../ensemble/methods.js";
import type { Comparison, ConfidenceName, ImageRecord, MethodResult, RunRecord } from "../../study/results.js";
import { CONFIDENCE_TITLES } from "./theme.js";

/** A method's name in a figure: "LE". */
export function short(method: MethodName): string {
  return METHOD_TITLES[method].short;
}

/**
 * The confidence that suits a method best of those it has: AULA for a Layer Ensemble, pairwise agreement for other
 * ensembles, soft Dice confidence for one head. (A sum of entropy is larger for a larger object, however sure the method.)
 */
export function suitedConfidence(method: MethodResult): ConfidenceName {
  const order = ["aula", "pairwiseAgreement", "softDiceConfidence", "entropy"] as const;
  return order.find((name) => method.confidence[name] !== null) ?? "entropy";
}

/** "LE: AULA" */
export function ranked(method: MethodName, confidence: ConfidenceName): string {
  return `${short(method)}: ${CONFIDENCE_TITLES[confidence]}`;
}

/** A confidence of an image; null where it has none. */
export function confidenceOf(image: ImageRecord, name: ConfidenceName, summary: Comparison["summary"]): number | null {
  if (name === "aula" || name === "pairwiseAgreement" || name === "softDiceConfidence") return image[name];
  const value = image.uncertainty[`${name}.${summary}`];
  return value === undefined ? null : -value;
}

/** What an axis of a confidence is called, with its unit. */
export function confidenceAxis(name: ConfidenceName, summary: Comparison["summary"]): string {
  const title = CONFIDENCE_TITLES[name];
  if (name === "aula" || name === "softDiceConfidence") return title;
  if (name === "pairwiseAgreement") return `${title} (Dice)`;
  const over = { sum: "sum over pixels", mean: "mean over pixels", foreground: "mean over foreground" }[summary];
  return `${title}, ${over}${name === "variance" ? "" : " (nats)"}`;
}

/** The first run (seed) of a method. */
export function firstRun(comparison: Comparison, method: MethodName): RunRecord | undefined {
  const index = comparison.methods.find((result) => result.method === method)?.runs[0];
  return index === undefined ? undefined : comparison.runs[index];
}

/** Rounded for a label; an en dash where there is no value. */
export function fixed(value: number | null | undefined, digits = 3): string {
  return value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
}
