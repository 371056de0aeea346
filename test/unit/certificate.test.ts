import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  binomialCdf,
  CERTIFICATE_RULES,
  type CertifyOptions,
  casesNeeded,
  certify,
  clopperPearson,
  type RuleName,
  scoreThresholds,
} from "../../lib/metrics/index.js";
import { Random } from "../../lib/random.js";
import { normalP } from "../../lib/statistics/student.js";
import { expectError } from "./support/heads.js";

// scipy.stats.binom.cdf(k, n, p) of SciPy 1.17.1.
it.each([
  [0, 21, 0.1, 0.10941898913151232],
  [0, 22, 0.1, 0.0984770902183611],
  [0, 45, 0.05, 0.09944025698709247],
  [3, 50, 0.1, 0.250293905953308],
  [25, 400, 0.1, 0.005420179075001473],
  [60, 400, 0.1, 0.9993650527569865],
  [400, 5000, 0.1, 6.637258549851375e-7],
  [9700, 100000, 0.1, 0.0007627583988711264],
  [99000, 1000000, 0.1, 0.00042469673811763083],
  [5, 1000, 0.5, 7.738505306294352e-289],
  [999, 1000, 0.99, 0.9999568287525893],
])("P(Bin ≤ %i) of n = %i, p = %d equals SciPy's", (k, n, p, expected) => {
  expect(binomialCdf(k, n, p) / expected).toBeCloseTo(1, 9);
});

describe("binomialCdf", () => {
  it("is the sum of its terms", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 30 }),
        fc.nat(30),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (n, k, p) => {
          let [term, sum] = [1, 0];
          for (let i = 0; i <= Math.min(k, n); i++) {
            sum += term * p ** i * (1 - p) ** (n - i);
            term *= (n - i) / (i + 1);
          }
          expect(binomialCdf(k, n, p)).toBeCloseTo(sum, 10);
        },
      ),
    );
  });

  it("is 0 below 0, and 1 from n on", () => {
    expect([binomialCdf(-1, 5, 0.3), binomialCdf(5, 5, 0.3), binomialCdf(0, 0, 0.3)]).toEqual([0, 1, 1]);
  });

  it("refuses what is no count or probability", () => {
    expectError(() => binomialCdf(0.5, 2, 0.1), "ERR_LE_VALUE", "k");
    expectError(() => binomialCdf(1, Number.NaN, 0.1), "ERR_LE_VALUE", "n");
    expectError(() => binomialCdf(1, 2, Number.NaN), "ERR_LE_VALUE", "p");
  });
});

// scipy.stats.beta.ppf((1 - level) / 2, k, n - k + 1) and ppf((1 + level) / 2, k + 1, n - k) of SciPy 1.17.1.
it.each([
  [0, 10, 0.95, 0, 0.3084971078187607],
  [10, 10, 0.95, 0.6915028921812392, 1],
  [1, 1, 0.95, 0.025, 1],
  [3, 10, 0.95, 0.0667395111777345, 0.6524528500599973],
  [316, 400, 0.95, 0.746755449613641, 0.8288925145902747],
  [1, 100000, 0.95, 2.531780477933316e-7, 5.571516034774275e-5],
  [50000, 100000, 0.99, 0.495922334242564, 0.504077665757436],
])("Clopper and Pearson's interval of %i of %i at %d equals SciPy's", (k, n, level, low, high) => {
  const interval = clopperPearson(k, n, level);
  expect(interval.low).toBeCloseTo(low, 9);
  expect(interval.high).toBeCloseTo(high, 9);
});

it("no case at all says nothing of a share; more than all is refused", () => {
  expect(clopperPearson(0, 0)).toEqual({ low: 0, high: 1 });
  expectError(() => clopperPearson(3, 2), "ERR_LE_VALUE", "k");
  expectError(() => clopperPearson(1, 2, 1), "ERR_LE_VALUE", "level");
});

/** n cases of confidences n, …, 1, of which those at `failed`, from the surest, have failed. */
function ladder(n: number, failed: readonly number[] = []) {
  return {
    confidence: Array.from({ length: n }, (_, i) => n - i),
    dice: Array.from({ length: n }, (_, i) => (failed.includes(i) ? 0.2 : 0.9)),
  };
}

const TENTHS = { alpha: 0.1, delta: 0.1, tau: 0.8 };

describe("casesNeeded", () => {
  it.each([
    ["conditional", 0.1, 0.1, 22],
    ["conditional", 0.05, 0.1, 45],
    ["conditional", 0.05, 0.05, 59],
    ["conditional", 0.02, 0.1, 114],
    ["joint", 0.1, 0.1, 9],
    ["joint", 0.05, 0.1, 19],
  ] as const)("of the rule %s, alpha %d, delta %d are %i", (rule, alpha, delta, n) => {
    expect(casesNeeded(rule, { alpha, delta })).toBe(n);
  });

  it.each(Object.keys(CERTIFICATE_RULES) as RuleName[])(
    "are what the rule %s is content with, and one less is not",
    (rule) => {
      for (const [alpha, delta] of [
        [0.1, 0.1],
        [0.3, 0.05],
        [0.05, 0.2],
      ] as const) {
        const n = casesNeeded(rule, { alpha, delta });
        const found = (count: number) =>
          certify(ladder(count), { alpha, delta, tau: 0.8, rule, thresholds: [0] }).certified;
        expect([found(n), found(n - 1)]).toEqual([true, false]);
      }
    },
  );

  it("end also for levels that nobody can reach", () => {
    expect(casesNeeded("betting", { alpha: 1e-9, delta: 1e-9 })).toBeGreaterThan(1e9);
    expect(casesNeeded("conditional", { alpha: 1e-9, delta: 0.1 })).toBeGreaterThan(1e9);
  });
});

describe("rule conditional", () => {
  const thresholds = [90, 80, 60, 50, 40, 20, 1];

  it("goes from the first threshold that could pass down to the last that does", () => {
    // Of 100: 11, 21, 41, 51, 61, 81, 100 accepted.
    const found = certify(ladder(100, [30, 45, 46, 55, 56, 70, 71, 72, 73]), { ...TENTHS, thresholds });
    expect(found.steps.map(({ accepted, failures, passed }) => [accepted, failures, passed])).toEqual([
      [11, 0, null],
      [21, 0, null],
      [41, 1, true],
      [51, 3, false],
      [61, 5, null],
      [81, 9, null],
      [100, 9, null],
    ]);
    expect(found.steps[2]?.value).toBeCloseTo(0.9 ** 41 + 41 * 0.1 * 0.9 ** 40, 12);
    expect(found).toMatchObject({ certified: true, rule: "conditional", threshold: 60, accepted: 41, failures: 1 });
  });

  it("does not pass over a threshold that fails to one that would hold", () => {
    const found = certify(ladder(400, [0, 1, 2, 3, 4]), { ...TENTHS, thresholds: [378, 1] });
    expect(binomialCdf(5, 400, 0.1)).toBeLessThan(0.1);
    expect(found).toMatchObject({ certified: false, reason: "too-many-failures", needed: 22 });
  });

  it("accepts a case at its threshold, and all that are tied with it", () => {
    const tied = { confidence: new Array(30).fill(0.7), dice: new Array(30).fill(0.9) };
    expect(certify(tied, { ...TENTHS, thresholds: [0.7] })).toMatchObject({ certified: true, accepted: 30 });
    expect(certify(tied, { ...TENTHS, thresholds: [0.7000001] })).toMatchObject({
      certified: false,
      reason: "too-few-cases",
    });
  });

  it("takes a Dice of τ for none that failed", () => {
    const at = { confidence: new Array(30).fill(1), dice: new Array(30).fill(0.8) };
    expect(certify(at, { ...TENTHS, thresholds: [1] })).toMatchObject({ certified: true, failures: 0 });
  });

  it("accepts no case of -Infinity, whatever the threshold", () => {
    const cases = ladder(40);
    cases.confidence.push(Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY);
    cases.dice.push(0.2, 0.2);
    const found = certify(cases, { ...TENTHS, thresholds: [-1e300] });
    expect(found).toMatchObject({ certified: true, accepted: 40, failures: 0, cases: 42 });
  });

  it("says the share accepted with its interval", () => {
    const found = certify(ladder(40), { ...TENTHS, thresholds: [11] });
    expect(found.certified && found.share).toEqual({ value: 0.75, ...clopperPearson(30, 40), by: "clopper-pearson" });
  });
});

describe("rule joint", () => {
  it("takes the least threshold at which accepted failures are few", () => {
    // 50 cases: (k + 1) / 51 ≤ 0.1 for k ≤ 4.
    const found = certify(ladder(50, [10, 20, 25, 30, 40, 45]), { ...TENTHS, rule: "joint" });
    expect(found).toMatchObject({ certified: true, threshold: 11, accepted: 40, failures: 4 });
    expect(found.steps.map(({ value, passed }) => [value, passed])).toEqual([
      [5 / 51, true],
      [6 / 51, false],
    ]);
  });

  it("needs no thresholds of validation, but keeps to them", () => {
    const found = certify(ladder(50, [10, 20]), { ...TENTHS, rule: "joint", thresholds: [40, 20] });
    expect(found).toMatchObject({ certified: true, threshold: 20 });
  });

  it("counts a group once, by its share of accepted failures", () => {
    const groups = Array.from({ length: 40 }, (_, i) => i >> 1);
    // The two failures of one group: 1 + 1 of 21; of two groups: ½ + ½ + 1.
    const value = (failed: number[]) =>
      certify({ ...ladder(40, failed), groups }, { ...TENTHS, rule: "joint", thresholds: [1] }).steps[0]?.value;
    expect(value([10, 11])).toBeCloseTo(2 / 21, 12);
    expect(value([10, 12])).toBeCloseTo(2 / 21, 12);
    expect(value([10])).toBeCloseTo(1.5 / 21, 12);
  });
});

describe("rule drawn", () => {
  const groups = Array.from({ length: 160 }, (_, i) => i >> 2);
  const failing = (of: (group: number) => number) => ({
    confidence: groups.map(() => 1),
    dice: groups.map((group, i) => (i % 4 < of(group) ? 0.5 : 0.9)),
    groups,
  });
  const options = { ...TENTHS, rule: "drawn", thresholds: [1] } as const;

  it("is the binomial test of one case of each group", () => {
    expect(
      certify(
        failing(() => 0),
        options,
      ),
    ).toMatchObject({ certified: true, groups: 40, accepted: 160 });
    const [step] = certify(
      failing(() => 0),
      options,
    ).steps;
    expect(step?.value).toBeCloseTo(0.9 ** 40, 12);
    // Three groups that fail as a whole: whichever case is drawn has failed.
    const [three] = certify(
      failing((group) => (group < 3 ? 4 : 0)),
      options,
    ).steps;
    const term = (k: number, ways: number) => ways * 0.1 ** k * 0.9 ** (40 - k);
    expect(three?.value).toBeCloseTo(term(0, 1) + term(1, 40) + term(2, 780) + term(3, 9880), 12);
  });

  it("draws by the seed, each case of a group as often as another", () => {
    const half = failing(() => 2);
    const failures = Array.from({ length: 200 }, (_, seed) => {
      const p = certify(half, { ...options, alpha: 0.5, seed }).steps[0]?.value as number;
      return p < 0.5 ? 0 : 1; // the median of Bin(40, 0.5)
    });
    const above = failures.reduce((sum: number, one) => sum + one, 0);
    expect(above).toBeGreaterThan(70);
    expect(above).toBeLessThan(150);
    expect(certify(half, { ...options, seed: 3 })).toEqual(certify(half, { ...options, seed: 3 }));
  });

  it("counts of each group the drawn case alone, and takes no graded loss", () => {
    const partly = { ...failing(() => 0), confidence: groups.map((_, i) => (i % 4 === 0 ? 0 : 1)) };
    const counts = Array.from({ length: 50 }, (_, seed) => {
      const p = certify(partly, { ...options, seed }).steps[0]?.value as number;
      return Math.round(Math.log(p) / Math.log(0.9));
    });
    expect(Math.min(...counts)).toBeLessThan(30);
    expect(Math.max(...counts)).toBeLessThan(40);
    expect(counts.reduce((sum, count) => sum + count, 0) / 50).toBeCloseTo(30, -0.5);
    expectError(() => certify(partly, { ...options, loss: "dice" }), "ERR_LE_OPTION", "joint or betting");
  });

  it("says of how many groups it is, where it refuses", () => {
    const found = certify({ confidence: [1, 1, 1, 1], dice: [1, 1, 1, 1], groups: [0, 0, 1, 1] }, options);
    expect(!found.certified && found.message).toContain("but there are 2 of 2");
  });
});

describe("rule betting", () => {
  it("gives the p-value of the bound's own formula", () => {
    const n = 60;
    const cases = ladder(n, [7, 30]);
    const groups = Array.from({ length: n }, (_, i) => i >> 1);
    const options = { ...TENTHS, rule: "betting", thresholds: [11], seed: 3 } as const;
    const [step] = certify({ ...cases, groups }, options).steps;
    // In the order of the seed, written out again.
    const order = new Random(3).shuffled(Array.from({ length: n / 2 }, (_, g) => g));
    const w = order.map((g) => {
      const one = (i: number) =>
        (cases.confidence[i] as number) >= 11 ? ((cases.dice[i] as number) < 0.8 ? 0.9 : -0.1) : 0;
      return (one(2 * g) + one(2 * g + 1)) / 2 + 0.1;
    });
    let [capital, most] = [1, 1];
    for (let i = 0; i < w.length; i++) {
      const before = w.slice(0, i);
      const mean = (j: number) => (0.5 + w.slice(0, j).reduce((sum, value) => sum + value, 0)) / (j + 1);
      const variance = (0.25 + before.reduce((sum, value, j) => sum + (value - mean(j + 1)) ** 2, 0)) / (i + 1);
      const bet = Math.min(1, Math.sqrt((2 * Math.log(10)) / (w.length * variance)));
      capital *= 1 + bet * (0.1 - (w[i] as number));
      most = Math.max(most, capital);
    }
    expect(step?.value).toBeCloseTo(1 / most, 12);
    expect(step).toMatchObject({ accepted: 50, groups: 25, failures: 2 });
  });

  it("is what groups of several cases get without asking, whose interval is drawn by group", () => {
    const groups = Array.from({ length: 120 }, (_, i) => i % 40);
    const found = certify({ ...ladder(120), groups }, { ...TENTHS, thresholds: [31] });
    expect(found).toMatchObject({
      certified: true,
      rule: "betting",
      groups: 40,
      share: { value: 0.75, by: "bootstrap" },
    });
    expect(found.certified && found.claim).toContain("each group weighing the same");
  });

  it("bounds the mean of 1 - Dice too", () => {
    const cases = { confidence: new Array(200).fill(1), dice: new Array(200).fill(0.95) };
    const options: CertifyOptions = { ...TENTHS, rule: "betting", loss: "dice", thresholds: [1] };
    expect(certify(cases, options)).toMatchObject({ certified: true });
    expect(certify({ ...cases, dice: new Array(200).fill(0.85) }, options)).toMatchObject({ certified: false });
  });

  it("does not hang on the order in which the cases of a group are given", () => {
    const groups = Array.from({ length: 60 }, (_, i) => i >> 1);
    const there = certify({ ...ladder(60, [50]), groups }, { ...TENTHS, thresholds: [1] });
    const { confidence, dice } = ladder(60, [50]);
    const swapped = (values: number[]) => values.map((_, i) => values[i ^ 1] as number);
    const back = certify(
      { confidence: swapped(confidence), dice: swapped(dice), groups },
      { ...TENTHS, thresholds: [1] },
    );
    expect(back.steps).toEqual(there.steps);
  });
});

describe("certify", () => {
  const rules = Object.keys(CERTIFICATE_RULES) as RuleName[];
  const none = (cases: Parameters<typeof certify>[0], rule: RuleName) =>
    certify(cases, { ...TENTHS, rule, thresholds: [0] });

  it.each(rules)(
    "finds nothing by the rule %s without cases, of few, or where all have failed, and says why",
    (rule) => {
      expect(none({ confidence: [], dice: [] }, rule)).toMatchObject({ certified: false, reason: "too-few-cases" });
      const few = none(ladder(8), rule);
      const needed = casesNeeded(rule, { alpha: 0.1, delta: 0.1 });
      expect(few).toMatchObject({ certified: false, reason: "too-few-cases", needed });
      expect(!few.certified && few.message).toMatch(
        new RegExp(`at least ${needed} .*without a failure are needed, but there are 8`),
      );
      const failed = none({ ...ladder(100), dice: new Array(100).fill(0.1) }, rule);
      expect(failed).toMatchObject({ certified: false, reason: "too-many-failures", needed });
      expect(!failed.certified && failed.message).toContain(`of the 100 surest cases 100 failed`);
    },
  );

  it("finds nothing where no threshold is", () => {
    expect(certify(ladder(50), { ...TENTHS, thresholds: [] })).toMatchObject({
      certified: false,
      reason: "too-few-cases",
    });
  });

  it.each(rules)("promises in a sentence by the rule %s", (rule) => {
    const found = certify(ladder(400), { ...TENTHS, rule, thresholds: [1] });
    const claim = found.certified ? found.claim : "";
    expect(claim).toContain("10 %");
    expect(claim).toContain("a Dice below 0.8");
    expect(claim).toContain("exchangeable with the 400 of the calibration.");
    expect(claim.includes("confidence 90 %")).toBe(rule !== "joint");
  });

  it("is plain JSON", () => {
    const found = certify(ladder(60), { ...TENTHS, thresholds: [1] });
    expect(JSON.parse(JSON.stringify(found))).toEqual(found);
  });

  it("refuses levels outside of 0 and 1, other rules, and numbers that are none", () => {
    for (const name of ["alpha", "tau", "delta"])
      for (const value of [0, 1, -0.1, 1.5, Number.NaN, "0.1"])
        expectError(
          () => certify(ladder(5), { ...TENTHS, thresholds: [1], [name]: value } as CertifyOptions),
          "ERR_LE_OPTION",
          name,
        );
    const options = { ...TENTHS, thresholds: [1] };
    expectError(() => certify(ladder(5), { ...options, rule: "joined" } as never), "ERR_LE_OPTION", "rule");
    expectError(() => certify({ confidence: [Number.NaN], dice: [1] }, options), "ERR_LE_VALUE", "confidence");
    expectError(
      () => certify({ confidence: [Number.POSITIVE_INFINITY], dice: [1] }, options),
      "ERR_LE_VALUE",
      "confidence",
    );
    expectError(() => certify({ confidence: [1], dice: [Number.NaN] }, options), "ERR_LE_VALUE", "dice");
    expectError(() => certify({ confidence: [1], dice: [1.5] }, options), "ERR_LE_VALUE", "dice");
    expectError(() => certify({ confidence: [1], dice: [] }, options), "ERR_LE_SHAPE", "dice");
    expectError(() => certify({ ...ladder(2), groups: ["a"] }, options), "ERR_LE_SHAPE", "groups");
    expectError(() => certify(ladder(5), { ...TENTHS, thresholds: [Number.NaN] }), "ERR_LE_OPTION", "thresholds");
  });

  it("refuses a rule that does not fit, and thresholds that nobody fixed", () => {
    const groups = [0, 0, 1, 1, 2];
    expectError(
      () => certify({ ...ladder(5), groups }, { ...TENTHS, rule: "conditional", thresholds: [1] }),
      "ERR_LE_OPTION",
      "joint or betting or drawn",
    );
    expectError(
      () => certify(ladder(5), { ...TENTHS, loss: "dice", thresholds: [1] }),
      "ERR_LE_OPTION",
      "joint or betting",
    );
    expectError(() => certify(ladder(5), TENTHS), "ERR_LE_OPTION", "thresholds");
  });
});

describe("scoreThresholds", () => {
  it("accept 5 % of validation more each", () => {
    const confidence = Array.from({ length: 200 }, (_, i) => (i * 77) % 200);
    const thresholds = scoreThresholds(confidence);
    expect(thresholds.map((threshold) => confidence.filter((value) => value >= threshold).length)).toEqual(
      Array.from({ length: 20 }, (_, j) => 10 * (j + 1)),
    );
  });

  it("are values of the images, distinct, from the highest down, and never -Infinity", () => {
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.integer({ min: 0, max: 5 }), fc.constant(Number.NEGATIVE_INFINITY))),
        (confidence) => {
          const thresholds = scoreThresholds(confidence);
          expect(thresholds).toEqual([...new Set(thresholds)].sort((a, b) => b - a));
          expect(thresholds.every((threshold) => confidence.includes(threshold))).toBe(true);
          const finite = confidence.filter(Number.isFinite);
          if (finite.length === confidence.length && finite.length > 0)
            expect(thresholds.at(-1)).toBe(Math.min(...finite));
        },
      ),
    );
  });

  it("refuse NaN", () => {
    expectError(() => scoreThresholds([1, Number.NaN]), "ERR_LE_VALUE", "confidence");
    expectError(() => scoreThresholds([1], 0), "ERR_LE_VALUE", "step");
  });
});

describe("a simulation of 20 % failures, AUROC .88, 400 cases, alpha = delta = .1", () => {
  // Confidences N(0, 1) of failures and N(d, 1) of others; AUROC = Φ(d / √2).
  const d = 1.17499 * Math.SQRT2;
  const repetitions = 300;
  const random = new Random(20);
  const cases = (n: number) => {
    const failed = Array.from({ length: n }, () => random.uniform() < 0.2);
    return {
      confidence: failed.map((is) => random.normal() + (is ? 0 : d)),
      dice: failed.map((is) => (is ? 0.5 : 0.9)),
    };
  };
  const above = (z: number) => (z > 0 ? normalP(z) / 2 : 1 - normalP(z) / 2);
  const joint = (threshold: number) => 0.2 * above(threshold);
  const risk = (threshold: number) => joint(threshold) / (joint(threshold) + 0.8 * above(threshold - d));
  const standardError = Math.sqrt((0.1 * 0.9) / repetitions);

  const thresholds = scoreThresholds(cases(200).confidence);
  const drawn = Array.from({ length: repetitions }, () => cases(400));
  const proved = (rule: RuleName) =>
    drawn.flatMap((given) => {
      const found = certify(given, { ...TENTHS, rule, ...(rule !== "joint" && { thresholds }) });
      return found.certified ? [found.threshold] : [];
    });
  const broken = (rule: RuleName) => proved(rule).filter((threshold) => risk(threshold) > 0.1).length / repetitions;

  it.each(["conditional", "betting", "drawn"] as const)(
    "the rule %s breaks its promise in at most δ of the calibrations",
    (rule) => {
      expect(broken(rule)).toBeLessThanOrEqual(0.1 + 3 * standardError);
      expect(proved(rule).length).toBeGreaterThan(0.7 * repetitions);
    },
  );

  it("the rule joint keeps the risk at α on average", () => {
    const risks = proved("joint").map(joint);
    const mean = risks.reduce((sum, value) => sum + value, 0) / repetitions;
    expect(mean).toBeLessThanOrEqual(0.1 + 0.002);
    expect(mean).toBeGreaterThan(0.09);
  });

  it("the least threshold that looks right breaks it in more than 30 %", () => {
    const naive = drawn.map(({ confidence, dice }) => {
      const order = confidence.map((_, i) => i).sort((a, b) => (confidence[b] as number) - (confidence[a] as number));
      let [failures, least] = [0, Number.POSITIVE_INFINITY];
      order.forEach((i, rank) => {
        if ((dice[i] as number) < 0.8) failures++;
        if (failures <= 0.1 * (rank + 1)) least = confidence[i] as number;
      });
      return least;
    });
    expect(naive.filter((threshold) => risk(threshold) > 0.1).length / repetitions).toBeGreaterThan(0.3);
  });
});
