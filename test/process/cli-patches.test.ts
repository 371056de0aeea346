// A run by patches through the command line: tuned, certified, evaluated and predicted by its own tiles, and what was learned so
// is not told of predictions that are made otherwise.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Affine } from "../../lib/grid/index.js";
import { readVolume, writeVolume } from "../../lib/volumes/index.js";
import { cli } from "../support/cli.js";
import { balls } from "../support/model.js";
import { startServer } from "../support/serve.js";

let folder: string;
const inside = (...parts: string[]) => path.join(folder, ...parts);
const AFFINE: Affine = [
  [-1, 0, 0, 70.25],
  [0, -1, 0, 33],
  [0, 0, 2, -12.5],
  [0, 0, 0, 1],
];

async function done(...args: string[]) {
  const ended = await cli(args);
  if (ended.code !== 0) throw new Error(`${args.join(" ")}: ${ended.stderr}`);
  return ended;
}

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-patches-"));
  for (const part of ["images", "masks"]) mkdirSync(inside("data", part), { recursive: true });
  const rows: string[] = [];
  for (let i = 0; i < 32; i++) {
    const shape = [9 + (i % 3), 12 + (i % 4), 13] as [number, number, number];
    const [{ image, mask }] = balls(1, shape, i + 1) as [ReturnType<typeof balls>[number]];
    const grid = { shape, affine: AFFINE };
    await writeVolume(inside("data", "images", `v${i}.nii.gz`), { data: image.data, shape, grid });
    await writeVolume(inside("data", "masks", `v${i}.nii.gz`), { ...mask, grid }, { label: true });
    rows.push(`v${i},${i < 12 ? "train" : i < 20 ? "val" : i < 30 ? "calibration" : "test"}`);
  }
  writeFileSync(inside("data", "split.csv"), `id,split\n${rows.join("\n")}\n`);
  const network = ["--backbone", "unet3d", "--width", "6", "--depth", "2", "--norm", "instance", "--patch", "8x8x8"];
  const more = [
    "--epochs",
    "6",
    "--batch-size",
    "4",
    "--learning-rate",
    "0.02",
    "--device",
    "cpu",
    "--precision",
    "fp32",
  ];
  await done("train", "--data", inside("data"), "--run", inside("run"), ...network, ...more);
  await done("tune", inside("run"), "--device", "cpu");
}, 100_000);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it("is recorded, and tuned by its tiles", () => {
  const run = JSON.parse(readFileSync(inside("run", "run.json"), "utf8"));
  expect(run).toMatchObject({
    tiles: { size: [8, 8, 8], overlap: 0.5, weights: "gaussian" },
    training: { patch: [8, 8, 8], patchForeground: 0.33 },
    tuning: { measuredAt: "image's own size, as it was prepared, by tiles" },
    notes: { preprocessing: { size: null }, options: { patch: [8, 8, 8] } },
  });
});

it("predicts by them in the file's own grid, with all that was learned, and without it otherwise", async () => {
  const predict = (out: string, ...more: string[]) =>
    done(
      "predict",
      "--run",
      inside("run"),
      "--data",
      inside("data"),
      "--split",
      "test",
      "--out",
      inside(out),
      "--json",
      "--device",
      "cpu",
      ...more,
    );
  const records = (text: string) =>
    text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
  const own = await predict("own");
  for (const record of records(own.stdout)) {
    expect(record.tiles).toMatchObject({ size: [8, 8, 8], overlap: 0.5 });
    expect(record.predictedDice.overall.dice).toBeGreaterThan(0.3);
    expect(record.tapDistance.value).toBeGreaterThanOrEqual(0);
    expect(record.cropped).toBe(0);
    const [mask, image] = [`own/masks/${record.id}.nii.gz`, `data/images/${record.id}.nii.gz`];
    expect((await readVolume(inside(mask))).grid).toEqual((await readVolume(inside(image))).grid);
  }
  expect(own.stderr).not.toContain("left out");
  for (const other of [
    ["--tile", "none"],
    ["--overlap", "0.25"],
    ["--mirror", "depth"],
  ]) {
    const { stdout, stderr } = await predict(`other-${other[1]}`, ...other);
    expect(stderr).toContain(
      "which were fitted to predictions by tiles of 8×8×8 with an overlap of 0.5, are left out of others",
    );
    for (const record of records(stdout)) expect([record.predictedDice, record.tapDistance]).toEqual([null, null]);
  }
});

it("is evaluated and certified by them, and serves the certificate for them alone", async () => {
  const evaluated = JSON.parse((await done("evaluate", inside("run"), "--device", "cpu", "--json")).stdout);
  expect(evaluated.tiles).toEqual({ size: [8, 8, 8], overlap: 0.5, weights: "gaussian" });
  const promise = ["--alpha", "0.5", "--tau", "0.3", "--delta", "0.4"];
  await done("certify", inside("run"), ...promise, "--device", "cpu");
  const server = await startServer([inside("run")]);
  const body = readFileSync(inside("data", "images", "v30.nii.gz"));
  const ask = async (query = "") => {
    const answer = await fetch(`${server.base}/v1/predict${query}`, { method: "POST", body });
    return ((await answer.json()) as { images: object[] }).images[0];
  };
  expect(await ask()).toMatchObject({ tiles: { size: [8, 8, 8] }, certificate: { state: "valid" } });
  expect(await ask("?overlap=0.25")).toMatchObject({ decision: "review", certificate: { state: "stale" } });
});
