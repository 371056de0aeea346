// How an image that is larger than a pass of the network is read and predicted, tile by tile.
import type { NdArray } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";
import type { Addon } from "../native/addon.js";
import { describe } from "../options.js";
import type { RunTiles } from "../runs/tiles.js";
import { callNative } from "./call.js";
import { checkImage } from "./model.js";
import type { HeadSource } from "./predictor.js";
import { AXES, type ImageRows, TILES, type TileEvent, type TileOptions, type TilesTaken } from "./tile-options.js";

/** Whether an image is read piece by piece. */
export function isRows(image: NdArray | ImageRows): image is ImageRows {
  return typeof (image as Partial<ImageRows> | null)?.rows === "function";
}

/** By which tiles the images of a training on patches are predicted. */
export function tilesOfPatch(patch: readonly number[]): RunTiles {
  return { size: [...patch], overlap: TILES.overlap.default, weights: TILES.tileWeights.default };
}

/** How each image is to be predicted by tiles; undefined for one pass of the whole. */
export interface Tiling {
  tile: "none" | readonly number[];
  overlap: number;
  weights: "gaussian" | "constant";
  mirror: readonly (typeof AXES)[number][];
  output: readonly number[] | undefined;
  /** Spatial axes along which the output takes the nearest pixel. */
  nearest: readonly number[];
  onProgress: ((event: TileEvent) => void) | undefined;
}

/** @throws ERR_LE_OPTION */
export function tilingOf(
  { spatialAxes, inputSize, tiles }: HeadSource,
  { overlap, tileWeights, mirror = [], outputSize, outputOrder, onProgress, ...given }: TileOptions,
): Tiling | undefined {
  const tile = given.tile ?? tiles?.size ?? "none";
  const names = AXES.slice(-spatialAxes);
  for (const [option, sides] of Object.entries({ tile, outputSize, outputOrder }))
    if (Array.isArray(sides) && sides.length !== spatialAxes)
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        `Expected ${spatialAxes} values (${names.join(", ")}) for option '${option}' but received ${describe(sides)}.`,
      );
  const strange = mirror.find((axis, i) => !names.includes(axis) || mirror.indexOf(axis) !== i);
  if (strange !== undefined)
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected axes of ${names.join(", ")}, each once, for option 'mirror' but received ${describe(mirror)}.`,
    );
  const useless = Object.entries({ overlap, tileWeights }).find(([, value]) => value !== undefined)?.[0];
  if (tile === "none" && useless !== undefined)
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected option 'tile' with '${useless}' but received none: without it an image is one pass.`,
    );
  if (tile === "none" && mirror.length === 0 && outputSize === undefined) return undefined;
  return {
    tile: tile === "auto" ? inputSize : tile,
    overlap: overlap ?? tiles?.overlap ?? TILES.overlap.default,
    weights: tileWeights ?? tiles?.weights ?? TILES.tileWeights.default,
    mirror,
    output: outputSize,
    nearest: (outputOrder ?? []).flatMap((order, axis) => (order === "nearest" ? [axis] : [])),
    onProgress,
  };
}

/**
 * How many passes of the network a prediction by tiles takes, mirrored ones too: what the plan of native/core/tiles has.
 * @param size of the image, spatial
 */
export function passesOf(
  { tile = "none", overlap = TILES.overlap.default, mirror = [] }: TileOptions,
  size: readonly number[],
  inputSize: readonly number[],
): number {
  const sides = tile === "none" ? size : tile === "auto" ? inputSize : tile;
  return size.reduce((passes, side, axis) => {
    const along = sides[axis] ?? side;
    const rest = Math.max(0, side - along);
    return passes * (1 + Math.min(rest, Math.ceil(rest / (along * (1 - overlap)))));
  }, 2 ** mirror.length);
}

/** What is undefined for an image that the tiling makes one pass of as it is. */
export function takenOf(
  { tile, output, nearest, onProgress, ...rest }: Tiling,
  shape: readonly number[],
): TilesTaken | undefined {
  const whole = shape.slice(1);
  const size = tile === "none" ? whole : tile;
  const asOne = rest.mirror.length === 0 && same(size, whole) && same(output ?? whole, whole);
  return asOne ? undefined : { size, ...rest };
}

/** What the addon does on an image by tiles. */
type OnTiles<T> = (...given: Parameters<Addon["predictTiles"]>) => Promise<T>;

/**
 * Has the addon work on an image by tiles.
 * @param work of the addon
 * @param options of the prediction, as the addon has them
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION, what `rows` throws, or `signal.reason`
 */
export async function byTiles<T>(
  work: OnTiles<T>,
  { addon, handles, spatialAxes }: HeadSource,
  { shape, rows }: RowReader,
  index: number,
  tiling: Tiling,
  options: object,
  signal: AbortSignal | undefined,
): Promise<T> {
  const { overlap, weights, mirror, output, nearest, onProgress } = tiling;
  const names = AXES.slice(-spatialAxes);
  let failure: { error: unknown } | undefined;
  const read = (begin: number, end: number, answer: (data: Float32Array | string) => void) => {
    rows(begin, end).then(answer, (error) => {
      failure ??= { error };
      answer("The rows of an image could not be read.");
    });
  };
  const tell = (json: string) => {
    try {
      onProgress?.({ ...JSON.parse(json), image: index });
    } catch (error) {
      failure ??= { error };
    }
  };
  const size = tiling.tile === "none" ? shape.slice(1) : tiling.tile;
  const given = { size, overlap, weights, mirror: mirror.map((axis) => names.indexOf(axis)) };
  try {
    const raw = await callNative(addon, signal, (control) =>
      work(handles, shape, read, { ...given, output, nearest, image: index }, options, tell, control),
    );
    if (failure) throw failure.error;
    return raw;
  } catch (error) {
    throw failure && !signal?.aborted ? failure.error : error;
  }
}

function same(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((side, axis) => side === b[axis]);
}

/** An image's shape, C×s, and what reads its rows and checks them. */
export interface RowReader {
  shape: readonly number[];
  rows(begin: number, end: number): Promise<Float32Array>;
}

/**
 * @param axes of an image, with that of the channels
 * @throws ERR_LE_SHAPE
 */
export function readerOf(image: NdArray | ImageRows, index: number, axes: number): RowReader {
  // Each property is read once: a getter may give something else the next time.
  const read = (image as Partial<ImageRows> | null)?.rows;
  if (typeof read !== "function") {
    const { data, shape } = checkImage(image as NdArray, `image ${index}`, [axes]);
    const [channels = 1, height = 1, ...others] = shape;
    const row = others.reduce((product, side) => product * side, 1);
    const rows = async (begin: number, end: number) => {
      const count = (end - begin) * row;
      if (channels === 1) return data.subarray(begin * row, end * row);
      const some = new Float32Array(channels * count);
      for (let c = 0; c < channels; c++)
        some.set(data.subarray((c * height + begin) * row, (c * height + end) * row), c * count);
      return some;
    };
    return { shape, rows };
  }
  const given: unknown = image.shape;
  const shape =
    Array.isArray(given) && given.length === axes ? Array.from({ length: axes }, (_, axis) => given[axis]) : [];
  if (shape.length !== axes || !shape.every((side) => Number.isSafeInteger(side) && side > 0))
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected ${axes} positive sizes for the shape of image ${index} but received ${describe(given)}.`,
    );
  const rows = async (begin: number, end: number) => {
    const what = `rows ${begin} to ${end - 1} of image ${index}`;
    const expected = [shape[0], end - begin, ...shape.slice(2)];
    const some = checkImage(await read.call(image, begin, end), what, [axes]);
    if (!same(expected, some.shape))
      throw new LayerEnsemblesError(
        "ERR_LE_SHAPE",
        `Expected shape ${describe(expected)} for ${what} but received ${describe([...some.shape])}.`,
      );
    return some.data;
  };
  return { shape, rows };
}
