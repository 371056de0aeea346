import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { deflateSync } from "node:zlib";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { crc32 } from "../../lib/data/crc.js";
import { Dataset } from "../../lib/data/dataset.js";
import { encodePng } from "../../lib/data/encode-png.js";
import { readImage, readSize } from "../../lib/data/image.js";
import { readMask } from "../../lib/data/mask.js";
import { type Orientation, orientBack } from "../../lib/data/orientation.js";
import { withOrientation } from "../../lib/data/png.js";
import { encodeTiff } from "./support/tiff.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "le-orientation-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function file(name: string, bytes: Uint8Array): Promise<string> {
  const to = path.join(folder, name);
  await writeFile(to, bytes);
  return to;
}

const stored = { data: Uint8Array.of(1, 2, 3, 4, 5, 6), shape: [2, 3] };
/** How the stored rows 123 and 456 are shown. */
const shown: [Orientation, ...string[]][] = [
  [1, "123", "456"],
  [2, "321", "654"],
  [3, "654", "321"],
  [4, "456", "123"],
  [5, "14", "25", "36"],
  [6, "41", "52", "63"],
  [7, "63", "52", "41"],
  [8, "36", "25", "14"],
];

const rows = ({ data, shape }: { data: ArrayLike<number>; shape: readonly number[] }) => {
  const width = shape.at(-1) as number;
  return Array.from({ length: data.length / width }, (_, y) =>
    Array.from(data)
      .slice(y * width, (y + 1) * width)
      .join(""),
  );
};

function chunk(type: string, body: Buffer): Buffer {
  const out = Buffer.alloc(12 + body.length);
  out.writeUInt32BE(body.length, 0);
  out.write(type, 4, "latin1");
  body.copy(out, 8);
  out.writeUInt32BE(crc32(out.subarray(4, 8 + body.length)), 8 + body.length);
  return out;
}

/** EXIF as text, as PNGs had it before there was a chunk for it: the header's bytes are in hexadecimal digits. */
function rawProfile(orientation: number): string {
  const exif = Buffer.from(
    "457869660000" + "49492a0008000000" + "0100" + "120103000100000000000000" + "00000000",
    "hex",
  );
  exif.writeUInt16LE(orientation, 24);
  return `\nexif\n${String(exif.length).padStart(8)}\n${exif.toString("hex")}\n`;
}

describe.each(shown)("orientation %i", (orientation, ...expected) => {
  const size = [expected.length, expected[0]?.length];

  it("of EXIF in a PNG turns image and mask, and is undone", async () => {
    const png = await file("a.png", withOrientation(await encodePng(stored), orientation));
    const image = await readImage(png);
    expect(rows(image)).toEqual(expected);
    expect(rows(await readMask(png))).toEqual(expected);
    expect(await readSize(png)).toEqual(size);
    expect(image.orientation).toBe(orientation === 1 ? undefined : orientation);
    expect(orientBack(image, image.orientation)).toEqual({ data: stored.data, shape: [1, 2, 3] });
  });

  it.each([
    ["tEXt", (text: string) => Buffer.from(`Raw profile type exif\0${text}`, "latin1")],
    ["zTXt", (text: string) => Buffer.concat([Buffer.from("Raw profile type exif\0\0"), deflateSync(text)])],
    ["zTXt", (text: string) => Buffer.concat([Buffer.from("Raw profile type APP1\0\0"), deflateSync(text)])],
    ["iTXt", (text: string) => Buffer.from(`Raw profile type exif\0\0\0en\0x\0${text}`, "latin1")],
  ])("of EXIF in a PNG's %s turns it, too", async (type, body) => {
    const plain = await encodePng(stored);
    const text = chunk(type, body(rawProfile(orientation)));
    const png = await file("t.png", Buffer.concat([plain.subarray(0, 33), text, plain.subarray(33)]));
    expect(rows(await readImage(png))).toEqual(expected);
    expect(await readSize(png)).toEqual(size);
    const other = orientation === 8 ? 2 : ((orientation + 1) as Orientation);
    const both = await file(
      "b.png",
      withOrientation(Buffer.concat([plain.subarray(0, 33), text, plain.subarray(33)]), other),
    );
    expect(rows(await readImage(both)), "the chunk made for it counts").toEqual(
      shown.find(([of]) => of === other)?.slice(1) ?? [],
    );
  });

  it("of a TIFF turns it", async () => {
    const bytes = encodeTiff(stored.data, [2, 3, 1]);
    // The field of the sample format, which is that of unsigned numbers by default, becomes the orientation.
    const directory = bytes.readUInt32LE(4);
    const at = directory + 2 + 9 * 12;
    bytes.writeUInt16LE(274, at);
    bytes.writeUInt16LE(orientation, at + 8);
    const tiff = await file("a.tif", bytes);
    expect(rows(await readImage(tiff))).toEqual(expected);
    expect(await readSize(tiff)).toEqual(size);
  });

  it("of a JPEG turns it", async () => {
    const raw = Uint8Array.from({ length: 16 * 24 }, (_, i) => 40 * (1 + ((i % 24) >> 3) + 3 * (i >= 192 ? 1 : 0)));
    const jpeg = await sharp(raw, { raw: { width: 24, height: 16, channels: 1 } })
      .jpeg({ quality: 100 })
      .withMetadata({ orientation })
      .toBuffer();
    const to = await file("a.jpg", jpeg);
    const { data, shape } = await readImage(to, { channels: 1 });
    const [height, width] = shape.slice(-2) as [number, number];
    const blocks = Array.from({ length: height >> 3 }, (_, y) =>
      Array.from({ length: width >> 3 }, (_, x) =>
        Math.round((data[(8 * y + 4) * width + 8 * x + 4] as number) / 40),
      ).join(""),
    );
    expect(blocks).toEqual(expected);
    expect(await readSize(to)).toEqual([height, width]);
  });
});

it("of an image is not its mask's, which was drawn on the image as shown", async () => {
  const root = path.join(folder, "data");
  const { mkdir } = await import("node:fs/promises");
  await mkdir(path.join(root, "images"), { recursive: true });
  await mkdir(path.join(root, "masks"));
  for (const [orientation, ...expected] of shown) {
    const id = `o${orientation}`;
    await writeFile(path.join(root, "images", `${id}.png`), withOrientation(await encodePng(stored), orientation));
    const drawn = Uint8Array.from(expected.join(""), (digit) => Number(Number(digit) > 3));
    const mask = { data: drawn, shape: [expected.length, (expected[0] as string).length] };
    await writeFile(path.join(root, "masks", `${id}.png`), await encodePng(mask));
  }
  const set = await Dataset.fromFolder(root, { normalise: "none" });
  for (let i = 0; i < set.length; i++) {
    const { image, mask } = await set.load(i);
    expect([...(mask?.data ?? [])], `orientation ${i + 1}`).toEqual(
      Array.from(image.data, (value) => Number(value > 3)),
    );
  }
  await writeFile(path.join(root, "masks", "o6.png"), await encodePng(stored));
  await expect(Dataset.fromFolder(root, {})).rejects.toThrow(
    /the 3×2 pixels of its image for the mask .*o6\.png but received 2×3/,
  );
});
