import type { NdArray } from "../arrays.js";
import type { FloatArray } from "../checks.js";
import { LayerEnsemblesError } from "../errors.js";
import { argmax } from "../fusion/fuse.js";
import { checkProbabilities, type HeadViews, singleView } from "../fusion/heads.js";
import { checkOptions, describe, option } from "../options.js";
import { levelsOf } from "./levels.js";

/** The two sets of pixels of a class: surely of it, and perhaps. */
export const SET_NAMES: readonly SetName[] = ["inner", "outer"];

/** `inner`: surely of the class; `outer`: perhaps. */
export type SetName = "inner" | "outer";

/** Up to which score a pixel is in each set, λ in [0, 1]; null where there is no such set. The inner is at most the outer. */
export type SetThresholds = Readonly<Record<SetName, number | null>>;

/** One for every class, or one for each foreground class by its index. */
export type ThresholdsByClass = SetThresholds | Readonly<Record<number, SetThresholds>>;

/** Masks of one class, S, 1 where a pixel is in the set. */
export type PixelSets = Partial<Record<SetName, NdArray<Uint8Array>>>;

const SHARE = option.orNull(option.number({ min: 0, max: 1 }));
const THRESHOLDS = { inner: option.required(SHARE), outer: option.required(SHARE) };

const pair = option.array(SHARE, { length: SET_NAMES.length });

/** Specification of an option that holds the thresholds of all classes in one: λ of the inner, then of the outer mask. */
export const SETS = {
  ...pair,
  expected: "two numbers from 0 to 1, the first at most the second, or none in the place of one",
  accepts: (value: unknown) => pair.accepts(value) && isNested(thresholdsOf(value as Shares)),
};

type Shares = readonly (number | null)[];

/** Thresholds as {@link SETS} has them. */
export function thresholdsOf([inner = null, outer = null]: Shares): SetThresholds {
  return { inner, outer };
}

function isNested({ inner, outer }: SetThresholds): boolean {
  return inner === null || outer === null || inner <= outer;
}

/**
 * Which pixels are surely of a class, and which perhaps: an inner and an outer mask of each foreground class. A pixel's score
 * is the share of Σ p̄_c of the image that lies in pixels of strictly higher p̄_c; a set holds the pixels whose score is at
 * most its λ; the inner one those alone that ŷ gives to the class, as nothing is surely what is not predicted. Pixels of equal
 * probability have one score, those of probability 0 score 1, and the inner mask is within the outer.
 * @param probabilities Fused, C×S.
 * @param thresholds λ of both sets, as {@link fitPixelSets} chose them.
 * @returns By class 1..C-1, or the classes that have thresholds; a set without a threshold is left out.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function pixelSets(
  probabilities: NdArray<FloatArray>,
  thresholds: ThresholdsByClass,
): Record<number, PixelSets> {
  const input = singleView("probabilities", probabilities);
  const wanted = checkThresholds(thresholds, input.classes);
  checkProbabilities("probabilities", input);
  return setsOf(probabilities, wanted);
}

/** {@link pixelSets} of what was checked before, as {@link checkThresholds} gives thresholds. */
export function setsOf(
  probabilities: NdArray<FloatArray>,
  thresholds: Readonly<Record<number, SetThresholds>>,
): Record<number, PixelSets> {
  const input = singleView("probabilities", probabilities);
  const labels = argmax(probabilities).data;
  return Object.fromEntries(
    Object.entries(thresholds).map(([c, { inner, outer }]) => {
      const p = classView(input, Number(c));
      const [innerLevel, outerLevel] = levelsOf(p, [inner ?? 0, outer ?? 1]) as unknown as [number, number];
      const mask = (level: number) => ({ data: atLeast(p, level), shape: [...input.spatial] });
      return [
        c,
        {
          ...(inner !== null && { inner: within(mask(innerLevel), labels, Number(c)) }),
          ...(outer !== null && { outer: mask(outerLevel) }),
        },
      ];
    }),
  );
}

/**
 * What is asked for of each class.
 * @throws ERR_LE_OPTION for what is no pair of shares, an inner above its outer, or a class that there is none of
 */
export function checkThresholds(thresholds: ThresholdsByClass, classes: number): Record<number, SetThresholds> {
  const foreground = Array.from({ length: classes - 1 }, (_, c) => String(c + 1));
  if (typeof thresholds === "object" && thresholds !== null && SET_NAMES.some((name) => name in thresholds)) {
    const all = checkPair("pixelSets", thresholds as SetThresholds);
    return Object.fromEntries(foreground.map((c) => [c, all]));
  }
  const specs = Object.fromEntries(foreground.map((c) => [c, option.object(THRESHOLDS)]));
  const given = checkOptions("pixelSets", thresholds as Record<number, SetThresholds>, specs);
  return Object.fromEntries(Object.entries(given).map(([c, pair]) => [c, checkPair(`class ${c} of pixelSets`, pair)]));
}

/** @throws ERR_LE_OPTION */
function checkPair(context: string, thresholds: SetThresholds): SetThresholds {
  const { inner, outer } = checkOptions(context, thresholds, THRESHOLDS);
  if (!isNested({ inner, outer }))
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected a number from 0 to option 'outer' (${outer}) for option 'inner' of ${context}, so that the inner mask lies within the outer, but received ${describe(inner)}.`,
    );
  return { inner, outer };
}

/** p̄ of one class. */
export function classView({ view, pixels }: Pick<HeadViews, "pixels"> & { view: FloatArray }, c: number): FloatArray {
  return view.subarray(c * pixels, (c + 1) * pixels);
}

/** Pixels in each set. */
export function setSizes(sets: PixelSets): Partial<Record<SetName, number>> {
  const sizes = Object.entries(sets).map(([name, { data }]) => [name, data.reduce((sum, one) => sum + one, 0)]);
  return Object.fromEntries(sizes);
}

function atLeast(p: FloatArray, level: number): Uint8Array {
  const mask = new Uint8Array(p.length);
  for (let i = 0; i < p.length; i++) if ((p[i] as number) >= level) mask[i] = 1;
  return mask;
}

function within(mask: NdArray<Uint8Array>, labels: Uint8Array, c: number): NdArray<Uint8Array> {
  for (let i = 0; i < labels.length; i++) if (labels[i] !== c) mask.data[i] = 0;
  return mask;
}
