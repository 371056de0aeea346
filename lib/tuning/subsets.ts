// Quality of one image for many subsets of its heads. What a head adds to the fusion is worked out once, and a subset differs
// from its neighbour by one head: all T cost one pass over the heads instead of one each.
import { type AgreementCounts, countAgreement } from "../agreement/counts.js";
import { aulaFromCounts } from "../agreement/index.js";
import type { NdArray } from "../arrays.js";
import type { FloatArray } from "../checks.js";
import { expOfNegative, lnOfPositive } from "../fusion/exp-log.js";
import { type Fusion, labelMaps } from "../fusion/fuse.js";
import { checkLogits, type Heads, headViews, LOGARITHMS } from "../fusion/heads.js";
import { NLL_EPSILON } from "../quality/likelihood.js";
import { LEAST_SURE } from "../scores/scores.js";
import { checkTruth } from "./samples.js";

/** How an image fares with some of its heads. */
export interface SubsetScore {
  /** NaN where the truth of every pixel is ignored. */
  nll: number;
  /** Mean over the foreground classes; NaN where the truth of every pixel is ignored. */
  dice: number;
  /** What images are ranked by: AULA of the heads in their order, unless it is replaced; the least where none finds anything; NaN for fewer than three. */
  confidence: number;
}

/** One image's heads, ready to be added up. K heads, C classes, S pixels. */
export class SubsetScorer {
  /** K. */
  readonly heads: number;
  readonly #classes: number;
  readonly #pixels: number;
  /** S: as checked. */
  readonly truth: Uint8Array;
  readonly #ignoreIndex: number;
  readonly #counted: number;
  readonly #fusion: Fusion;
  /** By head C×S: what it adds. */
  readonly #parts: readonly FloatArray[];
  readonly #counts: AgreementCounts;

  /**
   * @param argument What errors call the heads.
   * @param heads Logits, K×C×S or K arrays C×S.
   * @throws ERR_LE_SHAPE, ERR_LE_VALUE
   */
  constructor(
    argument: string,
    heads: Heads,
    truth: NdArray<Uint8Array>,
    { fusion, ignoreIndex, trust }: { fusion: Fusion; ignoreIndex: number; trust: boolean },
  ) {
    const input = headViews(argument, heads);
    checkLogits(argument, input, trust ? null : LOGARITHMS);
    const own = input.views.map((data) => ({ data, shape: [input.classes, input.pixels] }));
    const labels = labelMaps(own);
    const checked = checkTruth("truth", truth, input, ignoreIndex);
    this.heads = input.views.length;
    this.#classes = input.classes;
    this.#pixels = input.pixels;
    this.truth = checked.truth;
    this.#ignoreIndex = ignoreIndex;
    this.#counted = checked.counted;
    this.#fusion = fusion;
    this.#counts = countAgreement(labels, input.classes);
    const shape = [input.classes, input.pixels] as const;
    this.#parts = input.views.map((data, k) => {
      if (fusion === "logit-mean") return data;
      if (fusion === "vote") return votes(labels.data.subarray(k * input.pixels, (k + 1) * input.pixels), shape);
      return softmaxOf(data, shape);
    });
  }

  /** Without the first T heads, for T = 0..K-3. */
  suffixes(): SubsetScore[] {
    const scores: SubsetScore[] = [];
    const sum = new Float64Array(this.#classes * this.#pixels);
    const kept: number[] = [];
    for (let k = this.heads - 1; k >= 0; k--) {
      kept.unshift(k);
      // The last head stays what it is.
      if (this.#fusion !== "last" || k === this.heads - 1) add(sum, this.#parts[k] as FloatArray, 1);
      if (kept.length >= 3) scores.unshift(this.#score(sum, kept));
    }
    return scores;
  }

  /** Without each one of the heads that are kept, in their order. */
  withoutEach(kept: readonly number[]): SubsetScore[] {
    const all = new Float64Array(this.#classes * this.#pixels);
    for (const k of kept) add(all, this.#parts[k] as FloatArray, 1);
    const sum = new Float64Array(all.length);
    return kept.map((removed) => {
      const rest = kept.filter((k) => k !== removed);
      if (this.#fusion === "last") sum.set(this.#parts[rest.at(-1) as number] as FloatArray);
      else {
        sum.set(all);
        add(sum, this.#parts[removed] as FloatArray, -1);
      }
      return this.#score(sum, rest);
    });
  }

  /** @param sum C×S: of the parts of the heads that are kept. */
  #score(sum: Float64Array, kept: readonly number[]): SubsetScore {
    return { ...this.#quality(sum, this.#fusion === "last" ? 1 : kept.length), confidence: this.#aula(kept) };
  }

  #quality(sum: Float64Array, divisor: number): Pick<SubsetScore, "nll" | "dice"> {
    const [classes, pixels, truth] = [this.#classes, this.#pixels, this.truth];
    const scale = 1 / divisor;
    const p = new Float64Array(classes);
    const predicted = new Uint32Array(classes);
    const real = new Uint32Array(classes);
    const both = new Uint32Array(classes);
    const logits = this.#fusion === "logit-mean";
    let total = 0;
    for (let i = 0; i < pixels; i++) {
      const y = truth[i] as number;
      if (y === this.#ignoreIndex) continue;
      for (let c = 0; c < classes; c++) p[c] = (sum[c * pixels + i] as number) * scale;
      if (logits) softmaxOne(p);
      // In single precision, as predictions are: sums in another order, which differ by rounding, have the same ties.
      let label = 0;
      let most = Math.fround(p[0] as number);
      for (let c = 1; c < classes; c++) {
        const value = Math.fround(p[c] as number);
        if (value > most) {
          most = value;
          label = c;
        }
      }
      total -= lnOfPositive(Math.min(1, Math.max(0, p[y] as number)) + NLL_EPSILON);
      predicted[label] = (predicted[label] as number) + 1;
      real[y] = (real[y] as number) + 1;
      if (label === y) both[y] = (both[y] as number) + 1;
    }
    let dice = 0;
    for (let c = 1; c < classes; c++) {
      const either = (predicted[c] as number) + (real[c] as number);
      dice += either === 0 ? 1 : (2 * (both[c] as number)) / either;
    }
    return { nll: total / this.#counted, dice: this.#counted === 0 ? Number.NaN : dice / (classes - 1) };
  }

  #aula(kept: readonly number[]): number {
    if (kept.length < 3) return Number.NaN;
    const { value, empty } = aulaFromCounts(countsOf(this.#counts, kept));
    return empty ? LEAST_SURE : value;
  }
}

/** The counts of some of the heads. */
function countsOf({ heads, classes, counts, intersections }: AgreementCounts, kept: readonly number[]) {
  const one = kept.flatMap((k) => Array.from({ length: classes }, (_, c) => counts[k * classes + c] as number));
  const two = kept.flatMap((j) =>
    kept.flatMap((k) =>
      Array.from({ length: classes }, (_, c) => intersections[(j * heads + k) * classes + c] as number),
    ),
  );
  return { heads: kept.length, classes, counts: one, intersections: two };
}

function votes(labels: Uint8Array, [classes, pixels]: readonly [number, number]): Float32Array {
  const votes = new Float32Array(classes * pixels);
  for (let i = 0; i < labels.length; i++) votes[(labels[i] as number) * labels.length + i] = 1;
  return votes;
}

/** Softmax over the classes, to 1e-9. */
function softmaxOf(z: FloatArray, [classes, pixels]: readonly [number, number]): Float64Array {
  const p = new Float64Array(z.length);
  for (let i = 0; i < pixels; i++) {
    let most = z[i] as number;
    for (let c = 1, at = i + pixels; c < classes; c++, at += pixels) most = Math.max(most, z[at] as number);
    let sum = 0;
    for (let c = 0, at = i; c < classes; c++, at += pixels) {
      const e = expOfNegative((z[at] as number) - most);
      p[at] = e;
      sum += e;
    }
    for (let c = 0, at = i; c < classes; c++, at += pixels) p[at] = (p[at] as number) / sum;
  }
  return p;
}

function add(sum: Float64Array, values: FloatArray, scale: 1 | -1): void {
  for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + scale * (values[i] as number);
}

function softmaxOne(z: Float64Array): void {
  let most = z[0] as number;
  for (let c = 1; c < z.length; c++) most = Math.max(most, z[c] as number);
  let sum = 0;
  for (let c = 0; c < z.length; c++) {
    z[c] = Math.exp((z[c] as number) - most);
    sum += z[c] as number;
  }
  for (let c = 0; c < z.length; c++) z[c] = (z[c] as number) / sum;
}
