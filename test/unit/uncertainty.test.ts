import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  argmax,
  disagreement,
  entropy,
  expectedEntropy,
  fuse,
  labelMaps,
  mutualInformation,
  type NdArray,
  softDiceConfidence,
  softDiceConfidenceFromSums,
  softmax,
  summarise,
  summaryFromSums,
  variance,
  variationRatio,
} from "../../lib/metrics/index.js";
import { bytes, expectError, floats, labelsOf, logitHeads, stack } from "./support/heads.js";

/** Rounding to single precision of values up to ln 4. */
const ROUNDING = 1e-6;

describe("maps", () => {
  // Pixel 0: both heads sure of different classes; pixel 1: both undecided.
  const heads = [floats([1, 0.5, 0, 0.5], [2, 2]), floats([0, 0.5, 1, 0.5], [2, 2])];
  const ln2 = Math.fround(Math.log(2));

  it("tell disagreement from indecision", () => {
    expect([...entropy(floats([0.5, 0.5, 0.5, 0.5], [2, 2])).data]).toEqual([ln2, ln2]);
    expect([...expectedEntropy(heads).data]).toEqual([0, ln2]);
    expect([...mutualInformation(heads).data]).toEqual([ln2, 0]);
    expect([...variance(heads).data]).toEqual([0.25, 0]);
    const labels = labelMaps(heads);
    expect([...disagreement(labels, 2).data]).toEqual([1, 0]);
    expect([...variationRatio(labels, 2).data]).toEqual([0.5, 0]);
  });

  it("see small probabilities", () => {
    const [p, q] = [0.005, 0.995];
    expect(entropy(floats([p, q], [2, 1])).data[0]).toBeCloseTo(-p * Math.log(p) - q * Math.log(q), 6);
  });

  it("count votes", () => {
    const labels = labelsOf("0000", "0011", "0122", "0111");
    // Pixel 1: 0,0,1,1; pixel 2 and 3: 0,1,2,1.
    const pairs = [0, 1 - (2 + 2) / 12, 1 - 2 / 12, 1 - 2 / 12];
    disagreement(labels, 3).data.forEach((value, i) => {
      expect(value).toBeCloseTo(pairs[i] as number, 6);
    });
    expect([...variationRatio(labels, 3).data]).toEqual([0, 0.5, 0.5, 0.5]);
  });

  it("stay in their ranges, and agree between both shapes of input", () => {
    fc.assert(
      fc.property(logitHeads(), ({ heads, classes }) => {
        const probabilities = heads.map(softmax);
        const labels = labelMaps(probabilities);
        const mean = entropy(fuse(heads)).data;
        const maps = {
          entropy: mean,
          expectedEntropy: expectedEntropy(probabilities).data,
          mutualInformation: mutualInformation(probabilities).data,
          variance: variance(probabilities).data,
          disagreement: disagreement(labels, classes).data,
          variationRatio: variationRatio(labels, classes).data,
        };
        const top = Math.log(classes) + ROUNDING;
        const limits = [top, top, top, 0.25 + ROUNDING, 1, 1 - 1 / heads.length + ROUNDING];
        Object.values(maps).forEach((map, m) => {
          for (const value of map) {
            expect(value).toBeGreaterThanOrEqual(0);
            expect(value).toBeLessThanOrEqual(limits[m] as number);
          }
        });
        maps.mutualInformation.forEach((value, i) => {
          expect(value + (maps.expectedEntropy[i] as number)).toBeCloseTo(mean[i] as number, 5);
        });
        const stacked = stack(probabilities);
        expect(expectedEntropy(stacked).data).toEqual(maps.expectedEntropy);
        expect(mutualInformation(stacked).data).toEqual(maps.mutualInformation);
        expect(variance(stacked).data).toEqual(maps.variance);
      }),
    );
  });

  it("do not depend on the heads' order", () => {
    fc.assert(
      fc.property(logitHeads(), ({ heads, classes }) => {
        const forward = heads.map(softmax);
        const backward = [...forward].reverse();
        for (const map of [expectedEntropy, mutualInformation, variance]) {
          const expected = map(forward).data;
          map(backward).data.forEach((value, i) => {
            expect(value).toBeCloseTo(expected[i] as number, 6);
          });
        }
        for (const map of [disagreement, variationRatio])
          expect(map(labelMaps(backward), classes)).toEqual(map(labelMaps(forward), classes));
      }),
    );
  });

  it("are exactly 0 for unanimous heads, whose entropy is that of one", () => {
    fc.assert(
      fc.property(logitHeads(), ({ heads: [head], classes }) => {
        const p = softmax(head as NdArray);
        const same = [p, p, p];
        const zero = new Float32Array(argmax(p).data.length);
        for (const map of [mutualInformation, variance]) expect(map(same).data).toEqual(zero);
        for (const map of [disagreement, variationRatio]) expect(map(labelMaps(same), classes).data).toEqual(zero);
        expect(expectedEntropy(same)).toEqual(entropy(p));
      }),
    );
  });

  it("find no disagreement in a single head", () => {
    expect([...disagreement(labelsOf("012"), 3).data]).toEqual([0, 0, 0]);
    expect([...variationRatio(labelsOf("012"), 3).data]).toEqual([0, 0, 0]);
  });

  it("refuse what is no probability", () => {
    for (const map of [entropy, (p: NdArray) => mutualInformation([p]), (p: NdArray) => variance([p])]) {
      expectError(
        () => map(floats([1.5, -0.5], [2, 1])),
        "ERR_LE_VALUE",
        "probabilities",
        "1.5",
        "class 0, position 0",
      );
      expectError(() => map(floats([-0.5, 0.75, 0.75], [3, 1])), "ERR_LE_VALUE", "from 0 to 1", "-0.5 at class 0");
      expectError(() => map(floats([0.5, 0.4], [2, 1])), "ERR_LE_VALUE", "sum to 1", "position 0");
      expectError(() => map(floats([Number.NaN, 1], [2, 1])), "ERR_LE_VALUE", "NaN");
    }
    expectError(() => expectedEntropy([floats([1, 0], [2, 1]), floats([1, 1], [2, 1])]), "ERR_LE_VALUE", "head 1");
    expect(entropy(floats([0.5005, 0.5004], [2, 1])).data[0]).toBeCloseTo(Math.log(2), 3);
  });

  it("refuse what is no label map", () => {
    expectError(() => disagreement(labelsOf("012"), 2), "ERR_LE_VALUE", "labels", "from 0 to 1", "2 at position 2");
    expectError(() => disagreement(bytes([0, 1]), 2), "ERR_LE_SHAPE", "labels", "K×S");
    expectError(() => variationRatio(floats([0, 1], [1, 2]) as never, 2), "ERR_LE_SHAPE", "Uint8Array", "Float32Array");
    for (const classes of [0, 1.5, 257, Number.NaN])
      expectError(() => disagreement(labelsOf("00"), classes), "ERR_LE_VALUE", "classes", `${classes}`);
  });
});

describe("summaries", () => {
  it("are the sum, the mean, and the mean over the foreground", () => {
    const map = floats([1, 2, 3, 4], [2, 2]);
    expect(summarise(map, bytes([0, 1, 2, 0], [2, 2]))).toEqual({ sum: 10, mean: 2.5, foreground: 2.5 });
    expect(summarise(map, bytes([0, 0, 2, 1], [2, 2]))).toEqual({ sum: 10, mean: 2.5, foreground: 3.5 });
    expect(summarise(map, bytes([0, 1, 0, 0], [2, 2])).foreground).toBe(2);
  });

  it("have no foreground part where nothing is predicted", () => {
    expect(summarise(floats([1, 2]), bytes([0, 0]))).toEqual({ sum: 3, mean: 1.5, foreground: 0 });
  });

  it("add in double precision", () => {
    const map = floats(new Array(100_000).fill(0.1));
    const { sum } = summarise(map, bytes(new Array(100_000).fill(0)));
    expect(sum / (100_000 * Math.fround(0.1))).toBeCloseTo(1, 11);
  });

  it("need a mask of the map's shape", () => {
    expectError(() => summarise(floats([1, 2]), bytes([0, 1, 0])), "ERR_LE_SHAPE", "mask", "2", "3");
    expectError(() => summarise(floats([1, Number.NaN]), bytes([0, 1])), "ERR_LE_VALUE", "map", "NaN");
  });

  it("follow from sums", () => {
    expect(summaryFromSums({ sum: 10, foregroundSum: 6, pixels: 4, foregroundPixels: 3 })).toEqual({
      sum: 10,
      mean: 2.5,
      foreground: 2,
    });
  });
});

describe("soft Dice confidence", () => {
  it("compares each class's probability with its own mask", () => {
    // ŷ = 1, 1, 0: 2 (0.9 + 0.6) / (1.75 + 2).
    const { perClass, overall } = softDiceConfidence(floats([0.1, 0.4, 0.75, 0.9, 0.6, 0.25], [2, 3]));
    expect(perClass[1]).toBeCloseTo(0.8, 6);
    expect(overall).toBe(perClass[1]);
  });

  it("leaves classes out of the mean that are not predicted", () => {
    const { perClass, overall } = softDiceConfidenceFromSums([5, 5, 4, 2, 2, 2, 0, 1, 0]);
    expect(perClass).toEqual({ 1: 1, 2: 0 });
    expect(overall).toBe(1);
    expect(softDiceConfidence(floats([0.6, 0.4], [2, 1]))).toEqual({ perClass: { 1: 0 }, overall: 0 });
    expect(softDiceConfidence(floats([1, 1], [1, 2]))).toEqual({ perClass: {}, overall: 0 });
  });

  it("is from 0 to 1, and 1 for certain masks", () => {
    fc.assert(
      fc.property(logitHeads({ minClasses: 2 }), ({ heads }) => {
        const { perClass, overall } = softDiceConfidence(fuse(heads));
        for (const value of [...Object.values(perClass), overall]) {
          expect(value).toBeGreaterThanOrEqual(0);
          expect(value).toBeLessThanOrEqual(1 + ROUNDING);
        }
        const vote = fuse(heads.slice(0, 1), { fusion: "vote" });
        const predicted = argmax(vote).data.some((label) => label !== 0);
        expect(softDiceConfidence(vote).overall).toBe(predicted ? 1 : 0);
      }),
    );
  });

  it("refuses sums that are none", () => {
    expectError(() => softDiceConfidenceFromSums([1, 2]), "ERR_LE_SHAPE", "sums", "three values per class");
    expectError(() => softDiceConfidenceFromSums([1, 2, Number.NaN]), "ERR_LE_VALUE", "sums", "NaN");
  });
});
