import { stat } from "node:fs/promises";
import { dataError } from "../data/image.js";
import { checkOptions, defaultsOf, option } from "../options.js";
import { ByteStream, type VolumeInput, withBytes } from "./bytes.js";
import { SERIES_OPTIONS, type SeriesOptions } from "./dicom/index.js";
import { VOLUME_FORMATS, type VolumeFormat } from "./formats.js";
import { toLabels } from "./labels.js";
import type { Volume } from "./volume.js";

/** How a volume is read. */
export interface ReadVolumeOptions {
  /** `label`: whole numbers, which become a Uint8Array or a Uint16Array. @default "image" */
  kind?: "image" | "label";
  /** Takes several values of a voxel, as [C, D, H, W]; a file that has them is refused otherwise. @default false */
  channels?: boolean;
  /** A format of the register, such as `nifti`. Default: by the name's ending, else by the first bytes. */
  format?: string;
  /** Most values that a file may claim. @default 1_000_000_000 */
  maxValues?: number;
  /** What may be asked of a DICOM series. */
  dicom?: SeriesOptions;
  /** What messages call bytes that have no file. @default "(bytes)" */
  name?: string;
}

const OPTIONS = {
  kind: option.oneOf(["image", "label"], { default: "image" }),
  channels: option.boolean({ default: false }),
  format: option.oneOf(VOLUME_FORMATS.map(({ name }) => name)),
  maxValues: option.integer({ min: 1, default: 1_000_000_000 }),
  dicom: option.object<SeriesOptions>(SERIES_OPTIONS),
  name: option.string(),
};

/**
 * Reads a volume and where it lies: see docs/volumes.md for the formats, and what is refused of each.
 * @param source the path of a file (or of a folder, for formats that have folders), or all bytes of a file
 * @throws ERR_LE_DATA for a file that is missing, damaged, or not read; for a label map, values that are no labels
 * @throws ERR_LE_OPTION
 */
export async function readVolume(source: string | Uint8Array, options: ReadVolumeOptions = {}): Promise<Volume> {
  return read(source, options, false);
}

/**
 * All of a volume but its voxels, of which nothing is read: `data` is empty, and `shape` says how many there are.
 * @param options `kind` says nothing here
 * @throws as {@link readVolume}
 */
export async function readVolumeHead(source: string | Uint8Array, options: ReadVolumeOptions = {}): Promise<Volume> {
  return read(source, options, true);
}

async function read(source: string | Uint8Array, options: ReadVolumeOptions, headOnly: boolean): Promise<Volume> {
  const { kind, channels, format, maxValues, dicom, name } = {
    ...defaultsOf(OPTIONS),
    ...checkOptions("readVolume", options, OPTIONS),
  };
  const input: VolumeInput =
    typeof source === "string" ? { path: source, name: source } : { bytes: source, name: name ?? "(bytes)" };
  const chosen = VOLUME_FORMATS.find((one) => one.name === format) ?? (await formatOf(input));
  const volume = await chosen.read(input, { channels, maxValues, headOnly, ...(dicom && { dicom }) });
  if (headOnly) return volume;
  if (kind === "label") return asLabels(volume, input.name);
  if (volume.nonFinite === 0) return volume;
  const many = volume.nonFinite === 1 ? "1 value is" : `${volume.nonFinite} values are`;
  return { ...volume, warnings: [...volume.warnings, `${many} not finite.`] };
}

/** The format of a file or folder. @throws ERR_LE_DATA where none is it */
export async function formatOf(input: VolumeInput): Promise<VolumeFormat> {
  const { path, name } = input;
  const titles = VOLUME_FORMATS.map(({ title }) => title).join(", ");
  if (path !== undefined && (await stat(path).catch(() => undefined))?.isDirectory()) {
    const found = VOLUME_FORMATS.find(({ folders }) => folders);
    if (!found) throw dataError(name, "volume", `a file (${titles})`, "a folder");
    return found;
  }
  const named = path === undefined ? undefined : formatByName(path);
  if (named) return named;
  const head = await withBytes(ByteStream.openUnpacked(input), (stream) => stream.peek(540));
  const found = VOLUME_FORMATS.find((one) => one.begins(head));
  if (!found) throw dataError(name, "volume", titles, head.length === 0 ? "an empty file" : "another kind of file");
  return found;
}

/** The format that a name's ending stands for. */
export function formatByName(path: string): VolumeFormat | undefined {
  const lower = path.toLowerCase();
  return VOLUME_FORMATS.find(({ extensions }) => extensions.some((ending) => lower.endsWith(ending)));
}

/** How far from a whole number a label may be stored: floats that went through a resampling by nearest neighbours. */
const TOLERANCE = 1e-3;

/** The same with its values as labels. @throws ERR_LE_DATA */
function asLabels(volume: Volume, name: string): Volume<Uint8Array | Uint16Array> {
  const { data, furthest } = toLabels(volume.data, TOLERANCE, (expected, received) => {
    throw dataError(name, "label map", expected, received);
  });
  const rounded = `Its labels are stored as ${volume.dtype} and were rounded, by at most ${furthest.toPrecision(2)}.`;
  return { ...volume, data, warnings: furthest > 0 ? [...volume.warnings, rounded] : volume.warnings };
}
