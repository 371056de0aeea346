import type { NdArray } from "../arrays.js";
import { checkLabels, checkSameShape, type FloatArray } from "../checks.js";
import { argmax } from "../fusion/fuse.js";
import { checkProbabilities, singleView } from "../fusion/heads.js";
import { checkOptions } from "../options.js";
import { checkSaid, IGNORE_INDEX, leftOut } from "../quality/ignored.js";
import { BUCKETS, bucketFinder, levelsOf } from "./levels.js";
import { classView, type SetName } from "./pixel-sets.js";

const STEPS = 1000;

/**
 * The λ among which thresholds are chosen, fixed before any image is seen: 1 - (1 - t)² for t from 0 to 1 in steps of 1/1000,
 * so that they lie the closer, the less of the mass is left out: 1e-6 apart at 1, where outer masks grow into the background.
 */
export const SHARES: readonly number[] = Array.from({ length: STEPS + 1 }, (_, j) => 1 - (1 - j / STEPS) ** 2);

/** What sets of one image's class would be, by λ. */
export interface SetCurve {
  /** The loss, in [0, 1]; null where it is not defined. */
  loss: Float64Array | null;
  /** Share of the image's counted pixels in the set. */
  size: Float64Array;
}

/** What an image's sets would be for each λ of the grid: its share in the choice of thresholds, without its pixels. */
export interface SetRisk {
  /** By foreground class. Of an image of which no pixel counts, none. */
  perClass: Record<number, Record<SetName, SetCurve>>;
}

/**
 * What the sets of an image would do for each λ of a fixed grid. The loss of the outer mask is the share of the truth outside
 * of it, and not defined without truth. The loss of the inner mask is the share of its own pixels that are false, 0 where it
 * is empty, and the largest so far as λ grows: the share itself may fall again, and what is promised may not. A pixel that does
 * not count is in no share, but has its place in the order: where images are predicted, nobody knows which these are.
 * @param probabilities Fused, C×S, as {@link pixelSets} will be given them: of the same size, without padding.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function pixelSetRisk(
  probabilities: NdArray<FloatArray>,
  truth: NdArray<Uint8Array>,
  options: {
    /** Label of the truth that is left out; null leaves none out. @default 255, where that is no class */
    ignoreIndex?: number | null;
  } = {},
): SetRisk {
  const { ignoreIndex: given } = checkOptions("pixelSetRisk", options, { ignoreIndex: IGNORE_INDEX });
  const input = singleView("probabilities", probabilities);
  const { classes } = input;
  const ignoreIndex = leftOut(given, classes);
  const { data: labels, shape } = checkLabels("truth", truth, { classes, rank: 1, axes: "S", ignoreIndex });
  checkSameShape("truth", shape, input.spatial);
  checkSaid(given, classes, [["truth", labels]]);
  checkProbabilities("probabilities", input);
  if (labels.every((label) => label === ignoreIndex)) return { perClass: {} };
  const mask = argmax(probabilities).data;
  const perClass: SetRisk["perClass"] = {};
  for (let c = 1; c < classes; c++)
    perClass[c] = curvesOf(countByShare(classView(input, c), mask, labels, c, ignoreIndex));
  return { perClass };
}

/** By λ, the counted pixels that enter a set with it, and those of them that are of the class. */
interface Counts {
  all: Float64Array;
  own: Float64Array;
}

function countByShare(
  p: FloatArray,
  mask: Uint8Array,
  labels: Uint8Array,
  c: number,
  ignoreIndex: number,
): Record<SetName, Counts> {
  const levels = levelsOf(p, SHARES);
  const placeOf = placeFinder(levels);
  const counts = (): Counts => ({ all: new Float64Array(levels.length), own: new Float64Array(levels.length) });
  const [inner, outer] = [counts(), counts()];
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i] as number;
    if (label === ignoreIndex) continue;
    const place = placeOf(p[i] as number);
    for (const { all, own } of mask[i] === c ? [inner, outer] : [outer]) {
      all[place] = (all[place] as number) + 1;
      if (label === c) own[place] = (own[place] as number) + 1;
    }
  }
  return { inner, outer };
}

/** The least value of each bucket. */
const LEAST = new Float32Array(Uint32Array.from({ length: BUCKETS + 2 }, (_, bucket) => bucket << 16).buffer);

/** Gives the first level that a probability reaches, of levels that fall from +∞ to -∞. */
function placeFinder(levels: Float64Array): (value: number) => number {
  const search = (value: number, low: number, high: number) => {
    while (low < high) {
      const middle = (low + high) >> 1;
      if (value >= (levels[middle] as number)) high = middle;
      else low = middle + 1;
    }
    return low;
  };
  const last = levels.length - 1;
  const found = new Int16Array(BUCKETS + 2).fill(-1);
  const placeOfLeast = (bucket: number) => {
    if (found[bucket] === -1) found[bucket] = search(LEAST[bucket] as number, 0, last);
    return found[bucket] as number;
  };
  const bucketOf = bucketFinder();
  return (value) => {
    if (!(value > 0)) return last;
    // All of a bucket reach nearly the same one, and rounding may have lifted a value by a bucket.
    const bucket = bucketOf(value);
    return search(value, placeOfLeast(bucket + 2), placeOfLeast(Math.max(0, bucket - 1)));
  };
}

function curvesOf({ inner, outer }: Record<SetName, Counts>): Record<SetName, SetCurve> {
  const [pixels, truth] = [sum(outer.all), sum(outer.own)];
  let worst = 0;
  return {
    inner: curveOf(inner, pixels, (right, within) => {
      if (within > 0) worst = Math.max(worst, (within - right) / within);
      return worst;
    }),
    outer: curveOf(outer, pixels, truth > 0 ? (right) => (truth - right) / truth : null),
  };
}

function curveOf(
  { all, own }: Counts,
  pixels: number,
  lossOf: ((right: number, within: number) => number) | null,
): SetCurve {
  const loss = lossOf && new Float64Array(all.length);
  const size = new Float64Array(all.length);
  for (let j = 0, within = 0, right = 0; j < all.length; j++) {
    within += all[j] as number;
    right += own[j] as number;
    size[j] = within / pixels;
    if (loss) loss[j] = lossOf(right, within);
  }
  return { loss, size };
}

function sum(values: Float64Array): number {
  return values.reduce((total, value) => total + value, 0);
}
