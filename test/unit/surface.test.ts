import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  assd,
  dice,
  hausdorff,
  hd95,
  iou,
  modifiedHausdorff,
  type NdArray,
  precision,
  quality,
  sensitivity,
  specificity,
  volumeError,
} from "../../lib/metrics/index.js";
import { squaredDistances } from "../../lib/quality/distance-transform.js";
import { bytes, expectError } from "./support/heads.js";

/** Coordinates of every position, in C order. */
function positions(shape: readonly number[]): number[][] {
  return shape.reduce<number[][]>(
    (all, size) => all.flatMap((at) => Array.from({ length: size }, (_, i) => [...at, i])),
    [[]],
  );
}

const squared = (a: number[], b: number[], spacing: readonly number[]) =>
  a.reduce((sum, x, axis) => sum + ((x - (b[axis] as number)) * (spacing[axis] as number)) ** 2, 0);

const space = fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 1, maxLength: 3 }).chain((shape) =>
  fc.record({
    shape: fc.constant(shape),
    spacing: fc.array(fc.constantFrom(0.3, 0.75, 1, 1.25, 2, 7), { minLength: shape.length, maxLength: shape.length }),
    pixels: fc.constant(shape.reduce((a, b) => a * b, 1)),
  }),
);
const flags = (pixels: number, share = 3) =>
  fc
    .array(fc.integer({ min: 0, max: share }), { minLength: pixels, maxLength: pixels })
    .map((values) => Uint8Array.from(values, (value) => (value === 0 ? 1 : 0)));

describe("an image of which no pixel counts", () => {
  it("has no measure at all, whatever was predicted and whatever an empty class costs", () => {
    const truth = bytes([255, 255, 255, 255], [2, 2]);
    for (const labels of [
      [0, 0, 0, 0],
      [1, 0, 2, 0],
    ]) {
      const of = quality(bytes(labels, [2, 2]), truth, { classes: 3, emptyPenalty: "half-height" });
      for (const c of [1, 2]) expect(Object.values(of.perClass[c] ?? {}).every(Number.isNaN), `class ${c}`).toBe(true);
      expect(Object.values(of.image).every(Number.isNaN)).toBe(true);
      expect(new Set(Object.values(of.leftOut))).toEqual(new Set([2]));
      for (const measure of [hausdorff, hd95, assd, specificity])
        expect(measure(bytes(labels, [2, 2]), truth, { classes: 3 })).toEqual({ 1: Number.NaN, 2: Number.NaN });
      const penalised = { classes: 3, emptyPenalty: "half-height" } as const;
      expect(modifiedHausdorff(bytes(labels, [2, 2]), truth, penalised)).toEqual({ 1: Number.NaN, 2: Number.NaN });
    }
  });
});

describe("the distance transform", () => {
  it("equals brute force in one, two and three dimensions, with any spacing", () => {
    fc.assert(
      fc.property(
        space.chain(({ shape, spacing, pixels }) => flags(pixels).map((sources) => ({ shape, spacing, sources }))),
        ({ shape, spacing, sources }) => {
          const at = positions(shape);
          const given = at.filter((_, i) => sources[i] === 1);
          const actual = squaredDistances(sources, shape, spacing);
          at.forEach((from, i) => {
            const expected = Math.min(Number.POSITIVE_INFINITY, ...given.map((to) => squared(from, to, spacing)));
            if (expected === Number.POSITIVE_INFINITY) expect(actual[i]).toBe(expected);
            else expect(Math.abs((actual[i] as number) - expected)).toBeLessThanOrEqual(1e-12 * (1 + expected));
          });
        },
      ),
      { numRuns: 200 },
    );
  });
});

/** A pair of masks with three classes. */
const masks = space.chain(({ shape, spacing, pixels }) => {
  const label = fc.array(fc.constantFrom(0, 0, 1, 1, 2), { minLength: pixels, maxLength: pixels });
  return fc
    .record({ a: label, b: label })
    .map(({ a, b }) => ({ a: bytes(a, [...shape]), b: bytes(b, [...shape]), shape, spacing }));
});

/** All distances of SPEC §7, by their words. */
function bruteForce(a: NdArray<Uint8Array>, b: NdArray<Uint8Array>, c: number, spacing: number[]) {
  const at = positions(a.shape);
  const index = new Map(at.map((position, i) => [position.join(), i]));
  const has = (mask: NdArray<Uint8Array>, position: number[]) => {
    const i = index.get(position.join());
    return i !== undefined && mask.data[i] === c;
  };
  const whole = (mask: NdArray<Uint8Array>) => at.filter((position) => has(mask, position));
  const edge = (mask: NdArray<Uint8Array>) =>
    whole(mask).filter((position) =>
      position.some((_, axis) =>
        [-1, 1].some(
          (step) =>
            !has(
              mask,
              position.map((x, other) => (other === axis ? x + step : x)),
            ),
        ),
      ),
    );
  const nearest = (from: number[][], to: number[][]) =>
    from.map((x) => Math.sqrt(Math.min(...to.map((y) => squared(x, y, spacing)))));
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [ab, ba] = [nearest(edge(a), edge(b)), nearest(edge(b), edge(a))];
  const pooled = [...ab, ...ba].sort((x, y) => x - y);
  const place = 0.95 * (pooled.length - 1);
  const low = pooled[Math.floor(place)] as number;
  return {
    hausdorff: Math.max(...pooled),
    hd95: low + (place % 1) * ((pooled[Math.floor(place) + 1] ?? low) - low),
    modifiedHausdorff: Math.max(mean(nearest(whole(a), whole(b))), mean(nearest(whole(b), whole(a)))),
    modifiedHausdorffBoundary: Math.max(mean(ab), mean(ba)),
    assd: mean(pooled),
    surfaceDice: pooled.filter((one) => one <= 1 + 1e-9).length / pooled.length,
  };
}

describe("distances between masks", () => {
  it("equal brute force", () => {
    fc.assert(
      fc.property(masks, ({ a, b, spacing }) => {
        const { perClass } = quality(a, b, { classes: 3, spacing });
        for (const c of [1, 2]) {
          const [inA, inB] = [a.data.includes(c), b.data.includes(c)];
          const actual = perClass[c];
          if (inA && inB) {
            for (const [name, value] of Object.entries(bruteForce(a, b, c, spacing)))
              expect(actual?.[name as "assd"], name).toBeCloseTo(value, 9);
          } else expect(actual?.hausdorff).toEqual(inA || inB ? Number.NaN : 0);
        }
      }),
      { numRuns: 150 },
    );
  });

  it("are worked out by hand", () => {
    // A column of three against one two to the right and one pixel longer.
    const prediction = bytes([1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0], [4, 3]);
    const truth = bytes([0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1], [4, 3]);
    const options = { classes: 2, spacing: [3, 2] };
    expect(hausdorff(prediction, truth, options)).toEqual({ 1: 5 });
    expect(assd(prediction, truth, options)[1]).toBeCloseTo((6 * 4 + 5) / 7, 12);
    expect(modifiedHausdorff(prediction, truth, options)[1]).toBeCloseTo((3 * 4 + 5) / 4, 12);
    // Ranks 0..6 of 4, 4, 4, 4, 4, 4, 5: rank 5.7.
    expect(hd95(prediction, truth, options)[1]).toBeCloseTo(4.7, 12);
  });

  it("differ between masks and their boundaries", () => {
    // The truth is a full square; the prediction one pixel in its middle.
    const truth = bytes(new Array(25).fill(1), [5, 5]);
    const prediction = bytes(
      new Array(25).fill(0).map((_, i) => (i === 12 ? 1 : 0)),
      [5, 5],
    );
    const options = { classes: 2 };
    const distance = (i: number) => Math.hypot(Math.floor(i / 5) - 2, (i % 5) - 2);
    const all = Array.from({ length: 25 }, (_, i) => distance(i));
    expect(modifiedHausdorff(prediction, truth, options)[1]).toBeCloseTo(all.reduce((a, b) => a + b) / 25, 12);
    const edge = all.filter((_, i) => i < 5 || i >= 20 || i % 5 === 0 || i % 5 === 4);
    expect(modifiedHausdorff(prediction, truth, { ...options, on: "boundary" })[1]).toBeCloseTo(
      Math.max(edge.reduce((a, b) => a + b) / 16, 2),
      12,
    );
  });

  it("are symmetric, 0 for equal masks, scale with the spacing, and keep their order", () => {
    fc.assert(
      fc.property(masks, ({ a, b, spacing }) => {
        const options = { classes: 3, spacing };
        const [there, back] = [quality(a, b, options).perClass, quality(b, a, options).perClass];
        const wide = quality(a, b, { classes: 3, spacing: spacing.map((s) => 2 * s) }).perClass;
        const self = quality(a, a, options).perClass;
        for (const c of [1, 2]) {
          const [of, other, double] = [there[c], back[c], wide[c]];
          if (!of || !other || !double) throw new Error("unreachable");
          for (const name of [
            "hausdorff",
            "hd95",
            "modifiedHausdorff",
            "modifiedHausdorffBoundary",
            "assd",
            "dice",
            "iou",
          ] as const) {
            expect(other[name]).toEqual(of[name]);
            expect(self[c]?.[name]).toBe(name === "dice" || name === "iou" ? 1 : 0);
          }
          if (Number.isNaN(of.hausdorff)) continue;
          expect(double.assd).toBeCloseTo(2 * of.assd, 9);
          expect(of.hd95).toBeLessThanOrEqual(of.hausdorff);
          expect(of.assd).toBeLessThanOrEqual(of.hausdorff + 1e-12);
          expect(of.modifiedHausdorffBoundary).toBeLessThanOrEqual(of.hausdorff + 1e-12);
          expect(of.assd).toBeLessThanOrEqual(of.modifiedHausdorffBoundary + 1e-12);
        }
      }),
    );
  });

  it("obey the triangle inequality (Hausdorff, of masks that are their own boundary)", () => {
    const thin = fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 9, maxLength: 9 }).map((values) =>
      bytes(
        values.map((value) => (value === 0 ? 1 : 0)),
        [1, 9],
      ),
    );
    fc.assert(
      fc.property(thin, thin, thin, (a, b, c) => {
        const d = (x: NdArray<Uint8Array>, y: NdArray<Uint8Array>) => hausdorff(x, y, { classes: 2 })[1] as number;
        const [ab, bc, ac] = [d(a, b), d(b, c), d(a, c)];
        if ([ab, bc, ac].some(Number.isNaN) || !b.data.includes(1)) return;
        expect(ac).toBeLessThanOrEqual(ab + bc + 1e-12);
      }),
    );
  });

  it("of a mask against none are NaN and counted, or what the penalty says", () => {
    const [some, none] = [bytes([1, 0, 0, 0, 0, 0], [3, 2]), bytes([0, 0, 0, 0, 0, 0], [3, 2])];
    for (const [a, b] of [
      [some, none],
      [none, some],
    ] as const) {
      expect(hausdorff(a, b, { classes: 2 })).toEqual({ 1: Number.NaN });
      expect(modifiedHausdorff(a, b, { classes: 2 })).toEqual({ 1: Number.NaN });
      expect(modifiedHausdorff(a, b, { classes: 2, emptyPenalty: "half-height", spacing: [4, 1] })).toEqual({ 1: 6 });
      const { image, leftOut } = quality(a, b, { classes: 3 });
      // Class 2 is in neither.
      expect(image).toMatchObject({ dice: 0.5, hausdorff: 0, modifiedHausdorff: 0, assd: 0 });
      expect(leftOut).toMatchObject({ dice: 0, hausdorff: 1, modifiedHausdorff: 1, sensitivity: a === some ? 2 : 1 });
    }
    expect(hausdorff(none, none, { classes: 2 })).toEqual({ 1: 0 });
  });

  it("leave ignored pixels out of both masks", () => {
    const prediction = bytes([1, 1, 0, 0, 1], [1, 5]);
    const truth = bytes([1, 1, 0, 0, 255], [1, 5]);
    expect(hausdorff(prediction, truth, { classes: 2 })).toEqual({ 1: 0 });
    expect(quality(prediction, truth, { classes: 2 }).perClass[1]).toMatchObject({ precision: 1, specificity: 1 });
    // An ignored label may be a class.
    expect(hausdorff(prediction, bytes([1, 1, 2, 2, 2], [1, 5]), { classes: 3, ignoreIndex: 2 })).toEqual({
      1: 0,
      2: 0,
    });
  });
});

describe("counts", () => {
  const [prediction, truth] = [bytes([0, 1, 1, 2, 2, 2]), bytes([1, 1, 0, 2, 2, 0])];
  it("are worked out by hand", () => {
    expect(sensitivity(prediction, truth, { classes: 3 })).toEqual({ 1: 0.5, 2: 1 });
    expect(precision(prediction, truth, { classes: 3 })).toEqual({ 1: 0.5, 2: 2 / 3 });
    expect(specificity(prediction, truth, { classes: 3 })).toEqual({ 1: 0.75, 2: 0.75 });
    expect(volumeError(prediction, truth, { classes: 3 })).toEqual({ 1: 0, 2: 0.5 });
  });

  it("are undefined where there is nothing to divide by", () => {
    const undefined_ = { 1: Number.NaN };
    const [none, full] = [bytes([0, 0]), bytes([1, 1])];
    expect(sensitivity(full, none, { classes: 2 })).toEqual(undefined_);
    expect(precision(none, full, { classes: 2 })).toEqual(undefined_);
    expect(specificity(none, full, { classes: 2 })).toEqual(undefined_);
    expect(volumeError(full, none, { classes: 2 })).toEqual(undefined_);
  });

  it("agree with dice and iou", () => {
    fc.assert(
      fc.property(masks, ({ a, b }) => {
        const { perClass } = quality(a, b, { classes: 3 });
        for (const c of [1, 2]) {
          expect(perClass[c]?.dice).toBe(dice(a, b, { classes: 3 })[c]);
          expect(perClass[c]?.iou).toBe(iou(a, b, { classes: 3 })[c]);
        }
      }),
    );
  });

  it("refuse what does not fit", () => {
    const options = { classes: 3 };
    expectError(() => hausdorff(prediction, bytes([0]), options), "ERR_LE_SHAPE", "truth");
    expectError(() => assd(prediction, truth, { classes: 2 }), "ERR_LE_VALUE", "prediction", "2 at position 3");
    expectError(
      () => hd95(prediction, truth, { classes: 3, spacing: [1, 1] }),
      "ERR_LE_OPTION",
      "'spacing'",
      "one per",
    );
    expectError(() => quality(prediction, truth, { classes: 3, spacing: [0] }), "ERR_LE_OPTION", "'spacing'");
    expectError(() => quality(prediction, truth, {} as never), "ERR_LE_OPTION", "'classes'");
    expectError(() => modifiedHausdorff(prediction, truth, undefined as never), "ERR_LE_OPTION", "modifiedHausdorff");
    expectError(
      () => modifiedHausdorff(prediction, truth, { classes: 3, emptyPenalty: "half-height" }),
      "ERR_LE_SHAPE",
      "two axes",
    );
    expectError(
      () => modifiedHausdorff(prediction, truth, { classes: 3, on: "edge" } as never),
      "ERR_LE_OPTION",
      "'on'",
    );
  });
});
