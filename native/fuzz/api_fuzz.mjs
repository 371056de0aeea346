// One process of the JavaScript API's fuzzer: calls in random order, with arguments that lie, change, run code and take
// memory away; aborts, disposals, terminations; then one of the ways to end. See scripts/fuzz.ts.
//   node --expose-gc api_fuzz.mjs FOLDER-OF-THE-PACKAGE SEED CALLS
// Prints "end with CODE" first, and what it finds wrong as "WRONG …"; the exit code must be the announced one.
import { writeSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import vm from "node:vm";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";

const [root, seed, calls] = isMainThread ? process.argv.slice(2) : workerData;
const api = await import(pathToFileURL(path.join(root, "dist/index.mjs")).href);
const metrics = await import(pathToFileURL(path.join(root, "dist/metrics/index.mjs")).href);
const { loadAddon } = createRequire(import.meta.url)(path.join(root, "dist/native/load.js"));
const { Backbone, LayerEnsemble, McDropout, DeepEnsemble, LayerEnsemblesError, Dataset } = api;
const addon = await loadAddon();

// mulberry32
let state = Math.imul(Number(seed) + 1, 0x9e3779b1) >>> 0;
const random = () => {
  state = (state + 0x6d2b79f5) >>> 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
};
const chance = (p) => random() < p;
const integer = (n) => Math.floor(random() * n);
const pick = (list) => list[integer(list.length)];
const after = (work, value) => {
  work();
  return value;
};
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const spin = (ms) => {
  for (const end = Date.now() + ms; Date.now() < end; );
};

/** What the fuzzer's own getters, callbacks and signals throw. */
class Own extends Error {}
const foreign = vm.createContext({});
const FOREIGN = vm.runInContext("({ Float32Array, Float64Array, Uint8Array, Int32Array, Array, Object })", foreign);

const said = new Map();
function judge(error, call) {
  if (error instanceof Own || error instanceof TypeError || error instanceof RangeError) return;
  if (error?.name === "AbortError") return;
  if (error instanceof LayerEnsemblesError && error.code !== "ERR_LE_INTERNAL") return;
  if (typeof error?.code === "string" && error.code.startsWith("ERR_LE_") && call.startsWith("raw")) return;
  const text = `${call}: ${error?.code ?? error?.name} ${String(error?.message).slice(0, 300)}`;
  if (said.has(text)) return;
  said.set(text, true);
  writeSync(1, `WRONG ${text}\n`);
}

// Memory that somebody else may take away or write to.
const memories = [];
function memory(bytes) {
  const most = bytes + 4096;
  const made = pick([
    () => new ArrayBuffer(bytes),
    () => new ArrayBuffer(bytes, { maxByteLength: most }),
    () => new SharedArrayBuffer(bytes),
    () => new SharedArrayBuffer(bytes, { maxByteLength: most }),
    () => new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) || 1, maximum: 64 }),
  ])();
  memories.push(made);
  if (memories.length > 40) memories.shift();
  return made instanceof WebAssembly.Memory ? made.buffer : made;
}
/** Code of the user's that runs in mid-call. */
function mischief() {
  const target = pick(memories);
  return pick([
    () => {
      if (target instanceof WebAssembly.Memory) target.grow(1);
      else if (target instanceof ArrayBuffer && target.resizable) target.resize(integer(target.maxByteLength + 1));
      else if (target instanceof ArrayBuffer) structuredClone(target, { transfer: [target] });
      else if (target?.growable) target.grow(target.maxByteLength);
    },
    () => {
      if (target && !(target instanceof WebAssembly.Memory)) new Uint8Array(target).fill(integer(256));
    },
    () => globalThis.gc?.(),
    () =>
      pick(models)
        ?.dispose()
        .catch((error) => judge(error, "dispose")),
    () => pick(aborts)?.abort(new Own("aborted")),
    () => note("nested", pick(models)?.predict(image())),
    () => spin(integer(70)),
    () => {
      throw new Own("thrown");
    },
  ])();
}
function array(type, length, fill) {
  const types = chance(0.2) ? FOREIGN : globalThis;
  const wanted = chance(0.05) ? pick(["Float64Array", "Uint8Array", "Int32Array", "Float32Array"]) : type;
  const width = types[wanted].BYTES_PER_ELEMENT;
  const offset = chance(0.2) ? 8 * integer(4) : 0;
  let made;
  if (chance(0.7)) made = new types[wanted](length);
  else if (chance(0.3)) made = new types[wanted](memory(length * width));
  else made = new types[wanted](memory(offset + length * width), offset, length);
  for (let i = 0; i < made.length; i++) made[i] = fill(i);
  if (chance(0.03)) Object.defineProperty(made, "length", { value: length * 2 });
  if (chance(0.02)) return new Proxy(made, {});
  if (chance(0.02)) return Object.create(types[wanted].prototype);
  return made;
}
/** The same object, or one whose properties run code, differ from read to read, or are a Proxy's. */
function disguised(object) {
  if (chance(0.75)) return object;
  if (chance(0.4)) {
    return new Proxy(object, {
      get(target, name) {
        if (chance(0.1)) mischief();
        return chance(0.03) ? junk() : Reflect.get(target, name);
      },
      ...(chance(0.2) && { ownKeys: (target) => after(mischief, Reflect.ownKeys(target)) }),
    });
  }
  const name = pick(Object.keys(object));
  if (name === undefined) return object;
  const value = object[name];
  const get = () => {
    if (chance(0.5)) mischief();
    return chance(0.2) ? junk() : value;
  };
  try {
    return Object.defineProperty(object, name, { get, enumerable: true, configurable: true });
  } catch {
    return object;
  }
}
const junk = () =>
  pick([
    () => undefined,
    () => null,
    () => Number.NaN,
    () => -1,
    () => 2 ** 53,
    () => 1e300,
    () => "x",
    () => "",
    () => Symbol("x"),
    () => 7n,
    () => [],
    () => new Array(2 ** 32 - 1),
    () => ({}),
    () => new Proxy([], { get: (_, name) => (name === "length" ? 2 ** 32 - 1 : 1) }),
    () => ({
      valueOf: () => after(mischief, 3),
      toString: () => after(mischief, "3"),
      toJSON: () => after(mischief, 3),
    }),
    () => () => mischief(),
    () => new Map(),
    () => addon.createControl(),
    () => addon.createDataset(),
    () => image(),
    () => new Float32Array(3),
  ])();

const sizes = () => (chance(0.85) ? [pick([8, 16, 32, 48]), pick([8, 16, 32, 48])] : [1 + integer(5), 1 + integer(70)]);
function image(channels = 1, [height, width] = sizes()) {
  const value = chance(0.03) ? pick([Number.NaN, Number.POSITIVE_INFINITY, 3e38]) : 1;
  const data = array("Float32Array", channels * height * width, (i) => Math.sin(i) * value);
  let shape = chance(0.1) ? FOREIGN.Array.of(channels, height, width) : [channels, height, width];
  if (chance(0.05))
    shape = pick([[0, 2 ** 53, 2 ** 53], new Array(2 ** 32 - 1), [height, width], [1, 1, height, width]]);
  return disguised({ data, shape: disguised(shape) });
}
function sample(size) {
  const [height, width] = size;
  const mask = { data: array("Uint8Array", height * width, (i) => (i >> 3) & 1), shape: [height, width] };
  return disguised({ image: image(1, size), mask: disguised(mask) });
}
function samples() {
  const size = [16, 16];
  const list = Array.from({ length: 1 + integer(6) }, () => sample(chance(0.95) ? size : sizes()));
  return pick([
    () => list,
    () => list,
    () => new Set(list),
    async function* () {
      for (const one of list) {
        if (chance(0.1)) mischief();
        if (chance(0.3)) await sleep(integer(5));
        yield one;
      }
    },
  ]).call(null);
}
const aborts = [];
function signal() {
  if (chance(0.6)) return {};
  if (chance(0.3) && aborts.length > 0) return { signal: pick(aborts).signal };
  const abort = new AbortController();
  aborts.push(abort);
  if (aborts.length > 10) aborts.shift();
  if (chance(0.6)) setTimeout(() => abort.abort(new Own("aborted")), integer(60)).unref();
  return { signal: abort.signal };
}
const spoiled = (options) => {
  if (chance(0.12)) options[pick([...Object.keys(options), "unknown"])] = junk();
  return disguised(options);
};
const predictOptions = () =>
  spoiled({
    ...signal(),
    ...(chance(0.3) && { fusion: pick(["mean", "logit-mean", "vote", "last", "staple"]) }),
    ...(chance(0.3) && { maps: disguised([pick(["entropy", "variance"])]) }),
    ...(chance(0.3) && { skip: integer(4) }),
    ...(chance(0.3) && { labels: true }),
    ...(chance(0.3) && { batchSize: 1 + integer(4) }),
    ...(chance(0.1) && { weights: [1, 2, 1] }),
    ...(chance(0.1) && { passes: 2 }),
    ...(chance(0.3) && { tile: pick(["auto", "none", disguised([8, 16]), [1, 70]]), overlap: random() }),
    ...(chance(0.1) && { mirror: disguised([pick(["height", "width", "depth"])]) }),
    ...(chance(0.1) && { outputSize: [1 + integer(40), 1 + integer(40)] }),
    ...(chance(0.1) && { onProgress: () => chance(0.1) && mischief() }),
  });
/** An image that is read by rows, now and then another one than its shape says, or late. */
function rows() {
  const { data, shape } = image();
  return disguised({
    shape: chance(0.9) ? shape : junk(),
    rows: async (begin, end) => {
      if (chance(0.1)) mischief();
      if (chance(0.3)) await sleep(integer(5));
      if (chance(0.05)) return junk();
      return { data: data.slice(begin * shape[2], end * shape[2]), shape: [1, end - begin, shape[2]] };
    },
  });
}
const loss = (logits) => {
  if (chance(0.05)) mischief();
  if (chance(0.05)) return junk();
  const gradient = array("Float32Array", logits.data.length, () => 1e-3);
  return disguised({ value: 1, gradient });
};
const fitOptions = () =>
  spoiled({
    ...signal(),
    epochs: 1 + integer(3),
    batchSize: 1 + integer(4),
    ...(chance(0.4) && { loss: chance(0.7) ? loss : pick(["softDice", { name: "focal", gamma: 1 }]) }),
    ...(chance(0.3) && { validation: samples() }),
    ...(chance(0.3) && { onProgress: () => chance(0.2) && mischief() }),
    ...(chance(0.2) && { optimizer: disguised({ name: "sgd", momentum: 0.9 }) }),
    ...(chance(0.2) && { augment: disguised({ rotation: 10, scale: disguised([0.9, 1.1]) }) }),
    ...(chance(0.2) && { headWeights: disguised([1, 1, 1, 1, 1]) }),
    ...(chance(0.1) && { run: path.join(scratch, `run${integer(3)}`), resume: chance(0.5) }),
  });

const models = [];
const pending = new Set();
/** Judges how a call ends, when it does. */
function note(call, promise) {
  if (!(promise instanceof Promise)) return;
  const settled = promise.then(
    () => pending.delete(settled),
    (error) => {
      pending.delete(settled);
      judge(error, call);
    },
  );
  pending.add(settled);
  return settled;
}
async function create() {
  const backbone = await Backbone.create(
    "plain-unet",
    spoiled({ width: 4, depth: 2, ...(chance(0.3) && { dropout: 0.3 }) }),
  );
  const options = () => spoiled({ device: "cpu", inputSize: [16, 16] });
  const make = pick([LayerEnsemble, LayerEnsemble, McDropout]);
  models.push(await make.create(backbone, options()));
  if (models.length > 6) models.shift();
}
async function endless() {
  const backbone = await Backbone.load(path.join(root, "test/fixtures/script/endless.pt"), { trust: true });
  const model = await LayerEnsemble.create(backbone, { device: "cpu", inputSize: [8, 8], taps: ["a"] });
  const data = new Float32Array(64).fill(pick([200, 2000]));
  const abort = new AbortController();
  const stuck = model.predict({ data, shape: [1, 8, 8] }, { signal: abort.signal });
  setTimeout(() => abort.abort(new Own("aborted")), integer(300));
  stuck.then(() => writeSync(1, "WRONG endless: ended\n")).catch((error) => judge(error, "endless"));
  await stuck.catch(() => {});
  if (chance(0.5)) await Promise.race([model.dispose(), sleep(100)]);
}
async function terminated() {
  const worker = new Worker(new URL(import.meta.url), { workerData: [root, integer(2 ** 31), 8], stdout: false });
  const ready = new Promise((resolve) => worker.once("message", resolve));
  worker.on("error", (error) => judge(error, "worker"));
  const done = new Promise((resolve) => worker.once("exit", resolve));
  await Promise.race([chance(0.5) ? ready : sleep(integer(400)), done]);
  await sleep(integer(200));
  await worker.terminate();
}
const raw = () => {
  const name = pick(Object.keys(addon).filter((key) => !/^(configure|saveModel|saveEnsemble|saveBackbone)$/.test(key)));
  const dataset = addon.createDataset();
  const args = Array.from({ length: integer(8) }, () =>
    chance(0.4)
      ? junk()
      : pick([dataset, addon.createControl(), image(), [image().data], [[1, 8, 8]], spoiled({ epochs: 1 }), loss]),
  );
  const result = addon[name](...args);
  result?.ready?.catch((error) => judge(error, `raw.${name}`));
  return result;
};
const heads = () =>
  disguised({ data: array("Float32Array", 3 * 2 * 64, (i) => Math.sin(i)), shape: disguised([3, 2, 8, 8]) });
const scratch = await mkdtemp(path.join(os.tmpdir(), "layer-ensembles-fuzz-"));

const ACTIONS = {
  create,
  predict: () =>
    pick(models)?.predict(chance(0.3) ? Array.from({ length: integer(5) }, () => image()) : image(), predictOptions()),
  predictRows: () => pick(models)?.predict(rows(), { ...predictOptions(), tile: [8, 8] }),
  forward: () => pick(models)?.forward(image(), spoiled({ ...signal(), ...(chance(0.1) && { passes: 2 }) })),
  fit: () => pick(models)?.fit(samples(), fitOptions()),
  probe: () => pick(models)?.backbone.probe(chance(0.8) ? [16, 16] : junk()),
  save: () => pick(models)?.save(path.join(scratch, `save${integer(3)}`)),
  load: () => LayerEnsemble.load(path.join(scratch, `save${integer(3)}`), spoiled({ device: "cpu" })),
  weights: () =>
    pick(models)?.backbone.loadWeights(
      path.join(scratch, `save${integer(3)}/weights.safetensors`),
      spoiled({ strict: false }),
    ),
  abort: () => pick(aborts)?.abort(new Own("aborted")),
  mischief: () => mischief(),
  dispose: () => pick(models)?.dispose(),
  disposeBackbone: () => pick(models)?.backbone.dispose(),
  drop: () => void models.splice(integer(models.length), 1),
  collect: () => globalThis.gc?.(),
  spin: () => spin(integer(80)),
  wait: () => sleep(integer(80)),
  configure: () => api.configure(spoiled({ threads: 1 + integer(3), allocator: pick(["pool", "pool", "system"]) })),
  raw,
  dataset: () =>
    Dataset.fromSamples(
      [sample([8, 8]), sample([8, 8])].map((one, i) => ({ ...one, id: `s${i}` })),
      spoiled({ size: [8, 8] }),
    ),
  score: () =>
    metrics.scoreHeads(heads(), spoiled({ truth: { data: array("Uint8Array", 64, (i) => i & 1), shape: [8, 8] } })),
  fuse: () => metrics.fuse(heads(), spoiled({ fusion: "mean" })),
  deep: async () => {
    const deep = await DeepEnsemble.create((own) => Backbone.create("plain-unet", { width: 4, depth: 2, seed: own }), {
      members: 2,
      device: "cpu",
      inputSize: [16, 16],
    });
    note("deep", deep.predict(image(), predictOptions()));
    note("deep", deep.members[1].predict(image(), predictOptions()));
    if (chance(0.5)) await deep.dispose();
    else models.push(deep);
  },
};
const RARE = { endless, terminated };

// The ways to end, each with its exit code.
const exitAfter = (handler) => () => {
  process.once("exit", handler);
  process.exit(7);
};
const fail = (text) => {
  throw new Own(text);
};
const ENDS = {
  natural: [0, () => {}],
  exit: [7, () => process.exit(7)],
  exitTwice: [9, exitAfter(() => process.exit(9))],
  throwingHandler: [7, exitAfter(() => fail("in exit"))],
  reallyExit: [7, () => process.reallyExit(7)],
  uncaught: [1, () => setImmediate(() => fail("uncaught"))],
  rejection: [1, () => void Promise.reject(new Own("unhandled"))],
  lateWork: [7, exitAfter(() => models.map((model) => model.predict(image()).catch(() => {})))],
};
if (isMainThread)
  process.on("unhandledRejection", (error) => {
    if (ending !== "rejection") judge(error, "unhandled");
    else throw error;
  });
const ending = isMainThread ? pick(Object.keys(ENDS)) : "natural";
const trace = process.env.LE_FUZZ_TRACE ? (text) => writeSync(2, `${text}\n`) : () => {};
if (isMainThread) writeSync(1, `end with ${ENDS[ending][0]}\n`);
await create().catch((error) => judge(error, "create"));
for (let i = 0; i < Number(calls); i++) {
  const name = isMainThread && chance(0.01) ? pick(Object.keys(RARE)) : pick(Object.keys(ACTIONS));
  trace(`${i} ${name}`);
  try {
    const result = (RARE[name] ?? ACTIONS[name])();
    const settled = note(name, result);
    if (chance(0.4) && settled) await settled;
  } catch (error) {
    judge(error, name);
  }
  if (i === 3) parentPort?.postMessage("ready");
}
const wait = chance(0.5) || ending === "natural";
trace(`ending: ${ending}, after all: ${wait}`);
if (wait) {
  await Promise.all(pending);
  await Promise.all(models.map((model) => model.dispose().catch((error) => judge(error, "dispose"))));
  await rm(scratch, { recursive: true, force: true });
}
if (isMainThread) ENDS[ending][1]();
