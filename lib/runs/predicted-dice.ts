// A run's predicted-dice.json: how its masks' Dice is predicted, made for the weights and the choice of heads that it names.
import path from "node:path";
import { isMissing, readText } from "../data/files.js";
import { parseJson } from "../data/json.js";
import { LayerEnsemblesError } from "../errors.js";
import type { ClassDiceFit, DiceDistances, DiceIntervals, PredictedDiceFit } from "../scores/predicted-dice.js";
import { hashOf } from "./identity.js";
import { RUN_FILES, type Run } from "./run.js";

/** Version of the file's layout. */
const FORMAT = 1;
const MAX_BYTES = 2 ** 24;

/** What a run knows of its masks' Dice. */
export interface RunPredictedDice {
  /** Null where there is none, or none that holds. */
  fit: PredictedDiceFit | null;
  /** Why one that is there does not hold; null where nothing is wrong. */
  stale: string | null;
}

/** No fit. */
export const NO_PREDICTED_DICE: RunPredictedDice = { fit: null, stale: null };

/** What the fit was made for. */
interface Stored {
  format: number;
  /** Hash of the weights: see {@link RunHashes}. */
  weights: string;
  /** Hash of the chosen heads and fusion. */
  choice: string;
  fit: PredictedDiceFit;
}

const choiceOf = ({ skip, prediction = {} }: Pick<Run, "skip" | "prediction">) => hashOf({ skip, prediction });

/**
 * Reads what a run knows of its masks' Dice. A fit that was made for other weights, or for other heads than are chosen now, is not
 * given.
 * @param weightsNow hash of the weights that the run has
 * @throws ERR_LE_CHECKPOINT for a file that is damaged; ERR_LE_IO
 */
export async function readPredictedDice(
  folder: string,
  run: Run,
  weightsNow: () => Promise<string>,
): Promise<RunPredictedDice> {
  const file = path.join(folder, RUN_FILES.predictedDice);
  let text: string;
  try {
    text = await readText(file, MAX_BYTES);
  } catch (error) {
    if (isMissing(error)) return NO_PREDICTED_DICE;
    throw damaged(file, (error as Error).message, error);
  }
  let stored: unknown;
  try {
    stored = parseJson(text);
  } catch (cause) {
    throw damaged(file, (cause as Error).message, cause);
  }
  const { format, weights, choice, fit } = (stored ?? {}) as Partial<Stored>;
  if (typeof format === "number" && format !== FORMAT) throw damaged(file, `format ${format}`);
  if (format !== FORMAT || !isFit(fit, run.ensemble.classes)) throw damaged(file, "something else");
  const other = (what: string) => ({
    fit: null,
    stale: `${file} was made for ${what}: no Dice is predicted. Run tune again.`,
  });
  if (weights !== (await weightsNow())) return other("other weights");
  if (choice !== choiceOf(run)) return other("another choice of heads");
  return { fit, stale: null };
}

/** The file with the fit of a choice, of the weights with a hash; stale with any other. */
export function predictedDiceText(
  fit: PredictedDiceFit,
  choice: Pick<Run, "skip" | "prediction">,
  weights: string,
): string {
  const stored: Stored = { format: FORMAT, weights, choice: choiceOf(choice), fit };
  return `${JSON.stringify(stored, null, 2)}\n`;
}

/** Hash of what a fit makes of a prediction: of all but its bounds, which no score and no decision reads. Without a fit that of nothing. */
export function estimatorHash(fit: PredictedDiceFit | null): string {
  const classes = Object.entries(fit?.perClass ?? {});
  return hashOf(classes.map(([c, { by, ridge, isotonic, empty }]) => [c, { by, ridge, isotonic, empty }]));
}

function damaged(file: string, received: string, cause?: unknown): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_CHECKPOINT",
    `Expected a fit of predicted Dice in ${file} but received ${received.replace(/\.$/, "")}: run tune again, or remove the file.`,
    { cause },
  );
}

const isNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);
const isNumberOrNull = (value: unknown) => value === null || isNumber(value);
const isShare = (value: unknown) => isNumber(value) && value >= 0 && value <= 1;
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const areNumbers = (value: unknown, length?: number): value is number[] =>
  Array.isArray(value) && value.every(isNumber) && (length === undefined || value.length === length);

function isFit(value: unknown, classes: number): value is PredictedDiceFit {
  if (!isObject(value) || !isObject(value.perClass) || !isObject(value.overall)) return false;
  const { perClass, overall } = value;
  for (let c = 1; c < classes; c++) if (!isClassFit(perClass[c])) return false;
  return Object.keys(perClass).length === classes - 1 && isBounds(overall.intervals) && isConstant(overall.constant);
}

function isClassFit(value: unknown): value is ClassDiceFit {
  if (!isObject(value)) return false;
  const { by, ridge, isotonic, empty, error, intervals, constant } = value;
  return (
    (by === "features" ? isRidge(ridge) : by === "softDiceConfidence" && ridge === null) &&
    (isotonic === null || isIsotonic(isotonic)) &&
    (empty === null || (isObject(empty) && isShare(empty.dice) && isNumber(empty.cases))) &&
    (error === null ||
      (isObject(error) && isNumber(error.baseline) && isNumberOrNull(error.features) && isNumberOrNull(error.se))) &&
    isBounds(intervals) &&
    isConstant(constant)
  );
}

function isRidge(value: unknown): boolean {
  if (!isObject(value) || !areNumbers(value.mean)) return false;
  const { length } = value.mean;
  return areNumbers(value.scale, length) && areNumbers(value.weights, length) && isNumber(value.intercept);
}

function isIsotonic(value: unknown): boolean {
  if (!isObject(value) || !areNumbers(value.x) || value.x.length === 0) return false;
  const { x, y } = value;
  return areNumbers(y, x.length) && y.every(isShare) && x.every((at, i) => i === 0 || at > (x[i - 1] as number));
}

function isBounds(value: unknown): value is DiceIntervals | null {
  if (value === null) return true;
  if (!isObject(value) || !Array.isArray(value.bands)) return false;
  const { alpha, from, thirds, empty, bands } = value;
  return (
    isShare(alpha) &&
    (from === "calibration" || from === "out-of-fold") &&
    areNumbers(thirds) &&
    isDistances(empty) &&
    bands.every((band) => isDistances(band) && isNumberOrNull((band as { upTo?: unknown }).upTo)) &&
    bands.at(-1)?.upTo === null
  );
}

function isDistances(value: unknown): value is DiceDistances {
  return (
    isObject(value) &&
    isNumber(value.cases) &&
    (value.groups === undefined || isNumber(value.groups)) &&
    isNumberOrNull(value.lower) &&
    isNumberOrNull(value.both)
  );
}

function isConstant(value: unknown): boolean {
  return isObject(value) && isShare(value.dice) && isNumberOrNull(value.both);
}
