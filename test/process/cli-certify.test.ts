// `certify` as a user has it, on a run that is trained and tuned for it.
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseCsv } from "../../lib/data/csv.js";
import { writePhantoms } from "../../lib/data/phantoms.js";
import { verifyCertificate } from "../../lib/index.js";
import { runHashes } from "../../lib/runs/identity.js";
import { readLearned } from "../../lib/runs/learned.js";
import { OutcomeFile, predictorOf } from "../../lib/runs/outcomes.js";
import { readRun } from "../../lib/runs/run.js";
import { cli } from "../support/cli.js";

let folder: string;
const inside = (...parts: string[]) => path.join(folder, ...parts);
const CPU = ["--device", "cpu", "--precision", "fp32"];
/** What can be proved of a network that has learned little. */
const EASY = ["--alpha", "0.9", "--delta", "0.4", "--tau", "0.01"];
const certify = (run: string, ...more: string[]) => cli(["certify", inside(run), ...EASY, ...CPU, ...more]);
const certificate = (run: string) => JSON.parse(readFileSync(inside(run, "certificate.json"), "utf8"));
const copyOf = async (run: string, name: string) => {
  await cp(inside(run), inside(name), { recursive: true });
  return name;
};

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-certify-"));
  await writePhantoms(inside("data"), { count: 60, size: 32, seed: 1 });
  // A third of the training images, and the patients that they are of.
  const table = inside("data", "split.csv");
  const { rows } = parseCsv(readFileSync(table, "utf8"), table);
  const lines = rows.map(({ id, split }, i) => {
    const calibrates = split === "train" && i % 2 === 0;
    return `${id},${calibrates ? "calibration" : split},${calibrates ? `p${i >> 2}` : id}`;
  });
  writeFileSync(table, `id,split,patient\n${lines.join("\n")}\n`);
  const given = ["--backbone", "plain-unet", "--width", "4", "--depth", "2", "--size", "32", "--epochs", "3", ...CPU];
  const trained = await cli(["train", "--data", inside("data"), "--run", inside("raw"), ...given]);
  expect(trained.code, trained.stderr).toBe(0);
  await copyOf("raw", "run");
  const tuned = await cli(["tune", inside("run"), "--score", "softDiceConfidence", ...CPU]);
  expect(tuned.code, tuned.stderr).toBe(0);
}, 120_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("certify --sets", () => {
  const image = () => inside("data", "images", "phantom_0001.png");
  const predict = async (run: string, ...more: string[]) => {
    const out = path.join(folder, `predicted by ${run} ${more.join(" ")}`);
    const ended = await cli([
      "predict",
      "--run",
      inside(run),
      "--out",
      out,
      "--json",
      ...more,
      "--device",
      "cpu",
      image(),
    ]);
    expect(ended.code, ended.stderr).toBe(0);
    return { ...ended, record: JSON.parse(ended.stdout) };
  };

  it("chooses thresholds of inner and outer masks, which predict then takes; of no other settings, no other run", async () => {
    await copyOf("run", "sets");
    const { code, stdout, stderr } = await certify("sets", "--sets", "0.3");
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/at most 30 % of the class lies outside the outer mask, on average\.\n/);
    expect(stdout).toMatch(/\nclass +mask +threshold +cases +mean loss +bound +of the image\n/);
    const { sets } = certificate("sets");
    expect(sets.perClass[1].outer).toMatchObject({ alpha: 0.3, share: sets.thresholds[1].outer });
    expect(sets.perClass[1].outer.bound).toBeLessThanOrEqual(0.3);
    expect(await verifyCertificate(inside("sets"))).toMatchObject({ valid: true });

    const { inner, outer } = sets.thresholds[1];
    const certified = await predict("sets");
    expect(certified.stderr).toBe("");
    const given = await predict("sets", "--sets", `${inner ?? "none"},${outer}`);
    expect(certified.record.sets).toEqual(given.record.sets);
    expect(certified.record.files).toHaveProperty("outer");
    const skipped = await predict("sets", "--skip", "1");
    expect(skipped.stderr).toMatch(/No inner and outer masks: .*run's own skip/);
    expect(skipped.record).not.toHaveProperty("sets");

    const other = await predict("sets", "--precision", "bf16");
    expect(other.stderr).toMatch(/No inner and outer masks: .*in fp32.* in bf16/);
    expect(other.record).not.toHaveProperty("sets");

    const file = inside("sets", "certificate.json");
    const text = readFileSync(file, "utf8");
    writeFileSync(file, text.replace('"capped": false', '"capped": true').replace('"capped": true', '"capped": null'));
    expect((await predict("sets")).stderr).toMatch(/No inner and outer masks: .*not as it was written/);
    writeFileSync(file, text.slice(0, 100));
    expect((await predict("sets")).stderr).toMatch(/No inner and outer masks: .*damaged/);
  });

  it("says how many cases are missing, and prints thresholds though the gate is not certified", async () => {
    const few = await certify("run", "--sets", "0.01", "--dry-run");
    expect(few.stdout).toMatch(/No outer mask: α = 0\.01 needs at least 99 cases with the class, and there are \d+\./);
    const none = await cli(["certify", inside("run"), "--alpha", "0.01", ...CPU, "--sets", "0.3", "--json"]);
    expect(none.code).toBe(1);
    expect(JSON.parse(none.stdout)).toMatchObject({ certified: false, written: [], sets: { thresholds: { 1: {} } } });
    const outcomes = await certify("run", "--sets", "0.3", "--from-outcomes");
    expect(outcomes).toMatchObject({ code: 2, stdout: "" });
    for (const wrong of ["0", "1", "x"]) expect((await certify("run", "--sets", wrong)).code).toBe(2);
  });
});

describe("certify", () => {
  it("prints the promise with every threshold, and with --dry-run writes nothing", async () => {
    const { code, stdout, stderr } = await certify("run", "--dry-run");
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(
      /^Among accepted cases at most 90 % have a Dice below 0.01, with confidence 60 %, for cases exchangeable with the \d+ of the calibration\.\n/,
    );
    expect(stdout).toMatch(
      /\nAccept where softDiceConfidence is at least [\d.e-]+: \d+ of \d+ cases, [\d.]+ % \[[\d.]+ %, [\d.]+ %\]; \d+ of them failed\. Rule conditional\.\n/,
    );
    expect(stdout).toMatch(/\nthreshold +accepted +failed +p-value +passed\n/);
    expect(stdout).toContain("Nothing is written (--dry-run).");
    expect(existsSync(inside("run", "certificate.json"))).toBe(false);
  });

  it("writes a certificate that holds until the run is another", async () => {
    const run = await copyOf("run", "written");
    const { code, stdout, stderr } = await certify(run, "--json");
    expect(code, stderr).toBe(0);
    const printed = JSON.parse(stdout);
    expect(printed).toMatchObject({
      certified: true,
      written: ["certificate.json", "predicted-dice.json"],
      rule: "conditional",
      score: "softDiceConfidence",
    });
    const written = certificate(run);
    expect(printed).toMatchObject(written);
    expect(written).toMatchObject({
      alpha: 0.9,
      delta: 0.4,
      tau: 0.01,
      format: 1,
      source: { split: "calibration", leftOut: 0 },
    });
    expect((await verifyCertificate(inside(run))).valid).toBe(true);
    const tuned = await cli(["tune", inside(run), "--score", "softDiceConfidence", "--fit", "temperature", ...CPU]);
    expect(tuned.code, tuned.stderr).toBe(0);
    expect(await verifyCertificate(inside(run))).toMatchObject({ valid: false, reason: "stale-settings" });
  });

  it("calibrates the bounds of predicted Dice with the same images, counted by hand; predict and evaluate say so", async () => {
    const run = await copyOf("run", "bounds");
    const told = async () => {
      const evaluated = await cli(["evaluate", "--run", inside(run), "--split", "calibration", "--json", ...CPU]);
      expect(evaluated.code, evaluated.stderr).toBe(0);
      const out = inside(`bounds of ${run} ${Math.random()}`);
      const image = inside("data", "images", "phantom_0001.png");
      const predicted = await cli(["predict", "--run", inside(run), "--out", out, "--json", ...CPU, image]);
      expect(predicted.code, predicted.stderr).toBe(0);
      return { ...JSON.parse(evaluated.stdout), record: JSON.parse(predicted.stdout) };
    };
    const fitOf = () => JSON.parse(readFileSync(inside(run, "predicted-dice.json"), "utf8")).fit;
    const [before, fitted] = [await told(), fitOf()];
    expect(before.predictedDice.from).toBe("out-of-fold");
    expect(before.record.predictedDice).toMatchObject({ from: "out-of-fold" });
    // Of so few validation images there was none.
    expect(before.record.predictedDice.overall.lower).toBe(null);

    const { code, stderr } = await certify(run);
    expect(code, stderr).toBe(0);
    expect(stderr).toContain("bounds of predicted Dice are of the calibration's cases now");
    const [after, calibrated] = [await told(), fitOf()];
    expect(after.predictedDice.from).toBe("calibration");
    expect(after.record.predictedDice).toMatchObject({ from: "calibration", alpha: 0.1 });
    expect(after.record.predictedDice.overall.dice).toBe(before.record.predictedDice.overall.dice);
    expect(after.record.predictedDice.sentence).toMatch(/in 9 of 10 cases \(calibrated\)$/);
    const { intervals, constant, ...rest } = calibrated.perClass[1];
    const { intervals: old, constant: oldConstant, ...same } = fitted.perClass[1];
    expect(rest).toEqual(same);
    expect(constant.dice).toBe(oldConstant.dice);
    expect({ from: old.from, now: intervals.from }).toEqual({ from: "out-of-fold", now: "calibration" });
    // The quantile of the distances that evaluate tells.
    const shown = (after.scores as { dice: number; predictedDice: number; empty: boolean }[]).filter(
      ({ empty }) => !empty,
    );
    const away = shown.map(({ dice, predictedDice }) => predictedDice - dice).sort((a, b) => a - b);
    expect(intervals.bands[0].cases).toBe(away.length);
    expect(intervals.bands[0].lower).toBeCloseTo(away[Math.ceil((away.length + 1) * 0.9) - 1]!, 9);

    // The certificate is of these bounds.
    expect((await verifyCertificate(inside(run))).valid).toBe(true);
    const file = inside(run, "predicted-dice.json");
    writeFileSync(file, readFileSync(file, "utf8").replace('"calibration"', '"out-of-fold"'));
    expect(await verifyCertificate(inside(run))).toMatchObject({ valid: false, reason: "stale-settings" });
  });

  it("keeps the bounds of predicted Dice where a new one would need more cases, and says how many", async () => {
    const run = await copyOf("run", "few bounds");
    const table = inside("few.csv");
    await cp(inside("data"), inside("few"), { recursive: true });
    const { rows } = parseCsv(readFileSync(inside("data", "split.csv"), "utf8"), table);
    let left = 8;
    const lines = rows.map(({ id, split }) => `${id},${split === "calibration" && left-- <= 0 ? "other" : split}`);
    writeFileSync(inside("few", "split.csv"), `id,split\n${lines.join("\n")}\n`);
    const before = readFileSync(inside(run, "predicted-dice.json"), "utf8");
    const { code, stderr, stdout } = await certify(run, "--data", inside("few"), "--json");
    expect(code, stderr + stdout).toBe(0);
    expect(JSON.parse(stdout).written).toEqual(["certificate.json"]);
    expect(stderr).toMatch(/bounds of predicted Dice stay as they were: they need 9 cases .* there are \d\./);
    expect(readFileSync(inside(run, "predicted-dice.json"), "utf8")).toBe(before);
  });

  it("measures the Dice that evaluate measures, and accepts what its threshold accepts", async () => {
    const run = await copyOf("run", "compared");
    // The gate's other question is not asked here.
    const tuned = JSON.parse(readFileSync(inside(run, "run.json"), "utf8"));
    delete tuned.gate.distance;
    writeFileSync(inside(run, "run.json"), JSON.stringify(tuned));
    const done = await cli(["certify", inside(run), "--alpha", "0.99", "--rule", "joint", "--loss", "dice", ...CPU]);
    expect(done.code, done.stderr + done.stdout).toBe(0);
    const evaluated = await cli(["evaluate", "--run", inside(run), "--split", "calibration", "--json", ...CPU]);
    expect(evaluated.code, evaluated.stderr).toBe(0);
    const { scores } = JSON.parse(evaluated.stdout) as {
      scores: { dice: number; softDiceConfidence: number; empty: boolean }[];
    };
    const { threshold, accepted, failures, cases } = certificate(run);
    const passed = scores.filter(({ softDiceConfidence, empty }) => !empty && softDiceConfidence >= threshold);
    expect({ cases, accepted }).toEqual({ cases: scores.length, accepted: passed.length });
    expect(failures).toBeCloseTo(
      passed.reduce((sum, { dice }) => sum + 1 - dice, 0),
      9,
    );
  });

  it("takes groups of several images by the rule for them, and refuses the one that is not", async () => {
    const { code, stdout, stderr } = await certify("run", "--dry-run", "--group", "patient", "--json");
    expect(code, stderr + stdout).toBe(0);
    const { rule, groups, cases, share } = JSON.parse(stdout);
    expect({ rule, by: share.by }).toEqual({ rule: "betting", by: "bootstrap" });
    expect(groups).toBeLessThan(cases);
    const refused = await certify("run", "--dry-run", "--group", "patient", "--rule", "conditional");
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/^error \[ERR_LE_OPTION\].*joint or betting/m);
  });

  it("begins at the share of validation that was named", async () => {
    const steps = async (...more: string[]) =>
      JSON.parse((await certify("run", "--dry-run", "--json", ...more)).stdout).steps as { threshold: number }[];
    const all = await steps();
    expect(all.length).toBeGreaterThan(2);
    expect(await steps("--start", "1")).toEqual(all.slice(-1));
    expect(await steps("--start", "0")).toEqual(all);
    expect(await steps("--start", "0.5")).toEqual(all.slice(Math.ceil(all.length / 2) - 1));
  });

  it("needs no validation for the rule joint, and no tuning for any", async () => {
    const { code, stdout, stderr } = await certify("raw", "--dry-run", "--rule", "joint", "--json");
    expect(code, stderr + stdout).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ rule: "joint", score: "aula" });
    expect(stderr).not.toContain("thresholds");
  });

  it("says what is missing where too little is proved: exit code 1, nothing written, an earlier certificate stays", async () => {
    const run = await copyOf("run", "strict");
    expect((await certify(run)).code).toBe(0);
    const before = readFileSync(inside(run, "certificate.json"), "utf8");
    const { code, stdout, stderr } = await cli(["certify", inside(run), "--alpha", "0.01", ...CPU]);
    expect({ code, stderr: stderr.replace(/.*thresholds.*|.*calibrating.*/g, "").trim() }).toEqual({
      code: 1,
      stderr: "",
    });
    expect(stdout).toMatch(
      /^No certificate: for alpha = 0.01 and delta = 0.1 at least 230 accepted cases without a failure are needed/,
    );
    expect(readFileSync(inside(run, "certificate.json"), "utf8")).toBe(before);
  });

  it.each([
    [["--alpha", "0"], 2, "alpha"],
    [["--alpha", "1"], 2, "alpha"],
    [["--tau", "1.2"], 2, "tau"],
    [["--delta", "-0.1"], 2, "delta"],
    [["--delta", "nan"], 2, "delta"],
    [["--rule", "joined"], 2, "Did you mean joint?"],
    [["--from-outcomes", "--data", "x"], 2, "--from-outcomes"],
    [["--split", "train"], 1, "chose nothing"],
    [["--split", "val"], 1, "chose nothing"],
    [["--split", "all"], 1, "chose nothing"],
    [["--split", "none"], 1, "none"],
    [["--group", "nobody"], 1, "nobody"],
  ])("refuses %j", async (more, code, words) => {
    const of = await certify("run", "--dry-run", ...more);
    expect(of.code, of.stderr).toBe(code);
    expect(of.stderr).toContain(words);
  });

  it("says how to come by calibration images where a folder has none", async () => {
    await cp(inside("data"), inside("without"), { recursive: true });
    const table = inside("without", "split.csv");
    writeFileSync(table, readFileSync(table, "utf8").replaceAll(",calibration,", ",test,"));
    const { code, stdout, stderr } = await certify("run", "--dry-run", "--data", inside("without"));
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(
      /of the split "calibration" of .*without, but received the splits .*test.* such as --split test/,
    );
  });

  it("refuses images of the training, whatever they and their folder are called", async () => {
    await cp(inside("data"), inside("renamed"), { recursive: true });
    const table = inside("renamed", "split.csv");
    const { rows } = parseCsv(readFileSync(table, "utf8"), table);
    const name = (split = "") => ({ train: "calibration", calibration: "other" })[split] ?? split;
    writeFileSync(table, `id,split\n${rows.map(({ id, split }) => `${id},${name(split)}`).join("\n")}\n`);
    const { code, stderr } = await certify("run", "--dry-run", "--data", inside("renamed"));
    expect(code).toBe(1);
    expect(stderr).toMatch(/error \[ERR_LE_DATA\]: Expected calibration images that chose nothing.*of "train"/);
  });

  it("refuses a run that does not say what it has seen", async () => {
    const run = await copyOf("run", "unknown");
    const file = inside(run, "run.json");
    const described = JSON.parse(readFileSync(file, "utf8"));
    delete described.notes.data.contents;
    writeFileSync(file, JSON.stringify(described));
    const { code, stderr } = await certify(run, "--dry-run");
    expect(code).toBe(1);
    expect(stderr).toMatch(/error \[ERR_LE_DATA\].*does not record/);
  });

  it("refuses weights that are not those that were tuned", async () => {
    const run = await copyOf("run", "trained-on");
    const file = inside(run, "run.json");
    const described = JSON.parse(readFileSync(file, "utf8"));
    described.tuning.weights = "0".repeat(64);
    writeFileSync(file, JSON.stringify(described));
    const { code, stderr } = await certify(run, "--dry-run");
    expect(code).toBe(1);
    expect(stderr).toMatch(/error \[ERR_LE_CHECKPOINT\].*Tune it again/);
  });

  it("refuses to write in the place of what is no file", async () => {
    const run = await copyOf("run", "blocked");
    symlinkSync("/dev/null", inside(run, "certificate.json"));
    const { code, stderr } = await certify(run);
    expect(code).toBe(1);
    expect(stderr).toMatch(/error \[ERR_LE_IO\]/);
  });

  it("calibrates with the outcomes of its service, and only with those of the run as it is", async () => {
    const run = await copyOf("run", "served");
    const missing = await certify(run, "--from-outcomes");
    expect(missing.code).toBe(1);
    expect(missing.stdout).toMatch(/^No certificate: .*there are 0 of 0/);
    const outcomes = new OutcomeFile(inside(run), () => true);
    const { predictedDice } = await readLearned(inside(run), await readRun(inside(run)));
    const predictor = predictorOf(await runHashes(inside(run)), { precision: "fp32", predictedDice });
    const add = (id: string, value: number, dice: number, of = predictor) =>
      outcomes.append({
        ...{ id, date: "2026-01-01T00:00:00Z", predictor: of, acceptable: true, dice },
        score: { name: "softDiceConfidence", value },
      });
    for (let i = 0; i < 30; i++) await add(`case ${i}`, 0.999, 0.9);
    await add("stale", 0.999, 0, "another");
    appendFileSync(inside(run, "outcomes.jsonl"), '{"id": "torn');
    const { code, stderr } = await certify(run, "--from-outcomes");
    expect(code, stderr).toBe(0);
    expect(stderr).toContain("1 of 31 outcomes are left out");
    expect(stderr).toContain("12 bytes at the end");
    expect(certificate(run)).toMatchObject({ cases: 30, failures: 0, source: { data: null, split: null, leftOut: 1 } });
  });

  it("gives evaluate the alarm over its images in their order, as long as it holds for what is predicted", async () => {
    const run = await copyOf("run", "alarmed");
    const evaluate = (...more: string[]) =>
      cli(["evaluate", "--run", inside(run), "--data", inside("data"), "--out", inside("evaluated"), ...CPU, ...more]);
    const before = await evaluate("--json");
    expect(before.code, before.stderr).toBe(0);
    expect(JSON.parse(before.stdout)).not.toHaveProperty("alarm");
    const certified = await certify(run);
    expect(certified.code, certified.stderr).toBe(0);

    const after = await evaluate("--json");
    const { alarm, scores } = JSON.parse(after.stdout);
    const { calibration } = certificate(run);
    const table = inside("evaluated", "alarm.csv");
    const { rows } = parseCsv(readFileSync(table, "utf8"), table);
    expect(rows.map(({ id }) => id)).toEqual(scores.map(({ id }: { id: string }) => id).sort());
    const values = rows.map(({ martingale }) => Number(martingale));
    const watched = Object.keys(calibration);
    expect(alarm).toEqual({
      ...{ watched, calibration: calibration[watched[0] as string].length, cases: rows.length },
      ...{ limit: 100 * watched.length, firedAt: null, highest: Math.max(...values) },
    });
    // Of one case at most half of the stakes is won or lost.
    values.forEach((value, i) => {
      const last = i === 0 ? 1 : (values[i - 1] as number);
      expect(value).toBeGreaterThan(0.4 * last);
      expect(value).toBeLessThan(1.6 * last);
    });
    for (const name of ["alarm.svg", "alarm.png"])
      expect(readFileSync(inside("evaluated", name)).length).toBeGreaterThan(1000);
    const told = await evaluate();
    expect(told.stdout).toMatch(
      /The alarm over these \d+ images in their order, calibrated by \d+: .*does not go off\./,
    );

    expect(JSON.parse((await evaluate("--json", "--skip", "1")).stdout)).not.toHaveProperty("alarm");
    const other = await evaluate("--json", "--precision", "bf16");
    expect(JSON.parse(other.stdout)).not.toHaveProperty("alarm");
    expect(other.stderr).toMatch(/The alarm over these images is not told: .*in fp32.* in bf16/);
  });
});
