export {
  disagreement,
  entropy,
  expectedEntropy,
  MAP_NAMES,
  MAPS,
  type MapName,
  type MapParts,
  mutualInformation,
  variance,
  variationRatio,
} from "./maps.js";
export {
  type MapSummary,
  type MapSums,
  type SoftDiceConfidence,
  SUMMARIES,
  softDiceConfidence,
  softDiceConfidenceFromSums,
  summarise,
  summaryFromSums,
} from "./summary.js";
