// From calibration cases to a threshold and what it promises.

import { fail } from "../checks.js";
import { checkOptions, defaultsOf, option, type Values } from "../options.js";
import { clopperPearson, type ShareInterval } from "../statistics/binomial.js";
import { bootstrap } from "../statistics/bootstrap.js";
import { type CalibrationCases, type Cases, checkedCases } from "./cases.js";
import { claimOf, refusalOf } from "./claim.js";
import { CERTIFICATE_RULES, type Levels, PROVING_RULES, RULE_NAMES, type RuleName } from "./rules.js";

/** What a case loses: 1 for a failure and else 0; or 1 - Dice. */
export type LossKind = "failure" | "dice";

const LEVEL = { above: 0, below: 1 } as const;

/** What a certificate promises. */
export const PROMISE = {
  /** α: largest share of failures among what is accepted; above 0, below 1. */
  alpha: option.required(
    option.number({ ...LEVEL, text: "largest share of failures among what is accepted", arg: "share" }),
  ),
  /** τ: a case has failed where its Dice is below this; above 0, below 1. @default 0.8 */
  tau: option.number({ ...LEVEL, default: 0.8, text: "a case has failed where its Dice is below this", arg: "dice" }),
  /** δ: chance that the promise is broken, above 0 and below 1; of no meaning for the rule joint. @default 0.1 */
  delta: option.number({
    ...LEVEL,
    default: 0.1,
    text: "chance that the promise is broken; of no meaning for the rule joint",
    arg: "share",
  }),
  /** One of {@link CERTIFICATE_RULES}. @default "betting" where groups hold several cases, else "conditional" */
  rule: option.oneOf(RULE_NAMES, {
    otherwise: "betting where groups hold several images, else conditional",
    text: "conditional: of accepted cases; joint: accepted and failed of all cases, on average; betting, drawn: of images in groups, of many and of few",
    arg: "rule",
  }),
  /** What a case loses: 1 for a failure and else 0, or 1 - Dice, of which α then bounds the mean (joint and betting alone). @default "failure" */
  loss: option.oneOf(["failure", "dice"], {
    default: "failure",
    text: "failure: a Dice below tau; dice: 1 - Dice, so that alpha bounds its mean (joint and betting alone)",
    arg: "loss",
  }),
  /** Of the order of groups, and of the bootstrap. @default 0 */
  seed: option.integer({ min: 0, default: 0, text: "of the order of groups, and of the bootstrap" }),
};

/** Options of {@link certify}. */
export interface CertifyOptions extends Values<typeof PROMISE> {
  /**
   * Thresholds to test, fixed before the cases were seen, such as {@link scoreThresholds} of validation gives. Needed by the rules
   * conditional and betting; joint takes the confidences of the cases where there are none.
   */
  thresholds?: readonly number[];
}

/** A threshold, and what the cases say of it. */
export interface TestedThreshold {
  /** Cases are accepted where their confidence is not below it. */
  threshold: number;
  /** Cases that it accepts. */
  accepted: number;
  /** Groups of which it accepts some. */
  groups: number;
  /** Of the accepted, the sum of the losses: how many have failed. */
  failures: number;
  /** What is compared: a p-value, or by the rule joint a bound on the risk; null where it was not tested. */
  value: number | null;
  /** Whether it is proved; null where it was not tested: too few cases for any proof, or a higher one had failed. */
  passed: boolean | null;
}

interface Tested extends Levels {
  /** By which rule. */
  rule: RuleName;
  /** τ. */
  tau: number;
  /** What a case lost. */
  loss: LossKind;
  /** As given. */
  seed: number;
  /** Calibration cases. */
  cases: number;
  /** Their groups; as many where every case is one of its own. */
  groups: number;
  /** Thresholds from the highest down, in the order of the tests. Of the rule joint the last that holds and the next. */
  steps: TestedThreshold[];
}

/** A share of cases with its 95 % interval. */
export interface AcceptedShare extends ShareInterval {
  /** In [0, 1]. */
  value: number;
  /** Clopper and Pearson's interval; where groups hold several cases a bootstrap over groups. */
  by: "clopper-pearson" | "bootstrap";
}

/** A threshold is proved. */
export interface Certified extends Tested {
  /** Tells it from {@link NotCertified}. */
  certified: true;
  /** λ: accept where the confidence is not below it. */
  threshold: number;
  /** What is promised, in a sentence. */
  claim: string;
  /** Cases that it accepts. */
  accepted: number;
  /** Of these, the sum of the losses: how many have failed. */
  failures: number;
  /** Share of the cases that it accepts. */
  share: AcceptedShare;
}

/** No threshold is proved. */
export interface NotCertified extends Tested {
  /** Tells it from {@link Certified}. */
  certified: false;
  /** Even without a failure nothing would be proved, or too many have failed. */
  reason: "too-few-cases" | "too-many-failures";
  /** How many accepted cases (joint: cases; betting and drawn: wholly accepted groups) without a failure would be needed. */
  needed: number;
  /** Why, in a sentence. */
  message: string;
}

/** What {@link certify} finds. Plain JSON. */
export type Certification = Certified | NotCertified;

/**
 * Looks for the lowest threshold on a confidence for which the cases prove what is promised. Failures are Dice below τ; a case is
 * accepted where its confidence is not below the threshold. The cases must have chosen nothing: neither weights nor their
 * stopping, skipped heads, temperatures, the score or the thresholds; the promise is for cases exchangeable with them.
 *
 * Rule conditional (Clopper-Pearson in fixed sequence): of n_j accepted cases k_j failed, p_j = P(Bin(n_j, α) ≤ k_j); from the first
 * threshold that would pass without a failure down, while p_j ≤ δ. Rule joint (conformal risk control): the least threshold with
 * (#{accepted and failed} + 1) / (n + 1) ≤ α. Rule betting: with W = mean over a group of ((L - α)·[accepted]) + α the p-value of a
 * bet against "mean W above α", in the same sequence. Rule drawn: rule conditional on one case of each group, drawn by the seed.
 * @throws ERR_LE_OPTION, ERR_LE_VALUE, ERR_LE_SHAPE. Too few cases, or too many that failed, are no error: see {@link NotCertified}.
 */
export function certify(cases: CalibrationCases, options: CertifyOptions): Certification {
  const { alpha, tau, delta, loss, seed, ...given } = {
    ...defaultsOf(PROMISE),
    ...checkOptions("certify", options, { ...PROMISE, thresholds: option.array(option.number()) }),
  };
  const checked = checkedCases(cases, loss === "dice" ? (dice) => 1 - dice : (dice) => (dice < tau ? 1 : 0), seed);
  const severalEach = checked.groups.length < checked.loss.length;
  const name = given.rule ?? (severalEach ? "betting" : "conditional");
  const rule = PROVING_RULES[name];
  checkFits(name, rule, severalEach, loss, given.thresholds);
  const thresholds = descending(given.thresholds ?? confidencesOf(checked));
  const { steps, last } = walk(thresholds, rule, checked, { alpha, delta });
  const tested: Tested = {
    ...{ rule: name, alpha, delta, tau, loss, seed },
    ...{ cases: checked.loss.length, groups: checked.groups.length },
    steps: given.thresholds ? steps : steps.slice(Math.max(0, last), last + 2),
  };
  const proved = steps[last];
  if (proved) {
    const { threshold, accepted, failures } = proved;
    return {
      certified: true,
      ...tested,
      threshold,
      claim: claimOf(tested),
      accepted,
      failures,
      share: shareOf(checked, threshold, seed),
    };
  }
  const reason = steps.some(({ passed }) => passed === false) ? "too-many-failures" : "too-few-cases";
  const needed = rule.needed({ alpha, delta });
  return { certified: false, ...tested, reason, needed, message: refusalOf({ ...tested, steps, reason, needed }) };
}

/** How many accepted cases (rule joint: cases; betting and drawn: wholly accepted groups) without a failure are needed for a certificate. */
export function casesNeeded(rule: RuleName, levels: Levels): number {
  checkOptions("casesNeeded", { rule, ...levels }, { rule: PROMISE.rule, alpha: PROMISE.alpha, delta: PROMISE.delta });
  return PROVING_RULES[rule].needed(levels);
}

/** @throws ERR_LE_OPTION for a rule that the cases or options do not fit */
function checkFits(
  name: RuleName,
  rule: (typeof PROVING_RULES)[RuleName],
  severalEach: boolean,
  loss: LossKind,
  thresholds: readonly number[] | undefined,
): void {
  const having = (property: "groups" | "graded") =>
    RULE_NAMES.filter((other) => CERTIFICATE_RULES[other][property]).join(" or ");
  if (!rule.groups && severalEach)
    fail(
      "ERR_LE_OPTION",
      "option 'rule' of certify",
      `${having("groups")} for groups of several cases, which are no independent draws,`,
      name,
    );
  if (!rule.graded && loss === "dice")
    fail(
      "ERR_LE_OPTION",
      "option 'rule' of certify",
      `${having("graded")} for the loss "dice", which is no count of failures,`,
      name,
    );
  if (name !== "joint" && !thresholds)
    fail("ERR_LE_OPTION", "option 'thresholds' of certify", `thresholds fixed beforehand for the rule ${name}`, "none");
}

function descending(thresholds: readonly number[]): number[] {
  return [...new Set(thresholds)].sort((a, b) => b - a);
}

/** No more thresholds are tried of the cases' own confidences. */
const MOST_OWN = 1000;

/** Distinct finite confidences of the cases, evenly thinned where there are many. */
function confidencesOf({ confidence }: Cases): number[] {
  const all = descending([...confidence].filter(Number.isFinite));
  const every = Math.ceil(all.length / MOST_OWN);
  return all.filter((_, i) => i % every === 0 || i === all.length - 1);
}

/**
 * Tests thresholds in their order: from the first that would pass if nothing had failed, which no failure has a say in, until one
 * does not pass.
 * @returns the index of the last that passed; -1 where none did
 */
function walk(
  thresholds: readonly number[],
  rule: (typeof PROVING_RULES)[RuleName],
  cases: Cases,
  levels: Levels,
): { steps: TestedThreshold[]; last: number } {
  const limit = levels[rule.limit];
  const none = new Float64Array(cases.loss.length);
  const first = thresholds.findIndex((threshold) => rule.value(threshold, cases, none, levels) <= limit);
  let last = -1;
  let open = first >= 0;
  const steps = thresholds.map((threshold, j): TestedThreshold => {
    const counted = countAccepted(threshold, cases);
    if (j < first || !open) return { threshold, ...counted, value: null, passed: null };
    const value = rule.value(threshold, cases, cases.loss, levels);
    open = value <= limit;
    if (open) last = j;
    return { threshold, ...counted, value, passed: open };
  });
  return { steps, last };
}

function countAccepted(
  threshold: number,
  { confidence, loss, groups }: Cases,
): Pick<TestedThreshold, "accepted" | "groups" | "failures"> {
  const isAccepted = (i: number) => (confidence[i] as number) >= threshold;
  let [accepted, failures] = [0, 0];
  for (let i = 0; i < loss.length; i++) {
    if (!isAccepted(i)) continue;
    accepted++;
    failures += loss[i] as number;
  }
  return { accepted, groups: groups.filter((group) => group.some(isAccepted)).length, failures };
}

/** The share of the cases that a threshold accepts. */
function shareOf({ confidence, groups }: Cases, threshold: number, seed: number): AcceptedShare {
  const n = confidence.length;
  const isAccepted = (i: number) => (confidence[i] as number) >= threshold;
  const accepted = confidence.filter((value) => value >= threshold).length;
  const value = accepted / n;
  if (groups.length === n) return { value, ...clopperPearson(accepted, n), by: "clopper-pearson" };
  const counts = groups.map((group) => group.filter(isAccepted).length);
  const statistic = (drawn: Uint32Array) => {
    let [some, all] = [0, 0];
    for (const g of drawn) {
      some += counts[g] as number;
      all += (groups[g] as readonly number[]).length;
    }
    return some / all;
  };
  const { low, high } = bootstrap(groups.length, statistic, { seed });
  return { value, low, high, by: "bootstrap" };
}

/**
 * Thresholds to test: those that accept 5 %, 10 %, …, 100 % of the validation images, from the highest down, each of their own
 * confidences; fewer where images are tied.
 * @param confidence Of validation images; -Infinity for one that is accepted by none.
 * @param step In (0, 1]. @default 0.05
 * @throws ERR_LE_VALUE
 */
export function scoreThresholds(confidence: ArrayLike<number>, step = 0.05): number[] {
  if (!(step > 0 && step <= 1)) fail("ERR_LE_VALUE", "step", "a number above 0 and at most 1", String(step));
  const sorted = Float64Array.from(confidence).sort().reverse();
  if (sorted.some((value) => Number.isNaN(value) || value === Number.POSITIVE_INFINITY))
    fail("ERR_LE_VALUE", "confidence", "finite numbers or -Infinity", "others");
  const steps = Math.round(1 / step);
  // 0.05 · 20 may be a little above 1, and 60 % of 5 images a little above 3.
  const at = Array.from({ length: steps }, (_, j) => Math.ceil(((j + 1) / steps) * sorted.length - 1e-9) - 1);
  return descending(at.map((i) => sorted[i] as number).filter(Number.isFinite));
}
