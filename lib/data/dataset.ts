import { readdir } from "node:fs/promises";
import { extname, join } from "node:path";
import { type NdArray, type NumericArray, snapshot } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";
import type { Grid } from "../grid/index.js";
import { checkOptions, describe } from "../options.js";
import { parseCsv } from "./csv.js";
import {
  DATASET,
  type DatasetOptions,
  FOLDER,
  type FolderOptions,
  LOAD,
  type LoadOptions,
  normaliseOf,
} from "./dataset-options.js";
import { isMissing, readText, readTextIfAny } from "./files.js";
import { dataError, type ImageArray, toDisplay, toGrey } from "./image.js";
import { Intensities } from "./intensities.js";
import {
  addIgnored,
  applyLabels,
  checkMasks,
  countLabels,
  decideLabels,
  type Ignored,
  ignoredLabel,
  type LabelCounts,
  type LabelOptions,
  type LabelRule,
  unclearMask,
} from "./labels.js";
import { type DataLayout, maskExtensions, readLayout } from "./layout.js";
import { checkGroups, contentOf } from "./leaks.js";
import { bothNames, nameOf } from "./names.js";
import { checkWhole } from "./output-list.js";
import {
  defaultPreprocessing,
  type Normalise,
  type Placement,
  type Preprocessing,
  preprocessAside,
  preprocessMaskAside,
} from "./preprocess.js";
import { fractionSplit } from "./splits.js";
import {
  isVolumeFile,
  readStored,
  readStoredHead,
  readStoredMask,
  type StoredHead,
  type StoredImage,
  type StoredMask,
  type StoredOptions,
  type VolumeHead,
  type Wanted,
  wantedOf,
} from "./stored.js";
import { medianSpacing } from "./volume.js";

/** One image, ready for a network. */
export interface Sample {
  /** Its name: the file name without its ending, or as given to {@link Dataset.fromSamples}. Unique in a dataset. */
  id: string;
  /** What must not be torn apart between splits, such as a patient; undefined where none was said. */
  group?: string;
  /** C×H×W, or C×D×H×W for a volume; preprocessed. */
  image: NdArray;
  /** H×W or D×H×W class indices (or the ignored label), moved as the image was. */
  mask?: NdArray<Uint8Array>;
  /** How to bring outputs back to the stored size: see `restore`. */
  placement: Placement;
  /** A hash of the stored image, to tell whether two are the same; undefined for an image of a single value. */
  content?: string;
}

/** One image as stored, to look at and to evaluate on. */
export interface OriginalSample {
  /** Its name: the file name without its ending, or as given to {@link Dataset.fromSamples}. Unique in a dataset. */
  id: string;
  /** What must not be torn apart between splits, such as a patient; undefined where none was said. */
  group?: string;
  /** H×W grey values, 0 to 255; of a volume D×H×W, its first channel. */
  image: NdArray<Uint8Array>;
  /** H×W or D×H×W class indices (or the ignored label). */
  mask?: NdArray<Uint8Array>;
  /** Where a volume lies; null where its file does not say, undefined for an image. */
  grid?: Grid | null;
  /** What the file of a volume says beside its values: what a writer of the same format keeps. */
  volume?: VolumeHead;
}

/** An image that is in memory, for {@link Dataset.fromSamples}. */
export interface MemorySample {
  /** Its name; unique in the dataset. */
  id: string;
  /** What must not be torn apart between splits, such as a patient. @default a group of its own */
  group?: string;
  /** Name of its split. @default none: see {@link DatasetOptions} for fractions */
  split?: string;
  /** H×W, C×H×W with C = 1, 3 or the number of channels, or a volume of C×D×H×W; not yet preprocessed. */
  image: NdArray<Float32Array | Uint8Array | Uint16Array>;
  /** H×W or D×H×W whole numbers of any type; what they mean, {@link DatasetOptions.labels} says. */
  mask?: NdArray<NumericArray>;
  /** Where a volume lies, and its mask voxel on voxel. @default null: unknown */
  grid?: Grid | null;
}

/** What is known of an image without reading it. */
export interface SampleInfo {
  /** Its name: the file name without its ending, or as given to {@link Dataset.fromSamples}. Unique in a dataset. */
  id: string;
  /** What must not be torn apart between splits, such as a patient; undefined where none was said. */
  group?: string;
  /** Name of its split; undefined where it is in none. */
  split?: string;
  /** Whether it has a mask. */
  hasMask: boolean;
}

interface Entry extends SampleInfo {
  readImage(): Promise<StoredImage>;
  /** As stored, but turned to the axes of its image. */
  readMask?(): Promise<StoredMask>;
  /** Where a volume lies; null where its file does not say, undefined for an image. */
  grid?: Grid | null;
  /** Pixels of the mask that do not count, and whether others are left. */
  ignored?: { pixels: number; left: boolean };
  /** The image's file, for messages. */
  source: string;
}

interface Shared {
  name: string;
  preprocessing: Preprocessing;
  classNames: string[];
  rule: LabelRule;
  labels: number[];
  unclear: string | undefined;
  /** What files say that a person should know, a sentence each. */
  warnings: string[];
}

/** What a sample's arrays are now: see `snapshot`. */
function ownArrays(sample: MemorySample): Pick<MemorySample, "image" | "mask"> {
  const { id, image, mask } = sample;
  const own = <T extends NumericArray>(array: NdArray<T>, what: string) => {
    const taken = snapshot(array);
    if (!taken) throw dataError(id, what, "{data: typed array, shape}", describe(array));
    return taken as NdArray<T>;
  };
  return { image: own(image, "image of sample"), ...(mask && { mask: own(mask, "mask of sample") }) };
}

/** Images with masks, in a fixed order; read when asked for. Splits and subsets are datasets too. */
export class Dataset implements AsyncIterable<Sample> {
  readonly #entries: readonly Entry[];
  readonly #shared: Shared;

  private constructor(entries: readonly Entry[], shared: Shared) {
    this.#entries = entries;
    this.#shared = shared;
  }

  /**
   * Opens a folder with `images/*.{png,jpg,jpeg,tif,tiff}`, `masks/*.png` of the same names (or arrays: `images/*.npy`
   * of H×W or C×H×W numbers, of D×H×W or C×D×H×W where `size` has three sides, and `masks/*.npy` of H×W or D×H×W integers; or
   * volumes: NIfTI, NRRD, MetaImage, or a folder of DICOM files a case), and either a split.csv. Files `CASE_0000`, `CASE_0001` are
   * channels of one case where masks or the table name the case. nnU-Net's raw folders (`imagesTr`, `labelsTr`, `dataset.json`)
   * are read as they are, their `imagesTs` with `labelsTs` as split "test". The table has
   * (columns `id`, `split`, optionally `group`; others are ignored) or splits by fractions, which keep the table's
   * groups together. Fractions, when given, replace the table's own splits. A group of "train", "val" or "test" may be in
   * no other split. Images that the table does not name belong
   * to the dataset but to no split. Every mask is read once here, so that bad ones are found before work begins.
   * @throws ERR_LE_DATA that names the file, what was expected and what was found, also where the folder is what a command that
   * was killed left; ERR_LE_OPTION for an option
   */
  static async fromFolder(folder: string, given: FolderOptions = {}): Promise<Dataset> {
    const asked = checkOptions("Dataset.fromFolder", given, FOLDER);
    sharedOptions(folder, asked); // what contradicts itself is told before anything is read
    const { masks = "required", maxPixels, dicom, only } = asked;
    const stored: StoredOptions = { ...(maxPixels !== undefined && { maxPixels }), ...(dicom && { dicom }) };
    for (const name of ["images", "masks"]) await checkWhole(join(folder, name));
    const table = await readSplits(folder, asked);
    const channels = asked.channels ?? asked.bands?.length;
    const layout = await readLayout(folder, {
      masksRequired: masks === "required",
      known: new Set(table.keys()),
      ...(channels !== undefined && { channels }),
    });
    const { images: imageFiles, masks: maskFiles } = layout;
    checkTable(folder, asked, table, imageFiles);
    const options = saidBy(layout, asked);
    const shared = sharedOptions(folder, options);
    const network = wantedOf(shared.preprocessing);

    const all = [...imageFiles].map(([id, files]): Entry => {
      const { split = layout.splits.get(id), group } = table.get(id) ?? {};
      return {
        id,
        source: files[0] as string,
        hasMask: maskFiles.has(id),
        split,
        group,
        readImage: () => readStored(files, network, stored),
      };
    });
    if (options.valFraction !== undefined || options.testFraction !== undefined) {
      const open = all.filter(({ id }) => !layout.splits.has(id));
      fractionSplit(open, options).forEach((split, i) => {
        open[i]!.split = split;
      });
    }
    checkGroups(all, guardedSplits, folder);
    const entries = only ? all.filter(({ id, split, group }) => only({ id, split, group })) : all;
    if (masks === "required") {
      const bare = entries.filter((entry) => !entry.hasMask).map((entry) => entry.id);
      if (bare.length > 0) throw await bareError(layout.masksFolder, bare);
    }
    const wanted = labelOptions(options);
    const known = wanted.scale === "index" || wanted.scale === "0/255";
    const labelled = known && options.classes !== undefined ? entries : all;
    // Voxels are to become as those of the whole folder are, whichever of its images are opened.
    const placed = isDecided(options) ? entries : all;
    const scanned = await scan({ labelled, placed }, { layout, network, stored, shared });
    settlePlaces(shared, placed, options);
    settle(shared, entries, scanned, wanted, options.classes);
    for (const entry of entries) {
      const file = maskFiles.get(entry.id);
      if (file !== undefined) entry.readMask = () => readStoredMask(file, entry.grid, stored);
    }
    return new Dataset(entries, shared);
  }

  /**
   * A dataset of images that are in memory; they are preprocessed as files are.
   * @throws ERR_LE_DATA for a repeated id, a mask that does not fit its image, or a label that is no class
   */
  static fromSamples(samples: readonly MemorySample[], given: DatasetOptions = {}): Dataset {
    const options = checkOptions("Dataset.fromSamples", given, DATASET);
    const shared = sharedOptions("samples", options);
    const seen = new Map<string, string>();
    const scanned = new Map<string, LabelCounts>();
    const entries = samples.map((sample): Entry => {
      const { id, group, split } = sample;
      const { image, mask } = ownArrays(sample);
      const other = seen.get(nameOf(id));
      if (other !== undefined) {
        const received = other === id ? `"${id}" twice` : bothNames(other, id);
        throw dataError("samples", "dataset", "distinct ids", received);
      }
      seen.set(nameOf(id), id);
      if (mask) {
        const size = image.shape.slice(image.shape.length === 4 ? 1 : -2);
        if (mask.shape.join("×") !== size.join("×")) {
          throw dataError(id, "mask of sample", `the image's ${size.join("×")}`, mask.shape.join("×"));
        }
        scanned.set(id, countLabels(`of sample ${id}`, mask.data));
      }
      return {
        id,
        source: `sample ${id}`,
        hasMask: mask !== undefined,
        split: split === undefined ? undefined : nameOf(split),
        group: group === undefined ? undefined : nameOf(group),
        readImage: async () => (sample.grid === undefined ? image : { ...image, grid: sample.grid }),
        readMask: mask && (async () => mask),
        ...(image.shape.length === 4 && { grid: sample.grid ?? null }),
      };
    });
    settlePlaces(shared, entries, options);
    if (options.valFraction !== undefined || options.testFraction !== undefined) {
      fractionSplit(entries, options).forEach((split, i) => {
        entries[i]!.split = split;
      });
    }
    checkGroups(entries, guardedSplits, "samples");
    settle(shared, entries, scanned, labelOptions(options), options.classes);
    return new Dataset(entries, shared);
  }

  /** Number of images. */
  get length(): number {
    return this.#entries.length;
  }

  /** The images' ids, in order. */
  get ids(): string[] {
    return this.#entries.map((entry) => entry.id);
  }

  /** What is known of each image without reading it, in order. */
  get samples(): SampleInfo[] {
    return this.#entries.map(({ id, group, split, hasMask }) => ({ id, group, split, hasMask }));
  }

  /** Number of classes, background included. */
  get classes(): number {
    return this.#shared.classNames.length;
  }

  /** Names of the classes, background first. */
  get classNames(): string[] {
    return [...this.#shared.classNames];
  }

  /** The labels that the whole dataset's masks hold, in order, without the ignored one. */
  get labelsFound(): number[] {
    return [...this.#shared.labels];
  }

  /** The label of a pixel that does not count, in the masks that this dataset gives. */
  get ignoreIndex(): number {
    return ignoredLabel(this.#shared.rule);
  }

  /** What the numbers in the stored masks mean: as asked for, else as all masks of the whole dataset show. Plain JSON. */
  get labels(): LabelRule {
    return { ...this.#shared.rule };
  }

  /**
   * The file of a mask of 0 and 255 alone, of which the rule leaves 255 out although no mask of the whole dataset shows that it is
   * no class; undefined where there is none.
   */
  get unclearMask(): string | undefined {
    return this.#shared.unclear;
  }

  /** How many pixels of how many of these images do not count. */
  get ignored(): Ignored {
    const sum: Ignored = { pixels: 0, images: 0, unlabelled: 0 };
    for (const { ignored } of this.#entries) if (ignored) addIgnored(sum, ignored.pixels, ignored.left);
    return sum;
  }

  /** Where these volumes lie, of those whose files say it. */
  get grids(): Grid[] {
    return this.#entries.flatMap(({ grid }) => (grid ? [grid] : []));
  }

  /** What files of the whole dataset say that a person should know, a sentence each with the file's name. */
  get warnings(): string[] {
    return [...this.#shared.warnings];
  }

  /** How images become inputs; plain JSON. */
  get preprocessing(): Preprocessing {
    return structuredClone(this.#shared.preprocessing);
  }

  /**
   * What the stored values of what is labelled are in these images, the training's: for option `normalise`, or {@link normalised}.
   * 10 000 pixels of each image and channel at most, at even distances; all channels together unless they are scaled alone.
   * @throws ERR_LE_DATA naming the file; where no two values are labelled; `signal.reason` when aborted
   */
  async intensities({ signal }: Pick<LoadOptions, "signal"> = {}): Promise<Normalise> {
    const found = new Intensities();
    const { channels, perChannel = false } = this.#shared.preprocessing;
    for (const entry of this.#entries) {
      signal?.throwIfAborted();
      const stored = await entry.readImage();
      const shape = stored.shape.length === 2 ? [1, ...stored.shape] : stored.shape;
      const mask = await this.#readMask(entry, shape.slice(1));
      if (!mask) continue;
      const grey = channels === 1 && shape.length === 3;
      const data = grey ? toGrey({ data: stored.data, shape }) : Float32Array.from(stored.data);
      const parts = perChannel ? (shape[0] as number) : 1;
      const size = mask.data.length;
      // Channels that are scaled together count as images of their own.
      const planes = Array.from({ length: data.length / size }, (_, c) => data.subarray(c * size, (c + 1) * size));
      if (parts > 1) found.add({ data, shape }, mask, this.ignoreIndex);
      else for (const plane of planes) found.add({ data: plane, shape: [1, size] }, mask, this.ignoreIndex);
    }
    const all = found.result();
    if (!all)
      throw dataError(
        this.#shared.name,
        "masks of",
        "labelled pixels of more than one intensity",
        "none, or of one value",
      );
    return { kind: "training", channels: all };
  }

  /** The same images, scaled otherwise. @throws ERR_LE_OPTION */
  normalised(normalise: NonNullable<DatasetOptions["normalise"]>): Dataset {
    const checked = checkOptions("Dataset.normalised", { normalise }, { normalise: DATASET.normalise });
    const preprocessing = { ...this.#shared.preprocessing, normalise: normaliseOf(checked.normalise) };
    return new Dataset(this.#entries, { ...this.#shared, preprocessing });
  }

  /** Names of the splits that there are, with their numbers of images. */
  get splits(): Record<string, number> {
    const counts = Object.create(null) as Record<string, number>; // a split may be called "constructor"
    for (const { split } of this.#entries) if (split !== undefined) counts[split] = (counts[split] ?? 0) + 1;
    return counts;
  }

  /**
   * The images of one split.
   * @throws ERR_LE_DATA for a split that has no image; the message lists those that have
   */
  split(name: string): Dataset {
    const entries = this.#entries.filter((entry) => entry.split === nameOf(name));
    if (entries.length === 0) {
      const names = Object.entries(this.splits).map(([split, count]) => `${split} (${count})`);
      const received =
        names.length > 0 ? `one that has none; there are ${names.join(", ")}` : "one of no splits at all";
      throw dataError(this.#shared.name, `split "${name}" of`, "at least one image", received);
    }
    return new Dataset(entries, this.#shared);
  }

  /**
   * Some of the images: a number takes that many, evenly spaced; a function keeps those for which it is true.
   * @throws ERR_LE_OPTION for a number that is not in 1..length
   */
  subset(which: number | ((info: SampleInfo, index: number) => boolean)): Dataset {
    if (typeof which === "function") {
      const infos = this.samples;
      return new Dataset(
        this.#entries.filter((_, i) => which(infos[i]!, i)),
        this.#shared,
      );
    }
    if (!Number.isInteger(which) || which < 1 || which > this.length) {
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        `Expected a number from 1 to ${this.length} for the subset but received ${which}`,
      );
    }
    const chosen = Array.from({ length: which }, (_, i) => this.#entries[Math.floor((i * this.length) / which)]!);
    return new Dataset(chosen, this.#shared);
  }

  /**
   * Reads and preprocesses one image and its mask.
   * @throws ERR_LE_DATA naming the file
   */
  async load(index: number): Promise<Sample> {
    const entry = this.#entry(index);
    const stored = await entry.readImage();
    const { image, placement } = await namingLater(entry.source, () =>
      preprocessAside(stored, this.#shared.preprocessing),
    );
    const mask = await this.#readMask(entry, placement.original);
    return {
      id: entry.id,
      group: entry.group,
      image,
      mask: mask && (await preprocessMaskAside(mask, placement)),
      placement,
      content: contentOf(stored),
    };
  }

  /**
   * Reads one image and its mask at their stored size, the image as grey values for display.
   * @throws ERR_LE_DATA naming the file
   */
  async loadOriginal(index: number): Promise<OriginalSample> {
    const entry = this.#entry(index);
    const stored = await entry.readImage();
    const shape = stored.shape.length === 2 ? [1, ...stored.shape] : stored.shape;
    const mask = await this.#readMask(entry, shape.slice(1));
    return {
      id: entry.id,
      group: entry.group,
      image: naming(entry.source, () => display({ data: stored.data, shape })),
      mask,
      ...placeOf(stored),
    };
  }

  /**
   * Reads one image and its mask once for both {@link Dataset.load} and {@link Dataset.loadOriginal}; the mask as stored.
   * @throws ERR_LE_DATA naming the file
   */
  async loadBoth(index: number): Promise<
    {
      /** C×H×W, or C×D×H×W for a volume; preprocessed. */
      input: Sample["image"];
      /** Where the image lies in `input`: see `restore`. */
      placement: Placement;
      /** A hash of the stored image, to tell whether two are the same; undefined for an image of a single value. */
      content?: string;
    } & OriginalSample
  > {
    const entry = this.#entry(index);
    const stored = await entry.readImage();
    const shape = stored.shape.length === 2 ? [1, ...stored.shape] : stored.shape;
    const { image: input, placement } = await namingLater(entry.source, () =>
      preprocessAside(stored, this.#shared.preprocessing),
    );
    const mask = await this.#readMask(entry, placement.original);
    const image = naming(entry.source, () => display({ data: stored.data, shape }));
    const content = contentOf(stored);
    return { id: entry.id, group: entry.group, input, placement, image, mask, content, ...placeOf(stored) };
  }

  /**
   * Reads all images, several at a time, in order.
   * @throws ERR_LE_DATA naming the file; `signal.reason` when aborted
   */
  async loadAll(options: LoadOptions = {}): Promise<Sample[]> {
    const { signal, onProgress, concurrency = 4 } = checkOptions("Dataset.loadAll", options, LOAD);
    const total = this.length;
    const samples = new Array<Sample>(total);
    let next = 0;
    let done = 0;
    let failed = false;
    const worker = async () => {
      while (next < total && !failed) {
        signal?.throwIfAborted();
        const index = next++;
        samples[index] = await this.load(index);
        done++;
        if (!failed) onProgress?.({ done, total });
      }
    };
    signal?.throwIfAborted();
    try {
      await Promise.all(Array.from({ length: Math.max(1, Math.min(concurrency, total)) }, worker));
    } finally {
      failed = true;
    }
    return samples;
  }

  /** Reads one image after another. */
  async *[Symbol.asyncIterator](): AsyncIterator<Sample> {
    for (let i = 0; i < this.length; i++) yield await this.load(i);
  }

  #entry(index: number): Entry {
    const entry = this.#entries[index];
    if (!entry) {
      throw new LayerEnsemblesError(
        "ERR_LE_VALUE",
        `Expected an index from 0 to ${this.length - 1} for the dataset but received ${index}`,
      );
    }
    return entry;
  }

  async #readMask(entry: Entry, size: readonly number[]): Promise<NdArray<Uint8Array> | undefined> {
    const mask = await entry.readMask?.();
    if (!mask) return undefined;
    if (mask.shape.join("×") !== size.join("×")) {
      throw dataError(entry.source, "mask of", `the image's ${size.join("×")} pixels`, mask.shape.join("×"));
    }
    const { rule } = this.#shared;
    // Once more: the file may be another by now.
    checkMasks([countLabels(`of ${entry.source}`, mask.data)], rule, this.classes);
    return { data: applyLabels(mask.data, rule), shape: mask.shape };
  }
}

/** Grey values of C×H×W, or of a volume's first channel: all slices scaled together. */
export function display({ data, shape }: NdArray<Float32Array | Uint8Array | Uint16Array>): NdArray<Uint8Array> {
  if (shape.length < 4) return toDisplay({ data, shape } as ImageArray);
  const [, depth, height, width] = shape as [number, number, number, number];
  const first = data.subarray(0, depth * height * width);
  const grey = toDisplay({ data: first, shape: [1, depth * height, width] } as ImageArray);
  return { data: grey.data, shape: [depth, height, width] };
}

/** What is known of where a volume lies. */
function placeOf({ grid, volume }: StoredImage): Pick<OriginalSample, "grid" | "volume"> {
  return { ...(grid !== undefined && { grid }), ...(volume && { volume }) };
}

/** Options with what the folder itself says of channels and classes, where nobody says otherwise. */
function saidBy(layout: DataLayout, options: FolderOptions): FolderOptions {
  const files = [...layout.images.values()][0]?.length ?? 1;
  const { channelNames, classNames, ignore } = layout;
  const counted = options.channels !== undefined || options.bands !== undefined;
  const labels = { ...(ignore !== undefined && { ignore }), ...options.labels };
  return {
    ...options,
    ...(!counted && files > 1 && { channels: files }),
    ...(!counted && channelNames && channelNames.length > 1 && { channels: channelNames.length, bands: channelNames }),
    ...(options.perChannel === undefined && files > 1 && { perChannel: true }),
    ...(options.classes === undefined && classNames && { classes: classNames }),
    ...(Object.keys(labels).length > 0 && { labels }),
  };
}

/** Whether it is said what voxels become, so that not all volumes of the folder decide it. */
function isDecided({ grid, spacing = DATASET.spacing.default }: DatasetOptions): boolean {
  return grid !== undefined || spacing !== "median";
}

/**
 * Decides what volumes become that say where they lie.
 * @throws ERR_LE_DATA where some say it and others do not
 */
function settlePlaces(shared: Shared, entries: readonly Entry[], options: DatasetOptions): void {
  const placed = entries.filter(({ grid }) => grid);
  const lost = entries.find(({ grid }) => grid === null);
  if (placed.length > 0 && lost)
    throw dataError(
      shared.name,
      "dataset",
      "volumes that all say where they lie, or none",
      `${(placed[0] as Entry).source}, which does, and ${lost.source}, which does not: the size of its voxels is unknown`,
    );
  if (placed.length > 0 && options.grid === null)
    throw dataError(
      (placed[0] as Entry).source,
      "volume",
      "one without a place in the world, as those of the training were",
      "one that has one: what size its voxels would have to be is not known. Train on files that say where they lie",
    );
  if (placed.length === 0 || options.grid) return;
  const { axes = DATASET.axes.default, spacing = DATASET.spacing.default, crop = DATASET.crop.default } = options;
  const grids = placed.map(({ grid }) => grid as Grid);
  const to = spacing === "median" ? medianSpacing(grids, axes) : spacing === "native" ? null : spacing;
  shared.preprocessing.grid = { axes, spacing: to as readonly [number, number, number] | null, crop };
}

/** The table's split and group by id; empty where there is no table. */
async function readSplits(folder: string, options: FolderOptions) {
  const path = join(folder, options.splitFile ?? "split.csv");
  const found = new Map<string, { split?: string; group?: string }>();
  let text: string;
  try {
    const read = options.splitFile === undefined ? readTextIfAny : readText;
    const table = await read(path);
    if (table === undefined) return found;
    text = table;
  } catch (error) {
    throw dataError(path, "table of splits", "a readable file", isMissing(error) ? "none" : (error as Error).message);
  }
  const { columns, rows } = parseCsv(text, path);
  const fractions = options.valFraction !== undefined || options.testFraction !== undefined;
  for (const column of fractions ? ["id"] : ["id", "split"]) {
    if (!columns.includes(column)) {
      throw dataError(path, "table of splits", `a column "${column}"`, columns.map((name) => `"${name}"`).join(", "));
    }
  }
  for (const row of rows) {
    const [id, split, group] = [row.id!, row.split, row.group].map((text) => text && nameOf(text.trim())) as [
      string,
      string?,
      string?,
    ];
    if (found.has(id)) throw dataError(path, "table of splits", "each id once", `"${id}" twice`);
    found.set(id, { ...(split && !fractions && { split }), ...(group && { group }) });
  }
  return found;
}

/** @throws ERR_LE_DATA for ids of the table that have no image */
function checkTable(
  folder: string,
  { splitFile = "split.csv", only = () => true }: FolderOptions,
  table: ReadonlyMap<string, { split?: string; group?: string }>,
  images: ReadonlyMap<string, unknown>,
): void {
  const missing = [...table].filter(([id, known]) => !images.has(id) && only({ id, ...known })).map(([id]) => id);
  if (missing.length === 0) return;
  const received = `${listed(missing)} without one`;
  throw dataError(join(folder, splitFile), "table of splits", "ids that have an image", received);
}

/** Splits that are trained on or reported, so that a group in one of them may be in no other. */
const guardedSplits = ["train", "val", "test"];

/** That images have no mask; and where files of the name are there all the same, what is wrong with them. */
async function bareError(folder: string, bare: readonly string[]): Promise<LayerEnsemblesError> {
  const others = (await readdir(folder)).filter((name) => bare.includes(nameOf(name.slice(0, -extname(name).length))));
  const files = bare.map((id) => `${id}.png`);
  const received =
    others.length > 0
      ? `none for ${listed(files)}: ${listed(others)} is no ${maskExtensions.join(", ")}, and JPEG blurs labels`
      : `none for ${listed(files)}`;
  return dataError(folder, "folder", "a mask for each image", received);
}

/** Reads the head of every volume and every mask once: where they lie, their sizes, and the numbers that masks hold. */
async function scan(
  { labelled, placed }: { labelled: readonly Entry[]; placed: readonly Entry[] },
  { layout, network, stored, shared }: { layout: DataLayout; network: Wanted; stored: StoredOptions; shared: Shared },
): Promise<Map<string, LabelCounts>> {
  const scanned = new Map<string, LabelCounts>();
  const said = new Map<string, readonly string[]>();
  const [masks, places] = [new Set(labelled), new Set(placed)];
  const entries = [...new Set([...placed, ...labelled])];
  await inParallel(entries, 8, async (entry) => {
    const file = masks.has(entry) ? layout.masks.get(entry.id) : undefined;
    const files = layout.images.get(entry.id) as string[];
    if (file === undefined && !(places.has(entry) && (await isVolumeFile(entry.source)))) return;
    const head: StoredHead = await readStoredHead(files, network, stored);
    if (head.grid !== undefined) entry.grid = head.grid;
    said.set(entry.source, head.warnings);
    if (file === undefined) return;
    const mask = await readStoredMask(file, head.grid, stored);
    if (mask.shape.join("×") !== head.size.join("×"))
      throw dataError(file, "mask", `the ${head.size.join("×")} pixels of its image`, mask.shape.join("×"));
    said.set(file, mask.warnings ?? []);
    scanned.set(entry.id, countLabels(file, mask.data));
  });
  // In the order of the images, whichever was read first.
  for (const entry of entries.sort((a, b) => (a.id < b.id ? -1 : 1)))
    for (const file of [entry.source, layout.masks.get(entry.id) ?? ""])
      shared.warnings.push(...(said.get(file) ?? []).map((warning) => `${file}: ${warning}`));
  return scanned;
}

/** Decides what masks mean and how many classes there are, and holds every mask against it. */
function settle(
  shared: Shared,
  entries: readonly Entry[],
  scanned: ReadonlyMap<string, LabelCounts>,
  wanted: LabelOptions,
  classes: DatasetOptions["classes"],
): void {
  const count = typeof classes === "object" ? classes.length : classes;
  // In the order of the images, so that errors name the first.
  const masks = [...scanned].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, counts]) => counts);
  shared.rule = decideLabels(masks, wanted, count);
  shared.labels = checkMasks(masks, shared.rule, count);
  shared.unclear = unclearMask(masks, shared.rule);
  const { ignore } = shared.rule;
  for (const entry of entries) {
    const counts = scanned.get(entry.id)?.counts;
    if (counts) entry.ignored = { pixels: ignore === null ? 0 : (counts.get(ignore) ?? 0), left: counts.size > 1 };
  }
  completeClasses(shared, classes);
}

function labelOptions({ labels, ignoreIndex, maskValues }: DatasetOptions): LabelOptions {
  const { ignore = ignoreIndex, scale = maskValues } = labels ?? {};
  return { ignore, scale };
}

function completeClasses(shared: Shared, classes: DatasetOptions["classes"]): void {
  if (classes !== undefined) return;
  const count = Math.max(2, ...shared.labels.map((label) => label + 1));
  shared.classNames = defaultNames(count);
}

function defaultNames(count: number): string[] {
  if (count === 2) return ["background", "foreground"];
  return Array.from({ length: count }, (_, i) => (i === 0 ? "background" : `class ${i}`));
}

function sharedOptions(name: string, options: DatasetOptions): Shared {
  const { size = null, resize, normalise, bands, classes, perChannel = false, grid } = options;
  const channels = options.channels ?? bands?.length ?? defaultPreprocessing.channels;
  if (bands && bands.length !== channels)
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected a name for each of the ${channels} channels for bands but received ${bands.length}`,
    );
  const names = typeof classes === "object" ? [...classes] : classes === undefined ? [] : defaultNames(classes);
  return {
    name,
    preprocessing: {
      size: typeof size === "number" ? [size, size] : size && [...size],
      resize: resize ?? defaultPreprocessing.resize,
      normalise: normaliseOf(normalise),
      channels,
      ...(bands && { bands: [...bands] }),
      ...(perChannel && { perChannel }),
      ...(grid && { grid: { axes: grid.axes, spacing: grid.spacing, crop: grid.crop } }),
    },
    classNames: names,
    rule: { ignore: null, scale: "index" },
    labels: [],
    unclear: undefined,
    warnings: [],
  };
}

/** Runs `read`, turning its errors into ERR_LE_DATA that name the file. */
function naming<T>(source: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw named(source, error);
  }
}

/** The same of what is read later. */
export async function namingLater<T>(source: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    throw named(source, error);
  }
}

function named(source: string, error: unknown): unknown {
  if (!(error instanceof LayerEnsemblesError)) return error;
  return new LayerEnsemblesError("ERR_LE_DATA", `${error.message} (in ${source})`, { cause: error });
}

function listed(names: readonly string[]): string {
  return names.length > 5 ? `${names.slice(0, 5).join(", ")} and ${names.length - 5} more` : names.join(", ");
}

async function inParallel<T>(items: readonly T[], width: number, work: (item: T) => Promise<void>): Promise<void> {
  let next = 0;
  let failed = false;
  const worker = async () => {
    while (next < items.length && !failed) {
      const item = items[next++]!;
      try {
        await work(item);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(width, items.length) }, worker));
}
