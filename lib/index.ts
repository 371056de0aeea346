export type { NdArray, NumericArray } from "./arrays.js";
export {
  type AcceptedShare,
  type CalibrationCases,
  type Certification,
  type Certified,
  type CertifyOptions,
  casesNeeded,
  certify,
  type Levels,
  type LossKind,
  type NotCertified,
  type RuleName,
  scoreThresholds,
  type TestedThreshold,
} from "./certificate/index.js";
export {
  Dataset,
  type MemorySample,
  type OriginalSample,
  type Sample,
  type SampleInfo,
} from "./data/dataset.js";
export type { DatasetOptions, FolderOptions, LoadOptions, MaskValues } from "./data/dataset-options.js";
export { type ImageArray, type ReadOptions, readImage } from "./data/image.js";
export type { Ignored, LabelOptions, LabelRule } from "./data/labels.js";
export type { Orientation } from "./data/orientation.js";
export {
  type ImagePlacement,
  type Intensity,
  type NetworkInput,
  type Normalise,
  type Placement,
  type PreparedImage,
  type Preprocessing,
  preprocess,
  type Resize,
  restore,
  restoreLabels,
  type TrainingIntensity,
  type Unprepared,
} from "./data/preprocess.js";
export type { VolumeHead } from "./data/stored.js";
export type { GridPreprocessing, VolumePlacement, VolumeSize } from "./data/volume.js";
export { AUGMENTATIONS, type AugmentName, type AugmentOptions } from "./ensemble/augment.js";
export { Backbone, type LayerInfo, type LoadReport, type ModelOptions } from "./ensemble/backbone.js";
export { McDropout, MultiHead, Plain } from "./ensemble/baselines.js";
export { DeepEnsemble, type DeepFitOptions, type MemberEvent } from "./ensemble/deep-ensemble.js";
export { type FitOptions, type OptimizerOptions, PAPER, type ScheduleOptions } from "./ensemble/fit-options.js";
export type { BaselineOptions, EnsembleOptions } from "./ensemble/head-options.js";
export { LayerEnsemble } from "./ensemble/layer-ensemble.js";
export { loadModel } from "./ensemble/load.js";
export { type CustomLoss, LOSSES, type LossName, type LossOptions } from "./ensemble/losses.js";
export type {
  ForwardOptions,
  Head,
  Model,
  PlacementOptions,
  PredictOptions,
} from "./ensemble/model.js";
export type { HeadPerformance, Prediction } from "./ensemble/prediction.js";
export { imagenetWeights, type WeightsOptions } from "./ensemble/pretrained.js";
export { autoTaps } from "./ensemble/taps.js";
export type { ImageRows, TileEvent, TileOptions, TilesTaken } from "./ensemble/tile-options.js";
export type {
  EpochEvent,
  History,
  PreparedEvent,
  SampleSource,
  Score,
  TrainingEvent,
  TrainingSample,
} from "./ensemble/training.js";
export { type BackboneKind, type BackboneOptions, ENCODERS, type EncoderName } from "./ensemble/zoo.js";
export { type ErrorCode, LayerEnsemblesError } from "./errors.js";
export type { PredictionFusion } from "./fusion/index.js";
export { type Configuration, configure } from "./native/configure.js";
export type { DownloadProgress } from "./native/download.js";
export type { KernelDetour, KernelReport } from "./native/kernels.js";
export { type Renewal, renewCertificate } from "./runs/alarm.js";
export {
  CERTIFICATE_FAULTS,
  type Certificate,
  type CertificateFault,
  type CertificateHashes,
  type CertificateVerdict,
  readCertificate,
  verifyCertificate,
} from "./runs/certificate.js";
export type { RunHashes } from "./runs/identity.js";
export { METHOD_TITLES, METHODS, type MethodName } from "./runs/methods.js";
export type { RunPredictedDice } from "./runs/predicted-dice.js";
export { type Run, readRun } from "./runs/run.js";
export type { RunShift } from "./runs/shift.js";
export type { RunTiles } from "./runs/tiles.js";
export {
  type CertificateInForce,
  type CertifiedThreshold,
  checkGate,
  confidenceOf,
  type DistanceGate,
  decide,
  GATE_REASONS,
  type Gate,
  type GateDecision,
  type GateReason,
  type ImageScoreName,
  LEAST_SURE,
  parseGate,
  rankedConfidence,
  SCORE_NAMES,
  SCORES,
  type Scored,
  type ScoreEntry,
  type ScoreName,
  type ScoreValues,
  scoreOf,
} from "./scores/index.js";
export {
  fitShift,
  type LayerDistance,
  type Measure,
  type ShiftFit,
  type ShiftOptions,
  type Space,
  type TapDistance,
  type TapSpace,
  type TapStatistics,
  tapDistance,
} from "./shift/index.js";
export { MAP_NAMES, type MapName } from "./uncertainty/index.js";
