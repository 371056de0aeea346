// One contender: this package. Reads one JSON command a line, answers each with one line; bench/peers/pytorch.py
// understands the same.
//   {"do": "setup", "threads", "device", "allocator"}  → {"versions", "device", …}
//   {"do": "make", "name", "classes", "heads": "plain" | "auto" | names, "size", "batch", "precision"?, "channelsLast"?,
//    "file"?: a network's, "weights"?: of the U-Net} → {"taps", "precision"}
//   {"do": "predict", "name", "maps": boolean, "tapStatistics"?: boolean} → {"ms"}: one batch from images in memory to arrays in memory
//   {"do": "train", "name", "steps"}                   → {"ms"}: one step, mean over the steps
import { createInterface } from "node:readline";
import { Backbone, configure, LayerEnsemble } from "../dist/index.js";
import { loadAddon } from "../dist/native/load.js";
import { random } from "./random.mjs";

const models = new Map();
let device = "cpu";

const commands = {
  async setup({ threads, allocator, ...rest }) {
    ({ device } = rest);
    configure({ ...(threads && { threads }), ...(allocator && { allocator }) });
    return { info: (await loadAddon()).info() };
  },

  async make({ name, classes, heads, size, batch, precision = "auto", channelsLast = true, file, weights }) {
    const backbone = file
      ? await Backbone.load(file, { trust: true })
      : await Backbone.create("unet", { encoder: "resnet18", inChannels: 1, classes });
    if (weights) await backbone.loadWeights(weights);
    const taps = heads === "plain" ? [] : heads;
    const options = { taps, classes, device, precision, channelsLast, inputSize: [size, size] };
    const model = await LayerEnsemble.create(backbone, options);
    models.set(name, { model, samples: makeSamples(batch, size, classes), batch });
    return {
      taps: model.heads.map((head) => head.name).filter((head) => head !== "final"),
      precision: model.precision,
    };
  },

  async predict({ name, maps, tapStatistics = false }) {
    const { model, samples, batch } = models.get(name);
    const images = samples.map((sample) => sample.image);
    const start = performance.now();
    await model.predict(images, { batchSize: batch, tapStatistics, ...(!maps && { maps: [] }) });
    return { ms: performance.now() - start };
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

/** Noise, and masks of all classes in patches. */
function makeSamples(count, size, classes) {
  const next = random(1);
  return Array.from({ length: count }, (_, i) => ({
    image: { data: Float32Array.from({ length: size * size }, () => 2 * next() - 1), shape: [1, size, size] },
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
