// The statistics of one run on one set of images, and what a bootstrap makes of those of several runs.
import type { Calibration } from "../metrics/index.js";
import type { Estimate, MeanEstimate } from "../results/comparison.js";
import { POOLED, type PooledName, RANKING_NAMES } from "../results/measures.js";
import { meanOfKnown, orNull, spread } from "../statistics/spread.js";
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

/** What the statistics of a run are taken of: one entry per image, NaN where there is none, the same order in every run. */
export interface Measured {
  /** Means are taken of these. */
  columns: Readonly<Record<string, Float64Array>>;
  /** Higher where surer; null for one that the run has not. */
  confidences: Readonly<Record<string, Float64Array | null>>;
  /** NaN for an image of which no pixel counts: what ranks by Dice leaves it out. */
  dice: Float64Array;
  mhd: Float64Array;
  /** Of each image's pixels. */
  calibration: readonly Calibration[];
}

/** One statistic of each kind by its name: the ECE of all pixels is another number than the mean of the images' ECE. */
export const statistic = {
  /** Mean over the images of a column. */
  mean: (column: string) => `mean of ${column}`,
  /** Of the pixels of all images together. */
  pooled: (name: PooledName) => `pooled ${name}`,
  /** Of a confidence, how well it ranks images and finds failures. */
  confidence: (confidence: string, name: (typeof RANKING_NAMES)[number]) => `${name} by ${confidence}`,
};

/** Every statistic of one run: prepared once, then computed for as many resamples as wanted. */
export class RunStatistics {
  readonly #units: Units;
  readonly #columns: { sum: Float64Array; count: Float64Array }[];
  readonly #pooled: PooledPixels;
  readonly #risk: Float64Array;
  readonly #failed: Uint8Array;
  readonly #byDice: Sorted;
  readonly #mhd: Float64Array;
  readonly #byMhd: Sorted;
  readonly #confidences: (Sorted | null)[];
  readonly #dice: Float64Array;
  readonly #diceRanks: Float64Array;
  readonly #mhdRanks: Float64Array;
  /** How often each image with a Dice, and with an MHD, is there. */
  readonly #diceTimes: Float64Array;
  readonly #mhdTimes: Float64Array;
  /** What {@link RunStatistics.compute} gives, in order: each of {@link statistic}. */
  readonly names: readonly string[];

  constructor(measured: Measured, units: Units, tau: number) {
    const { columns, confidences, dice, mhd, calibration } = measured;
    this.#units = units;
    this.#columns = Object.values(columns).map((values) => byUnit(values, units));
    this.#pooled = new PooledPixels(calibration, units);
    this.#dice = dice;
    this.#risk = dice.map((value) => (Number.isNaN(value) ? 0 : 1 - value));
    this.#failed = Uint8Array.from(dice, (value) => (value < tau ? 1 : 0));
    this.#byDice = sorted(dice);
    this.#mhd = mhd;
    this.#byMhd = sorted(mhd);
    this.#confidences = Object.values(confidences).map((values) => values && sorted(values));
    this.#diceRanks = new Float64Array(dice.length);
    this.#mhdRanks = new Float64Array(dice.length);
    this.#diceTimes = new Float64Array(dice.length);
    this.#mhdTimes = new Float64Array(dice.length);
    this.names = distinct([
      ...Object.keys(columns).map(statistic.mean),
      ...POOLED.map(statistic.pooled),
      ...Object.keys(confidences).flatMap((of) => RANKING_NAMES.map((name) => statistic.confidence(of, name))),
    ]);
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
    const pooled = this.#pooled.compute(times);
    for (const name of POOLED) out[at++] = pooled[name];
    const images = new Float64Array(of.length);
    for (let i = 0; i < images.length; i++) images[i] = times[of[i] as number] as number;
    this.#rank(images);
    const ideal = weightedIdealAurc(this.#byDice, this.#diceTimes, this.#risk);
    for (const confidence of this.#confidences) {
      const found = confidence && this.#confidence(confidence, ideal);
      for (const name of RANKING_NAMES) out[at++] = found ? found[name] : Number.NaN;
    }
  }

  /** Ranks the images with a Dice by that, and those with an MHD by that. */
  #rank(images: Float64Array): void {
    for (let i = 0; i < images.length; i++) {
      const times = images[i] as number;
      this.#diceTimes[i] = Number.isNaN(this.#dice[i] as number) ? 0 : times;
      this.#mhdTimes[i] = Number.isNaN(this.#mhd[i] as number) ? 0 : times;
    }
    weightedRanks(this.#byDice, this.#diceTimes, this.#diceRanks);
    weightedRanks(this.#byMhd, this.#mhdTimes, this.#mhdRanks);
  }

  #confidence(of: Sorted, ideal: number): Record<(typeof RANKING_NAMES)[number], number> {
    const found: FailureStatistics = weightedFailures(of, this.#diceTimes, this.#risk, this.#failed);
    return {
      ...found,
      eaurc: found.aurc - ideal,
      spearmanDice: weightedSpearman(of, this.#diceTimes, this.#diceRanks),
      spearmanMhd: weightedSpearman(of, this.#mhdTimes, this.#mhdRanks),
    };
  }
}

/** @throws where a name is there twice, so that one number would be taken for another */
function distinct(names: readonly string[]): readonly string[] {
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw new Error(`unreachable: two statistics are called "${twice}"`);
  return names;
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

/** The pixels of many images: per unit their number and sums, and per bin of confidence right minus confidence summed. */
class PooledPixels {
  readonly #bins: number;
  readonly #count: Float64Array;
  readonly #nll: Float64Array;
  readonly #brier: Float64Array;
  readonly #gap: Float64Array;

  constructor(calibration: readonly Calibration[], { count, of }: Units) {
    this.#bins = calibration[0]?.reliability.count.length ?? 0;
    this.#count = new Float64Array(count);
    this.#nll = new Float64Array(count);
    this.#brier = new Float64Array(count);
    this.#gap = new Float64Array(count * this.#bins);
    calibration.forEach(({ n, nll, brier, reliability }, i) => {
      if (n === 0) return;
      const u = of[i] as number;
      this.#count[u] = (this.#count[u] as number) + n;
      this.#nll[u] = (this.#nll[u] as number) + n * nll;
      this.#brier[u] = (this.#brier[u] as number) + n * brier;
      reliability.count.forEach((pixels, b) => {
        if (pixels === 0) return;
        const at = u * this.#bins + b;
        const gap = (reliability.accuracy[b] as number) - (reliability.meanConfidence[b] as number);
        this.#gap[at] = (this.#gap[at] as number) + pixels * gap;
      });
    });
  }

  /** NaN for no pixel. */
  compute(times: ArrayLike<number>): Record<PooledName, number> {
    const n = weighted(times, this.#count);
    let error = 0;
    for (let b = 0; b < this.#bins; b++) error += Math.abs(weighted(times, this.#gap, b, this.#bins));
    return { ece: error / n, brier: weighted(times, this.#brier) / n, nll: weighted(times, this.#nll) / n };
  }
}

/** Σ_u times[u] · values[from + u · step] */
function weighted(times: ArrayLike<number>, values: Float64Array, from = 0, step = 1): number {
  let sum = 0;
  for (let u = 0, at = from; u < times.length; u++, at += step) sum += (times[u] as number) * (values[at] as number);
  return sum;
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
      const value = meanOfKnown(perRun);
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
  return first.map((_, i) => spread(columns.map((column) => column[i] as number)).mean);
}
