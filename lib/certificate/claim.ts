// What a certificate promises, and why there is none, in a sentence each.
import type { NotCertified, TestedThreshold } from "./certify.js";

type Promised = Pick<NotCertified, "rule" | "alpha" | "delta" | "tau" | "loss" | "cases" | "groups">;

/** A share, exactly: 0.1 is "10 %". */
function percent(share: number): string {
  return `${Number((100 * share).toPrecision(10))} %`;
}

/** What is promised. */
export function claimOf({ rule, alpha, delta, tau, loss, cases, groups }: Promised): string {
  const several = groups < cases;
  const unit = several ? `groups exchangeable with the ${groups}` : `cases exchangeable with the ${cases}`;
  const for_ = `for ${unit} of the calibration.`;
  const each = several ? ", each group weighing the same" : "";
  const failed = `a Dice below ${tau}`;
  if (rule === "joint")
    return loss === "failure"
      ? `At most ${percent(alpha)} of all cases are accepted and have ${failed}${each}, on average over calibrations, ${for_}`
      : `The mean over all cases of 1 - Dice, 0 of those not accepted, is at most ${alpha}${each}, on average over calibrations, ${for_}`;
  return loss === "failure"
    ? `Among accepted cases at most ${percent(alpha)} have ${failed}${each}, with confidence ${percent(1 - delta)}, ${for_}`
    : `Among accepted cases the mean of 1 - Dice is at most ${alpha}${each}, with confidence ${percent(1 - delta)}, ${for_}`;
}

const WHOLE = "groups, accepted as a whole,";

type Refused = Promised & Pick<NotCertified, "steps" | "reason" | "needed">;

/** Why nothing is proved, and what would be needed. */
export function refusalOf({ rule, alpha, delta, reason, needed, steps, cases, groups }: Refused): string {
  const what = { conditional: "accepted cases", joint: "cases", betting: WHOLE, drawn: WHOLE }[rule];
  const levels = rule === "joint" ? `alpha = ${alpha}` : `alpha = ${alpha} and delta = ${delta}`;
  const wanted = `For ${levels} at least ${needed} ${what} without a failure are needed`;
  if (reason === "too-few-cases")
    return `No certificate: ${wanted[0]?.toLowerCase()}${wanted.slice(1)}, but there are ${thereAre(rule, steps, cases, groups)}.`;
  const { accepted, failures, value } = steps.find(({ passed }) => passed === false) as TestedThreshold;
  const found = `of the ${accepted} surest cases ${Number(failures.toPrecision(4))} failed (${rule === "joint" ? "risk up to" : "p ="} ${(value as number).toPrecision(3)}${rule === "drawn" ? " on one case of each group" : ""})`;
  return `No certificate: ${found}. ${wanted}.`;
}

function thereAre(rule: Refused["rule"], steps: readonly TestedThreshold[], cases: number, groups: number): string {
  if (rule === "joint") return String(groups);
  const { accepted = 0, groups: some = 0 } = steps.at(-1) ?? {};
  return rule === "betting" || rule === "drawn"
    ? `${some} of ${groups} of which the lowest threshold accepts some`
    : `${accepted} of ${cases} that the lowest threshold accepts`;
}
