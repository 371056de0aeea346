// Fits the Dice that masks probably have, on images that chose nothing of the network's weights: what is kept is the simplest that
// does as well, and how far it is from the truth.
import { fail } from "../checks.js";
import { checkOptions, describe, option } from "../options.js";
import { Random } from "../random.js";
import {
  type ClassDiceFit,
  type ClassFeatures,
  type ConstantDice,
  classDice,
  type DiceDistances,
  type DiceFeatures,
  type DiceIntervals,
  type PredictedDiceFit,
  predictDice,
} from "../scores/predicted-dice.js";
import { fitIsotonic } from "../statistics/isotonic.js";
import { mean, quantile } from "../statistics/spread.js";
import { fitRidge } from "./ridge.js";

/** An image whose Dice is known. */
export interface DiceCase {
  /** Of its prediction; see {@link diceFeatures}. */
  features: DiceFeatures;
  /** By foreground class, in [0, 1]: 1 where prediction and truth are both empty, 0 where one is. */
  dice: Record<number, number>;
  /** Its patient: images of one group are left out together. */
  group?: string;
}

/** Options of {@link fitPredictedDice}. */
export interface PredictedDiceOptions {
  /** Bounds hold in 1 - α of cases. In (0, 1). @default 0.1 */
  alpha?: number;
  /** Of the draw of folds. @default 0 */
  seed?: number;
}

const ALPHA = option.number({ above: 0, below: 1 });
/** Parts that are left out one after the other, where there are as many groups. */
const FOLDS = 10;
/** The same where a penalty is chosen. */
const INNER_FOLDS = 200;
/** Fewer images say nothing of so many features. */
const FEWEST_FOR_FEATURES = 20;
/** Cases that each band of volume must have. */
const FEWEST_IN_BAND = 100;

/** How many cases, or groups of them, a bound at α needs at least. */
export function casesNeeded(alpha: number): number {
  return Math.ceil(1 / alpha - 1 - 1e-9);
}

/**
 * Fits how Dice follows from a prediction's features. For each class: isotonic regression on soft Dice confidence, unless ridge
 * regression on all features with isotonic regression on top has a smaller mean absolute error on left-out folds, by more than one
 * standard error (over groups). Masks without the class have the mean Dice of such images. Bounds are of left-out folds; those of
 * images that the fit has not seen are promised: see {@link calibrateInterval}.
 * @param cases At least one.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function fitPredictedDice(cases: readonly DiceCase[], options: PredictedDiceOptions = {}): PredictedDiceFit {
  const { alpha = 0.1, seed = 0 } = checkOptions("fitPredictedDice", options, { alpha: ALPHA, seed: option.integer() });
  checkCases(cases);
  const groups = cases.map(({ group }, i) => group ?? i);
  const folds = foldsOf(groups, FOLDS, seed);
  const classes = Object.keys(cases[0]?.dice ?? {}).map(Number);
  const outOfFold: (number | null)[][] = [];
  const perClass = Object.fromEntries(
    classes.map((c): [number, ClassDiceFit] => {
      const known = cases.map(({ features, dice }) => ({
        features: features.perClass[c] as ClassFeatures,
        dice: dice[c] as number,
      }));
      const { fit, left } = fitClass(known, groups, folds);
      outOfFold.push(left);
      const volumes = known.map(({ features }) => features.volume);
      const real = known.map(({ dice }) => dice);
      const bounds = { volumes, groups, thirds: thirdsOf(volumes), alpha, from: "out-of-fold" } as const;
      return [c, { ...fit, intervals: intervalsOf(left, real, bounds), constant: constantOf(real, alpha, groups) }];
    }),
  );
  const volumes = cases.map(({ features }) => features.volume);
  const real = cases.map(overallDice);
  const bounds = { volumes, groups, thirds: thirdsOf(volumes), alpha, from: "out-of-fold" } as const;
  return {
    perClass,
    overall: {
      intervals: intervalsOf(
        cases.map((_, i) => meanOf(outOfFold.map((of) => of[i] ?? null))),
        real,
        bounds,
      ),
      constant: constantOf(real, alpha, groups),
    },
  };
}

/**
 * The same fit with bounds from cases that chose nothing: neither the network nor the fit. They then hold in 1 - α of cases that are
 * exchangeable with these (split conformal prediction, Vovk et al. 2005): apart for each class, for masks without it, and by volume
 * where each third of the fit's images has 100 cases. Of a group of cases each counts as one of so many, and the groups must be exchangeable.
 * @param cases At least one.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function calibrateInterval(
  fit: PredictedDiceFit,
  cases: readonly DiceCase[],
  options: Pick<PredictedDiceOptions, "alpha"> = {},
): PredictedDiceFit {
  const { alpha = 0.1 } = checkOptions("calibrateInterval", options, { alpha: ALPHA });
  checkCases(cases);
  const predicted = cases.map(({ features }) => predictDice(fit, features));
  const groups = cases.map(({ group }, i) => group ?? i);
  const calibrated = <T extends { constant: ConstantDice; intervals: DiceIntervals | null }>(
    of: T,
    dice: (number | null)[],
    real: number[],
    volumes: number[],
  ): T => {
    const thirds = of.intervals?.thirds ?? thirdsOf(volumes);
    const bounds = { volumes, groups, thirds, alpha } as const;
    const away = real.map((value) => Math.abs(value - of.constant.dice));
    return {
      ...of,
      intervals: intervalsOf(dice, real, { ...bounds, from: "calibration" }),
      constant: { ...of.constant, both: conformalQuantile(away, alpha, groups) },
    };
  };
  return {
    perClass: Object.fromEntries(
      Object.entries(fit.perClass).map(([name, of]) => {
        const c = Number(name);
        return [
          c,
          calibrated(
            of,
            predicted.map(({ perClass }) => perClass[c]?.dice ?? null),
            cases.map(({ dice }) => dice[c] as number),
            cases.map(({ features }) => features.perClass[c]?.volume as number),
          ),
        ];
      }),
    ),
    overall: calibrated(
      fit.overall,
      predicted.map(({ overall }) => overall.dice),
      cases.map(overallDice),
      cases.map(({ features }) => features.volume),
    ),
  };
}

/** A patient, or an image that is a group of its own. */
type Group = string | number;

/** A case of one class. */
interface ClassCase {
  features: ClassFeatures;
  dice: number;
}

/** The fit of a class, and what fits without its fold say of each case. */
function fitClass(
  cases: readonly ClassCase[],
  groups: readonly Group[],
  folds: readonly number[],
): { fit: Omit<ClassDiceFit, "intervals" | "constant">; left: (number | null)[] } {
  const all = [...cases.keys()];
  const shown = all.filter((i) => (cases[i] as ClassCase).features.volume > 0);
  const outside = new Map([...new Set(folds)].map((fold) => [fold, all.filter((i) => folds[i] !== fold)] as const));
  const modelFor = (indices: readonly number[], by: ClassDiceFit["by"]) => modelOf(cases, groups, indices, by);
  const left = (by: ClassDiceFit["by"]) => {
    const models = new Map([...outside].map(([fold, indices]) => [fold, modelFor(indices, by)] as const));
    if ([...models.values()].some((model) => model.by !== by)) return null;
    return cases.map(({ features }, i) => classDice(models.get(folds[i] as number) as ClassModel, features));
  };
  const baseline = left("softDiceConfidence") as (number | null)[];
  const features = left("features");
  const error = errorsOf(cases, groups, shown, baseline, features);
  const by =
    features && error?.features != null && error.baseline - error.features > (error.se ?? 0)
      ? "features"
      : "softDiceConfidence";
  return { fit: { ...modelFor(all, by), error }, left: (by === "features" && features) || baseline };
}

type ClassModel = Omit<ClassDiceFit, "error" | "intervals" | "constant">;

/** Fitted to some of the cases; by soft Dice confidence alone where they are too few for the features. */
function modelOf(
  cases: readonly ClassCase[],
  groups: readonly Group[],
  indices: readonly number[],
  by: ClassDiceFit["by"],
): ClassModel {
  const of = (some: readonly number[]) => some.map((i) => cases[i] as ClassCase);
  const without = of(indices).filter(({ features }) => features.volume === 0);
  const empty = without.length === 0 ? null : { dice: mean(without.map(({ dice }) => dice)), cases: without.length };
  const shown = indices.filter((i) => (cases[i] as ClassCase).features.volume > 0);
  const dice = of(shown).map((one) => one.dice);
  const folds = foldsOf(
    shown.map((i) => groups[i] as Group),
    INNER_FOLDS,
    0,
  );
  if (by === "features" && shown.length >= FEWEST_FOR_FEATURES && new Set(folds).size > 1) {
    const { ridge, outOfFold } = fitRidge(
      of(shown).map(({ features }) => features.values),
      dice,
      folds,
    );
    return { by, ridge, isotonic: fitIsotonic(outOfFold, dice), empty };
  }
  const confidence = of(shown).map(({ features }) => features.softDiceConfidence);
  return {
    by: "softDiceConfidence",
    ridge: null,
    isotonic: shown.length === 0 ? null : fitIsotonic(confidence, dice),
    empty,
  };
}

/** Mean absolute errors on left-out folds, and the standard error of their difference over groups. */
function errorsOf(
  cases: readonly ClassCase[],
  groups: readonly Group[],
  shown: readonly number[],
  baseline: readonly (number | null)[],
  features: readonly (number | null)[] | null,
): ClassDiceFit["error"] {
  const known = shown.filter((i) => baseline[i] !== null && (!features || features[i] !== null));
  if (known.length === 0) return null;
  const errors = (of: readonly (number | null)[]) =>
    known.map((i) => Math.abs((of[i] as number) - (cases[i] as ClassCase).dice));
  const [a, b] = [errors(baseline), features && errors(features)];
  if (!b) return { baseline: mean(a), features: null, se: null };
  const gain = mean(a) - mean(b);
  const sums = new Map<Group, number>();
  known.forEach((i, at) => {
    const group = groups[i] as Group;
    sums.set(group, (sums.get(group) ?? 0) + (a[at] as number) - (b[at] as number) - gain);
  });
  const squares = [...sums.values()].reduce((sum, value) => sum + value ** 2, 0);
  return { baseline: mean(a), features: mean(b), se: Math.sqrt(squares) / known.length };
}

/** Deals groups out to at most `count` folds, in a seeded order; with as many folds as groups each is one. */
function foldsOf(groups: readonly Group[], count: number, seed: number): number[] {
  const names = [...new Set(groups)];
  const random = new Random(seed);
  for (let i = names.length - 1; i > 0; i--) {
    const j = random.integer(i + 1);
    [names[i], names[j]] = [names[j] as string, names[i] as string];
  }
  const fold = new Map(names.map((name, i) => [name, i % count]));
  return groups.map((group) => fold.get(group) as number);
}

/** Volumes that part those of masks that are not empty into thirds. */
function thirdsOf(volumes: readonly number[]): number[] {
  const ascending = volumes.filter((volume) => volume > 0).sort((a, b) => a - b);
  return ascending.length === 0 ? [] : [quantile(ascending, 1 / 3), quantile(ascending, 2 / 3)];
}

/** Quantiles of the distances, apart for empty masks and by volume. */
function intervalsOf(
  predicted: readonly (number | null)[],
  real: readonly number[],
  {
    volumes,
    groups,
    thirds,
    alpha,
    from,
  }: {
    volumes: readonly number[];
    groups: readonly Group[];
    thirds: readonly number[];
    alpha: number;
    from: DiceIntervals["from"];
  },
): DiceIntervals {
  const known = [...real.keys()].filter((i) => predicted[i] !== null);
  const distances = (some: readonly number[]): DiceDistances => {
    const of = some.map((i) => (predicted[i] as number) - (real[i] as number));
    const own = some.map((i) => groups[i] as Group);
    const count = new Set(own).size;
    return {
      cases: some.length,
      ...(count < some.length && { groups: count }),
      lower: conformalQuantile(of, alpha, own),
      both: conformalQuantile(of.map(Math.abs), alpha, own),
    };
  };
  const shown = known.filter((i) => (volumes[i] as number) > 0);
  const [small, large] = thirds;
  const limits = small === undefined || large === undefined || small >= large ? [null] : [small, large, null];
  const bandOf = (i: number) => limits.findIndex((upTo) => upTo === null || (volumes[i] as number) <= upTo);
  const bands = limits.map((upTo, band) => ({ upTo, some: shown.filter((i) => bandOf(i) === band) }));
  const enough = bands.every(({ some }) => new Set(some.map((i) => groups[i])).size >= FEWEST_IN_BAND);
  return {
    alpha,
    from,
    thirds: [...thirds],
    empty: distances(known.filter((i) => volumes[i] === 0)),
    bands: (enough ? bands : [{ upTo: null, some: shown }]).map(({ upTo, some }) => ({ upTo, ...distances(some) })),
  };
}

/** The mean, and the distances of each from the mean of the others. */
function constantOf(real: readonly number[], alpha: number, groups: readonly Group[]): ConstantDice {
  const dice = mean(real);
  const others = real.length / Math.max(1, real.length - 1);
  return {
    dice,
    both: conformalQuantile(
      real.map((value) => Math.abs(value - dice) * others),
      alpha,
      groups,
    ),
  };
}

/**
 * The ⌈(n + 1)(1 - α)⌉-th smallest of n values; null where there is none. Of values in K groups each counts as one of so many as its
 * group has, among K + 1: then it holds for a value of another group (Lee, Barber & Willett 2023).
 */
export function conformalQuantile(
  values: readonly number[],
  alpha: number,
  groups: readonly Group[] = [...values.keys()],
): number | null {
  const sizes = new Map<Group, number>();
  for (const group of groups) sizes.set(group, (sizes.get(group) ?? 0) + 1);
  const needed = (sizes.size + 1) * (1 - alpha) - 1e-9;
  let counted = 0;
  for (const i of [...values.keys()].sort((a, b) => (values[a] as number) - (values[b] as number))) {
    counted += 1 / (sizes.get(groups[i] as Group) as number);
    if (counted >= needed) return values[i] as number;
  }
  return null;
}

/** Null where one is. */
function meanOf(values: readonly (number | null)[]): number | null {
  const known = values.filter((value) => value !== null);
  return known.length < values.length || known.length === 0 ? null : mean(known);
}

function overallDice({ dice }: DiceCase): number {
  return mean(Object.values(dice));
}

function checkCases(cases: readonly DiceCase[]): void {
  if (cases.length === 0) fail("ERR_LE_SHAPE", "cases", "at least one", "none");
  const [first] = cases as [DiceCase];
  for (const [i, { features, dice }] of cases.entries()) {
    for (const [c, own] of Object.entries(first.dice).map(
      ([name]) => [name, features.perClass[Number(name)]] as const,
    )) {
      const value = dice[Number(c)];
      if (!(value !== undefined && value >= 0 && value <= 1))
        fail("ERR_LE_VALUE", `cases[${i}].dice`, `a number from 0 to 1 for class ${c}`, describe(value));
      const length = first.features.perClass[Number(c)]?.values.length;
      if (own?.values.length !== length || !own?.values.every(Number.isFinite))
        fail("ERR_LE_SHAPE", `cases[${i}].features`, `${length} finite numbers for class ${c}`, describe(own?.values));
    }
  }
}
