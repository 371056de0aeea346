// The calibration cases, checked, and put together as the rules need them.
import { checkFinite, fail } from "../checks.js";
import { describe } from "../options.js";
import { Random } from "../random.js";
import { membersOf } from "../statistics/groups.js";

/** Calibration cases: images that chose nothing of what they judge. n of them. */
export interface CalibrationCases {
  /**
   * Of each, the score in the direction of confidence, as `confidenceOf` gives it; -Infinity for one that is not accepted whatever the
   * threshold, as an empty result is.
   */
  confidence: ArrayLike<number>;
  /** Of each, its Dice, in [0, 1]. */
  dice: ArrayLike<number>;
  /** Of each, what it belongs to, such as its patient. @default every case alone */
  groups?: readonly (string | number)[];
}

/** The cases of one group. */
type Members = readonly number[];

/** What the rules work on. */
export interface Cases {
  confidence: Float64Array;
  /** Of each case, in [0, 1]. */
  loss: Float64Array;
  /** In an order that depends on nothing but the seed and the order that they were given in. */
  groups: readonly Members[];
  /** One case of each of these groups, drawn by the seed: no look at its score or its Dice has a say. */
  drawn: readonly number[];
}

/**
 * Checks cases.
 * @param loss of a Dice
 * @throws ERR_LE_VALUE, ERR_LE_SHAPE
 */
export function checkedCases(
  { confidence, dice, groups }: CalibrationCases,
  loss: (dice: number) => number,
  seed: number,
): Cases {
  const n = confidence.length;
  for (let i = 0; i < n; i++) {
    const value = confidence[i];
    if (typeof value !== "number" || Number.isNaN(value) || value === Number.POSITIVE_INFINITY)
      fail("ERR_LE_VALUE", "confidence", "finite numbers or -Infinity", `${describe(value)} at index ${i}`);
  }
  checkFinite("dice", dice);
  for (const [what, { length }] of Object.entries({ dice, ...(groups && { groups }) }))
    if (length !== n) fail("ERR_LE_SHAPE", what, `${n} values, as many as of confidence,`, `${length}`);
  const wrong = Array.from(dice).find((value) => value < 0 || value > 1);
  if (wrong !== undefined) fail("ERR_LE_VALUE", "dice", "numbers from 0 to 1", describe(wrong));
  const random = new Random(seed);
  const members = random.shuffled(membersOf(groups ?? Array.from({ length: n }, (_, i) => i)));
  return {
    confidence: Float64Array.from(confidence),
    loss: Float64Array.from(dice, loss),
    groups: members,
    drawn: members.map((group) => random.pick(group)),
  };
}
