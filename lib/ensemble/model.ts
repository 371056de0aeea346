import { arrayType, type NdArray, snapshot } from "../arrays.js";
import type { NetworkInput } from "../data/preprocess.js";
import { LayerEnsemblesError } from "../errors.js";
import { PREDICTION_FUSIONS } from "../fusion/index.js";
import { describe, type OptionSpec, option, type Values } from "../options.js";
import { type MethodName, MOST_PASSES } from "../runs/methods.js";
import type { RunPredictedDice } from "../runs/predicted-dice.js";
import type { Run } from "../runs/run.js";
import type { RunShift } from "../runs/shift.js";
import type { RunTiles } from "../runs/tiles.js";
import { MAP_NAMES } from "../uncertainty/index.js";
import type { Backbone } from "./backbone.js";
import type { Prediction } from "./prediction.js";
import { type ImageRows, TILED, TILES } from "./tile-options.js";

type Device = "auto" | "cpu" | "cuda" | `cuda:${number}`;

export const PLACEMENT = {
  /** `"auto"`: CUDA where there is a device, else the CPU. @default "auto" */
  device: option.with(
    option.pattern("auto, cpu, cuda or cuda:<index>", /^(auto|cpu|cuda(:\d+)?)$/) as OptionSpec<Device>,
    { otherwise: "auto", text: "auto, cpu, cuda or cuda:<index>", arg: "device" },
  ),
  /**
   * `"auto"`: bfloat16 where the device has units for it. Losses and fusion are always in float32. On a CPU `fit` times a batch in
   * each, once per machine, and takes bfloat16 only where it is at least a tenth faster: a network of few channels, such as a plain
   * U-Net of width 16, is faster in float32.
   * @default as the run was trained (float32 where it was), for a model that is loaded; else "auto"
   */
  precision: option.oneOf(["auto", "fp32", "bf16"], {
    otherwise: "as the run was trained, else auto",
    text: "numbers in which the network runs",
    arg: "numbers",
  }),
  /** Convolution weights and images in channels_last order. The same results, faster. @default as the run was trained; else true */
  channelsLast: option.boolean({
    default: true,
    text: "images and weights in contiguous order, where a machine's own order is in doubt",
  }),
};

/** Where a network runs and in which numbers. */
export interface PlacementOptions extends Values<typeof PLACEMENT> {}

/** One head, in depth order. */
export interface Head {
  /** The tap's name, or `"final"`. */
  name: string;
  /** Channels of its feature map. */
  channels: number;
  /** Size of its feature map for an image of `inputSize`: height and width, or depth, height and width. */
  size: number[];
}

export const FORWARD = {
  ...TILED,
  /** Monte Carlo dropout: passes of each image. @default the model's own */
  passes: option.integer({ min: 1, max: MOST_PASSES }),
  /**
   * Monte Carlo dropout: seed of what is dropped. An image's passes draw the same whatever shares its batch.
   * @default 0
   */
  seed: option.integer({ min: 0 }),
  /** Stops before the next batch; the promise rejects with `signal.reason`. */
  signal: option.signal(),
};

/** How logits are brought out. */
export interface ForwardOptions extends Values<typeof FORWARD> {}

export const PREDICT = {
  /** Leave out the first T heads. @default the model's own */
  skip: option.integer({ min: 0, otherwise: "the run's", text: "first heads to leave out", arg: "T" }),
  /** Keep these heads instead, by name. @default as `skip` says */
  heads: option.array(option.string(), { min: 1 }),
  /** @default "mean" */
  fusion: option.oneOf(PREDICTION_FUSIONS, { otherwise: "as tuned, else mean", text: "how heads are fused" }),
  /** One weight per kept head, for mean and logit-mean. @default all 1 */
  weights: option.array(option.number({ min: 0 })),
  /** τ of each kept head, positive: its probabilities are softmax(z / τ). @default all 1 */
  temperatures: option.array(option.number({ above: 0 })),
  /** τ of the fused probabilities, positive: p̄^(1/τ), normalised. The mask stays. @default 1 */
  temperature: option.number({ above: 0 }),
  /** Which maps to bring out. @default all six */
  maps: option.array(option.oneOf(MAP_NAMES)),
  /** Bring out the fused probabilities. @default true */
  probabilities: option.boolean(),
  /** Bring out each head's own mask. @default false */
  labels: option.boolean(),
  /**
   * Bring out the statistics of features: of the layers named here, or where true of those that {@link Prediction.tapStatistics}
   * names. @default false
   */
  tapStatistics: option.anyOf(option.boolean(), option.array(option.string(), { min: 1 })),
  /** Images of one size that share a pass; of a prediction by tiles, tiles. @default 8 (1 by tiles) */
  batchSize: option.integer({ min: 1, default: 8, text: "images of one size that share a pass" }),
  ...TILES,
  ...FORWARD,
};

/** How a prediction is made. What is left out is as the run's tuning chose, where the model came from a tuned run. */
export interface PredictOptions extends Values<typeof PREDICT> {}

/** What every method is to those who use it: a list of heads behind one prediction. */
export interface Model {
  /** Which of the compared methods it is. */
  readonly method: MethodName;
  /** Heads of the network, in depth order; of a deep ensemble, of its first member. */
  readonly heads: readonly Head[];
  /** Names of all heads that a prediction fuses, before any is skipped. */
  readonly headNames: readonly string[];
  /** Number of classes with background. */
  readonly classes: number;
  /** The network; of a deep ensemble, that of its first member. */
  readonly backbone: Backbone;
  /** Where it runs, such as `cpu` or `cuda:0`. */
  readonly device: string;
  /** Numbers in which it runs. */
  readonly precision: "fp32" | "bf16";
  /** Trainable numbers, all members counted. */
  readonly parameters: number;
  /** First heads left out of predictions, unless a call says otherwise. */
  readonly skip: number;
  /** By which tiles it predicts unless a call says otherwise, of a training on patches; null: each image in one pass. */
  readonly tiles: RunTiles | null;
  /** What run.json said, for a model that was loaded from a run. */
  readonly run: Run | undefined;
  /** How the Dice of its masks is predicted, for a model that was loaded from a run that `tune` chose for; until the next `fit`. */
  readonly predictedDice: RunPredictedDice;
  /** What is known of the training's images, likewise. */
  readonly shift: RunShift;
  /**
   * Logits of every head at the image's own size, by its name, in the order of `headNames`: N×C×H×W (N×C×D×H×W), N = 1
   * for a single image. @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION, ERR_LE_DISPOSED, or `signal.reason`
   */
  forward(image: NdArray, options?: ForwardOptions): Promise<Map<string, NdArray>>;
  /**
   * Segments one image of C×H×W (a volume of C×D×H×W), finite numbers, preprocessed as in training. @throws
   * ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION, ERR_LE_DISPOSED, or `signal.reason`
   */
  predict(image: NetworkInput | ImageRows, options?: PredictOptions): Promise<Prediction>;
  /** Segments several, which may differ in size; the results are in their order. */
  predict(images: readonly (NetworkInput | ImageRows)[], options?: PredictOptions): Promise<Prediction[]>;
  /** Writes a run folder that `loadModel` reads; `notes` go into its run.json. @throws ERR_LE_IO, ERR_LE_DISPOSED */
  save(folder: string, notes?: Record<string, unknown>): Promise<void>;
  /** Waits for jobs in flight, then frees the memory. Use afterwards throws ERR_LE_DISPOSED; again is harmless. */
  dispose(): Promise<void>;
  /** As {@link dispose}; for `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * What the image is now: see {@link snapshot}.
 * @throws ERR_LE_SHAPE unless it is an array of that many axes whose data fit its shape
 */
export function checkImage(image: NdArray, what: string, axes: readonly number[]): NdArray {
  const fail = (expected: string, received: string): never => {
    throw new LayerEnsemblesError("ERR_LE_SHAPE", `Expected ${expected} for ${what} but received ${received}.`);
  };
  const array = snapshot(image);
  if (arrayType(array?.data) !== "Float32Array") fail("{data: Float32Array, shape}", describe(array?.data ?? image));
  const { data, shape } = array as NdArray;
  const shown = `shape [${shape.map((size) => (typeof size === "number" ? size : describe(size))).join(", ")}]`;
  if (!axes.includes(shape.length)) fail(`${axes.join(" or ")} axes`, shown);
  if (!shape.every((size) => Number.isSafeInteger(size) && size > 0)) fail("a shape of positive sizes", shown);
  const count = shape.reduce((product, side) => product * side, 1);
  if (count !== data.length) fail(`${count} numbers of ${shown}`, `${data.length}`);
  return { data, shape };
}
