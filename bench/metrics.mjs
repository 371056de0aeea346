// Every metric of one image against NumPy and SciPy, in interleaved rounds, one thread each; and AULA alone against a forward pass.
//   node bench/metrics.mjs [--rounds N] [--heads K] [--classes C] [--size N] [--json FILE]
// The peer is peers/metrics.py under LAYER_ENSEMBLES_PYTHON, PYTHON or python3; it is left out where that has no NumPy and SciPy,
// the forward pass where there is no libtorch. Needs a build (npm run build). See README.md.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Backbone, LayerEnsemble } from "../dist/index.js";
import { aula, aulaFromCounts, countAgreement, labelMaps, quality, scoreHeads, staple } from "../dist/metrics/index.js";
import { Contender, machine, median, ratio, table } from "./harness.mjs";
import { random } from "./random.mjs";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "15" },
    heads: { type: "string", default: "10" },
    classes: { type: "string", default: "4" },
    size: { type: "string", default: "256" },
    json: { type: "string" },
  },
});
const [rounds, heads, classes, size] = ["rounds", "heads", "classes", "size"].map((name) => {
  const value = Number(values[name]);
  if (Number.isInteger(value) && value > 0) return value;
  process.stderr.write(`Expected a positive integer for --${name} but received ${values[name]}.\n`);
  return process.exit(2);
});

const { logits, truth } = structuredHeads(heads, classes, size);
const folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-bench-"));
try {
  await main();
} finally {
  rmSync(folder, { recursive: true, force: true });
}

async function main() {
  const image = { data: logits, shape: [heads, classes, size, size] };
  const options = { truth: { data: truth, shape: [size, size] } };
  const own = { name: "layer-ensembles", times: [], cpu: [], parts: { STAPLE: [], distances: [] } };
  const run = () => measured(() => scoreHeads(image, options));
  const numpy = peer();
  const other = numpy && { name: "NumPy and SciPy", times: [], cpu: [], parts: { STAPLE: [], distances: [] } };
  let versions = {};
  if (numpy) {
    const file = path.join(folder, "heads.bin");
    writeFileSync(file, Buffer.concat([Buffer.from(logits.buffer), Buffer.from(truth)]));
    versions = await numpy.ask({ do: "load", file, shape: image.shape });
    const { result } = await numpy.ask({ do: "run" });
    compare(run().result, result);
  }
  for (let i = 0; i < 30; i++) run(); // until compiled
  for (let round = 0; round < rounds; round++) {
    const { ms, cpu, result } = run();
    own.times.push(ms);
    own.cpu.push(cpu);
    own.parts.STAPLE.push(measured(() => staple(result.labels, classes)).cpu);
    own.parts.distances.push(measured(() => quality(result.mask, options.truth, { classes })).cpu);
    if (!numpy) continue;
    const theirs = await numpy.ask({ do: "run" });
    other.times.push(theirs.ms);
    other.cpu.push(theirs.cpu);
    for (const name of Object.keys(other.parts)) other.parts[name].push(theirs.parts[name]);
  }
  numpy?.close();

  const { rounds: stapleRounds } = run().result.staple;
  const { cpu, cores, node } = machine();
  console.log(`${cpu}, ${cores} cores, load ${os.loadavg()[0].toFixed(1)}; Node ${node}${
    numpy ? `, NumPy ${versions.numpy}, SciPy ${versions.scipy}` : ""
  }
One image, ${heads} heads × ${classes} classes × ${size}×${size}: maps, summaries, agreement, STAPLE (${stapleRounds} rounds), distances, calibration
Medians of ${rounds} interleaved rounds, one thread each\n`);
  const rows = [own, ...(other ? [other] : [])].map((of) => [
    of.name,
    median(of.times).toFixed(1),
    ...[of.cpu, of.parts.STAPLE, of.parts.distances].map((times) => median(times).toFixed(1)),
  ]);
  console.log(table([["", "ms", "CPU ms", "STAPLE", "distances"], ...rows]));
  const faster = other && ratio(other, own);
  const lessCpu = other && ratio({ times: other.cpu }, { times: own.cpu });
  if (faster) {
    const quartiles = ({ quartiles: [low, high] }) => `${low.toFixed(1)}–${high.toFixed(1)}`;
    console.log(
      `\n${faster.median.toFixed(1)}× faster (quartiles ${quartiles(faster)}; CPU time ${lessCpu.median.toFixed(1)}×, ${quartiles(lessCpu)}); the aim is 20×; least CPU time ${(Math.min(...other.cpu) / Math.min(...own.cpu)).toFixed(1)}×`,
    );
  } else console.log("\nNo Python with numpy and scipy was found (LAYER_ENSEMBLES_PYTHON, PYTHON, python3).");
  const alone = await aulaAlone(image);
  if (values.json) {
    const report = { date: new Date().toISOString(), machine: machine(), versions, heads, classes, size, own, other };
    writeFileSync(values.json, `${JSON.stringify({ ...report, faster, lessCpu, alone }, null, 2)}\n`);
  }
}

/** What AULA adds to a forward pass of the plain network (U-Net, ResNet-18, one image, all cores). */
async function aulaAlone(image) {
  const labels = labelMaps(image);
  const counts = countAgreement(labels, classes);
  const { model, input } = (await plainNetwork()) ?? {};
  const works = {
    "from the counts of the prediction": () => aulaFromCounts(counts),
    "from label maps": () => aula(labels, classes),
    "from logits": () => aula(labelMaps(image), classes),
    ...(model && { "forward pass": () => model.predict(input, { maps: [] }) }),
  };
  const times = Object.fromEntries(Object.keys(works).map((name) => [name, []]));
  for (let round = -20; round < rounds; round++) {
    for (const [name, work] of Object.entries(works)) {
      const start = performance.now();
      await work();
      if (round >= 0) times[name].push(performance.now() - start);
    }
  }
  await model?.dispose();
  const pass = times["forward pass"];
  const rows = Object.entries(times).map(([name, of]) => [
    name,
    median(of).toFixed(3),
    pass ? `1/${ratio({ times: pass }, { times: of }).median.toFixed(0)}` : "",
  ]);
  console.log(`\nAULA alone; the aim is 1/50 of a forward pass\n`);
  console.log(table([["", "ms", "of a pass"], ...rows]));
  return times;
}

/** Null where there is no libtorch. */
async function plainNetwork() {
  try {
    const backbone = await Backbone.create("unet", { encoder: "resnet18", inChannels: 1, classes });
    const model = await LayerEnsemble.create(backbone, { taps: [], classes, inputSize: [size, size] });
    const pixels = Float32Array.from({ length: size * size }, (_, i) => Math.sin(i * 0.37));
    return { model, input: { data: pixels, shape: [1, size, size] } };
  } catch (error) {
    console.log(`\nNo forward pass: ${error.message.split("\n")[0]}`);
    return null;
  }
}

/** Milliseconds by the clock and of CPU time, and what the work came to. */
function measured(work) {
  const [start, cpu] = [performance.now(), process.cpuUsage()];
  const result = work();
  const { user, system } = process.cpuUsage(cpu);
  return { ms: performance.now() - start, cpu: (user + system) / 1000, result };
}

function peer() {
  const python = process.env.LAYER_ENSEMBLES_PYTHON || process.env.PYTHON || "python3";
  if (spawnSync(python, ["-c", "import numpy, scipy"]).status !== 0) return null;
  const script = path.join(path.dirname(fileURLToPath(import.meta.url)), "peers", "metrics.py");
  return new Contender("NumPy", [python, script], {
    OPENBLAS_NUM_THREADS: "1",
    OMP_NUM_THREADS: "1",
    MKL_NUM_THREADS: "1",
  });
}

/** Both must have done the same work. The peer's maps are in single precision. */
function compare(own, theirs) {
  const { calibration } = own;
  const q = own.quality.image;
  const pairs = {
    ...Object.fromEntries(
      Object.entries(own.summaries).map(([name, { sum, mean, foreground }]) => [
        name,
        [[sum, mean, foreground], theirs[name]],
      ]),
    ),
    aula: [own.aula?.value, theirs.aula],
    pairwiseAgreement: [own.pairwiseAgreement.overall, theirs.pairwiseAgreement],
    predictionDepth: [Object.values(own.predictionDepth.perClass), theirs.predictionDepth],
    softDiceConfidence: [own.softDiceConfidence.overall, theirs.softDiceConfidence],
    staple: [
      [own.staple.rounds, own.staple.confusion[0][0][0]],
      [theirs.staple.rounds, theirs.staple.confusion00],
    ],
    quality: [
      [
        q.dice,
        q.hausdorff,
        q.hd95,
        q.modifiedHausdorff,
        q.modifiedHausdorffBoundary,
        q.assd,
        q.iou,
        q.sensitivity,
        q.precision,
        q.specificity,
        q.volumeError,
      ],
      theirs.quality,
    ],
    calibration: [
      [calibration.nll, calibration.brier, calibration.ece, calibration.adaptiveEce, calibration.classwiseEce.mean],
      [theirs.nll, theirs.brier, theirs.ece, theirs.adaptiveEce, theirs.classwiseEce],
    ],
  };
  for (const [name, [a, b]] of Object.entries(pairs))
    [a].flat().forEach((value, i) => {
      const expected = [b].flat()[i];
      if (Math.abs(value - expected) > 1e-5 * Math.max(1, Math.abs(expected)))
        throw new Error(`${name}: ${value} here, ${expected} in NumPy`);
    });
}

/**
 * Heads that agree more and more with depth: discs, one per foreground class, that every head sees through smooth noise of
 * its own, the early ones through most; and a little noise from pixel to pixel.
 */
function structuredHeads(heads, classes, size) {
  const next = random(1);
  const smoothNoise = (cells) => {
    const grid = Float64Array.from({ length: (cells + 1) ** 2 }, () => next() * 2 - 1);
    const at = (y, x) => grid[y * (cells + 1) + x];
    return (y, x) => {
      const [v, u] = [(y / size) * cells, (x / size) * cells];
      const [j, i] = [Math.floor(v), Math.floor(u)];
      const [b, a] = [v - j, u - i];
      return (at(j, i) * (1 - a) + at(j, i + 1) * a) * (1 - b) + (at(j + 1, i) * (1 - a) + at(j + 1, i + 1) * a) * b;
    };
  };
  const clear = (c, y, x) => {
    if (c === 0) return 0;
    const angle = (2 * Math.PI * (c - 1)) / (classes - 1);
    const [cy, cx] = [size * (0.5 + 0.2 * Math.sin(angle)), size * (0.5 + 0.2 * Math.cos(angle))];
    return (size * 0.17 - Math.hypot(y - cy, x - cx)) / (size / 64);
  };
  const logits = new Float32Array(heads * classes * size * size);
  let at = 0;
  for (let k = 0; k < heads; k++) {
    const blur = 1 - k / heads;
    for (let c = 0; c < classes; c++) {
      const [coarse, fine] = [smoothNoise(8), smoothNoise(40)];
      for (let y = 0; y < size; y++)
        for (let x = 0; x < size; x++)
          logits[at++] =
            clear(c, y, x) * (1 - 0.6 * blur) +
            3 * blur * coarse(y, x) +
            (0.3 + blur) * fine(y, x) +
            0.1 * (next() - 0.5);
    }
  }
  const truth = new Uint8Array(size * size);
  for (let y = 0; y < size; y++)
    for (let x = 0; x < size; x++)
      for (let c = 1; c < classes; c++) if (clear(c, y, x) > clear(truth[y * size + x], y, x)) truth[y * size + x] = c;
  return { logits, truth };
}
