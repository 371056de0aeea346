import { statSync } from "node:fs";
import path from "node:path";
import { LayerEnsemblesError } from "../errors.js";
import type { Addon, Handle, RawBackbone, RawLayer } from "../native/addon.js";
import { loadAddon } from "../native/load.js";
import { checkOptions, type OptionSpecs, option } from "../options.js";
import { disposeNative, fromNative } from "./call.js";
import { asDamaged, RUN_FILES, readRun } from "./run.js";

/** Networks that this package builds itself. */
export type BackboneKind =
  | "unet"
  | "deeplabv3plus"
  | "fpn"
  | "plain-unet"
  | "unet3d"
  | "resnet18"
  | "resnet34"
  | "resnet50"
  | "resnet101";

/** Encoders of unet, deeplabv3plus and fpn. */
export type EncoderName = "resnet18" | "resnet34" | "resnet50" | "resnet101";

/** How a backbone is built. What does not concern the chosen kind is refused. */
export interface BackboneOptions {
  /** Channels of the image. @default 1 (resnet18/34/50/101: 3) */
  inChannels?: number;
  /** Channels of the network's own output. @default 2 (resnet18/34/50/101: 1000; 0 leaves out the classifier) */
  classes?: number;
  /** Seed of the initial weights. @default 0 */
  seed?: number;
  /** unet, deeplabv3plus, fpn: encoder. @default "resnet18" */
  encoder?: EncoderName;
  /**
   * Networks with an encoder: a file of weights to start it from (safetensors, or a state dict by `torch.save`; of the
   * classifier, whose last layer is left out, or of a network with such an encoder), or `"imagenet"` for torchvision's,
   * which are fetched once. Where `inChannels` differs, each filter of the first convolution becomes its mean over its
   * input channels, repeated for each new channel and scaled by old/new channels: a grey image in every channel gives the
   * response that it gave before. The recorded configuration does not keep it: a run has its own weights. @default none
   */
  encoderWeights?: string;
  /**
   * What stands before the encoder's names in the file of `encoderWeights`, such as `"model.encoder."`; needed only where a
   * file has several encoders that fit. @default found
   */
  encoderPrefix?: string;
  /**
   * unet: channels of the five decoder blocks. deeplabv3plus: channels of its decoder, one number.
   * @default [256, 128, 64, 32, 16], 256
   */
  decoderChannels?: number[] | number;
  /** unet: attention in the decoder; `"scse"` is concurrent spatial and channel squeeze and excitation. @default null */
  attention?: "scse" | null;
  /**
   * unet: `"paper"` is the set-up of Kushibar et al. (2022): ResNet-18, 1 channel, 1024-512-256-128-64, scSE. `"deep"` is
   * the same on a ResNet-101. Options given beside a preset win.
   */
  preset?: "paper" | "deep";
  /** deeplabv3plus: stride of the encoder's last map; its later stages dilate instead of halving. @default 16 */
  outputStride?: 8 | 16;
  /** deeplabv3plus: dilations of the pyramid's three separable convolutions. @default [12, 24, 36] */
  atrousRates?: number[];
  /** fpn: channels of the pyramid. @default 256 */
  pyramidChannels?: number;
  /** fpn: channels of the blocks that lead to the head; a multiple of 32. @default 128 */
  segmentationChannels?: number;
  /**
   * deeplabv3plus: dropout after the pyramid. fpn: of whole channels, before the head. unet: of whole channels, after the
   * encoder's last map and each decoder block but the last. plain-unet, unet3d: of whole channels, after each level but the
   * full-size ones. What Monte Carlo dropout draws. @default 0.5, 0.2, 0, 0
   */
  dropout?: number;
  /** plain-unet, unet3d: channels of the first level; each level below has twice as many. @default 16 */
  width?: number;
  /** plain-unet, unet3d: number of levels, the full-size one counted. @default 4 */
  depth?: number;
  /** unet3d: `"instance"` has weights and biases, but no running statistics. @default "batch" */
  norm?: "batch" | "instance";
  /** unet3d: how the decoder enlarges. @default "nearest" */
  upsampling?: "nearest" | "trilinear";
}

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

/** What a model file leaves open. */
export interface ModelOptions {
  /** The argument of the network's `forward` that takes the image: its name, or its index from 0. @default the first */
  image?: string | number;
  /** Values of its other arguments, by name or index. An argument that has a default needs none. @default {} */
  inputs?: Readonly<Record<string, unknown>>;
  /**
   * Where the network's own output (the head "final") is in what `forward` returns: a key or index, or a path of them.
   * @default the tensor itself; of a dict `"out"` or `"logits"`, or the only entry that is no auxiliary's (`aux…`), and it is
   * an error where there are several; else the first tensor
   */
  output?: string | number | readonly (string | number)[];
  /** Channels of the image. @default as the file says, or its first convolution shows */
  inChannels?: number;
  /** 2 for images, 3 for volumes. @default as the file says, or its first convolution shows */
  spatialAxes?: 2 | 3;
  /**
   * Whether the file comes from a source that you trust. A TorchScript file that does not is first read in a process of
   * its own, with limits on time and memory, because libtorch's reader may crash on a damaged one; that takes about half a
   * second. `torch.export` files need no trial. Either is a program, which runs when images are sent through it.
   * @default false
   */
  trust?: boolean;
}

const MODEL: OptionSpecs = {
  image: option.anyOf(option.string(), option.integer({ min: 0 })),
  inputs: option.custom(
    "an object of values by argument",
    (value) => Object(value) === value && !Array.isArray(value) && typeof value !== "function",
  ),
  output: option.anyOf(
    option.string(),
    option.integer({ min: 0 }),
    option.array(option.anyOf(option.string(), option.integer({ min: 0 })), { min: 1 }),
  ),
  inChannels: option.integer({ min: 1, max: 4096 }),
  spatialAxes: option.oneOf([2, 3]),
  trust: option.boolean(),
};

const NETWORK: OptionSpecs = { inChannels: option.integer({ min: 1 }), seed: option.integer({ min: 0 }) };
const RESNET: OptionSpecs = { ...NETWORK, classes: option.integer({ min: 0 }) };
const SEGMENTER: OptionSpecs = { ...NETWORK, classes: option.integer({ min: 1, max: 255 }) };
const DROPOUT = option.number({ min: 0, below: 1 });
const ENCODED: OptionSpecs = { ...SEGMENTER, encoder: option.oneOf(["resnet18", "resnet34", "resnet50", "resnet101"]) };
const LEVELS: OptionSpecs = {
  ...SEGMENTER,
  width: option.integer({ min: 1 }),
  depth: option.integer({ min: 1, max: 8 }),
  dropout: DROPOUT,
};
const KINDS: Record<BackboneKind, OptionSpecs> = {
  unet: {
    ...ENCODED,
    decoderChannels: option.array(option.integer({ min: 1 }), { length: 5 }),
    attention: option.oneOf(["scse", null]),
    preset: option.oneOf(["paper", "deep"]),
    dropout: DROPOUT,
  },
  deeplabv3plus: {
    ...ENCODED,
    decoderChannels: option.integer({ min: 1 }),
    outputStride: option.oneOf([8, 16]),
    atrousRates: option.array(option.integer({ min: 1 }), { length: 3 }),
    dropout: DROPOUT,
  },
  fpn: {
    ...ENCODED,
    pyramidChannels: option.integer({ min: 1 }),
    segmentationChannels: option.integer({ min: 1 }),
    dropout: DROPOUT,
  },
  "plain-unet": LEVELS,
  unet3d: {
    ...LEVELS,
    norm: option.oneOf(["batch", "instance"]),
    upsampling: option.oneOf(["nearest", "trilinear"]),
  },
  resnet18: RESNET,
  resnet34: RESNET,
  resnet50: RESNET,
  resnet101: RESNET,
};

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
    const specs = Object.hasOwn(KINDS, kind) ? KINDS[kind] : undefined;
    if (!specs) checkOptions("backbone", { kind }, { kind: option.oneOf(Object.keys(KINDS)) });
    const withEncoder =
      specs && "encoder" in specs
        ? { ...specs, encoderWeights: option.string(), encoderPrefix: option.string() }
        : specs;
    const { encoderWeights, encoderPrefix, ...rest } = checkOptions(
      `backbone ${kind}`,
      options,
      withEncoder as OptionSpecs,
    );
    if (encoderPrefix !== undefined && encoderWeights === undefined)
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        "Expected option 'encoderWeights' beside 'encoderPrefix' but received none.",
      );
    const defaults = kind.startsWith("resnet") ? {} : { inChannels: 1, classes: 2 };
    const backbone = await Backbone.#make({ ...defaults, ...rest, kind });
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
    const { trust = false, ...rest } = checkOptions("Backbone.load", options, MODEL);
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
