// Surfaces, sizes and lesions in a comparison, per class; and a tolerance that is finer than voxels are.
import { describe, expect, it } from "vitest";
import { parseCsv } from "../../lib/data/csv.js";
import { csvTables } from "../../lib/results/files.js";
import { SIZE_MEASURES } from "../../lib/results/measures.js";
import { sizesTable } from "../../lib/results/tables.js";
import { aggregate } from "../../lib/study/aggregate.js";
import { describeBlind } from "../../lib/study/records.js";
import { makeComparison } from "../support/comparison.js";
import { madeRun, SETTINGS } from "./support/study.js";

const sizes = (value: (name: (typeof SIZE_MEASURES)[number], c: number) => number | null) =>
  Object.fromEntries(SIZE_MEASURES.map((name) => [name, [value(name, 0), value(name, 1)]])) as never;

describe("sizes of classes", () => {
  const run = (seed: number) =>
    madeRun({
      seed,
      images: 3,
      change: (_, i) => ({
        volume: 10 * (i + seed),
        classSizes: sizes((name, c) => (name === "volume" ? i + seed + 100 * c : c === 1 && i === 0 ? null : 0.5)),
      }),
    });
  const { methods } = aggregate([run(0), run(1)], SETTINGS);

  it("are means over images, then over seeds", () => {
    const [le] = methods;
    expect(le?.quality.volume?.value).toBeCloseTo(15, 12);
    expect(le?.classSizes?.a?.volume).toMatchObject({ value: 1.5, perRun: [1, 2], n: 3, leftOut: 0 });
    expect(le?.classSizes?.b?.volume.value).toBe(101.5);
    // The first image has no such lesions in the second class.
    expect(le?.classSizes?.b?.lesionSensitivity).toMatchObject({ value: 0.5, n: 2, leftOut: 1 });
  });

  it("are rows of the table and of the file, in their units", () => {
    const comparison = { ...makeComparison(), methods, units: { length: "mm", size: "ml", tolerance: 2 } } as const;
    const table = sizesTable(comparison);
    expect(table.rows.map(({ name }) => table.name.of({ name } as never))).toEqual(["over classes", "a", "b"]);
    expect(table.columns.map(({ head }) => head).slice(0, 2)).toEqual(["surface Dice (2 mm)", "volume (ml)"]);
    const { rows } = parseCsv(csvTables(comparison)["table1-quality.csv"] as string, "table1-quality.csv");
    const volume = rows.filter(({ measure }) => measure === "volume");
    expect(volume.map((row) => [row.class, Number(row.value), row.unit])).toEqual([
      ["", 15, "ml"],
      ["a", 1.5, "ml"],
      ["b", 101.5, "ml"],
    ]);
    // Results of earlier versions have none.
    const earlier = methods.map(({ classSizes, ...method }) => ({ ...method, quality: { ...method.quality } }));
    for (const { quality } of earlier) for (const name of SIZE_MEASURES) delete quality[name];
    expect(sizesTable({ ...comparison, methods: earlier }).rows).toEqual([]);
  });
});

it("a tolerance is told of that is less than neighbours are apart", () => {
  const image = (spacing: number[] | null, tolerance: number) => ({
    spacing,
    units: { length: spacing ? "mm" : "px", size: "px", tolerance } as const,
  });
  expect(describeBlind([image([10, 1.4, 1.4], 1), image([8, 1.2, 1.3], 1)])).toMatch(
    /surface Dice, 1 mm, .*\(1\.2 mm and more\).*coincide.*--tolerance/,
  );
  expect(describeBlind([image([10, 1.4, 1.4], 1), image([8, 1, 1.3], 1)])).toBeUndefined();
  expect(describeBlind([image([10, 1.4, 1.4], 0)])).toBeUndefined();
  expect(describeBlind([image(null, 1)])).toBeUndefined();
  expect(describeBlind([image(null, 0.5)])).toContain("0.5 px");
  expect(describeBlind([])).toBeUndefined();
});
