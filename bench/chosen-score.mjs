// Is the score that `tune` chooses worse than the soft Dice confidence of the last head, and where does AULA win? AURC on the test images of
// studies of Layer Ensembles, one line for each set: the mean over the seeds, and paired differences with 95 % intervals.
//   node bench/chosen-score.mjs busi=busi-study acdc=acdc-study [--resamples 2000] [--seed 0] [--json FILE]
// A folder is the `out` of `layer-ensembles study`. Needs a build (npm run build).
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { SCORES } from "../dist/index.js";
import { aurc, eaurc } from "../dist/metrics/index.js";
import { draw, interval, sorted, unitsOf, weightedFailures } from "../dist/study/resampling.js";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    resamples: { type: "string", default: "2000" },
    seed: { type: "string", default: "0" },
    json: { type: "string" },
  },
});
const BAR = "softDiceConfidence.final";
if (positionals.length === 0) usage("NAME=FOLDER", "nothing");
const results = positionals.map((text) => {
  const at = text.indexOf("=");
  return at > 0 ? measure(text.slice(0, at), text.slice(at + 1)) : usage("NAME=FOLDER", text);
});
process.stdout.write(tableOf(results));
if (values.json) writeFileSync(values.json, `${JSON.stringify(results, null, 2)}\n`);

function measure(set, folder) {
  const comparison = path.join(folder, "comparison");
  const runs = read(path.join(comparison, "results.json")).runs.filter(({ method }) => method === "le");
  if (runs.length === 0) usage("Layer Ensembles in", folder);
  const { images } = runs[0];
  const units = unitsOf(
    images.map(({ group }) => group),
    "group",
  );
  const draws = draw(units.count, Number(values.resamples), Number(values.seed));
  const once = new Uint16Array(units.count).fill(1);
  const chosen = runs.map(({ run }) => read(path.join(comparison, run, "run.json")).tuning.score.name);
  /** Of each run on the images, and on each resample of them. */
  const aurcs = (scoreOf) =>
    runs.map((run, r) => {
      const score = scoreOf(r);
      const risk = Float64Array.from(run.images, ({ dice }) => 1 - (dice ?? Number.NaN));
      const order = sorted(run.images.map((image) => (image.dice === null ? Number.NaN : confidence(image, score))));
      const failed = new Uint8Array(risk.length);
      const of = (times) =>
        weightedFailures(
          order,
          Float64Array.from(units.of, (unit) => times[unit]),
          risk,
          failed,
        ).aurc;
      return { all: of(once), drawn: draws.map(of) };
    });
  const bar = aurcs(() => BAR);
  const against = (of) => ({
    aurc: mean(of.map(({ all }) => all)),
    perRun: of.map(({ all }, r) => all - bar[r].all),
    minus: mean(of.map(({ all }, r) => all - bar[r].all)),
    ...interval(Float64Array.from(draws, (_, d) => mean(of.map(({ drawn }, r) => drawn[d] - bar[r].drawn[d])))),
  });
  const perfect = runs.map(({ images }) => idealAurc(images.flatMap(({ dice }) => (dice === null ? [] : [1 - dice]))));
  return {
    ...{ set, images: images.length, groups: units.count, seeds: runs.length, chosen },
    ...{ dice: mean(runs.map((run) => mean(run.images.flatMap(({ dice }) => dice ?? [])))) },
    empty: mean(runs.map((run) => run.images.filter(({ empty }) => empty).length)),
    ...{ ideal: mean(perfect), bar: mean(bar.map(({ all }) => all)) },
    ofChosen: against(aurcs((r) => chosen[r])),
    aula: against(aurcs(() => "aula")),
  };
}

/** Higher where surer; least where it is not defined, and for an empty image, which the gate never accepts. */
function confidence(image, score) {
  if (image.empty) return Number.NEGATIVE_INFINITY;
  const value = image[score] ?? image.uncertainty[score] ?? null;
  if (value === null) return Number.NEGATIVE_INFINITY;
  return SCORES[score].surer === "low" ? -value : value;
}

/** Of images in the order of their risk. */
function idealAurc(risks) {
  return aurc(risks, risks) - eaurc(risks, risks);
}

function tableOf(rows) {
  const number = (x) => x.toFixed(3);
  const signed = (x) => `${x < 0 ? "-" : "+"}${Math.abs(x).toFixed(3)}`;
  const difference = ({ minus, low, high }) => `${signed(minus)} [${signed(low)}, ${signed(high)}]`;
  const names = (chosen) =>
    [...new Set(chosen)].map((name) => `${name} ${chosen.filter((one) => one === name).length}×`).join(", ");
  return [
    `| set: images, groups, seeds; Dice | ideal | ${BAR} | chosen by tune | AURC | minus ${BAR} | AULA | minus ${BAR} |`,
    "|---|---|---|---|---|---|---|---|",
    ...rows.map((row) => {
      const { set, images, groups, seeds, dice, ideal, bar, chosen, ofChosen, aula } = row;
      return `| ${[
        `${set}: ${images}, ${groups}, ${seeds}; ${number(dice)}`,
        ...[number(ideal), number(bar), names(chosen)],
        ...[number(ofChosen.aurc), difference(ofChosen), number(aula.aurc), difference(aula)],
      ].join(" | ")} |`;
    }),
    "",
  ].join("\n");
}

function read(file) {
  return JSON.parse(readFileSync(file, "utf8"));
}

function mean(list) {
  return list.reduce((sum, value) => sum + value, 0) / list.length;
}

function usage(expected, received) {
  process.stderr.write(`Expected ${expected} but received ${received}.\n`);
  return process.exit(2);
}
