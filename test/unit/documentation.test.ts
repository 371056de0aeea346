// The example values in docs/metrics.md are what the functions give.
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import * as metrics from "../../lib/metrics/index.js";
import { QUALITY } from "../../lib/quality/register.js";
import { EXAMPLE_TABLE, exampleImage } from "./support/example.js";

const text = readFileSync(new URL("../../docs/metrics.md", import.meta.url), "utf8");

function examples(): Record<string, number> {
  const { heads, truth } = exampleImage();
  const spacing = [1, 0.5];
  const of = metrics.scoreHeads(heads, { truth, spacing });
  const { quality, calibration, aula } = of;
  if (!quality || !calibration || !aula) throw new Error("unreachable");
  const at = (map: metrics.NdArray<metrics.FloatArray>) => map.data[20] as number;
  const fused = (fusion: metrics.Fusion) => at(shiftClass(metrics.fuse(heads, { fusion })));
  const all = metrics.skipHeads(heads, 0);
  const { confidence, dice, other } = EXAMPLE_TABLE;
  const risk = dice.map((value) => 1 - value);
  const failed = dice.map((value) => value < 0.8);
  const curve = metrics.qualityControlCurve(confidence, dice, { tau: 0.8 });
  const mean = (images: Uint32Array) => images.reduce((sum, i) => sum + (dice[i] as number), 0) / images.length;
  const interval = metrics.bootstrap(dice.length, mean, { seed: 1 });
  const points = metrics.skipCurve([{ heads, truth }]);
  const weights = metrics.fitHeadWeights([all.map((head) => metrics.softmax(head))], [truth]);
  const alarm = new metrics.StreamAlarm({ score: confidence });
  for (const score of [0.95, 0.96, 0.97]) alarm.observe({ score });
  const proved = metrics.certify(
    { confidence, dice },
    { alpha: 0.5, delta: 0.5, tau: 0.8, thresholds: [0.8, 0.6, 0.4] },
  );
  const fusedMean = metrics.fuse(heads, {});
  const risk1 = metrics.pixelSetRisk(fusedMean, truth, { ignoreIndex: 255 });
  const { outer } = metrics.pixelSets(fusedMean, { inner: null, outer: 0.9 })[1] ?? {};
  return {
    mean: fused("mean"),
    "logit-mean": fused("logit-mean"),
    vote: fused("vote"),
    last: fused("last"),
    staple: at(shiftClass(of.staple.probabilities)),
    ...Object.fromEntries(Object.entries(of.summaries).map(([name, { mean }]) => [name, mean])),
    sum: of.summaries.entropy.sum,
    foreground: of.summaries.entropy.foreground,
    aula: aula.value,
    normalised: aula.normalised,
    slope: aula.slope.value,
    pairwiseAgreement: of.pairwiseAgreement.overall,
    predictionDepth: of.predictionDepth.mean,
    softDiceConfidence: of.softDiceConfidence.overall,
    ...quality.image,
    nll: calibration.nll,
    brier: calibration.brier,
    ece: calibration.ece,
    adaptiveEce: calibration.adaptiveEce,
    classwiseEce: calibration.classwiseEce.mean,
    spearman: metrics.spearman(confidence, risk).rho,
    pearson: metrics.pearson(confidence, risk).r,
    ...Object.fromEntries(
      (["aurc", "eaurc", "naurc", "augrc"] as const).map((name) => [name, metrics[name](confidence, risk)]),
    ),
    auroc: metrics.auroc(confidence, failed),
    fpr95: metrics.fpr95(confidence, failed),
    area: curve.area,
    remaining5: curve.remaining5,
    wilcoxon: metrics.wilcoxon(dice, other).p,
    pairedT: metrics.pairedT(dice, other).p,
    low: interval.low,
    high: interval.high,
    binomialCdf: metrics.binomialCdf(0, 22, 0.1),
    clopperPearson: metrics.clopperPearson(3, 10).low,
    certify: proved.certified ? proved.threshold : Number.NaN,
    casesNeeded: metrics.casesNeeded("conditional", { alpha: 0.1, delta: 0.1 }),
    scoreThresholds: metrics.scoreThresholds(confidence, 0.25)[2] as number,
    StreamAlarm: alarm.reading.value,
    pixelSets: outer?.data.reduce((sum, one) => sum + one, 0) as number,
    pixelSetRisk: risk1.perClass[1]?.outer.loss?.[200] as number,
    fitPixelSets: metrics.fitPixelSets([risk1, risk1, risk1], { outer: 0.3 }).perClass[1]?.outer.share as number,
    skipCurve: points[1]?.nll as number,
    chooseSkip: metrics.chooseSkip(points),
    fitTemperature: metrics.fitTemperature([all[3] as metrics.NdArray], [truth]).temperature,
    fitProbabilityTemperature: metrics.fitProbabilityTemperature([metrics.fuse(heads)], [truth]).temperature,
    fitHeadWeights: weights.weights[3] as number,
  };
}

/** The pixel at (2, 4) of class 1 is number 20 of what this gives. */
function shiftClass({ data, shape }: metrics.NdArray): metrics.NdArray {
  return { data: data.subarray(64, 128), shape: shape.slice(1) };
}

describe("docs/metrics.md", () => {
  const values = examples();
  it.each(Object.keys(values))("shows what %s is of its example", (name) => {
    const row = text.split("\n").find((line) => line.startsWith(`| \`${name}\` |`));
    const shown = row?.split("|").at(-2)?.trim();
    expect(shown).toBe(String(Number((values[name] as number).toPrecision(5))));
  });

  it("has units and ranges of the measures of quality as registered", () => {
    const units = { none: "", count: "", tolerance: "", length: "mm, px", size: "ml, mm², px" };
    for (const [name, { unit, range }] of Object.entries(QUALITY)) {
      const row = text.split("\n").find((line) => line.startsWith(`| \`${name}\` |`));
      const cells = row?.split("|").map((cell) => cell.trim());
      expect(cells?.slice(3, 5), name).toEqual([units[unit], range]);
    }
  });

  it("names everything that is exported", () => {
    const missing = Object.keys(metrics).filter((name) => !text.includes(name));
    expect(missing).toEqual([]);
  });
});
