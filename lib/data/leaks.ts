// What must not be in two splits: groups, and the same image under two names.
import { createHash } from "node:crypto";
import type { NdArray, NumericArray } from "../arrays.js";
import { dataError } from "./image.js";

/**
 * A hash of an image's stored numbers, whatever file and type they were in; undefined for an image of one value, which says
 * nothing. Grey that was saved as RGB is grey.
 */
export function contentOf({ data, shape }: NdArray<NumericArray>): string | undefined {
  const planes = shape.length > 2 ? (shape[0] as number) : 1;
  const size = data.length / planes;
  const grey = planes === 3 && sameAs(data, size, size) && sameAs(data, 2 * size, size);
  const values = grey ? data.subarray(0, size) : data;
  const first = values[0] as number;
  let constant = true;
  let bytes = true;
  for (let i = 0; i < values.length && (constant || bytes); i++) {
    const value = values[i] as number;
    if (value !== first) constant = false;
    if (value !== (value & 255)) bytes = false;
  }
  if (constant) return undefined;
  const stored = values instanceof Uint8Array ? values : bytes ? Uint8Array.from(values) : Float32Array.from(values);
  return createHash("sha256")
    .update(`${bytes ? "u1" : "f4"} ${grey ? 1 : planes}×${shape.slice(shape.length > 2 ? 1 : 0).join("×")}\n`)
    .update(new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength))
    .digest("base64url")
    .slice(0, 22);
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

/** Which images a network has seen, so that none is among those that it is judged by. */
export class SeenImages {
  readonly #by = new Map<string, { split: string; id: string }>();

  /** @param splits by name what was seen */
  constructor(splits: Iterable<readonly [split: string, images: Iterable<SeenImage>]> = []) {
    for (const [split, images] of splits)
      for (const [id, content] of images) if (!this.#by.has(content)) this.#by.set(content, { split, id });
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

/** One sentence for people. */
export function describeSeen(seen: number, of: number): string {
  return `${seen} of the ${of} images ${seen === 1 ? "is one" : "are among those"} that the training or the validation saw: results look too good`;
}
