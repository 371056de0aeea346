// How a model is trained: each option declared once, for the API and, where it has a text, for the command line.
import { defaultsOf, type OptionSpec, option, type Values } from "../options.js";
import { AUGMENT_OPTIONS, AUGMENTATIONS, type AugmentName, type AugmentOptions } from "./augment.js";
import { type CustomLoss, LOSS_OPTIONS, LOSSES, type LossName, type LossOptions } from "./losses.js";
import type { SampleSource, TrainingEvent } from "./training.js";

/** The optimisers, by name. */
export const OPTIMIZERS = ["adam", "adamw", "sgd"] as const;

/** The schedules of the learning rate, by name. */
export const SCHEDULES = ["constant", "plateau", "cosine", "onecycle"] as const;

const nonNegative = option.number({ min: 0 });
const count = option.integer({ min: 0 });
const share = option.number({ min: 0, max: 1 });

export const OPTIMIZER_OPTIONS = {
  /** Which optimiser. */
  name: option.required(option.oneOf(OPTIMIZERS)),
  /** adam, adamw. @default [0.9, 0.999] */
  betas: option.pair(share),
  /** adam, adamw. @default 1e-8 */
  eps: nonNegative,
  /** @default 0 (adamw: 0.01) */
  weightDecay: nonNegative,
  /** sgd. @default 0 */
  momentum: nonNegative,
  /** sgd. @default false */
  nesterov: option.boolean(),
  /** One kernel for all parameters; `false` runs the same arithmetic by single operations. @default true */
  fused: option.boolean(),
};

/** An optimiser with its options; defaults are PyTorch's. */
export interface OptimizerOptions extends Values<typeof OPTIMIZER_OPTIONS> {}

export const SCHEDULE_OPTIONS = {
  /** Which schedule. */
  name: option.required(option.oneOf(SCHEDULES)),
  /** plateau. @default 0.1 */
  factor: nonNegative,
  /** plateau: epochs. @default 10 */
  patience: count,
  /** plateau: relative. @default 1e-4 */
  threshold: nonNegative,
  /** plateau: epochs. @default 0 */
  cooldown: count,
  /** plateau, cosine: lowest factor of the base rate. @default 0 */
  minFactor: nonNegative,
  /** cosine: optimiser steps of linear warm-up. @default 0 */
  warmupSteps: count,
  /** onecycle: share of the steps that the rate rises. @default 0.3 */
  pctStart: share,
  /** onecycle: base rate / first rate. @default 25 */
  divFactor: nonNegative,
  /** onecycle: first rate / last rate. @default 1e4 */
  finalDivFactor: nonNegative,
  /**
   * onecycle: whether the momentum (SGD's, Adam's first beta) falls from `maxMomentum` to `baseMomentum` while the rate rises, and comes
   * back: PyTorch's default. It takes the place of the optimiser's own. @default true
   */
  cycleMomentum: option.boolean(),
  /** onecycle: lowest momentum, 0 to below 1. @default 0.85 */
  baseMomentum: option.number({ min: 0, below: 1 }),
  /** onecycle: highest momentum, `baseMomentum` to below 1. @default 0.95 */
  maxMomentum: option.number({ min: 0, below: 1 }),
};

/** A learning-rate schedule with its options; see torch.optim.lr_scheduler for the meaning of each. */
export interface ScheduleOptions extends Values<typeof SCHEDULE_OPTIONS> {}

const AUGMENT: OptionSpec<AugmentName | AugmentOptions> = option.anyOf(
  option.oneOf(Object.keys(AUGMENTATIONS) as AugmentName[]),
  option.object<AugmentOptions>(AUGMENT_OPTIONS),
);
const LOSS: OptionSpec<LossName | LossOptions | CustomLoss> = option.anyOf(
  option.oneOf(LOSSES),
  option.object<LossOptions>(LOSS_OPTIONS),
  option.callback<CustomLoss>(),
);
const OPTIMIZER = option.anyOf(option.oneOf(OPTIMIZERS), option.object<OptimizerOptions>(OPTIMIZER_OPTIONS));
const SCHEDULE = option.anyOf(option.oneOf(SCHEDULES), option.object<ScheduleOptions>(SCHEDULE_OPTIONS));

const side = option.integer({ min: 1, max: 65536 });
const PATCH = option.anyOf(option.array(side, { length: 2 }), option.array(side, { length: 3 })) as OptionSpec<
  readonly [height: number, width: number] | readonly [depth: number, height: number, width: number]
>;

/** What `fit` takes, whatever it trains. */
export const FIT = {
  /** Validation samples: per-head and fused Dice and nll after each epoch, and the choice of the best weights. */
  validation: option.custom<SampleSource>(
    "an iterable of samples",
    (value) => Object(value) === value && (Symbol.iterator in Object(value) || Symbol.asyncIterator in Object(value)),
  ),
  /** @default 50 */
  epochs: option.integer({ min: 1, default: 50, text: "passes over the training images" }),
  /** Samples per batch; batches of an epoch differ by at most one. @default 8 */
  batchSize: option.integer({ min: 1, default: 8, text: "images of a batch" }),
  /** Batches per optimiser step. @default 1 */
  accumulate: option.integer({ min: 1, default: 1, text: "batches per step of the optimiser" }),
  /** Base rate, which is the highest; the schedule gives factors of it. @default 1e-3 */
  learningRate: option.number({ min: 0, default: 1e-3, text: "highest rate", arg: "rate" }),
  /** One of the losses, by name or with options, or the caller's own function. @default "diceCrossEntropy" */
  loss: option.with(LOSS, { default: "diceCrossEntropy", text: "loss of each head" }),
  /** By name, or with options. @default "adamw" */
  optimizer: option.with(OPTIMIZER, { default: "adamw", text: "what takes the steps" }),
  /** By name, or with options. @default "onecycle" */
  schedule: option.with(SCHEDULE, { default: "onecycle", text: "how the rate goes" }),
  /** One weight per head, in head order; 0 leaves a head out of the loss. @default all 1 */
  headWeights: option.array(nonNegative, { otherwise: "all 1", text: "weight of each head's loss, in depth order" }),
  /**
   * Factor of the gradient that every head but the last sends into the network: 1 trains the network for all heads alike, 0 for the
   * last alone. The heads themselves learn the same. In the mean over all heads the early ones count most, and a network that serves
   * them all alike has less left for the last: see docs/results.md. @default 0.1
   */
  headGradient: option.number({
    min: 0,
    max: 1,
    default: 0.1,
    text: "share of their gradient that all heads but the last send into the network",
    arg: "share",
  }),
  /** Largest joint L2 norm of the gradients; 0 switches clipping off. @default 1 */
  clipNorm: option.number({ min: 0, default: 1, text: "largest norm of the gradients, 0 for any" }),
  /** Stop after so many epochs without a better validation loss; 0 switches it off. @default 0 */
  earlyStopping: option.integer({
    min: 0,
    default: 0,
    otherwise: "never",
    text: "stop after n epochs without a better validation loss",
  }),
  /**
   * Trains on random parts of this size, one number per spatial axis, instead of on whole samples, whose sizes may differ then.
   * Zeros of label 0 surround a sample that is smaller. Validation is by tiles of this size over whole samples. @default none
   */
  patch: option.with(PATCH, {
    otherwise: "whole images",
    text: "train on random parts of HEIGHTxWIDTH (volumes: DEPTHxHEIGHTxWIDTH) of the images at their own size, instead of --size",
    arg: "size",
  }),
  /**
   * Of the patches, the share that lies about a pixel of the foreground: a class above 0 that the sample has, each as often, then one
   * of its pixels. @default 0.33
   */
  patchForeground: option.number({
    min: 0,
    max: 1,
    default: 0.33,
    text: "share of the patches that lie about the foreground",
    arg: "share",
  }),
  /** Patches of each sample in an epoch. @default as many as have the pixels of the mean sample */
  patchesPerCase: option.integer({
    min: 1,
    otherwise: "as many as have the pixels of the mean image",
    text: "patches of each image in an epoch",
  }),
  /** A strength by its name, or what is changed how far. @default "default" */
  augment: option.with(AUGMENT, {
    default: "default",
    text: "strength of the random changes of training images",
    arg: "strength",
  }),
  /** Order, augmentation and dropout. The same seed, machine and thread count give the same weights. @default 0 */
  seed: option.integer({ min: 0, default: 0, text: "of first weights, order, augmentation and dropout" }),
  /** Label that counts nowhere. @default as the training's `Dataset` has it, else 255 */
  ignoreIndex: option.integer({ min: 0, max: 255 }),
  /**
   * Whether training and validation may share the same image, by what it shows, or images of one group. Of a `Dataset` that
   * is an error otherwise, of other samples a warning. One and the same object may be both.
   * @default false
   */
  allowDuplicates: option.boolean({
    default: false,
    text: "train though an image is in both the training and the validation split",
  }),
  /** Folder for checkpoints, history.csv and TensorBoard events; it makes the run resumable. @default none */
  run: option.string(),
  /** Go on from the run's last checkpoint. Without it, a folder that holds a run is refused. @default false */
  resume: option.boolean({ default: false }),
  /** Epochs between checkpoints. @default 1 */
  checkpointEvery: option.integer({ min: 1, default: 1 }),
  /** End with the weights of the lowest validation loss instead of the last ones. @default true */
  restoreBest: option.boolean({ default: true }),
  /** Stops at the next batch; what the last checkpoint holds stays. The promise rejects with `signal.reason`. */
  signal: option.signal(),
  /**
   * Whether the kernels of libtorch that the training uses on the CPU are compared with their definition before it begins:
   * each once per machine, in a process of its own, which takes some seconds. What gives wrong numbers is led another way.
   * `LAYER_ENSEMBLES_PREPARE_TRAINING=off` in the environment switches this off for a process, and the timing of
   * `precision: "auto"` with it.
   * @default true
   */
  checkKernels: option.boolean({
    default: true,
    text: "trust libtorch's kernels without comparing them with their definition first",
  }),
  /** Called at most ten times a second, and after each epoch. */
  onProgress: option.callback<(event: TrainingEvent) => void>(),
  /** More facts for run.json, such as where the data came from. */
  notes: option.custom<Record<string, unknown>>("an object", (value) => Object(value) === value),
};

/** How a model is trained. What is left out is as on the command line; {@link PAPER} is its `--preset paper`. */
export interface FitOptions extends Values<typeof FIT> {}

/** How a model is trained where nothing is said. */
export const FIT_DEFAULTS = defaultsOf(FIT);

/** The training of Kushibar et al. (2022), which wants a validation: `model.fit(samples, { ...PAPER, validation })`. */
export const PAPER: Readonly<FitOptions> = {
  learningRate: 1e-4,
  loss: "softDice",
  optimizer: "adam",
  schedule: "plateau",
  headGradient: 1,
  clipNorm: 0,
  earlyStopping: 20,
  epochs: 200,
};
