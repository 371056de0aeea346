export { type AgreementCounts, countAgreement, isEmpty } from "./counts.js";
export {
  type Aula,
  type AulaOptions,
  aula,
  aulaFromCounts,
  type PairwiseAgreement,
  type PredictionDepth,
  pairwiseAgreement,
  pairwiseAgreementFromCounts,
  predictionDepth,
  predictionDepthFromCounts,
} from "./measures.js";
