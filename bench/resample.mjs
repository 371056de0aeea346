// Resampling of volumes: the native kernels, the definitions in TypeScript, and SciPy's zoom, in interleaved rounds.
//   node bench/resample.mjs [--rounds N] [--from D,H,W] [--to D,H,W] [--json FILE]
// The peer is peers/resample.py under LAYER_ENSEMBLES_PYTHON, PYTHON or python3; it is left out where that has no NumPy and SciPy.
// Needs a build (npm run build). See README.md.
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { resample, resampleLabels } from "../dist/grid/index.js";
import { resampling, resamplingLabels } from "../dist/grid/resample.js";
import { aside } from "../dist/grid/stretching.js";
import { loadAddon } from "../dist/native/load.js";
import { Contender, machine, median, ratio, table, times } from "./harness.mjs";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "5" },
    from: { type: "string", default: "120,256,256" },
    to: { type: "string", default: "90,200,200" },
    json: { type: "string" },
  },
});
const sizes = (text) => text.split(",").map(Number);
const [from, to, rounds] = [sizes(values.from), sizes(values.to), Number(values.rounds)];

const [depth, height, width] = from;
const data = Float32Array.from({ length: depth * height * width }, (_, i) => {
  const [x, y, z] = [i % width, Math.floor(i / width) % height, Math.floor(i / (width * height))];
  return 80 * Math.sin(x / 9) * Math.cos(y / 7) * Math.sin(z / 5) + ((i * 2_654_435_761) % 97) / 10;
});
const grid = {
  shape: from,
  affine: [
    [1, 0, 0, 0],
    [0, 1, 0, 0],
    [0, 0, 1, 0],
    [0, 0, 0, 1],
  ],
};
const volume = { data, shape: from, grid };
const labels = { ...volume, data: Uint8Array.from(data, (value) => Math.min(4, Math.max(0, value * 0.02 + 2))) };
const same = (order) => [order, order, order];
const CASES = [
  ...["cubic", "linear", "nearest"].map((order, i) => ({
    name: order,
    native: () => aside(resampling(volume, { shape: to, order: same(order) })),
    defined: () => resample(volume, { shape: to, order: same(order) }),
    command: { do: "run", to, order: [3, 1, 0][i] },
  })),
  {
    name: "labels, 5 classes",
    native: () => aside(resamplingLabels(labels, { shape: to })),
    defined: () => resampleLabels(labels, { shape: to }),
    command: { do: "labels", to },
  },
];

async function measured(work) {
  const [start, cpu] = [performance.now(), process.cpuUsage()];
  const { data: out } = await work();
  const { user, system } = process.cpuUsage(cpu);
  return { ms: performance.now() - start, cpu: (user + system) / 1000, out };
}

function peer() {
  const python = process.env.LAYER_ENSEMBLES_PYTHON || process.env.PYTHON || "python3";
  if (spawnSync(python, ["-c", "import numpy, scipy"]).status !== 0) return null;
  const script = path.join(path.dirname(fileURLToPath(import.meta.url)), "peers", "resample.py");
  return new Contender("SciPy", [python, script]);
}

/** Both must have done the same work. */
function compare(name, out, { picked }) {
  const step = Math.max(1, Math.floor(out.length / 1000));
  const largest = Math.max(...picked.map(Math.abs));
  const off = picked.filter((value, i) => Math.abs(value - out[i * step]) > 1e-5 * largest).length;
  // A share of exactly a half, and a voxel that is as near as another, may go either way.
  if (off > (name === "cubic" || name === "linear" ? 0 : picked.length / 20))
    throw new Error(`${name}: ${off} of ${picked.length} values differ from SciPy's`);
}

await loadAddon();
const scipy = peer();
const folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-bench-"));
try {
  let version;
  if (scipy) {
    const file = path.join(folder, "volume.bin");
    writeFileSync(file, data);
    version = (await scipy.ask({ do: "load", file, shape: from })).scipy;
  }
  const rows = [];
  for (const { name, native, defined, command } of CASES) {
    const cells = { native: [], defined: [], scipy: [] };
    for (let round = -1; round < rounds; round++) {
      const own = await measured(native);
      const slow = await measured(async () => defined());
      const other = await scipy?.ask(command);
      if (Buffer.compare(Buffer.from(own.out.buffer), Buffer.from(slow.out.buffer)) !== 0)
        throw new Error(`${name}: the kernel and the definition differ`);
      if (other) compare(name, own.out, other);
      if (round < 0) continue; // the first compiles, and fills the memory's pool
      cells.native.push(own);
      cells.defined.push(slow);
      if (other) cells.scipy.push(other);
    }
    const of = (cell, what) => ({ times: cell.map((one) => one[what]) });
    rows.push({
      name,
      ...Object.fromEntries(
        Object.entries(cells).flatMap(([title, cell]) =>
          cell.length === 0
            ? []
            : [
                [`${title}Ms`, median(of(cell, "ms").times)],
                [`${title}CpuMs`, median(of(cell, "cpu").times)],
              ],
        ),
      ),
      definedOverNative: ratio(of(cells.defined, "cpu"), of(cells.native, "cpu")),
      scipyOverNative: scipy ? ratio(of(cells.scipy, "cpu"), of(cells.native, "cpu")) : null,
    });
  }
  const { cpu, cores, node } = machine();
  console.log(
    `${cpu}, ${cores} cores, load ${os.loadavg()[0].toFixed(1)}; Node ${node}${scipy ? `, SciPy ${version}` : ""}; ${from.join("×")} to ${to.join("×")}, float32`,
  );
  const ms = (value) => (value === undefined ? "" : value.toFixed(0));
  console.log(
    table([
      ["", "native ms", "native CPU ms", "definition CPU ms", "SciPy CPU ms", "definition / native", "SciPy / native"],
      ...rows.map((row) => [
        row.name,
        ms(row.nativeMs),
        ms(row.nativeCpuMs),
        ms(row.definedCpuMs),
        ms(row.scipyCpuMs),
        times(row.definedOverNative, 1),
        times(row.scipyOverNative, 1),
      ]),
    ]),
  );
  if (values.json) writeFileSync(values.json, `${JSON.stringify({ from, to, machine: machine(), rows }, null, 2)}\n`);
} finally {
  scipy?.close();
  rmSync(folder, { recursive: true, force: true });
}
