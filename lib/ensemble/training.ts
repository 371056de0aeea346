import type { NdArray } from "../arrays.js";
import type { KernelReport } from "../native/kernels.js";
import { type OptionSpecs, option } from "../options.js";
import { LOSSES, type LossName } from "./losses.js";

/** What training needs of a sample: an image of C×H×W (C×D×H×W), normalised, and its mask of H×W (D×H×W) class indices. */
export interface TrainingSample {
  /** C×H×W, or C×D×H×W for a volume; finite numbers, normalised. */
  readonly image: NdArray<Float32Array>;
  /** H×W or D×H×W class indices, or the ignored label. Training needs one. */
  readonly mask?: NdArray<Uint8Array> | undefined;
}

/** Anything that yields samples, all of one size: an array, a `Dataset`, a generator. */
export type SampleSource = Iterable<TrainingSample> | AsyncIterable<TrainingSample>;

/**
 * A loss of the caller's own: from one head's logits (N×C×H×W or N×C×D×H×W) and the target (N×H×W or N×D×H×W class indices, 255 where ignored) to
 * its value and the gradient of the value with respect to the logits (as many numbers, in the same order).
 */
export type CustomLoss = (
  logits: NdArray<Float32Array>,
  target: NdArray<Uint8Array>,
) => {
  /** The loss, a finite number. */
  value: number;
  /** Its derivatives, N·C·H·W numbers in the order of the logits. */
  gradient: Float32Array;
};

/** A loss with its options. */
export interface LossOptions {
  /** Which loss. */
  name: LossName;
  /** softDice, diceCrossEntropy, tversky, jaccard, boundary: average over class 0 too. @default false */
  includeBackground?: boolean;
  /** softDice and kin: added to numerator and denominator. @default 1e-5 */
  smooth?: number;
  /** crossEntropy, diceCrossEntropy, focal: one weight per class. @default all 1 */
  classWeights?: number[];
  /** crossEntropy, diceCrossEntropy: share of the target spread over all classes, 0 to below 1. @default 0 */
  labelSmoothing?: number;
  /** focal: exponent. @default 2 */
  gamma?: number;
  /** tversky: weight of false positives. @default 0.5 */
  alpha?: number;
  /** tversky: weight of false negatives. @default 0.5 */
  beta?: number;
}

/** An optimiser with its options; defaults are PyTorch's. */
export interface OptimizerOptions {
  /** Which optimiser. */
  name: "adam" | "adamw" | "sgd";
  /** adam, adamw. @default [0.9, 0.999] */
  betas?: [number, number];
  /** adam, adamw. @default 1e-8 */
  eps?: number;
  /** @default 0 (adamw: 0.01) */
  weightDecay?: number;
  /** sgd. @default 0 */
  momentum?: number;
  /** sgd. @default false */
  nesterov?: boolean;
  /** One kernel for all parameters; `false` runs the same arithmetic by single operations. @default true */
  fused?: boolean;
}

/** A learning-rate schedule with its options; see torch.optim.lr_scheduler for the meaning of each. */
export interface ScheduleOptions {
  /** Which schedule. */
  name: "constant" | "plateau" | "cosine" | "onecycle";
  /** plateau. @default 0.1 */
  factor?: number;
  /** plateau: epochs. @default 10 */
  patience?: number;
  /** plateau: relative. @default 1e-4 */
  threshold?: number;
  /** plateau: epochs. @default 0 */
  cooldown?: number;
  /** plateau, cosine: lowest factor of the base rate. @default 0 */
  minFactor?: number;
  /** cosine: optimiser steps of linear warm-up. @default 0 */
  warmupSteps?: number;
  /** onecycle: share of the steps that the rate rises. @default 0.3 */
  pctStart?: number;
  /** onecycle: base rate / first rate. @default 25 */
  divFactor?: number;
  /** onecycle: first rate / last rate. @default 1e4 */
  finalDivFactor?: number;
  /**
   * onecycle: whether the momentum (SGD's, Adam's first beta) falls from `maxMomentum` to `baseMomentum` while the rate rises, and comes
   * back: PyTorch's default. It takes the place of the optimiser's own. @default true
   */
  cycleMomentum?: boolean;
  /** onecycle: lowest momentum, 0 to below 1. @default 0.85 */
  baseMomentum?: number;
  /** onecycle: highest momentum, `baseMomentum` to below 1. @default 0.95 */
  maxMomentum?: number;
}

/** Random changes of each training sample, drawn anew each epoch; the mask moves along. 0 switches a part off. */
export interface AugmentOptions {
  /** Probability. @default 0 */
  flipHorizontal?: number;
  /** Probability. @default 0 */
  flipVertical?: number;
  /** Probability, along a volume's first axis. @default 0 */
  flipDepth?: number;
  /** Degrees, ±; of a volume all slices in their plane, as scale and translation. @default 0 */
  rotation?: number;
  /** Zoom factor, [low, high]. @default [1, 1] */
  scale?: [number, number];
  /** Share of the side, ±. @default 0 */
  translation?: number;
  /** Added, ±, in standard deviations of the image. @default 0 */
  brightness?: number;
  /** Factor 1 ± contrast about the image's mean. @default 0 */
  contrast?: number;
  /** Standard deviation of Gaussian noise, in standard deviations of the image. @default 0 */
  noise?: number;
}

/** How a model is trained. */
export interface FitOptions {
  /** Validation samples: per-head and fused Dice and nll after each epoch, and the choice of the best weights. */
  validation?: SampleSource;
  /** @default 50 */
  epochs?: number;
  /** Samples per batch; batches of an epoch differ by at most one. @default 8 */
  batchSize?: number;
  /** Batches per optimiser step. @default 1 */
  accumulate?: number;
  /** Base rate; the schedule gives factors of it. @default 1e-3 */
  learningRate?: number;
  /** One of the losses, by name or with options, or the caller's own function. @default "diceCrossEntropy" */
  loss?: LossName | LossOptions | CustomLoss;
  /** @default "adam" */
  optimizer?: OptimizerOptions["name"] | OptimizerOptions;
  /** @default "cosine" */
  schedule?: ScheduleOptions["name"] | ScheduleOptions;
  /** One weight per head, in head order; 0 leaves a head out of the loss. @default all 1 */
  headWeights?: number[];
  /** Largest joint L2 norm of the gradients; 0 switches clipping off. @default 0 */
  clipNorm?: number;
  /** Stop after so many epochs without a better validation loss; 0 switches it off. @default 0 */
  earlyStopping?: number;
  /** @default none */
  augment?: AugmentOptions;
  /** Order, augmentation and dropout. The same seed, machine and thread count give the same weights. @default 0 */
  seed?: number;
  /** Label that counts nowhere. @default as the training's `Dataset` has it, else 255 */
  ignoreIndex?: number;
  /**
   * Whether training and validation may share the same image, by what it shows, or images of one group. Of a `Dataset` that
   * is an error otherwise, of other samples a warning. One and the same object may be both.
   * @default false
   */
  allowDuplicates?: boolean;
  /** Folder for checkpoints, history.csv and TensorBoard events; it makes the run resumable. @default none */
  run?: string;
  /** Go on from the run's last checkpoint. Without it, a folder that holds a run is refused. @default false */
  resume?: boolean;
  /** Epochs between checkpoints. @default 1 */
  checkpointEvery?: number;
  /** End with the weights of the lowest validation loss instead of the last ones. @default true */
  restoreBest?: boolean;
  /** Stops at the next batch; what the last checkpoint holds stays. The promise rejects with `signal.reason`. */
  signal?: AbortSignal;
  /**
   * Whether the kernels of libtorch that the training uses on the CPU are compared with their definition before it begins:
   * each once per machine, in a process of its own, which takes some seconds. What gives wrong numbers is led another way.
   * `LAYER_ENSEMBLES_PREPARE_TRAINING=off` in the environment switches this off for a process, and the timing of
   * `precision: "auto"` with it.
   * @default true
   */
  checkKernels?: boolean;
  /** Called at most ten times a second, and after each epoch. */
  onProgress?: (event: TrainingEvent) => void;
  /** More facts for run.json, such as where the data came from. */
  notes?: Record<string, unknown>;
}

/** Dice (mean over foreground classes and images) and nll (mean over images) on validation. */
export interface Score {
  /** In [0, 1]. */
  dice: number;
  /** Mean over pixels of -ln of the true class's probability, in nats; at least 0. */
  nll: number;
}

/** What was found out before training began. */
export interface PreparedEvent {
  /** The machine is known, and training begins. */
  type: "prepared";
  /** Numbers in which the training runs. */
  precision: "fp32" | "bf16";
  /** Seconds of one batch in each, where `precision: "auto"` chose by them; else null. */
  stepSeconds: {
    /** In float32. */
    fp32: number;
    /** In bfloat16. */
    bf16: number;
  } | null;
  /** What is known of libtorch's kernels; null where none were checked, as on a GPU. */
  kernels: KernelReport | null;
}

/** What happened in training. Epochs and batches count from 0. */
export type TrainingEvent =
  | {
      /** A kernel of libtorch was tried. */
      type: "preparing";
      /** How many were. */
      done: number;
      /** How many there are to try. */
      kernels: number;
    }
  | PreparedEvent
  | {
      /** Training begins. */
      type: "start";
      /** The first epoch to come, from 0; above 0 for a resumed run. */
      epoch: number;
      /** How many there are in all. */
      epochs: number;
      /** The epochs that a resumed run has behind it. */
      before: EpochEvent[];
    }
  | {
      /** Some batches were done. */
      type: "batch";
      /** The epoch, from 0. */
      epoch: number;
      /** How many there are in all. */
      epochs: number;
      /** The last batch that was done, from 0. */
      batch: number;
      /** Batches in an epoch. */
      batches: number;
      /** Σ_k w_k · L_k of the last batch. */
      loss: number;
      /** Each head's loss in the last batch, by its name, unweighted. */
      losses: Record<string, number>;
      /** Of the last step. */
      learningRate: number;
      /** Of training alone. */
      imagesPerSecond: number;
      /** Until the last epoch, by the pace so far. */
      secondsLeft: number;
    }
  | EpochEvent;

/** What one epoch came to. */
export interface EpochEvent {
  /** An epoch ended. */
  type: "epoch";
  /** Which, from 0. */
  epoch: number;
  /** How many there are in all. */
  epochs: number;
  /** Mean of Σ_k w_k · L_k over the epoch, as the optimiser saw it. */
  loss: number;
  /** Mean loss of each head by its name, unweighted. */
  losses: Record<string, number>;
  /** Measured after the epoch; undefined without validation samples. */
  validation?: {
    /** Σ_k w_k · L_k; what the best epoch is chosen by. */
    loss: number;
    /** Each head alone, by its name. */
    heads: Record<
      string,
      Score & {
        /** The head's own loss, unweighted. */
        loss: number;
      }
    >;
    /** All kept heads, fused. */
    fused: Score;
  };
  /** Of the epoch's last step. */
  learningRate: number;
  /** Duration, validation counted. */
  seconds: number;
  /** Of training alone. */
  imagesPerSecond: number;
  /** Until the last epoch, by the pace so far. */
  secondsLeft: number;
  /** The best epoch so far, this one counted; without validation always this one. */
  best: {
    /** From 0. */
    epoch: number;
    /** Its validation loss; without validation its training loss. */
    loss: number;
  };
  /** Whether `best` is this one. */
  improved: boolean;
}

/** What `fit` returns. */
export interface History {
  /** Every epoch, those before a resumed run was interrupted too. */
  epochs: EpochEvent[];
  /** The epoch of the lowest validation loss, without validation the last one; null where none was done. */
  best: {
    /** From 0. */
    epoch: number;
    /** Its validation loss; without validation its training loss. */
    loss: number;
  } | null;
  /** Whether all epochs were done, or early stopping ended it. */
  stopped: "epochs" | "early";
}

const nonNegative = option.number({ min: 0 });

export const LOSS_OPTIONS: OptionSpecs = {
  name: option.oneOf(LOSSES),
  includeBackground: option.boolean(),
  smooth: nonNegative,
  classWeights: option.array(nonNegative),
  labelSmoothing: option.number({ min: 0, max: 1 }),
  gamma: nonNegative,
  alpha: nonNegative,
  beta: nonNegative,
};
export const OPTIMIZER_OPTIONS: OptionSpecs = {
  name: option.oneOf(["adam", "adamw", "sgd"]),
  betas: option.array(option.number({ min: 0, max: 1 }), { length: 2 }),
  eps: nonNegative,
  weightDecay: nonNegative,
  momentum: nonNegative,
  nesterov: option.boolean(),
  fused: option.boolean(),
};
export const SCHEDULE_OPTIONS: OptionSpecs = {
  name: option.oneOf(["constant", "plateau", "cosine", "onecycle"]),
  factor: nonNegative,
  patience: option.integer({ min: 0 }),
  threshold: nonNegative,
  cooldown: option.integer({ min: 0 }),
  minFactor: nonNegative,
  warmupSteps: option.integer({ min: 0 }),
  pctStart: option.number({ min: 0, max: 1 }),
  divFactor: nonNegative,
  finalDivFactor: nonNegative,
  cycleMomentum: option.boolean(),
  baseMomentum: option.number({ min: 0, below: 1 }),
  maxMomentum: option.number({ min: 0, below: 1 }),
};
export const AUGMENT_OPTIONS: OptionSpecs = {
  flipHorizontal: option.number({ min: 0, max: 1 }),
  flipVertical: option.number({ min: 0, max: 1 }),
  flipDepth: option.number({ min: 0, max: 1 }),
  rotation: nonNegative,
  scale: option.array(option.number({ min: 0.05, max: 20 }), { length: 2 }),
  translation: option.number({ min: 0, max: 1 }),
  brightness: nonNegative,
  contrast: option.number({ min: 0, max: 1 }),
  noise: nonNegative,
};
