import type { Comparison, Estimate, MethodResult, PairedTest } from "../../results/comparison.js";
import { fixed, percent, pValue, typeset } from "../../results/format.js";
import { METHOD_TITLES, type MethodName } from "../../runs/methods.js";
import { CONFIDENCES, confidenceTitle, SCORES } from "../../scores/scores.js";
import { suitedConfidence } from "../figures/select.js";

/** Below this a difference is called more than chance would give. */
const LEVEL = 0.05;

/** What the numbers say, one sentence or two each: no more than they support. */
export function summarise(comparison: Comparison): string[] {
  return [
    quality(comparison, "dice"),
    quality(comparison, "nll"),
    calibration(comparison),
    failures(comparison),
    scores(comparison),
    correlation(comparison),
    cost(comparison),
    ...shift(comparison),
  ].flatMap((sentence) => (sentence === undefined ? [] : typeset(sentence)));
}

function quality(comparison: Comparison, measure: "dice" | "nll"): string | undefined {
  const what = measure === "dice" ? "the highest mean Dice" : "the lowest mean nll";
  const sorted = order(comparison.methods, (method) => method.quality[measure], measure === "dice");
  const [best, second] = sorted;
  if (!best) return undefined;
  const value = (method: MethodResult) => fixed(method.quality[measure].value, measure === "dice" ? 3 : 4);
  if (!second) return `${name(best)} reaches a mean ${measure === "dice" ? "Dice" : "nll"} of ${value(best)}.`;
  const lead = `${name(best)} has ${what} (${value(best)}), ${name(second)} the next (${value(second)}).`;
  return `${lead} ${support(comparison.tests, measure, best.method)}`.trim();
}

/** Which of the paired tests support that a method is better: all are between LE and another. */
function support(tests: readonly PairedTest[], measure: PairedTest["measure"], best: MethodName): string {
  const known = tests.filter((test) => test.measure === measure && test.wilcoxonP !== null && test.difference !== null);
  if (best !== "le") {
    const test = known.find(({ other }) => other === best);
    if (!test) return "No test compares it with the others.";
    const p = pText(test.wilcoxonP!);
    const isLess = test.wilcoxonP! < LEVEL;
    return isLess
      ? `The paired test finds a difference between it and LE (Wilcoxon ${p}).`
      : `The paired test finds no difference between it and LE beyond chance (Wilcoxon ${p}).`;
  }
  if (known.length === 0) return "No test compares it with the others.";
  const say = (some: readonly PairedTest[]) =>
    list(some.map((test) => `${METHOD_TITLES[test.other].short} (${pText(test.wilcoxonP!)})`));
  const better = (test: PairedTest) => (measure === "dice" ? test.difference! > 0 : test.difference! < 0);
  const yes = known.filter((test) => test.wilcoxonP! < LEVEL && better(test));
  const no = known.filter((test) => !yes.includes(test));
  if (no.length === 0) return `Paired tests support that against ${say(yes)}.`;
  if (yes.length === 0) return `Paired tests do not support that: the difference may be chance against ${say(no)}.`;
  return `Paired tests support that against ${say(yes)}, but not against ${say(no)}.`;
}

function calibration({ methods }: Comparison): string | undefined {
  const [best, second] = order(methods, (method) => method.pooled.ece, false);
  if (!best || !second) return undefined;
  return `Best calibrated is ${name(best)} (ECE ${fixed(best.pooled.ece.value, 4)}), then ${name(second)} (${fixed(second.pooled.ece.value, 4)}); ${overlap(best.pooled.ece, second.pooled.ece)}.`;
}

function failures({ methods, tau }: Comparison): string | undefined {
  const all = methods.flatMap((method) =>
    CONFIDENCES.flatMap((confidence) => {
      const auroc = method.confidence[confidence]?.auroc;
      return auroc && auroc.value !== null ? [{ method, confidence, auroc, value: auroc.value }] : [];
    }),
  );
  const [best, ...others] = all.sort((a, b) => b.value - a.value);
  if (!best) return undefined;
  const say = ({ method, confidence, value }: typeof best) =>
    `${confidenceTitle(confidence)} of ${name(method)} (AUROC ${fixed(value, 3)})`;
  const start = `Of all confidences, failures (Dice below ${tau}) are told best by ${say(best)}`;
  const second = others.find(({ method }) => method !== best.method);
  const then = second ? `, of another method by ${say(second)}; ${overlap(best.auroc, second.auroc)}` : "";
  const aula = others.find(({ confidence }) => confidence === "aula");
  const also = aula && aula !== second ? ` AULA reaches ${fixed(aula.value, 3)}.` : "";
  return `${start}${then}.${also} Each method is judged on its own failures.`;
}

/** Where AULA stands among the scores of its method. */
function scores({ methods }: Comparison): string | undefined {
  for (const method of methods) {
    const ranks = method.scoreRanks ?? [];
    const aula = ranks.find(({ score }) => score === "aula");
    const [best, second] = ranks;
    if (!aula || !best || !second) continue;
    const than = aula === best ? second : aula;
    const { value, low, high } = than.aboveBest as Estimate;
    const bounds = low === null || high === null ? "" : ` [${fixed(low, 4)}, ${fixed(high, 4)}]`;
    const chance = low !== null && low > 0 ? "more than chance" : "which may be chance";
    return `Of the scores of ${name(method)}, ${SCORES[best.score].title} ranks images best (AURC ${fixed(best.aurc.value, 4)}); ${SCORES[than.score].title}${aula === best ? ", the next," : ""} is ${fixed(value, 4)}${bounds} above it, ${chance}.`;
  }
  return undefined;
}

function correlation({ methods }: Comparison): string | undefined {
  const aula = methods.find((method) => method.method === "le")?.confidence.aula?.spearmanDice;
  if (!aula || aula.value === null) return undefined;
  const strength = Math.abs(aula.value) >= 0.7 ? "strongly" : Math.abs(aula.value) >= 0.4 ? "moderately" : "weakly";
  const clear = aula.low !== null && aula.high !== null && (aula.low > 0 || aula.high < 0);
  const interval = aula.low === null || aula.high === null ? "" : ` [${fixed(aula.low, 2)}, ${fixed(aula.high, 2)}]`;
  return `AULA of LE goes ${strength} with Dice: Spearman ${fixed(aula.value, 2)}${interval}${clear || interval === "" ? "" : ", an interval that includes 0"}.`;
}

function cost({ methods }: Comparison): string | undefined {
  const known = methods.filter((method) => method.method !== "plain" && method.cost.ratioToPlain !== null);
  if (known.length === 0) return undefined;
  const each = known.map((method) => `${name(method)} ${fixed(method.cost.ratioToPlain, 2)}×`);
  return `The time of one prediction against Plain: ${list(each)}.`;
}

function shift({ shift, methods }: Comparison): string[] {
  const rows = methods.flatMap((method) => {
    const confidence = suitedConfidence(method);
    const row = shift?.rows.find((row) => row.method === method.method && row.confidence === confidence);
    return row ? [{ ...row, title: name(method) }] : [];
  });
  const dice = rows.flatMap(({ title, diceIn, diceOut }) =>
    diceIn === null || diceOut === null ? [] : [`${title} from ${fixed(diceIn, 3)} to ${fixed(diceOut, 3)}`],
  );
  const flagged = rows.flatMap(({ title, confidence, flaggedOut }) =>
    flaggedOut.value === null ? [] : [`${title} ${percent(flaggedOut.value)} (by ${confidenceTitle(confidence)})`],
  );
  return [
    dice.length > 0 && `On the shifted images mean Dice changes: ${list(dice)}.`,
    flagged.length > 0 &&
      `The thresholds that flag ${percent(rows[0]!.flaggedIn)} of the images in distribution flag of the shifted ones: ${list(flagged)}.`,
  ].filter((sentence) => sentence !== false);
}

function overlap(a: Estimate, b: Estimate): string {
  if (a.low === null || a.high === null || b.low === null || b.high === null)
    return "no interval says how sure that is";
  return a.low <= b.high && b.low <= a.high
    ? "their intervals overlap, so the order may be chance"
    : "their intervals do not overlap";
}

function order(
  methods: readonly MethodResult[],
  of: (method: MethodResult) => Estimate | undefined,
  highFirst: boolean,
): MethodResult[] {
  const sign = highFirst ? -1 : 1;
  const known = methods.filter((method) => (of(method)?.value ?? null) !== null);
  return known.sort((a, b) => sign * (of(a)!.value! - of(b)!.value!));
}

function name({ method }: MethodResult): string {
  return METHOD_TITLES[method].short;
}

function pText(p: number): string {
  const text = pValue(p);
  return text.startsWith("<") ? `p ${text}` : `p = ${text}`;
}

function list(items: readonly string[]): string {
  return items.length < 2 ? (items[0] ?? "") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;
}
