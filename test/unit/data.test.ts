import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Dataset } from "../../lib/data/dataset.js";
import { encodePng, writePng } from "../../lib/data/encode-png.js";
import { readImage, readSize, toDisplay } from "../../lib/data/image.js";
import { readMask } from "../../lib/data/mask.js";
import { readStored } from "../../lib/data/stored.js";
import { encodeTiff } from "./support/tiff.js";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "le-data-"));
});
afterEach(() => rm(folder, { recursive: true }));

const grey = (values: number[], shape: number[]) => ({ data: Uint8Array.from(values), shape });
const data = { code: "ERR_LE_DATA" };

async function file(name: string, bytes: Uint8Array | string): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, bytes);
  return path;
}

/** Interleaved samples, to be encoded as any kind of file. */
const picture = (raw: Uint8Array | Uint16Array, width: number, channels: 1 | 2 | 3 | 4) =>
  sharp(raw, { raw: { width, height: raw.length / width / channels, channels } });

describe("readImage", () => {
  test("keeps every bit of a 16-bit grey PNG, also when interlaced", async () => {
    const values = Uint16Array.from({ length: 143 }, (_, i) => (i * 40503) & 0xffff);
    for (const progressive of [false, true]) {
      const bytes = await picture(values, 13, 1).toColourspace("grey16").png({ progressive }).toBuffer();
      const image = await readImage(await file("a.png", bytes));
      expect(image.shape).toEqual([1, 11, 13]);
      expect([...image.data]).toEqual([...values]);
    }
  });

  test.each(["lzw", "deflate", "none"] as const)("keeps every bit of a 16-bit TIFF (%s)", async (compression) => {
    const values = Uint16Array.from({ length: 96 }, (_, i) => i * 680);
    const bytes = await picture(values, 12, 1).toColourspace("grey16").tiff({ compression }).toBuffer();
    expect([...(await readImage(await file("a.tif", bytes))).data]).toEqual([...values]);
  });

  test("separates RGB into planes, and leaves alpha out where nothing shows through", async () => {
    const rgba = Uint8Array.from([1, 2, 3, 255, 4, 5, 6, 255]);
    const path = await file("a.png", await picture(rgba, 2, 4).png().toBuffer());
    const rgb = { data: Uint8Array.from([1, 4, 2, 5, 3, 6]), shape: [3, 1, 2] };
    for (const channels of [undefined, 1, 3]) expect(await readImage(path, { channels })).toEqual(rgb);
    const four = { data: Uint8Array.from([1, 4, 2, 5, 3, 6, 255, 255]), shape: [4, 1, 2] };
    expect(await readImage(path, { channels: 4 })).toEqual(four);
    rgba[3] = 254;
    const half = await file("half.png", await picture(rgba, 2, 4).png().toBuffer());
    await expect(readImage(half)).rejects.toThrow(/nothing shows through .*half\.png .* alpha 254 at row 0, column 0/);
    expect((await readImage(half, { channels: 4 })).shape).toEqual([4, 1, 2]);
    const wide = Uint16Array.from([1000, 2, 65535, 4, 50000, 6]);
    const tiff = await readImage(await file("b.tif", encodeTiff(wide, [1, 2, 3])));
    expect(tiff).toEqual({ data: Uint16Array.from([1000, 4, 2, 50000, 65535, 6]), shape: [3, 1, 2] });
  });

  test("reads float TIFFs as they are, and says where one is not finite", async () => {
    const values = Float32Array.from([-100.25, 0, 3e7, 1e-5]);
    expect((await readImage(await file("a.tiff", encodeTiff(values, [2, 2, 1])))).data).toEqual(values);
    values[3] = Number.NaN;
    const path = await file("b.tiff", encodeTiff(values, [2, 2, 1]));
    await expect(readImage(path)).rejects.toMatchObject({
      ...data,
      message: `Expected finite values for the image ${path} but received NaN at row 1, column 1`,
    });
  });

  test("applies no gamma or colour profile", async () => {
    const values = Uint8Array.from({ length: 256 }, (_, i) => i);
    const bytes = await picture(values, 16, 1).toColourspace("b-w").png().toBuffer();
    const gamma = Buffer.from("0000000467414d410000b18f0bfc6105", "hex");
    const withGamma = Buffer.concat([bytes.subarray(0, 33), gamma, bytes.subarray(33)]);
    expect([...(await readImage(await file("a.png", withGamma))).data]).toEqual([...values]);

    const plain = await picture(values, 16, 1).jpeg({ quality: 100 }).toBuffer();
    const turned = await sharp(plain).withMetadata({ icc: "p3" }).jpeg({ quality: 100 }).toBuffer();
    const [a, b] = [await readImage(await file("a.jpg", plain)), await readImage(await file("b.jpg", turned))];
    expect(b.shape).toEqual(a.shape);
    const worst = Math.max(...a.data.map((value, i) => Math.abs(value - b.data[i]!)));
    expect(worst).toBeLessThanOrEqual(6);
  });

  test("reads a palette PNG as its colours", async () => {
    const rgb = Uint8Array.from([255, 0, 0, 0, 0, 255, 255, 0, 0]);
    const path = await file("a.png", await picture(rgb, 3, 3).png({ palette: true, dither: 0 }).toBuffer());
    expect(await readImage(path)).toEqual({
      data: Uint8Array.from([255, 0, 255, 0, 0, 0, 0, 255, 0]),
      shape: [3, 1, 3],
    });
  });

  test("names the file, what was expected and what was found", async () => {
    const whole = await encodePng(
      grey(
        Array(4096)
          .fill(0)
          .map((_, i) => (i * 7919) % 251),
        [64, 64],
      ),
    );
    const corrupt = Buffer.from(whole);
    corrupt[60]! ^= 255;
    const jpeg = await picture(
      new Uint8Array(64 * 64).map((_, i) => (i * 31) % 256),
      64,
      1,
    )
      .jpeg()
      .toBuffer();
    const tiff = encodeTiff(new Uint16Array(64), [8, 8, 1]);
    const cases: [string, Uint8Array | string, RegExp][] = [
      ["cut.png", whole.subarray(0, whole.length - 20), /cut\.png .* cut short/],
      ["head.png", whole.subarray(0, 20), /head\.png .* cut short/],
      ["corrupt.png", corrupt, /corrupt\.png .* wrong checksum/],
      ["cut.jpg", jpeg.subarray(0, jpeg.length * 0.6), /whole JPEG .*cut\.jpg .* premature end/],
      ["text.png", "hello", /PNG, JPEG or TIFF .*text\.png/],
      ["empty.png", "", /empty\.png but received an empty file/],
      ["cut.tif", tiff.subarray(0, 90), /whole TIFF .*cut\.tif .* cut short/],
      ["a.webp.png", await picture(new Uint8Array(64), 8, 1).webp().toBuffer(), /received a webp file/],
    ];
    for (const [name, bytes, message] of cases) {
      await expect(readImage(await file(name, bytes)), name).rejects.toMatchObject({
        ...data,
        message: expect.stringMatching(message),
      });
    }
    await expect(readImage(join(folder, "none.png"))).rejects.toThrow(/readable file .*none\.png but received none/);
  });

  test("refuses more pixels than allowed before it decodes them", async () => {
    const bomb = await encodePng(grey([0], [1, 1]));
    bomb.writeUInt32BE(100_000, 16);
    bomb.writeUInt32BE(100_000, 20);
    const { crc32 } = await import("../../lib/data/crc.js");
    bomb.writeUInt32BE(crc32(bomb.subarray(12, 29)), 29);
    await expect(readImage(await file("bomb.png", bomb))).rejects.toThrow(/at most 100000000 pixels .* 100000×100000/);
    const jpeg = await picture(new Uint8Array(400), 20, 1).jpeg().toBuffer();
    const path = await file("a.jpg", jpeg);
    await expect(readImage(path, { maxPixels: 399 })).rejects.toThrow(/at most 399 pixels .* 20×20/);
    expect((await readImage(path, { maxPixels: 400 })).shape).toEqual(
      [1, 20, 20].map((n, i) => (i ? n : expect.any(Number))),
    );
  });

  test("refuses numbers of which single precision tells too few apart", async () => {
    const kept = (path: string) => readStored(path, { channels: 1, spatialAxes: 2 });
    const npy = (name: string, descr: string, values: Float64Array | Uint32Array) => {
      const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': (2, 3), }`;
      const head = Buffer.concat([Buffer.from("\x93NUMPY\x01\0", "latin1"), Buffer.from([text.length, 0])]);
      return file(name, Buffer.concat([head, Buffer.from(text), Buffer.from(values.buffer)]));
    };
    const counts = [0, 1, 2, 3, 100, 255];
    const far = counts.map((value) => 2 ** 31 + value);
    const near = counts.map((value) => 2 ** 23 + value);
    for (const [descr, Type] of [
      ["<f8", Float64Array],
      ["<u4", Uint32Array],
    ] as const) {
      await expect(kept(await npy("far.npy", descr, Type.from(far)))).rejects.toThrow(
        /single precision tells apart .*far\.npy but received numbers from 2147483648 to 2147483903/,
      );
      expect([...(await kept(await npy("near.npy", descr, Type.from(near)))).data]).toEqual(near);
    }
    expect((await kept(await npy("tenth.npy", "<f8", new Float64Array(6).fill(0.1)))).data[0]).toBe(Math.fround(0.1));
    const tiff = await file("far.tif", encodeTiff(Uint32Array.from(far), [2, 3, 1]));
    await expect(readImage(tiff)).rejects.toThrow(/single precision tells apart .*far\.tif .*32-bit unsigned/);
    expect([...(await readImage(await file("near.tif", encodeTiff(Uint32Array.from(near), [2, 3, 1])))).data]).toEqual(
      near,
    );
  });

  test("readSize agrees", async () => {
    const bytes = await encodePng(grey(Array(15).fill(1), [3, 5]));
    expect(await readSize(await file("a.png", bytes))).toEqual([3, 5]);
    expect(await readSize(await file("a.tif", encodeTiff(new Uint16Array(15), [3, 5, 1])))).toEqual([3, 5]);
  });

  test("toDisplay keeps 8 bits, and stretches more", async () => {
    expect(toDisplay({ data: Uint8Array.from([0, 7, 255]), shape: [1, 1, 3] }).data).toEqual(
      Uint8Array.from([0, 7, 255]),
    );
    const wide = toDisplay({ data: Uint16Array.from({ length: 1001 }, (_, i) => 20000 + i), shape: [1, 1, 1001] });
    expect([wide.data[0], wide.data[500], wide.data[1000]]).toEqual([0, 128, 255]);
  });
});

describe("readMask", () => {
  test("a palette gives its indices, be its colours grey or not", async () => {
    // libvips orders a palette as it likes, so the file is put together by hand: 4 pixels with indices 2, 0, 1, 2.
    const { crc32 } = await import("../../lib/data/crc.js");
    const { deflateSync } = await import("node:zlib");
    const chunk = (type: string, body: Buffer) => {
      const out = Buffer.alloc(12 + body.length);
      out.writeUInt32BE(body.length, 0);
      out.write(type, 4, "latin1");
      body.copy(out, 8);
      out.writeUInt32BE(crc32(out.subarray(4, 8 + body.length)), 8 + body.length);
      return out;
    };
    const build = (depth: number, palette: number[] | undefined, row: number[]) => {
      const head = Buffer.alloc(13);
      head.writeUInt32BE(4, 0);
      head.writeUInt32BE(1, 4);
      head.set([depth, palette ? 3 : 0], 8);
      return Buffer.concat([
        Buffer.from("89504e470d0a1a0a", "hex"),
        chunk("IHDR", head),
        ...(palette ? [chunk("PLTE", Buffer.from(palette))] : []),
        chunk("IDAT", deflateSync(Buffer.from([0, ...row]))),
        chunk("IEND", Buffer.alloc(0)),
      ]);
    };
    const read = async (bytes: Buffer) => [...(await readMask(await file("m.png", bytes))).data];
    expect(await read(build(8, [0, 0, 0, 128, 0, 0, 0, 128, 0], [2, 0, 1, 2]))).toEqual([2, 0, 1, 2]);
    expect(await read(build(2, [0, 0, 0, 128, 0, 0, 0, 128, 0], [0b10000110]))).toEqual([2, 0, 1, 2]);
    expect(await read(build(8, [255, 255, 255, 0, 0, 0, 3, 3, 3], [2, 0, 1, 2]))).toEqual([2, 0, 1, 2]);
    expect(await read(build(1, undefined, [0b10110000]))).toEqual([1, 0, 1, 1]);
    expect(await read(build(4, undefined, [0x0f, 0x21]))).toEqual([0, 15, 2, 1]);
    await expect(read(build(8, [0, 0, 0, 1, 1, 1], [2, 0, 1, 2]))).rejects.toThrow("outside its palette");
  });

  test("grey that was saved as RGB or RGBA gives its value; colours are an error", async () => {
    const rgb = await picture(Uint8Array.from([0, 0, 0, 3, 3, 3]), 2, 3)
      .png()
      .toBuffer();
    expect([...(await readMask(await file("a.png", rgb))).data]).toEqual([0, 3]);
    const rgba = await picture(Uint8Array.from([0, 0, 0, 255, 3, 3, 3, 255]), 2, 4)
      .png()
      .toBuffer();
    expect([...(await readMask(await file("b.png", rgba))).data]).toEqual([0, 3]);
    const colour = await file(
      "c.png",
      await picture(Uint8Array.from([0, 0, 0, 3, 4, 3]), 2, 3)
        .png()
        .toBuffer(),
    );
    await expect(readMask(colour)).rejects.toThrow(/class indices .*c\.png but received an RGB image with colours/);
  });

  test("16 bits are as stored; other files are an error", async () => {
    const good = await encodePng({ data: Uint16Array.from([0, 255]), shape: [1, 2] });
    expect([...(await readMask(await file("a.png", good))).data]).toEqual([0, 255]);
    const large = await file("b.png", await encodePng({ data: Uint16Array.from([0, 65535]), shape: [1, 2] }));
    expect([...(await readMask(large)).data]).toEqual([0, 65535]);
    const jpeg = await file("c.png", await picture(new Uint8Array(64), 8, 1).jpeg().toBuffer());
    await expect(readMask(jpeg)).rejects.toThrow("a file of another kind");
  });
});

describe("Dataset.fromFolder", () => {
  interface Made {
    /** Image and mask values per id; no mask for null. */
    masks: Record<string, number[] | null>;
    split?: string;
  }

  async function make({ masks, split }: Made): Promise<string> {
    await mkdir(join(folder, "images"), { recursive: true });
    await mkdir(join(folder, "masks"), { recursive: true });
    for (const [id, mask] of Object.entries(masks)) {
      await writePng(join(folder, "images", `${id}.png`), grey([10, 20, 30, 40, 50, 60], [2, 3]));
      if (mask) await writePng(join(folder, "masks", `${id}.png`), grey(mask, [2, mask.length / 2]));
    }
    if (split !== undefined) await writeFile(join(folder, "split.csv"), split);
    return folder;
  }

  const m = [0, 1, 2, 0, 0, 0];
  const zero = [0, 0, 0, 0, 0, 0];
  const three = { a: m, b: zero, c: m };
  const table = "id,split,group,age\na,train,p1,50\nb,train,p1,51\nc,test,p2,\n";

  test("gives images, masks, splits, groups and classes", async () => {
    const set = await Dataset.fromFolder(await make({ masks: three, split: table }), { size: [4, 6] });
    expect(set.length).toBe(3);
    expect(set.ids).toEqual(["a", "b", "c"]);
    expect(set.splits).toEqual({ train: 2, test: 1 });
    expect(set.classNames).toEqual(["background", "class 1", "class 2"]);
    expect(set.labelsFound).toEqual([0, 1, 2]);
    expect(set.samples[1]).toEqual({ id: "b", group: "p1", split: "train", hasMask: true });
    const sample = await set.split("test").load(0);
    expect(sample.id).toBe("c");
    expect(sample.image.shape).toEqual([1, 4, 6]);
    expect([...sample.mask!.data.subarray(0, 6)]).toEqual([0, 0, 1, 1, 2, 2]);
    expect(sample.placement.original).toEqual([2, 3]);
    const original = await set.loadOriginal(0);
    expect([...original.image.data]).toEqual([10, 20, 30, 40, 50, 60]);
    expect([...original.mask!.data]).toEqual(m);
    expect(set.preprocessing).toEqual({ size: [4, 6], resize: "stretch", normalise: { kind: "zscore" }, channels: 1 });
  });

  test("its own preprocessing record makes the same dataset", async () => {
    const first = await Dataset.fromFolder(await make({ masks: three }), {
      size: 8,
      resize: "pad",
      normalise: "percentile",
      channels: 3,
    });
    const second = await Dataset.fromFolder(folder, first.preprocessing);
    expect(await second.load(0)).toEqual(await first.load(0));
  });

  test("0 and 255 are a binary mask, unless another label shows that 255 is ignored", async () => {
    const binary = await Dataset.fromFolder(await make({ masks: { a: [0, 255, 255, 0, 0, 0], b: zero } }));
    expect([...(await binary.load(0)).mask!.data]).toEqual([0, 1, 1, 0, 0, 0]);
    expect(binary.labelsFound).toEqual([0, 1]);
    const index = await Dataset.fromFolder(folder, { maskValues: "index" });
    expect([...(await index.load(0)).mask!.data]).toEqual([0, 255, 255, 0, 0, 0]);
    expect(index.labelsFound).toEqual([0]);
    await make({ masks: { c: [0, 1, 255, 0, 0, 0] } });
    const ignored = await Dataset.fromFolder(folder);
    expect([...(await ignored.load(0)).mask!.data]).toEqual([0, 255, 255, 0, 0, 0]);
    expect(ignored.classes).toBe(2);
    await expect(Dataset.fromFolder(folder, { maskValues: "0/255" })).rejects.toThrow(
      /values 0 and 255 .*c\.png but received 1/,
    );
  });

  test("class names may be given, and must cover the labels", async () => {
    await make({ masks: three });
    const named = await Dataset.fromFolder(folder, { classes: ["background", "rv", "myo", "lv"] });
    expect(named.classNames).toEqual(["background", "rv", "myo", "lv"]);
    await expect(Dataset.fromFolder(folder, { classes: 2 })).rejects.toMatchObject({
      ...data,
      message: expect.stringMatching(/labels below 2 \(classes\) .*a\.png but received the label 2/),
    });
    const ignoring = await Dataset.fromFolder(folder, { classes: 2, ignoreIndex: 2 });
    expect(ignoring.labelsFound).toEqual([0, 1]);
  });

  test("images that the table does not name are in no split", async () => {
    const set = await Dataset.fromFolder(await make({ masks: three, split: "id,split\na,train\nb,\n" }));
    expect(set.splits).toEqual({ train: 1 });
    expect(set.length).toBe(3);
  });

  test("fractions keep the table's groups together and replace its splits", async () => {
    const masks = Object.fromEntries(Array.from({ length: 12 }, (_, i) => [`i${i}`, m]));
    const rows = Object.keys(masks).map((id, i) => `${id},train,g${i % 4}`);
    await make({ masks, split: `id,split,group\n${rows.join("\n")}\n` });
    const set = await Dataset.fromFolder(folder, { valFraction: 0.25, testFraction: 0.25, seed: 3 });
    expect(set.splits).toEqual({ train: 6, val: 3, test: 3 });
    expect(new Set(set.split("val").samples.map(({ group }) => group)).size).toBe(1);
  });

  const cases: [string, Made, RegExp][] = [
    [
      "an id without a file",
      { masks: three, split: "id,split\na,train\nzz,train\n" },
      /split\.csv but received zz without/,
    ],
    [
      "an id twice",
      { masks: three, split: "id,split\na,train\na,test\n" },
      /each id once .*split\.csv but received "a" twice/,
    ],
    [
      "a group in two splits",
      { masks: three, split: "id,split,group\na,train,p\nb,test,p\n" },
      /group "p" .* "train" and "test"/,
    ],
    ["no split column", { masks: three, split: "id,set\na,train\n" }, /a column "split" .* "id", "set"/],
    ["a missing mask", { masks: { a: m, b: null } }, /a mask for each image .*masks but received none for b\.png/],
    [
      "a mask of another size",
      { masks: { a: m, b: [0, 0, 0, 1] } },
      /2×3 pixels of its image .*b\.png but received 2×2/,
    ],
  ];
  test.each(cases)("%s is an error that names it", async (_, made, message) => {
    await make(made);
    await expect(Dataset.fromFolder(folder)).rejects.toMatchObject({
      ...data,
      message: expect.stringMatching(message),
    });
  });

  test("a group may be in two splits that are neither trained on nor reported", async () => {
    await make({ masks: three, split: "id,split,group\na,ood,p\nb,ood_late,p\nc,train,q\n" });
    expect((await Dataset.fromFolder(folder)).splits).toEqual({ ood: 1, ood_late: 1, train: 1 });
  });

  test("two files of one id, a missing folder, an empty folder", async () => {
    await expect(Dataset.fromFolder(join(folder, "nowhere"))).rejects.toThrow(
      /readable folder .*images but received none/,
    );
    await mkdir(join(folder, "images"));
    await mkdir(join(folder, "masks"));
    await expect(Dataset.fromFolder(folder)).rejects.toThrow(/at least one image .*images but received none/);
    await make({ masks: { a: m } });
    await copyFile(join(folder, "images", "a.png"), join(folder, "images", "a.TIF"));
    await expect(Dataset.fromFolder(folder)).rejects.toThrow(/one file per id .* received .*a\.TIF and a\.png/);
  });

  test("a damaged mask is found when the folder is opened, a damaged image when it is read", async () => {
    await make({ masks: three });
    const mask = join(folder, "masks", "b.png");
    const bytes = await readFile(mask);
    await writeFile(mask, bytes.subarray(0, 50));
    await expect(Dataset.fromFolder(folder)).rejects.toThrow(/b\.png .* cut short/);
    await writeFile(mask, bytes);
    const image = join(folder, "images", "b.png");
    await writeFile(image, (await readFile(image)).subarray(0, 50));
    const set = await Dataset.fromFolder(folder);
    await expect(set.load(1)).rejects.toMatchObject({
      ...data,
      message: expect.stringMatching(/images.b\.png .* cut short/),
    });
    await expect(set.loadAll()).rejects.toMatchObject(data);
  });

  test("without masks, when they are optional", async () => {
    await make({ masks: { a: m, b: null } });
    const set = await Dataset.fromFolder(folder, { masks: "optional" });
    expect(set.samples.map(({ hasMask }) => hasMask)).toEqual([true, false]);
    expect((await set.load(1)).mask).toBeUndefined();
    await rm(join(folder, "masks"), { recursive: true });
    expect((await Dataset.fromFolder(folder, { masks: "optional" })).classes).toBe(2);
    await expect(Dataset.fromFolder(folder)).rejects.toThrow(/readable folder .*masks but received none/);
  });

  test("a split that is not there lists those that are", async () => {
    const set = await Dataset.fromFolder(await make({ masks: three, split: table }));
    expect(() => set.split("val")).toThrow(/split "val" of .* there are train \(2\), test \(1\)/);
  });

  test.each([
    [{ siz: 3 }, /received 'siz'\. Did you mean 'size'\?/],
    [{ size: [1, 2, 3, 4] }, /option 'size'/],
    [{ size: 0 }, /option 'size'/],
    [{ resize: "crop" }, /"stretch", "pad", "none-with-pad" .*'resize'/],
    [{ normalise: { kind: "percentile", low: 60, high: 40 } }, /option 'normalise'/],
    [{ channels: 33 }, /option .channels./],
    [{ bands: ["red", "red"] }, /distinct names .*.bands./],
    [{ channels: 3, bands: ["red", "nir"] }, /a name for each of the 3 channels for bands but received 2/],
    [{ classes: 1 }, /option 'classes'/],
    [{ classes: ["a", "a"] }, /distinct names .*'classes'/],
    [{ valFraction: 1 }, /option 'valFraction'/],
    [{ ignoreIndex: 0.5 }, /option 'ignoreIndex'/],
    [{ maskValues: "255" }, /option 'maskValues'/],
  ])("%j is an option error", async (options, message) => {
    await expect(Dataset.fromFolder(folder, options as object)).rejects.toMatchObject({
      code: "ERR_LE_OPTION",
      message: expect.stringMatching(message),
    });
  });
});

describe("Dataset", () => {
  const samples = Array.from({ length: 10 }, (_, i) => ({
    id: `s${i}`,
    split: i < 7 ? "train" : "test",
    image: { data: Float32Array.from([i, i + 1, i + 2, i + 3]), shape: [2, 2] },
    mask: grey([0, 1, i % 2, 0], [2, 2]),
  }));

  test("is made from memory, and leaves what it was given alone", async () => {
    const set = Dataset.fromSamples(samples, { normalise: "none" });
    const sample = await set.split("test").load(1);
    expect([...sample.image.data]).toEqual([8, 9, 10, 11]);
    sample.mask!.data.fill(9);
    expect([...samples[8]!.mask.data]).toEqual([0, 1, 0, 0]);
  });

  test("is scaled by what is labelled in the training, whichever images follow", async () => {
    const training = Dataset.fromSamples(samples, { normalise: "none" }).split("train");
    const learned = await training.intensities();
    // By numpy: of pixel 1 of all seven, and of pixel 2 of those with an odd number.
    const values = [1, 2, 3, 4, 5, 6, 7, 3, 5, 7];
    const mean = values.reduce((sum, v) => sum + v, 0) / 10;
    const deviation = Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / 9);
    expect(learned).toEqual({
      kind: "training",
      channels: [
        {
          low: expect.closeTo(1.045, 9),
          high: 7,
          mean: expect.closeTo(mean, 9),
          deviation: expect.closeTo(deviation, 9),
        },
      ],
    });
    const whole = Dataset.fromSamples(samples).normalised(learned);
    expect(whole.preprocessing.normalise).toEqual(learned);
    const { image } = await whole.split("test").load(0);
    const expected = [7, 7, 7, 7].map((v) => (v - mean) / deviation);
    for (const [i, v] of [...image.data].entries()) expect(v).toBeCloseTo(expected[i] as number, 5);
    expect((await whole.load(0)).image.data[0]).toBeCloseTo((1.045 - mean) / deviation, 5);
    expect(Dataset.fromSamples(samples, { normalise: learned }).preprocessing.normalise).toEqual(learned);
    // Each channel that is scaled alone has its own; others count together.
    const two = samples.map(({ image: { data: values }, ...rest }) => ({
      ...rest,
      image: { data: Float32Array.from([...values, ...values.map((v) => 10 * v)]), shape: [2, 2, 2] },
    }));
    const each = await Dataset.fromSamples(two, { channels: 2, perChannel: true }).intensities();
    const { channels } = each as Extract<typeof each, { kind: "training" }>;
    expect(channels[1]?.mean).toBeCloseTo(10 * (channels[0]?.mean as number), 6);
    expect(await Dataset.fromSamples(two, { channels: 2 }).intensities()).toMatchObject({ channels: { length: 1 } });
    await expect(Dataset.fromSamples(samples, { normalise: each }).load(0)).rejects.toMatchObject({
      code: "ERR_LE_DATA",
    });
  });

  test("refuses intensities that nothing can be scaled by", async () => {
    const empty = samples.map((sample) => ({ ...sample, mask: grey([0, 0, 0, 0], [2, 2]) }));
    await expect(Dataset.fromSamples(empty, { classes: 2 }).intensities()).rejects.toMatchObject(data);
    const flat = samples.map((sample) => ({ ...sample, image: grey([3, 3, 3, 3], [2, 2]) }));
    await expect(Dataset.fromSamples(flat).intensities()).rejects.toMatchObject(data);
    const good = { low: 0, high: 1, mean: 0.5, deviation: 1 };
    for (const channels of [
      [],
      [{ ...good, high: 0 }],
      [{ ...good, deviation: 0 }],
      [{ ...good, mean: Number.NaN }],
      {},
    ])
      expect(() => Dataset.fromSamples(samples, { normalise: { kind: "training", channels } as never })).toThrow(
        expect.objectContaining({ code: "ERR_LE_OPTION" }),
      );
  });

  test("loads all in order, whatever the concurrency, with progress", async () => {
    const set = Dataset.fromSamples(samples);
    const seen: number[] = [];
    const all = await set.loadAll({ concurrency: 3, onProgress: ({ done, total }) => seen.push(done / total) });
    expect(all.map(({ id }) => id)).toEqual(set.ids);
    expect(seen.at(-1)).toBe(1);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
    const iterated: string[] = [];
    for await (const { id } of set.subset(4)) iterated.push(id);
    expect(iterated).toEqual(["s0", "s2", "s5", "s7"]);
  });

  test("stops with the signal's reason", async () => {
    const set = Dataset.fromSamples(samples);
    const controller = new AbortController();
    const reason = new Error("enough");
    const onProgress = ({ done }: { done: number }) => done === 3 && controller.abort(reason);
    await expect(set.loadAll({ concurrency: 1, signal: controller.signal, onProgress })).rejects.toBe(reason);
    await expect(set.loadAll({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });

  test("subsets by number and by test", () => {
    const set = Dataset.fromSamples(samples);
    expect(set.subset(({ split }) => split === "test").ids).toEqual(["s7", "s8", "s9"]);
    expect(set.subset(10).ids).toEqual(set.ids);
    expect(() => set.subset(11)).toThrow("Expected a number from 1 to 10 for the subset but received 11");
  });

  test("refuses samples that do not fit together", async () => {
    const [first] = samples;
    expect(() => Dataset.fromSamples([first!, first!])).toThrow(
      'distinct ids for the dataset samples but received "s0" twice',
    );
    const wide = { ...first!, mask: grey([0, 1, 1], [1, 3]) };
    expect(() => Dataset.fromSamples([wide])).toThrow(
      "Expected the image's 2×2 for the mask of sample s0 but received 1×3",
    );
    expect(() => Dataset.fromSamples(samples, { classes: 2, ignoreIndex: 1 })).not.toThrow();
    expect(() => Dataset.fromSamples([{ ...first!, mask: grey([0, 5, 0, 0], [2, 2]) }], { classes: 2 })).toThrow(
      "Expected labels below 2 (classes) for the mask of sample s0 but received the label 5",
    );
    const bad = { id: "n", image: { data: Float32Array.from([1, Number.NaN]), shape: [1, 2] } };
    await expect(Dataset.fromSamples([bad]).load(0)).rejects.toMatchObject({
      ...data,
      message: expect.stringMatching(/received NaN at index 1 \(in sample n\)/),
    });
    await expect(Dataset.fromSamples(samples).load(10)).rejects.toThrow("Expected an index from 0 to 9");
  });
});

const shared = join(import.meta.dirname, "../../../shared/data");

describe.skipIf(!existsSync(shared))("real data folders", () => {
  test.each([
    ["busi", { train: 351, val: 50, test: 100, normal: 93 }, [0, 1]],
    ["hippocampus", { train: 546, val: 78, test: 156 }, [0, 1, 2]],
    ["sunnybrook8", { ood: 77, ood_es_lv_only: 70 }, [0, 2, 3]],
  ])("%s", async (name, splits, labels) => {
    const set = await Dataset.fromFolder(join(shared, name), { size: [64, 64], resize: "pad" });
    expect(set.splits).toEqual(splits);
    expect(set.labelsFound).toEqual(labels);
    const [sample] = await set.subset(3).loadAll();
    expect(sample!.image.data.every(Number.isFinite)).toBe(true);
  });
});
