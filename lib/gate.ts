// The gate: which results a person should look at.
import { MAP_NAMES, type Prediction } from "./ensemble/prediction.js";
import { LayerEnsemblesError } from "./errors.js";
import { checkOptions, describe, type OptionSpecs, option } from "./options.js";
import type { MapName } from "./uncertainty/index.js";

const AGREEMENTS = ["aula", "aulaNormalised", "pairwiseAgreement", "softDiceConfidence"] as const;
const SUMMARIES = ["mean", "sum", "foreground"] as const;

/**
 * A confidence: higher where the result is surer. `aula` is in [0, K - 2], `aulaNormalised`, `pairwiseAgreement` and
 * `softDiceConfidence` in [0, 1]. One named after a map and its summary, as `entropy.mean`, is minus that summary, so at most 0.
 */
export type GateScore = (typeof AGREEMENTS)[number] | `${MapName}.${(typeof SUMMARIES)[number]}`;

/** Every {@link GateScore}. */
export const GATE_SCORES: readonly GateScore[] = [
  ...AGREEMENTS,
  ...MAP_NAMES.flatMap((map) => SUMMARIES.map((summary) => `${map}.${summary}` as const)),
];

/** Where results are parted. Plain JSON: a run's run.json may hold one as `gate`. */
export interface Gate {
  /** @default "aula" */
  score?: GateScore;
  /** Results whose score is below it are for a person. */
  threshold: number;
  /** How the threshold was chosen; for the record alone. */
  rule?: unknown;
}

/** Why a person should look. */
export interface GateReason {
  /**
   * `low-score`: the score is below the threshold. `no-score`: the score is not defined for this result. `empty`: no head
   * finds any foreground, which makes AULA full by definition. `no-threshold`: there is no gate, so no decision.
   */
  code: "low-score" | "no-score" | "empty" | "no-threshold";
  /** One sentence for people. */
  message: string;
}

/** What the gate says of one result. */
export interface GateDecision {
  /** Null where there is no threshold and nothing else that calls for a person. */
  decision: "accept" | "review" | null;
  /** Empty where the result is accepted. */
  reasons: GateReason[];
  /** The score that was compared; null without a gate. */
  score: {
    /** Which score. */
    name: GateScore;
    /** Its value; null where it is not defined. */
    value: number | null;
    /** What it was compared with. */
    threshold: number;
  } | null;
}

/** What of a prediction the gate looks at. */
export type Gated = Pick<Prediction, "mask" | "summaries" | "aula" | "pairwiseAgreement" | "softDiceConfidence">;

const GATE: OptionSpecs = {
  score: option.oneOf(GATE_SCORES),
  threshold: option.required(option.number()),
  rule: option.custom("anything", () => true),
};

/**
 * Checks a gate that comes from a file or a caller.
 * @throws ERR_LE_OPTION
 */
export function checkGate(gate: unknown): Gate {
  checkOptions("the gate", gate, GATE);
  return gate as Gate;
}

/**
 * A gate from text: `SCORE:THRESHOLD`, as in `aula:6.5` or `entropy.foreground:-0.2`.
 * @throws ERR_LE_OPTION
 */
export function parseGate(text: string): Gate {
  const match = /^([^:]+):([^:]+)$/.exec(text.trim());
  const [, score = "", threshold = ""] = match ?? [];
  if (!match || threshold.trim() === "")
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected SCORE:THRESHOLD, such as aula:6.5, for the gate but received ${describe(text)}.`,
    );
  return checkGate({ score, threshold: Number(threshold) });
}

/** A result's value of a score; NaN where it is not defined, as AULA is not with fewer than three heads. */
export function scoreOf(prediction: Gated, name: GateScore): number {
  const { aula, pairwiseAgreement, softDiceConfidence, summaries } = prediction;
  switch (name) {
    case "aula":
      return aula?.value ?? Number.NaN;
    case "aulaNormalised":
      return aula?.normalised ?? Number.NaN;
    case "pairwiseAgreement":
      return pairwiseAgreement.overall;
    case "softDiceConfidence":
      return softDiceConfidence.overall;
  }
  const [map, summary] = name.split(".") as [MapName, (typeof SUMMARIES)[number]];
  const value = summaries[map]?.[summary];
  return value === undefined ? Number.NaN : -value;
}

/** Whether no head finds any foreground; with fewer than three heads, whether the mask has none. */
export function isEmpty({ aula, mask }: Pick<Gated, "aula" | "mask">): boolean {
  return aula ? aula.empty : mask.data.every((label) => label === 0);
}

/**
 * Accepts a result, or sends it to a person. An empty result is always for a person: its AULA is full by definition, and a
 * lesion that every layer misses looks the same.
 * @param gate Left out: no decision is made, and the answer says so.
 */
export function decide(prediction: Gated, gate?: Gate): GateDecision {
  const reasons: GateReason[] = [];
  if (isEmpty(prediction)) reasons.push({ code: "empty", message: "No head finds any foreground." });
  if (!gate) {
    const decision = reasons.length > 0 ? "review" : null;
    const message = "No decision: the run has no gate and none was given.";
    return { decision, reasons: [...reasons, { code: "no-threshold", message }], score: null };
  }
  const { score: name = "aula", threshold } = gate;
  const value = scoreOf(prediction, name);
  if (Number.isNaN(value)) reasons.push({ code: "no-score", message: `${name} is not defined for this result.` });
  else if (value < threshold)
    reasons.push({ code: "low-score", message: `${name} is ${value.toPrecision(4)}, below ${threshold}.` });
  return {
    decision: reasons.length > 0 ? "review" : "accept",
    reasons,
    score: { name, value: Number.isNaN(value) ? null : value, threshold },
  };
}
