import { readdir } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import { type NdArray, type NumericArray, snapshot } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";
import { checkOptions, describe } from "../options.js";
import { parseCsv } from "./csv.js";
import { DATASET, type DatasetOptions, FOLDER, type FolderOptions, LOAD, type LoadOptions } from "./dataset-options.js";
import { isAbsent, isMissing, readText, readTextIfAny } from "./files.js";
import { dataError, type ImageArray, imageExtensions, toDisplay } from "./image.js";
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
import { checkGroups, contentOf } from "./leaks.js";
import { readStoredMask } from "./mask.js";
import { bothNames, nameOf } from "./names.js";
import { checkWhole } from "./output-list.js";
import { defaultPreprocessing, type Placement, type Preprocessing, preprocess, preprocessMask } from "./preprocess.js";
import { fractionSplit } from "./splits.js";
import { readStored, readStoredSize, type StoredImage, type Wanted, wantedOf } from "./stored.js";

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
  /** As stored. */
  readMask?(): Promise<NdArray<NumericArray>>;
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
   * of H×W or C×H×W numbers, of D×H×W or C×D×H×W where `size` has three sides, and `masks/*.npy` of H×W or D×H×W integers), and either a split.csv
   * (columns `id`, `split`, optionally `group`; others are ignored) or splits by fractions, which keep the table's
   * groups together. Fractions, when given, replace the table's own splits. A group of "train", "val" or "test" may be in
   * no other split. Images that the table does not name belong
   * to the dataset but to no split. Every mask is read once here, so that bad ones are found before work begins.
   * @throws ERR_LE_DATA that names the file, what was expected and what was found, also where the folder is what a command that
   * was killed left; ERR_LE_OPTION for an option
   */
  static async fromFolder(folder: string, given: FolderOptions = {}): Promise<Dataset> {
    const options = checkOptions("Dataset.fromFolder", given, FOLDER);
    const { masks = "required", maxPixels, only } = options;
    const shared = sharedOptions(folder, options);
    const network = wantedOf(shared.preprocessing);
    for (const name of ["images", "masks"]) await checkWhole(join(folder, name));
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
        readImage: () => readStored(source, network, { maxPixels }),
      };
    });
    if (options.valFraction !== undefined || options.testFraction !== undefined) {
      fractionSplit(all, options).forEach((split, i) => {
        all[i]!.split = split;
      });
    }
    checkGroups(all, guardedSplits, folder);
    const entries = only ? all.filter(({ id, split, group }) => only({ id, split, group })) : all;
    if (masks === "required") {
      const bare = entries.filter((entry) => !entry.hasMask).map((entry) => entry.id);
      if (bare.length > 0) throw await bareError(join(folder, "masks"), bare);
    }
    const wanted = labelOptions(options);
    const known = wanted.scale === "index" || wanted.scale === "0/255";
    const scanned = await scanMasks(
      known && options.classes !== undefined ? entries : all,
      maskFiles,
      network,
      maxPixels,
    );
    settle(shared, entries, scanned, wanted, options.classes);
    for (const entry of entries) {
      const file = maskFiles.get(entry.id);
      if (file !== undefined) entry.readMask = () => readStoredMask(file, { maxPixels });
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
        readImage: async () => image,
        readMask: mask && (async () => mask),
      };
    });
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

  /** How images become inputs; plain JSON. */
  get preprocessing(): Preprocessing {
    return structuredClone(this.#shared.preprocessing);
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
    const { image, placement } = naming(entry.source, () => preprocess(stored, this.#shared.preprocessing));
    const mask = await this.#readMask(entry, placement.original);
    return {
      id: entry.id,
      group: entry.group,
      image,
      mask: mask && preprocessMask(mask, placement),
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
    const { image: input, placement } = naming(entry.source, () => preprocess(stored, this.#shared.preprocessing));
    const mask = await this.#readMask(entry, placement.original);
    const image = naming(entry.source, () => display({ data: stored.data, shape }));
    return { id: entry.id, group: entry.group, input, placement, image, mask, content: contentOf(stored) };
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
    if (!required && (await isAbsent(folder))) return new Map();
    throw error;
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
    const id = nameOf(name.slice(0, -extension.length));
    const other = files.get(id);
    if (other !== undefined) throw dataError(folder, "folder", "one file per id", bothNames(basename(other), name));
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
  const { only = () => true } = options;
  const missing = [...found].filter(([id, known]) => !images.has(id) && only({ id, ...known })).map(([id]) => id);
  if (missing.length > 0) {
    throw dataError(path, "table of splits", "ids that have a file in images/", `${listed(missing)} without one`);
  }
  return found;
}

/** Splits that are trained on or reported, so that a group in one of them may be in no other. */
const guardedSplits = ["train", "val", "test"];

/** That images have no mask; and where files of the name are there all the same, what is wrong with them. */
async function bareError(folder: string, bare: readonly string[]): Promise<LayerEnsemblesError> {
  const others = (await readdir(folder)).filter((name) => bare.includes(nameOf(name.slice(0, -extname(name).length))));
  const files = bare.map((id) => `${id}.png`);
  const received =
    others.length > 0
      ? `none for ${listed(files)}: ${listed(others)} is no PNG (or .npy of a volume), and JPEG blurs labels`
      : `none for ${listed(files)}`;
  return dataError(folder, "folder", "a mask for each image", received);
}

/** Reads every mask once: its size, and the numbers that it holds. */
async function scanMasks(
  entries: readonly Entry[],
  maskFiles: ReadonlyMap<string, string>,
  network: Wanted,
  maxPixels: number | undefined,
): Promise<Map<string, LabelCounts>> {
  const scanned = new Map<string, LabelCounts>();
  await inParallel(
    entries.filter((entry) => entry.hasMask),
    8,
    async (entry) => {
      const file = maskFiles.get(entry.id)!;
      const [mask, size] = await Promise.all([
        readStoredMask(file, { maxPixels }),
        readStoredSize(entry.source, network, { maxPixels }),
      ]);
      if (mask.shape.join("×") !== size.join("×")) {
        throw dataError(file, "mask", `the ${size.join("×")} pixels of its image`, mask.shape.join("×"));
      }
      scanned.set(entry.id, countLabels(file, mask.data));
    },
  );
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
  const { size = null, resize, normalise = "zscore", bands, classes } = options;
  const channels = options.channels ?? bands?.length ?? defaultPreprocessing.channels;
  if (bands && bands.length !== channels)
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected a name for each of the ${channels} channels for bands but received ${bands.length}`,
    );
  const given = typeof normalise === "string" ? { kind: normalise } : normalise;
  const names = typeof classes === "object" ? [...classes] : classes === undefined ? [] : defaultNames(classes);
  return {
    name,
    preprocessing: {
      size: typeof size === "number" ? [size, size] : size && [...size],
      resize: resize ?? defaultPreprocessing.resize,
      normalise: given.kind === "percentile" ? { low: 0.5, high: 99.5, ...given } : { kind: given.kind },
      channels,
      ...(bands && { bands: [...bands] }),
    },
    classNames: names,
    rule: { ignore: null, scale: "index" },
    labels: [],
    unclear: undefined,
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
