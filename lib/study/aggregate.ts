// From runs to methods: statistics of each run, averaged over its method's seeds, with intervals; and the paired tests.

import { type Calibration, pairedT, qualityControlCurve, wilcoxon } from "../metrics/index.js";
import type {
  AcceptanceCurve,
  Comparison,
  ConfidenceResult,
  Estimate,
  ImageRecord,
  MeanEstimate,
  MethodResult,
  PairedTest,
  QcCurve,
  RunRecord,
  ScoreRank,
} from "../results/comparison.js";
import {
  COMPARED_MEASURES,
  type ComparedMeasure,
  POOLED,
  RANKING_NAMES,
  SIZE_MEASURES,
  type SizeMeasure,
} from "../results/measures.js";
import { METHODS, type MethodName } from "../runs/methods.js";
import {
  CONFIDENCES,
  type ConfidenceName,
  rankingScores,
  recordedConfidences,
  type ScoreName,
} from "../scores/scores.js";
import { mean, orNull } from "../statistics/spread.js";
import { acceptanceCurve } from "./acceptance.js";
import { type Units, unitsOf } from "./resampling.js";
import { rankScores, type ScoredImages } from "./score-ranks.js";
import {
  estimates,
  imageMeans,
  type Measured,
  meanEstimate,
  RunStatistics,
  resamplesOf,
  statistic,
} from "./statistics.js";

/** One run's record with what of each image it does not keep, in the order of its images. */
export interface MeasuredRun {
  record: RunRecord;
  calibration: readonly Calibration[];
}

/** How runs become results: fields of {@link Comparison}. */
export type AggregateSettings = Pick<Comparison, "classNames" | "scored" | "tau" | "summary" | "bootstrap">;

const QUALITY = Object.keys(COMPARED_MEASURES) as ComparedMeasure[];

/** Means over images, by method, and the ways to find failures; methods in the order of {@link METHODS}. */
export function aggregate(
  runs: readonly MeasuredRun[],
  settings: AggregateSettings,
): Pick<Comparison, "methods" | "tests"> {
  const order = imageOrder(runs.map(({ record }) => record));
  const measured = runs.map((run) => measuredOf(run, order, settings));
  const first = (runs[0] as MeasuredRun).record;
  const groups = order.map((i) => (first.images[i] as ImageRecord).group);
  const { bootstrap, tau } = settings;
  const units = unitsOf(groups, bootstrap.unit);
  const resamples = resamplesOf(units, bootstrap.resamples, bootstrap.seed);
  const parts = METHODS.flatMap((method) => {
    const indices = runs.flatMap(({ record }, r) => (record.method === method ? [r] : []));
    if (indices.length === 0) return [];
    const own = indices.map((r) => measured[r] as Measured);
    const found = estimates(
      own.map((of) => new RunStatistics(of, units, tau)),
      resamples,
    );
    return [{ method, indices, own, found }];
  });
  const plain = runs.find(({ record }) => record.method === "plain")?.record;
  const methods = parts.map(({ method, indices, own, found }): MethodResult => {
    const meansOf = (name: string): MeanEstimate =>
      meanEstimate(
        found[statistic.mean(name)] as Estimate,
        own.map(({ columns }) => columns[name] as Float64Array),
      );
    const ofClasses = (prefix: string) =>
      Object.fromEntries(settings.scored.map((c) => [settings.classNames[c] as string, meansOf(`${prefix}/${c}`)]));
    const { parameters, msPerImage } = (runs[indices[0] as number] as MeasuredRun).record;
    const scored = scoredImages(
      indices.map((r) => (runs[r] as MeasuredRun).record),
      settings,
    );
    const scoreRanks = rankScores(scored, resamples);
    const has = (name: ConfidenceName) => own.every((of) => of.confidences[name] !== null);
    return {
      method,
      runs: indices,
      quality: Object.fromEntries(QUALITY.map((name) => [name, meansOf(name)])) as MethodResult["quality"],
      classDice: ofClasses("classDice"),
      classMhd: ofClasses("classMhd"),
      classSizes: Object.fromEntries(
        settings.scored.map((c) => [
          settings.classNames[c] as string,
          Object.fromEntries(SIZE_MEASURES.map((name) => [name, meansOf(`${name}/${c}`)])) as Record<
            SizeMeasure,
            MeanEstimate
          >,
        ]),
      ),
      pooled: Object.fromEntries(POOLED.map((name) => [name, found[statistic.pooled(name)]])) as MethodResult["pooled"],
      confidence: Object.fromEntries(
        CONFIDENCES.map((name) => [name, has(name) ? confidenceOf(found, name) : null]),
      ) as MethodResult["confidence"],
      scoreRanks,
      acceptance: acceptanceOf(scoreRanks, scored[0] as ScoredImages, units, settings),
      qcCurves: Object.fromEntries(
        CONFIDENCES.filter(has).flatMap((name) => {
          const curve = curveOf(own[0] as Measured, name, tau);
          return curve ? [[name, curve]] : [];
        }),
      ) as MethodResult["qcCurves"],
      cost: {
        parameters,
        msPerImage,
        ratioToPlain: plain ? msPerImage / plain.msPerImage : null,
      },
    };
  });
  return { methods, tests: pairedTests(parts, unitsOf(groups, bootstrap.unit).of) };
}

/** Whether images are drawn and tested by group: where a group has several. */
export function unitOf(images: readonly Pick<ImageRecord, "group">[]): "group" | "image" {
  const groups = images.flatMap(({ group }) => (group === null ? [] : [group]));
  return new Set(groups).size < groups.length ? "group" : "image";
}

/** Positions of the first run's images by id, so that no result depends on the order in which images came. */
function imageOrder(records: readonly RunRecord[]): number[] {
  const ids = (records[0] as RunRecord).images.map(({ id }) => id);
  return ids.map((_, i) => i).sort((a, b) => ((ids[a] as string) < (ids[b] as string) ? -1 : 1));
}

/** A run's images by id. */
function measuredOf(
  { record, calibration }: MeasuredRun,
  order: readonly number[],
  settings: AggregateSettings,
): Measured {
  const own = imageOrder([record]);
  if (own.length !== order.length) throw new Error("unreachable: runs are compared on the same images");
  const images = own.map((i) => record.images[i] as ImageRecord);
  const all = (pick: (image: ImageRecord) => number | null | undefined) =>
    Float64Array.from(images, (image) => pick(image) ?? Number.NaN);
  const columns: Record<string, Float64Array> = {};
  for (const name of QUALITY) columns[name] = all((image) => image[name]);
  settings.scored.forEach((c, i) => {
    columns[`classDice/${c}`] = all((image) => image.classDice[i]);
    columns[`classMhd/${c}`] = all((image) => image.classMhd[i]);
    for (const name of SIZE_MEASURES) columns[`${name}/${c}`] = all((image) => image.classSizes?.[name][i]);
  });
  const given = { heads: record.heads.length, summary: settings.summary };
  return {
    columns,
    confidences: Object.fromEntries(CONFIDENCES.map((name) => [name, recordedConfidences(images, name, given)])),
    dice: columns.dice as Float64Array,
    mhd: columns.mhd as Float64Array,
    calibration: own.map((i) => calibration[i] as Calibration),
  };
}

/** Of a method's runs, the scores that every image of each has; images by id. */
function scoredImages(records: readonly RunRecord[], { summary }: AggregateSettings): ScoredImages[] {
  const all = records.map((record) => {
    const images = imageOrder([record]).map((i) => record.images[i] as ImageRecord);
    const of = (name: ScoreName) => recordedConfidences(images, name, { heads: record.heads.length, summary });
    return { images, of };
  });
  const names = rankingScores(all[0]?.images ?? []).filter((name) => all.every(({ of }) => of(name) !== null));
  return all.map(({ images, of }) => ({
    dice: Float64Array.from(images, ({ dice }) => dice ?? Number.NaN),
    refused: images.map(isRefused),
    confidences: Object.fromEntries(names.map((name) => [name, of(name) as Float64Array])),
  }));
}

/** Whether no gate accepts an image, whatever its score. */
export function isRefused({ empty, unlikeTraining = [] }: Pick<ImageRecord, "empty" | "unlikeTraining">): boolean {
  return empty || unlikeTraining.length > 0;
}

/** Of the best score, and of AULA. */
function acceptanceOf(
  ranks: readonly ScoreRank[],
  { dice, refused, confidences }: ScoredImages,
  units: Units,
  { tau, bootstrap: { seed } }: AggregateSettings,
): AcceptanceCurve[] {
  return ranks
    .filter(({ score, aboveBest }) => aboveBest === null || score === "aula")
    .flatMap(({ score }) => {
      const values = confidences[score] as Float64Array;
      const confidence = values.map((value, i) => (refused[i] ? Number.NEGATIVE_INFINITY : value));
      return acceptanceCurve(score, { confidence, dice, units }, { tau, seed }) ?? [];
    });
}

function confidenceOf(found: Record<string, Estimate>, name: ConfidenceName): ConfidenceResult {
  const all = RANKING_NAMES.map((of) => [of, found[statistic.confidence(name, of)] as Estimate]);
  return Object.fromEntries(all) as ConfidenceResult;
}

function curveOf({ confidences, dice }: Measured, name: ConfidenceName, tau: number): QcCurve | undefined {
  const judged = (values: Float64Array) => values.filter((_, i) => !Number.isNaN(dice[i]));
  if (judged(dice).length === 0) return undefined;
  const { f, y, random, ideal, area } = qualityControlCurve(judged(confidences[name] as Float64Array), judged(dice), {
    tau,
    points: 101,
  });
  return { f, y, random, ideal, area };
}

const TESTED = ["dice", "mhd", "nll"] as const;

/** LE against each other method; on the means of units, where both have a value. */
function pairedTests(
  methods: readonly { method: MethodName; own: readonly Measured[] }[],
  units: Int32Array,
): PairedTest[] {
  const le = methods.find(({ method }) => method === "le");
  if (!le) return [];
  const values = (own: readonly Measured[], measure: string) =>
    imageMeans(own.map(({ columns }) => columns[measure] as Float64Array));
  return methods
    .filter(({ method }) => method !== "le")
    .flatMap(({ method: other, own }) =>
      TESTED.map((measure): PairedTest => {
        const { x, y } = pairs(values(le.own, measure), values(own, measure), units);
        return {
          measure,
          other,
          n: x.length,
          difference: x.length === 0 ? null : mean(x) - mean(y),
          wilcoxonP: orNull(wilcoxon(x, y).p),
          tP: orNull(pairedT(x, y).p),
        };
      }),
    );
}

/** Means over the images of each unit that have both values. */
function pairs(x: Float64Array, y: Float64Array, units: Int32Array): { x: number[]; y: number[] } {
  const sums = new Map<number, [number, number, number]>();
  x.forEach((value, i) => {
    const other = y[i] as number;
    if (Number.isNaN(value) || Number.isNaN(other)) return;
    const [a, b, n] = sums.get(units[i] as number) ?? [0, 0, 0];
    sums.set(units[i] as number, [a + value, b + other, n + 1]);
  });
  const all = [...sums.values()];
  return { x: all.map(([a, , n]) => a / n), y: all.map(([, b, n]) => b / n) };
}
