// What a certificate of one half accepts of the other.
import { describe, expect, it } from "vitest";
import { Random } from "../../lib/random.js";
import { acceptanceCurve } from "../../lib/study/acceptance.js";
import { aggregate } from "../../lib/study/aggregate.js";
import { madeRun, SETTINGS } from "./support/study.js";

const alone = (count: number) => ({ count, of: Int32Array.from({ length: count }, (_, i) => i) });
const of = (confidence: ArrayLike<number>, dice: ArrayLike<number>, units = alone(dice.length)) =>
  acceptanceCurve(
    "softDiceConfidence",
    { confidence: Float64Array.from(confidence), dice: Float64Array.from(dice), units },
    { tau: 0.8, seed: 1 },
  );
const range = <T>(count: number, make: (i: number) => T) => Array.from({ length: count }, (_, i) => make(i));

describe("acceptance by promise", () => {
  it("is of all where nothing fails and the half is large enough to prove it", () => {
    // Equal confidences: one threshold, which all pass. (1 - α)^20 ≤ .1 from α = .109 on.
    const curve = of(
      range(40, () => 1),
      range(40, () => 0.9),
    );
    expect(curve).toMatchObject({ rule: "conditional", tau: 0.8, delta: 0.1, halves: 100 });
    expect(curve?.points.map(({ alpha, accepted, failed }) => [alpha, accepted, failed])).toEqual([
      ...[0.05, 0.1].map((alpha) => [alpha, 0, 0]),
      ...[0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5].map((alpha) => [alpha, 1, 0]),
    ]);
  });

  it("has of failures a mean, and what all but δ of the halves keep below", () => {
    // Equal confidences, 10 failures of 40: of the other half 10 - k, where k are among the cases. α = .45 is proved where
    // P(Bin(20, .45) ≤ k) ≤ .1, so for k ≤ 5: then at least 5 of 20 fail, and nothing is accepted elsewhere.
    const curve = of(
      range(40, () => 1),
      range(40, (i) => (i < 10 ? 0.5 : 0.9)),
    );
    const { accepted = 0, failed, failedHigh } = curve?.points.find(({ alpha }) => alpha === 0.45) ?? {};
    expect(accepted).toBeGreaterThan(0.5);
    expect(accepted).toBeLessThan(0.8);
    expect(failed).toBeGreaterThan(0.25 * accepted);
    expect([0.3, 0.35, 0.4]).toContain(failedHigh);
  });

  it("is of none where all fails", () => {
    const curve = of(
      range(40, (i) => i),
      range(40, () => 0.5),
    );
    for (const point of curve?.points ?? []) expect(point).toMatchObject({ accepted: 0, failed: 0, failedHigh: 0 });
  });

  it("never has what no threshold accepts, nor images without a Dice", () => {
    // 40 good ones, 40 that are empty, 20 without a Dice: of halves of 40, those of the 40 good that fall into the other.
    const curve = of(
      range(100, (i) => (i < 40 || i >= 80 ? 1 : Number.NEGATIVE_INFINITY)),
      range(100, (i) => (i < 80 ? (i < 40 ? 1 : 0) : Number.NaN)),
    );
    const last = curve?.points.at(-1);
    expect(last?.accepted).toBeCloseTo(0.5, 1);
    expect(last?.failed).toBe(0);
    expect(
      of([Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY], [1, 1])?.points.every(({ accepted }) => accepted === 0),
    ).toBe(true);
    expect(of([1, 1], [1, Number.NaN])).toBeNull();
  });

  it("keeps its promise, and accepts more for a better score", () => {
    const random = new Random(5);
    const doubt = range(400, () => random.uniform());
    const dice = doubt.map((value) => (random.uniform() < value ** 2 ? 0.3 : 0.9));
    const good = of(
      doubt.map((value) => -value),
      dice,
    );
    const blind = of(
      doubt.map(() => random.uniform()),
      dice,
    );
    good?.points.forEach(({ alpha, accepted, failed, failedHigh }, i) => {
      expect(accepted).toBeGreaterThanOrEqual(blind?.points[i]?.accepted as number);
      expect(failed).toBeLessThan(alpha);
      expect(failedHigh).toBeLessThanOrEqual(alpha + 0.05);
    });
    expect(good?.points[1]?.accepted).toBeGreaterThan(0.3);
    expect(
      of(
        doubt.map((value) => -value),
        dice,
      ),
    ).toEqual(good);
  });

  it("keeps groups on one side, and bets on them", () => {
    const units = { count: 40, of: Int32Array.from({ length: 120 }, (_, i) => Math.floor(i / 3)) };
    const curve = of(
      range(120, () => 1),
      range(120, () => 0.9),
      units,
    );
    expect(curve?.rule).toBe("betting");
    expect(curve?.points.at(-1)).toMatchObject({ accepted: 1, failed: 0 });
    expect(curve?.points[0]).toMatchObject({ accepted: 0, failed: 0 });
  });

  it("takes neither empty results nor volumes unlike the training's, however sure", () => {
    const made = (change: Parameters<typeof madeRun>[0]) =>
      aggregate([madeRun({ images: 200, ...change })], SETTINGS).methods[0]?.acceptance?.[0]?.points.at(-1);
    const good = { dice: 0.9 };
    expect(made({ change: () => good })).toMatchObject({ accepted: 1 });
    const half = made({ change: (_, i) => (i % 2 === 0 ? good : { ...good, unlikeTraining: ["its axes run LPS"] }) });
    expect(half?.accepted).toBeLessThan(0.6);
    expect(half?.accepted).toBeGreaterThan(0.4);
    expect(made({ change: () => ({ ...good, empty: true }) })).toMatchObject({ accepted: 0 });
  });

  it("is not told of a Dice that no image can be below, or each is", () => {
    const confidence = new Float64Array(20).fill(1);
    for (const tau of [0, 1])
      expect(acceptanceCurve("aula", { confidence, dice: confidence, units: alone(20) }, { tau, seed: 0 })).toBeNull();
  });

  it("is told of each method by its best score, and by AULA", () => {
    const { methods } = aggregate([madeRun({ method: "plain", heads: 1 }), madeRun({ images: 12 })], SETTINGS);
    for (const { scoreRanks = [], acceptance = [], method } of methods) {
      const names = acceptance.map(({ score }) => score);
      expect(names[0]).toBe(scoreRanks[0]?.score);
      expect(names.includes("aula")).toBe(method === "le");
    }
  });
});
