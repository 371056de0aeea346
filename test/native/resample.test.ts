// The native kernels of resampling against the definitions of lib/grid, to the bit.
import { readFileSync } from "node:fs";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import type { NumericArray } from "../../lib/arrays.js";
import { type Placed, resample, type Triple } from "../../lib/grid/index.js";
import { resampling } from "../../lib/grid/resample.js";
import { aside, byDefinition, define, type Moving, type Stretching } from "../../lib/grid/stretching.js";
import type { Addon } from "../../lib/native/addon.js";
import { loadAddon } from "../../lib/native/load.js";
import { noise } from "../support/model.js";

let addon: Addon;
beforeAll(async () => {
  addon = await loadAddon();
});
afterEach(() => {
  delete process.env.LAYER_ENSEMBLES_ISA;
});

const native = async ({ data, shape, stretches, labels }: Stretching) =>
  (await addon.resample(data as Float32Array | Uint8Array, shape, stretches, labels)).data;

const BETWEEN = ["nearest", "linear", "cubic"] as const;
const identity = [
  [1, 0, 0, 0],
  [0, 1, 0, 0],
  [0, 0, 1, 0],
  [0, 0, 0, 1],
] as const;

/** Labels in blobs, of which some are thin. */
function labelsOf(shape: readonly number[]): Uint8Array {
  const [, depth = 1, height = 1, width = 1] = shape;
  const values = noise([...shape]).data;
  return Uint8Array.from(values, (value, i) => {
    const [x, y, z] = [i % width, Math.floor(i / width) % height, Math.floor(i / (width * height)) % depth];
    return value > 0.8 ? 7 : 3 * Number(x + y > (width + height) / 3) + Number(z > depth / 2) + 200 * Number(y === 2);
  });
}

describe.each(["generic", "avx2", "avx512"])("%s", (isa) => {
  const shapes: [number[], Triple][] = [
    [
      [1, 5, 6, 7],
      [9, 3, 11],
    ],
    [
      [2, 9, 33, 40],
      [4, 65, 17],
    ],
    [
      [1, 1, 40, 70],
      [3, 40, 1],
    ],
    [
      [3, 20, 3, 2],
      [20, 4, 2],
    ],
    [
      [1, 2, 1, 129],
      [1, 1, 300],
    ],
  ];
  const tasks = shapes.flatMap(([shape, to]) =>
    BETWEEN.map((between) => ({
      shape,
      stretches: [2, 1, 3]
        .filter((axis) => shape[axis] !== to[axis - 1])
        .map((axis) => ({ axis, size: to[axis - 1] as number, between })),
    })),
  );

  it.each(tasks)("interpolates $shape to $stretches as the definition, to the bit", async ({ shape, stretches }) => {
    process.env.LAYER_ENSEMBLES_ISA = isa;
    const data = noise(shape).data.map((value) => value * 1000 - 300);
    const task = { data, shape, stretches, labels: false };
    const moved = await native(task);
    expect(moved).toBeInstanceOf(Float32Array);
    expect(moved).toEqual(define(task));
  });

  it.each(tasks.filter(({ stretches }) => stretches.every(({ between }) => between !== "cubic")))(
    "moves labels of $shape to $stretches as the definition, to the bit",
    async ({ shape, stretches }) => {
      process.env.LAYER_ENSEMBLES_ISA = isa;
      for (const labels of [true, false]) {
        if (!labels && stretches[0]?.between !== "nearest") continue;
        const task = { data: labelsOf(shape), shape, stretches, labels };
        const moved = await native(task);
        expect(moved).toBeInstanceOf(Uint8Array);
        expect(moved).toEqual(define(task));
      }
    },
  );
});

it("gives a tie of shares to the least label", async () => {
  const task = {
    data: Uint8Array.of(9, 4, 4, 9, 1, 8),
    shape: [1, 1, 1, 6],
    stretches: [{ axis: 3, size: 3, between: "linear" as const }],
    labels: true,
  };
  expect([...define(task)]).toEqual([4, 4, 1]);
  expect([...(await native(task))]).toEqual([4, 4, 1]);
});

it("equals SciPy's zoom", async () => {
  const { resample: reference } = JSON.parse(readFileSync("test/fixtures/grid.json", "utf8"));
  const data = Float32Array.from(reference.data as number[]);
  const largest = Math.max(...data.map(Math.abs));
  for (const { shape, order, data: expected } of reference.to) {
    const stretches = [1, 2, 3].map((axis) => ({ axis, size: shape[axis - 1], between: order }));
    const moved = await native({ data, shape: [1, ...reference.shape], stretches, labels: false });
    const worst = Math.max(...moved.map((value, i) => Math.abs(value - expected[i])));
    expect(worst / largest).toBeLessThan(1e-6);
  }
});

it("is what a volume is moved by once the addon is loaded, off this thread; other types by the definition", async () => {
  const grid = { shape: [6, 7, 8], affine: identity } as const;
  const shape = [4, 9, 5] as const;
  const moving = (data: NumericArray): Moving<Placed> =>
    resampling({ data, shape: [...grid.shape], grid } as Placed, { shape });
  for (const data of [
    noise([336]).data,
    Float64Array.from(noise([336]).data),
    Int16Array.from({ length: 336 }, (_, i) => i),
  ]) {
    const there = await aside(moving(data));
    expect(there).toEqual(byDefinition(moving(data)));
    expect(there).toEqual(resample({ data: data as Float32Array, shape: [...grid.shape], grid }, { shape }));
  }
  let asked = 0;
  const timer = setInterval(() => asked++, 1);
  const large = { shape: [64, 128, 128], affine: identity } as const;
  const volume = { data: new Float32Array(64 * 128 * 128).fill(1), shape: [...large.shape], grid: large };
  const before = asked;
  await aside(resampling(volume, { shape: [100, 200, 200] }));
  clearInterval(timer);
  expect(asked).toBeGreaterThan(before);
});

it.each([
  ["an axis of channels", [1, 2, 3, 4], [{ axis: 0, size: 2, between: "linear" }], "ERR_LE_SHAPE"],
  ["one axis twice", [1, 2, 3, 4], [1, 1].map((axis) => ({ axis, size: 2, between: "linear" })), "ERR_LE_SHAPE"],
  ["nothing", [1, 2, 3, 4], [{ axis: 1, size: 0, between: "linear" }], "ERR_LE_SHAPE"],
  ["another shape", [1, 2, 3, 5], [], "ERR_LE_SHAPE"],
  ["another interpolation", [1, 2, 3, 4], [{ axis: 1, size: 2, between: "quintic" }], "ERR_LE_OPTION"],
])("refuses %s", async (_, shape, stretches, code) => {
  const call = async () => addon.resample(new Float32Array(24), shape, stretches as never, false);
  await expect(call()).rejects.toMatchObject({ code });
});
