// Arrays of NumPy, which do not say where they lie.
import { dataError } from "../data/image.js";
import { parseNpy, parseNpyHeader } from "../data/npy.js";
import { encodeNpy, readNpy, readNpyHeader } from "../data/npy-file.js";
import type { VolumeInput } from "./bytes.js";
import type { VolumeFormat, VolumeReading } from "./formats.js";
import { checkExact, dtypeOf, type NumberType } from "./numbers.js";
import { countNonFinite, UNREAD, type Volume } from "./volume.js";

const OTHER_NAMES: Readonly<Record<string, string>> = { f2: "float16", b1: "bool" };

async function read(
  { path, bytes, name }: VolumeInput,
  { channels, maxValues, headOnly }: VolumeReading,
): Promise<Volume> {
  const limit = { maxPixels: maxValues };
  const { shape, type } = bytes ? parseNpyHeader(bytes, name) : await readNpyHeader(path as string, limit);
  const [rank, count] = [shape.length, shape.reduce((product, size) => product * size, 1)];
  const shown = `the shape (${shape.join(", ")})`;
  if (!(count >= 1 && count <= maxValues)) throw dataError(name, "volume", `1 to ${maxValues} numbers`, shown);
  if (rank !== 3 && !(rank === 4 && (channels || shape[0] === 1)))
    throw dataError(name, "volume", "D×H×W numbers, or C×D×H×W where channels are asked for,", shown);
  const head = {
    shape: rank === 4 && shape[0] === 1 ? shape.slice(1) : shape,
    grid: null,
    format: npy.name,
    dtype: OTHER_NAMES[type] ?? dtypeOf(type as NumberType),
    warnings: ["An array of NumPy does not say where its voxels lie, nor how large they are."],
  };
  if (headOnly) return { ...head, data: UNREAD, nonFinite: 0 };
  const { data } = bytes ? parseNpy(bytes, name) : await readNpy(path as string, limit);
  if (type === "i8" || type === "u8") checkExact(data, name);
  return { ...head, data, nonFinite: countNonFinite(data) };
}

/** NumPy's .npy. */
export const npy: VolumeFormat = {
  name: "npy",
  title: "NumPy's .npy",
  extensions: [".npy"],
  placeless: true,
  begins: (head) => head.toString("latin1", 0, 6) === "\x93NUMPY",
  read,
  write: { ".npy": async (volume) => encodeNpy(volume) },
};
