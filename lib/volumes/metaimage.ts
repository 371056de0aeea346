// MetaImage. https://itk.org/Wiki/ITK/MetaIO/Documentation
import { promisify } from "node:util";
import { deflate } from "node:zlib";
import { fail } from "../checks.js";
import { dataError } from "../data/image.js";
import { type Grid, spacingOf } from "../grid/index.js";
import { affineOfSteps, LPS, stepsInLps } from "./affine.js";
import { ByteStream, type VolumeInput, withBytes } from "./bytes.js";
import type { VolumeFormat, VolumeReading, VolumeWriting } from "./formats.js";
import { finiteNumbers, headerLines, readVoxels, type Stored, wholeNumber } from "./headers.js";
import { bytesOf, dtypeOf, type NumberType, toBytes, toPlanes, toVoxels, typeOf } from "./numbers.js";
import { checkCount, shapeWith } from "./sizes.js";
import { countNonFinite, UNREAD, type Volume } from "./volume.js";

const compress = promisify<Uint8Array, Buffer>(deflate);

/** Types by their names; the first of a kind is the one to write. */
const TYPES: Readonly<Record<string, NumberType>> = {
  MET_CHAR: "i1",
  MET_UCHAR: "u1",
  MET_SHORT: "i2",
  MET_USHORT: "u2",
  MET_INT: "i4",
  MET_UINT: "u4",
  MET_LONG: "i4",
  MET_ULONG: "u4",
  MET_LONG_LONG: "i8",
  MET_ULONG_LONG: "u8",
  MET_FLOAT: "f4",
  MET_DOUBLE: "f8",
};

/** Names of one and the same thing. */
const ALIASES: Readonly<Record<string, string>> = {
  Position: "Offset",
  Origin: "Offset",
  Rotation: "TransformMatrix",
  Orientation: "TransformMatrix",
  BinaryDataByteOrderMSB: "ElementByteOrderMSB",
};

/** A header's values, by their keys. */
type Fields = ReadonlyMap<string, string>;

async function read(input: VolumeInput, options: VolumeReading): Promise<Volume> {
  const { name } = input;
  return withBytes(ByteStream.open(input), async (stream) => {
    const fields = await readFields(stream, name);
    const { sizes, shape, perVoxel, count } = shapeOf(fields, name, options);
    const warnings: string[] = [];
    const stored = storedOf(fields, name, warnings);
    const file = fields.get("ElementDataFile") as string;
    const beside = file.toUpperCase() === "LOCAL" ? undefined : file;
    const grid = gridOf(fields, sizes.length, shape.slice(-3) as [number, number, number], warnings);
    const head = { shape, grid, format: metaImage.name, dtype: dtypeOf(stored.type), warnings };
    if (options.headOnly) return { ...head, data: UNREAD, nonFinite: 0 };
    const numbers = await readVoxels(stream, input, beside, count, stored);
    const data = perVoxel > 1 ? toPlanes(numbers, perVoxel) : numbers;
    return { ...head, data, nonFinite: countNonFinite(data) };
  });
}

/** Up to the line that says where the voxels are. @throws ERR_LE_DATA for what is no header, or says a thing twice */
async function readFields(stream: ByteStream, name: string): Promise<Fields> {
  const fields = new Map<string, string>();
  for await (const line of headerLines(stream, name)) {
    if (line.trim() === "") continue;
    const [, key, value] = /^\s*(\w+)\s*=\s*(.*?)\s*$/.exec(line) ?? [];
    if (key === undefined || value === undefined)
      throw dataError(name, "volume", "lines of 'key = value' in its header", JSON.stringify(line.slice(0, 80)));
    const known = ALIASES[key] ?? key;
    if (fields.has(known) && fields.get(known) !== value)
      throw dataError(name, "volume", `one ${known} in its header`, "two that differ");
    fields.set(known, value);
    if (known !== "ElementDataFile") continue;
    if (fields.has("ObjectType") && fields.get("ObjectType") !== "Image")
      throw dataError(name, "volume", "the ObjectType Image", `${fields.get("ObjectType")}`);
    return fields;
  }
  throw dataError(name, "volume", "an ElementDataFile at its header's end", "none");
}

/** Checked before anything of that size is made. */
function shapeOf(fields: Fields, name: string, { channels, maxValues }: VolumeReading) {
  const rank = wholeNumber(fields.get("NDims"));
  if (!(rank >= 2 && rank <= 4))
    throw dataError(name, "volume", "2 to 4 axes (NDims)", `${fields.get("NDims") ?? "none"}`);
  const sizes = finiteNumbers(fields.get("DimSize"), rank);
  if (!sizes?.every((size) => Number.isSafeInteger(size) && size >= 1))
    throw dataError(name, "volume", `${rank} sizes of 1 or more (DimSize)`, `${fields.get("DimSize") ?? "none"}`);
  const perVoxel = wholeNumber(fields.get("ElementNumberOfChannels") ?? "1");
  if (!(perVoxel >= 1))
    throw dataError(name, "volume", "1 channel or more", `${fields.get("ElementNumberOfChannels")}`);
  const shown = `${sizes.join("×")}${perVoxel > 1 ? ` of ${perVoxel} channels` : ""}`;
  const count = sizes.reduce((product, size) => product * size, perVoxel);
  checkCount(count, shown, name, maxValues);
  const [width, height, depth = 1, frames = 1] = sizes as [number, number, number?, number?];
  if (frames > 1 && perVoxel > 1) throw dataError(name, "volume", "at most one axis beside the three of space", shown);
  const shape = shapeWith(frames * perVoxel, [depth, height, width], shown, name, channels);
  return { sizes, perVoxel, count, shape };
}

function storedOf(fields: Fields, name: string, warnings: string[]): Stored {
  const typeName = fields.get("ElementType") ?? "none";
  const type = Object.hasOwn(TYPES, typeName) ? TYPES[typeName] : undefined;
  if (!type) throw dataError(name, "volume", `the ElementType ${Object.keys(TYPES).join(", ")}`, typeName);
  if (!flag(fields, "BinaryData", true, name)) throw dataError(name, "volume", "binary voxels", "text (BinaryData)");
  for (const [key, neutral] of [
    ["ElementToIntensityFunctionSlope", 1],
    ["ElementToIntensityFunctionOffset", 0],
  ] as const)
    if (Number(fields.get(key) ?? neutral) !== neutral)
      throw dataError(name, "volume", `${key} ${neutral}`, `${fields.get(key)}`);
  const packed = flag(fields, "CompressedData", false, name);
  if (bytesOf(type) > 1 && !fields.has("ElementByteOrderMSB"))
    warnings.push("Its byte order is not said (ElementByteOrderMSB); taken as little endian.");
  const skip = wholeNumber(fields.get("HeaderSize") ?? "0");
  if (!(skip >= -1) || (packed && skip !== 0))
    throw dataError(
      name,
      "volume",
      packed ? "a HeaderSize of 0" : "a HeaderSize of -1 or more",
      `${fields.get("HeaderSize")}`,
    );
  return { type, bigEndian: flag(fields, "ElementByteOrderMSB", false, name), packed, skip };
}

function flag(fields: Fields, key: string, otherwise: boolean, name: string): boolean {
  const text = fields.get(key)?.toLowerCase();
  if (text === undefined) return otherwise;
  if (["true", "1"].includes(text)) return true;
  if (["false", "0"].includes(text)) return false;
  throw dataError(name, "volume", `True or False (${key})`, text);
}

function gridOf(fields: Fields, rank: number, shape: Grid["shape"], warnings: string[]): Grid | null {
  const unknown = (why: string) => {
    warnings.push(`${why}: where the voxels lie is unknown.`);
    return null;
  };
  if (rank < 3) return unknown("It has two axes");
  const sizes = fields.get("ElementSpacing") ?? fields.get("ElementSize");
  const spacing = finiteNumbers(sizes, rank);
  if (!spacing?.every((one) => one > 0)) return unknown(`Its ElementSpacing is ${sizes ?? "not said"}`);
  const missing = ["TransformMatrix", "Offset"].filter((key) => !fields.has(key));
  if (missing.length > 0)
    warnings.push(
      `Its ${missing.join(" and ")} is not said; taken as MetaImage's default (the axes of LPS, the origin 0).`,
    );
  const identity = Array.from({ length: rank * rank }, (_, i) => (i % (rank + 1) === 0 ? 1 : 0));
  const matrix = fields.has("TransformMatrix") ? finiteNumbers(fields.get("TransformMatrix"), rank * rank) : identity;
  const origin = fields.has("Offset") ? finiteNumbers(fields.get("Offset"), rank) : identity.map(() => 0);
  if (!matrix || !origin)
    return unknown("Its TransformMatrix or its Offset are no numbers, or not as many as its axes have");
  const direction = (axis: number) => matrix.slice(axis * rank, (axis + 1) * rank);
  if (rank === 4 && [0, 1, 2].some((axis) => direction(axis)[3] !== 0 || direction(3)[axis] !== 0))
    return unknown("Its fourth axis is not apart from the others");
  const steps = [0, 1, 2].map((axis) => direction(axis).map((value) => value * (spacing[axis] as number)));
  const affine = affineOfSteps(steps, origin, LPS);
  return affine ? { shape, affine } : unknown("Its TransformMatrix has no inverse");
}

/** A file of its own, compressed. */
async function encode({ data, shape, grid, name }: VolumeWriting): Promise<Uint8Array> {
  if (!grid) fail("ERR_LE_VALUE", name, "a grid (MetaImage says where a volume lies)", "null");
  const type = typeOf(data);
  const channels = shape.length === 4 ? (shape[0] as number) : 1;
  const voxels = await compress(toBytes(channels > 1 ? toVoxels(data, channels) : data, false));
  const spacing = [...spacingOf(grid)].reverse();
  const { steps, origin } = stepsInLps(grid.affine);
  const lines = [
    "ObjectType = Image",
    "NDims = 3",
    "BinaryData = True",
    "BinaryDataByteOrderMSB = False",
    "CompressedData = True",
    `CompressedDataSize = ${voxels.length}`,
    `TransformMatrix = ${steps.flatMap((step, axis) => step.map((value) => value / (spacing[axis] as number))).join(" ")}`,
    `Offset = ${origin.join(" ")}`,
    "CenterOfRotation = 0 0 0",
    `ElementSpacing = ${spacing.join(" ")}`,
    `DimSize = ${shape.slice(-3).reverse().join(" ")}`,
    ...(channels > 1 ? [`ElementNumberOfChannels = ${channels}`] : []),
    `ElementType = ${Object.keys(TYPES).find((one) => TYPES[one] === type)}`,
    "ElementDataFile = LOCAL",
  ];
  return Buffer.concat([Buffer.from(`${lines.join("\n")}\n`), voxels]);
}

/** MetaImage, with its voxels or detached. */
export const metaImage: VolumeFormat = {
  name: "metaimage",
  title: "MetaImage",
  extensions: [".mha", ".mhd"],
  begins: (head) => /^\s*(ObjectType|NDims|Comment)\s*=/.test(head.toString("latin1", 0, 64)),
  read,
  write: { ".mha": encode },
};
