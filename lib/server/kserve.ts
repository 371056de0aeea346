// The Open Inference Protocol (KServe v2) over HTTP, with its binary tensor extension:
// https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
// https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
import type { NdArray, NumericArray } from "../arrays.js";
import { halfToFloat } from "../data/npy.js";
import { atOwnSize } from "../data/own-size.js";
import { type Placement, storedGrid } from "../data/preprocess.js";
import { type StoredImage, toStored } from "../data/stored.js";
import { LayerEnsemblesError } from "../errors.js";
import type { Affine, Grid } from "../grid/index.js";
import { checkGrid } from "../grid/placed.js";
import { checkOptions, describe } from "../options.js";
import { IMAGE_SCORE_NAMES, snake } from "../scores/scores.js";
import { MAP_NAMES } from "../uncertainty/index.js";
import {
  type ImageKind,
  type Prepared,
  prepareArray,
  restorePrediction,
  type SpatialPrediction,
} from "./image-work.js";
import { byTiles, TILE_CHOICES, type TileChoices } from "./tiles.js";

/** The one input tensor. */
export const INPUT = "image";

/** What an infer request can be answered with, by name; -1 is a size that depends on the request, C the number of classes. */
export const TENSORS: Readonly<Record<string, { datatype: DatatypeName | "BYTES"; perImage: "S" | "C×S" | "1" }>> = {
  mask: { datatype: "UINT8", perImage: "S" },
  probabilities: { datatype: "FP32", perImage: "C×S" },
  ...Object.fromEntries(MAP_NAMES.map((map) => [map, { datatype: "FP32", perImage: "S" } as const])),
  ...Object.fromEntries(IMAGE_SCORE_NAMES.map((name) => [snake(name), { datatype: "FP64", perImage: "1" } as const])),
  empty: { datatype: "BOOL", perImage: "1" },
  decision: { datatype: "BYTES", perImage: "1" },
};

/** How the numbers of a type are read: from bytes of their own (little-endian), and from JSON. */
interface Datatype {
  bytes: number;
  read(bytes: ArrayBuffer): NumericArray;
  /** What JSON is read into. */
  Type: new (
    length: number,
  ) => NumericArray;
  /** The nearest number of the type; undefined for what is none. */
  accept(value: unknown): number | undefined;
}

const numbers = (accepts: (value: number) => number | undefined) => (value: unknown) =>
  typeof value === "number" ? accepts(value) : undefined;
const integers = (low: number, high: number) =>
  numbers((value) => (Number.isInteger(value) && value >= low && value <= high ? value : undefined));
const finite = (value: number) => (Number.isFinite(value) ? value : undefined);

/** Types that an image may have. 64-bit integers beyond ±2⁵³ are refused: they would not stay what they are. */
const DATATYPES = {
  BOOL: {
    bytes: 1,
    Type: Uint8Array,
    read: (bytes) => exact(new Uint8Array(bytes), (value) => value <= 1, "0 or 1"),
    accept: (value) => (typeof value === "boolean" ? Number(value) : integers(0, 1)(value)),
  },
  UINT8: { bytes: 1, Type: Uint8Array, read: (bytes) => new Uint8Array(bytes), accept: integers(0, 255) },
  UINT16: { bytes: 2, Type: Uint16Array, read: (bytes) => new Uint16Array(bytes), accept: integers(0, 65_535) },
  UINT32: { bytes: 4, Type: Uint32Array, read: (bytes) => new Uint32Array(bytes), accept: integers(0, 2 ** 32 - 1) },
  UINT64: {
    bytes: 8,
    Type: Float64Array,
    read: (bytes) => fromBig(new BigUint64Array(bytes)),
    accept: integers(0, Number.MAX_SAFE_INTEGER),
  },
  INT8: { bytes: 1, Type: Int8Array, read: (bytes) => new Int8Array(bytes), accept: integers(-128, 127) },
  INT16: { bytes: 2, Type: Int16Array, read: (bytes) => new Int16Array(bytes), accept: integers(-32_768, 32_767) },
  INT32: {
    bytes: 4,
    Type: Int32Array,
    read: (bytes) => new Int32Array(bytes),
    accept: integers(-(2 ** 31), 2 ** 31 - 1),
  },
  INT64: {
    bytes: 8,
    Type: Float64Array,
    read: (bytes) => fromBig(new BigInt64Array(bytes)),
    accept: integers(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
  },
  FP16: {
    bytes: 2,
    Type: Float32Array,
    read: (bytes) => mapped(new Uint16Array(bytes), halfToFloat),
    accept: numbers((value) => finite(roundedTo(value, 10, -14, 15))),
  },
  BF16: {
    bytes: 2,
    Type: Float32Array,
    // The upper half of a float.
    read: (bytes) => new Float32Array(mapped(new Uint16Array(bytes), (bits) => bits * 65_536, Uint32Array).buffer),
    accept: numbers((value) => finite(roundedTo(value, 7, -126, 127))),
  },
  FP32: {
    bytes: 4,
    Type: Float32Array,
    read: (bytes) => new Float32Array(bytes),
    accept: numbers((value) => finite(Math.fround(value))),
  },
  FP64: { bytes: 8, Type: Float64Array, read: (bytes) => new Float64Array(bytes), accept: numbers(finite) },
} as const satisfies Record<string, Datatype>;

type DatatypeName = keyof typeof DATATYPES;
const DATATYPE_NAMES = Object.keys(DATATYPES) as DatatypeName[];

function mapped<T extends NumericArray = Float32Array>(
  from: Uint16Array,
  to: (value: number) => number,
  Type = Float32Array as unknown as new (
    length: number,
  ) => T,
): T {
  const out = new Type(from.length);
  for (let i = 0; i < from.length; i++) out[i] = to(from[i] as number);
  return out;
}

function exact<T extends NumericArray>(values: T, fits: (value: number) => boolean, expected: string): T {
  const bad = values.findIndex((value: number) => !fits(value));
  if (bad >= 0) refuse("ERR_LE_DATA", expected, `the data of ${INPUT}`, `${values[bad]} at index ${bad}`);
  return values;
}

function fromBig(values: BigInt64Array | BigUint64Array): Float64Array {
  const out = new Float64Array(values.length);
  for (let i = 0; i < out.length; i++) out[i] = Number(values[i]);
  return exact(out, Number.isSafeInteger, "integers from -2⁵³ to 2⁵³");
}

/** The nearest number with so many bits after the binary point, ties to even; infinity beyond the largest exponent. */
function roundedTo(value: number, bits: number, smallest: number, largest: number): number {
  const exponent = Math.max(smallest, Math.floor(Math.log2(Math.abs(value) || 1)));
  const unit = 2 ** (exponent - bits);
  const below = Math.floor(value / unit);
  const rest = value / unit - below;
  const rounded = (below + (rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? 1 : 0)) * unit;
  return Math.abs(rounded) >= 2 ** (largest + 1) ? Number.POSITIVE_INFINITY : rounded;
}

/** Parts of a JSON text that are more than numbers: each takes a hundred bytes and more once it is read. */
const MAX_STRUCTURE = 2 ** 18;
/** Characters of an id. */
const MAX_ID = 1000;
/** Extensions that change what is answered, or where from; not offered. */
const REFUSED_PARAMETERS = [
  "shared_memory_region",
  "shared_memory_offset",
  "shared_memory_byte_size",
  "classification",
];

/** An output that a request asks for. */
export interface RequestedOutput {
  name: string;
  binary: boolean;
}

/** What an infer request says. */
export interface InferRequest {
  id?: string;
  outputs: RequestedOutput[];
  images: Prepared[];
  /** Of tiles, by the request's parameters. */
  choices: TileChoices;
}

/**
 * Reads an infer request: JSON, or JSON of `headerLength` bytes followed by the binary tensor. Its input `image` holds stored
 * values, N×C×H×W (N×C×D×H×W for a model of volumes), which are prepared as the model's training images were. Its parameter `affine`
 * says where volumes lie.
 * @throws ERR_LE_DATA, ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_TOO_LARGE
 */
export async function parseInfer(task: {
  bytes: Uint8Array;
  headerLength?: number;
  kind: ImageKind;
  maxImages: number;
}): Promise<InferRequest> {
  const { bytes, kind, maxImages } = task;
  const headerLength = task.headerLength ?? bytes.length;
  if (headerLength > bytes.length)
    refuse("ERR_LE_DATA", `at least ${headerLength} bytes`, "the body", `${bytes.length}`);
  const request = parseJson(bytes.subarray(0, headerLength));
  const { id, inputs, parameters } = request;
  if (id !== undefined && (typeof id !== "string" || id.length > MAX_ID))
    refuse("ERR_LE_DATA", `a string of at most ${MAX_ID} characters`, "id", describe(id));
  if (!Array.isArray(inputs) || inputs.length !== 1 || inputs[0]?.name !== INPUT)
    refuse("ERR_LE_DATA", `one tensor "${INPUT}"`, "inputs", describe(inputs));
  const given = parametersOf(parameters, "the request");
  const binaryOutput = flag(given, "binary_data_output") ?? false;
  const choices = tileChoices(given);
  const outputs = parseOutputs(request.outputs, binaryOutput);
  const tensor = parseTensor(inputs[0], headerLength, bytes.subarray(headerLength));
  const own = byTiles(choices) ? { ...kind, preprocessing: atOwnSize(kind.preprocessing) } : kind;
  const images: Prepared[] = [];
  for (const image of split(tensor, own, maxImages)) images.push(await prepareArray(image, own));
  return { ...(id !== undefined && { id }), outputs, images, choices };
}

/** Parameters are texts, numbers and booleans: several axes have commas between them. */
function tileChoices({ tile, overlap, mirror }: Record<string, unknown>): TileChoices {
  const axes = typeof mirror === "string" ? mirror.split(",").filter(Boolean) : mirror;
  return checkOptions<TileChoices>("the request", { tile, overlap, mirror: axes } as TileChoices, TILE_CHOICES);
}

function parseJson(bytes: Uint8Array): Record<string, unknown> {
  // V8 ends the process, not the thread, where its heap does not suffice for what JSON.parse makes.
  let structure = 0;
  for (const byte of bytes) if (byte === 0x5b || byte === 0x7b || byte === 0x3a || byte === 0x22) structure++;
  if (structure > MAX_STRUCTURE)
    refuse("ERR_LE_TOO_LARGE", `at most ${MAX_STRUCTURE} lists, names and texts`, "the request", `${structure}`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    refuse("ERR_LE_DATA", "JSON", "the request", "something else");
  }
  if (!isRecord(value)) refuse("ERR_LE_DATA", "a JSON object", "the request", describe(value));
  return value;
}

function parseOutputs(outputs: unknown, binaryOutput: boolean): RequestedOutput[] {
  if (outputs === undefined || (Array.isArray(outputs) && outputs.length === 0))
    return Object.keys(TENSORS).map((name) => ({ name, binary: binaryOutput }));
  if (!Array.isArray(outputs) || outputs.length > 64)
    refuse("ERR_LE_DATA", "a list of tensors", "outputs", describe(outputs));
  const seen = new Set<string>();
  return outputs.map((output: unknown) => {
    const { name, parameters } = isRecord(output) ? output : {};
    if (typeof name !== "string" || !Object.hasOwn(TENSORS, name))
      refuse("ERR_LE_DATA", `one of ${Object.keys(TENSORS).join(", ")}`, "an output's name", describe(name));
    if (seen.has(name)) refuse("ERR_LE_DATA", "distinct tensors", "outputs", `${describe(name)} twice`);
    seen.add(name);
    return { name, binary: flag(parametersOf(parameters, `output ${name}`), "binary_data") ?? binaryOutput };
  });
}

/** Unknown ones are for other servers, and passed over as the protocol has it. */
function parametersOf(parameters: unknown, what: string): Record<string, unknown> {
  if (parameters === undefined || parameters === null) return {};
  if (!isRecord(parameters)) refuse("ERR_LE_DATA", "an object", `the parameters of ${what}`, describe(parameters));
  const refused = REFUSED_PARAMETERS.find((name) => Object.hasOwn(parameters, name));
  if (refused)
    refuse(
      "ERR_LE_DATA",
      "tensors in the request and the answer",
      what,
      `${refused}, which this server does not offer`,
    );
  return parameters;
}

function flag(parameters: Record<string, unknown>, name: string): boolean | undefined {
  const value = parameters[name];
  if (value === undefined || typeof value === "boolean") return value;
  refuse("ERR_LE_DATA", "true or false", `parameter ${name}`, describe(value));
}

/** The input, and where its volumes lie, as its parameter says. */
interface Tensor extends NdArray<NumericArray> {
  affine: unknown;
}

function parseTensor(input: Record<string, unknown>, jsonLength: number, binary: Uint8Array): Tensor {
  const { datatype, shape, data, parameters } = input;
  const type = DATATYPE_NAMES.find((name) => name === datatype);
  if (!type)
    refuse("ERR_LE_DATA", `one of ${DATATYPE_NAMES.join(", ")}`, `the datatype of ${INPUT}`, describe(datatype));
  const reader: Datatype = DATATYPES[type];
  if (!Array.isArray(shape) || shape.length > 8 || !shape.every((side) => Number.isSafeInteger(side) && side > 0))
    refuse("ERR_LE_SHAPE", "positive sizes", `the shape of ${INPUT}`, describe(shape));
  const count = shape.reduce((product, side) => product * side, 1);
  const { binary_data_size: size, affine } = parametersOf(parameters, `input ${INPUT}`);
  if (size === undefined) {
    if (binary.length > 0) refuse("ERR_LE_DATA", "binary_data_size", `the parameters of ${INPUT}`, "none");
    // A number takes a byte at least, so that a shape alone makes nothing large.
    if (count > jsonLength) refuse("ERR_LE_SHAPE", `${count} numbers, by its shape,`, INPUT, "fewer");
    return { data: flatten(data, new reader.Type(count), reader), shape, affine };
  }
  if (data !== undefined) refuse("ERR_LE_DATA", "binary data or JSON", INPUT, "both");
  if (size !== binary.length || size !== count * reader.bytes)
    refuse(
      "ERR_LE_DATA",
      `${count * reader.bytes} bytes of ${type}`,
      INPUT,
      `binary_data_size ${describe(size)} and ${binary.length} bytes`,
    );
  // Copied: behind the JSON the numbers need not be aligned.
  return { data: reader.read(new Uint8Array(binary).buffer), shape, affine };
}

/** Numbers in nested lists, in row-major order. */
function flatten<T extends NumericArray>(data: unknown, out: T, { accept }: Datatype): T {
  let at = 0;
  const visit = (item: unknown, depth: number) => {
    if (Array.isArray(item) && depth < 8) for (const inner of item) visit(inner, depth + 1);
    else {
      if (at === out.length) refuse("ERR_LE_SHAPE", `${out.length} numbers, by its shape,`, INPUT, "more");
      const value = accept(item);
      if (value === undefined) refuse("ERR_LE_DATA", "numbers of its datatype", `the data of ${INPUT}`, describe(item));
      out[at++] = value;
    }
  };
  visit(data, 0);
  if (at !== out.length) refuse("ERR_LE_SHAPE", `${out.length} numbers, by its shape,`, INPUT, `${at}`);
  return out;
}

/** The images of a batch. */
function split({ data, shape, affine }: Tensor, kind: ImageKind, maxImages: number): StoredImage[] {
  const { preprocessing, spatialAxes } = kind;
  if (shape.length !== spatialAxes + 2) {
    const expected = spatialAxes === 2 ? "N×C×H×W" : "N×C×D×H×W";
    refuse("ERR_LE_SHAPE", expected, `the shape of ${INPUT}`, describe(shape));
  }
  const [count = 0, ...one] = shape;
  if (count > maxImages) refuse("ERR_LE_TOO_LARGE", `at most ${maxImages} images`, "a request", `${count}`);
  const length = data.length / count;
  const wanted = { channels: preprocessing.channels, spatialAxes };
  const grids = affine === undefined ? undefined : gridsOf(affine, count, one);
  return Array.from({ length: count }, (_, i) => ({
    ...toStored({ data: data.slice(i * length, (i + 1) * length), shape: one }, INPUT, wanted),
    ...(grids && { grid: grids[i] ?? (grids[0] as Grid) }),
  }));
}

/** Numbers of an affine. */
const NUMBERS = 16;

/**
 * Where volumes lie: 16 numbers, row by row, for all of them, or so many for each; as a text with commas between them, which is what the
 * protocol has for parameters, or as a list.
 * @param shape C×D×H×W
 */
function gridsOf(affine: unknown, count: number, shape: readonly number[]): Grid[] {
  const what = `parameter affine of ${INPUT}`;
  if (shape.length !== 4) refuse("ERR_LE_DATA", "none, as images have no place in the world,", what, "one");
  const parts = typeof affine === "string" ? affine.split(",") : Array.isArray(affine) ? affine.flat() : [affine];
  const values = parts.map((part) => (typeof part === "string" && part.trim() !== "" ? Number(part) : part));
  if (![NUMBERS, NUMBERS * count].includes(values.length) || !values.every(Number.isFinite)) {
    const each = count > 1 ? `, or ${NUMBERS * count} for ${count} volumes` : "";
    refuse("ERR_LE_DATA", `a text of 16 numbers, row by row with commas between them${each},`, what, describe(affine));
  }
  return Array.from({ length: values.length / NUMBERS }, (_, i) => {
    const rows = [0, 4, 8, 12].map((at) => values.slice(i * NUMBERS + at, i * NUMBERS + at + 4));
    const grid = { shape: shape.slice(1) as unknown as Grid["shape"], affine: rows as unknown as Affine };
    checkGrid(what, grid);
    return grid;
  });
}

/** Affines of the images as a parameter: one where all have the same, else one after another; undefined where nobody says where they lie. */
function affineText(placements: readonly Placement[]): string | undefined {
  const texts = placements.map((placement) => storedGrid(placement)?.affine.flat().join(","));
  return new Set(texts).size === 1 ? texts[0] : texts.join(",");
}

/** What of an image an answer may need. */
export interface InferResult {
  prediction: SpatialPrediction;
  placement: Placement;
  /** By the name of its tensor. */
  scores: Readonly<Record<string, number>>;
  empty: boolean;
  /** `accept`, `review`, or empty where no decision is made. */
  decision: string;
  /** State of the certificate that it was made by; undefined where the run has none. */
  certificate?: string;
}

/** An answer's bytes; with binary tensors, how many of the first are JSON. */
export interface InferAnswer {
  /** The body. */
  bytes: Uint8Array;
  /**
   * Bytes of JSON before the binary tensors, for the header Inference-Header-Content-Length; undefined where all is
   * JSON.
   */
  headerLength?: number;
}

/** Writes the answer to an infer request. All images have one stored size. What is not defined is NaN, in JSON null. */
export function writeInfer(task: {
  model: string;
  version: string;
  id?: string;
  outputs: readonly RequestedOutput[];
  results: readonly InferResult[];
}): InferAnswer {
  const { model, version, id, outputs, results } = task;
  const restored = results.map(({ prediction, placement }) => restorePrediction(prediction, placement));
  const tensor = (name: string): NdArray<NumericArray> | { data: string[]; shape: number[] } => {
    const shape = [results.length];
    if (name in (results[0]?.scores ?? {}))
      return { data: Float64Array.from(results, ({ scores }) => scores[name] as number), shape };
    switch (name) {
      case "empty":
        return { data: Uint8Array.from(results, (result) => Number(result.empty)), shape };
      case "decision":
        return { data: results.map((result) => result.decision), shape };
      case "mask":
        return stack(restored.map(({ mask }) => mask));
      case "probabilities":
        return stack(restored.map(({ probabilities }) => probabilities));
      default:
        return stack(restored.map(({ maps }) => maps[name as (typeof MAP_NAMES)[number]] as NdArray));
    }
  };
  const binary: Uint8Array[] = [];
  const json: Uint8Array[] = [];
  const write = (text: string) => json.push(Buffer.from(text));
  const [first] = results;
  const affine = affineText(results.map(({ placement }) => placement));
  const parameters = first?.certificate && { certificate: results.map(({ certificate }) => certificate).join(",") };
  const head = JSON.stringify({
    ...{ model_name: model, model_version: version },
    ...(id !== undefined && { id }),
    ...(parameters && { parameters }),
  });
  write(`${head.slice(0, -1)},"outputs":[`);
  for (const [i, { name, binary: asBinary }] of outputs.entries()) {
    const { data, shape } = tensor(name);
    const { datatype, perImage = "1" } = TENSORS[name] ?? {};
    const base = JSON.stringify({ name, datatype, shape }).slice(0, -1);
    write(`${i > 0 ? "," : ""}${base}`);
    // What lies where the image does, voxel on voxel.
    const own = affine !== undefined && perImage !== "1" ? { affine } : {};
    if (asBinary) {
      const bytes = Array.isArray(data)
        ? encodeStrings(data)
        : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      binary.push(bytes);
      write(`,"parameters":${JSON.stringify({ ...own, binary_data_size: bytes.length })}}`);
    } else {
      if (Object.keys(own).length > 0) write(`,"parameters":${JSON.stringify(own)}`);
      write(`,"data":[`);
      // In parts: as one text it might not fit the thread's heap.
      for (let at = 0; at < data.length; at += STEP) {
        const part = Array.from<unknown>(data.slice(at, at + STEP));
        write(`${at > 0 ? "," : ""}${JSON.stringify(name === "empty" ? part.map(Boolean) : part).slice(1, -1)}`);
      }
      write("]}");
    }
  }
  write("]}");
  const bytes = new Uint8Array([...json, ...binary].reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of [...json, ...binary]) {
    bytes.set(part, at);
    at += part.length;
  }
  const headerLength = json.reduce((sum, part) => sum + part.length, 0);
  return { bytes, ...(binary.length > 0 && { headerLength }) };
}

/** Numbers that are written as JSON in one go. */
const STEP = 65_536;

function stack<T extends Float32Array | Uint8Array>(arrays: readonly NdArray<T>[]): NdArray<T> {
  const [first] = arrays as [NdArray<T>];
  const data = new (first.data.constructor as new (length: number) => T)(arrays.length * first.data.length);
  for (const [i, array] of arrays.entries()) data.set(array.data, i * first.data.length);
  return { data, shape: [arrays.length, ...first.shape] };
}

/** Each with its length before it, as four bytes. */
function encodeStrings(strings: readonly string[]): Uint8Array {
  return Buffer.concat(
    strings.flatMap((text) => {
      const bytes = Buffer.from(text);
      const length = Buffer.alloc(4);
      length.writeUInt32LE(bytes.length);
      return [length, bytes];
    }),
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

type Refusal = "ERR_LE_DATA" | "ERR_LE_SHAPE" | "ERR_LE_TOO_LARGE";

function refuse(code: Refusal, expected: string, what: string, received: string): never {
  throw new LayerEnsemblesError(code, `Expected ${expected} for ${what} but received ${received}.`);
}
