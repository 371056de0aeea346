// Label maps: whole numbers that bytes or two bytes hold.
import type { NumericArray } from "../arrays.js";

/** The greatest label: labels are written as uint16 at most. */
const MAX_LABEL = 65_535;

/** Numbers as labels, in as few bytes as hold them, and how far the furthest was from a whole number. */
export interface Labels {
  data: Uint8Array | Uint16Array;
  furthest: number;
}

/**
 * The labels that numbers are.
 * @param tolerance how far from a whole number one may be
 * @param refuse throws for one that is no label
 */
export function toLabels(
  data: NumericArray,
  tolerance: number,
  refuse: (expected: string, received: string) => never,
): Labels {
  if (data instanceof Uint8Array) return { data: data.slice(), furthest: 0 };
  let most = 0;
  let furthest = 0;
  for (let i = 0; i < data.length; i++) {
    const value = data[i] as number;
    const label = Math.round(value);
    const distance = Math.abs(value - label);
    if (!(distance <= tolerance && label >= 0 && label <= MAX_LABEL))
      refuse(`whole numbers from 0 to ${MAX_LABEL}`, `${value} at position ${i}`);
    if (label > most) most = label;
    if (distance > furthest) furthest = distance;
  }
  const labels = most > 255 ? new Uint16Array(data.length) : new Uint8Array(data.length);
  for (let i = 0; i < labels.length; i++) labels[i] = Math.round(data[i] as number);
  return { data: labels, furthest };
}
