// What a comparison needs to know of a run beside its model.

import { isDeepStrictEqual } from "node:util";
import { LayerEnsemblesError } from "../errors.js";
import type { DeviceFlags } from "../inference/device.js";
import { type OpenRun, openRun } from "../inference/inference.js";
import type { SkipCurvePoint } from "../results/comparison.js";
import type { MethodName } from "../runs/methods.js";
import { type RunNotes, readNotes } from "../runs/notes.js";
import { type Run, readRun } from "../runs/run.js";

/** A run folder, described by its run.json. */
export interface RunFacts {
  folder: string;
  /** What run.json said. */
  run: Run;
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
  const notes = await readNotes(run, folder);
  const { seed } = notes.options;
  const { curve } = (run.tuning ?? {}) as { curve?: SkipCurvePoint[] };
  return {
    folder,
    run,
    method: run.method,
    seed: typeof seed === "number" ? seed : (run.ensemble.seed ?? 0),
    notes,
    ...(curve?.length && {
      skipCurve: curve.map(({ skip, nll, nllSd, dice, diceSd, aurc }) => ({ skip, nll, nllSd, dice, diceSd, aurc })),
    }),
  };
}

/**
 * Opens a run of which the facts are known.
 * @throws as {@link openRun}; ERR_LE_CHECKPOINT for one that was replaced since
 */
export async function openKnown({ folder, run }: RunFacts, flags: DeviceFlags): Promise<OpenRun> {
  const opened = await openRun(folder, flags);
  if (isDeepStrictEqual(opened.run, run)) return opened;
  await opened.model.dispose();
  throw new LayerEnsemblesError(
    "ERR_LE_CHECKPOINT",
    `Expected the run in ${folder} to stay as it was when the comparison began but received another one: compare again.`,
  );
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
