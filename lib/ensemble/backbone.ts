import { statSync } from "node:fs";
import path from "node:path";
import { LayerEnsemblesError } from "../errors.js";
import type { Addon, Handle, RawBackbone, RawLayer } from "../native/addon.js";
import { loadAddon } from "../native/load.js";
import { checkOptions, defaultsOf, option, type Values } from "../options.js";
import { asDamaged, RUN_FILES, readRun } from "../runs/run.js";
import { disposeNative, fromNative } from "./call.js";
import { BACKBONE_KINDS, BACKBONES, type BackboneKind, type BackboneOptions } from "./zoo.js";

/** One layer (submodule) of a backbone. */
export interface LayerInfo {
  /** PyTorch's `named_modules()` path, such as `encoder.layer1.0.relu`. */
  name: string;
  /** PyTorch's class name. */
  type: string;
  /** Trainable numbers in this layer and below. */
  parameters: number;
  /** Whether it can be a tap; where not, `whyNot` says why. */
  tappable: boolean;
  /** Why it cannot be a tap; undefined where it can. */
  whyNot?: string;
  /** The layer that this is another name of, where a module is registered twice; undefined where it is not. */
  aliasOf?: string;
  /** How often it ran in the probe; undefined before one. */
  calls?: number;
  /** N×C×H×W (N×C×D×H×W) of its (last) output in the probe; undefined before one, or where it did not run. */
  shape?: number[];
  /**
   * Networks from files some of whose outputs may be maps N×H×W×C, by their shapes: whether of this one no other axis than
   * the last grows with the image's last, as an image twice as wide showed in the probe. Undefined where the network takes no
   * such image, or the output has fewer axes than a map.
   */
  followsImage?: boolean;
}

/** What a load of weights did, and left undone. */
export interface LoadReport {
  /** How many weights were taken. */
  loaded: number;
  /**
   * What stood before the network's names in the file, and was dropped: keys of the file and parts of names, such as
   * `"state_dict.model."`; empty where nothing did. Where names differ in it: what most of them had.
   */
  prefix: string;
  /** Names that the network has and the file has not. */
  missing: string[];
  /** Names that the file has and the network has not. */
  unexpected: string[];
}

const nameOrIndex = option.anyOf(option.string(), option.integer({ min: 0 }));

export const MODEL_OPTIONS = {
  /** The argument of the network's `forward` that takes the image: its name, or its index from 0. @default the first */
  image: option.with(nameOrIndex, {
    otherwise: "the first",
    text: "model file: the argument that takes the image, by name or index",
    arg: "argument",
  }),
  /** Values of its other arguments, by name or index. An argument that has a default needs none. @default {} */
  inputs: option.with(
    option.custom<Readonly<Record<string, unknown>>>(
      "an object of values by argument",
      (value) => Object(value) === value && !Array.isArray(value) && typeof value !== "function",
    ),
    { text: 'model file: values of its other arguments, such as {"n": 3}', arg: "json" },
  ),
  /**
   * Where the network's own output (the head "final") is in what `forward` returns: a key or index, or a path of them.
   * @default the tensor itself; of a dict `"out"` or `"logits"`, or the only entry that is no auxiliary's (`aux…`), and it is
   * an error where there are several; else the first tensor
   */
  output: option.with(
    option.anyOf(option.string(), option.integer({ min: 0 }), option.array(nameOrIndex, { min: 1 })),
    { text: "model file: where its own output is, such as out or 0.logits", arg: "path" },
  ),
  /** Channels of the image. @default as the file says, or its first convolution shows */
  inChannels: option.integer({ min: 1, max: 4096 }),
  /** 2 for images, 3 for volumes. @default as the file says, or its first convolution shows */
  spatialAxes: option.oneOf([2, 3]),
  /**
   * Whether the file comes from a source that you trust. A TorchScript file that does not is first read in a process of
   * its own, with limits on time and memory, because libtorch's reader may crash on a damaged one; that takes about half a
   * second. `torch.export` files need no trial. Either is a program, which runs when images are sent through it.
   * @default false
   */
  trust: option.boolean({
    text: "model file: read a TorchScript file without trying it in another process first",
  }),
};

/** What a model file leaves open. */
export interface ModelOptions extends Values<typeof MODEL_OPTIONS> {}

const PROBE_SIZES = { 2: [128, 128], 3: [32, 32, 32] } as const;

/** A network whose layers can be tapped. */
export class Backbone {
  readonly #addon: Addon;
  readonly #handle: Handle;
  readonly #raw: RawLayer[];
  #layers: LayerInfo[];
  #disposed: Promise<void> | undefined;
  #encoderReport: LoadReport | undefined;
  /** Channels of the image. */
  readonly inChannels: number;
  /** Spatial axes of the image: 2 for C×H×W, 3 for C×D×H×W. */
  readonly spatialAxes: 2 | 3;
  /** Spatial size of the image of a probe, unless told: the one that the network was recorded with, where it has one. */
  readonly probeSize: readonly number[];
  /** The configuration that builds this network again, without its weights. */
  readonly config: Readonly<Record<string, unknown>>;

  private constructor(addon: Addon, handle: Handle, described: RawBackbone) {
    this.#addon = addon;
    this.#handle = handle;
    this.#raw = described.layers;
    this.#layers = described.layers.map((layer) => ({ ...layer }));
    this.inChannels = described.inChannels;
    this.spatialAxes = described.spatialAxes;
    this.probeSize = described.exampleSize.length > 0 ? described.exampleSize : PROBE_SIZES[described.spatialAxes];
    this.config = described.config;
  }

  /**
   * Builds a network with fresh weights, or with an encoder that has learned elsewhere: `encoderWeights`.
   * @throws ERR_LE_OPTION for a kind or an option that does not exist; ERR_LE_CHECKPOINT and ERR_LE_IO for weights that
   *   do not fit or cannot be read or fetched
   */
  static async create(kind: BackboneKind, options: BackboneOptions = {}): Promise<Backbone> {
    checkOptions("backbone", { kind }, { kind: option.required(option.oneOf(BACKBONE_KINDS)) });
    const { options: specs } = BACKBONES[kind];
    const { encoderWeights, encoderPrefix, ...rest } = checkOptions(`backbone ${kind}`, options, specs);
    if (encoderPrefix !== undefined && encoderWeights === undefined)
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        "Expected option 'encoderWeights' beside 'encoderPrefix' but received none.",
      );
    const backbone = await Backbone.#make({ ...defaultsOf(specs), ...rest, kind });
    if (encoderWeights === undefined) return backbone;
    try {
      const { imagenetWeights } = await import("./pretrained.js");
      const file =
        encoderWeights === "imagenet" ? await imagenetWeights(backbone.config.encoder as string) : encoderWeights;
      backbone.#encoderReport = await backbone.#run(() =>
        backbone.#addon.loadEncoder(backbone.handle(), file, encoderPrefix ?? null),
      );
      return backbone;
    } catch (error) {
      await backbone.dispose();
      throw error;
    }
  }

  /**
   * Loads a network from a file that Python wrote, or from a run folder (with the weights that training kept).
   *
   * Files are recognised by their content: `torch.jit.save` (scripted or traced) and `torch.export.save`. Nothing of the
   * network is written again by hand: layers have the names of Python's `named_modules()`. See docs/models.md.
   * @throws ERR_LE_CHECKPOINT for a file that is damaged, of another kind, or that holds a network that cannot be tapped,
   *   with what to export instead; ERR_LE_OPTION for options that do not fit the network; ERR_LE_IO
   */
  static async load(file: string, options: ModelOptions = {}): Promise<Backbone> {
    const { trust = false, ...rest } = checkOptions("Backbone.load", options, MODEL_OPTIONS);
    if (!isFolder(file)) return Backbone.#import({ ...rest, kind: "file", file: path.resolve(file) }, trust);
    const given = Object.keys(rest);
    if (given.length > 0)
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        `Expected no option '${given[0]}' for the run folder ${file}, which has its own, but received one.`,
      );
    const run = await readRun(file);
    const backbone = await Backbone.fromConfig(run.backbone, file).catch((error) => {
      throw asDamaged(path.join(file, RUN_FILES.run), error);
    });
    try {
      const report = await backbone.loadWeights(path.join(file, RUN_FILES.weights), { strict: false });
      const foreign = report.unexpected.find((name) => !name.startsWith("heads."));
      if (report.missing.length > 0 || foreign !== undefined)
        throw new LayerEnsemblesError(
          "ERR_LE_CHECKPOINT",
          `Expected the weights of the run's network in ${file} but received ${foreign ?? "some"} that do not fit it (missing: ${report.missing.slice(0, 8).join(", ") || "none"}).`,
        );
      return backbone;
    } catch (error) {
      await backbone.dispose();
      throw error;
    }
  }

  /**
   * Builds the network that a run's configuration describes; see {@link Backbone.config}.
   * @param folder the run's folder, where a network that came from a file has its copy. Default: the working directory
   */
  static async fromConfig(config: Readonly<Record<string, unknown>>, folder = "."): Promise<Backbone> {
    if (typeof config.file !== "string") return Backbone.#make(config);
    return Backbone.#import({ ...config, file: path.resolve(folder, config.file) }, false);
  }

  static async #import(config: Record<string, unknown> & { file: string }, trust: boolean): Promise<Backbone> {
    const addon = await loadAddon();
    try {
      if (!trust && (await addon.fileKind(config.file)) === "torchscript") {
        const { tryModel } = await import("../native/trial.js");
        await tryModel(config);
      }
    } catch (error) {
      throw fromNative(error);
    }
    return Backbone.#make(config);
  }

  static async #make(config: Readonly<Record<string, unknown>>): Promise<Backbone> {
    const addon = await loadAddon();
    try {
      const { handle, ready } = addon.createBackbone(config);
      return new Backbone(addon, handle, await ready);
    } catch (error) {
      throw fromNative(error);
    }
  }

  /** Every layer: in registration order, and after a {@link probe} in execution order with shapes. */
  layers(): LayerInfo[] {
    this.#check();
    return this.#layers.map((layer) => ({ ...layer }));
  }

  /**
   * Runs one dummy image through the network to see which layers run, in which order and with which output.
   * @param inputSize the image's spatial size. Default: {@link probeSize}
   * @returns the layers that ran, in the order in which they (last) finished, then those that did not run
   */
  async probe(inputSize: readonly number[] = this.probeSize): Promise<LayerInfo[]> {
    const shape = [1, this.inChannels, ...checkSize(inputSize, this.spatialAxes)];
    const trace = () => this.#run(() => this.#addon.traceBackbone(this.handle(), shape));
    let calls = await trace();
    const open = calls.some((call) => mayHaveChannelsLast(call.shape, shape));
    const wide = open ? await this.#traceWide(shape) : undefined;
    if (open) calls = await trace(); // what the network has learned of itself shall be of this image
    const ran = new Map<string, LayerInfo>();
    const byName = new Map(this.#raw.map((layer) => [layer.name, layer]));
    for (const call of calls) {
      const layer = byName.get(call.name);
      if (!layer) continue;
      const before = ran.get(call.name);
      ran.delete(call.name); // a layer that runs again is placed where it ran last
      const shape = call.shape.length > 0 ? { shape: call.shape } : {};
      const followsImage = follows(call.shape, wide?.get(call.name));
      ran.set(call.name, {
        ...layer,
        calls: (before?.calls ?? 0) + 1,
        ...shape,
        ...(followsImage !== undefined && { followsImage }),
      });
    }
    const idle = this.#raw.filter((layer) => !ran.has(layer.name)).map((layer) => ({ ...layer, calls: 0 }));
    this.#layers = [...ran.values(), ...idle];
    return this.layers();
  }

  /** Shapes for an image twice as wide; undefined of a network that keeps to its axes, and where it takes no such image. */
  async #traceWide(shape: readonly number[]): Promise<Map<string, number[]> | undefined> {
    if (this.config.kind !== "torchscript" && this.config.kind !== "exported") return undefined;
    const wide = shape.map((size, axis) => (axis === shape.length - 1 ? 2 * size : size));
    try {
      const calls = await this.#run(() => this.#addon.traceBackbone(this.handle(), wide));
      return new Map(calls.map((call) => [call.name, call.shape]));
    } catch (error) {
      const code = error instanceof LayerEnsemblesError ? error.code : "";
      if (code === "ERR_LE_SHAPE" || code === "ERR_LE_MEMORY") return undefined;
      throw error;
    }
  }

  /**
   * Loads weights from a file, which is known by its content: safetensors, or a state dict that Python wrote with
   * `torch.save`, also inside of a checkpoint. What wrappers, trainers and keys put before the names (`module.`,
   * `_orig_mod.`, `model.`, `state_dict`, …) is found by comparing names and shapes with the network's, and reported. Of
   * such a file only tensors and plain containers are read; nothing in it is executed.
   * @param options.strict whether a missing or unexpected name is an error that lists them. Default true. Where not, a
   *   process warning says so if more weights are missing than were taken
   * @param options.part load only what lies below this name, with the file's names relative to it: `"encoder"` takes a
   *   ResNet's own state dict
   * @param options.prefix take only the names of the file that begin so, keys of the file included: `"ema."`. Needed where
   *   a file has several sets of weights that fit, which is refused otherwise
   * @throws ERR_LE_CHECKPOINT, and then nothing was changed: where no name fits, strict or not, or a weight has another
   *   shape, or is NaN or infinite; ERR_LE_IO
   */
  async loadWeights(
    path: string,
    options: { strict?: boolean; part?: string; prefix?: string } = {},
  ): Promise<LoadReport> {
    const {
      strict = true,
      part,
      prefix,
    } = checkOptions("loadWeights", options, {
      strict: option.boolean(),
      part: option.string(),
      prefix: option.string(),
    });
    const how = { strict, part: part ? `${part}.` : "", ...(prefix !== undefined && { prefix }) };
    const report = await this.#run(() => this.#addon.loadBackbone(this.handle(), path, how));
    if (report.loaded < report.missing.length)
      process.emitWarning(
        `Only ${report.loaded} weights of the network were in ${path}${report.prefix && ` (behind '${report.prefix}')`}; ${report.missing.length} keep their first values.`,
        "LayerEnsemblesWarning",
      );
    return report;
  }

  /**
   * The feature map that the network's own output is made of: the name of the layer that gives it. It is found by data flow,
   * from what forward returns back to its classifier; a branch beside it, such as an auxiliary classifier, is never taken.
   * @param inputSize the image's spatial size. Default: {@link probeSize}
   * @throws ERR_LE_OPTION where data flow cannot say, with why: name the layer then
   */
  async features(inputSize: readonly number[] = this.probeSize): Promise<string> {
    const { features, reason } = await this.#traceOutput(inputSize, true);
    if (features) return features;
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected a network whose own output one classifier makes of one feature map but received another: ${reason}. Name the layer for the heads by option 'tap'.`,
    );
  }

  /**
   * The shape of the network's own output: N×C×H×W (N×C×D×H×W) of an image of that size, or empty where it is no map of the
   * image.
   * @param inputSize the image's spatial size. Default: {@link probeSize}
   */
  async outputShape(inputSize: readonly number[] = this.probeSize): Promise<readonly number[]> {
    return (await this.#traceOutput(inputSize, false)).shape ?? [];
  }

  #traceOutput(inputSize: readonly number[], features: boolean) {
    const shape = [1, this.inChannels, ...checkSize(inputSize, this.spatialAxes)];
    return this.#run(() => this.#addon.traceOutput(this.handle(), shape, features));
  }

  /** What the load of `encoderWeights` did; undefined without. */
  get encoderReport(): LoadReport | undefined {
    return this.#encoderReport;
  }

  /**
   * Saves weights and buffers as safetensors, atomically. A network that came from a file is saved whole, with its present
   * weights in the format of that file, which Python loads, unless the name ends in `.safetensors`.
   * @param options.part save only what lies below this name, with names relative to it; weights only
   * @throws ERR_LE_IO
   */
  async save(file: string, options: { part?: string } = {}): Promise<void> {
    const { part } = checkOptions("save", options, { part: option.string() });
    const whole = typeof this.config.file === "string" && !file.endsWith(".safetensors") && part === undefined;
    if (whole) return this.#run(() => this.#addon.saveModel(this.handle(), file));
    return this.#run(() => this.#addon.saveBackbone(this.handle(), file, part ? `${part}.` : ""));
  }

  /** Waits for what is under way, then frees the network. Ensembles made of it cannot be used any more. */
  dispose(): Promise<void> {
    this.#disposed ??= disposeNative(this.#addon, this.#handle, this.#addon.disposeBackbone(this.#handle));
    return this.#disposed;
  }

  /** As {@link dispose}; for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  /** @internal */
  handle(): Handle {
    this.#check();
    return this.#handle;
  }

  #check(): void {
    if (this.#disposed)
      throw new LayerEnsemblesError("ERR_LE_DISPOSED", "Expected a backbone in use but received one disposed of.");
  }

  async #run<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw fromNative(error);
    }
  }
}

function checkSize(size: readonly number[], axes: number): readonly number[] {
  const spec = option.required(option.array(option.integer({ min: 1, max: 65536 }), { length: axes }));
  return checkOptions("probe", { inputSize: size }, { inputSize: spec }).inputSize;
}

/** Whether an output of that shape may be N×H×W×C at one stride of the image N×C×H×W. */
function mayHaveChannelsLast(shape: readonly number[], image: readonly number[]): boolean {
  if (shape.length !== image.length || shape[0] !== image[0]) return false;
  const places = shape.slice(1, -1);
  const strides = places.map((side, axis) => (image[axis + 2] as number) / side);
  const [first = 1] = strides;
  return places.some((side) => side > 1) && strides.every((stride) => Math.abs(stride / first - 1) < 0.1);
}

/** Whether an output's last axis, and it alone, grew with the image's; a map of a fixed size keeps all of its axes. */
function follows(shape: readonly number[], wide: readonly number[] | undefined): boolean | undefined {
  if (!wide || shape.length < 4) return undefined;
  if (wide.length !== shape.length) return false;
  const grew = shape.map((size, axis) => (wide[axis] as number) !== size);
  return !grew.slice(0, -1).includes(true);
}

function isFolder(name: string): boolean {
  try {
    return statSync(name).isDirectory();
  } catch {
    return false; // who opens it as a file says why that cannot be
  }
}
