// What is chosen on validation: heads, fits, the gate; and what is written into the run.
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.js";
import { writePhantoms } from "../../lib/data/phantoms.js";
import {
  argmax,
  aula,
  aurc,
  dice,
  entropy,
  fitTemperature,
  fuse,
  labelMaps,
  type NdArray,
  nll,
  qualityControlCurve,
  scoreHeads,
  skipHeads,
  spearman,
  summarise,
  temper,
} from "../../lib/metrics/index.js";
import { Random } from "../../lib/random.js";
import { type RunChoice, writeChoice } from "../../lib/runs/tuning.js";
import { confidenceOf } from "../../lib/scores/scores.js";
import { thresholdForFailures, thresholdForShare } from "../../lib/tuning/thresholds.js";
import { type TuneImage, type TuneOptions, tune } from "../../lib/tuning/tune.js";
import { temporaryFolder } from "../support/libtorch.js";
import { bytes } from "./support/heads.js";

describe("the gate's threshold", () => {
  const confidences = fc.array(fc.oneof(fc.integer({ min: -3, max: 3 }), fc.double({ min: -9, max: 9, noNaN: true })), {
    minLength: 1,
    maxLength: 40,
  });
  const below = (values: readonly number[], threshold: number) => values.filter((value) => value < threshold).length;

  it("flags the share that is nearest to the one asked for", () => {
    fc.assert(
      fc.property(confidences, fc.double({ min: 0, max: 1, noNaN: true }), (confidence, share) => {
        const { threshold, flagged } = thresholdForShare(confidence, share);
        const n = confidence.length;
        expect(below(confidence, threshold)).toBe(Math.round(flagged * n));
        const possible = [...confidence.map((value) => below(confidence, value)), n];
        const nearest = Math.min(...possible.map((count) => Math.abs(count - share * n)));
        expect(Math.abs(flagged * n - share * n)).toBeCloseTo(nearest, 9);
      }),
    );
    // Halfway between the last that is flagged and the first that is not.
    expect(thresholdForShare([4, 1, 3, 2], 0.5)).toMatchObject({ threshold: 2.5, flagged: 0.5 });
    expect(thresholdForShare([1, 1, 1, 2], 0.3)).toMatchObject({ threshold: 1, flagged: 0 });
    expect(thresholdForShare([1, 1 + 2 ** -52], 0.5)).toMatchObject({ threshold: 1 + 2 ** -52, flagged: 0.5 });
  });

  it("is not moved by images without a Dice", () => {
    const [confidence, dice] = [
      [1, 2, 3, 4],
      [0.1, 0.9, 0.2, 0.9],
    ];
    const known = thresholdForFailures(confidence as number[], dice as number[], 0.5);
    const more = [
      [0, ...(confidence as number[]), 9],
      [Number.NaN, ...(dice as number[]), Number.NaN],
    ] as const;
    expect(thresholdForFailures(...more, 0.5)).toEqual(known);
  });

  it("is the lowest that leaves at most 5 % of the failures unseen", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 9 }), fc.double({ min: 0, max: 1, noNaN: true })), {
          minLength: 1,
        }),
        (images) => {
          const confidence = images.map(([value]) => value);
          const dice = images.map(([, value]) => value);
          const { threshold, flagged, unseen } = thresholdForFailures(confidence, dice, 0.6);
          const passed = (at: number) => images.filter(([value, d]) => d < 0.6 && value >= at).length;
          const failed = dice.filter((value) => value < 0.6).length;
          expect(passed(threshold)).toBeLessThanOrEqual(0.05 * failed);
          expect(flagged * images.length).toBeCloseTo(below(confidence, threshold), 9);
          if (failed === 0) expect([flagged, unseen]).toEqual([0, Number.NaN]);
          else expect(unseen).toBeCloseTo(passed(threshold) / failed, 12);
          // One group of equal confidence less would leave more.
          const flaggedOnes = confidence.filter((value) => value < threshold);
          if (flaggedOnes.length > 0) expect(passed(Math.max(...flaggedOnes))).toBeGreaterThan(0.05 * failed);
          // The curve may cut a group of equal confidence, which a threshold cannot.
          const { remaining5 } = qualityControlCurve(confidence, dice, { tau: 0.6 });
          expect(flagged).toBeGreaterThanOrEqual(remaining5 - 1e-9);
        },
      ),
    );
  });
});

/**
 * Images of 8×8 with a square, and heads that see it as well as `noise` says: the standard deviation that is added to the
 * logits ±1, all times `scale`.
 */
function squares(count: number, noise: readonly number[], { scale = 1, seed = 1 } = {}): TuneImage[] {
  const random = new Random(seed);
  return Array.from({ length: count }, (_, n) => {
    const side = 3 + (n % 4);
    const truth = Uint8Array.from({ length: 64 }, (_, i) => (i % 8 < side && i >> 3 < side ? 1 : 0));
    const heads = noise.map((sd): NdArray => {
      const ones = Float32Array.from(truth, (y) => scale * ((y === 1 ? 1 : -1) + (1 + (n % 3)) * sd * random.normal()));
      return { data: Float32Array.from([...ones.map((z) => -z), ...ones]), shape: [2, 8, 8] };
    });
    return { heads, truth: { data: truth, shape: [8, 8] } };
  });
}

const choose = (images: readonly TuneImage[], options?: TuneOptions) =>
  tune(
    async function* () {
      yield* images;
    },
    images.length,
    options,
  );

describe("tuning", () => {
  it("leaves out first heads that harm, and with subsets any head that does", async () => {
    const first = squares(12, [3, 3, 0.3, 0.3, 0.3]);
    expect((await choose(first)).kept).toEqual([2, 3, 4]);
    const middle = squares(12, [0.3, 0.3, 3, 0.3, 0.3]);
    // No T leaves out the third alone, and T = 2 does not leave it out at all.
    expect((await choose(middle)).kept).toContain(2);
    const { kept, removals, curve, steps } = await choose(middle, { subsets: true });
    expect(kept).not.toContain(2);
    expect(removals.map((point) => point.kept.length)).toEqual([5, 4, 3]);
    expect(removals[1]?.removed).toBe(2);
    expect(removals[0]?.nll).toBe(curve[0]?.nll);
    // The choice, measured on its own, is what the elimination said of it.
    const chosen = removals.find((point) => point.kept.length === kept.length);
    expect(steps.map(({ step }) => step)).toEqual(["all heads", "chosen heads"]);
    for (const name of ["nll", "nllSd", "dice", "diceSd"] as const) {
      expect(steps[0]?.[name]).toBeCloseTo(curve[0]?.[name] as number, 9);
      expect(steps[1]?.[name]).toBeCloseTo(chosen?.[name] as number, 9);
    }
  });

  it("keeps every head where it is told to", async () => {
    const all = await choose(squares(6, [3, 3, 0.3, 0.3, 0.3]), { choose: false, subsets: true });
    expect(all).toMatchObject({ kept: [0, 1, 2, 3, 4], curve: [], removals: [] });
  });

  it("removes the head without which the rule's measure is best", async () => {
    const images = squares(6, [1, 2, 0.5, 1.5, 0.7], { seed: 5 });
    for (const [rule, score] of [
      ["nll", "aula"],
      ["dice", "aula"],
      ["aurc", "aula"],
      ["aurc", "softDiceConfidence.final"],
    ] as const) {
      const { removals } = await choose(images, { subsets: true, rule, score });
      const [before, after] = removals;
      if (!before || !after) throw new Error("unreachable");
      for (const removed of before.kept) {
        const left = await choose(
          images.map(({ heads, truth }) => ({ heads: heads.filter((_, k) => k !== removed), truth })),
          { score },
        );
        const other = left.curve[0];
        if (rule === "dice") expect(other?.dice).toBeLessThanOrEqual(after.dice + 1e-12);
        else expect(other?.[rule]).toBeGreaterThanOrEqual(after[rule] - 1e-9);
        if (removed === after.removed) expect(other?.aurc).toBeCloseTo(after.aurc, 12);
      }
    }
  });

  it("fits what the heads' logits were scaled by, which lowers the nll and leaves the masks", async () => {
    const noise = [0.6, 0.6, 0.6];
    const images = squares(40, noise);
    const scaled = squares(40, noise, { scale: 4 });
    const [plain, wide] = [
      await choose(images, { fit: ["temperatures"] }),
      await choose(scaled, { fit: ["temperatures"] }),
    ];
    wide.temperatures?.forEach((temperature, k) => {
      expect(temperature / (plain.temperatures?.[k] as number)).toBeCloseTo(4, 4);
    });
    const { temperature, steps } = await choose(scaled, { fit: ["temperature"] });
    const scaledOne = await choose(squares(40, [0.6], { scale: 4 }), { fit: ["temperature"] });
    const plainOne = await choose(squares(40, [0.6]), { fit: ["temperature"] });
    expect((scaledOne.temperature as number) / (plainOne.temperature as number)).toBeCloseTo(4, 4);
    expect(temperature).not.toBeCloseTo(1, 2);
    expect(steps.map(({ step }) => step)).toEqual(["chosen heads", "temperature"]);
    expect(steps[1]?.nll).toBeLessThan(steps[0]?.nll as number);
    expect(steps[1]?.dice).toBe(steps[0]?.dice);
  });

  it("fits each on what the ones before it leave, and says what predictions with them come to", async () => {
    const images = squares(20, [2, 0.4, 0.8, 0.4], { seed: 3 });
    const all = await choose(images, { fit: ["temperature", "weights", "temperatures"], margin: 0 });
    expect(all.steps.map(({ step }) => step).slice(-4)).toEqual([
      "chosen heads",
      "temperatures",
      "weights",
      "temperature",
    ]);
    const { kept, temperatures = [], weights = [], temperature = 1 } = all;
    expect([temperatures.length, weights.length]).toEqual([kept.length, kept.length]);
    expect(weights.reduce((sum, weight) => sum + weight, 0)).toBeCloseTo(1, 9);
    const at = (step: string) => all.steps.find((one) => one.step === step)?.nll as number;
    expect(at("weights")).toBeLessThanOrEqual(at("temperatures") + 1e-9);
    expect(at("temperature")).toBeLessThanOrEqual(at("weights") + 1e-9);
    const direct = images.map(({ heads, truth }) => {
      const chosen = kept.map((k) => heads[k] as NdArray);
      return nll(temper(fuse(chosen, { temperatures, weights, precision: "double" }), temperature), truth);
    });
    expect(at("temperature")).toBeCloseTo(direct.reduce((sum, value) => sum + value, 0) / direct.length, 9);
  });

  it("fits to every pixel of a small set, and to as many of each image of a large one, drawn by the seed", async () => {
    const images = squares(10, [0.5, 0.6, 0.7]);
    const fit = ["temperatures"] as const;
    const whole = await choose(images, { fit, maxPixels: 640 });
    expect(whole.pixels).toEqual({ counted: 640, fitted: 640 });
    images[0]?.heads.forEach((_, k) => {
      const logits = images.map(({ heads }) => heads[k] as NdArray);
      const truths = images.map(({ truth }) => truth);
      expect(whole.temperatures?.[k]).toBeCloseTo(fitTemperature(logits, truths).temperature, 5);
    });
    const some = await choose(images, { fit, maxPixels: 309, seed: 7 });
    expect(some.pixels).toEqual({ counted: 640, fitted: 300 });
    expect(await choose(images, { fit, maxPixels: 309, seed: 7 })).toEqual(some);
    expect((await choose(images, { fit, maxPixels: 309, seed: 8 })).temperatures).not.toEqual(some.temperatures);
  });

  it("leaves out ignored pixels, and refuses a set without any other", async () => {
    const images = squares(6, [0.5, 0.6, 0.7]);
    const half = images.map(({ heads, truth }) => ({
      heads: heads.map(({ data, shape }) => ({ data: data.map((z, i) => (i % 64 < 32 ? z : 99 * (i % 5))), shape })),
      truth: { data: truth.data.map((y, i) => (i < 32 ? y : 255)), shape: truth.shape },
    }));
    const cut = images.map(({ heads, truth }) => ({
      heads: heads.map(({ data }) => ({
        data: Float32Array.from([...data.subarray(0, 32), ...data.subarray(64, 96)]),
        shape: [2, 4, 8],
      })),
      truth: { data: truth.data.subarray(0, 32), shape: [4, 8] },
    }));
    const fit = ["temperatures", "weights", "temperature"] as const;
    const [a, b] = [await choose(half, { fit }), await choose(cut, { fit })];
    expect(a.pixels).toEqual(b.pixels);
    expect([a.temperatures, a.weights, a.temperature]).toEqual([b.temperatures, b.weights, b.temperature]);
    expect(a.curve[0]).toMatchObject({ nll: b.curve[0]?.nll, dice: b.curve[0]?.dice });
    const none = images.map(({ heads }) => ({ heads, truth: bytes(new Array(64).fill(255), [8, 8]) }));
    await expect(choose(none)).rejects.toMatchObject({ code: "ERR_LE_VALUE" });
  });

  it("lets weights rise as steeply as the Dice of the images asks for", async () => {
    const rise = async (noise: number[]) => {
      const { weights = [] } = await choose(squares(24, noise), { fit: ["rising"], choose: false });
      return (weights[1] as number) / (weights[0] as number);
    };
    // Of heads as good as the last one more is better.
    expect(await rise([0.4, 0.4, 0.4, 0.4])).toBeCloseTo(2, 9);
    // Early heads that are sure of anything outvote a last one that is right, but not as sure, unless it weighs far more.
    expect(await rise([6, 6, 6, 0.1])).toBeGreaterThan(3.9);
  });

  it("gives each kept head so many times the weight of the one before where that is asked for", async () => {
    const images = squares(10, [3, 0.6, 0.7, 0.8, 0.9], { scale: 3 });
    const { kept, weights = [], steps } = await choose(images, { fit: ["rising"] });
    expect(weights).toHaveLength(kept.length);
    expect(weights.reduce((sum, weight) => sum + weight, 0)).toBeCloseTo(1, 12);
    const ratio = Math.round((weights[1] as number) / (weights[0] as number));
    expect([2, 4, 8, 16]).toContain(ratio);
    for (let k = 1; k < weights.length; k++) expect(weights[k]).toBeCloseTo(ratio * (weights[k - 1] as number), 12);
    // The quality that is told is of these weights.
    const fused = images.map(({ heads }) => fuse(skipHeads(heads, heads.length - kept.length), { weights }));
    const overlap = fused.map((p, i) => dice(argmax(p), images[i]!.truth, { classes: 2 })[1] as number);
    expect(steps.at(-1)).toMatchObject({ step: "rising" });
    expect(steps.at(-1)?.dice).toBeCloseTo(overlap.reduce((sum, value) => sum + value, 0) / overlap.length, 6);
    for (const wrong of [{ fusion: "vote" }, { fusion: "last" }, { fit: ["rising", "weights"] }] as const)
      await expect(choose(images, { fit: ["rising"], ...wrong })).rejects.toMatchObject({ code: "ERR_LE_OPTION" });
  });

  it("looks at the confidence of the prediction that was chosen", async () => {
    const images = squares(10, [3, 0.6, 0.7, 0.8, 0.9], { scale: 3 });
    const byAula = await choose(images, { score: "aula", gate: { flag: 0.3 } });
    const chosen = ({ heads }: TuneImage) => skipHeads(heads, heads.length - byAula.kept.length);
    const agreement = images.map((image) => aula(labelMaps(chosen(image)), 2).value);
    const point = byAula.curve[images[0]!.heads.length - byAula.kept.length];
    const overlap = images.map((image) => dice(argmax(fuse(chosen(image))), image.truth, { classes: 2 })[1] as number);
    expect(point?.spearman).toBeCloseTo(spearman(agreement, overlap).rho, 12);
    expect(byAula.gate).toMatchObject({ ...thresholdForShare(agreement, 0.3), unseen: null });

    const byEntropy = await choose(images, { fit: ["temperature"], score: "entropy.mean", gate: { tau: 0.9 } });
    const quality: number[] = [];
    const sure = images.map((image) => {
      const fused = temper(fuse(chosen(image)), byEntropy.temperature as number);
      const labels = fused.data.subarray(64).map((p) => (p > 0.5 ? 1 : 0));
      const hits = labels.filter((label, i) => label === 1 && image.truth.data[i] === 1).length;
      const sum = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0);
      quality.push((2 * hits) / (sum(labels) + sum(image.truth.data)));
      return -summarise(entropy(fused), { data: Uint8Array.from(labels), shape: [8, 8] }).mean;
    });
    const expected = thresholdForFailures(sure, quality, 0.9);
    expect(byEntropy.gate?.threshold).toBeCloseTo(expected.threshold, 6);
    expect(byEntropy.gate).toMatchObject({ flagged: expected.flagged, unseen: expected.unseen });
  });

  it("takes the score that ranks the images best, each with its own T, and says why", async () => {
    const images = squares(24, [3, 1, 0.6, 0.7, 0.8], { seed: 11 });
    const overlap = ({ heads, truth }: TuneImage) => dice(argmax(fuse(heads)), truth, { classes: 2 })[1] as number;
    const { score, curve, kept, thresholds, gate } = await choose(images, { margin: 1, gate: { flag: 0.25 } });
    expect(score.ranking.map(({ name }) => name)).toEqual(
      expect.arrayContaining(["aula", "softDiceConfidence.final", "entropy.mean", "aulaSlope"]),
    );
    expect(score.ranking.map(({ name }) => name)).not.toContain("aulaNormalised");
    expect(score.ranking.map((one) => one.aurc)).toEqual(score.ranking.map((one) => one.aurc).sort((a, b) => a - b));
    // Of each score the least over all T.
    for (const name of ["aula", "softDiceConfidence", "softDiceConfidence.final", "entropy.foreground"] as const) {
      const perSkip = [0, 1, 2].map((skip) => {
        const left = images.map(({ heads, truth }) => ({ heads: heads.slice(skip), truth }));
        const scored = left.map(({ heads }) => scoreHeads(heads));
        return aurc(
          scored.map((of) => confidenceOf(of, name)),
          left.map((image) => 1 - overlap(image)),
        );
      });
      expect(score.ranking.find((one) => one.name === name)?.aurc).toBeCloseTo(Math.min(...perSkip), 12);
      if (name === score.name)
        expect(curve.map((point) => point.aurc)).toEqual(perSkip.map((x) => expect.closeTo(x, 12)));
    }
    const chosen = score.ranking.find(({ name }) => name === score.name)!;
    expect(chosen.above).toBeLessThanOrEqual(chosen.se);
    expect(curve[5 - kept.length]?.aurc).toBe(Math.min(...curve.map((point) => point.aurc)));
    expect(gate?.score).toBe(score.name);
    const sure = images.map(({ heads }) => confidenceOf(scoreHeads(heads.slice(5 - kept.length)), score.name));
    sure.sort((a, b) => b - a);
    expect(thresholds[0]).toBeCloseTo(sure[1] as number, 6); // 5 % of 24, at least
    expect(thresholds.at(-1)).toBeCloseTo(sure[23] as number, 6);

    // Which T: a rule that does not ask the score. Which score: as it is told.
    const told = await choose(images, { rule: "nll", score: "pairwiseAgreement" });
    expect(told.score).toMatchObject({ name: "pairwiseAgreement", why: "the only one that there is" });
    expect(told.curve[5 - told.kept.length]?.nll).toBe(Math.min(...told.curve.map((point) => point.nll)));
    // Heads without an order have no AULA.
    const unordered = await choose(images, { ordered: false });
    expect(unordered.score.ranking.filter(({ name }) => /^aula|Depth/.test(name))).toEqual([]);
    await expect(choose(images, { ordered: false, score: "aula" })).rejects.toMatchObject({ code: "ERR_LE_OPTION" });
  });

  it("sets no threshold by results that no head finds anything in", async () => {
    const nothing = { data: Float32Array.from({ length: 128 }, (_, i) => (i < 64 ? 3 : -3)), shape: [2, 8, 8] };
    const images = squares(6, [0.5, 0.6, 0.7]);
    const empty = { heads: [nothing, nothing, nothing], truth: images[0]!.truth };
    const { thresholds } = await choose([empty, ...images], { score: "aula" });
    // AULA of the empty one is full, and would be the first.
    const others = images.map(({ heads }) => aula(labelMaps(heads), 2).value);
    expect(thresholds[0]).toBeCloseTo(Math.max(...others), 12);
  });

  it("fits a temperature to a single head, which has neither T nor AULA", async () => {
    const images = squares(6, [0.6]);
    const only = await choose(images, { fit: ["temperature"], score: "softDiceConfidence", gate: { flag: 0.2 } });
    expect(only).toMatchObject({ curve: [], removals: [], kept: [0] });
    expect(only.temperature).toBeGreaterThan(0);
    await expect(choose(images, { score: "aula", gate: { flag: 0.1 } })).rejects.toMatchObject({
      code: "ERR_LE_OPTION",
      message: expect.stringContaining("needs 3 heads"),
    });
  });

  it("refuses what does not fit", async () => {
    const images = squares(2, [1, 1, 1]);
    const code = (code: string) => ({ code });
    await expect(choose([])).rejects.toMatchObject(code("ERR_LE_SHAPE"));
    await expect(choose([...images, ...squares(1, [1, 1])])).rejects.toMatchObject(code("ERR_LE_SHAPE"));
    await expect(choose(images, { fusion: "last", fit: ["weights"] })).rejects.toMatchObject(code("ERR_LE_OPTION"));
    await expect(choose(images, { fusion: "vote", fit: ["temperatures"] })).rejects.toMatchObject(
      code("ERR_LE_OPTION"),
    );
    await expect(choose(images, { score: "aulas" as "aula", gate: { flag: 0.1 } })).rejects.toMatchObject(
      code("ERR_LE_OPTION"),
    );
    await expect(choose(images, { rule: "best" as never })).rejects.toMatchObject(code("ERR_LE_OPTION"));
  });
});

describe("a choice in run.json", () => {
  const heads = { taps: [], classes: 2, final: true, dropout: 0, freezeBackbone: false, inputSize: [8, 8], seed: 0 };
  const old = { format: 1, backbone: { kind: "unet" }, ensemble: heads, skip: 1, notes: { a: 1 } };
  const choice = (skip: number, more: Partial<RunChoice> = {}): RunChoice => ({
    skip,
    prediction: {},
    tuning: { padding: "x".repeat(200_000) } as never,
    ...more,
  });
  function makeRun(content: object | string = old) {
    const folder = temporaryFolder();
    const file = path.join(folder, "run.json");
    writeFileSync(file, typeof content === "string" ? content : JSON.stringify(content));
    writeFileSync(path.join(folder, "weights.safetensors"), "of this run");
    return { folder, read: () => JSON.parse(readFileSync(file, "utf8")) };
  }

  it("takes the place of an earlier one and leaves the rest", async () => {
    const { folder, read } = makeRun();
    const gate = { score: "aula", threshold: 1.5, rule: "by hand" } as const;
    await writeChoice(folder, choice(3, { prediction: { weights: [0.5, 0.5], temperature: 2 }, gate }));
    expect(read()).toMatchObject({ ...old, skip: 3, prediction: { weights: [0.5, 0.5], temperature: 2 }, gate });
    await writeChoice(folder, choice(0));
    expect(read()).toEqual({ ...old, skip: 0, tuning: expect.anything() });
    expect(readdirSync(folder)).toEqual(["run.json", "weights.safetensors"]);
  });

  it("is there as a whole or not at all", async () => {
    const { folder, read } = makeRun();
    let writing = true;
    const work = (async () => {
      for (let skip = 2; skip < 30; skip++) await writeChoice(folder, choice(skip));
      writing = false;
    })();
    const seen = new Set<number>();
    while (writing) {
      const run = read();
      expect(run.notes).toEqual(old.notes);
      expect(run.skip === 1 || run.tuning.padding.length === 200_000).toBe(true);
      seen.add(run.skip);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await work;
    expect(seen.size).toBeGreaterThan(2);
  });

  it("is refused by what is no run, which stays as it is", async () => {
    const { folder } = makeRun('{"format": 1, ');
    await expect(writeChoice(folder, choice(1))).rejects.toMatchObject({ code: "ERR_LE_CHECKPOINT" });
    expect(readFileSync(path.join(folder, "run.json"), "utf8")).toBe('{"format": 1, ');
  });
});

describe("a dataset of some images only", () => {
  it("needs no file of the others", async () => {
    const folder = temporaryFolder();
    const phantoms = await writePhantoms(folder, { count: 20, size: 32, seed: 2 });
    const whole = await Dataset.fromFolder(folder);
    const [gone, ...rest] = phantoms.filter(({ split }) => split === "test");
    rmSync(path.join(folder, "images", `${gone?.id}.png`));
    rmSync(path.join(folder, "masks", `${gone?.id}.png`));
    for (const { id } of rest)
      for (const kind of ["images", "masks"]) writeFileSync(path.join(folder, kind, `${id}.png`), "no picture");
    await expect(Dataset.fromFolder(folder)).rejects.toMatchObject({ code: "ERR_LE_DATA" });
    const only = ({ split }: { split?: string }) => split === "train" || split === "val";
    // What masks mean is a matter of all of them, unless it is said.
    await expect(Dataset.fromFolder(folder, { only })).rejects.toMatchObject({ code: "ERR_LE_DATA" });
    const some = await Dataset.fromFolder(folder, { only, classes: 2, labels: whole.labels });
    expect(some.ids).toEqual(whole.samples.filter(({ split }) => split !== "test").map(({ id }) => id));
    expect(await some.split("val").loadAll()).toEqual(await whole.split("val").loadAll());
  });
});
