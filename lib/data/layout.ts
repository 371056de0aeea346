// What stands where in a data folder: the package's own layout, and the raw one of nnU-Net and the Medical Segmentation Decathlon.
import { type Dirent, existsSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import type { LayerEnsemblesError } from "../errors.js";
import { VOLUME_FORMATS } from "../volumes/formats.js";
import { isAbsent, isMissing, readText } from "./files.js";
import { dataError, imageExtensions } from "./image.js";
import { parseJson } from "./json.js";
import { bothNames, nameOf } from "./names.js";

/** The files of a data folder, by id. */
export interface DataLayout {
  /** Of each image its file or DICOM folder; where channels are files of their own, all of them, in order. */
  images: Map<string, string[]>;
  masks: Map<string, string>;
  /** Where messages say masks are. */
  masksFolder: string;
  /** Of images whose split the folder says. */
  splits: Map<string, string>;
  /** Names of the channels, in order, where the folder says them. */
  channelNames?: string[];
  /** Names of the classes, background first, where the folder says them. */
  classNames?: string[];
  /** The label that does not count, where the folder says one. */
  ignore?: number;
}

/** What decides how names are read. */
interface LayoutOptions {
  masksRequired: boolean;
  /** Ids that a table of the folder names. */
  known: ReadonlySet<string>;
  /** How many channels the network takes, where that is said. */
  channels?: number;
}

const pairHalf = /\.img(\.gz)?$/i;
/** Endings of names, the longest first. */
const volumeExtensions = VOLUME_FORMATS.flatMap(({ extensions }) => extensions)
  .filter((ending) => !pairHalf.test(ending))
  .sort((a, b) => b.length - a.length);
const endings = [...volumeExtensions, ...imageExtensions];

/** Endings of masks' names: a lossy picture holds no labels. */
export const maskExtensions: readonly string[] = [".png", ...volumeExtensions];

/** What a file's or a folder's name calls the image: without its ending. */
export function imageId(path: string): string {
  const name = basename(path);
  const ending = endings.find((one) => name.toLowerCase().endsWith(one) && name.length > one.length);
  return nameOf(ending === undefined ? name : name.slice(0, -ending.length));
}

/** Where a folder's training images are: of the first layout that is there. */
const TRAINING = [
  { images: "images", masks: "masks" },
  { images: "imagesTr", masks: "labelsTr" },
] as const;

/** Whether a folder says itself which images are the test's, as nnU-Net's raw layout does. */
export function hasTestSplit(folder: string): boolean {
  return (
    !existsSync(join(folder, "images")) && existsSync(join(folder, "imagesTs")) && existsSync(join(folder, "labelsTs"))
  );
}

/**
 * Finds the images and masks of a data folder.
 * @throws ERR_LE_DATA where the folder is missing, holds no image, two of one id, or what cannot be read
 */
export async function readLayout(folder: string, options: LayoutOptions): Promise<DataLayout> {
  const raw = !existsSync(join(folder, "images")) && existsSync(join(folder, "imagesTr"));
  const [own, ofNnunet] = TRAINING;
  const names = raw ? ofNnunet : own;
  const training = await readPart(folder, names, raw, options);
  const layout: DataLayout = { ...training, masksFolder: join(folder, names.masks), splits: new Map() };
  if (!raw) return layout;
  Object.assign(layout, await readDescription(folder));
  const labelled = existsSync(join(folder, "labelsTs"));
  if (existsSync(join(folder, "imagesTs")) && (labelled || !options.masksRequired)) {
    const test = await readPart(folder, { images: "imagesTs", masks: "labelsTs" }, raw, options);
    for (const [id, files] of test.images) {
      if (layout.images.has(id))
        throw dataError(folder, "folder", "each case in imagesTr or imagesTs", `"${id}" in both`);
      layout.images.set(id, files);
      layout.splits.set(id, "test");
    }
    for (const [id, file] of test.masks) layout.masks.set(id, file);
  }
  return layout;
}

async function readPart(
  folder: string,
  names: { images: string; masks: string },
  raw: boolean,
  { masksRequired, known, channels }: LayoutOptions,
): Promise<Pick<DataLayout, "images" | "masks">> {
  const files = await listImages(join(folder, names.images));
  const masks = await listMasks(join(folder, names.masks), masksRequired);
  const named = new Set([...masks.keys(), ...known]);
  return { images: joinChannels(files, { named, raw, channels, folder: join(folder, names.images) }), masks };
}

/**
 * Files of one case that are its channels, `CASE_0000`, `CASE_0001`, …, as one. Names of frames look the same: they are
 * channels where masks or the table name the case and not the file, or, where neither names either, where there are as many as the
 * network takes channels, above one; in nnU-Net's layout always.
 */
function joinChannels(
  files: ReadonlyMap<string, string>,
  {
    named,
    raw,
    channels = 1,
    folder,
  }: { named: ReadonlySet<string>; raw: boolean; channels: number | undefined; folder: string },
): Map<string, string[]> {
  const cases = new Map<string, Map<number, string>>();
  const images = new Map<string, string[]>();
  for (const [id, file] of files) {
    const [, stem, digits] = /^(.+)_(\d{4})$/s.exec(id) ?? [];
    if (stem === undefined || digits === undefined || (!raw && named.has(id))) images.set(id, [file]);
    else cases.set(stem, (cases.get(stem) ?? new Map()).set(Number(digits), file));
  }
  for (const [stem, parts] of cases) {
    const known = named.has(stem) || (!named.size && channels > 1 && parts.size === channels);
    if (!raw && !known) {
      for (const [number, file] of parts) images.set(`${stem}_${String(number).padStart(4, "0")}`, [file]);
      continue;
    }
    const numbers = [...parts.keys()].sort((a, b) => a - b);
    if (numbers.some((number, i) => number !== i)) {
      const shown = numbers.map((number) => String(number).padStart(4, "0")).join(", ");
      throw dataError(folder, `channels of "${stem}" in`, "files numbered from _0000 without a gap", shown);
    }
    if (images.has(stem)) throw dataError(folder, "folder", `one file, or channels, for "${stem}"`, "both");
    images.set(
      stem,
      numbers.map((number) => parts.get(number) as string),
    );
  }
  const counts = new Map([...images].map(([id, { length }]) => [length, id]));
  if (counts.size > 1) {
    const shown = [...counts].map(([count, id]) => `${count} of "${id}"`).join(", ");
    throw dataError(folder, "folder", "as many channels of each case", shown);
  }
  return new Map([...images].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/**
 * The images of a folder by id (their name without its ending), sorted: files, and folders, which are DICOM series. Hidden ones are
 * passed over.
 * @throws ERR_LE_DATA where the folder is missing, holds no image, or holds two of one id
 */
export async function listImages(folder: string): Promise<Map<string, string>> {
  const files = await listFolder(folder, [...imageExtensions, ...volumeExtensions], true);
  if (files.size === 0) {
    const kinds = [...imageExtensions, ...volumeExtensions].join(", ");
    throw dataError(folder, "folder", `at least one image (${kinds}, or a folder of DICOM files)`, "none");
  }
  return files;
}

async function listMasks(folder: string, required: boolean): Promise<Map<string, string>> {
  try {
    return await listFolder(folder, maskExtensions, true);
  } catch (error) {
    if (!required && (await isAbsent(folder))) return new Map();
    throw error;
  }
}

async function listFolder(
  folder: string,
  extensions: readonly string[],
  folders: boolean,
): Promise<Map<string, string>> {
  let found: Dirent[];
  try {
    found = await readdir(folder, { withFileTypes: true });
  } catch (error) {
    const received = isMissing(error) ? "none" : (error as Error).message;
    throw dataError(folder, "data in", "a readable folder", received, error);
  }
  const files = new Map<string, string>();
  for (const entry of found.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const { name } = entry;
    if (name.startsWith(".")) continue;
    const path = join(folder, name);
    const isFolder = entry.isDirectory() || (entry.isSymbolicLink() && (await isDirectory(path)));
    if (isFolder ? !folders : !extensions.some((ending) => name.toLowerCase().endsWith(ending))) continue;
    const id = isFolder ? nameOf(name) : imageId(name);
    const other = files.get(id);
    if (other !== undefined) throw dataError(folder, "folder", "one file per id", bothNames(basename(other), name));
    files.set(id, path);
  }
  return files;
}

async function isDirectory(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isDirectory() ?? false;
}

/** What nnU-Net's dataset.json says, of its second version or of the first and the Decathlon's; nothing where there is none. */
async function readDescription(folder: string): Promise<Pick<DataLayout, "channelNames" | "classNames" | "ignore">> {
  const path = join(folder, "dataset.json");
  let text: string;
  try {
    text = await readText(path);
  } catch (error) {
    if (isMissing(error)) return {};
    throw dataError(path, "description", "a readable file", (error as Error).message, error);
  }
  let said: unknown;
  try {
    said = parseJson(text);
  } catch (error) {
    throw dataError(path, "description", "JSON", (error as Error).message, error);
  }
  if (typeof said !== "object" || said === null || Array.isArray(said))
    throw dataError(path, "description", "an object", JSON.stringify(said));
  const { labels, channel_names: names, modality, regions_class_order: regions } = said as Record<string, unknown>;
  if (regions !== undefined) throw regionsError(path);
  return { ...channelsOf(names ?? modality, path), ...classesOf(labels, path) };
}

function regionsError(path: string): LayerEnsemblesError {
  const expected = "one number for each label (every voxel is of one class)";
  return dataError(
    path,
    "description",
    expected,
    "regions, of which a voxel may be in several: write label maps of classes",
  );
}

/** `{"0": "T1", "1": "FLAIR"}` */
function channelsOf(names: unknown, path: string): Pick<DataLayout, "channelNames"> {
  if (names === undefined) return {};
  const entries = entriesOf(names, "channel_names (or modality)", path);
  const inOrder = entries.map((_, i) => entries.find(([number]) => Number(number) === i)?.[1]);
  if (!inOrder.every((name) => typeof name === "string" && name !== "") || inOrder.length === 0)
    throw dataError(path, "channel_names of", "a name for each channel from 0", JSON.stringify(names));
  // Names that are one and the same say nothing; a network's bands must differ.
  const channelNames = inOrder as string[];
  return new Set(channelNames).size === channelNames.length ? { channelNames } : {};
}

/** `{"background": 0, "liver": 1, "ignore": 2}`, or `{"0": "background", "1": "liver"}` */
function classesOf(labels: unknown, path: string): Pick<DataLayout, "classNames" | "ignore"> {
  if (labels === undefined) return {};
  const entries = entriesOf(labels, "labels", path);
  if (entries.some(([, value]) => Array.isArray(value))) throw regionsError(path);
  const numbered = entries.every(([key, value]) => /^\d+$/.test(key) && typeof value === "string");
  const byNumber = entries.map(([key, value]) =>
    numbered ? { label: Number(key), name: value as string } : { label: Number(value), name: key },
  );
  const ignored = byNumber.find(({ name }) => !numbered && name === "ignore");
  const classes = byNumber.filter((one) => one !== ignored).sort((a, b) => a.label - b.label);
  if (classes.length < 2 || classes.some(({ label, name }, i) => label !== i || name === ""))
    throw dataError(
      path,
      "labels of",
      "a name for each label from 0 (the background) without a gap",
      JSON.stringify(labels),
    );
  const classNames = classes.map(({ name }) => name);
  if (new Set(classNames).size < classNames.length)
    throw dataError(path, "labels of", "distinct names", JSON.stringify(labels));
  if (ignored && !(Number.isInteger(ignored.label) && ignored.label >= classes.length && ignored.label <= 255))
    throw dataError(path, "labels of", `"ignore" above the classes, up to 255`, JSON.stringify(labels));
  return { classNames, ...(ignored && { ignore: ignored.label }) };
}

function entriesOf(value: unknown, field: string, path: string): [string, unknown][] {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw dataError(path, `${field} of`, "an object", JSON.stringify(value));
  return Object.entries(value);
}
