// A score that is added to the register, and nowhere else, is found everywhere.
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
  return { ...register, IMAGE_SCORES: { ...register.IMAGE_SCORES, leastAgreement: added } };
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
  await printed(predictCommand(), "--run", run, "--data", data, "--split", "test", "--out", inside("out"), ...CPU);
  const [first = ""] = text("out/predictions.jsonl").split("\n");
  expect(JSON.parse(first).scores.leastAgreement).toBeGreaterThanOrEqual(0);

  const evaluated = await printed(evaluateCommand(), "--run", run, "--out", inside("evaluation"), ...CPU);
  expect(evaluated).toMatch(/^least agreement +\d/m); // its mean
  expect(evaluated).toMatch(/^leastAgreement +[-−]?\d/m); // how it ranks
  for (const table of ["images", "summary"]) expect(text(`evaluation/${table}.csv`)).toContain("least_agreement");
  expect(text("evaluation/confidences.csv")).toMatch(/^leastAgreement,/m);

  const random = new Random(1);
  const heads = Float32Array.from({ length: 4 * 2 * 36 }, () => random.normal());
  writeFileSync(inside("heads.npy"), encodeNpy({ data: heads, shape: [4, 2, 6, 6] }));
  const scored = await printed(scoreCommand(), inside("heads.npy"), "--csv", inside("scores.csv"));
  expect(scored).toMatch(/^leastAgreement +\d/m);
  expect(text("scores.csv")).toContain("leastAgreement");

  const compared = await printed(compareCommand(), run, "--out", inside("comparison"), ...CPU);
  expect(compared).toMatch(/^ +least agreement +-?\d/m);
  const { methods, runs } = JSON.parse(text("comparison/results.json"));
  expect(methods[0].confidence.leastAgreement.aurc.value).toBeGreaterThanOrEqual(0);
  expect(runs[0].images[0].leastAgreement).toBeGreaterThanOrEqual(0);
  expect(text("comparison/tables/table3-failure-detection.csv")).toMatch(/^le,1,leastAgreement,/m);
  expect(text("comparison/tables/images.csv").split("\n")[0]).toContain("leastAgreement");
  expect(text("comparison/report.html")).toContain("least agreement");
});

it("in tune, the gate, the server's answers, tensors, metrics and description", async () => {
  await printed(tuneCommand(), run, "--score", "leastAgreement", "--flag", "0.5", ...CPU);
  expect(JSON.parse(readFileSync(path.join(run, "run.json"), "utf8")).gate.score).toBe("leastAgreement");
  expect(parseGate("leastAgreement:0.5")).toEqual({ score: "leastAgreement", threshold: 0.5 });

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
    expect(asked.json().outputs).toContainEqual(expect.objectContaining({ name: "least_agreement", shape: [1] }));
    const payload = encodeNpy({ data: Uint8Array.from(pixels.data), shape: [4, 4] });
    const headers = { "content-type": "application/x-npy" };
    const answer = (await app.inject({ method: "POST", url: "/v1/predict", headers, payload })).json().images[0];
    expect(answer.score.name).toBe("leastAgreement");
    expect(answer.scores.leastAgreement).toBe(answer.score.value);
    expect((await app.inject("/metrics")).body).toMatch(/^layer_ensembles_least_agreement_count\{model="tiny"\} 2$/m);
    const described = (await app.inject("/openapi.json")).body;
    expect(described).toContain("Least Dice of two neighbouring heads");
    expect(described).toContain("least_agreement");
  } finally {
    await app.close();
  }
});
