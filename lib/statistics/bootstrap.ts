import { fail } from "../checks.js";
import { checkOptions, describe, option } from "../options.js";
import { Random } from "../random.js";
import { membersOf } from "./groups.js";
import { quantile } from "./spread.js";

/** Options of {@link bootstrap}. */
export interface BootstrapOptions {
  /** Share of the resamples inside the interval, between 0 and 1. @default 0.95 */
  level?: number;
  /** How often the images are drawn anew. @default 2000 */
  resamples?: number;
  /** The same seed gives the same interval on every machine. @default 0 */
  seed?: number;
  /** One name per image, such as its patient: images of one group are drawn together. @default every image alone */
  groups?: readonly (string | number)[];
}

/** A percentile bootstrap interval. */
export interface BootstrapInterval {
  /** The statistic of all images, each once. */
  estimate: number;
  /** Lower bound, linear between order statistics; NaN where the statistic is NaN for every resample. */
  low: number;
  /** Upper bound, likewise. */
  high: number;
  /** Resamples whose statistic is NaN; they are left out. */
  leftOut: number;
}

/**
 * Percentile bootstrap confidence interval of any statistic of images: images, or groups of them, are drawn with
 * replacement, as many as there are, and the interval holds the middle `level` of the values of the statistic.
 * @param count Number of images, at least 1.
 * @param statistic Gets the indices of the images that were drawn, each as often as it was.
 * @throws ERR_LE_VALUE, ERR_LE_SHAPE for groups that do not fit, ERR_LE_OPTION
 */
export function bootstrap(
  count: number,
  statistic: (images: Uint32Array) => number,
  options: BootstrapOptions = {},
): BootstrapInterval {
  const {
    level = 0.95,
    resamples = 2000,
    seed = 0,
    groups,
  } = checkOptions("bootstrap", options, {
    level: option.number({ above: 0, below: 1 }),
    resamples: option.integer({ min: 1, max: 10_000_000 }),
    seed: option.integer(),
    groups: option.array(option.anyOf(option.string({ empty: true }), option.number())),
  });
  if (!Number.isSafeInteger(count) || count < 1) fail("ERR_LE_VALUE", "count", "a positive integer", describe(count));
  if (groups && groups.length !== count) {
    fail("ERR_LE_SHAPE", "option 'groups' of bootstrap", `${count} names, one per image,`, `${groups.length}`);
  }
  const all = Uint32Array.from({ length: count }, (_, i) => i);
  const values = bootstrapValues(count, statistic, { resamples, seed, ...(groups && { groups }) }).filter(
    (value) => !Number.isNaN(value),
  );
  const ascending = values.sort();
  return {
    estimate: statistic(all),
    low: quantile(ascending, (1 - level) / 2),
    high: quantile(ascending, (1 + level) / 2),
    leftOut: resamples - values.length,
  };
}

/** The statistic of each resample; NaN where it is not defined. */
export function bootstrapValues(
  count: number,
  statistic: (images: Uint32Array) => number,
  { resamples, seed, groups }: { resamples: number; seed: number; groups?: readonly (string | number)[] },
): Float64Array {
  const members = groups ? membersOf(groups) : undefined;
  const random = new Random(seed);
  const drawn = new Uint32Array(count);
  const values = new Float64Array(resamples);
  for (let resample = 0; resample < resamples; resample++) {
    let images: Uint32Array = drawn;
    if (members) images = Uint32Array.from(members.flatMap(() => random.pick(members)));
    else for (let i = 0; i < count; i++) drawn[i] = random.integer(count);
    values[resample] = statistic(images);
  }
  return values;
}
