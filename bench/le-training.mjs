// What decides the Dice of Layer Ensembles beside that of the plain network of the same seed: one training for each cell of
// data set × variant × epochs × seed, and a table of paired differences.
//   node bench/le-training.mjs train --data DIR --out DIR [--sets busi,acdc] [--variants plain,le] [--epochs 14] [--seeds 0,1,2]
//   node bench/le-training.mjs table --out DIR [--csv FILE]
// A cell that is there is not trained again; several processes share the cells that are missing.
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { Backbone, configure, Dataset, LayerEnsemble, MultiHead, Plain } from "../dist/index.js";
import { argmax, aurc, dice, fuse, nll, softDiceConfidence, softmax } from "../dist/metrics/index.js";
import { studentP } from "../dist/statistics/student.js";
import { SubsetScorer } from "../dist/tuning/subsets.js";

// Folders below --data; see docs/results.md for how they are thinned.
const small = ["plain-unet", {}];
const busi = { folder: "busi", classes: 2, backbone: ["unet", {}], fit: {} };
const acdc = { folder: "acdc4", classes: 4, backbone: ["unet", {}], fit: {} };
const hippocampus = { folder: "hippocampus3d", classes: 3, backbone: ["unet3d", { width: 8 }], fit: { batchSize: 4 } };
const SETS = {
  "hippocampus-tiny": { ...hippocampus, backbone: ["unet3d", { width: 8, depth: 3 }], size: [16, 16, 24] },
  "busi-tiny": { ...busi, backbone: ["plain-unet", { width: 8 }], size: [48, 48] },
  "acdc-tiny": { ...acdc, backbone: ["plain-unet", { width: 8 }], size: [48, 48] },
  "busi-small": { ...busi, backbone: small, size: [64, 64] },
  "acdc-small": { ...acdc, backbone: small, size: [64, 64] },
  "hippocampus-small": { ...hippocampus, size: [24, 24, 36] },
  busi64: { ...busi, size: [64, 64] },
  busi: { ...busi, size: [96, 96] },
  acdc: { ...acdc, size: [64, 64] },
  hippocampus: { ...hippocampus, size: [32, 32, 48] },
};

// Variants that do not say otherwise have the gradient of every head whole, whatever the default.
const whole = (fit) =>
  typeof fit === "function" ? (heads) => ({ headGradient: 1, ...fit(heads) }) : { headGradient: 1, ...fit };
const le = (fit = {}) => ({ method: LayerEnsemble, fit: whole(fit) });
const mh = (fit = {}) => ({ method: MultiHead, fit: whole(fit) });
const rising = (power) => (heads) => Array.from({ length: heads }, (_, k) => ((k + 1) / heads) ** power);

// `fit` may be a function of the number of heads.
const VARIANTS = {
  plain: { method: Plain, fit: {} },
  le: le(),
  "le-gradient-0.3": le({ headGradient: 0.3 }),
  "le-gradient-0.1": le({ headGradient: 0.1 }),
  "le-gradient-0": le({ headGradient: 0 }),
  "le-rising": le((heads) => ({ headWeights: rising(1)(heads) })),
  "le-rising-3": le((heads) => ({ headWeights: rising(3)(heads) })),
  "le-mean": le((heads) => ({ headWeights: Array(heads).fill(1 / heads) })),
  "le-unclipped": le({ clipNorm: 0 }),
  "plain-clipped-0.1": { method: Plain, fit: { clipNorm: 0.1 } },
  "plain-fast": { method: Plain, fit: { learningRate: 3e-3 } },
  "le-fast": le({ learningRate: 3e-3 }),
  "le-gradient-0.1-fast": le({ headGradient: 0.1, learningRate: 3e-3 }),
  "mh-fast": mh({ learningRate: 3e-3 }),
  "plain-unclipped": { method: Plain, fit: { clipNorm: 0 } },
  mh: mh(),
  "mh-mean": mh((heads) => ({ headWeights: Array(heads).fill(1 / heads) })),
  "mh-gradient-0.1": mh({ headGradient: 0.1 }),
  "mh-gradient-0": mh({ headGradient: 0 }),
  "mh-slow": mh({ learningRate: 3e-4 }),
  "mh-unclipped": mh({ clipNorm: 0 }),
};

const { positionals, values: flags } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: "string" },
    out: { type: "string" },
    sets: { type: "string", default: Object.keys(SETS).join() },
    variants: { type: "string", default: "plain,le" },
    epochs: { type: "string", default: "14" },
    seeds: { type: "string", default: "0,1,2,3,4" },
    precision: { type: "string", default: "bf16" },
    csv: { type: "string" },
  },
});
const numbers = (text) => text.split(",").map(Number);
const rounded = (x) => (typeof x === "number" && Number.isFinite(x) ? Number(x.toFixed(5)) : null);

async function train() {
  const cells = path.join(flags.out, "cells");
  mkdirSync(cells, { recursive: true });
  configure({ threads: 1 });
  for (const epochs of numbers(flags.epochs))
    for (const seed of numbers(flags.seeds))
      for (const set of flags.sets.split(","))
        for (const variant of flags.variants.split(",")) {
          const file = path.join(cells, `${set}.${variant}.${epochs}.${seed}.json`);
          if (existsSync(file) || !claim(`${file}.claim`)) continue;
          try {
            const cell = await trainCell(set, variant, epochs, seed);
            writeFileSync(`${file}.part`, JSON.stringify(cell));
            renameSync(`${file}.part`, file);
            console.log(
              `${path.basename(file)}: ${Math.round(cell.seconds)} s, Dice ${mean(cell.test.map(last)).toFixed(4)}`,
            );
          } finally {
            rmSync(`${file}.claim`, { force: true });
          }
        }
}

/** Whether this process is the one to do what the file stands for. A claim of a process that is gone does not count. */
function claim(file) {
  try {
    const handle = openSync(file, "wx");
    writeFileSync(handle, String(process.pid));
    closeSync(handle);
    return true;
  } catch {
    const owner = Number(existsSync(file) ? readFileSync(file, "utf8") : 0);
    if (owner === 0 || existsSync(`/proc/${owner}`)) return false;
    rmSync(file, { force: true });
    return claim(file);
  }
}

const loaded = new Map();
async function samplesOf(set) {
  if (!loaded.has(set)) {
    const { folder, classes, size } = SETS[set];
    const data = await Dataset.fromFolder(path.join(flags.data, folder), { classes, size });
    const splits = {};
    for (const name of ["train", "val", "test"]) {
      splits[name] = [];
      for await (const sample of data.split(name)) splits[name].push(sample);
    }
    loaded.set(set, splits);
  }
  return loaded.get(set);
}

async function trainCell(set, variant, epochs, seed) {
  const {
    classes,
    size,
    backbone: [kind, options],
    fit: common,
  } = SETS[set];
  const { method, fit } = VARIANTS[variant];
  const data = await samplesOf(set);
  const start = performance.now();
  const backbone = await Backbone.create(kind, { ...options, classes, seed });
  const model = await method.create(backbone, {
    classes,
    seed,
    inputSize: size,
    device: "cpu",
    precision: flags.precision,
  });
  const own = typeof fit === "function" ? fit(model.heads.length) : fit;
  const history = await model.fit(data.train, { epochs, seed, validation: data.val, ...common, ...own });
  const seconds = (performance.now() - start) / 1000;
  const kept = history.epochs[history.best.epoch];
  const cell = {
    set,
    variant,
    epochs,
    seed,
    seconds,
    heads: model.headNames,
    best: history.best.epoch,
    losses: kept.losses,
    validation: kept.validation.heads,
    val: await scores(model, data.val, method !== LayerEnsemble),
    test: await scores(model, data.test, false),
  };
  if (kind !== "unet") await model.save(path.join(flags.out, "runs", `${set}.${variant}.${epochs}.${seed}`));
  await model.dispose();
  await backbone.dispose();
  return cell;
}

/**
 * Of each image: Dice, nll and AULA of the fused mean without its first T heads, T = 0..K-3; each head's own Dice; nll and soft
 * Dice confidence of the last head.
 */
async function scores(model, samples, ties) {
  const all = [];
  for (const { id, group, image, mask } of samples) {
    const logits = [...(await model.forward({ data: image.data, shape: image.shape })).values()];
    const heads = logits.map(({ data, shape }) => ({ data, shape: shape.slice(1) }));
    const classes = heads[0].shape[0];
    const options = { fusion: "mean", ignoreIndex: 255, trust: true };
    const fused = heads.length < 3 ? [] : new SubsetScorer("heads", heads, mask, options).suffixes();
    const probabilities = softmax(heads.at(-1));
    const doubling = fuse(heads, { trust: true, weights: heads.map((_, k) => 2 ** k) });
    const diceOf = (map) => rounded(mean(Object.values(dice(argmax(map), mask, { classes, ignoreIndex: 255 }))));
    all.push({
      ...{ id, group },
      ...Object.fromEntries(["dice", "nll", "aula"].map((name) => [name, fused.map((score) => rounded(score[name]))])),
      heads: heads.map(diceOf),
      doubling: { dice: diceOf(doubling), nll: rounded(nll(doubling, mask, { ignoreIndex: 255 })) },
      lastNll: rounded(nll(probabilities, mask, { ignoreIndex: 255 })),
      ...(ties && { same: rounded(largestTie(heads)) }),
      lastConfidence: rounded(softDiceConfidence(probabilities).overall),
    });
  }
  return all;
}

/** Share of the pixels that have the same logits in every head: where no feature is above zero, the biases. */
function largestTie(heads) {
  const [classes, ...sides] = heads[0].shape;
  const pixels = sides.reduce((product, side) => product * side, 1);
  const times = new Map();
  for (let i = 0; i < pixels; i++) {
    const logits = heads.map(({ data }) => Array.from({ length: classes }, (_, c) => data[c * pixels + i])).join();
    times.set(logits, (times.get(logits) ?? 0) + 1);
  }
  return Math.max(...times.values()) / pixels;
}

const last = ({ heads }) => heads.at(-1);
const mean = (xs) => xs.reduce((sum, x) => sum + x, 0) / xs.length;

function table() {
  const folder = path.join(flags.out, "cells");
  const cells = readdirSync(folder)
    .filter((name) => name.endsWith(".json"))
    .map((name) => JSON.parse(readFileSync(path.join(folder, name), "utf8")));
  const of = (set, variant, epochs, seed) =>
    cells.find((cell) => cell.set === set && cell.variant === variant && cell.epochs === epochs && cell.seed === seed);
  const rows = [];
  for (const set of Object.keys(SETS))
    for (const epochs of [...new Set(cells.map((cell) => cell.epochs))].sort((a, b) => a - b))
      for (const variant of Object.keys(VARIANTS)) {
        const all = cells.filter((cell) => cell.set === set && cell.variant === variant && cell.epochs === epochs);
        for (const [how, pick] of Object.entries(PREDICTIONS)) {
          if (all[0]?.heads.length < 3 && how !== "last") continue;
          const own = all.filter((cell) => Number.isFinite(mean(pick(cell).dice)));
          if (own.length === 0) continue;
          const pairs = own.map((cell) => [cell, of(set, "plain", epochs, cell.seed)]).filter(([, plain]) => plain);
          const minus = pairs.map(([cell, plain]) => mean(pick(cell).dice) - mean(PREDICTIONS.last(plain).dice));
          rows.push({
            set,
            epochs,
            variant,
            prediction: how,
            seeds: own.length,
            dice: mean(own.map((cell) => mean(pick(cell).dice))),
            minus: minus.length > 0 && variant !== "plain" ? mean(minus) : null,
            half: minus.length > 1 && variant !== "plain" ? tHalf(minus) : null,
            val: mean(own.map((cell) => mean(pick(cell, "val").dice))),
            nll: mean(own.map((cell) => mean(pick(cell).nll))),
            aurc: meanAurc(own, pick),
            skip: own.map((cell) => pick(cell).skip).join(" "),
          });
        }
      }
  const f = (x, digits = 4) => (x === null || x === undefined || Number.isNaN(x) ? "" : x.toFixed(digits));
  console.log(
    "| set | epochs | variant | prediction | seeds | Dice | minus Plain | val Dice | nll | AURC | T |\n|---|---|---|---|---|---|---|---|---|---|---|",
  );
  for (const r of rows)
    console.log(
      `| ${r.set} | ${r.epochs} | ${r.variant} | ${r.prediction} | ${r.seeds} | ${f(r.dice)} | ${r.minus === null ? "" : `${r.minus > 0 ? "+" : ""}${f(r.minus)} ± ${f(r.half)}`} | ${f(r.val)} | ${f(r.nll)} | ${f(r.aurc, 3)} | ${r.skip} |`,
    );
  if (flags.csv) {
    const names = Object.keys(rows[0]);
    writeFileSync(
      flags.csv,
      [names.join(), ...rows.map((row) => names.map((name) => row[name] ?? "").join())].join("\n"),
    );
  }
}

function at(cell, split, skip) {
  const column = (name) => cell[split].map((image) => image[name][skip]);
  return { skip, dice: column("dice"), nll: column("nll"), aula: column("aula") };
}

/** By the rule of `tune`, on validation: the best `by` among those within 0.005 of the best Dice, three heads at least. */
function chosen(cell, better) {
  const skips = Array.from({ length: cell.heads.length - 2 }, (_, skip) => skip);
  const points = skips.map((skip) => at(cell, "val", skip));
  const best = Math.max(...points.map(({ dice }) => mean(dice)));
  const good = points.filter(({ dice }) => mean(dice) >= best - 0.005);
  return good.reduce((a, b) => (better(b) < better(a) ? b : a)).skip;
}

const PREDICTIONS = {
  mean: (cell, split = "test") => at(cell, split, 0),
  "T by nll": (cell, split = "test") =>
    at(
      cell,
      split,
      chosen(cell, ({ nll }) => mean(nll)),
    ),
  "T by Dice": (cell, split = "test") =>
    at(
      cell,
      split,
      chosen(cell, ({ dice }) => -mean(dice)),
    ),
  "T by AURC": (cell, split = "test") =>
    at(
      cell,
      split,
      chosen(cell, ({ aula, dice }) =>
        aurc(
          aula.map((x) => x ?? 1),
          dice.map((d) => 1 - d),
        ),
      ),
    ),
  "T = K - 3": (cell, split = "test") => at(cell, split, cell.heads.length - 3),
  "each head twice the one before": (cell, split = "test") => ({
    skip: 0,
    dice: cell[split].map(({ doubling }) => doubling?.dice),
    nll: cell[split].map(({ doubling }) => doubling?.nll),
    confidence: cell[split].map(({ aula }) => aula[0]),
  }),
  last: (cell, split = "test") => ({
    skip: cell.heads.length - 1,
    dice: cell[split].map(last),
    nll: cell[split].map(({ lastNll }) => lastNll),
    confidence: cell[split].map(({ lastConfidence }) => lastConfidence),
  }),
};

/** Of AULA; of the last head's soft Dice confidence where it is alone. */
function meanAurc(cells, pick) {
  const each = cells.map((cell) => {
    const { dice, aula, confidence = aula } = pick(cell);
    return aurc(
      confidence.map((x) => x ?? 1),
      dice.map((d) => 1 - d),
    );
  });
  return mean(each);
}

/** Half of the 95 % interval of the mean, by Student's t. */
function tHalf(xs) {
  const n = xs.length;
  const m = mean(xs);
  const error = Math.sqrt(xs.reduce((sum, x) => sum + (x - m) ** 2, 0) / (n - 1) / n);
  let [low, high] = [0, 1000];
  for (let i = 0; i < 60; i++) {
    const t = (low + high) / 2;
    if (studentP(t, n - 1) > 0.05) low = t;
    else high = t;
  }
  return high * error;
}

const commands = { train, table };
const command = commands[positionals[0]];
if (!command || !flags.out || (positionals[0] === "train" && !flags.data)) {
  console.error("Expected train --data DIR --out DIR, or table --out DIR.");
  process.exit(2);
}
await command();
