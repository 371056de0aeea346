import { existsSync, statSync } from "node:fs";
import path from "node:path";
import { type Command, Option } from "commander";
import { LOSSES, type LossName } from "../ensemble/losses.js";
import { METHODS, type MethodName } from "../ensemble/methods.js";
import type { OptimizerOptions, ScheduleOptions } from "../ensemble/training.js";
import { LayerEnsemblesError } from "../errors.js";
import { checkFields, type OptionSpecs, option } from "../options.js";
import type { DeviceFlags } from "../runs/device.js";
import { type RunNotes, runNotes } from "../runs/notes.js";
import { integer, list, number, oneOf, size, text } from "./arguments.js";
import type { AugmentName } from "./augment.js";
import { type BackboneFlags, KINDS, withBackboneOptions } from "./backbone-options.js";
import { newCommand, UsageError } from "./command.js";
import { withDeviceOptions } from "./device-options.js";
import { type LabelFlags, withLabelOptions } from "./label-options.js";
import { type ModelFlags, withModelOptions } from "./model-options.js";

/** Options that have a value in every run; the preset changes some. */
export interface Settings {
  method: MethodName;
  /** de: networks. */
  members: number;
  /** mh: heads. */
  heads: number;
  /** mcd: passes of each image. */
  passes: number;
  /** Height and width; of volumes depth, height and width. */
  size: [number, number] | [number, number, number];
  backbone: (typeof KINDS)[number];
  taps: Taps;
  final: boolean;
  dropout: number;
  freezeBackbone: boolean;
  skip: number | "auto";
  epochs: number;
  batchSize: number;
  accumulate: number;
  learningRate: number;
  loss: LossName;
  optimizer: OptimizerOptions["name"];
  schedule: ScheduleOptions["name"];
  weightDecay: number | "auto";
  clipNorm: number;
  earlyStopping: number;
  augment: AugmentName;
  seed: number;
  normalise: "zscore" | "percentile" | "none";
  resize: "stretch" | "pad" | "none-with-pad";
  channels: number;
  trainSplit: string;
  valSplit: string;
}

/** The command line of `train`. */
export interface TrainFlags extends Partial<Settings>, BackboneFlags, ModelFlags, DeviceFlags, LabelFlags {
  data?: string;
  model?: string;
  run: string;
  classes?: number;
  classNames?: string[];
  /** Names of the channels. */
  bands?: string[];
  headWeights?: number[];
  valFraction?: number;
  testFraction?: number;
  /** Whether the same image may be in both splits. */
  allowDuplicates?: boolean;
  encoderWeights?: string;
  encoderPrefix?: string;
  /** Whether libtorch's kernels are tried first. */
  checkKernels?: boolean;
  resume?: boolean;
  /** de: members that are trained at a time, each in a process of its own. */
  jobs?: number;
  /** Set by a deep ensemble for the processes that train its members. */
  member?: number;
  json?: boolean;
}

/** Which layers get a head. */
export type Taps = { kind: "auto"; count?: number } | { kind: "names"; names: string[] };

const DEFAULTS: Settings = {
  method: "le",
  members: 5,
  heads: 10,
  passes: 10,
  size: [128, 128],
  backbone: "unet",
  taps: { kind: "auto" },
  final: true,
  dropout: 0,
  freezeBackbone: false,
  skip: 0,
  epochs: 50,
  batchSize: 8,
  accumulate: 1,
  learningRate: 1e-3,
  loss: "diceCrossEntropy",
  optimizer: "adamw",
  schedule: "onecycle",
  weightDecay: "auto",
  clipNorm: 1,
  earlyStopping: 0,
  augment: "default",
  seed: 0,
  normalise: "zscore",
  resize: "stretch",
  channels: 1,
  trainSplit: "train",
  valSplit: "val",
};

const COUNT = option.required(option.integer({ min: 1, max: 1_000_000 }));
const SIDE = option.integer({ min: 1, max: 65536 });
const NAMES = option.array(option.string());
const TEXT = option.required(option.string());
/** What a run records of its options, as far as going on with it relies on what they are. */
const RECORDED: OptionSpecs = {
  method: option.required(option.oneOf(METHODS)),
  data: TEXT,
  members: COUNT,
  heads: COUNT,
  passes: COUNT,
  size: option.required(option.anyOf(option.array(SIDE, { length: 2 }), option.array(SIDE, { length: 3 }))),
  backbone: TEXT,
  taps: option.required(
    option.custom("taps", (value) => {
      const { kind, names, count } = (value ?? {}) as { kind?: unknown; names?: unknown; count?: unknown };
      if (kind === "names") return NAMES.accepts(names);
      return kind === "auto" && (count === undefined || COUNT.accepts(count));
    }),
  ),
  final: option.required(option.boolean()),
  dropout: option.required(option.number({ min: 0, below: 1 })),
  freezeBackbone: option.required(option.boolean()),
  epochs: COUNT,
  batchSize: COUNT,
  accumulate: COUNT,
  learningRate: option.required(option.number({ above: 0 })),
  loss: TEXT,
  optimizer: TEXT,
  schedule: TEXT,
  clipNorm: option.required(option.number({ min: 0 })),
  seed: option.required(option.integer({ min: 0 })),
  channels: COUNT,
  bands: NAMES,
  classNames: NAMES,
  classes: option.integer({ min: 2, max: 255 }),
  model: option.string(),
  trainSplit: TEXT,
  valSplit: TEXT,
};

/** The training of Kushibar et al. (2022); `skip` is 3 for two classes and 5 for more. */
const PAPER: Partial<Settings> = {
  learningRate: 1e-4,
  loss: "softDice",
  optimizer: "adam",
  schedule: "plateau",
  clipNorm: 0,
  earlyStopping: 20,
  epochs: 200,
  skip: "auto",
};

/** Share of channels that Monte Carlo dropout drops, where nothing is said. */
const MC_DROPOUT = 0.2;

/** What differs for networks of volumes. */
const VOLUMES: Partial<Settings> = { size: [32, 64, 64], batchSize: 2 };

/** What a resumed run may change. */
const CHANGEABLE = new Set([
  "data",
  "run",
  "resume",
  "epochs",
  "earlyStopping",
  "device",
  "threads",
  "jobs",
  "member",
  "allowDuplicates",
  "checkKernels",
  "json",
  "debug",
]);

const taps = (value: string): Taps => {
  const auto = /^auto(?::(.*))?$/.exec(value);
  if (auto) return auto[1] === undefined ? { kind: "auto" } : { kind: "auto", count: integer({ min: 1 })(auto[1]) };
  return { kind: "names", names: value === "none" ? [] : list(text)(value) };
};

/** The command with its options, without its work. */
export function trainOptions(): Command {
  const positive = integer({ min: 1 });
  const share = number({ min: 0, max: 0.99 });
  const command = newCommand(
    "train",
    "train a Layer Ensemble, or a method to compare it with, on a folder of images and masks",
    "layer-ensembles train --data data/busi --run runs/busi --classes 2 --size 128x128 --epochs 50\n" +
      "layer-ensembles train --run runs/busi --resume",
  )
    .option("--data <dir>", "folder with images/, masks/ and, for fixed splits, split.csv", text)
    .requiredOption("--run <dir>", "folder to make for the run: weights, history, checkpoints", text)
    .option("--resume", "go on from the run's last checkpoint, with its own options")
    .option(
      "--size <HxW>",
      "size of the network's input (default: 128x128); DxHxW for volumes (unet3d: 32x64x64)",
      size,
    )
    .option("--classes <n>", "classes with background (default: what the masks hold)", integer({ min: 2, max: 255 }))
    .option("--class-names <list>", "their names, background first", list(text))
    .option(
      "--method <name>",
      "le: a head on each tap; plain: the network's output; mh: heads on one layer; de: several networks; mcd: dropout (default: le)",
      oneOf(METHODS),
    )
    .option("--members <n>", "de: networks (default: 5)", integer({ min: 2, max: 1000 }))
    .option("--jobs <n>", "de: members trained at a time, each in its own process (default: 1)", positive)
    .addOption(new Option("--member <i>").argParser(integer({ min: 1 })).hideHelp())
    .option("--heads <n>", "mh: heads (default: 10)", integer({ min: 2, max: 1000 }))
    .option("--passes <n>", "mcd: passes of each image (default: 10)", integer({ min: 2, max: 10_000 }))
    .option("--backbone <kind>", `${KINDS.join(", ")} (default: unet)`, oneOf(KINDS))
    .option("--model <file>", "the network: a TorchScript or torch.export file, instead of --backbone", text);
  withModelOptions(withBackboneOptions(command))
    .option("--encoder-weights <file>", "weights to start the encoder from: a file, or imagenet (fetched once)", text)
    .option("--encoder-prefix <prefix>", "what their names begin with in a file of several sets, such as ema.", text)
    .option("--freeze-backbone", "train the heads only")
    .option(
      "--taps <taps>",
      "le: layers that get a head; mh: the one: auto, auto:N, none, or names; * and ** fit many (default: auto)",
      taps,
    )
    .option("--no-final", "the network's own output is no head")
    .option("--dropout <p>", "dropout in each head (default: 0)", share)
    .option("--skip <T>", "first heads to leave out of predictions (default: 0)", integer({ min: 0 }))
    .option("--epochs <n>", "(default: 50)", positive)
    .option("--batch-size <n>", "(default: 8; unet3d: 2)", positive)
    .option("--accumulate <n>", "batches per step of the optimiser (default: 1)", positive)
    .option("--learning-rate <rate>", "highest rate (default: 0.001)", number({ min: 0 }))
    .option("--loss <name>", `${LOSSES.join(", ")} (default: diceCrossEntropy)`, oneOf(LOSSES))
    .option("--optimizer <name>", "adam, adamw, sgd (default: adamw)", oneOf(["adam", "adamw", "sgd"]))
    .option("--weight-decay <x>", "(default: the optimiser's own)", number({ min: 0 }))
    .option(
      "--schedule <name>",
      "constant, plateau, cosine, onecycle (default: onecycle)",
      oneOf(["constant", "plateau", "cosine", "onecycle"]),
    )
    .option(
      "--head-weights <list>",
      "weight of each head's loss, in depth order (default: all 1)",
      list(number({ min: 0 })),
    )
    .option("--clip-norm <x>", "largest norm of the gradients, 0 for any (default: 1)", number({ min: 0 }))
    .option("--early-stopping <n>", "stop after n epochs without a better validation loss", integer({ min: 0 }))
    .option("--augment <strength>", "none, light, default, strong", oneOf(["none", "light", "default", "strong"]))
    .option("--seed <n>", "(default: 0)", integer({ min: 0 }))
    .option("--train-split <name>", "(default: train)", text)
    .option("--val-split <name>", "(default: val)", text)
    .option(
      "--val-fraction <x>",
      "draw the validation split, whole groups at a time (default without split.csv: 0.15)",
      share,
    )
    .option("--test-fraction <x>", "draw the test split (default without split.csv: 0.15)", share)
    .option("--no-check-kernels", "trust libtorch's kernels without comparing them with their definition first")
    .option("--allow-duplicates", "train though an image is in both the training and the validation split")
    .option("--normalise <how>", "zscore, percentile, none (default: zscore)", oneOf(["zscore", "percentile", "none"]))
    .option(
      "--resize <how>",
      "stretch, pad, none-with-pad (default: stretch)",
      oneOf(["stretch", "pad", "none-with-pad"]),
    )
    .option(
      "--channels <n>",
      "1: grey, 3: RGB, up to 32: images of as many bands (default: 1)",
      integer({ min: 1, max: 32 }),
    )
    .option("--bands <list>", "names of the channels, in order; they are as many as --channels", list(text));
  withLabelOptions(command, { labels: "auto", ignore: "255, where it is no class" });
  return withDeviceOptions(command);
}

/** The names of options that stood on the command line. */
function namesGiven(command: Command): Set<string> {
  const names = Object.keys(command.opts());
  return new Set(names.filter((name) => command.getOptionValueSource(name) === "cli"));
}

/** Every option of one training, as it took effect. */
export type TrainOptions = Settings & TrainFlags & { data: string };

/** What a resumed run takes over. */
export function recordable({
  run: _run,
  resume: _resume,
  jobs: _jobs,
  member: _member,
  ...options
}: TrainOptions): Record<string, unknown> {
  const { model } = options;
  return { ...options, data: path.resolve(options.data), ...(model !== undefined && { model: path.resolve(model) }) };
}

/**
 * Defaults, then the preset, then the command line; a resumed run has its own options and says what it is.
 * @throws ERR_LE_IO where the run's folder cannot be used, ERR_LE_CHECKPOINT
 */
export async function effectiveOptions(
  flags: TrainFlags,
  command: Command,
): Promise<{ options: TrainOptions; named: Set<string>; resumed: RunNotes | null }> {
  const run = path.resolve(flags.run);
  const named = namesGiven(command);
  if (existsSync(run) && !statSync(run).isDirectory())
    throw new LayerEnsemblesError("ERR_LE_IO", `Expected a folder for --run but received the file ${flags.run}.`);
  const hasState = existsSync(path.join(run, "state.safetensors")) || existsSync(path.join(run, "members"));
  if (hasState && !flags.resume)
    throw new LayerEnsemblesError(
      "ERR_LE_IO",
      `Expected a new folder for --run but received ${flags.run}, which holds a run: add --resume to go on with it, or choose another.`,
    );
  if (flags.resume && hasState) {
    const { described, readRun, RUN_FILES } = await import("../ensemble/run.js");
    const resumed = runNotes(await readRun(run), flags.run);
    const recorded = described(path.join(run, RUN_FILES.run), () =>
      checkFields("'options' of 'notes'", resumed.options as unknown as TrainOptions, RECORDED),
    );
    for (const name of named) {
      const [now, before] = [flags, recorded].map((all) => JSON.stringify(all[name as keyof TrainFlags]));
      if (CHANGEABLE.has(name) || now === before) continue;
      const dashed = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
      throw new UsageError(
        `--resume keeps the run's own options, but --${dashed} is ${now} and was ${before ?? "not given"}`,
      );
    }
    const changed = Object.fromEntries([...named].map((name) => [name, flags[name as keyof TrainFlags]]));
    return { options: { ...recorded, ...changed } as TrainOptions, named, resumed };
  }
  if (flags.model !== undefined)
    for (const name of [
      "backbone",
      "encoder",
      "decoderChannels",
      "attention",
      "width",
      "depth",
      "encoderWeights",
      "encoderPrefix",
    ] as const)
      if (flags[name] !== undefined)
        throw new UsageError(`--model brings its own network; it cannot go with an option of --backbone (${name})`);
  for (const [name, method] of [
    ["members", "de"],
    ["jobs", "de"],
    ["heads", "mh"],
    ["passes", "mcd"],
  ] as const)
    if (flags[name] !== undefined && (flags.method ?? "le") !== method)
      throw new UsageError(`--${name} is for --method ${method}, not ${flags.method ?? "le"}`);
  if (flags.bands && flags.channels !== undefined && flags.channels !== flags.bands.length)
    throw new UsageError(`--channels says ${flags.channels} but --bands has ${flags.bands.length}`);
  if (flags.data === undefined) throw new UsageError("required option '--data <dir>' not specified");
  if (flags.classes !== undefined && flags.classNames && flags.classes !== flags.classNames.length)
    throw new UsageError(`--classes says ${flags.classes} but --class-names has ${flags.classNames.length}`);
  const explicit = Object.fromEntries(
    Object.entries(flags).filter(([name, value]) => value !== undefined && named.has(name)),
  );
  const { json: _json, debug: _debug, resume, ...kept } = explicit as Record<string, unknown>;
  const preset = flags.preset === "paper" ? PAPER : {};
  const volumes = flags.backbone === "unet3d" ? VOLUMES : {};
  const counted = flags.bands ? { channels: flags.bands.length } : {};
  const options = {
    ...DEFAULTS,
    ...preset,
    ...volumes,
    ...counted,
    ...kept,
    ...(resume ? { resume } : {}),
  } as TrainOptions;
  // These have no dropout of their own; 0.2 is what the pyramid network drops.
  const bare = ["unet", "plain-unet", "unet3d"].includes(options.backbone) && flags.model === undefined;
  if (options.method === "mcd" && bare) options.backboneDropout ??= MC_DROPOUT;
  const axes = options.backbone === "unet3d" ? 3 : 2;
  // A network from a file says by itself whether it takes volumes.
  if (flags.model === undefined && options.size.length !== axes)
    throw new UsageError(
      `--backbone ${options.backbone} needs a --size of ${axes} sides, not ${options.size.join("x")}`,
    );
  return { options, named, resumed: null };
}
