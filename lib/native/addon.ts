import type { NdArray } from "../arrays.js";

/** An object of the addon; only the addon can look inside. */
export type Handle = object & { readonly __native: unique symbol };

/** What the addon gives for one image. Shapes without the batch axis; K kept heads, C classes, S spatial. */
export interface RawPrediction {
  probabilities?: NdArray<Float32Array>;
  mask: NdArray<Uint8Array>;
  /** In the order of `MAP_NAMES`; undefined where not asked for. */
  maps: (NdArray<Float32Array> | undefined)[];
  labels?: NdArray<Uint8Array>;
  /** 6×2: the sum of each map over all pixels and over the predicted foreground. */
  summaries: NdArray<Float64Array>;
  /** C×3: #(ŷ = c), Σ p̄_c, Σ p̄_c over ŷ = c. */
  classSums: NdArray<Float64Array>;
  /** K×C×2: Σ p_k,c, Σ p_k,c over m_k = c. */
  headSums: NdArray<Float64Array>;
  /** K×C. */
  counts: NdArray<Float64Array>;
  /** K×K×C. */
  intersections: NdArray<Float64Array>;
  /** K×C×C, of STAPLE alone: chance that a head says s where the estimated truth is t. */
  confusion?: NdArray<Float64Array>;
  /** STAPLE's rounds, and 1 where it converged. */
  rounds?: NdArray<Float64Array>;
  /** 2C of each layer asked for, in their order: means over space, then standard deviations. */
  tapStatistics: NdArray<Float32Array>[];
}

/** The same of a prediction by tiles. */
export interface RawTilesPrediction extends RawPrediction {
  /** Of the network, mirrored ones too. */
  passes: number;
}

/** One layer as the addon reports it. */
export interface RawLayer {
  name: string;
  type: string;
  parameters: number;
  tappable: boolean;
  whyNot?: string;
  aliasOf?: string;
}

/** A new backbone as the addon reports it. */
export interface RawBackbone {
  layers: RawLayer[];
  inChannels: number;
  spatialAxes: 2 | 3;
  /** Empty where any size will do. */
  exampleSize: number[];
  config: Record<string, unknown>;
}

/** A new ensemble as the addon reports it. */
export interface RawEnsemble {
  /** `tap` is empty for the network's own output. */
  heads: { name: string; tap: string; channels: number; size: number[] }[];
  device: string;
  precision: "fp32" | "bf16";
  parameters: number;
  hasDropout: boolean;
}

/** What a load of weights did. */
export interface RawLoadReport {
  missing: string[];
  unexpected: string[];
  prefix: string;
  loaded: number;
}

/** A kernel of libtorch, by what it is chosen by: see native/core/convolutions. */
export interface RawKernel {
  call: object;
  /** In words. */
  text: string;
  /** What may be done, in order; the first is done unless another is asked for. */
  ways: string[];
}

/** What a file is, by its content. */
export type FileKind = "torchscript" | "exported" | "state-dict" | "safetensors" | "unknown";

/** The functions of the native addon (native/binding). Options are checked before they get here. */
export interface Addon {
  createBackbone(config: object): {
    handle: Handle;
    ready: Promise<RawBackbone>;
  };
  fileKind(path: string): Promise<FileKind>;
  disposeBackbone(backbone: Handle): Promise<void>;
  traceBackbone(backbone: Handle, shape: readonly number[]): Promise<{ name: string; shape: number[] }[]>;
  /** Of what forward returns: its shape, empty where it is no map; or the layer that it is made of, or why none is known. */
  traceOutput(
    backbone: Handle,
    shape: readonly number[],
    features: boolean,
  ): Promise<{ shape?: number[]; features?: string; reason?: string }>;
  loadBackbone(
    backbone: Handle,
    path: string,
    options: { strict: boolean; part: string; prefix?: string },
  ): Promise<RawLoadReport>;
  /** A classifier's weights, fitted to the network's encoder. */
  loadEncoder(backbone: Handle, path: string, prefix: string | null): Promise<RawLoadReport>;
  saveBackbone(backbone: Handle, path: string, prefix: string): Promise<void>;
  /** In the format that the network came from. */
  saveModel(backbone: Handle, path: string): Promise<void>;
  createEnsemble(
    backbone: Handle,
    options: object,
  ): {
    handle: Handle;
    ready: Promise<RawEnsemble>;
  };
  disposeEnsemble(ensemble: Handle): Promise<void>;
  /** Several ensembles are the members of one prediction; see native/core/prediction/predict.h. */
  forward(
    ensembles: readonly Handle[],
    data: Float32Array,
    shape: readonly number[],
    sampling: { passes: number; seed: number },
    control?: Handle,
  ): Promise<NdArray<Float32Array>[]>;
  predict(
    ensembles: readonly Handle[],
    data: Float32Array[],
    shapes: (readonly number[])[],
    options: object,
    control?: Handle,
  ): Promise<RawPrediction[]>;
  /**
   * One image, by tiles; see native/core/tiles/predict_tiles.h. `read` answers with the rows asked for, or with why it has
   * none. It is called while the job waits, as `onEvent` is, on the JavaScript thread.
   */
  predictTiles(
    ensembles: readonly Handle[],
    shape: readonly number[],
    read: (begin: number, end: number, answer: (data: Float32Array | string) => void) => void,
    tiles: object,
    options: object,
    onEvent: (json: string) => void,
    control?: Handle,
  ): Promise<RawTilesPrediction>;
  /** Likewise the logits of every kept head at the image's own size, 1×C×s. */
  forwardTiles(
    ensembles: readonly Handle[],
    shape: readonly number[],
    read: (begin: number, end: number, answer: (data: Float32Array | string) => void) => void,
    tiles: object,
    options: object,
    onEvent: (json: string) => void,
    control?: Handle,
  ): Promise<NdArray<Float32Array>[]>;
  /** See native/core/grid/resample.h. What comes out is of the data's type. */
  resample(
    data: Float32Array | Uint8Array,
    shape: readonly number[],
    stretches: readonly { axis: number; size: number; between: "nearest" | "linear" | "cubic" }[],
    labels: boolean,
  ): Promise<NdArray<Float32Array | Uint8Array>>;
  createDataset(): Handle;
  addSample(dataset: Handle, image: Float32Array, shape: readonly number[], mask: Uint8Array): void;
  fit(
    ensemble: Handle,
    training: Handle,
    validation: Handle | null,
    options: object,
    onEvent: (json: string) => void,
    loss: ((logits: NdArray<Float32Array>, target: NdArray<Uint8Array>) => object) | null,
    control?: Handle,
  ): Promise<object>;
  /** The kernels that `fit` would use in numbers of `precision`, each once; a loss of the caller's is not asked. */
  trainingKernels(
    ensemble: Handle,
    training: Handle,
    validation: Handle | null,
    options: object,
    precision: "fp32" | "bf16",
    control?: Handle,
  ): Promise<RawKernel[]>;
  /** Seconds of one batch, forward and back. */
  timeSteps(
    ensemble: Handle,
    training: Handle,
    validation: Handle | null,
    options: object,
    control?: Handle,
  ): Promise<{ fp32: number; bf16: number }>;
  /** For the jobs behind it. */
  setPrecision(ensemble: Handle, precision: "fp32" | "bf16"): Promise<void>;
  describeKernel(call: object): RawKernel;
  checkKernel(call: object, way: string): { right: boolean; error: number | null; what: string };
  rememberKernel(call: object, way: string): void;
  /** For a process that does nothing but check kernels. */
  useCheckedMemory(): void;
  saveEnsemble(ensemble: Handle, path: string): Promise<void>;
  loadEnsemble(ensemble: Handle, path: string): Promise<void>;
  createControl(): Handle;
  stopControl(control: Handle): void;
  /** Rejects the control's job with ERR_LE_ABORTED, though it may still run. */
  giveUpControl(control: Handle): void;
  /** Changes while the jobs of a network get on; undefined for a network that cannot loop. */
  jobsLife(network: Handle): number | undefined;
  /** Tells all jobs of a network to stop. */
  stopJobs(network: Handle): void;
  /** Rejects all jobs of a network with ERR_LE_ABORTED, though one may still run. */
  giveUpJobs(network: Handle): void;
  /** Sets the intra-op thread count (0: all) and the CPU allocator. */
  configure(options: { threads?: number; allocator?: "pool" | "system" }): void;
  info(): Record<string, unknown>;
}
