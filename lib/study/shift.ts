// Does a confidence tell shifted images from those in distribution, and does it flag them?

import type { Comparison, Estimate, RunRecord, ShiftRow } from "../results/comparison.js";
import { METHODS } from "../runs/methods.js";
import { CONFIDENCES, LEAST_SURE, recordedConfidences } from "../scores/scores.js";
import { meanOfKnown, orNull } from "../statistics/spread.js";
import { unitOf } from "./aggregate.js";
import { draw, interval, sorted, type Units, unitsOf, weightedFailures } from "./resampling.js";

/** How a shift is measured. */
export interface ShiftSettings {
  summary: Comparison["summary"];
  /** `unit` holds of the images in distribution; that of the shifted ones follows from their own groups. */
  bootstrap: Comparison["bootstrap"];
  /** Share of the images in distribution to flag, in [0, 1). */
  flag: number;
}

/** The same run on both sets; images in the order of their ids. */
interface Sides {
  inside: RunRecord;
  outside: RunRecord;
}

/**
 * A row for each method and confidence that it has.
 * @param inside runs on the images in distribution; their classDice is of the classes that are scored on both sets
 * @param outside the same runs on the shifted images
 */
export function shiftRows(
  inside: readonly RunRecord[],
  outside: readonly RunRecord[],
  settings: ShiftSettings,
): ShiftRow[] {
  const sides = inside.map((run, r): Sides => ({ inside: inOrder(run), outside: inOrder(outside[r] as RunRecord) }));
  const { bootstrap, summary, flag } = settings;
  const sets = (["inside", "outside"] as const).map((side, s) => {
    const groups = (sides[0] as Sides)[side].images.map(({ group }) => group);
    const unit =
      side === "inside" || bootstrap.unit === "image" ? bootstrap.unit : unitOf((sides[0] as Sides)[side].images);
    const units = unitsOf(groups, unit);
    return { units, draws: draw(units.count, bootstrap.resamples, bootstrap.seed + s) };
  }) as [Drawn, Drawn];
  return METHODS.flatMap((method) => {
    const own = sides.filter((side) => side.inside.method === method);
    if (own.length === 0) return [];
    const dice = (side: "inside" | "outside") =>
      meanOfKnown(own.map((of) => meanOfKnown(of[side].images.map((image) => meanOfKnown(image.classDice)))));
    const [diceIn, diceOut] = [dice("inside"), dice("outside")];
    return CONFIDENCES.flatMap((confidence): ShiftRow[] => {
      const values = own.map((of) =>
        [of.inside, of.outside].map(({ images, heads }) =>
          recordedConfidences(images, confidence, { heads: heads.length, summary }),
        ),
      );
      if (values.some((pair) => pair.includes(null))) return [];
      const pairs = values as [Float64Array, Float64Array][];
      const limits = pairs.map(([known]) => thresholdOf(known, flag));
      const flaggedIn = meanOfKnown(pairs.map(([known], r) => shareBelow(known, limits[r] as number)));
      const estimate = estimatesOf(pairs, limits, sets);
      const thresholds = limits.map((limit) => (Number.isFinite(limit) ? limit : null));
      return [{ method, confidence, diceIn, diceOut, thresholds, flaggedIn: flaggedIn as number, ...estimate }];
    });
  });
}

function joined(a: Float64Array, b: Float64Array): Float64Array {
  const both = new Float64Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

interface Drawn {
  units: Units;
  draws: Uint16Array[];
}

/** A run with its images in the order of their ids: no result depends on that in which they came. */
export function inOrder(run: RunRecord): RunRecord {
  return { ...run, images: [...run.images].sort((a, b) => (a.id < b.id ? -1 : 1)) };
}

/** At most this share of the values is below it, but for empty images, which are flagged whatever it is. */
function thresholdOf(values: Float64Array, share: number): number {
  const known = values.slice().sort();
  const threshold = known[Math.floor(share * known.length)] as number;
  return threshold > LEAST_SURE ? threshold : (known.find((value) => value > LEAST_SURE) ?? Number.POSITIVE_INFINITY);
}

function shareBelow(values: Float64Array, threshold: number): number {
  return values.reduce((count, value) => count + Number(value < threshold), 0) / values.length;
}

function estimatesOf(
  pairs: readonly [Float64Array, Float64Array][],
  thresholds: readonly number[],
  [inside, outside]: [Drawn, Drawn],
): { auroc: Estimate; flaggedOut: Estimate } {
  const known = inside.units.of.length;
  const all = known + outside.units.of.length;
  const shifted = Uint8Array.from({ length: all }, (_, i) => (i < known ? 0 : 1));
  const flat = new Float64Array(all);
  const times = new Float64Array(all);
  const runs = pairs.map(([a, b], r) => ({
    order: sorted(joined(a, b)),
    below: Uint8Array.from(b, (value) => (value < (thresholds[r] as number) ? 1 : 0)),
  }));
  const measure = (of: (typeof runs)[number]) => {
    let flagged = 0;
    let n = 0;
    for (let i = known; i < all; i++) {
      n += times[i] as number;
      flagged += (times[i] as number) * (of.below[i - known] as number);
    }
    return { auroc: weightedFailures(of.order, times, flat, shifted).auroc, flaggedOut: flagged / n };
  };
  times.fill(1);
  const once = runs.map(measure);
  const aurocs = new Float64Array(inside.draws.length);
  const shares = new Float64Array(inside.draws.length);
  inside.draws.forEach((timesIn, r) => {
    const timesOut = outside.draws[r] as Uint16Array;
    for (let i = 0; i < known; i++) times[i] = timesIn[inside.units.of[i] as number] as number;
    for (let i = known; i < all; i++) times[i] = timesOut[outside.units.of[i - known] as number] as number;
    const found = runs.map(measure);
    aurocs[r] = found.reduce((sum, { auroc }) => sum + auroc, 0) / found.length;
    shares[r] = found.reduce((sum, { flaggedOut }) => sum + flaggedOut, 0) / found.length;
  });
  const estimate = (perRun: number[], distribution: Float64Array): Estimate => ({
    value: meanOfKnown(perRun.map(orNull)),
    ...interval(distribution),
    perRun: perRun.map(orNull),
  });
  return {
    auroc: estimate(
      once.map(({ auroc }) => auroc),
      aurocs,
    ),
    flaggedOut: estimate(
      once.map(({ flaggedOut }) => flaggedOut),
      shares,
    ),
  };
}
