import { readdir, readFile } from "node:fs/promises";
import { extname, join } from "node:path";
import { type NdArray, type NumericArray, snapshot } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";
import { checkOptions, describe, type OptionSpecs, option } from "../options.js";
import { parseCsv } from "./csv.js";
import { isMissing } from "./files.js";
import { dataError, type ImageArray, imageExtensions, readImage, readMask, readSize, toDisplay } from "./image.js";
import { readVolume, readVolumeMask, readVolumeSize } from "./npy-file.js";
import { defaultPreprocessing, type Placement, type Preprocessing, preprocess, preprocessMask } from "./preprocess.js";
import { fractionSplit, type SplitFractions } from "./splits.js";

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
}

/** An image that is in memory, for {@link Dataset.fromSamples}. */
export interface MemorySample {
  /** Its name; unique in the dataset. */
  id: string;
  /** What must not be torn apart between splits, such as a patient. @default a group of its own */
  group?: string;
  /** Name of its split. @default none: see {@link DatasetOptions} for fractions */
  split?: string;
  /** H×W, C×H×W with C = 1 or 3, or a volume of C×D×H×W; not yet preprocessed. */
  image: NdArray<Float32Array | Uint8Array | Uint16Array>;
  /** H×W or D×H×W class indices (or the ignored label). */
  mask?: NdArray<Uint8Array>;
}

/** How masks store labels: see {@link FolderOptions.maskValues}. */
export type MaskValues = "auto" | "index" | "0/255";

/** Options that every dataset has. */
export interface DatasetOptions extends SplitFractions {
  /**
   * Input size of the network: [height, width] (one number for both), [depth, height, width] for volumes, or null for each
   * image's own.
   * @default null
   */
  size?:
    | readonly [height: number, width: number]
    | readonly [depth: number, height: number, width: number]
    | number
    | null;
  /** See {@link Preprocessing.resize}. @default "stretch" */
  resize?: Preprocessing["resize"];
  /** See {@link Preprocessing.normalise}; a name alone takes percentiles 0.5 and 99.5. @default "zscore" */
  normalise?: Preprocessing["normalise"] | Preprocessing["normalise"]["kind"];
  /** @default 1 */
  channels?: 1 | 3;
  /** Number of classes with background, or their names, background first. @default what the masks hold, at least 2 */
  classes?: number | readonly string[];
  /** A label that means "do not count this pixel". @default 255 */
  ignoreIndex?: number;
}

/** Options of {@link Dataset.fromFolder}. */
export interface FolderOptions extends DatasetOptions {
  /** File name of the table of splits. @default "split.csv", if there is one */
  splitFile?: string;
  /**
   * `index`: a mask's values are class indices. `0/255`: 255 is class 1. `auto`: `0/255` where all masks of the folder
   * together hold only 0 and 255, else `index`.
   * @default "auto"
   */
  maskValues?: MaskValues;
  /** Whether an image without a mask is an error. @default "required" */
  masks?: "required" | "optional";
  /** Most pixels of an image or mask. @default 100_000_000 */
  maxPixels?: number;
  /**
   * Which images are opened; of the others no file is read or needed, and `maskValues: "auto"` is decided without them.
   * @default all
   */
  only?: (info: Pick<SampleInfo, "id" | "split" | "group">) => boolean;
}

/** Options of {@link Dataset.loadAll}. */
export interface LoadOptions {
  /** Stops before the next image; the promise rejects with `signal.reason`. */
  signal?: AbortSignal;
  /** Called after each image. */
  onProgress?: (progress: { done: number; total: number }) => void;
  /** Images read at the same time. @default 4 */
  concurrency?: number;
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
  readImage(): Promise<NdArray<Float32Array | Uint8Array | Uint16Array>>;
  readMask?(): Promise<NdArray<Uint8Array>>;
  /** The image's file, for messages. */
  source: string;
}

interface Shared {
  name: string;
  preprocessing: Preprocessing;
  classNames: string[];
  ignoreIndex: number;
  labels: number[];
}

const percentile = option.number({ min: 0, max: 100 });
const normaliseKinds = ["zscore", "percentile", "none"];

const datasetSpecs: OptionSpecs = {
  size: option.anyOf(
    option.integer({ min: 1 }),
    option.array(option.integer({ min: 1 }), { length: 2 }),
    option.array(option.integer({ min: 1 }), { length: 3 }),
    option.oneOf([null]),
  ),
  resize: option.oneOf(["stretch", "pad", "none-with-pad"]),
  normalise: option.anyOf(
    option.oneOf(normaliseKinds),
    option.custom("{ kind, low, high } with percentiles low < high", (value) => {
      const { kind, low = 0.5, high = 99.5 } = (value ?? {}) as { kind?: string; low?: number; high?: number };
      return (
        normaliseKinds.includes(kind as string) && percentile.accepts(low) && percentile.accepts(high) && low < high
      );
    }),
  ),
  channels: option.oneOf([1, 3]),
  classes: option.anyOf(
    option.integer({ min: 2, max: 255 }),
    option.custom("2 to 255 distinct names", (value) => {
      const names = Array.isArray(value) ? value : [];
      const distinctNames = new Set(names.filter((name) => typeof name === "string" && name !== ""));
      return names.length >= 2 && names.length <= 255 && distinctNames.size === names.length;
    }),
  ),
  ignoreIndex: option.integer({ min: 0, max: 255 }),
  valFraction: option.number({ min: 0, below: 1 }),
  testFraction: option.number({ min: 0, below: 1 }),
  seed: option.integer(),
};

const folderSpecs: OptionSpecs = {
  ...datasetSpecs,
  splitFile: option.string(),
  maskValues: option.oneOf(["auto", "index", "0/255"]),
  masks: option.oneOf(["required", "optional"]),
  maxPixels: option.integer({ min: 1 }),
  only: option.callback(),
};

const loadSpecs: OptionSpecs = {
  signal: option.signal(),
  onProgress: option.callback(),
  concurrency: option.integer({ min: 1 }),
};

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
   * Opens a folder with `images/*.{png,jpg,jpeg,tif,tiff}`, `masks/*.png` of the same names (or volumes: `images/*.npy`
   * of D×H×W or C×D×H×W numbers and `masks/*.npy` of D×H×W integers), and either a split.csv
   * (columns `id`, `split`, optionally `group`; others are ignored) or splits by fractions, which keep the table's
   * groups together. Fractions, when given, replace the table's own splits. A group of "train", "val" or "test" may be in
   * no other split. Images that the table does not name belong
   * to the dataset but to no split. Every mask is read once here, so that bad ones are found before work begins.
   * @throws ERR_LE_DATA that names the file, what was expected and what was found; ERR_LE_OPTION for an option
   */
  static async fromFolder(folder: string, options: FolderOptions = {}): Promise<Dataset> {
    checkOptions("Dataset.fromFolder", options, folderSpecs);
    const { maskValues = "auto", masks = "required", maxPixels, only } = options;
    const shared = sharedOptions(folder, options);
    const imageFiles = await listImages(join(folder, "images"));
    const maskFiles = await listMasks(join(folder, "masks"), masks === "required");
    const table = await readSplits(folder, options, imageFiles);

    const all = [...imageFiles].map(([id, source]): Entry => {
      const { split, group } = table.get(id) ?? {};
      return {
        id,
        source,
        hasMask: maskFiles.has(id),
        split,
        group,
        readImage: () => (isNpy(source) ? readVolume : readImage)(source, { maxPixels }),
      };
    });
    if (options.valFraction !== undefined || options.testFraction !== undefined) {
      fractionSplit(all, options).forEach((split, i) => {
        all[i]!.split = split;
      });
    }
    checkGroups(all, folder);
    const entries = only ? all.filter(({ id, split, group }) => only({ id, split, group })) : all;
    if (masks === "required") {
      const bare = entries.filter((entry) => !entry.hasMask).map((entry) => `${entry.id}.png`);
      if (bare.length > 0) {
        throw dataError(join(folder, "masks"), "folder", "a mask for each image", `none for ${listed(bare)}`);
      }
    }
    const binary = await scanMasks(entries, maskFiles, maskValues, shared, maxPixels);
    for (const entry of entries) {
      const file = maskFiles.get(entry.id);
      if (file === undefined) continue;
      entry.readMask = async () => {
        const mask = await readLabels(file, maxPixels);
        if (binary) for (let i = 0; i < mask.data.length; i++) mask.data[i] = mask.data[i] === 0 ? 0 : 1;
        return mask;
      };
    }
    completeClasses(shared, options.classes);
    return new Dataset(entries, shared);
  }

  /**
   * A dataset of images that are in memory; they are preprocessed as files are.
   * @throws ERR_LE_DATA for a repeated id, a mask that does not fit its image, or a label that is no class
   */
  static fromSamples(samples: readonly MemorySample[], options: DatasetOptions = {}): Dataset {
    checkOptions("Dataset.fromSamples", options, datasetSpecs);
    const shared = sharedOptions("samples", options);
    const seen = new Set<string>();
    const found = new Set<number>();
    const entries = samples.map((sample): Entry => {
      const { id, group, split } = sample;
      const { image, mask } = ownArrays(sample);
      if (seen.has(id)) throw dataError("samples", "dataset", "distinct ids", `"${id}" twice`);
      seen.add(id);
      if (mask) {
        const size = image.shape.slice(image.shape.length === 4 ? 1 : -2);
        if (mask.shape.join("×") !== size.join("×")) {
          throw dataError(id, "mask of sample", `the image's ${size.join("×")}`, mask.shape.join("×"));
        }
        for (const label of distinct(mask.data)) found.add(label);
        checkLabels(mask.data, options.classes, shared.ignoreIndex, `sample ${id}`);
      }
      return {
        id,
        source: `sample ${id}`,
        hasMask: mask !== undefined,
        split,
        group,
        readImage: async () => image,
        readMask: mask && (async () => ({ data: mask.data.slice(), shape: mask.shape })),
      };
    });
    if (options.valFraction !== undefined || options.testFraction !== undefined) {
      fractionSplit(entries, options).forEach((split, i) => {
        entries[i]!.split = split;
      });
    }
    checkGroups(entries, "samples");
    shared.labels = [...found].filter((label) => label !== shared.ignoreIndex).sort((a, b) => a - b);
    completeClasses(shared, options.classes);
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

  /** The label that means "do not count this pixel". */
  get ignoreIndex(): number {
    return this.#shared.ignoreIndex;
  }

  /** How images become inputs; plain JSON. */
  get preprocessing(): Preprocessing {
    return structuredClone(this.#shared.preprocessing);
  }

  /** Names of the splits that there are, with their numbers of images. */
  get splits(): Record<string, number> {
    const counts: Record<string, number> = {};
    for (const { split } of this.#entries) if (split !== undefined) counts[split] = (counts[split] ?? 0) + 1;
    return counts;
  }

  /**
   * The images of one split.
   * @throws ERR_LE_DATA for a split that has no image; the message lists those that have
   */
  split(name: string): Dataset {
    const entries = this.#entries.filter((entry) => entry.split === name);
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
    const { image, placement } = naming(entry.source, () => preprocess(stored, this.#shared.preprocessing));
    const mask = await this.#readMask(entry, placement.original);
    return {
      id: entry.id,
      group: entry.group,
      image,
      mask: mask && preprocessMask(mask, placement),
      placement,
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
    } & OriginalSample
  > {
    const entry = this.#entry(index);
    const stored = await entry.readImage();
    const shape = stored.shape.length === 2 ? [1, ...stored.shape] : stored.shape;
    const { image: input, placement } = naming(entry.source, () => preprocess(stored, this.#shared.preprocessing));
    const mask = await this.#readMask(entry, placement.original);
    const image = naming(entry.source, () => display({ data: stored.data, shape }));
    return { id: entry.id, group: entry.group, input, placement, image, mask };
  }

  /**
   * Reads all images, several at a time, in order.
   * @throws ERR_LE_DATA naming the file; `signal.reason` when aborted
   */
  async loadAll(options: LoadOptions = {}): Promise<Sample[]> {
    checkOptions("Dataset.loadAll", options, loadSpecs);
    const { signal, onProgress, concurrency = 4 } = options;
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

  async #readMask(entry: Entry, size: readonly number[]) {
    const mask = await entry.readMask?.();
    if (!mask) return undefined;
    if (mask.shape.join("×") !== size.join("×")) {
      throw dataError(entry.source, "mask of", `the image's ${size.join("×")} pixels`, mask.shape.join("×"));
    }
    checkLabels(mask.data, this.classes, this.ignoreIndex, `the mask of ${entry.source}`);
    return mask;
  }
}

/**
 * The images of a folder by id (file name without ending), sorted. Hidden files are passed over.
 * @throws ERR_LE_DATA where the folder is missing, holds no image, or holds two of one id
 */
export async function listImages(folder: string): Promise<Map<string, string>> {
  const extensions = [...imageExtensions, ".npy"];
  const files = await listFolder(folder, extensions);
  if (files.size === 0) {
    throw dataError(folder, "folder", `at least one image (${extensions.join(", ")})`, "none");
  }
  return files;
}

async function listMasks(folder: string, required: boolean): Promise<Map<string, string>> {
  try {
    return await listFolder(folder, [".png", ".npy"]);
  } catch (error) {
    if (!required && isMissing((error as Error).cause)) return new Map();
    throw error;
  }
}

/** Whether a file holds a volume. */
export function isNpy(file: string): boolean {
  return extname(file).toLowerCase() === ".npy";
}

function readLabels(file: string, maxPixels: number | undefined): Promise<NdArray<Uint8Array>> {
  return (isNpy(file) ? readVolumeMask : readMask)(file, { maxPixels });
}

/** Grey values of C×H×W, or of a volume's first channel: all slices scaled together. */
export function display({ data, shape }: NdArray<Float32Array | Uint8Array | Uint16Array>): NdArray<Uint8Array> {
  if (shape.length < 4) return toDisplay({ data, shape } as ImageArray);
  const [, depth, height, width] = shape as [number, number, number, number];
  const first = data.subarray(0, depth * height * width);
  const grey = toDisplay({ data: first, shape: [1, depth * height, width] } as ImageArray);
  return { data: grey.data, shape: [depth, height, width] };
}

async function listFolder(folder: string, extensions: readonly string[]): Promise<Map<string, string>> {
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    const received = isMissing(error) ? "none" : (error as Error).message;
    throw dataError(folder, "data in", "a readable folder", received, error);
  }
  const files = new Map<string, string>();
  for (const name of names.sort()) {
    const extension = extname(name);
    if (name.startsWith(".") || !extensions.includes(extension.toLowerCase())) continue;
    const id = name.slice(0, -extension.length);
    const other = files.get(id);
    if (other !== undefined) throw dataError(folder, "folder", "one file per id", `${other} and ${name}`);
    files.set(id, join(folder, name));
  }
  return files;
}

/** The table's split and group by id; empty where there is no table. */
async function readSplits(folder: string, options: FolderOptions, images: ReadonlyMap<string, string>) {
  const path = join(folder, options.splitFile ?? "split.csv");
  const found = new Map<string, { split?: string; group?: string }>();
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (isMissing(error) && options.splitFile === undefined) return found;
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
    const id = row.id!.trim();
    if (found.has(id)) throw dataError(path, "table of splits", "each id once", `"${id}" twice`);
    const split = row.split?.trim();
    const group = row.group?.trim();
    found.set(id, { ...(split && !fractions && { split }), ...(group && { group }) });
  }
  const { only = () => true } = options;
  const missing = [...found].filter(([id, known]) => !images.has(id) && only({ id, ...known })).map(([id]) => id);
  if (missing.length > 0) {
    throw dataError(path, "table of splits", "ids that have a file in images/", `${listed(missing)} without one`);
  }
  return found;
}

/** Splits that are trained on or reported, so that a group in one of them may be in no other. */
const guardedSplits = ["train", "val", "test"];

function checkGroups(entries: readonly Entry[], folder: string): void {
  const splitOf = new Map<string, string>();
  for (const { group, split } of entries) {
    if (group === undefined || split === undefined) continue;
    const other = splitOf.get(group);
    if (other !== undefined && other !== split && guardedSplits.some((name) => name === other || name === split)) {
      const received = `it in "${other}" and "${split}" (images of one group in two splits make results look too good)`;
      throw dataError(folder, `group "${group}" of`, "one split", received);
    }
    splitOf.set(group, split);
  }
}

/** Reads every mask once: sizes, labels, and whether they are 0/255. */
async function scanMasks(
  entries: readonly Entry[],
  maskFiles: ReadonlyMap<string, string>,
  maskValues: MaskValues,
  shared: Shared,
  maxPixels: number | undefined,
): Promise<boolean> {
  const withMask = entries.filter((entry) => entry.hasMask);
  const labels = new Map<number, string>();
  await inParallel(withMask, 8, async (entry) => {
    const file = maskFiles.get(entry.id)!;
    if (isNpy(file) !== isNpy(entry.source))
      throw dataError(file, "mask", isNpy(file) ? "a PNG for an image" : "an .npy file for a volume", extname(file));
    const [mask, size] = await Promise.all([
      readLabels(file, maxPixels),
      (isNpy(file) ? readVolumeSize : readSize)(entry.source, { maxPixels }),
    ]);
    if (mask.shape.join("×") !== size.join("×")) {
      throw dataError(file, "mask", `the ${size.join("×")} pixels of its image`, mask.shape.join("×"));
    }
    for (const label of distinct(mask.data)) if (!labels.has(label)) labels.set(label, file);
  });
  const values = [...labels.keys()].sort((a, b) => a - b);
  const onlyExtremes = labels.has(255) && values.every((value) => value === 0 || value === 255);
  const binary = maskValues === "0/255" || (maskValues === "auto" && onlyExtremes);
  const limit = binary ? 256 : classCount(shared.classNames);
  for (const value of values) {
    const file = labels.get(value)!;
    if (binary && value !== 0 && value !== 255) throw dataError(file, "mask", "values 0 and 255", String(value));
    if (value >= limit && value !== shared.ignoreIndex) {
      const expected = `labels below ${limit} (classes), or ${shared.ignoreIndex} (ignored)`;
      throw dataError(file, "mask", expected, `the label ${value}`);
    }
  }
  shared.labels = binary
    ? values.map((value) => Math.min(1, value))
    : values.filter((value) => value !== shared.ignoreIndex);
  return binary;
}

function classCount(names: readonly string[]): number {
  return names.length > 0 ? names.length : Number.POSITIVE_INFINITY;
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

function checkLabels(data: Uint8Array, classes: DatasetOptions["classes"], ignoreIndex: number, what: string): void {
  const limit =
    classes === undefined ? Number.POSITIVE_INFINITY : typeof classes === "number" ? classes : classes.length;
  const bad = distinct(data).find((label) => label >= limit && label !== ignoreIndex);
  if (bad !== undefined) {
    throw new LayerEnsemblesError(
      "ERR_LE_DATA",
      `Expected labels below ${limit} (classes), or ${ignoreIndex} (ignored), for ${what} but received ${bad}`,
    );
  }
}

function distinct(labels: Uint8Array): number[] {
  const seen = new Uint8Array(256);
  for (let i = 0; i < labels.length; i++) seen[labels[i]!] = 1;
  return [...seen.keys()].filter((label) => seen[label] === 1);
}

function sharedOptions(name: string, options: DatasetOptions): Shared {
  const { size = null, resize, normalise = "zscore", channels, ignoreIndex = 255, classes } = options;
  const given = typeof normalise === "string" ? { kind: normalise } : normalise;
  const names = typeof classes === "object" ? [...classes] : classes === undefined ? [] : defaultNames(classes);
  return {
    name,
    preprocessing: {
      size: typeof size === "number" ? [size, size] : size && [...size],
      resize: resize ?? defaultPreprocessing.resize,
      normalise: given.kind === "percentile" ? { low: 0.5, high: 99.5, ...given } : { kind: given.kind },
      channels: channels ?? defaultPreprocessing.channels,
    },
    classNames: names,
    ignoreIndex,
    labels: [],
  };
}

/** Runs `read`, turning its errors into ERR_LE_DATA that name the file. */
function naming<T>(source: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof LayerEnsemblesError)) throw error;
    throw new LayerEnsemblesError("ERR_LE_DATA", `${error.message} (in ${source})`, { cause: error });
  }
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
