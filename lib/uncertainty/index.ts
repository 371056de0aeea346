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
  type SoftDiceConfidences,
  SUMMARIES,
  softDiceConfidence,
  softDiceConfidenceFromSums,
  softDiceConfidenceOfHeads,
  summarise,
  summaryFromSums,
} from "./summary.js";
