// The scores of one method against each other: AURC, and how far above that of the best, on the same resamples.
import type { Estimate, ScoreRank } from "../results/comparison.js";
import type { ScoreName } from "../scores/scores.js";
import { meanOfKnown, orNull } from "../statistics/spread.js";
import { interval, sorted, weightedFailures } from "./resampling.js";
import type { Resamples } from "./statistics.js";

/** One run's images: NaN for a Dice that is not defined, and that leaves the image out. */
export interface ScoredImages {
  dice: Float64Array;
  /** Whether the gate sends it to a person whatever its score: no head found any foreground, or its volume is unlike the training's. */
  refused: readonly boolean[];
  /** Higher where surer. Every run of a method has the same scores. */
  confidences: Partial<Record<ScoreName, Float64Array>>;
}

/** AURC of a score. */
interface Aurc {
  perRun: Float64Array;
  /** Of each resample, the mean over the runs. */
  drawn: Float64Array;
}

/** Scores by AURC, the lowest first; empty where no image has a Dice. @param runs of one method, the same images in each */
export function rankScores(runs: readonly Omit<ScoredImages, "refused">[], resamples: Resamples): ScoreRank[] {
  const names = Object.keys(runs[0]?.confidences ?? {}) as ScoreName[];
  const ranked = names
    .map((score) => {
      const of = aurcOf(runs, score, resamples);
      return { score, of, aurc: estimateOf(of) };
    })
    .filter(({ aurc }) => aurc.value !== null)
    .sort((a, b) => (a.aurc.value as number) - (b.aurc.value as number));
  const best = ranked[0]?.of;
  return ranked.map(({ score, of, aurc }) => ({
    score,
    aurc,
    aboveBest: best === undefined || of === best ? null : estimateOf(difference(of, best)),
  }));
}

function estimateOf({ perRun, drawn }: Aurc): Estimate {
  const each = Array.from(perRun, orNull);
  return { value: meanOfKnown(each), ...interval(drawn), perRun: each };
}

function difference(a: Aurc, b: Aurc): Aurc {
  const minus = (x: Float64Array, y: Float64Array) => x.map((value, i) => value - (y[i] as number));
  return { perRun: minus(a.perRun, b.perRun), drawn: minus(a.drawn, b.drawn) };
}

function aurcOf(runs: readonly Omit<ScoredImages, "refused">[], score: ScoreName, { units, draws }: Resamples): Aurc {
  const once = new Uint16Array(units.count).fill(1);
  const perRun = new Float64Array(runs.length);
  const drawn = new Float64Array(draws.length);
  runs.forEach(({ dice, confidences }, r) => {
    const order = sorted(
      (confidences[score] as Float64Array).map((value, i) => (Number.isNaN(dice[i]) ? Number.NaN : value)),
    );
    const risk = dice.map((value) => 1 - value);
    const failed = new Uint8Array(dice.length);
    const times = new Float64Array(dice.length);
    const of = (ofUnits: Uint16Array) => {
      for (let i = 0; i < times.length; i++) times[i] = ofUnits[units.of[i] as number] as number;
      return weightedFailures(order, times, risk, failed).aurc;
    };
    perRun[r] = of(once);
    draws.forEach((draw, d) => {
      drawn[d] = (drawn[d] as number) + of(draw) / runs.length;
    });
  });
  return { perRun, drawn };
}
