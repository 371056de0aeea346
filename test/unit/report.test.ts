import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { encodePng, probabilityToGrey } from "../../lib/data/encode-png.js";
import { writeAtomic } from "../../lib/data/files.js";
import { decodePng } from "../../lib/data/png.js";
import { colourMap, predictionColour, truthColour } from "../../lib/pictures/colours.js";
import { heatMap, overlay } from "../../lib/pictures/render.js";
import { type DemoImage, demoPage, pickCases } from "../../lib/report/demo-page.js";
import { agreementCurves } from "../../lib/report/figures/agreement.js";
import { escapeHtml } from "../../lib/results/html.js";

const luma = ([r, g, b]: readonly number[]) => 0.299 * r! + 0.587 * g! + 0.114 * b!;

describe("colour maps", () => {
  // matplotlib's viridis and magma at 0, 1/4, 1/2, 3/4 and 1.
  test.each([
    ["viridis", ["440154", "3b528b", "21918c", "5ec962", "fde725"]],
    ["magma", ["000004", "51127c", "b73779", "fc8961", "fcfdbf"]],
  ] as const)("%s is close to the original", (name, expected) => {
    const table = colourMap(name);
    expected.forEach((hex, i) => {
      const at = Math.round((i * 255) / 4) * 3;
      Buffer.from(hex, "hex").forEach((value, channel) => {
        expect(Math.abs(table[at + channel]! - value)).toBeLessThanOrEqual(7);
      });
    });
  });

  test.each(["viridis", "magma"] as const)("%s gets lighter all the way", (name) => {
    const table = colourMap(name);
    for (let i = 8; i < 256; i += 8) {
      expect(luma([...table.subarray(i * 3, i * 3 + 3)])).toBeGreaterThan(
        luma([...table.subarray(i * 3 - 24, i * 3 - 21)]),
      );
    }
  });

  test("truth and prediction differ in lightness", () => {
    expect(Math.abs(luma(truthColour) - luma(predictionColour))).toBeGreaterThan(10);
  });
});

describe("pictures", () => {
  const size = 32;
  const image = { data: new Uint8Array(size * size).fill(100), shape: [size, size] };
  const square = (from: number, to: number, label = 1) => {
    const data = new Uint8Array(size * size);
    for (let y = from; y < to; y++) data.fill(label, y * size + from, y * size + to);
    return { data, shape: [size, size] };
  };
  const isColour = (data: Uint8Array, i: number, colour: readonly number[]) =>
    colour.every((value, channel) => Math.abs(data[3 * i + channel]! - value) < 40);

  test("a heat map spans its range, and NaN is grey", () => {
    const map = { data: Float32Array.from([0, 1, 2, Number.NaN]), shape: [2, 2] };
    const { data, width, height } = heatMap(map, { colours: "viridis" });
    const table = colourMap("viridis");
    expect([width, height]).toEqual([2, 2]);
    expect([...data.subarray(0, 3)]).toEqual([...table.subarray(0, 3)]);
    expect([...data.subarray(6, 9)]).toEqual([...table.subarray(765)]);
    expect([...data.subarray(9)]).toEqual([128, 128, 128]);
    const large = heatMap(map, { range: [-5, 0], scale: 3 });
    expect(large.data.length).toBe(6 * 6 * 3);
    expect([...large.data.subarray(0, 3)]).toEqual([...colourMap("magma").subarray(765)]);
    const flat = heatMap({ data: new Float32Array(4), shape: [2, 2] });
    expect(new Set(flat.data).size).toBeLessThanOrEqual(3);
  });

  test("outlines lie on the border, thin, in their colours", () => {
    const picture = overlay(image, { prediction: square(8, 24), scale: 8 });
    expect([picture.width, picture.height]).toEqual([256, 256]);
    const row = Array.from({ length: 256 }, (_, x) => isColour(picture.data, 128 * 256 + x, predictionColour));
    const hits = row.flatMap((hit, x) => (hit ? [x] : []));
    expect(hits.length).toBeGreaterThanOrEqual(2);
    expect(hits.length).toBeLessThanOrEqual(8);
    for (const x of hits) expect(Math.min(Math.abs(x + 0.5 - 64), Math.abs(x + 0.5 - 192))).toBeLessThan(3);
    expect([...picture.data.subarray(0, 3)]).toEqual([100, 100, 100]);
  });

  test("truth and prediction both show where they coincide", () => {
    const picture = overlay(image, { prediction: square(8, 24), truth: square(8, 24), scale: 8 });
    const all = Array.from({ length: 256 * 256 }, (_, i) => i);
    expect(all.filter((i) => isColour(picture.data, i, truthColour)).length).toBeGreaterThan(300);
    expect(all.filter((i) => isColour(picture.data, i, predictionColour)).length).toBeGreaterThan(300);
  });

  test("each class has an outline; ignored pixels have none", () => {
    const labels = square(4, 28, 1);
    for (let i = 0; i < labels.data.length; i++) if (square(12, 20).data[i]) labels.data[i] = 2;
    const count = (ignoreIndex: number) => {
      const { data } = overlay(image, { truth: labels, scale: 4, ignoreIndex });
      return Array.from({ length: 128 * 128 }, (_, i) => i).filter((i) => isColour(data, i, truthColour)).length;
    };
    expect(count(255)).toBeGreaterThan(count(2) - 1);
    expect(count(1)).toBeLessThan(0.5 * count(255));
  });

  test("a tint covers the inside only", () => {
    const { data } = overlay(image, { prediction: square(8, 24), scale: 1, tint: 0.5 });
    const centre = (16 * size + 16) * 3;
    expect(data[centre]! - data[centre + 2]!).toBeGreaterThan(60);
    expect([...data.subarray(0, 3)]).toEqual([100, 100, 100]);
  });

  test("a veil lies between inner and outer masks, whose edges are thin, the inner one's the brighter", () => {
    const sets = [{ inner: square(12, 20), outer: square(6, 26) }];
    const { data } = overlay(image, { sets, scale: 8 });
    const at = (x: number, y: number) =>
      [...data.subarray((y * 256 + x) * 3, (y * 256 + x) * 3 + 3)] as [number, number, number];
    const warm = ([red, , blue]: [number, number, number]) => red - blue;
    for (const [x, y] of [
      [8, 8],
      [128, 128],
    ] as const)
      expect(at(x, y)).toEqual([100, 100, 100]);
    expect(warm(at(72, 128))).toBeGreaterThan(20);
    const along = (from: number, to: number) =>
      Math.max(...Array.from({ length: to - from }, (_, i) => warm(at(from + i, 128))));
    expect(along(44, 52)).toBeGreaterThan(warm(at(72, 128)) + 15);
    expect(along(92, 100)).toBeGreaterThan(along(44, 52) + 20);
    const alone = overlay(image, { sets: [{ inner: square(12, 20) }], scale: 8 }).data;
    expect([...alone.subarray((128 * 256 + 72) * 3, (128 * 256 + 72) * 3 + 3)]).toEqual([100, 100, 100]);
  });

  test("labels of another size are an error", () => {
    const small = { data: new Uint8Array(4), shape: [2, 2] };
    expect(() => overlay(image, { truth: small })).toThrow("Expected 32×32 labels for the overlay but received 2×2");
    for (const set of ["inner", "outer"])
      expect(() => overlay(image, { sets: [{ [set]: small }] })).toThrow("Expected 32×32 labels");
    expect(() => heatMap({ data: new Float32Array(4), shape: [4] })).toThrow("shape [4] with 4 values");
  });

  test("PNGs hold the very values: class indices, 16 bits, colours", async () => {
    const labels = { data: Uint8Array.from([0, 1, 3, 255]), shape: [2, 2] };
    const mask = await decodePng(await encodePng(labels));
    expect([mask.channels, mask.bitDepth, [...mask.data]]).toEqual([1, 8, [0, 1, 3, 255]]);
    const p = probabilityToGrey({ data: Float32Array.from([0, 0.25, 1, 2]), shape: [2, 2] }, 16);
    const wide = await decodePng(await encodePng(p));
    expect([wide.channels, wide.bitDepth, [...wide.data]]).toEqual([1, 16, [0, 16384, 65535, 65535]]);
    const picture = heatMap({ data: Float32Array.of(0, 1, 2, 3), shape: [2, 2] }, { scale: 2 });
    const colour = await decodePng(await encodePng(picture));
    expect([colour.channels, colour.width, [...colour.data]]).toEqual([3, 4, [...picture.data]]);
    await expect(encodePng({ data: new Uint8Array(5), shape: [2, 2] })).rejects.toMatchObject({ code: "ERR_LE_SHAPE" });
  });
});

describe("writeAtomic", () => {
  test("leaves the old content and no other file when it fails", async () => {
    const folder = await mkdtemp(join(tmpdir(), "le-files-"));
    try {
      await writeAtomic(join(folder, "a", "b.txt"), "one");
      await writeAtomic(join(folder, "a", "b.txt"), "two");
      expect(await readFile(join(folder, "a", "b.txt"), "utf8")).toBe("two");
      expect(await readdir(join(folder, "a"))).toEqual(["b.txt"]);
      await writeFile(join(folder, "file"), "x");
      const path = join(folder, "file", "c.txt");
      await expect(writeAtomic(path, "x")).rejects.toMatchObject({
        code: "ERR_LE_IO",
        message: expect.stringContaining(join(folder, "file")),
      });
      // A folder cannot be replaced by a file: the rename fails after the writing.
      await expect(writeAtomic(join(folder, "a"), "x")).rejects.toMatchObject({ code: "ERR_LE_IO" });
      expect((await readdir(folder)).sort()).toEqual(["a", "file"]);
    } finally {
      await chmod(folder, 0o700);
      await rm(folder, { recursive: true });
    }
  });
});

test("the shaded area of agreement curves is AULA", async () => {
  const agreements = [0.2, 0.9, 0.5, 1];
  const svg = await agreementCurves([{ title: "t", agreements }], 300);
  const [, path] = /<path[^>]* d="([^"]+)"[^>]* opacity="0.2"/.exec(svg)!;
  const points = [...path!.matchAll(/[ML]([\d.-]+),([\d.-]+)/g)].map(([, x, y]) => [Number(x), Number(y)] as const);
  let twice = 0;
  points.forEach(([x, y], i) => {
    const [nextX, nextY] = points[(i + 1) % points.length]!;
    twice += x * nextY - nextX * y;
  });
  // Four values along the top, then back along the axis: 300 by 150 for 3 by 1.
  expect(points).toHaveLength(8);
  expect(Math.abs(twice) / 2 / 100 / 150).toBeCloseTo((0.2 + 0.9 + 0.9 + 0.5 + 0.5 + 1) / 2, 3);
});

test("text cannot break out", () => {
  expect(escapeHtml(`<a href="x">&'`)).toBe("&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
});

describe("demoPage", () => {
  const shape = [16, 16];
  const mask = { data: new Uint8Array(256).fill(1, 100, 120), shape };
  const make = (id: string, difficulty: string, aula: number, dice: number): DemoImage => ({
    id,
    difficulty,
    dice,
    aula,
    agreements: [0.5, 0.75, 1],
    image: { data: new Uint8Array(256).fill(9), shape },
    truth: mask,
    prediction: mask,
    entropy: { data: new Float32Array(256), shape },
    labels: { data: new Uint8Array(1024).fill(1, 300, 400), shape: [4, ...shape] },
  });
  const images = [make("good", "easy", 1.9, 0.95), make("<bad>", "hopeless", 0.25, 0.1), make("mid", "<odd>", 1, 0.6)];
  const page = { images, heads: ["a", "b<", "c", "d"], classes: 2, spearman: 0.97, notes: ["made & seen"] };

  test("is one file with everything in it", async () => {
    const html = await demoPage(page);
    expect(html).not.toMatch(/(src|href)="(?!data:image\/webp;base64,)/);
    expect(html.replaceAll(/ xmlns(:xlink)?="[^"]+"/g, "")).not.toMatch(/https?:|url\((?!#)|<script|undefined|NaN/);
    expect(html.match(/<svg/g)).toHaveLength(3);
    // For each of two cases three pictures and four layers, and a card for each image.
    expect(html.match(/<img/g)).toHaveLength(2 * (3 + 4) + 3);
    for (const text of ["&lt;bad&gt;", "b&lt;", "made &amp; seen", "0.97", "AULA 1.90", "Dice 0.10"]) {
      expect(html).toContain(text);
    }
    expect(html).not.toMatch(/<(bad|odd)>/);
    // A mark for each image says which it is, and the colours are the page's.
    for (const { id, aula, dice } of images)
      expect(html).toContain(
        `<title>${escapeHtml(id)}: AULA ${aula.toFixed(2)}, Dice ${dice.toFixed(2)}</title></path>`,
      );
    for (const text of ["easy case", "hard case"]) expect(html).toContain(`>${text}</text>`);
    expect(html).not.toMatch(/"#[0-9a-f]{6}"/);
    const ids = [...html.matchAll(/\bid="([^"]+)"/g)].map(([, id]) => id);
    expect(new Set(ids).size).toBe(ids.length);
    expect(html).toContain('name="viewport"');
  });

  test("shows the plainest easy image and the one with the least agreement", () => {
    expect(pickCases({ images })).toEqual({ easy: "good", hard: "<bad>" });
    expect(pickCases({ images, hard: "mid" })).toEqual({ easy: "good", hard: "mid" });
    const empty = { ...make("none", "hard", 0, 0), prediction: { data: new Uint8Array(256), shape } };
    expect(pickCases({ images: [...images, empty] }).hard).toBe("<bad>");
  });

  test("says what is missing", async () => {
    const bare = images.map(({ labels, ...rest }) => rest);
    await expect(demoPage({ ...page, images: bare })).rejects.toThrow(/4×16×16 labels for image "good" .* no labels/);
    expect(() => pickCases({ images: images.slice(1, 2) })).toThrow("at least 2 images");
    expect(() => pickCases({ images, easy: "x" })).toThrow('received "x"');
  });
});
