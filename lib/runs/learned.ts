// What a run has learned after training, beside the choice that run.json holds.
import { weightsHash } from "./identity.js";
import { NO_PREDICTED_DICE, type RunPredictedDice, readPredictedDice } from "./predicted-dice.js";
import type { Run } from "./run.js";
import { NO_SHIFT, type RunShift, readShift } from "./shift.js";

/** It holds for the weights that it was learned of. */
export interface Learned {
  /** How the Dice of its masks is predicted. */
  predictedDice: RunPredictedDice;
  /** What the training's images look like. */
  shift: RunShift;
}

/** Of a network that was not tuned, or was trained since. */
export const NOTHING_LEARNED: Learned = { predictedDice: NO_PREDICTED_DICE, shift: NO_SHIFT };

/**
 * Reads all of it.
 * @throws ERR_LE_CHECKPOINT for a file that is damaged; ERR_LE_IO
 */
export async function readLearned(folder: string, run: Run): Promise<Learned> {
  let hash: Promise<string> | undefined;
  // Of weights of any size: once for all that was learned, and not where nothing was.
  const weights = () => (hash ??= weightsHash(folder, run));
  return {
    predictedDice: await readPredictedDice(folder, run, weights),
    shift: await readShift(folder, run, weights),
  };
}
