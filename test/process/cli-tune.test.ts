// `tune` as a user has it, on a run that is trained for it; the test images are gone or damaged all the while.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseCsv } from "../../lib/data/csv.js";
import { writePhantoms } from "../../lib/data/phantoms.js";
import { asConfidence, recordedScore, type ScoreRecord } from "../../lib/scores/scores.js";
import { cli } from "../support/cli.js";

let folder: string;
let data: string;
const inside = (...parts: string[]) => path.join(folder, ...parts);
const train = (run: string, ...more: string[]) => [
  ...["train", "--data", data, "--run", inside(run), "--backbone", "plain-unet", "--width", "4", "--depth", "2"],
  ...["--size", "40", "--device", "cpu", "--precision", "fp32", "--epochs", "2", ...more],
];
const read = (run: string) => JSON.parse(readFileSync(inside(run, "run.json"), "utf8"));

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-tune-"));
  data = inside("data");
  const phantoms = await writePhantoms(data, { count: 40, size: 40, seed: 1 });
  const trained = await Promise.all([cli(train("run")), cli(train("single", "--taps", "none"))]);
  for (const { code, stderr } of trained) expect(code, stderr).toBe(0);
  await cp(data, inside("whole"), { recursive: true });
  const [gone, ...rest] = phantoms.filter(({ split }) => split === "test");
  for (const kind of ["images", "masks"]) {
    rmSync(path.join(data, kind, `${gone?.id}.png`));
    for (const { id } of rest) writeFileSync(path.join(data, kind, `${id}.png`), "no picture");
  }
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("tune", () => {
  it("prints every T with the choice, and with --dry-run writes nothing", async () => {
    const before = readFileSync(inside("run", "run.json"), "utf8");
    const files = readdirSync(inside("run"));
    const { code, stdout, stderr } = await cli(["tune", inside("run"), "--dry-run", "--fit", "weights,temperature"]);
    expect(code, stderr).toBe(0);
    const heads = read("run").ensemble.taps.length + 1;
    const rows = stdout.split("\n").filter((line) => /^[* ] +\d+ +\d+ +0\.\d{4}/.test(line));
    expect(rows).toHaveLength(heads - 2);
    expect(rows.filter((row) => row.startsWith("*"))).toHaveLength(1);
    expect(stdout).toMatch(/Best by itself: nll T = \d+, Dice T = \d+, AURC T = \d+\./);
    expect(stdout).toMatch(/\nOverall temperature: \d+\.\d{3}\n/);
    expect(stdout).toMatch(/\nGate: flag an image where -?[\w.]+ is below /);
    expect(stdout).toContain("Nothing is written");
    expect(readFileSync(inside("run", "run.json"), "utf8")).toBe(before);
    expect(readdirSync(inside("run"))).toEqual(files);
  });

  it("writes the choice into the run, the same when it is repeated", async () => {
    await cp(inside("run"), inside("tuned"), { recursive: true });
    const args = ["tune", inside("tuned"), "--fit", "temperature", "--margin", "1", "--tau", "0.9"];
    const first = await cli([...args, "--json"]);
    expect(first.code, first.stderr).toBe(0);
    const run = read("tuned");
    expect(JSON.parse(first.stdout)).toMatchObject({ skip: run.skip, prediction: run.prediction, gate: run.gate });
    const { skip, prediction, gate, tuning, ...rest } = run;
    const { skip: _, ...untouched } = read("run");
    expect(rest).toEqual(untouched);
    expect(prediction).toEqual({ temperature: expect.any(Number) });
    expect(gate).toEqual({ score: tuning.score.name, threshold: expect.any(Number), rule: expect.any(String) });
    // Of four validation images no distance is judged.
    expect(first.stderr).toContain("what the training images look like is not learned");
    expect(tuning.score.ranking[0].above).toBe(0);
    expect(Object.keys(tuning.thresholds)).toEqual([gate.score]);
    expect(tuning).toMatchObject({ split: "val", rule: "aurc", margin: 1, data: path.resolve(data) });
    const lowest = Math.min(...tuning.curve.map((point: { aurc: number }) => point.aurc));
    expect(tuning.curve[skip]).toMatchObject({ skip, aurc: lowest });

    const { rows } = parseCsv(readFileSync(inside("tuned", "tuning", "skip-curve.csv"), "utf8"), "skip-curve.csv");
    expect(rows.map((row) => Number(row.nll))).toEqual(tuning.curve.map((point: { nll: number }) => point.nll));
    expect(rows.map((row) => row.chosen === "true")).toEqual(rows.map((_, t) => t === skip));

    const second = await cli([...args]);
    expect(second.code, second.stderr).toBe(0);
    const again = read("tuned");
    again.tuning.date = tuning.date;
    expect(again).toEqual(run);

    // What was chosen goes where nothing is asked for any more.
    expect((await cli(["tune", inside("tuned"), "--no-gate"])).code).toBe(0);
    expect(Object.keys(read("tuned"))).toEqual(expect.not.arrayContaining(["gate", "prediction"]));
  });

  it("fits predicted Dice, which is told where the run is used as it was chosen, and nowhere else", async () => {
    await cp(inside("run"), inside("fitted"), { recursive: true });
    const tuned = await cli(["tune", inside("fitted")]);
    expect(tuned.code, tuned.stderr).toBe(0);
    expect(tuned.stdout).toMatch(/\nPredicted Dice of \w+: from .* No bound: it needs 9 images, and there are 4\./);
    const predict = (...more: string[]) => {
      const place = ["--data", inside("whole"), "--split", "val", "--out", inside("predicted"), "--device", "cpu"];
      return cli(["predict", "--run", inside("fitted"), ...place, "--json", ...more]);
    };
    const lines = ({ stdout }: { stdout: string }) =>
      stdout
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line));
    const predicted = await predict();
    expect(predicted.code, predicted.stderr).toBe(0);
    for (const { predictedDice, scores } of lines(predicted)) {
      const { dice, lower, interval } = predictedDice.overall;
      expect(scores.predictedDice).toBe(dice);
      expect([lower, interval]).toEqual([null, null]);
      expect(predictedDice.sentence).toBe(`This mask's Dice is probably ${dice.toFixed(2)}`);
    }
    for (const { predictedDice, scores } of lines(await predict("--skip", "0")))
      expect([predictedDice, scores.predictedDice]).toEqual([null, null]);
    const told = await cli([
      "predict",
      "--run",
      inside("fitted"),
      "--data",
      inside("whole"),
      "--split",
      "val",
      "--limit",
      "1",
      "--out",
      inside("predicted"),
      "--device",
      "cpu",
    ]);
    expect(told.stdout).toMatch(/\nThis mask's Dice is probably /);
    const evaluated = await cli([
      "evaluate",
      "--run",
      inside("fitted"),
      "--data",
      inside("whole"),
      "--split",
      "val",
      "--device",
      "cpu",
    ]);
    expect(evaluated.code, evaluated.stderr).toBe(0);
    expect(evaluated.stdout).toMatch(/^predicted Dice +off by/m);
    const coverage = JSON.parse(readFileSync(inside("fitted", "evaluation-val", "summary.json"), "utf8")).predictedDice;
    expect(coverage).toMatchObject({ alpha: 0.1, from: "out-of-fold" });
    expect(coverage.of[""]).toMatchObject({ images: 4, error: expect.any(Number), lower: null, width: null });

    // Of other weights nothing is told, and of a damaged file an error.
    const file = inside("fitted", "predicted-dice.json");
    const whole = readFileSync(file, "utf8");
    writeFileSync(file, JSON.stringify({ ...JSON.parse(whole), weights: "0".repeat(64) }));
    const stale = await predict();
    expect(stale).toMatchObject({ code: 0, stderr: expect.stringContaining("was made for other weights") });
    for (const { predictedDice } of lines(stale)) expect(predictedDice).toBeNull();
    for (const damage of [whole.slice(0, -20), whole.replace('"y": [', '"y": [2, '), "[]"]) {
      writeFileSync(file, damage);
      expect(await predict()).toMatchObject({
        code: 1,
        stderr: expect.stringMatching(/ERR_LE_CHECKPOINT.*predicted-dice/),
      });
    }
    writeFileSync(file, whole);
  });

  it("measures what evaluate does with the choice, where images have the network's size", async () => {
    await cp(inside("run"), inside("both"), { recursive: true });
    const place = ["--data", inside("whole"), "--device", "cpu", "--precision", "fp32"];
    for (const more of [
      ["--fit", "temperatures,weights,temperature"],
      ["--subsets", "--rule", "aurc", "--margin", "1", "--fit", "temperature"],
      ["--fusion", "logit-mean", "--fit", "temperatures", "--score", "entropy.mean"],
    ]) {
      const tuned = await cli(["tune", inside("both"), ...place, ...more, "--flag", "0.4"]);
      expect(tuned.code, tuned.stderr).toBe(0);
      const { tuning, gate } = read("both");
      const evaluated = await cli(["evaluate", "--run", inside("both"), ...place, "--split", "val", "--json"]);
      expect(evaluated.code, evaluated.stderr).toBe(0);
      const { means, scores } = JSON.parse(evaluated.stdout);
      const step = tuning.steps.at(-1);
      expect(Math.abs(means.nll.mean - step.nll)).toBeLessThan(1e-4);
      expect(Math.abs(means.dice.mean - step.dice)).toBeLessThan(1e-3);
      const confidence = scores.map((score: ScoreRecord) =>
        asConfidence(gate.score, recordedScore(score, gate.score) as number),
      );
      const flagged = confidence.filter((value: number) => value < gate.threshold).length;
      expect(flagged).toBeCloseTo(tuning.flagged * scores.length, 9);
    }
  });

  it("fits a temperature alone to a run with a single head, and looks at its soft Dice", async () => {
    const { code, stdout, stderr } = await cli(["tune", inside("single"), "--json"]);
    expect(code, stderr).toBe(0);
    const { skip, prediction, gate, tuning } = JSON.parse(stdout);
    expect([skip, tuning.curve, gate.score]).toEqual([0, [], "softDiceConfidence"]);
    expect(prediction).toEqual({ temperature: expect.any(Number) });
    const [before, after] = tuning.steps;
    expect(after.nll).toBeLessThanOrEqual(before.nll + 1e-6);
  });

  it("has no way to another split, and refuses a run without validation", async () => {
    const other = await cli(["tune", inside("run"), "--split", "test"]);
    expect(other).toMatchObject({ code: 2, stdout: "" });
    expect(other.stderr).toContain("unknown option '--split'");
    await cp(inside("run"), inside("blind"), { recursive: true });
    for (const valSplit of [null, "test"]) {
      const run = read("run");
      run.notes.data.valSplit = valSplit;
      writeFileSync(inside("blind", "run.json"), JSON.stringify(run));
      const blind = await cli(["tune", inside("blind")]);
      expect(blind).toMatchObject({ code: 1, stdout: "" });
      expect(blind.stderr).toMatch(/^error \[ERR_LE_DATA\]: .*validation split/);
    }
    for (const args of [
      ["--flag", "0.1", "--tau", "0.5"],
      ["--no-gate", "--tau", "0.5"],
      ["--rule", "nil"],
    ])
      expect(await cli(["tune", inside("run"), ...args])).toMatchObject({ code: 2, stdout: "" });
    expect(read("run")).not.toHaveProperty("tuning");
  });
});
