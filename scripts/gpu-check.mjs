// Builds, checks and times this package on a machine with CUDA, without a network, and writes gpu-check.json.
// Where there is no GPU, or with --device cpu, it does the same on the CPU with smaller sizes, and the JSON says so.
//   node scripts/gpu-check.mjs [--json FILE] [--device cuda|cpu] [--no-bench]
// Needs Node >= 20.9, cmake, a C++20 compiler and a PyTorch or libtorch 2.11 to 2.14 with headers: LAYER_ENSEMBLES_LIBTORCH,
// LIBTORCH, or the torch of PYTHON or python3. From a machine where `npm ci && npm run build` ran it needs dist/ and, of
// node_modules/, node-addon-api, node-api-headers and node-gyp-build: nothing that is tied to a platform. Plain Node runs
// it, so Node itself may be carried too: one `bin/node` (about 25 MB as .xz) on PATH is enough.
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { machine } from "../bench/harness.mjs";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const SUPPORTED = /^2\.1[1-4]\./;

const { values } = parseArgs({
  options: {
    json: { type: "string", default: "gpu-check.json" },
    device: { type: "string" },
    "no-bench": { type: "boolean", default: false },
    checks: { type: "string" }, // inside: the device of the checks that this process is to run
  },
});

if (values.checks) await runChecks(values.checks);
else process.exitCode = (await main()) ? 0 : 1;

async function main() {
  const report = { date: new Date().toISOString(), passed: false, machine: machine() };
  const write = () => writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`);
  try {
    const libtorch = findTorch();
    report.libtorch = libtorch;
    say(`libtorch ${libtorch.version} in ${libtorch.folder}`);
    const folder = path.join(root, "build-gpu", "build"); // node-gyp-build looks below build/
    report.build = await build(folder, libtorch);
    Object.assign(process.env, {
      LAYER_ENSEMBLES_PREBUILD: path.dirname(folder),
      LAYER_ENSEMBLES_LIBTORCH: libtorch.folder,
      OMP_WAIT_POLICY: process.env.OMP_WAIT_POLICY ?? "passive",
    });

    const gpu = findGpu();
    report.device = values.device ?? (gpu ? "cuda" : "cpu");
    report.gpu = gpu;
    if (report.device === "cpu")
      report.note = gpu
        ? "CPU form: asked for with --device cpu."
        : "CPU form: no GPU was found. Nothing below ran on one.";
    say(report.note ?? gpu.name);

    const cpp = spawnSync(path.join(folder, "core_tests"), [], { encoding: "utf8" });
    report.checks = [{ check: "C++ tests", passed: cpp.status === 0, output: cpp.stdout.trim().split("\n").at(-1) }];
    if (cpp.status !== 0) process.stderr.write(`${cpp.stdout}${cpp.stderr}`);
    say(`${cpp.status === 0 ? "ok    " : "FAILED"} C++ tests`);
    write();
    report.checks.push(...(await checksInChild(report.device)));
    write();
    if (!values["no-bench"]) report.bench = bench(report.device, libtorch.python);
    report.passed = report.checks.every((check) => check.passed);
  } catch (error) {
    report.error = error.message;
    process.stderr.write(`${error.message}\n`);
  }
  write();
  say(`${report.passed ? "passed" : "FAILED"}; written to ${values.json}`);
  return report.passed;
}

function say(text) {
  process.stdout.write(`${text}\n`);
}

/** The first libtorch with headers, and the Python that it belongs to, if any. */
function findTorch() {
  const python = process.env.PYTHON || "python3";
  const code = "import os, torch; print(os.path.dirname(torch.__file__))";
  const asked = spawnSync(python, ["-c", code], { encoding: "utf8" });
  const fromPython = asked.status === 0 ? asked.stdout.trim() : undefined;
  for (const folder of [process.env.LAYER_ENSEMBLES_LIBTORCH, process.env.LIBTORCH, fromPython]) {
    if (!folder || !existsSync(path.join(folder, "include/ATen/ATen.h"))) continue;
    const version = readVersion(folder);
    if (!SUPPORTED.test(version))
      throw new Error(`Expected libtorch 2.11 to 2.14 in ${folder} but received ${version}.`);
    return { folder: path.resolve(folder), version, ...(fromPython && { python }) };
  }
  throw new Error(
    `Expected a libtorch with headers in LAYER_ENSEMBLES_LIBTORCH or LIBTORCH, or as the torch of ${python}, but received none.`,
  );
}

function readVersion(folder) {
  const wheel = path.join(folder, "version.py");
  if (!existsSync(wheel)) return readFileSync(path.join(folder, "build-version"), "utf8").trim();
  return /__version__ = '([^']+)'/.exec(readFileSync(wheel, "utf8"))?.[1] ?? "unknown";
}

function findGpu() {
  const query = "name,driver_version,memory.total";
  const smi = spawnSync("nvidia-smi", [`--query-gpu=${query}`, "--format=csv,noheader"], { encoding: "utf8" });
  if (smi.status !== 0 || !smi.stdout.trim()) return null;
  const [name, driver, memory] = smi.stdout.trim().split("\n")[0].split(", ");
  return { name, driver, memory };
}

async function build(folder, libtorch) {
  for (const needed of ["dist/index.js", "node_modules/node-addon-api", "node_modules/node-gyp-build"])
    if (!existsSync(path.join(root, needed)))
      throw new Error(`Expected ${needed} but received nothing. Fix: npm ci && npm run build, then carry it along.`);
  const start = performance.now();
  const headers = createRequire(import.meta.url)("node-api-headers").include_dir;
  const ninja = spawnSync("ninja", ["--version"]).status === 0 && !existsSync(path.join(folder, "Makefile"));
  const jobs = Math.max(1, Math.min(os.availableParallelism(), Math.floor(os.totalmem() / 2e9)));
  run("cmake", [
    "-S",
    root,
    "-B",
    folder,
    ...(ninja ? ["-G", "Ninja"] : []),
    `-DLIBTORCH=${libtorch.folder}`,
    `-DCMAKE_JS_INC=${headers}`,
  ]);
  run("cmake", ["--build", folder, "--parallel", process.env.CMAKE_BUILD_PARALLEL_LEVEL || String(jobs)]);
  mkdirSync(path.join(folder, "Release"), { recursive: true });
  const info = { libtorch: libtorch.version.split("+")[0], flavour: libtorch.version.split("+")[1] ?? "cpu" };
  writeFileSync(path.join(folder, "Release", "build-info.json"), `${JSON.stringify(info)}\n`);
  return { seconds: Math.round((performance.now() - start) / 1000) };
}

function run(command, args) {
  const result = spawnSync(command, args, { stdio: ["ignore", "inherit", "inherit"], cwd: root });
  if (result.status !== 0) throw new Error(`Failed: ${command} ${args.join(" ")}`);
}

/** Runs the checks in a process of their own: a crash is then one failed check. */
async function checksInChild(device) {
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), "--checks", device], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const checks = [];
  const ended = new Promise((resolve) => child.on("close", (code, signal) => resolve(code ?? signal)));
  for await (const line of createInterface({ input: child.stdout })) {
    const check = JSON.parse(line);
    checks.push(check);
    const figures = check.limit === undefined ? "" : `: ${check.value.toPrecision(3)} (limit ${check.limit})`;
    say(`${check.passed ? "ok    " : "FAILED"} ${check.check}${figures}`);
  }
  const code = await ended;
  return [...checks, { check: "the checks ran to their end", passed: code === 0, output: String(code) }];
}

function bench(device, python) {
  const file = path.join(mkdtempSync(path.join(os.tmpdir(), "gpu-check-")), "bench.json");
  const forms = device === "cpu" ? [["--batch=2", "--size=64", "--quick"]] : [["--batch=8"], ["--batch=32"]];
  const reports = forms.map((form) => {
    const args = [path.join(root, "bench/run.mjs"), `--device=${device}`, "--only=inference,training", ...form];
    const env = { ...process.env, ...(python && { PYTHON: python }) };
    const result = spawnSync(process.execPath, [...args, `--json=${file}`], { stdio: "inherit", env });
    if (result.status !== 0) throw new Error(`Failed: node ${args.join(" ")}`);
    return JSON.parse(readFileSync(file, "utf8"));
  });
  rmSync(path.dirname(file), { recursive: true });
  return reports;
}

// ---- The checks, in a process of their own: what the device gives against the CPU in fp32, contiguous. ----

async function runChecks(device) {
  const { Backbone, DeepEnsemble, LayerEnsemble, McDropout } = await import("../dist/index.js");
  const report = (check, value, limit) =>
    process.stdout.write(`${JSON.stringify({ check, value, limit, passed: value <= limit })}\n`);
  const reference = { device: "cpu", precision: "fp32", channelsLast: false };

  const make = async (placement, classes, kind = "unet", options = {}) => {
    const backbone = await Backbone.create(kind, { classes, seed: 1, ...options });
    return LayerEnsemble.create(backbone, { classes, inputSize: [64, 64], seed: 2, ...placement });
  };

  for (const classes of [2, 4]) {
    const samples = discs(12, 64, classes);
    const odd = discs(1, 96, classes)[0].image;
    const image = { data: odd.data.slice(0, 75 * 96), shape: [1, 75, 96] };

    const cpu = await make(reference, classes);
    const on = {
      fp32: await make({ device, precision: "fp32" }, classes),
      bf16: await make({ device, precision: "bf16" }, classes),
    };
    if (on.fp32.device.split(":")[0] !== device)
      throw new Error(`Expected to run on ${device} but ran on ${on.fp32.device}.`);
    const logits = await cpu.forward(image);
    for (const [precision, limit] of Object.entries({ fp32: 1e-4, bf16: 0.05 }))
      report(
        `forward, ${precision}, C = ${classes}: relative`,
        furthest(logits, await on[precision].forward(image)),
        limit,
      );

    // The ResNet's batch norms over few values multiply a rounding error some fifty times with each step, in PyTorch too:
    // two steps of it, and six of the plain U-Net. SGD, because Adam's first steps are the signs of the gradients.
    for (const [kind, options, steps] of [
      ["unet", {}, 2],
      ["plain-unet", { width: 8, depth: 3 }, 6],
    ]) {
      const name = (precision) => `training ${kind}, ${precision}, C = ${classes}`;
      const exact = { optimizer: "sgd", schedule: "constant", clipNorm: 0, augment: "none" };
      const training = { epochs: steps, batchSize: 12, learningRate: 1e-3, ...exact };
      const slow = await make(reference, classes, kind, options);
      const expected = await slow.fit(samples, training);
      for (const [precision, limit, limitAfter] of [
        ["fp32", 1e-4, 1e-3],
        ["bf16", 0.05, 0.2],
      ]) {
        const model = await make({ device, precision }, classes, kind, options);
        const history = await model.fit(samples, training);
        const differences = history.epochs.flatMap(({ losses }, i) =>
          Object.entries(losses).map(([head, loss]) => Math.abs(loss / expected.epochs[i].losses[head] - 1)),
        );
        report(`${name(precision)}: losses of ${steps} steps, relative`, Math.max(...differences), limit);
        if (kind === "unet") continue; // its weights after two steps differ by a hundredth already
        const after = furthest(await slow.forward(image), await model.forward(image));
        report(`${name(precision)}: logits after them, relative`, after, limitAfter);
      }
    }

    // A network that has learned something: one that guesses has ties everywhere, and bfloat16 breaks them otherwise.
    const learned = await make({ device }, classes);
    const history = await learned.fit(samples, { epochs: 12, batchSize: 4, learningRate: 2e-3, augment: "none" });
    report(
      `learning, C = ${classes}: last loss / first loss`,
      history.epochs.at(-1).loss / history.epochs[0].loss,
      0.8,
    );
    const folder = mkdtempSync(path.join(os.tmpdir(), "gpu-check-"));
    await learned.save(folder);
    const images = [...samples.map((sample) => sample.image), image];
    const load = async (placement) => (await LayerEnsemble.load(folder, placement)).predict(images);
    const truth = await load(reference);
    comparePredictions(`fp32, C = ${classes}`, truth, await load({ device, precision: "fp32" }), {
      values: [1e-4, "largest"],
      labels: 1e-3,
      aula: 0.01,
    });
    comparePredictions(`bf16, C = ${classes}`, truth, await load({ device, precision: "bf16" }), {
      values: [0.02, "mean"],
      labels: 0.02,
      aula: 0.2,
    });
    rmSync(folder, { recursive: true });
  }

  // The other methods: the same heads on the device, and drops that the seed alone decides.
  const network = (seed, options = {}) => Backbone.create("plain-unet", { width: 8, depth: 3, seed, ...options });
  const [{ image }] = discs(1, 64, 2);
  const shared = { classes: 2, inputSize: [64, 64] };
  const deep = (placement) => DeepEnsemble.create((seed) => network(seed), { members: 3, ...shared, ...placement });
  const [slow, fast] = [await deep(reference), await deep({ device, precision: "fp32" })];
  report("deep ensemble, fp32: relative", furthest(await slow.forward(image), await fast.forward(image)), 1e-4);
  const staple = async (model) =>
    (await model.predict(image, { fusion: "staple", temperature: 1.5 })).probabilities.data;
  const changed = differences(await staple(slow), await staple(fast)).filter((value) => value > 1e-3);
  report("STAPLE, fp32: share of pixels", changed.length / (64 * 64 * 2), 5e-3);
  const dropping = await McDropout.create(await network(1, { dropout: 0.3 }), { passes: 4, ...shared, device });
  const drawn = async (seed) => (await dropping.predict(image, { seed })).probabilities.data;
  const first = await drawn(5);
  const largest = (values) => values.reduce((a, b) => Math.max(a, b), 0);
  report("Monte Carlo dropout, the same seed: largest difference", largest(differences(first, await drawn(5))), 1e-5);
  report("Monte Carlo dropout, another seed: equal", largest(differences(first, await drawn(6))) > 1e-3 ? 0 : 1, 0);

  const code = await make({ device: "cuda:99" }, 2).then(
    () => "none",
    (error) => error.code,
  );
  report("a device that is not there: ERR_LE_DEVICE", code === "ERR_LE_DEVICE" ? 0 : 1, 0);

  function comparePredictions(name, expected, received, limits) {
    const [limit, kind] = limits.values;
    const difference = (pick) => {
      const all = expected.flatMap((one, i) => differences(pick(one).data, pick(received[i]).data));
      return kind === "mean"
        ? all.reduce((sum, value) => sum + value, 0) / all.length
        : all.reduce((a, b) => Math.max(a, b), 0);
    };
    const changed = (pick) => {
      const all = expected.flatMap((one, i) => differences(pick(one).data, pick(received[i]).data));
      return all.filter((value) => value > 1e-6).length / all.length;
    };
    report(
      `predict, ${name}: probabilities, ${kind} difference`,
      difference((one) => one.probabilities),
      limit,
    );
    for (const map of ["entropy", "expectedEntropy", "mutualInformation", "variance"])
      report(
        `predict, ${name}: ${map}, ${kind} difference`,
        difference((one) => one.maps[map]),
        limit,
      );
    report(
      `predict, ${name}: mask, share of pixels`,
      changed((one) => one.mask),
      limits.labels,
    );
    // Each pixel has ten labels, so ten chances that one of them changes.
    for (const map of ["disagreement", "variationRatio"])
      report(
        `predict, ${name}: ${map}, share of pixels`,
        changed((one) => one.maps[map]),
        10 * limits.labels,
      );
    const aula = expected.map((one, i) => Math.abs(one.aula.value - received[i].aula.value));
    report(`predict, ${name}: AULA, largest difference`, Math.max(...aula), limits.aula);
  }
}

function differences(a, b) {
  if (a.length !== b.length) throw new Error(`Expected ${a.length} numbers but received ${b.length}.`);
  return Array.from(a, (value, i) => {
    const difference = Math.abs(value - b[i]);
    return Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
  });
}

/** Largest difference of any head's logits, relative to that head's largest logit. */
function furthest(expected, received) {
  const max = (values) => values.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  return Math.max(
    ...[...expected].map(([head, { data }]) => max(differences(data, received.get(head).data)) / max([...data])),
  );
}

/** One disc of each foreground class on noise. */
function discs(count, size, classes) {
  let state = 7;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
  return Array.from({ length: count }, () => {
    const image = Float32Array.from({ length: size * size }, () => next() - 0.5);
    const mask = new Uint8Array(size * size);
    for (let c = 1; c < classes; c++) {
      const radius = size * (0.12 + 0.1 * next());
      const [x0, y0] = [next() * size, next() * size];
      for (let p = 0; p < mask.length; p++) {
        if (Math.hypot((p % size) - x0, Math.floor(p / size) - y0) >= radius || mask[p]) continue;
        mask[p] = c;
        image[p] += 1.5 * c;
      }
    }
    return { image: { data: image, shape: [1, size, size] }, mask: { data: mask, shape: [size, size] } };
  });
}
