// Does a run see that images are not like those of its training? Test images as they are, after three changes of the scanner, what is
// no scan at all, and images of other folders: AUROC by layer, what the gate sends to a person as unlike the training's, and the alarm
// over a stream. The run is one that `tune` has chosen for.
//     node bench/shift.mjs RUN [NAME=FOLDER …] [--split test] [--data FOLDER] [--far 40] [--permutations 500] [--json FILE]
import { readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { preprocess } from "../dist/data/preprocess.js";
import { fileItems, folderItems, openRun } from "../dist/inference/inference.js";
import { auroc, StreamAlarm } from "../dist/metrics/index.js";
import { Random } from "../dist/random.js";
import { decide } from "../dist/scores/gate.js";
import { table } from "./harness.mjs";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: "string" },
    split: { type: "string", default: "test" },
    far: { type: "string", default: "40" },
    permutations: { type: "string", default: "500" },
    json: { type: "string" },
  },
});
const [folder, ...others] = positionals;
if (!folder) throw new Error("Expected a run folder.");

/** Grey values from 0 to 255. */
const each = (image, change) => ({
  ...image,
  data: image.data.map((v, i) => Math.max(0, Math.min(255, change(v, i)))),
});

/** Of the scanner, chosen once: half the resolution that the network gets, twice a curve, and noise that grows with the signal. */
const CHANGES = {
  "blur and resample": (image, { scale }) => halved(blurred(image, scale), 2 * scale),
  "gain and gamma": (image) => each(image, (v) => 255 * 1.3 * (v / 255) ** 0.5),
  "gain and gamma, darker": (image) => each(image, (v) => 255 * 0.9 * (v / 255) ** 1.8),
  speckle: (image, { random }) => each(image, (v) => v * (1 + 0.25 * random.normal())),
};
const FAR = {
  noise: (image, { random }) => each(image, () => random.uniform(0, 255)),
  blank: (image) => each(image, () => 40),
  inverted: (image) => each(image, (v) => 255 - v),
  saturated: (image) => each(image, (v) => 4 * v),
};

const { model, run, notes } = await openRun(folder, {});
if (!model.shift.fit || !run.gate?.distance) throw new Error(`Expected a run that was tuned, in ${folder}: run tune.`);
const layers = model.shift.fit.taps.map(({ tap }) => tap);
const [inside, validation] = [await itemsOf(values.split), await itemsOf(notes.data.valSplit)];
const far = evenly(inside, Number(values.far));
const sets = {};
await add("validation", validation);
await add(values.split, inside);
for (const [name, change] of Object.entries(CHANGES)) await add(name, inside, change);
for (const [name, change] of Object.entries(FAR)) await add(name, far, change);
for (const other of others) {
  const [, name, from] = /^([^=]+)=(.+)$/.exec(other) ?? [];
  if (!from) throw new Error(`Expected NAME=FOLDER but received ${other}.`);
  const images = readdirSync(from).filter((file) => /\.(png|jpe?g|tiff?|npy)$/i.test(file));
  await add(
    name,
    await fileItems(
      images.sort().map((file) => path.join(from, file)),
      notes,
    ),
  );
}
await model.dispose();
const report = {
  ...{ run: path.resolve(folder), split: values.split, layers, chosen: model.shift.fit.chosen },
  ...{ images: model.shift.fit.images, gate: run.gate, sets: rowsOf(), alarm: alarmOf() },
};
print(report);
if (values.json) writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`);

function itemsOf(split) {
  return folderItems(values.data ?? notes.data.folder, split, notes, { masks: "optional", allowDuplicates: true });
}

function evenly(list, most) {
  const count = Math.min(list.length, most);
  return Array.from({ length: count }, (_, i) => list[Math.floor((i * list.length) / count)]);
}

/** Predicts a set of images, each changed as it is stored. */
async function add(name, items, change) {
  const random = new Random(7);
  const found = [];
  for (let start = 0; start < items.length; start += 8) {
    const inputs = [];
    for (const item of items.slice(start, start + 8)) {
      const { input, image } = await item.load();
      // Pixels of the image for one of the network's input.
      const scale = Math.max(1, image.shape.at(-1) / input.shape.at(-1));
      const stored = { data: Float32Array.from(image.data), shape: [1, ...image.shape] };
      inputs.push(change ? preprocess(change(stored, { random, scale }), notes.preprocessing).image : input);
    }
    for (const result of await model.predict(inputs)) {
      const { reasons, decision } = decide(result, run.gate);
      const unlike = reasons.some(({ code }) => code === "unlike-training");
      const scored = decide(result, { ...run.gate, distance: undefined }).decision === "accept";
      found.push({ ...result.tapDistance, unlike, scored, review: decision === "review" });
    }
  }
  sets[name] = found;
  process.stderr.write(`${name}: ${found.length}\n`);
}

function rowsOf() {
  const known = sets[values.split];
  return Object.entries(sets).map(([name, found]) => {
    const labels = [...known.map(() => false), ...found.map(() => true)];
    const of = (value) => {
      const all = [...known, ...found].map(value);
      const largest = Math.max(...all.filter(Number.isFinite));
      // A confidence is high where all is well.
      const confidence = all.map((x) => -(Number.isFinite(x) ? x : largest + 1));
      return auroc(confidence, labels);
    };
    const share = (is) => found.filter(is).length / found.length;
    return {
      ...{ name, images: found.length },
      auroc: {
        ...Object.fromEntries(layers.map((layer) => [layer, of(({ taps }) => taps[layer].distance)])),
        ...{ value: of(({ value }) => value), max: of(({ max }) => max), excess: of(({ excess }) => excess) },
      },
      unlike: share(({ unlike }) => unlike),
      acceptedByScore: share(({ scored }) => scored),
      accepted: share(({ review }) => !review),
    };
  });
}

/** The alarm over the excess of images in random order, ranked among a random half of those that are like the training's. */
function alarmOf() {
  const finite = ({ excess }) => (Number.isFinite(excess) ? excess : 1e9);
  const firedAt = (name, seed) => {
    const random = new Random(seed);
    const own = random.shuffled(sets[values.split]);
    const half = own.length >> 1;
    const alarm = new StreamAlarm({ excess: own.slice(0, half).map(finite) }, { seed });
    for (const image of name === values.split ? own.slice(half) : random.shuffled(sets[name]))
      if (alarm.observe({ excess: finite(image) }).alarm) return alarm.cases;
    return null;
  };
  return Object.fromEntries(
    Object.keys(sets)
      .filter((name) => name !== "validation")
      .map((name) => {
        const all = Array.from({ length: Number(values.permutations) }, (_, seed) => firedAt(name, seed));
        const fired = all.filter((at) => at !== null).sort((a, b) => a - b);
        const summary = { median: fired[fired.length >> 1] ?? null, last: fired.at(-1) ?? null };
        return [name, { fired: fired.length / all.length, ...summary }];
      }),
  );
}

function print({ images, gate, sets, alarm, chosen }) {
  console.log(
    `${folder}: ${images.training} training and ${images.validation} validation images; chosen: ${chosen.join(", ")}; ` +
      `excess above ${gate.distance.threshold.toFixed(3)} is unlike-training`,
  );
  const number = (x) => x.toFixed(3);
  const percent = (x) => `${(100 * x).toFixed(1)} %`;
  const head = ["", "images", ...layers.map((layer) => layer.replace(/^(encoder|decoder)\./, (all) => `${all[0]}.`))];
  const columns = [...head, "value", "max", "excess", "unlike", "accepted by score", "accepted"];
  const rows = sets.map(({ name, images, auroc, unlike, acceptedByScore, accepted }) => [
    ...[name, String(images), ...layers.map((layer) => number(auroc[layer]))],
    ...["value", "max", "excess"].map((of) => number(auroc[of])),
    ...[unlike, acceptedByScore, accepted].map(percent),
  ]);
  console.log(
    `AUROC against the images of ${values.split}, by layer and as a whole; shares that the gate finds unlike, and accepts\n`,
  );
  console.log(table([columns, ...rows]));
  console.log(
    `\nAlarm over the excess, ${values.permutations} orders: share in which it goes off, and at which image\n`,
  );
  const body = Object.entries(alarm).map(([name, { fired, median, last }]) => [
    name,
    percent(fired),
    String(median),
    String(last),
  ]);
  console.log(table([["", "goes off", "median", "last"], ...body]));
}

/** By a Gaussian of that standard deviation, in plane. */
function blurred(image, sigma) {
  const reach = Math.ceil(3 * sigma);
  const weights = Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-((i - reach) ** 2) / (2 * sigma ** 2)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const [height, width] = image.shape.slice(-2);
  const along = (data, dx, dy) =>
    data.map((_, at) => {
      const [plane, y, x] = [Math.floor(at / (width * height)), Math.floor(at / width) % height, at % width];
      let sum = 0;
      for (const [i, weight] of weights.entries()) {
        const yy = Math.max(0, Math.min(height - 1, y + dy * (i - reach)));
        const xx = Math.max(0, Math.min(width - 1, x + dx * (i - reach)));
        sum += weight * data[(plane * height + yy) * width + xx];
      }
      return sum / total;
    });
  return { ...image, data: along(along(image.data, 1, 0), 0, 1) };
}

/** Every step-th pixel alone, and what lies between them linearly. */
function halved(image, step) {
  const [height, width] = image.shape.slice(-2);
  const place = (at, size) => {
    const count = Math.ceil(size / step);
    const from = Math.max(0, Math.min(count - 1, (at + 0.5) / step - 0.5));
    const [low, high] = [Math.floor(from), Math.min(count - 1, Math.floor(from) + 1)];
    const pixel = (i) => Math.min(size - 1, Math.round((i + 0.5) * step - 0.5));
    return [pixel(low), pixel(high), from - low];
  };
  const data = image.data.map((_, at) => {
    const plane = Math.floor(at / (width * height)) * width * height;
    const [y0, y1, v] = place(Math.floor(at / width) % height, height);
    const [x0, x1, u] = place(at % width, width);
    const of = (y, x) => image.data[plane + y * width + x];
    return (1 - v) * ((1 - u) * of(y0, x0) + u * of(y0, x1)) + v * ((1 - u) * of(y1, x0) + u * of(y1, x1));
  });
  return { ...image, data };
}
