import type { Command } from "commander";
import { LayerEnsemblesError } from "../errors.js";
import type { Placed, Triple } from "../grid/index.js";
import { option, type Values } from "../options.js";
import type { SeriesVolume } from "../volumes/dicom/index.js";
import { WRITTEN_TYPES } from "../volumes/numbers.js";
import type { Volume } from "../volumes/volume.js";
import { withOptions } from "./arguments.js";
import { newCommand, runSession, type Session, toJson, UsageError } from "./command.js";
import { SERIES_OPTIONS, seriesOf } from "./volume-options.js";

const OPTIONS = {
  label: option.boolean({
    text: "a label map: whole numbers, written as uint8 or uint16; refused where they are none",
  }),
  type: option.oneOf(WRITTEN_TYPES, {
    otherwise: "as read",
    text: "type to write; refused where a value would change",
  }),
  channels: option.boolean({ text: "take several values of a voxel" }),
  like: option.string({
    ...{ otherwise: "the input's own", arg: "file" },
    text: "a volume of the same size in whose place the result lies, for an input that does not say where it lies",
  }),
  reorient: option.pattern("three of R or L, A or P, S or I, such as RAS", /^[RLAPSI]{3}$/, {
    ...{ otherwise: "as read", arg: "code" },
    text: "turn the axes so that x, y and z lead there, such as RAS; no value changes",
  }),
  spacing: option.array(option.number({ above: 0 }), {
    ...{ length: 3, otherwise: "as read" },
    text: "resample to these edges of a voxel along z, y and x, in mm: cubic, of labels the nearest; the extent stays",
  }),
  withoutGrid: option.boolean({
    text: "write .npy of a volume that says where it lies, which an array cannot",
  }),
  source: option.string({
    text: "of a label map that is written as .dcm: the DICOM series that it is of, to which the segmentation refers",
    arg: "folder",
  }),
  segments: option.array(option.string(), {
    ...{ min: 1, otherwise: "as read, else label 1, label 2, …", arg: "names" },
    text: "of a label map that is written as .dcm: what labels 1, 2, … are called",
  }),
  ...SERIES_OPTIONS,
};

interface Flags extends Values<typeof OPTIONS> {
  json?: boolean;
}

/** The ending of a segmentation. */
const SEGMENTATION = ".dcm";

/** `convert`: a volume of any format that is read into any that is written. */
export function convertCommand(): Command {
  const command = newCommand(
    "convert",
    "write a volume in another format, refusing what would lose values or place",
    "layer-ensembles convert dicom/ head.nii.gz\nlayer-ensembles convert labels.nrrd labels.nii.gz --label\n" +
      "layer-ensembles convert mask.npy mask.nii.gz --label --like head.nii.gz\n" +
      "layer-ensembles convert labels.nii.gz seg.dcm --label --source dicom/ --segments liver,tumour",
    "Values and their place stay as they are, unless --spacing asks for others. What else a header says (of the patient, say) is " +
      "not carried over.",
  )
    .argument("<input>", "a volume, or a folder of DICOM slices")
    .argument("<output>", "the file to write: its ending tells the format");
  return withOptions(command, OPTIONS).action((input: string, output: string, flags: Flags) =>
    runSession(flags.json ?? false, (session) => convert(input, output, flags, session)),
  );
}

async function convert(input: string, output: string, flags: Flags, session: Session): Promise<void> {
  if (output.toLowerCase().endsWith(SEGMENTATION)) return writeSegments(input, output, flags, session);
  const { orientationOf, readVolume, spacingOf, writeVolume } = await import("../volumes/index.js");
  const { writerOf } = await import("../volumes/write.js");
  writerOf(output);
  const { label = false, type, channels = false, withoutGrid = false } = flags;
  for (const [name, value] of Object.entries({ source: flags.source, segments: flags.segments }))
    if (value !== undefined) throw new UsageError(`expected an output ${SEGMENTATION} with --${name}`);
  const moves = flags.reorient !== undefined || flags.spacing !== undefined;
  if (moves && flags.like !== undefined) throw new UsageError("expected --like, or --reorient and --spacing, not both");
  const read = await readVolume(input, { kind: label ? "label" : "image", channels, dicom: seriesOf(flags) });
  const like = flags.like === undefined ? read : await readVolume(flags.like, { channels: true });
  const volume = moves ? await move(read, input, flags) : read;
  const own = volume.grid ? { grid: volume.grid } : {};
  await writeVolume(
    output,
    { data: volume.data, shape: volume.shape, ...own },
    {
      ...{ label, withoutGrid, ...(type && { type }), ...(!moves && { like }) },
    },
  );
  const { shape, dtype, format, grid } = await readVolume(output, { channels });
  for (const warning of read.warnings) session.note(`warning: ${input}: ${warning}`);
  const place = grid && { spacing: spacingOf(grid), orientation: orientationOf(grid) };
  const lies = place
    ? `, ${place.spacing.map((mm) => Number(mm.toPrecision(6))).join(" × ")} mm (z, y, x), ${place.orientation}`
    : "";
  await session.print(
    session.json
      ? toJson({ input, output, format, shape, type: dtype, grid, ...place, warnings: read.warnings }, 2)
      : `Written to ${output}: ${shape.join("×")} voxels of ${dtype}${lies}\n`,
  );
}

/**
 * Writes a label map as a segmentation that refers to a series of DICOM, in whose grid it lies; axes that are stored in another order are
 * turned to the series' own.
 */
async function writeSegments(input: string, output: string, flags: Flags, session: Session): Promise<void> {
  const { label = false, source: series, like, type, channels, reorient: code, spacing, withoutGrid } = flags;
  if (!label || series === undefined)
    throw new UsageError(
      `expected --label and --source SERIES with ${SEGMENTATION}: only segmentations are written as DICOM`,
    );
  const others = Object.entries({ type, channels, reorient: code, spacing, "without-grid": withoutGrid });
  const other = others.find(([, value]) => value !== undefined);
  if (other) throw new UsageError(`expected no --${other[0]} with ${SEGMENTATION}, which lies where its source does`);
  const { readVolume, writeSegmentation } = await import("../volumes/index.js");
  const { classColour } = await import("../pictures/colours.js");
  const dicom = seriesOf(flags);
  const read: Volume & Partial<Pick<SeriesVolume, "segments">> = await readVolume(input, { kind: "label", dicom });
  const source = await readVolume(series, { dicom });
  const grid = like === undefined ? read.grid : (await readVolume(like, { channels: true })).grid;
  const labels = await inGridOf(source, { ...read, grid }, { input, series });
  const found = [...new Set(labels.data as Iterable<number>)].filter((one) => one > 0).sort((a, b) => a - b);
  const named = new Map(read.segments?.map(({ number, name }) => [number, name]));
  const segments = (flags.segments?.map((_, i) => i + 1) ?? (found.length > 0 ? found : [1])).map((one) => ({
    label: one,
    name: flags.segments?.[one - 1] ?? named.get(one) ?? `label ${one}`,
    colour: classColour(one),
  }));
  const written = await writeSegmentation(output, { labels }, { source, segments });
  for (const [name, { warnings }] of [[input, read] as const, [series, source] as const])
    for (const warning of warnings) session.note(`warning: ${name}: ${warning}`);
  const told = segments.map(({ name }, i) => ({ number: i + 1, name }));
  await session.print(
    session.json
      ? toJson(
          { input, output, format: "dicom", source: series, segments: told, ...written, warnings: read.warnings },
          2,
        )
      : `Written to ${output}: ${written.frames} frames of ${told.map(({ name }) => name).join(", ")}\n`,
  );
}

/** Labels in the order of a series' voxels. @throws ERR_LE_DATA for those that lie elsewhere, or nowhere */
async function inGridOf(
  { grid }: Volume,
  labels: Volume,
  { input, series }: { input: string; series: string },
): Promise<Placed> {
  const { farthest, orientationOf, reorient, SAME_PLACE } = await import("../grid/index.js");
  const refused = (expected: string, received: string) =>
    new LayerEnsemblesError("ERR_LE_DATA", `Expected ${expected} for ${input} but received ${received}.`);
  if (!grid) throw new LayerEnsemblesError("ERR_LE_DATA", `Expected a series that says where it lies for ${series}.`);
  if (!labels.grid)
    throw refused(
      `a label map that says where it lies, or --like ${series} where it lies voxel on voxel`,
      "none that does",
    );
  const axes = orientationOf(grid);
  const placed = { data: labels.data, shape: labels.shape, grid: labels.grid };
  const turned = orientationOf(placed.grid) === axes ? placed : reorient(placed, axes);
  const size = grid.shape.join("×");
  if (turned.shape.join("×") !== size) throw refused(`the ${size} voxels of ${series}`, turned.shape.join("×"));
  const distance = farthest(turned.grid, grid);
  if (distance > SAME_PLACE)
    throw refused(
      `a label map that lies where ${series} does`,
      `one whose voxels are up to ${distance.toPrecision(3)} voxels away`,
    );
  return turned;
}

/** Turned and resampled, as asked. */
async function move(
  { data, shape, grid }: Volume,
  input: string,
  { reorient: code, spacing, label }: Flags,
): Promise<Placed> {
  const { reorient, resample } = await import("../grid/index.js");
  if (!grid)
    throw new LayerEnsemblesError(
      "ERR_LE_DATA",
      `Expected a volume that says where it lies for --reorient and --spacing but received ${input}, which does not.`,
    );
  const turned = code === undefined ? { data, shape, grid } : reorient({ data, shape, grid }, code);
  if (!spacing) return turned;
  return resample(turned, { spacing: spacing as unknown as Triple, ...(label && { order: "nearest" }) });
}
