// What a comparison needs to know of a run beside its model.
import { open, readdir } from "node:fs/promises";
import path from "node:path";
import { type RunNotes, runNotes } from "../cli/run-notes.js";
import type { LayerEnsemble } from "../ensemble/layer-ensemble.js";
import { METHODS, type MethodName } from "../ensemble/methods.js";
import { RUN_FILES, type Run, readRun } from "../ensemble/run.js";
import { LayerEnsemblesError } from "../errors.js";
import type { SkipCurvePoint } from "./results.js";

/** A run folder, described by its run.json. */
export interface RunFacts {
  folder: string;
  method: MethodName;
  /** Of the training. */
  seed: number;
  notes: RunNotes;
  skipCurve?: SkipCurvePoint[];
}

/**
 * Reads what run.json says.
 * @throws ERR_LE_CHECKPOINT for a folder that is no run
 */
export async function runFacts(folder: string): Promise<RunFacts> {
  const run = await readRun(folder);
  const notes = runNotes(run, folder);
  const { seed } = notes.options;
  const { skipCurve } = run.notes as { skipCurve?: SkipCurvePoint[] };
  return {
    folder,
    method: methodOf(run, folder),
    seed: typeof seed === "number" ? seed : (run.ensemble.seed ?? 0),
    notes,
    ...(Array.isArray(skipCurve) && { skipCurve }),
  };
}

function methodOf(run: Run, folder: string): MethodName {
  const said = (run as { method?: unknown }).method ?? (run.notes as Partial<RunNotes>).options?.method ?? "le";
  const method = METHODS.find((name) => name === said);
  if (method === undefined)
    throw new LayerEnsemblesError(
      "ERR_LE_CHECKPOINT",
      `Expected one of ${METHODS.join(", ")} for the method of the run in ${folder} but received ${JSON.stringify(said)}.`,
    );
  return method;
}

/**
 * Checks that runs can be compared: the same classes, each training once.
 * @throws ERR_LE_VALUE that names the runs
 */
export function checkComparable(runs: readonly RunFacts[]): void {
  const [first, ...others] = runs as [RunFacts, ...RunFacts[]];
  for (const { folder, notes } of others) {
    const [a, b] = [first.notes, notes].map(({ classNames, ignoreIndex }) => ({
      names: classNames.join(", "),
      ignoreIndex,
    }));
    if (a?.names !== b?.names) throw differs(`the classes ${a?.names}, as in ${first.folder},`, folder, b?.names ?? "");
    if (a?.ignoreIndex !== b?.ignoreIndex)
      throw differs(`${a?.ignoreIndex} as ignored label, as in ${first.folder},`, folder, String(b?.ignoreIndex));
  }
  const seen = new Map<string, string>();
  for (const { folder, method, seed } of runs) {
    const key = `${method} ${seed}`;
    const other = seen.get(key);
    if (other !== undefined)
      throw new LayerEnsemblesError(
        "ERR_LE_VALUE",
        `Expected runs that differ in method or seed but received ${other} and ${folder}, both of method ${method} with seed ${seed}.`,
      );
    seen.set(key, folder);
  }
}

function differs(expected: string, folder: string, received: string): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_VALUE",
    `Expected ${expected} for the run in ${folder} but received ${received}.`,
  );
}

/** Trainable numbers of a model: its own count, or that of its run's weights without the statistics of batch norm. */
export async function parameterCount(model: LayerEnsemble, folder: string): Promise<number> {
  const own = (model as { parameters?: unknown }).parameters;
  if (typeof own === "number") return own;
  const files = await weightFiles(folder);
  const counts = await Promise.all(files.map(countInFile));
  return counts.reduce((sum, count) => sum + count, 0);
}

/** The weights of a run, or of each member that has a folder of its own in it. */
async function weightFiles(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  if (entries.some(({ name }) => name === RUN_FILES.weights)) return [path.join(folder, RUN_FILES.weights)];
  const files: string[] = [];
  for (const entry of entries.filter((one) => one.isDirectory())) {
    const inside = await readdir(path.join(folder, entry.name));
    if (inside.includes(RUN_FILES.weights)) files.push(path.join(folder, entry.name, RUN_FILES.weights));
  }
  return files;
}

const BUFFER = /(^|\.)(running_mean|running_var|num_batches_tracked)$/;

/** Reads the header alone: eight bytes with its length, then JSON. */
async function countInFile(file: string): Promise<number> {
  const handle = await open(file);
  try {
    const length = Number((await handle.read(Buffer.alloc(8), 0, 8, 0)).buffer.readBigUInt64LE());
    const header = (await handle.read(Buffer.alloc(length), 0, length, 8)).buffer.toString("utf8");
    const tensors = JSON.parse(header) as Record<string, { shape?: number[] }>;
    return Object.entries(tensors)
      .filter(([name, { shape }]) => shape && !BUFFER.test(name))
      .reduce((sum, [, { shape }]) => sum + (shape as number[]).reduce((product, side) => product * side, 1), 0);
  } finally {
    await handle.close();
  }
}
