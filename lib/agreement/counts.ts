import type { NdArray } from "../arrays.js";
import { checkClasses, checkLabelLayout, checkLabels, checkLabelValues, fail } from "../checks.js";
import { findPatterns, type Patterns } from "../fusion/patterns.js";
import { describe } from "../options.js";
import { countNeighboursInWasm } from "./neighbours.js";

/**
 * What the label maps m_1..m_K of one image's heads come to: enough for every measure of agreement, and small. K heads in
 * depth order, C classes.
 */
export interface AgreementCounts {
  /** K. */
  heads: number;
  /** C. */
  classes: number;
  /** K×C: number of pixels with m_k = c. */
  counts: ArrayLike<number>;
  /** K×K×C: number of pixels with m_j = c and m_k = c. Only j < k is read. */
  intersections: ArrayLike<number>;
}

/** Of label maps. */
const LABELS = { rank: 2, axes: "K×S" };

/**
 * Counts labels and common labels.
 * @param labels K×S, of {@link labelMaps}.
 * @param classes C.
 * @returns Also the intersections with j ≥ k: symmetric, with the counts on the diagonal.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function countAgreement(labels: NdArray<Uint8Array>, classes: number): AgreementCounts {
  checkClasses("classes", classes);
  const { data, shape } = checkLabels("labels", labels, { classes, ...LABELS });
  const heads = shape[0] as number;
  return countPatterns(findPatterns(data, heads, classes), classes);
}

/** {@link countAgreement} for one who has the patterns of the labels already. */
export function countPatterns({ heads, labels, counts: pixels }: Patterns, classes: number): AgreementCounts {
  const counts = new Float64Array(heads * classes);
  const intersections = new Float64Array(heads * heads * classes);
  for (let d = 0; d < pixels.length; d++) {
    const n = pixels[d] as number;
    const from = d * heads;
    for (let j = 0; j < heads; j++) {
      const label = labels[from + j] as number;
      const own = j * classes + label;
      counts[own] = (counts[own] as number) + n;
      for (let k = j + 1; k < heads; k++) {
        if (labels[from + k] !== label) continue;
        const common = (j * heads + k) * classes + label;
        intersections[common] = (intersections[common] as number) + n;
      }
    }
  }
  for (let j = 0; j < heads; j++) {
    for (let c = 0; c < classes; c++) {
      intersections[(j * heads + j) * classes + c] = counts[j * classes + c] as number;
      for (let k = j + 1; k < heads; k++) {
        intersections[(k * heads + j) * classes + c] = intersections[(j * heads + k) * classes + c] as number;
      }
    }
  }
  return { heads, classes, counts, intersections };
}

/**
 * {@link countAgreement} of each head with the next alone, and of the last with itself, the other intersections being 0: enough
 * for AULA, in a small part of the time.
 */
export function countNeighbours(labels: NdArray<Uint8Array>, classes: number): AgreementCounts {
  checkClasses("classes", classes);
  const own = checkLabelLayout("labels", labels, { classes, ...LABELS });
  const heads = own.shape[0] as number;
  return countNeighboursInWasm(own.data, heads, classes) ?? countNeighboursInScript(own, classes);
}

/**
 * {@link countNeighbours} without WebAssembly. Masks are mostly large areas, so that neighbouring pixels are alike: labels are
 * read four at a time, run by run.
 * @throws ERR_LE_VALUE
 */
export function countNeighboursInScript(labels: NdArray<Uint8Array>, classes: number): AgreementCounts {
  const heads = labels.shape[0] as number;
  const pixels = labels.data.length / heads;
  const counts = new Float64Array(heads * classes);
  const intersections = new Float64Array(heads * heads * classes);
  // Filled up to whole words with pixels of class 0, which are taken away at last.
  const words = Math.ceil(pixels / 4);
  let row = new Uint8Array(words * 4);
  let next = new Uint8Array(words * 4);
  const copy = (k: number, to: Uint8Array) => to.set(labels.data.subarray(k * pixels, (k + 1) * pixels));
  copy(0, next);
  let highest = 0;
  for (let k = 0; k < heads; k++) {
    [row, next] = [next, row];
    const last = k === heads - 1;
    copy(last ? k : k + 1, next);
    const a = new Uint32Array(row.buffer);
    const b = new Uint32Array(next.buffer);
    const common = (last ? k * heads + k : k * heads + k + 1) * classes;
    for (let i = 0; i < words; ) {
      const start = i;
      const own = a[i] as number;
      const other = b[i] as number;
      do i++;
      while (a[i] === own && b[i] === other);
      const run = i - start;
      const first = own & 255;
      if (own === other && own === first * 0x01010101) {
        if (first > highest) highest = first;
        counts[k * classes + first] = (counts[k * classes + first] as number) + 4 * run;
        intersections[common + first] = (intersections[common + first] as number) + 4 * run;
        continue;
      }
      for (let shift = 0; shift < 32; shift += 8) {
        const label = (own >>> shift) & 255;
        if (label > highest) highest = label;
        counts[k * classes + label] = (counts[k * classes + label] as number) + run;
        if (label === ((other >>> shift) & 255)) {
          intersections[common + label] = (intersections[common + label] as number) + run;
        }
      }
    }
    counts[k * classes] = (counts[k * classes] as number) - (words * 4 - pixels);
    intersections[common] = (intersections[common] as number) - (words * 4 - pixels);
  }
  if (highest >= classes) checkLabelValues("labels", labels, { classes, ...LABELS });
  return { heads, classes, counts, intersections };
}

/** Sizes that fit and counts that are counts. */
export function checkCounts({ heads, classes, counts, intersections }: AgreementCounts): void {
  if (!Number.isSafeInteger(heads) || heads < 1) {
    fail("ERR_LE_VALUE", "counts.heads", "a positive integer", describe(heads));
  }
  checkClasses("counts.classes", classes);
  const expected = { counts: heads * classes, intersections: heads * heads * classes };
  for (const [name, values] of [["counts", counts] as const, ["intersections", intersections] as const]) {
    if (values?.length !== expected[name]) {
      fail("ERR_LE_SHAPE", `counts.${name}`, `${expected[name]} numbers`, describe(values));
    }
    for (let i = 0; i < values.length; i++) {
      if (!Number.isSafeInteger(values[i]) || (values[i] as number) < 0) {
        fail("ERR_LE_VALUE", `counts.${name}`, "numbers of pixels", `${describe(values[i])} at index ${i}`);
      }
    }
  }
}

/** Dice of heads j < k for class c; 1 where both are empty. */
export function headDice(of: AgreementCounts, j: number, k: number, c: number): number {
  const either = (of.counts[j * of.classes + c] as number) + (of.counts[k * of.classes + c] as number);
  return either === 0 ? 1 : (2 * (of.intersections[(j * of.heads + k) * of.classes + c] as number)) / either;
}

/** Whether at least one head gives some pixel class c. */
export function isPredicted(of: AgreementCounts, c: number): boolean {
  for (let k = 0; k < of.heads; k++) if ((of.counts[k * of.classes + c] as number) > 0) return true;
  return false;
}

/** Whether no head gives any pixel a foreground class, so that their agreement is about nothing. */
export function isEmpty(of: AgreementCounts): boolean {
  for (let c = 1; c < of.classes; c++) if (isPredicted(of, c)) return false;
  return true;
}
