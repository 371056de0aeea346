export type { Cropped } from "../data/cropped.js";
export type { SeenImage } from "../data/leaks.js";
export type { GridRange } from "../data/volume.js";
export type { Extent, PlaceRecord, PredictionRecord } from "../inference/record.js";
export type { RunNotes } from "../runs/notes.js";
export {
  checkGate,
  confidenceOf,
  decide,
  GATE_REASONS,
  type Gate,
  type GateDecision,
  type GateReason,
  type ImageScoreName,
  parseGate,
  SCORE_NAMES,
  SCORES,
  type Scored,
  type ScoreEntry,
  type ScoreName,
  type ScoreValues,
  scoreOf,
} from "../scores/index.js";
export { ANSWER_TYPES, type AnswerType, type WrittenAnswer } from "./answers.js";
export type { Budget, Evictable, Held } from "./budget.js";
export {
  CERTIFICATE_STATES,
  type CertificateBrief,
  type CertificateState,
  type CertificateStatus,
  ServedCertificate,
} from "./certificate.js";
export type { AlarmEvent } from "./certificates.js";
export type { FormFile } from "./form.js";
export { OUTPUTS, type OutputFile, type OutputName } from "./image-work.js";
export type { InferAnswer } from "./kserve.js";
export type { Metrics, Stage } from "./metrics.js";
export type { OutcomeOptions } from "./outcomes.js";
export {
  type BatchEvent,
  type Place,
  PredictionQueue,
  type Predictor,
  type QueuedOptions,
  type QueueOptions,
} from "./queue.js";
export { routes } from "./routes.js";
export type { ServedModel } from "./served-model.js";
export { createServer } from "./server.js";
export {
  type ImageAnswer,
  type Limits,
  MEMORY_SHARES,
  PredictionService,
  type RequestOptions,
  type ServiceSummary,
} from "./service.js";
export type { ServerOptions, ServiceOptions } from "./service-options.js";
