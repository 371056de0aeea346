import { type NdArray, type NumericArray, snapshot } from "../arrays.js";
import { checkSameShape, fail } from "../checks.js";
import { writeAtomic } from "../data/files.js";
import type { Grid } from "../grid/index.js";
import { checkOptions, describe, type OptionSpecs, option } from "../options.js";
import { isSamePlace } from "./affine.js";
import { VOLUME_FORMATS } from "./formats.js";
import { toLabels } from "./labels.js";
import { asType, WRITTEN_TYPES, type WrittenType } from "./numbers.js";
import type { Volume } from "./volume.js";

/** What is written: values, and where they lie. */
export interface WritableVolume extends NdArray<NumericArray> {
  /** Default: that of `like`, else none. */
  readonly grid?: Grid | null;
}

/** How a volume is written. */
export interface WriteVolumeOptions {
  /**
   * The volume that it came from, in whose grid it is. A NIfTI file keeps that one's header (sizes, pixdim, sform, qform and their
   * codes, byte order) where it was NIfTI, too.
   */
  like?: Omit<Volume, "data">;
  /** Writes labels, from 0 to 65535, as uint8 or uint16. @default false */
  label?: boolean;
  /** Whether a format may be written that cannot say where voxels lie, such as .npy, of a volume that does. @default false */
  withoutGrid?: boolean;
  /** The type to write as; values that it does not hold are refused. @default the array's own */
  type?: WrittenType;
}

const OPTIONS: OptionSpecs = {
  like: option.custom("a volume that readVolume gave", (value) =>
    Array.isArray((value as Partial<Volume> | null)?.shape),
  ),
  label: option.boolean({ default: false }),
  withoutGrid: option.boolean({ default: false }),
  type: option.oneOf(WRITTEN_TYPES),
};

/**
 * Writes a volume in the format that the name's ending stands for: .nii, .nii.gz, .nrrd, .mha or .npy. The file is there whole or not at all.
 * @param volume [D, H, W] or [C, D, H, W]
 * @throws ERR_LE_OPTION for another ending
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE for a volume that is not of `like`'s grid, has no grid where the format wants one, or one where it cannot say it (`withoutGrid`), no labels, or values that `type` does not hold
 * @throws ERR_LE_IO
 */
export async function writeVolume(
  path: string,
  volume: WritableVolume,
  options: WriteVolumeOptions = {},
): Promise<void> {
  await writeAtomic(path, await encodeVolume(path, volume, options));
}

/**
 * The bytes of such a file.
 * @param path its name, whose ending stands for the format
 * @throws as {@link writeVolume}, but for ERR_LE_IO
 */
export async function encodeVolume(
  path: string,
  volume: WritableVolume,
  options: WriteVolumeOptions = {},
): Promise<Uint8Array> {
  const {
    like,
    label = false,
    type,
    withoutGrid = false,
  } = checkOptions<WriteVolumeOptions>("writeVolume", options, OPTIONS);
  const own = snapshot(volume);
  const name = `the volume for ${path}`;
  if (!own) return fail("ERR_LE_SHAPE", name, "an array with data and shape", describe(volume));
  const { shape } = own;
  if (
    shape.length < 3 ||
    shape.length > (label ? 3 : 4) ||
    !shape.every((size) => Number.isSafeInteger(size) && size >= 1)
  )
    fail("ERR_LE_SHAPE", name, label ? "[D, H, W]" : "[D, H, W] or [C, D, H, W]", describe(shape));
  const count = shape.reduce((product, size) => product * size, 1);
  if (own.data.length !== count)
    fail("ERR_LE_SHAPE", name, `${count} values (${shape.join("×")})`, `${own.data.length}`);
  if (like) checkSameShape(name, shape.slice(-3), like.shape.slice(-3));
  const grid = like ? like.grid : (volume.grid ?? null);
  if (grid) checkSameShape(`the grid of ${name}`, grid.shape, shape.slice(-3));
  if (like && volume.grid && !(grid && isSamePlace(volume.grid, grid)))
    fail("ERR_LE_VALUE", name, "the grid of the volume that it is like", "another");
  const { format, placeless, encode } = writerOf(path);
  const header = like?.format === format ? like.header : undefined;
  const refuse = (expected: string, received: string) => fail("ERR_LE_VALUE", name, expected, received);
  if (placeless && grid && !withoutGrid)
    refuse(
      "no grid, which the format cannot say; withoutGrid (--without-grid) leaves it out,",
      "a volume that says where it lies",
    );
  const values = label ? toLabels(own.data, 0, refuse).data : own.data;
  const data = type ? asType(values, type, refuse) : values;
  return encode({ name, data, shape, grid, label, ...(header && { header }) });
}

/** The writer of the format that a name's ending stands for. @throws ERR_LE_OPTION */
export function writerOf(path: string) {
  const writers = VOLUME_FORMATS.flatMap(({ name, placeless = false, write = {} }) =>
    Object.entries(write).map(([ending, encode]) => ({ format: name, placeless, ending, encode })),
  );
  const found = writers.find(({ ending }) => path.toLowerCase().endsWith(ending));
  if (found) return found;
  return fail("ERR_LE_OPTION", "a volume's name", writers.map(({ ending }) => ending).join(", "), describe(path));
}
