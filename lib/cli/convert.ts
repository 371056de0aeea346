import type { Command } from "commander";
import { LayerEnsemblesError } from "../errors.js";
import type { Placed, Triple } from "../grid/index.js";
import { option, type Values } from "../options.js";
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
  ...SERIES_OPTIONS,
};

interface Flags extends Values<typeof OPTIONS> {
  json?: boolean;
}

/** `convert`: a volume of any format that is read into any that is written. */
export function convertCommand(): Command {
  const command = newCommand(
    "convert",
    "write a volume in another format, refusing what would lose values or place",
    "layer-ensembles convert dicom/ head.nii.gz\nlayer-ensembles convert labels.nrrd labels.nii.gz --label\n" +
      "layer-ensembles convert mask.npy mask.nii.gz --label --like head.nii.gz",
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
  const { orientationOf, readVolume, spacingOf, writeVolume } = await import("../volumes/index.js");
  const { writerOf } = await import("../volumes/write.js");
  writerOf(output);
  const { label = false, type, channels = false } = flags;
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
      ...{ label, ...(type && { type }), ...(!moves && { like }) },
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
