// Files of volumes whose right answers are known: LAYER_ENSEMBLES_GEOMETRY names a folder of cases, each with an expect.json.
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { parseNpy } from "../../lib/data/npy.js";
import { readVolume, type Volume } from "../../lib/volumes/index.js";

const folder = process.env.LAYER_ENSEMBLES_GEOMETRY;
const names = folder ? readdirSync(folder).filter((name) => /^(nii|nrrd|mh[ad])-/.test(name)) : [];

interface Expected {
  input: string;
  ok: boolean;
  kind: "image" | "label";
  shape: number[];
  affine: number[][] | null;
  dtype: string;
  values: { sum: number; min: number; max: number; nonFinite: number; samples: number[][]; tolerance: number };
  warn?: string;
  label?: { file: string; npy: string };
}

const load = (name: string) =>
  JSON.parse(readFileSync(path.join(folder as string, name, "expect.json"), "utf8")) as Expected;

/** The greatest distance between two affines' numbers. */
function affineError(volume: Volume, affine: number[][]): number {
  const rows = volume.grid?.affine as unknown as number[][];
  return Math.max(...affine.flatMap((row, i) => row.map((value, j) => Math.abs(value - (rows[i]?.[j] as number)))));
}

describe.skipIf(!folder)("the cases of LAYER_ENSEMBLES_GEOMETRY", () => {
  it("are there", () => expect(names.length).toBeGreaterThan(20));

  it.each(names)("%s is right or refused", async (name) => {
    const { input, ok, kind, shape, affine, dtype, values, warn } = load(name);
    const reading = readVolume(path.join(folder as string, name, input), { kind, channels: shape?.length === 4 });
    if (!ok) return expect(reading).rejects.toMatchObject({ code: "ERR_LE_DATA" });
    const volume = await reading;
    const { data } = volume;
    const [x, y, z, c = 1] = shape as [number, number, number, number?];
    expect(volume.shape).toEqual(c > 1 ? [c, z, y, x] : [z, y, x]);
    expect(volume.dtype).toBe(dtype);
    if (affine) expect(affineError(volume, affine)).toBeLessThan(1e-6);
    else expect(volume.grid).toBeNull();
    expect(volume.nonFinite).toBe(values.nonFinite);
    const finite = Array.from(data).filter(Number.isFinite);
    expect(Math.abs(finite.reduce((sum, value) => sum + value, 0) - values.sum)).toBeLessThan(
      values.tolerance * data.length + 1e-6,
    );
    const { tolerance } = values;
    expect(Math.abs(Math.min(...finite) - values.min)).toBeLessThanOrEqual(tolerance);
    expect(Math.abs(Math.max(...finite) - values.max)).toBeLessThanOrEqual(tolerance);
    for (const sample of values.samples) {
      const [i, j, k] = sample as [number, number, number];
      const t = sample.length === 5 ? (sample[3] as number) : 0;
      const value = data[((t * z + k) * y + j) * x + i] as number;
      expect(Math.abs(value - (sample.at(-1) as number))).toBeLessThanOrEqual(tolerance);
    }
    expect(volume.warnings.length > 0).toBe(warn !== undefined);
  });

  it.each(names.filter((name) => load(name).label))("%s has a label map in the same grid", async (name) => {
    const { label, affine } = load(name);
    const file = path.join(folder as string, name, label?.file as string);
    const volume = await readVolume(file, { kind: "label" });
    const truth = parseNpy(readFileSync(path.join(folder as string, name, label?.npy as string)), "label.npy");
    const [x, y, z] = truth.shape as [number, number, number];
    expect(volume.shape).toEqual([z, y, x]);
    for (let i = 0; i < x; i++)
      for (let j = 0; j < y; j++)
        for (let k = 0; k < z; k++)
          if (volume.data[(k * y + j) * x + i] !== truth.data[(i * y + j) * z + k]) expect([i, j, k]).toBeNull();
    if (affine) expect(affineError(volume, affine)).toBeLessThan(1e-5);
  });
});
