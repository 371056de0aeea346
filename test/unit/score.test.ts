import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { expOfNegative, lnOfPositive } from "../../lib/fusion/exp-log.js";
import type { Heads, NdArray } from "../../lib/metrics/index.js";
import * as metrics from "../../lib/metrics/index.js";
import { Random } from "../../lib/random.js";
import { bytes, expectError, floats, type HeadsCase, isUnclear, logitHeads, stack } from "./support/heads.js";

const withTruth = logitHeads({ minClasses: 2 }).chain((of) =>
  fc
    .array(fc.oneof(fc.integer({ min: 0, max: of.classes - 1 }), fc.constant(255)), {
      minLength: of.pixels,
      maxLength: of.pixels,
    })
    .filter((labels) => !isUnclear(labels))
    .map((truth) => ({ ...of, truth: bytes(truth, of.heads[0]?.shape.slice(1)) })),
);

/** Leaf by leaf, NaN where NaN. */
function expectSame(actual: unknown, expected: unknown, where: string, tolerance = 1e-7): void {
  if (typeof expected === "object" && expected !== null) {
    expect(Object.keys(actual as object), where).toEqual(Object.keys(expected));
    for (const key of Object.keys(expected))
      expectSame(actual?.[key as never], expected[key as never], `${where}.${key}`, tolerance);
  } else if (typeof expected === "number" && !Number.isNaN(expected)) {
    expect(Math.abs((actual as number) - expected), `${where}: ${actual} and ${expected}`).toBeLessThanOrEqual(
      tolerance * Math.max(1, Math.abs(expected)),
    );
  } else expect(actual, where).toEqual(expected);
}

/** The same by the single functions. */
function oneByOne(heads: NdArray[], truth: NdArray<Uint8Array>, fusion: metrics.ScoreFusion, weights?: number[]) {
  const classes = heads[0]?.shape[0] as number;
  const labels = metrics.labelMaps(heads);
  const staple = metrics.staple(labels, classes);
  const fused =
    fusion === "staple"
      ? staple.probabilities
      : metrics.fuse(heads, { fusion, precision: "double", ...(weights && { weights }) });
  const mask = metrics.argmax(fused);
  const probabilities = heads.map((head) => metrics.fuse([head], { precision: "double" }));
  const maps = {
    entropy: metrics.entropy(fused),
    expectedEntropy: metrics.expectedEntropy(probabilities),
    mutualInformation: metrics.mutualInformation(probabilities),
    variance: metrics.variance(probabilities),
    disagreement: metrics.disagreement(labels, classes),
    variationRatio: metrics.variationRatio(labels, classes),
  };
  return {
    labels,
    mask,
    maps,
    summaries: Object.fromEntries(Object.entries(maps).map(([name, map]) => [name, metrics.summarise(map, mask)])),
    empty: labels.data.every((label) => label === 0),
    aula: heads.length < 3 ? null : metrics.aula(labels, classes),
    pairwiseAgreement: metrics.pairwiseAgreement(labels, classes),
    predictionDepth: metrics.predictionDepth(labels, classes),
    softDiceConfidence: {
      ...metrics.softDiceConfidence(fused),
      heads: probabilities.map((head) => metrics.softDiceConfidence(head)),
    },
    staple,
    quality: metrics.quality(mask, truth, { classes }),
    calibration: metrics.calibration(fused, truth),
  };
}

/** Of C×S with at most one 1 per pixel; class 0 where there is none. */
function oneHot({ data, shape }: { data: Float32Array; shape: readonly number[] }, classes: number) {
  const pixels = data.length / classes;
  for (let i = 0; i < pixels; i++) {
    let sum = 0;
    for (let c = 1; c < classes; c++) sum += data[c * pixels + i] as number;
    data[i] = 1 - sum;
  }
  return { data, shape };
}

describe("scoreHeads", () => {
  // Where classes are exactly tied, or a confidence is on the border of two bins, the last bit decides.
  const untied = ({ heads, pixels, classes }: HeadsCase) => ({
    classes,
    pixels,
    heads: heads.map(({ data, shape }, k) => ({
      shape,
      data: data.map((z, i) => Math.max(-1e4, Math.min(1e4, z)) + ((i * 7919 + k * 104729) % 1009) / 3001),
    })),
  });

  it.each(metrics.SCORE_FUSIONS)("gives what the single functions give, fused by %s", (fusion) => {
    fc.assert(
      fc.property(withTruth, fc.boolean(), (generated, weighted) => {
        const { heads } = untied(generated);
        const { truth } = generated;
        const weights = weighted && fusion !== "staple" ? heads.map((_, k) => 1 + k) : undefined;
        const { probabilities, ...actual } = metrics.scoreHeads(stack(heads), {
          truth,
          fusion,
          ...(weights && { weights }),
        });
        const expected = oneByOne(heads, truth, fusion, weights);
        // STAPLE's and the votes' shares are often on a border.
        const { calibration, ...rest } = actual;
        const { calibration: wanted, ...others } = expected;
        expectSame(rest, others, "score");
        expectSame([calibration?.n, calibration?.nll, calibration?.brier], [wanted.n, wanted.nll, wanted.brier], "nll");
        if (fusion === "mean" && heads.length === 1) expectSame(calibration, wanted, "calibration");
        expect(probabilities.shape).toEqual(heads[0]?.shape);
      }),
      { numRuns: 60 },
    );
  });

  it("works for more classes than four, and for more heads than one logarithm takes", () => {
    const [heads, classes, pixels] = [70, 7, 30];
    const data = Float32Array.from({ length: heads * classes * pixels }, (_, i) => 8 * Math.sin(i * 1.7 + (i % 13)));
    const all = { data, shape: [heads, classes, pixels] };
    const truth = bytes(Array.from({ length: pixels }, (_, i) => i % classes));
    const actual = metrics.scoreHeads(all, { truth });
    const { probabilities: _, ...rest } = actual;
    expectSame(rest, oneByOne(metrics.skipHeads(all, 0), truth, "mean"), "score");
  });

  it("crosses the borders of the blocks it works in", () => {
    const pixels = 1300;
    const data = Float32Array.from({ length: 3 * 2 * pixels }, (_, i) => 5 * Math.sin(i * i * 0.37));
    const all = { data, shape: [3, 2, pixels] };
    const truth = bytes(Array.from({ length: pixels }, (_, i) => (i >> 5) % 2));
    const { probabilities: _, ...rest } = metrics.scoreHeads(all, { truth });
    expectSame(rest, oneByOne(metrics.skipHeads(all, 0), truth, "mean"), "score");
  });

  it("takes probabilities, in place of logits", () => {
    fc.assert(
      fc.property(withTruth, fc.constantFrom("mean", "vote", "last", "staple" as const), (generated, fusion) => {
        const { heads } = untied(generated);
        const { truth } = generated;
        const probabilities = heads.map((head) => metrics.fuse([head], { precision: "double" }));
        const labels = metrics.labelMaps(probabilities);
        // Saturated probabilities can be tied where logits are not.
        if (labels.data.some((label, i) => label !== metrics.labelMaps(heads).data[i])) return;
        const options = { truth, fusion: fusion as metrics.ScoreFusion };
        const { calibration: a, ...of } = metrics.scoreHeads(heads, options);
        const { calibration: b, ...same } = metrics.scoreHeads(probabilities, { ...options, values: "probabilities" });
        expectSame(same, of, "score", 1e-6);
        expectSame([b?.n, b?.nll, b?.brier], [a?.n, a?.nll, a?.brier], "nll");
      }),
      { numRuns: 60 },
    );
  });

  it("skips heads, and says nothing of a truth that it was not given", () => {
    const head = (z: number) => floats([z, -z, 0, 1], [2, 2]);
    const heads = [head(5), head(1), head(2), head(3)];
    const of = metrics.scoreHeads(heads, { skip: 1 });
    expect(of.labels.shape).toEqual([3, 2]);
    expect(of.aula?.value).toBe(metrics.aula(metrics.labelMaps(heads.slice(1)), 2).value);
    expect(of.quality).toBeUndefined();
    expect(of.calibration).toBeUndefined();
    expect(metrics.scoreHeads(heads, { skip: 2 }).aula).toBeNull();
  });

  it("is exact where all heads are sure: shares of fifths are on the border of bins", () => {
    const heads = [1, 1, 1, 1, 0].map((label) => floats(label ? [-1e4, 1e4] : [1e4, -1e4], [2, 1]));
    expect(metrics.scoreHeads(heads).probabilities.data).toEqual(Float64Array.from([0.2, 0.8]));
    const { calibration } = metrics.scoreHeads(heads, { truth: bytes([1]) });
    expect(calibration?.reliability.count.indexOf(1)).toBe(11);
  });

  describe("asks whether logits are logits", () => {
    const random = new Random(3);
    const [K, C, H, W] = [3, 4, 5, 6];
    const logits = Float32Array.from({ length: K * C * H * W }, () => 3 * random.normal());
    const heads = Array.from({ length: K }, (_, k) =>
      floats([...logits.subarray(k * C * H * W, (k + 1) * C * H * W)], [C, H, W]),
    );
    const probabilities = heads.map((head) => metrics.fuse([head], { precision: "double" }));
    const changed = (to: (p: number) => number) =>
      probabilities.map(({ data, shape }) => ({ data: Float32Array.from(data, to), shape }));
    const stacked = {
      data: Float32Array.from(probabilities.flatMap(({ data }) => [...data])),
      shape: [K, C, H, W],
    };
    /** K×C×H×W as C×K×H×W. */
    const swapped = {
      data: Float32Array.from(
        Array.from({ length: C }, (_, c) =>
          Array.from({ length: K }, (_, k) => [
            ...(probabilities[k] as NdArray<Float64Array>).data.subarray(c * H * W, (c + 1) * H * W),
          ]).flat(),
        ).flat(),
      ),
      shape: [C, K, H, W],
    };

    it.each([
      ["probabilities", probabilities, '"probabilities" (--probabilities)'],
      ["probabilities in one array", stacked, "--probabilities"],
      ["probabilities of one head among logits", [heads[0], heads[1], probabilities[2]], "--probabilities"],
      ["half-precision probabilities", changed((p) => Math.round(p * 1024) / 1024), "--probabilities"],
      ["one-hot labels", changed((p) => Number(p > 0.5)).map((one) => oneHot(one, C)), "--probabilities"],
      ["percentages", changed((p) => 100 * p), "divide by 100"],
      ["bytes", changed((p) => Math.round(255 * p)), "divide by 255"],
      ["probabilities with the axes of heads and classes swapped", swapped, "other way round"],
    ])("refuses %s", (_, given, says) => {
      expectError(() => metrics.scoreHeads(given as Heads), "ERR_LE_VALUE", "logits", says, "--trust");
      expectError(() => metrics.scoreHeads(given as Heads, { values: "logits" }), "ERR_LE_VALUE", says);
      expect(metrics.scoreHeads(given as Heads, { trust: true }).mask.data).toHaveLength(H * W);
      // So does every function that takes logits.
      expectError(() => metrics.fuse(given as Heads), "ERR_LE_VALUE", "logits", says, "trust: true");
      expect(metrics.fuse(given as Heads, { trust: true }).data.length).toBeGreaterThan(0);
      const truth = { data: new Uint8Array(H * W).fill(1), shape: [H, W] };
      const images = [{ heads: given as Heads, truth }];
      expectError(() => metrics.skipCurve(images), "ERR_LE_VALUE", "images[0].heads", "trust: true");
      expect(metrics.skipCurve(images, { trust: true }).length).toBeGreaterThan(0);
    });

    it("is asked of a single map, too", () => {
      const [p] = probabilities as [NdArray<Float64Array>];
      const truth = [{ data: new Uint8Array(H * W).fill(1), shape: [H, W] }];
      expectError(() => metrics.softmax(p), "ERR_LE_VALUE", "probabilities already", "subtract 1");
      expect(probabilities.map((_, k) => heads[k] as NdArray).map(metrics.softmax)).toHaveLength(K);
      const less = { ...p, data: p.data.map((z) => z - 1) };
      expect(metrics.softmax(less).data[0]).toBeCloseTo(metrics.fuse([p], { trust: true }).data[0] as number, 6);
      expectError(() => metrics.fitTemperature([p], truth), "ERR_LE_VALUE", "see fitProbabilityTemperature");
      expect(metrics.fitTemperature([p], truth, { trust: true }).temperature).toBeGreaterThan(0);
      expect(metrics.labelMaps([p]).data).toEqual(metrics.argmax(p).data);
    });

    it("lets probabilities be fused as such", () => {
      for (const fusion of ["mean", "vote", "last"] as const)
        metrics.fuse(probabilities, { values: "probabilities", fusion, precision: "double" }).data.forEach((p, i) => {
          expect(p).toBeCloseTo(metrics.fuse(heads, { fusion, precision: "double" }).data[i] as number, 12);
        });
      const weights = [1, 0, 0];
      expect(metrics.fuse(stacked, { values: "probabilities", weights }).data).toEqual(
        stacked.data.slice(0, C * H * W),
      );
      for (const option of [{ fusion: "logit-mean" }, { temperatures: [1, 1, 1] }] as const)
        expectError(() => metrics.fuse(stacked, { values: "probabilities", ...option }), "ERR_LE_OPTION");
      expectError(() => metrics.fuse(heads, { values: "probabilities" }), "ERR_LE_VALUE", "from 0 to 1");
    });

    it("takes logits, log-probabilities among them, with the same answer", () => {
      const log = changed((p) => Math.log(p));
      const [a, b] = [metrics.scoreHeads(heads), metrics.scoreHeads(log)];
      b.probabilities.data.forEach((p, i) => {
        expect(p).toBeCloseTo(a.probabilities.data[i] as number, 6);
      });
      for (const shift of [0, 7])
        expect(
          metrics.scoreHeads(heads.map((head) => ({ ...head, data: head.data.map((z) => Math.abs(z) + shift) }))).mask,
        ).toBeDefined();
      expect(metrics.scoreHeads([floats(new Array(8).fill(0), [2, 4])]).mask.data).toHaveLength(4);
    });

    it("refuses logits where probabilities are promised, and a single class", () => {
      expectError(() => metrics.scoreHeads(heads, { values: "probabilities" }), "ERR_LE_VALUE", "from 0 to 1");
      for (const values of ["logits", "probabilities"] as const)
        expectError(
          () => metrics.scoreHeads([floats(new Array(9).fill(0.7), [1, 3, 3])], { values }),
          "ERR_LE_SHAPE",
          "1 - p and p",
        );
    });
  });

  it("refuses what does not fit", () => {
    const heads = [floats([0, 1], [2, 1])];
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      for (const classes of [2, 5]) {
        const values = new Array(classes).fill(0);
        values[1] = bad;
        expectError(() => metrics.scoreHeads([floats(values, [classes, 1])]), "ERR_LE_VALUE", "heads", `${bad}`);
      }
    }
    expectError(() => metrics.scoreHeads([]), "ERR_LE_SHAPE", "heads");
    expectError(() => metrics.scoreHeads(heads, { skip: 1 }), "ERR_LE_VALUE", "skip");
    expectError(() => metrics.scoreHeads(heads, { truth: bytes([2]) }), "ERR_LE_VALUE", "truth", "2");
    expectError(() => metrics.scoreHeads(heads, { truth: bytes([0, 1]) }), "ERR_LE_SHAPE", "truth");
    expectError(() => metrics.scoreHeads(heads, { truth: 3 as never }), "ERR_LE_OPTION", "'truth'");
    expectError(() => metrics.scoreHeads(heads, { fusion: "median" as never }), "ERR_LE_OPTION", "'fusion'");
    const halves = [floats([0.5, 0.6], [2, 1])];
    expectError(() => metrics.scoreHeads(halves, { values: "probabilities" }), "ERR_LE_VALUE", "sum to 1");
    expectError(
      () => metrics.scoreHeads(heads, { values: "probabilities", fusion: "logit-mean" }),
      "ERR_LE_OPTION",
      "logit-mean",
    );
    expectError(() => metrics.scoreHeads(heads, { weights: [1, 2] }), "ERR_LE_OPTION", "'weights'");
    expectError(() => metrics.scoreHeads(heads, { spacing: [0] }), "ERR_LE_OPTION", "'spacing'");
  });
});

describe("fast functions", () => {
  it("are those of Math, to the error that they state", () => {
    fc.assert(
      fc.property(fc.double({ min: -700, max: 0, noNaN: true }), (x) => {
        expect(Math.abs(expOfNegative(x) / Math.exp(x) - 1)).toBeLessThan(2e-10);
      }),
    );
    fc.assert(
      fc.property(fc.double({ min: 1e-320, max: 1e308, noNaN: true }), (x) => {
        const expected = Math.log(x);
        expect(Math.abs(lnOfPositive(x) - expected)).toBeLessThan(1e-15 * (1 + Math.abs(expected)));
      }),
    );
    expect([expOfNegative(0), lnOfPositive(1e-320)]).toEqual([1, Math.log(1e-320)]);
    expect([-709, -1e300, Number.NEGATIVE_INFINITY, Number.NaN].map(expOfNegative)).toEqual([0, 0, 0, 0]);
    for (const x of [1, 0.5, 1 - 2 ** -53, 2 ** 256]) expect(lnOfPositive(x)).toBeCloseTo(Math.log(x), 14);
  });
});
