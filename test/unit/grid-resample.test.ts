// Resampling, and the way back.
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { NumericArray } from "../../lib/arrays.js";
import {
  type Affine,
  crop,
  type Grid,
  type Interpolation,
  nonZeroBox,
  type Placed,
  pad,
  reorient,
  resample,
  restore,
  spacingOf,
  type Triple,
} from "../../lib/grid/index.js";

const reference = JSON.parse(readFileSync("test/fixtures/grid.json", "utf8"));
const oblique: Affine = reference.reorient.affine;
const diagonal = (z: number, y: number, x: number): Affine => [
  [x, 0, 0, 5],
  [0, y, 0, -7],
  [0, 0, z, 11],
  [0, 0, 0, 1],
];

function placed<T extends NumericArray>(data: T, shape: Triple, affine: Affine = diagonal(1, 1, 1)): Placed<T> {
  return { data, shape: [...shape], grid: { shape, affine } };
}

function expectClose(actual: ArrayLike<number>, expected: readonly number[], relative: number): void {
  expect(actual.length).toBe(expected.length);
  const scale = Math.max(...expected.map(Math.abs));
  const worst = expected.reduce((most, value, i) => Math.max(most, Math.abs(actual[i]! - value)), 0);
  expect(worst / scale).toBeLessThan(relative);
}

const worldOf = ({ affine }: Grid, [z, y, x]: Triple) =>
  affine.slice(0, 3).map((row) => row[0] * x + row[1] * y + row[2] * z + row[3]);

/** Centre of mass along x, in mm. */
function centre({ data, grid }: Placed): number {
  let [mass, moment] = [0, 0];
  data.forEach((value: number, i: number) => {
    mass += value;
    moment += value * worldOf(grid, [0, 0, i % grid.shape[2]])[0]!;
  });
  return moment / mass;
}

const code = (name: string) => expect.objectContaining({ code: `ERR_LE_${name}` });

describe("resample", () => {
  const { shape, data } = reference.resample;
  const noise = placed(Float32Array.from(data), shape);
  const cases: { shape: Triple; order: Interpolation; data: number[] }[] = reference.resample.to;

  it.each(cases)("equals SciPy's zoom to $shape, $order", ({ shape: to, order, data: expected }) => {
    const { data: out, shape: own } = resample(noise, { shape: to, order: [order, order, order] });
    expect(out).toBeInstanceOf(Float32Array);
    expect(own).toEqual(to);
    expectClose(out, expected, order === "nearest" ? 1e-7 : 1e-6);
  });

  it("equals SciPy's cubic zoom along every axis, for short lines and long", () => {
    for (const { from, to } of reference.lines as { from: number[]; to: number[] }[])
      for (const axis of [0, 1, 2]) {
        const along = (n: number) => [0, 1, 2].map((k) => (k === axis ? n : 1)) as unknown as Triple;
        const line = placed(Float64Array.from(from), along(from.length));
        const { data: out } = resample(line, { shape: along(to.length), order: ["cubic", "cubic", "cubic"] });
        expect(out).toBeInstanceOf(Float64Array);
        expectClose(out, to, 1e-6);
      }
  });

  it("does every channel alone, more of them than are worked on at a time", () => {
    const channels = 40;
    const all = Float32Array.from({ length: channels * data.length }, (_, i) => {
      return data[i % data.length] * (1 + Math.floor(i / data.length));
    });
    const to = { shape: [4, 9, 5] as Triple };
    const one = resample(noise, to);
    const many = resample({ ...noise, data: all, shape: [channels, ...shape] }, to);
    expect(many.shape).toEqual([channels, 4, 9, 5]);
    for (let c = 0; c < channels; c++)
      expectClose(
        many.data.subarray(c * 180, (c + 1) * 180),
        Array.from(one.data, (value) => value * (c + 1)),
        1e-6,
      );
  });

  it("keeps the extent: faces of outer voxels, oblique ones too, stay in the world", () => {
    const volume = placed(new Float32Array(210), [5, 6, 7], oblique);
    const { grid, shape: to } = resample(volume, { spacing: [2, 0.5, 1.3] });
    const edge = spacingOf(volume.grid);
    expect(to).toEqual([5, 6, 7].map((n, axis) => Math.round((n * edge[axis]!) / [2, 0.5, 1.3][axis]!)));
    const [d, h, w] = grid.shape;
    const corners = [
      [worldOf(grid, [-0.5, -0.5, -0.5]), worldOf(volume.grid, [-0.5, -0.5, -0.5])],
      [worldOf(grid, [d - 0.5, -0.5, w - 0.5]), worldOf(volume.grid, [4.5, -0.5, 6.5])],
      [worldOf(grid, [d - 0.5, h - 0.5, w - 0.5]), worldOf(volume.grid, [4.5, 5.5, 6.5])],
    ] as const;
    for (const [after, before] of corners) for (const [i, mm] of after.entries()) expect(mm).toBeCloseTo(before[i]!, 9);
  });

  it.each(["linear", "cubic"] as const)(
    "moves a ramp's centre of mass by nothing through 128, 64, 128: %s",
    (order) => {
      const ramp = placed(
        Float32Array.from({ length: 512 }, (_, i) => i % 128),
        [2, 2, 128],
      );
      const half = resample(ramp, { shape: [2, 2, 64], order });
      expect(Math.abs(centre(half) - centre(ramp))).toBeLessThan(0.5);
      const back = resample(half, { shape: [2, 2, 128], order });
      expect(Math.abs(centre(back) - centre(ramp))).toBeLessThan(0.01);
    },
  );

  it("does not interpolate across slices that lie apart", () => {
    const labels = Float32Array.of(0, 0, 0, 0, 8, 8, 8, 8);
    const cubic = (affine: Affine) => new Set(resample(placed(labels, [2, 2, 2], affine), { shape: [5, 2, 2] }).data);
    expect([...cubic(diagonal(3.1, 1, 1))]).toEqual([0, 8]);
    expect(cubic(diagonal(1, 1, 1)).size).toBe(5);
    // What comes out counts as well, and two long axes are no plane's distance.
    const wide = resample(placed(labels, [2, 2, 2]), { spacing: [0.5, 0.5, 2] });
    expect([...new Set(wide.data)].length).toBe(4);
    const row = placed(Float32Array.of(0, 8), [1, 2, 1], diagonal(1, 4, 4));
    expect(new Set(resample(row, { shape: [1, 5, 1] }).data).size).toBe(5);
  });

  it("keeps the type of labels, and makes floats of integers in between", () => {
    const labels = placed(Int16Array.of(0, 300), [1, 1, 2]);
    expect(resample(labels, { shape: [1, 1, 4], order: "nearest" }).data).toEqual(Int16Array.of(0, 0, 300, 300));
    expect(resample(labels, { shape: [1, 1, 4], order: "linear" }).data).toEqual(Float32Array.of(0, 75, 225, 300));
  });

  it("copies where nothing changes", () => {
    const same = resample(noise, { shape });
    expect(same.data).toEqual(noise.data);
    expect(same.data.buffer).not.toBe(noise.data.buffer);
  });

  it("refuses what it cannot do", () => {
    for (const options of [
      {},
      { shape, spacing: [1, 1, 1] },
      { shape: [0, 1, 1] },
      { spacing: [1, 1] },
      { spacing: [0, 1, 1] },
    ])
      expect(() => resample(noise, options as never)).toThrow(code("OPTION"));
    expect(() => resample(noise, { shape, order: "quintic" } as never)).toThrow(code("OPTION"));
    expect(() => resample(noise, { spacing: [1e-5, 1e-5, 1e-5] })).toThrow(code("TOO_LARGE"));
    const holed = placed(Float32Array.of(1, Number.NaN), [1, 1, 2]);
    expect(() => resample(holed, { shape: [1, 1, 4] })).toThrow(code("VALUE"));
    expect(resample(holed, { shape: [1, 1, 4], order: "nearest" }).data[3]).toBeNaN();
  });
});

describe("restore", () => {
  const shape: Triple = [6, 7, 8];
  const grid: Grid = { shape, affine: oblique };
  const image = Float32Array.from({ length: 336 }, (_, i) => Number(i % 8 > 1 && i % 8 < 6 && i > 60 && i < 250));
  const prepare = (volume: Placed) => {
    const turned = reorient(volume, "RAS");
    const cropped = crop(turned, nonZeroBox(turned)!);
    const padded = pad(cropped, { before: [1, 0, 2], after: [0, 1, 0] });
    return resample(padded, { shape: padded.grid.shape.map((n) => n * 2) as unknown as Triple, order: "nearest" });
  };

  it("brings labels back as they were, in the original grid", () => {
    const labels = Uint8Array.from(image);
    const prepared = prepare({ data: labels, shape, grid });
    expect(prepared.steps.map(({ op }) => op)).toEqual(["reorient", "window", "window", "resample"]);
    const back = restore(prepared, grid);
    expect(back.data).toEqual(labels);
    expect(back.shape).toEqual(shape);
    expect(back.grid).toBe(grid);
    // Steps are plain JSON: a run may keep them.
    const kept = { ...prepared, steps: JSON.parse(JSON.stringify(prepared.steps)) };
    expect(restore(kept, JSON.parse(JSON.stringify(grid))).data).toEqual(labels);
  });

  it("brings probabilities of more channels back, with the background's outside", () => {
    const { grid: own, steps } = prepare({ data: image, shape, grid });
    const length = own.shape[0] * own.shape[1] * own.shape[2];
    const data = new Float32Array(2 * length).fill(0.25, 0, length).fill(0.75, length);
    const back = restore({ data, shape: [2, ...own.shape], grid: own, steps }, grid, { fill: [1, 0] });
    expect(back.shape).toEqual([2, ...shape]);
    expect(back.data).toBeInstanceOf(Float32Array);
    for (let i = 0; i < 336; i++) {
      const [p, q] = [back.data[i], back.data[336 + i]];
      expect([p, q]).toEqual(p === 1 ? [1, 0] : [0.25, 0.75]);
      if (image[i]) expect(p).toBe(0.25);
    }
  });

  it("interpolates floats linearly, integers not", () => {
    const half = resample(placed(Float32Array.of(0, 0, 1, 1), [1, 1, 4]), { shape: [1, 1, 2], order: "linear" });
    const from = half.steps[0]!.from;
    expect(restore(half, from).data).toEqual(Float32Array.of(0, 0.25, 0.75, 1));
    expect(restore({ ...half, data: Uint8Array.of(0, 1) }, from).data).toEqual(Uint8Array.of(0, 0, 1, 1));
    expect(restore(half, from, { order: "nearest" }).data).toEqual(Float32Array.of(0, 0, 1, 1));
  });

  it("refuses another grid, another shape and a step that it does not know", () => {
    const prepared = prepare({ data: image, shape, grid });
    const elsewhere: Grid = { shape, affine: diagonal(1, 1, 1) };
    expect(() => restore(prepared, elsewhere)).toThrow(code("VALUE"));
    expect(() => restore({ ...prepared, shape: [1, 1, 1] }, grid)).toThrow(code("SHAPE"));
    expect(() => restore({ ...prepared, steps: [{ op: "shear", from: grid }] as never }, grid)).toThrow(code("VALUE"));
    const skipped = { ...prepared, steps: prepared.steps.toSpliced(1, 1) };
    expect(() => restore(skipped, grid)).toThrow(code("SHAPE"));
  });
});
