import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { Dataset } from "../../lib/data/dataset.js";
import { makePhantoms, type Phantom, writePhantoms } from "../../lib/data/phantoms.js";
import { Random } from "../../lib/random.js";

/** How far apart lesion and surroundings are, in standard deviations of the surroundings' small-scale mean. */
function visibility({ image, mask }: Phantom): number {
  const [height, width] = image.shape as [number, number];
  const inside: number[] = [];
  const around: number[] = [];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let near = false;
      for (let d = -6; d <= 6; d += 3) near ||= mask.data[y * width + Math.min(width - 1, Math.max(0, x + d))] === 1;
      if (mask.data[y * width + x]) inside.push(image.data[y * width + x]!);
      else if (near) around.push(image.data[y * width + x]!);
    }
  }
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  return Math.abs(mean(inside) - mean(around));
}

test("the same seed gives the same images, whatever the count", () => {
  const few = makePhantoms({ count: 3, size: 48, seed: 7 });
  expect(makePhantoms({ count: 5, size: 48, seed: 7 }).slice(0, 3)).toEqual(few);
  expect(makePhantoms({ count: 3, size: 48, seed: 8 })[0]!.image.data).not.toEqual(few[0]!.image.data);
});

test("every difficulty is in every split, in its share", () => {
  const phantoms = makePhantoms({ count: 100, size: 16 });
  const count = (split: string, difficulty: string) =>
    phantoms.filter((phantom) => phantom.split === split && phantom.difficulty === difficulty).length;
  expect(["easy", "medium", "hard", "hopeless"].map((difficulty) => count("test", difficulty))).toEqual([10, 6, 5, 4]);
  expect(["easy", "medium", "hard", "hopeless"].map((difficulty) => count("val", difficulty) > 0)).toEqual(
    Array(4).fill(true),
  );
});

test("each has one lesion inside the image, and harder ones show less", () => {
  const phantoms = makePhantoms({ count: 60, size: 64, seed: 2 });
  for (const { mask } of phantoms) {
    const share = mask.data.reduce((sum, label) => sum + label, 0) / mask.data.length;
    expect(share).toBeGreaterThan(0.01);
    expect(share).toBeLessThan(0.25);
  }
  const seen = (difficulty: string) => {
    const values = phantoms.filter((phantom) => phantom.difficulty === difficulty).map(visibility);
    return values.reduce((sum, value) => sum + value, 0) / values.length;
  };
  expect(seen("easy")).toBeGreaterThan(1.3 * seen("medium"));
  expect(seen("medium")).toBeGreaterThan(1.3 * seen("hard"));
  expect(seen("hard")).toBeGreaterThan(1.3 * seen("hopeless"));
});

test("a written folder is read back as a dataset", async () => {
  const folder = await mkdtemp(join(tmpdir(), "le-phantoms-"));
  try {
    const phantoms = await writePhantoms(folder, { count: 20, size: 32 });
    const set = await Dataset.fromFolder(folder);
    expect(set.ids).toEqual(phantoms.map(({ id }) => id));
    expect(set.classes).toBe(2);
    expect(set.splits).toEqual({ train: 12, val: 3, test: 5 });
    const { image, mask } = await set.loadOriginal(4);
    expect(image).toEqual(phantoms[4]!.image);
    expect(mask).toEqual(phantoms[4]!.mask);
    expect(await readFile(join(folder, "split.csv"), "utf8")).toMatch(
      /^id,split,difficulty,contrast_db,blur\nphantom_0001,/,
    );
    expect(Dataset.fromSamples(phantoms).splits).toEqual(set.splits);
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("options are checked", () => {
  expect(() => makePhantoms({ count: 0 })).toThrow("option 'count'");
  expect(() => makePhantoms({ count: 1, sise: 64 } as never)).toThrow("Did you mean 'size'?");
});

test("random numbers have the moments they should", () => {
  const random = new Random(1);
  const normal = Array.from({ length: 20_000 }, () => random.normal());
  const mean = normal.reduce((sum, value) => sum + value, 0) / normal.length;
  const variance = normal.reduce((sum, value) => sum + (value - mean) ** 2, 0) / normal.length;
  expect(Math.abs(mean)).toBeLessThan(0.03);
  expect(Math.abs(variance - 1)).toBeLessThan(0.05);
  const counts = new Array(6).fill(0);
  for (let i = 0; i < 6000; i++) counts[random.integer(6)]++;
  for (const count of counts) expect(Math.abs(count - 1000)).toBeLessThan(150);
  expect(random.shuffled([1, 2, 3, 4, 5]).sort()).toEqual([1, 2, 3, 4, 5]);
});
