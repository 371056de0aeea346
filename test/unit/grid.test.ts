// Orientation, cropping and padding: no value moves in the world.
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { NumericArray } from "../../lib/arrays.js";
import {
  type Affine,
  crop,
  type Grid,
  nonZeroBox,
  orientationOf,
  type Placed,
  pad,
  reorient,
} from "../../lib/grid/index.js";

const reference = JSON.parse(readFileSync("test/fixtures/grid.json", "utf8"));
const oblique: Affine = reference.reorient.affine;

const numbered = (shape: [number, number, number], affine = oblique): Placed<Float32Array> => ({
  data: Float32Array.from({ length: shape[0] * shape[1] * shape[2] }, (_, i) => i + 1),
  shape,
  grid: { shape, affine },
});

/** Where in the world the voxel of each value lies. */
function places({ data, grid }: Placed): Map<number, number[]> {
  const [, height, width] = grid.shape;
  const place = (i: number) => {
    const voxel = [i % width, Math.floor(i / width) % height, Math.floor(i / width / height), 1];
    return grid.affine.slice(0, 3).map((row) => row.reduce((sum, value, k) => sum + value * voxel[k]!, 0));
  };
  return new Map([...data].map((value, i) => [value, place(i)]));
}

function expectSamePlaces(moved: Placed, from: Placed): void {
  const before = places(from);
  const after = [...places(moved)].filter(([value]) => value !== 0);
  expect(after.length).toBeGreaterThan(0);
  for (const [value, at] of after)
    for (const [axis, mm] of at.entries()) expect(mm).toBeCloseTo(before.get(value)![axis]!, 9);
}

const affineClose = (grid: Grid, affine: number[][]) =>
  grid.affine.forEach((row, i) => {
    row.forEach((value, j) => {
      expect(value).toBeCloseTo(affine[i]![j]!, 9);
    });
  });

describe("orientationOf", () => {
  it("is NiBabel's, of oblique and sheared affines too", () => {
    const codes = reference.orientations.map(({ affine }: { affine: Affine }) =>
      orientationOf({ shape: [1, 1, 1], affine }),
    );
    expect(codes).toEqual(reference.orientations.map(({ code }: { code: string }) => code));
    expect(new Set(codes).size).toBeGreaterThan(30);
  });

  it.each([
    [
      "flat",
      [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 0, 1],
      ],
    ],
    [
      "not a number",
      [
        [1, 0, 0, Number.NaN],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 1],
      ],
    ],
    [
      "not affine",
      [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 1],
      ],
    ],
  ])("refuses an affine that is %s", (_, affine) => {
    const grid = { shape: [1, 1, 1], affine } as unknown as Grid;
    expect(() => orientationOf(grid)).toThrow(expect.objectContaining({ code: "ERR_LE_VALUE" }));
  });
});

describe("reorient", () => {
  const volume = numbered(reference.reorient.shape);
  const cases: { code: string; shape: number[]; data: number[]; affine: number[][] }[] = reference.reorient.to;

  it.each(cases)("to $code equals NiBabel's, and back", ({ code, shape, data, affine }) => {
    const moved = reorient(volume, code);
    expect([...moved.data]).toEqual(data.map((i) => i + 1));
    expect(moved.shape).toEqual(shape);
    expect(moved.grid.shape).toEqual(shape);
    affineClose(moved.grid, affine);
    expect(orientationOf(moved.grid)).toBe(code);
    expectSamePlaces(moved, volume);
    const back = reorient(moved, orientationOf(volume.grid));
    expect(back.data).toEqual(volume.data);
    affineClose(back.grid, oblique as unknown as number[][]);
  });

  it("has channels share the place, and keeps the type", () => {
    const types = [Float32Array, Float64Array, Uint8Array, Uint8ClampedArray, Int8Array, Uint16Array, Int16Array];
    for (const Type of [...types, Int32Array, Uint32Array]) {
      const data = new Type(48).map((_, i) => i) as NumericArray;
      const { data: out, shape } = reorient({ data, shape: [2, 2, 3, 4], grid: volume.grid }, "LSA");
      const one = reorient(volume, "LSA");
      expect(out).toBeInstanceOf(Type);
      expect(shape).toEqual([2, ...one.shape]);
      expect([...out]).toEqual([...one.data, ...one.data].map((value, i) => value - 1 + (i < 24 ? 0 : 24)));
    }
  });

  it.each(["RAR", "RA", "ras", "RASS", "XYZ", ""])("refuses the orientation %j", (code) => {
    expect(() => reorient(volume, code)).toThrow(expect.objectContaining({ code: "ERR_LE_OPTION" }));
  });

  it("refuses a shape that is not the grid's", () => {
    for (const shape of [[3, 2, 4], [24], [0, 2, 3, 4], [2, 2, 3, 4], [1, 1, 2, 3, 4]])
      expect(() => reorient({ ...volume, shape }, "RAS")).toThrow(expect.objectContaining({ code: "ERR_LE_SHAPE" }));
  });
});

describe("crop and pad", () => {
  const volume = numbered([4, 5, 6]);

  it("keep every voxel where it is", () => {
    const cropped = crop(volume, { start: [1, 2, 3], end: [3, 5, 4] });
    expect(cropped.shape).toEqual([2, 3, 1]);
    expect([...cropped.data]).toEqual([46, 52, 58, 76, 82, 88]);
    expectSamePlaces(cropped, volume);
    const padded = pad(cropped, { before: [1, 0, 2], after: [0, 3, 1] });
    expect(padded.shape).toEqual([3, 6, 4]);
    expectSamePlaces(padded, volume);
    expect(padded.data.reduce((sum, value) => sum + value, 0)).toBe(46 + 52 + 58 + 76 + 82 + 88);
  });

  it("fill channels with what was asked", () => {
    const grid: Grid = { shape: [1, 1, 1], affine: oblique };
    const data = Uint8Array.of(7, 9);
    const { data: out } = pad({ data, shape: [2, 1, 1, 1], grid }, { before: [0, 0, 1], after: [0, 0, 0] }, [1, 0]);
    expect([...out]).toEqual([1, 7, 0, 9]);
    for (const fill of [256, -1, 0.5, [1], Number.NaN])
      expect(() => pad({ data, shape: [2, 1, 1, 1], grid }, { before: [0, 0, 1], after: [0, 0, 0] }, fill)).toThrow(
        expect.objectContaining({ code: "ERR_LE_OPTION" }),
      );
  });

  it.each([
    { start: [0, 0, 0], end: [4, 5, 7] },
    { start: [-1, 0, 0], end: [4, 5, 6] },
    { start: [2, 0, 0], end: [2, 5, 6] },
    { start: [0.5, 0, 0], end: [2, 5, 6] },
    { start: [0, 0], end: [2, 5] },
  ])("refuse the box %j", (box) => {
    expect(() => crop(volume, box as never)).toThrow(expect.objectContaining({ code: "ERR_LE_OPTION" }));
  });

  it("refuse negative margins", () => {
    const margins = { before: [0, -1, 0], after: [0, 0, 0] } as const;
    expect(() => pad(volume, margins)).toThrow(expect.objectContaining({ code: "ERR_LE_OPTION" }));
  });
});

describe("nonZeroBox", () => {
  it("holds what is not 0 in any channel, and no more", () => {
    const grid: Grid = { shape: [4, 5, 6], affine: oblique };
    const data = new Float32Array(240);
    const volume = { data, shape: [2, 4, 5, 6], grid };
    expect(nonZeroBox(volume)).toBeNull();
    data[(1 * 5 + 3) * 6 + 2] = -1;
    expect(nonZeroBox(volume)).toEqual({ start: [1, 3, 2], end: [2, 4, 3] });
    data[120 + (3 * 5 + 1) * 6 + 5] = Number.NaN;
    expect(nonZeroBox(volume)).toEqual({ start: [1, 1, 2], end: [4, 4, 6] });
  });
});
