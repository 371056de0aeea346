export {
  checkGate,
  decide,
  GATE_REASONS,
  type Gate,
  type GateDecision,
  type GateReason,
  parseGate,
} from "./gate.js";
export type { Scored, ScoreEntry } from "./register.js";
export { confidenceOf, SCORE_NAMES, SCORES, type ScoreName, scoreOf } from "./scores.js";
