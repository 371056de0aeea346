// How much memory predictions by tiles take, and how long what follows the network does: each case in a process of its own, whose
// resident size (VmHWM) is read at the end. Needs a build (npm run build), and Linux.
//   node bench/tiles.mjs [volume slide restore] [--overlap X] [--json FILE]
//   volume    512×512×400, 5 classes, 5 heads, from an array: the mask
//   slide     20 000×20 000, 2 classes, read by rows: the mask
//   restore   512×512×321 brought out from 256×256×160, 25 classes, 5 heads: the mask
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { Backbone, LayerEnsemble } from "../dist/index.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { overlap: { type: "string", default: "0.25" }, json: { type: "string" }, child: { type: "boolean" } },
});
const overlap = Number(values.overlap);

const CASES = {
  volume: {
    shape: [1, 400, 512, 512],
    network: ["unet3d", { width: 4, depth: 5, classes: 5 }],
    tile: [16, 128, 128],
    maps: [],
    held: true,
  },
  slide: {
    shape: [1, 20_000, 20_000],
    network: ["plain-unet", { width: 4, depth: 5, classes: 2 }],
    tile: [320, 320],
    maps: [],
  },
  restore: {
    shape: [1, 160, 256, 256],
    network: ["unet3d", { width: 4, depth: 5, classes: 25 }],
    tile: [64, 128, 128],
    maps: [],
    outputSize: [321, 512, 512],
  },
};

/** MB, of this process. */
function resident(field) {
  return Number(new RegExp(`${field}:\\s*(\\d+) kB`).exec(readFileSync("/proc/self/status", "utf8"))[1]) / 1024;
}

/** Values of no meaning that differ from place to place. */
function fill(data, from) {
  for (let i = 0; i < data.length; i++) data[i] = (((from + i) * 2_654_435_761) % 4096) / 2048 - 1;
  return data;
}

async function measure(name) {
  const { shape, network, tile, maps, outputSize, held } = CASES[name];
  const [kind, options] = network;
  const backbone = await Backbone.create(kind, { inChannels: 1, seed: 0, ...options });
  const model = await LayerEnsemble.create(backbone, {
    classes: options.classes,
    device: "cpu",
    precision: "fp32",
    inputSize: tile,
  });
  // The last of each resolution, as those of deep supervision are.
  const heads = [...new Map(model.heads.map((head) => [head.size.join("×"), head.name])).values()].slice(-5);
  const row = shape.slice(2).reduce((a, b) => a * b, 1);
  // One piece of memory for all rows: they are copied before the next are asked for.
  const memory = new Float32Array((held ? shape[1] : Math.min(tile[0], shape[1])) * row);
  const rows = (begin, end) => ({
    data: fill(memory.subarray(0, (end - begin) * row), begin * row),
    shape: [1, end - begin, ...shape.slice(2)],
  });
  // What the network itself takes in a pass of one tile.
  const pass = rows(0, Math.min(tile[0], shape[1]));
  const cells = tile.reduce((a, b) => a * b, 1);
  await model.predict(
    { data: pass.data.slice(0, cells), shape: [1, ...tile] },
    { heads, probabilities: false, maps: [] },
  );
  const before = resident("VmHWM");
  const image = held ? rows(0, shape[1]) : { shape, rows };
  const started = performance.now();
  let last = started;
  const seconds = { tiles: 0, restore: 0 };
  // Of all threads: on a machine that does much else they tell more than the clock.
  const cpu = { tiles: 0, restore: 0 };
  let worked = process.cpuUsage();
  const onProgress = ({ stage }) => {
    const now = performance.now();
    seconds[stage] += (now - last) / 1000;
    last = now;
    const { user, system } = process.cpuUsage(worked);
    cpu[stage] += (user + system) / 1e6;
    worked = process.cpuUsage();
  };
  const result = await model.predict(image, {
    ...{ tile, overlap, maps, heads, onProgress, ...(outputSize && { outputSize }) },
    probabilities: false,
  });
  return {
    case: name,
    image: shape.slice(1).join("×"),
    output: result.mask.shape.join("×"),
    classes: options.classes,
    heads: result.heads.length,
    tile: tile.join("×"),
    overlap,
    residentOnePass: Math.round(before),
    residentPeak: Math.round(resident("VmHWM")),
    secondsTiles: Number(seconds.tiles.toFixed(1)),
    secondsRestore: Number(seconds.restore.toFixed(1)),
    cpuSecondsTiles: Number(cpu.tiles.toFixed(1)),
    cpuSecondsRestore: Number(cpu.restore.toFixed(1)),
  };
}

if (values.child) {
  console.log(JSON.stringify(await measure(positionals[0])));
} else {
  const rows = [];
  for (const name of positionals.length > 0 ? positionals : Object.keys(CASES)) {
    const args = [fileURLToPath(import.meta.url), "--child", "--overlap", values.overlap, name];
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
    let text = "";
    for await (const part of child.stdout) text += part;
    rows.push(JSON.parse(text));
    console.log(text.trim());
  }
  if (values.json) writeFileSync(values.json, `${JSON.stringify(rows, null, 2)}\n`);
}
