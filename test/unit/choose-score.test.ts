// Which score the gate looks at.
import { describe, expect, it } from "vitest";
import { aurc } from "../../lib/metrics/index.js";
import { Random } from "../../lib/random.js";
import type { ScoreName } from "../../lib/scores/scores.js";
import { chooseScore } from "../../lib/tuning/choose-score.js";
import { expectError } from "./support/heads.js";

const random = new Random(3);
const risk = Array.from({ length: 80 }, () => random.uniform() ** 2);
/** A score that sees the risk as well as `noise` says. */
const seen = (name: ScoreName, noise: number) => ({
  name,
  risk,
  confidence: risk.map((r) => -r + noise * random.normal()),
});

describe("the score that is chosen", () => {
  it("is the one of least AURC where it is clearly better than simpler ones", () => {
    const scores = [seen("softDiceConfidence", 3), seen("entropy.foreground", 0.05), seen("aula", 1)];
    const { name, why, ranking } = chooseScore(scores);
    expect(name).toBe("entropy.foreground");
    expect(why).toBe("the least AURC of 3 scores");
    expect(ranking[0]).toEqual({ name, aurc: aurc(scores[1]!.confidence, risk), above: 0, se: 0 });
    expect(ranking.map((one) => one.above)).toEqual(ranking.map((one) => one.aurc - ranking[0]!.aurc));
  });

  it("is the simplest of those within one standard error of the least", () => {
    const best = seen("entropy.foreground", 0.3);
    const moved = best.confidence.map((value, i) => value + (i % 7 === 0 ? 0.05 : 0));
    const [a, b] = [{ ...best, name: "aula" as const, confidence: moved }, seen("softDiceConfidence", 5)];
    const chosen = chooseScore([best, a, b]);
    const of = (name: ScoreName) => chosen.ranking.find((one) => one.name === name)!;
    expect(of("aula").above).toBeLessThanOrEqual(of("aula").se);
    expect(of("softDiceConfidence").above).toBeGreaterThan(of("softDiceConfidence").se);
    expect(chosen.name).toBe("aula");
    if (of("aula").above > 0) expect(chosen.why).toMatch(/^the simplest of 3 .* which entropy.foreground has$/);
    // Of equals the simplest, in whatever order they are given.
    const equals = (["entropy.mean", "pairwiseAgreement", "softDiceConfidence.final"] as const).map((name) => ({
      ...best,
      name,
    }));
    expect(chooseScore(equals).name).toBe("softDiceConfidence.final");
    expect(chooseScore(equals.reverse()).name).toBe("softDiceConfidence.final");
  });

  it("has the standard error of a difference that is drawn in pairs, by groups where there are", () => {
    const [a, b] = [seen("aula", 0.2), seen("softDiceConfidence", 0.5)];
    const groups = risk.map((_, i) => i >> 2);
    for (const of of [undefined, groups]) {
      const { ranking } = chooseScore([a, b], of && { groups: of });
      const other = new Random(99);
      const drawn = Array.from({ length: 3000 }, () => {
        const images = of
          ? Array.from({ length: 20 }, () => other.integer(20)).flatMap((g) => [0, 1, 2, 3].map((i) => 4 * g + i))
          : risk.map(() => other.integer(80));
        const at = (values: number[]) => images.map((i) => values[i]!);
        return aurc(at(b.confidence), at(risk)) - aurc(at(a.confidence), at(risk));
      });
      const mean = drawn.reduce((sum, x) => sum + x, 0) / drawn.length;
      const sd = Math.sqrt(drawn.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (drawn.length - 1));
      expect(ranking[1]!.se / sd).toBeGreaterThan(0.8);
      expect(ranking[1]!.se / sd).toBeLessThan(1.25);
    }
  });

  it("is refused where there is nothing to choose from", () => {
    expectError(() => chooseScore([]), "ERR_LE_SHAPE", "scores", "none");
    expectError(() => chooseScore([{ ...seen("aula", 1), confidence: [1] }]), "ERR_LE_SHAPE", "risk");
  });
});
