// certificate.json and outcomes.jsonl of a run folder: whole, whose, and what comes of those that are not.
import { appendFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { certify, decide, readCertificate, verifyCertificate } from "../../lib/index.js";
import { type CertificateContent, writeCertificate } from "../../lib/runs/certificate.js";
import { fitHash, hashOf, runHashes } from "../../lib/runs/identity.js";
import { type Outcome, OutcomeFile, predictedOtherwise, predictorOf, readOutcomes } from "../../lib/runs/outcomes.js";
import type { PredictedDiceFit } from "../../lib/scores/predicted-dice.js";

const folder = mkdtempSync(path.join(os.tmpdir(), "le-certificate-"));
const inside = (...names: string[]) => path.join(folder, ...names);
const edit = (file: string, change: (value: Record<string, unknown>) => void) => {
  const value = JSON.parse(readFileSync(file, "utf8"));
  change(value);
  writeFileSync(file, JSON.stringify(value));
};

const RUN = {
  ...{ format: 1, versions: {}, method: "le", skip: 1 },
  backbone: { kind: "plain-unet", width: 2, depth: 2, inChannels: 1 },
  ensemble: {
    taps: ["a", "b"],
    classes: 2,
    final: true,
    dropout: 0,
    freezeBackbone: false,
    inputSize: [16, 16],
    seed: 0,
  },
  gate: { score: "aula", threshold: 2 },
  tuning: { data: "/data", split: "val" },
  training: { epochs: 2, precision: "fp32" },
  notes: { preprocessing: { size: [16, 16] }, classNames: ["a", "b"], data: { folder: "/data" }, options: { seed: 0 } },
};
const makeRun = (name: string, run: object = RUN) => {
  mkdirSync(inside(name), { recursive: true });
  writeFileSync(inside(name, "run.json"), JSON.stringify(run));
  writeFileSync(inside(name, "weights.safetensors"), `weights of ${name}`.repeat(50));
};

async function contentFor(run: string): Promise<CertificateContent> {
  const cases = { confidence: new Array(30).fill(1), dice: new Array(30).fill(0.9) };
  const found = certify(cases, { alpha: 0.1, thresholds: [0.5] });
  if (!found.certified) throw new Error(found.message);
  const { certified, ...proved } = found;
  const source = { data: "/data", split: "calibration", leftOut: 0 };
  const hashes = { ...(await runHashes(run)), cases: hashOf([["a", "b"]]) };
  return { ...proved, score: "aula", dice: "mean", source, hashes, calibration: { aula: cases.confidence } };
}

beforeEach(() => {
  for (const name of ["run", "other"]) rmSync(inside(name), { recursive: true, force: true });
  makeRun("run");
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("a certificate", () => {
  const file = () => inside("run", "certificate.json");
  const verdict = async () => {
    const of = await verifyCertificate(inside("run"));
    return of.valid ? "valid" : of.reason;
  };
  beforeEach(async () => {
    await writeCertificate(inside("run"), await contentFor(inside("run")));
  });

  it("is valid for the run that it was written into, and for a copy of it", async () => {
    expect(await verdict()).toBe("valid");
    cpSync(inside("run"), inside("other"), { recursive: true });
    expect((await verifyCertificate(inside("other"))).valid).toBe(true);
    const of = await verifyCertificate(inside("run"));
    expect(of.valid && of.certificate).toEqual(await readCertificate(inside("run")));
  });

  it("is missed where there is none", async () => {
    rmSync(file());
    expect(await verdict()).toBe("none");
  });

  it("is edited after any change of a value, and not after one of spaces or order", async () => {
    const certificate = JSON.parse(readFileSync(file(), "utf8"));
    for (const name of Object.keys(certificate)) {
      const value = certificate[name];
      if (name === "format") continue;
      const changed =
        typeof value === "number"
          ? value + 0.25
          : typeof value === "string"
            ? value.replace(/.$/, (end: string) => (end === "0" ? "1" : "0"))
            : { ...value, added: 1 };
      writeFileSync(file(), JSON.stringify({ ...certificate, [name]: changed }));
      expect(["edited", "damaged"], name).toContain(await verdict());
    }
    writeFileSync(file(), JSON.stringify({ ...certificate, threshold: 0.1 }));
    expect(await verdict()).toBe("edited");
    writeFileSync(file(), JSON.stringify({ ...certificate, added: 1 }));
    expect(await verdict()).toBe("edited");
    writeFileSync(file(), JSON.stringify(Object.fromEntries(Object.entries(certificate).reverse()), null, 7));
    expect(await verdict()).toBe("valid");
  });

  it.each([
    ["", "damaged"],
    ["{", "damaged"],
    ["null", "damaged"],
    ["[]", "damaged"],
    ["7", "damaged"],
    ["{}", "damaged"],
    ['{"format": "1"}', "damaged"],
    ['{"format": 1}', "damaged"],
    ['{"format": 2}', "another-version"],
  ])("that reads %j is %s", async (text, reason) => {
    writeFileSync(file(), text);
    expect(await verdict()).toBe(reason);
  });

  it("that nests without end is damaged", async () => {
    writeFileSync(file(), "[".repeat(100_000));
    expect(await verdict()).toBe("damaged");
  });

  it("is stale once the weights are others", async () => {
    appendFileSync(inside("run", "weights.safetensors"), "!");
    expect(await verdict()).toBe("stale-weights");
  });

  it.each<[string, (run: Record<string, unknown>) => void]>([
    ["skip", (run) => Object.assign(run, { skip: 0 })],
    ["prediction", (run) => Object.assign(run, { prediction: { temperature: 2 } })],
    ["what a later version may add", (run) => Object.assign(run, { later: { threshold: 1 } })],
    ["the gate's other conditions", (run) => Object.assign(run.gate as object, { distance: { threshold: 1 } })],
    ["precision", (run) => Object.assign(run.training as object, { precision: "bf16" })],
    ["preprocessing", (run) => Object.assign(run.notes as object, { preprocessing: { size: [8, 8] } })],
  ])("is stale once %s is another", async (_, change) => {
    edit(inside("run", "run.json"), change);
    expect(await verdict()).toBe("stale-settings");
  });

  it.each<[string, (run: Record<string, unknown>) => void]>([
    ["the gate's threshold", (run) => Object.assign(run, { gate: { score: "aula", threshold: 1, rule: "by hand" } })],
    ["notes", (run) => Object.assign(run.notes as object, { comment: "mine" })],
    ["versions", (run) => Object.assign(run, { versions: { node: "30" } })],
    ["how it was tuned", (run) => Object.assign(run, { tuning: { data: "/elsewhere" } })],
  ])("is not stale because %s is another", async (_, change) => {
    edit(inside("run", "run.json"), change);
    expect(await verdict()).toBe("valid");
  });

  it("of another run is known as such", async () => {
    makeRun("other", { ...RUN, ensemble: { ...RUN.ensemble, seed: 1 } });
    cpSync(file(), inside("other", "certificate.json"));
    expect(await verifyCertificate(inside("other"))).toMatchObject({ valid: false, reason: "another-run" });
    const certificate = await readCertificate(inside("run"));
    expect(await verifyCertificate(inside("other"), certificate)).toMatchObject({ reason: "another-run" });
  });

  it("of a fitted score hangs on the fit, which another score does not", async () => {
    const fit = inside("run", "predicted-dice.json");
    writeFileSync(fit, "a fit");
    expect(await verdict()).toBe("valid");
    const content = { ...(await contentFor(inside("run"))), score: "predictedDice" } as const;
    const calibration = { predictedDice: [1] };
    await writeCertificate(inside("run"), { ...content, calibration });
    expect(await verdict()).toBe("damaged");
    const hashes = { ...content.hashes, fit: await fitHash(inside("run")) };
    await writeCertificate(inside("run"), { ...content, calibration, hashes });
    expect(await verdict()).toBe("valid");
    writeFileSync(fit, "another fit");
    expect(await verdict()).toBe("stale-settings");
    rmSync(fit);
    expect(await verdict()).toBe("stale-settings");
  });

  it("of a deep ensemble hangs on the weights and settings of every member", async () => {
    makeRun("other", { ...RUN, method: "de", members: 2 });
    for (const member of ["1", "2"]) makeRun(path.join("other", "members", member), { ...RUN, method: "plain" });
    rmSync(inside("other", "weights.safetensors"));
    await writeCertificate(inside("other"), await contentFor(inside("other")));
    expect((await verifyCertificate(inside("other"))).valid).toBe(true);
    edit(inside("other", "members", "2", "run.json"), (run) => Object.assign(run, { skip: 5 }));
    expect(await verifyCertificate(inside("other"))).toMatchObject({ reason: "stale-settings" });
    appendFileSync(inside("other", "members", "2", "weights.safetensors"), "!");
    expect(await verifyCertificate(inside("other"))).toMatchObject({ reason: "stale-weights" });
  });

  it("hangs on the copy of a network that came from a file", async () => {
    makeRun("other", { ...RUN, backbone: { kind: "torchscript", file: "backbone.pt" } });
    writeFileSync(inside("other", "backbone.pt"), "a network");
    await writeCertificate(inside("other"), await contentFor(inside("other")));
    writeFileSync(inside("other", "backbone.pt"), "a Network");
    expect(await verifyCertificate(inside("other"))).toMatchObject({ reason: "stale-weights" });
  });

  it("decides in the place of the gate's threshold, and accepts nothing once it is void or stale", async () => {
    const of = await verifyCertificate(inside("run"));
    if (!of.valid) throw new Error(of.message);
    const result = (value: number) => ({ empty: false, heads: ["a", "b", "c"], aula: { value } }) as never;
    const gate = { score: "aula", threshold: 2 } as const;
    expect(decide(result(0.5), gate, of.certificate)).toMatchObject({ decision: "accept", score: { threshold: 0.5 } });
    expect(decide(result(0.49), gate, of.certificate)).toMatchObject({
      decision: "review",
      reasons: [{ code: "low-score" }],
    });
    expect(decide(result(0.5), undefined, of.certificate).decision).toBe("accept");
    for (const state of ["void", "stale"] as const)
      expect(decide(result(1), gate, { ...of.certificate, state, message: "Because." })).toMatchObject({
        decision: "review",
        reasons: [{ code: `certificate-${state}`, message: "Because." }],
      });
  });
});

describe("outcomes", () => {
  const file = () => inside("run", "outcomes.jsonl");
  const outcome = (id: string, more: Partial<Outcome> = {}): Outcome => ({
    ...{ id, date: "2026-01-01T00:00:00.000Z", predictor: "p", score: { name: "aula", value: 1.5 } },
    ...{ acceptable: true, dice: 0.9, ...more },
  });
  const append = (one: Outcome, known: (id: string) => boolean = () => true) =>
    new OutcomeFile(inside("run"), known).append(one);

  it("are none without a file, and those that were added, in order", async () => {
    expect(await readOutcomes(inside("run"))).toEqual({ outcomes: [], torn: 0 });
    const added = [outcome("a"), outcome("ü", { group: "g", content: "c", score: { name: "aula", value: null } })];
    const outcomes = new OutcomeFile(inside("run"), () => true);
    await Promise.all(added.map((one) => outcomes.append(one)));
    await append(outcome("c"));
    expect(await readOutcomes(inside("run"))).toEqual({ outcomes: [...added, outcome("c")], torn: 0 });
  });

  it("of two writers at once are all there", async () => {
    const writers = [1, 2].map(() => new OutcomeFile(inside("run"), () => true));
    await Promise.all(writers.flatMap((one, w) => [0, 1, 2, 3, 4].map((i) => one.append(outcome(`${w} ${i}`)))));
    expect((await readOutcomes(inside("run"))).outcomes).toHaveLength(10);
  });

  it("are refused with an id that is unknown or has one, and where they are none; the file stays", async () => {
    await append(outcome("a"));
    const before = readFileSync(file());
    const code = (one: unknown, known?: (id: string) => boolean) =>
      append(one as Outcome, known).then(
        () => "taken",
        (error) => error.code,
      );
    expect(await code(outcome("a"))).toBe("ERR_LE_VALUE");
    expect(await code(outcome("b"), () => false)).toBe("ERR_LE_VALUE");
    for (const dice of [Number.NaN, -0.1, 1.1, Number.POSITIVE_INFINITY, "0.9", null, undefined])
      expect(await code({ ...outcome("b"), dice })).toBe("ERR_LE_VALUE");
    for (const more of [
      { id: "" },
      { date: "yesterday" },
      { score: { name: "aulas", value: 1 } },
      { score: { name: "aula", value: Number.NaN } },
      { score: null },
      { acceptable: 1 },
      { unknown: 1 },
    ])
      expect(await code({ ...outcome("b"), ...more })).toBe("ERR_LE_VALUE");
    expect(readFileSync(file())).toEqual(before);
    expect(await code(outcome("b"))).toBe("taken");
  });

  it("lose no whole line where a killed process has torn the last, whatever its bytes", async () => {
    await append(outcome("a"));
    for (const torn of ['{"id":"b","da', `{"id":"\u00fc`.slice(0, -1), Buffer.from([0x7b, 0xc3]), "   "]) {
      appendFileSync(file(), torn);
      const { outcomes, torn: bytes } = await readOutcomes(inside("run"));
      expect(outcomes).toEqual([outcome("a")]);
      expect(bytes).toBe(Buffer.byteLength(torn));
      writeFileSync(file(), readFileSync(file()).subarray(0, -bytes));
    }
    appendFileSync(file(), Buffer.from([0x7b, 0xc3]));
    const outcomes = new OutcomeFile(inside("run"), () => true);
    await outcomes.append(outcome("b"));
    await outcomes.append(outcome("c"));
    const read = await readOutcomes(inside("run"));
    expect(read).toEqual({ outcomes: [outcome("a"), outcome("b"), outcome("c")], torn: 0 });
    expect(statSync(file()).size).toBe(Buffer.byteLength(readFileSync(file(), "utf8")));
  });

  it.each([
    ["no JSON", "id,dice\n"],
    ["another object", "{}\n"],
    ["an empty line", "\n"],
    ["NaN", `${JSON.stringify(outcome("b")).replace("0.9", "NaN")}\n`],
    ["no Dice", `${JSON.stringify({ ...outcome("b"), dice: null })}\n`],
    ["the id of line 1 again", `${JSON.stringify(outcome("a"))}\n`],
  ])("that are damaged are an error that names the line: %s", async (_, text) => {
    await append(outcome("a"));
    appendFileSync(file(), text);
    await expect(readOutcomes(inside("run"))).rejects.toMatchObject({
      code: "ERR_LE_DATA",
      message: expect.stringMatching(/line 2|lines 1 and 2/),
    });
    const before = readFileSync(file());
    await expect(append(outcome("z"))).rejects.toMatchObject({ code: "ERR_LE_DATA" });
    expect(readFileSync(file())).toEqual(before);
  });

  it("know what they were predicted by", async () => {
    const fit = { by: "softDiceConfidence", ridge: null, isotonic: { x: [0.5], y: [0.7] }, empty: null } as const;
    const fitted = (change: object) =>
      ({ perClass: { 1: { ...fit, error: null, intervals: null, ...change } } }) as unknown as PredictedDiceFit;
    const predicting = (of: PredictedDiceFit | null, precision: "fp32" | "bf16" = "fp32") =>
      ({ precision, predictedDice: { fit: of } }) as const;
    const hashes = await runHashes(inside("run"));
    const own = predictorOf(hashes, predicting(fitted({})));
    const of = (predictor: string) => predictedOtherwise(outcome("a", { predictor }), own);
    expect(of(own)).toBeUndefined();
    expect(of(predictorOf(hashes, predicting(fitted({ intervals: { alpha: 0.1 }, error: {} }))))).toBeUndefined();
    expect(of(predictorOf(hashes, predicting(null)))).toBe("another fit of predicted Dice");
    for (const change of [{ isotonic: { x: [0.5], y: [0.6] } }, { empty: { dice: 0, cases: 3 } }, { by: "features" }])
      expect(of(predictorOf(hashes, predicting(fitted(change))))).toBe("another fit of predicted Dice");
    expect(of(predictorOf(hashes, predicting(fitted({}), "bf16")))).toBe("precision bf16");
    expect(of(`${hashes.weights.slice(0, 16)}-${hashes.settings.slice(0, 16)}`)).toMatch(/does not say/);
    edit(inside("run", "run.json"), (run) => Object.assign(run, { skip: 0 }));
    expect(of(predictorOf(await runHashes(inside("run")), predicting(fitted({}))))).toBe("other settings");
    appendFileSync(inside("run", "weights.safetensors"), "!");
    expect(of(predictorOf(await runHashes(inside("run")), predicting(fitted({}))))).toBe("other weights");
  });
});
