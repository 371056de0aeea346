import type { NdArray } from "../arrays.js";
import { checkLabels, checkSameShape, fail } from "../checks.js";
import type { HeadViews } from "../fusion/heads.js";

/** Checks an image's truth and counts its pixels that are not ignored. @returns what it is now, each property read once */
export function checkTruth(
  argument: string,
  truth: NdArray<Uint8Array>,
  { classes, spatial }: Pick<HeadViews, "classes" | "spatial">,
  ignoreIndex: number,
): { truth: Uint8Array; counted: number } {
  if (classes > ignoreIndex && ignoreIndex === 255)
    fail("ERR_LE_OPTION", "option 'ignoreIndex'", "null or another label, as 255 is one of 256 classes,", "255");
  const { data, shape } = checkLabels(argument, truth, { classes, rank: 1, axes: "S", ignoreIndex });
  checkSameShape(argument, shape, spatial);
  let counted = 0;
  for (const y of data) if (y !== ignoreIndex) counted++;
  return { truth: data, counted };
}
