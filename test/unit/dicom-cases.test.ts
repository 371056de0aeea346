// Every DICOM case of a folder of geometry cases is read right or refused: none is read wrong without a word.
//   LAYER_ENSEMBLES_GEOMETRY=folder npx vitest run test/unit/dicom-cases.test.ts
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { LayerEnsemblesError } from "../../lib/errors.js";
import type { Grid } from "../../lib/grid/index.js";
import { listSeries, readSeries, type SeriesVolume } from "../../lib/volumes/dicom/index.js";

const folder = process.env.LAYER_ENSEMBLES_GEOMETRY ?? "";
const cases = folder ? readdirSync(folder).filter((name) => name.startsWith("dcm-")) : [];

interface Expected {
  input: string;
  ok: boolean;
  mention?: number[];
  shape: number[];
  affine: number[][] | null;
  affineIfAllowed?: number[][];
  dtype: string;
  photometric?: string;
  warn?: string;
  volumes?: number;
  candidates?: (Expected & { seriesInstanceUID: string })[];
  values: { sum: number; min: number; max: number; samples: number[][]; tolerance: number };
}

function checkAffine(grid: Grid | null, affine: number[][] | null, voxels: number[][]): void {
  if (!affine || !grid) {
    expect(grid).toBe(affine);
    return;
  }
  // By places in the world.
  for (const [i = 0, j = 0, k = 0] of voxels)
    for (const axis of [0, 1, 2]) {
      const at = (rows: readonly (readonly number[])[]) => {
        const [a = 0, b = 0, c = 0, d = 0] = rows[axis] as readonly number[];
        return a * i + b * j + c * k + d;
      };
      expect(at(grid.affine)).toBeCloseTo(at(affine), 4);
    }
}

function checkVolume(volume: SeriesVolume, expected: Expected): void {
  const [columns = 0, rows = 0, slices = 1] = expected.shape;
  expect(volume.shape).toEqual([slices, rows, columns]);
  expect(volume.dtype).toBe(expected.dtype);
  const data = Array.from(volume.data);
  const { sum, min, max, samples, tolerance } = expected.values;
  for (const [i = 0, j = 0, ...rest] of samples) {
    const [k, value] = rest.length === 2 ? rest : [0, ...rest];
    const read = data[((k as number) * rows + j) * columns + i] as number;
    expect(Math.abs(read - (value as number)), `voxel ${[i, j, k]}`).toBeLessThanOrEqual(tolerance);
  }
  expect(Math.abs(data.reduce((a, b) => a + b, 0) - sum)).toBeLessThanOrEqual(tolerance * data.length);
  expect(Math.abs(Math.min(...data) - min)).toBeLessThanOrEqual(tolerance);
  expect(Math.abs(Math.max(...data) - max)).toBeLessThanOrEqual(tolerance);
  checkAffine(volume.grid, expected.affine, [
    [0, 0, 0],
    [columns, 0, 0],
    [0, rows, 0],
    [0, 0, slices],
  ]);
  if (expected.photometric) expect(volume.photometric).toBe(expected.photometric);
  if (expected.warn) expect(volume.warnings.length).toBeGreaterThan(0);
}

describe.skipIf(!folder)("the geometry cases", () => {
  it("has them all, the packed ones too", () => {
    expect(cases.length).toBeGreaterThanOrEqual(25);
    const skipped = path.join(folder, "skipped.json");
    if (existsSync(skipped)) expect(JSON.parse(readFileSync(skipped, "utf8"))).toEqual({});
  });

  it.each(cases)("%s", async (name) => {
    const expected: Expected = JSON.parse(readFileSync(path.join(folder, name, "expect.json"), "utf8"));
    const input = path.join(folder, name, expected.input);
    if (expected.ok) {
      checkVolume(await readSeries(input), expected);
      return;
    }
    const error = await readSeries(input).then(
      () => undefined,
      (reason) => reason,
    );
    expect(error).toBeInstanceOf(LayerEnsemblesError);
    expect(error.code).toBe("ERR_LE_DATA");
    for (const number of expected.mention ?? [])
      expect(error.message).toMatch(new RegExp(`(^|[^\\d.])${number}([^\\d.]|$)`));
    if (expected.affineIfAllowed) {
      const { grid, warnings } = await readSeries(input, { allowTilt: true });
      checkAffine(grid, expected.affineIfAllowed, [
        [0, 0, 0],
        [11, 0, 0],
        [0, 9, 0],
        [0, 0, 6],
      ]);
      expect(warnings.join()).toMatch(/15 degrees/);
    }
    if (!expected.candidates) return;
    const found = await listSeries(input);
    expect(found).toHaveLength(expected.candidates.length);
    for (const { id } of found) expect(error.message).toContain(id);
    for (const candidate of expected.candidates) {
      const [columns, rows, slices] = candidate.shape;
      const same = found.filter(
        ({ seriesInstanceUID, shape }) =>
          seriesInstanceUID === candidate.seriesInstanceUID && `${shape}` === `${[slices, rows, columns]}`,
      );
      expect(same).toHaveLength(1);
      checkVolume(await readSeries(input, { series: same[0]?.id as string }), candidate);
    }
  });
});
