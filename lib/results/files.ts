// A comparison as text for the terminal, and as CSV files.
import { describeCropped } from "../data/cropped.js";
import { distinctNames } from "../data/csv.js";
import { describeIgnored } from "../data/labels.js";
import { describeSeen, describeUnknown } from "../data/leaks.js";
import { METHOD_TITLES } from "../runs/methods.js";
import { IMAGE_SCORE_NAMES, snake } from "../scores/scores.js";
import { mean } from "../statistics/spread.js";
import type { Comparison, MeanEstimate, MethodResult } from "./comparison.js";
import { fixed } from "./format.js";
import { COMPARED_MEASURES, type ComparedMeasure, lookOf, POOLED, SIZE_MEASURES } from "./measures.js";
import { type CsvCell, csvOf, type Table, toCsv, toText } from "./table.js";
import {
  acceptanceTable,
  alarmTable,
  calibrationTable,
  correlationTable,
  costTable,
  failureTable,
  qualityTable,
  type Ranked,
  runCoverageTable,
  runLesionsTable,
  scoresTable,
  shiftTable,
  sizesTable,
  testsTable,
  unitsIn,
} from "./tables.js";

/** Scores of each method on the terminal, of some thirty. */
const TOLD_SCORES = 5;

/** Everything that the terminal shows of a comparison. */
export function describeComparison(comparison: Comparison): string {
  const { data, bootstrap, scored, classNames, shift } = comparison;
  const classes = scored.map((c) => classNames[c]).join(", ");
  const failed = comparison.methods.map(
    (method) => `${METHOD_TITLES[method.method].short} ${failures(comparison, method)}`,
  );
  const told = <Row>(table: Table<Row>, more = "") =>
    table.rows.length > 0 ? [`${table.caption}${more}`, toText(table)] : [];
  return [
    `${comparison.title}: ${data.images} images${data.groups < data.images ? ` of ${data.groups} groups` : ""}; ${classes}`,
    ...about(data, data.images),
    ...(data.unknown ?? []).map(({ run, splits }) => describeUnknown(run, splits)),
    `Brackets: 95 % intervals, ${bootstrap.resamples} resamples of ${bootstrap.unit}s. Means of images, then of seeds.`,
    "",
    ...told(qualityTable(comparison)),
    ...told(sizesTable(comparison)),
    ...told(runLesionsTable(comparison)),
    ...told(testsTable(comparison)),
    ...told(correlationTable(comparison)),
    ...told(failureTable(comparison), ` (${failed.join(", ")} of ${data.images - (data.ignored?.unlabelled ?? 0)})`),
    ...told(scoresTable(comparison, TOLD_SCORES)),
    ...told(runCoverageTable(comparison)),
    ...told(calibrationTable(comparison)),
    ...told(costTable(comparison)),
    ...(shift
      ? [
          `Shift: ${shift.images} images of ${shift.folder} (${shift.split}) against ${shift.imagesIn} in distribution; ${shift.scored.map((c) => classNames[c]).join(", ")}`,
          ...about(shift, shift.images),
          ...told(shiftTable(comparison)),
          ...told(alarmTable(comparison)),
        ]
      : []),
  ].join("\n");
}

/** What does not count of the images, what networks did not see of them, and which of them the runs have seen. */
function about(
  {
    ignored,
    cropped,
    seen,
    unlikeTraining,
  }: Pick<Comparison["data"], "ignored" | "cropped" | "seen" | "unlikeTraining">,
  images: number,
): string[] {
  const said = [ignored && describeIgnored(ignored, images), cropped && describeCropped(cropped, images)];
  return [
    ...said.filter((one) => one !== undefined),
    ...(seen ? [describeSeen(seen, images)] : []),
    ...(unlikeTraining ? [describeUnlike(unlikeTraining, images)] : []),
  ];
}

/** Volumes that no gate accepts. */
export function describeUnlike(unlike: number, images: number): string {
  return `${unlike} of ${images} volumes have axes or voxels unlike those of the training: a gate sends them to a person, and what a certificate would accept leaves them out`;
}

/** Failed images of each of a method's runs, averaged. */
function failures({ runs, tau }: Comparison, method: MethodResult): string {
  const counts = method.runs.map((r) => runs[r]?.images.filter(({ dice }) => dice !== null && dice < tau).length ?? 0);
  const failed = mean(counts);
  return fixed(failed, Number.isInteger(failed) ? 0 : 1);
}

/** The CSV files by name. Numbers are not rounded; an empty cell is what is not defined. */
export function csvTables(comparison: Comparison): Record<string, string> {
  const { methods, runs, bootstrap, shift, tau } = comparison;
  const units = unitsIn(comparison);
  const unitOf = (measure: string) => lookOf(COMPARED_MEASURES[measure as ComparedMeasure] ?? measure, units).unit;
  const quality = methods.flatMap(({ method, runs: { length }, ...of }) => {
    const row = (measure: string, name: string, { value, low, high, ...more }: Partial<MeanEstimate>): CsvCell[] => [
      ...[method, length, measure, name, value, low, high],
      ...[more.sd, more.n, more.leftOut, unitOf(measure)],
    ];
    return [
      ...Object.entries(of.quality).map(([measure, estimate]) => row(measure, "", estimate)),
      ...Object.entries(of.classDice).map(([name, estimate]) => row("dice", name, estimate)),
      ...Object.entries(of.classMhd).map(([name, estimate]) => row("mhd", name, estimate)),
      ...Object.entries(of.classSizes ?? {}).flatMap(([name, sizes]) =>
        Object.entries(sizes).map(([measure, estimate]) => row(measure, name, estimate)),
      ),
      ...POOLED.map((name) => row(`pooled_${name}`, "", of.pooled[name])),
    ];
  });
  const ofMethod = { method: ({ method }: MethodResult) => method };
  const ofConfidence = {
    method: ({ method }: Ranked) => method.method,
    runs: ({ method }: Ranked) => method.runs.length,
    confidence: ({ confidence }: Ranked) => confidence,
  };
  return {
    "table1-quality.csv": csvOf(
      ["method", "runs", "measure", "class", "value", "low", "high", "sd", "images", "left_out", "unit"],
      quality,
    ),
    "table2-correlation.csv": toCsv(correlationTable(comparison), ofConfidence),
    "table3-failure-detection.csv": toCsv(failureTable(comparison), { ...ofConfidence, tau: () => tau }),
    "scores.csv": toCsv(scoresTable(comparison), {
      method: ({ method }) => method.method,
      runs: ({ method }) => method.runs.length,
      score: ({ score }) => score,
    }),
    "acceptance.csv": toCsv(acceptanceTable(comparison), {
      method: ({ method }) => method.method,
      score: ({ score }) => score,
      rule: ({ rule }) => rule,
      tau: () => tau,
      delta: ({ delta }) => delta,
      alpha: ({ alpha }) => alpha,
    }),
    ...(runs.some(({ predictedDice }) => predictedDice) && {
      "predicted-dice.csv": toCsv(runCoverageTable(comparison), {
        method: ({ run }) => run.method,
        seed: ({ run }) => run.seed,
        class: ({ name }) => name,
        images: ({ images }) => images,
        level: ({ level }) => level,
      }),
    }),
    ...(runs.some(({ lesions }) => lesions) && {
      "lesions.csv": toCsv(runLesionsTable(comparison), {
        method: ({ run }) => run?.method,
        seed: ({ run }) => run?.seed,
        class: ({ name }) => name,
        cases: ({ cases }) => cases,
      }),
    }),
    "calibration.csv": csvOf(
      ["method", "seed", "ece", "brier", "nll", "bin", "bin_pixels", "bin_confidence", "bin_accuracy"],
      runs.flatMap(({ method, seed, calibration: { ece, brier, nll, bins } }) =>
        bins.map((bin, b) => [method, seed, ece, brier, nll, b + 1, bin.count, bin.confidence, bin.accuracy]),
      ),
    ),
    "cost.csv": toCsv(costTable(comparison), ofMethod),
    "tests.csv": toCsv(testsTable(comparison), {
      measure: ({ measure }) => measure,
      other: ({ other }) => other,
      unit: () => bootstrap.unit,
      lengths: () => units.length,
    }),
    ...(shift && {
      "shift.csv": toCsv(shiftTable(comparison), {
        method: ({ method }) => method,
        confidence: ({ confidence }) => confidence,
      }),
    }),
    ...(shift?.streams && {
      "alarm.csv": toCsv(alarmTable(comparison), {
        method: ({ method }) => method,
        orders: ({ orders }) => orders,
        limit: ({ limit }) => limit,
      }),
    }),
    "images.csv": imagesCsv(comparison),
  };
}

function imagesCsv(comparison: Comparison): string {
  const { runs, shift, scored, classNames } = comparison;
  const measures = [...(Object.keys(COMPARED_MEASURES) as ComparedMeasure[]), "ece"] as const;
  const maps = Object.keys(runs[0]?.images[0]?.uncertainty ?? {});
  const header = distinctNames([
    ...["set", "method", "seed", "id", "group", ...measures],
    ...scored.flatMap((c) => ["dice", "mhd", ...SIZE_MEASURES].map((name) => `${snake(name)}_${classNames[c]}`)),
    ...["empty", ...IMAGE_SCORE_NAMES, ...maps, "ignored", "cropped", "unlike_training", "lengths"],
  ]);
  const rows = (set: string, records: Comparison["runs"], classes: readonly number[]) =>
    records.flatMap(({ method, seed, images }) =>
      images.map((image): CsvCell[] => [
        ...[set, method, seed, image.id, image.group],
        ...measures.map((name) => image[name]),
        ...scored.flatMap((c) => {
          const at = classes.indexOf(c);
          return [
            image.classDice[at],
            image.classMhd[at],
            ...SIZE_MEASURES.map((name) => image.classSizes?.[name][at]),
          ];
        }),
        String(image.empty),
        ...IMAGE_SCORE_NAMES.map((name) => image[name]),
        ...maps.map((name) => image.uncertainty[name]),
        image.ignored,
        image.cropped,
        image.unlikeTraining?.join("; "),
        unitsIn(comparison).length,
      ]),
    );
  return csvOf(header, [...rows("in", runs, scored), ...(shift ? rows("out", shift.runs, shift.scored) : [])]);
}
