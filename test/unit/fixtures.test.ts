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

function expectMap(actual: NdArray, expected: NdArray<FloatArray>, where: string): void {
  expect(actual.data.length, where).toBe(expected.data.length);
  let worst = 0;
  for (let i = 0; i < actual.data.length; i++) {
    const error = Math.abs((actual.data[i] as number) - (expected.data[i] as number));
    worst = Math.max(worst, error);
  }
  expect(worst, where).toBeLessThanOrEqual(MAP_TOLERANCE);
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
    const mean = fused("mean");
    expect(mean.shape).toEqual([C, ...spatial]);
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

    const mask = metrics.argmax(mean);
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
    expectClose(metrics.softDiceConfidence(mean), expected.softDiceConfidence, SCALAR_TOLERANCE, "soft Dice");

    const { ignoreIndex } = params;
    const dice = metrics.dice(mask, truth, { classes: C, ignoreIndex });
    const iou = metrics.iou(mask, truth, { classes: C, ignoreIndex });
    const quality = Object.fromEntries(
      Object.keys(dice).map((c) => [c, { dice: dice[Number(c)], iou: iou[Number(c)] }]),
    );
    const wanted = Object.entries<Record<string, unknown>>(expected.quality.perClass);
    expectClose(
      quality,
      Object.fromEntries(wanted.map(([c, of]) => [c, { dice: of.dice, iou: of.iou }])),
      SCALAR_TOLERANCE,
      "quality",
    );
    for (const foreground of [false, true]) {
      const of = foreground ? expected.calibrationForeground : expected.calibration;
      expectClose(metrics.nll(mean, truth, { ignoreIndex, foreground }), of.nll, SCALAR_TOLERANCE, "nll");
      expectClose(metrics.brier(mean, truth, { ignoreIndex, foreground }), of.brier, SCALAR_TOLERANCE, "brier");
    }
  });
});

describe.skipIf(!present)("reference tables", () => {
  const { tables } = present
    ? JSON.parse(readFileSync(path.join(FOLDER, "tables", "table.json"), "utf8"))
    : { tables: [] };

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
