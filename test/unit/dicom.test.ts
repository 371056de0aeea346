// DICOM series: read right or refused, file by file made here.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { listSeries, readSeries, type SeriesOptions } from "../../lib/volumes/dicom/index.js";
import { loadPeer } from "../../lib/volumes/dicom/peer.js";
import { pixelReader } from "../../lib/volumes/dicom/pixels.js";
import { readVolume } from "../../lib/volumes/index.js";
import { dicomFile, type Elements, encapsulated, enhanced, slice, syntaxes, without } from "./support/dicom.js";

const root = mkdtempSync(path.join(os.tmpdir(), "le-dicom-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** A folder of files a.dcm, b.dcm and so on. */
let folders = 0;
function folderOf(...files: (Elements | Buffer)[]): string {
  const folder = path.join(root, `${folders++}`);
  mkdirSync(folder);
  for (const [i, file] of files.entries()) {
    const bytes = Buffer.isBuffer(file) ? file : dicomFile(file);
    writeFileSync(path.join(folder, `${String.fromCharCode(97 + i)}.dcm`), bytes);
  }
  return folder;
}
const read = (...files: (Elements | Buffer)[]) => readSeries(folderOf(...files));
const refusal = (files: (Elements | Buffer)[], options: SeriesOptions = {}) =>
  readSeries(folderOf(...files), options).then(
    () => "read",
    (error) => `${error.code}: ${error.message}`,
  );
const four = (extra: (k: number) => Elements = () => ({})) => [2, 0, 3, 1].map((k) => slice(2 * k, 10 * k, extra(k)));
const fourValues = [0, 1, 2, 3].flatMap((k) => [0, 1, 2, 3, 4, 5].map((i) => 10 * k + i));

describe("a volume", () => {
  it("is sorted by position, with rows apart by the first spacing and columns by the second", async () => {
    const { data, shape, grid, dtype, warnings, slices } = await read(...four());
    expect([...data]).toEqual(fourValues);
    expect([shape, dtype, warnings]).toEqual([[4, 2, 3], "uint16", []]);
    expect(grid).toEqual({
      shape: [4, 2, 3],
      affine: [
        [-0.25, 0, 0, 10],
        [0, -0.5, 0, 20],
        [0, 0, 2, 0],
        [0, 0, 0, 1],
      ],
    });
    expect(slices.map((one) => path.basename(one.path))).toEqual(["b.dcm", "d.dcm", "a.dcm", "c.dcm"]);
  });

  it.each(Object.values(without({ ...syntaxes } as never, "encapsulated", "rle")))("reads %s", async (syntax) => {
    const files = four((k) => {
      const pixels = slice(0, 10 * k)["7fe00010"]?.[1] as Buffer;
      return {
        "7fe00010": ["OW", (syntax as unknown as string) === syntaxes.big ? Buffer.from(pixels).swap16() : pixels],
      };
    });
    const { data } = await read(...files.map((file) => dicomFile(file, syntax as unknown as string)));
    expect([...data]).toEqual(fourValues);
  });

  it("reads bytes that big endian has in words", async () => {
    const bytes = Buffer.from([2, 1, 4, 3, 6, 5]);
    const extra: Elements = {
      "00280100": ["US", 8],
      "00280101": ["US", 8],
      "00280102": ["US", 7],
      "7fe00010": ["OW", bytes],
    };
    const { data } = await read(dicomFile(slice(0, 0, { ...extra, "00180050": ["DS", "1"] }), syntaxes.big));
    expect([...data]).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it("does not take pixels of implicit little endian for a sequence that begin like one", async () => {
    const pixels = Buffer.from([0xfe, 0xff, 0x00, 0xe0, 1, 0, 2, 0, 3, 0, 4, 0]);
    const { data } = await read(dicomFile(slice(0, 0, { "7fe00010": ["OW", pixels] }), syntaxes.implicit));
    expect([...data]).toEqual([65534, 57344, 1, 2, 3, 4]);
  });

  it("has slope and intercept of each slice, in whole numbers where they are", async () => {
    const whole = await read(...four((k) => ({ "00281053": ["DS", `${k + 1}`], "00281052": ["DS", "-1024"] })));
    expect([...whole.data]).toEqual(fourValues.map((value, i) => value * (Math.floor(i / 6) + 1) - 1024));
    expect(whole.data).toBeInstanceOf(Int32Array);
    const half = await read(...four(() => ({ "00281053": ["DS", "0.5"] })));
    expect([...half.data]).toEqual(fourValues.map((value) => value / 2));
    expect(half.data).toBeInstanceOf(Float32Array);
  });

  it("has the sign at the highest stored bit, and nothing of the bits above", async () => {
    const pixels = Buffer.alloc(12);
    for (const [i, bits] of [0xf800, 0x0fff, 0x57ff, 0x0001, 0x8000, 0x7801].entries())
      pixels.writeUInt16LE(bits, 2 * i);
    const layout: Elements = { "00280101": ["US", 12], "00280102": ["US", 11], "7fe00010": ["OW", pixels] };
    const signed = await read(slice(0, 0, { ...layout, "00280103": ["US", 1] }));
    expect([...signed.data]).toEqual([-2048, -1, 2047, 1, 0, -2047]);
    expect(signed.dtype).toBe("int16");
    const unsigned = await read(slice(0, 0, layout));
    expect([...unsigned.data]).toEqual([2048, 4095, 2047, 1, 0, 2049]);
  });

  it.each([
    [8, Buffer.from([1, 2, 3, 4, 5, 255]), [1, 2, 3, 4, 5, -1]],
    [32, Buffer.from(new Int32Array([1, 2, 3, 4, 5, -70000]).buffer), [1, 2, 3, 4, 5, -70000]],
  ])("reads signed values of %i bits", async (bits, pixels, values) => {
    const layout: Elements = { "00280100": ["US", bits], "00280101": ["US", bits], "00280102": ["US", bits - 1] };
    const { data } = await read(slice(0, 0, { ...layout, "00280103": ["US", 1], "7fe00010": ["OW", pixels] }));
    expect([...data]).toEqual(values);
  });

  it("reads single bits, whose frames follow one another within a byte", async () => {
    const bit: Elements = { "00280100": ["US", 1], "00280101": ["US", 1], "00280102": ["US", 0] };
    const { data } = await read(enhanced([0, 1], { ...bit, "7fe00010": ["OB", Buffer.from([0b01_000101, 0b1100])] }));
    expect([...data]).toEqual([1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1]);
  });

  it("reads single bits beyond the 2³¹th", async () => {
    const [rows, columns, index] = [1024, 1024, 2047];
    const byteArray = new Uint8Array(2 ** 28 + 1);
    byteArray.set([0b1010, 0b101], 2 ** 28 - 1);
    const elements = { x7fe00010: { dataOffset: 0, length: byteArray.length } };
    const bits = pixelReader({ byteArray, elements } as never, { name: "explicit" }, "a.dcm");
    const frame = { rows, columns, index, bitsAllocated: 1 } as never;
    expect([...(await bits(frame)).subarray(-8)]).toEqual([0, 1, 0, 1, 0, 0, 0, 0]);
    const next = await bits({ rows: 1, columns: 8, index: 2 ** 28, bitsAllocated: 1 } as never);
    expect([...next]).toEqual([1, 0, 1, 0, 0, 0, 0, 0]);
  });

  it("keeps MONOCHROME1 as stored, and says so", async () => {
    const { data, photometric } = await read(...four(() => ({ "00280004": ["CS", "MONOCHROME1"] })));
    expect([[...data], photometric]).toEqual([fourValues, "MONOCHROME1"]);
  });

  it("takes positions rounded to a thousandth of a millimetre, and refuses those that are 2 % off", async () => {
    const at = (zs: number[]) => zs.map((z, k) => slice(z, 10 * k, { "00200032": ["DS", `-10\\-20\\${z}`] }));
    const { grid } = await read(...at([0, 0.333, 0.667, 1]));
    expect(grid?.affine[2][2]).toBeCloseTo(1 / 3, 12);
    expect(await refusal(at([0, 1.02, 2, 3]))).toMatch(/^ERR_LE_DATA: .*1 %.*allowUneven/);
  });

  it("refuses differences that add up along the stack", async () => {
    const zs = Array.from({ length: 41 }, (_, k) => (k <= 20 ? k * 0.996 : 19.92 + (k - 20) * 1.004));
    expect(await refusal(zs.map((z) => slice(z, 0)))).toMatch(/off an even grid/);
  });
});

describe("a single slice", () => {
  it.each([
    [{ "00180088": ["DS", "3"], "00180050": ["DS", "5"] } as Elements, 3],
    [{ "00180050": ["DS", "5"] } as Elements, 5],
    [{ "00180088": ["DS", "-3"], "00180050": ["DS", "5"] } as Elements, 5],
  ])("has its depth from the spacing between slices, else the thickness (%j)", async (extra, depth) => {
    expect((await read(slice(0, 0, extra))).grid?.affine[2][2]).toBe(depth);
  });

  it.each([
    ["thickness", slice(0, 0, { "00180050": ["DS", "-5"] })],
    ["position", without(slice(0, 0, { "00180050": ["DS", "5"] }), "00200032")],
    ["PixelSpacing", without(slice(0, 0, { "00180050": ["DS", "5"], "00181164": ["DS", "1\\1"] }), "00280030")],
  ])("has no grid without a %s, and says so", async (what, file) => {
    const { grid, warnings } = await read(file);
    expect([grid, warnings.length]).toEqual([null, 1]);
    expect(warnings[0]).toContain(what);
  });
});

describe("an enhanced file", () => {
  it("is read frame by frame, spacing from the shared groups", async () => {
    const { data, grid, slices } = await read(enhanced([4, 0, 2]));
    expect([...data]).toEqual([0, 20, 40].flatMap((first) => [0, 1, 2, 3, 4, 5].map((i) => first + i)));
    expect(grid?.affine).toEqual([
      [-0.25, 0, 0, 10],
      [0, -0.5, 0, 20],
      [0, 0, 2, 0],
      [0, 0, 0, 1],
    ]);
    expect(slices.map(({ frame }) => frame)).toEqual([2, 3, 1]);
  });

  it("is refused where frames share one position, or have none, or other functional groups than frames", async () => {
    const none = without(enhanced([0, 2]), "52009230");
    expect(await refusal([none])).toMatch(/no position/);
    expect(await refusal([{ ...none, "00200032": ["DS", "0\\0\\0"] }])).toMatch(/no position/);
    const groups = enhanced([0, 2, 4])["52009230"] as Elements[string];
    expect(await refusal([{ ...enhanced([0, 2]), "52009230": groups }])).toMatch(/functional groups of 2 frames .* 3/);
  });

  it("is refused where stacks, echoes, times or segments differ, with a list that 'series' picks from", async () => {
    const groups = (macro: string, tag: string, values: Elements[string][]): Elements => ({
      "52009230": [
        "SQ",
        [0, 2, 0, 2].map(
          (z, i): Elements => ({
            "00209113": ["SQ", [{ "00200032": ["DS", `-10\\-20\\${z}`] }]],
            [macro]: ["SQ", [{ [tag]: values[i >> 1] as Elements[string] }]],
          }),
        ),
      ],
    });
    for (const [macro, tag, values] of [
      [
        "00209111",
        "00209056",
        [
          ["SH", "1"],
          ["SH", "2"],
        ],
      ],
      [
        "00189114",
        "00189082",
        [
          ["FD", 10],
          ["FD", 80],
        ],
      ],
      [
        "00209111",
        "00209128",
        [
          ["UL", 1],
          ["UL", 2],
        ],
      ],
      [
        "00189117",
        "00189087",
        [
          ["FD", 0],
          ["FD", 1000],
        ],
      ],
      [
        "0062000a",
        "0062000b",
        [
          ["US", 1],
          ["US", 2],
        ],
      ],
    ] as [string, string, Elements[string][]][]) {
      const folder = folderOf({ ...enhanced([0, 2, 4, 6]), ...groups(macro, tag, values) });
      await expect(readSeries(folder)).rejects.toThrow(
        /one volume .* received 2 of 1 series; option 'series'.*\n {2}1\. 1\.2\.4:1.*\n {2}2\. 1\.2\.4:2/s,
      );
      expect([...(await readSeries(folder, { series: "1.2.4:2" })).data].slice(0, 6)).toEqual([40, 41, 42, 43, 44, 45]);
    }
  });
});

describe("packed pixel data", () => {
  const frames = [0, 20, 40].map((first) => slice(0, first)["7fe00010"]?.[1] as Buffer);
  const halves = frames.flatMap((frame) => [frame.subarray(0, 4), frame.subarray(4)]);
  const values = [0, 20, 40].flatMap((first) => [0, 1, 2, 3, 4, 5].map((i) => first + i));
  const file = (pixels: Buffer, syntax = syntaxes.encapsulated) =>
    dicomFile(enhanced([0, 2, 4], { "7fe00010": ["OB", pixels] }), syntax);

  it("has a fragment a frame, or several with an offset table", async () => {
    expect([...(await read(file(encapsulated(frames)))).data]).toEqual(values);
    expect([...(await read(file(encapsulated(frames, [0, 20, 40])))).data]).toEqual(values);
    expect([...(await read(file(encapsulated(halves, [0, 28, 56])))).data]).toEqual(values);
    const single = dicomFile(
      slice(0, 0, { "7fe00010": ["OB", encapsulated(halves.slice(2, 4))] }),
      syntaxes.encapsulated,
    );
    expect([...(await read(single)).data]).toEqual([20, 21, 22, 23, 24, 25]);
  });

  it("is refused where frames cannot be told apart, the table is wrong, or something is cut", async () => {
    expect(await refusal([file(encapsulated(halves))])).toMatch(/6 without an offset table/);
    expect(await refusal([file(encapsulated(halves, [0, 28, 57]))])).toMatch(/offset table/);
    expect(await refusal([file(encapsulated(halves, [0, 28]))])).toMatch(/offset table/);
    expect(await refusal([file(encapsulated(frames.map((frame) => frame.subarray(2))))])).toMatch(/10 bytes of 12/);
    for (const cut of [4, 8, 12, 20, 30]) {
      const whole = file(encapsulated(frames));
      expect(await refusal([whole.subarray(0, whole.length - cut)])).toMatch(/^ERR_LE_DATA: Expected .*a\.dcm/);
    }
  });

  /** Two segments, the high bytes first: all zero, and six literals. */
  const rle = (first: number) => {
    const head = Buffer.alloc(64);
    for (const [i, value] of [2, 64, 66].entries()) head.writeUInt32LE(value, 4 * i);
    return Buffer.concat([
      head,
      Buffer.from([251, 0, 5, ...[0, 1, 2, 3, 4, 5].map((i) => first + i)]),
      Buffer.alloc(1),
    ]);
  };

  it("is unpacked by RLE, and refused where a segment is damaged", async () => {
    const good = [0, 20, 40].map(rle);
    expect([...(await read(file(encapsulated(good), syntaxes.rle))).data]).toEqual(values);
    const damaged = (at: number, value: number) => {
      const bytes = Buffer.from(good[1] as Buffer);
      bytes[at] = value;
      return file(encapsulated([good[0] as Buffer, bytes, good[2] as Buffer]), syntaxes.rle);
    };
    for (const [at, value] of [
      [0, 1],
      [4, 200],
      [8, 200],
      [64, 252],
      [64, 200],
      [66, 4],
      [66, 60],
    ] as const)
      expect(await refusal([damaged(at, value)]), `${at}`).toMatch(/^ERR_LE_DATA: .*frame 2/);
  });

  it("is refused where its stream is of another kind or size, before a codec sees it", async () => {
    const jpeg = (rows: number, components: number) =>
      Buffer.from([
        0xff,
        0xd8,
        0xff,
        0xc3,
        0,
        8 + 3 * components,
        16,
        rows >> 8,
        rows & 255,
        0,
        3,
        components,
        0xff,
        0xd9,
      ]);
    const one = (pixels: Buffer, uid: string) =>
      dicomFile(slice(0, 0, { "7fe00010": ["OB", encapsulated([pixels])] }), uid);
    const lossless = "1.2.840.10008.1.2.4.70";
    expect(await refusal([one(jpeg(60000, 1), lossless)])).toMatch(/60000×3 pixels/);
    expect(await refusal([one(jpeg(2, 3), lossless)])).toMatch(/3 components/);
    expect(await refusal([one(jpeg(2, 1), "1.2.840.10008.1.2.4.50")])).toMatch(/process/);
    expect(await refusal([one(jpeg(2, 1).subarray(0, 12), lossless)])).toMatch(/cut short/);
    expect(await refusal([one(jpeg(2, 1), "1.2.840.10008.1.2.4.90")])).toMatch(/JPEG 2000/);
    expect(await refusal([one(jpeg(2, 1), lossless)])).toMatch(/^ERR_LE_DATA: .*JPEG lossless/);
  });
});

describe("refused, with the files and what to do", () => {
  const at = (position: string) => ({ "00200032": ["DS", position] }) as Elements;
  it.each<[string, (Elements | Buffer)[], RegExp]>([
    [
      "a missing slice",
      [0, 2, 6, 8].map((z) => slice(z, 0)),
      /missing slice between .*b\.dcm at 2 mm and .*c\.dcm at 6 mm; allowUneven/,
    ],
    ["a doubled slice", [0, 2, 2, 4].map((z) => slice(z, 0)), /two at one: .*b\.dcm at 2 mm and .*c\.dcm at 2 mm/],
    ["two slices at one place", [0, 0].map((z) => slice(z, 0)), /two at one/],
    [
      "gantry tilt",
      [0, 2, 4].map((z) => slice(z, 0, at(`-10\\${-20 + z / 4}\\${z}`))),
      /tilt of 14\.036 degrees .*allowTilt/,
    ],
    [
      "a slice aside",
      [0, 2, 4].map((z) => slice(z, 0, at(`${z === 2 ? -9 : -10}\\-20\\${z}`))),
      /b\.dcm at 2 mm beside it/,
    ],
    ["several slices without a position", [0, 2].map((z) => without(slice(z, 0), "00200032")), /no position/],
    [
      "several slices without a spacing",
      [0, 2].map((z) => without(slice(z, 0, { "00181164": ["DS", "1\\1"] }), "00280030")),
      /no spacing/,
    ],
    [
      "a slice without an image",
      [slice(0, 0), without(slice(2, 0), "7fe00010", "00280010", "00280011")],
      /b\.dcm.*no image/,
    ],
    ["colour", [slice(0, 0, { "00280002": ["US", 3], "00280004": ["CS", "RGB"] })], /3 samples, RGB/],
    ["a palette", [slice(0, 0, { "00280004": ["CS", "PALETTE COLOR"] })], /PALETTE COLOR/],
    [
      "float pixels",
      [{ ...without(slice(0, 0), "7fe00010"), "7fe00008": ["OF", Buffer.alloc(24)] }],
      /Float Pixel Data/,
    ],
    ["a table of values", [slice(0, 0, { "00283000": ["SQ", [{ "00283006": ["US", 1] }]] })], /Modality LUT/],
    ["a high bit elsewhere", [slice(0, 0, { "00280101": ["US", 12] })], /12 stored, high bit 15/],
    ["12 bits allocated", [slice(0, 0, { "00280100": ["US", 12] })], /bits allocated/],
    ["too few pixels", [slice(0, 0, { "00280010": ["US", 3] })], /18 bytes of pixel data .* 12/],
    ["too many pixels", [slice(0, 0, { "00280010": ["US", 1] })], /6 bytes of pixel data .* 12/],
    ["a frame count that is hostile", [slice(0, 0, { "00280008": ["IS", "2000000000"] })], /bytes of pixel data/],
    ["no whole number of frames", [slice(0, 0, { "00280008": ["IS", "1.5"] })], /frames/],
    ["a slope of 0", [slice(0, 0, { "00281053": ["DS", "0"] })], /slope/],
    ["a slope that is no number", [slice(0, 0, { "00281053": ["DS", "1,5"] })], /finite numbers in \(0028,1053\)/],
    ["directions that are none", [slice(0, 0, { "00200037": ["DS", "1\\0\\0\\1\\0\\0"] })], /right angle/],
    ["a spacing of 0", [slice(0, 0, { "00280030": ["DS", "0\\1"] })], /spacing/],
    [
      "spacings whose product no number holds",
      four(() => ({ "00280030": ["DS", "1e200\\1e200"] })),
      /spacings and pos/,
    ],
    ["a private transfer syntax", [dicomFile(slice(0, 0), "1.2.840.113619.5.2")], /1\.2\.840\.113619\.5\.2; convert/],
    ["no DICOM at all", [Buffer.from("notes")], /none among 1 files/],
    ["an empty folder", [], /no file/],
  ])("%s", async (_, files, message) => {
    const outcome = await refusal(files);
    expect(outcome).toMatch(/^ERR_LE_DATA: Expected /);
    expect(outcome).toMatch(message);
  });

  it("cut anywhere, a file is refused and never read", async () => {
    const whole = dicomFile(slice(0, 0));
    for (let length = 140; length < whole.length; length += 7)
      expect(await refusal([whole.subarray(0, length)]), `${length}`).toMatch(/^ERR_LE_DATA: Expected /);
  });

  it("what inflates without end", async () => {
    const bomb = slice(0, 0, { "00091010": ["OB", Buffer.alloc(5 * 2 ** 24)] });
    expect(await refusal([dicomFile(bomb, syntaxes.deflated)])).toMatch(/^ERR_LE_DATA: .*a\.dcm/);
  });
});

describe("what a user allows", () => {
  it("allowTilt keeps the shear, allowUneven the mean step, each with a warning", async () => {
    const tilted = folderOf(...[0, 2, 4].map((z) => slice(z, 0, { "00200032": ["DS", `-10\\${-20 + z / 4}\\${z}`] })));
    const { grid, warnings } = await readSeries(tilted, { allowTilt: true });
    expect(grid?.affine.map((row) => row[2])).toEqual([0, -0.5, 2, 0]);
    expect(warnings.join()).toContain("14.036 degrees");
    const uneven = await readSeries(folderOf(...[0, 2, 6].map((z) => slice(z, 0))), { allowUneven: true });
    expect(uneven.grid?.affine[2][2]).toBe(3);
    expect(uneven.warnings.join()).toContain("up to 1 mm off");
  });

  it("series picks one of several volumes by id or number", async () => {
    const sagittal = slice(7, 50, { "00200037": ["DS", "0\\1\\0\\0\\0\\-1"], "00180050": ["DS", "1"] });
    const folder = folderOf(...four(), sagittal);
    const found = await listSeries(folder);
    expect(found.map(({ id, shape, files }) => [id, shape, files])).toEqual([
      ["1.2.4:1", [4, 2, 3], 4],
      ["1.2.4:2", [1, 2, 3], 1],
    ]);
    await expect(readSeries(folder)).rejects.toThrow(/received 2 of 1 series.*orientation 0\\1\\0\\0\\0\\-1/s);
    expect([...(await readSeries(folder, { series: "1.2.4:1" })).data]).toEqual(fourValues);
    expect((await readSeries(folder, { series: "2" })).shape).toEqual([1, 2, 3]);
    await expect(readSeries(folder, { series: "1.2.4" })).rejects.toThrow(/ERR_LE_OPTION|id or number/);
  });

  it.each<[string, (k: number) => Elements]>([
    ["series", (k) => ({ "0020000e": ["UI", `1.2.${k >> 1}`] })],
    ["matrices", (k): Elements => (k < 2 ? {} : { "00280010": ["US", 3], "00280011": ["US", 2] })],
    ["spacings", (k) => ({ "00280030": ["DS", k < 2 ? "0.5\\0.25" : "0.5\\0.26"] })],
    ["echoes", (k) => ({ "00180081": ["DS", k < 2 ? "10" : "80"] })],
    ["times", (k) => ({ "00200100": ["IS", k < 2 ? "1" : "2"] })],
    ["frames of reference", (k) => ({ "00200052": ["UI", k < 2 ? "1.5" : "1.6"] })],
    ["kinds", (k) => ({ "00080008": ["CS", k < 2 ? "ORIGINAL\\PRIMARY\\M" : "ORIGINAL\\PRIMARY\\P"] })],
    ["photometric interpretations", (k) => ({ "00280004": ["CS", k < 2 ? "MONOCHROME1" : "MONOCHROME2"] })],
    ["signs", (k) => ({ "00280103": ["US", k >> 1] })],
  ])("several %s are several volumes", async (_, extra) => {
    const folder = folderOf(...four(extra));
    expect(await listSeries(folder)).toHaveLength(2);
    await expect(readSeries(folder)).rejects.toThrow(/received 2 of/);
    expect((await readSeries(folder, { series: "1" })).shape[0]).toBe(2);
  });

  it("several acquisitions are refused, and merged where allowed", async () => {
    const folder = folderOf(...four((k) => ({ "00200012": ["IS", `${k}`] })));
    await expect(readSeries(folder)).rejects.toThrow(/received 4 .*'mergeAcquisitions'/s);
    expect([...(await readSeries(folder, { mergeAcquisitions: true })).data]).toEqual(fourValues);
  });

  it("volumes at the same places that differ by their image type are listed", async () => {
    const dixon = (type: string) =>
      [0, 2].map((z) => slice(z, 0, { "00080008": ["CS", `ORIGINAL\\PRIMARY\\OTHER\\${type}`] }));
    const found = await listSeries(folderOf(...dixon("W"), ...dixon("F")));
    expect(found.map(({ description }) => description.match(/OTHER\\(.)/)?.[1])).toEqual(["W", "F"]);
  });

  it("listSeries says what makes a volume unreadable", async () => {
    const [one] = await listSeries(folderOf(...[0, 2, 6].map((z) => slice(z, 0))));
    expect(one?.problem).toMatch(/missing slice/);
  });
});

describe("other files", () => {
  it("are left out with a note: not DICOM, a DICOMDIR, a report, a folder", async () => {
    const folder = folderOf(...four());
    writeFileSync(path.join(folder, "notes.txt"), "no DICOM");
    mkdirSync(path.join(folder, "below"));
    const other = (classUid: string): Elements => ({
      "00080016": ["UI", classUid],
      "0020000e": ["UI", "9.9"],
      "00080060": ["CS", "SR"],
    });
    writeFileSync(path.join(folder, "DICOMDIR"), dicomFile(other("1.2.840.10008.1.3.10")));
    writeFileSync(path.join(folder, "report"), dicomFile(other("1.2.840.10008.5.1.4.1.1.88.11")));
    const { data, warnings } = await readSeries(folder);
    expect([...data]).toEqual(fourValues);
    expect(warnings).toHaveLength(4);
    for (const name of ["notes.txt", "below", "DICOMDIR", "report"]) expect(warnings.join()).toContain(name);
  });

  it("are refused where they are named", async () => {
    const folder = folderOf(...four());
    const file = path.join(folder, "notes.txt");
    writeFileSync(file, "no DICOM");
    await expect(readSeries([path.join(folder, "a.dcm"), file])).rejects.toThrow(/notes\.txt.*another kind/);
    await expect(readSeries(path.join(folder, "nothing"))).rejects.toMatchObject({ code: "ERR_LE_IO" });
  });
});

describe("readVolume", () => {
  it("reads a folder, or a file whose name has no ending, with options of a series", async () => {
    const folder = folderOf(...four((k) => ({ "00200012": ["IS", `${k >> 1}`] })));
    await expect(readVolume(folder)).rejects.toThrow(/received 2/);
    const { data, format } = await readVolume(folder, { dicom: { mergeAcquisitions: true } });
    expect([[...data], format]).toEqual([fourValues, "dicom"]);
    const file = path.join(folder, "IM0001");
    writeFileSync(file, dicomFile(slice(0, 0)));
    expect((await readVolume(file)).shape).toEqual([1, 2, 3]);
    await expect(readVolume(folder, { dicom: { mergeAcquisitons: true } as never })).rejects.toThrow(
      /mergeAcquisitions/,
    );
  });

  it("refuses more values than allowed, and bytes, whose other slices nobody knows", async () => {
    await expect(readVolume(folderOf(...four()), { maxValues: 23 })).rejects.toThrow(/at most 23 values .* 24/);
    await expect(readVolume(dicomFile(slice(0, 0)))).rejects.toMatchObject({ code: "ERR_LE_DATA" });
  });
});

it("a package that is missing is named, with what to type", async () => {
  const missing = () => Promise.reject(new Error("Cannot find package"));
  await expect(loadPeer("dicom-parser", "DICOM files", missing)).rejects.toMatchObject({
    code: "ERR_LE_DATA",
    message: expect.stringContaining("npm install dicom-parser@1.8.21"),
  });
});
