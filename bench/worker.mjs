// One contender: this package. Reads one JSON command a line, answers each with one line; bench/peers/pytorch.py
// understands the same.
//   {"do": "setup", "threads", "device", "allocator"}  → {"versions", "device", …}
//   {"do": "make", "name", "classes", "heads": "plain" | "auto" | names, "size", "batch", "precision"?, "channelsLast"?,
//    "file"?: a network's, "weights"?: of the U-Net, "learned"?: what `tune` learns: distances from the training, and predicted Dice
//    by "softDiceConfidence" or "features"} → {"taps", "precision"}
//   {"do": "predict", "name", "maps": boolean, "tapStatistics"?: boolean} → {"ms", "cpu"}: one batch from images in memory to arrays in
//    memory, by the clock and in CPU time of all threads
//   {"do": "train", "name", "steps"}                   → {"ms"}: one step, mean over the steps
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { Backbone, configure, Dataset, LayerEnsemble, loadModel } from "../dist/index.js";
import { learnShift } from "../dist/inference/shift.js";
import { diceFeatures, fitPredictedDice } from "../dist/metrics/index.js";
import { loadAddon } from "../dist/native/load.js";
import { writeChoice } from "../dist/runs/tuning.js";
import { random } from "./random.mjs";

const models = new Map();
let device = "cpu";

const commands = {
  async setup({ threads, allocator, ...rest }) {
    ({ device } = rest);
    configure({ ...(threads && { threads }), ...(allocator && { allocator }) });
    return { info: (await loadAddon()).info() };
  },

  async make({ name, classes, heads, size, batch, precision = "auto", channelsLast = true, file, weights, learned }) {
    const backbone = file
      ? await Backbone.load(file, { trust: true })
      : await Backbone.create("unet", { encoder: "resnet18", inChannels: 1, classes });
    if (weights) await backbone.loadWeights(weights);
    const taps = heads === "plain" ? [] : heads;
    const options = { taps, classes, device, precision, channelsLast, inputSize: [size, size] };
    const bare = await LayerEnsemble.create(backbone, options);
    const model = learned ? await withLearned(bare, learned, size, classes) : bare;
    models.set(name, { model, samples: makeSamples(batch, size, classes), batch });
    return {
      taps: model.heads.map((head) => head.name).filter((head) => head !== "final"),
      precision: model.precision,
    };
  },

  async predict({ name, maps, tapStatistics = false }) {
    const { model, samples, batch } = models.get(name);
    const images = samples.map((sample) => sample.image);
    const [start, before] = [performance.now(), process.cpuUsage()];
    await model.predict(images, { batchSize: batch, tapStatistics, ...(!maps && { maps: [] }) });
    const { user, system } = process.cpuUsage(before);
    return { ms: performance.now() - start, cpu: (user + system) / 1000 };
  },

  async train({ name, steps }) {
    const { model, samples, batch } = models.get(name);
    const training = Array.from({ length: steps }, () => samples).flat();
    const history = await model.fit(training, {
      epochs: 1,
      batchSize: batch,
      learningRate: 1e-4,
      optimizer: "adam",
      schedule: "constant",
      headGradient: 1,
      clipNorm: 0,
      augment: "none",
    });
    return { ms: (1000 * batch) / history.epochs[0].imagesPerSecond };
  },
};

/** The same model as `tune` leaves it in a run, of images and Dice that are made up: what it costs does not depend on them. */
async function withLearned(bare, by, size, classes) {
  const samples = (count, of) =>
    makeSamples(count, size, classes).map((sample, i) => ({ ...sample, id: `${of}-${i}`, split: of }));
  const data = Dataset.fromSamples([...samples(40, "training"), ...samples(24, "validation")], {
    classes,
    labels: { scale: "index" },
  });
  const { signal } = new AbortController();
  const [training, validation] = ["training", "validation"].map((split) => data.split(split));
  const shift = await learnShift(bare, { training, validation, signal });
  const images = await Promise.all(Array.from({ length: validation.length }, (_, i) => validation.load(i)));
  const next = random(2);
  const cases = (await bare.predict(images.map(({ image }) => image))).map((prediction) => {
    const features = diceFeatures(prediction);
    // A Dice that the one or the other tells.
    const known = (of) => {
      of.softDiceConfidence = next();
      of.values = of.values.map(() => next());
      return by === "features" ? of.values.at(-1) : of.softDiceConfidence;
    };
    return { features, dice: Object.fromEntries(Object.entries(features.perClass).map(([c, of]) => [c, known(of)])) };
  });
  const predictedDice = fitPredictedDice(cases);
  for (const fit of Object.values(predictedDice.perClass))
    if (fit.by !== by) throw new Error(`Expected a fit by ${by} but received one by ${fit.by}.`);
  const folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-bench-"));
  try {
    await bare.save(folder);
    await writeChoice(folder, { skip: 0, prediction: {}, tuning: {} }, { shift, predictedDice });
    const { precision, device } = bare;
    await bare.dispose();
    return await loadModel(folder, { precision, device });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Waves under a little noise, so that masks are of few parts, and masks of all classes in patches. */
function makeSamples(count, size, classes) {
  const next = random(1);
  return Array.from({ length: count }, (_, i) => ({
    image: {
      data: Float32Array.from({ length: size * size }, (_, p) => {
        const [y, x] = [Math.floor(p / size), p % size];
        return Math.sin(x / 17 + i) * Math.cos(y / 23 - i) + 0.1 * (next() - 0.5);
      }),
      shape: [1, size, size],
    },
    mask: {
      data: Uint8Array.from({ length: size * size }, (_, p) => (i + (p >> 4) + ((p / size) >> 4)) % classes),
      shape: [size, size],
    },
  }));
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  const answer = await commands[command.do](command).catch((error) => ({ error: String(error.stack ?? error) }));
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
