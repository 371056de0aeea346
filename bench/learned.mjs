// What it costs a tuned run's predictions that they tell the distance from the training and the predicted Dice: processor time of all
// threads, in interleaved rounds of one process. The first cell is there twice: what differs between these two is noise.
//   node bench/learned.mjs RUN [--size 256] [--batch 5] [--rounds 60] [--threads 1] [--precision bf16]
// Needs a build (npm run build).
import { parseArgs } from "node:util";
import { openRun } from "../dist/inference/inference.js";
import { quantile, table } from "./harness.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    size: { type: "string", default: "256" },
    batch: { type: "string", default: "5" },
    rounds: { type: "string", default: "60" },
    threads: { type: "string", default: "1" },
    precision: { type: "string", default: "auto" },
  },
});
const [folder] = positionals;
const [size, batch, rounds, threads] = ["size", "batch", "rounds", "threads"].map((name) => Number(values[name]));
if (folder === undefined || ![size, batch, rounds, threads].every((n) => Number.isInteger(n) && n > 0)) {
  process.stderr.write("Expected RUN, and whole numbers for the options.\n");
  process.exit(2);
}

const flags = { threads, precision: values.precision };
const { model: bare, run } = await openRun(folder, flags, { learned: false });
const { model: tuned } = await openRun(folder, flags);
const { fit } = tuned.shift;
if (!fit || !tuned.predictedDice.fit)
  throw new Error(`Expected a run that tune has learned of, but received ${folder}.`);
// An explicit choice of heads has no predicted Dice; they are fused as tuned all the same.
const { fusion, weights, temperatures, temperature } = run.prediction ?? {};
const fusing = Object.entries({ fusion, weights, temperatures, temperature }).filter(
  ([, value]) => value !== undefined,
);
const untold = { batchSize: batch, skip: run.skip, ...Object.fromEntries(fusing) };
const cells = {
  "nothing learned": [bare, untold],
  "the same": [bare, untold],
  "with statistics of the taps": [bare, { ...untold, tapStatistics: fit.taps.map(({ tap }) => tap) }],
  "and distances of them": [tuned, untold],
  "as tuned: and predicted Dice": [tuned, { batchSize: batch }],
};
const { channels } = run.notes.preprocessing;
const images = Array.from({ length: batch }, (_, k) => ({
  data: Float32Array.from({ length: channels * size * size }, (_, i) => {
    const [y, x] = [Math.floor(i / size), i % size];
    return Math.sin(x / 17 + k) * Math.cos(y / 23 - k);
  }),
  shape: [channels, size, size],
}));

const times = Object.fromEntries(Object.keys(cells).map((name) => [name, []]));
// In another order in each round: garbage is collected every so many predictions, and would fall on the same cells.
const shuffled = (list) => {
  const order = [...list];
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
};
for (let round = -12; round < rounds; round++)
  for (const [name, [model, options]] of shuffled(Object.entries(cells))) {
    const before = process.cpuUsage();
    await model.predict(images, options);
    const { user, system } = process.cpuUsage(before);
    if (round >= 0) times[name].push((user + system) / 1000);
  }
const first = times["nothing learned"];
const cell = (list, share) => {
  const value = quantile(list, share);
  return [value.toFixed(1), `${(value / quantile(first, share)).toFixed(3)}×`];
};
console.log(
  `${size}×${size}, batch ${batch}, ${threads} thread${threads > 1 ? "s" : ""}, ${tuned.precision}, ${tuned.headNames.length - run.skip} heads, ${rounds} rounds\n`,
);
console.log(
  table([
    ["", "least CPU ms", "", "quarter", "", "median", ""],
    ...Object.entries(times).map(([name, list]) => [name, ...cell(list, 0), ...cell(list, 0.25), ...cell(list, 0.5)]),
  ]),
);
await bare.dispose();
await tuned.dispose();
