import { existsSync, statSync } from "node:fs";
import { rm } from "node:fs/promises";
import path from "node:path";
import type { Command } from "commander";
import type { Dataset, Sample } from "../data/dataset.js";
import type { Backbone } from "../ensemble/backbone.js";
import type { LayerEnsemble } from "../ensemble/layer-ensemble.js";
import type {
  EpochEvent,
  FitOptions,
  History,
  LossName,
  OptimizerOptions,
  ScheduleOptions,
} from "../ensemble/training.js";
import { LayerEnsemblesError } from "../errors.js";
import { integer, list, number, oneOf, size, text } from "./arguments.js";
import { AUGMENT, type AugmentName } from "./augment.js";
import { type BackboneFlags, backboneOptions, KINDS, withBackboneOptions } from "./backbone-options.js";
import { Interrupted, newCommand, runSession, type Session, toJson, UsageError } from "./command.js";
import { type DeviceFlags, placement, setThreads, withDeviceOptions } from "./device-options.js";
import { StatusLine, trainingProgress } from "./progress.js";
import { type RunNotes, runNotes } from "./run-notes.js";
import { duration, fixed, formatTable } from "./table.js";

/** Options that have a value in every run; the preset changes some. */
interface Settings {
  size: [number, number];
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
  channels: 1 | 3;
  trainSplit: string;
  valSplit: string;
}

interface Flags extends Partial<Settings>, BackboneFlags, DeviceFlags {
  data?: string;
  run: string;
  classes?: number;
  classNames?: string[];
  headWeights?: number[];
  valFraction?: number;
  testFraction?: number;
  encoderWeights?: string;
  resume?: boolean;
  json?: boolean;
}

type Taps = { kind: "auto"; count?: number } | { kind: "names"; names: string[] };

const DEFAULTS: Settings = {
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

/** What a resumed run may change. */
const CHANGEABLE = new Set(["data", "run", "resume", "epochs", "earlyStopping", "device", "threads", "json", "debug"]);

const taps = (value: string): Taps => {
  const auto = /^auto(?::(.*))?$/.exec(value);
  if (auto) return auto[1] === undefined ? { kind: "auto" } : { kind: "auto", count: integer({ min: 1 })(auto[1]) };
  return { kind: "names", names: value === "none" ? [] : list(text)(value) };
};

/** `train`: from a data folder to a run folder. */
export function trainCommand(): Command {
  const positive = integer({ min: 1 });
  const share = number({ min: 0, max: 0.99 });
  const command = newCommand(
    "train",
    "train a Layer Ensemble on a folder of images and masks",
    "layer-ensembles train --data data/busi --run runs/busi --classes 2 --size 128x128 --epochs 50\n" +
      "layer-ensembles train --run runs/busi --resume",
  )
    .option("--data <dir>", "folder with images/, masks/ and, for fixed splits, split.csv", text)
    .requiredOption("--run <dir>", "folder to make for the run: weights, history, checkpoints", text)
    .option("--resume", "go on from the run's last checkpoint, with its own options")
    .option("--size <HxW>", "size of the network's input (default: 128x128)", size)
    .option("--classes <n>", "classes with background (default: what the masks hold)", integer({ min: 2, max: 255 }))
    .option("--class-names <list>", "their names, background first", list(text))
    .option("--backbone <kind>", `${KINDS.join(", ")} (default: unet)`, oneOf(KINDS));
  withBackboneOptions(command)
    .option("--encoder-weights <file>", "safetensors file to start the encoder from", text)
    .option("--freeze-backbone", "train the heads only")
    .option("--taps <taps>", "layers that get a head: auto, auto:N, none or names (default: auto)", taps)
    .option("--no-final", "the network's own output is no head")
    .option("--dropout <p>", "dropout in each head (default: 0)", share)
    .option("--skip <T>", "first heads to leave out of predictions (default: 0)", integer({ min: 0 }))
    .option("--epochs <n>", "(default: 50)", positive)
    .option("--batch-size <n>", "(default: 8)", positive)
    .option("--accumulate <n>", "batches per step of the optimiser (default: 1)", positive)
    .option("--learning-rate <rate>", "highest rate (default: 0.001)", number({ min: 0 }))
    .option(
      "--loss <name>",
      "softDice, crossEntropy, diceCrossEntropy, focal, tversky, jaccard (default: diceCrossEntropy)",
      oneOf(["softDice", "crossEntropy", "diceCrossEntropy", "focal", "tversky", "jaccard"]),
    )
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
    .option("--normalise <how>", "zscore, percentile, none (default: zscore)", oneOf(["zscore", "percentile", "none"]))
    .option(
      "--resize <how>",
      "stretch, pad, none-with-pad (default: stretch)",
      oneOf(["stretch", "pad", "none-with-pad"]),
    )
    .option("--channels <n>", "1: grey, 3: RGB (default: 1)", (value) => Number(oneOf(["1", "3"])(value)));
  return withDeviceOptions(command).action((flags: Flags, self: Command) =>
    runSession(flags.json ?? false, (session) => train(flags, given(self), session)),
  );
}

/** The names of options that stood on the command line. */
function given(command: Command): Set<string> {
  const names = Object.keys(command.opts());
  return new Set(names.filter((name) => command.getOptionValueSource(name) === "cli"));
}

async function train(flags: Flags, named: Set<string>, session: Session): Promise<void> {
  const run = path.resolve(flags.run);
  const options = await effectiveOptions(flags, named, run);
  const dataset = await openData(options);
  const names = { train: options.trainSplit, val: chosenVal(options, dataset, named) };
  const line = new StatusLine(process.stderr);
  const started = performance.now();
  const training = await readAll(dataset.split(names.train), names.train, line, session);
  const validation = names.val === null ? null : await readAll(dataset.split(names.val), names.val, line, session);

  setThreads(options);
  const isNew = !existsSync(run);
  const { backbone, model } = await build(options, dataset, run);
  try {
    const notes: RunNotes = {
      preprocessing: dataset.preprocessing,
      classNames: dataset.classNames,
      ignoreIndex: dataset.ignoreIndex,
      data: {
        folder: path.resolve(options.data),
        trainSplit: names.train,
        valSplit: names.val,
        drawn: isDrawn(options) ? idsBySplit(dataset) : null,
      },
      options: recordable(options),
    };
    const { length: images } = training;
    session.note(
      `${model.heads.length} heads (${model.heads.map((head) => head.name).join(", ")}) on ${model.device}, ${model.precision}; ` +
        `${images} training images${validation ? `, ${validation.length} for validation` : ", none for validation"}`,
    );
    const history = await runTraining(model, training, validation, options, run, notes, line, session);
    line.clear();
    const seconds = (performance.now() - started) / 1000;
    await session.print(
      session.json ? toJson(resultOf(history, run, model, seconds)) : summary(history, run, model, seconds),
    );
  } catch (error) {
    line.clear();
    const checkpoint = existsSync(path.join(run, "state.safetensors"));
    if (error instanceof Interrupted) {
      session.note(
        checkpoint
          ? `stopped; the last checkpoint stays. Go on with: layer-ensembles train --run ${flags.run} --resume`
          : "stopped before the first checkpoint; nothing was kept",
      );
    }
    if (isNew && !checkpoint) await rm(run, { recursive: true, force: true });
    throw error;
  } finally {
    await model.dispose();
    await backbone.dispose();
  }
}

type Options = Settings & Flags & { data: string };

/** What a resumed run takes over. */
function recordable({ run: _run, resume: _resume, ...options }: Options): Record<string, unknown> {
  return { ...options, data: path.resolve(options.data) };
}

/** Defaults, then the preset, then the command line; a resumed run has its own options. */
async function effectiveOptions(flags: Flags, named: Set<string>, run: string): Promise<Options> {
  if (existsSync(run) && !statSync(run).isDirectory())
    throw new LayerEnsemblesError("ERR_LE_IO", `Expected a folder for --run but received the file ${flags.run}.`);
  const hasState = existsSync(path.join(run, "state.safetensors"));
  if (hasState && !flags.resume)
    throw new LayerEnsemblesError(
      "ERR_LE_IO",
      `Expected a new folder for --run but received ${flags.run}, which holds a run: add --resume to go on with it, or choose another.`,
    );
  if (flags.resume && hasState) {
    const { readRun } = await import("../ensemble/run.js");
    const recorded = runNotes(await readRun(run), flags.run).options as unknown as Options;
    for (const name of named) {
      const [now, before] = [flags, recorded].map((all) => JSON.stringify(all[name as keyof Flags]));
      if (CHANGEABLE.has(name) || now === before) continue;
      const dashed = name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
      throw new UsageError(
        `--resume keeps the run's own options, but --${dashed} is ${now} and was ${before ?? "not given"}`,
      );
    }
    const changed = Object.fromEntries([...named].map((name) => [name, flags[name as keyof Flags]]));
    return { ...recorded, ...changed, run: flags.run } as Options;
  }
  if (flags.data === undefined) throw new UsageError("required option '--data <dir>' not specified");
  if (flags.classes !== undefined && flags.classNames && flags.classes !== flags.classNames.length)
    throw new UsageError(`--classes says ${flags.classes} but --class-names has ${flags.classNames.length}`);
  const explicit = Object.fromEntries(
    Object.entries(flags).filter(([name, value]) => value !== undefined && named.has(name)),
  );
  const { json: _json, debug: _debug, resume, ...kept } = explicit as Record<string, unknown>;
  return { ...DEFAULTS, ...(flags.preset === "paper" && PAPER), ...kept, ...(resume ? { resume } : {}) } as Options;
}

function isDrawn(options: Options): boolean {
  return (
    options.valFraction !== undefined ||
    options.testFraction !== undefined ||
    !existsSync(path.join(options.data, "split.csv"))
  );
}

async function openData(options: Options): Promise<Dataset> {
  const { Dataset } = await import("../data/dataset.js");
  const classes = options.classNames ?? options.classes;
  const noTable = !existsSync(path.join(options.data, "split.csv"));
  return Dataset.fromFolder(options.data, {
    size: options.size,
    resize: options.resize,
    normalise: options.normalise,
    channels: options.channels,
    ...(classes !== undefined && { classes }),
    ...(isDrawn(options) && {
      valFraction: options.valFraction ?? (noTable ? 0.15 : 0),
      testFraction: options.testFraction ?? (noTable ? 0.15 : 0),
      seed: options.seed,
    }),
  });
}

/** No validation where the split that nobody asked for is not there. */
function chosenVal(options: Options, dataset: Dataset, named: Set<string>): string | null {
  const there = dataset.splits[options.valSplit] !== undefined;
  return there || named.has("valSplit") ? options.valSplit : null;
}

function idsBySplit(dataset: Dataset): Record<string, string[]> {
  const ids: Record<string, string[]> = {};
  for (const { id, split } of dataset.samples) {
    if (split === undefined) continue;
    ids[split] ??= [];
    ids[split].push(id);
  }
  return ids;
}

/** Reads a split before anything is written, so that a bad image leaves no run behind. */
function readAll(split: Dataset, name: string, line: StatusLine, { signal }: Session): Promise<Sample[]> {
  return split
    .loadAll({ signal, onProgress: ({ done, total }) => line.draw(`reading ${name} ${done}/${total}`) })
    .finally(() => line.clear());
}

async function build(
  options: Options,
  dataset: Dataset,
  run: string,
): Promise<{ backbone: Backbone; model: LayerEnsemble }> {
  const { Backbone } = await import("../ensemble/backbone.js");
  const { LayerEnsemble } = await import("../ensemble/layer-ensemble.js");
  const { autoTaps } = await import("../ensemble/taps.js");
  const { classes } = dataset;
  const backbone = await Backbone.create(options.backbone, {
    ...backboneOptions(options),
    inChannels: options.channels,
    classes: options.backbone.startsWith("resnet") ? 0 : classes,
    seed: options.seed,
  });
  try {
    if (options.encoderWeights !== undefined && !existsSync(path.join(run, "state.safetensors")))
      await backbone.loadWeights(options.encoderWeights, { part: "encoder" });
    const auto = options.taps.kind === "auto" ? options.taps : null;
    const names =
      options.taps.kind === "names"
        ? options.taps.names
        : autoTaps(await backbone.probe(options.size), {
            final: options.final,
            ...(auto?.count !== undefined && { count: auto.count }),
          });
    const model = await LayerEnsemble.create(backbone, {
      taps: names,
      classes,
      final: options.final ? "auto" : false,
      dropout: options.dropout,
      freezeBackbone: options.freezeBackbone,
      inputSize: options.size,
      seed: options.seed,
      skip: options.skip === "auto" ? (classes === 2 ? 3 : 5) : options.skip,
      ...placement(options),
    });
    return { backbone, model };
  } catch (error) {
    await backbone.dispose();
    throw error;
  }
}

function runTraining(
  model: LayerEnsemble,
  training: Sample[],
  validation: Sample[] | null,
  options: Options,
  run: string,
  notes: RunNotes,
  line: StatusLine,
  { signal }: Session,
): Promise<History> {
  const { augment, headWeights, optimizer, weightDecay } = options;
  const settings: FitOptions = {
    epochs: options.epochs,
    batchSize: options.batchSize,
    accumulate: options.accumulate,
    learningRate: options.learningRate,
    loss: options.loss,
    optimizer: weightDecay === "auto" ? optimizer : { name: optimizer, weightDecay },
    schedule: options.schedule,
    clipNorm: options.clipNorm,
    earlyStopping: validation || options.preset !== "paper" ? options.earlyStopping : 0,
    augment: AUGMENT[augment] as FitOptions["augment"] & object,
    seed: options.seed,
    ignoreIndex: notes.ignoreIndex,
    run,
    resume: options.resume ?? false,
    signal,
    onProgress: trainingProgress(line),
    notes: { ...notes },
    ...(headWeights && { headWeights }),
    ...(validation && { validation: drain(validation) }),
  };
  return model.fit(drain(training), settings);
}

/** Gives up each sample once it is taken, so that it is not held twice. */
function* drain(samples: Sample[]): Generator<Sample> {
  samples.reverse();
  for (let sample = samples.pop(); sample; sample = samples.pop()) yield sample;
}

/** The epoch whose weights were kept. */
function keptEpoch(history: History): EpochEvent | undefined {
  return history.epochs.find(({ epoch }) => epoch === history.best?.epoch) ?? history.epochs.at(-1);
}

function resultOf(history: History, run: string, model: LayerEnsemble, seconds: number) {
  const kept = keptEpoch(history);
  return {
    run,
    stopped: history.stopped,
    epochs: history.epochs.length,
    best: history.best,
    validation: kept?.validation ?? null,
    heads: model.heads,
    skip: model.skip,
    device: model.device,
    precision: model.precision,
    seconds,
  };
}

function summary(history: History, run: string, model: LayerEnsemble, seconds: number): string {
  const kept = keptEpoch(history);
  const why = history.stopped === "early" ? ", stopped early" : "";
  const end = `\nTrained ${history.epochs.length} epochs in ${duration(seconds)}${why}. Run: ${run}\n`;
  if (!kept?.validation) return end.trimStart();
  const { heads, fused } = kept.validation;
  const rows = model.heads.map(({ name, channels, size }, i) => [
    String(i + 1),
    name,
    `${channels}×${size.join("×")}`,
    fixed(heads[name]?.dice),
    fixed(heads[name]?.nll),
  ]);
  rows.push(["", "fused", "", fixed(fused.dice), fixed(fused.nll)]);
  const table = formatTable(
    [
      { heading: "#" },
      { heading: "head", align: "left" },
      { heading: "features", align: "left" },
      { heading: "val Dice" },
      { heading: "val nll" },
    ],
    rows,
  );
  return `Validation at epoch ${kept.epoch + 1}, at the network's input size:\n\n${table}${end}`;
}
