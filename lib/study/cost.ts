// What a prediction costs: methods measured in turn, so that whatever else the machine does meets all of them alike.
import { performance } from "node:perf_hooks";
import type { NdArray } from "../arrays.js";
import type { Model, PredictOptions } from "../ensemble/model.js";

/** A model, and the images it is timed on, preprocessed for it. */
export interface Timed {
  model: Pick<Model, "predict">;
  images: readonly NdArray[];
  skip?: number;
}

/** Rounds before and while time is taken. */
const WARM_UP = 2;
const ROUNDS = 7;

/**
 * Median milliseconds of predicting one image alone, with all maps, for each model.
 * @throws what `predict` throws
 */
export async function timePredictions(timed: readonly Timed[], signal: AbortSignal): Promise<number[]> {
  const times: number[][] = timed.map(() => []);
  for (let round = -WARM_UP; round < ROUNDS; round++) {
    for (const [m, { model, images, skip }] of timed.entries()) {
      const options: PredictOptions = { batchSize: 1, signal, ...(skip !== undefined && { skip }) };
      for (const image of images) {
        const start = performance.now();
        await model.predict(image, options);
        if (round >= 0) times[m]?.push(performance.now() - start);
      }
    }
  }
  return times.map(median);
}

/** NaN for no values. */
function median(values: readonly number[]): number {
  const ascending = [...values].sort((a, b) => a - b);
  const middle = ascending.length >> 1;
  const upper = ascending[middle] ?? Number.NaN;
  return ascending.length % 2 === 1 ? upper : ((ascending[middle - 1] ?? Number.NaN) + upper) / 2;
}
