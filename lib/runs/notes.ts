import path from "node:path";
import type { Cropped } from "../data/cropped.js";
import type { Dataset } from "../data/dataset.js";
import type { DatasetOptions } from "../data/dataset-options.js";
import { LABEL_OPTIONS, type LabelOptions, type LabelRule } from "../data/labels.js";
import { checkGroups, SEEN_IMAGES, type SeenImage, SeenImages } from "../data/leaks.js";
import { nameOf } from "../data/names.js";
import { areIntensities, NORMALISATIONS, type Preprocessing, RESIZES } from "../data/preprocess.js";
import { GRID_PREPROCESSING, type GridRange } from "../data/volume.js";
import { LayerEnsemblesError } from "../errors.js";
import { checkFields, type OptionSpecs, option } from "../options.js";
import { SERIES_OPTIONS, type SeriesOptions } from "../volumes/dicom/series-options.js";
import { described, RUN_FILES, type Run } from "./run.js";
import type { RunTuning } from "./tuning.js";

/** What `train` adds to run.json, so that a run folder is all that prediction needs. */
export interface RunNotes {
  /** From a stored image to the input. */
  preprocessing: Preprocessing;
  /** Background first. */
  classNames: string[];
  /** Label that counts nowhere, in masks as they are prepared. */
  ignoreIndex: number;
  /** What the numbers in stored masks mean; runs of earlier versions do not say. */
  labels?: LabelRule;
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
    /** What was asked of its DICOM series, which prediction asks again. */
    dicom?: SeriesOptions;
    /** Where the volumes of the training lay; absent where their files did not say it. */
    grids?: GridRange;
    /** Hashes of the images of the training and of the validation split; runs of earlier versions have none. */
    contents?: {
      /** By id, of the training split. */
      training: SeenImage[];
      /** By id, of the validation split; empty without one. */
      validation: SeenImage[];
    };
    /** What the network did not see of these images; runs of earlier versions do not say. */
    cropped?: Cropped;
    /** The images by which `tune` chose, if it did; of run.json's `tuning`. */
    tuned?: {
      /** Absolute path of their folder. */
      folder: string;
      /** Their split. */
      split: string;
      /** By id. */
      contents: SeenImage[];
    };
  };
  /** The command's options as they took effect, for `--resume`. */
  options: Record<string, unknown>;
}

/**
 * The notes of a run that `train` made.
 * @throws ERR_LE_CHECKPOINT for a run without them
 */
export function runNotes(run: Pick<Run, "notes"> & Partial<Pick<Run, "ensemble">>, folder: string): RunNotes {
  const notes = run.notes as Partial<RunNotes>;
  if (!notes.preprocessing || !Array.isArray(notes.classNames) || !notes.data || typeof notes.options !== "object")
    throw new LayerEnsemblesError(
      "ERR_LE_CHECKPOINT",
      `Expected a run of "layer-ensembles train" in ${folder} but received one that does not record its preprocessing.`,
    );
  return described(path.join(folder, RUN_FILES.run), () => checkNotes(notes as RunNotes, run.ensemble?.classes));
}

const object = option.record(option.custom("anything", () => true));
const anObject = option.required(object);
const side = option.integer({ min: 1, max: 65536 });

const NOTES: OptionSpecs = {
  preprocessing: anObject,
  classNames: option.required(option.array(option.string(), { min: 2 })),
  ignoreIndex: option.required(option.integer({ min: 0, max: 255 })),
  labels: object,
  data: anObject,
  options: anObject,
};
const PREPROCESSING: OptionSpecs = {
  size: option.required(
    option.orNull(option.anyOf(option.array(side, { length: 2 }), option.array(side, { length: 3 }))),
  ),
  resize: option.required(option.oneOf(RESIZES)),
  normalise: anObject,
  channels: option.required(option.integer({ min: 1, max: 4096 })),
  bands: option.array(option.string({ empty: true })),
  perChannel: option.boolean(),
  grid: object,
};
const percentile = option.number({ min: 0, max: 100 });
const NORMALISE: OptionSpecs = {
  kind: option.required(option.oneOf(NORMALISATIONS)),
  low: option.number(),
  high: option.number(),
  channels: option.custom("the training's intensities", areIntensities),
};
const LABELS: OptionSpecs = {
  ignore: option.required(LABEL_OPTIONS.ignore),
  scale: option.required(option.oneOf(["index", "0/255"])),
};
const DATA: OptionSpecs = {
  folder: option.required(option.string()),
  trainSplit: option.required(option.string()),
  valSplit: option.required(option.orNull(option.string())),
  drawn: option.required(option.orNull(option.record(option.array(option.string({ empty: true }))))),
  dicom: option.object<SeriesOptions>(SERIES_OPTIONS),
  grids: object,
  contents: object,
};
const axes = option.array(option.number({ above: 0 }), { length: 3 });
const GRIDS: OptionSpecs = {
  orientations: option.required(option.array(option.string(), { min: 1 })),
  spacing: option.required(option.array(axes, { length: 2 })),
};

/** @throws ERR_LE_OPTION that names the field */
function checkNotes(given: RunNotes, classes: number | undefined): RunNotes {
  const notes = checkFields("'notes'", given, NOTES);
  const preprocessing = checkFields("'preprocessing'", notes.preprocessing, PREPROCESSING);
  const normalise = checkFields("'normalise'", preprocessing.normalise, NORMALISE);
  if (normalise.kind === "percentile") {
    const { low } = checkFields("'normalise'", normalise, { low: percentile });
    const both = { low: option.required(percentile), high: option.required(option.number({ above: low, max: 100 })) };
    checkFields("'normalise'", normalise, both);
  }
  if (normalise.kind === "training")
    checkFields("'normalise'", normalise, { channels: option.required(NORMALISE.channels as OptionSpecs[string]) });
  if (normalise.kind === "window") {
    const { low } = checkFields("'normalise'", normalise, { low: option.required(option.number()) });
    checkFields("'normalise'", normalise, { high: option.required(option.number({ above: low })) });
  }
  const { grid } = preprocessing;
  if (grid) checkFields("'grid'", grid, GRID_PREPROCESSING);
  if (classes !== undefined)
    checkFields("'notes'", notes, { classNames: option.array(option.string(), { length: classes }) });
  const data = checkFields("'data'", notes.data, DATA);
  const { contents, grids } = data;
  if (grids) checkFields("'grids'", grids, GRIDS);
  if (contents)
    checkFields("'contents'", contents, {
      training: option.required(SEEN_IMAGES),
      validation: option.required(SEEN_IMAGES),
    });
  return {
    ...notes,
    preprocessing: { ...preprocessing, normalise },
    data,
    ...(notes.labels && { labels: checkFields("'labels'", notes.labels, LABELS) }),
  };
}

/**
 * The notes of a run; those of a deep ensemble with what its first member records of the images.
 * @throws ERR_LE_CHECKPOINT
 */
export async function readNotes(run: Run, folder: string): Promise<RunNotes> {
  const notes = runNotes(run, folder);
  const { data: tunedOn, split, contents: chosenBy } = (run.tuning ?? {}) as Partial<RunTuning>;
  const tuned = tunedOn && split && chosenBy && { folder: tunedOn, split, contents: chosenBy };
  const contents = notes.data.contents ?? (run.method === "de" ? await memberContents(folder) : undefined);
  return { ...notes, data: { ...notes.data, ...(contents && { contents }), ...(tuned && { tuned }) } };
}

async function memberContents(folder: string): Promise<RunNotes["data"]["contents"]> {
  const { readRun } = await import("./run.js");
  const member = path.join(folder, "members", "1");
  return readRun(member).then(
    (first) => runNotes(first, member).data.contents,
    () => undefined,
  );
}

/**
 * The dataset options that prepare images and masks as the run's training did.
 * @param stored how the masks at hand are stored, where that is not as the training's were
 */
export function datasetOptions(notes: RunNotes, stored: LabelOptions = {}): DatasetOptions {
  const { size, resize, normalise, channels, bands, perChannel = false, grid } = notes.preprocessing;
  const { ignoreIndex } = notes;
  const recorded: LabelOptions = notes.labels ?? (ignoreIndex === 255 ? {} : { ignore: ignoreIndex });
  const labels = stored.scale === undefined ? { ...recorded, ...stored } : stored;
  return {
    size,
    resize,
    normalise,
    channels,
    perChannel,
    ...(bands && { bands }),
    grid: grid ?? null,
    classes: notes.classNames,
    labels,
  };
}

/**
 * The images of one split; `all` takes every image of the dataset. Splits that training drew at random are the ones that it
 * recorded, whatever the folder holds by now.
 * @throws ERR_LE_DATA for a split that has no image, of which an image is gone, or that shares a group with another one
 */
export function chooseSplit(dataset: Dataset, split: string, data: RunNotes["data"]): Dataset {
  const { drawn, folder, trainSplit, valSplit } = data;
  if (split === "all") return dataset;
  const name = nameOf(split);
  if (!drawn) {
    checkGroups(dataset.samples, [trainSplit, valSplit ?? trainSplit, name].map(nameOf), folder);
    return dataset.split(name);
  }
  const ids = new Set((Object.hasOwn(drawn, name) ? (drawn[name] as string[]) : []).map(nameOf));
  const chosen = dataset.subset(({ id }) => ids.has(nameOf(id)));
  if (chosen.length === ids.size && ids.size > 0) return chosen;
  const there = Object.entries(drawn).map(([name, { length }]) => `${name} (${length})`);
  const received = ids.size === 0 ? `one of ${there.join(", ")} only` : `${ids.size - chosen.length} of them missing`;
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected the images of split "${split}", as drawn when the run was trained, in ${folder} but received ${received}.`,
  );
}

/** The images that a run was trained on, chosen by and tuned on, as far as it records them. */
export function seenBy({ data }: RunNotes): SeenImages {
  const { trainSplit, valSplit, contents, tuned } = data;
  return new SeenImages([
    [trainSplit, contents?.training],
    ...(valSplit === null ? [] : [[valSplit, contents?.validation] as const]),
    ...(tuned ? [[`${tuned.split} of ${tuned.folder}`, tuned.contents] as const] : []),
  ]);
}

/** Whether a run has seen the images of a split by what they are called: those of its own training, validation and tuning, or all. */
export function isSeenSplit(split: string, folder: string, { data }: RunNotes): boolean {
  if (split === "all") return path.resolve(folder) === data.folder;
  const { trainSplit, valSplit, tuned } = data;
  const tunedHere = tuned?.folder === path.resolve(folder) ? tuned.split : null;
  return [trainSplit, valSplit, tunedHere].some((name) => name !== null && nameOf(name) === nameOf(split));
}

/** What the run says of the data, for a folder that may be another one: then its own table holds. */
export function dataOf(notes: RunNotes, folder: string): RunNotes["data"] {
  return path.resolve(folder) === notes.data.folder ? notes.data : { ...notes.data, folder, drawn: null };
}
