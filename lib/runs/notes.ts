import path from "node:path";
import type { Dataset, DatasetOptions } from "../data/dataset.js";
import type { Preprocessing } from "../data/preprocess.js";
import type { Run } from "../ensemble/run.js";
import { LayerEnsemblesError } from "../errors.js";

/** What `train` adds to run.json, so that a run folder is all that prediction needs. */
export interface RunNotes {
  /** From a stored image to the input. */
  preprocessing: Preprocessing;
  /** Background first. */
  classNames: string[];
  /** Label that counts nowhere. */
  ignoreIndex: number;
  /** Where the images came from. */
  data: {
    /** Absolute path of the folder that was trained on. */
    folder: string;
    /** Split that was trained on. */
    trainSplit: string;
    /** Split that chose the best weights; null without validation. */
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

/**
 * The images of one split; `all` takes every image of the dataset. Splits that training drew at random are the ones that it
 * recorded, whatever the folder holds by now.
 * @throws ERR_LE_DATA for a split that has no image, or of which an image is gone
 */
export function chooseSplit(dataset: Dataset, split: string, { drawn, folder }: RunNotes["data"]): Dataset {
  if (split === "all") return dataset;
  if (!drawn) return dataset.split(split);
  const ids = new Set(drawn[split]);
  const chosen = dataset.subset(({ id }) => ids.has(id));
  if (chosen.length === ids.size && ids.size > 0) return chosen;
  const there = Object.entries(drawn).map(([name, { length }]) => `${name} (${length})`);
  const received = ids.size === 0 ? `one of ${there.join(", ")} only` : `${ids.size - chosen.length} of them missing`;
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected the images of split "${split}", as drawn when the run was trained, in ${folder} but received ${received}.`,
  );
}

/** What the run says of the data, for a folder that may be another one: then its own table holds. */
export function dataOf(notes: RunNotes, folder: string): RunNotes["data"] {
  return path.resolve(folder) === notes.data.folder ? notes.data : { ...notes.data, folder, drawn: null };
}
