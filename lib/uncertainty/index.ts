export {
  disagreement,
  entropy,
  expectedEntropy,
  type MapName,
  mutualInformation,
  variance,
  variationRatio,
} from "./maps.js";
export {
  type MapSummary,
  type MapSums,
  type SoftDiceConfidence,
  softDiceConfidence,
  softDiceConfidenceFromSums,
  summarise,
  summaryFromSums,
} from "./summary.js";
