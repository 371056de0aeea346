// A score that is added to the register, and nowhere else, is found everywhere; a dot in its name makes no map of it.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import type { Command } from "commander";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { compareCommand } from "../../lib/cli/compare.js";
import { evaluateCommand } from "../../lib/cli/evaluate.js";
import { predictCommand } from "../../lib/cli/predict.js";
import { scoreCommand } from "../../lib/cli/score.js";
import { tuneCommand } from "../../lib/cli/tune.js";
import { encodeNpy } from "../../lib/data/npy-file.js";
import { Random } from "../../lib/random.js";
import { parseGate } from "../../lib/scores/gate.js";
import type { ScoreEntry } from "../../lib/scores/register.js";
import { createServer, PredictionService } from "../../lib/server/index.js";
import { tinyRun } from "../support/serve.js";

vi.mock("../../lib/scores/register.js", async (original) => {
  const register = await original<typeof import("../../lib/scores/register.js")>();
  const added: ScoreEntry = {
    title: "least agreement",
    text: "Least Dice of two neighbouring heads",
    range: [0, 1],
    surer: "high",
    needs: { heads: 3, ordered: true },
    of: ({ aula }) => (aula ? Math.min(...aula.curve) : undefined),
  };
  return { ...register, IMAGE_SCORES: { ...register.IMAGE_SCORES, "agreement.least": added } };
});
vi.setConfig({ testTimeout: 120_000 });

let folder: string;
let run: string;
let data: string;
const inside = (name: string) => path.join(folder, name);
const text = (name: string) => readFileSync(inside(name), "utf8");

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-new-score-"));
  ({ run, data } = await tinyRun(folder));
}, 120_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a command in this process; gives what it prints. */
async function printed(command: Command, ...args: string[]): Promise<string> {
  const write = vi.spyOn(process.stdout, "write").mockReturnValue(true);
  const note = vi.spyOn(process.stderr, "write").mockReturnValue(true);
  try {
    await command.parseAsync(args, { from: "user" });
    return write.mock.calls.map(([written]) => String(written)).join("");
  } finally {
    write.mockRestore();
    note.mockRestore();
  }
}
const CPU = ["--device", "cpu"];

it("in predict, evaluate, score, compare, and its page", async () => {
  await printed(
    predictCommand(),
    "--run",
    run,
    "--data",
    data,
    "--split",
    "test",
    "--out",
    inside("out"),
    "--structures",
    "2",
    ...CPU,
  );
  const [first = ""] = text("out/predictions.jsonl").split("\n");
  const predicted = JSON.parse(first);
  expect(predicted.scores["agreement.least"]).toBeGreaterThanOrEqual(0);
  expect(predicted.softDiceConfidence.heads).toHaveLength(predicted.heads.length);
  expect(predicted.scores["softDiceConfidence.final"]).toBe(predicted.softDiceConfidence.heads.at(-1).overall);
  for (const part of predicted.structures) {
    expect(part.voxels).toBeGreaterThan(2);
    expect(Object.keys(predicted.area)).toContain(part.class);
  }

  const evaluated = await printed(evaluateCommand(), "--run", run, "--out", inside("evaluation"), ...CPU);
  expect(evaluated).toMatch(/^least agreement +\d/m); // its mean
  expect(evaluated).toMatch(/^agreement\.least +[-−]?\d/m); // how it ranks
  for (const table of ["images", "summary"]) expect(text(`evaluation/${table}.csv`)).toContain("agreement_least");
  expect(text("evaluation/confidences.csv")).toMatch(/^agreement\.least,/m);

  const random = new Random(1);
  const heads = Float32Array.from({ length: 4 * 2 * 36 }, () => random.normal());
  writeFileSync(inside("heads.npy"), encodeNpy({ data: heads, shape: [4, 2, 6, 6] }));
  const scored = await printed(scoreCommand(), inside("heads.npy"), "--csv", inside("scores.csv"));
  expect(scored).toMatch(/^least agreement +\d/m);
  expect(text("scores.csv")).toContain("agreement.least");

  const compared = await printed(compareCommand(), run, "--out", inside("comparison"), ...CPU);
  expect(compared).toMatch(/^ +least agreement +-?\d/m);
  const { methods, runs } = JSON.parse(text("comparison/results.json"));
  expect(methods[0].confidence["agreement.least"].aurc.value).toBeGreaterThanOrEqual(0);
  expect(runs[0].images[0]["agreement.least"]).toBeGreaterThanOrEqual(0);
  expect(text("comparison/tables/table3-failure-detection.csv")).toMatch(/^le,1,agreement\.least,/m);
  expect(text("comparison/tables/images.csv").split("\n")[0]).toContain("agreement.least");
  expect(text("comparison/report.html")).toContain("least agreement");
});

it("in tune, the gate, the server's answers, tensors, metrics and description", async () => {
  await printed(tuneCommand(), run, "--score", "agreement.least", "--flag", "0.5", ...CPU);
  expect(JSON.parse(readFileSync(path.join(run, "run.json"), "utf8")).gate.score).toBe("agreement.least");
  expect(parseGate("agreement.least:0.5")).toEqual({ score: "agreement.least", threshold: 0.5 });

  const service = await PredictionService.open({ runs: [run], workers: 0, device: "cpu" });
  const app = await createServer(service, { logger: false, linger: 0 });
  try {
    const pixels = {
      name: "image",
      shape: [1, 1, 4, 4],
      datatype: "UINT8",
      data: Array.from({ length: 16 }, (_, i) => 9 * i),
    };
    const asked = await app.inject({ method: "POST", url: "/v2/models/tiny/infer", payload: { inputs: [pixels] } });
    expect(asked.json().outputs).toContainEqual(expect.objectContaining({ name: "agreement_least", shape: [1] }));
    const payload = encodeNpy({ data: Uint8Array.from(pixels.data), shape: [4, 4] });
    const headers = { "content-type": "application/x-npy" };
    const answer = (await app.inject({ method: "POST", url: "/v1/predict", headers, payload })).json().images[0];
    expect(answer.score.name).toBe("agreement.least");
    expect(answer.scores["agreement.least"]).toBe(answer.score.value);
    expect((await app.inject("/metrics")).body).toMatch(/^layer_ensembles_agreement_least_count\{model="tiny"\} 2$/m);
    const described = (await app.inject("/openapi.json")).body;
    expect(described).toContain("Least Dice of two neighbouring heads");
    expect(described).toContain("agreement_least");
  } finally {
    await app.close();
  }
});
