// What is written is in the grid of what it came from.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Grid, readVolume, writeVolume } from "../../lib/volumes/index.js";
import { niftiFile } from "../support/volume-files.js";

let root = "";
beforeAll(() => {
  root = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-written-"));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));
const at = (name: string) => path.join(root, name);

const labels = (most: number) => Uint16Array.from({ length: 24 }, (_, i) => (i * most) / 23);
const grid: Grid = {
  shape: [2, 3, 4],
  affine: [
    [0, -0.7, 0.1, 12.5],
    [0.9, 0, 0, -20],
    [0, 0.2, 2.5, 30.25],
    [0, 0, 0, 1],
  ],
};

describe("a NIfTI label map", () => {
  it.each([
    [1, false],
    [1, true],
    [2, false],
    [2, true],
  ] as const)(
    "of version %i (big endian %s) has all of its input's header but how values are stored",
    async (version, big) => {
      const fields = { version, big, qform: 2, sform: 3, slope: 0.1, intercept: 7, units: 10, dim: [4, 4, 3, 2, 1] };
      const source = niftiFile({ ...fields, pixdim: [-1, 2, 3, 4, 5, 6, 7, 8], quaternion: [0.1, 0.2, 0.3] });
      const like = await readVolume(source);
      await writeVolume(at("label.nii.gz"), { data: labels(230), shape: [2, 3, 4] }, { like, label: true });
      const written = gunzipSync(readFileSync(at("label.nii.gz")));
      const size = version === 1 ? 348 : 540;
      const differ = [...written.subarray(0, size).keys()].filter((i) => written[i] !== source[i]);
      const stored =
        version === 1
          ? [
              [70, 74],
              [112, 120],
            ]
          : [
              [12, 16],
              [176, 192],
            ];
      expect(differ.length).toBeGreaterThan(0);
      expect(differ.filter((i) => !stored.some(([from, to]) => i >= (from as number) && i < (to as number)))).toEqual(
        [],
      );
      const again = await readVolume(at("label.nii.gz"));
      expect(again).toMatchObject({ dtype: "uint8", grid: like.grid });
      expect(Array.from(again.data)).toEqual(Array.from(labels(230)));
      await writeVolume(at("label.nii"), { data: labels(2300), shape: [2, 3, 4] }, { like, label: true });
      expect(await readVolume(at("label.nii"))).toMatchObject({ dtype: "uint16", data: labels(2300) });
    },
  );

  it("of an image of channels has none", async () => {
    const like = await readVolume(niftiFile({ dim: [4, 4, 3, 1, 2], sform: 1 }), { channels: true });
    await writeVolume(at("one.nii"), { data: new Uint8Array(12), shape: [1, 3, 4] }, { like, label: true });
    expect(await readVolume(at("one.nii"))).toMatchObject({ shape: [1, 3, 4], grid: like.grid });
  });
});

describe.each([".nii", ".nii.gz", ".nrrd", ".mha"])("%s", (ending) => {
  it("holds values of every type, where they lie", async () => {
    for (const Type of [
      Uint8Array,
      Int8Array,
      Uint16Array,
      Int16Array,
      Uint32Array,
      Int32Array,
      Float32Array,
      Float64Array,
    ]) {
      const data = new Type(48).map((_: number, i: number) => i);
      for (const shape of [
        [2, 2, 3, 4],
        [4, 3, 4],
      ]) {
        const own = { ...grid, shape: shape.slice(-3) as unknown as Grid["shape"] };
        await writeVolume(at(`any${ending}`), { data, shape, grid: own });
        const volume = await readVolume(at(`any${ending}`), { channels: true });
        expect(volume).toMatchObject({ data, shape, warnings: [] });
        for (const [i, row] of own.affine.entries())
          for (const [j, value] of row.entries()) expect(volume.grid?.affine[i]?.[j]).toBeCloseTo(value, 5);
      }
    }
  });
});

it("refuses what does not fit, and writes nothing then", async () => {
  const like = await readVolume(niftiFile({ sform: 1 }));
  const shape = [2, 3, 4];
  const data = new Float32Array(24);
  const refused = (code: string, written: Promise<void>) => expect(written).rejects.toMatchObject({ code });
  await refused("ERR_LE_OPTION", writeVolume(at("no.xyz"), { data, shape, grid }));
  await refused("ERR_LE_OPTION", writeVolume(at("no.nii"), { data, shape, grid }, { labels: true } as never));
  await refused("ERR_LE_SHAPE", writeVolume(at("no.nii"), { data, shape: [2, 3, 5], grid }));
  await refused("ERR_LE_SHAPE", writeVolume(at("no.nii"), { data, shape: [24] }, { like }));
  await refused("ERR_LE_SHAPE", writeVolume(at("no.nii"), { data, shape: [4, 3, 2] }, { like }));
  await refused("ERR_LE_SHAPE", writeVolume(at("no.nii"), { data, shape: [4, 3, 2], grid }));
  await refused("ERR_LE_VALUE", writeVolume(at("no.nii"), { data, shape, grid }, { like }));
  for (const ending of [".nii", ".mha"]) await refused("ERR_LE_VALUE", writeVolume(at(`no${ending}`), { data, shape }));
  for (const value of [0.5, -1, 70_000, Number.NaN])
    await refused(
      "ERR_LE_VALUE",
      writeVolume(at("no.nii"), { data: data.map(() => value), shape, grid }, { label: true }),
    );
  expect([".nii", ".mha", ".xyz"].filter((ending) => existsSync(at(`no${ending}`)))).toEqual([]);
  writeFileSync(at("plain.nrrd"), "");
  await writeVolume(at("plain.nrrd"), { data, shape });
  expect((await readVolume(at("plain.nrrd"))).grid).toBeNull();
});
