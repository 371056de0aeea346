// The native pass against the TypeScript definitions, from the same logits.
import { describe, expect, it } from "vitest";
import type { EnsembleOptions, NdArray, PredictOptions } from "../../lib/index.js";
import * as metrics from "../../lib/metrics/index.js";
import { noise, smallModel, smallVolumeModel } from "../support/model.js";

const TOLERANCE = 1e-5;

function expectNear(actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  expect(actual.length).toBe(expected.length);
  let worst = 0;
  for (let i = 0; i < actual.length; i++)
    worst = Math.max(worst, Math.abs((actual[i] as number) - (expected[i] as number)));
  expect(worst).toBeLessThan(TOLERANCE);
}

const images = { make: (options: EnsembleOptions) => smallModel({ ...options, depth: 3 }), shape: [1, 45, 61] };
const volumes = { make: smallVolumeModel, shape: [1, 9, 14, 19] };

describe.each([
  ["images", 2, images],
  ["images", 4, images],
  ["volumes", 2, volumes],
  ["volumes", 3, volumes],
] as const)("%s, %i classes", (_, classes, { make, shape }) => {
  const cases: PredictOptions[] = [
    {},
    { skip: 2 },
    { fusion: "logit-mean", weights: [1, 2, 0.5, 1, 3, 1] },
    { fusion: "mean", weights: [1, 0, 0, 4, 1, 1] },
    { fusion: "vote", skip: 1 },
    { fusion: "last" },
    { fusion: "staple" },
    { fusion: "staple", skip: 2, temperature: 3 },
    { temperature: 0.5 },
    { temperatures: [1, 2, 0.5, 1, 3, 1], temperature: 1.7, fusion: "logit-mean" },
  ];
  it.each(cases)("predict(%o) equals the definitions", async (options) => {
    const { backbone, model } = await make({ classes });
    const image = noise([...shape]);
    const logits = await model.forward(image);
    const skip = options.skip ?? 0;
    const heads: NdArray[] = [...logits.values()].slice(skip).map(({ data, shape }, k) => {
      const temperature = options.temperatures?.[k] ?? 1;
      return { data: data.map((z) => z / temperature), shape: shape.slice(1) };
    });
    const weights = options.weights?.slice(0, heads.length);
    const temperatures = options.temperatures?.slice(0, heads.length);
    const perHead = { ...(weights && { weights }), ...(temperatures && { temperatures }) };
    const actual = await model.predict(image, { ...options, ...perHead, labels: true });
    expect(actual.heads).toEqual(model.heads.slice(skip).map((head) => head.name));

    const probabilities = heads.map((head) => metrics.softmax(head));
    const { fusion = "mean", temperature = 1 } = options;
    const estimate = metrics.staple(metrics.labelMaps(probabilities), classes);
    const plain =
      fusion === "staple" ? estimate.probabilities : metrics.fuse(heads, { fusion, ...(weights && { weights }) });
    const fused = temperature === 1 ? plain : metrics.temper(plain, temperature);
    expect(actual.mask.shape).toEqual(shape.slice(1));
    expect(actual.probabilities!.shape).toEqual([classes, ...shape.slice(1)]);
    expectNear(actual.probabilities!.data, fused.data);
    expectNear(actual.maps.entropy!.data, metrics.entropy(fused).data);
    for (const name of ["expectedEntropy", "mutualInformation", "variance"] as const)
      expectNear(actual.maps[name]!.data, metrics[name](probabilities).data);
    const labels = metrics.labelMaps(probabilities);
    if (fusion === "staple") {
      expectNear(actual.staple!.confusion.flat(2), estimate.confusion.flat(2));
      expect(actual.staple).toMatchObject({ rounds: estimate.rounds, converged: estimate.converged });
    } else expect(actual.staple).toBeUndefined();
    expect(actual.labels).toEqual(labels);
    for (const name of ["disagreement", "variationRatio"] as const)
      expectNear(actual.maps[name]!.data, metrics[name](labels, classes).data);

    if (heads.length >= 3) {
      const expected = metrics.aula(labels, classes);
      expect(actual.aula?.value).toBeCloseTo(expected.value, 9);
      expect(actual.aula?.perClass).toEqual(expected.perClass);
      expect(actual.aula?.agreements).toEqual(expected.agreements);
    }
    expect(actual.pairwiseAgreement).toEqual(metrics.pairwiseAgreement(labels, classes));
    const soft = metrics.softDiceConfidence(fused);
    expect(actual.softDiceConfidence.overall).toBeCloseTo(soft.overall, 5);
    expect(actual.softDiceConfidence.heads).toHaveLength(heads.length);
    for (const [k, { overall, perClass }] of actual.softDiceConfidence.heads.entries()) {
      const head = metrics.softDiceConfidence(probabilities[k] as metrics.NdArray);
      expect(overall).toBeCloseTo(head.overall, 5);
      for (const [c, value] of Object.entries(head.perClass)) expect(perClass[Number(c)]).toBeCloseTo(value, 5);
    }
    for (const [name, map] of Object.entries(actual.maps)) {
      const expected = metrics.summarise(map, actual.mask);
      const got = actual.summaries[name as keyof typeof actual.summaries]!;
      for (const key of ["sum", "mean", "foreground"] as const)
        expect(Math.abs(got[key] - expected[key])).toBeLessThan(TOLERANCE * Math.max(1, Math.abs(expected[key])));
    }
    await model.dispose();
    await backbone.dispose();
  });
});
