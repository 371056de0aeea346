import { LayerEnsemblesError } from "../errors.js";
import type { Addon, Handle, RawLayer } from "../native/addon.js";
import { loadAddon } from "../native/load.js";
import { checkOptions, type OptionSpecs, option } from "../options.js";
import { fromNative } from "./call.js";

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
  /** deeplabv3plus: dropout after the pyramid. fpn: of whole channels, before the head. @default 0.5, 0.2 */
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
  whyNot?: string;
  /** How often it ran in the probe; undefined before one. */
  calls?: number;
  /** N×C×H×W (N×C×D×H×W) of its (last) output in the probe; undefined before one, or where it did not run. */
  shape?: number[];
}

/** What a non-strict load left undone. */
export interface LoadReport {
  /** Names that the network has and the file has not. */
  missing: string[];
  /** Names that the file has and the network has not. */
  unexpected: string[];
}

const NETWORK: OptionSpecs = { inChannels: option.integer({ min: 1 }), seed: option.integer({ min: 0 }) };
const RESNET: OptionSpecs = { ...NETWORK, classes: option.integer({ min: 0 }) };
const SEGMENTER: OptionSpecs = { ...NETWORK, classes: option.integer({ min: 1, max: 255 }) };
const ENCODED: OptionSpecs = { ...SEGMENTER, encoder: option.oneOf(["resnet18", "resnet34", "resnet50", "resnet101"]) };
const LEVELS: OptionSpecs = {
  ...SEGMENTER,
  width: option.integer({ min: 1 }),
  depth: option.integer({ min: 1, max: 8 }),
};
const DROPOUT = option.number({ min: 0, below: 1 });
const KINDS: Record<BackboneKind, OptionSpecs> = {
  unet: {
    ...ENCODED,
    decoderChannels: option.array(option.integer({ min: 1 }), { length: 5 }),
    attention: option.oneOf(["scse", null]),
    preset: option.oneOf(["paper", "deep"]),
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

/** A network whose layers can be tapped. */
export class Backbone {
  readonly #addon: Addon;
  readonly #handle: Handle;
  readonly #raw: RawLayer[];
  #layers: LayerInfo[];
  #disposed: Promise<void> | undefined;
  /** Channels of the image. */
  readonly inChannels: number;
  /** Of its input: 2 for images C×H×W, 3 for volumes C×D×H×W. */
  readonly spatialAxes: 2 | 3;
  /** The configuration that builds this network again, without its weights. */
  readonly config: Readonly<Record<string, unknown>>;

  private constructor(
    addon: Addon,
    handle: Handle,
    described: { layers: RawLayer[]; inChannels: number; spatialAxes: 2 | 3; config: Record<string, unknown> },
  ) {
    this.#addon = addon;
    this.#handle = handle;
    this.#raw = described.layers;
    this.#layers = described.layers.map((layer) => ({ ...layer }));
    this.inChannels = described.inChannels;
    this.spatialAxes = described.spatialAxes;
    this.config = described.config;
  }

  /**
   * Builds a network with fresh weights.
   * @throws ERR_LE_OPTION for a kind or an option that does not exist
   */
  static async create(kind: BackboneKind, options: BackboneOptions = {}): Promise<Backbone> {
    const specs = Object.hasOwn(KINDS, kind) ? KINDS[kind] : undefined;
    if (!specs) checkOptions("backbone", { kind }, { kind: option.oneOf(Object.keys(KINDS)) });
    checkOptions(`backbone ${kind}`, options, specs as OptionSpecs);
    const defaults = kind.startsWith("resnet") ? {} : { inChannels: 1, classes: 2 };
    return Backbone.fromConfig({ ...defaults, ...options, kind });
  }

  /** Builds the network that a run's configuration describes; see {@link Backbone.config}. */
  static async fromConfig(config: Readonly<Record<string, unknown>>): Promise<Backbone> {
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
   * @param inputSize the image's height and width, or a volume's depth, height and width. Default [128, 128] or
   *   [32, 32, 32]
   * @returns the layers that ran, in the order in which they (last) finished, then those that did not run
   */
  async probe(inputSize: readonly number[] = defaultInputSize(this)): Promise<LayerInfo[]> {
    const shape = [1, this.inChannels, ...inputSize];
    const calls = await this.#run(() => this.#addon.traceBackbone(this.handle(), shape));
    const ran = new Map<string, LayerInfo>();
    const byName = new Map(this.#raw.map((layer) => [layer.name, layer]));
    for (const call of calls) {
      const layer = byName.get(call.name);
      if (!layer) continue;
      const before = ran.get(call.name);
      ran.delete(call.name); // a layer that runs again is placed where it ran last
      const shape = call.shape.length > 0 ? { shape: call.shape } : {};
      ran.set(call.name, { ...layer, calls: (before?.calls ?? 0) + 1, ...shape });
    }
    const idle = this.#raw.filter((layer) => !ran.has(layer.name)).map((layer) => ({ ...layer, calls: 0 }));
    this.#layers = [...ran.values(), ...idle];
    return this.layers();
  }

  /**
   * Loads weights from a safetensors file.
   * @param options.strict whether a missing or unexpected name is an error that lists them. Default true
   * @param options.part load only what lies below this name, with the file's names relative to it: `"encoder"` takes a
   *   ResNet's own state dict
   * @throws ERR_LE_CHECKPOINT, and then nothing was changed; ERR_LE_IO
   */
  async loadWeights(path: string, options: { strict?: boolean; part?: string } = {}): Promise<LoadReport> {
    checkOptions("loadWeights", options, { strict: option.boolean(), part: option.string() });
    const prefix = options.part ? `${options.part}.` : "";
    return this.#run(() => this.#addon.loadBackbone(this.handle(), path, options.strict ?? true, prefix));
  }

  /**
   * Saves weights and buffers as safetensors, atomically.
   * @param options.part save only what lies below this name, relative to it
   * @throws ERR_LE_IO
   */
  async save(path: string, options: { part?: string } = {}): Promise<void> {
    checkOptions("save", options, { part: option.string() });
    return this.#run(() => this.#addon.saveBackbone(this.handle(), path, options.part ? `${options.part}.` : ""));
  }

  /** Waits for what is under way, then frees the network. Ensembles made of it cannot be used any more. */
  dispose(): Promise<void> {
    this.#disposed ??= this.#addon.disposeBackbone(this.#handle);
    return this.#disposed;
  }

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

/** Size of the probe's dummy image where none is given. */
export function defaultInputSize({ spatialAxes }: { spatialAxes: 2 | 3 }): number[] {
  return spatialAxes === 3 ? [32, 32, 32] : [128, 128];
}
