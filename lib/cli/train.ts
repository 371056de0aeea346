import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import path from "node:path";
import type { Command } from "commander";
import type { Dataset, Sample } from "../data/dataset.js";
import type { Backbone, LayerInfo } from "../ensemble/backbone.js";
import type { LayerEnsemble } from "../ensemble/layer-ensemble.js";
import type { EpochEvent, FitOptions, History } from "../ensemble/training.js";
import { AUGMENT } from "./augment.js";
import { backboneOptions } from "./backbone-options.js";
import { Interrupted, runSession, type Session, toJson, UsageError } from "./command.js";
import { placement, setThreads } from "./device-options.js";
import { glob, isGlob, modelOptions } from "./model-options.js";
import { StatusLine, trainingProgress } from "./progress.js";
import { chooseSplit, type RunNotes } from "./run-notes.js";
import { duration, fixed, formatTable } from "./table.js";
import { effectiveOptions, recordable, type TrainFlags, type TrainOptions, trainOptions } from "./train-options.js";

/** `train`: from a data folder to a run folder. */
export function trainCommand(): Command {
  return trainOptions().action((flags: TrainFlags, command: Command) =>
    runSession(flags.json ?? false, (session) => train(flags, command, session)),
  );
}

async function train(flags: TrainFlags, command: Command, session: Session): Promise<void> {
  const run = path.resolve(flags.run);
  const { options, named, resumed } = await effectiveOptions(flags, command);
  const dataset = await openData(options, resumed);
  const data = resumed
    ? { ...resumed.data, folder: path.resolve(options.data) }
    : {
        folder: path.resolve(options.data),
        trainSplit: options.trainSplit,
        valSplit: chosenVal(options, dataset, named),
        drawn: isDrawn(options) ? idsBySplit(dataset) : null,
      };
  const line = new StatusLine(process.stderr);
  const started = performance.now();
  const read = (split: string) => readAll(chooseSplit(dataset, split, data), split, line, session);
  const training = await read(data.trainSplit);
  const validation = data.valSplit === null ? null : await read(data.valSplit);

  setThreads(options);
  const isNew = !existsSync(run);
  const { backbone, model } = await build(options, dataset, run);
  try {
    const notes: RunNotes = {
      preprocessing: dataset.preprocessing,
      classNames: dataset.classNames,
      ignoreIndex: dataset.ignoreIndex,
      data,
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

function isDrawn(options: TrainOptions): boolean {
  return (
    options.valFraction !== undefined ||
    options.testFraction !== undefined ||
    !existsSync(path.join(options.data, "split.csv"))
  );
}

async function openData(options: TrainOptions, resumed: RunNotes | null): Promise<Dataset> {
  const { Dataset } = await import("../data/dataset.js");
  const classes = resumed?.classNames ?? options.classNames ?? options.classes;
  const noTable = !existsSync(path.join(options.data, "split.csv"));
  return Dataset.fromFolder(options.data, {
    size: options.size,
    resize: options.resize,
    normalise: options.normalise,
    channels: options.channels,
    ...(classes !== undefined && { classes }),
    ...(!resumed &&
      isDrawn(options) && {
        valFraction: options.valFraction ?? (noTable ? 0.15 : 0),
        testFraction: options.testFraction ?? (noTable ? 0.15 : 0),
        seed: options.seed,
      }),
  });
}

/** No validation where the split that nobody asked for is not there. */
function chosenVal(options: TrainOptions, dataset: Dataset, named: Set<string>): string | null {
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
  options: TrainOptions,
  dataset: Dataset,
  run: string,
): Promise<{ backbone: Backbone; model: LayerEnsemble }> {
  const { LayerEnsemble } = await import("../ensemble/layer-ensemble.js");
  const { autoTaps } = await import("../ensemble/taps.js");
  const { classes } = dataset;
  const started = existsSync(path.join(run, "state.safetensors"));
  const backbone = await makeBackbone(options, classes, started ? run : null);
  try {
    if (options.encoderWeights !== undefined && !started)
      await backbone.loadWeights(options.encoderWeights, { part: "encoder" });
    const auto = options.taps.kind === "auto" ? options.taps : null;
    const names =
      options.taps.kind === "names"
        ? await matching(options.taps.names, () => backbone.probe(options.size))
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

/** The network to train; that of a run that is gone on with has its copy there. */
async function makeBackbone(options: TrainOptions, classes: number, run: string | null): Promise<Backbone> {
  const { Backbone } = await import("../ensemble/backbone.js");
  if (options.model === undefined)
    return Backbone.create(options.backbone, {
      ...backboneOptions(options),
      inChannels: options.channels,
      classes: options.backbone.startsWith("resnet") ? 0 : classes,
      seed: options.seed,
    });
  if (run !== null) {
    const { readRun } = await import("../ensemble/run.js");
    return Backbone.fromConfig((await readRun(run)).backbone, run);
  }
  const backbone = await Backbone.load(options.model, modelOptions(options));
  if (backbone.inChannels === options.channels) return backbone;
  await backbone.dispose();
  throw new UsageError(
    `${options.model} takes images of ${backbone.inChannels} channels, but --channels is ${options.channels}`,
  );
}

/** Names as they are, and of each pattern the layers with a feature map that fit it, in execution order. */
async function matching(wanted: readonly string[], probe: () => Promise<LayerInfo[]>): Promise<string[]> {
  if (!wanted.some(isGlob)) return [...wanted];
  const layers = (await probe()).filter(({ tappable, shape }) => tappable && shape && shape.length >= 4);
  const names = wanted.flatMap((pattern) => {
    if (!isGlob(pattern)) return [pattern];
    const found = layers.map(({ name }) => name).filter(glob(pattern));
    if (found.length === 0) throw new UsageError(`no layer with a feature map fits --taps ${pattern}`);
    return found;
  });
  return [...new Set(names)];
}

function runTraining(
  model: LayerEnsemble,
  training: Sample[],
  validation: Sample[] | null,
  options: TrainOptions,
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
