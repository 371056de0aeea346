// Whether predicted Dice holds, counted by hand; as evaluate and compare tell it.
import { describe, expect, it } from "vitest";
import { parseCsv } from "../../lib/data/csv.js";
import { comparisonPage } from "../../lib/report/comparison/index.js";
import { csvTables, describeComparison } from "../../lib/results/files.js";
import type { PredictedDiceFit } from "../../lib/scores/predicted-dice.js";
import { coverageOf, describeCoverage } from "../../lib/study/predicted-dice.js";
import type { ImageScore } from "../../lib/study/records.js";
import { makeComparison } from "../support/comparison.js";

const fit = {
  overall: { intervals: { alpha: 0.1, from: "validation" }, constant: { dice: 0.5, both: 0.25 } },
  perClass: {},
} as unknown as PredictedDiceFit;

const score = (dice: number | null, predicted: number | null, lower = 0, interval = [0, 1]) =>
  ({
    ...{ dice, classDice: [dice] },
    predictedDiceOf: { overall: { dice: predicted, lower, interval }, perClass: {} },
  }) as unknown as ImageScore;

const scores = [
  score(0.9, 0.8, 0.6, [0.6, 1]),
  score(0.8, 0.7, 0.5, [0.5, 0.9]),
  score(0.5, 0.6, 0.55, [0.45, 0.75]), // below its bound
  score(0.2, 0.4, 0.3, [0.25, 0.55]), // below both
  score(null, 0.4),
  score(0.7, null),
];
const classes = { classNames: ["background", "lesion"], scored: [1] };

describe("the coverage of predicted Dice", () => {
  it("counts what bounds cover, and how wide they are, beside one width for all", () => {
    const found = coverageOf(scores, fit, classes);
    expect(found).toMatchObject({ alpha: 0.1, from: "validation" });
    const { "": of } = found?.of ?? {};
    expect(of).toEqual({
      images: 4,
      error: expect.closeTo(0.125, 12),
      constantError: expect.closeTo(0.25, 12),
      lower: 0.5,
      interval: 0.75,
      width: expect.closeTo(0.35, 12),
      constantInterval: 0.25,
      constantWidth: 0.5,
    });
    const text = describeCoverage(found as NonNullable<typeof found>);
    expect(text).toMatch(/over classes +0\.125 +0\.250 +50\.0 % +75\.0 % +0\.350 +25\.0 % +0\.500/);
    expect(text).toContain("Bounds are to hold in 90.0 % of the images");
  });

  it("is in a comparison's tables and page, of the runs that have a fit and images for it", () => {
    const comparison = makeComparison({ methods: ["plain", "le"], seeds: 1, shift: false, shown: false, images: 6 });
    for (const run of comparison.runs) delete run.predictedDice;
    expect(Object.keys(csvTables(comparison))).not.toContain("predicted-dice.csv");
    expect(describeComparison(comparison)).not.toContain("Predicted Dice");
    const [plain, le] = comparison.runs as [(typeof comparison.runs)[number], (typeof comparison.runs)[number]];
    plain.predictedDice = coverageOf([score(null, null)], fit, classes) as NonNullable<typeof plain.predictedDice>;
    le.predictedDice = coverageOf(scores, fit, classes) as NonNullable<typeof le.predictedDice>;
    const { rows } = parseCsv(csvTables(comparison)["predicted-dice.csv"] ?? "", "predicted-dice.csv");
    expect(rows).toHaveLength(1);
    expect(rows[0]).toMatchObject({ method: "le", seed: "0", class: "", images: "4", lower: "0.5", interval: "0.75" });
    expect(rows[0]).toMatchObject({ level: "0.9", constant_width: "0.5" });
    expect(describeComparison(comparison)).toMatch(/LE, seed 0 +over classes +0\.125/);
    expect(comparisonPage(comparison, [])).toContain("bounds are to hold in 90.0 % of the images");
  });
});
