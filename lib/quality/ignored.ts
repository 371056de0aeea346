// The label of a truth that is left out: one meaning for every metric.
import { fail } from "../checks.js";
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

/**
 * Whether masks leave open what 255 means in those that hold 0 and 255 alone. A mask that has it beside a further label shows that
 * it is no class; but a stray pixel of 1 in one mask of 0 and 255 does not show it for all the others, so that those which hold 0
 * and 255 alone must not be more than those with a further label.
 * @param apart masks of 0 and 255 alone
 * @param indices masks with a further label
 * @param both whether one of these has 255 as well
 */
export function notShown(apart: number, indices: number, both: boolean): boolean {
  return apart > 0 && (!both || apart > indices);
}

/** Masks of which nobody has said what 255 means: one rule for all of them. See {@link notShown}. */
export class UnsaidLabels {
  #zero = false;
  /** The first mask with 255; and the first with 0 and 255 alone. */
  #full: string | undefined;
  #first: string | undefined;
  #apart = 0;
  #indices = 0;
  #both = false;

  /** @param source names the mask */
  see(source: string, labels: Uint8Array): void {
    const [zero, full] = [labels.includes(0), labels.includes(255)];
    const other = labels.some((label) => label !== 0 && label !== 255);
    this.#zero ||= zero;
    this.#both ||= full && other;
    if (other) this.#indices++;
    if (full) this.#full ??= source;
    if (full && zero && !other) {
      this.#first ??= source;
      this.#apart++;
    }
  }

  /** A mask of which 255 may mean either; undefined where all are clear. */
  get unclear(): string | undefined {
    if (this.#indices > 0) return notShown(this.#apart, this.#indices, this.#both) ? this.#first : undefined;
    return this.#zero ? this.#full : undefined;
  }

  /** @throws ERR_LE_VALUE for one that is unclear */
  check(): void {
    const { unclear } = this;
    if (unclear !== undefined) fail("ERR_LE_VALUE", unclear, "class indices", `0 and 255 alone: ${UNSAID_CURE}`);
  }
}

/**
 * Refuses truths in which 255 may mean either, unless it is said which label is left out: see {@link UnsaidLabels}.
 * @throws ERR_LE_VALUE
 */
export function checkSaid(
  given: number | null | undefined,
  classes: number,
  truths: Iterable<readonly [source: string, labels: Uint8Array]>,
): void {
  if (given !== undefined || classes > 255) return;
  const unsaid = new UnsaidLabels();
  for (const [source, labels] of truths) unsaid.see(source, labels);
  unsaid.check();
}

/** What to do about an {@link UnsaidLabels.unclear} truth. */
export const UNSAID_CURE =
  "give 1 in the place of 255 where that is the foreground, or option 'ignoreIndex': 255 where it does not count";
