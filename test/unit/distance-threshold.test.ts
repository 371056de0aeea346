import { describe, expect, it } from "vitest";
import { Random } from "../../lib/random.js";
import { distanceThreshold } from "../../lib/tuning/distance-threshold.js";

const code = (value: string) => expect.objectContaining({ name: "LayerEnsemblesError", code: value });
const normals = (n: number, random: Random) => Float64Array.from({ length: n }, () => random.normal());

describe("distanceThreshold", () => {
  it("is a value of which as many are above as 5 % have a chance of at most 5 % to leave", () => {
    // P(Bin(n, 0.05) ≤ m) ≤ 0.05: none of 59, one of 93, two of 124, four of 181.
    for (const [n, above] of [
      [59, 0],
      [92, 0],
      [93, 1],
      [124, 2],
      [181, 4],
    ] as const) {
      const values = Float64Array.from({ length: n }, (_, i) => (i * 37) % n);
      const { threshold, flagged } = distanceThreshold(values);
      expect(threshold, `${n}`).toBe(n - 1 - above);
      expect(flagged).toBeCloseTo(above / n, 12);
    }
  });

  it("is beyond the largest of a few, by how much they spread", () => {
    const { threshold, flagged, rule } = distanceThreshold([1, 2, 3, 4, 5]);
    // k of NIST's formula for n = 5.
    const a = 1 - 1.6448536269514722 ** 2 / 8;
    const b = 1.6448536269514722 ** 2 - 1.6448536269514722 ** 2 / 5;
    const k = (1.6448536269514722 + Math.sqrt(1.6448536269514722 ** 2 - a * b)) / a;
    expect(threshold).toBeCloseTo(3 + k * Math.sqrt(2.5), 12);
    expect(flagged).toBe(0);
    expect(rule).toContain("5 images taken for normal");
    expect(distanceThreshold([...new Uint8Array(19), 100]).threshold).toBe(100);
  });

  it("keeps its promise in about nineteen of twenty draws, however many there are", () => {
    for (const n of [6, 20, 50, 120]) {
      const random = new Random(n);
      let kept = 0;
      for (let draw = 0; draw < 400; draw++) {
        const { threshold } = distanceThreshold(normals(n, random));
        if (normals(2000, random).filter((value) => value > threshold).length <= 100) kept++;
      }
      expect(kept / 400, `${n}`).toBeGreaterThan(0.91);
    }
  });

  it("counts a group once, by the image that is farthest", () => {
    const values = Float64Array.from({ length: 130 }, (_, i) => i);
    const groups = Array.from(values, (_, i) => `p${i >> 1}`);
    expect(distanceThreshold(values, groups)).toMatchObject({ threshold: 129, flagged: 0 });
    expect(distanceThreshold(values, groups).rule).toContain("of 65 groups");
    expect(distanceThreshold(values).threshold).toBe(127);
    const alone = Array.from(values, (_, i) => i);
    expect(distanceThreshold(values, alone)).toEqual(distanceThreshold(values));
  });

  it("takes images of few groups for as many as there are groups, and passes all of them", () => {
    const values = [1, 2, 3, 4, 5, 1, 2, 3, 4, 5];
    const groups = [..."aabbccddee"];
    const alone = distanceThreshold([1, 2, 3, 4, 5]).threshold;
    const { threshold, rule } = distanceThreshold(values, groups);
    // The same k of five, and a spread whose divisor is that of ten images.
    expect((threshold - 3) / Math.sqrt(20 / 9)).toBeCloseTo((alone - 3) / Math.sqrt(10 / 4), 12);
    expect(rule).toContain("5 groups");
    expect(
      distanceThreshold([...new Uint8Array(38), 0, 100], [..."aabbccddeeffgghhiijjkkllmmnnooppqqrrsstt"]).threshold,
    ).toBe(100);
  });

  it("refuses what it cannot be of", () => {
    expect(() => distanceThreshold([1])).toThrow(code("ERR_LE_SHAPE"));
    expect(() => distanceThreshold([1, 2, 3], ["a", "b"])).toThrow(code("ERR_LE_SHAPE"));
    expect(() => distanceThreshold([1, Number.NaN])).toThrow(code("ERR_LE_VALUE"));
  });
});
