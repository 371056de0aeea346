// What the images of one run come to: means, per class and group too, and whether confidence finds the failures.
import type { Cropped } from "../data/cropped.js";
import type { Ignored } from "../data/labels.js";
import type { Units } from "../grid/index.js";
import { QUALITY_NAMES, type QualityName, spearman } from "../metrics/index.js";
import { defaultsOf } from "../options.js";
import type { Comparison, Estimate, RunRecord } from "../results/comparison.js";
import { FAILURE_NAMES, LIKELIHOODS, POOLED, type PooledName } from "../results/measures.js";
import { IMAGE_SCORE_NAMES, rankingScores, recordedRank, SCORES } from "../scores/scores.js";
import { type Spread, spread } from "../statistics/spread.js";
import { unitOf } from "./aggregate.js";
import { pooledCalibration } from "./evaluate.js";
import { croppedIn, type ImageScore, ignoredIn } from "./records.js";
import { unitsOf } from "./resampling.js";
import { estimates, RunStatistics, resamplesOf, statistic } from "./statistics.js";
import { SUMMARISE, type SummaryOptions } from "./summary-options.js";

/** Measures of an image as a whole, in the order of files. */
export const MEASURE_NAMES = [...QUALITY_NAMES, ...LIKELIHOODS, ...IMAGE_SCORE_NAMES] as const;

/** One of {@link MEASURE_NAMES}. */
export type MeasureName = (typeof MEASURE_NAMES)[number];

/** A mean over images with its percentile bootstrap interval of 95 %; null where there is none. */
export interface Measure extends Spread {
  low: number | null;
  high: number | null;
}

/** How well a confidence ranks images by Dice: near 1 for a good confidence, near -1 for a good uncertainty. */
export interface Correlation {
  rho: number;
  p: number;
  n: number;
}

/** Whether a confidence, or minus an uncertainty, finds the failures: definitions in docs/metrics.md, §6. */
export type FailureDetection = Record<(typeof FAILURE_NAMES)[number], Omit<Estimate, "perRun">>;

/** What an evaluation comes to. */
export interface Summary {
  images: number;
  /** Images with a pixel that counts; the others have no Dice, and what ranks by Dice leaves them out. */
  withDice: number;
  /** What does not count. */
  ignored: Ignored;
  /** What the network did not see. */
  cropped: Cropped;
  /** Images with Dice below `tau`. */
  failed: number;
  tau: number;
  /** Of lengths and sizes. */
  units: Units;
  bootstrap: Comparison["bootstrap"];
  means: Record<MeasureName, Measure>;
  /** By name of the scored class. */
  classes: Record<string, Record<QualityName, Measure>>;
  /** Means over the images of each group; empty where there are no groups. */
  groups: Record<string, { images: number } & Record<MeasureName, number>>;
  /** By kept head: Dice of its own mask. */
  headDice: Record<string, Measure>;
  /** Over all pixels of all images. */
  calibration: RunRecord["calibration"] & Record<`${PooledName}${"Low" | "High"}`, number | null>;
  spearmanWithDice: Record<string, Correlation & { low: number | null; high: number | null }>;
  failureDetection: Record<string, FailureDetection>;
}

/** How an evaluation is summarised. */
export interface SummariseOptions extends SummaryOptions {
  /** Background first. */
  classNames: readonly string[];
  /** Foreground classes that were scored. */
  scored: readonly number[];
  /** Names of the kept heads. */
  heads: readonly string[];
  /** Of lengths and sizes, the same for all images. */
  units: Units;
}

/** Means, intervals, correlations and the finding of failures, over images. */
export function summarise(scores: readonly ImageScore[], options: SummariseOptions): Summary {
  const {
    classNames,
    scored,
    heads,
    units: told,
    unit = unitOf(scores),
    ...more
  } = { ...defaultsOf(SUMMARISE), ...options };
  const { resamples, seed } = more;
  // By id, so that the same images give the same intervals in whatever order they come.
  const images = [...scores].sort((a, b) => (a.id < b.id ? -1 : 1));
  const all = (pick: (score: ImageScore) => number | null | undefined) =>
    Float64Array.from(images, (score) => pick(score) ?? Number.NaN);
  const columns: Record<string, Float64Array> = {};
  for (const name of MEASURE_NAMES) columns[name] = all((score) => measureOf(score, name));
  for (const c of scored)
    for (const name of QUALITY_NAMES) columns[`${name}/${c}`] = all((score) => score.quality.perClass[c]?.[name]);
  for (const [k, name] of heads.entries()) columns[`head/${name}`] = all((score) => score.headDice[k]);
  const ranked = rankingScores(images).map((name) => ({
    name,
    sign: SCORES[name].surer === "high" ? 1 : -1,
    values: all((score) => recordedRank(score, name)),
  }));
  const dice = columns.dice as Float64Array;
  const tau = more.tau === "auto" ? fifth(dice) : more.tau;
  const units = unitsOf(
    images.map(({ group }) => group),
    unit,
  );
  const run = new RunStatistics(
    {
      columns,
      confidences: Object.fromEntries(
        ranked.map(({ name, values }) => [name, values.some(Number.isNaN) ? null : values]),
      ),
      dice,
      mhd: columns.modifiedHausdorff as Float64Array,
      calibration: images.map(({ calibration }) => calibration),
    },
    units,
    tau,
  );
  const found = estimates([run], resamplesOf(units, resamples, seed));
  const measure = (name: string): Measure => {
    const { low, high } = found[statistic.mean(name)] as Estimate;
    return { ...spread(columns[name] as Float64Array), low, high };
  };
  const pooledBounds = POOLED.flatMap((name) => {
    const { low, high } = found[statistic.pooled(name)] as Estimate;
    return [[`${name}Low`, low] as const, [`${name}High`, high] as const];
  });
  return {
    images: images.length,
    withDice: dice.reduce((count, value) => count + Number(!Number.isNaN(value)), 0),
    ignored: ignoredIn(images),
    cropped: croppedIn(images),
    failed: dice.reduce((count, value) => count + Number(value < tau), 0),
    tau,
    units: told,
    bootstrap: { resamples, seed, unit },
    means: record(MEASURE_NAMES, measure),
    classes: Object.fromEntries(
      scored.map((c) => [classNames[c] as string, record(QUALITY_NAMES, (name) => measure(`${name}/${c}`))]),
    ),
    groups: groupMeans(images),
    headDice: record(heads, (name) => measure(`head/${name}`)),
    calibration: {
      ...pooledCalibration(images.map(({ calibration }) => calibration)),
      ...(Object.fromEntries(pooledBounds) as Record<`${PooledName}${"Low" | "High"}`, number | null>),
    },
    spearmanWithDice: Object.fromEntries(
      ranked.map(({ name, values, sign }) => {
        const { low, high } = found[statistic.confidence(name, "spearmanDice")] as Estimate;
        const bounds = sign > 0 ? { low, high } : { low: high && -high, high: low && -low };
        return [name, { ...correlate([...values.map((value) => sign * value)], [...dice]), ...bounds }];
      }),
    ),
    failureDetection: Object.fromEntries(ranked.map(({ name }) => [name, failureDetection(found, name)])),
  };
}

/** A measure of one image as a whole; NaN or null where it is not defined. */
export function measureOf(score: ImageScore, name: MeasureName): number | null {
  switch (name) {
    case "adaptiveEce":
      return score.calibration.adaptiveEce;
    case "classwiseEce":
      return score.calibration.classwiseEce.mean;
    default:
      return name in score.quality.image
        ? score.quality.image[name as QualityName]
        : score[name as Exclude<MeasureName, QualityName | "adaptiveEce" | "classwiseEce">];
  }
}

function failureDetection(found: Record<string, Estimate>, name: string): FailureDetection {
  return record(FAILURE_NAMES, (of) => {
    const { perRun, ...estimate } = found[statistic.confidence(name, of)] as Estimate;
    return estimate;
  });
}

function groupMeans(images: readonly ImageScore[]): Summary["groups"] {
  const groups = new Map<string, ImageScore[]>();
  for (const score of images) {
    if (score.group === null) continue;
    groups.set(score.group, [...(groups.get(score.group) ?? []), score]);
  }
  return Object.fromEntries(
    [...groups].map(([group, own]) => [
      group,
      {
        images: own.length,
        ...record(MEASURE_NAMES, (name) => spread(own.map((of) => measureOf(of, name) ?? Number.NaN)).mean),
      },
    ]),
  );
}

/** Below it is a fifth of the values. */
function fifth(values: Float64Array): number {
  const defined = values.filter((value) => !Number.isNaN(value)).sort();
  return defined[Math.floor(defined.length / 5)] ?? Number.NaN;
}

function record<K extends string, T>(names: readonly K[], make: (name: K) => T): Record<K, T> {
  return Object.fromEntries(names.map((name) => [name, make(name)])) as Record<K, T>;
}

/** Spearman's rank correlation of pairs where both are defined. */
export function correlate(values: readonly number[], quality: readonly number[]): Correlation {
  const kept = values
    .map((value, i) => [value, quality[i] as number] as const)
    .filter((pair) => !pair.some(Number.isNaN));
  const { rho, p } = spearman(
    kept.map(([value]) => value),
    kept.map(([, dice]) => dice),
  );
  return { rho, p, n: kept.length };
}
