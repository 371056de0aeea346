// Networks of volumes through the same calls as those of images.

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, expect, it } from "vitest";
import { Backbone, Dataset, LayerEnsemble } from "../../lib/index.js";
import { balls, discs, noise, smallModel, smallVolumeModel } from "../support/model.js";

const folder = mkdtempSync(path.join(os.tmpdir(), "le-volumes-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it("a backbone says how many spatial axes its input has, and is probed with as many", async () => {
  const backbone = await Backbone.create("unet3d", { width: 4, depth: 2, norm: "instance", upsampling: "trilinear" });
  expect(backbone.spatialAxes).toBe(3);
  const layers = await backbone.probe();
  expect(layers.find((layer) => layer.name === "encoder.1.0")).toMatchObject({
    type: "Conv3d",
    shape: [1, 8, 16, 16, 16],
  });
  expect(layers.find((layer) => layer.name === "encoder.0.1")?.type).toBe("InstanceNorm3d");
  const model = await LayerEnsemble.create(backbone, { device: "cpu" });
  expect(model.heads[0]?.size).toEqual([32, 32, 32]);
  await expect(LayerEnsemble.create(backbone, { inputSize: [32, 32] })).rejects.toThrow(
    "Expected 3 sides for option 'inputSize' (the network works on volumes) but received 2",
  );
  await model.dispose();
  await backbone.dispose();
  await expect(Backbone.create("unet3d", { norm: "layer" as "batch" })).rejects.toThrow(/"batch", "instance"/);
  await expect(Backbone.create("plain-unet", { norm: "batch" })).rejects.toThrow("norm");
});

it("trains on phantoms until it finds the balls, saves, loads, and predicts the same", async () => {
  const { backbone, model } = await smallVolumeModel({ depth: 2, width: 6 });
  const size = [10, 16, 16] as const;
  const history = await model.fit(balls(12, size), {
    epochs: 10,
    batchSize: 2,
    learningRate: 0.02,
    validation: balls(4, size, 9),
    augment: { flipHorizontal: 0.5, flipVertical: 0.5, flipDepth: 0.5, rotation: 10, noise: 0.05 },
    run: folder,
  });
  expect(Math.max(...history.epochs.map((epoch) => epoch.validation?.fused.dice ?? 0))).toBeGreaterThan(0.8);
  const [sample] = balls(1, [9, 17, 13], 5);
  const prediction = await model.predict(sample!.image);
  expect(prediction.mask.shape).toEqual([9, 17, 13]);
  expect(prediction.maps.entropy?.shape).toEqual([9, 17, 13]);
  expect(prediction.aula?.value).toBeGreaterThan(0);
  const loaded = await LayerEnsemble.load(folder, { device: "cpu", precision: "fp32" });
  expect((await loaded.predict(sample!.image)).probabilities?.data).toEqual(prediction.probabilities?.data);
  await loaded.dispose();
  await model.dispose();
  await backbone.dispose();
});

it("trains on patches of volumes of several sizes, and says so in the run", async () => {
  const run = path.join(folder, "patches");
  const { backbone, model } = await smallVolumeModel({ depth: 2, width: 6, inputSize: [8, 8, 8] });
  const training = [...balls(4, [10, 16, 16]), ...balls(3, [7, 18, 12], 2)];
  const given = { epochs: 8, batchSize: 4, learningRate: 0.02, validation: balls(3, [9, 11, 17], 9), run } as const;
  const batches = new Set<number>();
  const history = await model.fit(training, {
    ...given,
    patch: [8, 8, 8],
    patchesPerCase: 3,
    onProgress: (event) => event.type === "batch" && batches.add(event.batches),
  });
  expect([...batches]).toEqual([6]); // 7 volumes, 3 patches of each, in batches of 4 at most
  expect(Math.max(...history.epochs.map((epoch) => epoch.validation?.fused.dice ?? 0))).toBeGreaterThan(0.6);
  const { training: recorded } = JSON.parse(readFileSync(path.join(run, "run.json"), "utf8"));
  expect(recorded).toMatchObject({ patch: [8, 8, 8], patchForeground: 0.33, patchesPerCase: 3 });
  await expect(model.fit(training, { epochs: 1 })).rejects.toThrow("Expected 10×16×16 for training[4]");
  await expect(model.fit(training, { epochs: 1, patch: [8, 8] })).rejects.toThrow("for option 'patch' but received 2");
  await expect(model.fit(training, { epochs: 1, patchesPerCase: 3 })).rejects.toThrow("'patch' with 'patchesPerCase'");
  await model.dispose();
  await backbone.dispose();
});

it("images are refused by a network of volumes, and volumes by one of images", async () => {
  const volumes = await smallVolumeModel();
  const images = await smallModel();
  await expect(volumes.model.predict(noise([1, 16, 16]))).rejects.toThrow("Expected 4 axes for image 0");
  await expect(volumes.model.forward(noise([1, 16, 16]))).rejects.toThrow("Expected 4 or 5 axes for image");
  await expect(volumes.model.fit(discs(2, 16), { epochs: 1 })).rejects.toThrow("Expected 4 axes for training[0].image");
  await expect(images.model.fit(balls(2, [8, 8, 8]), { epochs: 1 })).rejects.toThrow("Expected 3 axes");
  await expect(images.model.predict(noise([1, 8, 8, 8]))).rejects.toThrow("Expected 3 axes for image 0");
  const logits = await volumes.model.forward(noise([2, 1, 8, 9, 10]));
  expect(logits.get("final")?.shape).toEqual([2, 2, 8, 9, 10]);
  for (const { model, backbone } of [volumes, images]) {
    await model.dispose();
    await backbone.dispose();
  }
});

it("a dataset of volumes in memory trains", async () => {
  const { backbone, model } = await smallVolumeModel({ depth: 2 });
  const dataset = Dataset.fromSamples(
    balls(4, [7, 12, 12]).map(({ image, mask }, i) => ({ id: `${i}`, image, mask })),
    { size: [8, 10, 12] },
  );
  const sample = await dataset.load(1);
  expect(sample.image.shape).toEqual([1, 8, 10, 12]);
  expect(sample.mask?.shape).toEqual([8, 10, 12]);
  expect((await dataset.loadOriginal(0)).image.shape).toEqual([7, 12, 12]);
  const history = await model.fit(dataset, { epochs: 1, batchSize: 2 });
  expect(history.epochs).toHaveLength(1);
  await model.dispose();
  await backbone.dispose();
});
