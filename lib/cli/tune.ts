import { rm } from "node:fs/promises";
import path from "node:path";
import type { Command } from "commander";
import type { NdArray } from "../arrays.js";
import { type Cropped, croppedOf, croppedShare } from "../data/cropped.js";
import type { Dataset } from "../data/dataset.js";
import { writeAtomic } from "../data/files.js";
import type { LabelOptions } from "../data/labels.js";
import { describeUnknown, type SeenImage, SeenImages } from "../data/leaks.js";
import { nameOf } from "../data/names.js";
import type { Model } from "../ensemble/model.js";
import { LayerEnsemblesError } from "../errors.js";
import type { LearnedShift } from "../inference/shift.js";
import { type Defaults, defaultsOf, option, toldOf, type Values } from "../options.js";
import { fixed, grouped } from "../results/format.js";
import { csvOf } from "../results/table.js";
import { formatTable } from "../results/text.js";
import { dataOf, type RunNotes } from "../runs/notes.js";
import { RUN_FILES } from "../runs/run.js";
import type { RunChoice } from "../runs/tuning.js";
import type { DiceIntervals, PredictedDiceFit } from "../scores/predicted-dice.js";
import { SCORES, type ScoreName } from "../scores/scores.js";
import { casesNeeded } from "../tuning/predicted-dice.js";
import type { SkipPoint } from "../tuning/skip.js";
import { FITS, GATE, TUNE, type TuneImage, type TuneOptions, type Tuning, type TuningStep } from "../tuning/tune.js";
import { MAPS } from "../uncertainty/index.js";
import { givenOf, type Parser, parserOf, RUN, runOf, text, withOptions } from "./arguments.js";
import { newCommand, runSession, type Session, toJson, UsageError } from "./command.js";
import { noteCropped } from "./cropped-note.js";
import { DEVICE } from "./device-options.js";
import { labelSpecs, labelsOf, noteIgnored, noteUnclear } from "./label-options.js";
import { counter, StatusLine } from "./progress.js";
import { describeLearned, learn, SHIFT_OPTIONS, tapsNamed } from "./tune-shift.js";

/** In the order of its help and of docs/cli.md. */
const OPTIONS = {
  run: RUN,
  data: option.string({ text: "data folder", otherwise: "the one trained on", arg: "dir" }),
  ...toldOf(TUNE),
  ...GATE,
  gate: option.boolean({ default: true, text: "choose no gate" }),
  ...SHIFT_OPTIONS,
  allowDuplicates: option.boolean({
    text: "tune though the training saw some of the images, as where train allowed it",
  }),
  dryRun: option.boolean({ text: "only print" }),
  ...labelSpecs({ labels: "as the run's", ignore: "the run's" }),
  ...DEVICE,
};

interface Flags extends Values<typeof OPTIONS> {
  json?: boolean;
}

const NO_ORDER =
  "The heads of this run have no order in depth: which ones are the first T, and AULA with them, is an accident.";

const NO_PROMISE =
  "The gate's threshold is of these images and promises nothing of others: layer-ensembles certify RUN finds one that does.";

const MEASURED_AT = "network's input size, padding left out";
const MEASURED_BY_TILES = "image's own size, as it was prepared, by tiles";

/** `tune`: which heads, which fits and which threshold, chosen on validation and written into the run. */
export function tuneCommand(): Command {
  const command = newCommand(
    "tune",
    "choose the skipped heads, fits and the gate's threshold on a run's validation images",
    "layer-ensembles tune runs/busi --dry-run\n" +
      "layer-ensembles tune runs/busi --rule nll --fit temperature --tau 0.8",
    "Measures on the validation split that the run records; no file of the test split is opened. Quality is measured at the network's " +
      "input size against masks of that size, without padding. Everything is chosen anew from the raw heads: tuning twice " +
      "gives the same. Writes the choice into run.json, and tuning/skip-curve.csv beside it.",
  ).argument("[run]", "run folder", text);
  return withOptions(command, OPTIONS, { score: scoreNamed, taps: tapsNamed }).action(
    (run: string | undefined, flags: Flags) =>
      runSession(flags.json ?? false, (session) => tuneRun(runOf(run, flags), flags, session)),
  );
}

/** The name of a map alone is its sum. */
const scoreNamed: Parser<ScoreName> = (value) =>
  parserOf(TUNE.score)(Object.hasOwn(MAPS, value) ? `${value}.sum` : value);

async function tuneRun(folder: string, flags: Flags, session: Session): Promise<void> {
  if (flags.flag !== undefined && flags.tau !== undefined) throw new UsageError("expected --flag or --tau, not both");
  const gateFlag = [flags.flag !== undefined && "--flag", flags.tau !== undefined && "--tau"];
  const named = gateFlag.find((name) => name);
  if (!flags.gate && named) throw new UsageError(`expected --no-gate or ${named}, not both`);
  const { checkOutput, checkPlaces } = await import("./output.js");
  const { openRun } = await import("../inference/inference.js");
  const { tune } = await import("../tuning/tune.js");
  const { writeChoice } = await import("../runs/tuning.js");
  const { fitPredictedDice } = await import("../tuning/predicted-dice.js");
  if (!flags.dryRun) {
    checkOutput(folder, "the run");
    await checkPlaces(folder, WRITTEN);
  }
  // What an earlier tuning learned may be of other weights.
  const { model, notes } = await openRun(folder, flags, { learned: false });
  const line = new StatusLine(process.stderr);
  try {
    const data = flags.data ?? notes.data.folder;
    const { split, dataset, training } = await validationImages(data, notes, labelsOf(flags));
    const { ignoreIndex } = dataset;
    const allow = flags.allowDuplicates ?? notes.options.allowDuplicates === true;
    const trained = trainedOn(notes);
    if (trained.unknown.length > 0) session.note(`warning: ${describeUnknown(folder, trained.unknown)}`);
    const check = (id: string, content: string | undefined) => allow || trained.check(id, content, split, data);
    const source = new ValidationHeads(model, dataset, check, line, session.signal);
    const heads = model.headNames;
    const ordered = model.method === "le";
    const draws = model.method === "mcd";
    if (draws && flags.subsets)
      throw new UsageError("--subsets needs heads that differ; passes with dropout are draws");
    const options = {
      ...defaultsOf(TUNE),
      ...(heads.length === 1 && { fit: ["temperature"] as const }),
      ...(ordered && heads.length > 1 && (flags.fusion ?? "mean") === "mean" && { fit: ["rising"] as const }),
      ...givenOf(flags, toldOf(TUNE)),
      ...{ choose: !draws, ignoreIndex, ordered },
      ...(flags.gate && { gate: gateOptions(flags) }),
    };
    const tuning = await tune(() => source.read(), dataset.length, options);
    const predictedDice = tuning.cases.length > 0 ? fitPredictedDice(tuning.cases) : null;
    line.clear();
    const learned = await learn(flags, { model, training, validation: dataset, session, line });
    line.clear();
    const { ignored } = dataset;
    noteIgnored(session, ignored, dataset.length, dataset.labels.ignore);
    noteUnclear(session, dataset.unclearMask);
    noteCropped(session, source.cropped, dataset.length, notes.preprocessing.size);
    const choice = choiceOf(tuning, options, heads, learned, {
      ...{ data: path.resolve(data), split },
      contents: source.contents,
      measuredAt: model.tiles ? MEASURED_BY_TILES : MEASURED_AT,
    });
    const written: string[] = [];
    if (!flags.dryRun) {
      const { withFolder } = await import("../native/folder-lock.js");
      await withFolder(folder, async () => {
        // What an earlier choice, or one that was killed, has left is not this one's.
        for (const name of TUNING_FILES) await rm(path.join(folder, name), { force: true });
        if (tuning.curve.length > 0) {
          const chosen = choice.prediction.heads === undefined ? choice.skip : null;
          await writeAtomic(path.join(folder, TUNING_FILES[0]), curveCsv(tuning.curve, chosen));
          await drawSkipCurve(folder, tuning.curve, chosen);
          written.push(...TUNING_FILES);
        }
        // Last, as it is what counts.
        const fits = { ...(learned && { shift: learned }), ...(predictedDice && { predictedDice }) };
        written.unshift(...(await writeChoice(folder, choice, fits)));
      });
    }
    await session.print(
      session.json
        ? toJson(
            {
              run: path.resolve(folder),
              written,
              ignored,
              cropped: source.cropped,
              ...choice,
              tuning: { ...choice.tuning, contents: undefined },
              predictedDice,
            },
            2,
          )
        : describe(tuning, choice, options, heads) +
            (predictedDice ? `\n${describeFit(predictedDice, notes.classNames)}` : "") +
            (learned ? `\n${describeLearned(learned, choice.gate !== undefined)}` : "") +
            (ordered || tuning.curve.length === 0 ? "" : `\n${NO_ORDER}\n`) +
            (choice.gate ? `\n${NO_PROMISE.replace("RUN", folder)}\n` : "") +
            (flags.dryRun ? "\nNothing is written (--dry-run).\n" : `\nWritten to ${folder}: ${written.join(", ")}\n`),
    );
  } finally {
    line.clear();
    await model.dispose();
  }
}

/**
 * The images of the run's validation split, and those of training, which are checked beside them. No file of another split is
 * opened, but for the masks where neither the run nor an option says what they mean.
 */
async function validationImages(
  folder: string,
  notes: RunNotes,
  labels: LabelOptions,
): Promise<{ split: string; dataset: Dataset; training: Dataset | null }> {
  const { openFolder } = await import("../inference/inference.js");
  const { trainSplit, valSplit, drawn } = dataOf(notes, folder);
  if (valSplit === null || valSplit === "test") {
    const received = valSplit === null ? "a run that was trained without one" : 'one that validates on "test"';
    throw new LayerEnsemblesError(
      "ERR_LE_DATA",
      `Expected a run with a validation split for tune but received ${received}: what is chosen must not see the test images.`,
    );
  }
  const splitOf = new Map(
    Object.entries(drawn ?? {}).flatMap(([name, ids]) => ids.map((id) => [nameOf(id), name] as const)),
  );
  const at = ({ id, split }: { id: string; split?: string }) => (drawn ? splitOf.get(id) : split);
  const wanted = [trainSplit, valSplit].map(nameOf);
  const dataset = await openFolder(folder, notes, labels, {
    only: (info) => wanted.includes(nameOf(at(info) ?? "")),
  });
  const { chooseSplit } = await import("../runs/notes.js");
  const chosen = (split: string) => chooseSplit(dataset, split, dataOf(notes, folder));
  const hasTraining = dataset.samples.some((info) => nameOf(at(info) ?? "") === nameOf(trainSplit));
  return { split: valSplit, dataset: chosen(valSplit), training: hasTraining ? chosen(trainSplit) : null };
}

/** The images that the run was trained on, as far as it records them. */
function trainedOn({ data }: RunNotes): SeenImages {
  return new SeenImages([[data.trainSplit, data.contents?.training]]);
}

/** What `tune` writes beside run.json, below the run. */
const TUNING_FILES = ["tuning/skip-curve.csv", "tuning/figure3.svg", "tuning/figure3.png"] as const;

/** All of it, but for run.json. */
const WRITTEN = [...TUNING_FILES, RUN_FILES.predictedDice];

/** Logits that are kept in memory from one reading to the next, in bytes; those of further images are worked out again. */
const CACHE = 512 * 2 ** 20;

/** The logits of all heads on each image, as often as asked. */
class ValidationHeads {
  readonly #cache: TuneImage[] = [];
  #free = CACHE;
  #readings = 0;
  readonly #contents = new Map<string, string>();
  readonly #cropped = new Map<string, number>();

  constructor(
    readonly model: Model,
    readonly dataset: Dataset,
    /** Refuses an image that the training saw. */
    readonly check: (id: string, content: string | undefined) => void,
    readonly line: StatusLine,
    readonly signal: AbortSignal,
  ) {}

  /** What the network does not see of the images that have been read. */
  get cropped(): Cropped {
    return croppedOf(this.#cropped.values());
  }

  /** Those of the images that have been read. */
  get contents(): SeenImage[] {
    return [...this.#contents];
  }

  async *read(): AsyncGenerator<TuneImage> {
    const { length } = this.dataset;
    const tell = counter(this.line, this.#readings++ === 0 ? "measuring" : "measuring again", length);
    for (let i = 0; i < length; i++) {
      this.signal.throwIfAborted();
      yield await this.#image(i);
      tell(i + 1);
    }
  }

  async #image(i: number): Promise<TuneImage> {
    const image = this.#cache[i] ?? (await this.#measure(i));
    const bytes = image.heads.reduce((sum, head) => sum + head.data.byteLength, image.truth.data.byteLength);
    if (i === this.#cache.length && bytes <= this.#free) {
      this.#cache.push(image);
      this.#free -= bytes;
    }
    return image;
  }

  async #measure(i: number): Promise<TuneImage> {
    const { preprocessMask } = await import("../data/preprocess.js");
    const { id, group, content, image, mask, placement } = await this.dataset.load(i);
    this.check(id, content);
    if (content !== undefined) this.#contents.set(id, content);
    this.#cropped.set(id, croppedShare(placement));
    const { ignoreIndex } = this.dataset;
    if (!mask) throw new Error("unreachable: this dataset requires masks");
    const stored = new Uint8Array(placement.original.reduce((product, side) => product * side, 1)).fill(1);
    const inside = preprocessMask({ data: stored, shape: placement.original }, placement).data;
    const truth = { data: mask.data.map((label, at) => (inside[at] ? label : ignoreIndex)), shape: mask.shape };
    const logits = await this.model.forward(image, { signal: this.signal });
    const heads = [...logits.values()].map(({ data, shape }): NdArray => ({ data, shape: shape.slice(1) }));
    return { heads, truth, ...(group !== undefined && { group }) };
  }
}

function gateOptions({ flag, tau }: Flags): NonNullable<TuneOptions["gate"]> {
  return tau === undefined ? { flag: flag ?? GATE.flag.default } : { tau };
}

/** What is written into the run. Heads that are the last ones are said by `skip` alone. */
function choiceOf(
  tuning: Tuning,
  { rule, margin, fusion }: Defaults<typeof TUNE>,
  heads: readonly string[],
  learned: LearnedShift | undefined,
  facts: Pick<RunChoice["tuning"], "data" | "split" | "contents" | "measuredAt">,
): RunChoice {
  const { kept, weights, temperatures, temperature, gate, score } = tuning;
  const name = (k: number) => heads[k] as string;
  const skipped = heads.length - kept.length;
  const suffix = kept[0] === skipped;
  return {
    skip: suffix ? skipped : 0,
    prediction: {
      ...(fusion !== "mean" && { fusion }),
      ...(!suffix && { heads: kept.map(name) }),
      ...(weights && { weights }),
      ...(temperatures && { temperatures }),
      ...(temperature !== undefined && { temperature }),
    },
    ...(gate && {
      gate: {
        ...{ score: gate.score, threshold: gate.threshold, rule: gate.rule },
        ...(learned && { distance: learned.threshold }),
      },
    }),
    tuning: {
      date: new Date().toISOString(),
      ...facts,
      images: tuning.images,
      pixels: tuning.pixels,
      rule,
      margin,
      score,
      thresholds: { [score.name]: tuning.thresholds },
      curve: tuning.curve,
      ...(tuning.removals.length > 0 && {
        removals: tuning.removals.map(({ removed, kept, ...point }) => ({
          removed: removed === null ? null : name(removed),
          heads: kept.map(name),
          ...point,
        })),
      }),
      steps: tuning.steps,
      ...(gate && { flagged: gate.flagged, unseen: gate.unseen }),
      ...(learned && { shift: { ...learned.fit.images, taps: learned.fit.chosen, flagged: learned.flagged } }),
    },
  };
}

/**
 * Draws Figure 3, nll and Dice against T, into the run's tuning/ folder.
 * @param chosen T, or null where another subset was chosen
 */
async function drawSkipCurve(folder: string, points: readonly SkipPoint[], chosen: number | null): Promise<void> {
  const { rasterise, skipCurveFigure } = await import("../report/figures/index.js");
  const { svg } = await skipCurveFigure(points, chosen);
  await writeAtomic(path.join(folder, TUNING_FILES[1]), svg);
  await writeAtomic(path.join(folder, TUNING_FILES[2]), await rasterise(svg));
}

function curveCsv(curve: Tuning["curve"], chosen: number | null): string {
  const rows = curve.map((point) => [
    ...[point.skip, point.nll, point.nllSd, point.dice, point.diceSd, point.aurc, point.spearman],
    String(point.skip === chosen),
  ]);
  const header = ["skip", "nll", "nll_sd", "dice", "dice_sd", "aurc", "spearman", "chosen"];
  return csvOf(header, rows);
}

function describe(
  tuning: Tuning,
  { skip, prediction }: RunChoice,
  options: TuneOptions,
  heads: readonly string[],
): string {
  const { curve, removals, kept, steps, gate, images, pixels } = tuning;
  const parts: string[] = [];
  const subset = prediction.heads !== undefined;
  if (curve.length > 0) {
    const rows = curve.map((point) => [
      `${point.skip === skip && !subset ? "*" : ""} ${point.skip}`,
      String(heads.length - point.skip),
      ...qualityCells(point),
      fixed(point.aurc, 4),
      fixed(point.spearman),
    ]);
    parts.push(
      formatTable(
        [{ heading: "T" }, { heading: "heads" }, ...QUALITY, { heading: "AURC" }, { heading: "Spearman" }],
        rows,
      ),
      verdict(curve, options, tuning.score.name),
    );
  } else if (options.choose === false) parts.push("Passes with dropout are draws of one network: all are kept.\n");
  else parts.push(`${heads.length} head${heads.length > 1 ? "s" : ""}: T is chosen among three or more.\n`);
  if (removals.length > 0) parts.push(describeRemovals(tuning, heads));
  parts.push(describeScores(tuning.score));
  if (subset) parts.push(`Chosen heads: ${kept.map((k) => heads[k]).join(", ")}\n`);
  const { temperatures, weights, temperature } = tuning;
  if (temperatures || weights) {
    const rows = kept.map((k, j) => [heads[k] as string, fixed(temperatures?.[j]), fixed(weights?.[j])]);
    parts.push(
      formatTable([{ heading: "head", align: "left" }, { heading: "temperature" }, { heading: "weight" }], rows),
    );
  }
  if (temperature !== undefined) parts.push(`Overall temperature: ${fixed(temperature)}\n`);
  if (temperatures || weights || temperature !== undefined) {
    const few = pixels.fitted < pixels.counted;
    parts.push(`Fitted to ${few ? `${grouped(pixels.fitted)} of ` : ""}${grouped(pixels.counted)} pixels.\n`);
  }
  const named = (step: TuningStep["step"]) => (FITS.some((fit) => fit === step) ? `+ ${step}` : step);
  parts.push(
    formatTable(
      [{ heading: `${images} validation images`, align: "left" }, ...QUALITY],
      steps.map((step) => [named(step.step), ...qualityCells(step)]),
    ),
  );
  if (gate) {
    const unseen =
      gate.unseen === null || Number.isNaN(gate.unseen)
        ? ""
        : `, ${fixed(100 * gate.unseen, 1)} % of the failures pass`;
    const useless = gate.unseen !== null && gate.flagged === 1;
    parts.push(
      `Gate: flag an image where ${SCORES[gate.score].surer === "low" ? "-" : ""}${gate.score} is below ` +
        `${Number(gate.threshold.toPrecision(6))} (${fixed(100 * gate.flagged, 1)} % of the images${unseen})\n` +
        (useless
          ? "That is every image: the surest ones have failed too. Try another --score or --tau, or --flag.\n"
          : "") +
        (Number.isNaN(gate.unseen) ? "No validation image has failed: --tau says little here; --flag would.\n" : ""),
    );
  }
  return parts.join("\n");
}

const QUALITY = [{ heading: "nll" }, { heading: "± sd" }, { heading: "Dice" }, { heading: "± sd" }];

function qualityCells({ nll, nllSd, dice, diceSd }: Pick<TuningStep, "nll" | "nllSd" | "dice" | "diceSd">): string[] {
  return [fixed(nll, 4), fixed(nllSd, 4), fixed(dice, 4), fixed(diceSd, 4)];
}

/** Which T each measure prefers, and which the rule took: they often differ. */
function verdict(curve: readonly SkipPoint[], { rule = "aurc", margin = 0 }: TuneOptions, score: ScoreName): string {
  const best = (of: (point: SkipPoint) => number) =>
    curve.reduce((chosen, point) => (of(point) > of(chosen) ? point : chosen)).skip;
  const preferred = {
    nll: best((point) => -point.nll),
    Dice: best((point) => point.dice),
    AURC: best((point) => -point.aurc),
  };
  const differ = new Set(Object.values(preferred)).size > 1;
  const words = Object.entries(preferred).map(([name, skip]) => `${name} T = ${skip}`);
  return (
    `* by rule ${rule}${rule === "dice" ? "" : `, Dice within ${margin} of the best`}; AURC and Spearman of ${score}. ` +
    `Best by itself: ${words.join(", ")}.${differ ? " They differ: take the rule of what matters to you." : ""}\n`
  );
}

/** The best scores, and those that are as good. */
function describeScores({ name, why, ranking }: Tuning["score"]): string {
  if (ranking.length === 1) return `Score: ${name}, ${why}.\n`;
  const shown = ranking.filter((one, i) => i < SHOWN_SCORES || one.name === name || one.above <= one.se);
  const rows = shown.map((one) => [
    `${one.name === name ? "*" : " "} ${one.name}`,
    fixed(one.aurc, 4),
    ...(one.above === 0 ? ["", ""] : [fixed(one.above, 4), fixed(one.se, 4)]),
  ]);
  const columns = [
    { heading: "  score", align: "left" as const },
    { heading: "AURC" },
    { heading: "above the least" },
    { heading: "± se" },
  ];
  const left = ranking.length - shown.length;
  return `${formatTable(columns, rows)}${left > 0 ? `and ${left} others. ` : ""}Score: ${name}, ${why}.\n`;
}

const SHOWN_SCORES = 6;

/** How well the Dice of a mask is predicted, class by class. */
function describeFit({ perClass }: PredictedDiceFit, classNames: readonly string[]): string {
  return Object.entries(perClass)
    .map(([c, { by, error, intervals }]) => {
      const name = classNames[Number(c)] ?? c;
      const features =
        error?.features == null
          ? ""
          : `; by all features ${fixed(error.features)}${by === "features" ? "" : ", not better by a standard error"}`;
      const from = by === "features" ? "all features" : "soft Dice confidence alone";
      const said = error ? `, off by ${fixed(error.baseline)} on average by soft Dice confidence${features}` : "";
      return `Predicted Dice of ${name}: from ${from}${said}. ${boundOf(intervals)}\n`;
    })
    .join("");
}

function boundOf(intervals: DiceIntervals | null): string {
  if (!intervals) return "No bound.";
  const { alpha, bands } = intervals;
  return bands
    .map(({ cases, lower, upTo }) => {
      const of = upTo === null ? "" : ` of volume up to ${Number(upTo.toPrecision(2))}`;
      if (lower === null) return `No bound${of}: it needs ${casesNeeded(alpha)} images, and there are ${cases}.`;
      return `Dice is at least that minus ${fixed(lower)} in ${fixed(100 * (1 - alpha), 0)} % of ${cases} images${of}, each left out of the fit.`;
    })
    .join(" ");
}

function describeRemovals({ removals, kept }: Tuning, heads: readonly string[]): string {
  const rows = removals.map((point) => [
    `${point.kept.join() === kept.join() ? "*" : ""} ${point.kept.length}`,
    point.removed === null ? "–" : (heads[point.removed] as string),
    ...qualityCells(point),
    fixed(point.aurc, 4),
    fixed(point.spearman),
  ]);
  const columns = [{ heading: "heads" }, { heading: "removed", align: "left" as const }, ...QUALITY];
  return formatTable([...columns, { heading: "AURC" }, { heading: "Spearman" }], rows);
}
