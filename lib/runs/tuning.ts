import { rm } from "node:fs/promises";
import path from "node:path";
import { readText, writeTogether } from "../data/files.js";
import { parseJson } from "../data/json.js";
import type { SeenImage } from "../data/leaks.js";
import { withFolder } from "../native/folder-lock.js";
import type { PredictedDiceFit } from "../scores/predicted-dice.js";
import type { ScoreName } from "../scores/scores.js";
import type { ChosenScore } from "../tuning/choose-score.js";
import type { RankedPoint, SkipPoint } from "../tuning/skip.js";
import type { TuningStep } from "../tuning/tune.js";
import { weightsHash } from "./identity.js";
import { predictedDiceText } from "./predicted-dice.js";
import { RUN_FILES, type Run, readRun } from "./run.js";
import { type FittedShift, removeOtherShifts, shiftFile, writeShift } from "./shift.js";

/** What the choice was made from: run.json's `tuning`. Numbers that are not defined are null. */
export interface RunTuning {
  /** ISO 8601. */
  date: string;
  /** The folder with the images, and the split. */
  data: string;
  split: string;
  images: number;
  /** By id, hashes of the images, so that none of them is among those that the choice is judged by. */
  contents: SeenImage[];
  /** Pixels that count, and of these those that the fits have seen. */
  pixels: { counted: number; fitted: number };
  measuredAt: string;
  /** How heads were chosen. */
  rule: string;
  margin: number;
  /** What ranks the images, and the gate looks at. */
  score: ChosenScore;
  /**
   * Of that score, by its name: confidences that accept 5 %, 10 %, …, 100 % of the images, highest first; fewer where images are
   * tied or empty. Fixed before any calibration case is seen, so that `certify` may test them one after the other.
   */
  thresholds: Partial<Record<ScoreName, number[]>>;
  /** By T; `aurc` and `spearman` are of the score. */
  curve: (SkipPoint & RankedPoint)[];
  /** Backward elimination of heads, by name, where it was asked for. */
  removals?: (RankedPoint & { removed: string | null; heads: string[] })[];
  /** nll and Dice before and after. */
  steps: TuningStep[];
  /** Hash of the weights that were tuned: see {@link RunHashes}. */
  weights?: string;
  /** Shares of the validation images that the gate flags, and of the failures that it does not. */
  flagged?: number;
  unseen?: number | null;
  /** What was learned of the training's images: of how many of them and of validation, the layers, and the share that is flagged. */
  shift?: { training: number; validation: number; taps: readonly string[]; flagged: number };
}

/** All that `tune` writes into a run. */
export interface RunChoice {
  skip: number;
  /** Empty where predictions are as without tuning. */
  prediction: NonNullable<Run["prediction"]>;
  gate?: NonNullable<Run["gate"]>;
  tuning: RunTuning;
}

/** What is fitted to the images beside the choice. */
export interface ChoiceFits {
  /** What the training's images look like. */
  shift?: FittedShift;
  /** How the Dice of masks is predicted. */
  predictedDice?: PredictedDiceFit;
}

/**
 * Writes a choice into a run's run.json, in the place of an earlier one; the rest stays as it is. The file is replaced as a
 * whole: who is killed meanwhile leaves the old one.
 * @param fits are written beside it; where there is no space for one, nothing is replaced
 * @returns names of the files that were written
 * @throws ERR_LE_CHECKPOINT for a folder that is no run; ERR_LE_BUSY where a training or command is writing it; ERR_LE_IO
 */
export async function writeChoice(folder: string, choice: RunChoice, fits: ChoiceFits = {}): Promise<string[]> {
  await readRun(folder); // before the folder is locked, and made
  return withFolder(folder, () => replaceChoice(folder, choice, fits));
}

async function replaceChoice(
  folder: string,
  { skip, prediction, gate, tuning }: RunChoice,
  fits: ChoiceFits,
): Promise<string[]> {
  const before = await readRun(folder);
  const weights = await weightsHash(folder, before);
  const shift = fits.shift && (await writeShift(folder, before, fits.shift, weights));
  const file = path.join(folder, RUN_FILES.run);
  const run = parseJson(await readText(file)) as Record<string, unknown>;
  run.skip = skip;
  for (const [name, value] of Object.entries({ prediction, gate, shift, tuning: { ...tuning, weights } })) {
    if (value === undefined || Object.keys(value).length === 0) delete run[name];
    else run[name] = value;
  }
  const dice = fits.predictedDice && predictedDiceText(fits.predictedDice, { skip, prediction }, weights);
  await writeTogether([
    ...(dice === undefined ? [] : [[path.join(folder, RUN_FILES.predictedDice), dice] as const]),
    [file, `${JSON.stringify(run, null, 2)}\n`], // last, as it is what counts
  ]);
  if (dice === undefined) await rm(path.join(folder, RUN_FILES.predictedDice), { force: true });
  await removeOtherShifts(folder, shift ? { shift } : {});
  return [
    RUN_FILES.run,
    ...(shift ? [shiftFile(shift.hash)] : []),
    ...(dice === undefined ? [] : [RUN_FILES.predictedDice]),
  ];
}

/** The score that tuning chose; undefined for a run that was not tuned. */
export function chosenScore({ tuning }: Pick<Run, "tuning">): ScoreName | undefined {
  return (tuning as Partial<RunTuning> | undefined)?.score?.name;
}
