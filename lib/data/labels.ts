// What the numbers in masks mean: one rule for a whole set of masks, decided once, then held against every mask.
import type { NumericArray } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";
import { option } from "../options.js";
import { notShown } from "../quality/ignored.js";

/** How masks say which class a pixel has. */
export interface LabelRule {
  /** The stored number that means "do not count this pixel"; null where every pixel counts. */
  ignore: number | null;
  /** `"index"`: a number is a class. `"0/255"`: 0 is background and 255 is class 1. */
  scale: "index" | "0/255";
}

/** What is known of a {@link LabelRule} before the masks are looked at. */
export interface LabelOptions {
  /**
   * The stored number that means "do not count this pixel", any integer; null where every pixel counts.
   * @default 255, where it is no class by `scale`; masks without it have none
   */
  ignore?: number | null;
  /**
   * `"index"`: a number is a class. `"0/255"`: 0 is background and 255 is class 1. `"auto"`: `"0/255"` where all masks
   * together hold 0 and 255 alone, else `"index"`; masks that can be read either way are refused.
   * @default "auto"
   */
  scale?: "auto" | "index" | "0/255";
}

/** Values of {@link LabelOptions.scale}. */
export const SCALES = ["auto", "index", "0/255"] as const;

/** Specifications of {@link LabelOptions}. */
export const LABEL_OPTIONS = {
  ignore: option.orNull(option.integer({ min: -(2 ** 31), max: 2 ** 32 })),
  scale: option.oneOf(SCALES),
};

/** How many pixels of how many images do not count. */
export interface Ignored {
  /** Pixels that do not count. */
  pixels: number;
  /** Images with such pixels. */
  images: number;
  /** Images of which no pixel is left: they have no Dice, no distance and no likelihood. */
  unlabelled: number;
}

/** What one mask holds. */
export interface LabelCounts {
  /** The mask's file or sample, for messages. */
  source: string;
  /** Number of pixels by stored number. */
  counts: ReadonlyMap<number, number>;
}

/** Label of a pixel that does not count, in memory, where the stored number is no byte or is a class there. */
const IGNORED = 255;
/** Of more different numbers a mask is an image. */
const MOST_LABELS = 1000;
/** Of more classes nobody is taken to have been silent. */
const MOST_IMPLIED = 64;

const RULE_OPTIONS = "say which by the option labels (--labels index or 0/255, --ignore)";

/**
 * Counts the numbers of a mask.
 * @throws ERR_LE_DATA for fractions, and for so many numbers that it is no mask
 */
export function countLabels(source: string, data: NumericArray | ArrayLike<number>): LabelCounts {
  const counts = new Map<number, number>();
  if (data instanceof Uint8Array) {
    const bytes = new Uint32Array(256);
    for (let i = 0; i < data.length; i++) bytes[data[i] as number]!++;
    for (let label = 0; label < 256; label++) if (bytes[label]) counts.set(label, bytes[label] as number);
    return { source, counts };
  }
  for (let i = 0; i < data.length; ) {
    const label = data[i] as number;
    const start = i;
    while (i < data.length && data[i] === label) i++;
    if (!Number.isInteger(label)) throw refusal("whole numbers", source, `${label} at position ${start}`);
    counts.set(label, (counts.get(label) ?? 0) + i - start);
    if (counts.size > MOST_LABELS)
      throw refusal(`at most ${MOST_LABELS} labels`, source, "more: an image in the place of a mask");
  }
  return { source, counts };
}

/**
 * The rule of a set of masks: what was asked for, else what all of them together show.
 * @param classes with background, where it is known
 * @throws ERR_LE_DATA for masks that can be read in two ways, naming an example of each; ERR_LE_OPTION
 */
export function decideLabels(
  masks: Iterable<LabelCounts>,
  { ignore, scale = "auto" }: LabelOptions,
  classes?: number,
): LabelRule {
  if (scale === "0/255") {
    if (ignore === 0 || ignore === 255)
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        `Expected another ignored label than 0 and 255, which are the classes of masks of 0/255, for option 'labels' but received ${ignore}`,
      );
    return { ignore: ignore ?? null, scale };
  }
  if (scale === "index" || ignore === 255) return { ignore: ignore === undefined ? 255 : ignore, scale: "index" };
  const all = [...masks].map((mask) => ({ ...mask, ...glance(mask.counts, ignore) }));
  const full = all.find((mask) => mask.full);
  if (!full) {
    checkBackground(all, ignore);
    return { ignore: ignore ?? null, scale: "index" };
  }
  // Some mask holds 255, and nobody has said what it means.
  const other = all.find((mask) => mask.class !== undefined);
  if (!other) {
    if (!all.some((mask) => mask.zero))
      throw refusal("masks that can be read in one way", full.source, `255 alone, as in all masks: ${RULE_OPTIONS}`);
    if (classes !== undefined && classes !== 2) {
      const received = `0 and 255 alone, as in all masks, with ${classes} classes: ${RULE_OPTIONS}`;
      throw refusal("masks that can be read in one way", full.source, received);
    }
    return { ignore: ignore ?? null, scale: "0/255" };
  }
  if (ignore !== undefined) return { ignore, scale: "index" };
  const apart = unshown(all);
  if (apart) {
    const received = `${other.class} there but 0 and 255 in ${apart.source}, as if both class indices and 0/255 were meant: ${RULE_OPTIONS}`;
    throw refusal("masks of one kind", other.source, received);
  }
  checkBackground(all, 255);
  return { ignore: 255, scale: "index" };
}

/**
 * A mask of 0 and 255 alone, of which the others do not show that 255 is no class there: what a rule of class indices with 255
 * ignored would leave out may be the foreground. See {@link notShown}.
 */
export function unclearMask(masks: Iterable<LabelCounts>, { ignore, scale }: LabelRule): string | undefined {
  if (scale !== "index" || ignore !== 255) return undefined;
  return unshown([...masks].map((mask) => ({ source: mask.source, ...glance(mask.counts, null) })))?.source;
}

/** The first mask of 0 and 255 alone, unless the others show what its 255 means. */
function unshown<T extends ReturnType<typeof glance>>(masks: readonly T[]): T | undefined {
  const apart = masks.filter((mask) => mask.full && mask.zero && mask.class === undefined);
  const indices = masks.filter((mask) => mask.class !== undefined);
  return notShown(
    apart.length,
    indices.length,
    indices.some((mask) => mask.full),
  )
    ? apart[0]
    : undefined;
}

/** What decides how a mask can be read: whether it has 0, whether 255, and some other label. */
function glance(counts: LabelCounts["counts"], ignore: number | null | undefined) {
  const labels = [...counts.keys()].filter((label) => label !== ignore);
  return {
    zero: labels.includes(0),
    full: labels.includes(255),
    class: labels.find((label) => label !== 0 && label !== 255),
  };
}

/** Masks that count their classes from 1 have no background in the sense of this package. */
function checkBackground(masks: readonly LabelCounts[], ignore: number | null | undefined): void {
  const labels = new Map<number, string>();
  for (const { source, counts } of masks)
    for (const label of counts.keys()) if (label !== ignore && !labels.has(label)) labels.set(label, source);
  if (labels.has(0) || labels.size < 2) return;
  const [least] = [...labels.keys()].sort((a, b) => a - b) as [number];
  const received = `no 0 in any mask, as if the classes began at ${least}: subtract ${least}, or say that 0 is nowhere by labels: { scale: "index" } (--labels index)`;
  throw refusal("background with the label 0", labels.get(least) as string, received);
}

/**
 * Holds masks against their rule.
 * @param classes with background; undefined where the masks themselves have to say
 * @returns the classes' indices that the masks hold, ascending, the ignored label left out
 * @throws ERR_LE_DATA naming the mask
 */
export function checkMasks(masks: Iterable<LabelCounts>, rule: LabelRule, classes?: number): number[] {
  const first = new Map<number, LabelCounts>();
  for (const mask of masks) for (const label of mask.counts.keys()) if (!first.has(label)) first.set(label, mask);
  if (rule.ignore !== null) first.delete(rule.ignore);
  const found = [...first.keys()].sort((a, b) => a - b);
  if (rule.scale === "0/255") {
    const ignored = rule.ignore === null ? "" : `, or ${rule.ignore} (ignored)`;
    for (const label of found) {
      if (label === 0 || label === 255) continue;
      const mask = first.get(label) as LabelCounts;
      if (isSoft(mask.counts)) throw softRefusal(mask);
      throw refusal(`values 0 and 255${ignored}`, mask.source, String(label));
    }
    return found.map((label) => (label === 0 ? 0 : 1));
  }
  const limit = classes ?? 255;
  const ignored = rule.ignore === null ? "" : `, or ${rule.ignore} (ignored)`;
  for (const label of found) {
    const mask = first.get(label) as LabelCounts;
    if (label >= 0 && label < limit) continue;
    if (isSoft(mask.counts)) throw softRefusal(mask);
    const below = classes === undefined ? "labels from 0 to 254" : `labels below ${classes} (classes)`;
    throw refusal(`${below}${ignored}`, mask.source, `the label ${label}${hint(label, rule)}`);
  }
  if (classes === undefined) checkImplied(found, first);
  return found;
}

/** What to do about a label that is no class. */
function hint(label: number, { ignore }: LabelRule): string {
  if (label < 0) return `: if it means "do not count", say so by labels: { ignore: ${label} } (--ignore ${label})`;
  if (label === 255 && ignore === null)
    return ', which the masks that the rule was made from do not have: if it means "do not count", say so by labels: { ignore: 255 } (--ignore 255); if it is class 1, by labels: { scale: "0/255" } (--labels 0/255)';
  if (label === 65_535) return ": save masks of 0 and 65535 with 0 and 255, or 0 and 1";
  return "";
}

/** Classes that nobody has named and that hardly any mask holds are no classes. */
function checkImplied(found: readonly number[], first: ReadonlyMap<number, LabelCounts>): void {
  const largest = found.at(-1) ?? 0;
  const absent = largest - found.filter((label) => label > 0).length;
  if (largest < MOST_IMPLIED && (largest < 2 || 2 * absent < largest)) return;
  const mask = first.get(largest) as LabelCounts;
  if (isSoft(mask.counts)) throw softRefusal(mask);
  const names = found.length > 8 ? `${found.length} labels up to ${largest}` : `the labels ${found.join(", ")} alone`;
  const received = `${names}, which would make ${largest + 1} classes: say how many there are by the option classes (--classes)`;
  throw refusal("labels that follow one another", mask.source, received);
}

/** Several numbers between, most pixels at both ends: a mask of 0 and 255 that was resized or stored with loss. */
function isSoft(counts: LabelCounts["counts"]): boolean {
  let [low, high, between, all, inside] = [0, 0, 0, 0, 0];
  for (const [label, pixels] of counts) {
    all += pixels;
    if (label < 0 || label > 255) return false;
    if (label <= 8) low += pixels;
    if (label >= 247) high += pixels;
    if (label > 0 && label < 255) between++;
    if (label > 32 && label < 255) inside++;
  }
  // An object of which nothing is left but its edges has no 255.
  return between >= 2 && inside >= 1 && (high > 0 || between >= 8) && 2 * (low + high) >= all;
}

function softRefusal({ source, counts }: LabelCounts): LayerEnsemblesError {
  const between = [...counts.keys()].filter((label) => label > 0 && label < 255);
  const shown = between.length > 4 ? `${between.slice(0, 4).join(", ")}, …` : between.join(", ");
  const received = `${shown} between them, as in a mask of 0 and 255 with soft edges (resized with interpolation, or once a JPEG): make 0 of what is below 128 and 255 of the rest, and resize masks by the nearest pixel`;
  return refusal("class indices, or 0 and 255", source, received);
}

/** Label of a pixel that does not count, after {@link applyLabels}. */
export function ignoredLabel({ ignore, scale }: LabelRule): number {
  return scale === "index" && ignore !== null && ignore >= 0 && ignore <= 255 ? ignore : IGNORED;
}

/** Class indices from stored numbers that {@link checkMasks} has passed; {@link ignoredLabel} where a pixel does not count. */
export function applyLabels(data: NumericArray, rule: LabelRule): Uint8Array {
  const { ignore, scale } = rule;
  const ignored = ignoredLabel(rule);
  if (scale === "index" && data instanceof Uint8Array && (ignore === null || ignore === ignored)) return data.slice();
  const out = new Uint8Array(data.length);
  for (let i = 0; i < out.length; i++) {
    const label = data[i] as number;
    out[i] = label === ignore ? ignored : scale === "index" ? label : label === 0 ? 0 : 1;
  }
  return out;
}

/** Pixels that do not count, of some masks. */
export function countIgnored(masks: Iterable<LabelCounts>, { ignore }: LabelRule): Ignored {
  const result: Ignored = { pixels: 0, images: 0, unlabelled: 0 };
  for (const { counts } of masks) addIgnored(result, ignore === null ? 0 : (counts.get(ignore) ?? 0), counts.size > 1);
  return result;
}

/** Adds an image. @param left whether pixels are left that count */
export function addIgnored(sum: Ignored, pixels: number, left: boolean): void {
  sum.pixels += pixels;
  if (pixels > 0) sum.images++;
  if (pixels > 0 && !left) sum.unlabelled++;
}

/** One sentence for people; undefined where every pixel counts. */
export function describeIgnored(
  { pixels, images, unlabelled }: Ignored,
  of: number,
  label?: number | null,
): string | undefined {
  if (images === 0) return undefined;
  const which = label === undefined || label === null ? "" : ` (label ${label})`;
  const none =
    unlabelled === 0
      ? ""
      : `; no pixel is left of ${unlabelled}, which ${unlabelled === 1 ? "has" : "have"} no Dice, distance or nll`;
  return `ignored${which}: ${pixels} pixels of ${images} of ${of} images${none}`;
}

function refusal(expected: string, source: string, received: string): LayerEnsemblesError {
  return new LayerEnsemblesError("ERR_LE_DATA", `Expected ${expected} for the mask ${source} but received ${received}`);
}
