// The definitions against values computed independently of this project.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import type { FloatArray, MapName, NdArray } from "../../lib/metrics/index.js";
import * as metrics from "../../lib/metrics/index.js";
import { readNpz } from "../support/npz.js";

const FOLDER = fileURLToPath(new URL("../../../shared/fixtures/metrics", import.meta.url));
const present = existsSync(FOLDER);
const MAP_TOLERANCE = 1e-5;
const SCALAR_TOLERANCE = 1e-6;
const TABLE_TOLERANCE = 1e-9;

/** A number, a list or an object of numbers, "NaN" for not-a-number; compared leaf by leaf, relative above 1. */
function expectClose(actual: unknown, expected: unknown, tolerance: number, where = "value"): void {
  if (typeof expected === "object" && expected !== null) {
    expect(Object.keys(actual as object), where).toEqual(Object.keys(expected));
    for (const [key, value] of Object.entries(expected))
      expectClose((actual as Record<string, unknown>)[key], value, tolerance, `${where}.${key}`);
  } else if (typeof expected === "number") {
    expect(actual, where).toBeTypeOf("number");
    const error = Math.abs((actual as number) - expected) / Math.max(1, Math.abs(expected));
    expect(error, `${where}: ${actual}, expected ${expected}`).toBeLessThanOrEqual(tolerance);
  } else {
    expect(actual, where).toEqual(expected === "NaN" ? Number.NaN : expected);
  }
}

function expectMap(actual: NdArray, expected: NdArray<FloatArray>, where: string, tolerance = MAP_TOLERANCE): void {
  expect(actual.data.length, where).toBe(expected.data.length);
  let worst = 0;
  for (let i = 0; i < actual.data.length; i++) {
    const error = Math.abs((actual.data[i] as number) - (expected.data[i] as number));
    worst = Math.max(worst, error);
  }
  expect(worst, where).toBeLessThanOrEqual(tolerance);
}

const imageCases = present
  ? readdirSync(FOLDER).filter((name) => name !== "choose-skip" && existsSync(path.join(FOLDER, name, "case.json")))
  : [];

describe.skipIf(!present)("reference images", () => {
  it.each(imageCases)("%s", (name) => {
    const { params, expected, exactTies } = JSON.parse(readFileSync(path.join(FOLDER, name, "case.json"), "utf8"));
    const arrays = readNpz(path.join(FOLDER, name, "arrays.npz"));
    const array = <T extends FloatArray | Uint8Array>(key: string) => arrays[key] as NdArray<T>;
    const heads = metrics.skipHeads(array<Float32Array>("heads"), params.skip);
    const truth = array<Uint8Array>("truth");
    const spatial = truth.shape;
    const { K, C } = expected;
    expect([heads.length, heads[0]?.shape]).toEqual([K, [C, ...spatial]]);

    const labels = metrics.labelMaps(heads);
    expect(labels).toEqual({ data: array<Uint8Array>("labels").data, shape: [K, ...spatial] });
    const probabilities = heads.map((head) => metrics.softmax(head));
    if (!exactTies) expect(metrics.labelMaps(probabilities)).toEqual(labels);

    const weights = params.weights && { weights: params.weights };
    const fused = (fusion: metrics.Fusion) => metrics.fuse(heads, { fusion, ...weights });
    const fusedMean = fused("mean");
    expect(fusedMean.shape).toEqual([C, ...spatial]);
    for (const fusion of ["mean", "logit-mean", "vote"] as const) {
      expectMap(fused(fusion), array(`fused.${fusion}`), fusion);
      expectMap(metrics.entropy(fused(fusion)), array(`entropy.${fusion}`), `entropy of ${fusion}`);
      const mask = metrics.argmax(fused(fusion));
      // Where logit-mean is tied exactly, the order of summation decides.
      if (!exactTies || fusion !== "logit-mean")
        expect(mask.data, `mask of ${fusion}`).toEqual(array(`prediction.${fusion}`).data);
      const summary = metrics.summarise(metrics.entropy(fused(fusion)), mask);
      const of = expected.summaries.entropy[fusion];
      expectClose({ sum: summary.sum, mean: summary.mean }, { sum: of.sum, mean: of.mean }, SCALAR_TOLERANCE, fusion);
      if (!exactTies || fusion !== "logit-mean")
        expectClose(summary.foreground, of.foreground, SCALAR_TOLERANCE, `foreground of ${fusion}`);
    }
    expectMap(fused("last"), metrics.softmax(heads.at(-1) as NdArray), "last");

    const mask = metrics.argmax(fusedMean);
    const maps: Record<Exclude<MapName, "entropy">, NdArray> = {
      expectedEntropy: metrics.expectedEntropy(probabilities),
      mutualInformation: metrics.mutualInformation(probabilities),
      variance: metrics.variance(probabilities),
      disagreement: metrics.disagreement(labels, C),
      variationRatio: metrics.variationRatio(labels, C),
    };
    for (const [key, map] of Object.entries(maps)) {
      expect(map.shape).toEqual(spatial);
      expectMap(map, array(key), key);
      expectClose(metrics.summarise(map, mask), expected.summaries[key], SCALAR_TOLERANCE, key);
    }

    const counts = metrics.countAgreement(labels, C);
    if (expected.AULA.error) {
      expect(() => metrics.aulaFromCounts(counts, { skipped: params.skip })).toThrow(
        new RegExp(`K = ${K} .*T = ${params.skip}`),
      );
    } else {
      const { AULA: value, ...rest } = expected.AULA;
      const aula = metrics.aula(labels, C);
      expectClose(
        { value: aula.value, normalised: aula.normalised, perClass: aula.perClass, empty: aula.empty },
        { value, normalised: rest.normalised, perClass: rest.perClass, empty: rest.empty },
        SCALAR_TOLERANCE,
        "AULA",
      );
      expectClose(aula.agreements, expected.agreement, SCALAR_TOLERANCE, "agreement");
    }
    expectClose(metrics.pairwiseAgreement(labels, C), expected.pairwiseAgreement, SCALAR_TOLERANCE, "pairwise");
    expectClose(metrics.predictionDepth(labels, C, params.theta), expected.predictionDepth, SCALAR_TOLERANCE, "depth");
    expectClose(metrics.softDiceConfidence(fusedMean), expected.softDiceConfidence, SCALAR_TOLERANCE, "soft Dice");

    const { ignoreIndex, spacing } = params;
    const staple = metrics.staple(labels, C);
    // Where it stops after 100 rounds it is still moving, and rounding moves with it.
    const tolerance = staple.converged ? MAP_TOLERANCE : 1e-4;
    expectMap(staple.probabilities, array("fused.STAPLE"), "STAPLE", tolerance);
    const { p, q, confusion, prior, converged, rounds } = expected.STAPLE;
    expect({ converged: staple.converged, rounds: staple.rounds }).toEqual({ converged, rounds });
    const performance = confusion ? [staple.confusion, staple.prior] : [staple.sensitivity, staple.specificity];
    expectClose(performance, confusion ? [confusion, prior] : [p, q], converged ? SCALAR_TOLERANCE : 1e-4, "STAPLE");
    const trusted = metrics.argmax(staple.probabilities);
    if (!exactTies) expect(trusted.data).toEqual(array("prediction.STAPLE").data);
    const certainty = metrics.entropy(staple.probabilities);
    expectMap(certainty, array("entropy.STAPLE"), "entropy of STAPLE", converged ? MAP_TOLERANCE : 1e-3);
    if (!exactTies && converged)
      expectClose(metrics.summarise(certainty, trusted), expected.summaries.entropy.STAPLE, MAP_TOLERANCE, "STAPLE");

    const surface = { classes: C, ignoreIndex, spacing };
    const quality = metrics.quality(mask, truth, surface);
    const penalised = metrics.quality(mask, truth, { ...surface, emptyPenalty: "half-height" });
    const named = (of: Record<string, number>, halfHeight: Record<string, number>) => {
      const { modifiedHausdorffBoundary, ...all } = of;
      // These came later: test/fixtures/surface.json has them.
      const { surfaceDice, volume, trueVolume, lesionSensitivity, falsePositives, ...rest } = all;
      return {
        ...rest,
        "modifiedHausdorff.boundary": modifiedHausdorffBoundary,
        "modifiedHausdorff.half-height": halfHeight.modifiedHausdorff,
      };
    };
    const sorted = (of: object) => Object.fromEntries(Object.entries(of).sort(([a], [b]) => (a < b ? -1 : 1)));
    for (const part of ["image", "leftOut"] as const)
      expectClose(
        sorted(named(quality[part], penalised[part])),
        sorted(expected.quality[part]),
        SCALAR_TOLERANCE,
        part,
      );
    expect(Object.keys(quality.perClass)).toEqual(Object.keys(expected.quality.perClass));
    for (const [key, of] of Object.entries<object>(expected.quality.perClass)) {
      const c = Number(key);
      const own = named(quality.perClass[c] as never, penalised.perClass[c] as never);
      expectClose(sorted(own), sorted(of), SCALAR_TOLERANCE, `quality of ${c}`);
      // One by one they are the same.
      for (const name of ["dice", "iou"] as const)
        expect(metrics[name](mask, truth, { classes: C, ignoreIndex })[c]).toBe(quality.perClass[c]?.[name]);
      for (const name of [
        "hausdorff",
        "hd95",
        "assd",
        "sensitivity",
        "precision",
        "specificity",
        "volumeError",
      ] as const)
        expect(metrics[name](mask, truth, surface)[c], name).toBe(quality.perClass[c]?.[name]);
      const far = (more: object) => metrics.modifiedHausdorff(mask, truth, { ...surface, ...more })[c];
      expect(far({})).toBe(quality.perClass[c]?.modifiedHausdorff);
      expect(far({ on: "boundary" })).toBe(quality.perClass[c]?.modifiedHausdorffBoundary);
      expect(far({ emptyPenalty: "half-height" })).toBe(penalised.perClass[c]?.modifiedHausdorff);
    }

    // Bins are compared in double precision: 0.8 is in (11/15, 12/15], but 0.8 rounded to a single is above it.
    const precise = metrics.fuse(heads, { ...weights, precision: "double" });
    for (const foreground of [false, true]) {
      const options = { ignoreIndex, foreground };
      const of = foreground ? expected.calibrationForeground : expected.calibration;
      const { classwiseEce, ...rest } = metrics.calibration(precise, truth, options);
      const { classwiseEce: mean, classwiseEcePerClass: perClass, ...wanted } = of;
      expectClose(sorted(rest), sorted(wanted), SCALAR_TOLERANCE, "calibration");
      expectClose(classwiseEce, { mean, perClass }, SCALAR_TOLERANCE, "classwise");
      for (const key of ["nll", "brier", "ece", "adaptiveEce", "reliability"] as const)
        expect(metrics[key](precise, truth, options)).toEqual(rest[key]);
      expect(metrics.classwiseEce(precise, truth, options)).toEqual(classwiseEce);
      expectClose(metrics.nll(fusedMean, truth, options), of.nll, SCALAR_TOLERANCE, "nll");
      expectClose(metrics.brier(fusedMean, truth, options), of.brier, SCALAR_TOLERANCE, "brier");
    }
  });
});

describe.skipIf(!present)("the reference validation set", () => {
  it("gives the curve over T, the choice and the temperatures", () => {
    const folder = path.join(FOLDER, "choose-skip");
    const { params, expected } = JSON.parse(readFileSync(path.join(folder, "case.json"), "utf8"));
    const arrays = readNpz(path.join(folder, "arrays.npz"));
    const all = arrays.heads as NdArray;
    const [n, K, ...map] = all.shape as [number, number, ...number[]];
    const size = map.reduce((product, axis) => product * axis, 1);
    const pixels = size / (map[0] as number);
    const headsOf = (image: number) =>
      Array.from({ length: K }, (_, k) => ({
        data: all.data.subarray((image * K + k) * size, (image * K + k + 1) * size),
        shape: map,
      }));
    const images = Array.from({ length: n }, (_, image) => ({
      heads: headsOf(image),
      truth: {
        data: (arrays.truth as NdArray<Uint8Array>).data.subarray(image * pixels, (image + 1) * pixels),
        shape: map.slice(1),
      },
    }));
    const { ignoreIndex, margin } = params;

    const curve = metrics.skipCurve(images, { ignoreIndex });
    const wanted = expected.curve.map((of: Record<string, number>) => ({
      skip: of.T,
      nll: of.nll,
      nllSd: of.nllSdSample,
      dice: of.dice,
      diceSd: of.diceSdSample,
      aurc: of.aurc,
    }));
    expectClose(curve, wanted, SCALAR_TOLERANCE, "curve");
    expect(metrics.chooseSkip(curve, { margin })).toBe(expected.chooseSkip);
    expect(metrics.chooseSkip(curve, { margin: 0 })).toBe(expected.chooseSkipMargin0);

    const truths = images.map(({ truth }) => truth);
    const compare = (fitted: metrics.FittedTemperature, of: { temperature: number; nll: number }) => {
      expectClose(fitted.nll, of.nll, SCALAR_TOLERANCE, "nll");
      expectClose(fitted.temperature, of.temperature, 1e-3, "temperature");
    };
    expected.temperature.heads.forEach((of: { temperature: number; nll: number }, k: number) => {
      const logits = images.map(({ heads }) => heads[k] as NdArray);
      compare(metrics.fitTemperature(logits, truths, { ignoreIndex }), of);
    });
    const fused = images.map(({ heads }) => metrics.fuse(heads, { precision: "double" }));
    compare(metrics.fitProbabilityTemperature(fused, truths, { ignoreIndex }), expected.temperature.fused);
  });
});

describe.skipIf(!present)("reference tables", () => {
  const { tables, paired } = present
    ? JSON.parse(readFileSync(path.join(FOLDER, "tables", "table.json"), "utf8"))
    : { tables: [], paired: [] };

  it.each(paired as Paired[])("paired: $name", ({ x, y, expected }) => {
    const { n, statistic, p, method } = expected.wilcoxon;
    expectClose(metrics.wilcoxon(x, y), { n, statistic, p, method }, TABLE_TOLERANCE, "Wilcoxon");
    expectClose(metrics.pairedT(x, y), expected.pairedT, TABLE_TOLERANCE, "paired t");
  });

  it.each(tables as Table[])("$name", ({ confidence, dice, risk, failed, tau, expected }) => {
    const { aurcStar, spearman, pearson, riskCoverage, ...continuous } = expected.continuous;
    expectClose(metrics.spearman(confidence, risk), spearman, TABLE_TOLERANCE, "spearman");
    expectClose(metrics.pearson(confidence, risk), pearson, TABLE_TOLERANCE, "pearson");
    expectClose(metrics.riskCoverage(confidence, risk), riskCoverage, TABLE_TOLERANCE, "risk-coverage");
    expectClose(areas(confidence, risk), continuous, TABLE_TOLERANCE, "continuous");
    const ideal = metrics.aurc(confidence, risk) - metrics.eaurc(confidence, risk);
    expectClose(ideal, aurcStar, TABLE_TOLERANCE, "ideal AURC");

    const { aurcStar: _, auroc, fpr95, ...binary } = expected.binary;
    expectClose(areas(confidence, failed.map(Number)), binary, TABLE_TOLERANCE, "binary");
    expectClose(metrics.auroc(confidence, failed), auroc, TABLE_TOLERANCE, "auroc");
    expectClose(metrics.fpr95(confidence, failed), fpr95, TABLE_TOLERANCE, "fpr95");

    const curve = metrics.qualityControlCurve(confidence, dice, { tau });
    expectClose(curve, expected.qualityControl, TABLE_TOLERANCE, "quality control");
  });
});

interface Paired {
  name: string;
  x: number[];
  y: number[];
  expected: { wilcoxon: Record<string, unknown>; pairedT: Record<string, unknown> };
}

interface Table {
  name: string;
  confidence: number[];
  dice: number[];
  risk: number[];
  failed: (number | boolean)[];
  tau: number;
  expected: Record<"continuous" | "binary" | "qualityControl", Record<string, unknown>>;
}

function areas(confidence: number[], risk: number[]) {
  const { aurc, eaurc, naurc, augrc } = metrics;
  return Object.fromEntries(
    Object.entries({ aurc, eaurc, naurc, augrc }).map(([key, of]) => [key, of(confidence, risk)]),
  );
}
