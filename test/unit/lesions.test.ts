// Lesions, surface Dice and volumes, and distances in millimetres: against SciPy, worked out by hand, and where nothing is to be measured.
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { assd, hd95, lesions, type NdArray, quality, surfaceDice } from "../../lib/metrics/index.js";
import { bytes, expectError } from "./support/heads.js";

interface Case {
  shape: number[];
  spacing: number[];
  tolerance: number;
  overlap: number;
  neighbours: "face" | "all";
  prediction: string;
  truth: string;
  ignored: string;
  covered: { truth: number[]; prediction: number[] };
  expected: Record<string, number | "NaN">;
}

/** Made by scripts/parity/make_surface_fixture.py. */
const cases: Case[] = JSON.parse(readFileSync("test/fixtures/surface.json", "utf8"));

const read = (text: string, shape: number[]) => bytes([...text].map(Number), shape);

function masksOf({ prediction, truth, ignored, shape }: Case): [NdArray<Uint8Array>, NdArray<Uint8Array>] {
  const real = read(truth, shape);
  const left = read(ignored, shape);
  return [read(prediction, shape), { data: real.data.map((label, i) => (left.data[i] === 1 ? 255 : label)), shape }];
}

describe("measures with a spacing", () => {
  it.each(cases.map((one, i) => [i, one.shape.join("×"), one.spacing.join("×"), one] as const))(
    "are those of SciPy, to 1e-9: case %i, %s pixels of %s mm",
    (_, __, ___, of) => {
      const [prediction, truth] = masksOf(of);
      const { spacing, tolerance, overlap: lesionOverlap, neighbours } = of;
      const found = quality(prediction, truth, {
        ...{ classes: 2, ignoreIndex: 255, spacing, tolerance, lesionOverlap, neighbours },
      });
      for (const [name, value] of Object.entries(of.expected)) {
        const actual = found.perClass[1]?.[name as "assd"] as number;
        if (value === "NaN") expect(actual, name).toBeNaN();
        else expect(Math.abs(actual - value), `${name}: ${actual}, SciPy ${value}`).toBeLessThanOrEqual(1e-9);
        expect(found.leftOut[name as "assd"], name).toBe(value === "NaN" ? 1 : 0);
      }
      const parts = lesions(prediction, truth, { classes: 2, ignoreIndex: 255, lesionOverlap, neighbours })[1];
      for (const mask of ["truth", "prediction"] as const)
        expect(parts?.[mask].map(({ covered }) => covered)).toEqual(of.covered[mask]);
    },
  );

  it("count in pixels where there is none", () => {
    const truth = bytes([1, 1, 0, 0, 0, 0, 0, 0], [2, 2, 2]);
    const prediction = bytes([1, 1, 1, 0, 0, 0, 0, 0], [2, 2, 2]);
    const of = (spacing?: number[]) => quality(prediction, truth, { classes: 2, ...(spacing && { spacing }) }).image;
    expect(of()).toMatchObject({ volume: 3, trueVolume: 2, hausdorff: 1 });
    expect(of([10, 5, 10])).toMatchObject({ volume: 1.5, trueVolume: 1, hausdorff: 5 });
    const flat = { data: truth.data, shape: [2, 4] };
    const size = (spacing?: number[]) => quality(flat, flat, { classes: 2, ...(spacing && { spacing }) }).image.volume;
    expect([size(), size([3, 0.5])]).toEqual([2, 3]);
  });
});

describe("surface Dice", () => {
  it("takes what lies a step of the spacing away, however it is rounded", () => {
    const row = (at: number) =>
      bytes(
        Array.from({ length: 12 }, (_, i) => Number(i === at)),
        [1, 12],
      );
    for (const step of [0.1, 0.3, 0.7, 1.1, 2.5])
      for (let far = 1; far < 10; far++) {
        const of = (tolerance: number) =>
          surfaceDice(row(1), row(1 + far), { classes: 2, spacing: [1, step], tolerance })[1];
        expect([of(far * step), of((far - 0.01) * step)]).toEqual([1, 0]);
      }
  });

  it("is 1 where both masks are empty, 0 where one is, and NaN where no pixel counts", () => {
    const [none, one] = [bytes([0, 0, 0, 0], [2, 2]), bytes([0, 1, 0, 0], [2, 2])];
    const of = (a: NdArray<Uint8Array>, b: NdArray<Uint8Array>) => surfaceDice(a, b, { classes: 2 })[1];
    expect([of(none, none), of(one, none), of(none, one), of(one, one)]).toEqual([1, 0, 0, 1]);
    expect(of(one, bytes([255, 255, 255, 255], [2, 2]))).toBeNaN();
  });

  it("grows with the tolerance, from what is exactly right to all", () => {
    for (const one of cases.slice(0, 12)) {
      const [prediction, truth] = masksOf(one);
      const of = (tolerance: number) =>
        surfaceDice(prediction, truth, { classes: 2, ignoreIndex: 255, spacing: one.spacing, tolerance })[1] as number;
      const grown = [0, 0.5, 1, 2, 4, 1000].map(of);
      expect(grown).toEqual([...grown].sort((a, b) => a - b));
      expect(grown.at(-1)).toBe(1);
    }
  });
});

describe("lesions", () => {
  // Truth: one of four pixels, one of one, one that touches the first at a corner. Prediction: half of the first, one elsewhere.
  const truth = bytes([1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0], [4, 5]);
  const prediction = bytes([1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0], [4, 5]);

  it("are found and false as worked out by hand", () => {
    const found = lesions(prediction, truth, { classes: 2, spacing: [2, 0.5] })[1];
    // By faces the truth is 0, 1, 6, 7, 11 and alone 14; of the prediction, 0, 6 and the two of 17, 18 are parts.
    expect(found?.truth.map(({ voxels, covered, matched }) => [voxels, covered, matched])).toEqual([
      [5, 0.4, true],
      [1, 0, false],
    ]);
    expect(found?.prediction.map(({ voxels, covered, matched }) => [voxels, covered, matched])).toEqual([
      [1, 1, true],
      [1, 1, true],
      [2, 0, false],
    ]);
    expect(found).toMatchObject({ sensitivity: 0.5, falsePositives: 1, precision: 2 / 3 });
    const [first, alone] = found?.truth ?? [];
    expect(first).toMatchObject({ box: { low: [0, 0], high: [2, 2] }, volume: 5, centre: [0.8, 1] });
    expect(alone).toMatchObject({ box: { low: [2, 4], high: [2, 4] }, centre: [2, 4] });
    expect(lesions(prediction, truth, { classes: 2, lesionOverlap: 0.5 })[1]).toMatchObject({
      sensitivity: 0,
      falsePositives: 1,
    });
    expect(lesions(prediction, truth, { classes: 2, lesionOverlap: 0.4 })[1]).toMatchObject({ sensitivity: 0.5 });
    // At corners 0 and 6 are one part.
    expect(lesions(prediction, truth, { classes: 2, neighbours: "all" })[1]?.prediction).toHaveLength(2);
  });

  it("need one pixel at least, whatever the share", () => {
    const apart = lesions(bytes([1, 0], [1, 2]), bytes([0, 1], [1, 2]), { classes: 2, lesionOverlap: 0 });
    expect(apart[1]).toMatchObject({ sensitivity: 0, falsePositives: 1, precision: 0 });
  });

  it("are none where a mask is empty, and unknown where no pixel counts", () => {
    const none = bytes([0, 0, 0, 0], [2, 2]);
    const one = bytes([0, 1, 0, 0], [2, 2]);
    const of = (a: NdArray<Uint8Array>, b: NdArray<Uint8Array>) => lesions(a, b, { classes: 2 })[1];
    expect(of(none, none)).toEqual({
      truth: [],
      prediction: [],
      sensitivity: Number.NaN,
      falsePositives: 0,
      precision: Number.NaN,
    });
    expect(of(none, one)).toMatchObject({ sensitivity: 0, falsePositives: 0, precision: Number.NaN });
    expect(of(one, none)).toMatchObject({ sensitivity: Number.NaN, falsePositives: 1, precision: 0 });
    expect(of(one, bytes([255, 255, 255, 255], [2, 2]))).toMatchObject({
      truth: [],
      prediction: [],
      falsePositives: Number.NaN,
    });
  });

  it("leave ignored pixels out of both masks, also where the label that is ignored is a class", () => {
    // What does not count parts the prediction in two.
    const parted = lesions(bytes([1, 1, 1], [1, 3]), bytes([1, 255, 0], [1, 3]), { classes: 2 })[1];
    expect(parted?.prediction.map(({ covered }) => covered)).toEqual([1, 0]);
    const own = lesions(bytes([2, 2, 0], [1, 3]), bytes([2, 0, 0], [1, 3]), { classes: 3, ignoreIndex: 2 })[2];
    expect(own).toMatchObject({ truth: [], falsePositives: 1 });
  });

  it("refuse what cannot be meant", () => {
    const masks = [bytes([0, 1], [1, 2]), bytes([0, 1], [1, 2])] as const;
    expectError(() => lesions(...masks, { classes: 2, lesionOverlap: 1.5 }), "ERR_LE_OPTION", "'lesionOverlap'", "1.5");
    expectError(() => lesions(...masks, { classes: 2, neighbours: "edge" as never }), "ERR_LE_OPTION", "'neighbours'");
    expectError(() => surfaceDice(...masks, { classes: 2, tolerance: -1 }), "ERR_LE_OPTION", "'tolerance'", "-1");
    expectError(() => hd95(...masks, { classes: 2, tolerance: 1 } as never), "ERR_LE_OPTION", "'tolerance'");
    expectError(() => assd(...masks, { classes: 2, spacing: [1] }), "ERR_LE_OPTION", "'spacing'", "2 numbers");
  });
});
