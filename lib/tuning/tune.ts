// Everything that is chosen on the validation images after training: which heads, what is fitted to them, and below which
// confidence an image is flagged. Works from the raw logits of all heads, so that what was chosen before has no say.
import { aula, countAgreement, isEmpty, pairwiseAgreement, predictionDepth } from "../agreement/index.js";
import type { NdArray } from "../arrays.js";
import { scoreThresholds } from "../certificate/index.js";
import { type FloatArray, fail } from "../checks.js";
import { argmax, FUSIONS, type Fusion, fuse, labelMaps } from "../fusion/fuse.js";
import { checkOptions, defaultsOf, option, type Values } from "../options.js";
import { IGNORE_INDEX, NOTHING } from "../quality/ignored.js";
import { dice } from "../quality/overlap.js";
import { scoreHeads } from "../quality/score.js";
import { Random } from "../random.js";
import { diceFeatures } from "../scores/predicted-dice.js";
import type { Scored } from "../scores/register.js";
import { LEAST_SURE, rankedConfidence, SCORE_NAMES, type ScoreName } from "../scores/scores.js";
import { mean, spread } from "../statistics/spread.js";
import { MAP_NAMES, MAPS, type MapParts, softDiceConfidence, summarise } from "../uncertainty/index.js";
import type { ChosenScore } from "./choose-score.js";
import type { DiceCase } from "./predicted-dice.js";
import { checkTruth } from "./samples.js";
import { CHOOSE, choose, type QualityPoint, qualityOf, type RankedPoint, type SkipPoint } from "./skip.js";
import { type SubsetScore, SubsetScorer } from "./subsets.js";
import { fitProbabilityTemperature, fitTemperature, temper } from "./temperature.js";
import { type GateThreshold, thresholdForFailures, thresholdForShare } from "./thresholds.js";
import { MODELS, optional, qualityOfOne, type TuneImage, Validation } from "./validation.js";
import { fitHeadWeights } from "./weights.js";

export type { TuneImage } from "./validation.js";

/** What can be fitted, in the order in which it is. */
export const FITS = ["temperatures", "rising", "weights", "temperature"] as const;

/**
 * One of {@link FITS}: a temperature of each head; weights that rise, each head's 2, 4, 8 or 16 times the one before; weights of each head that have the
 * lowest nll; one temperature of the fused probabilities.
 */
export type Fit = (typeof FITS)[number];

/** How the gate's threshold is chosen. */
export const GATE = {
  /** So that this share of the images is flagged. */
  flag: option.number({ min: 0, max: 1, default: 0.1, text: "gate: flag this share of the images", arg: "share" }),
  /** The lowest that leaves at most 5 % of the images with a Dice below this unseen. */
  tau: option.number({
    ...{ min: 0, max: 1, arg: "dice" },
    text: "gate: leave at most 5 % of the images below this Dice unseen",
  }),
};

/** What is chosen, and how. */
export const TUNE = {
  /** Label of the truth that is left out; null leaves none out. @default 255 */
  ignoreIndex: option.with(IGNORE_INDEX, { default: 255 }),
  /** How heads are fused. @default "mean" */
  fusion: option.oneOf(FUSIONS, { default: "mean", text: "how heads are fused" }),
  ...CHOOSE,
  /** See {@link ChooseSkipOptions.rule}; `"aurc"` is that of the chosen score. @default "aurc" */
  rule: option.with(CHOOSE.rule, {
    default: "aurc",
    text: "aurc: where the score finds failures best; nll: the paper's; both among those of nearly the best Dice; dice: the highest",
  }),
  /** What images are ranked by, and the gate looks at. @default see {@link chooseScore} */
  score: option.oneOf(SCORE_NAMES, {
    otherwise: "the one of least AURC, or a simpler one that is nearly as good",
    text: "what the gate looks at, such as aula or entropy.mean; a map alone is its sum",
  }),
  /** Whether the heads have an order in depth, without which there is no AULA. @default true */
  ordered: option.boolean({ default: true }),
  /** Whether heads are left out at all; `false` keeps every one, and there is no curve. @default true */
  choose: option.boolean({ default: true }),
  /** Whether other subsets than those without the first T heads are tried: see {@link Removal}. @default false */
  subsets: option.boolean({
    default: false,
    text: "try removing any heads, one after the other, not only the first T",
  }),
  /** What is fitted to them. @default [] */
  fit: option.array(option.oneOf(FITS), {
    default: [],
    otherwise: "rising for a layer ensemble fused by the mean; temperature for a run with a single head; else none",
    text: "what is fitted, or none",
  }),
  /** How the threshold on the score is chosen: a share to flag, or a Dice. @default none */
  gate: option.object<{ flag: number } | { tau: number }>(GATE),
  /**
   * Most pixels that temperatures and weights are fitted to. Where the images have more, as many of each are drawn at random,
   * without replacement.
   * @default 200000
   */
  maxPixels: option.integer({ min: 1, default: 200_000, text: "most pixels that are fitted to; of more, a draw" }),
  /** Of that draw. @default 0 */
  seed: option.integer({ default: 0, text: "seed of that draw" }),
};

/** Options of {@link tune}. */
export interface TuneOptions extends Values<typeof TUNE> {}

/**
 * One step of backward elimination: from all heads on, the one is removed without which the rule's measure is best, until
 * three are left.
 */
export interface Removal extends RankedPoint {
  /** Index of the head that is removed; null for the start. */
  removed: number | null;
  /** Indices of those that are left. */
  kept: number[];
}

/** Quality of the validation set with so much of the choice in force. */
export type TuningStep = Pick<QualityPoint, "nll" | "nllSd" | "dice" | "diceSd"> & {
  /** `"all heads"`, `"chosen heads"`, or the {@link Fit} that was added. */
  step: "all heads" | "chosen heads" | Fit;
};

/** What was chosen, and from what. */
export interface Tuning {
  /** Validation images. */
  images: number;
  /** Pixels that count, and of these those that the fits have seen. */
  pixels: { counted: number; fitted: number };
  /** What ranks the images best, by the raw heads. */
  score: ChosenScore;
  /** Of that score: the confidences that accept 5 %, 10 %, …, 100 % of the images; see {@link scoreThresholds}. */
  thresholds: number[];
  /** By T; empty for fewer than three heads, and where none is left out. `aurc` and `spearman` are of the chosen score. */
  curve: (SkipPoint & RankedPoint)[];
  /** Empty where subsets were not tried. */
  removals: Removal[];
  /** Indices of the chosen heads, ascending. */
  kept: number[];
  /** One per chosen head. */
  temperatures?: number[];
  /** One per chosen head, summing to 1. */
  weights?: number[];
  /** Of p̄. */
  temperature?: number;
  /** Before and after. */
  steps: TuningStep[];
  /** The images that have a Dice, as the choice predicts them: for {@link fitPredictedDice}. */
  cases: DiceCase[];
  gate?: {
    score: ScoreName;
    threshold: number;
    /** In words. */
    rule: string;
    /** Share of the images that is flagged. */
    flagged: number;
    /** Share of the failures that is not; null where failure was not defined. */
    unseen: number | null;
  };
}

/**
 * Chooses heads, fits and a gate on a validation set. Reads the images two times, once more for rising weights and for each head
 * that subsets remove; of an image it keeps a few numbers and its part of the pixels for the fits.
 * @param images Gives all images anew, always in the same order, at least one.
 * @param count How many there are.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export async function tune(
  images: () => AsyncIterable<TuneImage>,
  count: number,
  options: TuneOptions = {},
): Promise<Tuning> {
  const given = checkOptions("tune", options, TUNE);
  const { ignoreIndex: ignored, choose: chosen, ...rest } = { ...defaultsOf(TUNE), ...given };
  const { fusion, rule, margin, subsets, fit, maxPixels, seed, ordered } = rest;
  const { gate, score: named } = given;
  const ignoreIndex = ignored ?? NOTHING;
  if (fit.includes("weights") && fusion !== "mean") {
    fail("ERR_LE_OPTION", "option 'fit' of tune", `no weights, as they are fitted for the fusion "mean",`, fusion);
  }
  if (fit.includes("rising") && (fit.includes("weights") || !fusion.endsWith("mean"))) {
    const received = fit.includes("weights") ? "both" : `rising for the fusion ${fusion}`;
    fail("ERR_LE_OPTION", "option 'fit' of tune", "rising or weights, for a fusion that is a mean,", received);
  }
  if (fit.includes("temperatures") && fusion === "vote") {
    fail("ERR_LE_OPTION", "option 'fit' of tune", "no temperatures, as they change no vote,", fusion);
  }

  // The first reading: every T, and the pixels for the fits.
  const sampler = new PixelSampler(maxPixels, count, seed);
  const validation = new Validation({ fusion, ignoreIndex, choose: chosen, ordered, ...(named && { score: named }) });
  for await (const image of images()) {
    validation.add(image);
    if (fit.length > 0) sampler.add(image.heads, image.truth, ignoreIndex);
    else sampler.count(image.truth, ignoreIndex);
  }
  if (validation.images === 0) fail("ERR_LE_SHAPE", "images", "at least one image", "none");

  const { heads, choosing } = validation;
  const { score, skip, curve } = validation.choose(rule, margin);
  const all = indices(heads);
  let kept = all.slice(skip);
  const removals: Removal[] = [];
  if (subsets && choosing) {
    const { skip: _, ...start } = curve[0] as SkipPoint & RankedPoint;
    removals.push({ removed: null, kept: all, ...start });
    for (let last = all; last.length > 3; last = (removals.at(-1) as Removal).kept) removals.push(await remove(last));
    kept = choose(removals, rule, margin).kept;
  }

  const fitted = await fitTo(sampler.samples(kept), { fit, fusion, ignoreIndex, rise });

  // The last reading: what all of it comes to.
  const forms = formsOf(fitted, fusion, fit.includes("rising") ? "rising" : "weights");
  const tries = kept.length < heads ? ["all heads", ...forms.keys()] : [...forms.keys()];
  const results = new Map(tries.map((step) => [step, [] as SubsetScore[]]));
  const confidence: number[] = [];
  const cases: DiceCase[] = [];
  for await (const { heads: logits, truth, group } of images()) {
    const chosen = kept.map((k) => logits[k] as NdArray<FloatArray>);
    let last: NdArray<FloatArray> | undefined;
    for (const [step, of] of results) {
      last = forms.get(step)?.(chosen) ?? fuse(logits, { fusion, ...MODELS, precision: "double" });
      of.push(qualityOfOne(last, truth, ignoreIndex));
    }
    const scored = scoredOf(chosen, last as NdArray<FloatArray>, ordered, fitted.temperatures);
    confidence.push(rankedConfidence(scored, score.name));
    const classDice = dice(scored.mask, truth, { classes: scored.classes, ignoreIndex: ignored });
    if (Object.values(classDice).some(Number.isNaN)) continue;
    cases.push({ features: diceFeatures(scored), dice: classDice, ...(group !== undefined && { group }) });
  }
  const steps = [...results].map(([step, of]) => {
    const { nll, nllSd, dice, diceSd } = qualityOf(of);
    return { step: step as TuningStep["step"], nll, nllSd, dice, diceSd };
  });
  const quality = (results.get(tries.at(-1) as string) as SubsetScore[]).map((score) => score.dice);
  return {
    images: validation.images,
    pixels: { counted: sampler.counted, fitted: sampler.taken },
    score,
    // No threshold accepts an empty result.
    thresholds: scoreThresholds(confidence.map((value) => (value === LEAST_SURE ? Number.NEGATIVE_INFINITY : value))),
    curve: choosing ? curve : [],
    removals,
    kept,
    ...fitted,
    steps,
    ...(gate && { gate: gateOf(score.name, gate, confidence, quality) }),
    cases,
  };

  /** Weights that rise as steeply as the validation images' Dice asks for. */
  async function rise(temperatures?: readonly number[]): Promise<number[]> {
    const all = RATIOS.map((ratio) => risingWeights(kept.length, ratio));
    if (kept.length < 2) return all[0] as number[];
    const found: number[][] = RATIOS.map(() => []);
    for await (const { heads: logits, truth } of images()) {
      const chosen = kept.map((k) => logits[k] as NdArray<FloatArray>);
      for (const [r, weights] of all.entries()) {
        const options = {
          fusion,
          ...MODELS,
          weights,
          ...(temperatures && { temperatures }),
          precision: "double",
        } as const;
        found[r]?.push(qualityOfOne(fuse(chosen, options), truth, ignoreIndex).dice);
      }
    }
    return risingWeights(kept.length, chooseRatio(found));
  }

  /** The best removal from the heads that are left. */
  async function remove(from: readonly number[]): Promise<Removal> {
    const of: SubsetScore[][] = from.map(() => []);
    const left = (removed: number) => from.filter((k) => k !== removed);
    let image = 0;
    for await (const { heads: logits, truth } of images()) {
      const options = { fusion, ignoreIndex, ...MODELS };
      const scorer = new SubsetScorer(`images[${image++}].heads`, logits, truth, options);
      for (const [j, one] of scorer.withoutEach(from).entries()) {
        const others = left(from[j] as number).map((k) => logits[k] as NdArray<FloatArray>);
        const confidence = rankedConfidence(scoreHeads(others, { fusion, ...MODELS }), score.name);
        of[j]?.push({ ...one, confidence });
      }
    }
    const candidates = from.map((removed, j) => ({
      removed,
      kept: left(removed),
      ...qualityOf(of[j] as SubsetScore[]),
    }));
    return choose(candidates, rule, Number.POSITIVE_INFINITY);
  }
}

/** Draws the pixels that temperatures and weights are fitted to: all, or as many of each image. */
class PixelSampler {
  /** Pixels that count, so far, and those taken. */
  counted = 0;
  taken = 0;
  readonly #each: number;
  readonly #random: Random;
  readonly #samples: TuneImage[] = [];

  constructor(maxPixels: number, images: number, seed: number) {
    this.#each = Math.max(1, Math.floor(maxPixels / Math.max(1, images)));
    this.#random = new Random(seed);
  }

  /** Counts an image's pixels without taking any. */
  count({ data }: NdArray<Uint8Array>, ignoreIndex: number): void {
    for (const label of data) if (label !== ignoreIndex) this.counted++;
  }

  /** Takes its part of an image. */
  add(heads: TuneImage["heads"], given: NdArray<Uint8Array>, ignoreIndex: number): void {
    const [classes = 0, ...spatial] = heads[0]?.shape ?? [];
    const { truth, counted } = checkTruth("truth", given, { classes, spatial }, ignoreIndex);
    const pixels = truth.length;
    this.counted += counted;
    const positions = new Uint32Array(pixels);
    let n = 0;
    for (let i = 0; i < pixels; i++) if (truth[i] !== ignoreIndex) positions[n++] = i;
    const take = Math.min(n, this.#each);
    if (take < n) {
      // The first steps of a Fisher-Yates shuffle.
      for (let i = 0; i < take; i++) {
        const j = i + this.#random.integer(n - i);
        [positions[i], positions[j]] = [positions[j] as number, positions[i] as number];
      }
    }
    if (take === 0) return;
    this.taken += take;
    const chosen = positions.subarray(0, take);
    this.#samples.push({
      heads: heads.map(({ data }) => {
        const values = new Float32Array(classes * take);
        for (let c = 0; c < classes; c++)
          for (let i = 0; i < take; i++) values[c * take + i] = data[c * pixels + (chosen[i] as number)] as number;
        return { data: values, shape: [classes, take] };
      }),
      truth: { data: Uint8Array.from(chosen, (i) => truth[i] as number), shape: [take] },
    });
  }

  /** What was taken of some of the heads. */
  samples(kept: readonly number[]): TuneImage[] {
    return this.#samples.map(({ heads, truth }) => ({
      heads: kept.map((k) => heads[k] as NdArray<FloatArray>),
      truth,
    }));
  }
}

type Fitted = Pick<Tuning, "temperatures" | "weights" | "temperature">;

/** How many times the weight of the one before each head may have; 2 is the least that leaves the last head more than all others. */
const RATIOS = [2, 4, 8, 16] as const;

/** Of K heads, in depth order: each so many times the one before, summing to 1. */
function risingWeights(heads: number, ratio: number): number[] {
  const weights = Array.from({ length: heads }, (_, k) => ratio ** k);
  const sum = weights.reduce((all, weight) => all + weight, 0);
  return weights.map((weight) => weight / sum);
}

/**
 * The least ratio of which the Dice is not below the best one's by more than a standard error of their difference: what is flatter
 * hears more heads.
 * @param dice by ratio, of the same images; NaN where an image has none
 */
function chooseRatio(dice: readonly (readonly number[])[]): number {
  const known = dice.map((values) => values.filter((value) => !Number.isNaN(value)));
  const means = known.map((values) => (values.length > 0 ? mean(values) : 0));
  const best = known[means.indexOf(Math.max(...means))] as number[];
  const enough = known.findIndex((values) => {
    if (values.length < 2) return true;
    const { mean: behind, sd } = spread(best.map((value, i) => value - (values[i] as number)));
    return behind <= sd / Math.sqrt(values.length);
  });
  return RATIOS[enough] as number;
}

function temperaturesOf(samples: readonly TuneImage[], ignoreIndex: number): number[] {
  const truths = samples.map(({ truth }) => truth);
  return (samples[0]?.heads ?? []).map((_, k) => {
    const logits = samples.map((sample) => sample.heads[k] as NdArray<FloatArray>);
    return fitTemperature(logits, truths, { ...MODELS, ignoreIndex: optional(ignoreIndex) }).temperature;
  });
}

/** Each fit is of what the ones before it leave. */
async function fitTo(
  samples: readonly TuneImage[],
  {
    fit,
    fusion,
    ignoreIndex,
    rise,
  }: {
    fit: readonly Fit[];
    fusion: Fusion;
    ignoreIndex: number;
    /** Chooses rising weights. */
    rise: (temperatures?: readonly number[]) => Promise<number[]>;
  },
): Promise<Fitted> {
  const fitted: Fitted = {};
  const truths = samples.map(({ truth }) => truth);
  if (fit.includes("temperatures")) fitted.temperatures = temperaturesOf(samples, ignoreIndex);
  if (fit.includes("rising")) fitted.weights = await rise(fitted.temperatures);
  if (fit.includes("weights") && samples.length > 0) {
    const shares = samples.map((sample) => probabilitiesOf(sample.heads, fitted.temperatures));
    fitted.weights = fitHeadWeights(shares, truths, { ignoreIndex: optional(ignoreIndex) }).weights;
  }
  if (fit.includes("temperature")) {
    const { temperatures, weights } = fitted;
    const before = { fusion, ...(temperatures && { temperatures }), ...(weights && { weights }) };
    const fused = samples.map((sample) => fuse(sample.heads, { ...MODELS, ...before, precision: "double" }));
    fitted.temperature = fitProbabilityTemperature(fused, truths, { ignoreIndex: optional(ignoreIndex) }).temperature;
  }
  return fitted;
}

/** By step: how p̄ comes from the logits of the chosen heads once that much has been fitted. */
function formsOf({ temperatures, weights, temperature }: Fitted, fusion: Fusion, weighted: Fit) {
  type Form = (heads: readonly NdArray<FloatArray>[]) => NdArray<FloatArray>;
  const forms = new Map<string, Form>();
  let options: { temperatures?: number[]; weights?: number[] } = {};
  const add = (step: string) => {
    const fixed = options;
    forms.set(step, (heads) => fuse(heads, { fusion, ...MODELS, ...fixed, precision: "double" }));
  };
  add("chosen heads");
  if (temperatures) {
    options = { ...options, temperatures };
    add("temperatures");
  }
  if (weights) {
    options = { ...options, weights };
    add(weighted);
  }
  if (temperature !== undefined) {
    const fixed = options;
    forms.set("temperature", (heads) =>
      temper(fuse(heads, { fusion, ...MODELS, ...fixed, precision: "double" }), temperature),
    );
  }
  return forms;
}

function probabilitiesOf(heads: readonly NdArray<FloatArray>[], temperatures?: readonly number[]): NdArray[] {
  return heads.map((head, k) =>
    fuse([head], { ...MODELS, ...(temperatures && { temperatures: [temperatures[k] as number] }) }),
  );
}

/** What scores are read from under the prediction that was chosen: each part is worked out when it is asked for. */
function scoredOf(
  heads: readonly NdArray<FloatArray>[],
  fused: NdArray<FloatArray>,
  ordered: boolean,
  temperatures?: readonly number[],
): Scored & { mask: NdArray<Uint8Array>; classes: number } {
  const classes = fused.shape[0] as number;
  const labels = lazy(() => labelMaps(heads));
  const shares = lazy(() => probabilitiesOf(heads, temperatures));
  const parts: MapParts = {
    classes,
    fused,
    get heads() {
      return shares();
    },
    get labels() {
      return labels();
    },
  };
  const summaries = {};
  for (const map of MAP_NAMES)
    Object.defineProperty(summaries, map, { get: () => summarise(MAPS[map].of(parts), argmax(fused)) });
  return {
    summaries,
    // In single precision, as predictions have it.
    mask: argmax({ data: Float32Array.from(fused.data), shape: fused.shape }),
    classes,
    get empty() {
      return isEmpty(countAgreement(labels(), classes));
    },
    get aula() {
      return ordered && heads.length >= 3 ? aula(labels(), classes) : null;
    },
    get pairwiseAgreement() {
      return pairwiseAgreement(labels(), classes);
    },
    get predictionDepth() {
      return ordered && heads.length >= 2 ? predictionDepth(labels(), classes) : null;
    },
    get softDiceConfidence() {
      const heads = lazy(() => shares().map(softDiceConfidence));
      return {
        ...softDiceConfidence(fused),
        get heads() {
          return heads();
        },
      };
    },
  };
}

function lazy<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}

function gateOf(
  score: ScoreName,
  gate: NonNullable<TuneOptions["gate"]>,
  confidence: readonly number[],
  quality: readonly number[],
): NonNullable<Tuning["gate"]> {
  if ("flag" in gate) {
    const { threshold, flagged } = asked(thresholdForShare(confidence, gate.flag), confidence);
    return { score, threshold, rule: `flags ${gate.flag} of the validation images`, flagged, unseen: null };
  }
  const counted = confidence.filter((_, i) => !Number.isNaN(quality[i]));
  const { threshold, flagged, unseen } = asked(thresholdForFailures(confidence, quality, gate.tau), counted);
  const rule = `leaves at most 0.05 of the validation images with Dice below ${gate.tau} unseen`;
  return { score, threshold, rule, flagged, unseen };
}

/** The same threshold for a gate, which flags empty images whatever it is: not below what some other image has. */
function asked({ threshold, flagged, unseen }: GateThreshold, confidence: readonly number[]): GateThreshold {
  const least = Math.min(...confidence.filter((value) => value !== LEAST_SURE));
  if (threshold >= least) return { threshold, flagged, unseen };
  // Where all are empty no threshold tells anything apart.
  const empty = confidence.filter((value) => value === LEAST_SURE).length;
  return { threshold: Number.isFinite(least) ? least : 0, flagged: empty / confidence.length, unseen };
}

function indices(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}
