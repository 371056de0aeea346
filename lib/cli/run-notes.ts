import type { DatasetOptions } from "../data/dataset.js";
import type { Preprocessing } from "../data/preprocess.js";
import type { Run } from "../ensemble/run.js";
import { LayerEnsemblesError } from "../errors.js";

/** What `train` adds to run.json, so that a run folder is all that prediction needs. */
export interface RunNotes {
  preprocessing: Preprocessing;
  /** Background first. */
  classNames: string[];
  ignoreIndex: number;
  data: {
    /** Absolute path of the folder that was trained on. */
    folder: string;
    trainSplit: string;
    valSplit: string | null;
    /** Ids by split, where they were drawn at random instead of read from a table. */
    drawn: Record<string, string[]> | null;
  };
  /** The command's options as they took effect, for `--resume`. */
  options: Record<string, unknown>;
}

/**
 * The notes of a run that `train` made.
 * @throws ERR_LE_CHECKPOINT for a run without them
 */
export function runNotes(run: Pick<Run, "notes">, folder: string): RunNotes {
  const notes = run.notes as Partial<RunNotes>;
  if (!notes.preprocessing || !Array.isArray(notes.classNames) || !notes.data || typeof notes.options !== "object")
    throw new LayerEnsemblesError(
      "ERR_LE_CHECKPOINT",
      `Expected a run of "layer-ensembles train" in ${folder} but received one that does not record its preprocessing.`,
    );
  return notes as RunNotes;
}

/** The dataset options that prepare images as the run's training did. */
export function datasetOptions(notes: RunNotes): DatasetOptions {
  const { size, resize, normalise, channels } = notes.preprocessing;
  return { size, resize, normalise, channels, classes: notes.classNames, ignoreIndex: notes.ignoreIndex };
}
