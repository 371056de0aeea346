// An image in which no head finds anything is the least sure, whatever ranks the images and where: as the gate has it.
import { describe, expect, it } from "vitest";
import { aurc, type NdArray, scoreHeads, skipCurve, spearman } from "../../lib/metrics/index.js";
import type { RunRecord } from "../../lib/results/comparison.js";
import { acceptability } from "../../lib/scores/gate.js";
import {
  confidenceOf,
  LEAST_SURE,
  rankedConfidence,
  recordedConfidence,
  recordedScore,
  recordScores,
  SCORE_NAMES,
  SCORES,
} from "../../lib/scores/scores.js";
import { aggregate } from "../../lib/study/aggregate.js";
import { shiftRows } from "../../lib/study/shift.js";
import { type TuneImage, tune } from "../../lib/tuning/tune.js";
import { madeRun, SETTINGS } from "./support/study.js";

const shape = [8, 8];
const square = (side: number) => Uint8Array.from({ length: 64 }, (_, i) => Number(i % 8 < side && i >> 3 < side));

/** Heads whose masks are squares of these sides; 0 finds nothing. */
function image(sides: readonly number[], truth: number): TuneImage {
  const heads = sides.map((side): NdArray => {
    const ones = Float32Array.from(square(side), (y) => (y === 1 ? 2 : -2));
    return { data: Float32Array.of(...ones.map((z) => -z), ...ones), shape: [2, ...shape] };
  });
  return { heads, truth: { data: square(truth), shape } };
}

// Three that are found, the last of them badly and with the least agreement, and one that every layer misses.
const images = [image([4, 4, 4, 4], 4), image([5, 4, 4, 4], 4), image([1, 2, 2, 2], 5), image([0, 0, 0, 0], 4)];
const risks = [0, 0, 1 - (2 * 4) / (4 + 25), 1];
const missed = scoreHeads(images[3]?.heads as NdArray[]);

describe("an empty result", () => {
  it("is less sure than any other, by every score that is defined", () => {
    const found = scoreHeads(images[2]?.heads as NdArray[]);
    expect(missed).toMatchObject({ empty: true, aula: { value: 2 } });
    const defined = SCORE_NAMES.filter((name) => !Number.isNaN(confidenceOf(missed, name)));
    expect(defined).toEqual(expect.arrayContaining(["aula", "pairwiseAgreement", "entropy.sum", "softDiceConfidence"]));
    for (const name of SCORE_NAMES) {
      const is = defined.includes(name);
      expect(rankedConfidence(missed, name), name).toEqual(is ? LEAST_SURE : Number.NaN);
      expect(rankedConfidence(found, name), name).toEqual(confidenceOf(found, name));
      const record = recordScores(missed);
      expect(recordedConfidence(record, name, { heads: 4, summary: "sum" }), name).toBe(is ? LEAST_SURE : null);
      // What is told of it is what it is.
      if (is) expect(recordedScore(record, name)).toBe(SCORES[name].of(missed));
    }
    expect(acceptability(missed, "aula")).toBe(Number.NEGATIVE_INFINITY);
    expect(rankedConfidence(scoreHeads((images[3]?.heads ?? []).slice(2)), "aula")).toBeNaN();
  });

  it("is last where heads are chosen, and for the gate, which it does not move", async () => {
    const expected = aurc([2, 1.9, 1.5, LEAST_SURE], risks); // the order alone counts
    const sides = aurc([2, 1.9, 1.5, 2], risks);
    expect(expected).toBeLessThan(sides);
    expect(skipCurve(images)[0]?.aurc).toBeCloseTo(expected, 6);
    const source = (own: readonly TuneImage[]) =>
      async function* () {
        yield* own;
      };
    for (const score of ["aula", "pairwiseAgreement", "entropy.mean"] as const) {
      const tuned = await tune(source(images), 4, { score, choose: false, gate: { flag: 0.25 } });
      const ranking = tuned.score.ranking[0]?.aurc as number;
      if (score !== "entropy.mean") expect(ranking).toBeCloseTo(expected, 6);
      // A quarter is flagged without any threshold.
      const known = images.slice(0, 3).map(({ heads }) => confidenceOf(scoreHeads(heads as NdArray[]), score));
      expect(tuned.gate).toMatchObject({ threshold: expect.closeTo(Math.min(...known), 6), flagged: 0.25 });
      const half = await tune(source(images), 4, { score, choose: false, gate: { flag: 0.5 } });
      expect(half.gate?.flagged).toBe(0.5);
      expect(half.gate?.threshold).toBeGreaterThan(Math.min(...known));
      const strict = await tune(source(images), 4, { score: "aula", choose: false, gate: { tau: 0.2 } });
      expect(strict.gate).toMatchObject({ flagged: 0.25, unseen: 0 });
    }
    const none = await tune(source([image([0, 0, 0], 4), image([0, 0, 0], 3)]), 2, {
      ...{ score: "aula", choose: false, gate: { flag: 0 } },
    });
    expect(none.gate).toMatchObject({ threshold: 0, flagged: 1 });
  });

  it("is last in a comparison, of images and of shifted ones", () => {
    const values = [3, 2, 1, 4];
    const dice = [0.9, 0.8, 0.5, 0];
    const run = madeRun({
      images: 4,
      heads: 6,
      change: (_, i) => ({ aula: values[i] as number, dice: dice[i] as number, empty: i === 3 }),
    });
    const [le] = aggregate([run], SETTINGS).methods;
    const ranked = [3, 2, 1, 0];
    const risk = dice.map((value) => 1 - value);
    expect(le?.confidence.aula?.aurc.value).toBeCloseTo(aurc(ranked, risk), 12);
    expect(le?.confidence.aula?.aurc.value).toBeLessThan(aurc(values, risk));
    expect(le?.confidence.aula?.spearmanDice.value).toBeCloseTo(spearman(ranked, dice).rho, 12);
    expect(le?.scoreRanks?.find(({ score }) => score === "aula")?.aurc.value).toBeCloseTo(aurc(ranked, risk), 12);

    const side = (own: readonly number[], empty: readonly number[]): RunRecord =>
      madeRun({
        images: own.length,
        heads: 6,
        change: (_, i) => ({ aula: own[i] as number, empty: empty.includes(i), classDice: [0.5, 0.7] }),
      }).record;
    const rows = (known: RunRecord, other: RunRecord) =>
      shiftRows([known], [other], { ...SETTINGS, flag: 0.25 }).find(({ confidence }) => confidence === "aula");
    // Of four a fourth is flagged below the second, as one is empty; on the other side one is below that, and one empty.
    expect(rows(side([4, 2, 3, 3.5], [0]), side([4, 1, 3, 3], [0]))).toMatchObject({
      ...{ thresholds: [2], flaggedIn: 0.25, flaggedOut: { value: 0.5 } },
    });
    expect(rows(side([4, 4, 3, 3.5], [0, 1]), side([4, 1, 3, 3], []))).toMatchObject({
      ...{ thresholds: [3], flaggedIn: 0.5, flaggedOut: { value: 0.25 } },
    });
    expect(rows(side([4, 4], [0, 1]), side([4, 1], []))).toMatchObject({ thresholds: [null], flaggedIn: 1 });
  });
});
