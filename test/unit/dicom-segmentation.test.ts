// Segmentations and parametric maps of DICOM series: written right, read by others, refused where no file could be right.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { inSource, writeDerived } from "../../lib/volumes/dicom/derived.js";
import { itemsOf, parseDicom } from "../../lib/volumes/dicom/parser.js";
import {
  readSeries,
  readVolume,
  type Segment,
  type SegmentationOptions,
  type Volume,
  writeParametricMap,
  writeSegmentation,
} from "../../lib/volumes/index.js";
import { dicomFile, type Elements, enhanced, slice, without } from "./support/dicom.js";

const root = mkdtempSync(path.join(os.tmpdir(), "le-seg-"));
const disk = path.join(root, "disk");
mkdirSync(disk);
const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=16k", "tmpfs", disk]).status === 0;
afterAll(() => {
  if (mounted) spawnSync("umount", ["-l", disk]);
  rmSync(root, { recursive: true, force: true });
});
const at = (name: string) => path.join(root, name);

/** What a source has besides its image. */
const study: Elements = {
  "00080020": ["DA", "20260102"],
  "00080030": ["TM", "131415"],
  "00080050": ["SH", "A1"],
  "00080060": ["CS", "MR"],
  "00100010": ["PN", "Doe^Jane"],
  "00100020": ["LO", "P7"],
  "00100040": ["CS", "F"],
  "00180015": ["CS", "LIVER"],
  "0020000d": ["UI", "1.2.9"],
  "00200010": ["SH", "S1"],
  "00200052": ["UI", "1.2.8"],
  "00180050": ["DS", "1.5"],
};
let folders = 0;
/** A folder of slices, 2 mm apart, of 2 rows and 3 columns; their files are not in the order of their places. */
function folderOf(extra: Elements | ((k: number) => Elements) = {}, zs: readonly number[] = [4, 0, 6, 2]): string {
  const folder = at(`${folders++}`);
  mkdirSync(folder);
  for (const [i, z] of zs.entries()) {
    const own = typeof extra === "function" ? extra(i) : extra;
    writeFileSync(path.join(folder, `${i}.dcm`), dicomFile(slice(z, 0, { ...study, ...own })));
  }
  return folder;
}
const sourceOf = (...given: Parameters<typeof folderOf>) => readVolume(folderOf(...given));

const segments: Segment[] = [
  { label: 1, name: "liver", code: { value: "10200004", scheme: "SCT", meaning: "Liver" }, colour: [255, 0, 0] },
  { label: 2, name: "tumour" },
];
const shape = [4, 2, 3];
/** Of label 1 in slices 1 and 3, of 2 in slice 1. */
const data = Uint8Array.from([0, 0, 0, 0, 0, 0, /**/ 0, 1, 1, 2, 0, 1, /**/ 0, 0, 0, 0, 0, 0, /**/ 1, 0, 0, 0, 0, 1]);
const labels = { data, shape };
const written = async (source: Volume, options: Partial<SegmentationOptions> = {}, name = `${folders++}.dcm`) => {
  const info = await writeSegmentation(at(name), { labels }, { source, segments, ...options });
  return { ...info, file: at(name), ...(await parseDicom(readFileSync(at(name)), name)) };
};

describe("a segmentation of labels", () => {
  it("has a frame for each segment and slice that it is in, its bits one after another", async () => {
    const { data: set, frames } = await written(await sourceOf());
    expect([frames, set.string("x00280008"), set.string("x00620001")]).toEqual([3, "3", "BINARY"]);
    // Slices 1 and 3 of the liver, then slice 1 of the tumour: 6 bits each, from the lowest one on.
    const bits = ["011001", "100001", "000100"].join("");
    const pixels = set.elements.x7fe00010;
    const bytes = set.byteArray.subarray(pixels?.dataOffset, (pixels?.dataOffset ?? 0) + (pixels?.length ?? 0));
    expect([...bytes].map((byte) => byte.toString(2).padStart(8, "0").split("").reverse().join("")).join("")).toBe(
      bits.padEnd(32, "0"),
    );
    const groups = itemsOf(set, "x52009230");
    const of = (sequence: string, tag: string) => groups.map((group) => itemsOf(group, sequence)[0]?.string(tag));
    expect(of("x00209113", "x00200032")).toEqual(["-10\\-20\\2", "-10\\-20\\6", "-10\\-20\\2"]);
    expect(groups.map((group) => itemsOf(group, "x0062000a")[0]?.uint16("x0062000b"))).toEqual([1, 1, 2]);
    const index = groups.map((group) => [0, 1].map((i) => itemsOf(group, "x00209111")[0]?.uint32("x00209157", i)));
    expect(index).toEqual([
      [1, 1],
      [1, 2],
      [2, 1],
    ]);
    const sources = groups.map((group) => itemsOf(itemsOf(group, "x00089124")[0], "x00082112")[0]);
    expect(sources.map((one) => one?.string("x00081155"))).toEqual(["1.2.3.102000", "1.2.3.106000", "1.2.3.102000"]);
    expect(sources.every((one) => one?.elements.x00081160 === undefined)).toBe(true);
    const [series] = itemsOf(set, "x00081115");
    expect(series?.string("x0020000e")).toBe("1.2.4");
    expect(itemsOf(series, "x0008114a").map((one) => one.string("x00081155"))).toEqual(
      [0, 2, 4, 6].map((z) => `1.2.3.${100000 + 1000 * z}`),
    );
  });

  it("is of its source's patient, study and space, and new as a series", async () => {
    const before = Date.now();
    const source = await sourceOf({ "00080201": ["SH", "+0530"] });
    const { data: set, ...info } = await written(source, { seriesNumber: 7, seriesDescription: "Leber" });
    const text = (tag: string) => set.string(`x${tag}`);
    for (const [tag, value] of Object.entries(without(study, "00080060", "00180050")))
      expect(text(tag), tag).toBe(value[1]);
    expect([text("00080060"), text("00200011"), text("0008103e")]).toEqual(["SEG", "7", "Leber"]);
    for (const uid of [info.seriesInstanceUID, info.sopInstanceUID]) expect(uid).toMatch(/^2\.25\.[1-9]\d{30,38}$/);
    expect([text("0020000e"), text("00080018")]).toEqual([info.seriesInstanceUID, info.sopInstanceUID]);
    const again = await written(source);
    expect(again.sopInstanceUID).not.toBe(info.sopInstanceUID);
    expect(again.seriesInstanceUID).not.toBe(info.seriesInstanceUID);
    // By the clock of the source's times: 5 h 30 min before UTC's.
    const [date = "", time = ""] = [text("00080023"), text("00080033")];
    const [, ...parts] = `${date}${time}`.match(/(....)(..)(..)(..)(..)(..)/) ?? [];
    const [year = 0, month = 0, day, hour, minute, second] = parts.map(Number);
    const then = Date.UTC(year, month - 1, day, hour, minute, second) - 5.5 * 3600_000;
    expect(then).toBeGreaterThan(before - 1001);
    expect(then).toBeLessThan(Date.now() + 1001);
  });

  it("says what its segments are", async () => {
    const { data: set } = await written(await sourceOf(), { algorithm: "unet 3" });
    const [liver, tumour] = itemsOf(set, "x00620002");
    expect([liver?.uint16("x00620004"), liver?.string("x00620005")]).toEqual([1, "liver"]);
    expect([tumour?.uint16("x00620004"), tumour?.string("x00620005")]).toEqual([2, "tumour"]);
    expect([tumour?.string("x00620008"), tumour?.string("x00620009")]).toEqual(["AUTOMATIC", "unet 3"]);
    const code = (item: typeof liver, tag: string) => itemsOf(item, tag)[0]?.string("x00080100");
    expect([code(liver, "x0062000f"), code(tumour, "x0062000f"), code(liver, "x00620003")]).toEqual([
      "10200004",
      "85756007",
      "85756007",
    ]);
    // Red of sRGB is (54.29, 80.81, 69.89) in CIELab of D50.
    const lab = [0, 1, 2].map((i) => liver?.uint16("x0062000d", i) as number);
    expect((lab[0] as number) / 655.35).toBeCloseTo(54.29, 1);
    expect((lab[1] as number) / 257 - 128).toBeCloseTo(80.81, 1);
    expect((lab[2] as number) / 257 - 128).toBeCloseTo(69.89, 1);
    expect(tumour?.elements.x0062000d).toBeUndefined();
  });

  it("numbers its segments in their order, whatever their labels", async () => {
    const source = await sourceOf();
    const other = { data: Uint16Array.from(data, (label) => [0, 700, 9][label] as number), shape };
    const named = [
      { label: 9, name: "nine" },
      { label: 700, name: "seven hundred" },
    ];
    await writeSegmentation(at("numbers.dcm"), { labels: other }, { source, segments: named, emptyFrames: true });
    const read = await readSeries(at("numbers.dcm"));
    expect([...read.data]).toEqual(Array.from(data, (label) => [0, 2, 1][label]));
    expect(read.segments).toEqual([
      { number: 1, name: "nine" },
      { number: 2, name: "seven hundred" },
    ]);
  });

  it("has frames in which nothing is where that is asked for, or where nothing is at all", async () => {
    const source = await sourceOf();
    const all = await written(source, { emptyFrames: true });
    expect(all.frames).toBe(8);
    const none = { data: new Uint8Array(24), shape };
    const info = await writeSegmentation(at("none.dcm"), { labels: none }, { source, segments });
    expect(info.frames).toBe(8);
    expect([...(await readVolume(at("none.dcm"))).data]).toEqual([...none.data]);
  });

  it("refers to frames of a source that has them in one file", async () => {
    const folder = at(`${folders++}`);
    mkdirSync(folder);
    writeFileSync(path.join(folder, "all.dcm"), dicomFile(enhanced([4, 0, 6, 2], without(study, "00180050"))));
    const { data: set } = await written(await readVolume(folder));
    const sources = itemsOf(set, "x52009230").map((group) =>
      itemsOf(itemsOf(group, "x00089124")[0], "x00082112")[0]?.string("x00081160"),
    );
    expect(sources).toEqual(["4", "3", "4"]);
    expect(itemsOf(itemsOf(set, "x00081115")[0], "x0008114a")).toHaveLength(1);
  });

  it("lies where a tilted source does", async () => {
    const tilted = (k: number): Elements => ({ "00200032": ["DS", `-10\\${-20 + k / 2}\\${2 * k}`] });
    const source = await readVolume(folderOf(tilted), { dicom: { allowTilt: true } });
    const { file } = await written(source, { emptyFrames: true });
    expect((await readVolume(file, { dicom: { allowTilt: true } })).grid).toEqual(source.grid);
  });
});

describe("a segmentation of probabilities", () => {
  it("has bytes of 255 times the probability, and no frame in which all are 0", async () => {
    const p = new Float32Array(3 * 24);
    p.set([0.5, 1.00001, 0.0019, 0.002, -0.00001, 1 / 255], 24 + 6);
    p.fill(0.0019, 48, 72);
    const file = at("fractional.dcm");
    const given = { probabilities: { data: p, shape: [3, ...shape] } };
    const { frames } = await writeSegmentation(file, given, { source: await sourceOf(), segments });
    const { data: set } = await parseDicom(readFileSync(file), file);
    expect(frames).toBe(1);
    expect([set.string("x00620001"), set.string("x00620010"), set.uint16("x0062000e")]).toEqual([
      "FRACTIONAL",
      "PROBABILITY",
      255,
    ]);
    const start = set.elements.x7fe00010?.dataOffset ?? 0;
    expect([...set.byteArray.subarray(start)]).toEqual([128, 255, 0, 1, 0, 1]);
    await expect(readVolume(file)).rejects.toThrow(/FRACTIONAL/);
  });
});

describe("texts", () => {
  const latin1 = Buffer.from("M\xfcller^J\xfcrgen ", "latin1");

  it("of Latin-1 become Unicode, and so are names of segments", async () => {
    const source = await sourceOf({ "00080005": ["CS", "ISO_IR 100"], "00100010": ["PN", latin1] });
    const named = [{ label: 1, name: "Läsion 肝" }, segments[1] as Segment];
    const { data: set, file } = await written(source, { segments: named });
    expect(set.string("x00080005")).toBe("ISO_IR 192");
    expect(Buffer.from(set.string("x00100010") as string, "latin1").toString()).toBe("Müller^Jürgen");
    expect((await readSeries(file)).segments?.[0]?.name).toBe("Läsion 肝");
  });

  it.each([
    ["of several character sets", "ISO 2022 IR 6\\ISO 2022 IR 87", Buffer.from("1b2442243f1b2842", "hex")],
    ["that are not of the character set they say", "ISO_IR 192", latin1],
  ])("%s are kept as they are, with the character set", async (_, characterSet, name) => {
    const source = await sourceOf({ "00080005": ["CS", characterSet], "00100010": ["PN", name] });
    const { data: set } = await written(source);
    expect(set.string("x00080005")).toBe(characterSet);
    const { dataOffset = 0, length = 0 } = set.elements.x00100010 ?? {};
    expect(Buffer.from(set.byteArray.subarray(dataOffset, dataOffset + length))).toEqual(name);
    const foreign = written(source, { segments: [{ label: 1, name: "Läsion" }, segments[1] as Segment] });
    await expect(foreign).rejects.toMatchObject({ code: "ERR_LE_OPTION", message: expect.stringContaining("ASCII") });
  });
});

describe("refused, with nothing written", () => {
  const refusal = async (source: Volume | Promise<Volume>, volume: object, options: object = {}) => {
    const folder = at(`out${folders++}`);
    mkdirSync(folder);
    const given = { source: await source, segments, ...options };
    const outcome = await writeSegmentation(path.join(folder, "seg.dcm"), volume as never, given as never).then(
      () => "written",
      (error) => `${error.code}: ${error.message}`,
    );
    expect(readdirSync(folder)).toEqual([]);
    return outcome;
  };
  const one = sourceOf();

  it.each<[string, object, object, RegExp]>([
    ["another shape", { labels: { data: new Uint8Array(12), shape: [2, 2, 3] } }, {}, /ERR_LE_SHAPE.*4×2×3.*restore/],
    ["labels of no shape", { labels: { data, shape: [4, 2, 2] } }, {}, /ERR_LE_SHAPE.*\[D, H, W\]/],
    ["neither labels nor probabilities", {}, {}, /ERR_LE_SHAPE.*either/],
    ["both", { labels, probabilities: labels }, {}, /ERR_LE_SHAPE.*either/],
    ["a label without a segment", { labels }, { segments: [segments[1]] }, /ERR_LE_VALUE.*names.*1 at position 7/],
    ["labels that are none", { labels: { data: new Float32Array(24).fill(0.5), shape } }, {}, /ERR_LE_VALUE.*0\.5/],
    [
      "a channel without a segment",
      { probabilities: { data: new Float32Array(96), shape: [4, ...shape] } },
      {},
      /ERR_LE_VALUE.*none of channel 3/,
    ],
    [
      "a segment without a channel",
      { probabilities: { data: new Float32Array(48), shape: [2, ...shape] } },
      {},
      /ERR_LE_VALUE.*channel 2/,
    ],
    [
      "probabilities above 1",
      { probabilities: { data: new Float32Array(72).fill(1.01), shape: [3, ...shape] } },
      {},
      /ERR_LE_VALUE.*from 0 to 1.*1\.0/,
    ],
    [
      "probabilities that are none",
      { probabilities: { data: new Float32Array(72).fill(Number.NaN), shape: [3, ...shape] } },
      {},
      /ERR_LE_VALUE.*NaN/,
    ],
    [
      "two segments of a name",
      { labels },
      { segments: segments.map((one, i) => ({ ...one, name: i === 0 ? "liver" : " liver " })) },
      /ERR_LE_OPTION.*differ.*"liver" twice/,
    ],
    ["two segments of a label", { labels }, { segments: [...segments, segments[0]] }, /ERR_LE_OPTION.*two of 1/],
    ["no segment", { labels }, { segments: [] }, /ERR_LE_OPTION/],
    [
      "too many segments",
      { labels },
      { segments: Array.from({ length: 65_536 }, (_, i) => ({ label: i + 1, name: "x" })) },
      /ERR_LE_OPTION/,
    ],
    ["a segment of the background", { labels }, { segments: [{ label: 0, name: "x" }] }, /ERR_LE_OPTION.*label/],
    ["a name of two lines", { labels }, { segments: [{ label: 1, name: "a\nb" }] }, /ERR_LE_OPTION.*backslashes/],
    ["a name of two values", { labels }, { segments: [{ label: 1, name: "a\\b" }] }, /ERR_LE_OPTION.*backslashes/],
    ["a name that is too long", { labels }, { segments: [{ label: 1, name: "a".repeat(65) }] }, /ERR_LE_OPTION.*64/],
    ["a code without a scheme", { labels }, { segments: [{ label: 1, name: "a", code: { value: "1" } }] }, /scheme/],
    ["a misspelled option", { labels }, { emptyFrame: true }, /Did you mean 'emptyFrames'/],
  ])("%s", async (_, volume, options, message) => {
    expect(await refusal(one, volume, options)).toMatch(message);
  });

  it("a volume in another grid, with what to do", async () => {
    const { grid } = (await one) as { grid: NonNullable<Volume["grid"]> };
    const [x, ...others] = grid.affine;
    const turned = { shape: grid.shape, affine: [x.map((value) => -value), ...others] };
    expect(await refusal(one, { labels, grid: turned })).toMatch(/ERR_LE_VALUE.*grid of its source.*restore/);
    const same = { labels, grid: structuredClone(grid) } as never;
    await expect(writeSegmentation(at("same.dcm"), same, { source: await one, segments })).resolves.toBeDefined();
  });

  it.each<[string, Elements | ((k: number) => Elements), RegExp]>([
    ["without a StudyInstanceUID", { "0020000d": ["UI", ""] }, /StudyInstanceUID.*none/],
    ["without a frame of reference", { "00200052": ["UI", ""] }, /FrameOfReferenceUID.*none/],
    ["whose UID is none", { "0020000e": ["UI", "1.2.x"] }, /SeriesInstanceUID.*1\.2\.x/],
    ["whose UID is too long", { "00080016": ["UI", `1.${"2".repeat(63)}`] }, /SOPClassUID/],
    ["of two slices with one SOPInstanceUID", { "00080018": ["UI", "1.2.3"] }, /1\.2\.3 twice/],
    ["of two patients", (k) => ({ "00100020": ["LO", k < 2 ? "P7" : "P8"] }), /one PatientID.*P7, P8/],
    ["of two studies", (k) => ({ "0020000d": ["UI", k < 2 ? "1.2.9" : "1.2.10"] }), /one StudyInstanceUID/],
  ])("a source %s", async (_, extra, message) => {
    const outcome = await refusal(sourceOf(extra), { labels });
    expect(outcome).toMatch(/^ERR_LE_DATA: .*source/);
    expect(outcome).toMatch(message);
  });

  it("a source of uneven slices, or without a place", async () => {
    const uneven = readVolume(folderOf({}, [0, 2, 6, 8]), { dicom: { allowUneven: true } });
    expect(await refusal(uneven, { labels })).toMatch(/^ERR_LE_DATA: .*evenly apart.*missing slice/);
    const flat = readVolume(folderOf({ "00200032": ["DS", ""] }, [0]));
    const single = { labels: { data: new Uint8Array(6), shape: [1, 2, 3] } };
    expect(await refusal(flat, single)).toMatch(/^ERR_LE_DATA: .*slices with a place/);
  });

  it("a source that is no series of DICOM", async () => {
    const own = await one;
    const { header: _, ...bare } = own;
    expect(await refusal(bare as Volume, { labels })).toMatch(/ERR_LE_OPTION.*without its header/);
    expect(await refusal({ ...own, header: Buffer.from("{") }, { labels })).toMatch(/ERR_LE_OPTION.*header/);
    expect(await refusal({ ...own, format: "nifti" }, { labels })).toMatch(/ERR_LE_OPTION.*"nifti"/);
    expect(await refusal(undefined as never, { labels })).toMatch(/ERR_LE_OPTION.*source/);
    const { file } = await written(own, { emptyFrames: true });
    expect(await refusal(readVolume(file), { labels })).toMatch(/ERR_LE_OPTION.*header/);
  });

  it("more bytes than an element has", async () => {
    const origin = inSource("huge.dcm", shape, undefined, await one);
    const pixels = { keyword: "PixelData", bytes: 2 ** 32, pieces: [] } as const;
    const rest = { title: "Huge", sopClassUID: "1.2", modality: "OT", attributes: {}, dimensions: [], shared: {} };
    const huge = { ...rest, frames: [{ slice: 0, index: [], groups: {} }], pixels };
    await expect(writeDerived(at("huge.dcm"), huge, origin, {})).rejects.toMatchObject({ code: "ERR_LE_VALUE" });
    expect(existsSync(at("huge.dcm"))).toBe(false);
  });

  it("a place that cannot be written", async () => {
    const source = await one;
    const below = path.join(folderOf({}, [0]), "0.dcm", "seg.dcm");
    await expect(writeSegmentation(below, { labels }, { source, segments })).rejects.toMatchObject({
      code: "ERR_LE_IO",
    });
  });
});

describe("read back", () => {
  it("a label map of the slices from the first frame to the last, in their places", async () => {
    const source = await sourceOf();
    const { file } = await written(source);
    const read = await readVolume(file, { kind: "label" });
    expect([...read.data]).toEqual([...data.subarray(6)]);
    expect(read.shape).toEqual([3, 2, 3]);
    const affine = structuredClone(source.grid?.affine) as unknown as number[][];
    (affine[2] as number[])[3] = 2;
    expect(read.grid).toEqual({ shape: [3, 2, 3], affine });
    expect(read.warnings.join()).toMatch(/first to the last/);
  });

  it("any labels, in any grid, by frames whose bits end within bytes", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 9 }),
        fc.integer({ min: 1, max: 12 }),
        fc.infiniteStream(fc.integer({ min: 0, max: 12 })),
        async (depth, rows, columns, most, stream) => {
          const folder = at(`${folders++}`);
          mkdirSync(folder);
          for (let k = 0; k < depth; k++) {
            const size: Elements = { "00280010": ["US", rows], "00280011": ["US", columns] };
            const pixels: Elements = { "7fe00010": ["OW", Buffer.alloc(2 * rows * columns)] };
            writeFileSync(
              path.join(folder, `${k}.dcm`),
              dicomFile(slice(1.25 * k, 0, { ...study, ...size, ...pixels })),
            );
          }
          const source = await readVolume(folder);
          const values = Uint8Array.from([...stream.take(depth * rows * columns)], (label) => label % (most + 1));
          const named = Array.from({ length: most }, (_, i) => ({ label: i + 1, name: `${i + 1}` }));
          const given = { labels: { data: values, shape: source.shape } };
          await writeSegmentation(at("any.dcm"), given, { source, segments: named, emptyFrames: true });
          const read = await readVolume(at("any.dcm"), { kind: "label" });
          expect([...read.data]).toEqual([...values]);
          expect(read.shape).toEqual(source.shape);
          if (depth > 1) expect(read.grid).toEqual(source.grid);
        },
      ),
      { numRuns: 25 },
    );
  });

  it("is refused where segments overlap, two frames are one, or a frame is of no segment", async () => {
    const source = await sourceOf();
    const { file } = await written(source, { emptyFrames: true });
    const bytes = readFileSync(file);
    const broken = async (change: (copy: Buffer) => void) => {
      const copy = Buffer.from(bytes);
      change(copy);
      writeFileSync(at("broken.dcm"), copy);
      return readVolume(at("broken.dcm")).then(
        () => "read",
        (error) => `${error.code}: ${error.message}`,
      );
    };
    expect(await broken((copy) => copy.fill(0xff, copy.length - 6))).toMatch(/^ERR_LE_DATA: .*segments 1 and 2 in one/);
    const numbers = Buffer.from([0x62, 0x00, 0x0b, 0x00, 0x55, 0x53, 2, 0]);
    const last = bytes.lastIndexOf(numbers) + numbers.length;
    expect(await broken((copy) => copy.writeUInt16LE(1, last))).toMatch(/^ERR_LE_DATA: .*one frame for each segment/);
    expect(await broken((copy) => copy.writeUInt16LE(0, last))).toMatch(/^ERR_LE_DATA: .*segment for each frame/);
  });

  it("is not filled with slices without end", async () => {
    const { file } = await written(await sourceOf());
    const bytes = readFileSync(file);
    const between = Buffer.from([0x18, 0x00, 0x88, 0x00, 0x44, 0x53, 2, 0, 0x32, 0x20]);
    const at2 = bytes.indexOf(between) + 6;
    expect(at2).toBeGreaterThan(6);
    bytes.write("\x02\x001 ", at2, "latin1");
    writeFileSync(at("half.dcm"), bytes);
    expect((await readVolume(at("half.dcm"))).shape).toEqual([5, 2, 3]);
  });
});

describe("a parametric map", () => {
  const values = Float32Array.from({ length: 24 }, (_, i) => Math.fround(Math.sqrt(i) - 1));

  it("has its values as they are, and what they are", async () => {
    const source = await sourceOf();
    const unit = { value: "bit", scheme: "UCUM", meaning: "bit" };
    const options = { source, name: "entropy of the mean", unit, range: [0, 2] as const };
    const info = await writeParametricMap(at("map.dcm"), { data: values, shape }, options);
    const { data: set } = await parseDicom(readFileSync(at("map.dcm")), "map.dcm");
    expect([info.frames, set.string("x00080060"), set.string("x0008103e")]).toEqual([4, "MR", "entropy of the mean"]);
    const start = set.elements.x7fe00008?.dataOffset ?? 0;
    expect(new Float32Array(new Uint8Array(set.byteArray.subarray(start)).buffer)).toEqual(values);
    const [shared] = itemsOf(set, "x52009229");
    const [mapping] = itemsOf(shared, "x00409096");
    expect([mapping?.double("x00409224"), mapping?.double("x00409225")]).toEqual([0, 1]);
    expect([mapping?.double("x00409214"), mapping?.double("x00409213")]).toEqual([values[0], values[23]]);
    expect(itemsOf(mapping, "x004008ea")[0]?.string("x00080100")).toBe("bit");
    const [window] = itemsOf(shared, "x00289132");
    expect([window?.string("x00281050"), window?.string("x00281051")]).toEqual(["1", "2"]);
    await expect(readVolume(at("map.dcm"))).rejects.toThrow(/Float Pixel Data/);
  });

  it("is refused where values are none, or lie elsewhere", async () => {
    const source = await sourceOf();
    const refusal = (given: object, options: object = {}) =>
      writeParametricMap(at("refused.dcm"), given as never, { source, name: "entropy", ...options }).then(
        () => "written",
        (error) => `${error.code}: ${error.message}`,
      );
    const bad = Float64Array.from(values).fill(1e300, 5, 6);
    expect(await refusal({ data: bad, shape })).toMatch(/ERR_LE_VALUE.*single precision.*1e\+300 at position 5/);
    expect(await refusal({ data: values, shape: [1, ...shape] })).toMatch(/ERR_LE_SHAPE/);
    expect(await refusal({ data: values, shape: [2, 4, 3] })).toMatch(/ERR_LE_SHAPE.*4×2×3/);
    expect(await refusal({ data: values, shape }, { range: [1, 1] })).toMatch(/ERR_LE_OPTION.*range/);
    expect(await refusal({ data: values, shape }, { name: "" })).toMatch(/ERR_LE_OPTION.*name/);
    expect(existsSync(at("refused.dcm"))).toBe(false);
  });
});

/** Every kind of file, by name. */
const kinds: [string, (source: Volume, file: string) => Promise<unknown>][] = [
  ["labels", (source, file) => writeSegmentation(file, { labels }, { source, segments })],
  [
    "labels, all frames",
    (source, file) => writeSegmentation(file, { labels }, { source, segments, emptyFrames: true }),
  ],
  [
    "probabilities",
    (source, file) => {
      const p = Float32Array.from({ length: 72 }, (_, i) => (data[i % 24] === Math.floor(i / 24) ? 0.8 : 0.1));
      return writeSegmentation(file, { probabilities: { data: p, shape: [3, ...shape] } }, { source, segments });
    },
  ],
  [
    "a map",
    (source, file) => {
      const quantity = { value: "entropy-of-the-mean-prediction", scheme: "99LE", meaning: "Entropy" };
      const values = Float32Array.from(data, (label) => label / 3);
      return writeParametricMap(file, { data: values, shape }, { source, name: "entropy", quantity });
    },
  ],
];
const sources: [string, () => Promise<Volume>][] = [
  ["files of a slice", () => sourceOf()],
  [
    "files of a trial, without the patient's identity",
    () =>
      sourceOf({
        "00120010": ["LO", "Sponsor"],
        "00120020": ["LO", "T1"],
        "00120021": ["LO", ""],
        "00120030": ["LO", ""],
        "00120031": ["LO", ""],
        "00120040": ["LO", "S1"],
        "00120062": ["CS", "YES"],
        "00120064": [
          "SQ",
          [113100, 113105].map(
            (code): Elements => ({
              "00080100": ["SH", `${code}`],
              "00080102": ["SH", "DCM"],
              "00080104": ["LO", "Some Option"],
            }),
          ),
        ],
        "00280303": ["CS", "MODIFIED"],
        "00282110": ["CS", "01"],
        "00282112": ["DS", "12.5"],
        "00282114": ["CS", "ISO_10918_1"],
      }),
  ],
  [
    "a file of many frames",
    () => {
      const folder = at(`${folders++}`);
      mkdirSync(folder);
      const of = enhanced([4, 0, 6, 2], { ...study, "00080016": ["UI", "1.2.840.10008.5.1.4.1.1.4.1"] });
      writeFileSync(path.join(folder, "all.dcm"), dicomFile(of));
      return readVolume(folder);
    },
  ],
];
const both = sources.flatMap(([from, source]) => kinds.map(([kind, write]) => [kind, from, source, write] as const));

it.skipIf(!mounted)("a disk without space keeps the file that was there, and nothing else", async () => {
  const source = await sourceOf();
  const file = path.join(disk, "seg.dcm");
  await writeSegmentation(file, { labels }, { source, segments });
  const before = readFileSync(file);
  const many = Array.from({ length: 200 }, (_, i) => ({ label: i + 1, name: `${i}`.padEnd(64, "a") }));
  await expect(writeSegmentation(file, { labels }, { source, segments: many })).rejects.toMatchObject({
    code: "ERR_LE_IO",
  });
  expect([readdirSync(disk), readFileSync(file)]).toEqual([["seg.dcm"], before]);
});

describe.skipIf(spawnSync("dciodvfy", ["-version"]).error)("dciodvfy", () => {
  it.each(both)("has no fault to find in %s of %s", async (_, __, source, write) => {
    await write(await source(), at("checked.dcm"));
    const { stdout, stderr } = spawnSync("dciodvfy", [at("checked.dcm")], { encoding: "utf8" });
    const said = `${stdout}${stderr}`.split("\n").filter((line) => !/99LE/.test(line));
    expect(said.join("\n").trim()).toMatch(/^(Segmentation|ParametricMap)$/);
  });
});

const python = process.env.LAYER_ENSEMBLES_PYTHON ?? "python3";
describe.skipIf(spawnSync(python, ["-c", "import pydicom, numpy"]).status !== 0)("pydicom", () => {
  it.each(both)("reads %s of %s", async (kind, _, source, write) => {
    await write(await source(), at("checked.dcm"));
    const script = fileURLToPath(new URL("../support/frames.py", import.meta.url));
    const { stdout, stderr } = spawnSync(python, [script, at("checked.dcm"), "PatientName"], { encoding: "utf8" });
    expect(stderr).toBe("");
    const { frames, PatientName } = JSON.parse(stdout);
    expect(PatientName).toBe("Doe^Jane");
    const places = kind === "a map" ? [null] : [1, 2];
    const slices = [0, 1, 2, 3].map((k) => [...data.subarray(6 * k, 6 * k + 6)]);
    const value = (label: number, segment: number | null) => {
      if (segment === null) return Math.fround(label / 3);
      const same = label === segment;
      return kind === "probabilities" ? (same ? 204 : 26) : Number(same);
    };
    const expected = places.flatMap((segment) =>
      slices.map((slice, k) => ({
        segment,
        position: [-10, -20, 2 * k],
        values: slice.map((label) => value(label, segment)),
      })),
    );
    const filled = expected.filter(({ values }) => kind !== "labels" || values.some((one) => one !== 0));
    expect(frames).toMatchObject(filled);
  });
});

const viewer: { adapters: { Cornerstone: { Segmentation: { generateToolState: GenerateToolState } } } } | undefined =
  await import("dcmjs" as string).then(
    (module) => module.default,
    () => undefined,
  );
type GenerateToolState = (
  imageIds: string[],
  file: ArrayBuffer,
  metadata: { get(what: string, imageId: string): unknown },
) => { labelmapBufferArray: ArrayBuffer[]; segMetadata: { data: ({ SegmentLabel: string } | undefined)[] } };

describe.skipIf(!viewer)("a viewer's reader (dcmjs, as in cornerstone and OHIF)", () => {
  it.each(kinds.slice(0, 2))("lays %s on the slices", async (_, write) => {
    const source = await sourceOf();
    await write(source, at("viewed.dcm"));
    const { slices } = source as Awaited<ReturnType<typeof readSeries>>;
    // A stack in another order than that of the positions.
    const order = [2, 0, 3, 1];
    const metadata = {
      get(what: string, imageId: string): unknown {
        const k = Number(imageId);
        const { sopInstanceUID, sopClassUID } = slices[k] as (typeof slices)[0];
        const axes = { rowCosines: [1, 0, 0], columnCosines: [0, 1, 0] };
        return {
          imagePlaneModule: { ...axes, rows: 2, columns: 3, imagePositionPatient: [-10, -20, 2 * k] },
          generalSeriesModule: { seriesInstanceUID: "1.2.4" },
          sopCommonModule: { sopInstanceUID, sopClassUID },
          instance: { Rows: 2, Columns: 3 },
        }[what];
      },
    };
    const file = new Uint8Array(readFileSync(at("viewed.dcm"))).buffer;
    const ids = order.map(String);
    const { generateToolState } = (viewer as NonNullable<typeof viewer>).adapters.Cornerstone.Segmentation;
    const { labelmapBufferArray, segMetadata } = generateToolState(ids, file, metadata);
    expect(labelmapBufferArray).toHaveLength(1);
    const map = new Uint16Array(labelmapBufferArray[0] as ArrayBuffer);
    expect([...map]).toEqual(order.flatMap((k) => [...data.subarray(6 * k, 6 * k + 6)]));
    expect(segMetadata.data.slice(1).map((one) => one?.SegmentLabel)).toEqual(["liver", "tumour"]);
  });
});
