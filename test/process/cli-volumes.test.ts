// Volumes through the command line: .npy files in, .npy files out.
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { readImage } from "../../lib/data/image.js";
import { encodeNpy, readNpy } from "../../lib/data/npy-file.js";
import { loadModel, preprocess } from "../../lib/index.js";
import { type NdArray, quality } from "../../lib/metrics/index.js";
import { itemsOf, parseDicom } from "../../lib/volumes/dicom/parser.js";
import { type Grid, readSeries, readVolume, writeVolume } from "../../lib/volumes/index.js";
import { cli } from "../support/cli.js";
import { balls } from "../support/model.js";
import { dicomFile, type Elements, slice } from "../unit/support/dicom.js";

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

  const evaluated = await cli(["evaluate", "--run", run, "--json", "--device", "cpu", "--lesions"]);
  expect(evaluated.code).toBe(0);
  expect(evaluated.stderr).toMatch(warning(2));
  const { images, scores, lesions, units, cropped: unseen } = JSON.parse(evaluated.stdout);
  expect(units).toEqual({ length: "voxels", size: "voxels", tolerance: 1 });
  expect(Object.values(lesions)).toMatchObject([{ cases: 2, lesions: expect.any(Number) }]);
  expect(readFileSync(path.join(run, "evaluation-test", "lesions.csv"), "utf8")).toMatch(/^id,class,is,sizes,voxels,/);
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

  // By tiles the network sees all of it, at its own size.
  const tiles = ["--tile", "auto", "--overlap", "0.25", "--mirror", "width", "--device", "cpu"];
  const tiled = await cli(["predict", "--run", run, "--out", inside("tiled"), "--json", ...tiles, one]);
  expect(tiled.stderr).not.toMatch(/larger/);
  expect(JSON.parse(tiled.stdout)).toMatchObject({
    ...{ depth: 9, height: 16, width: 14, cropped: 0 },
    tiles: { size: [8, 16, 16], overlap: 0.25, weights: "gaussian", mirror: ["width"] },
  });
  await using model = await loadModel(run, { device: "cpu" });
  const { data: stored, shape } = await readNpy(one);
  const { image } = preprocess(
    { data: Float32Array.from(stored), shape: [1, ...shape] },
    { ...notes.preprocessing, size: null },
  );
  const expected = await model.predict(image, { tile: [8, 16, 16], overlap: 0.25, mirror: ["width"] });
  expect(await readNpy(inside("tiled", "masks", "v6.npy"))).toEqual(expected.mask);
  const judged = await cli(["evaluate", "--run", run, "--json", "--out", inside("judged"), ...tiles]);
  expect(judged.code).toBe(0);
  const summary = JSON.parse(judged.stdout);
  expect(summary.tiles).toEqual({ tile: "auto", overlap: 0.25, mirror: ["width"] });
  expect(summary.scores[0].cropped).toBe(0);
  const lone = await cli(["predict", "--run", run, "--out", inside("lone"), "--overlap", "0.25", one]);
  expect(lone.stderr).toContain("Expected option 'tile' with 'overlap'");
  expect(lone.code).toBe(1);
});

it("writes of a DICOM series segmentations and a map of its study, or another format", async () => {
  const [data, run, series] = [inside("placed"), inside("placed-run"), inside("series")];
  mkdirSync(series);
  const grid: Grid = {
    shape: [9, 16, 14],
    affine: [
      [-0.25, 0, 0, 10],
      [0, -0.5, 0, 20],
      [0, 0, 2, 0],
      [0, 0, 0, 1],
    ],
  };
  for (const id of ["v0", "v1", "v5"])
    for (const part of ["images", "masks"]) {
      const array = await readNpy(inside("data", part, `${id}.npy`));
      await writeVolume(path.join(data, part, `${id}.nii.gz`), { ...array, grid }, { label: part === "masks" });
    }
  writeFileSync(path.join(data, "split.csv"), "id,split\nv0,train\nv1,train\nv5,val\n");
  const network = ["--backbone", "unet3d", "--width", "4", "--depth", "2", "--norm", "instance", "--size", "8x16x16"];
  const trained = await cli(["train", "--data", data, "--run", run, ...network, "--epochs", "2", "--device", "cpu"]);
  expect(trained.code, trained.stderr).toBe(0);
  const { data: values } = await readNpy(inside("data", "images", "v6.npy"));
  const size = 16 * 14;
  for (let k = 0; k < 9; k++) {
    const pixels = Uint16Array.from({ length: size }, (_, i) => 1000 + 100 * (values[k * size + i] as number));
    const extra: Elements = {
      "00080060": ["CS", "MR"],
      "00100020": ["LO", "P7"],
      "0020000d": ["UI", "1.2.9"],
      "00200052": ["UI", "1.2.8"],
      "00280010": ["US", 16],
      "00280011": ["US", 14],
      "7fe00010": ["OW", Buffer.from(pixels.buffer)],
    };
    writeFileSync(path.join(series, `${9 - k}.dcm`), dicomFile(slice(2 * k, 0, extra)));
  }
  const predict = async (out: string, ...more: string[]) => {
    const given = ["--run", run, "--out", inside(out), "--device", "cpu", "--json", "--sets", "0.2,0.9", ...more];
    const { code, stdout, stderr } = await cli(["predict", ...given, series]);
    expect(code, stderr).toBe(0);
    return JSON.parse(stdout).files as Record<string, string>;
  };
  const files = await predict("dicom");
  const nifti = await predict("nifti", "--format", "nifti");
  const source = await readSeries(series);
  for (const what of ["mask", "outer"]) {
    const label = await readVolume(inside("nifti", nifti[what] as string), { kind: "label" });
    expect(label.shape).toEqual([9, 16, 14]);
    const file = inside("dicom", files[what] as string);
    const read = await readSeries(file);
    const name = what === "mask" ? "foreground" : what;
    expect(read.segments).toEqual([{ number: 1, name }]);
    // A file has the slices from the first that anything is in to the last.
    const filled = [...label.data.keys()].filter((i) => label.data[i]).map((i) => Math.floor(i / size));
    const [first, last] = filled.length > 0 ? [filled[0] as number, filled.at(-1) as number] : [0, 8];
    expect([...read.data]).toEqual([...label.data.subarray(first * size, (last + 1) * size)]);
    expect(read.grid?.affine.map((row) => row[3])).toEqual([10, 20, 2 * first, 1]);
    expect(new Set(read.slices.map((one) => one.sopClassUID))).toEqual(new Set(["1.2.840.10008.5.1.4.1.1.66.4"]));
    expect(read.seriesInstanceUID).not.toBe(source.seriesInstanceUID);
  }
  const { data: set } = await parseDicom(readFileSync(inside("dicom", files.probabilities as string)), "file");
  expect([set.string("x00620001"), set.string("x00100020"), set.string("x0020000d")]).toEqual([
    "FRACTIONAL",
    "P7",
    "1.2.9",
  ]);
  const { data: colours } = await parseDicom(readFileSync(inside("dicom", files.mask as string)), "file");
  expect(itemsOf(colours, "x00620002")[0]?.elements.x0062000d).toBeDefined();
  const entropy = await readVolume(inside("nifti", nifti.entropy as string));
  const { data: map } = await parseDicom(readFileSync(inside("dicom", files.entropy as string)), "file");
  const { dataOffset = 0, length = 0 } = map.elements.x7fe00008 ?? {};
  const floats = new Float32Array(new Uint8Array(map.byteArray.subarray(dataOffset, dataOffset + length)).buffer);
  expect(floats).toEqual(entropy.data);

  const nii = path.join(data, "images", "v5.nii.gz");
  const refused = await cli([
    "predict",
    "--run",
    run,
    "--out",
    inside("no"),
    "--device",
    "cpu",
    "--format",
    "seg",
    nii,
  ]);
  expect(refused.code).toBe(1);
  expect(refused.stderr).toMatch(/ERR_LE_OPTION.*a DICOM series for --format seg.*v5, which is nifti/);

  // Names that no segment can have are refused before anything is read where segments are asked for, else before it is predicted.
  const damaged = inside("damaged.nii");
  writeFileSync(damaged, "no volume");
  for (const name of [" ", "x".repeat(65), "a\\b"]) {
    const renamed = inside("renamed-run");
    rmSync(renamed, { recursive: true, force: true });
    cpSync(run, renamed, { recursive: true });
    const described = JSON.parse(readFileSync(path.join(renamed, "run.json"), "utf8"));
    described.notes.classNames[1] = name;
    writeFileSync(path.join(renamed, "run.json"), JSON.stringify(described));
    const given = ["predict", "--run", renamed, "--out", inside("no"), "--device", "cpu"];
    for (const more of [["--format", "seg", damaged], [series]]) {
      const ended = await cli([...given, ...more]);
      expect([ended.code, ended.stderr]).toEqual([
        1,
        expect.stringMatching(/ERR_LE_OPTION.*1 to 64 characters.*class names/),
      ]);
    }
    expect((await cli([...given, "--format", "nifti", series])).code).toBe(0);
  }
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

it("measures volumes that say where they lie in millimetres, one by one and in a comparison", async () => {
  const [data, run, out] = [inside("measured"), inside("measured-run"), inside("measured-out")];
  const shape = [9, 16, 14] as const;
  // Each volume has a spacing of its own.
  const affine = (i: number) =>
    [
      [0, -0.75, 0, 12],
      [0.5 + i / 100, 0, 0, -20],
      [0, 0, 2.5, 30],
      [0, 0, 0, 1],
    ] as const;
  for (const [i, { image, mask }] of balls(7, [...shape]).entries()) {
    const grid = { shape, affine: affine(i) };
    await writeVolume(path.join(data, "images", `v${i}.nii.gz`), { data: image.data, shape, grid });
    await writeVolume(path.join(data, "masks", `v${i}.nii.gz`), { data: mask.data, shape, grid }, { label: true });
  }
  const rows = [0, 1, 2, 3, 4, 5, 6].map((i) => `v${i},${i < 4 ? "train" : i < 5 ? "val" : "test"}`);
  writeFileSync(path.join(data, "split.csv"), `id,split\n${rows.join("\n")}\n`);
  const small = ["--backbone", "unet3d", "--width", "4", "--depth", "2", "--norm", "instance", "--size", "8x16x16"];
  const trained = await cli(["train", "--data", data, "--run", run, ...small, "--epochs", "2", "--device", "cpu"]);
  expect(trained).toMatchObject({ code: 0 });

  const evaluated = await cli(["evaluate", "--run", run, "--json", "--device", "cpu", "--tolerance", "2"]);
  expect(evaluated.code).toBe(0);
  const { scores, units } = JSON.parse(evaluated.stdout);
  expect(units).toEqual({ length: "mm", size: "ml", tolerance: 2 });
  const predicted = await cli([
    "predict",
    "--run",
    run,
    "--out",
    out,
    "--data",
    data,
    "--split",
    "test",
    "--structures",
  ]);
  expect(predicted.code).toBe(0);
  const lines = readFileSync(path.join(out, "predictions.jsonl"), "utf8").trim().split("\n");
  for (const line of lines) {
    const { id, files, structures } = JSON.parse(line);
    const mask = await readVolume(path.join(out, files.mask), { kind: "label" });
    const truth = await readVolume(path.join(data, "masks", `${id}.nii.gz`), { kind: "label" });
    const [z, y, x] = [2.5, 0.75, Math.fround(0.5 + Number(id[1]) / 100)];
    const arrays = [mask, truth].map(({ data: labels, shape: own }) => ({ data: labels as Uint8Array, shape: own }));
    const expected = quality(arrays[0] as NdArray<Uint8Array>, arrays[1] as NdArray<Uint8Array>, {
      ...{ classes: 2, spacing: [z, y, x], tolerance: 2 },
    }).perClass[1];
    const own = scores.find((score: { id: string }) => score.id === id).quality.perClass[1];
    for (const name of ["hd95", "assd", "surfaceDice", "volume", "trueVolume"] as const) {
      const wanted = expected?.[name] as number;
      if (Number.isNaN(wanted)) expect(own[name], name).toBeNull();
      else expect(Math.abs(own[name] - wanted), name).toBeLessThan(1e-6);
    }
    for (const { voxels, volume } of structures) expect(volume).toBeCloseTo((voxels * z * y * x) / 1000, 9);
  }
  const text = await cli(["evaluate", "--run", run, "--device", "cpu"]);
  expect(text.stdout).toContain("HD95 (mm)");
  const compare = [
    "compare",
    run,
    "--out",
    inside("measured-compared"),
    "--no-report",
    "--lesions",
    "--tolerance",
    "2",
    "--resamples",
    "50",
    "--device",
    "cpu",
  ];
  const compared = await cli(compare);
  expect(compared).toMatchObject({ code: 0 });
  expect(compared.stdout).toContain("MHD (mm)");
  const results = JSON.parse(readFileSync(inside("measured-compared", "results.json"), "utf8"));
  expect(results).toMatchObject({
    spacing: null,
    units: { length: "mm", size: "ml", tolerance: 2 },
    lesionRule: { lesionOverlap: 0.1, neighbours: "face" },
  });
  // What each volume was measured by itself.
  for (const image of results.runs[0].images) {
    const { image: own } = scores.find(({ id }: { id: string }) => id === image.id).quality;
    for (const name of ["hd95", "surfaceDice", "volume", "trueVolume", "lesionSensitivity", "falsePositives"])
      expect(image[name], name).toBe(own[name]);
  }
  expect(results.runs[0].lesions.foreground ?? results.runs[0].lesions["class 1"]).toMatchObject({
    cases: 2,
    lesions: 2,
  });
  expect(compared.stdout).toMatch(/surface Dice \(2 mm\) +volume \(ml\) +true volume \(ml\)/);
  expect(compared.stdout).toMatch(/AUROC of AULA/);
  expect(readFileSync(inside("measured-compared", "tables", "lesions.csv"), "utf8")).toMatch(
    /^method,seed,class,cases,lesions,found,sensitivity,false_positives,/,
  );
});
