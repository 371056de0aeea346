// The Open Inference Protocol (KServe v2) over HTTP, with its binary tensor extension:
// https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
// https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
import type { NdArray, NumericArray } from "../arrays.js";
import type { Placement } from "../data/preprocess.js";
import { MAP_NAMES } from "../ensemble/prediction.js";
import { LayerEnsemblesError } from "../errors.js";
import { describe } from "../options.js";
import {
  type ImageKind,
  type Prepared,
  prepareArray,
  restorePrediction,
  type SpatialPrediction,
  type StoredImage,
  storedType,
} from "./image-work.js";

/** The one input tensor. */
export const INPUT = "image";

/** What an infer request can be answered with, by name; -1 is a size that depends on the request, C the number of classes. */
export const TENSORS: Readonly<
  Record<string, { datatype: keyof typeof DATATYPES | "BYTES"; perImage: "S" | "C×S" | "1" }>
> = {
  mask: { datatype: "UINT8", perImage: "S" },
  probabilities: { datatype: "FP32", perImage: "C×S" },
  ...Object.fromEntries(MAP_NAMES.map((map) => [map, { datatype: "FP32", perImage: "S" } as const])),
  aula: { datatype: "FP64", perImage: "1" },
  aula_normalised: { datatype: "FP64", perImage: "1" },
  pairwise_agreement: { datatype: "FP64", perImage: "1" },
  soft_dice_confidence: { datatype: "FP64", perImage: "1" },
  empty: { datatype: "BOOL", perImage: "1" },
  decision: { datatype: "BYTES", perImage: "1" },
};

const DATATYPES = {
  BOOL: Uint8Array,
  UINT8: Uint8Array,
  UINT16: Uint16Array,
  UINT32: Uint32Array,
  INT8: Int8Array,
  INT16: Int16Array,
  INT32: Int32Array,
  FP32: Float32Array,
  FP64: Float64Array,
} as const;

/** Types that an image may have. */
const IMAGE_TYPES = ["UINT8", "UINT16", "UINT32", "INT8", "INT16", "INT32", "FP32", "FP64"] as const;

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
}

/**
 * Reads an infer request: JSON, or JSON of `headerLength` bytes followed by the binary tensor. Its input `image` holds stored
 * values, N×C×H×W (N×C×D×H×W for a model of volumes), which are prepared as the model's training images were.
 * @throws ERR_LE_DATA, ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_TOO_LARGE
 */
export function parseInfer(task: {
  bytes: Uint8Array;
  headerLength?: number;
  kind: ImageKind;
  maxImages: number;
}): InferRequest {
  const { bytes, kind, maxImages } = task;
  const headerLength = task.headerLength ?? bytes.length;
  if (headerLength > bytes.length)
    refuse("ERR_LE_DATA", `at least ${headerLength} bytes`, "the body", `${bytes.length}`);
  const request = parseJson(bytes.subarray(0, headerLength));
  const { id, inputs, parameters } = request;
  if (id !== undefined && typeof id !== "string") refuse("ERR_LE_DATA", "a string", "id", describe(id));
  if (!Array.isArray(inputs) || inputs.length !== 1 || inputs[0]?.name !== INPUT)
    refuse("ERR_LE_DATA", `one tensor "${INPUT}"`, "inputs", describe(inputs));
  const binaryOutput = isRecord(parameters) && parameters.binary_data_output === true;
  const outputs = parseOutputs(request.outputs, binaryOutput);
  const tensor = parseTensor(inputs[0], headerLength, bytes.subarray(headerLength));
  const images = split(tensor, kind, maxImages).map((image) => prepareArray(image, kind));
  return { ...(id !== undefined && { id }), outputs, images };
}

function parseJson(bytes: Uint8Array): Record<string, unknown> {
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
  if (outputs === undefined) return Object.keys(TENSORS).map((name) => ({ name, binary: binaryOutput }));
  if (!Array.isArray(outputs) || outputs.length > 64)
    refuse("ERR_LE_DATA", "a list of tensors", "outputs", describe(outputs));
  return outputs.map((output: unknown) => {
    const { name, parameters } = isRecord(output) ? output : {};
    if (typeof name !== "string" || !Object.hasOwn(TENSORS, name))
      refuse("ERR_LE_DATA", `one of ${Object.keys(TENSORS).join(", ")}`, "an output's name", describe(name));
    const own = isRecord(parameters) ? parameters.binary_data : undefined;
    return { name, binary: typeof own === "boolean" ? own : binaryOutput };
  });
}

function parseTensor(input: Record<string, unknown>, jsonLength: number, binary: Uint8Array): NdArray<NumericArray> {
  const { datatype, shape, data, parameters } = input;
  const type = IMAGE_TYPES.find((name) => name === datatype);
  if (!type) refuse("ERR_LE_DATA", `one of ${IMAGE_TYPES.join(", ")}`, `the datatype of ${INPUT}`, describe(datatype));
  const Type = DATATYPES[type];
  if (!Array.isArray(shape) || shape.length > 8 || !shape.every((side) => Number.isSafeInteger(side) && side > 0))
    refuse("ERR_LE_SHAPE", "positive sizes", `the shape of ${INPUT}`, describe(shape));
  const count = shape.reduce((product, side) => product * side, 1);
  const size = isRecord(parameters) ? parameters.binary_data_size : undefined;
  if (size === undefined) {
    if (binary.length > 0) refuse("ERR_LE_DATA", "binary_data_size", `the parameters of ${INPUT}`, "none");
    // A number takes a byte at least, so that a shape alone makes nothing large.
    if (count > jsonLength) refuse("ERR_LE_SHAPE", `${count} numbers, by its shape,`, INPUT, "fewer");
    return { data: flatten(data, new Type(count)), shape };
  }
  if (size !== binary.length || size !== count * Type.BYTES_PER_ELEMENT)
    refuse(
      "ERR_LE_DATA",
      `${count * Type.BYTES_PER_ELEMENT} bytes of ${type}`,
      INPUT,
      `binary_data_size ${describe(size)} and ${binary.length} bytes`,
    );
  // Copied: behind the JSON the numbers need not be aligned.
  return { data: new Type(new Uint8Array(binary).buffer), shape };
}

/** Numbers in nested lists, in row-major order. */
function flatten<T extends NumericArray>(data: unknown, out: T): T {
  const integers = !(out instanceof Float32Array || out instanceof Float64Array);
  let at = 0;
  const visit = (item: unknown, depth: number) => {
    if (Array.isArray(item) && depth < 8) for (const inner of item) visit(inner, depth + 1);
    else if (typeof item !== "number") refuse("ERR_LE_DATA", "numbers", `the data of ${INPUT}`, describe(item));
    else {
      out[at] = item;
      if (integers && at < out.length && out[at] !== item)
        refuse("ERR_LE_DATA", "numbers of its datatype", `the data of ${INPUT}`, describe(item));
      at++;
    }
  };
  visit(data, 0);
  if (at !== out.length) refuse("ERR_LE_SHAPE", `${out.length} numbers, by its shape,`, INPUT, `${at}`);
  return out;
}

/** The images of a batch. */
function split({ data, shape }: NdArray<NumericArray>, { spatialAxes }: ImageKind, maxImages: number): StoredImage[] {
  if (shape.length !== spatialAxes + 2) {
    const expected = spatialAxes === 2 ? "N×C×H×W" : "N×C×D×H×W";
    refuse("ERR_LE_SHAPE", expected, `the shape of ${INPUT}`, describe(shape));
  }
  const [count = 0, ...one] = shape;
  if (count > maxImages) refuse("ERR_LE_TOO_LARGE", `at most ${maxImages} images`, "a request", `${count}`);
  const length = data.length / count;
  const stored = storedType(data);
  return Array.from({ length: count }, (_, i) => ({ data: stored.slice(i * length, (i + 1) * length), shape: one }));
}

/** What of an image an answer may need. */
export interface InferResult {
  prediction: SpatialPrediction;
  placement: Placement;
  aula: number;
  aulaNormalised: number;
  pairwiseAgreement: number;
  softDiceConfidence: number;
  empty: boolean;
  /** `accept`, `review`, or empty where no decision is made. */
  decision: string;
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
    const numbers = (of: (result: InferResult) => number) => ({ data: Float64Array.from(results, of), shape });
    switch (name) {
      case "aula":
        return numbers((result) => result.aula);
      case "aula_normalised":
        return numbers((result) => result.aulaNormalised);
      case "pairwise_agreement":
        return numbers((result) => result.pairwiseAgreement);
      case "soft_dice_confidence":
        return numbers((result) => result.softDiceConfidence);
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
  const described = outputs.map(({ name, binary: asBinary }) => {
    const { data, shape } = tensor(name);
    const base = { name, datatype: TENSORS[name]?.datatype, shape };
    if (!asBinary) return { ...base, data: name === "empty" ? Array.from(data, Boolean) : Array.from<unknown>(data) };
    const bytes = Array.isArray(data)
      ? encodeStrings(data)
      : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    binary.push(bytes);
    return { ...base, parameters: { binary_data_size: bytes.length } };
  });
  const header = { model_name: model, model_version: version, ...(id !== undefined && { id }), outputs: described };
  const json = new TextEncoder().encode(JSON.stringify(header));
  if (binary.length === 0) return { bytes: json };
  return { bytes: new Uint8Array(Buffer.concat([json, ...binary])), headerLength: json.length };
}

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
