import { open, readdir, stat } from "node:fs/promises";
import path from "node:path";
import type { Command } from "commander";
import type { NumericArray } from "../arrays.js";
import { isTemporary } from "../data/files.js";
import { LayerEnsemblesError } from "../errors.js";
import type { Grid } from "../grid/index.js";
import { option, type Values } from "../options.js";
import { fixed, grouped } from "../results/format.js";
import { formatTable } from "../results/text.js";
import { withOptions } from "./arguments.js";
import { newCommand, runSession, type Session, toJson } from "./command.js";
import { counter, StatusLine } from "./progress.js";
import { SERIES_OPTIONS, seriesOf } from "./volume-options.js";

const OPTIONS = {
  label: option.boolean({ text: "read label maps and masks: which labels there are, and how often" }),
  channels: option.boolean({ text: "take several values of a voxel" }),
  ...SERIES_OPTIONS,
};

interface Flags extends Values<typeof OPTIONS> {
  json?: boolean;
}

/** Percentiles that are told of values. */
const LEVELS = [0.5, 5, 50, 95, 99.5];

/** What is told of an image, a volume, or one of the volumes of a folder. */
interface Item {
  path: string;
  /** Picks it, where the folder may hold several. */
  series?: string;
  kind: "image" | "volume";
  format?: string;
  /** D×H×W, or H×W of an image; without channels. */
  shape?: readonly number[];
  channels?: number;
  /** As stored: `int16`; of an image `8 bits`. */
  type?: string;
  /** In words, where there is more to say. */
  description?: string;
  /** Null where the file does not say where the volume lies. */
  grid?: Grid | null;
  /** Edges of a voxel along z, y and x, in mm. */
  spacing?: readonly number[];
  /** Of the whole volume, so too. */
  extent?: readonly number[];
  /** Where x, y and z lead, such as `RAS`. */
  orientation?: string;
  /** Of a voxel, in mm³. */
  voxelVolume?: number;
  values?: { min: number; max: number; percentiles: (readonly [level: number, value: number])[]; nonFinite: number };
  /** How many voxels or pixels each label has. */
  labels?: Record<string, number>;
  warnings: readonly string[];
  /** Why it is not read. */
  refused?: { code: string; message: string };
}

/** `info`: what a file or folder holds, and what of it would be refused. */
export function infoCommand(): Command {
  const command = newCommand(
    "info",
    "show what images and volumes hold: grid, spacing, orientation, intensities, and what would be refused and why",
    "layer-ensembles info head.nii.gz\nlayer-ensembles info dicom/ --json\nlayer-ensembles info labels.nii.gz --label",
    "Everything is read in full, as other commands would read it. Of a folder: all images and volumes in it and below, a DICOM " +
      "series as one. Exit code 1 where something would be refused.",
  ).argument("<path>", "an image, a volume, or a folder of them or of DICOM slices");
  return withOptions(command, OPTIONS).action((source: string, flags: Flags) =>
    runSession(flags.json ?? false, (session) => info(source, flags, session)),
  );
}

async function info(source: string, flags: Flags, session: Session): Promise<void> {
  const found = await filesOf(source);
  const line = new StatusLine(process.stderr);
  const items: Item[] = [];
  try {
    const tell = counter(line, "reading", found.length);
    for (const [i, file] of found.entries()) {
      session.signal.throwIfAborted();
      const here = await itemsOf(file, flags);
      items.push(...here);
      if (session.json) for (const item of here) await session.print(toJson(item));
      tell(i + 1);
    }
  } finally {
    line.clear();
  }
  if (!session.json) await session.print(items.length === 1 ? describe(items[0] as Item) : list(items));
  if (items.some(({ refused }) => refused)) process.exitCode = 1;
}

/** What a path names: a file, or of a folder all files and folders that may be images or volumes. @throws ERR_LE_DATA */
async function filesOf(source: string): Promise<string[]> {
  const { ioError } = await import("../data/files.js");
  const there = await stat(source).catch((error) => {
    throw ioError(source, "a file or a folder", error);
  });
  if (!there.isDirectory()) return [source];
  const { VOLUME_FORMATS } = await import("../volumes/formats.js");
  const { formatByName } = await import("../volumes/read.js");
  const { imageExtensions } = await import("../data/image.js");
  const inFolders = VOLUME_FORMATS.find(({ folders }) => folders);
  const found = new Set<string>();
  const entries = await readdir(source, { recursive: true, withFileTypes: true });
  const files = entries.map((entry) => path.join(entry.parentPath ?? entry.path, entry.name)).sort();
  for (const file of files) {
    const lower = file.toLowerCase();
    if (isTemporary(file) || !(await stat(file).catch(() => undefined))?.isFile()) continue;
    const format = formatByName(file);
    if (format && !format.folders) {
      if (!format.beside?.some((ending) => lower.endsWith(ending))) found.add(file);
    } else if (imageExtensions.some((ending) => lower.endsWith(ending))) found.add(file);
    else if (format || inFolders?.begins(await headOf(file))) found.add(path.dirname(file));
  }
  if (found.size > 0) return [...found];
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected images or volumes for ${source} but received a folder with none among ${files.length} files.`,
  );
}

/** The first bytes of a file; of one that cannot be read none. */
async function headOf(file: string): Promise<Buffer> {
  const handle = await open(file).catch(() => undefined);
  if (!handle) return Buffer.alloc(0);
  try {
    const { bytesRead, buffer } = await handle.read(Buffer.alloc(540), 0, 540, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}

/** What a file or a folder of slices holds. */
async function itemsOf(file: string, flags: Flags): Promise<Item[]> {
  const { formatOf } = await import("../volumes/read.js");
  const blank: Item = { path: file, kind: "volume", warnings: [] };
  try {
    if (await isImage(file)) return [await guarded({ ...blank, kind: "image" }, () => readAsImage(file, flags))];
    const format = await formatOf({ path: file, name: file });
    const all = (await format.list?.(file, seriesOf(flags))) ?? [];
    const items: Item[] = [];
    for (const [i, { id, shape, description, problem }] of all.entries()) {
      if (flags.series !== undefined && flags.series !== id && flags.series !== `${i + 1}`) continue;
      const one = all.length > 1 ? [`One of ${all.length} volumes: --series ${i + 1} reads it.`] : [];
      const known = { ...blank, series: id, format: format.name, shape, description, warnings: one };
      const found =
        problem === undefined
          ? await guarded(known, () => readAsVolume(file, { ...flags, series: id }))
          : { ...known, refused: { code: "ERR_LE_DATA", message: problem } };
      items.push({ ...found, warnings: [...new Set([...one, ...found.warnings])] });
    }
    // Of a format without such a list, or a series that there is not, the reader speaks.
    if (items.length === 0) return [await guarded(blank, () => readAsVolume(file, flags))];
    return items;
  } catch (error) {
    return [{ ...blank, ...refusal(error) }];
  }
}

/** With what was read, or why it was not. */
async function guarded(item: Item, read: () => Promise<Partial<Item>>): Promise<Item> {
  return { ...item, ...(await read().catch(refusal)) };
}

function refusal(error: unknown): Pick<Item, "refused"> {
  if (!(error instanceof LayerEnsemblesError)) throw error;
  return { refused: { code: error.code, message: error.message } };
}

/** By the name; an array of NumPy with two axes is one, too. */
async function isImage(file: string): Promise<boolean> {
  const { imageExtensions } = await import("../data/image.js");
  const { isNpy } = await import("../data/mask.js");
  if (!isNpy(file)) return imageExtensions.includes(path.extname(file).toLowerCase());
  const { readNpyHeader } = await import("../data/npy-file.js");
  return (await readNpyHeader(file)).shape.length === 2;
}

async function readAsImage(file: string, { label }: Flags): Promise<Partial<Item>> {
  const { isNpy } = await import("../data/mask.js");
  if (label || isNpy(file)) {
    const { readStoredMask } = await import("../data/stored.js");
    const { data, shape } = await readStoredMask(file, undefined);
    return {
      shape,
      channels: 1,
      ...(label ? { labels: countsOf(data) } : { format: "npy", values: await summaryOf(data) }),
    };
  }
  const { readDescribed } = await import("../data/image.js");
  const { image, format, bits, description } = await readDescribed(file);
  const [channels, ...shape] = image.shape as [number, ...number[]];
  const type = `${bits} ${bits === 1 ? "bit" : "bits"}`;
  return { format, shape, channels, type, description, values: await summaryOf(image.data) };
}

async function readAsVolume(file: string, flags: Flags): Promise<Partial<Item>> {
  const { readVolume } = await import("../volumes/read.js");
  const { orientationOf, shearOf, spacingOf, voxelVolumeOf } = await import("../grid/index.js");
  const { label, channels = false } = flags;
  const kind = label ? "label" : "image";
  const volume = await readVolume(file, { kind, channels, dicom: seriesOf(flags) });
  const { data, grid, shape, format, dtype, warnings } = volume;
  const size = shape.slice(-3);
  const shear = grid ? shearOf(grid) : 0;
  const sheared = shear > 0.01 ? [`Its axes are up to ${fixed(shear, 2)} degrees from right angles.`] : [];
  return {
    ...{ format, shape: size, channels: shape.length > 3 ? (shape[0] as number) : 1, type: dtype, grid },
    ...(grid && {
      ...placeOf(spacingOf(grid), size),
      ...{ orientation: orientationOf(grid), voxelVolume: voxelVolumeOf(grid) },
    }),
    ...(label ? { labels: countsOf(data) } : { values: await summaryOf(data) }),
    warnings: [...warnings, ...sheared],
  };
}

function placeOf(spacing: readonly number[], size: readonly number[]): Pick<Item, "spacing" | "extent"> {
  return { spacing, extent: spacing.map((mm, axis) => mm * (size[axis] as number)) };
}

function countsOf(labels: NumericArray): Record<string, number> {
  const counts = new Map<number, number>();
  for (let i = 0; i < labels.length; i++) counts.set(labels[i] as number, (counts.get(labels[i] as number) ?? 0) + 1);
  return Object.fromEntries([...counts].sort(([a], [b]) => a - b).map(([label, count]) => [String(label), count]));
}

/** Of the finite values; NaN where there is none. */
async function summaryOf(data: NumericArray): Promise<NonNullable<Item["values"]>> {
  const { percentiles } = await import("../data/image.js");
  const { countNonFinite } = await import("../volumes/volume.js");
  const nonFinite = countNonFinite(data);
  const finite = nonFinite > 0 ? data.filter((value) => Number.isFinite(value)) : data;
  const levels = [0, ...LEVELS, 100];
  const [min, ...more] = finite.length > 0 ? percentiles(finite, levels) : levels.map(() => Number.NaN);
  return {
    min: min as number,
    max: more.at(-1) as number,
    percentiles: LEVELS.map((level, i) => [level, more[i] as number]),
    nonFinite,
  };
}

const sizes = (numbers: readonly number[]) => numbers.map(shown).join(" × ");
/** Six digits, as many as single precision has. */
const shown = (value: number) => (Number.isFinite(value) ? String(Number(value.toPrecision(6))) : "–");

/** One item: a line for each thing that is known of it. */
function describe(item: Item): string {
  const { series, kind, format, shape, channels = 1, type, description, grid, spacing, extent, orientation } = item;
  const { values, labels, voxelVolume, warnings, refused } = item;
  const unit = kind === "image" ? "pixels" : "voxels";
  const rows: [string, string][] = [];
  if (series !== undefined) rows.push(["series", series]);
  if (format !== undefined) rows.push(["format", description === undefined ? format : `${format}: ${description}`]);
  if (shape) rows.push(["size", `${sizes(shape)} ${unit} (${kind === "image" ? "height, width" : "z, y, x"})`]);
  if (shape && channels > 1) rows.push(["channels", String(channels)]);
  if (type !== undefined) rows.push(["stored as", type]);
  if (grid === null) rows.push(["grid", "unknown: the file does not say where it lies"]);
  if (grid && spacing && extent) {
    rows.push(["spacing", `${sizes(spacing)} mm (z, y, x)`], ["extent", `${sizes(extent)} mm`]);
    rows.push(["orientation", orientation as string]);
    rows.push(
      ...grid.affine.slice(0, 3).map((row, i): [string, string] => [i ? "" : "affine", row.map(shown).join("  ")]),
    );
  }
  if (values) {
    rows.push(["values", `${shown(values.min)} to ${shown(values.max)}`]);
    const told = values.percentiles.map(([level, value]) => `${level} %: ${shown(value)}`);
    rows.push(["percentiles", told.join("  ")]);
  }
  if (labels)
    for (const [label, count] of Object.entries(labels)) {
      const ml = voxelVolume === undefined ? "" : `, ${shown((count * voxelVolume) / 1000)} ml`;
      rows.push([`label ${label}`, `${grouped(count)} ${unit}${ml}`]);
    }
  rows.push(...warnings.map((text): [string, string] => ["warning", text]));
  if (refused) rows.push(["refused", `[${refused.code}] ${refused.message}`]);
  return `${item.path}\n${rows.map(([name, text]) => `  ${name.padEnd(12)} ${text}\n`).join("")}`;
}

/** Several items: a row for each, then what is to be said of some. */
function list(items: readonly Item[]): string {
  const name = ({ path: file, series }: Item) => (series === undefined ? file : `${file} (${series})`);
  const table = formatTable(
    [
      { heading: "file", align: "left" },
      { heading: "size" },
      { heading: "stored as", align: "left" },
      { heading: "spacing (mm)" },
      { heading: "orientation", align: "left" },
      { heading: "values" },
      { heading: "", align: "left" },
    ],
    items.map((item) => {
      const { shape, channels = 1, type, spacing, orientation, values, labels, warnings, refused } = item;
      return [
        name(item),
        shape ? `${shape.join("×")}${channels > 1 ? ` of ${channels}` : ""}` : "–",
        type ?? "–",
        spacing ? sizes(spacing) : "–",
        orientation ?? "–",
        values ? `${shown(values.min)} to ${shown(values.max)}` : labels ? Object.keys(labels).join(", ") : "–",
        refused ? "refused" : warnings.length > 0 ? "warning" : "",
      ];
    }),
  );
  const said = items.flatMap((item) => [
    ...item.warnings.map((text) => `${name(item)}: ${text}\n`),
    ...(item.refused ? [`${name(item)}: refused [${item.refused.code}] ${item.refused.message}\n`] : []),
  ]);
  return said.length > 0 ? `${table}\n${said.join("")}` : table;
}
