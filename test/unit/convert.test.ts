// `info` and `convert`: what is told of volumes and images, what is written, and what is refused.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writePng } from "../../lib/data/encode-png.js";
import { encodeNpy } from "../../lib/data/npy-file.js";
import type { Grid } from "../../lib/grid/index.js";
import { itemsOf, parseDicom } from "../../lib/volumes/dicom/parser.js";
import { readSeries, readVolume, reorient, spacingOf, writeVolume } from "../../lib/volumes/index.js";
import { inProcess as cli } from "../support/in-process.js";
import { niftiFile } from "../support/volume-files.js";
import { dicomFile, slice } from "./support/dicom.js";

let root = "";
const at = (...parts: string[]) => path.join(root, ...parts);
const shape = [2, 3, 4] as const;
const values = Float32Array.from({ length: 24 }, (_, i) => i - 3.5);
/** Turned and oblique: what a flip or a permutation would change. */
const affine = [
  [0, -0.75, 0.125, 12.5],
  [0.5, 0, 0, -20],
  [0, 0.25, 2.5, 30.25],
  [0, 0, 0, 1],
] as const;

const SLICES = [2, 2, 3] as const;
/** Of a label map that becomes a segmentation of `axial`. */
const SEG = ["--label", "--source", "axial"];
const STUDY = {
  "00080060": ["CS", "MR"],
  "0020000d": ["UI", "1.2.9"],
  "00200052": ["UI", "1.2.8"],
};

function series(folder: string, ...slices: Parameters<typeof slice>[]): void {
  mkdirSync(at(folder), { recursive: true });
  for (const [i, of] of slices.entries()) writeFileSync(at(folder, `${i}`), dicomFile(slice(...of)));
}

beforeAll(async () => {
  root = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-info-"));
  const grid = { shape, affine };
  await writeVolume(at("halves.nrrd"), { data: values, shape, grid });
  await writeVolume(at("counts.nii"), { data: Int16Array.from(values, (value) => 100 * (value + 3.5)), shape, grid });
  const labels = Uint8Array.from({ length: 24 }, (_, i) => [0, 0, 1, 2][i % 4] as number);
  await writeVolume(at("labels.mha"), { data: labels, shape, grid });
  writeFileSync(at("labels.npy"), encodeNpy({ data: labels, shape }));
  const few = { data: labels.slice(0, 12), shape: SLICES };
  writeFileSync(at("bare.npy"), encodeNpy(few));
  const counted = Uint8Array.from({ length: 24 }, (_, i) => i);
  await writeVolume(at("small.nii"), { data: counted, shape, grid });
  series("axial", ...[0, 1].map((k) => [3 * k, k, STUDY] as never));
  const lies = (await readVolume(at("axial"))).grid as Grid;
  const canonical = reorient({ ...few, grid: lies }, "RAS");
  await writeVolume(at("lie.nii"), canonical, { label: true });
  const [x] = lies.affine;
  const moved = [[x[0], x[1], x[2], x[3] + 0.4 * Math.hypot(...[0, 1, 2].map((row) => lies.affine[row as 0][0]))]];
  const affineMoved = [...moved, ...lies.affine.slice(1)] as unknown as Grid["affine"];
  await writeVolume(at("moved.nii"), { ...few, grid: { shape: SLICES, affine: affineMoved } }, { label: true });
  writeFileSync(at("several.nii"), niftiFile({ dim: [4, 4, 3, 1, 2], sform: 1 }));
  series("tilted", ...[0, 1, 2].map((k) => [k, k, { "00200032": ["DS", `-10\\${-20 + k / 4}\\${k}`] }] as never));
  const uid = (n: number) => ({ "0020000e": ["UI", `1.2.4.${n}`], "00080018": ["UI", `1.2.3.${n}`] });
  series(
    "two",
    [0, 0, uid(1) as never],
    [2, 6, { ...uid(1), "00080018": ["UI", "1.2.3.9"] } as never],
    [0, 50, uid(2) as never],
  );
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** The lines of `info --json`. */
async function info(...args: string[]) {
  const { code, stdout, stderr } = await cli(["info", "--json", ...args]);
  const items = stdout.split("\n").filter(Boolean);
  return { code, stderr, items: items.map((line) => JSON.parse(line)) };
}

describe("info", () => {
  it("tells of a volume where it lies and what its values are", async () => {
    const { code, items } = await info(at("halves.nrrd"));
    expect(code).toBe(0);
    expect(items).toHaveLength(1);
    const [item] = items;
    expect(item).toMatchObject({
      kind: "volume",
      format: "nrrd",
      shape,
      channels: 1,
      type: "float32",
      grid: { affine },
    });
    expect(item).toMatchObject({
      orientation: "ALS",
      warnings: ["Its axes are up to 15.57 degrees from right angles."],
    });
    const spacing = [Math.hypot(0.125, 2.5), Math.hypot(0.75, 0.25), 0.5];
    for (const [axis, mm] of spacing.entries()) {
      expect(item.spacing[axis]).toBeCloseTo(mm, 12);
      expect(item.extent[axis]).toBeCloseTo(mm * (shape[axis] as number), 12);
    }
    // The axes of y and z are not at right angles: the volume of a voxel is not the product of its edges.
    expect(item.voxelVolume).toBeCloseTo(0.5 * (0.75 * 2.5 + 0.125 * 0.25), 12);
    // 24 values, linear between order statistics: 5 % is at 1.15.
    expect(item.values).toMatchObject({ min: -3.5, max: 19.5, nonFinite: 0 });
    const level = (percent: number) => (percent / 100) * 23 - 3.5;
    for (const [percent, value] of item.values.percentiles) expect(value).toBeCloseTo(level(percent), 6);
    expect(item.values.percentiles.map(([percent]: number[]) => percent)).toEqual([0.5, 5, 50, 95, 99.5]);
    const text = (await cli(["info", at("halves.nrrd")])).stdout;
    for (const said of ["nrrd", "2 × 3 × 4 voxels", "float32", "ALS", "-3.5 to 19.5", "50 %: 8", "12.5"])
      expect(text).toContain(said);
  });

  it("counts labels, in millilitres where a voxel's size is known", async () => {
    const { items } = await info(at("labels.mha"), "--label");
    expect(items[0].labels).toEqual({ 0: 12, 1: 6, 2: 6 });
    const text = (await cli(["info", at("labels.mha"), "--label"])).stdout;
    expect(text).toContain(`6 voxels, ${Number(((6 * items[0].voxelVolume) / 1000).toPrecision(6))} ml`);
    const unknown = (await cli(["info", at("labels.npy"), "--label"])).stdout;
    expect(unknown).toMatch(/label 1 +6 voxels\n/);
    const fractions = await info(at("halves.nrrd"), "--label");
    expect(fractions).toMatchObject({ code: 1, items: [{ refused: { code: "ERR_LE_DATA" } }] });
  });

  it("tells of an image its size, channels and depth", async () => {
    mkdirSync(at("pictures"), { recursive: true });
    const wide = Uint16Array.from({ length: 6 }, (_, i) => 1000 * i);
    await writePng(at("pictures", "wide.png"), { data: wide, shape: [2, 3] });
    const colours = Uint8Array.from({ length: 18 }, (_, i) => i);
    await writePng(at("pictures", "rgb.png"), { width: 3, height: 2, data: colours });
    writeFileSync(at("pictures", "flat.npy"), encodeNpy({ data: new Float32Array(6).fill(2), shape: [2, 3] }));
    const { code, items } = await info(at("pictures"));
    expect(code).toBe(0);
    expect(items).toMatchObject([
      { kind: "image", format: "npy", shape: [2, 3], channels: 1, values: { min: 2, max: 2 } },
      { kind: "image", format: "png", shape: [2, 3], channels: 3, type: "8 bits", values: { min: 0, max: 17 } },
      { kind: "image", format: "png", shape: [2, 3], channels: 1, type: "16 bits", values: { min: 0, max: 5000 } },
    ]);
  });

  it("lists the volumes of a folder of slices, and says why one is refused and what overrides it", async () => {
    const two = await info(at("two"));
    expect(two.code).toBe(0);
    expect(two.items).toMatchObject([
      {
        series: "1.2.4.1",
        shape: [2, 2, 3],
        values: { min: 0, max: 11 },
        warnings: [expect.stringContaining("--series 1")],
      },
      { series: "1.2.4.2", shape: [1, 2, 3], values: { min: 50, max: 55 } },
    ]);
    expect((await info(at("two"), "--series", "2")).items).toMatchObject([{ series: "1.2.4.2" }]);
    const none = await info(at("two"), "--series", "3");
    expect(none).toMatchObject({ code: 1, items: [{ refused: { code: "ERR_LE_OPTION" } }] });
    const tilted = await info(at("tilted"));
    expect(tilted.code).toBe(1);
    expect(tilted.items[0].refused.message).toMatch(/tilt of 14\.036 degrees.*allowTilt/);
    const allowed = await info(at("tilted"), "--allow-tilt");
    expect(allowed).toMatchObject({ code: 0, items: [{ shape: [3, 2, 3] }] });
    expect(allowed.items[0].warnings.join(" ")).toMatch(/sheared.*14\.04 degrees from right angles/);
  });

  it("looks at all of a folder, and fails where something would be refused", async () => {
    mkdirSync(at("folder", "below"), { recursive: true });
    writeFileSync(at("folder", "notes.txt"), "no image");
    writeFileSync(at("folder", "whole.nii"), readFileSync(at("counts.nii")));
    writeFileSync(at("folder", "below", "cut.nii"), readFileSync(at("counts.nii")).subarray(0, 380));
    const pair = niftiFile({ pair: true, sform: 1 });
    writeFileSync(at("folder", "pair.hdr"), pair);
    writeFileSync(at("folder", "pair.img"), niftiFile().subarray(352));
    const { code, items } = await info(at("folder"));
    expect(code).toBe(1);
    expect(items.map(({ path: file, refused }) => [path.relative(at("folder"), file), refused?.code])).toEqual([
      ["below/cut.nii", "ERR_LE_DATA"],
      ["pair.hdr", undefined],
      ["whole.nii", undefined],
    ]);
    const { stdout } = await cli(["info", at("folder")]);
    expect(stdout).toMatch(/whole\.nii +2×3×4 +int16/);
    expect(stdout).toMatch(/cut\.nii: refused \[ERR_LE_DATA\] Expected 48 bytes of voxels/);
  });

  it("says so where there is nothing", async () => {
    mkdirSync(at("empty"), { recursive: true });
    expect(await cli(["info", at("empty")])).toMatchObject({ code: 1, stdout: "" });
    const missing = await cli(["info", at("missing.nii")]);
    expect(missing).toMatchObject({ code: 1, stdout: "" });
    expect(missing.stderr).toContain("error [ERR_LE_IO]");
  });
});

describe("convert", () => {
  it("keeps values, type and place through every format that is written", async () => {
    let from = at("counts.nii");
    for (const ending of [".nrrd", ".mha", ".nii.gz"]) {
      const to = at(`through${ending}`);
      expect(await cli(["convert", from, to])).toMatchObject({ code: 0, stderr: "" });
      from = to;
    }
    const [first, last] = [await readVolume(at("counts.nii")), await readVolume(from)];
    expect(last).toMatchObject({ data: first.data, shape, dtype: "int16" });
    for (const [i, row] of affine.entries())
      for (const [j, value] of row.entries()) expect(last.grid?.affine[i]?.[j]).toBeCloseTo(value, 6);
  });

  it("says what it wrote", async () => {
    const { code, stdout } = await cli(["convert", "--json", at("counts.nii"), at("said.nrrd"), "--type", "float64"]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      format: "nrrd",
      shape,
      type: "float64",
      orientation: "ALS",
      warnings: [],
    });
    expect((await readVolume(at("said.nrrd"))).data).toBeInstanceOf(Float64Array);
  });

  it("puts an array in the place of a volume", async () => {
    const bare = await cli(["convert", at("labels.npy"), at("placed.nii.gz"), "--label"]);
    expect(bare).toMatchObject({ code: 1, stdout: "" });
    expect(bare.stderr).toContain("a grid");
    expect(existsSync(at("placed.nii.gz"))).toBe(false);
    const args = ["convert", at("labels.npy"), at("placed.nii.gz"), "--label", "--like", at("counts.nii")];
    expect((await cli(args)).code).toBe(0);
    const like = await readVolume(at("counts.nii"));
    expect(await readVolume(at("placed.nii.gz"))).toMatchObject({ grid: like.grid, dtype: "uint8" });
    const other = ["convert", at("two", "0"), at("other.nii"), "--like", at("counts.nii")];
    expect((await cli(other)).stderr).toContain("ERR_LE_SHAPE");
  });

  it("turns and resamples where it is told to, and nothing else", async () => {
    expect((await cli(["convert", at("labels.mha"), at("ras.nii"), "--label", "--reorient", "RAS"])).code).toBe(0);
    const [before, turned] = [await readVolume(at("labels.mha")), await readVolume(at("ras.nii"))];
    expect(turned.shape).toEqual([2, 4, 3]);
    // Voxel (x, y, z) of the first is voxel (2 - y, x, z) of the turned one.
    for (let z = 0; z < 2; z++)
      for (let y = 0; y < 3; y++)
        for (let x = 0; x < 4; x++) expect(turned.data[(z * 4 + x) * 3 + 2 - y]).toBe(before.data[(z * 3 + y) * 4 + x]);
    expect((await cli(["convert", at("counts.nii"), at("fine.nii"), "--spacing", "1.25,0.4,0.5"])).code).toBe(0);
    const fine = await readVolume(at("fine.nii"));
    expect([fine.shape, fine.dtype]).toEqual([[4, 6, 4], "float32"]);
    expect(spacingOf(fine.grid as never)[2]).toBeCloseTo(0.5, 6);
  });

  it.each([
    ["fractions as integers", ["halves.nrrd", "no.nii", "--type", "int16"], /int16 holds.*-3\.5 at position 0/],
    ["values out of range", ["counts.nii", "no.nii", "--type", "uint8"], /uint8 holds.*300 at position 3/],
    ["negative values as unsigned", ["halves.nrrd", "no.nii", "--type", "uint32"], /uint32 holds/],
    ["labels with fractions", ["halves.nrrd", "no.nii", "--label"], /whole numbers.*label map.*-3\.5/],
    ["several values of a voxel", ["several.nii", "no.nrrd"], /one value for each voxel.*channels/],
    ["a tilted gantry", ["tilted", "no.nii"], /tilt.*allowTilt/],
    ["several volumes", ["two", "no.nii"], /received 2 of 2 series.*series/],
    ["a name that no format has", ["counts.nii", "no.raw"], /ERR_LE_OPTION.*\.nii\.gz.*\.nrrd.*\.mha.*\.npy/],
    ["to lose where voxels lie", ["counts.nii", "no.npy"], /ERR_LE_VALUE.*no grid.*--without-grid.*says where it lies/],
    ["labels of another place than the series", ["labels.mha", "no.dcm", ...SEG], /ERR_LE_DATA.*voxels of .*axial/],
    ["labels that lie elsewhere", ["moved.nii", "no.dcm", ...SEG], /ERR_LE_DATA.*lies where.*0\.400 voxels away/],
    ["labels that lie nowhere", ["bare.npy", "no.dcm", ...SEG], /ERR_LE_DATA.*--like .*axial.*none that does/],
    ["a source that is no series", ["moved.nii", "no.dcm", "--label", "--source", "counts.nii"], /ERR_LE_/],
    ["a label without a name", ["lie.nii", "no.dcm", ...SEG, "--segments", "liver"], /ERR_LE_VALUE.*names.*2 at/],
    ["two names that are one", ["lie.nii", "no.dcm", ...SEG, "--segments", "a,a "], /ERR_LE_OPTION.*differ.*"a" twice/],
    ["a missing file", ["missing.nii", "no.nii"], /ERR_LE_DATA.*missing\.nii/],
  ])("refuses %s, and leaves nothing behind", async (_, [from, to, ...more], message) => {
    const before = readdirSync(root);
    const given = more.map((one) => (existsSync(at(one)) ? at(one) : one));
    const ended = await cli(["convert", at(from as string), at(to as string), ...given]);
    expect(ended).toMatchObject({ code: 1, stdout: "" });
    expect(ended.stderr).toMatch(message);
    expect(readdirSync(root)).toEqual(before);
  });

  it("writes arrays in any type, once it may leave out where they lie", async () => {
    for (const type of ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]) {
      const args = ["convert", at("small.nii"), at(`${type}.npy`), "--type", type];
      expect((await cli(args)).code).toBe(1);
      expect(await cli([...args, "--without-grid"])).toMatchObject({ code: 0, stderr: "" });
      const read = await readVolume(at(`${type}.npy`));
      expect(read).toMatchObject({ shape, grid: null, dtype: type });
      expect([...read.data]).toEqual(Array.from({ length: 24 }, (_, i) => i));
    }
    // There is nothing to lose.
    expect((await cli(["convert", at("bare.npy"), at("again.npy")])).code).toBe(0);
    expect((await cli(["convert", at("several.nii"), at("c.npy"), "--channels", "--without-grid"])).code).toBe(0);
    expect((await readVolume(at("c.npy"), { channels: true })).shape).toEqual([2, 1, 3, 4]);
  });

  it("writes label maps as segmentations of a series, whatever the order of their axes, with names and colours", async () => {
    const dicom = ["--label", "--source", at("axial")];
    const { code, stdout } = await cli([
      ...["convert", at("lie.nii"), at("seg.dcm"), ...dicom, "--segments", "liver,tumour", "--json"],
    ]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      ...{ format: "dicom", frames: 4 },
      segments: [
        { number: 1, name: "liver" },
        { number: 2, name: "tumour" },
      ],
    });
    const back = await readSeries(at("seg.dcm"));
    const source = await readVolume(at("axial"));
    expect(back).toMatchObject({ grid: source.grid, shape: SLICES, segments: JSON.parse(stdout).segments });
    const turned = reorient((await readVolume(at("lie.nii"))) as never, "LPS");
    expect([...back.data]).toEqual([...turned.data]);
    const { data: set } = await parseDicom(readFileSync(at("seg.dcm")), "file");
    const [liver, tumour] = itemsOf(set, "x00620002");
    const lab = (item: typeof liver) => [0, 1, 2].map((i) => item?.uint16("x0062000d", i));
    expect(lab(liver).every((one) => one !== undefined)).toBe(true);
    expect(lab(liver)).not.toEqual(lab(tumour));
    // What has no names is numbered; what has them keeps them.
    expect((await cli(["convert", at("lie.nii"), at("plain.dcm"), ...dicom])).code).toBe(0);
    expect((await readSeries(at("plain.dcm"))).segments?.map(({ name }) => name)).toEqual(["label 1", "label 2"]);
    expect((await cli(["convert", at("seg.dcm"), at("copy.dcm"), ...dicom])).code).toBe(0);
    expect((await readSeries(at("copy.dcm"))).segments?.map(({ name }) => name)).toEqual(["liver", "tumour"]);
    const bare = ["convert", at("bare.npy"), at("like.dcm"), ...dicom, "--like", at("axial")];
    expect((await cli(bare)).code).toBe(0);
    for (const wrong of [
      ["counts.nii", "no.dcm"],
      ["lie.nii", "no.dcm", "--label"],
      ["lie.nii", "no.dcm", ...dicom, "--type", "uint8"],
      ["lie.nii", "no.nii", "--segments", "a"],
    ]) {
      const [from, to, ...more] = wrong as [string, string, ...string[]];
      expect((await cli(["convert", at(from), at(to), ...more])).code, wrong.join(" ")).toBe(2);
    }
    expect(existsSync(at("no.dcm")) || existsSync(at("no.nii"))).toBe(false);
  });

  it("takes what is allowed by name", async () => {
    const tilted = await cli(["convert", at("tilted"), at("tilted.nii"), "--allow-tilt"]);
    expect(tilted.code).toBe(0);
    expect(tilted.stderr).toMatch(/warning: .*sheared/);
    const step = (await readVolume(at("tilted.nii"))).grid?.affine.map((row) => row[2]);
    expect(step?.slice(0, 3)).toEqual([0, -0.25, 1]);
    expect((await cli(["convert", at("two"), at("second.nii"), "--series", "1"])).code).toBe(0);
    expect([...(await readVolume(at("second.nii"))).data]).toEqual(Array.from({ length: 12 }, (_, i) => i));
    const channels = ["convert", at("several.nii"), at("several.nrrd"), "--channels"];
    expect((await cli(channels)).code).toBe(0);
    expect((await readVolume(at("several.nrrd"), { channels: true })).shape).toEqual([2, 1, 3, 4]);
    for (const wrong of [
      ["--reorient", "RRS"],
      ["--reorient", "X"],
      ["--spacing", "1,0,1"],
      ["--type", "int64"],
    ])
      expect([1, 2]).toContain((await cli(["convert", at("counts.nii"), at("no.nii"), ...wrong])).code);
    expect(existsSync(at("no.nii"))).toBe(false);
  });
});

const geometry = process.env.LAYER_ENSEMBLES_GEOMETRY;
const python = process.env.LAYER_ENSEMBLES_PYTHON;

// Every case that is read, written as NIfTI by `convert`, is to nibabel what the case says.
describe.skipIf(!geometry || !python)("nibabel and the cases of LAYER_ENSEMBLES_GEOMETRY", () => {
  it("agree on what convert writes, and what is refused writes nothing", async () => {
    const program = `
import json, sys, numpy as np, nibabel as nib
for line in sys.stdin:
    file, case = json.loads(line)
    image = nib.load(file)
    data, values = np.asarray(image.dataobj), case["values"]
    assert list(data.shape) == case["shape"], (file, data.shape)
    error = abs(image.affine - np.array(case["affine"])).max()
    assert error < max(1e-5, case.get("affineTolerance", 0)), (file, error)
    finite = data[np.isfinite(data)].astype(float)
    assert data.size - finite.size == values["nonFinite"], file
    assert abs(finite.sum() - values["sum"]) <= values["tolerance"] * data.size + 1e-6, file
    for *at, value in values["samples"]:
        assert abs(float(data[tuple(at[:data.ndim])]) - value) <= values["tolerance"], (file, at)
print("agreed")
`;
    const lines: string[] = [];
    const refused: string[] = [];
    for (const name of readdirSync(geometry as string)) {
      const file = path.join(geometry as string, name, "expect.json");
      if (!existsSync(file)) continue;
      const expected = JSON.parse(readFileSync(file, "utf8"));
      const to = at(`${name}.nii.gz`);
      const more = [
        ...(expected.kind === "label" ? ["--label"] : []),
        ...(expected.shape?.length > 3 ? ["--channels"] : []),
      ];
      const { code } = await cli(["convert", path.join(geometry as string, name, expected.input), to, ...more]);
      if (code === 0) lines.push(JSON.stringify([to, expected]));
      else refused.push(name);
      expect([name, code === 0], name).toEqual([name, expected.ok && expected.affine !== null]);
      expect(existsSync(to)).toBe(code === 0);
    }
    expect([lines.length > 30, refused.length > 10]).toEqual([true, true]);
    const agreed = spawnSync(python as string, ["-c", program], { input: lines.join("\n"), encoding: "utf8" });
    expect([agreed.stderr, agreed.stdout]).toEqual(["", "agreed\n"]);
  });
});
