// Volumes that say where they lie, through the command line and the server: files in, the same grid out.
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { parseCsv } from "../../lib/data/csv.js";
import { encodeNpy } from "../../lib/data/npy-file.js";
import type { Affine, Grid } from "../../lib/grid/index.js";
import { readOutcomes } from "../../lib/runs/outcomes.js";
import { readVolume, writeVolume } from "../../lib/volumes/index.js";
import { cli } from "../support/cli.js";
import { balls } from "../support/model.js";
import { startServer } from "../support/serve.js";

/** What of an answer is looked at. */
interface Answer {
  images: {
    id: string;
    place: object;
    decision: string;
    reasons: { code: string; message: string }[];
    files: Record<string, { type: string; data: string }>;
  }[];
  error: { message: string };
}

interface Tensor {
  shape: number[];
  data: unknown[];
  parameters?: { affine?: string };
}

const predict = (base: string, body: Buffer, { query = "", ...headers }: Record<string, string>) =>
  fetch(`${base}/v1/predict${query}`, { method: "POST", body: body as RequestInit["body"], headers });

let folder: string;
const inside = (...parts: string[]) => path.join(folder, ...parts);
const SHAPE = [9, 16, 14] as const;
/** Axes that run to the left, the back and upwards, as scanners write them. */
const grid = (mm: number): Grid => {
  const affine: Affine = [
    [-1, 0, 0, 70.25],
    [0, -1.25, 0, 33],
    [0, 0, mm, -12.5],
    [0, 0, 0, 1],
  ];
  return { shape: SHAPE, affine };
};

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-placed-"));
  for (const part of ["images", "masks"]) mkdirSync(inside("data", part), { recursive: true });
  const rows: string[] = [];
  for (const [i, { image, mask }] of balls(8, [...SHAPE]).entries()) {
    const own = grid(i === 7 ? 6 : 2);
    await writeVolume(inside("data", "images", `v${i}.nii.gz`), { data: image.data, shape: SHAPE, grid: own });
    await writeVolume(inside("data", "masks", `v${i}.nii.gz`), { ...mask, grid: own }, { label: true });
    rows.push(`v${i},${i < 5 ? "train" : i < 6 ? "val" : "test"}`);
  }
  writeFileSync(inside("data", "split.csv"), `id,split\n${rows.join("\n")}\n`);
  const network = ["--backbone", "unet3d", "--width", "4", "--depth", "2", "--norm", "instance", "--size", "12x16x16"];
  const more = ["--epochs", "1", "--device", "cpu", "--precision", "fp32"];
  const trained = await cli(["train", "--data", inside("data"), "--run", inside("run"), ...network, ...more]);
  if (trained.code !== 0) throw new Error(trained.stderr);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it("are predicted in their own grid and format, and what is unlike the training is said", async () => {
  const { notes } = JSON.parse(readFileSync(inside("run", "run.json"), "utf8"));
  expect(notes.preprocessing.grid).toEqual({ axes: "RAS", spacing: [2, 1.25, 1], crop: "none" });
  expect(notes.data.grids).toEqual({
    orientations: ["LPS"],
    spacing: [
      [2, 1.25, 1],
      [2, 1.25, 1],
    ],
  });
  const to = (out: string) => ["predict", "--run", inside("run"), "--out", inside(out), "--json", "--device", "cpu"];
  const predicted = await cli([...to("out"), "--data", inside("data"), "--split", "test"]);
  expect(predicted).toMatchObject({ code: 0 });
  const records = predicted.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(records[0].place).toMatchObject({ orientation: "LPS", spacing: [2, 1.25, 1], unlikeTraining: [] });
  const { area, place, files } = records[0];
  expect(place.ml.background).toBeCloseTo((area.background * 2.5) / 1000, 9);
  expect(records[1].place.unlikeTraining).toEqual([expect.stringMatching(/voxels are 6×1\.25×1 mm/)]);
  expect(predicted.stderr).toMatch(/warning: v7: its voxels are 6×1\.25×1 mm/);
  const mask = await readVolume(inside("out", files.mask), { kind: "label" });
  expect(mask.grid).toEqual(grid(2));
  const probabilities = await readVolume(inside("out", files.probabilities), { channels: true });
  expect(probabilities).toMatchObject({ grid: grid(2), shape: [2, ...SHAPE] });
  const voxels = mask.data.length;
  for (let i = 0; i < voxels; i++)
    expect(mask.data[i]).toBe(Number((probabilities.data[voxels + i] as number) > (probabilities.data[i] as number)));

  // Other formats have the same place; without a place there is none to write.
  const file = inside("data", "images", "v6.nii.gz");
  for (const [format, ending] of [
    ["nrrd", ".nrrd"],
    ["metaimage", ".mha"],
  ] as const) {
    expect(await cli([...to(format), "--format", format, file])).toMatchObject({ code: 0 });
    const other = await readVolume(inside(format, "masks", `v6${ending}`), { kind: "label" });
    expect(Array.from(other.data)).toEqual(Array.from(mask.data));
    expect(other.grid?.affine.flat().map((mm) => Math.round(mm * 1e6))).toEqual(
      grid(2)
        .affine.flat()
        .map((mm) => Math.round(mm * 1e6)),
    );
  }
  // Intensities of the training's labelled voxels are recorded, and predictions go by them.
  const scaled = inside("scaled");
  const network = ["--backbone", "unet3d", "--width", "4", "--depth", "2", "--norm", "instance", "--size", "12x16x16"];
  const once = ["--epochs", "1", "--device", "cpu", "--precision", "fp32", "--normalise", "training"];
  expect(await cli(["train", "--data", inside("data"), "--run", scaled, ...network, ...once])).toMatchObject({
    code: 0,
  });
  const { normalise } = JSON.parse(readFileSync(path.join(scaled, "run.json"), "utf8")).notes.preprocessing;
  expect(normalise).toMatchObject({ kind: "training", channels: [{ low: expect.any(Number) }] });
  const again = ["predict", "--run", scaled, "--out", inside("scaled out"), "--device", "cpu", file];
  expect(await cli(again)).toMatchObject({ code: 0 });
  // A deep ensemble knows the grids of its training, too.
  const members = ["--method", "de", "--members", "2", "--epochs", "1", "--device", "cpu", "--precision", "fp32"];
  const small = ["--backbone", "unet3d", "--width", "4", "--depth", "2", "--norm", "instance", "--size", "8x16x16"];
  const ensemble = inside("ensemble");
  expect(await cli(["train", "--data", inside("data"), "--run", ensemble, ...small, ...members])).toMatchObject({
    code: 0,
  });
  const other = ["predict", "--run", ensemble, "--out", inside("de"), "--device", "cpu"];
  const far = await cli([...other, inside("data", "images", "v7.nii.gz")]);
  expect(far.stderr).toMatch(/warning: v7: its voxels are 6×1\.25×1 mm/);

  const bare = inside("bare.npy");
  writeFileSync(bare, encodeNpy({ data: new Float32Array(2016).fill(1), shape: SHAPE }));
  const refused = await cli([...to("none"), bare]);
  expect(refused).toMatchObject({ code: 1 });
  expect(refused.stderr).toMatch(/ERR_LE_DATA.*says where it lies.*bare\.npy/s);
});

it("are evaluated and compared as the gate takes them: of another voxel size they are for a person", async () => {
  cpSync(inside("run"), inside("gated"), { recursive: true });
  const file = inside("gated", "run.json");
  const run = JSON.parse(readFileSync(file, "utf8"));
  // It accepts whatever is not refused.
  writeFileSync(file, JSON.stringify({ ...run, gate: { score: "softDiceConfidence", threshold: 0 } }));
  const args = [inside("gated"), "--data", inside("data"), "--device", "cpu", "--precision", "fp32", "--tau", "0.99"];
  const evaluated = await cli(["evaluate", ...args, "--out", inside("evaluated"), "--json"]);
  expect(evaluated).toMatchObject({ code: 0 });
  expect(evaluated.stderr).toContain("warning: 1 of 2 volumes have axes or voxels unlike those of the training");
  const { gate, scores } = JSON.parse(evaluated.stdout);
  const of = (id: string) => scores.find((score: { id: string }) => score.id === id);
  const { empty } = of("v6");
  expect(of("v6")).toMatchObject({ decision: empty ? "review" : "accept" });
  expect(of("v6").unlikeTraining).toBeUndefined();
  expect(of("v7")).toMatchObject({
    decision: "review",
    unlikeTraining: [expect.stringMatching(/6×1\.25×1 mm/)],
    reasons: expect.arrayContaining([{ code: "unlike-training", message: expect.stringMatching(/6×1\.25×1 mm/) }]),
  });
  expect(gate).toMatchObject({ score: "softDiceConfidence", threshold: 0, certified: false, accepted: empty ? 0 : 1 });
  expect(gate).toMatchObject({ tau: 0.99, failed: gate.accepted, review: 2 - gate.accepted });
  expect(gate.reasons["unlike-training"]).toBe(1);
  const { rows } = parseCsv(readFileSync(inside("evaluated", "images.csv"), "utf8"), "images.csv");
  expect(rows.find(({ id }) => id === "v7")).toMatchObject({
    decision: "review",
    reasons: expect.stringContaining("unlike-training"),
    unlike_training: expect.stringContaining("6×1.25×1 mm"),
  });
  // Of other heads than the run's own the gate says nothing.
  const others = await cli(["evaluate", ...args, "--out", inside("others"), "--skip", "1", "--json"]);
  expect(JSON.parse(others.stdout).gate).toBeUndefined();

  const compare = ["compare", ...args, "--out", inside("compared"), "--no-report", "--resamples", "20"];
  const compared = await cli(compare);
  expect(compared).toMatchObject({ code: 0 });
  expect(compared.stdout).toContain("1 of 2 volumes have axes or voxels unlike those of the training");
  const { data, runs } = JSON.parse(readFileSync(inside("compared", "results.json"), "utf8"));
  expect(data.unlikeTraining).toBe(1);
  expect(runs[0].images.map(({ unlikeTraining }: { unlikeTraining?: string[] }) => unlikeTraining?.length)).toEqual([
    undefined,
    1,
  ]);
});

it("are served: the answer lies in the grid of the file, and another voxel size is a reason for review", async () => {
  const token = "a-token-of-some-length";
  writeFileSync(inside("token"), token);
  const server = await startServer([
    inside("run"),
    "--precision",
    "fp32",
    "--outcomes",
    "--outcomes-token",
    inside("token"),
  ]);
  const headers = { "content-type": "application/gzip" };
  const post = async (file: string) => {
    const body = readFileSync(inside("data", "images", file));
    const response = await predict(server.base, body, { query: "?outputs=mask,entropy,overlay", ...headers });
    return { status: response.status, answer: (await response.json()) as Answer };
  };
  const { status, answer } = await post("v6.nii.gz");
  expect(status).toBe(200);
  const image = answer.images[0] as Answer["images"][0];
  expect(image.place).toMatchObject({ orientation: "LPS", unlikeTraining: [] });
  expect(image.reasons.map(({ code }) => code)).not.toContain("unlike-training");
  expect(image.files.mask?.type).toBe("application/x-nifti");
  expect(image.files.overlay?.type).toBe("image/png");
  const mask = await readVolume(Buffer.from(image.files.mask?.data as string, "base64"), { kind: "label" });
  expect(mask.grid).toEqual(grid(2));
  expect(mask.shape).toEqual(SHAPE);
  const other = await post("v7.nii.gz");
  expect(other.answer.images[0]).toMatchObject({ decision: "review" });
  expect(other.answer.images[0]?.reasons).toContainEqual({
    code: "unlike-training",
    message: expect.stringContaining("6×1.25×1 mm"),
  });
  // What is told of them later says the same: a certificate renewed by it would else count a case as accepted that never is.
  for (const { id } of [image, other.answer.images[0] as Answer["images"][0]]) {
    const told = await fetch(`${server.base}/v1/outcomes`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
      body: JSON.stringify({ id, dice: 0.5 }),
    });
    expect(told.status).toBe(201);
  }
  const { outcomes } = await readOutcomes(inside("run"));
  expect(outcomes.map(({ acceptable }) => acceptable)).toEqual([true, false]);
  const bare = await predict(server.base, encodeNpy({ data: new Float32Array(2016).fill(1), shape: SHAPE }), {
    "content-type": "application/x-npy",
  });
  expect(bare.status).toBe(400);
  expect(((await bare.json()) as Answer).error.message).toMatch(/says where it lies/);
  // A tensor with the file's affine is the same volume, and is answered with it.
  const stored = await readVolume(inside("data", "images", "v6.nii.gz"));
  const infer = async (affine?: string) => {
    const input = { name: "image", shape: [1, 1, ...SHAPE], datatype: "FP32", data: [...stored.data] };
    const response = await fetch(`${server.base}/v2/models/run/infer`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        inputs: [{ ...input, ...(affine && { parameters: { affine } }) }],
        outputs: [{ name: "mask" }, { name: "decision" }, { name: "aula" }],
      }),
    });
    return { status: response.status, ...((await response.json()) as { outputs: Tensor[]; error?: string }) };
  };
  const text = (of: Grid) => of.affine.flat().join(",");
  const own = await infer(text(stored.grid as Grid));
  expect(own.status, own.error).toBe(200);
  expect(own.outputs[0]).toMatchObject({ shape: [1, ...SHAPE], parameters: { affine: text(grid(2)) } });
  expect(own.outputs[0]?.data).toEqual(Array.from(mask.data));
  expect(own.outputs[1]).not.toHaveProperty("parameters");
  const unlike = await infer(text(grid(6)));
  expect(unlike.outputs[0]?.parameters).toEqual({ affine: text(grid(6)) });
  expect(unlike.outputs[1]?.data).toEqual(["review"]);
  expect(await infer()).toMatchObject({ status: 400, error: expect.stringContaining("says where it lies") });
  const cut = readFileSync(inside("data", "images", "v6.nii.gz")).subarray(0, 200);
  expect((await predict(server.base, cut, headers)).status).toBe(400);
});
