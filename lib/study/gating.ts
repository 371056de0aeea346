// What the gate of a run says of evaluated images, as a service would, and whether it was right.
import type { Gated } from "../inference/record.js";
import { fixed } from "../results/format.js";
import { type CertifiedThreshold, decide, GATE_REASONS, type Gate, type GateDecision } from "../scores/gate.js";
import type { Scored } from "../scores/register.js";
import { SCORES } from "../scores/scores.js";

/** What a run's gate asks: its certificate's threshold where one holds, and all else of its own gate. */
export interface RunGate {
  gate: Gate | undefined;
  certificate?: CertifiedThreshold | undefined;
}

/** What became of one image. */
export type Decided = Pick<GateDecision, "decision" | "reasons">;

/** What the gate came to. */
export interface GateSummary {
  score: string;
  threshold: number;
  certified: boolean;
  /** Images that it takes without a person. */
  accepted: number;
  /** Of them, those with Dice below `tau`. */
  failed: number;
  tau: number;
  /** Images for a person. */
  review: number;
  /** How many of them for each reason; an image may have several. */
  reasons: Partial<Record<(typeof GATE_REASONS)[number], number>>;
}

/** Asks the gate about a prediction, as services do; null without a gate. */
export function decideAs(prediction: Gated<Scored & { heads?: readonly string[] }>, { gate, certificate }: RunGate) {
  return gate || certificate ? decide(prediction, gate, certificate) : null;
}

/**
 * Over all images.
 * @param decided one for each image, with its Dice; null for one that has none
 */
export function summariseGate(
  decided: readonly (GateDecision & { dice: number | null })[],
  { certificate }: RunGate,
  tau: number,
): GateSummary | undefined {
  const [first] = decided;
  if (!first?.score) return undefined;
  const accepted = decided.filter(({ decision }) => decision === "accept");
  const counts = GATE_REASONS.map(
    (code) => [code, decided.filter(({ reasons }) => reasons.some((one) => one.code === code)).length] as const,
  );
  return {
    score: first.score.name,
    threshold: first.score.threshold,
    certified: certificate !== undefined,
    accepted: accepted.length,
    failed: accepted.filter(({ dice }) => dice !== null && dice < tau).length,
    tau,
    review: decided.length - accepted.length,
    reasons: Object.fromEntries(counts.filter(([, count]) => count > 0)),
  };
}

/** For people. */
export function describeGate({
  score,
  threshold,
  certified,
  accepted,
  failed,
  tau,
  review,
  reasons,
}: GateSummary): string {
  const { title } = SCORES[score as keyof typeof SCORES];
  const why = Object.entries(reasons).map(([code, count]) => `${code} ${count}`);
  const from = Number(threshold.toPrecision(6));
  return (
    `The ${certified ? "certified gate" : "gate"} (${title} from ${from} on) accepts ${accepted} of ${accepted + review} images, ` +
    `${failed} of them with Dice below ${fixed(tau, 2)}, and sends ${review} to a person${why.length > 0 ? ` (${why.join(", ")})` : ""}.`
  );
}
