import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Dataset } from "../../lib/data/dataset.js";
import { encodePng } from "../../lib/data/encode-png.js";
import { readArrayMask } from "../../lib/data/mask.js";
import { encodeNpy, readNpy, readNpyHeader } from "../../lib/data/npy-file.js";
import { type Preprocessing, preprocess, preprocessMask, restore, restoreLabels } from "../../lib/data/preprocess.js";
import { readStored } from "../../lib/data/stored.js";
import { aula, dice, entropy, fuse, labelMaps, nll, softmax } from "../../lib/metrics/index.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), "le-volume-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** An .npy file as NumPy lays it out, from its header's text. */
function npy(text: string, data: Uint8Array, version = 1): Buffer {
  const length = Buffer.alloc(version === 1 ? 2 : 4);
  if (version === 1) length.writeUInt16LE(text.length);
  else length.writeUInt32LE(text.length);
  return Buffer.concat([
    Buffer.from("\x93NUMPY", "latin1"),
    Buffer.from([version, 0]),
    length,
    Buffer.from(text),
    data,
  ]);
}
const header = (descr: string, shape: string, fortran = "False") =>
  `{'descr': '${descr}', 'fortran_order': ${fortran}, 'shape': (${shape}), }\n`;
const bytes = (array: { buffer: ArrayBufferLike }) => new Uint8Array(array.buffer);

async function file(content: Buffer): Promise<string> {
  const name = path.join(folder, "array.npy");
  await writeFile(name, content);
  return name;
}

describe("npy files", () => {
  test("what is written is read back", async () => {
    const floats = { data: Float32Array.from({ length: 24 }, (_, i) => i / 7), shape: [2, 3, 4] };
    expect(await readNpy(await file(encodeNpy(floats)))).toEqual(floats);
    const labels = { data: Uint8Array.from([0, 1, 2]), shape: [3] };
    expect(await readNpy(await file(encodeNpy(labels)))).toEqual(labels);
    expect((await readNpyHeader(await file(encodeNpy(floats)))).offset % 64).toBe(0);
  });

  test.each([
    ["<i2", Int16Array],
    ["<u2", Uint16Array],
    ["<i4", Int32Array],
    ["<u4", Uint32Array],
    ["|i1", Int8Array],
    ["<f8", Float64Array],
  ] as const)("type %s, every version of the format", async (descr, type) => {
    const data = type.from([1, 2, 3, 4, 5, 100]);
    for (const version of [1, 2, 3]) {
      const read = await readNpy(await file(npy(header(descr, "1, 2, 3"), bytes(data), version)));
      expect(read).toEqual({ data, shape: [1, 2, 3] });
    }
    const volumes = { channels: 1, spatialAxes: 3 } as const;
    const stored = await readStored(await file(npy(header(descr, "1, 2, 3"), bytes(data))), volumes);
    expect(stored.shape).toEqual([1, 1, 2, 3]);
  });

  const six = new Uint8Array(6);
  const huge = "99999999999, 99999999999";
  test.each<[string, Buffer, RegExp]>([
    ["is empty", Buffer.alloc(0), /an \.npy file.* an empty file/],
    ["is something else", Buffer.from("not an array at all"), /an \.npy file/],
    ["is of another version", npy(header("|u1", "6,"), six, 9), /version 1 to 3/],
    ["ends within its header", npy(header("|u1", "6,"), six).subarray(0, 30), /cut short/],
    ["claims a long header", npy("", Buffer.alloc(0), 2).fill(255, 8, 12), /header of at most/],
    ["ends within its numbers", npy(header("<f4", "6,"), six), /a file of \d+ bytes/],
    ["goes on after its numbers", npy(header("|u1", "5,"), six), /a file of \d+ bytes/],
    ["claims more than there is", npy(header("|u1", huge), six), /data for the shape/],
    ["claims an axis beyond all integers", npy(header("|u1", "1".repeat(400)), six), /at most 32 axes/],
    ["claims 33 axes", npy(header("|u1", "1, ".repeat(33)), six), /at most 32 axes/],
    ["holds nothing", npy(header("|u1", "0, 3"), new Uint8Array(0)), /1 to/],
    [
      "holds complex numbers",
      npy(header("<c8", "6,"), six),
      /integers, booleans or floats .* complex numbers \('<c8'\)/,
    ],
    ["holds long doubles", npy(header("<f16", "6,"), six), /floating-point numbers of that many bytes \('<f16'\)/],
    ["holds objects", npy(header("|O", "6,"), six), /Python objects/],
    [
      "holds records",
      npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}\n", six),
      /an array of records/,
    ],
    ["has a header of no dictionary", npy("import os\n", six), /descr, fortran_order and shape/],
    ["has a negative axis", npy(header("|u1", "-6,"), six), /plain numbers/],
  ])("one that %s is refused", async (_, content, message) => {
    const name = await file(content);
    await expect(readNpy(name)).rejects.toThrow(message);
    await expect(readNpy(name)).rejects.toMatchObject({ code: "ERR_LE_DATA" });
  });

  test("masks are as stored", async () => {
    const mask = async (descr: string, data: { buffer: ArrayBufferLike }, shape = "1, 1, 2") =>
      readArrayMask(await file(npy(header(descr, shape), bytes(data))));
    expect([...(await mask("<i4", Int32Array.from([7, 256]))).data]).toEqual([7, 256]);
    expect([...(await mask("<i2", Int16Array.from([-1, 0]))).data]).toEqual([-1, 0]);
    expect([...(await mask("<i8", BigInt64Array.from([-1n, 255n]))).data]).toEqual([-1, 255]);
    expect([...(await mask("<u8", BigUint64Array.from([7n, 255n]))).data]).toEqual([7, 255]);
    expect([...(await mask("<f4", Float32Array.from([0, 1]))).data]).toEqual([0, 1]);
    expect((await mask("|u1", Uint8Array.from([0, 1]), "1, 2")).shape).toEqual([1, 2]);
    await expect(mask("|u1", Uint8Array.from([0, 1]), "2,")).rejects.toThrow("H×W or D×H×W labels");
  });
});

const plain: Preprocessing = { size: null, resize: "stretch", normalise: { kind: "none" }, channels: 1 };
const ramp = (shape: number[]) => ({
  data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => i + 1),
  shape,
});

describe("volumes as inputs", () => {
  test("are cropped and padded about the centre, and brought back", () => {
    const { image, placement } = preprocess(ramp([1, 3, 4, 5]), { ...plain, size: [5, 2, 5] });
    expect(image.shape).toEqual([1, 5, 2, 5]);
    expect([...image.data.subarray(0, 10)]).toEqual(new Array(10).fill(0));
    expect([...image.data.subarray(10, 20)]).toEqual([6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    const back = restore({ data: image.data, shape: [5, 2, 5] }, placement);
    expect(back.shape).toEqual([3, 4, 5]);
    expect([...back.data.subarray(0, 10)]).toEqual([0, 0, 0, 0, 0, 6, 7, 8, 9, 10]);
    expect(JSON.parse(JSON.stringify(placement))).toEqual(placement);
  });

  test("have the odd slice behind, whether it is cropped or padded", () => {
    const moved = (from: number, to: number) => [
      ...preprocess(ramp([1, from, 1, 1]), { ...plain, size: [to, 1, 1] }).image.data,
    ];
    expect(moved(5, 2)).toEqual([2, 3]);
    expect(moved(2, 5)).toEqual([0, 1, 2, 0, 0]);
  });

  test("whatever the sizes, what was not cropped comes back as it was; the rest is background", () => {
    for (const from of [1, 2, 5, 6])
      for (const to of [1, 2, 5, 6]) {
        const mask = { data: Uint8Array.from({ length: from * 4 * 3 }, (_, i) => 1 + i), shape: [from, 4, 3] };
        const { placement } = preprocess({ data: mask.data, shape: [1, from, 4, 3] }, { ...plain, size: [to, 4, 3] });
        const back = restoreLabels(preprocessMask(mask, placement), placement);
        const kept = back.data.filter((label) => label !== 0);
        expect(kept.length).toBe(Math.min(from, to) * 12);
        back.data.forEach((label, i) => {
          if (label !== 0) expect(label).toBe(mask.data[i]);
        });
        const probabilities = { data: new Float32Array(2 * to * 12).fill(0.5), shape: [2, to, 4, 3] };
        const restored = restore(probabilities, placement);
        for (let i = 0; i < from * 12; i++)
          expect([restored.data[i], restored.data[from * 12 + i]]).toEqual(back.data[i] === 0 ? [1, 0] : [0.5, 0.5]);
      }
  });

  test("are normalised as a whole", () => {
    const { image } = preprocess(ramp([1, 2, 3, 4]), { ...plain, normalise: { kind: "zscore" } });
    expect(image.data.reduce((sum, value) => sum + value, 0)).toBeCloseTo(0, 5);
    expect(image.data.reduce((sum, value) => sum + value ** 2, 0) / 24).toBeCloseTo(1, 5);
  });

  test("of the wrong size or channels are refused", () => {
    expect(() => preprocess(ramp([2, 2, 3, 4]), plain)).toThrow("Expected 1×D×H×W values for the volume");
    expect(() => preprocess(ramp([1, 2, 3, 4]), { ...plain, size: [8, 8] })).toThrow("depth×height×width for a volume");
    expect(() => preprocess(ramp([1, 3, 4]), { ...plain, size: [8, 8, 8] })).toThrow("height×width for an image");
  });
});

describe("folders of volumes", () => {
  async function write(name: string, masks: Record<string, Buffer>, images: Record<string, Buffer>): Promise<string> {
    const root = path.join(folder, name);
    for (const [part, files] of Object.entries({ images, masks })) {
      await mkdir(path.join(root, part), { recursive: true });
      for (const [id, content] of Object.entries(files)) await writeFile(path.join(root, part, id), content);
    }
    return root;
  }
  const image = encodeNpy(ramp([3, 4, 5]));
  const mask = encodeNpy({
    data: Uint8Array.from({ length: 60 }, (_, i) => (i % 7 === 0 ? 255 : 0)),
    shape: [3, 4, 5],
  });

  test("are read as those of images are", async () => {
    const root = await write("good", { "a.npy": mask, "b.npy": mask }, { "a.npy": image, "b.npy": image });
    const dataset = await Dataset.fromFolder(root, { size: [4, 4, 4] });
    expect([dataset.ids, dataset.classes, dataset.labelsFound]).toEqual([["a", "b"], 2, [0, 1]]);
    const sample = await dataset.load(0);
    expect(sample.image.shape).toEqual([1, 4, 4, 4]);
    expect(sample.mask?.shape).toEqual([4, 4, 4]);
    const original = await dataset.loadOriginal(1);
    expect(original.image.shape).toEqual([3, 4, 5]);
    expect([original.image.data[0], original.image.data[59]]).toEqual([0, 255]);
    expect(original.mask?.data[7]).toBe(1);
  });

  test("with masks that do not fit are refused", async () => {
    const small = encodeNpy({ data: new Uint8Array(12), shape: [3, 4, 1] });
    const root = await write("bad", { "a.npy": small }, { "a.npy": image });
    await expect(Dataset.fromFolder(root)).rejects.toThrow(/3×4×5 pixels of its image .* 3×4×1/);
    const png = await encodePng({ data: new Uint8Array(20), shape: [4, 5] });
    const other = await write("mixed", { "a.png": png }, { "a.npy": image });
    await expect(Dataset.fromFolder(other)).rejects.toThrow(/3×4×5 pixels of its image .* 4×5/);
    const flat = await write("flat", { "a.npy": mask }, { "a.npy": encodeNpy(ramp([3, 4])) });
    await expect(Dataset.fromFolder(flat)).rejects.toThrow(/3×4 pixels of its image .* 3×4×5/);
    await expect(Dataset.fromFolder(flat, { size: [4, 4, 4] })).rejects.toThrow("D×H×W or C×D×H×W");
  });
});

test("the definitions do not mind how many spatial axes there are", () => {
  const shapes = [[24], [4, 6], [2, 3, 4]];
  const logits = [1, 2, 3].map((k) => Float32Array.from({ length: 48 }, (_, i) => Math.sin(i * k)));
  const truth = Uint8Array.from({ length: 24 }, (_, i) => i % 2);
  const [flat, ...others] = shapes.map((shape) => {
    const heads = logits.map((data) => ({ data, shape: [2, ...shape] }));
    const probabilities = heads.map((head) => softmax(head));
    const fused = fuse(heads);
    const labels = labelMaps(probabilities);
    const first = { data: labels.data.subarray(0, 24), shape };
    return {
      fused: [...fused.data],
      entropy: [...entropy(fused).data],
      aula: aula(labels, 2).value,
      dice: dice(first, { data: truth, shape }, { classes: 2 }),
      nll: nll(fused, { data: truth, shape }),
      axes: [fused.shape.length - shape.length, labels.shape.length - shape.length],
    };
  });
  for (const other of others) expect(other).toEqual(flat);
});
