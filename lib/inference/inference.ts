import { existsSync } from "node:fs";
import path from "node:path";
import type { NdArray } from "../arrays.js";
import { croppedShare } from "../data/cropped.js";
import type { Dataset } from "../data/dataset.js";
import type { FolderOptions } from "../data/dataset-options.js";
import type { LabelOptions } from "../data/labels.js";
import { bothNames } from "../data/names.js";
import type { Orientation } from "../data/orientation.js";
import { atOwnSize } from "../data/own-size.js";
import type { Placement } from "../data/preprocess.js";
import type { StoredOptions, VolumeHead } from "../data/stored.js";
import { type Model, PREDICT, type PredictOptions } from "../ensemble/model.js";
import type { Prediction } from "../ensemble/prediction.js";
import { LayerEnsemblesError } from "../errors.js";
import { argmax } from "../fusion/index.js";
import { chooseSplit, dataOf, datasetOptions, isSeenSplit, type RunNotes, readNotes, seenBy } from "../runs/notes.js";
import { RUN_FILES, type Run } from "../runs/run.js";
import { inOwnWay } from "../runs/tiles.js";
import type { SeriesOptions } from "../volumes/dicom/series-options.js";
import { type DeviceFlags, placement, setThreads } from "./device.js";

/** A trained model with its run. */
export interface OpenRun {
  model: Model;
  run: Run;
  /** What it says of the data. */
  notes: RunNotes;
}

/**
 * Loads a run folder. The caller disposes of the model.
 * @param options.learned whether what the run has learned of the training's images is used. Default true
 * @throws ERR_LE_CHECKPOINT
 */
export async function openRun(
  folder: string,
  flags: DeviceFlags,
  { learned = true }: { learned?: boolean } = {},
): Promise<OpenRun> {
  setThreads(flags);
  const { modelOf } = await import("../ensemble/load.js");
  const { ofOneState } = await import("../runs/run.js");
  return ofOneState(folder, async (run) => {
    const notes = await readNotes(run, folder);
    if (run.method !== "de" && !existsSync(path.join(folder, RUN_FILES.weights)))
      throw new LayerEnsemblesError(
        "ERR_LE_CHECKPOINT",
        `Expected ${RUN_FILES.weights} in ${folder} but received none: its training was stopped before the first checkpoint.`,
      );
    const { shift, ...bare } = run;
    const model = await modelOf(folder, learned ? run : bare, placement(flags));
    return { model, run, notes, dispose: () => model.dispose() };
  });
}

/** A run's notes for images that are predicted at their own size, by tiles. @throws ERR_LE_OPTION as {@link atOwnSize} */
export function notesAtOwnSize(notes: RunNotes): RunNotes {
  return { ...notes, preprocessing: atOwnSize(notes.preprocessing) };
}

/** One image to predict. */
export interface Item {
  id: string;
  group?: string;
  load(): Promise<Loaded>;
}

interface Loaded {
  /** C×H×W or C×D×H×W, the network's input. */
  input: NdArray;
  placement: Placement;
  /** H×W or D×H×W grey values, as stored. */
  image: NdArray<Uint8Array>;
  /** H×W or D×H×W, at the stored size. */
  truth?: NdArray<Uint8Array>;
  /** What the file of a volume says beside its values. */
  volume?: VolumeHead;
}

/** How a folder's images become items. */
export interface FolderItemsOptions {
  masks: "required" | "optional";
  /** How the folder's masks are stored. @default as the run records */
  labels?: LabelOptions;
  /** Whether images that the run was trained on or chosen by may be there under other names. @default false */
  allowDuplicates?: boolean;
  /** What may be asked of DICOM series. @default as the training did */
  dicom?: SeriesOptions;
  /** Called for each image that the run was trained on or chosen by. */
  onSeen?: (id: string) => void;
  /** Called with {@link Dataset.unclearMask}, where there is one and an option, or the training, says what it means. */
  onUnclear?: (mask: string) => void;
}

/**
 * Opens a folder as a run's training did.
 * @param labels how its masks are stored, where that is not as the training's were
 * @throws ERR_LE_DATA as `Dataset.fromFolder`, and where the run's rule leaves 255 out of masks that look as if it were the foreground
 */
export async function openFolder(
  folder: string,
  notes: RunNotes,
  labels: LabelOptions = {},
  options: Pick<FolderOptions, "masks" | "only" | "dicom"> = {},
): Promise<Dataset> {
  const { Dataset } = await import("../data/dataset.js");
  const dataset = await Dataset.fromFolder(folder, {
    ...datasetOptions(notes, labels),
    ...(notes.data.dicom && { dicom: notes.data.dicom }),
    ...options,
  });
  const said = labels.scale !== undefined || labels.ignore !== undefined;
  const { unclearMask } = dataset;
  if (said || unclearMask === undefined || path.resolve(folder) === notes.data.folder) return dataset;
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected masks of class indices, in which 255 does not count (the run's rule), for the mask ${unclearMask} but received 0 and 255 alone: say --labels 0/255 where 255 is class 1, or --labels index where it does not count.`,
  );
}

/**
 * The images of a folder's split; `all` takes every image. An image that the run was trained on or chosen by is an error when
 * it is read, unless the split is that of the training or validation itself.
 * @throws ERR_LE_DATA
 */
export async function folderItems(
  folder: string,
  split: string,
  notes: RunNotes,
  { masks, labels, allowDuplicates = false, dicom, onSeen, onUnclear }: FolderItemsOptions,
): Promise<Item[]> {
  const dataset = await openFolder(folder, notes, labels, { masks, ...(dicom && { dicom }) });
  if (dataset.unclearMask !== undefined) onUnclear?.(dataset.unclearMask);
  const seen = seenBy(notes);
  const tolerated = allowDuplicates || isSeenSplit(split, folder, notes);
  return datasetItems(chooseSplit(dataset, split, dataOf(notes, folder)), notes.ignoreIndex, (id, content) => {
    if (!tolerated) seen.check(id, content, split, folder);
    if (seen.find(content)) onSeen?.(id);
  });
}

/**
 * The images of a dataset.
 * @param ignoreIndex label that the truths have where a pixel does not count
 * @param onContent called with each image that is read, and its hash
 */
export function datasetItems(
  dataset: Dataset,
  ignoreIndex = dataset.ignoreIndex,
  onContent?: (id: string, content: string | undefined) => void,
): Item[] {
  const own = dataset.ignoreIndex;
  const relabel = ({ data, shape }: NdArray<Uint8Array>, id: string) => {
    if (own === ignoreIndex) return { data, shape };
    if (data.includes(ignoreIndex))
      throw new LayerEnsemblesError(
        "ERR_LE_DATA",
        `Expected a mask without the label ${ignoreIndex}, which did not count when the run was trained, for ${id} but received it as a class: leave out --ignore and --labels.`,
      );
    return { data: data.map((label) => (label === own ? ignoreIndex : label)), shape };
  };
  return dataset.samples.map(({ id, group }, i) => ({
    id,
    ...(group !== undefined && { group }),
    load: async () => {
      const { input, placement, image, mask, content, volume } = await dataset.loadBoth(i);
      onContent?.(id, content);
      return { input, placement, image, ...(mask && { truth: relabel(mask, id) }), ...(volume && { volume }) };
    },
  }));
}

/**
 * Image files by path, and folders of DICOM files. Their ids are their names without ending, which must differ.
 * @param options what may be asked of DICOM series
 */
export async function fileItems(
  files: readonly string[],
  notes: RunNotes,
  options: Pick<StoredOptions, "dicom"> = {},
): Promise<Item[]> {
  const { imageId } = await import("../data/layout.js");
  const { readStored, wantedOf } = await import("../data/stored.js");
  const { display, namingLater } = await import("../data/dataset.js");
  const { preprocessAside } = await import("../data/preprocess.js");
  const seen = new Map<string, string>();
  return files.map((file) => {
    const id = imageId(file);
    const other = seen.get(id);
    if (other !== undefined)
      throw new LayerEnsemblesError(
        "ERR_LE_DATA",
        `Expected files of different names but received ${bothNames(other, file)}.`,
      );
    seen.set(id, file);
    if (!existsSync(file))
      throw new LayerEnsemblesError("ERR_LE_DATA", `Expected an image file for ${file} but received none.`);
    return {
      id,
      load: async () => {
        const stored = await readStored(file, wantedOf(notes.preprocessing), options);
        const { image, placement } = await namingLater(file, () => preprocessAside(stored, notes.preprocessing));
        const { volume } = stored;
        return { input: image, placement, image: display(stored), ...(volume && { volume }) };
      },
    };
  });
}

/** A prediction, and what of it is spatial brought back to the stored size of the image; of volumes H×W is D×H×W. */
export interface Result {
  id: string;
  group?: string;
  /** At the network's input size; by tiles of a volume that was resampled in the voxels that it was resampled from. */
  prediction: Prediction;
  image: NdArray<Uint8Array>;
  truth?: NdArray<Uint8Array>;
  /** Where the image lies in the network's input. */
  placement: Placement;
  /** What the file of a volume says beside its values: for a writer that keeps it. */
  volume?: VolumeHead;
  /** The image file's EXIF orientation: all of this is shown upright; `orientBack` turns it as stored. */
  orientation?: Orientation;
  /** Share of the stored image that the network did not see, in [0, 1): of a volume larger than its input. */
  cropped: number;
  /** C×H×W: interpolated bilinearly. */
  probabilities: NdArray;
  /** H×W: the class of the highest of these probabilities; ties go to the lower class. */
  mask: NdArray<Uint8Array>;
  /** H×W each: interpolated bilinearly, when first asked for. */
  readonly maps: Prediction["maps"];
  /** K×H×W: each head's own mask, by the nearest pixel; where asked for. */
  labels?: NdArray<Uint8Array>;
}

/**
 * Predicts images in batches; results come in order. The next batch is read and predicted while the caller works on this
 * one's results.
 */
export async function* infer(
  model: Model,
  items: readonly Item[],
  options: PredictOptions & { signal: AbortSignal },
): AsyncGenerator<Result> {
  const { isVolume, restore, restoreAside, restoreLabels, restoreLabelsAside } = await import("../data/preprocess.js");
  const { straightOutput } = await import("../data/volume.js");
  const { tile = model.tiles?.size ?? "none" } = options;
  // What is predicted by tiles may be large.
  const one = tile !== "none";
  // In the run's own way it is as tuned and certified: at the network's voxels.
  const own = inOwnWay({ tiles: model.tiles, ensemble: { inputSize: model.run?.ensemble.inputSize ?? [] } }, options);
  const batch = one ? 1 : (options.batchSize ?? PREDICT.batchSize.default);
  const read = async (start: number) => Promise.all(items.slice(start, start + batch).map((item) => item.load()));
  const predict = async (loading: Promise<Loaded[]>) => {
    const loaded = await loading;
    options.signal.throwIfAborted();
    const inputs = loaded.map(({ input }) => input);
    const [first] = loaded;
    const straight = one && !own && first && isVolume(first.placement) ? straightOutput(first.placement) : undefined;
    const { placement: from, ...output } = straight ?? {};
    const predictions = inputs.length > 0 ? await model.predict(inputs, { ...options, ...output }) : [];
    return { loaded, predictions, from };
  };
  let reading = quiet(read(0));
  let predicting = quiet(predict(reading));
  for (let start = 0; start < items.length; start += batch) {
    reading = quiet(read(start + batch));
    const { loaded, predictions, from } = await predicting;
    predicting = quiet(predict(reading));
    for (const [i, prediction] of predictions.entries()) {
      const { id, group } = items[start + i] as Item;
      const { placement, image, truth, volume } = loaded[i] as Loaded;
      const back = from ?? placement;
      const probabilities = await restoreAside(prediction.probabilities as NdArray, back);
      const labels = prediction.labels && (await restoreLabelsAside(prediction.labels, back));
      let maps: Prediction["maps"] | undefined;
      yield {
        id,
        ...(group !== undefined && { group }),
        prediction,
        image,
        ...(truth && { truth }),
        placement,
        ...(volume && { volume }),
        ...("orientation" in placement && { orientation: placement.orientation }),
        cropped: croppedShare(placement),
        probabilities,
        // What moves voxels, and changes none, moves the mask as well.
        mask: from ? restoreLabels(prediction.mask, from) : argmax(probabilities),
        get maps() {
          // Only where they are wanted: resizing six maps takes longer than all metrics.
          maps ??= Object.fromEntries(Object.entries(prediction.maps).map(([name, map]) => [name, restore(map, back)]));
          return maps;
        },
        ...(labels && { labels }),
      };
    }
  }
}

/** Leaves a rejection to whoever awaits the promise, however late. */
function quiet<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}
