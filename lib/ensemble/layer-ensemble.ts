import { existsSync } from "node:fs";
import path from "node:path";
import type { NdArray } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";
import { FUSIONS, type Fusion } from "../fusion/index.js";
import type { Addon, Handle } from "../native/addon.js";
import { loadAddon } from "../native/load.js";
import { PACKAGE_VERSION } from "../native/package.js";
import { checkOptions, type OptionSpec, type OptionSpecs, option } from "../options.js";
import type { MapName } from "../uncertainty/index.js";
import { Backbone } from "./backbone.js";
import { callNative, fromNative } from "./call.js";
import { MAP_NAMES, type Prediction, toPrediction } from "./prediction.js";
import { Recorder } from "./recorder.js";
import { MODEL_FILES, makeFolder, RUN_FILES, type Run, readRun, writeRun } from "./run.js";
import { autoTaps } from "./taps.js";
import {
  AUGMENT_OPTIONS,
  type EpochEvent,
  type FitOptions,
  type History,
  LOSS_OPTIONS,
  OPTIMIZER_OPTIONS,
  type SampleSource,
  SCHEDULE_OPTIONS,
  type TrainingEvent,
} from "./training.js";

/** Where a network runs and in which numbers. */
export interface PlacementOptions {
  /** `"auto"`: CUDA where there is a device, else the CPU. @default "auto" */
  device?: "auto" | "cpu" | "cuda" | `cuda:${number}`;
  /**
   * `"auto"`: bfloat16 where the device has units for it. Losses and fusion are always in float32. On a CPU a network of few
   * channels, such as a plain U-Net of width 16, is faster in `"fp32"`.
   * @default "auto"
   */
  precision?: "auto" | "fp32" | "bf16";
  /** Convolution weights and images in channels_last order. The same results, faster. @default true */
  channelsLast?: boolean;
}

/** How a layer ensemble is made of a backbone. */
export interface EnsembleOptions extends PlacementOptions {
  /** Names of layers, or `"auto"`: see {@link autoTaps}. `[]` is the plain network. @default "auto" */
  taps?: readonly string[] | "auto";
  /** Classes with background, 2 to 255. @default 2 */
  classes?: number;
  /** Whether the backbone's own output is the last head; `"auto"`: where it has as many channels as classes. @default "auto" */
  final?: boolean | "auto";
  /** `"given"` keeps the order of `taps`; agreement is then between neighbours in that order. @default "execution" */
  order?: "execution" | "given";
  /** Dropout before each head's convolution, 0 to below 1, in training. @default 0 */
  dropout?: number;
  /** Train the heads only; the backbone's weights and batch-norm statistics stay. @default false */
  freezeBackbone?: boolean;
  /** Spatial size of the probe's dummy image. @default the backbone's `probeSize` */
  inputSize?: readonly number[];
  /** Seed of the heads' initial weights. @default 0 */
  seed?: number;
  /** First heads to leave out of predictions, unless a call says otherwise. @default 0 */
  skip?: number;
}

/** One head, in depth order. */
export interface Head {
  /** The tap's name, or `"final"`. */
  name: string;
  /** Channels of its feature map. */
  channels: number;
  /** Size of its feature map for an image of `inputSize`: height and width, or depth, height and width. */
  size: number[];
}

/** How a prediction is made. */
export interface PredictOptions {
  /** Leave out the first T heads. @default the ensemble's own */
  skip?: number;
  /** @default "mean" */
  fusion?: Fusion;
  /** One weight per kept head, for mean and logit-mean. @default all 1 */
  weights?: readonly number[];
  /** Which maps to bring out. @default all six */
  maps?: readonly MapName[];
  /** Bring out the fused probabilities. @default true */
  probabilities?: boolean;
  /** Bring out each head's own mask. @default false */
  labels?: boolean;
  /** Images of one size that share a pass. @default 8 */
  batchSize?: number;
  /** Stops before the next batch; the promise rejects with `signal.reason`. */
  signal?: AbortSignal;
}

const PLACEMENT: OptionSpecs = {
  device: option.custom(
    "auto, cpu, cuda or cuda:<index>",
    (value) => typeof value === "string" && /^(auto|cpu|cuda(:\d+)?)$/.test(value),
  ),
  precision: option.oneOf(["auto", "fp32", "bf16"]),
  channelsLast: option.boolean(),
};

const ENSEMBLE: OptionSpecs = {
  ...PLACEMENT,
  taps: option.anyOf(option.oneOf(["auto"]), option.array(option.string())),
  classes: option.integer({ min: 2, max: 255 }),
  final: option.oneOf([true, false, "auto"]),
  order: option.oneOf(["execution", "given"]),
  dropout: option.number({ min: 0, below: 1 }),
  freezeBackbone: option.boolean(),
  inputSize: option.anyOf(
    option.array(option.integer({ min: 1, max: 65536 }), { length: 2 }),
    option.array(option.integer({ min: 1, max: 65536 }), { length: 3 }),
  ),
  seed: option.integer({ min: 0 }),
  skip: option.integer({ min: 0 }),
};

const PREDICT: OptionSpecs = {
  skip: option.integer({ min: 0 }),
  fusion: option.oneOf(FUSIONS),
  weights: option.array(option.number({ min: 0 })),
  maps: option.array(option.oneOf(MAP_NAMES)),
  probabilities: option.boolean(),
  labels: option.boolean(),
  batchSize: option.integer({ min: 1 }),
  signal: option.signal(),
};

const named = (specs: OptionSpecs) => option.anyOf(specs.name as OptionSpec, option.object(specs));

const FIT: OptionSpecs = {
  validation: option.custom(
    "an iterable of samples",
    (value) => Object(value) === value && (Symbol.iterator in Object(value) || Symbol.asyncIterator in Object(value)),
  ),
  epochs: option.integer({ min: 1 }),
  batchSize: option.integer({ min: 1 }),
  accumulate: option.integer({ min: 1 }),
  learningRate: option.number({ min: 0 }),
  loss: option.anyOf(named(LOSS_OPTIONS), option.callback()),
  optimizer: named(OPTIMIZER_OPTIONS),
  schedule: named(SCHEDULE_OPTIONS),
  headWeights: option.array(option.number({ min: 0 })),
  clipNorm: option.number({ min: 0 }),
  earlyStopping: option.integer({ min: 0 }),
  augment: option.object(AUGMENT_OPTIONS),
  seed: option.integer({ min: 0 }),
  ignoreIndex: option.integer({ min: 0, max: 255 }),
  run: option.string(),
  resume: option.boolean(),
  checkpointEvery: option.integer({ min: 1 }),
  restoreBest: option.boolean(),
  signal: option.signal(),
  onProgress: option.callback(),
  notes: option.custom("an object", (value) => Object(value) === value),
};

/** A name stands for the object with that name. */
function withName(value: unknown, fallback: string): object {
  if (value === undefined) return { name: fallback };
  return typeof value === "string" ? { name: value } : (value as object);
}

/**
 * A layer ensemble (Kushibar et al., MICCAI 2022): one network with a segmentation head on each of several layers, so that
 * one pass gives a segmentation per depth, a fused one, its uncertainty, and how far the layers agree.
 */
export class LayerEnsemble {
  readonly #addon: Addon;
  readonly #handle: Handle;
  readonly #ownsBackbone: boolean;
  #disposed: Promise<void> | undefined;
  #trained: Record<string, unknown> | undefined;

  /** The network; shared with whoever made it. */
  readonly backbone: Backbone;
  /** In depth order. */
  readonly heads: readonly Head[];
  readonly classes: number;
  /** Where it runs, such as `cpu` or `cuda:0`. */
  readonly device: string;
  /** Numbers in which the network runs. */
  readonly precision: "fp32" | "bf16";
  /** First heads left out of predictions, unless a call says otherwise. */
  readonly skip: number;
  /** What run.json said, for an ensemble that was loaded from a run. */
  readonly run: Run | undefined;
  readonly #options: Run["ensemble"];

  private constructor(parts: {
    addon: Addon;
    handle: Handle;
    backbone: Backbone;
    ownsBackbone: boolean;
    made: { heads: Head[]; device: string; precision: "fp32" | "bf16" };
    options: Run["ensemble"];
    skip: number;
    run?: Run;
  }) {
    this.#addon = parts.addon;
    this.#handle = parts.handle;
    this.#ownsBackbone = parts.ownsBackbone;
    this.#options = parts.options;
    this.backbone = parts.backbone;
    this.heads = parts.made.heads;
    this.device = parts.made.device;
    this.precision = parts.made.precision;
    this.classes = parts.options.classes;
    this.skip = parts.skip;
    this.run = parts.run;
    this.#trained = parts.run?.training;
  }

  /**
   * Probes the backbone with a dummy image, orders the taps by depth and makes a head for each.
   * @throws ERR_LE_TAP for a tap that does not exist (with the nearest names), did not run or gives no feature map;
   *   ERR_LE_OPTION; ERR_LE_DEVICE
   */
  static async create(backbone: Backbone, options: EnsembleOptions = {}): Promise<LayerEnsemble> {
    checkOptions("LayerEnsemble.create", options, ENSEMBLE);
    return LayerEnsemble.#make(backbone, options, false);
  }

  static async #make(backbone: Backbone, options: EnsembleOptions, ownsBackbone: boolean, run?: Run) {
    const addon = await loadAddon();
    const { taps = "auto", classes = 2, final = "auto", skip = 0, inputSize = backbone.probeSize } = options;
    if (inputSize.length !== backbone.spatialAxes)
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        `Expected ${backbone.spatialAxes} sides for option 'inputSize' (the network works on ${backbone.spatialAxes === 3 ? "volumes" : "images"}) but received ${inputSize.length}.`,
      );
    const { dropout = 0, freezeBackbone = false, seed = 0, order = "execution" } = options;
    const { device = "auto", precision = "auto", channelsLast = true } = options;
    const names = taps === "auto" ? autoTaps(await backbone.probe(inputSize), { final: final !== false }) : [...taps];
    const settings = { taps: names, classes, dropout, freezeBackbone, inputSize: [...inputSize], seed };
    try {
      const { handle, ready } = addon.createEnsemble(backbone.handle(), {
        ...settings,
        final,
        order,
        device,
        precision,
        channelsLast,
      });
      const made = await ready;
      if (skip >= made.heads.length)
        throw new LayerEnsemblesError(
          "ERR_LE_OPTION",
          `Expected 0 to ${made.heads.length - 1} for option 'skip' (there are ${made.heads.length} heads) but received ${skip}.`,
        );
      const tapped = made.heads.filter((head) => head.name !== "final").map((head) => head.name);
      const recorded = { ...settings, taps: tapped, final: tapped.length < made.heads.length };
      return new LayerEnsemble({
        addon,
        handle,
        backbone,
        ownsBackbone,
        made,
        options: recorded,
        skip,
        ...(run && { run }),
      });
    } catch (error) {
      throw fromNative(error);
    }
  }

  /**
   * Loads a run folder: network, heads and best weights. The ensemble owns its backbone.
   * @throws ERR_LE_CHECKPOINT for a folder that is no run, or whose weights are cut short or of another architecture
   */
  static async load(folder: string, options: PlacementOptions = {}): Promise<LayerEnsemble> {
    checkOptions("LayerEnsemble.load", options, PLACEMENT);
    const run = await readRun(folder);
    const backbone = await Backbone.fromConfig(run.backbone, folder);
    try {
      const model = await LayerEnsemble.#make(
        backbone,
        { ...run.ensemble, order: "given", skip: run.skip, ...options },
        true,
        run,
      );
      await model.#native(() => model.#addon.loadEnsemble(model.#handle, path.join(folder, RUN_FILES.weights)));
      return model;
    } catch (error) {
      await backbone.dispose();
      throw error;
    }
  }

  /**
   * Writes a run folder that {@link LayerEnsemble.load} reads: run.json and weights.safetensors, each atomically.
   * @param notes more facts for run.json
   * @throws ERR_LE_IO
   */
  async save(folder: string, notes: Record<string, unknown> = {}): Promise<void> {
    this.#check();
    await this.#writeRun(folder, notes, this.#trained);
    await this.#native(() => this.#addon.saveEnsemble(this.#handle, path.join(folder, RUN_FILES.weights)));
  }

  async #writeRun(folder: string, notes: Record<string, unknown>, training: Record<string, unknown> | undefined) {
    const info = this.#addon.info() as { libtorch?: string };
    const config = { ...this.backbone.config };
    if (typeof config.file === "string") {
      // A run needs nothing outside its folder. The copy is the network; weights.safetensors has what training made of it.
      config.file = MODEL_FILES[config.kind as keyof typeof MODEL_FILES];
      await makeFolder(folder);
      await this.backbone.save(path.join(folder, config.file as string));
    }
    return writeRun(folder, {
      versions: { "layer-ensembles": PACKAGE_VERSION, libtorch: String(info.libtorch), node: process.version },
      backbone: config,
      ensemble: this.#options,
      skip: this.skip,
      ...(training && { training: { ...training, device: this.device, precision: this.precision } }),
      notes: { ...this.run?.notes, ...notes },
    });
  }

  /**
   * The logits of every head at the image's own size, by head name and in head order.
   * @param image C×H×W, or N×C×H×W; for a network of volumes C×D×H×W, or N×C×D×H×W
   * @returns N×C×H×W (N×C×D×H×W) for each head (N = 1 for a single image)
   */
  async forward(image: NdArray, options: { signal?: AbortSignal } = {}): Promise<Map<string, NdArray>> {
    this.#check();
    const axes = this.backbone.spatialAxes + 1;
    checkImage(image, "image", [axes, axes + 1]);
    const shape = image.shape.length === axes ? [1, ...image.shape] : image.shape;
    const heads = await callNative(this.#addon, options.signal, (control) =>
      this.#addon.forward(this.#handle, image.data, shape, control),
    );
    return new Map(heads.map(({ name, data, shape }) => [name, { data, shape }]));
  }

  /**
   * Segments images, fuses the heads and measures uncertainty and agreement, all in one pass off the JavaScript thread.
   * @param images one image of C×H×W (a volume of C×D×H×W), or a list of them, which may differ in size; finite numbers
   * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION, ERR_LE_DISPOSED, or `signal.reason`
   */
  predict(image: NdArray, options?: PredictOptions): Promise<Prediction>;
  predict(images: readonly NdArray[], options?: PredictOptions): Promise<Prediction[]>;
  async predict(
    images: NdArray | readonly NdArray[],
    options: PredictOptions = {},
  ): Promise<Prediction | Prediction[]> {
    this.#check();
    checkOptions("predict", options, PREDICT);
    const list: readonly NdArray[] = Array.isArray(images) ? images : [images as NdArray];
    for (const [i, image] of list.entries()) checkImage(image, `image ${i}`, [this.backbone.spatialAxes + 1]);
    const { signal, skip = this.skip, ...rest } = options;
    const raw = await callNative(this.#addon, signal, (control) =>
      this.#addon.predict(
        this.#handle,
        list.map((image) => image.data),
        list.map((image) => image.shape),
        { ...rest, skip },
        control,
      ),
    );
    const heads = this.heads.slice(skip).map((head) => head.name);
    const predictions = raw.map((one) => toPrediction(one, [...heads], skip));
    return Array.isArray(images) ? predictions : (predictions[0] as Prediction);
  }

  /**
   * Trains the backbone and all heads together on the weighted sum of the heads' losses, on a thread of its own.
   * @throws ERR_LE_DIVERGED, ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION, ERR_LE_IO, ERR_LE_CHECKPOINT, or `signal.reason`
   */
  async fit(training: SampleSource, options: FitOptions = {}): Promise<History> {
    this.#check();
    checkOptions("fit", options, FIT);
    const { validation, signal, onProgress, notes = {}, run, resume = false, loss, ...rest } = options;
    const custom = typeof loss === "function" ? loss : null;
    const settings = {
      ...rest,
      epochs: rest.epochs ?? 50,
      learningRate: rest.learningRate ?? 1e-3,
      loss: custom ? { name: "crossEntropy" } : withName(loss, "diceCrossEntropy"),
      optimizer: withName(rest.optimizer, "adam"),
      schedule: withName(rest.schedule, "cosine"),
    };
    if (rest.earlyStopping && !validation)
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        "Expected option 'validation' with 'earlyStopping' but received none.",
      );
    const recorded = { ...settings, ...(custom && { loss: { name: "custom" } }) };
    if (run !== undefined && !resume && existsSync(path.join(run, RUN_FILES.state)))
      throw new LayerEnsemblesError(
        "ERR_LE_IO",
        `Expected an empty folder for option 'run' but received ${run}, which holds a run: resume it (resume: true) or choose another.`,
      );
    const trainingData = await this.#gather(training, "training", signal);
    const validationData = validation ? await this.#gather(validation, "validation", signal) : null;

    const abort = new AbortController(); // for what goes wrong while an event is handled
    const recorder = run === undefined ? undefined : new Recorder(run, (error) => abort.abort(error));
    if (run !== undefined) await this.#writeRun(run, notes, recorded);
    const onEvent = (json: string) => {
      const event = JSON.parse(json) as TrainingEvent;
      try {
        if (event.type === "start") recorder?.start(event.before);
        if (event.type === "epoch") recorder?.epoch(event);
        onProgress?.(event);
      } catch (error) {
        abort.abort(error);
      }
    };
    const either = signal ? AbortSignal.any([signal, abort.signal]) : abort.signal;
    try {
      const history = await callNative(this.#addon, either, (control) =>
        this.#addon.fit(
          this.#handle,
          trainingData,
          validationData,
          { ...settings, resume, ...(run !== undefined && { run }) },
          onEvent,
          custom,
          control,
        ),
      );
      await recorder?.close();
      abort.signal.throwIfAborted();
      this.#trained = recorded;
      return history as History;
    } finally {
      await recorder?.close();
    }
  }

  /** Copies samples into memory of the addon, one at a time. */
  async #gather(source: SampleSource, what: string, signal: AbortSignal | undefined): Promise<Handle> {
    const dataset = this.#addon.createDataset();
    let index = 0;
    for await (const sample of source) {
      signal?.throwIfAborted();
      checkImage(sample.image, `${what}[${index}].image`, [this.backbone.spatialAxes + 1]);
      const [, ...size] = sample.image.shape;
      const mask = sample.mask;
      if (!mask)
        throw new LayerEnsemblesError("ERR_LE_DATA", `Expected a mask for ${what}[${index}] but received none.`);
      if (mask.shape.join("×") !== size.join("×"))
        throw new LayerEnsemblesError(
          "ERR_LE_SHAPE",
          `Expected a mask of ${size.join("×")} for ${what}[${index}] but received ${mask.shape.join("×")}.`,
        );
      try {
        this.#addon.addSample(dataset, sample.image.data, sample.image.shape, mask.data);
      } catch (error) {
        throw fromNative(error);
      }
      index++;
    }
    if (index === 0)
      throw new LayerEnsemblesError("ERR_LE_DATA", `Expected at least one sample for ${what} but received none.`);
    return dataset;
  }

  /** Waits for what is under way, then frees the heads, and the network where this ensemble was loaded from a run. */
  dispose(): Promise<void> {
    this.#disposed ??= (async () => {
      await this.#addon.disposeEnsemble(this.#handle);
      if (this.#ownsBackbone) await this.backbone.dispose();
    })();
    return this.#disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #check(): void {
    if (this.#disposed)
      throw new LayerEnsemblesError("ERR_LE_DISPOSED", "Expected an ensemble in use but received one disposed of.");
  }

  async #native<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw fromNative(error);
    }
  }
}

function checkImage(image: NdArray, what: string, axes: readonly number[]): void {
  if (!(image?.data instanceof Float32Array) || !Array.isArray(image.shape))
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected {data: Float32Array, shape} for ${what} but received ${typeof image}.`,
    );
  if (!axes.includes(image.shape.length))
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected ${axes.join(" or ")} axes for ${what} but received shape [${image.shape.join(", ")}].`,
    );
  const count = image.shape.reduce((product, side) => product * side, 1);
  if (count !== image.data.length)
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected ${count} numbers for ${what} of shape [${image.shape.join(", ")}] but received ${image.data.length}.`,
    );
}

export type { EpochEvent, FitOptions, History, TrainingEvent };
