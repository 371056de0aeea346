// A model that is loaded with a fit of predicted Dice tells it, of predictions that the fit was made for.
import { rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, it } from "vitest";
import { loadModel, type Model } from "../../lib/index.js";
import { type DiceCase, dice, diceFeatures, fitPredictedDice, predictDice } from "../../lib/metrics/index.js";
import { runHashes } from "../../lib/runs/identity.js";
import { predictedDiceText } from "../../lib/runs/predicted-dice.js";
import { temporaryFolder } from "../support/libtorch.js";
import { balls, discs, smallModel, smallVolumeModel } from "../support/model.js";

const kinds = {
  images: { make: smallModel, samples: discs(30, 24, 1) },
  volumes: { make: smallVolumeModel, samples: balls(30, [6, 10, 10], 1) },
};

/** Every feature counts, whatever is best. */
async function fitOf(model: Model, samples: (typeof kinds)["images"]["samples"]) {
  const cases: DiceCase[] = [];
  for (const { image, mask } of samples) {
    const prediction = await model.predict(image);
    cases.push({ features: diceFeatures(prediction), dice: dice(prediction.mask, mask, { classes: 2 }) });
  }
  const fit = fitPredictedDice(cases);
  const own = fit.perClass[1]!;
  const size = cases[0]!.features.perClass[1]!.values.length;
  own.by = "features";
  own.ridge = {
    ...{ mean: new Array(size).fill(0), scale: new Array(size).fill(1), penalty: 1, intercept: 0 },
    weights: Array.from({ length: size }, (_, j) => 0.01 * (j + 1)),
  };
  own.isotonic = { x: [-100, 100], y: [0, 1] };
  own.empty = { dice: 0.25, cases: 1 };
  return fit;
}

it.each(Object.entries(kinds))("of %s", async (_, { make, samples }) => {
  const folder = temporaryFolder();
  const { backbone, model } = await make({});
  await model.fit(samples, { epochs: 3, batchSize: 4, learningRate: 0.02 });
  const fit = await fitOf(model, samples);
  await model.save(folder);
  expect(model.predictedDice).toEqual({ fit: null, stale: null });
  await model.dispose();
  await backbone.dispose();
  const store = async (choice: { skip: number }) => {
    const { weights } = await runHashes(folder);
    writeFileSync(path.join(folder, "predicted-dice.json"), predictedDiceText(fit, choice, weights));
  };
  await store({ skip: 0 });

  const loaded = await loadModel(folder, { device: "cpu" });
  expect(loaded.predictedDice).toEqual({ fit, stale: null });
  const { image } = samples[0]!;
  const whole = await loaded.predict(image);
  expect(whole.predictedDice).toEqual(predictDice(fit, diceFeatures(whole)));
  expect(whole.predictedDice!.overall.dice).not.toBeNull();
  // The fit reads maps that were not asked for, which stay inside.
  const some = await loaded.predict(image, { maps: ["variance"], probabilities: false });
  expect(some.predictedDice).toEqual(whole.predictedDice);
  expect(Object.keys(some.maps)).toEqual(["variance"]);
  expect(Object.keys(some.summaries)).toEqual(["variance"]);
  expect(some.maps.variance).toEqual(whole.maps.variance);
  for (const other of [{ skip: 1 }, { fusion: "vote" }, { temperature: 2 }, { heads: ["final"] }] as const)
    expect((await loaded.predict(image, other)).predictedDice, JSON.stringify(other)).toBeUndefined();
  // It was fitted to whole passes.
  const tiled = await loaded.predict(image, { tile: image.shape.slice(1).map((side) => side / 2), maps: ["variance"] });
  expect(tiled.predictedDice).toBeUndefined();
  expect(Object.keys(tiled.maps)).toEqual(["variance"]);
  await loaded.dispose();

  await store({ skip: 1 });
  const other = await loadModel(folder, { device: "cpu" });
  expect(other.predictedDice).toEqual({ fit: null, stale: expect.stringContaining("another choice of heads") });
  expect((await other.predict(image)).predictedDice).toBeUndefined();
  await other.dispose();
  rmSync(path.join(folder, "predicted-dice.json"));
  const without = await loadModel(folder, { device: "cpu" });
  expect(without.predictedDice).toEqual({ fit: null, stale: null });
  await without.dispose();
});
