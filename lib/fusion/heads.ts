// What the definitions accept, and the errors for what they do not. Every check names the argument.

import type { NdArray } from "../arrays.js";
import { checkClasses, checkFinite, checkFloats, checkSameShape, type FloatArray, fail } from "../checks.js";

/**
 * One image's heads, in depth order: one K×C×S array, or K arrays C×S. S is one or more spatial axes, such as H×W or
 * D×H×W.
 */
export type Heads = NdArray<FloatArray> | readonly NdArray<FloatArray>[];

/** Checked heads as flat C×S views. */
export interface HeadViews {
  readonly views: readonly FloatArray[];
  readonly classes: number;
  readonly spatial: readonly number[];
  /** Product of `spatial`. */
  readonly pixels: number;
}

/** How far rounding may carry a probability out of [0, 1], and how far the sum over classes may be from 1. */
const PROBABILITY_SLACK = 1e-6;
const SUM_SLACK = 1e-3;

/** More heads than any ensemble has. */
const MOST_HEADS = 1_000_000;

/** What the heads are now, each property read once, their layout checked. @throws ERR_LE_SHAPE */
export function ownHeads(argument: string, heads: Heads): Heads {
  if (!Array.isArray(heads)) return checkFloats(argument, heads as NdArray<FloatArray>, 3, "K×C×S");
  const { length } = heads;
  if (length === 0) fail("ERR_LE_SHAPE", argument, "at least one head", "an empty array");
  if (length > MOST_HEADS) fail("ERR_LE_SHAPE", argument, `at most ${MOST_HEADS} heads`, `${length}`);
  const own = Array.from({ length }, (_, k) => checkFloats(`${argument}[${k}]`, heads[k], 2, "C×S"));
  const { shape } = own[0] as NdArray<FloatArray>;
  own.forEach((head, k) => {
    checkSameShape(`${argument}[${k}]`, head.shape, shape);
  });
  return own;
}

/** Checks the layout, not the values, of heads whose values are `what`: "logits" or "probabilities". */
export function headViews(argument: string, heads: Heads): HeadViews {
  const own = ownHeads(argument, heads);
  if (Array.isArray(own)) {
    const arrays = own as readonly NdArray<FloatArray>[];
    const { data, shape } = arrays[0] as NdArray<FloatArray>;
    const [classes, ...spatial] = shape as [number, ...number[]];
    checkClasses(`the class axis of ${argument}`, classes);
    return { views: arrays.map((head) => head.data), classes, spatial, pixels: data.length / classes };
  }
  const { data, shape } = own as NdArray<FloatArray>;
  const [count, classes, ...spatial] = shape as [number, number, ...number[]];
  checkClasses(`the class axis of ${argument}`, classes);
  const stride = data.length / count;
  const views = Array.from({ length: count }, (_, k) => data.subarray(k * stride, (k + 1) * stride));
  return { views, classes, spatial, pixels: stride / classes };
}

/** The same for a single head or a fused map, C×S. */
export function singleView(argument: string, map: NdArray<FloatArray>): HeadViews & { readonly view: FloatArray } {
  const { data, shape } = checkFloats(argument, map, 2, "C×S");
  const [classes, ...spatial] = shape as [number, ...number[]];
  checkClasses(`the class axis of ${argument}`, classes);
  return { view: data, views: [data], classes, spatial, pixels: data.length / classes };
}

/**
 * Finite logits in every head, that do not look like shares of a whole.
 * @param cure what to do with probabilities; null where the values are logits for certain
 */
export function checkLogits(argument: string, heads: HeadViews, cure: string | null): void {
  for (const view of heads.views) checkFinite(argument, view);
  if (cure !== null) checkNoShares(argument, heads, cure);
}

/** Where a function has no option for probabilities. */
export const LOGARITHMS = "they are probabilities: give their natural logarithms, which are logits";

/** The softmax of probabilities is another distribution, near to uniform: every number made of it is wrong. */
export function checkNoShares(argument: string, heads: HeadViews, cure: string, trust = "trust: true (--trust)"): void {
  const found = lookLikeShares(heads);
  if (!found) return;
  const { whole, axis } = found;
  const likely =
    axis === "heads"
      ? "the axes of heads and classes are the other way round (K×C×S is expected), and they are probabilities"
      : whole === 1
        ? cure
        : `divide by ${whole}; then ${cure}`;
  fail(
    "ERR_LE_VALUE",
    argument,
    "logits",
    `values that sum to ${whole} over the ${axis} at every pixel. Likely ${likely}. If they are logits: ${trust}`,
  );
}

/** In every head, probabilities in [0, 1] that sum to 1 over the classes, to 1e-3. */
export function checkProbabilities(argument: string, { views, classes, pixels }: HeadViews): void {
  const sums = new Float64Array(pixels);
  views.forEach((view, k) => {
    const name = views.length > 1 ? `head ${k} of ${argument}` : argument;
    sums.fill(0);
    for (let c = 0; c < classes; c++) {
      const offset = c * pixels;
      for (let i = 0; i < pixels; i++) {
        const p = view[offset + i] as number;
        if (!(p >= -PROBABILITY_SLACK && p <= 1 + PROBABILITY_SLACK)) {
          fail("ERR_LE_VALUE", name, "probabilities from 0 to 1", `${p} at class ${c}, position ${i}`);
        }
        sums[i] = (sums[i] as number) + p;
      }
    }
    for (let i = 0; i < pixels; i++) {
      const sum = sums[i] as number;
      if (Math.abs(sum - 1) > SUM_SLACK) {
        fail("ERR_LE_VALUE", name, "probabilities that sum to 1 over the classes", `a sum of ${sum} at position ${i}`);
      }
    }
  });
}

/** What values add up to that are shares of a whole: probabilities, percentages, bytes. */
const WHOLES = [1, 100, 255];
/** Fewer pixels may add up by chance. */
const FEWEST_PIXELS = 4;

/**
 * What heads that are said to be logits look like instead: of some head the values of every pixel are none negative and sum to
 * 1 (or 100, or 255) along an axis. Undefined where they do not, and for a single class, whose only share is 1. Of logits this
 * takes a look at a few pixels.
 */
function lookLikeShares({
  views,
  classes,
  pixels,
}: HeadViews): { whole: number; axis: "classes" | "heads" } | undefined {
  if (pixels < FEWEST_PIXELS || classes < 2) return undefined;
  const whole = (terms: number, at: (term: number, i: number) => number) =>
    WHOLES.find((sum) => addUpTo(sum, terms, pixels, at));
  for (const view of views) {
    const sum = whole(classes, (c, i) => view[c * pixels + i] as number);
    if (sum !== undefined) return { whole: sum, axis: "classes" };
  }
  if (views.length < 2) return undefined;
  const sum = whole(views.length, (k, i) => (views[k] as FloatArray)[i] as number);
  return sum === undefined ? undefined : { whole: sum, axis: "heads" };
}

/** Whether at each of the pixels some terms of at least 0 add up to a sum, as far as rounding to bytes lets them. */
function addUpTo(sum: number, terms: number, pixels: number, at: (term: number, i: number) => number): boolean {
  const slack = sum * (0.01 + terms / 500);
  for (let i = 0; i < pixels; i++) {
    let total = 0;
    for (let term = 0; term < terms; term++) {
      const value = at(term, i);
      if (!(value >= -PROBABILITY_SLACK)) return false;
      total += value;
    }
    if (Math.abs(total - sum) > slack) return false;
  }
  return true;
}
