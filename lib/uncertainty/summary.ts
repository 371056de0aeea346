import type { NdArray } from "../arrays.js";
import { checkFinite, checkFloats, checkLabels, checkSameShape, type FloatArray, fail } from "../checks.js";
import { argmax } from "../fusion/fuse.js";
import { checkProbabilities, singleView } from "../fusion/heads.js";
import { describe } from "../options.js";

/** How a map is summarised: see {@link MapSummary}. */
export const SUMMARIES = ["sum", "mean", "foreground"] as const;

/** What one map comes to over the whole image, in the map's unit. */
export interface MapSummary extends Record<(typeof SUMMARIES)[number], number> {
  /** Over all pixels. */
  sum: number;
  /** Over all pixels. */
  mean: number;
  /** Mean over the pixels that are predicted as foreground, ŷ ≠ 0; 0 where there are none. */
  foreground: number;
}

/** What {@link summaryFromSums} needs to know of a map. */
export interface MapSums {
  /** Σ u over all pixels. */
  sum: number;
  /** Σ u over the pixels with ŷ ≠ 0. */
  foregroundSum: number;
  /** Number of pixels. */
  pixels: number;
  /** Number of pixels with ŷ ≠ 0. */
  foregroundPixels: number;
}

/** How sure the fused prediction is of its own mask, per foreground class. */
export interface SoftDiceConfidence {
  /** Of classes 1..C-1, in [0, 1]; 0 for a class that is not predicted. */
  perClass: Record<number, number>;
  /** Mean over the foreground classes that are predicted; 0 if there are none. */
  overall: number;
}

/** {@link SoftDiceConfidence} of the fused prediction, and of each head. */
export interface SoftDiceConfidences extends SoftDiceConfidence {
  /** Of each kept head's own probabilities with its own mask, in depth order. */
  heads: SoftDiceConfidence[];
}

/**
 * Image-level summaries of a pixel map u.
 * @param map S, finite.
 * @param mask S: the fused label map ŷ.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function summarise(map: NdArray<FloatArray>, mask: NdArray<Uint8Array>): MapSummary {
  const values = checkFloats("map", map, 1, "S");
  checkFinite("map", values.data);
  const labels = checkLabels("mask", mask, { classes: 256, rank: 1, axes: "S" });
  checkSameShape("mask", labels.shape, values.shape);
  const pixels = values.data.length;
  let sum = 0;
  let foregroundSum = 0;
  let foregroundPixels = 0;
  for (let i = 0; i < pixels; i++) {
    const u = values.data[i] as number;
    sum += u;
    if (labels.data[i] !== 0) {
      foregroundSum += u;
      foregroundPixels++;
    }
  }
  return summaryFromSums({ sum, foregroundSum, pixels, foregroundPixels });
}

/** {@link summarise} for one who has the sums already. */
export function summaryFromSums({ sum, foregroundSum, pixels, foregroundPixels }: MapSums): MapSummary {
  return { sum, mean: sum / pixels, foreground: foregroundSum / Math.max(1, foregroundPixels) };
}

/**
 * Soft Dice confidence of each foreground class: 2 Σ p̄_c [ŷ=c] / (Σ p̄_c + Σ [ŷ=c]), arXiv 2402.10665.
 * @param probabilities Fused, C×S.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function softDiceConfidence(probabilities: NdArray<FloatArray>): SoftDiceConfidence {
  const input = singleView("probabilities", probabilities);
  checkProbabilities("probabilities", input);
  const { view, classes, pixels } = input;
  const labels = argmax({ data: view, shape: [classes, pixels] }).data;
  const sums = new Float64Array(classes * 3);
  for (let c = 0; c < classes; c++) {
    let predicted = 0;
    let total = 0;
    let within = 0;
    for (let i = 0; i < pixels; i++) {
      const p = view[c * pixels + i] as number;
      total += p;
      if (labels[i] === c) {
        predicted++;
        within += p;
      }
    }
    sums.set([predicted, total, within], c * 3);
  }
  return softDiceConfidenceFromSums(sums);
}

/**
 * {@link softDiceConfidence} for one who has the sums already.
 * @param sums C×3, by class: #(ŷ=c), Σ p̄_c, Σ p̄_c [ŷ=c].
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function softDiceConfidenceFromSums(sums: ArrayLike<number>): SoftDiceConfidence {
  if (!(sums.length > 0) || sums.length % 3 !== 0) {
    fail("ERR_LE_SHAPE", "sums", "three values per class", describe(sums));
  }
  checkFinite("sums", sums);
  const perClass: Record<number, number> = {};
  let total = 0;
  let classes = 0;
  for (let c = 1; c < sums.length / 3; c++) {
    const [predicted, probability, within] = [sums[c * 3], sums[c * 3 + 1], sums[c * 3 + 2]] as [
      number,
      number,
      number,
    ];
    const confidence = predicted > 0 ? (2 * within) / (probability + predicted) : 0;
    perClass[c] = confidence;
    if (predicted > 0) {
      total += confidence;
      classes++;
    }
  }
  return { perClass, overall: classes > 0 ? total / classes : 0 };
}

/**
 * {@link softDiceConfidenceFromSums} of each of K heads.
 * @param counts K×C: #(m_k=c).
 * @param sums K×C×2: Σ p_k,c, Σ p_k,c [m_k=c].
 */
export function softDiceConfidenceOfHeads(
  counts: ArrayLike<number>,
  sums: ArrayLike<number>,
  classes: number,
): SoftDiceConfidence[] {
  return Array.from({ length: counts.length / classes }, (_, k) => {
    const of = (c: number) => (k * classes + c) * 2;
    return softDiceConfidenceFromSums(
      Array.from({ length: classes }, (_, c) => [
        counts[k * classes + c] as number,
        sums[of(c)] as number,
        sums[of(c) + 1] as number,
      ]).flat(),
    );
  });
}
