import type { NdArray } from "../arrays.js";
import { checkLabels, checkSameShape, type HeadViews } from "../fusion/input.js";

/** Checks an image's truth and counts its pixels that are not ignored. */
export function checkTruth(
  argument: string,
  truth: NdArray<Uint8Array>,
  { classes, spatial }: Pick<HeadViews, "classes" | "spatial">,
  ignoreIndex: number,
): number {
  checkLabels(argument, truth, { classes, rank: 1, axes: "S", ignoreIndex });
  checkSameShape(argument, truth.shape, spatial);
  let counted = 0;
  for (const y of truth.data) if (y !== ignoreIndex) counted++;
  return counted;
}
