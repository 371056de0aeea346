// What layer ensembles cost beside the plain network, here and in tuned PyTorch, in interleaved rounds of one run.
//   npm run bench -- [--rounds N] [--quick] [--size N] [--batch N] [--threads N] [--only inference,training,switches]
//                    [--classes 2,4] [--device cpu|cuda] [--no-peers] [--json FILE]
// See bench/README.md for what is measured.
import { writeFileSync } from "node:fs";
import os from "node:os";
import { parseArgs } from "node:util";
import { machine, milliseconds, ours, pytorch, ratio, runRounds, table, times } from "./harness.mjs";

/** LE / plain, by kind of work and number of classes: what this package aims at, at 256×256 and batch 5 on a CPU. */
const AIMS = { inference: { 2: 1.15, 4: 1.25 }, training: { 2: 1.2, 4: 1.2 } };
const WORKS = ["inference", "training", "switches"];

const { values } = parseArgs({
  options: {
    rounds: { type: "string" },
    quick: { type: "boolean", default: false },
    size: { type: "string" },
    batch: { type: "string", default: "5" },
    threads: { type: "string", default: String(os.availableParallelism()) },
    only: { type: "string", default: WORKS.join(",") },
    classes: { type: "string", default: "2,4" },
    device: { type: "string", default: "cpu" },
    "no-peers": { type: "boolean", default: false },
    json: { type: "string" },
  },
});

const options = {
  rounds: positive("rounds", values.rounds ?? (values.quick ? 3 : 11)),
  size: positive("size", values.size ?? (values.quick ? 128 : 256)),
  batch: positive("batch", values.batch),
  threads: positive("threads", values.threads),
  steps: values.quick ? 2 : 6,
  works: values.only.split(","),
  classes: values.classes.split(",").map((text) => positive("classes", text)),
  device: values.device,
};
for (const work of options.works) if (!WORKS.includes(work)) stop(`one of ${WORKS.join(", ")} for --only`, work);

const report = await measure(options);
print(report);
if (values.json) writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`);

async function measure(options) {
  const { rounds, size, batch, threads, steps, works, classes, device } = options;
  const setup = { do: "setup", threads, device };
  const own = ours();
  const peer = values["no-peers"] ? null : pytorch();
  const contenders = [own, ...(peer ? [peer] : [])];
  const info = {};
  for (const contender of contenders) info[contender.title] = (await contender.ask(setup)).info;

  const cells = [];
  let taps;
  const add = async (contender, cell, made = {}) => {
    const { work, classes, network, maps = network === "LE", tapStatistics, ...rest } = cell;
    const name = JSON.stringify([work === "training", classes, network, made]);
    const answer = await contender.ask({
      do: "make",
      name,
      ...{ classes, size, batch, ...made },
      ...(contender === peer ? { taps: network === "LE" ? taps : [] } : { heads: network === "LE" ? "auto" : "plain" }),
    });
    if (network === "LE") taps = answer.taps ?? taps;
    const command = work === "training" ? { do: "train", name, steps } : { do: "predict", name, maps, tapStatistics };
    const precision = answer.precision;
    cells.push({ contender, command, by: contender.title, work, classes, network, precision, ...rest });
  };
  for (const work of works.filter((work) => work !== "switches"))
    for (const count of classes)
      for (const contender of contenders)
        for (const network of ["plain", "LE"]) await add(contender, { work, classes: count, network });
  if (works.includes("switches")) {
    const cell = { work: "switches", classes: classes[0], network: "LE" };
    await add(own, { ...cell, variant: "all defaults" });
    await add(own, { ...cell, variant: "without maps", maps: false });
    await add(own, { ...cell, variant: "with statistics of the taps", tapStatistics: true });
    for (const learned of ["softDiceConfidence", "features"])
      await add(own, { ...cell, variant: `with shift and predicted Dice by ${learned}` }, { learned });
    await add(own, { ...cell, variant: "precision fp32" }, { precision: "fp32" });
    await add(own, { ...cell, variant: "channelsLast off" }, { channelsLast: false });
    const system = ours("layer-ensembles, allocator system");
    contenders.push(system);
    await system.ask({ ...setup, allocator: "system" });
    await add(system, { ...cell, variant: "allocator system" });
  }

  await runRounds(cells, rounds, (round) => process.stderr.write(`\rround ${round + 1} of ${rounds} `));
  process.stderr.write("\n");
  for (const contender of contenders) contender.close();
  return {
    ...{ date: new Date().toISOString(), machine: machine(), contenders: info, taps },
    ...{ options, loadAverage: os.loadavg(), peer: Boolean(peer) },
    results: cells.map(({ contender, command, ...cell }) => ({
      ...cell,
      ratio: ratio(cell, base(cells, cell)),
      aim: aim(cell, options),
    })),
    againstPeer: cells
      .filter((cell) => peer && cell.by === own.title && cell.work !== "switches")
      .map(({ work, classes, network, times }) => {
        const other = cells.find(
          (cell) =>
            cell.by === peer.title && cell.work === work && cell.classes === classes && cell.network === network,
        );
        return { work, classes, network, ratio: ratio({ times }, other) };
      }),
  };
}

/** What a cell is compared with: the plain network, or the default switches. */
function base(cells, { work, by, classes, variant }) {
  if (variant) return cells.find((cell) => cell.variant === "all defaults");
  return cells.find(
    (cell) => cell.work === work && cell.by === by && cell.classes === classes && cell.network === "plain",
  );
}

function aim({ work, by, classes, network }, { size, batch, device }) {
  const stated = by === "layer-ensembles" && network === "LE" && size === 256 && batch === 5 && device === "cpu";
  return (stated && AIMS[work]?.[classes]) || null;
}

function print({ machine, contenders, options, loadAverage, peer, results, againstPeer, taps }) {
  const { size, batch, threads, rounds, steps, device } = options;
  const precision = [
    ...new Set(results.filter(({ variant }) => !variant?.includes("fp32")).map((cell) => cell.precision)),
  ];
  console.log(`${machine.cpu}, ${machine.cores} cores, load ${loadAverage[0].toFixed(1)}; Node ${machine.node}, libtorch ${
    contenders["layer-ensembles"].libtorch
  }${peer ? `, Python's torch ${contenders["PyTorch, tuned"].torch}` : ""}
U-Net (ResNet-18), ${size}×${size}, batch ${batch}, ${device}, ${threads} threads, ${precision.join("/")}; LE: ${
    (taps?.length ?? 0) + 1
  } heads, six maps and AULA
Medians of ${rounds} interleaved rounds; ratios are medians of the ratios within a round.`);
  if (!peer) console.log("No Python with torch was found (PYTHON, python3): the rows of PyTorch are left out.");

  const rows = [["", "plain ms", "LE ms", "LE / plain", "quartiles", "aim", "plain vs PyTorch", "LE vs PyTorch"]];
  const find = (query) => (list) => list.find((one) => Object.keys(query).every((key) => one[key] === query[key]));
  for (const { work, classes, by, times: ms, ratio, aim } of results.filter(
    (cell) => cell.network === "LE" && !cell.variant,
  )) {
    const versus = (network) => times(by === "layer-ensembles" && find({ work, classes, network })(againstPeer)?.ratio);
    rows.push([
      `${work}${work === "training" ? " step" : ""}, C = ${classes}, ${by}`,
      milliseconds(find({ work, classes, by, network: "plain" })(results)),
      milliseconds({ times: ms }),
      times(ratio),
      ratio.quartiles.map((value) => value.toFixed(2)).join("–"),
      aim ? `≤ ${aim.toFixed(2)} ${ratio.median <= aim ? "✓" : "✗"}` : "",
      versus("plain"),
      versus("LE"),
    ]);
  }
  if (rows.length > 1) console.log(`\n${table(rows)}`);
  if (options.works.includes("training")) console.log(`A step: mean of ${steps}.`);

  const variants = results.filter((cell) => cell.variant);
  if (variants.length === 0) return;
  const least = (list) => Math.min(...list);
  const [defaults] = variants;
  const body = variants.map(({ variant, times: ms, cpu, ratio: byClock }) => [
    ...[variant, milliseconds({ times: ms }), times(byClock)],
    ...[milliseconds({ times: cpu }), times(ratio({ times: cpu }, { times: defaults.cpu }), 3)],
    ...[least(cpu).toFixed(1), `${(least(cpu) / least(defaults.cpu)).toFixed(3)}×`],
  ]);
  const head = [
    `LE inference, C = ${defaults.classes}`,
    "ms",
    "/ defaults",
    "CPU ms",
    "/ defaults",
    "least CPU ms",
    "/ defaults",
  ];
  console.log(`\n${table([head, ...body])}`);
}

function positive(name, text) {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) stop(`a positive integer for --${name}`, text);
  return value;
}

function stop(expected, received) {
  process.stderr.write(`Expected ${expected} but received ${received}.\n`);
  process.exit(2);
}
