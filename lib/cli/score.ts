import path from "node:path";
import { type Command, Option } from "commander";
import type { NdArray, NumericArray } from "../arrays.js";
import { writeAtomic } from "../data/files.js";
import {
  addIgnored,
  applyLabels,
  checkMasks,
  countLabels,
  decideLabels,
  type Ignored,
  ignoredLabel,
  type LabelCounts,
  type LabelRule,
  unclearMask,
} from "../data/labels.js";
import { checkWhole } from "../data/output-list.js";
import { LayerEnsemblesError } from "../errors.js";
import { type Units, unitsOf } from "../grid/index.js";
import { type HeadsScore, QUALITY_NAMES, scoreHeads } from "../metrics/index.js";
import { option, type Values } from "../options.js";
import { MEASURED } from "../quality/quality.js";
import { SCORE } from "../quality/score.js";
import type { LesionSummary } from "../results/comparison.js";
import { lookOf } from "../results/measures.js";
import { type Table, toCsv, toText } from "../results/table.js";
import {
  asConfidence,
  IMAGE_SCORE_NAMES,
  rankingScores,
  recordedRank,
  recordScores,
  type ScoreRecord,
} from "../scores/scores.js";
import { type Spread, spread } from "../statistics/spread.js";
import { type ImageLesions, type LesionRecord, lesionsOf, summariseLesions } from "../study/lesions.js";
import { commonUnits, describeBlind, foreground, ruleOf } from "../study/records.js";
import { type Correlation, correlate } from "../study/summary.js";
import { describeLesions, imageColumn, meansTable, ranksTable, TOLD } from "../study/tables.js";
import { givenOf, withOptions } from "./arguments.js";
import { newCommand, runSession, type Session, toJson } from "./command.js";
import { ignoredLabelOf, labelSpecs, labelsOf, noteIgnored, noteUnclear } from "./label-options.js";
import { counter, StatusLine } from "./progress.js";
import { PLACE_ARRAYS, spacingInFile } from "./score-place.js";

const { trust, skip, fusion, spacing } = SCORE;

const OPTIONS = {
  probabilities: option.boolean({ text: "the heads are probabilities, not logits" }),
  ...{ trust, skip, fusion },
  spacing: option.with(spacing, { text: spacing.text, otherwise: "as the files say; in pixels where they do not" }),
  ...MEASURED,
  lesions: option.boolean({
    text: "also lesion by lesion: each part with its scores (in JSON), and what is found and false per class",
  }),
  csv: option.string({ text: "write the scores as a table to this file", arg: "file" }),
  ...labelSpecs({ labels: "auto", ignore: "255, where it is no class" }),
};

interface Flags extends Values<typeof OPTIONS> {
  ignoreIndex?: number | null;
  json?: boolean;
}

/** What is printed of one file. */
interface FileScore extends ScoreRecord {
  file: string;
  heads: number;
  classes: number;
  shape: number[];
  /** Pixels of the truth that do not count; null without one. */
  ignored: number | null;
  staple: Omit<HeadsScore["staple"], "probabilities">;
  /** Of neighbouring pixels along each axis, in mm; null where nobody says. */
  spacing: readonly number[] | null;
  units: Units;
  quality?: HeadsScore["quality"];
  /** Predicted parts and those that were missed, where they were asked for. */
  lesions?: LesionRecord[];
  calibration?: HeadsScore["calibration"];
}

/** `score`: all metrics of heads that are in NumPy files, from whatever made them. */
export function scoreCommand(): Command {
  const command = newCommand(
    "score",
    "measure agreement, uncertainty and, with a truth, quality and calibration of heads in .npz files",
    "layer-ensembles score case1.npz case2.npz --skip 3 --spacing 0.8,0.8 --csv scores.csv",
    "A file has the array heads (K×C×H×W or K×C×D×H×W: logits of K heads in depth order, C classes) and may have the array " +
      "truth (H×W or D×H×W: whole numbers of any type), and spacing (mm between neighbours along each axis of it) or, of volumes, " +
      "affine and truth_affine (4×4, from voxels x, y, z to mm; x is along the last axis). Needs no libtorch.",
  )
    .argument("<files...>", ".npz files, or .npy files with the heads alone")
    .addOption(new Option("--ignore-index <label>", "the same as --ignore").argParser(ignoredLabelOf).hideHelp());
  return withOptions(command, OPTIONS).action((files: string[], flags: Flags) =>
    runSession(flags.json ?? false, (session) => score(files, flags, session)),
  );
}

async function score(files: readonly string[], flags: Flags, session: Session): Promise<void> {
  const line = new StatusLine(process.stderr);
  const scores: FileScore[] = [];
  const parts: ImageLesions[] = [];
  const ignored: Ignored = { pixels: 0, images: 0, unlabelled: 0 };
  const truths: LabelCounts[] = [];
  let rule: LabelRule;
  try {
    for (const file of files) await checkWhole(file);
    rule = await labelRule(files, flags, session);
    const tell = counter(line, "scoring", files.length);
    for (const file of files) {
      session.signal.throwIfAborted();
      const of = await scoreFile(file, { flags, rule, truths, parts }, session);
      if (of.ignored !== null) addIgnored(ignored, of.ignored, of.calibration?.n !== 0);
      scores.push(of);
      tell(scores.length);
    }
  } finally {
    line.clear();
  }
  const summary = summarise(scores);
  const units = commonUnits(scores.map(({ file, units: own }) => ({ id: file, units: own })));
  const table = filesTable(scores, units);
  if (flags.csv !== undefined)
    await writeAtomic(flags.csv, toCsv(table, { file: ({ file }) => file, lengths: () => units.length }));
  const blind = describeBlind(scores.filter(({ quality }) => quality));
  if (blind) session.note(`note: ${blind}`);
  noteIgnored(session, ignored, scores.length, rule.ignore);
  noteUnclear(session, unclearMask(truths, rule));
  const { skip, fusion, spacing = null } = flags;
  const settings = {
    skip,
    fusion,
    labels: rule,
    ignoreIndex: rule.ignore,
    spacing,
    units,
    lesionOverlap: ruleOf(flags).lesionOverlap,
    neighbours: ruleOf(flags).neighbours,
  };
  const detected = flags.lesions ? summariseParts(parts) : undefined;
  await session.print(
    session.json
      ? toJson({ ...settings, ignored, files: scores, summary, ...(detected && { lesions: detected }) }, 2)
      : `${toText(table)}\n${describeSummary(summary, units)}${detected ? `\n${describeLesions(detected, settings)}` : ""}${flags.csv === undefined ? "" : `\nWritten to ${flags.csv}\n`}`,
  );
}

/** Classes have no names here. */
function summariseParts(parts: readonly ImageLesions[]): Record<string, LesionSummary> {
  const scored = [...new Set(parts.flatMap(({ truth }) => [...truth.keys()]))].sort((a, b) => a - b);
  const classNames = Array.from({ length: (scored.at(-1) ?? 0) + 1 }, (_, c) => `class ${c}`);
  return summariseLesions(parts, { classNames, scored });
}

/** What the truths of all files mean. */
async function labelRule(files: readonly string[], flags: Flags, { signal }: Session): Promise<LabelRule> {
  const { ignoreIndex } = flags;
  const wanted = { ...(ignoreIndex !== undefined && { ignore: ignoreIndex }), ...labelsOf(flags) };
  const truths: LabelCounts[] = [];
  const decided = wanted.scale === "index" || wanted.scale === "0/255";
  for (const file of decided ? [] : files) {
    signal.throwIfAborted();
    const { truth } = await readArrays(file, ["truth"]);
    if (truth) truths.push(countLabels(`"truth" of ${file}`, truth.data));
  }
  return decideLabels(truths, wanted);
}

/** What decides how a truth is read. */
interface Reading {
  rule: LabelRule;
  classes: number;
  decided: boolean;
  ignoreSaid: boolean;
  /** Gets what it holds. */
  truths: LabelCounts[];
}

/** A truth as class indices. */
function classIndices(
  { data, shape }: NdArray<NumericArray>,
  file: string,
  { rule, classes, decided, ignoreSaid, truths }: Reading,
): NdArray<Uint8Array> {
  const counts = countLabels(`"truth" of ${file}`, data);
  truths.push(counts);
  if (rule.scale === "0/255" && classes !== 2 && !decided)
    throw refusal(
      file,
      `a "truth" for ${classes} classes`,
      "0 and 255 alone, as in all files: say which by --labels index or 0/255, or --ignore",
    );
  if (rule.ignore !== null && rule.ignore >= 0 && rule.ignore < classes && !ignoreSaid)
    throw refusal(
      file,
      `a "truth" for ${classes} classes`,
      `${rule.ignore}, which is one: say --ignore none, or --ignore ${rule.ignore}`,
    );
  checkMasks([counts], rule, classes);
  return { data: applyLabels(data, rule), shape };
}

/** What files are scored by, and what is gathered of them. */
interface Scoring {
  flags: Flags;
  rule: LabelRule;
  truths: LabelCounts[];
  parts: ImageLesions[];
}

async function scoreFile(file: string, { flags, rule, truths, parts }: Scoring, session: Session): Promise<FileScore> {
  const arrays = await readArrays(file);
  const { heads } = arrays;
  if (!heads) throw refusal(file, 'an array "heads"', "none");
  if (!(heads.data instanceof Float32Array || heads.data instanceof Float64Array)) {
    throw refusal(file, 'floating-point numbers for "heads" (logits, or probabilities from 0 to 1)', "integers");
  }
  const classes = heads.shape[1] ?? 0;
  const decided = flags.labels === "0/255";
  const ignoreSaid = (flags.ignore ?? flags.ignoreIndex) !== undefined;
  const truth = arrays.truth && classIndices(arrays.truth, file, { rule, classes, decided, ignoreSaid, truths });
  const shape = heads.shape.slice(2);
  const spacing = flags.spacing ?? spacingInFile(file, arrays, shape);
  // Of 256 classes each is one, and what is left out has no label that is free.
  const ignoreIndex = rule.scale === "index" && rule.ignore === null ? null : ignoredLabel(rule);
  let of: HeadsScore;
  try {
    of = scoreHeads(heads as NdArray, {
      values: flags.probabilities ? "probabilities" : "logits",
      ...givenOf(flags, { trust, skip, fusion, ...MEASURED }),
      ...(spacing && { spacing: [...spacing] }),
      ignoreIndex,
      ...(truth && { truth }),
    });
  } catch (error) {
    if (!(error instanceof LayerEnsemblesError)) throw error;
    throw new LayerEnsemblesError(error.code, `${file}: ${error.message}`, { cause: error });
  }
  for (const warning of flags.trust ? [] : suspicions(heads, flags.probabilities ?? false))
    session.note(`warning: ${file}: ${warning} (--trust says that this is right)`);
  const { probabilities: _, ...staple } = of.staple;
  const lesions = flags.lesions && truth ? lesionsIn(file, of, truth, { flags, ignoreIndex, spacing }) : undefined;
  if (lesions) parts.push(lesions);
  return {
    file,
    heads: of.labels.shape[0] as number,
    classes: of.probabilities.shape[0] as number,
    shape: [...of.mask.shape],
    ignored: truth && of.calibration ? truth.data.length - of.calibration.n : null,
    ...recordScores(of),
    staple,
    spacing: spacing ?? null,
    units: { ...unitsOf(spacing, shape.length), tolerance: ruleOf(flags).tolerance },
    ...(lesions && { lesions: lesions.records }),
    ...(of.quality && { quality: of.quality }),
    ...(of.calibration && { calibration: of.calibration }),
  };
}

function lesionsIn(
  file: string,
  { mask, labels, probabilities }: HeadsScore,
  truth: NdArray<Uint8Array>,
  { flags, ignoreIndex, spacing }: { flags: Flags; ignoreIndex: number | null; spacing: readonly number[] | undefined },
): ImageLesions {
  const classes = probabilities.shape[0] as number;
  const scoring = {
    ...{ classes, scored: foreground(classes), ignoreIndex },
    ...{ ...ruleOf(flags), ...(spacing && { spacing }) },
  };
  return lesionsOf({ id: file, mask, labels, probabilities, truth }, scoring, true);
}

/** What may be meant otherwise. Where values sum to 1 as well, {@link scoreHeads} refuses them. */
function suspicions({ data, shape }: NdArray<NumericArray>, probabilities: boolean): string[] {
  const found: string[] = [];
  const [heads, classes, ...spatial] = shape;
  if (spatial.length === 1)
    found.push(`"heads" is taken as ${heads} heads of ${classes} classes and ${spatial[0]} pixels in a row`);
  if (!probabilities && data.every((value) => value >= 0 && value <= 1))
    found.push('all values of "heads" are from 0 to 1 and taken for logits, which sigmoid outputs are not');
  return found;
}

async function readArrays(
  file: string,
  names: readonly string[] = ["heads", "truth", ...PLACE_ARRAYS],
): Promise<Partial<Record<string, NdArray<NumericArray>>>> {
  if (path.extname(file).toLowerCase() !== ".npy") {
    const { readNpz } = await import("../data/npz.js");
    return readNpz(file, names);
  }
  if (!names.includes("heads")) return {};
  const { readNpy } = await import("../data/npy-file.js");
  return { heads: await readNpy(file) };
}

function refusal(file: string, expected: string, received: string): LayerEnsemblesError {
  return new LayerEnsemblesError("ERR_LE_DATA", `Expected ${expected} for ${file} but received ${received}.`);
}

interface Summary {
  files: number;
  /** Of every measure. */
  means: Record<string, Spread>;
  /** Of every confidence and uncertainty; where a truth is given. */
  spearmanWithDice?: Record<string, Correlation>;
}

/** Every number of a file, by name. */
function numbers(of: FileScore, perClass: boolean): Record<string, number> {
  const { quality, calibration } = of;
  return {
    ...Object.fromEntries(IMAGE_SCORE_NAMES.map((name) => [name, of[name] ?? Number.NaN])),
    ...of.uncertainty,
    ...quality?.image,
    ...(perClass &&
      quality &&
      Object.fromEntries(
        Object.entries(quality.perClass).flatMap(([c, values]) =>
          QUALITY_NAMES.map((name) => [`${name}.${c}`, values[name]]),
        ),
      )),
    ...(calibration && {
      nll: calibration.nll,
      brier: calibration.brier,
      ece: calibration.ece,
      adaptiveEce: calibration.adaptiveEce,
      classwiseEce: calibration.classwiseEce.mean,
    }),
  };
}

function summarise(scores: readonly FileScore[]): Summary {
  const all = scores.map((of) => numbers(of, false));
  const names = [...new Set(all.flatMap(Object.keys))];
  const means = Object.fromEntries(names.map((name) => [name, spread(all.map((of) => of[name] ?? Number.NaN))]));
  const dice = scores.map((of) => of.quality?.image.dice ?? Number.NaN);
  if (dice.every(Number.isNaN)) return { files: scores.length, means };
  return {
    files: scores.length,
    means,
    spearmanWithDice: Object.fromEntries(
      rankingScores(scores).map((name) => [
        name,
        correlate(
          scores.map((of) => asConfidence(name, recordedRank(of, name) ?? Number.NaN)),
          dice,
        ),
      ]),
    ),
  };
}

/** All numbers of each file; on the terminal some. */
function filesTable(scores: readonly FileScore[], units: Units): Table<FileScore> {
  const all = new Map(scores.map((of) => [of, numbers(of, true)]));
  const names = [...new Set([...all.values()].flatMap(Object.keys))];
  return {
    caption: "Files",
    name: { head: "file", of: ({ file }) => file },
    columns: [
      { head: "heads", csv: "heads", format: String, of: ({ heads }) => heads },
      { head: "classes", csv: "classes", page: "column", of: ({ classes }) => classes },
      { head: "empty", csv: "empty", page: "column", of: ({ empty }) => String(empty) },
      { head: "ignored", csv: "ignored", page: "column", of: ({ ignored }) => ignored },
      ...names.map((name) => ({
        ...imageColumn<FileScore>(
          name,
          (of) => all.get(of)?.[name],
          TOLD.includes(name) || CONFIDENCES.includes(name),
          units,
        ),
        csv: name,
      })),
    ],
    rows: scores,
  };
}

/** Of a file without a truth, on the terminal too. */
const CONFIDENCES = ["softDiceConfidence", "predictionDepth", "entropy.mean"];

function describeSummary({ means, spearmanWithDice }: Summary, units: Units): string {
  const rows = Object.entries(means).map(([name, of]) => ({ ...lookOf(name, units), quantity: name, part: "", of }));
  const table = toText(meansTable(rows, "files"));
  return spearmanWithDice ? `${table}\n${toText(ranksTable(spearmanWithDice, "files"))}` : table;
}
