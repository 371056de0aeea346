import { fail } from "../checks.js";
import { checkOptions, describe, option } from "../options.js";
import type { SetName, SetThresholds } from "./pixel-sets.js";
import { type SetRisk, SHARES } from "./risk.js";

/** Options of {@link fitPixelSets}. */
export interface FitPixelSetsOptions {
  /** Most of the truth that may be outside the outer mask, as an expected share, in (0, 1). @default 0.1 */
  outer?: number;
  /** Most of the inner mask that may be false, as an expected share, in (0, 1). @default 0.1 */
  inner?: number;
  /** The group (patient) of each image, in their order: a group is one case. @default each its own */
  groups?: readonly string[];
}

/** How one threshold was chosen. */
export interface FittedSet {
  /** λ; null where no mask keeps the promise. */
  share: number | null;
  /** What is promised: the expected loss is at most this. */
  alpha: number;
  /** n: images, or groups, that the loss is defined for. */
  cases: number;
  /** Their mean loss with λ; null without a threshold. */
  risk: number | null;
  /** (n·risk + 1) / (n + 1), which is at most α; null without a threshold. */
  bound: number | null;
  /** Mean share of an image's pixels in the mask; null without a threshold. */
  size: number | null;
  /** What is promised, or what is missing. */
  sentence: string;
}

/** Thresholds of one class, and how they were chosen. */
export interface FittedSets {
  /** Of the inner mask. */
  inner: FittedSet;
  /** Of the outer mask. */
  outer: FittedSet;
  /**
   * Whether the inner threshold came out above the outer, as it does where a network is better than what is asked for, and was
   * lowered to it: the masks are nested, and both promises hold. Smaller α use what such a network can do.
   */
  capped: boolean;
}

/** What {@link fitPixelSets} chose; plain JSON. */
export interface PixelSetFit {
  /** For {@link pixelSets}, by class. */
  thresholds: Record<number, SetThresholds>;
  /** By class. */
  perClass: Record<number, FittedSets>;
}

const OPTIONS = {
  outer: option.number({ above: 0, below: 1 }),
  inner: option.number({ above: 0, below: 1 }),
  groups: option.array(option.string()),
};

/**
 * Chooses the thresholds of inner and outer masks by conformal risk control (Angelopoulos, Bates, Fisch, Lei & Schuster 2022):
 * the least λ (outer), the greatest (inner), of a fixed grid, with (n·mean loss + 1)/(n + 1) ≤ α. For a case exchangeable with
 * these, the expected loss is then at most α: on average over cases and calibrations, not for each. With groups, a case is a
 * group and its loss the mean over its images. Images without truth of a class have no loss of the outer mask; every pixel of
 * their inner mask is false. Neither mask of a class exists where there are fewer than 1/α - 1 cases.
 * @param risks Of each image of a split that chose nothing, by {@link pixelSetRisk}.
 * @throws ERR_LE_OPTION; ERR_LE_VALUE where images differ in their classes, or none counts
 */
export function fitPixelSets(risks: readonly SetRisk[], options: FitPixelSetsOptions = {}): PixelSetFit {
  const { outer = 0.1, inner = 0.1, groups } = checkOptions("fitPixelSets", options, OPTIONS);
  if (groups && groups.length !== risks.length)
    fail(
      "ERR_LE_OPTION",
      "option 'groups' of fitPixelSets",
      `a group for each of ${risks.length} images`,
      describe(groups),
    );
  const counted = risks
    .map((risk, i) => ({ ...risk, case: groups?.[i] ?? i }))
    .filter((risk) => classesOf(risk) !== "");
  const [first] = counted;
  if (!first) return fail("ERR_LE_VALUE", "risks", "an image of which pixels count", `${risks.length} without`);
  for (const risk of counted)
    if (classesOf(risk) !== classesOf(first))
      fail("ERR_LE_VALUE", "risks", `classes ${classesOf(first)} in each`, classesOf(risk));
  const perClass: Record<number, FittedSets> = {};
  for (const c of Object.keys(first.perClass).map(Number)) {
    const curves = (name: SetName) =>
      meanCurves(counted.map((risk) => [risk.case, (risk.perClass[c] as Curves)[name]]));
    perClass[c] = fitClass(curves("inner"), inner, curves("outer"), outer);
  }
  const thresholds = Object.entries(perClass).map(([c, fit]) => [
    c,
    { inner: fit.inner.share, outer: fit.outer.share },
  ]);
  return { thresholds: Object.fromEntries(thresholds), perClass };
}

function fitClass(inner: MeanCurves, innerAlpha: number, outer: MeanCurves, outerAlpha: number): FittedSets {
  const least = choose("outer", outer, outerAlpha);
  const most = choose("inner", inner, innerAlpha);
  const capped = most !== undefined && least !== undefined && most > least;
  return {
    inner: fittedSet("inner", inner, innerAlpha, capped ? least : most),
    outer: fittedSet("outer", outer, outerAlpha, least),
    capped,
  };
}

type Curves = SetRisk["perClass"][number];
type Curve = Curves[SetName];

interface MeanCurves {
  cases: number;
  loss: Float64Array;
  size: Float64Array;
}

function classesOf({ perClass }: SetRisk): string {
  return Object.keys(perClass).join(", ");
}

/** The mean over cases of each one's mean over its images. */
function meanCurves(images: readonly (readonly [string | number, Curve])[]): MeanCurves {
  const cases = new Map<string | number, Curve[]>();
  for (const [name, curve] of images) {
    if (!curve.loss) continue;
    const own = cases.get(name);
    if (own) own.push(curve);
    else cases.set(name, [curve]);
  }
  const [loss, size] = [new Float64Array(SHARES.length), new Float64Array(SHARES.length)];
  for (const curves of cases.values())
    for (const curve of curves) {
      add(loss, curve.loss as Float64Array, cases.size * curves.length);
      add(size, curve.size, cases.size * curves.length);
    }
  return { cases: cases.size, loss, size };
}

function add(sum: Float64Array, values: Float64Array, divisor: number): void {
  for (let j = 0; j < sum.length; j++) sum[j] = (sum[j] as number) + (values[j] as number) / divisor;
}

/** The place in the grid of the least λ that is allowed, of a loss that falls with λ; of the greatest, of one that rises. */
function choose(name: SetName, { cases, loss }: MeanCurves, alpha: number): number | undefined {
  const allowed = SHARES.map((_, j) => j).filter((j) => boundOf(loss[j] as number, cases) <= alpha);
  return name === "outer" ? allowed[0] : allowed.at(-1);
}

function boundOf(loss: number, cases: number): number {
  return (cases * loss + 1) / (cases + 1);
}

function fittedSet(name: SetName, { cases, loss, size }: MeanCurves, alpha: number, j: number | undefined): FittedSet {
  if (j === undefined) {
    const none = { share: null, risk: null, bound: null, size: null };
    return { alpha, cases, ...none, sentence: missing(cases, loss[0] as number, alpha, name) };
  }
  const [share, risk] = [SHARES[j] as number, loss[j] as number];
  const promised =
    name === "outer" ? "of the class lies outside the outer mask" : "of the inner mask is not of the class";
  const sentence = `Of a case like those of the calibration, at most ${alpha * 100} % ${promised}, on average.`;
  return { alpha, cases, share, risk, bound: boundOf(risk, cases), size: size[j] as number, sentence };
}

/** @param least the loss of the smallest mask that there is */
function missing(cases: number, least: number, alpha: number, name: SetName): string {
  const of = name === "outer" ? " with the class" : "";
  const needed = Math.ceil((1 - alpha) / alpha - 1e-9);
  if (cases < needed)
    return `No ${name} mask: α = ${alpha} needs at least ${needed} cases${of}, and there are ${cases}.`;
  // Enough for an empty mask, which is none.
  const found = `the most probable pixels alone are false in ${(100 * least).toFixed(1)} % of ${cases} cases`;
  if (least >= alpha) return `No ${name} mask: ${found}, which no number of cases brings below ${alpha * 100} %.`;
  return `No ${name} mask: ${found}; with that share α = ${alpha} needs ${Math.ceil((1 - alpha) / (alpha - least))} cases.`;
}
