// Is a probability of 0.8 right in eight cases of ten? Over the pixels of one image.
import type { NdArray } from "../arrays.js";
import type { FloatArray } from "../checks.js";
import { checkOptions, option } from "../options.js";
import { mean } from "../statistics/spread.js";
import {
  brierOf,
  type CountedPixels,
  checkCounted,
  LEFT_OUT,
  LIKELIHOOD_OPTIONS,
  type LikelihoodOptions,
  nllOf,
} from "./likelihood.js";

/** Options of {@link ece} and its kin. */
export interface CalibrationOptions extends LikelihoodOptions {
  /** Number of bins. @default 15 */
  bins?: number;
}

/** A reliability diagram: bin b holds the confidences in (b/B, (b+1)/B], the first also 0. */
export interface Reliability {
  /** Pixels in each bin. */
  count: number[];
  /** NaN where the bin is empty. */
  meanConfidence: number[];
  /** Share of the bin's pixels that are right, in [0, 1]; NaN where the bin is empty. */
  accuracy: number[];
}

/** Calibration errors of each class by itself. */
export interface ClasswiseEce {
  /** Mean over all classes, background too, in [0, 1]; NaN where no pixel is left. */
  mean: number;
  /** Of classes 0..C-1. */
  perClass: number[];
}

/** Everything that compares probabilities with the truth. NaN where no pixel is left. */
export interface Calibration {
  /** Pixels that are not left out. */
  n: number;
  /** {@link nll}. */
  nll: number;
  /** {@link brier}. */
  brier: number;
  /** {@link ece}. */
  ece: number;
  /** {@link adaptiveEce}. */
  adaptiveEce: number;
  /** {@link classwiseEce}. */
  classwiseEce: ClasswiseEce;
  /** {@link reliability}. */
  reliability: Reliability;
}

/**
 * Expected calibration error of the most probable class: Σ_b (n_b/n)·|accuracy_b - mean confidence_b| over bins of equal
 * width. Confidences on the border of two bins are found there in double precision only: give p̄ as a Float64Array where
 * that matters.
 * @param probabilities Fused, C×S.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns In [0, 1]; NaN where no pixel is left.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function ece(
  probabilities: NdArray<FloatArray>,
  truth: NdArray<Uint8Array>,
  options: CalibrationOptions = {},
): number {
  const { input, bins } = checked("ece", probabilities, truth, options);
  return errorOf(gapsOf(topBins(input, bins)), input.count);
}

/**
 * {@link ece} with bins of equal count: pixels in the order of their confidence, equal ones in row-major order; the first
 * n mod B bins have one pixel more.
 * @param probabilities Fused, C×S.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @returns In [0, 1]; NaN where no pixel is left.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function adaptiveEce(
  probabilities: NdArray<FloatArray>,
  truth: NdArray<Uint8Array>,
  options: CalibrationOptions = {},
): number {
  const { input, bins } = checked("adaptiveEce", probabilities, truth, options);
  return errorOf(equalCountGaps(input, bins), input.count);
}

/**
 * {@link ece} of each class's probability p̄_c against [y = c].
 * @param probabilities Fused, C×S.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function classwiseEce(
  probabilities: NdArray<FloatArray>,
  truth: NdArray<Uint8Array>,
  options: CalibrationOptions = {},
): ClasswiseEce {
  const { input, bins } = checked("classwiseEce", probabilities, truth, options);
  return classwiseOf(input, bins);
}

/**
 * Confidence of the most probable class against how often it is right, by bins of equal width.
 * @param probabilities Fused, C×S.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function reliability(
  probabilities: NdArray<FloatArray>,
  truth: NdArray<Uint8Array>,
  options: CalibrationOptions = {},
): Reliability {
  const { input, bins } = checked("reliability", probabilities, truth, options);
  return diagram(topBins(input, bins));
}

/**
 * nll, Brier score, all calibration errors and the reliability diagram.
 * @param probabilities Fused, C×S.
 * @param truth S, labels 0..C-1 or `ignoreIndex`.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function calibration(
  probabilities: NdArray<FloatArray>,
  truth: NdArray<Uint8Array>,
  options: CalibrationOptions = {},
): Calibration {
  const { input, bins } = checked("calibration", probabilities, truth, options);
  return calibrationOf(input, bins);
}

/** {@link calibration} of what was checked before. */
export function calibrationOf(input: CountedPixels, bins = DEFAULT_BINS): Calibration {
  const top = topBins(input, bins);
  return {
    n: input.count,
    nll: nllOf(input),
    brier: brierOf(input),
    ece: errorOf(gapsOf(top), input.count),
    adaptiveEce: errorOf(equalCountGaps(input, bins), input.count),
    classwiseEce: classwiseOf(input, bins),
    reliability: diagram(top),
  };
}

const DEFAULT_BINS = 15;

/** By bin: pixels, Σ confidence, and how many pixels are right. */
interface Bins {
  count: Float64Array;
  confidence: Float64Array;
  right: Float64Array;
}

function checked(
  name: string,
  probabilities: NdArray<FloatArray>,
  truth: NdArray<Uint8Array>,
  options: CalibrationOptions,
): { input: CountedPixels; bins: number } {
  const { bins = DEFAULT_BINS, ...rest } = checkOptions(name, options, {
    ...LIKELIHOOD_OPTIONS,
    bins: option.integer({ min: 1, max: 1_000_000 }),
  });
  return { input: checkCounted(probabilities, truth, rest), bins };
}

/** Upper ends of the bins but the last, in double precision. */
function upperEnds(bins: number): Float64Array {
  return Float64Array.from({ length: bins }, (_, b) => (b + 1) / bins);
}

/** The bin (b/B, (b+1)/B] of a confidence. The product finds it but for rounding. */
function binOf(confidence: number, ends: Float64Array): number {
  const last = ends.length - 1;
  let b = (confidence * ends.length) | 0;
  if (b > last) b = last;
  if (b > 0 && confidence <= (ends[b - 1] as number)) b--;
  else if (b < last && confidence > (ends[b] as number)) b++;
  return b;
}

function topBins({ confidence, hits, pixels }: CountedPixels, bins: number): Bins {
  const result = { count: new Float64Array(bins), confidence: new Float64Array(bins), right: new Float64Array(bins) };
  const ends = upperEnds(bins);
  const last = bins - 1;
  const from = last > 0 ? (ends[last - 1] as number) : Number.NEGATIVE_INFINITY;
  // Most confidences are in the last bin, whose sums stay in registers.
  let inLast = 0;
  let confidenceInLast = 0;
  let rightInLast = 0;
  for (let i = 0; i < pixels; i++) {
    const hit = hits[i] as number;
    if (hit === LEFT_OUT) continue;
    const p = confidence[i] as number;
    if (p > from) {
      inLast++;
      confidenceInLast += p;
      rightInLast += hit;
      continue;
    }
    const b = binOf(p, ends);
    result.count[b]!++;
    result.confidence[b] = (result.confidence[b] as number) + p;
    result.right[b] = (result.right[b] as number) + hit;
  }
  result.count[last] = inLast;
  result.confidence[last] = confidenceInLast;
  result.right[last] = rightInLast;
  return result;
}

/** An error needs of each bin only how far Σ right and Σ confidence are apart: right - confidence, summed. */
function classwiseOf(input: CountedPixels, bins: number): ClasswiseEce {
  const { classes, count } = input;
  const ends = upperEnds(bins);
  const gaps = new Float64Array(bins);
  const perClass: number[] = [];
  for (let c = 0; c < classes; c++) {
    gaps.fill(0);
    addGaps(input, c, ends, gaps);
    perClass.push(errorOf(gaps, count));
  }
  return { mean: mean(perClass), perClass };
}

function addGaps(
  { probabilities, truth, hits, pixels }: CountedPixels,
  c: number,
  ends: Float64Array,
  gaps: Float64Array,
): void {
  const offset = c * pixels;
  const last = ends.length - 1;
  const low = ends[0] as number;
  const high = ends[Math.max(0, last - 1)] as number;
  // Most probabilities are in the first or the last bin, whose sums stay in registers.
  let first = 0;
  let top = 0;
  for (let i = 0; i < pixels; i++) {
    if (hits[i] === LEFT_OUT) continue;
    const p = probabilities[offset + i] as number;
    const gap = truth[i] === c ? 1 - p : -p;
    if (p <= low) first += gap;
    else if (p > high) top += gap;
    else {
      const b = binOf(p, ends);
      gaps[b] = (gaps[b] as number) + gap;
    }
  }
  gaps[0] = (gaps[0] as number) + first;
  gaps[last] = (gaps[last] as number) + top;
}

/**
 * Confidences are first sorted into slots; only slots that a border cuts are looked at closely. The slot is read off the bits
 * of 1 - confidence in single precision: the exponent and so many bits more, thus finer towards 1, where confidences crowd.
 */
const SLOT_BITS = 7;
const LARGEST_SLOT = 127 << SLOT_BITS; // that of 1
const NO_SLOT = 0xffff;
const rest = new Float32Array(1);
const restBits = new Int32Array(rest.buffer);

/** By bin of equal count: Σ right - confidence. */
function equalCountGaps({ confidence, hits, count, pixels }: CountedPixels, bins: number): Float64Array {
  const gaps = new Float64Array(bins);
  const slotOf = new Uint16Array(pixels);
  const inSlot = new Uint32Array(LARGEST_SLOT + 1);
  const gapOfSlot = new Float64Array(LARGEST_SLOT + 1);
  for (let i = 0; i < pixels; i++) {
    const hit = hits[i] as number;
    if (hit === LEFT_OUT) {
      slotOf[i] = NO_SLOT;
      continue;
    }
    const p = confidence[i] as number;
    // Rounding may have left p outside [0, 1].
    rest[0] = p > 1 ? 0 : p < 0 ? 1 : 1 - p;
    const slot = LARGEST_SLOT - ((restBits[0] as number) >> (23 - SLOT_BITS));
    slotOf[i] = slot;
    inSlot[slot] = (inSlot[slot] as number) + 1;
    gapOfSlot[slot] = (gapOfSlot[slot] as number) + (hit - p);
  }
  /** By bin: how many pixels are in it and those before. */
  const ends = Float64Array.from(
    { length: bins },
    (_, b) => Math.floor(count / bins) * (b + 1) + Math.min(b + 1, count % bins),
  );
  const cut: CutSlot[] = [];
  for (let slot = 0, b = 0, start = 0; start < count; slot++) {
    const n = inSlot[slot] as number;
    if (n === 0) continue;
    while ((ends[b] as number) <= start) b++;
    if (start + n <= (ends[b] as number)) gaps[b] = (gaps[b] as number) + (gapOfSlot[slot] as number);
    else cut.push({ slot, start, bin: b, members: new Int32Array(n), filled: 0 });
    start += n;
  }
  collect(cut, slotOf);
  for (const { start, bin, members } of cut) {
    let b = bin;
    sortBy(confidence, members).forEach((i, rank) => {
      while ((ends[b] as number) <= start + rank) b++;
      gaps[b] = (gaps[b] as number) + ((hits[i] as number) - (confidence[i] as number));
    });
  }
  return gaps;
}

/** A slot that the border of two bins cuts. */
interface CutSlot {
  slot: number;
  /** Rank of its first pixel. */
  start: number;
  /** The bin of that pixel. */
  bin: number;
  /** Its pixels, of which so many are known. */
  members: Int32Array;
  filled: number;
}

/** Finds the members of all cut slots, in row-major order. */
function collect(cut: CutSlot[], slotOf: Uint16Array): void {
  const indexOf = new Uint16Array(NO_SLOT + 1);
  cut.forEach((of, index) => {
    indexOf[of.slot] = index + 1;
  });
  for (let i = 0; i < slotOf.length; i++) {
    const index = indexOf[slotOf[i] as number] as number;
    if (index === 0) continue;
    const of = cut[index - 1] as CutSlot;
    of.members[of.filled++] = i;
  }
}

/** Stable; most often there is nothing to do. */
function sortBy(values: Float64Array, members: Int32Array): Int32Array {
  const ordered = members.every(
    (i, j) => j === 0 || (values[i] as number) >= (values[members[j - 1] as number] as number),
  );
  return ordered ? members : members.sort((i, j) => (values[i] as number) - (values[j] as number) || i - j);
}

/** NaN where there is no pixel. */
function errorOf(gaps: Float64Array, n: number): number {
  return n === 0 ? Number.NaN : gaps.reduce((sum, gap) => sum + Math.abs(gap), 0) / n;
}

const gapsOf = ({ confidence, right }: Bins) => right.map((sum, b) => sum - (confidence[b] as number));

function diagram({ count, confidence, right }: Bins): Reliability {
  return {
    count: [...count],
    meanConfidence: [...confidence.map((sum, b) => sum / (count[b] as number))],
    accuracy: [...right.map((sum, b) => sum / (count[b] as number))],
  };
}
