// What a run's training images look like to its network: read, measured, learned.
import type { NdArray } from "../arrays.js";
import type { Dataset } from "../data/dataset.js";
import type { SeenImage } from "../data/leaks.js";
import type { Model } from "../ensemble/model.js";
import { type FittedShift, imagesHash } from "../runs/shift.js";
import type { DistanceGate } from "../scores/gate.js";
import { fitShift, type ShiftOptions, type TapStatistics, tapDistance } from "../shift/index.js";
import { distanceThreshold } from "../tuning/distance-threshold.js";

/** Most images of the training that are measured: of more, as many at even distances. */
const MOST_IMAGES = 1000;

/** What was learned, and from which distance on an image is unlike the training's. */
export interface LearnedShift extends FittedShift {
  threshold: DistanceGate;
  /** Share of the validation images that are above it. */
  flagged: number;
}

/** What is to be learned from, and how. */
export interface LearnShiftOptions extends ShiftOptions {
  training: Dataset;
  validation: Dataset;
  signal: AbortSignal;
  /** Called after each batch. */
  onProgress?: (done: number, images: number) => void;
}

/**
 * Measures the training and validation images in passes as predictions make them, and learns from them what images of the
 * training look like.
 * @throws ERR_LE_SHAPE for too few images; ERR_LE_OPTION where the network has no feature maps; ERR_LE_VALUE; ERR_LE_DATA; or
 *   `signal.reason`
 */
export async function learnShift(
  model: Model,
  { training, validation, signal, onProgress, ...options }: LearnShiftOptions,
): Promise<LearnedShift> {
  const chosen = evenly(training.length, MOST_IMAGES);
  const images = chosen.length + validation.length;
  const known = await measure(model, training, chosen, signal, (done) => onProgress?.(done, images));
  const all = evenly(validation.length, validation.length);
  const others = await measure(model, validation, all, signal, (done) => onProgress?.(chosen.length + done, images));
  const fit = fitShift(known.statistics, others.statistics, options);
  const { flagged, ...threshold } = distanceThreshold(
    others.statistics.map((statistics) => tapDistance(fit, statistics).excess),
    all.map((i) => validation.samples[i]?.group ?? `image ${i}`),
  );
  return { fit, images: imagesHash(known.contents), threshold, flagged };
}

/** At most so many of the first `count` indices, at even distances. */
function evenly(count: number, most: number): number[] {
  const taken = Math.min(count, most);
  return Array.from({ length: taken }, (_, i) => Math.floor((i * count) / taken));
}

async function measure(
  model: Model,
  dataset: Dataset,
  indices: readonly number[],
  signal: AbortSignal,
  onProgress: (done: number) => void,
): Promise<{ statistics: TapStatistics[]; contents: SeenImage[] }> {
  const statistics: TapStatistics[] = [];
  const contents: SeenImage[] = [];
  const batch = 8;
  for (let start = 0; start < indices.length; start += batch) {
    signal.throwIfAborted();
    const images: NdArray[] = [];
    for (const i of indices.slice(start, start + batch)) {
      const { id, image, content = "" } = await dataset.load(i);
      images.push(image);
      contents.push([id, content]);
    }
    const options = { tapStatistics: true, probabilities: false, maps: [], signal };
    for (const { tapStatistics } of await model.predict(images, options)) statistics.push(tapStatistics ?? {});
    onProgress(start + images.length);
  }
  return { statistics, contents };
}
