// NIfTI-1 and NIfTI-2. https://nifti.nimh.nih.gov/nifti-1, https://nifti.nimh.nih.gov/nifti-2; where these leave a choice, nibabel's.
import { stat } from "node:fs/promises";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import { fail } from "../checks.js";
import { dataError } from "../data/image.js";
import { type AffineRow, type Grid, spacingOf } from "../grid/index.js";
import { affineOfRows } from "./affine.js";
import { ByteStream, type VolumeInput, withBytes } from "./bytes.js";
import type { VolumeFormat, VolumeReading, VolumeWriting } from "./formats.js";
import { bytesOf, dtypeOf, type NumberType, numbersOf, rescale, toBytes, typeOf } from "./numbers.js";
import { checkCount, shapeWith } from "./sizes.js";
import { countNonFinite, UNREAD, type Volume } from "./volume.js";

const compress = promisify<Uint8Array, Buffer>(gzip);

/** Where a header's fields are, and how they are stored. */
interface Layout {
  version: 1 | 2;
  /** Bytes of the header, its first field too. */
  size: 348 | 540;
  magic: { at: number; single: string; pair: string };
  /** Of dim and vox_offset. */
  sizes: "i16" | "i64";
  offset: "f32" | "i64";
  real: "f32" | "f64";
  code: "i16" | "i32";
  units: "u8" | "i32";
  /** 1 - b² - c² - d² counts as 0 within so much: rotations by 180° are stored with its rounding. */
  epsilon: number;
  at: Readonly<
    Record<
      | "dim"
      | "datatype"
      | "bitpix"
      | "pixdim"
      | "voxOffset"
      | "slope"
      | "intercept"
      | "units"
      | "qform"
      | "sform"
      | "quaternion"
      | "qoffset"
      | "srow"
      | "calMax"
      | "calMin"
      | "intent",
      number
    >
  >;
}

const LAYOUTS: readonly Layout[] = [
  {
    version: 1,
    size: 348,
    magic: { at: 344, single: "n+1\0", pair: "ni1\0" },
    sizes: "i16",
    offset: "f32",
    real: "f32",
    code: "i16",
    units: "u8",
    epsilon: 3 * 2 ** -23,
    at: {
      dim: 40,
      datatype: 70,
      bitpix: 72,
      pixdim: 76,
      voxOffset: 108,
      slope: 112,
      intercept: 116,
      units: 123,
      qform: 252,
      sform: 254,
      quaternion: 256,
      qoffset: 268,
      srow: 280,
      calMax: 124,
      calMin: 128,
      intent: 68,
    },
  },
  {
    version: 2,
    size: 540,
    magic: { at: 4, single: "n+2\0\r\n\x1a\n", pair: "ni2\0\r\n\x1a\n" },
    sizes: "i64",
    offset: "i64",
    real: "f64",
    code: "i32",
    units: "i32",
    epsilon: 3 * 2 ** -52,
    at: {
      dim: 16,
      datatype: 12,
      bitpix: 14,
      pixdim: 104,
      voxOffset: 168,
      slope: 176,
      intercept: 184,
      units: 500,
      qform: 344,
      sform: 348,
      quaternion: 352,
      qoffset: 376,
      srow: 400,
      calMax: 192,
      calMin: 200,
      intent: 504,
    },
  },
];

const TYPES: Readonly<Record<number, NumberType>> = {
  2: "u1",
  4: "i2",
  8: "i4",
  16: "f4",
  64: "f8",
  256: "i1",
  512: "u2",
  768: "u4",
  1024: "i8",
  1280: "u8",
};

/** What is no real number of a kind that arrays have. */
const OTHER_TYPES: Readonly<Record<number, string>> = {
  0: "an unknown type",
  1: "single bits",
  32: "complex numbers (complex64)",
  128: "colours (RGB24)",
  1536: "long doubles (float128)",
  1792: "complex numbers (complex128)",
  2048: "complex numbers (complex256)",
  2304: "colours (RGBA32)",
};

/** Millimetres of a spatial unit. */
const UNITS: Readonly<Record<number, { name: string; millimetres: number }>> = {
  1: { name: "metres", millimetres: 1000 },
  2: { name: "millimetres", millimetres: 1 },
  3: { name: "micrometres", millimetres: 0.001 },
};

/** A kind of number as DataView reads and writes it. */
function numbers(bytes: number, name: "Uint8" | "Int16" | "Int32" | "Float32" | "Float64") {
  return {
    bytes,
    get: (view: DataView, at: number, little: boolean) => view[`get${name}`](at, little),
    set: (view: DataView, at: number, value: number, little: boolean) => view[`set${name}`](at, value, little),
  };
}

/** How a number of each kind is read and written. */
const FIELDS = {
  u8: numbers(1, "Uint8"),
  i16: numbers(2, "Int16"),
  i32: numbers(4, "Int32"),
  i64: {
    bytes: 8,
    get: (view: DataView, at: number, little: boolean) => Number(view.getBigInt64(at, little)),
    set: (view: DataView, at: number, value: number, little: boolean) => view.setBigInt64(at, BigInt(value), little),
  },
  f32: numbers(4, "Float32"),
  f64: numbers(8, "Float64"),
} as const;

/** A header that has been read. */
interface Header {
  layout: Layout;
  little: boolean;
  /** Whether the voxels follow in the same file. */
  single: boolean;
  view: DataView;
  bytes: Uint8Array<ArrayBuffer>;
}

type Field = keyof Layout["at"];

function kindOf({ sizes, offset, real, code, units }: Layout, name: Field) {
  const kinds: Partial<Record<Field, keyof typeof FIELDS>> = {
    dim: sizes,
    voxOffset: offset,
    datatype: "i16",
    bitpix: "i16",
    qform: code,
    sform: code,
    intent: code,
    units,
  };
  return FIELDS[kinds[name] ?? real];
}

function field({ layout, view, little }: Header, name: Field, index = 0): number {
  const { bytes, get } = kindOf(layout, name);
  return get(view, layout.at[name] + index * bytes, little);
}

function setField({ layout, view, little }: Header, name: Field, value: number, index = 0): void {
  const { bytes, set } = kindOf(layout, name);
  set(view, layout.at[name] + index * bytes, value, little);
}

/** The layout and byte order by the first field, the header's own size. */
function layoutOf(head: Buffer): { layout: Layout; little: boolean } | undefined {
  if (head.length < 4) return undefined;
  for (const little of [true, false]) {
    const size = little ? head.readInt32LE(0) : head.readInt32BE(0);
    const layout = LAYOUTS.find((one) => one.size === size);
    if (layout) return { layout, little };
  }
  return undefined;
}

function magicOf({ magic }: Layout, bytes: Uint8Array): "single" | "pair" | undefined {
  const found = Buffer.from(bytes.subarray(magic.at, magic.at + magic.single.length)).toString("latin1");
  return found === magic.single ? "single" : found === magic.pair ? "pair" : undefined;
}

/** Reads a header. @throws ERR_LE_DATA for another kind of file */
async function readHeader(stream: ByteStream, name: string): Promise<Header> {
  const found = layoutOf(await stream.peek(4));
  if (!found) throw dataError(name, "volume", "a NIfTI header (of 348 or 540 bytes)", "another kind of file");
  const { layout, little } = found;
  const bytes = await stream.take(layout.size, "the NIfTI header");
  const magic = magicOf(layout, bytes);
  if (!magic) {
    const { at, single } = layout.magic;
    const shown = JSON.stringify(Buffer.from(bytes.subarray(at, at + single.length)).toString("latin1"));
    const expected = "the magic n+1 or ni1 of NIfTI-1, or n+2 or ni2 of NIfTI-2,";
    throw dataError(name, "volume", expected, `${shown} (ANALYZE files do not say where their voxels lie)`);
  }
  return { layout, little, single: magic === "single", view: new DataView(bytes.buffer), bytes };
}

/** Reads a NIfTI file, or a pair by the name of either part. */
async function read(input: VolumeInput, options: VolumeReading): Promise<Volume> {
  const parts = input.path === undefined ? undefined : await pairOf(input.path);
  if (!parts)
    return withBytes(ByteStream.openUnpacked(input), async (stream) => {
      const header = await readHeader(stream, input.name);
      if (!header.single) {
        const received = `the header of a pair (${input.name}); name it .hdr, beside its .img`;
        throw dataError(input.name, "volume", "a file that holds its voxels", received);
      }
      return readVoxels(stream, header, input.name, options);
    });
  const header = await withBytes(ByteStream.openUnpacked({ path: parts.header, name: parts.header }), (stream) =>
    readHeader(stream, parts.header),
  );
  if (header.single)
    throw dataError(parts.header, "volume", "the header of a pair (magic ni1 or ni2)", "one of a single file (.nii)");
  return withBytes(ByteStream.openUnpacked({ path: parts.image, name: parts.image }), (stream) =>
    readVoxels(stream, header, parts.image, options),
  );
}

/** The two files of a pair, by the name of one; undefined for another name. */
async function pairOf(path: string): Promise<{ header: string; image: string } | undefined> {
  const [, stem, ending, packed = ""] = /^(.*\.)(hdr|img)(\.gz)?$/is.exec(path) ?? [];
  if (stem === undefined || ending === undefined) return undefined;
  const isHeader = ending.toLowerCase() === "hdr";
  const other = isHeader ? "img" : "hdr";
  const cased = ending === ending.toUpperCase() ? other.toUpperCase() : other;
  const candidates = [`${stem}${cased}${packed}`, `${stem}${cased}${packed ? "" : ".gz"}`];
  for (const beside of candidates)
    if (await stat(beside).catch(() => undefined))
      return isHeader ? { header: path, image: beside } : { header: beside, image: path };
  throw dataError(path, "volume", `its other part ${candidates[0]} beside it`, "none");
}

/** What follows a header, or the other file of a pair. */
async function readVoxels(stream: ByteStream, header: Header, name: string, options: VolumeReading): Promise<Volume> {
  const { layout, little, single } = header;
  const { shape, spatial } = shapeOf(header, name, options);
  const type = typeOfHeader(header, name);
  const taken = single ? layout.size : 0;
  const least = single ? layout.size + 4 : 0;
  const offset = field(header, "voxOffset") || least;
  if (!(Number.isSafeInteger(offset) && offset >= least))
    throw dataError(name, "volume", `a vox_offset of at least ${least}`, `${offset}`);
  const warnings: string[] = [];
  const head = {
    shape,
    grid: gridOf(header, spatial, warnings),
    format: nifti.name,
    dtype: dtypeOf(type),
    warnings,
    header: header.bytes,
  };
  if (options.headOnly) return { ...head, data: UNREAD, nonFinite: 0 };
  await stream.skip(offset - taken, "what stands before the voxels");
  const count = shape.reduce((product, size) => product * size, 1);
  const stored = numbersOf(
    await stream.take(count * bytesOf(type), `voxels (${shape.join("×")} of ${dtypeOf(type)})`),
    type,
    !little,
    name,
  );
  await stream.end();
  const [slope, intercept] = [field(header, "slope"), field(header, "intercept")];
  const scales = slope !== 0 && Number.isFinite(slope);
  if (scales && !Number.isFinite(intercept))
    throw dataError(name, "volume", "a finite scl_inter beside its scl_slope", `${intercept}`);
  const data = scales && !(slope === 1 && intercept === 0) ? rescale(stored, slope, intercept) : stored;
  return { ...head, data, nonFinite: countNonFinite(data) };
}

/** [D, H, W] or [C, D, H, W], checked before anything of that size is made. */
function shapeOf(header: Header, name: string, { channels, maxValues }: VolumeReading) {
  const rank = field(header, "dim");
  if (!(rank >= 1 && rank <= 7)) throw dataError(name, "volume", "1 to 7 axes (dim[0])", `${rank}`);
  const dim = Array.from({ length: 7 }, (_, axis) => (axis < rank ? field(header, "dim", axis + 1) : 1));
  const shown = dim.slice(0, rank).join("×");
  if (!dim.every((size) => Number.isSafeInteger(size) && size >= 1))
    throw dataError(name, "volume", "axes of 1 voxel or more (dim)", shown);
  const count = dim.reduce((product, size) => product * size, 1);
  checkCount(count, shown, name, maxValues);
  const [width, height, depth, ...others] = dim as [number, number, number, ...number[]];
  const spatial = [depth, height, width] as const;
  const more = others.filter((size) => size > 1);
  if (more.length > 1) throw dataError(name, "volume", "at most one axis beside the three of space", shown);
  return { shape: shapeWith(more[0] ?? 1, spatial, shown, name, channels), spatial };
}

function typeOfHeader(header: Header, name: string): NumberType {
  const code = field(header, "datatype");
  const type = TYPES[code];
  if (!type) {
    const received = OTHER_TYPES[code] ?? "an unknown type";
    throw dataError(name, "volume", "integers, or floats of 32 or 64 bits", `${received}, datatype ${code}`);
  }
  const bits = field(header, "bitpix");
  if (bits !== 8 * bytesOf(type)) {
    const expected = `bitpix ${8 * bytesOf(type)}, as its datatype ${code} (${dtypeOf(type)}) has`;
    throw dataError(name, "volume", expected, `${bits}`);
  }
  return type;
}

/** Where the voxels lie: by the sform, else by the qform, else the voxel sizes alone, as nibabel does. */
function gridOf(header: Header, shape: Grid["shape"], warnings: string[]): Grid | null {
  const code = field(header, "units") & 7;
  const unit = UNITS[code];
  const millimetres = unit?.millimetres ?? 1;
  if (code !== 0 && !unit) warnings.push(`Its unit of length has the unknown code ${code}; taken as millimetres.`);
  if (unit && millimetres !== 1)
    warnings.push(`Its unit of length is ${unit.name}; the affine was converted to millimetres.`);
  const rows = sform(header) ?? voxelRows(header, shape, warnings);
  if (!rows) return null;
  const affine = affineOfRows(rows.map((row) => row.map((value) => value * millimetres)));
  if (affine) return { shape, affine };
  warnings.push("Its affine is not finite or has no inverse: where the voxels lie is unknown.");
  return null;
}

function sform(header: Header): number[][] | undefined {
  if (!(field(header, "sform") > 0)) return undefined;
  return [0, 1, 2].map((row) => [0, 1, 2, 3].map((column) => field(header, "srow", 4 * row + column)));
}

/** The rows by the qform, or by the voxel sizes alone; undefined where these are not said. */
function voxelRows(header: Header, shape: Grid["shape"], warnings: string[]): number[][] | undefined {
  const rank = field(header, "dim");
  const byQform = field(header, "qform") > 0;
  const sides = [1, 2, 3].map((axis) => {
    // nibabel leaves out the voxel sizes beyond the file's axes for the centred affine only.
    const stored = axis <= rank || byQform ? field(header, "pixdim", axis) : 1;
    return stored === 0 && shape[3 - axis] === 1 ? 1 : stored;
  });
  if (!sides.every((side) => Number.isFinite(side) && side !== 0)) {
    warnings.push(`Its voxel sizes (pixdim) are ${sides.join(", ")}: where the voxels lie is unknown.`);
    return undefined;
  }
  if (sides.some((side) => side < 0)) warnings.push("Its voxel sizes (pixdim) are negative; taken without the sign.");
  const lengths = sides.map(Math.abs);
  if (byQform) return qform(header, lengths);
  warnings.push(
    "Its orientation and position are unknown (no sform, no qform): x is taken to run to the left, the centre as origin.",
  );
  return lengths.map((length, axis) => {
    const step = axis === 0 ? -length : length;
    const row = [0, 0, 0, -0.5 * ((shape[2 - axis] as number) - 1) * step];
    row[axis] = step;
    return row;
  });
}

/** The rotation of a quaternion, its columns times the voxel sizes, the third one turned round where qfac is negative. */
function qform(header: Header, lengths: readonly number[]): number[][] {
  const [b, c, d] = [0, 1, 2].map((i) => field(header, "quaternion", i)) as [number, number, number];
  const rest = 1 - (b * b + c * c + d * d);
  const a = rest < header.layout.epsilon ? 0 : Math.sqrt(rest);
  const s = 2 / (a * a + b * b + c * c + d * d);
  const rotation = [
    [1 - s * (c * c + d * d), s * (b * c - a * d), s * (b * d + a * c)],
    [s * (b * c + a * d), 1 - s * (b * b + d * d), s * (c * d - a * b)],
    [s * (b * d - a * c), s * (c * d + a * b), 1 - s * (b * b + c * c)],
  ];
  const qfac = field(header, "pixdim") < 0 ? -1 : 1;
  return rotation.map((row, i) => [
    ...row.map((value, axis) => value * (lengths[axis] as number) * (axis === 2 ? qfac : 1)),
    field(header, "qoffset", i),
  ]);
}

/** A header of its own for a volume: an sform in millimetres, of codes that say no more than that. */
function freshHeader({ shape, grid, name }: VolumeWriting): Header {
  if (!grid) fail("ERR_LE_VALUE", name, "a grid (NIfTI says where a volume lies)", "null");
  const sizes = [...shape].reverse();
  const layout = LAYOUTS[sizes.some((size) => size > 32_767) ? 1 : 0] as Layout;
  const bytes = new Uint8Array(layout.size);
  const header = { layout, little: true, single: true, view: new DataView(bytes.buffer), bytes };
  header.view.setInt32(0, layout.size, true);
  const spacing = spacingOf(grid);
  setField(header, "pixdim", 1);
  for (let axis = 1; axis <= 7; axis++) {
    setField(header, "dim", 1, axis);
    setField(header, "pixdim", spacing[3 - axis] ?? 1, axis);
  }
  setField(header, "dim", 3);
  for (let axis = 0; axis < 3; axis++) setField(header, "dim", sizes[axis] as number, axis + 1);
  setField(header, "units", 2);
  setField(header, "sform", 2);
  for (let i = 0; i < 12; i++) setField(header, "srow", (grid.affine[i >> 2] as AffineRow)[i & 3] as number, i);
  return header;
}

/** A header as it was read, in memory of its own. */
function keptHeader(stored: Uint8Array): Header {
  const bytes = new Uint8Array(stored);
  const found = layoutOf(Buffer.from(bytes.buffer)) as { layout: Layout; little: boolean };
  return { ...found, single: true, view: new DataView(bytes.buffer), bytes };
}

/** A file's bytes: the header of the input where there is one, but for what says how the values are stored. */
async function encode(volume: VolumeWriting): Promise<Uint8Array> {
  const { data, shape, header: stored, label } = volume;
  const header = stored ? keptHeader(stored) : freshHeader(volume);
  const { layout, bytes, little } = header;
  const type = typeOf(data);
  setField(header, "datatype", Number(Object.entries(TYPES).find(([, one]) => one === type)?.[0]));
  setField(header, "bitpix", 8 * bytesOf(type));
  for (const name of ["slope", "intercept", "calMax", "calMin"] as const) setField(header, name, 0);
  if (label) setField(header, "intent", 0);
  setField(header, "voxOffset", layout.size + 4);
  bytes.set(Buffer.from(layout.magic.single, "latin1"), layout.magic.at);
  const channels = shape.length === 4 ? (shape[0] as number) : 1;
  const rank = field(header, "dim");
  const before = Array.from({ length: Math.max(0, rank - 3) }, (_, i) => field(header, "dim", i + 4));
  if (before.reduce((product, size) => product * size, 1) !== channels) {
    setField(header, "dim", channels === 1 ? 3 : 4);
    for (let axis = 4; axis <= 7; axis++) setField(header, "dim", axis === 4 ? channels : 1, axis);
  }
  return Buffer.concat([bytes, new Uint8Array(4), toBytes(data, !little)]);
}

/** NIfTI-1 and NIfTI-2. */
export const nifti: VolumeFormat = {
  name: "nifti",
  title: "NIfTI",
  extensions: [".nii.gz", ".nii", ".hdr", ".img", ".hdr.gz", ".img.gz"],
  beside: [".img", ".img.gz"],
  begins: (head) => {
    const found = layoutOf(head);
    return found !== undefined && magicOf(found.layout, head) !== undefined;
  },
  read,
  write: { ".nii.gz": async (volume) => compress(await encode(volume)), ".nii": encode },
};
