// The label of a truth that is left out: one meaning for every metric.
import { option } from "../options.js";

/** Specification of an option `ignoreIndex`. */
export const IGNORE_INDEX = option.anyOf(option.integer({ min: 0, max: 255 }), option.oneOf([null]));

/** No label of a byte: nothing is left out. */
export const NOTHING = -1;

/** The label that is left out: as given, else 255 where that is no class; {@link NOTHING} for none. */
export function leftOut(given: number | null | undefined, classes: number): number {
  if (given !== undefined) return given ?? NOTHING;
  return classes > 255 ? NOTHING : 255;
}
