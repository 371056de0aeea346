export { binomialCdf, clopperPearson, type ShareInterval } from "./binomial.js";
export { type BootstrapInterval, type BootstrapOptions, bootstrap } from "./bootstrap.js";
export { type Pearson, pearson, type Spearman, spearman } from "./correlation.js";
export {
  augrc,
  aurc,
  auroc,
  eaurc,
  fpr95,
  naurc,
  type QualityControlCurve,
  type QualityControlOptions,
  qualityControlCurve,
  type RiskCoverage,
  riskCoverage,
} from "./failures.js";
export {
  StreamAlarm,
  type StreamAlarmOptions,
  type StreamAlarmReading,
  type StreamAlarmState,
  type StreamReading,
  type StreamState,
} from "./martingale.js";
export { type PairedT, pairedT, type Wilcoxon, wilcoxon } from "./paired.js";
