// Data folders of volumes that say where they lie: how they are found, what becomes of them, and what is refused.
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { NumericArray } from "../../lib/arrays.js";
import { Dataset } from "../../lib/data/dataset.js";
import { encodePng } from "../../lib/data/encode-png.js";
import { encodeNpy } from "../../lib/data/npy-file.js";
import { preprocess, preprocessMask, restore, restoreLabels } from "../../lib/data/preprocess.js";
import { gridRange, medianSpacing, spacingAlong, unlikeRange, type VolumePlacement } from "../../lib/data/volume.js";
import { type Affine, type Grid, reorient } from "../../lib/grid/index.js";
import { readVolume, writeVolume } from "../../lib/volumes/index.js";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(path.join(os.tmpdir(), "le-placed-"));
});
afterAll(() => rm(root, { recursive: true, force: true }));

/** x, y and z of these spacings along R, A and S, from an origin. */
const affine = ([x, y, z]: readonly number[], [a, b, c] = [10, -20, 30]): Affine => [
  [x as number, 0, 0, a as number],
  [0, y as number, 0, b as number],
  [0, 0, z as number, c as number],
  [0, 0, 0, 1],
];
const SHAPE = [6, 8, 10] as const;
const grid = (
  spacing: readonly number[] = [1, 1, 2],
  shape: Grid["shape"] = SHAPE,
  origin?: [number, number, number],
): Grid => ({
  shape,
  affine: affine(spacing, origin),
});
const count = (shape: readonly number[]) => shape.reduce((product, side) => product * side, 1);

/** A volume whose value tells the voxel, and a mask of a box in it that no flip leaves as it is. */
function volume(shape: readonly number[] = SHAPE, shift = 0) {
  return { data: Int16Array.from({ length: count(shape) }, (_, i) => ((i * 37) % 251) + shift), shape };
}
function box(shape: readonly number[] = SHAPE) {
  const [depth, height, width] = shape as [number, number, number];
  const data = new Uint8Array(count(shape));
  for (let z = 0; z < depth >> 1; z++)
    for (let y = 1; y < height >> 1; y++) for (let x = 0; x < 3; x++) data[(z * height + y) * width + x] = 1;
  return { data, shape };
}

interface Case {
  image?: { data: NumericArray; shape: readonly number[] };
  mask?: { data: NumericArray; shape: readonly number[] };
  grid?: Grid;
  maskGrid?: Grid;
  ending?: string;
}

let folders = 0;
async function folder(cases: Record<string, Case>, names = { images: "images", masks: "masks" }): Promise<string> {
  const made = path.join(root, String(folders++));
  await mkdir(path.join(made, names.images), { recursive: true });
  await mkdir(path.join(made, names.masks), { recursive: true });
  for (const [id, one] of Object.entries(cases)) {
    const { ending = ".nii.gz", grid: own = grid() } = one;
    const image = one.image ?? volume(own.shape);
    await writeVolume(path.join(made, names.images, `${id}${ending}`), { ...image, grid: own });
    const mask = one.mask ?? box(own.shape);
    await writeVolume(
      path.join(made, names.masks, `${id}${ending}`),
      { ...mask, grid: one.maskGrid ?? own },
      { label: true },
    );
  }
  return made;
}

const open = (made: string, options: object = {}) => Dataset.fromFolder(made, { size: [6, 8, 10], ...options });

describe("volumes in a data folder", () => {
  it.each([".nii.gz", ".nii", ".nrrd", ".mha"])("%s: values, mask and place are the file's", async (ending) => {
    const made = await folder({ a: { ending } });
    const dataset = await open(made, { spacing: "native", normalise: "none" });
    const { image, mask, placement } = await dataset.load(0);
    expect(image.shape).toEqual([1, ...SHAPE]);
    expect([...image.data]).toEqual([...volume().data]);
    expect([...(mask?.data ?? [])]).toEqual([...box().data]);
    expect((placement as VolumePlacement).stored?.affine).toEqual(grid().affine);
    expect(dataset.preprocessing.grid).toEqual({ axes: "RAS", spacing: null, crop: "none" });
    expect(dataset.grids).toHaveLength(1);
  });

  it("gives the numbers that the same voxels give as an array", async () => {
    const made = await folder({ a: {}, b: {} });
    const arrays = path.join(root, "arrays");
    for (const name of ["images", "masks"]) await mkdir(path.join(arrays, name), { recursive: true });
    for (const id of ["a", "b"]) {
      const stored = volume();
      await writeFile(
        path.join(arrays, "images", `${id}.npy`),
        encodeNpy({ data: Float32Array.from(stored.data), shape: SHAPE }),
      );
      await writeFile(path.join(arrays, "masks", `${id}.npy`), encodeNpy(box()));
    }
    const size = { size: [8, 6, 12] };
    const [placed, unplaced] = [await open(made, size), await open(arrays, size)];
    expect(unplaced.preprocessing.grid).toBeUndefined();
    const [one, other] = [await placed.load(1), await unplaced.load(1)];
    expect(one.image).toEqual(other.image);
    expect(one.mask).toEqual(other.mask);
  });

  it("turns every volume and its mask to the same axes, however they are stored", async () => {
    const turned = (code: string) => {
      const image = reorient({ ...volume(), grid: grid() }, code);
      const mask = reorient({ ...box(), grid: grid() }, code);
      return { image, mask, grid: image.grid, maskGrid: mask.grid };
    };
    const made = await folder({ a: {}, b: turned("LPS"), c: turned("SAR"), d: turned("PIL") });
    const dataset = await open(made, { normalise: "none" });
    const [first, ...others] = await dataset.loadAll();
    for (const sample of others) {
      expect(sample.image).toEqual(first?.image);
      expect(sample.mask).toEqual(first?.mask);
      // and back, in the file's own order
      const { original } = await dataset
        .loadOriginal(dataset.ids.indexOf(sample.id))
        .then((own) => ({ original: own }));
      const back = restoreLabels(sample.mask as never, sample.placement);
      expect(back).toEqual(original.mask);
    }
  });

  it("turns a mask to its image where the two are stored in other orders, and refuses one that lies elsewhere", async () => {
    const mask = reorient({ ...box(), grid: grid() }, "LPI");
    const made = await folder({ a: { mask, maskGrid: mask.grid } });
    const sample = await (await open(made)).load(0);
    expect([...(sample.mask?.data ?? [])]).toEqual([...box().data]);
    const shifted = await folder({ a: { maskGrid: grid(undefined, undefined, [10.2, -20, 30]) } });
    await expect(open(shifted)).rejects.toThrow(/lies where its image does .*0\.200 voxels away/);
    const rounded = await folder({ a: { maskGrid: grid(undefined, undefined, [10.01, -20, 30]) } });
    await expect(open(rounded)).resolves.toBeDefined();
    const other = await folder({ a: { maskGrid: grid([1.2, 1, 2]) } });
    await expect(open(other)).rejects.toThrow(/voxels away/);
  });

  it("refuses a mask that does not say where it lies beside an image that does", async () => {
    const made = await folder({ a: {} });
    await rm(path.join(made, "masks", "a.nii.gz"));
    await writeFile(path.join(made, "masks", "a.npy"), encodeNpy(box()));
    await expect(open(made)).rejects.toMatchObject({ code: "ERR_LE_DATA", message: /says where its voxels lie/ });
  });

  it("refuses volumes of which some say where they lie and others do not", async () => {
    const made = await folder({ a: {} });
    await writeFile(
      path.join(made, "images", "b.npy"),
      encodeNpy({ data: Float32Array.from(volume().data), shape: SHAPE }),
    );
    await writeFile(path.join(made, "masks", "b.npy"), encodeNpy(box()));
    await expect(open(made)).rejects.toThrow(/all say where they lie, or none .*b\.npy, which does not/);
  });

  it("refuses files of volumes for a network of images", async () => {
    const made = await folder({ a: {} });
    await expect(Dataset.fromFolder(made, { size: 8 })).rejects.toThrow(/size of three sides takes them/);
  });

  it("refuses volumes that are not finite, and labels that are none", async () => {
    const image = { data: Float32Array.from(volume().data), shape: SHAPE };
    image.data[5] = Number.NaN;
    const made = await folder({ a: { image } });
    const dataset = await open(made);
    await expect(dataset.load(0)).rejects.toThrow(/finite values .*a\.nii\.gz .*1 that are NaN/);
    const half = { data: Float32Array.from(box().data, (label) => label / 2), shape: SHAPE };
    const wrong = await folder({ a: {} });
    await writeVolume(path.join(wrong, "masks", "a.nii.gz"), { ...half, grid: grid() });
    await expect(open(wrong)).rejects.toThrow(/whole numbers/);
  });
});

describe("voxel sizes", () => {
  it("become the median of the folder, whichever of its images are opened", async () => {
    const made = await folder({
      a: { grid: grid([1, 1, 2]) },
      b: { grid: grid([1, 1, 3]) },
      c: { grid: grid([2, 1, 4]) },
    });
    const all = await open(made);
    expect(all.preprocessing.grid?.spacing).toEqual([3, 1, 1]);
    const some = await open(made, { only: ({ id }: { id: string }) => id === "c" });
    expect(some.preprocessing.grid?.spacing).toEqual([3, 1, 1]);
    expect((await open(made, { spacing: [2, 2, 2] })).preprocessing.grid?.spacing).toEqual([2, 2, 2]);
    // c: 6 slices of 4 mm are 8 of 3 mm, 10 columns of 2 mm are 20 of 1 mm
    const { placement, image } = await (await open(made, { size: null })).load(2);
    expect(placement.size).toEqual([8, 8, 20]);
    expect(image.shape).toEqual([1, 8, 8, 20]);
  });

  it("keep the share of a label where they grow, and its place on the way back", async () => {
    const shape = [12, 16, 20] as const;
    const made = await folder({ a: { grid: grid([1, 1, 1], shape), image: volume(shape), mask: box(shape) } });
    const dataset = await open(made, { size: null, spacing: [3, 3, 3] });
    const { mask, placement } = await dataset.load(0);
    expect(mask?.shape).toEqual([4, 5, 7]);
    const area = (data: Uint8Array) => data.reduce((sum, label) => sum + label, 0);
    expect(area(mask?.data as Uint8Array) * (3840 / 140)).toBeGreaterThan(0.7 * area(box(shape).data));
    const back = restoreLabels(mask as never, placement);
    expect(back.shape).toEqual(shape);
    const truth = box(shape).data;
    const both = back.data.reduce((sum, label, i) => sum + (label & (truth[i] as number)), 0);
    expect((2 * both) / (area(back.data) + area(truth))).toBeGreaterThan(0.7);
    // Probabilities still sum to 1.
    const probabilities = new Float32Array(2 * 140).fill(0.25, 0, 140).fill(0.75, 140);
    const restored = restore({ data: probabilities, shape: [2, 4, 5, 7] }, placement);
    expect(restored.shape).toEqual([2, ...shape]);
    for (let i = 0; i < 3840; i++) expect(restored.data[i]! + restored.data[i + 3840]!).toBeCloseTo(1, 6);
  });

  it("along other axes are those of the world", () => {
    const turned = reorient({ ...volume(), grid: grid([1, 2, 3]) }, "SRA").grid;
    expect(spacingAlong(turned, "RAS")).toEqual([3, 2, 1]);
    expect(spacingAlong(turned, "SLP")).toEqual([2, 1, 3]);
    expect(medianSpacing([grid([1, 1, 1]), grid([3, 1, 2])], "RAS")).toEqual([1.5, 1, 2]);
  });

  it("outside of the training's range are said, and so are other axes", () => {
    const range = gridRange([grid([1, 1, 2]), grid([1.5, 1, 3])], "RAS");
    expect(range).toEqual({
      orientations: ["RAS"],
      spacing: [
        [2, 1, 1],
        [3, 1, 1.5],
      ],
    });
    if (!range) return;
    expect(unlikeRange(grid([1.2, 1, 2.5]), range, "RAS")).toEqual([]);
    expect(unlikeRange(grid([1.504, 1, 2.5]), range, "RAS")).toEqual([]);
    expect(unlikeRange(grid([1.2, 1, 5]), range, "RAS")).toEqual([
      "its voxels are 5×1×1.2 mm (z×y×x of RAS), those of the training 2×1×1 to 3×1×1.5 mm",
    ]);
    const turned = reorient({ ...volume(), grid: grid([1, 1, 2]) }, "LPS").grid;
    expect(unlikeRange(turned, range, "RAS")).toEqual(["its axes run LPS, those of the training RAS"]);
    expect(gridRange([], "RAS")).toBeUndefined();
  });
});

describe("a run's preprocessing", () => {
  const placed = { ...volume(), data: Float32Array.from(volume().data), shape: [1, ...SHAPE], grid: grid() };
  const of = { size: null, resize: "stretch", normalise: { kind: "none" }, channels: 1 } as const;

  it("of volumes with a place takes none without, and the other way round", async () => {
    const how = { axes: "RAS", spacing: null, crop: "none" } as const;
    expect(() => preprocess(placed, of)).toThrow(/without a place in the world/);
    expect(() => preprocess({ ...placed, grid: null }, { ...of, grid: how })).toThrow(/says where it lies/);
    const made = await folder({ a: {} });
    await expect(open(made, { grid: null })).rejects.toThrow(/without a place in the world.*a\.nii\.gz/s);
    const own = (await open(made)).preprocessing;
    expect((await open(made, { grid: own.grid, spacing: [9, 9, 9] })).preprocessing).toEqual(own);
  });

  it("crops what is 0 in every channel, and puts it back as certain background", () => {
    const data = new Float32Array(2 * count(SHAPE));
    data[(2 * 8 + 3) * 10 + 4] = 5; // of the first channel
    data[count(SHAPE) + (4 * 8 + 5) * 10 + 4] = 7; // of the second
    const image = { data, shape: [2, ...SHAPE], grid: grid() };
    const how = { axes: "RAS", spacing: null, crop: "nonzero" } as const;
    const { image: cropped, placement } = preprocess(image, { ...of, channels: 2, grid: how });
    expect(cropped.shape).toEqual([2, 3, 3, 1]);
    const restored = restore({ data: new Float32Array(18).fill(0.5), shape: [2, 3, 3, 1] }, placement);
    expect(restored.data[0]).toBe(1);
    expect(restored.data[count(SHAPE)]).toBe(0);
    expect(restored.data[(2 * 8 + 3) * 10 + 4]).toBe(0.5);
    // All 0: nothing is cropped.
    const { placement: whole } = preprocess(
      { data: new Float32Array(count(SHAPE)), shape: [1, ...SHAPE], grid: grid() },
      { ...of, grid: how },
    );
    expect(whole.size).toEqual(SHAPE);
  });

  it("scales by a window of stored values", () => {
    const { image } = preprocess(
      { ...placed, grid: null },
      { ...of, normalise: { kind: "window", low: 50, high: 150 } },
    );
    expect([...image.data]).toEqual([
      ...Float32Array.from(volume().data, (value) => Math.min(1, Math.max(0, Math.fround((value - 50) * 0.01)))),
    ]);
  });

  it("refuses a mask of another size", () => {
    const { placement } = preprocess({ ...placed, grid: null }, of);
    expect(() => preprocessMask({ data: new Uint8Array(4), shape: [1, 2, 2] }, placement)).toThrow(/6×8×10/);
  });
});

describe("channels that are files of their own", () => {
  const write = (made: string, name: string, shift: number, own = grid()) =>
    writeVolume(path.join(made, "images", name), { ...volume(own.shape, shift), grid: own });

  async function channels(own?: Grid): Promise<string> {
    const made = await folder({ a: {}, b: {} });
    for (const id of ["a", "b"]) {
      await rm(path.join(made, "images", `${id}.nii.gz`));
      await write(made, `${id}_0000.nii.gz`, 0);
      await write(made, `${id}_0001.nii.gz`, 1000, own);
    }
    return made;
  }

  it("are one case, in order, each scaled alone", async () => {
    const dataset = await open(await channels());
    expect(dataset.ids).toEqual(["a", "b"]);
    expect(dataset.preprocessing).toMatchObject({ channels: 2, perChannel: true });
    const { image } = await dataset.load(0);
    expect(image.shape).toEqual([2, ...SHAPE]);
    const half = image.data.length / 2;
    for (let i = 0; i < half; i++) expect(image.data[i]).toBeCloseTo(image.data[half + i] as number, 4);
    const raw = await open(await channels(), { normalise: "none" });
    expect((await raw.load(0)).image.data[half]).toBe(1000);
  });

  it("must lie on one grid, be numbered without a gap, and be as many of each case", async () => {
    await expect(open(await channels(grid([1, 1, 3])))).rejects.toThrow(/the grid of .*[ab]_0000/);
    const gap = await channels();
    await rm(path.join(gap, "images", "b_0000.nii.gz"));
    await expect(open(gap)).rejects.toThrow(/numbered from _0000 without a gap .*0001/);
    const fewer = await channels();
    await rm(path.join(fewer, "images", "b_0001.nii.gz"));
    await expect(open(fewer)).rejects.toThrow(/as many channels of each case/);
    await expect(open(await channels(), { channels: 3 })).rejects.toThrow(/3 channels .*2 files/);
  });

  it("are not made of frames that have masks of their own", async () => {
    const made = path.join(root, "frames");
    for (const name of ["images", "masks"]) {
      await mkdir(path.join(made, name), { recursive: true });
      for (const frame of ["scan_0000", "scan_0001"])
        await writeFile(
          path.join(made, name, `${frame}.png`),
          await encodePng({ data: Uint8Array.from([0, 1, 1, 0]), shape: [2, 2] }),
        );
    }
    expect((await Dataset.fromFolder(made)).ids).toEqual(["scan_0000", "scan_0001"]);
  });
});

describe("nnU-Net's raw folders", () => {
  const NAMES = { images: "imagesTr", masks: "labelsTr" };
  async function raw(description?: object): Promise<string> {
    const made = await folder({ case_1: {}, case_2: {} }, NAMES);
    for (const id of ["case_1", "case_2"])
      await cp(path.join(made, "imagesTr", `${id}.nii.gz`), path.join(made, "imagesTr", `${id}_0000.nii.gz`)).then(() =>
        rm(path.join(made, "imagesTr", `${id}.nii.gz`)),
      );
    if (description) await writeFile(path.join(made, "dataset.json"), JSON.stringify(description));
    return made;
  }

  it("are read as they are, of either version", async () => {
    const now = await raw({ channel_names: { 0: "T2" }, labels: { background: 0, lesion: 1 }, file_ending: ".nii.gz" });
    const dataset = await open(now);
    expect(dataset.ids).toEqual(["case_1", "case_2"]);
    expect(dataset.classNames).toEqual(["background", "lesion"]);
    expect((await dataset.load(0)).mask?.data.includes(1)).toBe(true);
    const before = await raw({ modality: { 0: "CT" }, labels: { 0: "background", 1: "spleen" } });
    expect((await open(before)).classNames).toEqual(["background", "spleen"]);
    expect((await open(await raw())).classNames).toEqual(["background", "foreground"]);
    expect((await open(now, { classes: ["none", "it"] })).classNames).toEqual(["none", "it"]);
  });

  it("keep the test images apart where these have labels", async () => {
    const made = await raw({ labels: { background: 0, lesion: 1 } });
    await cp(path.join(made, "imagesTr", "case_1_0000.nii.gz"), path.join(made, "imagesTs", "case_9_0000.nii.gz"));
    await expect(open(made)).resolves.toHaveLength(2);
    await cp(path.join(made, "labelsTr", "case_1.nii.gz"), path.join(made, "labelsTs", "case_9.nii.gz"));
    const dataset = await open(made, { valFraction: 0.5 });
    expect(dataset.splits).toEqual({ train: 1, val: 1, test: 1 });
    expect(dataset.split("test").ids).toEqual(["case_9"]);
  });

  it.each([
    [{ labels: { background: 0, whole: [1, 2], core: 2 } }, /regions/],
    [{ labels: { background: 0, a: 1 }, regions_class_order: [1] }, /regions/],
    [{ labels: { background: 0, a: 2 } }, /without a gap/],
    [{ labels: { a: 0, b: "one" } }, /without a gap/],
    [{ labels: { 0: "background", 1: "background" } }, /distinct names/],
    [{ labels: [0, 1] }, /an object/],
    [{ labels: { background: 0, a: 1 }, channel_names: { 1: "T1" } }, /for each channel from 0/],
    [{ labels: { background: 0, a: 1, ignore: 0.5 } }, /"ignore" above the classes/],
    [[], /an object/],
  ])("of %j are refused", async (description, message) => {
    await expect(open(await raw(description))).rejects.toMatchObject({
      code: "ERR_LE_DATA",
      message: expect.stringMatching(message),
    });
  });

  it("leave out what is to be ignored", async () => {
    const made = await raw({ labels: { background: 0, lesion: 1, ignore: 2 } });
    const mask = box();
    mask.data[479] = 2;
    await writeVolume(path.join(made, "labelsTr", "case_1.nii.gz"), { ...mask, grid: grid() }, { label: true });
    const dataset = await open(made);
    expect(dataset.classes).toBe(2);
    expect(dataset.ignored.pixels).toBe(1);
  });

  it("with a description that is no JSON are refused", async () => {
    const made = await raw();
    await writeFile(path.join(made, "dataset.json"), "{");
    await expect(open(made)).rejects.toThrow(/JSON .*dataset\.json/);
  });
});

describe("a volume that is written back", () => {
  it("has the header of its input, byte for byte where it says where it lies", async () => {
    const turned = reorient({ ...volume(), grid: grid([0.7, 1.1, 2.3]) }, "LIP");
    const made = await folder({
      a: { image: turned, mask: reorient({ ...box(), grid: grid([0.7, 1.1, 2.3]) }, "LIP"), grid: turned.grid },
    });
    const dataset = await open(made, { size: [16, 16, 16], spacing: [1, 1, 1], crop: "nonzero" });
    const { mask, placement } = await dataset.load(0);
    const file = path.join(made, "images", "a.nii.gz");
    const back = path.join(made, "back.nii");
    const { data: _, ...like } = await readVolume(file);
    await writeVolume(back, restoreLabels(mask as never, placement), { like, label: true });
    const written = await readFile(back);
    const stored = like.header as Uint8Array;
    // pixdim, qform and sform with their codes
    for (const [from, to] of [
      [76, 108],
      [252, 328],
    ] as const)
      expect(written.subarray(from, to).equals(Buffer.from(stored.subarray(from, to)))).toBe(true);
    const { data: read, grid: kept } = await readVolume(back, { kind: "label" });
    const data = Array.from(read);
    expect(kept).toEqual(like.grid);
    const truth = Array.from((await dataset.loadOriginal(0)).mask?.data as Uint8Array);
    const both = data.reduce((sum, label, i) => sum + (label && truth[i] ? 1 : 0), 0);
    const sizes = [data, truth].map((labels) => labels.reduce((sum: number, label) => sum + label, 0));
    expect((2 * both) / ((sizes[0] as number) + (sizes[1] as number))).toBeGreaterThan(0.75);
  });
});
