import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import path from "node:path";
import type { Command } from "commander";
import { type Cropped, croppedOf, croppedShare } from "../data/cropped.js";
import type { Dataset, Sample } from "../data/dataset.js";
import { DATASET } from "../data/dataset-options.js";
import { makeFolders } from "../data/files.js";
import type { Ignored, LabelRule } from "../data/labels.js";
import { hasTestSplit } from "../data/layout.js";
import { type SeenImage, SeenImages } from "../data/leaks.js";
import { nameOf } from "../data/names.js";
import { gridRange } from "../data/volume.js";
import type { Backbone, LayerInfo } from "../ensemble/backbone.js";
import { memberFolder } from "../ensemble/deep-ensemble.js";
import type { Head } from "../ensemble/model.js";
import type { Network } from "../ensemble/network.js";
import { tilesOfPatch } from "../ensemble/tiles.js";
import type { EpochEvent, History } from "../ensemble/training.js";
import { LayerEnsemblesError } from "../errors.js";
import { placement, setThreads } from "../inference/device.js";
import { withFolder } from "../native/folder-lock.js";
import { duration, fixed } from "../results/format.js";
import { formatTable } from "../results/text.js";
import { METHOD_TITLES, type MethodName } from "../runs/methods.js";
import { chooseSplit, datasetOptions, type RunNotes, runNotes } from "../runs/notes.js";
import { asDamaged, RUN_FILES, readRun, writeRun } from "../runs/run.js";
import { givenOf } from "./arguments.js";
import { backboneOptions } from "./backbone-options.js";
import { Interrupted, runSession, type Session, toJson, UsageError } from "./command.js";
import { noteCropped } from "./cropped-note.js";
import { labelsOf, noteIgnored, noteUnclear, noteWarnings } from "./label-options.js";
import { glob, isGlob, MODEL_FLAGS } from "./model-options.js";
import { StatusLine, trainingProgress } from "./progress.js";
import { runSelf } from "./self.js";
import {
  effectiveOptions,
  fitOptions,
  recordable,
  type TrainFlags,
  type TrainOptions,
  trainOptions,
} from "./train-options.js";
import { seriesOf } from "./volume-options.js";

/** `train`: from a data folder to a run folder. */
export function trainCommand(): Command {
  return trainOptions().action((flags: TrainFlags, command: Command) =>
    runSession(flags.json ?? false, (session) => train(flags, command, session)),
  );
}

async function train(flags: TrainFlags, command: Command, session: Session): Promise<void> {
  const { options, named, resumed } = await effectiveOptions(flags, command);
  const line = new StatusLine(process.stderr);
  try {
    const run = path.resolve(flags.run);
    // The process of a member works below the folder that the command has which trains them all.
    if (options.method === "de" && options.member !== undefined)
      await trainMembers(options, named, resumed, line, session);
    else
      await withFolder(run, async (made) => {
        if (options.method === "de") return trainMembers(options, named, resumed, line, session);
        if (!resumed && existsSync(path.join(run, RUN_FILES.state))) throw beganMeanwhile(flags.run);
        const result = await trainOne(options, named, resumed, run, made, line, session);
        await session.print(session.json ? toJson(resultOf(result)) : summary(result));
      });
  } catch (error) {
    line.clear();
    if (error instanceof Interrupted)
      session.note(
        existsSync(path.join(flags.run, RUN_FILES.run))
          ? `stopped; the last checkpoint stays. Go on with: layer-ensembles train --run ${flags.run} --resume`
          : "stopped before the first checkpoint; nothing was kept",
      );
    throw error;
  }
}

/** Since the options were checked, before this process had the folder. */
function beganMeanwhile(run: string): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_BUSY",
    `Expected a new folder for --run but received ${run}, where another training began meanwhile: choose another.`,
  );
}

/** What came of one network's training. */
interface Trained {
  history: History;
  run: string;
  /** Size of what was trained on, where that was not whole images. */
  patch?: readonly number[];
  method: MethodName;
  heads: readonly Head[];
  skip: number;
  device: string;
  precision: string;
  seconds: number;
  /** What the numbers in masks were taken to mean. */
  labels: LabelRule;
  /** Of the training and validation images. */
  ignored: Ignored;
  /** What the network does not see of them. */
  cropped: Cropped;
}

/** Trains one network, into a run folder that is taken away again where it holds no checkpoint. */
async function trainOne(
  asked: TrainOptions,
  named: Set<string>,
  resumed: RunNotes | null,
  run: string,
  isNew: boolean,
  line: StatusLine,
  session: Session,
): Promise<Trained> {
  const dataset = await openData(asked, resumed, session);
  const options = settled(asked, dataset);
  const data = dataNotes(options, dataset, named, resumed);
  const started = performance.now();
  const splits = [data.trainSplit, data.valSplit].filter((name) => name !== null);
  const chosen = splits.map((name) => chooseSplit(dataset, name, data));
  const [training, validation = null] = (await readSplits(chosen, splits, line, session)) as [Sample[], Sample[]?];
  const contents = { training: contentsOf(training), validation: contentsOf(validation ?? []) };
  if (!options.allowDuplicates) {
    const seen = new SeenImages([[data.trainSplit, contents.training]]);
    for (const [id, content] of contents.validation) seen.check(id, content, data.valSplit ?? "", options.data);
  }
  const ignored = chosen.map((split) => split.ignored).reduce(sumIgnored);
  const total = training.length + (validation?.length ?? 0);
  noteIgnored(session, ignored, total, dataset.labels.ignore);
  noteUnclear(session, dataset.unclearMask);
  noteWarnings(session, dataset.warnings);
  const cropped = croppedOf([...training, ...(validation ?? [])].map(({ placement }) => croppedShare(placement)));
  noteCropped(session, cropped, total, dataset.preprocessing.size);

  setThreads(options);
  const { backbone, model } = await build(options, dataset, run, session);
  try {
    const notes = notesOf(options, dataset, { ...data, contents, cropped });
    const { length: images } = training;
    const heads = model.heads.length === 1 ? "1 head" : `${model.heads.length} heads`;
    session.note(
      `${METHOD_TITLES[model.method].long}: ${heads} (${model.heads.map((head) => head.name).join(", ")}) on ${model.device}, ${model.precision}; ` +
        `${images} training images${validation ? `, ${validation.length} for validation` : ", none for validation"}`,
    );
    const { patch } = options;
    const history = await runTraining(model, training, validation, options, run, notes, line, session);
    line.clear();
    const { method, heads: made, skip, device, precision } = model;
    const seconds = (performance.now() - started) / 1000;
    return {
      history,
      run,
      ...(patch && { patch }),
      method,
      heads: made,
      skip,
      device,
      precision,
      seconds,
      labels: dataset.labels,
      ignored,
      cropped,
    };
  } catch (error) {
    if (isNew && !existsSync(path.join(run, RUN_FILES.state))) await rm(run, { recursive: true, force: true });
    throw error;
  } finally {
    await model.dispose();
    await backbone.dispose();
  }
}

/**
 * Trains the networks of a deep ensemble, each into a run folder of its own: one after another, or `--jobs` at a time as
 * processes. Those that are done are passed over, and those that were stopped go on.
 */
async function trainMembers(
  options: TrainOptions,
  named: Set<string>,
  resumed: RunNotes | null,
  line: StatusLine,
  session: Session,
): Promise<void> {
  const run = path.resolve(options.run);
  const one = (member: number): TrainOptions => ({
    ...options,
    method: "plain",
    seed: options.seed + member - 1,
    resume: true,
  });
  const trainMember = (member: number, notes: RunNotes | null) => {
    const folder = memberFolder(run, member);
    return withFolder(folder, (made) => trainOne(one(member), named, notes, folder, made, line, session));
  };
  if (options.member !== undefined) {
    // A process of the command that trains them all.
    const result = await trainMember(options.member, resumed);
    return session.print(toJson(resultOf(result)));
  }
  if (!resumed) await beginDeepEnsemble(options, named, run, session);
  const members = Array.from({ length: options.members }, (_, i) => i + 1);
  const results: ReturnType<typeof resultOf>[] = [];
  const jobs = Math.min(options.jobs, members.length);
  if (jobs > 1) results.push(...(await inProcesses(run, members, jobs, options, session)));
  else
    for (const member of members) {
      session.note(`member ${member} of ${members.length}`);
      const notes = resumed ?? runNotes(await readRun(run), run);
      results.push(resultOf(await trainMember(member, notes)));
    }
  const seconds = results.reduce((sum, result) => sum + result.seconds, 0);
  await session.print(
    session.json
      ? toJson({ run, method: "de", members: results })
      : `${memberTable(results)}\nTrained ${members.length} networks in ${duration(seconds)} of work. Run: ${run}\n`,
  );
}

/** Writes the run.json of a deep ensemble, from which its members' processes take their options. */
async function beginDeepEnsemble(
  asked: TrainOptions,
  named: Set<string>,
  run: string,
  session: Session,
): Promise<void> {
  const dataset = await openData(asked, null, session);
  const options = settled(asked, dataset);
  const notes = notesOf(options, dataset, dataNotes(options, dataset, named, null));
  const { backbone, model } = await build({ ...options, method: "plain" }, dataset, run, session);
  try {
    await writeRun(run, {
      method: "de",
      members: options.members,
      ...model.described(),
      skip: 0,
      ...(options.patch && { tiles: tilesOfPatch(options.patch) }),
      notes: { ...notes },
    });
    await makeFolders(path.join(run, "members"));
  } finally {
    await model.dispose();
    await backbone.dispose();
  }
}

/** Trains members as processes of this command. The first that fails stops the others. */
async function inProcesses(
  run: string,
  members: readonly number[],
  jobs: number,
  options: TrainOptions,
  session: Session,
): Promise<ReturnType<typeof resultOf>[]> {
  const { availableParallelism } = await import("node:os");
  const threads = options.threads ?? Math.max(1, Math.floor(availableParallelism() / jobs));
  const queue = [...members];
  const results = new Map<number, ReturnType<typeof resultOf>>();
  const failed = new AbortController();
  const signal = AbortSignal.any([session.signal, failed.signal]);
  const work = async () => {
    for (let member = queue.shift(); member !== undefined; member = queue.shift()) {
      const flags = ["--run", run, "--resume", "--member", String(member), "--threads", String(threads), "--json"];
      if (options.device) flags.push("--device", options.device);
      session.note(`member ${member} of ${members.length} begins`);
      try {
        results.set(member, JSON.parse(await runSelf(["train", ...flags], signal)));
      } catch (error) {
        failed.abort(error);
        throw error;
      }
      session.note(`member ${member} of ${members.length} is trained`);
    }
  };
  await Promise.all(Array.from({ length: jobs }, work)).catch((error) => {
    throw session.signal.aborted ? session.signal.reason : error;
  });
  return members.map((member) => results.get(member) as ReturnType<typeof resultOf>);
}

function memberTable(results: readonly ReturnType<typeof resultOf>[]): string {
  return formatTable(
    [
      { heading: "member" },
      { heading: "epochs" },
      { heading: "val Dice" },
      { heading: "val nll" },
      { heading: "time" },
    ],
    results.map(({ epochs, validation, seconds }, i) => [
      String(i + 1),
      String(epochs),
      fixed(validation?.fused.dice),
      fixed(validation?.fused.nll),
      duration(seconds),
    ]),
  );
}

function dataNotes(
  options: TrainOptions,
  dataset: Dataset,
  named: Set<string>,
  resumed: RunNotes | null,
): RunNotes["data"] {
  const folder = path.resolve(options.data);
  if (resumed) return { ...resumed.data, folder };
  const drawn = isDrawn(options) ? idsBySplit(dataset) : null;
  const dicom = seriesOf(options);
  const valSplit = chosenVal(options, dataset, named);
  const { trainSplit } = options;
  const data = { folder, trainSplit, valSplit, drawn, ...(Object.keys(dicom).length > 0 && { dicom }) };
  const { axes = DATASET.axes.default } = dataset.preprocessing.grid ?? {};
  const grids = gridRange(chooseSplit(dataset, trainSplit, data).grids, axes);
  return { ...data, ...(grids && { grids }) };
}

function notesOf(options: TrainOptions, dataset: Dataset, data: RunNotes["data"]): RunNotes {
  const { preprocessing, classNames, ignoreIndex, labels } = dataset;
  return { preprocessing, classNames, ignoreIndex, labels, data, options: recordable(options) };
}

function isDrawn(options: TrainOptions): boolean {
  return (
    options.valFraction !== undefined ||
    options.testFraction !== undefined ||
    !existsSync(path.join(options.data, "split.csv"))
  );
}

async function openData(options: TrainOptions, resumed: RunNotes | null, { signal }: Session): Promise<Dataset> {
  const { Dataset } = await import("../data/dataset.js");
  const { dicom } = resumed?.data ?? {};
  if (resumed) return Dataset.fromFolder(options.data, { ...datasetOptions(resumed), ...(dicom && { dicom }) });
  const classes = options.classNames ?? options.classes;
  const noTable = !existsSync(path.join(options.data, "split.csv"));
  const { normalise } = options;
  const dataset = await Dataset.fromFolder(options.data, {
    ...givenOf(options, PREPARED),
    ...(options.patch && { size: null }),
    ...(normalise !== "training" && { normalise }),
    ...(classes !== undefined && { classes }),
    labels: labelsOf(options),
    dicom: seriesOf(options),
    ...(isDrawn(options) && {
      valFraction: options.valFraction ?? (noTable ? 0.15 : 0),
      testFraction: options.testFraction ?? (noTable && !hasTestSplit(options.data) ? 0.15 : 0),
      seed: options.seed,
    }),
  });
  if (normalise !== "training") return dataset;
  return dataset.normalised(await dataset.split(options.trainSplit).intensities({ signal }));
}

/** Options of a training that its dataset takes as they are. */
const { size, resize, axes, spacing, crop, channels, bands } = DATASET;
const PREPARED = { size, resize, axes, spacing, crop, channels, bands };

/** With what the data folder decided. */
type Settled = TrainOptions & { channels: number };

/** The options, with what the data folder decided. */
function settled(options: TrainOptions, { preprocessing }: Dataset): Settled {
  return { ...options, channels: preprocessing.channels };
}

/** No validation where the split that nobody asked for is not there. */
function chosenVal(options: TrainOptions, dataset: Dataset, named: Set<string>): string | null {
  const there = dataset.splits[nameOf(options.valSplit)] !== undefined;
  return there || named.has("valSplit") ? options.valSplit : null;
}

function idsBySplit(dataset: Dataset): Record<string, string[]> {
  const ids = Object.create(null) as Record<string, string[]>;
  for (const { id, split } of dataset.samples) {
    if (split === undefined) continue;
    ids[split] ??= [];
    ids[split].push(id);
  }
  return ids;
}

/** Reads splits before anything is written, so that a bad image leaves no run behind. */
async function readSplits(
  splits: readonly Dataset[],
  names: readonly string[],
  line: StatusLine,
  { signal }: Session,
): Promise<Sample[][]> {
  const read: Sample[][] = [];
  try {
    for (const [i, split] of splits.entries()) {
      const onProgress = ({ done, total }: { done: number; total: number }) =>
        line.draw(`reading ${names[i]} ${done}/${total}`);
      read.push(await split.loadAll({ signal, onProgress }));
    }
    return read;
  } finally {
    line.clear();
  }
}

function contentsOf(samples: readonly Sample[]): SeenImage[] {
  return samples.flatMap(({ id, content }) => (content === undefined ? [] : [[id, content] as const]));
}

function sumIgnored(a: Ignored, b: Ignored): Ignored {
  return {
    pixels: a.pixels + b.pixels,
    images: a.images + b.images,
    unlabelled: a.unlabelled + b.unlabelled,
  };
}

async function build(
  options: Settled,
  dataset: Dataset,
  run: string,
  session: Session,
): Promise<{ backbone: Backbone; model: Network }> {
  const { classes } = dataset;
  const started = existsSync(path.join(run, RUN_FILES.state));
  const backbone = await makeBackbone(options, classes, started ? run : null, session);
  try {
    return { backbone, model: await withHeads(backbone, options, classes) };
  } catch (error) {
    await backbone.dispose();
    throw error;
  }
}

/** The heads that the method puts on the network. */
async function withHeads(backbone: Backbone, options: TrainOptions, classes: number): Promise<Network> {
  const { method, taps, final, size, dropout, freezeBackbone, seed } = options;
  const shared = { classes, dropout, freezeBackbone, inputSize: size, seed, ...placement(options) };
  const names = taps.kind === "names" ? await matching(taps.names, () => backbone.probe(size)) : null;
  if (method === "le") {
    const { LayerEnsemble } = await import("../ensemble/layer-ensemble.js");
    const { autoTaps } = await import("../ensemble/taps.js");
    const count = taps.kind === "auto" ? taps.count : undefined;
    const chosen =
      names ?? autoTaps(await backbone.probe(size), { final, image: size, ...(count !== undefined && { count }) });
    const skip = options.skip === "auto" ? (classes === 2 ? 3 : 5) : options.skip;
    return LayerEnsemble.create(backbone, { ...shared, taps: chosen, final: final ? "auto" : false, skip });
  }
  if (names && names.length > 1)
    throw new UsageError(`--method ${method} has its heads on one layer, but --taps names ${names.length}`);
  const { McDropout, MultiHead, Plain } = await import("../ensemble/baselines.js");
  const on = names?.[0] === undefined ? shared : { ...shared, tap: names[0] };
  if (method === "mh") return MultiHead.create(backbone, { ...on, heads: options.heads });
  if (method === "mcd") return McDropout.create(backbone, { ...on, passes: options.passes });
  return Plain.create(backbone, on);
}

/** The network to train; that of a run that is gone on with has its copy there. */
async function makeBackbone(
  options: Settled,
  classes: number,
  run: string | null,
  session: Session,
): Promise<Backbone> {
  const { Backbone } = await import("../ensemble/backbone.js");
  if (options.model === undefined) {
    const weights = run === null ? await encoderWeights(options, session) : undefined;
    const backbone = await Backbone.create(options.backbone, {
      ...backboneOptions(options),
      ...(weights !== undefined && { encoderWeights: weights }),
      ...(weights !== undefined && options.encoderPrefix !== undefined && { encoderPrefix: options.encoderPrefix }),
      inChannels: options.channels,
      classes: options.backbone.startsWith("resnet") ? 0 : classes,
      seed: options.seed,
    });
    const { encoderReport: report } = backbone;
    if (report) {
      const behind = report.prefix === "" ? "" : `, which stand behind '${report.prefix}' there`;
      session.note(`the encoder starts with ${report.loaded} weights of ${weights}${behind}`);
    }
    return backbone;
  }
  if (run !== null) {
    return Backbone.fromConfig((await readRun(run)).backbone, run).catch((error) => {
      throw asDamaged(path.join(run, RUN_FILES.run), error);
    });
  }
  const { model } = options;
  // What the file does not show, the images do.
  const backbone = await Backbone.load(model, givenOf(options, MODEL_FLAGS)).catch(
    (error: Error & { code?: string }) => {
      if (error.code !== "ERR_LE_OPTION" || !/option '(inChannels|spatialAxes)'/.test(error.message)) throw error;
      const spatialAxes = options.size.length === 3 ? 3 : 2;
      return Backbone.load(model, { ...givenOf(options, MODEL_FLAGS), inChannels: options.channels, spatialAxes });
    },
  );
  if (backbone.inChannels === options.channels) return backbone;
  await backbone.dispose();
  throw new UsageError(
    `${options.model} takes images of ${backbone.inChannels} channels, but --channels is ${options.channels}`,
  );
}

/** The file to start the encoder from. `imagenet` is fetched here, where there is a terminal to say so. */
async function encoderWeights(options: TrainOptions, { signal }: Session): Promise<string | undefined> {
  if (options.encoderWeights !== "imagenet") return options.encoderWeights;
  const { imagenetWeights } = await import("../ensemble/pretrained.js");
  const { installProgressPrinter } = await import("../native/progress.js");
  return imagenetWeights(options.encoder ?? "resnet18", { signal, onProgress: installProgressPrinter(process.stderr) });
}

/**
 * Names as they are, and of each pattern the layers with a feature map that fit it, in execution order. A layer that fits
 * by several of its names is taken once, by its first where that is among them.
 */
async function matching(wanted: readonly string[], probe: () => Promise<LayerInfo[]>): Promise<string[]> {
  if (!wanted.some(isGlob)) return [...wanted];
  const layers = (await probe()).filter(
    ({ tappable, shape, followsImage }) => tappable && shape && shape.length >= 4 && followsImage !== false,
  );
  const names = wanted.flatMap((pattern) => {
    if (!isGlob(pattern)) return [pattern];
    const fits = glob(pattern);
    const found = layers.filter(({ name }) => fits(name)).map(({ name }) => name);
    if (found.length === 0) throw new UsageError(`no layer with a feature map fits --taps ${pattern}`);
    return found;
  });
  const layerOf = new Map(layers.map(({ name, aliasOf }) => [name, aliasOf ?? name]));
  const byLayer = new Map<string, string>();
  for (const name of names) {
    const layer = layerOf.get(name) ?? name;
    const chosen = byLayer.get(layer);
    if (chosen === undefined || name === layer) byLayer.set(layer, name);
  }
  return [...byLayer.values()];
}

function runTraining(
  model: Network,
  training: Sample[],
  validation: Sample[] | null,
  options: TrainOptions,
  run: string,
  notes: RunNotes,
  line: StatusLine,
  { signal }: Session,
): Promise<History> {
  const { earlyStopping, ...settings } = fitOptions(options);
  return model.fit(drain(training), {
    ...settings,
    // The preset's, which nobody asked for, is for a run with a validation split.
    earlyStopping: validation || options.preset !== "paper" ? earlyStopping : 0,
    ignoreIndex: notes.ignoreIndex,
    run,
    resume: options.resume ?? false,
    signal,
    onProgress: trainingProgress(line),
    notes: { ...notes },
    ...(validation && { validation: drain(validation) }),
  });
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

function resultOf({ history, ...rest }: Trained) {
  const kept = keptEpoch(history);
  const { stopped, best } = history;
  return { ...rest, stopped, epochs: history.epochs.length, best, validation: kept?.validation ?? null };
}

function summary({ history, run, patch, heads: made, seconds }: Trained): string {
  const kept = keptEpoch(history);
  const why = history.stopped === "early" ? ", stopped early" : "";
  const end = `\nTrained ${history.epochs.length} epochs in ${duration(seconds)}${why}. Run: ${run}\n`;
  if (!kept?.validation) return end.trimStart();
  const { heads, fused } = kept.validation;
  const rows = made.map(({ name, channels, size }, i) => [
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
  const where = patch ? `of whole images, by tiles of ${patch.join("×")}` : "at the network's input size";
  return `Validation at epoch ${kept.epoch + 1}, ${where}:\n\n${table}${end}`;
}
