// The validation images without their first T heads, for every T: quality, and every score that may rank them.
import type { NdArray } from "../arrays.js";
import { type FloatArray, fail } from "../checks.js";
import { argmax, type Fusion } from "../fusion/fuse.js";
import { NOTHING } from "../quality/ignored.js";
import { nll } from "../quality/likelihood.js";
import { meanDice } from "../quality/overlap.js";
import { scoreHeads } from "../quality/score.js";
import { lacking, rankedConfidence, SCORE_NAMES, SCORES, type ScoreName } from "../scores/scores.js";
import { type ChosenScore, chooseScore, type ScoreValidation } from "./choose-score.js";
import { choose, curveOf, type RankedPoint, type Rule, type SkipPoint } from "./skip.js";
import { type SubsetScore, SubsetScorer } from "./subsets.js";

/** One validation image. K heads, C classes; S is the network's input size. */
export interface TuneImage {
  /** K arrays C×S: the raw logits of every head, in the same order for all images. */
  heads: readonly NdArray<FloatArray>[];
  /** S. */
  truth: NdArray<Uint8Array>;
  /** Its patient: images of one group are no evidence apart. */
  group?: string;
}

/** What does not change from one image to the next. */
export interface ValidationOptions {
  fusion: Fusion;
  ignoreIndex: number;
  /** Whether first heads are left out at all. */
  choose: boolean;
  /** Whether the heads have an order in depth. */
  ordered: boolean;
  /** The only score to look at. @default every one that the heads have */
  score?: ScoreName;
}

/** The logits are a model's own, which has been asked whether they are. */
export const MODELS = { trust: true } as const;

/** What is known of the images that were added. */
export class Validation {
  /** K; 0 before the first image. */
  heads = 0;
  /** By image, by T; T is 0 alone where there are fewer than three heads, or none is to be left out. */
  readonly #quality: SubsetScore[][] = [];
  readonly #confidences = new Map<ScoreName, number[][]>();
  readonly #groups: (string | undefined)[] = [];

  constructor(readonly options: ValidationOptions) {}

  /** How many images there are. */
  get images(): number {
    return this.#quality.length;
  }

  /** Whether there are heads to leave out, and so a curve over T. */
  get choosing(): boolean {
    return this.options.choose && this.heads >= 3;
  }

  /** @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION for a score that the heads do not have */
  add({ heads, truth, group }: TuneImage): void {
    const { fusion, ignoreIndex } = this.options;
    if (this.images === 0) this.#begin(heads.length);
    if (heads.length !== this.heads)
      fail("ERR_LE_SHAPE", `images[${this.images}].heads`, `${this.heads} heads`, `${heads.length}`);
    const quality = this.choosing
      ? new SubsetScorer(`images[${this.images}].heads`, heads, truth, { fusion, ignoreIndex, ...MODELS }).suffixes()
      : [qualityOfOne(scoreHeads(heads, { fusion, ...MODELS }).probabilities, truth, ignoreIndex)];
    this.#quality.push(quality);
    this.#groups.push(group);
    const scored = quality.map((_, skip) => scoreHeads(heads, { skip, fusion, ...MODELS }));
    for (const [name, of] of this.#confidences) of.push(scored.map((result) => rankedConfidence(result, name)));
  }

  /** A score as the confidence: by image, by T. */
  by(name: ScoreName): SubsetScore[][] {
    const confidences = this.#confidences.get(name) as number[][];
    return this.#quality.map((of, i) =>
      of.map((score, skip) => ({ ...score, confidence: confidences[i]?.[skip] as number })),
    );
  }

  /**
   * T, and the score that ranks the images best: each score has the T that the rule takes with it.
   * @throws ERR_LE_VALUE where no pixel counts, and where no score is defined for every image
   */
  choose(rule: Rule, margin: number): { score: ChosenScore; skip: number; curve: (SkipPoint & RankedPoint)[] } {
    const choices = new Map<ScoreName, { skip: number; curve: (SkipPoint & RankedPoint)[] }>();
    const candidates: ScoreValidation[] = [];
    const counted = this.#quality.flatMap(([all], i) => (Number.isNaN(all?.dice) ? [] : [i]));
    if (counted.length === 0) fail("ERR_LE_VALUE", "images", "a pixel that is not ignored", "none");
    for (const name of this.#confidences.keys()) {
      const of = this.by(name);
      if (counted.some((i) => of[i]?.some(({ confidence }) => Number.isNaN(confidence)))) continue;
      const curve = curveOf(of);
      const { skip } = choose(curve, rule, margin);
      choices.set(name, { skip, curve });
      const at = counted.map((i) => of[i]?.[skip] as SubsetScore);
      candidates.push({
        name,
        confidence: at.map(({ confidence }) => confidence),
        risk: at.map((score) => 1 - score.dice),
      });
    }
    if (candidates.length === 0) {
      const names = [...this.#confidences.keys()].join(", ");
      fail("ERR_LE_VALUE", "images", `a score that is defined for each, of ${names},`, "none");
    }
    const groups = counted.map((i) => this.#groups[i] ?? `image ${i}`);
    const score = chooseScore(candidates, { groups });
    return { score, ...(choices.get(score.name) as { skip: number; curve: (SkipPoint & RankedPoint)[] }) };
  }

  #begin(heads: number): void {
    const { score, ordered } = this.options;
    this.heads = heads;
    const has = (name: ScoreName) => !lacking(name, heads, ordered) && !SCORES[name].needs.fit;
    if (score !== undefined && !has(score))
      fail(
        "ERR_LE_OPTION",
        "option 'score' of tune",
        `another score than ${lacking(score, heads, ordered) ?? `${score}, which is fitted later,`}`,
        `${heads} heads${ordered ? "" : " without an order"}`,
      );
    const names = score === undefined ? SCORE_NAMES.filter((name) => has(name) && !SCORES[name].ranksAs) : [score];
    for (const name of names) this.#confidences.set(name, []);
  }
}

/** Of a fused prediction, C×S. */
export function qualityOfOne(fused: NdArray<FloatArray>, truth: NdArray<Uint8Array>, ignoreIndex: number): SubsetScore {
  const classes = fused.shape[0] as number;
  const ignored = { ignoreIndex: optional(ignoreIndex) };
  // The mask in single precision, as predictions have it.
  const mask = argmax({ data: Float32Array.from(fused.data), shape: fused.shape });
  return {
    nll: nll(fused, truth, ignored),
    dice: meanDice(mask, truth, { classes, ...ignored }),
    confidence: Number.NaN,
  };
}

/** As an option of a metric. */
export function optional(ignoreIndex: number): number | null {
  return ignoreIndex === NOTHING ? null : ignoreIndex;
}
