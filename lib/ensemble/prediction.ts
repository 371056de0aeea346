import {
  type AgreementCounts,
  aulaFromCounts,
  isEmpty,
  pairwiseAgreementFromCounts,
  predictionDepthFromCounts,
} from "../agreement/index.js";
import type { NdArray } from "../arrays.js";
import type { RawPrediction } from "../native/addon.js";
import type { Scored } from "../scores/register.js";
import {
  MAP_NAMES,
  type MapName,
  softDiceConfidenceFromSums,
  softDiceConfidenceOfHeads,
  summaryFromSums,
} from "../uncertainty/index.js";
import type { TilesTaken } from "./tile-options.js";

/**
 * All that one prediction says of one image, at the size of the image that was given. C classes, K kept heads. Of a volume
 * every H×W is D×H×W.
 */
export interface Prediction extends Scored {
  /** H×W: the class with the highest fused probability; ties go to the lower class. */
  mask: NdArray<Uint8Array>;
  /** C×H×W: fused probabilities, in [0, 1]. */
  probabilities?: NdArray<Float32Array>;
  /** H×W each: the uncertainty maps asked for. */
  maps: Partial<Record<MapName, NdArray<Float32Array>>>;
  /** Names of the kept heads, in depth order. */
  heads: string[];
  /** Each head's performance as STAPLE estimates it, where the heads were fused by it. */
  staple?: HeadPerformance;
  /** K×H×W: each kept head's own mask, where asked for. */
  labels?: NdArray<Uint8Array>;
  /**
   * Where asked for: by layer, in the order of depth, 2C numbers of its C feature maps as the pass had them: their means over
   * space, then their standard deviations (divisor: the number of places). Of all tapped layers of a Layer Ensemble, those of
   * skipped heads too; of other methods, of the layers that it would tap. `(input)` is how the input's values are distributed,
   * `(stored)` what they were as stored, where the image says so: see docs/shift.md. Of a deep ensemble those of the first member; of
   * Monte Carlo dropout their means over the passes.
   */
  tapStatistics?: Record<string, Float32Array>;
  /**
   * How it was made, where it is not of one pass of the whole image. `predictedDice` and `tapDistance` are left out where it is not as
   * the model's own are ({@link Model.tiles}), to which they were fitted. `tapStatistics` are those of the features of all passes together: what lies in several
   * tiles counts as often.
   */
  tiles?: TilesTaken;
}

/** Performance of heads against the truth that STAPLE estimates from them (SPEC §11). */
export interface HeadPerformance {
  /** By head, true class t, label s: chance that the head says s where the truth is t. NaN in rows of classes without W. */
  confusion: number[][][];
  /** By head, for two classes only: chance to say 1 where the truth is 1; NaN where that is nowhere. */
  sensitivity?: number[];
  /** By head, for two classes only: chance to say 0 where the truth is 0; NaN where that is nowhere. */
  specificity?: number[];
  /** Whether the estimate settled before the most rounds were done. */
  converged: boolean;
  /** Rounds of estimation that were done. */
  rounds: number;
}

/** Completes what the addon's pass over the pixels counted by the definitions of `layer-ensembles/metrics`. */
export function toPrediction(
  raw: RawPrediction,
  heads: string[],
  { skip, inDepth }: { skip: number; inDepth: boolean },
): Prediction {
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
    empty: isEmpty(counts),
    aula: k < 3 || !inDepth ? null : aulaFromCounts(counts, { skipped: skip }),
    pairwiseAgreement: pairwiseAgreementFromCounts(counts),
    predictionDepth: k < 2 || !inDepth ? null : predictionDepthFromCounts(counts),
    softDiceConfidence: {
      ...softDiceConfidenceFromSums(raw.classSums.data),
      heads: softDiceConfidenceOfHeads(raw.counts.data, raw.headSums.data, classes),
    },
    heads,
    ...(raw.confusion && { staple: performance(raw.confusion, raw.rounds?.data ?? new Float64Array(2)) }),
    ...(raw.labels && { labels: raw.labels }),
  };
}

function performance({ data, shape }: NdArray<Float64Array>, rounds: Float64Array): HeadPerformance {
  const [heads = 0, classes = 0] = shape;
  const row = (k: number, t: number) => [
    ...data.subarray((k * classes + t) * classes, (k * classes + t + 1) * classes),
  ];
  const confusion = Array.from({ length: heads }, (_, k) => Array.from({ length: classes }, (_, t) => row(k, t)));
  return {
    confusion,
    ...(classes === 2 && {
      sensitivity: confusion.map((rows) => rows[1]?.[1] as number),
      specificity: confusion.map((rows) => rows[0]?.[0] as number),
    }),
    rounds: rounds[0] as number,
    converged: rounds[1] === 1,
  };
}
