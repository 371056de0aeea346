// Volumes through the command line: .npy files in, .npy files out.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { readImage } from "../../lib/data/image.js";
import { encodeNpy, readNpy } from "../../lib/data/npy-file.js";
import { cli } from "../support/cli.js";
import { balls } from "../support/model.js";

let folder: string;
const inside = (...parts: string[]) => path.join(folder, ...parts);

beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-volumes-"));
  for (const part of ["images", "masks"]) mkdirSync(inside("data", part), { recursive: true });
  const rows = balls(8, [9, 16, 14]).map(({ image, mask }, i) => {
    writeFileSync(inside("data", "images", `v${i}.npy`), encodeNpy({ data: image.data, shape: [9, 16, 14] }));
    writeFileSync(inside("data", "masks", `v${i}.npy`), encodeNpy(mask));
    return `v${i},${i < 5 ? "train" : i < 6 ? "val" : "test"}`;
  });
  writeFileSync(inside("data", "split.csv"), `id,split\n${rows.join("\n")}\n`);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it("trains, evaluates and predicts", async () => {
  const [data, run, out] = [inside("data"), inside("run"), inside("out")];
  const network = ["--backbone", "unet3d", "--width", "4", "--depth", "2", "--norm", "instance", "--size", "8x16x16"];
  const trained = await cli(["train", "--data", data, "--run", run, ...network, "--epochs", "2", "--device", "cpu"]);
  expect(trained.stderr).not.toContain("error");
  expect(trained.code).toBe(0);
  const { ensemble, notes } = JSON.parse(readFileSync(path.join(run, "run.json"), "utf8"));
  expect(ensemble.inputSize).toEqual([8, 16, 16]);
  // Of their 9 slices the network sees 8.
  const cropped = (images: number) => ({ images, mean: expect.closeTo(1 / 9, 6), most: expect.closeTo(1 / 9, 6) });
  const warning = (of: number) => new RegExp(`warning: ${of} of ${of} volumes are larger .* 8×16×16: 11 % on average`);
  expect(notes.data.cropped).toEqual(cropped(6));
  expect(trained.stderr.match(/warning: .* are larger/g)).toHaveLength(1);
  expect(trained.stderr).toMatch(warning(6));

  const evaluated = await cli(["evaluate", "--run", run, "--json", "--device", "cpu"]);
  expect(evaluated.code).toBe(0);
  expect(evaluated.stderr).toMatch(warning(2));
  const { images, scores, cropped: unseen } = JSON.parse(evaluated.stdout);
  expect(unseen).toEqual(cropped(2));
  expect(scores[0].cropped).toBeCloseTo(1 / 9, 6);
  expect(images).toBe(2);
  expect(scores[0].dice).toBeGreaterThanOrEqual(0);

  const all = ["--maps", "entropy,variance", "--device", "cpu"];
  const predicted = await cli([
    "predict",
    "--run",
    run,
    "--out",
    out,
    "--json",
    "--data",
    data,
    "--split",
    "test",
    ...all,
  ]);
  expect(predicted.code).toBe(0);
  const record = JSON.parse(predicted.stdout.split("\n")[0] as string);
  expect(record).toMatchObject({ id: "v6", depth: 9, height: 16, width: 14, cropped: expect.closeTo(1 / 9, 6) });
  expect(predicted.stderr).toMatch(warning(2));
  const mask = await readNpy(path.join(out, record.files.mask));
  expect(mask.shape).toEqual([9, 16, 14]);
  const probabilities = await readNpy(path.join(out, record.files.probabilities));
  expect(probabilities.shape).toEqual([2, 9, 16, 14]);
  const n = mask.data.length;
  for (let i = 0; i < n; i++) {
    const [p0, p1] = [probabilities.data[i] as number, probabilities.data[n + i] as number];
    expect(p0 + p1).toBeCloseTo(1, 5);
    expect(mask.data[i]).toBe(p1 > p0 ? 1 : 0);
  }
  for (const map of ["entropy", "variance"])
    expect((await readNpy(path.join(out, record.files[map]))).shape).toEqual([9, 16, 14]);
  const [, height = 0, width = 1] = (await readImage(path.join(out, record.files.overlay))).shape;
  expect(height / width).toBeCloseTo(16 / 14, 1);

  const one = path.join(data, "images", "v6.npy");
  const sets = await cli(["predict", "--run", run, "--out", inside("sets"), "--json", "--sets", "0.2,0.9", one]);
  expect(sets.code).toBe(0);
  const { files } = JSON.parse(sets.stdout);
  const outer = await readNpy(inside("sets", files.outer));
  expect(outer.shape).toEqual([9, 16, 14]);
  expect(
    (await readNpy(inside("sets", files.inner))).data.every((voxel, i) => voxel <= (outer.data[i] as number)),
  ).toBe(true);
  const alone = await cli(["predict", "--run", run, "--out", inside("alone"), "--device", "cpu", one]);
  expect(alone.code).toBe(0);
  expect(await readNpy(inside("alone", "masks", "v6.npy"))).toEqual(mask);
});

it("says what is wrong with a size or a file", async () => {
  const train = ["train", "--data", inside("data"), "--run", inside("none"), "--device", "cpu"];
  const flat = await cli([...train, "--backbone", "unet3d", "--size", "32x32"]);
  expect(flat).toMatchObject({ code: 2, stdout: "" });
  expect(flat.stderr).toContain("--backbone unet3d needs a --size of 3 sides, not 32x32");
  const deep = await cli([...train, "--backbone", "unet", "--size", "8x32x32"]);
  expect(deep.stderr).toContain("needs a --size of 2 sides");
  const images = await cli([...train, "--backbone", "plain-unet", "--size", "32x32"]);
  expect(images.code).toBe(1);
  expect(images.stderr).toMatch(/ERR_LE_DATA.*v\d\.npy.*9 bands: H×W or C×H×W of 9×/);
});
