// The gate: which results a person should look at.
import { LayerEnsemblesError } from "../errors.js";
import { checkOptions, describe, type OptionSpecs, option } from "../options.js";
import type { Scored } from "./register.js";
import { confidenceOf, SCORE_NAMES, SCORES, type ScoreName } from "./scores.js";

/** Where results are parted. Plain JSON: a run's run.json may hold one as `gate`. */
export interface Gate {
  /** A map's summary counts by minus its value, so that the higher is always the surer. @default "aula" */
  score?: ScoreName;
  /** Results whose score is below it are for a person. */
  threshold: number;
  /** How the threshold was chosen; for the record alone. */
  rule?: unknown;
  /** Whether the image must look like those of the training. @default nothing is asked of that */
  distance?: DistanceGate;
}

/** The gate's second question. */
export interface DistanceGate {
  /** Images whose {@link TapDistance.excess} is above it are for a person. */
  threshold: number;
  /** How the threshold was chosen; for the record alone. */
  rule?: unknown;
}

/**
 * A certificate as it stands: its threshold, proved on calibration cases, takes the place of the gate's. `void`: the alarm over the
 * stream has gone off since; `stale`: it is not of the run as it is, and may not say what it was of.
 */
export type CertificateInForce =
  | (CertifiedThreshold & {
      /** Whether it holds. @default "valid" */
      state?: "valid" | "void" | "stale";
      /** Why it is void or stale, for people. */
      message?: string;
    })
  | (Partial<CertifiedThreshold> & {
      /** It does not hold. */
      state: "stale";
      /** Why, for people. */
      message?: string;
    });

/** What a certificate's gate asks. */
export interface CertifiedThreshold {
  /** The score that was certified. */
  score: ScoreName;
  /** λ: results whose score is below it are for a person. */
  threshold: number;
}

/**
 * Codes of reasons. `low-score`: the score is below the threshold. `no-score`: the score is not defined for this result.
 * `empty`: no head finds any foreground, which makes AULA full by definition. `unlike-training`: the image is farther from those of
 * the training than the gate allows, or nothing says how far. `no-threshold`: there is no gate, so no decision.
 * `certificate-void`, `certificate-stale`: what was promised of the gate does not hold, so nothing is accepted.
 */
export const GATE_REASONS = [
  "low-score",
  "no-score",
  "empty",
  "unlike-training",
  "no-threshold",
  "certificate-void",
  "certificate-stale",
] as const;

/** Why a person should look. */
export interface GateReason {
  /** One of {@link GATE_REASONS}. */
  code: (typeof GATE_REASONS)[number];
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
    name: ScoreName;
    /** Its value; null where it is not defined. */
    value: number | null;
    /** What it was compared with. */
    threshold: number;
  } | null;
}

/** What a {@link Gate} may be. */
export const GATE: OptionSpecs = {
  score: option.oneOf(SCORE_NAMES),
  threshold: option.required(option.number()),
  rule: option.custom("anything", () => true),
  distance: option.object<DistanceGate>({
    threshold: option.required(option.number()),
    rule: option.custom("anything", () => true),
  }),
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

/**
 * Accepts a result, or sends it to a person. An empty result is always for a person: its AULA is full by definition, and a
 * lesion that every layer misses looks the same.
 * @param gate Left out: no decision is made, and the answer says so.
 * @param certificate Its score and threshold are asked instead of the gate's; one that does not hold accepts nothing.
 * @throws ERR_LE_VALUE for what is no result
 */
export function decide(
  result: Scored & {
    heads?: readonly string[];
    /** In what else the image is unlike the training's, a sentence each, such as the size of a volume's voxels. */
    unlikeTraining?: readonly string[];
  },
  gate?: Gate,
  certificate?: CertificateInForce,
): GateDecision {
  const reasons: GateReason[] = [];
  // Of one that does not say, an empty result would pass by its full agreement.
  if (typeof result.empty !== "boolean")
    throw new LayerEnsemblesError(
      "ERR_LE_VALUE",
      `Expected a result that says whether it is empty, as predictions do, but received ${describe(result.empty)}.`,
    );
  if (result.empty) reasons.push({ code: "empty", message: "No head finds any foreground." });
  const unlike = gate?.distance && unlikeTraining(result, gate.distance);
  for (const message of [...(unlike ? [unlike] : []), ...(result.unlikeTraining ?? [])])
    reasons.push({ code: "unlike-training", message });
  const { state = "valid", message = "What was promised of the gate does not hold." } = certificate ?? {};
  if (state !== "valid") reasons.push({ code: `certificate-${state}`, message });
  const { score: certified, threshold: proved } = certificate ?? {};
  const asked = proved === undefined ? gate : { ...(certified && { score: certified }), threshold: proved };
  if (!asked) {
    const decision = reasons.length > 0 ? "review" : null;
    const text = "No decision: the run has no gate and none was given.";
    return { decision, reasons: [...reasons, { code: "no-threshold", message: text }], score: null };
  }
  const { score: name = "aula", threshold } = asked;
  const { needs } = SCORES[name];
  // Of too few heads some scores are the same for every image.
  const value = (result.heads?.length ?? needs.heads) < needs.heads ? Number.NaN : confidenceOf(result, name);
  if (Number.isNaN(value)) reasons.push({ code: "no-score", message: `${name} is not defined for this result.` });
  else if (value < threshold)
    reasons.push({
      code: "low-score",
      message: `${name} is ${value.toPrecision(4)}, below ${Number(threshold.toPrecision(6))}.`,
    });
  return {
    decision: reasons.length > 0 ? "review" : "accept",
    reasons,
    score: { name, value: Number.isNaN(value) ? null : value, threshold },
  };
}

/**
 * How surely the gate would accept a result: its score, in the direction of confidence; -Infinity where it calls for a person whatever
 * the threshold, as for an empty result.
 * @param gate of which all but score and threshold holds
 */
export function acceptability(result: Scored & { heads?: readonly string[] }, score: ScoreName, gate?: Gate): number {
  const { decision, score: asked } = decide(result, gate, { score, threshold: -Number.MAX_VALUE });
  return decision === "accept" ? (asked?.value as number) : Number.NEGATIVE_INFINITY;
}

/** What the alarm over a service's cases watches of a result: how acceptable it is, and each other watched score that it has. */
export function watchedOf(
  result: Scored & { heads?: readonly string[] },
  score: ScoreName,
  gate?: Gate,
): Partial<Record<ScoreName, number>> {
  const others = SCORE_NAMES.filter((name) => name !== score && SCORES[name].watched);
  const found = others.map((name) => [name, confidenceOf(result, name)] as const);
  // The least number there is stands for -Infinity, which JSON has not.
  return {
    [score]: Math.max(acceptability(result, score, gate), -Number.MAX_VALUE),
    ...Object.fromEntries(found.filter(([, value]) => Number.isFinite(value))),
  };
}

/** {@link watchedOf} as a certificate has it of its calibration cases; null for what a result has not. */
export function watchedValues(
  result: Scored & { heads?: readonly string[] },
  { score, calibration }: { score: ScoreName; calibration: Partial<Record<ScoreName, number[]>> },
  gate: Gate | undefined,
): Record<string, number | null> {
  const found = watchedOf(result, score, gate);
  const names = Object.keys(calibration) as ScoreName[];
  return Object.fromEntries(names.map((name) => [name, found[name] ?? null]));
}

/**
 * The score that a run's gate looks at: its own, else the one that tuning chose, else AULA where there are layers enough, else soft
 * Dice confidence.
 */
export function gateScore(
  { gate, chosen }: { gate: Gate | undefined; chosen: ScoreName | undefined },
  method: string,
  heads: number,
): ScoreName {
  return gate?.score ?? chosen ?? (method === "le" && heads >= SCORES.aula.needs.heads ? "aula" : "softDiceConfidence");
}

/** Why an image is not taken for one like the training's; undefined where it is. */
function unlikeTraining({ tapDistance }: Scored, { threshold }: DistanceGate): string | undefined {
  if (!tapDistance) return "Nothing says how far the image is from those of the training.";
  const { excess } = tapDistance;
  if (excess <= threshold) return undefined;
  return `The image is unlike those of the training: its distance's excess is ${excess.toPrecision(4)}, above ${Number(threshold.toPrecision(6))}.`;
}
