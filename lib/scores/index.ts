export {
  acceptability,
  type CertificateInForce,
  type CertifiedThreshold,
  checkGate,
  type DistanceGate,
  decide,
  GATE_REASONS,
  type Gate,
  type GateDecision,
  type GateReason,
  parseGate,
} from "./gate.js";
export type { Scored, ScoreEntry } from "./register.js";
export {
  confidenceOf,
  type ImageScoreName,
  LEAST_SURE,
  rankedConfidence,
  SCORE_NAMES,
  SCORES,
  type ScoreName,
  type ScoreValues,
  scoreOf,
} from "./scores.js";
