// The rules by which calibration cases prove a threshold: each gives, for a threshold, a number that must not be above its limit.
import { binomialCdf } from "../statistics/binomial.js";
import type { Cases } from "./cases.js";

/** What is promised, and how surely. */
export interface Levels {
  /** α: largest share of failures. Above 0, below 1. */
  alpha: number;
  /** δ: chance that the promise is broken. Above 0, below 1. */
  delta: number;
}

/** A rule. */
export interface CertificateRule {
  /** What it is called. */
  title: string;
  /** What it promises, in a sentence. */
  text: string;
  /** What the number of a threshold is, and which level it must not be above. */
  compared: "p-value" | "bound on the risk";
  /** That level. */
  limit: keyof Levels;
  /** Whether cases may belong together; else each must be a group of its own. */
  groups: boolean;
  /** Whether a loss may be any number in [0, 1]; else 0 or 1. */
  graded: boolean;
}

/** How a rule proves. */
interface ProvingRule extends CertificateRule {
  /** The number of a threshold. @param loss of each case, in [0, 1] */
  value(threshold: number, cases: Cases, loss: Float64Array, levels: Levels): number;
  /** The least number of accepted cases (joint: of all cases; betting and drawn: of groups, of which all is accepted) of which none has failed that prove anything. */
  needed(levels: Levels): number;
}

/** Name of a rule. */
export type RuleName = "conditional" | "joint" | "betting" | "drawn";

/** The rules with their mathematics. */
export const PROVING_RULES: Readonly<Record<RuleName, ProvingRule>> = {
  conditional: {
    title: "conditional",
    text: "of accepted cases at most alpha fail, with confidence 1 - delta: fixed-sequence binomial tests",
    compared: "p-value",
    limit: "delta",
    groups: false,
    graded: false,
    value: (threshold, { confidence, drawn }, loss, { alpha }) => binomialP(threshold, drawn, confidence, loss, alpha),
    needed: binomialNeeded,
  },
  joint: {
    title: "joint",
    text: "of all cases at most alpha are accepted and fail, on average over calibrations; for few cases: conformal risk control",
    compared: "bound on the risk",
    limit: "alpha",
    groups: true,
    graded: true,
    value: (threshold, cases, loss) => {
      const risks = cases.groups.map((group) => meanAccepted(group, threshold, cases, loss, 0));
      return (risks.reduce((sum, risk) => sum + risk, 0) + 1) / (risks.length + 1);
    },
    needed: ({ alpha }) => leastFrom(Math.floor(1 / alpha) - 1, (n) => 1 / (n + 1) <= alpha),
  },
  betting: {
    title: "betting",
    text: "of accepted images at most alpha fail, each group weighing the same, with confidence 1 - delta: a betting bound over groups",
    compared: "p-value",
    limit: "delta",
    groups: true,
    graded: true,
    value: (threshold, cases, loss, { alpha, delta }) => {
      const risks = cases.groups.map((group) => meanAccepted(group, threshold, cases, loss, alpha) + alpha);
      return bettingP(risks.length, (i) => risks[i] as number, alpha, delta);
    },
    needed: ({ alpha, delta }) => {
      // No factor of the bet is above 1 + alpha.
      const from = Math.floor(Math.log(1 / delta) / Math.log1p(alpha));
      if (from > MOST_SEARCHED) return from;
      return leastFrom(from, (n) => bettingP(n, () => 0, alpha, delta) <= delta);
    },
  },
  drawn: {
    title: "drawn",
    text: "what betting promises, by the binomial tests of conditional on one image of each group, drawn by the seed: for few groups",
    compared: "p-value",
    limit: "delta",
    groups: true,
    graded: false,
    value: (threshold, { confidence, drawn }, loss, { alpha }) => binomialP(threshold, drawn, confidence, loss, alpha),
    needed: binomialNeeded,
  },
};

/** The rules by name. */
export const CERTIFICATE_RULES: Readonly<Record<RuleName, CertificateRule>> = PROVING_RULES;

/** Every {@link RuleName}. */
export const RULE_NAMES = Object.keys(CERTIFICATE_RULES) as RuleName[];

/** What is needed of more groups is not worked out, but said from below. */
const MOST_SEARCHED = 100_000;

/** The least whole number from 1 and `from` on that is so, of a property that stays once it holds. */
function leastFrom(from: number, isSo: (n: number) => boolean): number {
  let low = Math.max(0, from - 1);
  let high = low + 1;
  for (let step = 1; !isSo(high); step *= 2) {
    low = high;
    high += step;
  }
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (isSo(middle)) high = middle;
    else low = middle;
  }
  return high;
}

/** P(Bin(n, α) ≤ k) of those drawn that are accepted, n, and have failed, k. */
function binomialP(
  threshold: number,
  drawn: readonly number[],
  confidence: Float64Array,
  loss: Float64Array,
  alpha: number,
): number {
  const accepted = drawn.filter((i) => (confidence[i] as number) >= threshold);
  const failures = accepted.reduce((sum, i) => sum + (loss[i] as number), 0);
  return binomialCdf(failures, accepted.length, alpha);
}

function binomialNeeded({ alpha, delta }: Levels): number {
  const from = Math.floor(Math.log(delta) / Math.log1p(-alpha));
  return leastFrom(from, (n) => binomialCdf(0, n, alpha) <= delta);
}

/** Mean over a group of (loss - alpha) · [accepted]. */
function meanAccepted(
  group: readonly number[],
  threshold: number,
  { confidence }: Cases,
  loss: Float64Array,
  alpha: number,
): number {
  let sum = 0;
  for (const i of group) if ((confidence[i] as number) >= threshold) sum += (loss[i] as number) - alpha;
  return sum / group.length;
}

/**
 * p-value of "the mean of W is above alpha", W in [0, 1]: 1 / the largest of the capitals K_t = Π (1 + ν_i (α - W_i)) of a bet against
 * it, which reach 1/δ with a chance of at most δ. ν_i = min(1, √(2 ln(1/δ) / (n σ̂²))), the variance of what came before, with half a
 * value of 1/2 and 1/4 before all (Waudby-Smith & Ramdas 2024; Bates et al. 2021).
 */
function bettingP(n: number, w: (i: number) => number, alpha: number, delta: number): number {
  let [capital, most] = [0, 0];
  let [sum, squares] = [0.5, 0.25];
  for (let i = 0; i < n; i++) {
    const bet = Math.min(1, Math.sqrt((2 * Math.log(1 / delta)) / ((n * squares) / (i + 1))));
    const value = w(i);
    capital += Math.log1p(bet * (alpha - value));
    most = Math.max(most, capital);
    sum += value;
    squares += (value - sum / (i + 2)) ** 2;
  }
  return Math.exp(-most);
}
