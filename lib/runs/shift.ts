// shift.….safetensors of a run: what `tune` learned of the training's images. Its name has a part of its hash, so that the file
// that run.json names stays as it is until run.json names another.
import { createHash } from "node:crypto";
import { readdir, rm } from "node:fs/promises";
import path from "node:path";
import type { NdArray } from "../arrays.js";
import { readRegular, writeAtomic } from "../data/files.js";
import { parseJson } from "../data/json.js";
import type { SeenImage } from "../data/leaks.js";
import { decodeSafetensors, encodeSafetensors, type Tensors } from "../data/safetensors.js";
import { LayerEnsemblesError } from "../errors.js";
import { checkOptions, option } from "../options.js";
import { BESIDE, MEASURES, type ShiftFit, type TapSpace } from "../shift/index.js";
import { weightsHash } from "./identity.js";
import { RUN_FILES, type Run, type RunContent } from "./run.js";

/** Version of the file's layout; the first had layers alone, each without its input. */
const FORMAT = "2";
/** No fit is as large; what is larger would take memory before it could be refused. */
const MAX_BYTES = 2 ** 28;

/** What a run knows of its training images. */
export interface RunShift {
  /** Null where nothing was learned, or what was does not hold. */
  fit: ShiftFit | null;
  /** Hash of the training images that it was made of; null without a fit. */
  images: string | null;
  /** Why one that is there does not hold; null where nothing is wrong. */
  stale: string | null;
}

/** A fit as `tune` made it. */
export interface FittedShift {
  fit: ShiftFit;
  /** See {@link RunShift.images}. */
  images: string;
}

/** Nothing is known. */
export const NO_SHIFT: RunShift = { fit: null, images: null, stale: null };

/** The file of that hash. */
export const shiftFile = (hash: string) => RUN_FILES.shift.replace(".", `.${hash.slice(0, 16)}.`);
const [BEFORE, BEHIND] = RUN_FILES.shift.split(".") as [string, string];

/** Removes the files that run.json does not name, once it is written. */
export async function removeOtherShifts(folder: string, { shift }: Pick<Run, "shift">): Promise<void> {
  const named = shift && shiftFile(shift.hash);
  const isOne = new RegExp(`^${BEFORE}\\.[0-9a-f]{16}\\.${BEHIND}$`);
  for (const name of await readdir(folder))
    if (isOne.test(name) && name !== named) await rm(path.join(folder, name), { force: true });
}

/** Hexadecimal SHA-256 of the images' ids and contents, whatever their order. */
export function imagesHash(images: readonly SeenImage[]): string {
  const lines = images.map(([id, content]) => JSON.stringify([id, content])).sort();
  return createHash("sha256").update(lines.join("\n")).digest("hex");
}

/**
 * Writes the file of a run whose weights are there.
 * @param weights their hash, where it is known
 * @returns what the run's run.json says of it
 * @throws ERR_LE_IO
 */
export async function writeShift(
  folder: string,
  run: RunContent,
  { fit, images }: FittedShift,
  weights?: string,
): Promise<NonNullable<Run["shift"]>> {
  const made = { images, weights: weights ?? (await weightsHash(folder, run)) };
  const bytes = encodeSafetensors(tensorsOf(fit, made));
  const hash = hashOf(bytes);
  await writeAtomic(path.join(folder, shiftFile(hash)), bytes);
  return { hash };
}

/**
 * Writes again what a model knows, beside weights that are there.
 * @returns the run's description with it, or without any
 * @throws ERR_LE_IO
 */
export async function keepShift(
  folder: string,
  { shift: _, ...run }: RunContent,
  { fit, images }: RunShift = NO_SHIFT,
): Promise<RunContent> {
  return fit && images !== null ? { ...run, shift: await writeShift(folder, run, { fit, images }) } : run;
}

/**
 * Reads the fit that run.json names. One that was made of other weights than the run has is not given, of which a process
 * warning tells.
 * @param weightsNow hash of these
 * @throws ERR_LE_CHECKPOINT where it is missing, damaged, or another one
 */
export async function readShift(
  folder: string,
  run: Run,
  weightsNow = () => weightsHash(folder, run),
): Promise<RunShift> {
  if (!run.shift) return NO_SHIFT;
  const file = path.join(folder, shiftFile(run.shift.hash));
  const refuse = (received: string, cause?: unknown) =>
    new LayerEnsemblesError(
      "ERR_LE_CHECKPOINT",
      `Expected what tune has learned of the training images in ${file} but received ${received}: run tune again.`,
      { cause },
    );
  let read: ReturnType<typeof shiftOf>;
  try {
    const bytes = await readRegular(file, MAX_BYTES);
    if (hashOf(bytes) !== run.shift.hash) throw new Error("another file than run.json names");
    read = shiftOf(decodeSafetensors(bytes));
  } catch (cause) {
    throw refuse((cause as Error).message.replace(/\.$/, ""), cause);
  }
  const { weights, ...shift } = read;
  if (weights === (await weightsNow())) return { ...shift, stale: null };
  const stale = `${file} was made of other weights: how far images are from the training's is not known. Run tune again.`;
  process.emitWarning(stale, "LayerEnsemblesWarning");
  return { ...NO_SHIFT, stale };
}

const hashOf = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** A tap's arrays, in the order of the taps. */
const nameOf = (tap: number, array: string) => `${tap}.${array}`;

function tensorsOf(fit: ShiftFit, hashes: { images: string; weights: string }): Tensors {
  const arrays: Tensors["arrays"] = {};
  for (const [t, { floor, mean, whitening, training, distances }] of fit.taps.entries()) {
    const size = whitening.length / mean.length;
    arrays[nameOf(t, "floor")] = { data: floor, shape: [floor.length] };
    arrays[nameOf(t, "mean")] = { data: mean, shape: [mean.length] };
    arrays[nameOf(t, "whitening")] = { data: whitening, shape: [size, mean.length] };
    arrays[nameOf(t, "distances")] = { data: distances, shape: [distances.length] };
    if (training) arrays[nameOf(t, "training")] = { data: training, shape: [training.length / size, size] };
  }
  const { measure, taps, chosen, images } = fit;
  const about = {
    format: FORMAT,
    measure,
    taps: JSON.stringify(taps.map(({ tap }) => tap)),
    chosen: JSON.stringify(chosen),
    parts: JSON.stringify(taps.map(({ parts }) => parts.map((part) => [part.of, part.channels]))),
  };
  return { arrays, metadata: { ...about, trainingImages: String(images.training), ...hashes } };
}

const hash = option.required(option.sha256());
const names = option.required(option.array(option.string(), { min: 1 }));
const METADATA = {
  format: option.required(option.oneOf(["1", FORMAT])),
  measure: option.required(option.oneOf(MEASURES)),
  taps: names,
  chosen: names,
  trainingImages: option.required(option.integer({ min: 1 })),
  images: hash,
  weights: hash,
};

/** @throws Error that says what is wrong */
function shiftOf({ arrays, metadata }: Tensors): FittedShift & { weights: string } {
  const { taps: tapText = "", chosen: chosenText = "", parts: partText, trainingImages, ...texts } = metadata;
  const about = checkOptions(
    "the metadata",
    { ...texts, taps: parseJson(tapText), chosen: parseJson(chosenText), trainingImages: Number(trainingImages) },
    METADATA,
  ) as {
    measure: ShiftFit["measure"];
    taps: string[];
    chosen: string[];
    trainingImages: number;
    images: string;
    weights: string;
  };
  const { measure, taps: tapNames, chosen, images, weights } = about;
  if (new Set(tapNames).size !== tapNames.length) throw new Error("two layers of one name");
  const unknown = chosen.find((tap) => !tapNames.includes(tap));
  if (unknown !== undefined) throw new Error(`a chosen layer ${unknown} that it does not hold`);
  const allParts = partText === undefined ? undefined : partsOf(parseJson(partText), tapNames);
  const taps = tapNames.map((tap, t) => spaceOf(tap, (array) => arrays[nameOf(t, array)], measure, allParts?.[t]));
  const validation = taps[0]?.distances.length ?? 0;
  if (taps.some(({ distances }) => distances.length !== validation))
    throw new Error("layers of different validation images");
  const fit = { measure, taps, chosen, images: { training: about.trainingImages, validation } };
  return { fit, images, weights };
}

/** What each layer's statistics are of. @throws Error */
function partsOf(given: unknown, taps: readonly string[]): TapSpace["parts"][] {
  const isPart = (part: unknown): part is [string, number] =>
    Array.isArray(part) && typeof part[0] === "string" && Number.isInteger(part[1]) && part[1] > 0;
  const of = (parts: unknown, tap: string) => {
    const names = [...BESIDE, tap];
    if (!Array.isArray(parts) || !parts.every(isPart) || !parts.every(([name]) => names.includes(name)))
      return undefined;
    const isOnce = new Set(parts.map(([name]) => name)).size === parts.length;
    return isOnce && parts.at(-1)?.[0] === tap ? parts.map(([name, channels]) => ({ of: name, channels })) : undefined;
  };
  const all = taps.map((tap, t) => (Array.isArray(given) ? of(given[t], tap) : undefined));
  if (!all.every((parts) => parts !== undefined)) throw new Error("parts of layers that could not be");
  return all;
}

function spaceOf(
  tap: string,
  of: (array: string) => NdArray<Float32Array | Float64Array> | undefined,
  measure: ShiftFit["measure"],
  given?: TapSpace["parts"],
): TapSpace {
  const take = <T extends Float32Array | Float64Array>(array: string, Type: new (length: 0) => T, axes: number) => {
    const { data, shape } = of(array) ?? {};
    if (!(data instanceof Type) || shape?.length !== axes || data.length === 0)
      throw new Error(`no array ${array} of the layer ${tap} that could be meant`);
    if (!data.every(Number.isFinite)) throw new Error(`an array ${array} of the layer ${tap} that is not finite`);
    return { data: data as T, shape };
  };
  const floor = take("floor", Float32Array, 1).data;
  const mean = take("mean", Float32Array, 1);
  const whitening = take("whitening", Float32Array, 2);
  const distances = take("distances", Float64Array, 1).data;
  const training = measure === "neighbours" ? take("training", Float32Array, 2) : undefined;
  const channels = mean.data.length / 2;
  if (floor.length !== channels || !floor.every((value) => value > 0)) throw new Error(`floors of the layer ${tap}`);
  if (whitening.shape[1] !== mean.data.length || (training && training.shape[1] !== whitening.shape[0]))
    throw new Error(`arrays of the layer ${tap} that do not fit each other`);
  if (!distances.every((distance, i) => distance >= (i === 0 ? 0 : (distances[i - 1] as number))))
    throw new Error(`distances of the layer ${tap} that do not ascend`);
  const parts = given ?? [{ of: tap, channels }];
  if (parts.reduce((sum, part) => sum + part.channels, 0) !== channels)
    throw new Error(`parts of the layer ${tap} that are not all of it`);
  return {
    tap,
    parts,
    floor,
    mean: mean.data,
    whitening: whitening.data,
    ...(training && { training: training.data }),
    distances,
  };
}
