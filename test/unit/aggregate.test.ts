// From runs to methods: seeds, intervals, tests. The fast resampling agrees with lib/statistics.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  augrc,
  aurc,
  auroc,
  bootstrap,
  calibration,
  eaurc,
  fpr95,
  pairedT,
  qualityControlCurve,
  spearman,
  wilcoxon,
} from "../../lib/metrics/index.js";
import { Random } from "../../lib/random.js";
import type {
  ConfidenceResult,
  Estimate,
  ImageRecord,
  MeanEstimate,
  MethodResult,
} from "../../lib/results/comparison.js";
import { CONFIDENCES, type ConfidenceName } from "../../lib/scores/scores.js";
import { aggregate, type MeasuredRun, unitOf } from "../../lib/study/aggregate.js";
import { pooledCalibration } from "../../lib/study/evaluate.js";
import { madePixels, madeRun, SETTINGS } from "./support/study.js";

const only = (runs: MeasuredRun[], settings = SETTINGS): MethodResult => {
  const { methods } = aggregate(runs, settings);
  expect(methods).toHaveLength(1);
  return methods[0] as MethodResult;
};

/** The confidence of an image by its definition. */
const confidence = (image: ImageRecord, name: ConfidenceName): number => {
  if (name === "tapDistance") return -(image.tapDistance as number);
  return name in image ? (image[name as keyof ImageRecord] as number) : -(image.uncertainty[`${name}.sum`] as number);
};

const risks = (dice: number[]) => dice.map((value) => 1 - value);
const failures = (dice: number[]) => dice.map((value) => value < SETTINGS.tau);

/** Each statistic of a confidence by lib/statistics, of images of which each is there as often as it is in the lists. */
const EXPECTED: Record<keyof ConfidenceResult, (kappa: number[], dice: number[], mhd: (number | null)[]) => number> = {
  spearmanDice: (kappa, dice) => spearman(kappa, dice).rho,
  spearmanMhd: (kappa, _, mhd) =>
    spearman(
      kappa.filter((_, i) => mhd[i] !== null),
      mhd.filter((value) => value !== null),
    ).rho,
  aurc: (kappa, dice) => aurc(kappa, risks(dice)),
  eaurc: (kappa, dice) => eaurc(kappa, risks(dice)),
  augrc: (kappa, dice) => augrc(kappa, risks(dice)),
  auroc: (kappa, dice) => auroc(kappa, failures(dice)),
  fpr95: (kappa, dice) => fpr95(kappa, failures(dice)),
  qcArea: (kappa, dice) => qualityControlCurve(kappa, dice, { tau: SETTINGS.tau }).area,
  remaining5: (kappa, dice) => qualityControlCurve(kappa, dice, { tau: SETTINGS.tau }).remaining5,
};

function expectClose(actual: number | null | undefined, expected: number | null, what: string) {
  if (expected === null || Number.isNaN(expected)) expect(actual, what).toBeNull();
  else expect(actual, what).toBeCloseTo(expected, 10);
}

describe("the statistics of one run", () => {
  it.each([
    ["images", undefined],
    ["groups", 3],
  ])("and their intervals are those of lib/statistics on resampled %s", (_, perGroup) => {
    const run = madeRun({ images: 14, ...(perGroup && { perGroup }) });
    const unit = perGroup ? "group" : "image";
    const method = only([run], { ...SETTINGS, bootstrap: { ...SETTINGS.bootstrap, unit } });
    const { images } = run.record;
    const options = {
      resamples: SETTINGS.bootstrap.resamples,
      seed: SETTINGS.bootstrap.seed,
      ...(perGroup && { groups: images.map(({ group }) => group as string) }),
    };
    const check = (actual: Estimate, statistic: (of: ImageRecord[]) => number, what: string) => {
      const expected = bootstrap(
        images.length,
        (drawn) => statistic([...drawn].map((i) => images[i] as ImageRecord)),
        options,
      );
      expectClose(actual.value, expected.estimate, what);
      expectClose(actual.low, expected.low, `${what}, low`);
      expectClose(actual.high, expected.high, `${what}, high`);
    };
    for (const name of CONFIDENCES) {
      const found = method.confidence[name] as ConfidenceResult;
      for (const statistic of Object.keys(found) as (keyof ConfidenceResult)[])
        check(
          found[statistic],
          (of) =>
            EXPECTED[statistic](
              of.map((image) => confidence(image, name)),
              of.map(({ dice }) => dice as number),
              of.map(({ mhd }) => mhd),
            ),
          `${name} ${statistic}`,
        );
    }
    const mean = (values: (number | null)[]) => {
      const defined = values.filter((value) => value !== null);
      return defined.reduce((sum, value) => sum + value, 0) / defined.length;
    };
    check(method.quality.dice, (of) => mean(of.map(({ dice }) => dice)), "dice");
    check(method.quality.mhd, (of) => mean(of.map(({ mhd }) => mhd)), "mhd");
    check(method.classDice.b as Estimate, (of) => mean(of.map(({ classDice }) => classDice[1] as number)), "classDice");
    const byImage = new Map(images.map((image, i) => [image, run.calibration[i]]));
    for (const name of ["ece", "brier", "nll"] as const)
      check(
        method.pooled[name],
        (of) => pooledCalibration(of.map((image) => byImage.get(image) as never))[name] as number,
        `pooled ${name}`,
      );
  });

  it("do not depend on the order of the images, which may differ from run to run", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2 ** 31 }), fc.boolean(), (seed, grouped) => {
        const runs = [0, 1].map((s) => madeRun({ seed: s, images: 9, ...(grouped && { perGroup: 2 }) }));
        const settings = { ...SETTINGS, bootstrap: { ...SETTINGS.bootstrap, resamples: 20 } };
        const random = new Random(seed);
        const shuffled = runs.map(({ record, calibration: of }) => {
          const order = random.shuffled(record.images.map((_, i) => i));
          return {
            calibration: order.map((i) => of[i] as (typeof of)[number]),
            record: { ...record, images: order.map((i) => record.images[i] as ImageRecord) },
          };
        });
        expect(aggregate(shuffled, settings)).toEqual(aggregate(runs, settings));
      }),
      { numRuns: 30 },
    );
  });

  it("rank without images that have no Dice, as if these were not there", () => {
    const none = { dice: null, iou: null, mhd: null, classDice: [null, null], classMhd: [null, null], nll: null };
    const made = madeRun({ images: 20, change: (_, i) => (i < 3 ? none : {}) });
    const rest = {
      record: { ...made.record, images: made.record.images.slice(3) },
      calibration: made.calibration.slice(3),
    };
    const [whole, less] = [only([made]), only([rest])];
    expect(whole?.quality.dice).toMatchObject({ value: less?.quality.dice.value, leftOut: 3, n: 17 });
    for (const name of ["aula", "entropy"] as const) {
      const [a, b] = [whole?.confidence[name], less?.confidence[name]] as [ConfidenceResult, ConfidenceResult];
      for (const statistic of Object.keys(a) as (keyof ConfidenceResult)[])
        expect(a[statistic].value, `${statistic} by ${name}`).toBeCloseTo(b[statistic].value as number, 12);
      expect(whole?.qcCurves[name]).toEqual(less?.qcCurves[name]);
    }
  });

  it("are ideal for a confidence that is Dice itself", () => {
    const run = madeRun({ images: 20, change: ({ dice }) => ({ aula: dice, mhd: 1 - (dice as number) }) });
    const found = only([run]).confidence.aula as ConfidenceResult;
    const failed = run.record.images.filter(({ dice }) => (dice as number) < SETTINGS.tau).length / 20;
    expect(found.spearmanDice.value).toBeCloseTo(1, 12);
    expect(found.spearmanMhd.value).toBeCloseTo(-1, 12);
    expect(found.auroc).toMatchObject({ value: 1, low: 1, high: 1 });
    expect(found.fpr95.value).toBe(0);
    expect(found.remaining5.value).toBeLessThanOrEqual(failed);
    for (const other of CONFIDENCES)
      expect(found.qcArea.value as number).toBeLessThanOrEqual(only([run]).confidence[other]?.qcArea.value as number);
  });

  it("of Dice without ties reach the ideal area under risk and coverage", () => {
    const run = madeRun({ images: 20, change: (_, i) => ({ dice: ((i * 7) % 20) / 20, aula: (i * 7) % 20 }) });
    expect((only([run]).confidence.aula as ConfidenceResult).eaurc.value).toBeCloseTo(0, 12);
  });

  it("are null where all images are equal, and the mean risk where a confidence is constant", () => {
    const run = madeRun({ images: 10, change: () => ({ dice: 0.7, softDiceConfidence: 0.5 }) });
    const { confidence: found, quality } = only([run]);
    for (const name of ["aula", "softDiceConfidence"] as const) {
      expect(found[name]).toMatchObject({
        spearmanDice: { value: null, low: null, high: null, perRun: [null] },
        auroc: { value: null, low: null, high: null },
        fpr95: { value: null },
        remaining5: { value: 0 },
      });
      expect(found[name]?.aurc.value).toBeCloseTo(0.3, 12);
    }
    expect(quality.dice).toMatchObject({ n: 10, leftOut: 0 });
    expect(quality.dice.sd).toBeCloseTo(0, 12);
  });

  it("exist for a single image as far as they are defined", () => {
    const run = madeRun({ images: 1, change: () => ({ dice: 0.4, mhd: null }) });
    const { quality, confidence: found, pooled } = only([run]);
    expect(quality.dice).toEqual({
      value: 0.4,
      low: 0.4,
      high: 0.4,
      perRun: [0.4],
      sd: null,
      n: 1,
      leftOut: 0,
      leftOutPerRun: [0],
    });
    expect(quality.mhd).toEqual({
      value: null,
      low: null,
      high: null,
      perRun: [null],
      sd: null,
      n: 0,
      leftOut: 1,
      leftOutPerRun: [1],
    });
    expect(found.aula).toMatchObject({ spearmanDice: { value: null }, aurc: { value: 0.6 }, auroc: { value: null } });
    expect(pooled.ece.value).toBeCloseTo(run.record.images[0]?.ece as number, 12);
  });
});

describe("a method", () => {
  const dice = (values: number[], seed: number, mhd: (number | null)[] = values) =>
    madeRun({
      seed,
      images: values.length,
      change: (_, i) => ({ dice: values[i] as number, mhd: mhd[i] as number | null }),
    });

  it("is the mean over its seeds; images spread by their means, and what is left out is counted", () => {
    const first = dice([0.2, 0.4, 0.6], 0, [1, null, 3]);
    const second = dice([0.4, 0.8, 0.6], 1, [3, null, null]);
    const { quality, runs, confidence: found } = only([first, second]);
    expect(runs).toEqual([0, 1]);
    expect(quality.dice.perRun).toEqual([expect.closeTo(0.4, 12), expect.closeTo(0.6, 12)]);
    expect(quality.dice.value).toBeCloseTo(0.5, 12);
    // Of 0.3, 0.6, 0.6.
    expect(quality.dice.sd).toBeCloseTo(Math.sqrt(0.03), 12);
    expect(quality.mhd).toMatchObject({ value: 2.5, perRun: [2, 3], n: 2, leftOut: 1, leftOutPerRun: [1, 2] });
    const alone = [first, second].map((run) => only([run]).confidence.aula?.aurc.value as number);
    expect(found.aula?.aurc.perRun).toEqual(alone);
    expect(found.aula?.aurc.value).toBeCloseTo(((alone[0] as number) + (alone[1] as number)) / 2, 12);
  });

  it("has only the confidences that its heads give", () => {
    const runs = [madeRun({ method: "plain", heads: 1 }), madeRun({ method: "de" }), madeRun({ method: "le" })];
    const { methods } = aggregate(runs, SETTINGS);
    const has = methods.map(({ method, confidence: of, qcCurves }) => {
      const names = CONFIDENCES.filter((name) => of[name] !== null);
      expect(Object.keys(qcCurves)).toEqual(names);
      return [method, names];
    });
    expect(has).toEqual([
      ["plain", ["softDiceConfidence", "softDiceConfidence.final", "tapDistance", "entropy"]],
      ["de", CONFIDENCES.slice(1)],
      ["le", [...CONFIDENCES]],
    ]);
    expect(methods.map(({ cost }) => cost.ratioToPlain)).toEqual([1, 1.5, 1.5]);
    expect(only([runs[2] as MeasuredRun]).cost.ratioToPlain).toBeNull();
  });

  it("comes in the order of the tables, whatever the order of the runs", () => {
    const runs = (["le", "de", "plain", "mcd", "mh"] as const).flatMap((method) =>
      [1, 0].map((seed) => madeRun({ method, seed })),
    );
    const settings = { ...SETTINGS, bootstrap: { ...SETTINGS.bootstrap, resamples: 10 } };
    const [a, b] = [aggregate(runs, settings), aggregate([...runs].reverse(), settings)];
    expect(a.methods.map(({ method }) => method)).toEqual(["plain", "mh", "de", "mcd", "le"]);
    expect(a.methods[0]?.runs).toEqual([4, 5]);
    const values = (of: typeof a) =>
      of.methods.flatMap(({ quality }) => [quality.dice.value, quality.nll.high]) as number[];
    values(a).forEach((value, i) => {
      expect(value).toBeCloseTo(values(b)[i] as number, 12);
    });
    expect(b.tests.map(({ difference }) => difference)).toEqual(
      a.tests.map(({ difference }) => expect.closeTo(difference as number, 12)),
    );
  });

  it("is drawn with the same resamples as every other", () => {
    // A method that is better by 0.1 on every image is so in each resample.
    const le = madeRun({ images: 15, change: ({ dice }) => ({ dice: 0.9 * (dice as number) }) });
    const better = madeRun({
      method: "de",
      images: 15,
      change: (_, i) => ({ dice: (le.record.images[i]?.dice as number) + 0.1 }),
    });
    const { methods } = aggregate([le, better], SETTINGS);
    const [de, own] = methods.map(({ quality }) => quality.dice) as [MeanEstimate, MeanEstimate];
    expect(de.low).toBeCloseTo((own.low as number) + 0.1, 10);
    expect(de.high).toBeCloseTo((own.high as number) + 0.1, 10);
  });
});

describe("paired tests", () => {
  it("compare LE with each other method on images", () => {
    const runs = [madeRun({ seed: 0 }), madeRun({ seed: 1 }), madeRun({ method: "de" })];
    const { tests } = aggregate(runs, SETTINGS);
    expect(tests.map(({ measure, other }) => [measure, other])).toEqual([
      ["dice", "de"],
      ["mhd", "de"],
      ["nll", "de"],
    ]);
    const of = (run: number) => runs[run]?.record.images as ImageRecord[];
    const le = of(0).map(({ nll }, i) => ((nll as number) + (of(1)[i]?.nll as number)) / 2);
    const de = of(2).map(({ nll }) => nll as number);
    expect(tests[2]?.n).toBe(12);
    expect(tests[2]?.wilcoxonP).toBeCloseTo(wilcoxon(le, de).p, 12);
    expect(tests[2]?.tP).toBeCloseTo(pairedT(le, de).p, 12);
    const pairs = of(2).flatMap(({ mhd }, i) => {
      const own = [0, 1].map((run) => of(run)[i]?.mhd as number | null).filter((value) => value !== null);
      return mhd === null || own.length === 0 ? [] : [[own.reduce((a, b) => a + b) / own.length, mhd] as const];
    });
    expect(tests[1]?.n).toBe(pairs.length);
    expect(tests[1]?.wilcoxonP).toBeCloseTo(
      wilcoxon(
        pairs.map(([x]) => x),
        pairs.map(([, y]) => y),
      ).p,
      12,
    );
  });

  it("are on means of groups where these are drawn", () => {
    const runs = [madeRun({ perGroup: 2 }), madeRun({ method: "de", perGroup: 2 })];
    const { tests } = aggregate(runs, { ...SETTINGS, bootstrap: { ...SETTINGS.bootstrap, unit: "group" } });
    const means = runs.map(({ record: { images } }) =>
      Array.from({ length: 6 }, (_, g) => ((images[2 * g]?.dice as number) + (images[2 * g + 1]?.dice as number)) / 2),
    ) as [number[], number[]];
    expect(tests[0]).toMatchObject({ n: 6 });
    expect(tests[0]?.tP).toBeCloseTo(pairedT(means[0], means[1]).p, 12);
  });

  it("are null where nothing differs, and none without LE", () => {
    const same = (method: "le" | "plain") =>
      madeRun({ method, change: (_, i) => ({ dice: i / 12, nll: 1, mhd: null }) });
    const { tests } = aggregate([same("le"), same("plain")], SETTINGS);
    expect(tests.map(({ n, difference, wilcoxonP, tP }) => [n, difference, wilcoxonP, tP])).toEqual([
      [12, 0, null, null],
      [0, null, null, null],
      [12, 0, null, null],
    ]);
    expect(aggregate([same("plain"), madeRun({ method: "de" })], SETTINGS).tests).toEqual([]);
  });
});

describe("the unit of resampling", () => {
  it("is the group only where one has several images", () => {
    expect(unitOf(madeRun().record.images)).toBe("image");
    expect(unitOf(madeRun({ perGroup: 1 }).record.images)).toBe("image");
    expect(unitOf(madeRun({ perGroup: 2 }).record.images)).toBe("group");
  });
});

describe("calibration over all pixels", () => {
  it("is that of the images side by side", () => {
    const random = new Random(5);
    const images = Array.from({ length: 6 }, () => madePixels(random));
    const pooled = pooledCalibration(images.map(({ probabilities, truth }) => calibration(probabilities, truth)));
    const n = images.length * 8;
    const all = calibration(
      {
        data: Float32Array.from({ length: 2 * n }, (_, at) => {
          const [c, i] = [Math.floor(at / n), at % n];
          return images[i >> 3]?.probabilities.data[c * 8 + (i & 7)] as number;
        }),
        shape: [2, n],
      },
      { data: Uint8Array.from({ length: n }, (_, i) => images[i >> 3]?.truth.data[i & 7] as number), shape: [n] },
    );
    for (const name of ["ece", "brier", "nll"] as const) expect(pooled[name]).toBeCloseTo(all[name], 12);
    expect(pooled.bins.map(({ count }) => count)).toEqual(all.reliability.count);
    pooled.bins.forEach(({ accuracy }, b) => {
      expectClose(accuracy, all.reliability.accuracy[b] as number, `bin ${b}`);
    });
  });

  it("is null where every pixel is ignored", () => {
    const none = calibration(
      { data: Float32Array.of(0.5, 0.5), shape: [2, 1] },
      { data: Uint8Array.of(255), shape: [1] },
    );
    expect(pooledCalibration([none])).toMatchObject({ ece: null, brier: null, nll: null });
  });
});
