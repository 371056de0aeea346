import { countPatterns, isEmpty } from "../agreement/counts.js";
import { aulaFromCounts, type PredictionDepth } from "../agreement/index.js";
import { pairwiseAgreementFromCounts, predictionDepthFromCounts } from "../agreement/measures.js";
import type { NdArray } from "../arrays.js";
import { checkLabels, checkSameShape, type FloatArray, fail } from "../checks.js";
import { fuse, PREDICTION_FUSIONS, PROBABILITIES, skipHeads } from "../fusion/fuse.js";
import {
  type ClassSums,
  type HeadSums,
  sumOfClasses,
  sumOfHeads,
  sumOfProbabilities,
  total,
} from "../fusion/head-sums.js";
import { checkLogits, checkNoShares, checkProbabilities, type Heads, headViews } from "../fusion/heads.js";
import { findPatterns, type Patterns } from "../fusion/patterns.js";
import { expand, type Staple, stapleOf } from "../fusion/staple.js";
import { checkOptions, defaultsOf, option, type Values } from "../options.js";
import type { Scored } from "../scores/register.js";
import type { MapName } from "../uncertainty/maps.js";
import {
  type MapSummary,
  softDiceConfidenceFromSums,
  softDiceConfidenceOfHeads,
  summaryFromSums,
} from "../uncertainty/summary.js";
import { type Calibration, calibrationOf } from "./calibration.js";
import { checkSaid, IGNORE_INDEX, leftOut, NOTHING } from "./ignored.js";
import { countPixels } from "./likelihood.js";
import { MEASURED, type Quality, quality } from "./quality.js";
import { SURFACE_OPTIONS } from "./regions.js";

export const SCORE = {
  /**
   * What the heads are. Probabilities cannot be fused by `"logit-mean"`. Logits that sum to 1, 100 or 255 over the classes at
   * every pixel are taken for probabilities, and refused: see `trust`. @default "logits"
   */
  values: option.oneOf(["logits", "probabilities"], { default: "logits" }),
  /** Takes the heads as `values` says also where they look like the other. @default false */
  trust: option.boolean({ default: false, text: "take the heads for logits also where they look like probabilities" }),
  /** T: how many first heads are left out. @default 0 */
  skip: option.integer({ min: 0, default: 0, text: "first heads to leave out", arg: "T" }),
  /** How heads are fused. @default "mean" */
  fusion: option.oneOf(PREDICTION_FUSIONS, { default: "mean", text: "how heads are fused" }),
  /** One per kept head; see {@link FuseOptions}. @default 1 each */
  weights: option.array(option.number({ min: 0 })),
  /** θ of the prediction depth, in [0, 1]. @default 0.95 */
  theta: option.number({ min: 0, max: 1 }),
  /** The truth: S, labels 0..C-1 or `ignoreIndex`. Without it there is neither quality nor calibration. */
  truth: option.custom<NdArray<Uint8Array>>(
    "an array S with data and shape",
    (value) => typeof value === "object" && value !== null,
  ),
  /**
   * Label of the truth that is left out where something is compared with it; null leaves none out.
   * @default 255, where that is no class
   */
  ignoreIndex: IGNORE_INDEX,
  /** Distance of neighbouring pixels along each axis in mm, positive. @default lengths and sizes are in pixels */
  spacing: SURFACE_OPTIONS.spacing,
  /** Of surface Dice, in mm, or pixels without a spacing. @default 1 */
  tolerance: MEASURED.tolerance,
  /** Share of a lesion that has to be covered for it to be found. @default 0.1 */
  lesionOverlap: MEASURED.lesionOverlap,
  /** Which pixels are of one lesion: those that touch over a face alone, or at corners too. @default "face" */
  neighbours: MEASURED.neighbours,
};

/** Options of {@link scoreHeads}. */
export interface ScoreOptions extends Values<typeof SCORE> {}

/** All that can be said of one image's heads. */
export interface HeadsScore extends Scored {
  /** K×S: m_k. */
  labels: NdArray<Uint8Array>;
  /** C×S: p̄. */
  probabilities: NdArray<Float64Array>;
  /** S: ŷ. */
  mask: NdArray<Uint8Array>;
  /** S each. */
  maps: Record<MapName, NdArray>;
  /** Image-level summaries of each map. */
  summaries: Record<MapName, MapSummary>;
  /** Where in depth the prediction settles. */
  predictionDepth: PredictionDepth;
  /** The truth that STAPLE estimates from the labels, and how good each head is against it. */
  staple: Staple;
  /** Of the mask; where the truth is given. */
  quality?: Quality;
  /** Of the probabilities; where the truth is given. */
  calibration?: Calibration;
}

/**
 * Every map and measure of one image at once: several times as fast as one function after the other, as the heads are read in
 * a single pass and what depends on labels alone is worked out once for each combination that occurs. The values are those of
 * the single functions but for rounding (1e-9).
 * @param heads K×C×S or K arrays C×S, in depth order.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function scoreHeads(heads: Heads, options: ScoreOptions = {}): HeadsScore {
  const { skip, values, fusion, weights, theta, spacing, tolerance, lesionOverlap, neighbours, ...more } = {
    ...defaultsOf(SCORE),
    ...checkOptions("scoreHeads", options, SCORE),
  };
  if (values === "probabilities" && fusion === "logit-mean") {
    fail("ERR_LE_OPTION", "option 'fusion' of scoreHeads", "another fusion, as the heads are probabilities,", fusion);
  }
  const kept = skipHeads(heads as readonly NdArray<FloatArray>[], skip);
  const input = headViews("heads", kept);
  const { views, classes, pixels, spatial } = input;
  if (classes < 2)
    fail(
      "ERR_LE_SHAPE",
      "the class axis of heads",
      "at least 2 classes, background first: a foreground map p is the two classes 1 - p and p,",
      "1",
    );
  let ignoreIndex = NOTHING;
  let truth: NdArray<Uint8Array> | undefined;
  if (more.truth) {
    ignoreIndex = leftOut(more.ignoreIndex, classes);
    truth = checkLabels("option 'truth'", more.truth, { classes, rank: 1, axes: "S", ignoreIndex });
    checkSameShape("option 'truth'", truth.shape, spatial);
    checkSaid(more.ignoreIndex, classes, [["option 'truth'", truth.data]]);
  }
  let sums: HeadSums;
  if (values === "logits") {
    if (!more.trust) checkNoShares("heads", input, PROBABILITIES);
    sums = sumOfHeads(views, classes, pixels);
    if (!sums.finite) checkLogits("heads", input, null);
  } else {
    checkProbabilities("heads", input);
    sums = sumOfProbabilities(views, classes, pixels);
  }
  const patterns = findPatterns(sums.labels, views.length, classes, sums.codes);
  const counts = countPatterns(patterns, classes);
  const truthEstimate = stapleOf(patterns, classes);
  const staple = expand(truthEstimate, spatial);

  let fused = sums.probabilities;
  if (fusion === "staple") fused = Float64Array.from(staple.probabilities.data);
  else if (fusion !== "mean" || weights)
    fused = fuse(kept, { values, trust: true, fusion, ...(weights && { weights }), precision: "double" }).data;
  const ofFused = fused === sums.probabilities ? sums.mean : sumOfClasses(fused, classes, pixels);
  const mask = ofFused.labels;
  const { expectedEntropy, mutualInformation, variance } = sums;
  const maps = {
    entropy: ofFused.entropy,
    expectedEntropy,
    mutualInformation,
    variance,
    ...voteMaps(patterns, classes),
  };
  const shaped = <T extends Float32Array | Uint8Array>(data: T) => ({ data, shape: [...spatial] });
  const spatialMask = shaped(mask);
  return {
    labels: { data: sums.labels, shape: [views.length, ...spatial] },
    probabilities: { data: fused, shape: [classes, ...spatial] },
    mask: spatialMask,
    maps: mapValues(maps, shaped),
    summaries: mapValues(maps, (map) => summary(map, mask)),
    empty: isEmpty(counts),
    aula: views.length < 3 ? null : aulaFromCounts(counts, { skipped: skip }),
    pairwiseAgreement: pairwiseAgreementFromCounts(counts),
    predictionDepth: predictionDepthFromCounts(counts, theta),
    softDiceConfidence: {
      ...softDiceConfidenceFromSums(softDiceSums(fused, ofFused, classes)),
      heads: softDiceConfidenceOfHeads(counts.counts, sums.ofHeads, classes),
    },
    staple,
    ...(truth && {
      quality: quality(spatialMask, truth, {
        ...{ classes, tolerance, lesionOverlap, neighbours },
        ignoreIndex: ignoreIndex === NOTHING ? null : ignoreIndex,
        ...(spacing && { spacing }),
      }),
      calibration: calibrationOf(countPixels(fused, truth.data, classes, ignoreIndex, false, ofFused)),
    }),
  };
}

/** The maps that need no more than the labels. */
function voteMaps(patterns: Patterns, classes: number) {
  const { of } = patterns;
  const votes = voteMeasures(patterns, classes);
  const disagreement = new Float32Array(of.length);
  const variationRatio = new Float32Array(of.length);
  for (let i = 0; i < of.length; i++) {
    const d = of[i] as number;
    disagreement[i] = votes.disagreement[d] as number;
    variationRatio[i] = votes.ratio[d] as number;
  }
  return { disagreement, variationRatio };
}

/** C×3, by class: #(ŷ=c), Σ p̄_c, Σ p̄_c [ŷ=c]. */
function softDiceSums(probabilities: Float64Array, { most, labels }: ClassSums, classes: number): Float64Array {
  const sums = new Float64Array(classes * 3);
  // Run by run of one label, so that its sum stays in a register.
  for (let i = 0; i < labels.length; ) {
    const label = labels[i] as number;
    const start = i;
    let sum = 0;
    for (; labels[i] === label; i++) sum += most[i] as number;
    sums[label * 3] = (sums[label * 3] as number) + (i - start);
    sums[label * 3 + 2] = (sums[label * 3 + 2] as number) + sum;
  }
  for (let c = 0; c < classes; c++) sums[c * 3 + 1] = total(probabilities, c * labels.length, labels.length);
  return sums;
}

/** By pattern: disagreement and variation ratio. */
function voteMeasures({ heads, labels, counts }: Patterns, classes: number) {
  const disagreement = new Float64Array(counts.length);
  const ratio = new Float64Array(counts.length);
  const votes = new Uint32Array(classes);
  for (let d = 0; d < counts.length; d++) {
    votes.fill(0);
    for (let k = 0; k < heads; k++) votes[labels[d * heads + k] as number]!++;
    let pairs = 0;
    let most = 0;
    for (let c = 0; c < classes; c++) {
      const n = votes[c] as number;
      pairs += n * (n - 1);
      if (n > most) most = n;
    }
    disagreement[d] = heads === 1 ? 0 : 1 - pairs / (heads * (heads - 1));
    ratio[d] = 1 - most / heads;
  }
  return { disagreement, ratio };
}

function summary(map: Float32Array, mask: Uint8Array): MapSummary {
  let background = 0;
  let foregroundSum = 0;
  let foregroundPixels = 0;
  for (let i = 0; i < map.length; i++) {
    if (mask[i] === 0) {
      background += map[i] as number;
    } else {
      foregroundSum += map[i] as number;
      foregroundPixels++;
    }
  }
  return summaryFromSums({ sum: background + foregroundSum, foregroundSum, pixels: map.length, foregroundPixels });
}

function mapValues<K extends string, A, B>(record: Record<K, A>, change: (value: A) => B): Record<K, B> {
  return Object.fromEntries(Object.entries<A>(record).map(([key, value]) => [key, change(value)])) as Record<K, B>;
}
