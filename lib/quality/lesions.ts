// Are lesions found? Connected parts of the truth against those of the prediction, per foreground class of one image.
import type { NdArray } from "../arrays.js";
import { pixelSize } from "../grid/units.js";
import { checkOptions, defaultsOf, option, type Values } from "../options.js";
import { type Components, connectedComponents, NEIGHBOURS } from "../scores/components.js";
import { type Place, placesOf } from "../scores/structures.js";
import { checkInput, cut, type Masks, type Region, regions, SURFACE_OPTIONS, type SurfaceOptions } from "./regions.js";

export const LESION_RULE = {
  /**
   * Share of a part that the other mask has to cover, and one pixel at least: a true part is then found, and a predicted one no false
   * positive. @default 0.1
   */
  lesionOverlap: option.number({
    ...{ min: 0, max: 1, default: 0.1, arg: "share" },
    text: "lesions: share of a part that the other mask must cover, and one pixel at least, for it to be found",
  }),
  /** Which pixels are of one part: those that touch over a face alone (4 in 2D, 6 in 3D), or at corners too (8, 26). @default "face" */
  neighbours: option.oneOf(NEIGHBOURS, {
    default: "face",
    text: "lesions: pixels that touch over a face are of one part (4 neighbours; 6 in volumes), or all, at corners too (8; 26)",
  }),
};

/** How parts are told apart, and when one is found. */
export interface LesionRule extends Values<typeof LESION_RULE> {}

/** Options of {@link lesions}. */
export interface LesionOptions extends SurfaceOptions, LesionRule {}

/** A connected part of a mask. */
export interface Lesion extends Place {
  /** In ml of D×H×W with a spacing, in mm² of H×W with one, in pixels without. */
  volume: number;
  /** Share of it that the other mask has, in [0, 1]. */
  covered: number;
  /** Whether that is enough: of the truth, whether it is found; of the prediction, whether it is no false positive. */
  matched: boolean;
}

/** The parts of a class. */
export interface ClassLesions {
  /** Parts of the truth, in the order of their first pixels. */
  truth: Lesion[];
  /** Parts of the prediction, so too. */
  prediction: Lesion[];
  /** Share of the true parts that is found, in [0, 1]; NaN where there is none. */
  sensitivity: number;
  /** How many predicted parts are none of the truth. */
  falsePositives: number;
  /** Share of the predicted parts that are no false positives, in [0, 1]; NaN where nothing is predicted. */
  precision: number;
}

/**
 * Detection lesion by lesion: connected parts of the truth, and whether the prediction finds them; connected parts of the prediction,
 * and whether the truth has them. A part is matched where the other mask of its class covers the share `lesionOverlap` of it.
 * Over cases: sensitivity is the sum of what is found over the number of true parts, false positives per case the mean of theirs.
 * @param prediction S, labels 0..C-1.
 * @param truth S, labels 0..C-1 or `ignoreIndex`; ignored pixels leave both masks first.
 * @returns By class 1..C-1. Where no pixel counts there are no parts, and `falsePositives` is NaN.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function lesions(
  prediction: NdArray<Uint8Array>,
  truth: NdArray<Uint8Array>,
  options: LesionOptions,
): Record<number, ClassLesions> {
  const { lesionOverlap, neighbours, ...rest } = {
    ...defaultsOf(LESION_RULE),
    ...checkOptions("lesions", options, { ...SURFACE_OPTIONS, ...LESION_RULE }),
  };
  const masks = checkInput("lesions", prediction, truth, rest);
  const size = pixelSize(rest.spacing);
  const result: Record<number, ClassLesions> = {};
  for (const [c, region] of regions(masks).entries()) {
    if (c === 0) continue;
    const { a, b, shape, parts } = match(masks, c, region, { lesionOverlap, neighbours });
    const listed = (of: Components | undefined, matches: readonly Match[]): Lesion[] =>
      of
        ? placesOf(of.of, of.labels.length, shape).map(({ voxels, box, centre }, i) => ({
            voxels,
            box: { low: moved(box.low, region), high: moved(box.high, region) },
            centre: moved(centre, region),
            volume: voxels * size,
            ...(matches[i] as Match),
          }))
        : [];
    result[c] = { truth: listed(b, parts.truth), prediction: listed(a, parts.prediction), ...countsOf(region, parts) };
  }
  return result;
}

/** Whether a part is found, or no false positive, of which the other mask has that share. */
export function isMatched(covered: number, lesionOverlap: number): boolean {
  return covered > 0 && covered >= lesionOverlap;
}

interface Match {
  covered: number;
  matched: boolean;
}

/** What {@link countsOf} counts. */
interface Matches {
  truth: readonly Match[];
  prediction: readonly Match[];
}

/** Of the parts of a class. */
export type LesionCounts = Pick<ClassLesions, "sensitivity" | "falsePositives" | "precision">;

/** The same numbers as {@link lesions}, of masks that are checked. */
export function lesionCounts(masks: Masks, c: number, region: Region, rule: Required<LesionRule>): LesionCounts {
  return countsOf(region, match(masks, c, region, rule).parts);
}

function countsOf({ pixels }: Region, { truth, prediction }: Matches): LesionCounts {
  const matched = (parts: readonly Match[]) => parts.filter((part) => part.matched).length;
  return {
    sensitivity: matched(truth) / truth.length,
    falsePositives: pixels === 0 ? Number.NaN : prediction.length - matched(prediction),
    precision: matched(prediction) / prediction.length,
  };
}

/** The parts of both masks of a class, in the box around them. */
function match(
  masks: Masks,
  c: number,
  region: Region,
  { lesionOverlap, neighbours }: Required<LesionRule>,
): { a?: Components; b?: Components; shape: number[]; parts: Matches } {
  if (region.predicted + region.real === 0) return { shape: [], parts: { truth: [], prediction: [] } };
  const { shape, a: predicted, b: real } = cut(masks, c, region);
  const a = connectedComponents(predicted, shape, neighbours);
  const b = connectedComponents(real, shape, neighbours);
  const matches = (own: Components, other: Components) => {
    const voxels = new Float64Array(own.labels.length);
    const both = new Float64Array(own.labels.length);
    for (let i = 0; i < own.of.length; i++) {
      const part = (own.of[i] as number) - 1;
      if (part < 0) continue;
      voxels[part]!++;
      if (other.of[i] !== 0) both[part]!++;
    }
    return Array.from(voxels, (count, part): Match => {
      const covered = (both[part] as number) / count;
      return { covered, matched: isMatched(covered, lesionOverlap) };
    });
  };
  return { a, b, shape, parts: { truth: matches(b, a), prediction: matches(a, b) } };
}

/** From the box that begins one pixel before the region to the whole image. */
function moved(index: readonly number[], { low }: Region): number[] {
  return index.map((at, axis) => at + (low[axis] as number) - 1);
}
