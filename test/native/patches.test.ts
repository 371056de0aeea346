// A model that was trained on patches predicts by tiles of them, and what was learned of it holds for these alone.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { type LayerEnsemble, loadModel, Plain } from "../../lib/index.js";
import { fuse } from "../../lib/metrics/index.js";
import { inOwnWay } from "../../lib/runs/tiles.js";
import { balls, noise, smallVolumeModel } from "../support/model.js";

const folder = mkdtempSync(path.join(os.tmpdir(), "le-patches-"));
const run = path.join(folder, "run");
const TILES = { size: [8, 8, 8], overlap: 0.5, weights: "gaussian" } as const;
let made: Awaited<ReturnType<typeof smallVolumeModel>>;
beforeAll(async () => {
  made = await smallVolumeModel({ depth: 2, inputSize: [8, 8, 8] });
  await made.model.fit(balls(3, [10, 12, 9]), { epochs: 1, batchSize: 4, patch: [8, 8, 8], run });
});
afterAll(async () => {
  await made.model.dispose();
  await made.backbone.dispose();
  rmSync(folder, { recursive: true, force: true });
});

const largest = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] as number))), 0);

it("goes by tiles of its patches unless told otherwise, and records them", async () => {
  const { model } = made;
  expect(model.tiles).toEqual(TILES);
  expect(JSON.parse(readFileSync(path.join(run, "run.json"), "utf8")).tiles).toEqual(TILES);
  const image = noise([1, 11, 13, 9]);
  const [own, same, whole, other] = await Promise.all(
    [{}, { tile: [8, 8, 8], overlap: 0.5 }, { tile: "none" as const }, { overlap: 0.25 }].map((how) =>
      model.predict(image, how),
    ),
  );
  expect(own?.tiles).toEqual({ ...TILES, mirror: [] });
  expect(own?.mask.shape).toEqual([11, 13, 9]);
  expect(same?.probabilities?.data).toEqual(own?.probabilities?.data);
  expect(whole?.tiles).toBeUndefined();
  expect(other?.tiles).toMatchObject({ size: [8, 8, 8], overlap: 0.25 });
  expect(largest(whole?.probabilities?.data ?? [], own?.probabilities?.data ?? [])).toBeGreaterThan(1e-3);
});

it("gives the logits that it fuses, of one image and of several", async () => {
  const { model } = made;
  const images = noise([2, 1, 9, 14, 8], 3);
  const logits = await model.forward(images);
  expect([...logits.keys()]).toEqual(model.headNames);
  const half = images.data.length / 2;
  for (const i of [0, 1]) {
    const image = { data: images.data.slice(i * half, (i + 1) * half), shape: [1, 9, 14, 8] };
    const { probabilities } = await model.predict(image);
    const heads = [...logits.values()].map(({ data, shape }) => {
      expect(shape).toEqual([2, 2, 9, 14, 8]);
      return { data: data.slice((i * data.length) / 2, ((i + 1) * data.length) / 2), shape: shape.slice(1) };
    });
    expect(largest(fuse(heads).data, probabilities?.data ?? [])).toBeLessThan(1e-5);
    const [first] = (await model.forward(image, { tile: "none" })).values();
    const [tiled] = (await model.forward(image)).values();
    expect(largest(first?.data ?? [], tiled?.data ?? [])).toBeGreaterThan(1e-3);
  }
});

it("keeps its tiles where it is saved and loaded, alone and as a member of others, until it is trained on whole images", async () => {
  const copy = path.join(folder, "copy");
  await made.model.save(copy);
  const loaded = await loadModel(copy, { device: "cpu", precision: "fp32" });
  expect(loaded.tiles).toEqual(TILES);
  const image = noise([1, 9, 9, 12]);
  expect((await loaded.predict(image)).probabilities?.data).toEqual(
    (await made.model.predict(image)).probabilities?.data,
  );
  const again = path.join(folder, "again");
  await (loaded as LayerEnsemble).fit(balls(2, [8, 8, 8]), { epochs: 1, run: again });
  expect(loaded.tiles).toBeNull();
  expect(JSON.parse(readFileSync(path.join(again, "run.json"), "utf8"))).not.toHaveProperty("tiles");
  expect((await loaded.predict(image)).tiles).toBeUndefined();
  await loaded.dispose();
  const plain = await Plain.create(made.backbone, { inputSize: [8, 8, 8], device: "cpu" });
  expect(plain.tiles).toBeNull();
  await plain.dispose();
});

it("tells its own way from others", () => {
  const ensemble = { inputSize: [8, 8, 8] };
  const own = { tiles: { ...TILES, size: [8, 8, 8] }, ensemble };
  for (const chosen of [
    {},
    { tile: "auto" as const },
    { tile: [8, 8, 8] },
    { overlap: 0.5, tileWeights: "gaussian" as const },
  ])
    expect(inOwnWay(own, chosen)).toBe(true);
  for (const chosen of [
    { tile: "none" as const },
    { tile: [8, 8, 16] },
    { overlap: 0.25 },
    { tileWeights: "constant" as const },
    { mirror: ["depth"] },
  ])
    expect(inOwnWay(own, chosen)).toBe(false);
  expect(inOwnWay({ ensemble }, {})).toBe(true);
  expect(inOwnWay({ ensemble }, { tile: "none" })).toBe(true);
  for (const chosen of [{ tile: "auto" as const }, { tile: [8, 8, 8] }, { mirror: ["depth"] }])
    expect(inOwnWay({ ensemble }, chosen)).toBe(false);
});
