import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  augrc,
  aurc,
  auroc,
  bootstrap,
  eaurc,
  fpr95,
  naurc,
  pairedT,
  pearson,
  qualityControlCurve,
  riskCoverage,
  spearman,
  wilcoxon,
} from "../../lib/metrics/index.js";
import { expectError } from "./support/heads.js";

const UNDEFINED = Number.NaN;

describe("correlations", () => {
  // scipy.stats.pearsonr and spearmanr of SciPy 1.17.
  it.each([
    [3, 0.7230965103891194, 0.48543633981822615, 0.5, 0.6666666666666666],
    [4, 0.7424279474603104, 0.2575720525396896, 0.7999999999999999, 0.2000000000000001],
    [7, 0.6550353566449485, 0.1102869775234245, 0.6785714285714287, 0.09375025395983135],
    [25, 0.4853750043581914, 0.01391333810432766, 0.4576923076923077, 0.02141605492583299],
    [400, 0.3004124357423702, 8.697453987790684e-10, 0.2857566498494506, 5.919233933170365e-9],
  ])("of %i values equal SciPy's, p to 9 digits", (n, r, p, rho, rankP) => {
    const x = Array.from({ length: n }, (_, i) => ((i * 7919) % 101) / 101);
    const y = x.map((value, i) => value * 0.3 + ((i * 104729) % 97) / 97);
    const linear = pearson(x, y);
    const ranked = spearman(x, y);
    expect(linear.r).toBeCloseTo(r, 12);
    expect(linear.p / p).toBeCloseTo(1, 9);
    expect(ranked.rho).toBeCloseTo(rho, 12);
    expect(ranked.p / rankP).toBeCloseTo(1, 9);
  });

  it("have p = 0 where they are perfect", () => {
    expect(pearson([1, 2, 3], [2, 4, 6])).toEqual({ r: 1, p: 0 });
    expect(spearman([1, 2, 3], [9, 4, 1])).toEqual({ rho: -1, p: 0 });
  });

  it("give ties their average rank", () => {
    // Ranks 1.5, 1.5, 3, 4 and 1, 2, 3, 4: 4.5 / √(4.5 · 5).
    expect(spearman([1, 1, 2, 3], [1, 2, 3, 4]).rho).toBeCloseTo(4.5 / Math.sqrt(22.5), 12);
  });

  it("are undefined for fewer than three values or a constant list", () => {
    for (const [x, y] of [
      [[], []],
      [
        [1, 2],
        [1, 2],
      ],
      [
        [0.1, 0.1, 0.1, 0.1],
        [1, 2, 3, 4],
      ],
      [
        [1, 2, 3],
        [0, 0, 0],
      ],
    ] as const) {
      expect(pearson(x, y)).toEqual({ r: UNDEFINED, p: UNDEFINED });
      expect(spearman(x, y)).toEqual({ rho: UNDEFINED, p: UNDEFINED });
    }
  });

  it("survive values whose squares overflow or vanish", () => {
    const x = [1, 2, 3, 5];
    const y = [1, 3, 2, 4];
    for (const scale of [1e300, 1e-300])
      expect(
        pearson(
          x.map((value) => value * scale),
          y,
        ).r,
      ).toBeCloseTo(pearson(x, y).r, 12);
  });

  it("are from -1 to 1, symmetric, and Spearman's is blind to monotone change", () => {
    const value = fc.integer({ min: -20, max: 20 });
    fc.assert(
      fc.property(fc.array(fc.tuple(value, value), { minLength: 3, maxLength: 30 }), (pairs) => {
        const [x, y] = [pairs.map(([a]) => a), pairs.map(([, b]) => b)];
        const { r, p } = pearson(x, y);
        if (new Set(x).size === 1 || new Set(y).size === 1) {
          expect(r).toBeNaN();
          return;
        }
        expect(Math.abs(r)).toBeLessThanOrEqual(1);
        expect(p).toBeGreaterThanOrEqual(0);
        expect(p).toBeLessThanOrEqual(1);
        expect(pearson(y, x).r).toBeCloseTo(r, 12);
        expect(
          spearman(
            x.map((a) => Math.exp(a / 5)),
            y,
          ),
        ).toEqual(spearman(x, y));
        expect(
          spearman(
            x.map((a) => -a),
            y,
          ).rho,
        ).toBeCloseTo(-spearman(x, y).rho, 12);
      }),
    );
  });

  it("refuse lists that do not fit", () => {
    expectError(() => pearson([1, 2, 3], [1, 2]), "ERR_LE_SHAPE", "y", "3 values", "2");
    expectError(() => spearman([1, UNDEFINED, 3], [1, 2, 3]), "ERR_LE_VALUE", "x", "NaN at index 1");
    expectError(
      () => spearman([1, 2, 3], [1, 2, Number.POSITIVE_INFINITY]),
      "ERR_LE_VALUE",
      "y",
      "Infinity at index 2",
    );
  });
});

describe("risk and coverage", () => {
  const confidence = [0.9, 0.5, 0.5, 0.1];
  const risk = [0, 0.2, 0.4, 1];

  it("have one point per distinct confidence", () => {
    const { coverage, risk: selective, generalisedRisk } = riskCoverage(confidence, risk);
    expect(coverage).toEqual([1, 0.75, 0.25, 0]);
    [0.4, 0.2, 0, 0].forEach((value, i) => {
      expect(selective[i]).toBeCloseTo(value, 12);
    });
    [0.4, 0.15, 0, 0].forEach((value, i) => {
      expect(generalisedRisk[i]).toBeCloseTo(value, 12);
    });
  });

  it("enclose areas worked out by hand", () => {
    expect(aurc(confidence, risk)).toBeCloseTo(0.25 * 0.3 + 0.5 * 0.1, 12);
    expect(augrc(confidence, risk)).toBeCloseTo(0.25 * 0.275 + 0.5 * 0.075, 12);
    // AURC*: mean risks 0.4, 0.2, 0.1, 0 at coverage 1, 3/4, 1/2, 1/4.
    expect(eaurc(confidence, risk)).toBeCloseTo(0.125 - 0.25 * (0.3 + 0.15 + 0.05), 12);
  });

  const table = fc.array(fc.tuple(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 0, max: 16 })), {
    minLength: 1,
    maxLength: 25,
  });
  const lists = (rows: [number, number][]) => [rows.map(([a]) => a), rows.map(([, b]) => b / 16)] as const;

  it("do not depend on the images' order, to the last bit", () => {
    fc.assert(
      fc.property(table, (rows) => {
        const [given, reversed] = [lists(rows), lists([...rows].reverse())];
        for (const measure of [riskCoverage, aurc, eaurc, naurc, augrc])
          expect(measure(...reversed)).toEqual(measure(...given));
      }),
    );
  });

  it("are ideal for the order of the risk, random where nothing is told apart", () => {
    fc.assert(
      fc.property(table, (rows) => {
        const [, risk] = lists(rows);
        const mean = risk.reduce((a, b) => a + b, 0) / risk.length;
        const varied = new Set(risk).size > 1;
        const level = risk.map(() => 1);
        expect(aurc(level, risk)).toBeCloseTo(mean, 12);
        expect(augrc(level, risk)).toBeCloseTo(mean / 2, 12);
        const sorted = [...risk].sort((a, b) => a - b);
        const ideal = sorted.map((_, i) => -i);
        expect(eaurc(ideal, sorted)).toBe(0);
        if (varied) {
          expect(naurc(level, risk)).toBeCloseTo(1, 9);
          expect(naurc(ideal, sorted)).toBe(0);
        } else {
          expect(naurc(level, risk)).toBeNaN();
        }
      }),
    );
  });

  it("have no excess below 0 where no confidence is tied", () => {
    fc.assert(
      fc.property(table, (rows) => {
        const risk = lists(rows)[1];
        expect(
          eaurc(
            risk.map((_, i) => i),
            risk,
          ),
        ).toBeGreaterThanOrEqual(-1e-12);
      }),
    );
  });

  it("have an excess below 0 where ties leave points out, so in resamples of an ideal order too", () => {
    expect(eaurc([3, 2, 2], [0, 1, 1])).toBeCloseTo(-1 / 18, 12);
    const excess = (drawn: Uint32Array) => {
      const risk = Float64Array.from(drawn, (i) => i / 50);
      return eaurc(
        risk.map((value) => -value),
        risk,
      );
    };
    const { estimate, low, high } = bootstrap(50, excess);
    expect(estimate).toBe(0);
    expect(low).toBeCloseTo(-0.0008, 4);
    expect(high).toBeCloseTo(-0.0002, 4);
  });

  it("refuse lists that do not fit", () => {
    expectError(() => aurc([], []), "ERR_LE_SHAPE", "confidence", "at least 1");
    expectError(() => augrc([1], [1, 2]), "ERR_LE_SHAPE", "risk", "1", "2");
    expectError(() => naurc([UNDEFINED], [1]), "ERR_LE_VALUE", "confidence", "NaN");
  });
});

describe("auroc and fpr95", () => {
  it("are worked out by hand", () => {
    // Pairs of good and failed: 3 and 1, 3 and 2, 2 and 1 in order, 2 and 2 tied.
    expect(auroc([3, 2, 2, 1], [0, 0, 1, 1])).toBe(3.5 / 4);
    expect(fpr95([3, 2, 2, 1], [0, 0, 1, 1])).toBe(0.5);
    expect(auroc([3, 2, 1], [false, false, true])).toBe(1);
    expect(fpr95([3, 2, 1], [false, false, true])).toBe(0);
  });

  it("let one of twenty good images go, no more", () => {
    const confidence = Array.from({ length: 21 }, (_, i) => 21 - i);
    const failed = confidence.map((_, i) => i === 19);
    expect(fpr95(confidence, failed)).toBe(0);
    expect(fpr95([...confidence.slice(1), 0], [...failed.slice(1), true])).toBe(0.5);
  });

  it("are undefined where all or none have failed", () => {
    for (const failed of [
      [0, 0],
      [1, 1],
    ]) {
      expect(auroc([1, 2], failed)).toBeNaN();
      expect(fpr95([1, 2], failed)).toBeNaN();
    }
  });

  it("turn into their opposite with the confidence", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.integer({ min: 0, max: 5 }), fc.boolean()), { minLength: 1 }), (rows) => {
        const [confidence, failed] = [rows.map(([a]) => a), rows.map(([, b]) => b)];
        const value = auroc(confidence, failed);
        const opposite = auroc(
          confidence.map((a) => -a),
          failed,
        );
        if (new Set(failed).size === 1) expect([value, opposite]).toEqual([UNDEFINED, UNDEFINED]);
        else expect(value + opposite).toBeCloseTo(1, 12);
      }),
    );
  });

  it("refuse what is no failure", () => {
    expectError(() => auroc([1, 2], [0, 0.5]), "ERR_LE_VALUE", "failed", "0.5 at index 1");
    expectError(() => fpr95([1, 2], [0]), "ERR_LE_SHAPE", "failed", "2", "1");
  });
});

describe("quality-control curve", () => {
  it("is worked out by hand", () => {
    const curve = qualityControlCurve([1, 2, 2, 4], [0.1, 0.2, 0.9, 0.8], { tau: 0.5, points: 5 });
    expect(curve.f).toEqual([0, 0.25, 0.5, 0.75, 1]);
    expect(curve.y).toEqual([0.5, 0.25, 0.125, 0, 0]);
    expect(curve.random).toEqual([0.5, 0.375, 0.25, 0.125, 0]);
    expect(curve.ideal).toEqual([0.5, 0.25, 0, 0, 0]);
    expect(curve.area).toBeCloseTo(0.25 * 0.375 + 0.5 * 0.125, 12);
    expect([curve.areaRandom, curve.areaIdeal]).toEqual([0.25, 0.125]);
    // From 1 unseen of 2 at f = 1/4 to none at 3/4; 0.1 remain at 0.7.
    expect(curve.remaining5).toBeCloseTo(0.7, 12);
  });

  it("counts a Dice of exactly tau as no failure", () => {
    expect(qualityControlCurve([1, 2], [0.5, 0.9], { tau: 0.5 }).y[0]).toBe(0);
  });

  it("falls from the share of failures to 0, and lies above the ideal", () => {
    const row = fc.tuple(fc.integer({ min: 0, max: 6 }), fc.double({ min: 0, max: 1, noNaN: true }));
    fc.assert(
      fc.property(fc.array(row, { minLength: 1, maxLength: 20 }), (rows) => {
        const [confidence, dice] = [rows.map(([a]) => a), rows.map(([, b]) => b)];
        const curve = qualityControlCurve(confidence, dice, { tau: 0.5, points: 33 });
        expect(curve.y[0]).toBeCloseTo(dice.filter((value) => value < 0.5).length / dice.length, 12);
        expect(curve.y.at(-1)).toBe(0);
        curve.y.forEach((value, i) => {
          expect(value).toBeGreaterThanOrEqual((curve.ideal[i] as number) - 1e-12);
          if (i > 0) expect(value).toBeLessThanOrEqual((curve.y[i - 1] as number) + 1e-12);
        });
        expect(curve.area).toBeGreaterThanOrEqual(curve.areaIdeal - 1e-12);
        expect(curve.remaining5).toBeGreaterThanOrEqual(0);
        expect(curve.remaining5).toBeLessThanOrEqual(1);
      }),
    );
  });

  it("refuses options that do not fit", () => {
    expectError(() => qualityControlCurve([1], [1], {} as never), "ERR_LE_OPTION", "'tau'", "nothing");
    expectError(() => qualityControlCurve([1], [1], { tau: 2 }), "ERR_LE_OPTION", "'tau'", "2");
    expectError(() => qualityControlCurve([1], [1], { tau: 0.5, points: 1 }), "ERR_LE_OPTION", "'points'", "1");
    expectError(() => qualityControlCurve([], [], { tau: 0.5 }), "ERR_LE_SHAPE", "at least 1");
  });
});

describe("AURC", () => {
  const value = fc.integer({ min: 0, max: 20 }).map((n) => n / 20);
  const images = fc.array(fc.tuple(value, value), { minLength: 1, maxLength: 25 });

  it("is blind to monotone change of the confidence, and the mean risk where all are tied", () => {
    fc.assert(
      fc.property(images, (pairs) => {
        const [confidence, risk] = [pairs.map(([k]) => k), pairs.map(([, r]) => r)];
        expect(
          aurc(
            confidence.map((k) => Math.exp(3 * k) - 7),
            risk,
          ),
        ).toBe(aurc(confidence, risk));
        const tied = aurc(
          risk.map(() => 0.3),
          risk,
        );
        expect(tied).toBeCloseTo(risk.reduce((a, b) => a + b, 0) / risk.length, 12);
      }),
    );
  });

  it("never rises when a perfect image of the highest confidence comes in, where none is tied", () => {
    fc.assert(
      fc.property(fc.array(value, { minLength: 1, maxLength: 25 }), (risk) => {
        const confidence = risk.map((_, i) => i);
        expect(aurc([...confidence, risk.length], [...risk, 0])).toBeLessThanOrEqual(aurc(confidence, risk) + 1e-12);
      }),
    );
  });
});

describe("paired tests", () => {
  it("count all ways to give signs, where there are few differences and no ties", () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 9 }),
        fc.nat(),
        (sizes, signs) => {
          const n = sizes.length;
          const sum = (of: number) => {
            const order = [...sizes].sort((a, b) => a - b);
            return sizes.reduce((total, size, i) => total + ((of >> i) & 1 ? order.indexOf(size) + 1 : 0), 0);
          };
          const smaller = (of: number) => Math.min(sum(of), (n * (n + 1)) / 2 - sum(of));
          const given = signs % 2 ** n;
          const x = sizes.map((size, i) => ((given >> i) & 1 ? size : -size));
          let atMost = 0;
          for (let of = 0; of < 2 ** n; of++) if (smaller(of) <= smaller(given)) atMost++;
          const y = sizes.map(() => 0);
          const { p, ...rest } = wilcoxon(x, y);
          expect(rest).toEqual({ n, statistic: smaller(given), method: "exact" });
          expect(p).toBeCloseTo(atMost / 2 ** n, 12);
          expect(wilcoxon(y, x)).toEqual(wilcoxon(x, y));
        },
      ),
    );
  });

  it("drop zeros, and have nothing to say where all are", () => {
    expect(wilcoxon([1, 2, 3, 9], [1, 0, 4, 9])).toMatchObject({ n: 2, method: "exact", statistic: 1 });
    expect(wilcoxon([1, 2], [1, 2])).toEqual({ n: 0, statistic: UNDEFINED, p: UNDEFINED, method: "none" });
    expect(wilcoxon([], [])).toMatchObject({ n: 0 });
  });

  it("take the normal distribution where there are ties or many differences, as SciPy does", () => {
    // scipy.stats.wilcoxon(x, y, method="asymptotic", correction=False)
    const tied = wilcoxon([3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [2, 2, 4, 3, 4, 5, 4, 5, 6, 0]);
    expect(tied).toMatchObject({ n: 9, statistic: 19, method: "asymptotic" });
    expect(tied.p).toBeCloseTo(0.6726599925645731, 12);
    const many = Array.from({ length: 51 }, (_, i) => ((i + 1) % 3 ? i + 1 : -(i + 1)));
    const { p, ...rest } = wilcoxon(many, new Array(51).fill(0));
    expect(rest).toEqual({ n: 51, statistic: 459, method: "asymptotic" });
    expect(p).toBeCloseTo(0.055852182035584695, 12);
  });

  it("by Student's t are those of SciPy", () => {
    // scipy.stats.ttest_rel
    const { t, df, p } = pairedT([1, 2, 3, 4, 6], [0.5, 2.5, 2, 3, 3]);
    expect([df, pairedT([3, 3], [3, 3]).p]).toEqual([4, UNDEFINED]);
    expect(t).toBeCloseTo(1.7541160386140584, 12);
    expect(p).toBeCloseTo(0.1542728710793166, 12);
    expect(pairedT([2, 3], [1, 2])).toEqual({ t: Number.POSITIVE_INFINITY, df: 1, p: 0 });
    expect(pairedT([1], [2])).toEqual({ t: UNDEFINED, df: 0, p: UNDEFINED });
  });

  it("refuse lists that do not fit", () => {
    expectError(() => wilcoxon([1, 2], [1]), "ERR_LE_SHAPE", "y");
    expectError(() => pairedT([1, UNDEFINED], [1, 2]), "ERR_LE_VALUE", "x", "NaN at index 1");
  });
});

describe("bootstrap", () => {
  const scores = Array.from({ length: 60 }, (_, i) => Math.sin(i * 2.3) + 0.01 * i);
  const mean = (images: Uint32Array) => images.reduce((sum, i) => sum + (scores[i] as number), 0) / images.length;

  it("gives the interval of a mean that the normal distribution gives, nearly", () => {
    const { estimate, low, high, leftOut } = bootstrap(60, mean);
    const centre = scores.reduce((a, b) => a + b) / 60;
    const error = Math.sqrt(scores.reduce((sum, s) => sum + (s - centre) ** 2, 0) / 60 / 60);
    expect(estimate).toBeCloseTo(centre, 12);
    expect(Math.abs((low - centre) / error + 1.96)).toBeLessThan(0.15);
    expect(Math.abs((high - centre) / error - 1.96)).toBeLessThan(0.15);
    expect(leftOut).toBe(0);
  });

  it("is the same for the same seed, and wider for a higher level", () => {
    const of = (seed: number, level: number) => bootstrap(60, mean, { seed, level, resamples: 500 });
    expect(of(3, 0.9)).toEqual(of(3, 0.9));
    expect(of(4, 0.9)).not.toEqual(of(3, 0.9));
    expect(of(3, 0.99).low).toBeLessThan(of(3, 0.5).low);
    expect(of(3, 0.99).high).toBeGreaterThan(of(3, 0.5).high);
  });

  it("draws groups together, as many as there are", () => {
    const groups = ["a", "b", "a", "c", "b", "b"];
    const sizes = { a: 2, b: 3, c: 1 };
    bootstrap(
      6,
      (images) => {
        const drawn = [...images].map((i) => groups[i] as keyof typeof sizes);
        let times = 0;
        for (const [group, size] of Object.entries(sizes)) {
          const count = drawn.filter((name) => name === group).length;
          expect(count % size).toBe(0);
          times += count / size;
        }
        expect(times === 3).toBe(true);
        return 0;
      },
      { groups, resamples: 50 },
    );
    const alone = bootstrap(60, mean, { groups: scores.map((_, i) => i) });
    const tied = bootstrap(60, mean, { groups: scores.map((_, i) => i >> 2) });
    expect(alone.estimate).toBe(tied.estimate);
  });

  it("leaves out what is undefined, and says how often", () => {
    let calls = 0;
    const { leftOut, low } = bootstrap(3, () => (calls++ % 2 ? UNDEFINED : 1), { resamples: 10 });
    expect({ leftOut, low }).toEqual({ leftOut: 5, low: 1 });
    expect(bootstrap(3, () => UNDEFINED, { resamples: 4 })).toEqual({
      ...{ estimate: UNDEFINED, low: UNDEFINED, high: UNDEFINED, leftOut: 4 },
    });
  });

  it("refuses what does not fit", () => {
    expectError(() => bootstrap(0, mean), "ERR_LE_VALUE", "count", "0");
    expectError(() => bootstrap(3, mean, { groups: ["a"] }), "ERR_LE_SHAPE", "'groups'", "3");
    expectError(() => bootstrap(3, mean, { level: 1 }), "ERR_LE_OPTION", "'level'");
    expectError(() => bootstrap(3, mean, { resample: 1 } as never), "ERR_LE_OPTION", "'resamples'");
  });
});
