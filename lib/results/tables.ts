// The tables of a comparison, each declared once for the terminal, for files and for the page.
import { type Units, unitsOf } from "../grid/index.js";
import { defaultsOf } from "../options.js";
import { LESION_RULE, type LesionRule } from "../quality/lesions.js";
import { METHOD_TITLES, type MethodName } from "../runs/methods.js";
import { CONFIDENCES, type ConfidenceName, confidenceTitle, SCORES, snake } from "../scores/scores.js";
import { meanOfKnown } from "../statistics/spread.js";
import type {
  AcceptanceCurve,
  AcceptancePoint,
  AlarmStream,
  Comparison,
  ConfidenceResult,
  Coverage,
  LESION_SCORES,
  LesionSummary,
  MeanEstimate,
  MethodResult,
  PairedTest,
  RunRecord,
  ScoreRank,
  ShiftRow,
} from "./comparison.js";
import { fixed, grouped, percent, pValue, signed } from "./format.js";
import {
  COMPARED_MEASURES,
  type ComparedMeasure,
  FAILURE_NAMES,
  lookOf,
  MEASURES,
  POOLED,
  RANKINGS,
  type RankingName,
  SIZE_MEASURES,
  type SizeMeasure,
} from "./measures.js";
import type { Column, Table } from "./table.js";

const decimals = (of: { title: string; decimals?: number }) => (value: number) => fixed(value, of.decimals);

/** How well something ranks images by quality and finds failures. */
export function rankingColumn<Row>(name: RankingName, of: Column<Row>["of"]): Column<Row> {
  const { title, better } = RANKINGS[name];
  return { head: title, better, format: decimals(RANKINGS[name]), csv: snake(name), bounds: true, of };
}

/** A method's name, and how many seeds it has. */
const title = ({ method, runs }: MethodResult) =>
  `${METHOD_TITLES[method].short}${runs.length > 1 ? ` (${runs.length} seeds)` : ""}`;
const METHOD = { head: "method", of: title };

/** Of lengths and sizes. Earlier versions did not say them, and had a spacing of 1 where none was given. */
export function unitsIn({ units, spacing }: Pick<Comparison, "units" | "spacing">): Units {
  return units ?? unitsOf(spacing?.some((step) => step !== 1) ? spacing : undefined, spacing?.length ?? 0);
}

/** Quality of each method. */
export function qualityTable(comparison: Comparison): Table<MethodResult> {
  const { methods } = comparison;
  const told = unitsIn(comparison);
  const column = (name: ComparedMeasure, head?: string): Column<MethodResult> => {
    const measure: { title: string; better?: "high" | "low"; decimals?: number } = MEASURES[COMPARED_MEASURES[name]];
    const { title } = lookOf(COMPARED_MEASURES[name], told);
    const { better } = measure;
    return { head: head ?? title, better, format: decimals(measure), of: ({ quality }) => quality[name] ?? null };
  };
  const classes = [...new Set(methods.flatMap(({ classDice }) => Object.keys(classDice)))];
  return {
    caption: "Table 1. Quality: mean ± standard deviation over images [interval of the mean]",
    name: METHOD,
    columns: [
      column("dice"),
      column("mhd"),
      column("nll"),
      { ...column("hd95"), page: "column" },
      { ...column("assd"), page: "column" },
      ...(classes.length > 1
        ? classes.map((name) => ({
            ...column("dice", `Dice, ${name}`),
            of: ({ classDice }: MethodResult) => classDice[name] ?? null,
          }))
        : []),
    ],
    rows: methods,
  };
}

/** Surfaces, sizes and lesions of a method, of a class or over the classes: "". */
export interface Sized {
  method: MethodResult;
  name: string;
  of: Partial<Record<SizeMeasure, MeanEstimate>>;
}

/** What was measured of surfaces, sizes and lesions: nothing in results of earlier versions. */
export function sizesTable(comparison: Comparison): Table<Sized> {
  const told = unitsIn(comparison);
  const rows = comparison.methods.flatMap((method): Sized[] => {
    const classes = Object.entries(method.classSizes ?? {});
    const each = classes.length > 1 ? classes.map(([name, of]) => ({ method, name, of })) : [];
    return [{ method, name: "", of: method.quality }, ...each];
  });
  return {
    caption: "Surfaces, sizes and lesions of each image: mean ± standard deviation over images [interval]",
    group: { head: "method", of: ({ method }) => title(method) },
    name: { head: "class", of: ({ name }) => name || "over classes" },
    columns: SIZE_MEASURES.map((name) => {
      const measure: { better?: "high" | "low"; decimals?: number; title: string } = MEASURES[name];
      return {
        head: lookOf(name, told).title,
        // The best of a column is of one class.
        ...(rows.length === comparison.methods.length && { better: measure.better }),
        format: decimals(measure),
        of: ({ of }: Sized) => of[name] ?? null,
      };
    }),
    rows: comparison.methods.some(({ quality }) => SIZE_MEASURES.some((name) => quality[name])) ? rows : [],
  };
}

/** Detection of the lesions of a class, by a run where several are compared. */
export interface DetectedLesions extends LesionSummary {
  /** Of the class. */
  name: string;
  run?: RunRecord;
}

/** Lesion by lesion: what is found, what is false, and whether the scores of a predicted one tell. */
export function lesionsTable(rows: readonly DetectedLesions[], rule: LesionRule): Table<DetectedLesions> {
  const column = (
    head: string,
    name: string,
    of: (row: DetectedLesions) => number | null,
    places = 3,
  ): Column<DetectedLesions> => ({ ...{ head, of, csv: snake(name) }, format: (value) => fixed(value, places) });
  const auroc = (head: string, name: (typeof LESION_SCORES)[number]) =>
    column(head, `auroc.${name}`, ({ auroc: of }) => of[name]);
  return {
    caption: `Lesions. ${describeLesionRule(rule)}`,
    ...(rows.some(({ run }) => run) && {
      group: {
        head: "run",
        of: ({ run }: DetectedLesions) => (run ? `${METHOD_TITLES[run.method].short}, seed ${run.seed}` : ""),
      },
    }),
    name: { head: "lesions of", of: ({ name }) => name },
    columns: [
      column("true", "lesions", ({ lesions }) => lesions, 0),
      column("found", "found", ({ found }) => found, 0),
      column("sensitivity", "sensitivity", ({ sensitivity }) => sensitivity),
      column("false", "falsePositives", ({ falsePositives }) => falsePositives, 0),
      column("per case", "falsePositivesPerCase", ({ falsePositivesPerCase }) => falsePositivesPerCase, 2),
      auroc("AUROC of AULA", "aulaNormalised"),
      auroc("of agreement", "pairwiseAgreement"),
      auroc("of soft Dice", "softDiceConfidence"),
    ],
    rows,
  };
}

/** {@link lesionsTable} of each run that was asked for them. */
export function runLesionsTable({ runs, lesionRule = {} }: Comparison): Table<DetectedLesions> {
  const rows = runs.flatMap((run) => Object.entries(run.lesions ?? {}).map(([name, of]) => ({ name, run, ...of })));
  return lesionsTable(rows, lesionRule);
}

/** When a lesion is found, for people. */
export function describeLesionRule(rule: LesionRule): string {
  const { lesionOverlap, neighbours } = { ...defaultsOf(LESION_RULE), ...rule };
  const touch = neighbours === "all" ? "at a face, edge or corner" : "at a face";
  return `A part is found, or no false one, where the other mask covers ${fixed(lesionOverlap, 2)} of it, and one pixel; parts are of pixels that touch ${touch}. AUROC: true parts against false ones.`;
}

/** LE against each other method. */
export function testsTable(comparison: Comparison): Table<PairedTest> {
  const { tests, bootstrap } = comparison;
  const units = unitsIn(comparison);
  return {
    caption: `Paired tests: LE minus the other method, ${bootstrap.unit} by ${bootstrap.unit}; two-sided p, not corrected for their number`,
    group: { head: "LE minus", of: ({ other }) => METHOD_TITLES[other].short },
    name: { head: "measure", of: ({ measure }) => lookOf(COMPARED_MEASURES[measure], units).title },
    columns: [
      { head: "pairs", csv: "pairs", format: String, of: ({ n }) => n },
      {
        head: "difference",
        csv: "difference",
        format: (value) => signed(value, 4),
        of: ({ difference }) => difference,
      },
      { head: "p (Wilcoxon)", csv: "wilcoxon_p", format: pValue, of: ({ wilcoxonP }) => wilcoxonP },
      { head: "p (paired t)", csv: "t_p", format: pValue, of: ({ tP }) => tP },
    ],
    rows: tests,
  };
}

/** A confidence of a method. */
export interface Ranked {
  method: MethodResult;
  confidence: ConfidenceName;
  result: ConfidenceResult;
}

/** Every confidence that each method has. */
function ranked({ methods }: Comparison): Ranked[] {
  return methods.flatMap((method) =>
    CONFIDENCES.flatMap((confidence) => {
      // Results of before a confidence was known say nothing of it.
      const result = method.confidence[confidence] ?? null;
      return result ? [{ method, confidence, result }] : [];
    }),
  );
}

const BY_CONFIDENCE = {
  group: { head: "method", of: ({ method }: Pick<Ranked, "method">) => title(method) },
  name: { head: "confidence", of: ({ confidence }: Ranked) => confidenceTitle(confidence) },
};
const ranking = (name: RankingName) => ({
  ...rankingColumn<Ranked>(name, ({ result }) => result[name]),
  csv: name.startsWith("spearman") ? snake(name) : name,
});

/** Rank correlation of each confidence with quality. */
export function correlationTable(comparison: Comparison): Table<Ranked> {
  return {
    caption: `Table 2. Spearman’s correlation of each confidence with Dice, good near 1, and with MHD, good near −1 [interval] (maps: minus their ${comparison.summary})`,
    ...BY_CONFIDENCE,
    columns: [ranking("spearmanDice"), ranking("spearmanMhd")],
    rows: ranked(comparison),
  };
}

/** How well each confidence ranks images and finds failures. */
export function failureTable(comparison: Comparison): Table<Ranked> {
  return {
    caption: `Table 3. Failure detection [interval]; failed: Dice below ${comparison.tau}`,
    ...BY_CONFIDENCE,
    columns: FAILURE_NAMES.map((name) => ({
      ...ranking(name),
      ...(name !== "aurc" && name !== "auroc" && { page: "interval" }),
    })),
    rows: ranked(comparison),
  };
}

/** A score of a method. */
export interface RankedScore extends ScoreRank {
  method: MethodResult;
}

/** The scores of each method, the lowest AURC first. @param most of each method; undefined shows all */
export function scoresTable({ methods }: Comparison, most?: number): Table<RankedScore> {
  const format = (value: number) => signed(value, RANKINGS.aurc.decimals);
  return {
    caption: `Scores of each method by AURC [interval], and how far above its best${most === undefined ? "" : `; the first ${most}`}`,
    group: BY_CONFIDENCE.group,
    name: { head: "score", of: ({ score }) => SCORES[score].title },
    columns: [
      { ...rankingColumn<RankedScore>("aurc", ({ aurc }) => aurc), better: undefined },
      { head: "above the best", csv: "above_best", bounds: true, format, of: ({ aboveBest }) => aboveBest },
    ],
    rows: methods.flatMap((method) => (method.scoreRanks ?? []).slice(0, most).map((rank) => ({ method, ...rank }))),
  };
}

/** A promise for a score of a method. */
export type Promised = AcceptancePoint & Pick<AcceptanceCurve, "score" | "rule" | "delta"> & { method: MethodResult };

/** What certificates accept, by what they promise. */
export function acceptanceTable({ methods }: Comparison): Table<Promised> {
  const share = (head: string, csv: string, of: (row: Promised) => number) => ({ head, csv, format: percent, of });
  return {
    caption: "Acceptance by the promised share of failures",
    group: { head: "score", of: ({ method, score }) => `${title(method)}, ${SCORES[score].title}` },
    name: { head: "promised", of: ({ alpha }) => percent(alpha) },
    columns: [
      share("accepted", "accepted", ({ accepted }) => accepted),
      share("failed of the accepted", "failed", ({ failed }) => failed),
      share("in all but δ of the halves at most", "failed_high", ({ failedHigh }) => failedHigh),
    ],
    rows: methods.flatMap((method) =>
      (method.acceptance ?? []).flatMap(({ points, score, rule, delta }) =>
        points.map((point) => ({ ...point, score, rule, delta, method })),
      ),
    ),
  };
}

/** How predicted Dice fared of one class, or over the classes: "". */
export interface Covered extends Coverage {
  name: string;
}

/** Whether the bounds of predicted Dice hold, beside one width for all images. */
export function coverageTable<Row extends Covered>(rows: readonly Row[]): Table<Row> {
  const column = (head: string, name: keyof Coverage, format?: typeof percent): Column<Row> => ({
    ...{ head, csv: snake(name), of: (row) => row[name] },
    ...(format && { format }),
  });
  return {
    caption: "Predicted Dice",
    name: { head: "predicted Dice", of: ({ name }) => name || "over classes" },
    columns: [
      column("off by", "error"),
      column("the mean by", "constantError"),
      column("above the lower bound", "lower", percent),
      column("inside the interval", "interval", percent),
      column("width", "width"),
      column("inside one for all", "constantInterval", percent),
      column("width", "constantWidth"),
    ],
    rows,
  };
}

/** How predicted Dice fared of a run. */
export interface RunCovered extends Covered {
  run: RunRecord;
  /** Share of the images that bounds are to hold for. */
  level: number;
}

/** {@link coverageTable} of each run that has a fit for what it was compared by. */
export function runCoverageTable({ runs }: Comparison): Table<RunCovered> {
  const rows = runs.flatMap((run) =>
    Object.entries(run.predictedDice?.of ?? {}).map(([name, of]) => ({
      ...{ name, run, level: 1 - (run.predictedDice?.alpha ?? 0) },
      ...of,
    })),
  );
  return {
    ...coverageTable(rows.filter(({ images }) => images > 0)),
    caption: `Predicted Dice, and one value and width for all images beside it; bounds are to hold in ${[...new Set(rows.map(({ level }) => percent(level)))].join(" or ")} of the images`,
    group: { head: "run", of: ({ run }) => `${METHOD_TITLES[run.method].short}, seed ${run.seed}` },
  };
}

/** Calibration over all pixels. */
export function calibrationTable({ methods }: Comparison): Table<MethodResult> {
  return {
    caption: "Table 4. Calibration over all pixels [interval]",
    name: METHOD,
    columns: POOLED.map((name) => ({
      head: MEASURES[name].title,
      better: MEASURES[name].better,
      format: decimals(MEASURES[name]),
      of: ({ pooled }) => pooled[name],
    })),
    rows: methods,
  };
}

/** What each method costs. */
export function costTable({ methods }: Comparison): Table<MethodResult> {
  return {
    caption: "Table 5. Cost of one prediction with all maps",
    name: METHOD,
    columns: [
      { head: "parameters", csv: "parameters", better: "low", format: grouped, of: ({ cost }) => cost.parameters },
      {
        head: "ms per image",
        csv: "ms_per_image",
        better: "low",
        format: (ms) => fixed(ms, 1),
        of: ({ cost }) => cost.msPerImage,
      },
      {
        head: "× Plain",
        csv: "ratio_to_plain",
        format: (ratio) => fixed(ratio, 2),
        of: ({ cost }) => cost.ratioToPlain,
      },
    ],
    rows: methods,
  };
}

/** The methods on shifted images. */
export function shiftTable({ shift, methods }: Comparison): Table<ShiftRow> {
  const titles = Object.fromEntries(methods.map((method) => [method.method, title(method)])) as Record<
    MethodName,
    string
  >;
  return {
    caption: "Table 6. Out of distribution [interval]",
    group: { head: "method", of: ({ method }) => titles[method] },
    name: { head: "confidence", of: ({ confidence }) => confidenceTitle(confidence) },
    columns: [
      { head: "AUROC in/out", csv: "auroc", bounds: true, better: "high", of: ({ auroc }) => auroc },
      { head: "flagged in", csv: "flagged_in", format: percent, of: ({ flaggedIn }) => flaggedIn },
      { head: "flagged out", csv: "flagged_out", bounds: true, format: percent, of: ({ flaggedOut }) => flaggedOut },
      { head: "Dice in", csv: "dice_in", of: ({ diceIn }) => diceIn },
      { head: "Dice out", csv: "dice_out", better: "high", of: ({ diceOut }) => diceOut },
    ],
    rows: shift?.rows ?? [],
  };
}

/** When the alarm over a stream goes off. */
export function alarmTable({ shift, methods }: Comparison): Table<AlarmStream> {
  const count = (head: string, csv: string, of: Column<AlarmStream>["of"]) => ({ head, csv, format: String, of });
  const share = (head: string, csv: string, of: Column<AlarmStream>["of"]) => ({ head, csv, format: percent, of });
  return {
    caption: "Table 7. The alarm over a stream that begins to differ",
    name: { head: "method", of: ({ method }) => title(methods.find((one) => one.method === method) as MethodResult) },
    columns: [
      {
        head: "watched",
        of: ({ watched }) => watched.map((name) => SCORES[name].short ?? SCORES[name].title).join(", "),
      },
      count("calibrated by", "calibration", ({ calibration }) => calibration),
      count("images before", "before", ({ before }) => before),
      share("off before the change", "false_alarms", ({ falseAlarms }) => falseAlarms),
      count("images until it goes off", "delay", ({ delay }) => delay),
      share("never", "missed", ({ missed }) => missed),
    ],
    rows: shift?.streams ?? [],
  };
}

/** The runs that were compared. */
export function runsTable({ runs }: Comparison): Table<RunRecord> {
  return {
    caption: "Runs",
    name: { head: "run", of: ({ run }) => run },
    columns: [
      { head: "method", of: ({ method }) => METHOD_TITLES[method].short },
      { head: "seed", format: String, of: ({ seed }) => seed },
      { head: "heads", format: String, of: ({ heads }) => heads.length },
      { head: "skipped (T)", format: String, of: ({ skip }) => skip },
      { head: "fusion", of: ({ fusion }) => fusion },
      { head: "mean Dice", of: ({ images }) => meanOfKnown(images.map(({ dice }) => dice)) },
      { head: "ms per image", format: (ms) => fixed(ms, 1), of: ({ msPerImage }) => msPerImage },
    ],
    rows: runs,
  };
}
