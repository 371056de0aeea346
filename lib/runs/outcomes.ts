// outcomes.jsonl of a run: cases that were looked at after they were served, a line each, only ever added to.
import { open } from "node:fs/promises";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import { ioError, isAbsent, readRegular } from "../data/files.js";
import { parseJson } from "../data/json.js";
import { LayerEnsemblesError } from "../errors.js";
import { withFolder } from "../native/folder-lock.js";
import { checkOptions, describe, type OptionSpecs, option } from "../options.js";
import { SCORE_NAMES, type ScoreName } from "../scores/scores.js";
import type { RunHashes } from "./identity.js";
import { estimatorHash, type RunPredictedDice } from "./predicted-dice.js";
import { RUN_FILES } from "./run.js";

/** An audited case: what was said of it when it was served, and what it came to. A line of outcomes.jsonl. */
export interface Outcome {
  /** Of the answer; unique in the file. */
  id: string;
  /** When it was audited; ISO 8601. */
  date: string;
  /** {@link predictorOf} of the run that answered. */
  predictor: string;
  /** The score, in the direction of confidence; null where it was not defined. */
  score: { name: ScoreName; value: number | null };
  /** Whether nothing but the score spoke against accepting it. */
  acceptable: boolean;
  /** Dice of the answer with what the person drew, in [0, 1]. */
  dice: number;
  /** What else the alarm over the service's cases watches, by score in the direction of confidence. */
  watched?: Partial<Record<ScoreName, number>>;
  /** The patient, say. */
  group?: string;
  /** A hash of the image. */
  content?: string;
}

const OUTCOME: OptionSpecs = {
  id: option.required(option.string()),
  date: option.required(option.date()),
  predictor: option.required(option.string()),
  score: option.required(option.custom("{name, value}", (value) => typeof value === "object" && value !== null)),
  acceptable: option.required(option.boolean()),
  dice: option.required(option.number({ min: 0, max: 1 })),
  watched: option.record(option.number()),
  group: option.string(),
  content: option.string(),
};
const SCORE: OptionSpecs = {
  name: option.required(option.oneOf(SCORE_NAMES)),
  value: option.required(option.orNull(option.number())),
};

/** What the numbers of a prediction hang on beside the run's weights and settings. */
export interface Predicting {
  /** Numbers in which the network runs. */
  precision: "fp32" | "bf16";
  /** How the Dice of its masks is predicted. */
  predictedDice: Pick<RunPredictedDice, "fit">;
}

/** What tells outcomes of a run as it predicts from those of one that was trained or tuned since, or that ran in other numbers. */
export function predictorOf(
  { weights, settings }: Pick<RunHashes, "weights" | "settings">,
  { precision, predictedDice }: Predicting,
): string {
  const hashes = [weights, settings, estimatorHash(predictedDice.fit)].map((hash) => hash.slice(0, 16));
  return [...hashes, precision].join("-");
}

/** Of what an outcome is that another predictor told: "other weights", say; undefined where it is of this one. */
export function predictedOtherwise({ predictor }: Outcome, own: string): string | undefined {
  if (predictor === own) return undefined;
  const [parts, owns] = [predictor.split("-"), own.split("-")];
  const what = ["other weights", "other settings", "another fit of predicted Dice", `precision ${parts.at(-1)}`];
  // Earlier versions named weights and settings alone.
  if (parts.length !== what.length) return "a predictor that does not say all of what decides it";
  return what[parts.findIndex((part, i) => part !== owns[i])];
}

/** What outcomes.jsonl holds. */
export interface Outcomes {
  /** In the order in which they came. */
  outcomes: Outcome[];
  /** Bytes at the end that a killed process left of a line; they are no outcome, and go when the next is added. */
  torn: number;
}

/**
 * The outcomes of a run; none where it has no such file.
 * @throws ERR_LE_DATA that names the line, for one that is no outcome or has the id of an earlier one
 */
export async function readOutcomes(folder: string): Promise<Outcomes> {
  const file = path.join(folder, RUN_FILES.outcomes);
  if (await isAbsent(file)) return { outcomes: [], torn: 0 };
  const bytes = await readRegular(file).catch((cause) => {
    throw new LayerEnsemblesError("ERR_LE_DATA", `Expected a readable ${file} but received ${cause.message}.`, {
      cause,
    });
  });
  // A line counts once it is whole, its end included: only then was it acknowledged.
  const whole = bytes.lastIndexOf("\n") + 1;
  const lines = bytes.subarray(0, whole).toString("utf8").split("\n").slice(0, -1);
  const seen = new Map<string, number>();
  const outcomes = lines.map((line, i) => {
    const where = `line ${i + 1} of ${file}`;
    let outcome: Outcome;
    try {
      outcome = checkedOutcome(where, parseJson(line));
    } catch (cause) {
      throw new LayerEnsemblesError(
        "ERR_LE_DATA",
        `Expected an outcome for ${where} but received ${describe(line)}: ${(cause as Error).message}`,
        { cause },
      );
    }
    const first = seen.get(outcome.id);
    if (first !== undefined)
      throw new LayerEnsemblesError(
        "ERR_LE_DATA",
        `Expected different ids for ${file} but received ${describe(outcome.id)} on lines ${first} and ${i + 1}.`,
      );
    seen.set(outcome.id, i + 1);
    return outcome;
  });
  return { outcomes, torn: bytes.length - whole };
}

/** @throws ERR_LE_OPTION */
function checkedOutcome(where: string, value: unknown): Outcome {
  const outcome = checkOptions(where, value as Outcome, OUTCOME);
  return { ...outcome, score: checkOptions(`'score' of ${where}`, outcome.score, SCORE) };
}

/** Another process that adds an outcome or tunes the run is waited for so long. */
const PATIENCE = { tries: 100, milliseconds: 50 };

/** What is known of the file: the size of its whole lines, and their ids. */
interface Known {
  size: number;
  ids: Set<string>;
}

/** Adds outcomes to a run's file. */
export class OutcomeFile {
  readonly #folder: string;
  readonly #known: (id: string) => boolean;
  #last: Promise<unknown> = Promise.resolve();
  #state: Known | undefined;

  /** @param known whether a case of this id was served */
  constructor(folder: string, known: (id: string) => boolean) {
    this.#folder = folder;
    this.#known = known;
  }

  /**
   * Adds one, and returns when it is on the disk. Calls are worked off one after another. Where it fails, the file is as it was.
   * @throws ERR_LE_VALUE for what is no outcome, an id that was not served, or one that has its outcome; ERR_LE_IO (no space, say);
   * ERR_LE_BUSY where another process has the run for longer than some seconds; ERR_LE_DATA where the file is damaged
   */
  append(outcome: Outcome): Promise<void> {
    const added = this.#last.then(() => this.#append(outcome));
    this.#last = added.catch(() => {});
    return added;
  }

  async #append(given: Outcome): Promise<void> {
    const outcome = asValue(() => checkedOutcome("the outcome", given));
    const { id } = outcome;
    if (!this.#known(id)) throw refused(`the id of a case that was served`, `${describe(id)}, which was not`);
    for (let tries = 1; ; tries++) {
      try {
        return await withFolder(this.#folder, () => this.#write(outcome));
      } catch (error) {
        if ((error as LayerEnsemblesError).code !== "ERR_LE_BUSY" || tries === PATIENCE.tries) throw error;
      }
      await setTimeout(PATIENCE.milliseconds);
    }
  }

  async #write(outcome: Outcome): Promise<void> {
    const file = path.join(this.#folder, RUN_FILES.outcomes);
    const handle = await open(file, "a").catch((error) => {
      throw ioError(file, "writable", error);
    });
    try {
      const info = await handle.stat();
      if (!info.isFile()) throw ioError(file, "a regular file", new Error("something else"));
      if (this.#state?.size !== info.size) await this.#read(info.size);
      const state = this.#state as Known;
      if (state.ids.has(outcome.id)) throw refused("a case that has no outcome yet", describe(outcome.id));
      if (state.size !== info.size) await handle.truncate(state.size); // what a killed process left of a line
      const line = Buffer.from(`${JSON.stringify(outcome)}\n`);
      await write(handle, line, state.size).catch((error) => {
        throw ioError(file, "writable", error);
      });
      state.size += line.length;
      state.ids.add(outcome.id);
    } finally {
      await handle.close();
    }
  }

  async #read(size: number): Promise<void> {
    const { outcomes, torn } = await readOutcomes(this.#folder);
    this.#state = { size: size - torn, ids: new Set(outcomes.map(({ id }) => id)) };
  }
}

/** Adds bytes at the end of a file of some size, to which it is cut again where that fails. */
async function write(handle: Awaited<ReturnType<typeof open>>, bytes: Buffer, size: number): Promise<void> {
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } catch (error) {
    await handle.truncate(size);
    throw error;
  }
}

function asValue<T>(work: () => T): T {
  try {
    return work();
  } catch (error) {
    const { code, message } = error as LayerEnsemblesError;
    throw code === "ERR_LE_OPTION" ? new LayerEnsemblesError("ERR_LE_VALUE", message, { cause: error }) : error;
  }
}

function refused(expected: string, received: string): LayerEnsemblesError {
  return new LayerEnsemblesError("ERR_LE_VALUE", `Expected ${expected} for the outcome's id but received ${received}.`);
}
