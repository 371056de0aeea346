// Audited cases: what a person made of an answer, told by its id, kept in the run's outcomes.jsonl.
import { createHash, randomUUID, timingSafeEqual } from "node:crypto";
import { access, constants } from "node:fs/promises";
import { ioError } from "../data/files.js";
import { LayerEnsemblesError } from "../errors.js";
import { checkOptions, describe, type OptionSpecs, option } from "../options.js";
import { type Outcome, OutcomeFile, readOutcomes } from "../runs/outcomes.js";
import type { JudgedMask, KeptMask } from "./outcome-work.js";
import type { ServedModel } from "./served-model.js";

/** Whether and how outcomes are taken. */
export interface OutcomeOptions {
  /** What a client must show, as `Authorization: Bearer TOKEN`. At least 16 characters. */
  token: string;
  /** Answered cases that are remembered, the latest. @default 10000 */
  cases?: number;
  /** Bytes of their masks, packed; older ones go first. @default 64 MiB */
  bytes?: number;
}

/** What a client tells of a case: its Dice, or the right mask. */
export interface GivenOutcome {
  /** Of the answer. */
  id: string;
  /** In [0, 1]. */
  dice?: number;
  /** A PNG or .npy file in base64, of the size of the image: as the answer's, or of class indices. */
  mask?: string;
  /** The patient, say. */
  group?: string;
}

/** What was said of a case. */
type Said = Pick<Outcome, "predictor" | "score" | "acceptable" | "watched" | "content">;

/** An answered case. */
interface ServedCase extends Said {
  model: string;
  /** Undefined where it went, for others. */
  mask: KeptMask | undefined;
  classes: number;
  ignoreIndex: number;
  file: OutcomeFile;
  /** Whether it has its outcome, or will have. */
  taken: boolean;
}

/** Why an outcome is not taken. `unknown`: no case of this id is remembered. `taken`: it has one. `unfit`: it is none. */
export type OutcomeFault = "unknown" | "taken" | "unfit";

/** An outcome that is not taken. */
export class OutcomeRefusal extends Error {
  constructor(
    readonly fault: OutcomeFault,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options);
  }
}

const GIVEN: OptionSpecs = {
  id: option.required(option.string()),
  dice: option.number({ min: 0, max: 1 }),
  mask: option.string(),
  group: option.string(),
};

/** Specification of {@link OutcomeOptions}. */
export const OUTCOME_OPTIONS: OptionSpecs = {
  token: option.required(option.string()),
  cases: option.integer({ min: 1, max: 10_000_000 }),
  bytes: option.integer({ min: 0 }),
};

const DEFAULTS = { cases: 10_000, bytes: 2 ** 26 };

/**
 * Checks that outcomes can be added to a run, before there are any.
 * @throws ERR_LE_IO for a run that cannot be written; ERR_LE_DATA for outcomes that are damaged
 */
export async function checkOutcomes(folder: string): Promise<void> {
  await readOutcomes(folder);
  await access(folder, constants.W_OK).catch((error) => {
    throw ioError(folder, "writable, for the outcomes of its cases,", error);
  });
}

/** The answered cases of a service, and the files of their outcomes. */
export class Outcomes {
  readonly bytes: number;
  readonly #token: Buffer;
  readonly #most: number;
  readonly #judge: (task: JudgedMask) => Promise<{ dice: number }>;
  /** By id, the oldest first. */
  readonly #cases = new Map<string, ServedCase>();
  /** Ids of those that have a mask, the oldest first. */
  readonly #masked = new Set<string>();
  /** By the run's folder. */
  readonly #files = new Map<string, OutcomeFile>();
  #held = 0;

  /** @param judge compares masks, on a thread */
  constructor(
    { token, cases = DEFAULTS.cases, bytes = DEFAULTS.bytes }: OutcomeOptions,
    judge: (task: JudgedMask) => Promise<{ dice: number }>,
  ) {
    // Not by its specification, whose error would show it.
    if (!/^[\x21-\x7e]{16,1000}$/.test(token))
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        `Expected a token of 16 to 1000 printable characters without spaces for outcomes but received ${token.length} others.`,
      );
    this.#token = digestOf(token);
    this.#most = cases;
    this.bytes = bytes;
    this.#judge = judge;
  }

  /** Whether a token is the right one; how long that takes does not tell how much of it is. */
  isToken(given: string): boolean {
    return timingSafeEqual(digestOf(given), this.#token);
  }

  /** Remembers a case. @returns its id */
  keep({ name, folder, notes }: ServedModel, said: Said, mask: KeptMask): string {
    const id = randomUUID();
    const file = this.#files.get(folder) ?? new OutcomeFile(folder, () => true);
    this.#files.set(folder, file);
    const { classNames, ignoreIndex } = notes;
    const labels = notes.labels ? notes.labels.ignore : ignoreIndex;
    this.#cases.set(id, {
      ...said,
      ...{ model: name, mask, classes: classNames.length, ignoreIndex: labels ?? NO_LABEL, file, taken: false },
    });
    this.#masked.add(id);
    this.#held += mask.bytes.length;
    while (this.#held > this.bytes) this.#forgetMask(first(this.#masked));
    while (this.#cases.size > this.#most) {
      const oldest = first(this.#cases.keys());
      this.#forgetMask(oldest);
      this.#cases.delete(oldest);
    }
    return id;
  }

  /**
   * Adds the outcome of a case, and returns when it is on the disk.
   * @throws OutcomeRefusal; ERR_LE_IO, ERR_LE_BUSY, ERR_LE_DATA where the run's file does not take it: then nothing has changed
   */
  async add(given: GivenOutcome): Promise<{ model: string; dice: number }> {
    const checked = checkGiven(given);
    const { id, group } = checked;
    const served = this.#cases.get(id);
    if (!served)
      throw new OutcomeRefusal("unknown", `Expected the id of one of the latest answers but received ${describe(id)}.`);
    if (served.taken) throw taken(id);
    // From here on, so that of two at once one is taken.
    served.taken = true;
    try {
      const dice = checked.dice ?? (await this.#diceOf(served, checked.mask as string));
      const { predictor, score, acceptable, watched, content, model } = served;
      const outcome: Outcome = {
        ...{ id, date: new Date().toISOString(), predictor, score, acceptable, dice },
        ...(watched !== undefined && { watched }),
        ...(group !== undefined && { group }),
        ...(content !== undefined && { content }),
      };
      await served.file.append(outcome).catch((error) => {
        throw (error as LayerEnsemblesError).code === "ERR_LE_VALUE" ? taken(id, error) : error;
      });
      this.#forgetMask(id);
      return { model, dice };
    } catch (error) {
      served.taken = error instanceof OutcomeRefusal && error.fault === "taken";
      throw error;
    }
  }

  async #diceOf({ mask, classes, ignoreIndex }: ServedCase, given: string): Promise<number> {
    if (!mask)
      throw new OutcomeRefusal(
        "unknown",
        "Expected a case whose mask is still kept but received an older one: give its dice.",
      );
    const bytes = Buffer.from(given, "base64");
    try {
      return (await this.#judge({ bytes: Uint8Array.from(bytes), served: mask, classes, ignoreIndex })).dice;
    } catch (error) {
      if (!UNFIT.includes((error as LayerEnsemblesError).code)) throw error;
      throw new OutcomeRefusal("unfit", (error as Error).message, { cause: error });
    }
  }

  #forgetMask(id: string): void {
    const served = this.#cases.get(id);
    this.#masked.delete(id);
    this.#held -= served?.mask?.bytes.length ?? 0;
    if (served) served.mask = undefined;
  }
}

/** Where every pixel counts. */
const NO_LABEL = -1;

/** What a mask that is none throws. */
const UNFIT: string[] = ["ERR_LE_DATA", "ERR_LE_SHAPE", "ERR_LE_VALUE", "ERR_LE_TOO_LARGE"];

function checkGiven(given: GivenOutcome): GivenOutcome {
  try {
    const checked = checkOptions<GivenOutcome>("an outcome", given, GIVEN);
    if ((checked.dice === undefined) === (checked.mask === undefined))
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        `Expected either 'dice' or 'mask' for an outcome but received ${checked.dice === undefined ? "neither" : "both"}.`,
      );
    return checked;
  } catch (error) {
    throw new OutcomeRefusal("unfit", (error as Error).message, { cause: error });
  }
}

function taken(id: string, cause?: unknown): OutcomeRefusal {
  return new OutcomeRefusal(
    "taken",
    `Expected a case without an outcome but received ${describe(id)}, which has one.`,
    {
      cause,
    },
  );
}

function digestOf(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}

function first(ids: Iterable<string>): string {
  for (const id of ids) return id;
  throw new Error("unreachable: there is one");
}
