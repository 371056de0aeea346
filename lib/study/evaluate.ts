// One run on one set of images: scores of all of them, and what they come to over all pixels.

import type { Model, PredictOptions } from "../ensemble/model.js";
import type { PredictionFusion } from "../fusion/index.js";
import type { Units } from "../grid/index.js";
import { type Item, infer, type Result } from "../inference/inference.js";
import { unlikeTraining } from "../inference/record.js";
import type { Calibration } from "../metrics/index.js";
import type { ReliabilityBin, RunRecord } from "../results/comparison.js";
import type { RunNotes } from "../runs/notes.js";
import { commonUnits, type ImageScore, type Scoring, scoreImage } from "./records.js";

/** How a run is evaluated. */
export interface EvaluateOptions {
  /** What the run says of its training's volumes. */
  notes: RunNotes;
  scoring: Scoring;
  /** Options of the predictions. */
  predict: Pick<PredictOptions, "skip" | "fusion" | "labels" | "tile" | "overlap" | "tileWeights" | "mirror"> & {
    signal: AbortSignal;
  };
  /** Called with each image's result and score, in the order of the items. */
  onResult?: (result: Result, score: ImageScore) => void;
  /** Called after each image. */
  onProgress?: (done: number) => void;
}

/** All scores of one run. */
export interface Evaluation {
  /** In the order of the items. */
  scores: ImageScore[];
  /** Names of the kept heads, in depth order. */
  heads: string[];
  /** Of the lengths and sizes of all images. */
  units: Units;
}

/** Predicts all images and compares each with its truth. @throws ERR_LE_DATA as {@link commonUnits} */
export async function evaluateItems(
  model: Model,
  items: readonly Item[],
  { notes, scoring, predict, onResult, onProgress }: EvaluateOptions,
): Promise<Evaluation> {
  const scores: ImageScore[] = [];
  let heads: string[] = [];
  for await (const result of infer(model, items, predict)) {
    heads = result.prediction.heads;
    const unlike = unlikeTraining(result.placement, notes);
    const score = { ...scoreImage(result, scoring), ...(unlike.length > 0 && { unlikeTraining: unlike }) };
    scores.push(score);
    onResult?.(result, score);
    onProgress?.(scores.length);
  }
  return { scores, heads, units: commonUnits(scores) };
}

/** How many first heads were left out, and how the others were fused: as asked, else as tuned, else their mean. */
export function keptBy(
  { headNames, run }: Pick<Model, "headNames" | "run">,
  heads: readonly string[],
  { skip, fusion }: Pick<PredictOptions, "skip" | "fusion">,
): { skip: number; fusion: PredictionFusion } {
  const tuned = skip === undefined ? run?.prediction?.fusion : undefined;
  return { skip: Math.max(0, headNames.indexOf(heads[0] ?? "")), fusion: fusion ?? tuned ?? "mean" };
}

/** Calibration over all pixels of some images. */
export function pooledCalibration(images: readonly Calibration[]): RunRecord["calibration"] {
  const total = (pick: (of: Calibration) => number) =>
    images.reduce((sum, of) => sum + (of.n === 0 ? 0 : of.n * pick(of)), 0);
  const n = images.reduce((sum, of) => sum + of.n, 0);
  const bins = Array.from({ length: images[0]?.reliability.count.length ?? 0 }, (_, b): ReliabilityBin => {
    let count = 0;
    let confidence = 0;
    let right = 0;
    for (const { reliability } of images) {
      const here = reliability.count[b] as number;
      if (here === 0) continue;
      count += here;
      confidence += here * (reliability.meanConfidence[b] as number);
      right += here * (reliability.accuracy[b] as number);
    }
    return count === 0
      ? { count, confidence: null, accuracy: null }
      : { count, confidence: confidence / count, accuracy: right / count };
  });
  if (n === 0) return { ece: null, brier: null, nll: null, bins };
  const ece = bins.reduce(
    (sum, { count, confidence, accuracy }) =>
      count === 0 ? sum : sum + (count / n) * Math.abs((accuracy as number) - (confidence as number)),
    0,
  );
  return { ece, brier: total((of) => of.brier) / n, nll: total((of) => of.nll) / n, bins };
}
