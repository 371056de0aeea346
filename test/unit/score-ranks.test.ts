// The scores of a method against each other, by hand and by lib/statistics.
import { describe, expect, it } from "vitest";
import { aurc, bootstrap } from "../../lib/metrics/index.js";
import type { ImageRecord } from "../../lib/results/comparison.js";
import { recordedConfidence } from "../../lib/scores/scores.js";
import { aggregate } from "../../lib/study/aggregate.js";
import { rankScores } from "../../lib/study/score-ranks.js";
import { resamplesOf } from "../../lib/study/statistics.js";
import { madeRun, SETTINGS } from "./support/study.js";

const units = (count: number) => ({ count, of: Int32Array.from({ length: count }, (_, i) => i) });

describe("the scores of a method", () => {
  // Risks 0, .5 and 1. Best first: means 0, .25, .5, so (0 + .125 + .375) / 3 = 1/6. Worst first: 1, .75, .5, so
  // (1 + .875 + .625) / 3 = 5/6.
  const dice = Float64Array.of(1, 0.5, 0);
  const confidences = { softDiceConfidence: Float64Array.of(1, 2, 3), aula: Float64Array.of(3, 2, 1) };

  it("are in the order of AURC, with what each has above the best", () => {
    const [best, worst] = rankScores([{ dice, confidences }], resamplesOf(units(3), 50, 1));
    expect(best).toMatchObject({ score: "aula", aboveBest: null });
    expect(best?.aurc.value).toBeCloseTo(1 / 6, 12);
    expect(worst?.aurc.value).toBeCloseTo(5 / 6, 12);
    expect(worst?.aboveBest?.value).toBeCloseTo(2 / 3, 12);
  });

  it("leave out images without a Dice, and are means over the runs", () => {
    const more = (values: Float64Array, value: number) => Float64Array.of(...values, value);
    const with4 = {
      dice: more(dice, Number.NaN),
      confidences: { softDiceConfidence: Float64Array.of(3, 2, 1, 9), aula: Float64Array.of(3, 2, 1, 9) },
    };
    const other = {
      dice: more(dice, Number.NaN),
      confidences: { softDiceConfidence: more(confidences.softDiceConfidence, 0), aula: more(confidences.aula, 0) },
    };
    const [, worst] = rankScores([with4, other], resamplesOf(units(4), 50, 1));
    expect(worst?.aurc.perRun).toEqual([expect.closeTo(1 / 6, 12), expect.closeTo(5 / 6, 12)]);
    expect(worst?.aboveBest).toMatchObject({
      value: expect.closeTo(1 / 3, 12),
      perRun: [0, expect.closeTo(2 / 3, 12)],
    });
    const none = { dice: dice.map(() => Number.NaN), confidences };
    expect(rankScores([none], resamplesOf(units(3), 5, 1))).toEqual([]);
  });

  it.each([undefined, 3])(
    "have the intervals of paired resamples by lib/statistics (images of a group: %s)",
    (perGroup) => {
      const run = madeRun({ images: 15, ...(perGroup && { perGroup }) });
      const unit = perGroup ? ("group" as const) : ("image" as const);
      const { methods } = aggregate([run], { ...SETTINGS, bootstrap: { ...SETTINGS.bootstrap, unit } });
      const ranks = methods[0]?.scoreRanks ?? [];
      const { images, heads } = run.record;
      // Ones for which nothing is known, and the one that ranks as AULA, are not there.
      expect(ranks.map(({ score }) => score).sort()).toEqual(
        [
          ...["aula", "aulaSlope", "pairwiseAgreement", "softDiceConfidence", "softDiceConfidence.final"],
          ...["predictionDepth", "tapDistance", "entropy.sum", "mutualInformation.sum", "variance.sum"],
        ].sort(),
      );
      const of = (at: number, drawn: Uint32Array) => {
        const some = [...drawn].map((i) => images[i] as ImageRecord);
        const { score } = ranks[at] as (typeof ranks)[number];
        return aurc(
          some.map((image) => recordedConfidence(image, score, { heads: heads.length, summary: "sum" }) as number),
          some.map((image) => 1 - (image.dice as number)),
        );
      };
      const options = {
        ...{ resamples: SETTINGS.bootstrap.resamples, seed: SETTINGS.bootstrap.seed },
        ...(perGroup && { groups: images.map(({ group }) => group as string) }),
      };
      ranks.forEach(({ aurc: own, aboveBest }, at) => {
        const expected = bootstrap(images.length, (drawn) => of(at, drawn), options);
        expect(own.low).toBeCloseTo(expected.low, 10);
        if (at === 0) return;
        const above = bootstrap(images.length, (drawn) => of(at, drawn) - of(0, drawn), options);
        expect(aboveBest?.value).toBeCloseTo(above.estimate, 10);
        expect(aboveBest?.low).toBeCloseTo(above.low, 10);
        expect(aboveBest?.high).toBeCloseTo(above.high, 10);
      });
    },
  );
});
