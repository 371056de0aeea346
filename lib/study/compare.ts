// The comparison of methods from trained runs and a data folder: everything that results.json says.
import { cpus } from "node:os";
import path from "node:path";
import type { Cropped } from "../data/cropped.js";
import type { LabelOptions } from "../data/labels.js";
import { LayerEnsemblesError } from "../errors.js";
import type { PredictionFusion } from "../fusion/index.js";
import type { Units } from "../grid/index.js";
import type { DeviceFlags } from "../inference/device.js";
import { folderItems, type Item, infer, type OpenRun, type Result } from "../inference/inference.js";
import type { Calibration } from "../metrics/index.js";
import { loadedAddon } from "../native/load.js";
import { defaultsOf, type Values } from "../options.js";
import { PACKAGE_VERSION } from "../package.js";
import type { MEASURED } from "../quality/quality.js";
import type { Comparison, RunRecord, ShownImage } from "../results/comparison.js";
import { METHODS, type MethodName } from "../runs/methods.js";
import { datasetOptions, seenBy } from "../runs/notes.js";
import { mean } from "../statistics/spread.js";
import { aggregate, type MeasuredRun, unitOf } from "./aggregate.js";
import { timePredictions } from "./cost.js";
import { evaluateItems, keptBy, pooledCalibration } from "./evaluate.js";
import { type ImageLesions, imageLesions, summariseLesions } from "./lesions.js";
import { coverageOf } from "./predicted-dice.js";
import {
  commonUnits,
  croppedIn,
  describeBlind,
  ignoredIn,
  recordOf,
  ruleOf,
  type Scoring,
  scoredClasses,
} from "./records.js";
import { checkComparable, openKnown, type RunFacts, runFacts } from "./runs.js";
import { type Condition, type Selection, selectItems, tableOf } from "./selection.js";
import { shiftRows } from "./shift.js";
import { chooseShown, showImage } from "./shown.js";
import { alarmStreams } from "./stream.js";
import { SUMMARISE, type SummaryOptions } from "./summary-options.js";

/** What is compared, and how. */
export interface CompareOptions extends DeviceFlags, SummaryOptions, Values<typeof MEASURED> {
  /** Run folders, at least one. */
  runs: readonly string[];
  /** @default the folder that the first run was trained on */
  data?: string;
  split: string;
  /** Folder of results.json; nothing is written here. */
  out: string;
  title?: string;
  summary: Comparison["summary"];
  /** In mm. @default each volume's own; in pixels where it has none */
  spacing?: readonly number[];
  /** Whether lesions are counted one by one, over all images. @default false */
  lesions?: boolean;
  /** First heads to leave out, of Layer Ensembles. @default each run's own */
  skip?: number;
  /** @default as each run was tuned, else "mean" */
  fusion?: PredictionFusion;
  /** Foreground classes to score. @default all */
  scored?: readonly number[];
  selection: Selection;
  shift?: ShiftOptions;
  /** How the masks are stored. @default as each run records */
  labels?: LabelOptions;
  /** Whether images may be there that a run was trained on or chosen by. @default false */
  allowDuplicates?: boolean;
  /** Called with what a person should know of the measures. */
  onNote?: (note: string) => void;
  /** Called with a mask whose 255 may be the foreground though it does not count by what was said. */
  onUnclear?: (mask: string) => void;
  signal: AbortSignal;
  onProgress?: (what: string, done: number, total: number) => void;
}

/** The shifted set. */
export interface ShiftOptions {
  folder: string;
  /** @default "ood" if there is one, else "test", else all */
  split?: string;
  where: readonly Condition[];
  /** Which of the images in distribution to compare with. */
  reference: readonly Condition[];
  /** Classes that are annotated in both sets, of those scored. @default all scored */
  scored?: readonly number[];
  /** Share of the images in distribution to flag. */
  flag: number;
  /** How its masks are stored. @default as each run records */
  labels?: LabelOptions;
}

/** Images that cost is measured on. */
const TIMED_IMAGES = 4;

/**
 * Evaluates every run, aggregates over seeds, measures cost and shift, and gathers the pictures to show.
 * @throws ERR_LE_CHECKPOINT for a folder that is no run, ERR_LE_VALUE for runs that cannot be compared, ERR_LE_DATA where no
 * image matches, or `signal.reason`
 */
export async function compareRuns(options: CompareOptions): Promise<Comparison> {
  const facts = await Promise.all(options.runs.map(runFacts));
  facts.sort((a, b) => METHODS.indexOf(a.method) - METHODS.indexOf(b.method) || a.seed - b.seed);
  checkComparable(facts);
  const { notes } = facts[0] as RunFacts;
  const scored = scoredClasses(options.scored, notes.classNames);
  const shift = options.shift && (await shiftOf(options.shift, options.selection.group, scored, notes.classNames));
  const data = options.data ?? notes.data.folder;
  const { labels } = options;
  const inside = new Folder(data, options.split, options.selection, labels, options);
  const outside = shift && new Folder(shift.folder, shift.split, shift.selection, shift.labels, options);
  await inside.items(facts[0] as RunFacts);
  await outside?.items(facts[0] as RunFacts);

  const measured: Measured[] = [];
  const shifted: Measured[] = [];
  for (const [r, run] of facts.entries()) {
    const opened = await openKnown(run, options);
    try {
      const name = `${run.method}, seed ${run.seed} (${r + 1}/${facts.length})`;
      measured.push(await measureRun(opened, run, await inside.items(run), scored, name, options));
      if (shift && outside)
        shifted.push(
          await measureRun(opened, run, await outside.items(run), shift.scored, `${name}, shifted`, options),
        );
    } finally {
      await opened.model.dispose();
    }
  }
  const records = measured.map(({ record }) => record);
  const named = (runs: readonly Measured[], set: string) =>
    runs.map(({ units }, r) => ({ id: `the ${set} of ${facts[r]?.folder}`, units }));
  const units = commonUnits([...named(measured, "images"), ...named(shifted, "shifted images")]);
  const shown = await costAndPictures(facts, records, inside, options);
  const images = (records[0] as RunRecord).images;
  const { tau, resamples, seed } = { ...defaultsOf(SUMMARISE), ...options };
  const settings = {
    classNames: notes.classNames,
    scored,
    tau: tau === "auto" ? autoTau(records) : tau,
    summary: options.summary,
    bootstrap: { resamples, seed, unit: options.unit ?? unitOf(images) },
  };
  const comparison: Comparison = {
    format: 2,
    made: made(shown.device),
    title: options.title ?? `${path.basename(path.resolve(data))}, ${options.split}`,
    data: {
      ignored: ignoredIn(images),
      cropped: croppedMost(records),
      ...(inside.seen.size > 0 && { seen: inside.seen.size }),
      ...unlikeIn(records),
      ...unknownTo(facts),
      folder: data,
      split: options.split,
      images: images.length,
      groups: new Set(images.map(({ group, id }) => (group === null ? `image ${id}` : `group ${group}`))).size,
    },
    ...settings,
    spacing: options.spacing ? [...options.spacing] : units.length === "mm" ? null : shown.axes,
    units,
    lesionRule: { lesionOverlap: ruleOf(options).lesionOverlap, neighbours: ruleOf(options).neighbours },
    ...aggregate(measured, settings),
    runs: records,
    shown: shown.images,
  };
  if (!shift) return comparison;
  const reference = new Set((await inside.reference(facts[0] as RunFacts, shift.reference)).map(({ id }) => id));
  const known = records.map(
    (record): RunRecord => ({
      ...record,
      images: record.images
        .filter(({ id }) => reference.has(id))
        .map((image) => ({
          ...image,
          classDice: shift.scored.map((c) => image.classDice[scored.indexOf(c)] as number),
        })),
    }),
  );
  const others = shifted.map(({ record }, r) => ({ ...record, msPerImage: (records[r] as RunRecord).msPerImage }));
  return {
    ...comparison,
    shift: {
      folder: shift.folder,
      split: shift.split,
      images: (others[0] as RunRecord).images.length,
      imagesIn: reference.size,
      ignored: ignoredIn((others[0] as RunRecord).images),
      cropped: croppedMost(others),
      ...(outside && outside.seen.size > 0 && { seen: outside.seen.size }),
      ...unlikeIn(others),
      scored: shift.scored,
      runs: others,
      rows: shiftRows(known, others, { ...settings, flag: shift.flag }),
      streams: alarmStreams(known, others, { summary: options.summary, seed }),
    },
  };
}

/** Volumes that are unlike the training's of some run. */
function unlikeIn(records: readonly RunRecord[]): { unlikeTraining?: number } {
  const ids = records.flatMap(({ images }) => images.filter((image) => image.unlikeTraining).map(({ id }) => id));
  return ids.length > 0 ? { unlikeTraining: new Set(ids).size } : {};
}

/** What the run that sees least of its images does not see. */
function croppedMost(records: readonly RunRecord[]): Cropped {
  return records
    .map(({ images }) => croppedIn(images))
    .reduce((most, one) => ((one.mean ?? 0) * one.images > (most.mean ?? 0) * most.images ? one : most));
}

/** The images of a data folder that count, for any run; read once for runs that prepare images in the same way. */
class Folder {
  readonly #known = new Map<string, Promise<Item[]>>();
  #ids: string | undefined;
  /** Ids of those that some run was trained on or chosen by, once they have been read. */
  readonly seen = new Set<string>();

  constructor(
    readonly folder: string,
    readonly split: string,
    readonly selection: Selection,
    readonly labels: LabelOptions | undefined,
    readonly options: Pick<CompareOptions, "allowDuplicates" | "onUnclear">,
  ) {}

  /** @throws ERR_LE_DATA where the run has other images in its split than the run before */
  async items(run: RunFacts): Promise<Item[]> {
    const items = await this.#read(run);
    const ids = JSON.stringify(items.map(({ id }) => id));
    this.#ids ??= ids;
    if (ids !== this.#ids)
      throw new LayerEnsemblesError(
        "ERR_LE_DATA",
        `Expected the same images of split "${this.split}" for all runs but received others for ${run.folder}: its split was drawn at random when it was trained. Give a folder with a split.csv.`,
      );
    return items;
  }

  /** Those of the items that also fulfil other conditions. */
  async reference(run: RunFacts, where: readonly Condition[]): Promise<Item[]> {
    return selectItems(await this.items(run), this.folder, { where });
  }

  #read({ notes }: RunFacts): Promise<Item[]> {
    const { drawn, contents, trainSplit, valSplit } = notes.data;
    const key = JSON.stringify([datasetOptions(notes), drawn, contents, trainSplit, valSplit]);
    const there = this.#known.get(key);
    if (there) return there;
    const { labels } = this;
    const { allowDuplicates = false, onUnclear } = this.options;
    const items = folderItems(this.folder, this.split, notes, {
      masks: "required",
      ...(labels && { labels }),
      allowDuplicates,
      onSeen: (id) => this.seen.add(id),
      ...(onUnclear && { onUnclear }),
    }).then((all) => selectItems(all, this.folder, this.selection));
    this.#known.set(key, items);
    return items;
  }
}

/** The runs of which it is not known what they have seen. */
function unknownTo(runs: readonly RunFacts[]): Pick<Comparison["data"], "unknown"> {
  const unknown = runs.flatMap(({ folder, notes }) => {
    const splits = seenBy(notes).unknown;
    return splits.length > 0 ? [{ run: folder, splits }] : [];
  });
  return unknown.length > 0 ? { unknown } : {};
}

async function shiftOf(
  shift: ShiftOptions,
  group: string | undefined,
  scored: readonly number[],
  names: readonly string[],
) {
  const classes = scoredClasses(shift.scored ?? scored, names);
  const missing = classes.find((c) => !scored.includes(c));
  if (missing !== undefined)
    throw new LayerEnsemblesError(
      "ERR_LE_VALUE",
      `Expected classes among those scored, ${scored.join(", ")}, for the shifted images but received ${missing}.`,
    );
  const { columns, splits } = await tableOf(shift.folder);
  const split = shift.split ?? ["ood", "test"].find((name) => splits.includes(name)) ?? "all";
  // Another folder may name its patients in the usual column, or not at all.
  const own = group !== undefined && columns.includes(group) ? { group } : {};
  return { ...shift, split, scored: classes, selection: { where: shift.where, ...own } };
}

/** A run that was evaluated, and the units of its lengths and sizes. */
interface Measured extends MeasuredRun {
  units: Units;
}

async function measureRun(
  { model, notes }: OpenRun,
  run: RunFacts,
  items: readonly Item[],
  scored: readonly number[],
  name: string,
  options: CompareOptions,
): Promise<Measured> {
  const { method, seed, skipCurve } = run;
  const { fusion, spacing, signal, onProgress } = options;
  const lesions: ImageLesions[] | undefined = options.lesions ? [] : undefined;
  const skip = skipOf(method, options);
  const scoring: Scoring = {
    classes: model.classes,
    scored,
    ignoreIndex: notes.ignoreIndex,
    ...(spacing && { spacing }),
    ...ruleOf(options),
  };
  const { scores, heads, units } = await evaluateItems(model, items, {
    ...{ notes, scoring },
    predict: {
      ...{ signal, ...(skip !== undefined && { skip }), ...(fusion && { fusion }) },
      ...(lesions && { labels: true }),
    },
    onResult: (result) => void lesions?.push(imageLesions(result, scoring, method === "le")),
    onProgress: (done) => onProgress?.(name, done, items.length),
  });
  const blind = describeBlind(scores);
  if (blind) options.onNote?.(blind);
  const { fit } = model.predictedDice;
  const coverage = fit && coverageOf(scores, fit, { classNames: notes.classNames, scored });
  const calibration = scores.map((score): Calibration => score.calibration);
  return {
    ...{ calibration, units },
    record: {
      run: path.relative(options.out, run.folder) || ".",
      method,
      seed,
      heads,
      ...keptBy(model, heads, { ...(skip !== undefined && { skip }), ...(fusion && { fusion }) }),
      parameters: model.parameters,
      msPerImage: Number.NaN,
      calibration: pooledCalibration(calibration),
      images: scores.map(recordOf),
      ...(coverage && { predictedDice: coverage }),
      ...(lesions && { lesions: summariseLesions(lesions, { classNames: notes.classNames, scored }) }),
      ...(skipCurve && { skipCurve }),
    },
  };
}

/** Heads of the other methods have no order, so that there are no first ones. */
function skipOf(method: MethodName, { skip }: CompareOptions): number | undefined {
  return method === "le" ? skip : undefined;
}

/** With the first run of every method loaded: times them in turn, which completes the records, and makes the pictures. */
async function costAndPictures(
  facts: readonly RunFacts[],
  records: RunRecord[],
  folder: Folder,
  options: CompareOptions,
) {
  const first = METHODS.flatMap((method) => facts.find((run) => run.method === method) ?? []);
  const opened: OpenRun[] = [];
  try {
    for (const run of first) opened.push(await openKnown(run, options));
    const timed = await Promise.all(
      opened.map(async ({ model }, i) => {
        const run = first[i] as RunFacts;
        const items = (await folder.items(run)).slice(0, TIMED_IMAGES);
        const images = await Promise.all(items.map(async (item) => (await item.load()).input));
        const skip = skipOf(run.method, options);
        return { model, images, ...(skip !== undefined && { skip }) };
      }),
    );
    options.onProgress?.("measuring cost", 0, 1);
    const times = await timePredictions(timed, options.signal);
    for (const record of records)
      record.msPerImage = times[first.findIndex(({ method }) => method === record.method)] as number;
    const choices = chooseShown(records);
    const results = new Map<string, Map<MethodName, Result>>(choices.map(({ id }) => [id, new Map()]));
    for (const [i, { model }] of opened.entries()) {
      const run = first[i] as RunFacts;
      const items = (await folder.items(run)).filter(({ id }) => results.has(id));
      const skip = skipOf(run.method, options);
      const predict = {
        labels: run.method === "le",
        signal: options.signal,
        ...(options.fusion && { fusion: options.fusion }),
      };
      for await (const result of infer(model, items, { ...predict, ...(skip !== undefined && { skip }) }))
        results.get(result.id)?.set(run.method, result);
    }
    const images = choices.map(
      (choice): ShownImage => showImage(choice, results.get(choice.id) as Map<MethodName, Result>),
    );
    const spatial = timed[0]?.images[0]?.shape.slice(1) ?? [];
    return { images, axes: spatial.map(() => 1), device: (opened[0] as OpenRun).model };
  } finally {
    await Promise.all(opened.map(({ model }) => model.dispose()));
  }
}

/** The Dice that a fifth of the images does not reach, by each image's mean over all runs. */
function autoTau(records: readonly RunRecord[]): number {
  const byId = new Map<string, number[]>();
  for (const { images } of records)
    for (const { id, dice } of images) if (dice !== null) byId.set(id, [...(byId.get(id) ?? []), dice]);
  const ascending = [...byId.values()].map((values) => mean(values)).sort((a, b) => a - b);
  return ascending[Math.floor(ascending.length / 5)] as number;
}

function made({ device, precision }: Pick<OpenRun["model"], "device" | "precision">): Record<string, string> {
  const info = loadedAddon()?.addon.info() as { libtorch?: string } | undefined;
  const processors = cpus();
  return {
    "layer-ensembles": PACKAGE_VERSION,
    libtorch: String(info?.libtorch ?? "unknown"),
    node: process.version,
    date: new Date().toISOString(),
    cpu: `${processors.length} × ${processors[0]?.model.trim() ?? "unknown"}`,
    device,
    precision,
  };
}
