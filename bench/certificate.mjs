// Do certificates keep their promise? Images of a run are split at random into calibration and test, a thousand times, whole groups at
// a time; each rule certifies on the one and is held against the other, and so is a deliberately wrong rule: the least threshold that
// looks right on the calibration images.
//   node bench/certificate.mjs busi=comparison/results.json acdc=runs/acdc/evaluation-test/images.csv [options]
// A file is results.json of `compare` (its Layer Ensembles, or --method) or images.csv of `evaluate`. Needs a build (npm run build).
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { SCORE_NAMES, SCORES } from "../dist/index.js";
import { auroc, certify, scoreThresholds } from "../dist/metrics/index.js";
import { random } from "./random.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    splits: { type: "string", default: "1000" },
    share: { type: "string", default: "0.5" }, // of the groups that calibrate
    alpha: { type: "string", default: "0.1" },
    delta: { type: "string", default: "0.1" },
    tau: { type: "string", default: "0.8" },
    method: { type: "string", default: "le" },
    scores: { type: "string", default: "softDiceConfidence,aula,pairwiseAgreement,entropy.foreground" },
    validation: { type: "string", multiple: true, default: [] }, // NAME=FILE: its scores give the thresholds
    seed: { type: "string", default: "0" },
    json: { type: "string" },
  },
});
const [splits, share, alpha, delta, tau, seed] = ["splits", "share", "alpha", "delta", "tau", "seed"].map((name) => {
  const value = Number(values[name]);
  return Number.isFinite(value) && value >= 0 ? value : usage(`a number for --${name}`, values[name]);
});
const scores = values.scores.split(",");
for (const name of scores) if (!SCORE_NAMES.includes(name)) usage(`scores of ${SCORE_NAMES.join(", ")}`, name);
if (positionals.length === 0) usage("NAME=FILE", "nothing");
const validation = new Map(values.validation.map(named));

/** Rules by what is done with the images of a group. */
const RULES = {
  drawn: { rule: "drawn", many: true },
  "conditional, groups ignored": { rule: "conditional", ignore: true, wrong: true },
  conditional: { rule: "conditional", single: true },
  "conditional, from 20 %": { rule: "conditional", single: true, start: 0.2 },
  betting: { rule: "betting" },
  "betting, from 20 %": { rule: "betting", start: 0.2 },
  joint: { rule: "joint" },
  "naive (wrong)": { rule: "naive", wrong: true },
};

const results = positionals.map(named).flatMap(([name, file]) => measure(name, file));
process.stdout.write(tableOf(results));
if (values.json) writeFileSync(values.json, `${JSON.stringify({ ...values, results }, null, 2)}\n`);

/** All scores and rules on one set. */
function measure(name, file) {
  const runs = readRuns(file);
  const others = validation.has(name) ? readRuns(validation.get(name)) : undefined;
  return scores.flatMap((score) => {
    const sets = runs.map((images) => imagesOf(images, score)).filter(({ length }) => length > 0);
    if (sets.length === 0) return [];
    const severalEach = sets[0].length > new Set(sets[0].map(({ group }) => group)).size;
    const thresholds = sets.map((images, i) =>
      scoreThresholds((others ? imagesOf(others[i] ?? others[0], score) : images).map(({ confidence }) => confidence)),
    );
    const fits = ({ single, many, ignore }) => (severalEach ? !single : !many && !ignore);
    return Object.entries(RULES)
      .filter(([, how]) => fits(how))
      .map(([rule, how]) => ({
        ...{ set: name, images: sets[0].length, groups: new Set(sets[0].map(({ group }) => group)).size },
        ...{
          failed: sets[0].filter(failed).length,
          score,
          auroc: mean(sets.map(aurocOf)),
          rule,
          wrong: how.wrong ?? false,
        },
        ...heldAgainst(sets, thresholds, how),
      }));
  });
}

/** Certifies on one part of each split and looks at the other. */
function heldAgainst(sets, thresholds, how) {
  const drawn = [];
  sets.forEach((images, s) => {
    const uniform = random(seed + 1 + s);
    const groups = groupsOf(images);
    for (let split = 0; split < splits / sets.length; split++) {
      const order = shuffled(groups, uniform);
      const many = Math.round(share * groups.length);
      const calibration = order.slice(0, many);
      const threshold = proved(calibration, thresholds[s], how);
      const weighing = how.ignore ? (part) => part.flat().map((image) => [image]) : (part) => part;
      drawn.push({
        threshold,
        test: risksOf(weighing(order.slice(many)), threshold),
        all: risksOf(weighing(order), threshold),
      });
    }
  });
  const of = (part) => {
    if (how.rule === "joint") {
      const risks = drawn.map((one) => one[part].joint);
      return { risk: mean(risks), se: Math.sqrt(variance(risks) / risks.length) };
    }
    const broken = mean(drawn.map((one) => Number(one[part].conditional > alpha)));
    return { broken, se: Math.sqrt((broken * (1 - broken)) / drawn.length) };
  };
  return {
    ...{
      splits: drawn.length,
      test: of("test"),
      all: of("all"),
      accepted: mean(drawn.map(({ test }) => test.accepted)),
    },
    none: mean(drawn.map(({ threshold }) => Number(threshold === undefined))),
  };
}

/** The threshold that calibration groups prove by a rule; undefined where there is none. */
function proved(groups, all, { rule, ignore, start = 0 }) {
  const thresholds = all.slice(Math.max(0, Math.ceil(start * all.length) - 1));
  const images = groups.flat();
  const confidence = images.map((image) => image.confidence);
  if (rule === "naive") return naive(images);
  const cases = { confidence, dice: images.map(({ dice }) => dice) };
  const found = certify(ignore ? cases : { ...cases, groups: images.map(({ group }) => group) }, {
    alpha,
    delta,
    tau,
    rule,
    ...(rule !== "joint" && { thresholds }),
  });
  return found.certified ? found.threshold : undefined;
}

/** The least threshold at which the share of failures is at most alpha. */
function naive(images) {
  const order = images.toSorted((a, b) => b.confidence - a.confidence);
  let least;
  let failures = 0;
  order.forEach((image, i) => {
    failures += Number(failed(image));
    const tied = order[i + 1]?.confidence === image.confidence;
    if (!tied && failures / (i + 1) <= alpha) least = image.confidence;
  });
  return least;
}

/** Shares of groups, each weighing the same: accepted; accepted and failed; failed of the accepted. */
function risksOf(groups, threshold) {
  const of = (isSo) => mean(groups.map((group) => mean(group.map((image) => Number(isSo(image))))));
  const isAccepted = ({ confidence }) => threshold !== undefined && confidence >= threshold;
  const accepted = of(isAccepted);
  const joint = of((image) => isAccepted(image) && failed(image));
  return { accepted, joint, conditional: accepted === 0 ? 0 : joint / accepted };
}

function groupsOf(images) {
  const groups = new Map();
  for (const image of images) groups.set(image.group, [...(groups.get(image.group) ?? []), image]);
  return [...groups.values()];
}

function failed({ dice }) {
  return dice < tau;
}

function aurocOf(images) {
  const finite = images.filter(({ confidence }) => Number.isFinite(confidence));
  return auroc(
    finite.map(({ confidence }) => confidence),
    finite.map(failed),
  );
}

/** An image as the rules need it; none where the score is not there. */
function imagesOf(records, score) {
  const scoreIn = (record) => record[score] ?? record.uncertainty?.[score] ?? null;
  if (records.every((record) => scoreIn(record) === null)) return [];
  return records
    .filter(({ dice }) => dice !== null)
    .map((record) => {
      const value = scoreIn(record);
      const isOut = record.empty || value === null;
      return {
        dice: record.dice,
        group: record.group ?? `image ${record.id}`,
        confidence: isOut ? Number.NEGATIVE_INFINITY : SCORES[score].surer === "low" ? -value : value,
      };
    });
}

/** Records of images by run. */
function readRuns(file) {
  const text = readFileSync(file, "utf8");
  if (!file.endsWith(".csv")) {
    const runs = JSON.parse(text).runs.filter(({ method }) => method === values.method);
    return runs.length > 0 ? runs.map(({ images }) => images) : usage(`a run of --method ${values.method} in`, file);
  }
  const [header, ...rows] = text
    .trim()
    .split("\n")
    .map((line) => line.split(","));
  const byColumn = new Map(SCORE_NAMES.map((name) => [snake(name), name]));
  const records = rows.map((cells) =>
    Object.fromEntries(
      cells.map((cell, i) => {
        const name = byColumn.get(header[i]) ?? header[i];
        if (name === "empty") return [name, cell === "true"];
        return [name, cell === "" ? null : ["id", "group"].includes(name) ? cell : Number(cell)];
      }),
    ),
  );
  return [records];
}

function tableOf(rows) {
  const cell = (value) => (Number.isNaN(value) ? "–" : value.toFixed(3));
  const part = ({ broken, risk, se }) => `${broken === undefined ? `risk ${cell(risk)}` : cell(broken)} ± ${cell(se)}`;
  const kept = ({ wrong, all, rule }) => {
    if (wrong) return "";
    const { broken, risk, se } = all;
    return rule === "joint" ? (risk <= alpha + 3 * se ? "yes" : "**no**") : broken <= delta + 3 * se ? "yes" : "**no**";
  };
  return [
    `Promise: of what is accepted at most ${alpha} have a Dice below ${tau}, with confidence ${1 - delta}. ${splits} splits; ${share} of the groups calibrate.`,
    "",
    "| set | images (groups, failed) | score (AUROC) | rule | broken, of all images | broken, of the test images | kept | accepted | no certificate |",
    "|---|---|---|---|---|---|---|---|---|",
    ...rows.map((row) => {
      const of = `${row.images} (${row.groups}, ${row.failed})`;
      const numbers = [part(row.all), part(row.test), kept(row), cell(row.accepted), cell(row.none)];
      return `| ${[row.set, of, `${row.score} (${cell(row.auroc)})`, row.rule, ...numbers].join(" | ")} |`;
    }),
    "",
  ].join("\n");
}

function snake(name) {
  return name.replace(".", "_").replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

function mean(list) {
  return list.reduce((sum, value) => sum + value, 0) / list.length;
}

function variance(list) {
  const middle = mean(list);
  return list.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (list.length - 1);
}

function shuffled(list, uniform) {
  const out = [...list];
  for (let i = out.length - 1; i > 0; i--) {
    const j = Math.floor(uniform() * (i + 1));
    [out[i], out[j]] = [out[j], out[i]];
  }
  return out;
}

function named(text) {
  const at = text.indexOf("=");
  return at > 0 ? [text.slice(0, at), text.slice(at + 1)] : usage("NAME=FILE", text);
}

function usage(expected, received) {
  process.stderr.write(`Expected ${expected} but received ${received}.\n`);
  return process.exit(2);
}
