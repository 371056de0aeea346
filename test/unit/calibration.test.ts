import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  adaptiveEce,
  argmax,
  aula,
  aurc,
  brier,
  calibration,
  chooseSkip,
  classwiseEce,
  dice,
  ece,
  FUSIONS,
  fitHeadWeights,
  fitProbabilityTemperature,
  fitTemperature,
  fuse,
  labelMaps,
  type NdArray,
  nll,
  reliability,
  type SkipPoint,
  skipCurve,
  skipHeads,
  softmax,
  temper,
} from "../../lib/metrics/index.js";
import { LEAST_SURE } from "../../lib/scores/scores.js";
import { bytes, expectError, floats, isUnclear, logitHeads } from "./support/heads.js";

/** As images are ranked by it. */
const rankedAula = ({ value, empty }: { value: number; empty: boolean }) => (empty ? LEAST_SURE : value);

/** Two classes: by pixel, the probability of class 1. */
function binary(ones: number[]): NdArray<Float64Array> {
  return { data: Float64Array.from([...ones.map((p) => 1 - p), ...ones]), shape: [2, ones.length] };
}

const withTruth = logitHeads({ minClasses: 2 }).chain(({ heads, classes, pixels }) =>
  fc
    .array(fc.oneof(fc.integer({ min: 0, max: classes - 1 }), fc.constant(255)), {
      minLength: pixels,
      maxLength: pixels,
    })
    .filter((truth) => !isUnclear(truth))
    .map((truth) => ({ heads, classes, pixels, truth: bytes(truth, heads[0]?.shape.slice(1)) })),
);

describe("calibration errors", () => {
  it("are worked out by hand", () => {
    // Confidences 0.9, 0.9, 0.7, 0.6; right, wrong, right, right.
    const p = binary([0.9, 0.9, 0.3, 0.4]);
    const truth = bytes([1, 0, 0, 0]);
    expect(ece(p, truth, { bins: 10 })).toBeCloseTo((0.8 + 0.3 + 0.4) / 4, 12);
    // Sorted: 0.6, 0.7 | 0.9, 0.9.
    expect(adaptiveEce(p, truth, { bins: 2 })).toBeCloseTo((0.7 + 0.8) / 4, 12);
    // Three bins of 2, 1, 1: the equal ones in the order of the pixels.
    expect(adaptiveEce(p, truth, { bins: 3 })).toBeCloseTo((0.7 + 0.1 + 0.9) / 4, 12);
    const { mean, perClass } = classwiseEce(p, truth, { bins: 10 });
    expect(perClass[1]).toBeCloseTo((0.8 + 0.3 + 0.4) / 4, 12);
    expect(mean).toBeCloseTo(((perClass[0] as number) + (perClass[1] as number)) / 2, 12);
    expect(reliability(p, truth, { bins: 2 })).toEqual({
      count: [0, 4],
      meanConfidence: [Number.NaN, 0.775],
      accuracy: [Number.NaN, 0.75],
    });
  });

  it("put a confidence on a border into the lower bin, and 0 into the first", () => {
    for (let b = 8; b <= 15; b++) {
      const { count } = reliability(binary([b / 15]), bytes([1]));
      expect(count.indexOf(1)).toBe(b - 1);
    }
    const { perClass } = classwiseEce(binary([0, 1]), bytes([0, 1]));
    expect(perClass).toEqual([0, 0]);
  });

  it("are undefined where no pixel is left", () => {
    const all = calibration(binary([0.2, 0.7]), bytes([255, 255]));
    expect(all).toMatchObject({ n: 0, nll: Number.NaN, ece: Number.NaN, adaptiveEce: Number.NaN });
    expect(all.classwiseEce).toEqual({ mean: Number.NaN, perClass: [Number.NaN, Number.NaN] });
    expect(all.reliability.count.every((n) => n === 0)).toBe(true);
    expect(ece(binary([0.2]), bytes([0]), { foreground: true })).toBeNaN();
  });

  it("are from 0 to 1, and 0 for what is sure and right", () => {
    fc.assert(
      fc.property(withTruth, fc.boolean(), fc.integer({ min: 1, max: 20 }), ({ heads, truth }, foreground, bins) => {
        const p = fuse(heads, { precision: "double" });
        const options = { foreground, bins };
        const of = calibration(p, truth, options);
        expect(of.n).toBe(of.reliability.count.reduce((a, b) => a + b, 0));
        if (of.n === 0) return;
        for (const value of [of.ece, of.adaptiveEce, of.classwiseEce.mean]) {
          expect(value).toBeGreaterThanOrEqual(0);
          expect(value).toBeLessThanOrEqual(1);
        }
        // With one bin both are the gap between mean confidence and accuracy.
        expect(ece(p, truth, { foreground, bins: 1 })).toBeCloseTo(adaptiveEce(p, truth, { foreground, bins: 1 }), 12);
        expect(of.nll).toBe(nll(p, truth, { foreground }));
        expect(of.brier).toBe(brier(p, truth, { foreground }));
        const sure = fuse(heads.slice(0, 1), { fusion: "vote", precision: "double" });
        const right = calibration(sure, argmax(sure), { bins });
        expect([right.ece, right.adaptiveEce, right.classwiseEce.mean]).toEqual([0, 0, 0]);
      }),
    );
  });

  it("with bins of equal count equals sorting, where many confidences are near 1 or equal", () => {
    const confidence = fc.oneof(
      fc.constantFrom(0.5, 0.75, 1, 1 - 2 ** -53),
      fc.double({ min: 0.5, max: 1, noNaN: true }),
      fc.double({ min: 1e-12, max: 1e-6, noNaN: true }).map((gap) => 1 - gap),
    );
    fc.assert(
      fc.property(fc.array(fc.tuple(confidence, fc.boolean()), { minLength: 1, maxLength: 200 }), (pixels) => {
        const p = binary(pixels.map(([value]) => 1 - value));
        // Class 0 is the more probable, or equal and lower.
        const truth = bytes(pixels.map(([, right]) => (right ? 0 : 1)));
        const sorted = pixels
          .map(([, right], i) => ({ value: p.data[i] as number, right, i }))
          .sort((a, b) => a.value - b.value || a.i - b.i);
        let expected = 0;
        for (let b = 0, start = 0; b < 15; b++) {
          const size = Math.floor(sorted.length / 15) + (b < sorted.length % 15 ? 1 : 0);
          const bin = sorted.slice(start, start + size);
          start += size;
          expected += Math.abs(bin.reduce((sum, { value, right }) => sum + (right ? 1 : 0) - value, 0));
        }
        expect(adaptiveEce(p, truth)).toBeCloseTo(expected / sorted.length, 12);
      }),
    );
  });

  it("refuse what does not fit", () => {
    const p = binary([0.2, 0.7]);
    expectError(() => ece(p, bytes([0])), "ERR_LE_SHAPE", "truth");
    expectError(() => calibration(p, bytes([0, 2])), "ERR_LE_VALUE", "truth", "2 at position 1");
    expectError(() => adaptiveEce(p, bytes([0, 1]), { bins: 0 }), "ERR_LE_OPTION", "'bins'", "0");
    expectError(() => reliability(floats([0.9, 0.9], [2, 1]), bytes([0])), "ERR_LE_VALUE", "sum to 1");
    expectError(() => classwiseEce(p, bytes([0, 1]), { bin: 3 } as never), "ERR_LE_OPTION", "'bins'");
  });
});

describe("temperatures", () => {
  /** Logits whose true temperature is known: labels are drawn from softmax(z / τ) as shares of many pixels. */
  function drawn(temperature: number) {
    const z: number[] = [];
    const labels: number[] = [];
    for (const gap of [-3, -1, 0.5, 2, 4]) {
      const p = 1 / (1 + Math.exp(-gap / temperature));
      for (let i = 0; i < 400; i++) {
        z.push(gap);
        labels.push((i + 0.5) / 400 < p ? 1 : 0);
      }
    }
    const logits = { data: Float64Array.from([...z.map(() => 0), ...z]), shape: [2, z.length] };
    return { logits, truth: bytes(labels) };
  }

  it.each([0.5, 1, 2.5])("of %d are found", (temperature) => {
    const { logits, truth } = drawn(temperature);
    const fitted = fitTemperature([logits], [truth]);
    expect(fitted.temperature / temperature).toBeCloseTo(1, 1);
    const tempered = fuse([logits], { temperatures: [fitted.temperature], precision: "double" });
    expect(nll(tempered, truth)).toBeCloseTo(fitted.nll, 9);
    for (const other of [0.97, 1.03]) {
      const worse = fuse([logits], { temperatures: [fitted.temperature * other], precision: "double" });
      expect(nll(worse, truth)).toBeGreaterThan(fitted.nll);
    }
    // Of probabilities it is the same, as p^(1/τ) of softmax(z) is softmax(z/τ).
    const p = fuse([logits], { precision: "double" });
    const second = fitProbabilityTemperature([p], [truth]);
    expect(second.temperature).toBeCloseTo(fitted.temperature, 4);
    expect(nll(temper(p, second.temperature), truth)).toBeCloseTo(second.nll, 6);
  });

  it("of 1 change nothing; high ones make all classes alike", () => {
    fc.assert(
      fc.property(logitHeads({ minClasses: 2 }), ({ heads, classes }) => {
        const p = softmax(heads[0] as NdArray);
        const same = temper(p, 1);
        p.data.forEach((value, i) => {
          expect(same.data[i]).toBeCloseTo(value, 6);
        });
        const flat = temper(floats(new Array(classes).fill(1 / classes), [classes, 1]), 1e6);
        for (const value of flat.data) expect(value).toBeCloseTo(1 / classes, 5);
      }),
    );
  });

  it("survive probabilities of 0, and no pixel at all", () => {
    const p = binary([0, 1, 1]);
    expect(fitProbabilityTemperature([p], [bytes([0, 1, 0])]).nll).toBeCloseTo((-Math.log(1e-5) - 2e-5) / 3, 4);
    expect(fitTemperature([p], [bytes([255, 255, 255])])).toEqual({ temperature: 1, nll: Number.NaN });
    expect(fitTemperature([], [])).toEqual({ temperature: 1, nll: Number.NaN });
  });

  it("refuse what does not fit", () => {
    const p = binary([0.5]);
    expectError(() => temper(p, 0), "ERR_LE_VALUE", "temperature", "0");
    expectError(() => fitTemperature([p], []), "ERR_LE_SHAPE", "truths");
    expectError(() => fitTemperature([p], [bytes([2])]), "ERR_LE_VALUE", "truths[0]");
    expectError(
      () => fitTemperature([p, floats([1, 1, 1], [3, 1])], [bytes([0]), bytes([0])]),
      "ERR_LE_SHAPE",
      "logits[1]",
    );
    expectError(() => fitTemperature([p], [bytes([0])], { range: [2, 1] }), "ERR_LE_OPTION", "'range'");
    expectError(() => fuse([p], { temperatures: [1, 2] }), "ERR_LE_OPTION", "'temperatures'");
    expectError(() => fuse([p], { temperatures: [0] }), "ERR_LE_OPTION", "'temperatures'");
  });
});

describe("head weights", () => {
  it("are those of the mixture that the truth was drawn from", () => {
    // Head 0 is right of 70 % of the pixels and head 1 of the others, both sure.
    const [a, b] = [new Array(100).fill(0.99), new Array(100).fill(0.01)];
    const truth = bytes(Array.from({ length: 100 }, (_, i) => (i < 70 ? 1 : 0)));
    const { weights, nll: fitted, converged } = fitHeadWeights([[binary(a), binary(b)]], [truth]);
    expect(converged).toBe(true);
    // 0.99 w + 0.01 (1-w) = 0.7
    expect(weights[0]).toBeCloseTo(0.69 / 0.98, 3);
    const logits = (p: number[]) => ({ data: binary(p).data.map(Math.log), shape: [2, 100] });
    const fused = fuse([logits(a), logits(b)], { weights, precision: "double" });
    expect(nll(fused, truth)).toBeCloseTo(fitted, 9);
  });

  it("are convex, no worse than equal ones or one head alone, and blind to the order of the images", () => {
    fc.assert(
      fc.property(fc.array(withTruth, { minLength: 1, maxLength: 1 }), ([one]) => {
        if (!one) return;
        const { heads, truth } = one;
        const p = heads.map((head) => fuse([head], { precision: "double" }));
        const fit = fitHeadWeights([p], [truth]);
        expect(fit.weights.reduce((x, y) => x + y, 0)).toBeCloseTo(1, 9);
        for (const weight of fit.weights) expect(weight).toBeGreaterThanOrEqual(0);
        if (Number.isNaN(fit.nll)) {
          expect(truth.data.every((label) => label === 255)).toBe(true);
          return;
        }
        expect(fit.nll).toBeLessThanOrEqual(nll(fuse(heads, { precision: "double" }), truth) + 1e-9);
        const twice = fitHeadWeights([p, p], [truth, truth]);
        twice.weights.forEach((weight, k) => {
          expect(weight).toBeCloseTo(fit.weights[k] as number, 6);
        });
      }),
      { numRuns: 50 },
    );
  });

  it("refuse what does not fit", () => {
    const p = binary([0.5]);
    expectError(() => fitHeadWeights([], []), "ERR_LE_SHAPE", "probabilities", "none");
    expectError(() => fitHeadWeights([[p], [p, p]], [bytes([0]), bytes([0])]), "ERR_LE_SHAPE", "probabilities[1]", "2");
    expectError(() => fitHeadWeights([[p]], [bytes([0]), bytes([0])]), "ERR_LE_SHAPE", "truths");
    expectError(() => fitHeadWeights([[p]], [bytes([0])], { rounds: 1 } as never), "ERR_LE_OPTION", "'rounds'");
  });
});

/** An image with its truth, some of which is ignored; many logits are tied. */
function sampleOf({ k, classes }: { k: number; classes: number }) {
  const logit = fc.oneof(fc.integer({ min: -3, max: 3 }), fc.double({ min: -30, max: 30, noNaN: true }));
  return fc.integer({ min: 1, max: 12 }).chain((pixels) =>
    fc.record({
      heads: fc
        .array(fc.array(logit, { minLength: classes * pixels, maxLength: classes * pixels }), {
          minLength: k,
          maxLength: k,
        })
        .map((heads) => heads.map((values) => ({ data: Float64Array.from(values), shape: [classes, pixels] }))),
      truth: fc
        .array(fc.oneof({ weight: 9, arbitrary: fc.integer({ min: 0, max: classes - 1 }) }, fc.constant(255)), {
          minLength: pixels,
          maxLength: pixels,
        })
        .map((labels) => bytes(labels)),
    }),
  );
}

describe("the choice of T", () => {
  it("is over a curve of the single functions' values", () => {
    const images = fc
      .record({ k: fc.integer({ min: 3, max: 6 }), classes: fc.integer({ min: 2, max: 4 }) })
      .chain((of) => fc.array(sampleOf(of), { minLength: 1, maxLength: 5 }).map((all) => ({ ...of, all })));
    fc.assert(
      fc.property(images, fc.constantFrom(...FUSIONS), ({ k, classes, all }, fusion) => {
        const curve = skipCurve(all, { fusion, ignoreIndex: 255 });
        expect(curve.map(({ skip }) => skip)).toEqual(Array.from({ length: k - 2 }, (_, skip) => skip));
        for (const point of curve) {
          // One T after the other, each from the beginning.
          const scores = all.map(({ heads, truth }) => {
            const kept = skipHeads(heads, point.skip);
            const overlap = Object.values(dice(argmax(fuse(kept, { fusion })), truth, { classes, ignoreIndex: 255 }));
            return {
              nll: nll(fuse(kept, { fusion, precision: "double" }), truth, { ignoreIndex: 255 }),
              dice: overlap.reduce((a, b) => a + b, 0) / overlap.length,
              aula: rankedAula(aula(labelMaps(kept), classes)),
            };
          });
          const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
          // An image of which no pixel counts has neither nll nor Dice, and ranks with none.
          const counted = scores.filter((score) => !Number.isNaN(score.dice));
          const measured = counted.map((score) => score.nll);
          const quality = counted.map((score) => score.dice);
          const confidence = counted.map((score) => score.aula);
          const near = (value: number, expected: number) => {
            if (Number.isNaN(expected)) expect(value).toBeNaN();
            else expect(Math.abs(value - expected)).toBeLessThanOrEqual(1e-9);
          };
          near(point.nll, mean(measured));
          near(point.dice, mean(quality));
          near(
            point.diceSd ** 2,
            // Of fewer than two images there is none.
            quality.reduce((sum, value) => sum + (value - mean(quality)) ** 2, 0) / Math.max(0, quality.length - 1),
          );
          near(
            point.aurc,
            counted.length === 0
              ? Number.NaN
              : aurc(
                  confidence,
                  quality.map((value) => 1 - value),
                ),
          );
        }
      }),
      { numRuns: 200 },
    );
  });

  const point = (skip: number, nll: number, dice: number): SkipPoint => ({
    ...{ skip, nll, dice },
    ...{ nllSd: 0, diceSd: 0, aurc: 0 },
  });

  it("takes the lowest nll whose Dice is near the best, and another rule where one is given", () => {
    const curve = [point(0, 0.5, 0.9), point(1, 0.4, 0.899), point(2, 0.1, 0.89), point(3, 0.4, 0.9)];
    expect(chooseSkip(curve)).toBe(1);
    expect(chooseSkip(curve, { margin: 0 })).toBe(3);
    expect(chooseSkip(curve, { margin: 0.02 })).toBe(2);
    expect(chooseSkip(curve, { rule: "dice" })).toBe(3);
    const ranked = [0.2, 0.1, 0.05, 0.1].map((aurc, t) => ({ ...(curve[t] as SkipPoint), aurc }));
    expect(chooseSkip(ranked, { rule: "aurc" })).toBe(1);
    expect(chooseSkip(ranked, { rule: "aurc", margin: 0.02 })).toBe(2);
    expect(chooseSkip(curve, { rule: (points) => points.at(-1)?.skip ?? 0 })).toBe(3);
  });

  it("refuses what does not fit", () => {
    const [head, truth] = [floats([0, 1], [2, 1]), bytes([0])];
    expectError(() => skipCurve([]), "ERR_LE_SHAPE", "images", "none");
    expectError(() => skipCurve([{ heads: [head, head], truth }]), "ERR_LE_SHAPE", "at least 3 heads", "K = 2");
    const three = { heads: [head, head, head], truth };
    expectError(() => skipCurve([three, { heads: [head], truth }]), "ERR_LE_SHAPE", "images[1].heads", "1");
    expectError(() => chooseSkip([]), "ERR_LE_SHAPE", "curve");
    expectError(() => chooseSkip([point(0, Number.NaN, 1)]), "ERR_LE_VALUE", "curve", "T = 0");
    const unranked = { ...point(0, 1, 1), aurc: Number.NaN };
    expectError(() => chooseSkip([unranked], { rule: "aurc" }), "ERR_LE_VALUE", "curve", "aurc NaN for T = 0");
    expectError(() => chooseSkip([point(0, 1, 1)], { rule: () => 7 }), "ERR_LE_OPTION", "'rule'", "7");
  });
});
