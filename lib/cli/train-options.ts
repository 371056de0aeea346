import { existsSync, statSync } from "node:fs";
import path from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";
import { DATASET } from "../data/dataset-options.js";
import { FIT, type FitOptions, type OptimizerOptions, PAPER } from "../ensemble/fit-options.js";
import { COUNTS, ENSEMBLE } from "../ensemble/head-options.js";
import { BACKBONE_KINDS, BACKBONES } from "../ensemble/zoo.js";
import { LayerEnsemblesError } from "../errors.js";
import {
  checkFields,
  type Defaults,
  dashed,
  defaultsOf,
  type OptionSpec,
  type OptionSpecs,
  option,
  toldOf,
  type Values,
} from "../options.js";
import { METHODS } from "../runs/methods.js";
import { type RunNotes, runNotes } from "../runs/notes.js";
import { givenOf, integer, list, number, type Parser, parserOf, size, text, withOptions } from "./arguments.js";
import { BACKBONE_FLAGS, ENCODER_FLAGS } from "./backbone-options.js";
import { newCommand, UsageError } from "./command.js";
import { DEVICE } from "./device-options.js";
import { labelSpecs } from "./label-options.js";
import { MODEL_FLAGS, MODEL_PARSERS } from "./model-options.js";
import { SERIES_OPTIONS } from "./volume-options.js";

/** Which layers get a head. */
export type Taps = { kind: "auto"; count?: number } | { kind: "names"; names: string[] };

type Size = readonly [height: number, width: number] | readonly [depth: number, height: number, width: number];

const names = option.array(option.string());
const some = option.integer({ min: 1 });
const side = option.integer({ min: 1, max: 65536 });

const DATA = {
  data: option.string({ text: "folder with images/, masks/ and, for fixed splits, split.csv", arg: "dir" }),
  classes: option.integer({ min: 2, max: 255, otherwise: "what the masks hold", text: "classes with background" }),
  classNames: option.with(names, { text: "their names, background first" }),
  size: option.with(
    option.anyOf(option.array(side, { length: 2 }), option.array(side, { length: 3 })) as OptionSpec<Size>,
    {
      default: [128, 128],
      otherwise: "128x128; unet3d: 32x64x64",
      text: "size of the network's input; of volumes DxHxW",
      arg: "HxW",
    },
  ),
  resize: DATASET.resize,
  normalise: option.with(option.anyOf(option.oneOf(["training"]), DATASET.normalise), {
    default: "zscore" as const,
    text: "how intensities are scaled; window:-160,240 makes 0 and 1 of two stored values; training: by what is labelled in the training, as for CT",
    arg: "how",
  }),
  axes: DATASET.axes,
  spacing: DATASET.spacing,
  crop: DATASET.crop,
  channels: DATASET.channels,
  bands: option.with(names, { text: "names of the channels, in order; they are as many as --channels" }),
  trainSplit: option.string({ default: "train", text: "split to train on", arg: "name" }),
  valSplit: option.string({ default: "val", text: "split to validate on", arg: "name" }),
  valFraction: DATASET.valFraction,
  testFraction: DATASET.testFraction,
  ...labelSpecs({ labels: "auto", ignore: "255, where it is no class" }),
  ...SERIES_OPTIONS,
};

const NETWORK = {
  backbone: option.oneOf(BACKBONE_KINDS, { default: "unet", text: "the network", arg: "kind" }),
  model: option.string({
    text: "the network: a TorchScript or torch.export file, instead of --backbone",
    arg: "file",
  }),
  ...MODEL_FLAGS,
  ...BACKBONE_FLAGS,
  ...ENCODER_FLAGS,
  freezeBackbone: ENSEMBLE.freezeBackbone,
};

const METHOD = {
  method: option.oneOf(METHODS, {
    default: "le",
    text: "le: a head on each tap; plain: the network's output; mh: heads on one layer; de: several networks; mcd: dropout",
  }),
  jobs: option.integer({ min: 1, default: 1, text: "de: members trained at a time, each in its own process" }),
  ...COUNTS,
};

const HEADS = {
  taps: option.with(
    option.custom<Taps>("taps", (value) => {
      const { kind, names: named, count } = (value ?? {}) as { kind?: unknown; names?: unknown; count?: unknown };
      return kind === "names" ? names.accepts(named) : kind === "auto" && (count === undefined || some.accepts(count));
    }),
    {
      default: { kind: "auto" },
      otherwise: "auto",
      text: "le: layers that get a head; mh: the one: auto, auto:N, none, or names; * and ** fit many",
      arg: "taps",
    },
  ),
  final: option.boolean({ default: true, text: "the network's own output is no head" }),
  dropout: ENSEMBLE.dropout,
  skip: option.with(option.anyOf(ENSEMBLE.skip, option.oneOf(["auto"])), {
    default: 0,
    text: "first heads to leave out of predictions; auto: 3 of two classes, 5 of more",
    arg: "T",
  }),
};

const TRAINING = {
  ...toldOf(FIT),
  weightDecay: option.with(option.anyOf(option.number({ min: 0 }), option.oneOf(["auto"])), {
    default: "auto",
    otherwise: "the optimiser's own",
    text: "weight decay",
  }),
};

const RUN = {
  run: option.required(
    option.string({ text: "folder to make for the run: weights, history, checkpoints", arg: "dir" }),
  ),
  resume: option.boolean({ text: "go on from the run's last checkpoint, with its own options" }),
};

/** The options of `train`, in the groups of its help and of docs/cli.md. */
const GROUPS: Readonly<Record<string, OptionSpecs>> = {
  Run: RUN,
  Data: DATA,
  Network: NETWORK,
  Method: METHOD,
  Heads: HEADS,
  Training: TRAINING,
  Machine: DEVICE,
};

const ALL = { ...RUN, ...DATA, ...NETWORK, ...METHOD, ...HEADS, ...TRAINING, ...DEVICE };

/** Options that have a value in every run; the preset changes some. */
export type Settings = Defaults<typeof ALL>;

/** The command line of `train`. */
export interface TrainFlags extends Values<typeof ALL> {
  /** Set by a deep ensemble for the processes that train its members. */
  member?: number;
  json?: boolean;
}

const DEFAULTS: Settings = defaultsOf(ALL);

/** What a run records of its options, as far as going on with it relies on what they are. */
const RECORDED: OptionSpecs = {
  ...ALL,
  run: option.string(),
  data: option.required(ALL.data),
  method: option.required(ALL.method),
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

/** A name, or `window:LOW,HIGH`. */
const normalise: Parser<Values<typeof DATA>["normalise"]> = (value) => {
  const [, bounds] = /^window:(.*)$/.exec(value) ?? [];
  if (bounds === undefined) return parserOf(DATA.normalise)(value);
  const [low, high, ...more] = list(number())(bounds);
  if (low === undefined || high === undefined || more.length > 0 || !(low < high))
    throw new InvalidArgumentError("Expected window:LOW,HIGH with two stored values, such as window:-160,240.");
  return { kind: "window", low, high };
};

const taps = (value: string): Taps => {
  const auto = /^auto(?::(.*))?$/.exec(value);
  if (auto) return auto[1] === undefined ? { kind: "auto" } : { kind: "auto", count: integer({ min: 1 })(auto[1]) };
  return { kind: "names", names: value === "none" ? [] : list(text)(value) };
};

/** The command with its options, without its work. */
export function trainOptions(): Command {
  const command = newCommand(
    "train",
    "train a Layer Ensemble, or a method to compare it with, on a folder of images and masks",
    "layer-ensembles train --data data/busi --run runs/busi --classes 2 --size 128x128 --epochs 50\n" +
      "layer-ensembles train --run runs/busi --resume",
  ).addOption(new Option("--member <i>").argParser(integer({ min: 1 })).hideHelp());
  for (const [title, specs] of Object.entries(GROUPS))
    withOptions(command.optionsGroup(`${title}:`), specs, { ...MODEL_PARSERS, size, patch: size, normalise, taps });
  return command;
}

/** The names of options that stood on the command line. */
function namesGiven(command: Command): Set<string> {
  const names = Object.keys(command.opts());
  return new Set(names.filter((name) => command.getOptionValueSource(name) === "cli"));
}

/** Every option of one training, as it took effect. */
export type TrainOptions = Settings & TrainFlags & { data: string };

/** What `fit` is told of them. */
export function fitOptions(options: TrainOptions): FitOptions {
  const { weightDecay, patchForeground, ...rest } = givenOf(options, TRAINING);
  const given = { ...rest, ...(rest.patch && patchForeground !== undefined && { patchForeground }) };
  if (weightDecay === undefined || weightDecay === "auto") return given;
  return { ...given, optimizer: { name: given.optimizer as OptimizerOptions["name"], weightDecay } };
}

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
    const { described, readRun, RUN_FILES } = await import("../runs/run.js");
    const resumed = runNotes(await readRun(run), flags.run);
    const recorded = described(path.join(run, RUN_FILES.run), () =>
      checkFields("'options' of 'notes'", resumed.options as unknown as TrainOptions, RECORDED),
    );
    for (const name of named) {
      const [now, before] = [flags, recorded].map((all) => JSON.stringify(all[name as keyof TrainFlags]));
      if (CHANGEABLE.has(name) || now === before) continue;
      throw new UsageError(
        `--resume keeps the run's own options, but ${dashed(name)} is ${now} and was ${before ?? "not given"}`,
      );
    }
    const changed = Object.fromEntries([...named].map((name) => [name, flags[name as keyof TrainFlags]]));
    return { options: { ...DEFAULTS, ...recorded, ...changed } as TrainOptions, named, resumed };
  }
  if (flags.model !== undefined)
    // The preset is one of training, too.
    for (const name of Object.keys({ backbone: 0, ...BACKBONE_FLAGS, ...ENCODER_FLAGS }))
      if (name !== "preset" && named.has(name))
        throw new UsageError(`--model brings its own network; it cannot go with an option of --backbone (${name})`);
  for (const [name, method] of [
    ["members", "de"],
    ["jobs", "de"],
    ["heads", "mh"],
    ["passes", "mcd"],
  ] as const)
    if (flags[name] !== undefined && (flags.method ?? "le") !== method)
      throw new UsageError(`--${name} is for --method ${method}, not ${flags.method ?? "le"}`);
  for (const name of ["size", "resize"] as const)
    if (flags.patch && named.has(name))
      throw new UsageError(`--patch trains on images at their own size; it cannot go with --${name}`);
  for (const name of ["patchForeground", "patchesPerCase"] as const)
    if (!flags.patch && named.has(name)) throw new UsageError(`${dashed(name)} is for a training by --patch`);
  if (flags.bands && flags.channels !== undefined && flags.channels !== flags.bands.length)
    throw new UsageError(`--channels says ${flags.channels} but --bands has ${flags.bands.length}`);
  if (flags.data === undefined) throw new UsageError("required option '--data <dir>' not specified");
  if (flags.classes !== undefined && flags.classNames && flags.classes !== flags.classNames.length)
    throw new UsageError(`--classes says ${flags.classes} but --class-names has ${flags.classNames.length}`);
  const explicit = Object.fromEntries(
    Object.entries(flags).filter(([name, value]) => value !== undefined && named.has(name)),
  );
  const { json: _json, debug: _debug, resume, ...kept } = explicit as Record<string, unknown>;
  const preset = flags.preset === "paper" ? { ...PAPER, skip: "auto" } : {};
  const { axes, options: own } = BACKBONES[flags.backbone ?? DEFAULTS.backbone];
  const volumes = axes === 3 ? VOLUMES : {};
  const counted = flags.bands ? { channels: flags.bands.length } : {};
  const options = {
    ...DEFAULTS,
    ...preset,
    ...volumes,
    ...counted,
    ...kept,
    // What the network sees at once.
    ...(flags.patch && { size: flags.patch }),
    ...(resume ? { resume } : {}),
  } as TrainOptions;
  // Those that have no dropout of their own; 0.2 is what the pyramid network drops.
  const bare = own.dropout && own.dropout.default === undefined && flags.model === undefined;
  if (options.method === "mcd" && bare) options.backboneDropout ??= MC_DROPOUT;
  // A network from a file says by itself whether it takes volumes.
  if (flags.model === undefined && options.size.length !== axes)
    throw new UsageError(
      `--backbone ${options.backbone} needs a --${options.patch ? "patch" : "size"} of ${axes} sides, not ${options.size.join("x")}`,
    );
  return { options, named, resumed: null };
}
