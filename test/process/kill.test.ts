// A training run that is killed at random moments, again and again, ends with the weights of an unbroken one.
//   LAYER_ENSEMBLES_KILLS=30 npm test -- test/process/kill.test.ts
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { random } from "../../bench/random.mjs";
import { PACKAGE_ROOT } from "../../lib/package.js";

const KILLS = Number(process.env.LAYER_ENSEMBLES_KILLS ?? 6);
const EPOCHS = 12;

const PROGRAM = `
  const { Backbone, LayerEnsemble } = await import(${JSON.stringify(pathToFileURL(path.join(PACKAGE_ROOT, "dist/index.js")).href)});
  const samples = (n, phase) => Array.from({ length: n }, (_, i) => ({
    image: { data: Float32Array.from({ length: 1024 }, (_, p) => Math.sin(p * (i + 1) + phase)), shape: [1, 32, 32] },
    mask: { data: Uint8Array.from({ length: 1024 }, (_, p) => (((p >> 3) + i) % 3 === 0 ? 1 : 0)), shape: [32, 32] },
  }));
  const backbone = await Backbone.create("plain-unet", { width: 4, depth: 2 });
  const model = await LayerEnsemble.create(backbone, { device: "cpu", dropout: 0.1, inputSize: [32, 32] });
  console.log("go");
  await model.fit(samples(24, 0), {
    validation: samples(8, 1), epochs: ${EPOCHS}, batchSize: 4, schedule: "plateau", run: process.argv[1], resume: true,
    augment: { flipHorizontal: 0.5, rotation: 10, noise: 0.05 },
  });
  console.log("done");
`;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "le-kill-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

/** Trains in a process of its own; kills it so many milliseconds after training began. True where it finished. */
function train(run: string, killAfter?: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ["--input-type=module", "-e", PROGRAM, run], {
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    let errors = "";
    child.stderr.on("data", (chunk) => {
      errors += chunk;
    });
    child.stdout.on("data", (chunk) => {
      if (output === "" && killAfter !== undefined) setTimeout(() => child.kill("SIGKILL"), killAfter);
      output += chunk;
    });
    child.on("error", reject);
    child.on("close", (code, signal) => {
      if (signal === "SIGKILL") resolve(false);
      else if (code === 0 && output.includes("done")) resolve(true);
      else reject(new Error(`exit ${code} ${signal}: ${errors}`));
    });
  });
}

it(
  `survives ${KILLS} kills`,
  async () => {
    const [whole, broken] = [path.join(folder, "whole"), path.join(folder, "broken")];
    await train(whole);
    const next = random(7);
    let killed = 0;
    for (let i = 0; i < KILLS; i++) if (!(await train(broken, next() * 900))) killed++;
    expect(killed).toBeGreaterThan(0);
    expect(await train(broken)).toBe(true);
    const weights = (run: string) => readFileSync(path.join(run, "weights.safetensors"));
    expect(weights(broken).equals(weights(whole))).toBe(true);
    const epochs = (run: string) =>
      readFileSync(path.join(run, "history.csv"), "utf8")
        .trim()
        .split("\n")
        .map((line) => line.split(",")[0]);
    expect(epochs(broken)).toEqual(["epoch", ...Array.from({ length: EPOCHS }, (_, epoch) => String(epoch))]);
    // What a killed writer leaves behind is its own temporary file, never a broken one under the right name.
    const left = readdirSync(broken).filter((name) => !/tmp|tfevents/.test(name));
    expect(left.sort()).toEqual(["history.csv", "run.json", "state.safetensors", "weights.safetensors"]);
  },
  20 * 60_000,
);
