// What `tune` learns of the training's images, and what it is good for, as a user has it.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cp, mkdir } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encodePng } from "../../lib/data/encode-png.js";
import { writePhantoms } from "../../lib/data/phantoms.js";
import { Random } from "../../lib/random.js";
import { cli } from "../support/cli.js";

let folder: string;
const inside = (...parts: string[]) => path.join(folder, ...parts);
const read = (run: string) => JSON.parse(readFileSync(inside(run, "run.json"), "utf8"));
const shifts = (run: string) => readdirSync(inside(run)).filter((name) => name.startsWith("shift"));
const records = (out: string) =>
  readFileSync(path.join(out, "predictions.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

async function predict(run: string, images: string, out: string) {
  const files = readdirSync(images).map((file) => path.join(images, file));
  const { code, stderr } = await cli(["predict", "--run", inside(run), "--out", inside(out), ...files]);
  expect(code, stderr).toBe(0);
  return records(inside(out));
}

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-cli-shift-"));
  await writePhantoms(inside("data"), { count: 80, size: 40, seed: 1 });
  const options = ["--backbone", "plain-unet", "--width", "4", "--depth", "2", "--size", "40", "--epochs", "2"];
  const place = ["--device", "cpu", "--precision", "fp32", "--no-check-kernels"];
  const trained = await cli(["train", "--data", inside("data"), "--run", inside("run"), ...options, ...place]);
  expect(trained.code, trained.stderr).toBe(0);
  await mkdir(inside("noise"));
  const random = new Random(3);
  for (let i = 0; i < 8; i++) {
    const data = Uint8Array.from({ length: 1600 }, () => random.integer(256));
    writeFileSync(inside("noise", `${i}.png`), await encodePng({ data, shape: [40, 40] }));
  }
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("tune", () => {
  it("learns what the training images look like, and predictions say how far others are", async () => {
    await cp(inside("run"), inside("tuned"), { recursive: true });
    const before = await predict("run", inside("noise"), "before");
    expect(before.every(({ tapDistance, scores }) => tapDistance === null && scores.tapDistance === null)).toBe(true);
    const { code, stdout, stderr } = await cli(["tune", inside("tuned")]);
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/\nDistance from \d+ training images at [\w., ]+, ranked among \d+ of validation\.\n/);
    expect(stdout).toMatch(
      /\nGate, too: flag an image whose excess distance is above [\d.]+ \(0\.0 % of the images\)\n/,
    );
    expect(stdout).toMatch(/run\.json, shift\.[0-9a-f]{16}\.safetensors/);
    const { gate, shift, tuning } = read("tuned");
    expect(shift.hash).toMatch(/^[0-9a-f]{64}$/);
    expect(tuning.shift).toMatchObject({ validation: tuning.images, flagged: 0 });
    expect(gate.distance.rule).toContain("taken for normal");
    const after = await predict("tuned", inside("noise"), "after");
    for (const { tapDistance, scores } of after) {
      expect(scores.tapDistance).toBe(tapDistance.value);
      expect(tapDistance.value).toBe(1);
      expect(tapDistance.excess).toBeGreaterThan(gate.distance.threshold);
      expect(Object.keys(tapDistance.taps).length).toBeGreaterThanOrEqual(tuning.shift.taps.length);
    }
  });

  it("learns of the layers that are named, by the measure that is named, or not at all", async () => {
    await cp(inside("run"), inside("other"), { recursive: true });
    const place = ["tune", inside("other")];
    const named = await cli([...place, "--taps", "encoder.1,encoder.0", "--measure", "neighbours", "--json"]);
    expect(named.code, named.stderr).toBe(0);
    expect(JSON.parse(named.stdout).tuning.shift.taps).toEqual(["encoder.0", "encoder.1"]);
    expect((await cli([...place, "--taps", "all"])).code).toBe(0);
    expect(shifts("other")).toHaveLength(1);
    expect(read("other").tuning.shift.taps).toEqual(["encoder.0", "encoder.1"]);
    const wrong = await cli([...place, "--taps", "encoder.7"]);
    expect(wrong).toMatchObject({ code: 1, stdout: "" });
    expect(wrong.stderr).toMatch(/^error \[ERR_LE_OPTION\]: Expected layers among .*encoder\.7/);
    const without = await cli([...place, "--no-shift"]);
    expect(without.code, without.stderr).toBe(0);
    expect(read("other")).not.toHaveProperty("shift");
    expect(read("other").gate).not.toHaveProperty("distance");
    expect(shifts("other")).toEqual([]);
  });

  it("goes on where too few images are there to learn from, and says so", async () => {
    await cp(inside("run"), inside("few"), { recursive: true });
    await cp(inside("data"), inside("few data"), { recursive: true });
    const table = inside("few data", "split.csv");
    let left = 4;
    const lines = readFileSync(table, "utf8").split("\n");
    writeFileSync(table, lines.filter((line) => !/\bval\b/.test(line) || left-- > 0).join("\n"));
    const { code, stderr } = await cli(["tune", inside("few"), "--data", inside("few data")]);
    expect(code, stderr).toBe(0);
    expect(stderr).toMatch(/warning: what the training images look like is not learned: .*5 images or more/);
    expect(read("few")).not.toHaveProperty("shift");
  });

  it("tunes again what knew images of other weights", async () => {
    await cp(inside("tuned"), inside("stale"), { recursive: true });
    await cp(inside("run", "weights.safetensors"), inside("stale", "weights.safetensors"));
    const stale = inside("stale", "weights.safetensors");
    const bytes = readFileSync(stale);
    // A number of the last weight.
    bytes[bytes.length - 4] = (bytes[bytes.length - 4] as number) ^ 1;
    writeFileSync(stale, bytes);
    const told = await cli(["predict", "--run", inside("stale"), "--out", inside("no"), inside("noise", "0.png")]);
    expect(told.code, told.stderr).toBe(0);
    expect(told.stderr).toMatch(/shift\.\w+\.safetensors was made of other weights: .* Run tune again\./);
    expect(records(inside("no"))[0].tapDistance).toBeNull();
    const tuned = await cli(["tune", inside("stale")]);
    expect(tuned.code, tuned.stderr).toBe(0);
    expect(await predict("stale", inside("noise"), "again")).toHaveLength(8);
  });
});
