// Pixel maps of uncertainty. All are non-negative and in nats where they are entropies; all sums are in double precision.
import type { NdArray } from "../arrays.js";
import { checkClasses, checkLabels, type FloatArray } from "../checks.js";
import { checkProbabilities, type Heads, type HeadViews, headViews, singleView } from "../fusion/heads.js";

/** What maps are worked out from. */
export interface MapParts {
  /** C. */
  readonly classes: number;
  /** C×S: p̄. */
  readonly fused: NdArray<FloatArray>;
  /** K arrays C×S: p_k. */
  readonly heads: readonly NdArray[];
  /** K×S: m_k. */
  readonly labels: NdArray<Uint8Array>;
}

/** A pixel map. */
export interface PixelMap {
  /** As tables, axes and pages call it. */
  title: string;
  /** "nats" for an entropy. */
  unit?: "nats";
  /** The largest value that it can have, in formulas and for C classes. */
  most: { text: string; of(classes: number): number };
  /** With fewer heads than this it is 0 everywhere, whatever the image. */
  heads: number;
  /** Its values, S. */
  of(parts: MapParts): NdArray;
}

const IN_NATS = { unit: "nats", most: { text: "ln C", of: Math.log } } as const;
const upTo = (value: number) => ({ text: String(value), of: () => value });

/** The pixel maps of uncertainty, in the addon's order. */
export const MAPS = {
  entropy: { title: "entropy", ...IN_NATS, heads: 1, of: ({ fused }) => entropy(fused) },
  expectedEntropy: { title: "expected entropy", ...IN_NATS, heads: 1, of: ({ heads }) => expectedEntropy(heads) },
  mutualInformation: { title: "mutual information", ...IN_NATS, heads: 2, of: ({ heads }) => mutualInformation(heads) },
  variance: { title: "variance", most: upTo(0.25), heads: 2, of: ({ heads }) => variance(heads) },
  disagreement: {
    title: "disagreement",
    most: upTo(1),
    heads: 2,
    of: ({ labels, classes }) => disagreement(labels, classes),
  },
  variationRatio: {
    title: "variation ratio",
    most: upTo(1),
    heads: 2,
    of: ({ labels, classes }) => variationRatio(labels, classes),
  },
} as const satisfies Record<string, PixelMap>;

/** A pixel map of uncertainty. */
export type MapName = keyof typeof MAPS;

/** Every {@link MapName}. */
export const MAP_NAMES = Object.keys(MAPS) as MapName[];

/**
 * Entropy H(p̄) = -Σ_c p̄_c ln p̄_c of each pixel, with 0 ln 0 = 0.
 * @param probabilities Fused, C×S.
 * @returns S, in [0, ln C].
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function entropy(probabilities: NdArray<FloatArray>): NdArray {
  const input = singleView("probabilities", probabilities);
  checkProbabilities("probabilities", input);
  return map(input, entropyOf(input.view, input));
}

/**
 * Mean over the heads of each head's own entropy: (1/K) Σ_k H(p_k).
 * @param probabilities K×C×S or K arrays C×S.
 * @returns S, in [0, ln C].
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function expectedEntropy(probabilities: Heads): NdArray {
  const input = headViews("probabilities", probabilities);
  checkProbabilities("probabilities", input);
  const sum = new Float64Array(input.pixels);
  for (const view of input.views) {
    const h = entropyOf(view, input);
    for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (h[i] as number);
  }
  return map(input, sum, input.views.length);
}

/**
 * What the heads' disagreement adds to the entropy: H((1/K) Σ_k p_k) - (1/K) Σ_k H(p_k), of the plain mean. Exactly 0
 * where all heads are equal.
 * @param probabilities K×C×S or K arrays C×S.
 * @returns S, in [0, ln C].
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function mutualInformation(probabilities: Heads): NdArray {
  const input = headViews("probabilities", probabilities);
  checkProbabilities("probabilities", input);
  const { views, classes, pixels } = input;
  const mean = new Float64Array(classes * pixels);
  for (const view of views) for (let i = 0; i < mean.length; i++) mean[i] = (mean[i] as number) + (view[i] as number);
  for (let i = 0; i < mean.length; i++) mean[i] = (mean[i] as number) / views.length;
  const total = entropyOf(mean, input);
  const sum = new Float64Array(pixels);
  for (const view of views) {
    const h = entropyOf(view, input);
    for (let i = 0; i < pixels; i++) sum[i] = (sum[i] as number) + ((total[i] as number) - (h[i] as number));
  }
  return map(input, sum, views.length);
}

/**
 * Mean over the classes of the population variance (divisor K) over the heads. Exactly 0 where all heads are equal.
 * @param probabilities K×C×S or K arrays C×S.
 * @returns S, in [0, 1/4].
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function variance(probabilities: Heads): NdArray {
  const input = headViews("probabilities", probabilities);
  checkProbabilities("probabilities", input);
  const { views, classes, pixels } = input;
  const count = views.length;
  const first = views[0] as FloatArray;
  const total = new Float64Array(pixels);
  const sum = new Float64Array(pixels);
  const squares = new Float64Array(pixels);
  for (let c = 0; c < classes; c++) {
    const offset = c * pixels;
    sum.fill(0);
    squares.fill(0);
    for (const view of views) {
      for (let i = 0; i < pixels; i++) {
        // Deviations from the first head instead of the values: no cancellation where the heads are nearly equal.
        const d = (view[offset + i] as number) - (first[offset + i] as number);
        sum[i] = (sum[i] as number) + d;
        squares[i] = (squares[i] as number) + d * d;
      }
    }
    for (let i = 0; i < pixels; i++) {
      const mean = (sum[i] as number) / count;
      total[i] = (total[i] as number) + Math.max(0, (squares[i] as number) / count - mean * mean);
    }
  }
  return map(input, total, classes);
}

/**
 * Chance that two different heads, drawn at random, give different labels: 1 - Σ_c n_c (n_c - 1) / (K (K - 1)), n_c being
 * the number of heads with label c. 0 for a single head.
 * @param labels K×S, of {@link labelMaps}.
 * @param classes C.
 * @returns S, in [0, 1].
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function disagreement(labels: NdArray<Uint8Array>, classes: number): NdArray {
  return votes(labels, classes, (counts, heads) => {
    if (heads === 1) return 0;
    let pairs = 0;
    for (let c = 0; c < counts.length; c++) pairs += (counts[c] as number) * ((counts[c] as number) - 1);
    return 1 - pairs / (heads * (heads - 1));
  });
}

/**
 * Share of the heads that are not with the most frequent label: 1 - max_c n_c / K.
 * @param labels K×S, of {@link labelMaps}.
 * @param classes C.
 * @returns S, in [0, 1).
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function variationRatio(labels: NdArray<Uint8Array>, classes: number): NdArray {
  return votes(labels, classes, (counts, heads) => {
    let most = 0;
    for (let c = 0; c < counts.length; c++) if ((counts[c] as number) > most) most = counts[c] as number;
    return 1 - most / heads;
  });
}

function votes(
  labels: NdArray<Uint8Array>,
  classes: number,
  measure: (counts: Uint32Array, heads: number) => number,
): NdArray {
  checkClasses("classes", classes);
  const own = checkLabels("labels", labels, { classes, rank: 2, axes: "K×S" });
  const [heads, ...spatial] = own.shape as [number, ...number[]];
  const pixels = own.data.length / heads;
  const data = new Float32Array(pixels);
  const counts = new Uint32Array(classes);
  for (let i = 0; i < pixels; i++) {
    counts.fill(0);
    for (let k = 0; k < heads; k++) {
      const label = own.data[k * pixels + i] as number;
      counts[label] = (counts[label] as number) + 1;
    }
    data[i] = measure(counts, heads);
  }
  return { data, shape: spatial };
}

function entropyOf(p: FloatArray, { classes, pixels }: Pick<HeadViews, "classes" | "pixels">): Float64Array {
  const h = new Float64Array(pixels);
  for (let c = 0; c < classes; c++) {
    const offset = c * pixels;
    for (let i = 0; i < pixels; i++) {
      const value = p[offset + i] as number;
      if (value > 0) h[i] = (h[i] as number) - value * Math.log(value);
    }
  }
  return h;
}

/** sums / divisor in single precision, without what rounding leaves below 0. */
function map({ spatial }: HeadViews, sums: Float64Array, divisor = 1): NdArray {
  const data = new Float32Array(sums.length);
  for (let i = 0; i < data.length; i++) data[i] = Math.max(0, (sums[i] as number) / divisor);
  return { data, shape: [...spatial] };
}
