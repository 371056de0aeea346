import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { scoreHeads } from "../../lib/metrics/index.js";
import { Random } from "../../lib/random.js";
import { acceptability, checkGate, decide, gateScore, parseGate } from "../../lib/scores/gate.js";
import type { Scored } from "../../lib/scores/register.js";
import {
  CONFIDENCES,
  confidenceAxis,
  confidenceOf,
  recordedConfidence,
  recordedScore,
  recordScores,
  SCORE_NAMES,
  SCORES,
  type ScoreName,
  scoreOf,
} from "../../lib/scores/scores.js";

const summary = (mean: number) => ({ sum: 10 * mean, mean, foreground: 2 * mean });

function result(more: Partial<Scored> = {}): Scored {
  return {
    empty: false,
    summaries: { entropy: summary(0.25) },
    aula: {
      value: 6,
      normalised: 0.75,
      perClass: {},
      agreements: {},
      curve: [],
      slope: { value: 0.01, perClass: {} },
      empty: false,
    },
    pairwiseAgreement: { overall: 0.8, perClass: {} },
    predictionDepth: { mean: 3, perClass: {} },
    softDiceConfidence: { overall: 0.9, perClass: {}, heads: [{ overall: 0.7, perClass: {} }] },
    ...more,
  };
}

/** Heads drawn at random, as `score` would read them. */
function drawn(heads: number, seed = 1) {
  const random = new Random(seed);
  const data = Float32Array.from({ length: heads * 3 * 64 }, () => 3 * random.normal());
  const tapDistance = { value: 0.5, max: 0.75, excess: 1.5, taps: { stem: { distance: 3, rank: 0.5 } } };
  return { ...scoreHeads({ data, shape: [heads, 3, 8, 8] }), tapDistance };
}

describe("the register of scores", () => {
  it("has NumPy's soft Dice confidence of every head, and slope of agreement", () => {
    const { logits, shape, fused, heads, slopes, slope } = JSON.parse(
      readFileSync("test/fixtures/scores.json", "utf8"),
    ).heads;
    const near = ({ overall, perClass }: { overall: number; perClass: Record<number, number> }) => ({
      overall: expect.closeTo(overall, 6),
      perClass: { 1: expect.closeTo(perClass[1] as number, 6), 2: expect.closeTo(perClass[2] as number, 6) },
    });
    for (const data of [Float32Array.from(logits), Float64Array.from(logits)]) {
      const scored = scoreHeads({ data, shape });
      expect(scored.softDiceConfidence).toEqual({ ...near(fused), heads: heads.map(near) });
      expect(scoreOf(scored, "softDiceConfidence.final")).toBeCloseTo(heads[4].overall, 6);
      expect(scored.aula?.slope).toEqual({
        value: expect.closeTo(slope, 9),
        perClass: { 1: expect.closeTo(slopes[0], 9), 2: expect.closeTo(slopes[1], 9) },
      });
      expect(scoreOf(scored, "aulaSlope")).toBeCloseTo(slope, 9);
    }
  });

  it("says of each score what it is, and its values lie where it says", () => {
    expect(new Set(SCORE_NAMES).size).toBe(SCORE_NAMES.length);
    expect(new Set(SCORE_NAMES.map((name) => SCORES[name].title)).size).toBe(SCORE_NAMES.length);
    for (const heads of [1, 2, 3, 7]) {
      const sizes = { K: heads, N: 64, C: 3 };
      const bound = (text: number | string) =>
        typeof text === "number"
          ? text
          : { "K - 2": heads - 2, "K - 1": heads - 1, "ln C": Math.log(3), "0.25": 0.25, "1": 1 }[
              text.replace("N ", "")
            ]! * (text.startsWith("N ") ? sizes.N : 1);
      const scored = drawn(heads);
      for (const name of SCORE_NAMES) {
        const { needs, range } = SCORES[name];
        if (needs.fit) {
          const { tapDistance: _, ...unfitted } = scored;
          expect(scoreOf(unfitted, name)).toBeNaN();
          continue;
        }
        const value = scoreOf(scored, name);
        if (heads < needs.heads && !SCORES[name].map) expect(value, `${name} of ${heads}`).toBeNaN();
        else {
          expect(value, `${name} of ${heads}`).toBeGreaterThanOrEqual(Math.min(range[0], bound(range[1])));
          expect(value, `${name} of ${heads}`).toBeLessThanOrEqual(bound(range[1]) + 1e-6);
        }
      }
    }
  });

  it("is the table of docs/metrics.md", () => {
    const text = readFileSync("docs/metrics.md", "utf8");
    const rows = (Object.keys(SCORES) as ScoreName[])
      .filter((name) => !SCORES[name].map)
      .map((name) => {
        const { text, range, surer, needs } = SCORES[name];
        const heads = needs.fit
          ? "a fit in the run"
          : needs.heads === 1
            ? ""
            : `${needs.heads} heads${needs.ordered ? " in order" : ""}`;
        return `| \`${name}\` | ${text} | [${range.join(", ")}] | ${surer} | ${heads} |`;
      });
    for (const row of rows) expect(text).toContain(row);
  });

  it("is kept in records, from which the same confidences are read", () => {
    const scored = drawn(5);
    const record = recordScores(scored);
    expect(JSON.parse(JSON.stringify(record))).toEqual(record);
    for (const name of SCORE_NAMES) expect(recordedScore(record, name) ?? Number.NaN).toBe(scoreOf(scored, name));
    expect(record["softDiceConfidence.final"]).toBe(scored.softDiceConfidence.heads[4]?.overall);
    const given = { heads: 5, summary: "sum" } as const;
    expect(recordedConfidence(record, "entropy", given)).toBe(-record.uncertainty["entropy.sum"]!);
    expect(recordedConfidence(record, "softDiceConfidence", given)).toBe(record.softDiceConfidence);
    // Of one head the variance is 0 whatever the image, and tells nothing.
    expect(recordedConfidence(recordScores(drawn(1)), "variance", { ...given, heads: 1 })).toBeNull();
    expect(recordedConfidence(recordScores(drawn(1)), "entropy", { ...given, heads: 1 })).toBeLessThan(0);
    expect(CONFIDENCES.map((name) => confidenceAxis(name, "mean"))).toEqual([
      "AULA",
      "pairwise agreement (Dice)",
      "soft Dice confidence",
      "soft Dice confidence of the last head",
      "−distance from the training",
      "−entropy, mean over pixels (nats)",
      "−mutual information, mean over pixels (nats)",
      "−variance, mean over pixels",
    ]);
  });

  it("calls a result empty where no head finds anything, and not where the fused mask alone is empty", () => {
    const found = (inHeads: number) => {
      const data = new Float32Array(3 * 2 * 4).fill(0);
      for (let k = 0; k < 3; k++) data.fill(8, k * 8, k * 8 + 4); // background
      for (let k = 0; k < inHeads; k++) data[k * 8 + 4] = 20; // one pixel of foreground
      return scoreHeads({ data, shape: [3, 2, 2, 2] }, { fusion: "vote" });
    };
    expect(found(0).empty).toBe(true);
    const one = found(1);
    expect(one.mask.data.some(Boolean)).toBe(false);
    expect(one.empty).toBe(false);
    expect(recordScores(one).empty).toBe(false);
    expect(found(2).empty).toBe(false);
  });
});

describe("the gate", () => {
  it("is as sure of a result as its score says, and never of one that is for a person whatever the threshold", () => {
    expect(acceptability(result(), "aula")).toBe(6);
    expect(acceptability(result(), "entropy.mean")).toBe(-0.25);
    expect(acceptability(result(), "aula", { score: "entropy.mean", threshold: 100 })).toBe(6);
    expect(acceptability(result({ empty: true }), "aula")).toBe(Number.NEGATIVE_INFINITY);
    expect(acceptability({ ...result(), heads: ["a", "b"] } as never, "aula")).toBe(Number.NEGATIVE_INFINITY);
  });

  it("asks its own score, else what the heads allow", () => {
    expect(gateScore({ gate: { score: "entropy.mean", threshold: 0 }, chosen: "aula" }, "le", 2)).toBe("entropy.mean");
    expect([3, 2].map((heads) => gateScore({ gate: undefined, chosen: undefined }, "le", heads))).toEqual([
      "aula",
      "softDiceConfidence",
    ]);
    expect(gateScore({ gate: { threshold: 1 }, chosen: undefined }, "de", 5)).toBe("softDiceConfidence");
    expect(gateScore({ gate: { threshold: 1 }, chosen: "pairwiseAgreement" }, "le", 9)).toBe("pairwiseAgreement");
  });

  it("accepts at the threshold and sends what is below it to a person, with the numbers in the reason", () => {
    expect(decide(result(), { threshold: 6 })).toEqual({
      decision: "accept",
      reasons: [],
      score: { name: "aula", value: 6, threshold: 6 },
    });
    const { decision, reasons } = decide(result(), { threshold: 6.01 });
    expect(decision).toBe("review");
    expect(reasons).toEqual([{ code: "low-score", message: "aula is 6.000, below 6.01." }]);
  });

  it("asks, too, whether the image looks like those of the training", () => {
    const gate = { threshold: 6, distance: { threshold: 2.5 } };
    const far = (excess: number) => ({ ...result(), tapDistance: { value: 1, max: 1, excess, taps: {} } });
    expect(decide(far(2.5), gate)).toMatchObject({ decision: "accept", reasons: [] });
    const { decision, reasons, score } = decide(far(2.51), gate);
    expect(decision).toBe("review");
    expect(reasons).toEqual([{ code: "unlike-training", message: expect.stringContaining("2.510, above 2.5") }]);
    expect(score).toEqual({ name: "aula", value: 6, threshold: 6 });
    expect(decide(far(Number.POSITIVE_INFINITY), gate).decision).toBe("review");
    // Where nothing says how far it is, it is not taken for one of them.
    for (const tapDistance of [null, undefined])
      expect(decide({ ...result(), tapDistance } as Scored, gate).reasons).toMatchObject([{ code: "unlike-training" }]);
    // Both questions have their reason, and a certificate replaces the first alone.
    expect(decide(far(3), { ...gate, threshold: 7 }).reasons.map(({ code }) => code)).toEqual([
      "unlike-training",
      "low-score",
    ]);
    const certificate = { score: "aula", threshold: 1 } as const;
    expect(decide(far(3), gate, certificate).reasons.map(({ code }) => code)).toEqual(["unlike-training"]);
    expect(() => checkGate({ threshold: 1, distance: {} })).toThrow(/threshold/);
    expect(() => checkGate({ threshold: 1, distance: { threshold: Number.NaN } })).toThrow(/finite/);
  });

  it("takes every score in the direction of confidence", () => {
    const values = { aula: 6, aulaNormalised: 0.75, pairwiseAgreement: 0.8, softDiceConfidence: 0.9 };
    for (const [name, value] of Object.entries(values)) expect(confidenceOf(result(), name as "aula")).toBe(value);
    expect(confidenceOf(result(), "entropy.mean")).toBe(-0.25);
    expect(confidenceOf(result(), "entropy.sum")).toBe(-2.5);
    expect(confidenceOf(result(), "entropy.foreground")).toBe(-0.5);
    expect(decide(result(), { score: "entropy.mean", threshold: -0.3 }).decision).toBe("accept");
    expect(decide(result(), { score: "entropy.mean", threshold: -0.2 }).decision).toBe("review");
  });

  it("never accepts what is empty, whatever its score", () => {
    const empty = result({ empty: true });
    expect(decide(empty, { threshold: 0 })).toMatchObject({ decision: "review", reasons: [{ code: "empty" }] });
    expect(decide(empty)).toMatchObject({ decision: "review", reasons: [{ code: "empty" }, { code: "no-threshold" }] });
    const { empty: _, ...silent } = result();
    expect(() => decide(silent as never, { threshold: 0 })).toThrow("whether it is empty");
  });

  it("decides nothing without a threshold, and says so", () => {
    expect(decide(result())).toMatchObject({ decision: null, reasons: [{ code: "no-threshold" }], score: null });
  });

  it("sends a result whose score is not defined to a person", () => {
    for (const score of ["aula", "variance.mean"] as const)
      expect(decide(result({ aula: null }), { score, threshold: -9 })).toMatchObject({
        decision: "review",
        reasons: [{ code: "no-score" }],
        score: { name: score, value: null },
      });
    const alone = { ...result({ summaries: { variance: summary(0) } }), heads: ["final"] };
    expect(decide(alone, { score: "variance.mean", threshold: -9 })).toMatchObject({ reasons: [{ code: "no-score" }] });
  });

  it("reads gates, and refuses what is none", () => {
    expect(parseGate("aula:6.5")).toEqual({ score: "aula", threshold: 6.5 });
    expect(parseGate(" entropy.foreground:-2e-1")).toEqual({ score: "entropy.foreground", threshold: -0.2 });
    for (const text of ["aula", "aula:", ":5", "aula:x", "aula:1:2", "alua:3"])
      expect(() => parseGate(text)).toThrow(expect.objectContaining({ code: "ERR_LE_OPTION" }));
    expect(() => checkGate({ score: "alua", threshold: 1 })).toThrow("one of");
    expect(() => checkGate({ score: "aula" })).toThrow("threshold");
    expect(() => checkGate("aula")).toThrow(expect.objectContaining({ code: "ERR_LE_OPTION" }));
    expect(checkGate({ threshold: 1, rule: { sensitivity: 0.9 } })).toBeTruthy();
  });
});
