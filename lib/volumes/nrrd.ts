// NRRD. https://teem.sourceforge.net/nrrd/format.html
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import { dataError } from "../data/image.js";
import type { Grid } from "../grid/index.js";
import { affineOfSteps, LPS, stepsInLps } from "./affine.js";
import { ByteStream, type VolumeInput, withBytes } from "./bytes.js";
import type { VolumeFormat, VolumeReading, VolumeWriting } from "./formats.js";
import { finiteNumbers, headerLines, readVoxels, type Stored, wholeNumber } from "./headers.js";
import { bytesOf, dtypeOf, type NumberType, toBytes, toPlanes, typeOf } from "./numbers.js";
import { checkCount, shapeWith } from "./sizes.js";
import { countNonFinite, UNREAD, type Volume } from "./volume.js";

const compress = promisify<Uint8Array, Buffer>(gzip);

const TYPES: Readonly<Record<NumberType, readonly string[]>> = {
  i1: ["signed char", "int8", "int8_t"],
  u1: ["uchar", "unsigned char", "uint8", "uint8_t"],
  i2: ["short", "short int", "signed short", "signed short int", "int16", "int16_t"],
  u2: ["ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"],
  i4: ["int", "signed int", "int32", "int32_t"],
  u4: ["uint", "unsigned int", "uint32", "uint32_t"],
  i8: ["longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"],
  u8: ["ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"],
  f4: ["float"],
  f8: ["double"],
};

/** Which coordinates run as RAS+ does, by a space's names. */
const SPACES: readonly { names: readonly string[]; signs: readonly number[] }[] = [
  { names: ["right-anterior-superior", "ras"], signs: [1, 1, 1] },
  { names: ["left-anterior-superior", "las"], signs: [-1, 1, 1] },
  { names: ["left-posterior-superior", "lps"], signs: LPS },
];

/** Millimetres of a unit of length. */
const UNITS: Readonly<Record<string, number>> = { mm: 1, cm: 10, m: 1000, um: 1e-3, "\u00b5m": 1e-3, "\u03bcm": 1e-3 };

/** Of axes along which neighbours are no neighbours in space. */
const SPATIAL_KINDS = ["domain", "space"];

/** A header's fields, by their names in lower case. */
type Fields = ReadonlyMap<string, string>;

async function read(input: VolumeInput, options: VolumeReading): Promise<Volume> {
  const { name } = input;
  return withBytes(ByteStream.open(input), async (stream) => {
    const fields = await readFields(stream, name);
    const { axes, count, shape, channelAxis } = axesOf(fields, name, options);
    const stored = storedOf(fields, name);
    const file = fields.get("data file") ?? fields.get("datafile");
    const warnings: string[] = [];
    const grid = gridOf(fields, axes, shape.slice(-3) as [number, number, number], warnings);
    const head = { shape, grid, format: nrrd.name, dtype: dtypeOf(stored.type), warnings };
    if (options.headOnly) return { ...head, data: UNREAD, nonFinite: 0 };
    const numbers = await readVoxels(stream, input, file, count, stored);
    const channels = shape.length === 4 ? (shape[0] as number) : 1;
    const data = channelAxis === 0 && channels > 1 ? toPlanes(numbers, channels) : numbers;
    return { ...head, data, nonFinite: countNonFinite(data) };
  });
}

/** @throws ERR_LE_DATA for what is no header, or says a thing twice */
async function readFields(stream: ByteStream, name: string): Promise<Fields> {
  const fields = new Map<string, string>();
  let first = true;
  for await (const line of headerLines(stream, name)) {
    if (first) {
      if (!/^NRRD000[1-5]$/.test(line)) throw dataError(name, "volume", "NRRD0001 to NRRD0005", "another kind of file");
      first = false;
    } else if (line === "") break;
    else if (!line.startsWith("#") && !/^[^:]*:=/.test(line)) {
      const [, key, value] = /^([^:]+): *(.*)$/.exec(line) ?? [];
      if (key === undefined || value === undefined)
        throw dataError(name, "volume", "lines of 'field: value' in its header", JSON.stringify(line.slice(0, 80)));
      const field = key.trim().toLowerCase();
      if (fields.has(field)) throw dataError(name, "volume", `'${field}' once in its header`, "it twice");
      fields.set(field, value.trim());
    }
  }
  if (first) throw dataError(name, "volume", "NRRD0001 to NRRD0005", "an empty file");
  return fields;
}

/** Which axes are of space, and the shape, checked before anything of that size is made. */
function axesOf(fields: Fields, name: string, { channels, maxValues }: VolumeReading) {
  const dimension = wholeNumber(fields.get("dimension"));
  if (!(dimension >= 2 && dimension <= 4))
    throw dataError(name, "volume", "a dimension from 2 to 4", `${fields.get("dimension") ?? "none"}`);
  const text = fields.get("sizes") ?? "none";
  const sizes = finiteNumbers(text, dimension);
  if (!sizes?.every((size) => Number.isSafeInteger(size) && size >= 1))
    throw dataError(name, "volume", `${dimension} sizes of 1 or more`, text);
  const count = sizes.reduce((product, size) => product * size, 1);
  checkCount(count, sizes.join("×"), name, maxValues);
  const kinds = (fields.get("kinds") ?? "").toLowerCase().split(/\s+/);
  if (kinds.includes("complex")) throw dataError(name, "volume", "real numbers", "complex numbers");
  const directions = directionsOf(fields);
  if (directions && directions.length !== dimension)
    throw dataError(name, "volume", `${dimension} space directions`, `${directions.length}`);
  const others = sizes
    .map((_, axis) => axis)
    .filter((axis) =>
      directions ? directions[axis] === null : kinds.length === dimension && !isSpatial(kinds[axis] as string),
    );
  const axes = sizes.map((_, axis) => axis).filter((axis) => !others.includes(axis));
  const [channelAxis] = others;
  if (axes.length < 2 || axes.length > 3 || (channelAxis !== undefined && channelAxis % (dimension - 1) !== 0)) {
    const expected = "2 or 3 axes of space, and at most one other before or after them (space directions, kinds)";
    throw dataError(name, "volume", expected, `${axes.length} of ${dimension}`);
  }
  const [width, height, depth = 1] = axes.map((axis) => sizes[axis] as number) as [number, number, number?];
  const many = channelAxis === undefined ? 1 : (sizes[channelAxis] as number);
  const shape = shapeWith(many, [depth, height, width], sizes.join("×"), name, channels);
  return { axes, count, channelAxis, shape };
}

function isSpatial(kind: string): boolean {
  return SPATIAL_KINDS.includes(kind) || kind === "???" || kind === "none";
}

/** Each axis's step in the file's space, null for one that is none of space; undefined where the file says nothing. */
function directionsOf(fields: Fields): (number[] | null)[] | undefined {
  const text = fields.get("space directions");
  if (text === undefined) return undefined;
  return Array.from(text.matchAll(/none|\([^()]*\)/gi), ([one]) => (one.startsWith("(") ? vectorOf(one) : null));
}

/** `(1,2,3)`; numbers that are none become NaN. */
function vectorOf(text: string): number[] {
  return text
    .replace(/[()\s]/g, "")
    .split(",")
    .map((one) => (one === "" ? Number.NaN : Number(one)));
}

function storedOf(fields: Fields, name: string): Stored {
  const typeName = (fields.get("type") ?? "none").toLowerCase();
  const type = (Object.keys(TYPES) as NumberType[]).find((one) => TYPES[one].includes(typeName));
  if (!type) throw dataError(name, "volume", "a type of integers, float or double", typeName);
  const encoding = (fields.get("encoding") ?? "none").toLowerCase();
  const packed = ["gzip", "gz"].includes(encoding);
  if (!packed && encoding !== "raw") throw dataError(name, "volume", "the encoding raw or gzip", encoding);
  const endian = fields.get("endian")?.toLowerCase();
  if (bytesOf(type) > 1 && endian !== "little" && endian !== "big")
    throw dataError(name, "volume", "the endian little or big", endian ?? "none");
  const lines = fields.get("line skip") ?? fields.get("lineskip") ?? "0";
  if (wholeNumber(lines) !== 0) throw dataError(name, "volume", "a line skip of 0", lines);
  const skip = wholeNumber(fields.get("byte skip") ?? fields.get("byteskip") ?? "0");
  if (!(skip >= (packed ? 0 : -1)))
    throw dataError(name, "volume", "a byte skip of 0 or more", `${fields.get("byte skip")}`);
  return { type, bigEndian: endian === "big", packed, skip };
}

function gridOf(fields: Fields, axes: readonly number[], shape: Grid["shape"], warnings: string[]): Grid | null {
  const unknown = (why: string) => {
    warnings.push(`${why}: where the voxels lie is unknown.`);
    return null;
  };
  const space = fields.get("space")?.toLowerCase();
  const signs = SPACES.find(({ names }) => names.includes(space ?? ""))?.signs;
  if (!signs)
    return unknown(
      space ? `Its space ${JSON.stringify(space.slice(0, 40))} is not one of the patient` : "It has no space",
    );
  if (axes.length < 3) return unknown("It has two axes of space");
  const directions = directionsOf(fields);
  const steps = axes.map((axis) => directions?.[axis] ?? []);
  const origin = vectorOf(fields.get("space origin") ?? "");
  if (![...steps, origin].every((vector) => vector.length === 3 && vector.every(Number.isFinite)))
    return unknown("Its space directions or its space origin are missing or not finite");
  const units = unitsOf(fields);
  if (!units) return unknown(`Its space units are ${fields.get("space units")}`);
  if (units.some((unit) => unit !== 1))
    warnings.push(`Its space units are ${fields.get("space units")}; the affine was converted to millimetres.`);
  const affine = affineOfSteps(
    steps,
    origin,
    signs.map((sign, row) => sign * (units[row] as number)),
  );
  return affine ? { shape, affine } : unknown("Its space directions have no inverse");
}

/** Millimetres of each coordinate's unit; undefined for units that are no lengths. */
function unitsOf(fields: Fields): number[] | undefined {
  const text = fields.get("space units");
  if (text === undefined) return [1, 1, 1];
  const names = Array.from(text.matchAll(/"([^"]*)"/g), ([, one = ""]) => one.trim().toLowerCase());
  const units = names.map((one) => (one === "" ? 1 : Object.hasOwn(UNITS, one) ? (UNITS[one] as number) : Number.NaN));
  return units.length === 3 && units.every(Number.isFinite) ? units : undefined;
}

/** A file of its own: left-posterior-superior, gzip, planes one after another. */
async function encode({ data, shape, grid }: VolumeWriting): Promise<Uint8Array> {
  const type = typeOf(data);
  const many = shape.length === 4;
  const vector = (values: readonly number[]) => `(${values.join(",")})`;
  const lps = grid && stepsInLps(grid.affine);
  const lines = [
    "NRRD0004",
    `type: ${type === "f4" ? "float" : type === "f8" ? "double" : dtypeOf(type)}`,
    `dimension: ${shape.length}`,
    `sizes: ${[...shape.slice(-3).reverse(), ...shape.slice(0, -3)].join(" ")}`,
    ...(lps
      ? [
          "space: left-posterior-superior",
          `space directions: ${lps.steps.map(vector).join(" ")}${many ? " none" : ""}`,
          `space origin: ${vector(lps.origin)}`,
        ]
      : []),
    `kinds: domain domain domain${many ? " list" : ""}`,
    "endian: little",
    "encoding: gzip",
  ];
  return Buffer.concat([Buffer.from(`${lines.join("\n")}\n\n`), await compress(toBytes(data, false))]);
}

/** NRRD, with its voxels or detached. */
export const nrrd: VolumeFormat = {
  name: "nrrd",
  title: "NRRD",
  extensions: [".nrrd", ".nhdr"],
  begins: (head) => head.toString("latin1", 0, 7) === "NRRD000",
  read,
  write: { ".nrrd": encode },
};
