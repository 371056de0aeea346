// What must not be in two splits: groups, and the same image under two names.
import { createHash } from "node:crypto";
import type { NdArray, NumericArray } from "../arrays.js";
import { type OptionSpec, option } from "../options.js";
import { dataError } from "./image.js";

/** Before each hash: the version of how it is made, to be raised with it. Those of another version say nothing. */
const HASHED = "2:";

/** Values of an image that may have been 8-bit once; and to how many steps of its range they are rounded then. */
const [FEW, STEPS] = [256, 4096];

/**
 * A hash of what an image shows, whatever file and type its numbers were in, and whatever scale and offset they have: 8 bits that
 * became 16, or 0 to 1 in single precision, are the same image. Undefined for an image of one value, which says nothing. Grey that
 * was saved as RGB is grey.
 */
export function contentOf({ data, shape }: NdArray<NumericArray>): string | undefined {
  const planes = shape.length > 2 ? (shape[0] as number) : 1;
  const size = data.length / planes;
  const grey = planes === 3 && sameAs(data, size, size) && sameAs(data, 2 * size, size);
  const values = grey ? data.subarray(0, size) : data;
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const range = high - low;
  if (!(range > 0)) return undefined;
  // Ratios of differences are the same, to the last bit, on any scale of whole numbers; single precision rounds before.
  const few = isFew(values);
  const shown = new (few ? Uint16Array : Float32Array)(values.length);
  const show = (value: number) => (few ? Math.round((STEPS * (value - low)) / range) : (value - low) / range);
  if (values instanceof Uint8Array || values instanceof Uint16Array) {
    const table = Float32Array.from({ length: range + 1 }, (_, i) => show(low + i));
    for (let i = 0; i < shown.length; i++) shown[i] = table[(values[i] as number) - low] as number;
  } else for (let i = 0; i < shown.length; i++) shown[i] = show(values[i] as number);
  const hash = createHash("sha256")
    .update(`${grey ? 1 : planes}×${shape.slice(shape.length > 2 ? 1 : 0).join("×")}\n`)
    .update(new Uint8Array(shown.buffer))
    .digest("base64url");
  return HASHED + hash.slice(0, 22);
}

/** Whether there are at most {@link FEW} different values. */
function isFew(values: NumericArray): boolean {
  if (values instanceof Uint8Array) return true;
  if (values instanceof Uint16Array) {
    const seen = new Uint8Array(1 << 16);
    for (let i = 0; i < values.length; i++) seen[values[i] as number] = 1;
    return seen.reduce((sum, one) => sum + one, 0) <= FEW;
  }
  const distinct = new Set<number>();
  let last: number | undefined;
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (value !== last && distinct.add(value).size > FEW) return false;
    last = value;
  }
  return true;
}

function sameAs(data: NumericArray, offset: number, length: number): boolean {
  for (let i = 0; i < length; i++) if (data[i] !== data[offset + i]) return false;
  return true;
}

/**
 * Checks that no group of the splits in use is in a second split.
 * @param used the splits that are trained on, chosen by or reported
 * @throws ERR_LE_DATA naming the group and both splits
 */
export function checkGroups(
  images: Iterable<{ group?: string; split?: string }>,
  used: readonly string[],
  folder: string,
): void {
  const splitOf = new Map<string, string>();
  for (const { group, split } of images) {
    if (group === undefined || split === undefined) continue;
    const other = splitOf.get(group);
    if (other !== undefined && other !== split && used.some((name) => name === other || name === split)) {
      const received = `it in "${other}" and "${split}" (images of one group in two splits make results look too good)`;
      throw dataError(folder, `group "${group}" of`, "one split", received);
    }
    splitOf.set(group, split);
  }
}

/** An image of a split that is trained on or chosen by: its name, and a hash of its stored numbers. */
export type SeenImage = readonly [id: string, content: string];

/** Specification of what is recorded of such images. */
export const SEEN_IMAGES: OptionSpec = option.array(option.array(option.string({ empty: true }), { length: 2 }));

/** Which images a network has seen, so that none is among those that it is judged by. */
export class SeenImages {
  readonly #by = new Map<string, { split: string; id: string }>();
  readonly #unknown = new Set<string>();

  /** @param splits by name what was seen; undefined where that is not recorded */
  constructor(splits: Iterable<readonly [split: string, images: Iterable<SeenImage> | undefined]> = []) {
    for (const [split, images] of splits) {
      if (!images) this.#unknown.add(split);
      for (const [id, content] of images ?? []) {
        if (!content.startsWith(HASHED)) this.#unknown.add(split);
        if (!this.#by.has(content)) this.#by.set(content, { split, id });
      }
    }
  }

  /** Splits of which other versions recorded what was seen, if anything: whether an image is among it is not known. */
  get unknown(): string[] {
    return [...this.#unknown];
  }

  /** Where an image was seen; undefined for one that was not. */
  find(content: string | undefined): { split: string; id: string } | undefined {
    return content === undefined ? undefined : this.#by.get(content);
  }

  /**
   * @throws ERR_LE_DATA naming both where the image was seen
   */
  check(id: string, content: string | undefined, split: string, folder: string): void {
    const other = this.find(content);
    if (!other) return;
    const received = `the same image as ${other.id} in "${other.split}" and as ${id} in "${split}" (results look too good; --allow-duplicates, or allowDuplicates, takes them all the same)`;
    throw dataError(folder, "splits of", "different images", received);
  }
}

/** One sentence for people. @param run a run's folder @param splits as {@link SeenImages.unknown} */
export function describeUnknown(run: string, splits: readonly string[]): string {
  const named = splits.map((split) => `"${split}"`).join(" and ");
  return `${run} does not record what its images of ${named} show as this version compares it: whether the images are among them is not known. Train or tune it again to have that checked`;
}

/** One sentence for people. */
export function describeSeen(seen: number, of: number): string {
  return `${seen} of the ${of} images ${seen === 1 ? "is one" : "are among those"} that the training, the validation or tune saw: results look too good`;
}
