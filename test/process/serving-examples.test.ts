// The examples that serve and train beside other work, as they are in examples/.
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it, onTestFinished } from "vitest";
import { fileItems, infer, openRun } from "../../lib/inference/inference.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { decide } from "../../lib/scores/gate.js";
import { tinyRun } from "../support/serve.js";

let folder: string;
let run: string;
let data: string;
let file: string;
let png: Buffer;

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-examples-"));
  ({ run, data } = await tinyRun(folder));
  const [name] = readdirSync(path.join(data, "images"));
  file = path.join(data, "images", name as string);
  png = readFileSync(file);
}, 60_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs an example; `url` is the first address that it prints. */
function example(name: string, ...args: string[]) {
  const child = spawn(process.execPath, [path.join(PACKAGE_ROOT, "examples", name), ...args]);
  onTestFinished(() => void child.kill("SIGKILL"));
  let [output, errors] = ["", ""];
  const url = new Promise<string>((resolve) =>
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text;
      const found = /http:\/\/\S+:\d+/.exec(output);
      if (found) resolve(found[0].replace("[::]", "localhost").replace("0.0.0.0", "localhost"));
    }),
  );
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  const ended = new Promise<number | string | null>((resolve) =>
    child.on("close", (code, signal) => resolve(signal ?? code)),
  );
  const started = Promise.race([url, ended.then((how) => Promise.reject(new Error(`ended with ${how}: ${errors}`)))]);
  started.catch(() => {});
  return { child, started, ended, output: () => output };
}

it("gate-in-fastify.mjs sends doubtful images to the work list", async () => {
  const { child, started, ended } = example("gate-in-fastify.mjs", run, "0");
  const base = await started;
  const headers = { "content-type": "image/png" };
  const scan = JSON.parse(
    await (await fetch(`${base}/scans`, { method: "POST", body: new Uint8Array(png), headers })).text(),
  );
  expect(["accept", "review"]).toContain(scan.decision);
  const worklist = JSON.parse(await (await fetch(`${base}/worklist`)).text());
  expect(worklist).toHaveLength(scan.decision === "review" ? 1 : 0);
  expect(scan.reasons.length > 0).toBe(scan.decision === "review");
  const answer = await fetch(`${base}/segmentation/v1/predict`, { method: "POST", body: new Uint8Array(png), headers });
  expect(JSON.parse(await answer.text()).images[0]).toMatchObject({ decision: scan.decision, area: scan.area });
  const infer = await fetch(`${base}/segmentation/v2/models/lesions/infer`, { method: "POST", body: "{}" });
  expect(infer.status).toBe(400);
  expect(JSON.parse(await infer.text())).toEqual({ error: expect.stringContaining("inputs") });
  child.kill("SIGTERM");
  expect(await ended).toBe(0);
});

it("gate-in-express.mjs decides as the server does, and refuses what is no image", async () => {
  const { child, started, ended } = example("gate-in-express.mjs", run, "0");
  const base = await started;
  const post = async (body: Uint8Array<ArrayBuffer>) => {
    const response = await fetch(`${base}/scans`, { method: "POST", body, headers: { "content-type": "image/png" } });
    return { status: response.status, answer: JSON.parse(await response.text()) };
  };
  const { status, answer } = await post(new Uint8Array(png));
  expect(status).toBe(200);
  const { model, notes } = await openRun(run, {});
  const items = await fileItems([file], notes);
  const { value: offline } = await infer(model, items, { signal: new AbortController().signal }).next();
  await model.dispose();
  const { decision, score } = decide(offline!.prediction, { score: "softDiceConfidence", threshold: 0.8 });
  expect(answer.decision).toBe(decision);
  expect(answer.score.value).toBeCloseTo(score?.value as number, 4);
  const worklist = JSON.parse(await (await fetch(`${base}/worklist`)).text());
  expect(worklist).toHaveLength(decision === "review" ? 1 : 0);
  expect((await post(new Uint8Array(png.subarray(0, 40)))).status).toBe(400);
  child.kill("SIGTERM");
  expect(await ended).toBe(0);
});

it("queue-in-node-http.mjs answers many at a time, and ends in order", async () => {
  const { child, started, ended } = example("queue-in-node-http.mjs", run, "0");
  const base = await started;
  const image = (value: number) => new Float32Array(64 * 64).map((_, i) => Math.sin(i * value));
  const post = async (body: Float32Array<ArrayBuffer>) => {
    const response = await fetch(base, { method: "POST", body });
    return { status: response.status, answer: JSON.parse(await response.text()) };
  };
  const [many, alone] = [await Promise.all([1, 2, 3, 1].map((value) => post(image(value)))), await post(image(1))];
  expect(many.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
  expect(many[0]?.answer).toEqual(many[3]?.answer);
  expect(alone.answer.aula.value).toBeCloseTo(many[0]?.answer.aula.value, 3);
  expect((await post(new Float32Array(7))).status).toBe(400);
  child.kill("SIGTERM");
  expect(await ended).toBe(0);
});

it("train-in-worker.mjs trains while the main thread goes on", async () => {
  const { ended, output } = example("train-in-worker.mjs", data, path.join(folder, "worker-run"), "2");
  expect(await ended).toBe(0);
  const lines = output()
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(lines.map(({ type }) => type)).toEqual(["epoch", "epoch", "end"]);
  expect(lines[1].dice).toBeGreaterThanOrEqual(0);
  expect(lines[2].ticks).toBeGreaterThan(5);
  expect(readdirSync(path.join(folder, "worker-run"))).toContain("weights.safetensors");
});
