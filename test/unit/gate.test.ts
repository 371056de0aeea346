import { describe, expect, it } from "vitest";
import { GATE_SCORES as TUNED_SCORES } from "../../lib/calibration/tune.js";
import type { Prediction } from "../../lib/ensemble/prediction.js";
import { checkGate, decide, GATE_SCORES, type Gated, parseGate, scoreOf } from "../../lib/gate.js";

const summary = (mean: number) => ({ sum: 10 * mean, mean, foreground: 2 * mean });

function result(more: Partial<Prediction> = {}): Gated {
  return {
    mask: { data: Uint8Array.of(0, 1, 0, 1), shape: [2, 2] },
    summaries: { entropy: summary(0.25) },
    aula: { value: 6, normalised: 0.75, perClass: {}, agreements: {}, empty: false } as Prediction["aula"],
    pairwiseAgreement: { overall: 0.8, perClass: {} } as Prediction["pairwiseAgreement"],
    softDiceConfidence: { overall: 0.9, perClass: {} },
    ...more,
  };
}

describe("the gate", () => {
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

  it("takes every score in the direction of confidence", () => {
    const values = { aula: 6, aulaNormalised: 0.75, pairwiseAgreement: 0.8, softDiceConfidence: 0.9 };
    for (const [name, value] of Object.entries(values)) expect(scoreOf(result(), name as "aula")).toBe(value);
    expect(scoreOf(result(), "entropy.mean")).toBe(-0.25);
    expect(scoreOf(result(), "entropy.sum")).toBe(-2.5);
    expect(scoreOf(result(), "entropy.foreground")).toBe(-0.5);
    expect(decide(result(), { score: "entropy.mean", threshold: -0.3 }).decision).toBe("accept");
    expect(decide(result(), { score: "entropy.mean", threshold: -0.2 }).decision).toBe("review");
  });

  it("never accepts what is empty, whatever its score", () => {
    const empty = result({ aula: { value: 8, normalised: 1, perClass: {}, agreements: {}, empty: true } as never });
    expect(decide(empty, { threshold: 0 })).toMatchObject({ decision: "review", reasons: [{ code: "empty" }] });
    expect(decide(empty)).toMatchObject({ decision: "review", reasons: [{ code: "empty" }, { code: "no-threshold" }] });
    const plain = result({ aula: null, mask: { data: new Uint8Array(4), shape: [2, 2] } });
    expect(decide(plain, { score: "softDiceConfidence", threshold: 0 }).decision).toBe("review");
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
    expect(new Set(GATE_SCORES).size).toBe(GATE_SCORES.length);
    // What tune may write into a run, the gate can read.
    expect(GATE_SCORES).toEqual(expect.arrayContaining([...TUNED_SCORES]));
  });
});
