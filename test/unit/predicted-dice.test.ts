// What a mask's Dice probably is: numbers of SciPy and NumPy (scripts/parity/make_scores_fixture.py), and what must hold.
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  calibrateInterval,
  type DiceCase,
  diceFeatures,
  fitPredictedDice,
  predictDice,
  scoreHeads,
} from "../../lib/metrics/index.js";
import { Random } from "../../lib/random.js";
import { describePredictedDice, ridgeAt } from "../../lib/scores/predicted-dice.js";
import { fitIsotonic, isotonicAt } from "../../lib/statistics/isotonic.js";
import { casesNeeded, conformalQuantile } from "../../lib/tuning/predicted-dice.js";
import { fitRidge } from "../../lib/tuning/ridge.js";
import { expectError } from "./support/heads.js";

const oracle = JSON.parse(readFileSync("test/fixtures/scores.json", "utf8"));

describe("isotonic regression", () => {
  it("is SciPy's, linear between the points", () => {
    const { x, y, at, value } = oracle.isotonic;
    const fit = fitIsotonic(x, y);
    at.forEach((point: number, i: number) => {
      expect(isotonicAt(fit, point)).toBeCloseTo(value[i], 12);
    });
  });

  it("never falls, keeps what never falls, and takes the mean of what only falls", () => {
    const random = new Random(2);
    const x = Array.from({ length: 200 }, () => random.uniform());
    const y = x.map(() => random.normal());
    const fit = fitIsotonic(x, y);
    for (let i = 1; i < fit.x.length; i++) {
      expect(fit.x[i]).toBeGreaterThan(fit.x[i - 1]!);
      expect(fit.y[i]).toBeGreaterThanOrEqual(fit.y[i - 1]!);
    }
    expect(fitIsotonic([3, 1, 2], [5, 0, 1])).toEqual({ x: [1, 2, 3], y: [0, 1, 5] });
    expect(fitIsotonic([1, 2, 3], [3, 2, 1])).toEqual({ x: [1, 3], y: [2, 2] });
    expect(fitIsotonic([1, 1], [0, 1])).toEqual({ x: [1], y: [0.5] });
    expectError(() => fitIsotonic([], []), "ERR_LE_SHAPE", "x");
    expectError(() => fitIsotonic([Number.NaN], [1]), "ERR_LE_VALUE", "x");
  });
});

describe("ridge regression", () => {
  it("is NumPy's, with the penalty that leaves out groups best", () => {
    const { rows, y, groups, mean, scale, weights, intercept, penalty, outOfFold } = oracle.ridge;
    const fitted = fitRidge(rows, y, groups);
    const near = (values: number[]) => values.map((value) => expect.closeTo(value, 9));
    expect(fitted.ridge).toEqual({
      ...{ mean: near(mean), scale: near(scale), weights: near(weights) },
      intercept: expect.closeTo(intercept, 9),
      penalty: expect.closeTo(penalty, 9),
    });
    expect(fitted.outOfFold).toEqual(near(outOfFold));
    expect(scale[3]).toBe(0);
    // A feature that never differed counts nothing, whatever it is later.
    expect(ridgeAt(fitted.ridge, [0, 0, 0, 7])).toBe(ridgeAt(fitted.ridge, [0, 0, 0, 1e9]));
  });
});

/**
 * Images of one class whose Dice is `dice` of a hidden quality that soft Dice confidence sees with noise, and a further feature
 * without.
 */
function cases(count: number, { seed = 1, noise = 0.2, groups = 0, empty = 0 } = {}): DiceCase[] {
  const random = new Random(seed);
  return Array.from({ length: count }, (_, i): DiceCase => {
    const group = groups > 0 && { group: `patient ${i % groups}` };
    if (i < empty) {
      const features = { volume: 0, softDiceConfidence: 0, values: [0, 0, 0] };
      return { features: { perClass: { 1: features }, volume: 0 }, dice: { 1: i % 4 === 0 ? 0 : 1 }, ...group };
    }
    const quality = random.uniform();
    const dice = Math.min(1, Math.max(0, quality ** 0.7 + 0.05 * random.normal()));
    const soft = Math.min(1, Math.max(0, quality + noise * random.normal()));
    const volume = 0.01 + 0.3 * random.uniform();
    const features = { volume, softDiceConfidence: soft, values: [soft, quality, volume] };
    return { features: { perClass: { 1: features }, volume }, dice: { 1: dice }, ...group };
  });
}

describe("predicted Dice", () => {
  it("keeps all features only where they beat soft Dice confidence by more than one standard error", () => {
    const seen = fitPredictedDice(cases(120));
    expect(seen.perClass[1]).toMatchObject({ by: "features", ridge: { weights: expect.any(Array) } });
    const { baseline, features, se } = seen.perClass[1]!.error!;
    expect(baseline - features!).toBeGreaterThan(se!);
    const exact = fitPredictedDice(cases(120, { noise: 0 }));
    expect(exact.perClass[1]).toMatchObject({ by: "softDiceConfidence", ridge: null });
    // Better, but by less than one standard error.
    const little = Array.from(
      { length: 20 },
      (_, seed) => fitPredictedDice(cases(30, { seed, noise: 0.03 })).perClass[1]!,
    );
    const gains = little.map(({ by, error }) => ({ by, gain: (error!.baseline - error!.features!) / error!.se! }));
    expect(gains.filter(({ gain }) => gain > 0 && gain <= 1).length).toBeGreaterThan(0);
    for (const { by, gain } of gains) expect(by).toBe(gain > 1 ? "features" : "softDiceConfidence");
    // Too few images for so many features.
    expect(fitPredictedDice(cases(15)).perClass[1]).toMatchObject({
      by: "softDiceConfidence",
      error: { features: null, se: null },
    });
    expect(fitPredictedDice(cases(120))).toEqual(seen);
    expect(JSON.parse(JSON.stringify(seen))).toEqual(seen);
  });

  it("says the Dice of images that it has not seen, between 0 and 1", () => {
    const fit = fitPredictedDice(cases(200));
    const fresh = cases(500, { seed: 2 });
    const errors = fresh.map(({ features, dice }) => {
      const { overall, perClass } = predictDice(fit, features);
      expect(overall).toEqual(perClass[1]);
      expect(overall.dice).toBeGreaterThanOrEqual(0);
      expect(overall.dice).toBeLessThanOrEqual(1);
      return Math.abs(overall.dice! - dice[1]!);
    });
    const mean = errors.reduce((sum, x) => sum + x, 0) / errors.length;
    expect(mean).toBeLessThan(0.06);
    expect(mean).toBeCloseTo(fit.perClass[1]!.error!.features!, 1);
  });

  it("covers 9 of 10 unseen cases after calibration, narrower than one width for all", () => {
    let [below, inside, width, constant, all] = [0, 0, 0, 0, 0];
    for (let seed = 0; seed < 60; seed++) {
      const fit = fitPredictedDice(cases(60, { seed: 100 + seed }));
      const calibrated = calibrateInterval(fit, cases(60, { seed: 200 + seed }), { alpha: 0.1 });
      expect(calibrated.perClass[1]!.intervals).toMatchObject({
        from: "calibration",
        bands: [{ cases: 60, upTo: null }],
      });
      for (const { features, dice } of cases(60, { seed: 300 + seed })) {
        const { overall, alpha } = predictDice(calibrated, features);
        expect(alpha).toBe(0.1);
        const [low, high] = overall.interval!;
        all++;
        if (dice[1]! < overall.lower!) below++;
        if (dice[1]! >= low && dice[1]! <= high) inside++;
        width += high - low;
        constant += 2 * calibrated.perClass[1]!.constant.both!;
      }
    }
    expect(1 - below / all).toBeGreaterThan(0.88);
    expect(1 - below / all).toBeLessThan(0.93);
    expect(inside / all).toBeGreaterThan(0.88);
    expect(inside / all).toBeLessThan(0.93);
    expect(width).toBeLessThan(constant);
  });

  it("covers cases of patients that were not seen, each patient counting as one", () => {
    // Of a patient of many images all are alike, and badly predicted: who counts images takes them for the rule.
    const patients = (count: number, random: Random) =>
      Array.from({ length: count }, (_, p) => {
        const off = 0.4 * random.uniform();
        const size = off > 0.2 ? 1 : 12;
        return Array.from({ length: size }, (): DiceCase => {
          const soft = 0.5 + 0.5 * random.uniform();
          const features = { volume: 0.1, softDiceConfidence: soft, values: [soft] };
          return { features: { perClass: { 1: features }, volume: 0.1 }, dice: { 1: soft - off }, group: `${p}` };
        });
      });
    const fit = fitPredictedDice(
      cases(100, { noise: 0 }).map((one) => ({ ...one, dice: { 1: one.features.perClass[1]!.softDiceConfidence } })),
    );
    const covered = (grouped: boolean) => {
      const random = new Random(4);
      let [held, all] = [0, 0];
      for (let round = 0; round < 150; round++) {
        const known = patients(30, random).flat();
        const calibrated = calibrateInterval(fit, grouped ? known : known.map(({ group, ...one }) => one), {
          alpha: 0.1,
        });
        for (const slices of patients(20, random)) {
          const { features, dice } = slices[0] as DiceCase;
          all++;
          if (dice[1]! >= predictDice(calibrated, features).overall.lower! - 1e-9) held++;
        }
      }
      return held / all;
    };
    expect(covered(true)).toBeGreaterThan(0.88);
    expect(covered(true)).toBeLessThan(0.95);
    expect(covered(false)).toBeLessThan(0.8);
  });

  it("counts groups, not cases, where it says how many a bound needs", () => {
    const fit = fitPredictedDice(cases(40));
    const { intervals } = calibrateInterval(fit, cases(80, { groups: 8 })).overall;
    expect(intervals!.bands).toEqual([{ upTo: null, cases: 80, groups: 8, lower: null, both: null }]);
    expect(calibrateInterval(fit, cases(80, { groups: 9 })).overall.intervals!.bands[0]!.both).not.toBeNull();
    // By hand: of the weights 1/2, 1/2, 1, 1 of 3 + 1 the first three make half.
    expect(conformalQuantile([1, 2, 3, 4], 0.5, ["a", "a", "b", "c"])).toBe(3);
    expect(conformalQuantile([1, 2, 3, 4], 0.5)).toBe(3);
    expect(conformalQuantile([1, 2, 3, 4], 0.7, ["a", "b", "c", "c"])).toBe(2);
    expect(conformalQuantile([4, 3, 2, 1], 0.25, ["a", "b", "c", "c"])).toBe(4);
  });

  it("has bounds of left-out folds before it is calibrated, apart by volume where each third has 100 cases", () => {
    const few = fitPredictedDice(cases(299));
    expect(few.perClass[1]!.intervals).toMatchObject({ from: "out-of-fold", alpha: 0.1, bands: [{ cases: 299 }] });
    const many = fitPredictedDice(cases(330), { alpha: 0.2 });
    const { bands } = many.perClass[1]!.intervals!;
    expect(bands.map((band) => band.cases)).toEqual([110, 110, 110]);
    expect(bands.map((band) => band.upTo === null)).toEqual([false, false, true]);
    const covered = cases(330).filter(({ features, dice }) => dice[1]! >= predictDice(many, features).overall.lower!);
    expect(covered.length / 330).toBeGreaterThan(0.75);
    const calibrated = calibrateInterval(many, cases(420, { seed: 5 }));
    expect(calibrated.perClass[1]!.intervals!.bands.map((band) => band.upTo)).toEqual(bands.map((band) => band.upTo));
  });

  it("gives masks without the class what such masks had, and nothing where there was none", () => {
    const fit = fitPredictedDice(cases(60, { empty: 12 }));
    expect(fit.perClass[1]).toMatchObject({ empty: { dice: 0.75, cases: 12 }, intervals: { empty: { cases: 12 } } });
    const none = { perClass: { 1: { volume: 0, softDiceConfidence: 0, values: [0, 0, 0] } }, volume: 0 };
    expect(predictDice(fit, none).overall.dice).toBe(0.75);
    expect(predictDice(fitPredictedDice(cases(60)), none).overall).toEqual({ dice: null, lower: null, interval: null });
  });

  it("says how many cases a bound needs, and gives none with fewer", () => {
    expect([0.1, 0.05, 0.02, 0.5].map(casesNeeded)).toEqual([9, 19, 49, 1]);
    for (const [alpha, value] of Object.entries(oracle.conformal.quantile))
      expect(conformalQuantile(oracle.conformal.distances, Number(alpha))).toBe(value);
    for (const alpha of [0.1, 0.05, 0.02]) {
      const needed = casesNeeded(alpha);
      expect(conformalQuantile(new Array(needed).fill(1), alpha)).toBe(1);
      expect(conformalQuantile(new Array(needed - 1).fill(1), alpha)).toBeNull();
    }
    const fit = calibrateInterval(fitPredictedDice(cases(40)), cases(8));
    expect(predictDice(fit, cases(1)[0]!.features).overall).toMatchObject({ lower: null, interval: null });
  });

  it("leaves out groups as a whole", () => {
    // Every patient has a Dice of its own: who sees a patient's other slices knows it.
    const random = new Random(8);
    const own = Array.from({ length: 12 }, () => random.uniform()).sort();
    const slices = Array.from({ length: 120 }, (_, i): DiceCase => {
      const patient = i % 12;
      const features = { volume: 0.1, softDiceConfidence: 0.5 + patient / 100, values: [own[patient]!, patient, 1] };
      return { features: { perClass: { 1: features }, volume: 0.1 }, dice: { 1: own[patient]! }, group: `${patient}` };
    });
    const grouped = fitPredictedDice(slices).perClass[1]!;
    const alone = fitPredictedDice(slices.map(({ group, ...rest }) => rest)).perClass[1]!;
    expect(grouped.error!.baseline).toBeGreaterThan(2 * alone.error!.baseline);
  });

  it("reads its features from a prediction", () => {
    const random = new Random(4);
    const heads = Array.from({ length: 4 }, () => ({
      data: Float32Array.from({ length: 3 * 48 }, (_, i) => (i < 48 ? 1 : 0) + random.normal()),
      shape: [3, 6, 8],
    }));
    const scored = scoreHeads(heads);
    const { perClass, volume } = diceFeatures(scored);
    const { mask, aula, pairwiseAgreement, softDiceConfidence, summaries } = scored;
    expect(volume).toBeCloseTo(mask.data.filter(Boolean).length / 48, 12);
    for (const c of [1, 2]) {
      const { values, ...rest } = perClass[c]!;
      const count = mask.data.filter((label) => label === c).length;
      expect(rest).toEqual({ volume: count / 48, softDiceConfidence: softDiceConfidence.perClass[c] });
      expect(values.slice(0, 12)).toEqual([
        ...aula!.agreements[c]!,
        expect.closeTo(aula!.perClass[c]! / 2, 12),
        pairwiseAgreement.perClass[c],
        softDiceConfidence.perClass[c],
        ...softDiceConfidence.heads.map((head) => head.perClass[c]),
        summaries.entropy.foreground,
        summaries.mutualInformation.foreground,
      ]);
      expect(values).toHaveLength(15);
    }
    // One part of 3×3 with a pixel inside, and one of a single pixel.
    const drawn = "000000000111000001110000011100000000000000000001";
    const square = { data: Uint8Array.from(drawn, Number), shape: [6, 8] };
    expect(diceFeatures({ ...scored, mask: square }).perClass[1]!.values.slice(12)).toEqual([10 / 48, 2, 0.9]);
    // Of heads without an order no agreement of neighbours, of a single head no agreement at all.
    expect(diceFeatures({ ...scored, aula: null }).perClass[1]!.values).toHaveLength(11);
    const { aula: _, summaries: maps, ...single } = scoreHeads(heads.slice(3));
    const { entropy } = maps;
    expect(diceFeatures({ ...single, aula: null, summaries: { entropy } }).perClass[1]!.values).toHaveLength(6);
  });

  it("is told in a sentence", () => {
    const of = { dice: 0.8634, lower: 0.7149, interval: [0.7, 1] as [number, number] };
    type Told = Parameters<typeof describePredictedDice>[0];
    const say = (overall: Told["overall"], alpha: number | null, from: Told["from"] = "calibration") =>
      describePredictedDice({ overall, perClass: {}, alpha, from });
    expect(say(of, 0.1)).toBe("This mask's Dice is probably 0.86, at least 0.71 in 9 of 10 cases (calibrated)");
    expect(say(of, 0.05)).toBe("This mask's Dice is probably 0.86, at least 0.71 in 95 % of cases (calibrated)");
    expect(say(of, 0.1, "out-of-fold")).toBe(
      "This mask's Dice is probably 0.86, at least 0.71 in about 9 of 10 cases (not calibrated)",
    );
    expect(say({ ...of, lower: null }, 0.1)).toBe("This mask's Dice is probably 0.86");
    expect(say({ dice: null, lower: null, interval: null }, 0.1)).toBeUndefined();
  });

  it("refuses what does not fit", () => {
    expectError(() => fitPredictedDice([]), "ERR_LE_SHAPE", "cases", "none");
    expectError(() => fitPredictedDice(cases(5), { alpha: 1 }), "ERR_LE_OPTION", "alpha");
    const [first, second] = cases(2) as [DiceCase, DiceCase];
    expectError(() => fitPredictedDice([first, { ...second, dice: { 1: Number.NaN } }]), "ERR_LE_VALUE", "cases[1]");
    expectError(() => fitPredictedDice([first, { ...second, dice: {} }]), "ERR_LE_VALUE", "class 1");
    const short = { perClass: { 1: { ...second.features.perClass[1]!, values: [1] } }, volume: 0.1 };
    expectError(() => fitPredictedDice([first, { ...second, features: short }]), "ERR_LE_SHAPE", "3 finite numbers");
  });
});
