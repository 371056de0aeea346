import { existsSync } from "node:fs";
import path from "node:path";
import { makeFolders } from "../data/files.js";
import { LayerEnsemblesError } from "../errors.js";
import type { Addon, Handle } from "../native/addon.js";
import { withFolder } from "../native/folder-lock.js";
import { loadAddon } from "../native/load.js";
import { checkOptions, type OptionSpecs, option } from "../options.js";
import { type Learned, NOTHING_LEARNED, readLearned } from "../runs/learned.js";
import { METHOD_TITLES, type MethodName } from "../runs/methods.js";
import type { RunPredictedDice } from "../runs/predicted-dice.js";
import {
  asDamaged,
  checkPrediction,
  keptOf,
  MODEL_FILES,
  RUN_FILES,
  type Run,
  type RunContent,
  readRun,
  replaceRun,
  type Tuned,
  tunedOf,
  writeRun,
} from "../runs/run.js";
import { keepShift, type RunShift, removeOtherShifts } from "../runs/shift.js";
import type { RunTiles } from "../runs/tiles.js";
import { AUGMENTATIONS } from "./augment.js";
import { Backbone } from "./backbone.js";
import { callNative, disposeNative, fromNative, onAbort, reasonOf } from "./call.js";
import { FIT, FIT_DEFAULTS, type FitOptions } from "./fit-options.js";
import { type Head, type Model, PLACEMENT, type PlacementOptions } from "./model.js";
import { type HeadSource, Predictor } from "./predictor.js";
import { prepare } from "./prepare.js";
import { Recorder } from "./recorder.js";
import { SampleGuard } from "./sample-guard.js";
import { Gathered, gather } from "./samples.js";
import { autoTaps } from "./taps.js";
import { tilesOfPatch } from "./tiles.js";
import type { History, SampleSource, TrainingEvent } from "./training.js";

/** Samples may have been gathered before. */
const GATHERABLE: OptionSpecs = {
  ...FIT,
  validation: option.custom(
    FIT.validation.expected,
    (value) => value instanceof Gathered || FIT.validation.accepts(value),
  ),
};

/**
 * Before anything is read or written.
 * @throws ERR_LE_OPTION
 */
export function checkFit<Options extends object>(options: Options): Options {
  const given = checkOptions("fit", options, GATHERABLE);
  const { earlyStopping, validation, patch } = given as FitOptions;
  if (earlyStopping && !validation)
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      "Expected option 'validation' with 'earlyStopping' but received none.",
    );
  for (const name of ["patchForeground", "patchesPerCase"] as const)
    if (!patch && (given as FitOptions)[name] !== undefined)
      throw new LayerEnsemblesError("ERR_LE_OPTION", `Expected option 'patch' with '${name}' but received none.`);
  return given;
}

/**
 * Whether a training is gone on with.
 * @throws ERR_LE_IO where one is there that is not to be gone on with
 */
export function hasBegun(run: string | undefined, resume: boolean): run is string {
  const has = (file: string) => run !== undefined && existsSync(path.join(run, file));
  const begun = has(RUN_FILES.state);
  if (!begun && has(RUN_FILES.weights))
    throw new LayerEnsemblesError(
      "ERR_LE_IO",
      `Expected an empty folder for option 'run' but received ${run}, which holds a model that was saved, and no training to resume: choose another.`,
    );
  if (begun && !resume)
    throw new LayerEnsemblesError(
      "ERR_LE_IO",
      `Expected an empty folder for option 'run' but received ${run}, which holds a run: resume it (resume: true) or choose another.`,
    );
  return begun;
}

/** A name stands for the object with that name. */
function withName<T extends object>(value: string | T): { name: string } | T {
  return typeof value === "string" ? { name: value } : value;
}

/** Options whose samples may have been gathered before. */
type Gatherable<Options extends FitOptions> = Omit<Options, "validation"> & {
  validation?: SampleSource | Gathered;
};

/** How a network and its heads are made. */
export interface NetworkOptions extends PlacementOptions {
  taps: readonly string[];
  classes: number;
  final: boolean | "auto";
  order: "execution" | "given";
  /** Heads of different first weights on each tap. */
  headsPerTap: number;
  dropout: number;
  freezeBackbone: boolean;
  inputSize: readonly number[];
  seed: number;
  skip: number;
  /** Monte Carlo dropout: passes of each image; 0: one pass without. */
  passes: number;
}

/** What of a network's making a run records. */
type Recorded = Pick<Run, "ensemble" | "skip"> & { passes: number; channelsLast: boolean };

/** What the constructor of a {@link Network} gets, from {@link makeNetwork} alone. */
export interface NetworkParts {
  addon: Addon;
  handle: Handle;
  backbone: Backbone;
  ownsBackbone: boolean;
  made: { heads: Head[]; device: string; precision: "fp32" | "bf16"; parameters: number; hasDropout: boolean };
  /** Whether training may choose the precision. */
  anyPrecision: boolean;
  recorded: Recorded;
  run: Run | undefined;
  learned: Learned;
}

/** @throws ERR_LE_OPTION for a size of an image where the network takes volumes, or the other way round */
export function checkInputSize({ spatialAxes }: Backbone, inputSize: readonly number[]): void {
  if (inputSize.length === spatialAxes) return;
  throw new LayerEnsemblesError(
    "ERR_LE_OPTION",
    `Expected ${spatialAxes} sides for option 'inputSize' (the network works on ${spatialAxes === 3 ? "volumes" : "images"}) but received ${inputSize.length}.`,
  );
}

/**
 * Probes the backbone with a dummy image, orders the taps by depth and makes the heads.
 * @throws ERR_LE_TAP, ERR_LE_OPTION, ERR_LE_DEVICE
 */
export async function makeNetwork(
  backbone: Backbone,
  options: NetworkOptions,
  owned: { run: Run } | null,
): Promise<NetworkParts> {
  const { skip, passes, device = "auto", precision = "auto", channelsLast = true, ...settings } = options;
  const { final, order, headsPerTap, ...rest } = settings;
  checkInputSize(backbone, settings.inputSize);
  const addon = await loadAddon();
  try {
    const { handle, ready } = addon.createEnsemble(backbone.handle(), { ...settings, device, precision, channelsLast });
    const made = await ready;
    if (skip >= made.heads.length)
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        `Expected 0 to ${made.heads.length - 1} for option 'skip' (there are ${made.heads.length} heads) but received ${skip}.`,
      );
    const tapped = made.heads.filter((head) => head.tap !== "");
    const taps = [...new Set(tapped.map((head) => head.tap))];
    const ensemble = { ...rest, taps, inputSize: [...rest.inputSize], final: tapped.length < made.heads.length };
    return {
      addon,
      handle,
      backbone,
      ownsBackbone: owned !== null,
      made: { ...made, heads: made.heads.map(({ name, channels, size }) => ({ name, channels, size })) },
      anyPrecision: precision === "auto",
      recorded: { ensemble: { ...ensemble, ...(headsPerTap > 1 && { headsPerTap }) }, skip, passes, channelsLast },
      run: owned?.run,
      learned: NOTHING_LEARNED,
    };
  } catch (error) {
    throw fromNative(error);
  }
}

/** The numbers and the order of memory of a run's training, which its predictions repeat. bfloat16 needs units for it. */
function trainedIn({ training }: Run): Pick<PlacementOptions, "precision" | "channelsLast"> {
  return {
    precision: training?.precision === "fp32" ? "fp32" : "auto",
    channelsLast: training?.channelsLast !== false,
  };
}

function defined<T extends object>(options: T): Partial<T> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<T>;
}

/** Makes the parts of a network that a run describes, with its best weights. The network owns its backbone. */
export async function loadNetwork(
  folder: string,
  method: MethodName,
  run: Run,
  options: PlacementOptions,
): Promise<NetworkParts> {
  const placement = checkOptions("load", options, PLACEMENT);
  if (run.method !== method)
    throw new LayerEnsemblesError(
      "ERR_LE_CHECKPOINT",
      `Expected a run of a ${METHOD_TITLES[method].long} in ${folder} but received one of a ${METHOD_TITLES[run.method].long}: loadModel() takes any.`,
    );
  const file = path.join(folder, RUN_FILES.run);
  const backbone = await Backbone.fromConfig(run.backbone, folder).catch((error) => {
    throw asDamaged(file, error);
  });
  try {
    const { headsPerTap = 1, ...ensemble } = run.ensemble;
    const settings = { ...ensemble, headsPerTap, order: "given" as const, skip: run.skip, passes: run.passes ?? 0 };
    const parts = await makeNetwork(backbone, { ...settings, ...trainedIn(run), ...defined(placement) }, { run });
    const names = parts.made.heads.map(({ name }) => name);
    checkPrediction(run, run.passes === undefined ? names : passNames(names, run.passes), folder);
    await parts.addon.loadEnsemble(parts.handle, path.join(folder, RUN_FILES.weights));
    return { ...parts, learned: await readLearned(folder, run) };
  } catch (cause) {
    await backbone.dispose();
    const error = fromNative(cause);
    throw /option '(?:device|precision)'/.test((error as Error).message) ? error : asDamaged(file, error);
  }
}

/** One network and its heads. What the heads are and how they are read is the method's. */
export abstract class Network extends Predictor implements Model {
  readonly #addon: Addon;
  readonly #handle: Handle;
  readonly #ownsBackbone: boolean;
  readonly #recorded: Recorded;
  readonly #anyPrecision: boolean;
  #precision: "fp32" | "bf16";
  #watched: Promise<readonly string[]> | undefined;
  #disposed: Promise<void> | undefined;
  #trained: Record<string, unknown> | undefined;
  /** As chosen for the weights that it was loaded with. */
  #tuned: Tuned;
  #learned: Learned;
  #tiles: RunTiles | null;

  abstract readonly method: MethodName;
  /** The network; shared with whoever made it. */
  readonly backbone: Backbone;
  /** In depth order. */
  readonly heads: readonly Head[];
  /** Number of classes with background. */
  readonly classes: number;
  /** Where it runs, such as `cpu` or `cuda:0`. */
  readonly device: string;
  /** Trainable numbers, heads and a frozen backbone counted. */
  readonly parameters: number;
  /** First heads left out of predictions, unless a call says otherwise. */
  readonly skip: number;
  /** What run.json said, for a model that was loaded from a run. What a tuning chose holds until the next `fit`. */
  readonly run: Run | undefined;

  protected constructor(parts: NetworkParts) {
    super();
    this.#addon = parts.addon;
    this.#handle = parts.handle;
    this.#ownsBackbone = parts.ownsBackbone;
    this.#recorded = parts.recorded;
    this.backbone = parts.backbone;
    this.heads = parts.made.heads;
    this.device = parts.made.device;
    this.#precision = parts.made.precision;
    this.#anyPrecision = parts.anyPrecision;
    this.parameters = parts.made.parameters;
    this.classes = parts.recorded.ensemble.classes;
    this.skip = parts.recorded.skip;
    this.run = parts.run;
    this.#trained = parts.run?.training;
    this.#tuned = tunedOf(parts.run);
    this.#learned = parts.learned;
    this.#tiles = parts.run?.tiles ?? null;
  }

  /** How the Dice of its masks is predicted; until the next `fit`. */
  get predictedDice(): RunPredictedDice {
    return this.#learned.predictedDice;
  }

  /** What is known of the training's images; until the next `fit`. */
  get shift(): RunShift {
    return this.#learned.shift;
  }

  /** Numbers in which the network runs. Of `precision: "auto"` those that `fit` finds to be faster, from then on. */
  get precision(): "fp32" | "bf16" {
    return this.#precision;
  }

  protected source(): HeadSource {
    this.#check();
    const names = this.heads.map(({ name }) => name);
    return {
      addon: this.#addon,
      handles: [this.#handle],
      method: this.method,
      headNames: (passes) => (passes === 0 ? names : passNames(names, passes)),
      passes: this.#recorded.passes,
      skip: this.skip,
      spatialAxes: this.backbone.spatialAxes,
      inputSize: this.#recorded.ensemble.inputSize,
      tiles: this.#tiles,
      tuned: this.#tuned.prediction,
      learned: this.#learned,
      watched: () => this.watched(),
    };
  }

  /** Layers whose features are measured where none are named: the tapped ones, or those that a Layer Ensemble would tap. @internal */
  watched(): Promise<readonly string[]> {
    const { taps, inputSize } = this.#recorded.ensemble;
    if (this.method === "le" && taps.length > 0) return Promise.resolve(taps);
    this.#watched ??= this.backbone.probe(inputSize).then((layers) => autoTaps(layers, { image: inputSize }));
    return this.#watched;
  }

  /** What a deep ensemble needs of its members. @internal */
  member(): { addon: Addon; handle: Handle } {
    this.#check();
    return { addon: this.#addon, handle: this.#handle };
  }

  /** What a run records of the network and its heads. @internal */
  described(): Pick<Run, "backbone" | "ensemble"> {
    return { backbone: this.backbone.config, ensemble: this.#recorded.ensemble };
  }

  /**
   * Writes a run folder that `load` reads: run.json and weights.safetensors, each atomically.
   * @param notes more facts for run.json
   * @throws ERR_LE_IO, ERR_LE_BUSY
   */
  async save(folder: string, notes: Record<string, unknown> = {}): Promise<void> {
    this.#check();
    const weights = path.join(folder, RUN_FILES.weights);
    await withFolder(folder, () =>
      replaceRun(folder, [() => this.#native(() => this.#addon.saveEnsemble(this.#handle, weights))], () =>
        this.#writeRun(folder, notes, this.#trained, keptOf(this.run, this.#tuned), this.#tiles, this.shift),
      ),
    );
  }

  async #writeRun(
    folder: string,
    notes: Record<string, unknown>,
    training: Record<string, unknown> | undefined,
    { tiles: _, ...kept }: Partial<Run>,
    tiles: RunTiles | null,
    shift?: RunShift,
  ) {
    const info = this.#addon.info() as { libtorch?: string };
    const { ensemble, skip, passes, channelsLast } = this.#recorded;
    const placed = channelsLast ? {} : { channelsLast };
    const config = { ...this.backbone.config };
    if (typeof config.file === "string") {
      // A run needs nothing outside its folder. The copy is the network; weights.safetensors has what training made of it.
      config.file = MODEL_FILES[config.kind as keyof typeof MODEL_FILES];
      await makeFolders(folder);
      await this.backbone.save(path.join(folder, config.file as string));
    }
    const content: RunContent = {
      ...kept,
      method: this.method,
      backbone: config,
      ensemble,
      skip,
      ...(passes > 0 && { passes }),
      ...(tiles && { tiles }),
      // What a loaded run says of its training stays, wherever the model runs now.
      ...(training && { training: { device: this.device, precision: this.precision, ...placed, ...training } }),
      notes: { ...this.run?.notes, ...notes },
    };
    const run = await keepShift(folder, content, shift);
    await writeRun(folder, run, String(info.libtorch));
    await removeOtherShifts(folder, run);
  }

  /**
   * Trains the backbone and all heads together on the weighted sum of the heads' losses, on a thread of its own.
   * @throws ERR_LE_DIVERGED, ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION, ERR_LE_IO, ERR_LE_CHECKPOINT,
   * ERR_LE_BUSY where another training or command writes the folder `run`, or `signal.reason`
   */
  async fit(training: SampleSource | Gathered, options: Gatherable<FitOptions> = {}): Promise<History> {
    this.#check();
    const given = checkFit(options);
    const { run } = given;
    if (run === undefined) return this.#fit(training, given);
    return withFolder(run, () => this.#fit(training, given));
  }

  async #fit(training: SampleSource | Gathered, options: Gatherable<FitOptions>): Promise<History> {
    const {
      validation,
      signal,
      onProgress,
      notes = {},
      run,
      resume,
      checkKernels,
      allowDuplicates,
      ...given
    } = {
      ...FIT_DEFAULTS,
      ...options,
    };
    const { loss, optimizer, schedule, augment, patchForeground, ...rest } = given;
    const guard = new SampleGuard(training, { ...rest, validation, allowDuplicates });
    const custom = typeof loss === "function" ? loss : null;
    const settings = {
      ...rest,
      ...(rest.patch && { patchForeground }),
      ignoreIndex: guard.ignoreIndex ?? 255,
      loss: typeof loss === "function" ? { name: "crossEntropy" } : withName(loss),
      optimizer: withName(optimizer),
      schedule: withName(schedule),
      augment: typeof augment === "string" ? AUGMENTATIONS[augment] : augment,
    };
    const begun = hasBegun(run, resume);
    const axes = this.backbone.spatialAxes;
    const trainingData = await gather(this.#addon, training, axes, "training", signal, guard);
    const validationData = validation ? await gather(this.#addon, validation, axes, "validation", signal, guard) : null;

    const abort = new AbortController(); // for what goes wrong while an event is handled
    const recorder = run === undefined ? undefined : new Recorder(run, (error) => abort.abort(error));
    const onEvent = (event: TrainingEvent) => {
      try {
        if (event.type === "start") recorder?.start(event.before);
        if (event.type === "epoch") recorder?.epoch(event);
        onProgress?.(event);
      } catch (error) {
        abort.abort(error);
      }
    };
    const ignore = onAbort(signal, () => abort.abort(reasonOf(signal)));
    try {
      signal?.throwIfAborted();
      const before = begun ? await readRun(run) : undefined;
      // A training that goes on is computed as it was begun.
      if (this.#anyPrecision && before?.training?.precision === "fp32") await this.#setPrecision("fp32");
      let told = 0;
      const prepared = await prepare(
        {
          addon: this.#addon,
          handle: this.#handle,
          training: trainingData.handle,
          validation: validationData?.handle ?? null,
          settings,
          choose: this.#anyPrecision && !begun && this.device === "cpu" && this.precision === "bf16",
          precision: this.precision,
          check: checkKernels && this.device === "cpu",
          network: [{ ...this.backbone.config, seed: undefined }, this.parameters],
        },
        abort.signal,
        (done, kernels) => {
          if (performance.now() - told < 100) return;
          told = performance.now();
          onEvent({ type: "preparing", done, kernels });
        },
      );
      await this.#setPrecision(prepared.precision);
      onEvent(prepared);
      const recorded = {
        ...settings,
        ...(custom && { loss: { name: "custom" } }),
        ...(prepared.kernels && prepared.kernels.detours.length > 0 && { detours: prepared.kernels.detours }),
      };
      const tiles = rest.patch ? tilesOfPatch(rest.patch) : null;
      if (run !== undefined) await this.#writeRun(run, notes, recorded, keptOf(before, {}), tiles);
      this.#tiles = tiles;
      this.#tuned = {};
      this.#learned = NOTHING_LEARNED;
      const history = await callNative(this.#addon, abort.signal, (control) =>
        this.#addon.fit(
          this.#handle,
          trainingData.handle,
          validationData?.handle ?? null,
          { ...settings, resume, ...(run !== undefined && { run }) },
          (json) => onEvent(JSON.parse(json) as TrainingEvent),
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
      ignore();
    }
  }

  async #setPrecision(precision: "fp32" | "bf16"): Promise<void> {
    if (precision === this.#precision) return;
    await this.#native(() => this.#addon.setPrecision(this.#handle, precision));
    this.#precision = precision;
  }

  /** Waits for what is under way, then frees the heads, and the network where this ensemble was loaded from a run. */
  dispose(): Promise<void> {
    this.#disposed ??= (async () => {
      await disposeNative(this.#addon, this.#handle, this.#addon.disposeEnsemble(this.#handle));
      if (this.#ownsBackbone) await this.backbone.dispose();
    })();
    return this.#disposed;
  }

  /** As {@link dispose}; for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #check(): void {
    if (this.#disposed)
      throw new LayerEnsemblesError("ERR_LE_DISPOSED", "Expected a model in use but received one disposed of.");
  }

  async #native<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw fromNative(error);
    }
  }
}

/** Each pass has all heads of the network. */
function passNames(heads: readonly string[], passes: number): string[] {
  return Array.from({ length: passes }, (_, i) => `pass ${i + 1}`).flatMap((pass) =>
    heads.length === 1 ? [pass] : heads.map((name) => `${pass}, ${name}`),
  );
}
