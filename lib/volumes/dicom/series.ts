// Folders of DICOM files to volumes.
import { readdir, stat } from "node:fs/promises";
import path from "node:path";
import type { NumericArray } from "../../arrays.js";
import { ioError, readRegular } from "../../data/files.js";
import { LayerEnsemblesError } from "../../errors.js";
import { checkOptions } from "../../options.js";
import { UNREAD, type Volume } from "../volume.js";
import { dot, type Frame, framesOf, type ImageFile, type NoImage, typeName, type Vector } from "./frames.js";
import { nameOf, normalOf, type Stack, segmentStackOf, stackOf } from "./geometry.js";
import { type DataSet, isDicom, itemsOf, parseDicom, refuseFile } from "./parser.js";
import { pixelReader } from "./pixels.js";
import { SERIES_OPTIONS, type SeriesOptions } from "./series-options.js";
import { decoderOf, type FileTexts, sourceHeader, textIn, textsOf } from "./source.js";

/** A volume of a folder, before its pixels are read. */
export interface SeriesInfo {
  /** Picks it in `SeriesOptions`: the SeriesInstanceUID, with a number behind it where a series holds several volumes. */
  id: string;
  /** As the files have it. */
  seriesInstanceUID: string;
  /** Slices, rows, columns. */
  shape: readonly [depth: number, height: number, width: number];
  /** How many hold its slices. */
  files: number;
  /** In words: size, spacing, orientation, and what else tells it from the others. */
  description: string;
  /** What makes it unreadable without an option, as the error says it. */
  problem?: string;
}

/** A volume of a DICOM series: {@link Volume}, and what its files say. */
export interface SeriesVolume extends Volume {
  /** As the files have it. */
  seriesInstanceUID: string;
  /** MONOCHROME1 has low values bright; they stay as stored. */
  photometric: string;
  /** Where each slice comes from, in their order. Of a segmentation: its frames, by the slices that they are of. */
  slices: readonly SliceSource[];
  /** Of a segmentation: what its labels stand for. */
  segments?: readonly SegmentName[];
}

/** A segment of a segmentation. */
export interface SegmentName {
  /** By which its voxels are marked. */
  number: number;
  /** As the file calls it. */
  name: string;
}

/** The frame that a slice comes from. */
export interface SliceSource {
  /** Of the file. */
  path: string;
  /** Its number in the file, from 1. */
  frame: number;
  /** The file's SOPInstanceUID. */
  sopInstanceUID: string;
  /** The file's SOPClassUID. */
  sopClassUID: string;
}

interface Candidate {
  info: SeriesInfo;
  frames: Frame[];
}

/**
 * Lists the volumes of a folder, without their pixels.
 * @param input a folder, a file, or a list of files
 * @throws ERR_LE_DATA for files that cannot be read right; ERR_LE_IO
 */
export async function listSeries(
  input: string | readonly string[],
  options: SeriesOptions = {},
): Promise<SeriesInfo[]> {
  const checked = checkOptions("listSeries", options, SERIES_OPTIONS);
  const { files } = await scan(input);
  return candidatesOf(files, checked).map(({ info }) => info);
}

/**
 * Reads a DICOM series as a volume. Slices are in the order of their positions along the normal, ascending; values are real ones,
 * by the slope and intercept of each slice. Unsigned and signed integers stay such where slope and intercept are whole numbers
 * (of a type wide enough for every value that the stored bits can give), else float32 (float64 for 32 bits stored).
 * @param input a folder (its own files; those below it are left out with a note), a file, or a list of files
 * @throws ERR_LE_DATA where the files hold no volume or several, or one with missing, doubled, uneven or tilted slices: with the
 *   files, and what to do; where a file is damaged or cannot be read right; where a package is missing. ERR_LE_IO; ERR_LE_OPTION
 */
export async function readSeries(
  input: string | readonly string[],
  options: SeriesOptions = {},
): Promise<SeriesVolume> {
  const { stack, head } = await findStack("readSeries", input, options);
  return { ...head, ...(await readPixels(stack)) };
}

/** All of a series but its voxels: `data` is empty. @throws as {@link readSeries} */
export async function readSeriesHead(
  input: string | readonly string[],
  options: SeriesOptions = {},
): Promise<SeriesVolume> {
  const { head } = await findStack("readSeries", input, options);
  return { ...head, data: UNREAD };
}

/** The slices of the one volume that was asked for, and what is said of them. */
async function findStack(
  name: string,
  input: string | readonly string[],
  options: SeriesOptions,
): Promise<{ stack: Stack; head: Omit<SeriesVolume, "data"> }> {
  const checked = checkOptions(name, options, SERIES_OPTIONS);
  const { files, warnings } = await scan(input);
  const candidate = choose(candidatesOf(files, checked), checked.series, input);
  const stack = arrange(candidate.frames, checked);
  const { maxValues = SERIES_OPTIONS.maxValues.default } = checked;
  const values = candidate.info.shape.reduce((product, side) => product * side, 1);
  if (values > maxValues)
    refuseFile(shownInput(input), `at most ${maxValues} values`, `${values} (${candidate.info.shape.join("×")})`);
  return { stack, head: headOf(stack, warnings) };
}

/** Reads the headers of every file; the bytes of one at a time. */
async function scan(input: string | readonly string[]): Promise<{ files: ImageFile[]; warnings: string[] }> {
  const { paths, named, warnings } = await pathsOf(input);
  const files: ImageFile[] = [];
  const others: NoImage[] = [];
  for (const file of paths) {
    const bytes = await readFile(file);
    if (!isDicom(bytes)) {
      if (named) refuseFile(file, "a DICOM file", bytes.length === 0 ? "an empty one" : "another kind of file");
      warnings.push(`${path.basename(file)} is not DICOM: left out.`);
      continue;
    }
    const { data, syntax } = await parseDicom(bytes, file);
    const found = guarded(file, () => framesOf(data, syntax, file));
    if ("frames" in found) files.push(found);
    else others.push(found);
  }
  for (const { path: file, seriesUid, reason } of others) {
    // A slice of the series, whose image is lost.
    if (seriesUid !== "" && files.some((image) => image.seriesUid === seriesUid))
      refuseFile(file, "an image like the others of its series", reason);
    warnings.push(`${path.basename(file)} holds ${reason}: left out.`);
  }
  if (files.length === 0) {
    const received =
      paths.length === 0 ? "no file" : `none among ${paths.length} files. ${warnings.slice(0, 4).join(" ")}`;
    refuseFile(shownInput(input), "DICOM images", received);
  }
  return { files, warnings };
}

async function readFile(file: string): Promise<Buffer> {
  return readRegular(file).catch((error) => {
    throw ioError(file, "readable", error);
  });
}

function shownInput(input: string | readonly string[]): string {
  return typeof input === "string" ? input : `a list of ${input.length} files`;
}

/** What a damaged element throws in dicom-parser is said as of the file. */
function guarded<T>(file: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof LayerEnsemblesError) throw error;
    return refuseFile(
      file,
      "a whole DICOM file",
      `a damaged element (${error instanceof Error ? error.message : error})`,
      error,
    );
  }
}

async function pathsOf(
  input: string | readonly string[],
): Promise<{ paths: string[]; named: boolean; warnings: string[] }> {
  if (typeof input !== "string") return { paths: [...new Set(input)], named: true, warnings: [] };
  const info = await stat(input).catch((error) => {
    throw ioError(input, "a folder or a file", error);
  });
  if (!info.isDirectory()) return { paths: [input], named: true, warnings: [] };
  const paths: string[] = [];
  const warnings: string[] = [];
  for (const name of (await readdir(input)).sort()) {
    const file = path.join(input, name);
    const kind = await stat(file).catch((error) => {
      throw ioError(file, "readable", error);
    });
    if (kind.isFile()) paths.push(file);
    else warnings.push(`${name} is no file: left out.`);
  }
  return { paths, named: false, warnings };
}

/** Directions as written in files, in six digits; more differs than rounding. */
const DIRECTION = 5e-4;
/** Of the spacing within the plane. */
const SPACING = 1e-4;

function belongs(frame: Frame, to: Frame, merge: boolean): boolean {
  const near = (a: readonly number[] | undefined, b: readonly number[] | undefined, tolerance: number) =>
    a === undefined || b === undefined
      ? a === b
      : a.every((value, i) => Math.abs(value - (b[i] as number)) <= tolerance);
  return (
    frame.file.seriesUid === to.file.seriesUid &&
    frame.rows === to.rows &&
    frame.columns === to.columns &&
    near(frame.orientation?.flat(), to.orientation?.flat(), DIRECTION) &&
    near(frame.spacing, to.spacing, SPACING * (to.spacing?.[0] ?? 0)) &&
    Object.entries(frame.same).every(([name, value]) => (merge && name === "acquisition") || value === to.same[name])
  );
}

function arrange(frames: readonly Frame[], options: SeriesOptions): Stack {
  return (frames[0]?.segment === undefined ? stackOf : segmentStackOf)(frames, options);
}

/** Sorts frames into volumes: each list is one volume, or what an error will say of it. */
function candidatesOf(files: readonly ImageFile[], options: SeriesOptions): Candidate[] {
  const groups: Frame[][] = [];
  for (const frame of files.flatMap(({ frames }) => frames)) {
    const group = groups.find(([first]) => belongs(frame, first as Frame, options.mergeAcquisitions ?? false));
    if (group) group.push(frame);
    else groups.push([frame]);
  }
  const volumes = groups.flatMap(splitDoubled);
  const count = (uid: string) => volumes.filter(([first]) => first?.file.seriesUid === uid).length;
  const numbers = new Map<string, number>();
  return volumes.map((frames) => {
    const first = frames[0] as Frame;
    const uid = first.file.seriesUid;
    const number = (numbers.get(uid) ?? 0) + 1;
    numbers.set(uid, number);
    let depth = frames.length;
    let problem: string | undefined;
    try {
      depth = arrange(frames, options).depth;
    } catch (error) {
      problem = (error as Error).message;
    }
    const info: SeriesInfo = {
      id: count(uid) > 1 ? `${uid}:${number}` : uid,
      seriesInstanceUID: uid,
      shape: [depth, first.rows, first.columns],
      files: new Set(frames.map(({ file }) => file)).size,
      description: describeVolume(first, volumes),
      ...(problem !== undefined && { problem }),
    };
    return { info, frames };
  });
}

/** Volumes at the same places, where something tells them apart and leaves each whole. */
function splitDoubled(frames: Frame[]): Frame[][] {
  if (!hasDoubled(frames)) return [frames];
  for (const name of Object.keys((frames[0] as Frame).apart)) {
    const parts = new Map<string, Frame[]>();
    for (const frame of frames) {
      const value = frame.apart[name] as string;
      parts.set(value, [...(parts.get(value) ?? []), frame]);
    }
    const lists = [...parts.values()];
    const size = (lists[0] as Frame[]).length;
    const places = frames.length / lists.length;
    if (
      lists.length > 1 &&
      lists.every((list) => list.length === size && !hasDoubled(list)) &&
      (size > 1 || places === 1)
    )
      return lists;
  }
  return [frames];
}

function hasDoubled(frames: readonly Frame[]): boolean {
  const { orientation } = frames[0] as Frame;
  if (!orientation || frames.some(({ position }) => !position)) return false;
  const normal = normalOf(orientation);
  const along = frames.map(({ position }) => dot(position as Vector, normal)).sort((a, b) => a - b);
  return along.some((value, i) => i > 0 && value - (along[i - 1] as number) <= 1e-3);
}

function describeVolume(first: Frame, volumes: readonly Frame[][]): string {
  const differs = Object.keys(first.same).filter((name) =>
    volumes.some(([other]) => other?.same[name] !== first.same[name]),
  );
  const apart = Object.keys(first.apart).filter((name) =>
    volumes.some(
      ([other]) =>
        other !== first && other?.file.seriesUid === first.file.seriesUid && other.apart[name] !== first.apart[name],
    ),
  );
  const told = [...differs.map((name) => [name, first.same[name]]), ...apart.map((name) => [name, first.apart[name]])];
  const parts = [
    `${first.rows}×${first.columns} pixels`,
    first.spacing ? `${first.spacing.join("×")} mm` : "no spacing",
    first.orientation ? `orientation ${first.orientation.flat().join("\\")}` : "no orientation",
    ...told.map(([name, value]) => `${name} ${value || "not said"}`),
  ];
  return parts.join(", ");
}

function choose(candidates: Candidate[], series: string | undefined, input: string | readonly string[]): Candidate {
  const list = () =>
    candidates
      .slice(0, 20)
      .map(
        ({ info, frames }, i) =>
          `\n  ${i + 1}. ${info.id}: ${info.shape[0]} slices, ${info.description} (${nameOf(frames[0] as Frame)}${info.files > 1 ? ", …" : ""})`,
      )
      .join("") + (candidates.length > 20 ? `\n  … ${candidates.length} in all` : "");
  const chosen =
    series === undefined ? candidates : candidates.filter(({ info }, i) => info.id === series || `${i + 1}` === series);
  if (chosen.length === 1) return chosen[0] as Candidate;
  if (series !== undefined)
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected the id or number of one of ${candidates.length} volumes in ${shownInput(input)} for option 'series' but received ${JSON.stringify(series)}; there are:${list()}`,
    );
  const uids = new Set(candidates.map(({ info }) => info.seriesInstanceUID)).size;
  const acquisitions = candidates.some(
    ({ frames }) => frames[0]?.same.acquisition !== candidates[0]?.frames[0]?.same.acquisition,
  );
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected one volume for ${shownInput(input)} but received ${candidates.length} of ${uids} series; option 'series' picks one` +
      `${acquisitions ? ", 'mergeAcquisitions' joins acquisitions" : ""}:${list()}`,
  );
}

/** Bytes of a volume that very few bytes of files may stand for: of each byte, and besides. */
const UNPACKED = { each: 4096, besides: 2 ** 26 };

function headOf({ frames, depth, grid, warnings: said }: Stack, found: string[]): Omit<SeriesVolume, "data"> {
  const first = frames[0] as Frame;
  const warnings = [...found, ...said, ...(first.segment === undefined ? [] : [SEGMENTATION_ENDS])];
  return {
    shape: [depth, first.rows, first.columns],
    grid,
    format: "dicom",
    dtype: typeName(first),
    nonFinite: 0,
    warnings,
    seriesInstanceUID: first.file.seriesUid,
    photometric: first.same.photometric as string,
    slices: frames.map(({ file, index }) => ({
      path: file.path,
      frame: index + 1,
      sopInstanceUID: file.instanceUid,
      sopClassUID: file.classUid,
    })),
  };
}

/** The voxels, and what else only whole files say. */
async function readPixels(stack: Stack): Promise<Pick<SeriesVolume, "data" | "header" | "segments">> {
  const { frames, depth, grid, uneven } = stack;
  const first = frames[0] as Frame;
  const { rows, columns } = first;
  const plane = rows * columns;
  const files = [...new Set(frames.map(({ file }) => file))];
  const held = files.reduce((sum, { size }) => sum + size, 0);
  const bytes = plane * depth * Math.max(1, first.bitsAllocated / 8);
  if (bytes > UNPACKED.besides + UNPACKED.each * held)
    refuseFile(first.file.path, "files that can hold what they claim", `${bytes} bytes of pixels in ${held}`);
  const segmented = first.segment !== undefined;
  const data = segmented ? labelArray(frames, depth * plane) : realArray(frames, depth * plane);
  const places = new Map(frames.map((frame, i) => [frame, stack.places[i] as number]));
  const texts: FileTexts[] = [];
  let segments: SegmentName[] = [];
  for (const file of files) {
    const { data: set, syntax } = await parseDicom(await readFile(file.path), file.path);
    const now = guarded(file.path, () => framesOf(set, syntax, file.path));
    const changed = !("frames" in now) || now.size !== file.size || now.frames.length !== file.frames.length;
    if (changed || now.instanceUid !== file.instanceUid)
      refuseFile(file.path, "a file that stays as it is", "one that changed");
    if (segmented) segments = guarded(file.path, () => segmentsOf(set));
    else texts.push(textsOf(set));
    const read = pixelReader(set, syntax, file.path);
    for (const frame of file.frames) {
      const k = places.get(frame);
      if (k === undefined) continue;
      const values = await read(frame);
      const slice = data.subarray(k * plane, (k + 1) * plane);
      const { slope, intercept } = frame;
      if (segmented) paint(slice, values, frame);
      else if (slope === 1 && intercept === 0) slice.set(values);
      else for (let i = 0; i < plane; i++) slice[i] = (values[i] as number) * slope + intercept;
    }
  }
  return { data, ...(segmented ? { segments } : grid && { header: sourceHeader(frames, texts, uneven) }) };
}

const SEGMENTATION_ENDS =
  "Its slices are those from the first to the last that anything is segmented in; its source may have more.";

/** Zeros for the numbers of segments. */
function labelArray(frames: readonly Frame[], length: number): NumericArray {
  const most = frames.reduce((number, { segment = 0 }) => Math.max(number, segment), 0);
  return most > 255 ? new Uint16Array(length) : new Uint8Array(length);
}

/** Marks the voxels of a segment by its number. @throws ERR_LE_DATA where another has them */
function paint(slice: NumericArray, values: ArrayLike<number>, frame: Frame): void {
  const { segment = 0 } = frame;
  for (let i = 0; i < slice.length; i++) {
    if (!values[i]) continue;
    if (slice[i] !== 0)
      refuseFile(
        nameOf(frame),
        "segments of which each voxel has one at most",
        `segments ${slice[i]} and ${segment} in one`,
      );
    slice[i] = segment;
  }
}

/** What a segmentation calls its segments. */
function segmentsOf(data: DataSet): SegmentName[] {
  const decoder = decoderOf(data, false);
  return itemsOf(data, "x00620002").map((item) => ({
    number: item.uint16("x00620004") ?? 0,
    name: textIn(item, "SegmentLabel", decoder) ?? "",
  }));
}

/** An array for the real values: integers where they are, of a type that holds whatever the stored bits can give. */
function realArray(frames: readonly Frame[], length: number): NumericArray {
  if (!frames.every(({ slope, intercept }) => Number.isInteger(slope) && Number.isInteger(intercept)))
    return frames.some(({ bitsStored }) => bitsStored > 16) ? new Float64Array(length) : new Float32Array(length);
  let [low, high] = [0, 0];
  for (const { bitsStored, signed, slope, intercept } of frames)
    for (const stored of signed ? [-(2 ** (bitsStored - 1)), 2 ** (bitsStored - 1) - 1] : [0, 2 ** bitsStored - 1]) {
      low = Math.min(low, stored * slope + intercept);
      high = Math.max(high, stored * slope + intercept);
    }
  if (low >= 0) {
    if (high < 2 ** 8) return new Uint8Array(length);
    if (high < 2 ** 16) return new Uint16Array(length);
    if (high < 2 ** 32) return new Uint32Array(length);
  }
  if (low >= -(2 ** 7) && high < 2 ** 7) return new Int8Array(length);
  if (low >= -(2 ** 15) && high < 2 ** 15) return new Int16Array(length);
  if (low >= -(2 ** 31) && high < 2 ** 31) return new Int32Array(length);
  return new Float64Array(length);
}
