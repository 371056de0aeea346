import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { countNeighbours } from "../../lib/agreement/counts.js";
import {
  type AgreementCounts,
  aula,
  aulaFromCounts,
  countAgreement,
  labelMaps,
  type NdArray,
  pairwiseAgreement,
  pairwiseAgreementFromCounts,
  predictionDepth,
  predictionDepthFromCounts,
} from "../../lib/metrics/index.js";
import { bytes, expectError, labelsOf, logitHeads } from "./support/heads.js";

/** Counts of one foreground class in which each head has 1000 pixels and neighbours have the given Dice. */
function chain(agreements: number[]): AgreementCounts {
  const heads = agreements.length + 1;
  const intersections = new Float64Array(heads * heads * 2);
  agreements.forEach((dice, j) => {
    intersections[(j * heads + j + 1) * 2 + 1] = Math.round(dice * 1000);
  });
  return { heads, classes: 2, counts: new Array(heads * 2).fill(1000), intersections };
}

const labelCase = (options: Parameters<typeof logitHeads>[0]) =>
  logitHeads(options).map(({ heads, classes }) => ({ labels: labelMaps(heads), classes }));

function reversed({ data, shape }: NdArray<Uint8Array>): NdArray<Uint8Array> {
  const heads = shape[0] as number;
  const pixels = data.length / heads;
  const rows = Array.from({ length: heads }, (_, k) => [...data.subarray(k * pixels, (k + 1) * pixels)]);
  return { data: Uint8Array.from(rows.reverse().flat()), shape };
}

describe("counts", () => {
  it("are of labels and of common labels", () => {
    const { heads, classes, counts, intersections } = countAgreement(labelsOf("0012", "0112"), 3);
    expect({ heads, classes }).toEqual({ heads: 2, classes: 3 });
    expect([...(counts as Float64Array)]).toEqual([2, 1, 1, 1, 2, 1]);
    expect([...(intersections as Float64Array)]).toEqual([2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 1]);
  });

  it("are symmetric, bounded by both heads' counts, and sum to the pixels", () => {
    fc.assert(
      fc.property(labelCase({}), ({ labels, classes }) => {
        const { heads, counts, intersections } = countAgreement(labels, classes);
        const pixels = labels.data.length / heads;
        for (let j = 0; j < heads; j++) {
          const row = Array.from({ length: classes }, (_, c) => counts[j * classes + c] as number);
          expect(row.reduce((a, b) => a + b, 0)).toBe(pixels);
          for (let k = 0; k < heads; k++)
            for (let c = 0; c < classes; c++) {
              const common = intersections[(j * heads + k) * classes + c] as number;
              expect(common).toBe(intersections[(k * heads + j) * classes + c]);
              expect(common).toBeLessThanOrEqual(Math.min(row[c] as number, counts[k * classes + c] as number));
              if (j === k) expect(common).toBe(row[c]);
            }
        }
      }),
    );
  });

  it("that contradict themselves are refused", () => {
    const good = countAgreement(labelsOf("01", "01", "11"), 2);
    expectError(() => aulaFromCounts({ ...good, counts: [1, 1] }), "ERR_LE_SHAPE", "counts.counts", "6 numbers");
    expectError(() => aulaFromCounts({ ...good, intersections: [1] }), "ERR_LE_SHAPE", "counts.intersections", "18");
    expectError(() => aulaFromCounts({ ...good, heads: 0 }), "ERR_LE_VALUE", "counts.heads", "0");
    expectError(() => aulaFromCounts({ ...good, classes: 1.5 }), "ERR_LE_VALUE", "counts.classes", "1.5");
    for (const bad of [-1, 0.5, Number.NaN])
      expectError(
        () => pairwiseAgreementFromCounts({ ...good, counts: [bad, 1, 1, 1, 0, 2] }),
        "ERR_LE_VALUE",
        "counts.counts",
        `${bad} at index 0`,
      );
  });
});

describe("AULA", () => {
  it("gives the published example's 7.820", () => {
    const result = aulaFromCounts(chain([0.92, 0.95, 0.97, 0.985, 0.99, 0.99, 0.99, 0.99, 0.99]));
    expect(result.value).toBeCloseTo(7.82, 10);
    expect(result.normalised).toBeCloseTo(7.82 / 8, 10);
    expect(result.agreements[1]).toEqual([0.92, 0.95, 0.97, 0.985, 0.99, 0.99, 0.99, 0.99, 0.99]);
    expect(result.empty).toBe(false);
  });

  it("is worked out by hand for four heads and two foreground classes", () => {
    const result = aula(labelsOf("001122", "000122", "000112", "000112"), 3);
    // Class 1: 2·1/(2+1), 2·1/(1+2), 1. Class 2: 1, 2·1/(2+1), 1.
    expect(result.agreements).toEqual({ 1: [2 / 3, 2 / 3, 1], 2: [1, 2 / 3, 1] });
    expect(result.perClass[1]).toBeCloseTo(2 / 3 + 5 / 6, 12);
    expect(result.perClass[2]).toBeCloseTo(5 / 3, 12);
    expect(result.value).toBeCloseTo(19 / 12, 12);
    expect(result.normalised).toBeCloseTo(19 / 24, 12);
  });

  it("leaves classes out of the mean that no head predicts", () => {
    const result = aula(labelsOf("01", "11", "10"), 3);
    expect(result.perClass).toEqual({ 1: 2 / 3, 2: 1 });
    expect(result.value).toBe(2 / 3);
  });

  it("is full, and says so, where no head predicts any foreground", () => {
    expect(aula(labelsOf("000", "000", "000", "000"), 3)).toMatchObject({ value: 2, normalised: 1, empty: true });
  });

  it("is 0 for heads that never agree", () => {
    expect(aula(labelsOf("100", "010", "001"), 2)).toMatchObject({ value: 0, normalised: 0, empty: false });
  });

  it("is from 0 to K-2, K-2 for unanimous heads, and the same in reverse", () => {
    fc.assert(
      fc.property(labelCase({ minHeads: 3 }), ({ labels, classes }) => {
        const heads = labels.shape[0] as number;
        const result = aula(labels, classes);
        expect(result.value).toBeGreaterThanOrEqual(0);
        expect(result.value).toBeLessThanOrEqual(heads - 2);
        expect(result.normalised).toBeCloseTo(result.value / (heads - 2), 12);
        expect(aula(reversed(labels), classes).value).toBeCloseTo(result.value, 12);
        const one = [...labels.data.subarray(0, labels.data.length / heads)];
        const same = bytes(Array.from({ length: heads }, () => one).flat(), [heads, one.length]);
        expect(aula(same, classes).value).toBe(heads - 2);
      }),
    );
  });

  it("needs three heads, and names how many there are and were skipped", () => {
    expectError(() => aula(labelsOf("01", "01"), 2), "ERR_LE_SHAPE", "K = 2", "T = 0");
    expectError(() => aula(labelsOf("01"), 2, { skipped: 9 }), "ERR_LE_SHAPE", "K = 1", "T = 9");
    expectError(() => aula(labelsOf("01", "01", "01"), 2, { skip: 1 } as never), "ERR_LE_OPTION", "'skip'");
    expectError(() => aula(labelsOf("02", "01", "01"), 2), "ERR_LE_VALUE", "labels", "2 at position 1");
  });
});

describe("pairwise agreement", () => {
  it("is the mean over all pairs", () => {
    // Dice of heads 1-2: 1, 1-3: 0, 2-3: 0.
    expect(pairwiseAgreement(labelsOf("10", "10", "01"), 2)).toEqual({ perClass: { 1: 1 / 3 }, overall: 1 / 3 });
  });

  it("is 1 where no head predicts any foreground, and undefined for a single head", () => {
    expect(pairwiseAgreement(labelsOf("00", "00"), 2)).toEqual({ perClass: { 1: 1 }, overall: 1 });
    expect(pairwiseAgreement(labelsOf("01"), 2)).toEqual({ perClass: { 1: Number.NaN }, overall: Number.NaN });
    expect(pairwiseAgreement(labelsOf("00"), 2).overall).toBeNaN();
  });

  it("is from 0 to 1 and does not depend on the heads' order", () => {
    fc.assert(
      fc.property(labelCase({ minHeads: 2 }), ({ labels, classes }) => {
        const { overall } = pairwiseAgreement(labels, classes);
        expect(overall).toBeGreaterThanOrEqual(0);
        expect(overall).toBeLessThanOrEqual(1);
        expect(pairwiseAgreement(reversed(labels), classes).overall).toBeCloseTo(overall, 12);
      }),
    );
  });

  it("counts the outer pairs that AULA does not see", () => {
    const labels = labelsOf("1100", "0110", "0011");
    expect(aula(labels, 2).normalised).toBe(0.5);
    expect(pairwiseAgreement(labels, 2).overall).toBeCloseTo(1 / 3, 12);
  });
});

describe("slope of the agreements", () => {
  it.each([
    [[0.5, 0.75, 1], 0.25],
    [[1, 0.9], -0.1],
    [[0.2, 0.9, 0.4, 0.7], 0.1], // numpy.polyfit(range(4), …, 1)[0]
    [[0.8, 0.8, 0.8], 0],
  ])("of %j is %f", (agreements, slope) => {
    const of = aulaFromCounts(chain(agreements)).slope;
    expect(of.value).toBeCloseTo(slope, 12);
    expect(of.perClass[1]).toBeCloseTo(slope, 12);
  });

  it("is 0 where no head finds anything, and averages the classes that are found", () => {
    expect(aula(labelsOf("00", "00", "00"), 3).slope).toEqual({ value: 0, perClass: { 1: 0, 2: 0 } });
    const { value, perClass } = aula(labelsOf("1200", "1220", "1222"), 4).slope;
    expect(perClass[3]).toBe(0);
    expect(value).toBeCloseTo((perClass[1]! + perClass[2]!) / 2, 12);
  });
});

describe("prediction depth", () => {
  it.each([
    [[0.2, 0.5, 0.9, 0.92, 0.93], 3],
    [[0.9, 0.91, 0.92], 1],
    [[0.9, 0.91, 0.5], 3],
    [[0.5, 0.9, 0.9, 0.4, 0.42], 4],
    [[0.7], 1],
  ])("of agreements %j is %i", (agreements, depth) => {
    expect(predictionDepthFromCounts(chain(agreements))).toEqual({ perClass: { 1: depth }, mean: depth });
  });

  it("depends on the threshold", () => {
    const counts = chain([0.2, 0.5, 0.9, 0.98]);
    expect(predictionDepthFromCounts(counts, 0.95).mean).toBe(4);
    expect(predictionDepthFromCounts(counts, 0.9).mean).toBe(3);
    expect(predictionDepthFromCounts(counts, 0).mean).toBe(1);
    expect(predictionDepthFromCounts(chain([0.2, 0.9, 0.9]), 1).mean).toBe(2);
  });

  it("is 1 for unanimous heads and where nothing is predicted, undefined for a single head", () => {
    expect(predictionDepth(labelsOf("01", "01", "01"), 2).mean).toBe(1);
    expect(predictionDepth(labelsOf("00", "00", "00"), 2)).toEqual({ perClass: { 1: 1 }, mean: 1 });
    expect(predictionDepth(labelsOf("01"), 2)).toEqual({ perClass: { 1: Number.NaN }, mean: Number.NaN });
  });

  it("refuses a threshold that is none", () => {
    for (const theta of [-0.1, 1.1, Number.NaN])
      expectError(() => predictionDepth(labelsOf("01", "01"), 2, theta), "ERR_LE_VALUE", "theta", `${theta}`);
  });
});

describe("counting neighbours alone", () => {
  it("gives the counts and the neighbours of all counts, for any number of pixels", () => {
    const cases = fc.record({
      heads: fc.integer({ min: 1, max: 5 }),
      classes: fc.integer({ min: 1, max: 256 }),
      pixels: fc.integer({ min: 1, max: 40 }),
      run: fc.integer({ min: 1, max: 20 }),
      seed: fc.nat(1000),
    });
    fc.assert(
      fc.property(cases, ({ heads, classes, pixels, run, seed }) => {
        const label = (_: unknown, i: number) =>
          (seed * Math.floor((i % pixels) / run) + ((i * seed) % 11 === 0 ? 1 : 0)) % classes;
        const labels = { data: Uint8Array.from({ length: heads * pixels }, label), shape: [heads, pixels] };
        const all = countAgreement(labels, classes);
        const some = countNeighbours(labels, classes);
        expect(some.counts).toEqual(all.counts);
        for (let k = 0; k + 1 < heads; k++) {
          for (let c = 0; c < classes; c++) {
            const at = (k * heads + k + 1) * classes + c;
            expect(some.intersections[at]).toBe(all.intersections[at]);
          }
        }
        expect(predictionDepth(labels, classes)).toEqual(predictionDepthFromCounts(all));
      }),
    );
  });

  it("refuses a label that is no class, wherever it is", () => {
    for (let at = 0; at < 15; at++) {
      const labels = { data: new Uint8Array(15), shape: [3, 5] };
      labels.data[at] = 2;
      expectError(() => aula(labels, 2), "ERR_LE_VALUE", "labels", "2", `position ${at}`);
    }
  });
});
