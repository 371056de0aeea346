// One prediction of any method: which heads, fused how, and what the addon's pass says of them.
import type { NdArray } from "../arrays.js";
import type { Intensity, NetworkInput } from "../data/preprocess.js";
import { LayerEnsemblesError } from "../errors.js";
import type { Addon, Handle, RawPrediction } from "../native/addon.js";
import { checkOptions, describe, nearest } from "../options.js";
import type { Learned } from "../runs/learned.js";
import type { MethodName } from "../runs/methods.js";
import type { Run } from "../runs/run.js";
import { inOwnWay, type RunTiles } from "../runs/tiles.js";
import {
  FEATURE_MAPS,
  featuresFor,
  type PredictedDiceFit,
  predictDice,
  readsFeatures,
} from "../scores/predicted-dice.js";
import { BESIDE, STORED, tapDistance } from "../shift/index.js";
import { MAP_NAMES, type MapName } from "../uncertainty/index.js";
import { callNative } from "./call.js";
import { checkImage, FORWARD, type ForwardOptions, PREDICT, type PredictOptions } from "./model.js";
import { type Prediction, toPrediction } from "./prediction.js";
import type { ImageRows, TilesTaken } from "./tile-options.js";
import { byTiles, isRows, readerOf, takenOf, tilingOf } from "./tiles.js";

/** What gives the heads. */
export interface HeadSource {
  addon: Addon;
  /** One network, or the members of a deep ensemble. */
  handles: readonly Handle[];
  method: MethodName;
  /** Names of all heads, for so many passes. */
  headNames(passes: number): string[];
  /** Of Monte Carlo dropout; 0 for the other methods. */
  passes: number;
  skip: number;
  spatialAxes: number;
  /** Spatial size that the network was made for. */
  inputSize: readonly number[];
  /** By which images are predicted where nothing else is said; null: each in one pass. */
  tiles: RunTiles | null;
  /** What tuning chose. */
  tuned: Run["prediction"];
  /** What was learned after training: how the Dice of what tuning chose is predicted, and what the training's images look like. */
  learned: Learned;
  /** Layers whose features are measured where none are named. */
  watched(): Promise<readonly string[]>;
}

/** What all models do with their heads. */
export abstract class Predictor {
  /** @throws ERR_LE_DISPOSED */
  protected abstract source(): HeadSource;

  /** Names of all heads that a prediction fuses, before any is skipped. */
  get headNames(): readonly string[] {
    const source = this.source();
    return source.headNames(source.passes);
  }

  /** By which tiles it predicts unless a call says otherwise, of a training on patches; null: each image in one pass. */
  get tiles(): RunTiles | null {
    return this.source().tiles;
  }

  /**
   * The logits of every head at the image's own size, by {@link headNames} and in their order.
   * @param image C×H×W, or N×C×H×W; for a network of volumes C×D×H×W, or N×C×D×H×W
   * @returns N×C×H×W (N×C×D×H×W) for each head (N = 1 for a single image)
   * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION, ERR_LE_DISPOSED, or `signal.reason`
   */
  async forward(image: NdArray, options: ForwardOptions = {}): Promise<Map<string, NdArray>> {
    return forwardHeads(this.source(), image, options);
  }

  /**
   * Segments an image, fuses the heads and measures uncertainty and agreement, all in one pass off the JavaScript thread; or
   * by tiles, in memory that does not grow with the image (docs/tiles.md).
   * @param image C×H×W, or a volume of C×D×H×W; finite numbers; best as `preprocess` made it, which says what its stored values
   *   were ({@link NetworkInput}): of another `tapDistance` takes these for such as the training's. By tiles it is read while it is predicted, and must stay as it
   *   is until then; it may be one that is read piece by piece
   * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION, ERR_LE_DISPOSED, or `signal.reason`
   */
  predict(image: NetworkInput | ImageRows, options?: PredictOptions): Promise<Prediction>;
  /**
   * The same for several images; the results are in their order.
   * @param images each C×H×W (C×D×H×W); they may differ in size
   * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION, ERR_LE_DISPOSED, or `signal.reason`
   */
  predict(images: readonly (NetworkInput | ImageRows)[], options?: PredictOptions): Promise<Prediction[]>;
  async predict(
    images: NetworkInput | ImageRows | readonly (NetworkInput | ImageRows)[],
    options: PredictOptions = {},
  ): Promise<Prediction | Prediction[]> {
    const source = this.source();
    if (Array.isArray(images)) return predictHeads(source, images, options);
    const [prediction] = await predictHeads(source, [images as NetworkInput | ImageRows], options);
    return prediction as Prediction;
  }
}

/** Runs {@link PredictOptions} on a list of images. */
async function predictHeads(
  source: HeadSource,
  given: readonly (NetworkInput | ImageRows)[],
  options: PredictOptions,
): Promise<Prediction[]> {
  const {
    signal,
    heads,
    skip,
    passes,
    seed,
    tapStatistics = false,
    ...all
  } = checkOptions("predict", options, PREDICT);
  const { tile, overlap, tileWeights, mirror, outputSize, outputOrder, onProgress, ...rest } = all;
  const tiling = tilingOf(source, { tile, overlap, tileWeights, mirror, outputSize, outputOrder, onProgress });
  const axes = source.spatialAxes + 1;
  const asTuned = [heads, skip, passes, rest.fusion].every((choice) => choice === undefined);
  const tuned = asTuned ? (source.tuned ?? {}) : {};
  const count = passesOf(source, passes);
  const names = source.headNames(count);
  const kept = keptHeads(names, skip, heads ?? tuned.heads, source.skip);
  const { heads: _heads, ...fusing } = tuned;
  const { shift, predictedDice } = source.learned;
  // Of other heads or another fusion the fit knows nothing.
  const own = [rest.weights, rest.temperatures, rest.temperature].every((choice) => choice === undefined);
  const fit = asTuned && own ? predictedDice.fit : null;
  const watched = async () => [...BESIDE, ...(await source.watched())];
  const asked = Array.isArray(tapStatistics) ? tapStatistics : tapStatistics ? await watched() : [];
  const keptNames = kept.map((index) => names[index] as string);

  // What was learned is of predictions that are made in the run's own way.
  const chosen = { tile, overlap, tileWeights, mirror };
  const ownWay = outputSize === undefined && inOwnWay({ tiles: source.tiles, ensemble: source }, chosen);

  /** What the addon is asked of an image, and what is made of its answer: `tiles` of one that is not one pass. */
  const plan = (tiles?: TilesTaken) => {
    const holds = ownWay || (!source.tiles && !tiles);
    const fitted = holds ? fit : null;
    const distances = holds ? shift.fit : null;
    const parts = distances?.taps.flatMap(({ parts }) => parts.map((part) => part.of)) ?? [];
    const taps = [...new Set([...asked, ...parts])].filter((tap) => tap !== STORED);
    const maps = mapsFor(fitted, rest.maps);
    return {
      options: {
        ...{ ...fusing, ...rest, ...(maps && { maps }) },
        ...{ heads: kept, passes: count, seed: seed ?? 0, tapStatistics: taps },
      },
      finish: (raw: RawPrediction, i: number): Prediction => {
        const stored = storedOf(given[i], `image ${i}`);
        const measured: Record<string, Float32Array> = {
          ...(stored && { [STORED]: stored }),
          ...Object.fromEntries(taps.map((tap, t) => [tap, raw.tapStatistics[t]?.data as Float32Array])),
        };
        const facts = { skip: kept[0] as number, inDepth: source.method === "le" };
        const prediction: Prediction = {
          ...toPrediction(raw, [...keptNames], facts),
          ...(asked.length > 0 && {
            tapStatistics: Object.fromEntries(
              asked.filter((tap) => tap in measured).map((tap) => [tap, measured[tap] as Float32Array]),
            ),
          }),
          tapDistance: distances && tapDistance(distances, measured),
          ...(tiles && { tiles }),
        };
        return fitted ? withPredictedDice(prediction, fitted, rest.maps) : prediction;
      },
    };
  };

  if (tiling) {
    const readers = Array.from(given, (image, i) => readerOf(image, i, axes));
    const predictions: Prediction[] = [];
    for (const [i, reader] of readers.entries()) {
      const { options, finish } = plan(takenOf(tiling, reader.shape));
      const one = { batchSize: 1, ...options };
      predictions.push(finish(await byTiles(source.addon.predictTiles, source, reader, i, tiling, one, signal), i));
    }
    return predictions;
  }
  const images = Array.from(given, (image, i) => {
    if (!isRows(image)) return checkImage(image, `image ${i}`, [axes]);
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected option 'tile' for image ${i}, which is read by rows, but received none: "auto" is the size that the network was made for.`,
    );
  });
  const { options: asOne, finish } = plan();
  const raw = await callNative(source.addon, signal, (control) =>
    source.addon.predict(
      source.handles,
      images.map((image) => image.data),
      images.map((image) => image.shape),
      asOne,
      control,
    ),
  );
  return raw.map(finish);
}

/** Statistics of what an image's stored values were, where it says so. */
function storedOf(image: unknown, what: string): Float32Array | undefined {
  const { stored } = image as NetworkInput;
  if (stored === undefined) return undefined;
  const isOne = (one: unknown) => {
    const { mean, deviation } = (one ?? {}) as Partial<Intensity>;
    return Number.isFinite(mean) && Number.isFinite(deviation) && (deviation as number) >= 0;
  };
  if (!Array.isArray(stored) || stored.length === 0 || !stored.every(isOne))
    throw new LayerEnsemblesError(
      "ERR_LE_VALUE",
      `Expected a finite mean and deviation of the stored values of ${what} but received ${describe(stored)}: leave out 'stored' where they are not known.`,
    );
  return Float32Array.from([...stored.map(({ mean }) => mean), ...stored.map(({ deviation }) => deviation)]);
}

/** Maps that a prediction brings out: those asked for, and those that the fit reads. */
function mapsFor(fit: PredictedDiceFit | null, asked: readonly MapName[] | undefined): readonly MapName[] | undefined {
  return asked && fit && readsFeatures(fit) ? [...new Set([...asked, ...FEATURE_MAPS])] : asked;
}

/** Adds the Dice that the mask probably has, and leaves out the maps that only the fit asked for. */
function withPredictedDice(
  { maps, summaries, ...prediction }: Prediction,
  fit: PredictedDiceFit,
  asked: readonly MapName[] = MAP_NAMES,
): Prediction {
  const only = <T>(of: Partial<Record<MapName, T>>) =>
    Object.fromEntries(Object.entries(of).filter(([name]) => asked.includes(name as MapName)));
  const predictedDice = predictDice(fit, featuresFor(fit, { ...prediction, summaries }));
  return { ...prediction, maps: only(maps), summaries: only(summaries), predictedDice };
}

/** Runs {@link ForwardOptions} on an image or a batch of them. */
async function forwardHeads(
  source: HeadSource,
  image: NdArray,
  options: ForwardOptions,
): Promise<Map<string, NdArray>> {
  const { signal, passes: asked, seed = 0, ...chosen } = checkOptions("forward", options, FORWARD);
  const tiling = tilingOf(source, chosen);
  const axes = source.spatialAxes + 1;
  const { data, shape } = checkImage(image, "image", [axes, axes + 1]);
  const batch = shape.length === axes ? [1, ...shape] : shape;
  const passes = passesOf(source, asked);
  const names = source.headNames(passes);
  if (!tiling) {
    const heads = await callNative(source.addon, signal, (control) =>
      source.addon.forward(source.handles, data, batch, { passes, seed }, control),
    );
    return new Map(heads.map((logits, k) => [names[k] as string, logits]));
  }
  const one = batch.slice(1);
  const values = data.length / (batch[0] as number);
  const images: NdArray<Float32Array>[][] = [];
  for (let i = 0; i < (batch[0] as number); i++) {
    const reader = readerOf({ data: data.subarray(i * values, (i + 1) * values), shape: one }, i, axes);
    images.push(
      await byTiles(source.addon.forwardTiles, source, reader, i, tiling, { passes, seed, batchSize: 1 }, signal),
    );
  }
  return new Map(names.map((name, k) => [name, stacked(images.map((heads) => heads[k] as NdArray<Float32Array>))]));
}

/** Arrays 1×… as one of N×…. */
function stacked(arrays: readonly NdArray<Float32Array>[]): NdArray<Float32Array> {
  const [first] = arrays as [NdArray<Float32Array>];
  if (arrays.length === 1) return first;
  const data = new Float32Array(arrays.length * first.data.length);
  for (const [i, array] of arrays.entries()) data.set(array.data, i * first.data.length);
  return { data, shape: [arrays.length, ...first.shape.slice(1)] };
}

function passesOf({ method, passes }: HeadSource, asked: number | undefined): number {
  if (asked !== undefined && method !== "mcd")
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected Monte Carlo dropout for option 'passes' but received it for method ${method}.`,
    );
  return asked ?? passes;
}

/** Indices of the kept heads, increasing. */
function keptHeads(
  names: readonly string[],
  skip: number | undefined,
  heads: readonly string[] | undefined,
  standing: number,
): number[] {
  if (skip === undefined && heads) {
    const indices = heads.map((name) => {
      const index = names.indexOf(name);
      if (index >= 0) return index;
      const near = nearest(name, names);
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        `Expected the name of a head for option 'heads' but received '${name}'. ${near ? `Did you mean '${near}'?` : `There are: ${names.join(", ")}.`}`,
      );
    });
    return [...new Set(indices)].sort((a, b) => a - b);
  }
  const first = skip ?? Math.min(standing, names.length - 1);
  if (first >= names.length)
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected 0 to ${names.length - 1} for option 'skip' (there are ${names.length} heads) but received ${first}.`,
    );
  return Array.from({ length: names.length - first }, (_, i) => first + i);
}
