// What a network costs as a file beside the same network of this package's zoo, and beside eager Python with forward hooks,
// in interleaved rounds of one run.
//   python scripts/models/make_unet_files.py FOLDER
//   PYTHON=… node bench/imported.mjs --files FOLDER [--rounds N] [--size N] [--batches 5,1] [--precisions fp32,bf16]
//                                    [--only inference,training] [--threads N] [--no-peers] [--json FILE]
// A U-Net (ResNet-18) with equal weights, tapped at the same layers. See bench/README.md.
import { existsSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { machine, milliseconds, ours, pytorch, ratio, runRounds, table, times } from "./harness.mjs";

const { values } = parseArgs({
  options: {
    files: { type: "string" },
    rounds: { type: "string", default: "9" },
    size: { type: "string", default: "256" },
    batches: { type: "string", default: "5,1" },
    precisions: { type: "string", default: "fp32,bf16" },
    only: { type: "string", default: "inference" },
    classes: { type: "string", default: "2" },
    threads: { type: "string", default: String(os.availableParallelism()) },
    device: { type: "string", default: "cpu" },
    "no-peers": { type: "boolean", default: false },
    json: { type: "string" },
  },
});
if (!values.files || !existsSync(path.join(values.files, "unet.safetensors"))) {
  process.stderr.write("Expected --files <folder that scripts/models/make_unet_files.py wrote>.\n");
  process.exit(2);
}

const weights = path.resolve(values.files, "unet.safetensors");
const forms = [
  { form: "zoo", weights },
  { form: "TorchScript, scripted", file: "unet.script.pt" },
  { form: "TorchScript, traced", file: "unet.trace.pt" },
  { form: "torch.export", file: "unet.pt2" },
].map(({ file, ...rest }) => ({ ...rest, ...(file && { file: path.resolve(values.files, file) }) }));

const [size, classes, rounds] = [values.size, values.classes, values.rounds].map(Number);
const { device } = values;
const own = ours();
const peer = values["no-peers"] ? null : pytorch(undefined, "imported.py");
const contenders = [own, ...(peer ? [peer] : [])];
for (const contender of contenders) await contender.ask({ do: "setup", threads: Number(values.threads), device });

const cells = [];
for (const work of values.only.split(","))
  for (const precision of values.precisions.split(","))
    for (const batch of values.batches.split(",").map(Number)) {
      const facts = { classes, size, batch, precision };
      const at = { work, precision, batch };
      let taps = "auto"; // the zoo's, then the same for all
      for (const { form, ...source } of forms) {
        const name = JSON.stringify([at, form]);
        ({ taps } = await own.ask({ do: "make", name, ...facts, ...source, heads: taps }));
        cells.push({ contender: own, command: commandOf(work, { name, maps: false }), ...at, form, taps });
      }
      if (!peer) continue;
      const name = JSON.stringify(at);
      await peer.ask({ do: "make", name, ...facts, weights, taps });
      const eager = { contender: peer, ...at, taps };
      cells.push({ ...eager, command: commandOf(work, { name, heads: true }), form: "Python, eager, hooks and heads" });
      if (work === "inference")
        cells.push({ ...eager, command: commandOf(work, { name, heads: false }), form: "Python, eager, hooks alone" });
    }

await runRounds(cells, rounds, (round) => process.stderr.write(`\rround ${round + 1} of ${rounds} `));
process.stderr.write("\n");
for (const contender of contenders) contender.close();

const find = (cell, form) =>
  cells.find((other) => other.form === form && ["work", "precision", "batch"].every((key) => other[key] === cell[key]));
const results = cells.map(({ contender, command, ...cell }) => ({
  ...cell,
  toZoo: ratio(cell, find(cell, "zoo")),
  toPython: ratio(cell, find(cell, "Python, eager, hooks and heads")),
}));
const report = { date: new Date().toISOString(), machine: machine(), size, rounds, loadAverage: os.loadavg(), results };
if (values.json) writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`);

const { cpu, cores } = report.machine;
console.log(`${cpu}, ${cores} cores, load ${report.loadAverage[0].toFixed(1)}; ${values.threads} threads, ${device}
U-Net (ResNet-18), ${size}×${size}, C = ${classes}, ${(cells[0]?.taps.length ?? 0) + 1} heads, fused probabilities, no maps.
Medians of ${rounds} interleaved rounds; ratios are medians of the ratios within a round.`);
const rows = results.map((cell) => [
  `${cell.work}, ${cell.precision}, batch ${cell.batch}: ${cell.form}`,
  milliseconds(cell),
  times(cell.toZoo),
  times(cell.toPython),
]);
console.log(`\n${table([["", "ms", "/ zoo", "/ Python with heads"], ...rows])}`);

/** One command of the worker's. */
function commandOf(work, rest) {
  return work === "training" ? { do: "train", steps: 4, ...rest } : { do: "predict", ...rest };
}
