// `layer-ensembles/metrics`: the definitions, on typed arrays alone. Loads no addon and needs no libtorch.
export {
  type AgreementCounts,
  type Aula,
  type AulaOptions,
  aula,
  aulaFromCounts,
  countAgreement,
  type PairwiseAgreement,
  type PredictionDepth,
  pairwiseAgreement,
  pairwiseAgreementFromCounts,
  predictionDepth,
  predictionDepthFromCounts,
} from "../agreement/index.js";
export type { NdArray, NumericArray } from "../arrays.js";
export { type ErrorCode, LayerEnsemblesError } from "../errors.js";
export {
  argmax,
  type FloatArray,
  FUSIONS,
  type FuseOptions,
  type Fusion,
  fuse,
  type Heads,
  labelMaps,
  skipHeads,
  softmax,
} from "../fusion/index.js";
export {
  augrc,
  aurc,
  auroc,
  eaurc,
  fpr95,
  naurc,
  type Pearson,
  pearson,
  type QualityControlCurve,
  type QualityControlOptions,
  qualityControlCurve,
  type RiskCoverage,
  riskCoverage,
  type Spearman,
  spearman,
} from "../statistics/index.js";
export {
  disagreement,
  entropy,
  expectedEntropy,
  type MapName,
  type MapSummary,
  type MapSums,
  mutualInformation,
  type SoftDiceConfidence,
  softDiceConfidence,
  softDiceConfidenceFromSums,
  summarise,
  summaryFromSums,
  variance,
  variationRatio,
} from "../uncertainty/index.js";
export { brier, type LikelihoodOptions, nll } from "./likelihood.js";
export { dice, iou, type OverlapOptions } from "./overlap.js";
