import {
  type AgreementCounts,
  type Aula,
  aulaFromCounts,
  type PairwiseAgreement,
  type PredictionDepth,
  pairwiseAgreementFromCounts,
  predictionDepthFromCounts,
} from "../agreement/index.js";
import type { NdArray } from "../arrays.js";
import type { RawPrediction } from "../native/addon.js";
import {
  type MapName,
  type MapSummary,
  type SoftDiceConfidence,
  softDiceConfidenceFromSums,
  summaryFromSums,
} from "../uncertainty/index.js";

/** The maps, in the addon's order. */
export const MAP_NAMES = [
  "entropy",
  "expectedEntropy",
  "mutualInformation",
  "variance",
  "disagreement",
  "variationRatio",
] as const satisfies readonly MapName[];

/**
 * All that one prediction says of one image, at the size of the image that was given. C classes, K kept heads. Of a volume
 * every H×W is D×H×W.
 */
export interface Prediction {
  /** H×W: the class with the highest fused probability; ties go to the lower class. */
  mask: NdArray<Uint8Array>;
  /** C×H×W: fused probabilities, in [0, 1]. */
  probabilities?: NdArray<Float32Array>;
  /** H×W each: the uncertainty maps asked for. */
  maps: Partial<Record<MapName, NdArray<Float32Array>>>;
  /** Image-level summaries of these maps. */
  summaries: Partial<Record<MapName, MapSummary>>;
  /** Area under layer agreement; null where it is not defined: with fewer than three heads. */
  aula: Aula | null;
  /** Mean Dice over all pairs of heads; NaN for a single head. */
  pairwiseAgreement: PairwiseAgreement;
  /** Where in depth the prediction settles; null with fewer than two heads. */
  predictionDepth: PredictionDepth | null;
  /** Soft Dice of the fused probabilities with their own mask. */
  softDiceConfidence: SoftDiceConfidence;
  /** Names of the kept heads, in depth order. */
  heads: string[];
  /** K×H×W: each kept head's own mask, where asked for. */
  labels?: NdArray<Uint8Array>;
}

/** Completes what the addon's pass over the pixels counted by the definitions of `layer-ensembles/metrics`. */
export function toPrediction(raw: RawPrediction, heads: string[], skip: number): Prediction {
  const [k = 0, classes = 0] = raw.counts.shape;
  const counts: AgreementCounts = {
    heads: k,
    classes,
    counts: raw.counts.data,
    intersections: raw.intersections.data,
  };
  const pixels = raw.mask.data.length;
  let foregroundPixels = 0;
  for (let c = 1; c < classes; c++) foregroundPixels += raw.classSums.data[c * 3] as number;
  const maps: Prediction["maps"] = {};
  const summaries: Prediction["summaries"] = {};
  for (const [i, name] of MAP_NAMES.entries()) {
    const map = raw.maps[i];
    if (!map) continue;
    maps[name] = map;
    const [sum, foregroundSum] = raw.summaries.data.subarray(i * 2, i * 2 + 2) as unknown as [number, number];
    summaries[name] = summaryFromSums({ sum, foregroundSum, pixels, foregroundPixels });
  }
  return {
    mask: raw.mask,
    ...(raw.probabilities && { probabilities: raw.probabilities }),
    maps,
    summaries,
    aula: k < 3 ? null : aulaFromCounts(counts, { skipped: skip }),
    pairwiseAgreement: pairwiseAgreementFromCounts(counts),
    predictionDepth: k < 2 ? null : predictionDepthFromCounts(counts),
    softDiceConfidence: softDiceConfidenceFromSums(raw.classSums.data),
    heads,
    ...(raw.labels && { labels: raw.labels }),
  };
}
