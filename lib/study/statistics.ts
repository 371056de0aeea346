// The statistics of one run on one set of images, and what a bootstrap makes of those of several runs.
import type { Calibration } from "../metrics/index.js";
import {
  draw,
  type FailureStatistics,
  interval,
  type Sorted,
  sorted,
  type Units,
  weightedFailures,
  weightedIdealAurc,
  weightedRanks,
  weightedSpearman,
} from "./resampling.js";
import type { Estimate, MeanEstimate } from "./results.js";
import { spread } from "./spread.js";

/** What the statistics of a run are taken of: one entry per image, NaN where there is none, the same order in every run. */
export interface Measured {
  /** Means are taken of these. */
  columns: Readonly<Record<string, Float64Array>>;
  /** Higher where surer; null for one that the run has not. */
  confidences: Readonly<Record<string, Float64Array | null>>;
  /** Without gaps. */
  dice: Float64Array;
  mhd: Float64Array;
  /** Of each image's pixels. */
  calibration: readonly Calibration[];
}

/** What is known of each confidence: {@link ConfidenceResult}, in this order. */
const OF_CONFIDENCE = [
  "spearmanDice",
  "spearmanMhd",
  "aurc",
  "eaurc",
  "augrc",
  "auroc",
  "fpr95",
  "qcArea",
  "remaining5",
] as const;

/** Name of a confidence's statistic, as {@link RunStatistics} has it. */
export function ofConfidence(confidence: string, statistic: (typeof OF_CONFIDENCE)[number]): string {
  return `${confidence}/${statistic}`;
}

/** Every statistic of one run: prepared once, then computed for as many resamples as wanted. */
export class RunStatistics {
  readonly #measured: Measured;
  readonly #units: Units;
  readonly #columns: { sum: Float64Array; count: Float64Array }[];
  readonly #bins: PooledBins;
  readonly #risk: Float64Array;
  readonly #failed: Uint8Array;
  readonly #byDice: Sorted;
  readonly #byMhd: Sorted;
  readonly #confidences: (Sorted | null)[];
  readonly #ranks: Float64Array;
  readonly #mhdTimes: Float64Array;
  /** What {@link RunStatistics.compute} gives, in order. */
  readonly names: readonly string[];

  constructor(measured: Measured, units: Units, tau: number) {
    const { columns, confidences, dice, mhd, calibration } = measured;
    this.#measured = measured;
    this.#units = units;
    this.#columns = Object.values(columns).map((values) => byUnit(values, units));
    this.#bins = new PooledBins(calibration, units);
    this.#risk = dice.map((value) => 1 - value);
    this.#failed = Uint8Array.from(dice, (value) => (value < tau ? 1 : 0));
    this.#byDice = sorted(dice);
    this.#byMhd = sorted(mhd);
    this.#confidences = Object.values(confidences).map((values) => values && sorted(values));
    this.#ranks = new Float64Array(dice.length);
    this.#mhdTimes = new Float64Array(dice.length);
    this.names = [
      ...Object.keys(columns),
      "ece",
      ...Object.keys(confidences).flatMap((name) => OF_CONFIDENCE.map((statistic) => ofConfidence(name, statistic))),
    ];
  }

  /**
   * The statistics of images of which those of unit u are there `times[u]` times; NaN where not defined.
   * @param out as long as `names`
   */
  compute(times: ArrayLike<number>, out: Float64Array): void {
    const { of, count } = this.#units;
    let at = 0;
    for (const column of this.#columns) {
      let sum = 0;
      let n = 0;
      for (let u = 0; u < count; u++) {
        sum += (times[u] as number) * (column.sum[u] as number);
        n += (times[u] as number) * (column.count[u] as number);
      }
      out[at++] = sum / n;
    }
    out[at++] = this.#bins.ece(times);
    const images = new Float64Array(of.length);
    for (let i = 0; i < images.length; i++) images[i] = times[of[i] as number] as number;
    this.#failures(images, out, at);
    this.#correlations(images, out, at);
  }

  #failures(images: Float64Array, out: Float64Array, from: number): void {
    const ideal = weightedIdealAurc(this.#byDice, images, this.#risk);
    let at = from;
    for (const confidence of this.#confidences) {
      if (confidence === null) out.fill(Number.NaN, at, at + OF_CONFIDENCE.length);
      else {
        const found: FailureStatistics = weightedFailures(confidence, images, this.#risk, this.#failed);
        out[at + 2] = found.aurc;
        out[at + 3] = found.aurc - ideal;
        out[at + 4] = found.augrc;
        out[at + 5] = found.auroc;
        out[at + 6] = found.fpr95;
        out[at + 7] = found.qcArea;
        out[at + 8] = found.remaining5;
      }
      at += OF_CONFIDENCE.length;
    }
  }

  #correlations(images: Float64Array, out: Float64Array, from: number): void {
    weightedRanks(this.#byDice, images, this.#ranks);
    this.#confidences.forEach((confidence, c) => {
      if (confidence) out[from + c * OF_CONFIDENCE.length] = weightedSpearman(confidence, images, this.#ranks);
    });
    const { mhd } = this.#measured;
    for (let i = 0; i < mhd.length; i++) this.#mhdTimes[i] = Number.isNaN(mhd[i] as number) ? 0 : (images[i] as number);
    this.#ranks.fill(0);
    weightedRanks(this.#byMhd, this.#mhdTimes, this.#ranks);
    this.#confidences.forEach((confidence, c) => {
      if (confidence)
        out[from + c * OF_CONFIDENCE.length + 1] = weightedSpearman(confidence, this.#mhdTimes, this.#ranks);
    });
  }
}

/** Sums and counts of what is not NaN, by unit. */
function byUnit(values: Float64Array, { count, of }: Units) {
  const sums = { sum: new Float64Array(count), count: new Float64Array(count) };
  values.forEach((value, i) => {
    if (Number.isNaN(value)) return;
    const u = of[i] as number;
    sums.sum[u] = (sums.sum[u] as number) + value;
    sums.count[u] = (sums.count[u] as number) + 1;
  });
  return sums;
}

/** Reliability bins of many images: per unit and bin the pixels, and right minus confidence summed. */
class PooledBins {
  readonly #bins: number;
  readonly #count: Float64Array;
  readonly #gap: Float64Array;

  constructor(calibration: readonly Calibration[], { count, of }: Units) {
    this.#bins = calibration[0]?.reliability.count.length ?? 0;
    this.#count = new Float64Array(count * this.#bins);
    this.#gap = new Float64Array(count * this.#bins);
    calibration.forEach(({ reliability }, i) => {
      reliability.count.forEach((n, b) => {
        if (n === 0) return;
        const at = (of[i] as number) * this.#bins + b;
        const { accuracy, meanConfidence } = reliability;
        this.#count[at] = (this.#count[at] as number) + n;
        this.#gap[at] = (this.#gap[at] as number) + n * ((accuracy[b] as number) - (meanConfidence[b] as number));
      });
    });
  }

  /** NaN for no pixel. */
  ece(times: ArrayLike<number>): number {
    let n = 0;
    let error = 0;
    for (let b = 0; b < this.#bins; b++) {
      let gap = 0;
      for (let u = 0, at = b; u < times.length; u++, at += this.#bins) {
        gap += (times[u] as number) * (this.#gap[at] as number);
        n += (times[u] as number) * (this.#count[at] as number);
      }
      error += Math.abs(gap);
    }
    return error / n;
  }
}

/** What images of one set are drawn as. */
export interface Resamples {
  units: Units;
  /** Per resample, how often each unit is there. */
  draws: readonly Uint16Array[];
}

/** Draws once for all runs that are compared. */
export function resamplesOf(units: Units, resamples: number, seed: number): Resamples {
  return { units, draws: draw(units.count, resamples, seed) };
}

/** Estimates of the mean over some runs (seeds) of each of their statistics; what is undefined for a run is left out. */
export function estimates(runs: readonly RunStatistics[], { units, draws }: Resamples): Record<string, Estimate> {
  const names = (runs[0] as RunStatistics).names;
  const once = new Uint16Array(units.count).fill(1);
  const whole = runs.map((run) => {
    const out = new Float64Array(names.length);
    run.compute(once, out);
    return out;
  });
  const distributions = names.map(() => new Float64Array(draws.length));
  const out = new Float64Array(names.length);
  const sum = new Float64Array(names.length);
  const defined = new Float64Array(names.length);
  draws.forEach((times, r) => {
    sum.fill(0);
    defined.fill(0);
    for (const run of runs) {
      run.compute(times, out);
      for (let s = 0; s < out.length; s++) {
        const value = out[s] as number;
        if (Number.isNaN(value)) continue;
        sum[s] = (sum[s] as number) + value;
        defined[s] = (defined[s] as number) + 1;
      }
    }
    for (let s = 0; s < out.length; s++)
      (distributions[s] as Float64Array)[r] = (sum[s] as number) / (defined[s] as number);
  });
  return Object.fromEntries(
    names.map((name, s) => {
      const perRun = whole.map((values) => orNull(values[s] as number));
      const value = mean(perRun);
      const bounds = value === null ? { low: null, high: null } : interval(distributions[s] as Float64Array);
      return [name, { value, ...bounds, perRun }];
    }),
  );
}

/** Completes the estimate of a mean over images by how the images spread. @param columns of each run */
export function meanEstimate(estimate: Estimate, columns: readonly Float64Array[]): MeanEstimate {
  const { sd, n, leftOut } = spread(imageMeans(columns));
  const leftOutPerRun = columns.map((column) =>
    column.reduce((count, value) => count + Number(Number.isNaN(value)), 0),
  );
  return { ...estimate, sd: orNull(sd), n, leftOut, leftOutPerRun };
}

/** Each image's mean over the runs where it has a value; NaN where it has none. */
export function imageMeans(columns: readonly Float64Array[]): Float64Array {
  const first = columns[0] as Float64Array;
  return first.map((_, i) => {
    let sum = 0;
    let n = 0;
    for (const column of columns) {
      const value = column[i] as number;
      if (Number.isNaN(value)) continue;
      sum += value;
      n++;
    }
    return sum / n;
  });
}

/** Null for no value. */
export function mean(values: readonly (number | null)[]): number | null {
  const defined = values.filter((value) => value !== null);
  return defined.length === 0 ? null : defined.reduce((sum, value) => sum + value, 0) / defined.length;
}

export function orNull(value: number): number | null {
  return Number.isNaN(value) ? null : value;
}
