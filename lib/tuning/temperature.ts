import type { NdArray } from "../arrays.js";
import { type FloatArray, fail } from "../checks.js";
import { expOfNegative, lnOfPositive } from "../fusion/exp-log.js";
import type { TrustOptions } from "../fusion/fuse.js";
import { checkLogits, checkProbabilities, singleView } from "../fusion/heads.js";
import { checkOptions, describe, option } from "../options.js";
import { checkSaid, IGNORE_INDEX, leftOut } from "../quality/ignored.js";
import { NLL_EPSILON } from "../quality/likelihood.js";
import { checkTruth } from "./samples.js";

/** Options of {@link fitTemperature} and {@link fitProbabilityTemperature}. */
export interface TemperatureOptions extends TrustOptions {
  /** Label of the truth that is left out; null leaves none out. @default 255 */
  ignoreIndex?: number | null;
  /** Lowest and highest temperature considered, positive. @default [0.05, 20] */
  range?: readonly [number, number];
}

/** A temperature that was fitted. */
export interface FittedTemperature {
  /** τ, in the range that was considered; above 1 where the logits were too sure. 1 where no pixel is left. */
  temperature: number;
  /** Mean nll over all pixels with it; NaN where no pixel is left. */
  nll: number;
}

/** Temperatures tried before the search closes in: nll of p + 1e-5 need not have one minimum only. */
const GRID = 25;
const GOLDEN = (Math.sqrt(5) - 1) / 2;
/** Relative precision of τ. */
const PRECISION = 1e-7;

/**
 * The temperature τ for which softmax(z/τ) has the lowest nll, over all pixels of all images that are not left out.
 * @param logits Of one head, or fused by `"logit-mean"`: one map C×S per image, finite.
 * @param truths One S per image, labels 0..C-1 or `ignoreIndex`.
 * @throws ERR_LE_SHAPE, ERR_LE_OPTION; ERR_LE_VALUE also for what look like probabilities
 */
export function fitTemperature(
  logits: readonly NdArray<FloatArray>[],
  truths: readonly NdArray<Uint8Array>[],
  options: TemperatureOptions = {},
): FittedTemperature {
  return fit("fitTemperature", "logits", logits, truths, options);
}

/**
 * The temperature τ for which p̄^(1/τ), normalised, has the lowest nll, over all pixels of all images that are not left out.
 * @param probabilities Fused: one map C×S per image.
 * @param truths One S per image, labels 0..C-1 or `ignoreIndex`.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function fitProbabilityTemperature(
  probabilities: readonly NdArray<FloatArray>[],
  truths: readonly NdArray<Uint8Array>[],
  options: TemperatureOptions = {},
): FittedTemperature {
  return fit("fitProbabilityTemperature", "probabilities", probabilities, truths, options);
}

/**
 * Applies a temperature to fused probabilities: p̄^(1/τ), normalised over the classes. (For logits, see option
 * `temperatures` of {@link fuse}.)
 * @param probabilities C×S.
 * @param temperature τ, positive.
 * @returns C×S, in [0, 1], summing to 1 over the classes.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE
 */
export function temper(probabilities: NdArray<FloatArray>, temperature: number): NdArray {
  const input = singleView("probabilities", probabilities);
  checkProbabilities("probabilities", input);
  if (!(temperature > 0 && Number.isFinite(temperature))) {
    fail("ERR_LE_VALUE", "temperature", "a positive, finite number", describe(temperature));
  }
  const { view, classes, pixels } = input;
  const data = new Float32Array(view.length);
  const powers = new Float64Array(classes);
  for (let i = 0; i < pixels; i++) {
    let most = 0;
    for (let c = 0; c < classes; c++) most = Math.max(most, view[c * pixels + i] as number);
    let sum = 0;
    for (let c = 0; c < classes; c++) {
      const power = (Math.max(0, view[c * pixels + i] as number) / most) ** (1 / temperature);
      powers[c] = power;
      sum += power;
    }
    for (let c = 0; c < classes; c++) data[c * pixels + i] = (powers[c] as number) / sum;
  }
  return { data, shape: [...probabilities.shape] };
}

function fit(
  name: string,
  argument: "logits" | "probabilities",
  maps: readonly NdArray<FloatArray>[],
  truths: readonly NdArray<Uint8Array>[],
  options: TemperatureOptions,
): FittedTemperature {
  const {
    ignoreIndex: ignored,
    range: [low, high] = [0.05, 20],
    trust = false,
  } = checkOptions(name, options, {
    trust: option.boolean(),
    ignoreIndex: IGNORE_INDEX,
    range: option.array(option.number({ above: 0 }), { length: 2 }),
  });
  const ignoreIndex = leftOut(ignored, 2);
  if (!(low <= high))
    fail("ERR_LE_OPTION", `option 'range' of ${name}`, "the lower bound first", describe([low, high]));
  const pixels = gather(argument, maps, truths, { ignoreIndex, said: ignored, trust });
  if (pixels.own.length === 0) return { temperature: 1, nll: Number.NaN };
  const of = (logarithm: number) => nllAt(pixels, 1 / Math.exp(logarithm));
  const [start, end] = [Math.log(low), Math.log(high)];
  const step = (end - start) / (GRID - 1);
  let best = start;
  let lowest = Number.POSITIVE_INFINITY;
  for (let g = 0; g < GRID; g++) {
    const value = of(start + g * step);
    if (value < lowest) [best, lowest] = [start + g * step, value];
  }
  // Golden section around the best.
  let [a, b] = [Math.max(start, best - step), Math.min(end, best + step)];
  let [x, y] = [b - GOLDEN * (b - a), a + GOLDEN * (b - a)];
  let [atX, atY] = [of(x), of(y)];
  while (b - a > PRECISION) {
    if (atX <= atY) {
      [b, y, atY] = [y, x, atX];
      x = b - GOLDEN * (b - a);
      atX = of(x);
    } else {
      [a, x, atX] = [x, y, atY];
      y = a + GOLDEN * (b - a);
      atY = of(y);
    }
  }
  const middle = of((a + b) / 2);
  return middle <= lowest
    ? { temperature: Math.exp((a + b) / 2), nll: middle }
    : { temperature: Math.exp(best), nll: lowest };
}

/** Logits of the counted pixels, and of their true class; logarithms of probabilities, which may be -∞. */
interface Pixels {
  /** n×C. */
  logits: Float64Array;
  /** n: index in `logits`. */
  own: Uint32Array;
  classes: number;
}

function gather(
  argument: "logits" | "probabilities",
  maps: readonly NdArray<FloatArray>[],
  truths: readonly NdArray<Uint8Array>[],
  { ignoreIndex, said, trust }: { ignoreIndex: number; said: number | null | undefined; trust: boolean },
): Pixels {
  if (maps.length !== truths.length) fail("ERR_LE_SHAPE", "truths", `${maps.length} maps`, `${truths.length}`);
  const inputs = maps.map((map, n) => {
    const name = `${argument}[${n}]`;
    const input = singleView(name, map);
    if (argument === "logits")
      checkLogits(name, input, trust ? null : "they are probabilities: see fitProbabilityTemperature");
    else checkProbabilities(name, input);
    const truth = truths[n] as NdArray<Uint8Array>;
    return { ...input, ...checkTruth(`truths[${n}]`, truth, input, ignoreIndex) };
  });
  const classes = inputs[0]?.classes ?? 1;
  checkSaid(
    said,
    classes,
    inputs.map(({ truth }, n) => [`truths[${n}]`, truth]),
  );
  const counted = inputs.reduce((sum, input) => sum + input.counted, 0);
  const logits = new Float64Array(counted * classes);
  const own = new Uint32Array(counted);
  let n = 0;
  inputs.forEach(({ view, truth, pixels, classes: here }, image) => {
    if (here !== classes) fail("ERR_LE_SHAPE", `${argument}[${image}]`, `${classes} classes`, `${here}`);
    for (let i = 0; i < pixels; i++) {
      const y = truth[i] as number;
      if (y === ignoreIndex) continue;
      for (let c = 0; c < classes; c++) {
        const value = view[c * pixels + i] as number;
        logits[n * classes + c] = argument === "logits" ? value : Math.log(Math.max(0, value));
      }
      own[n] = n * classes + y;
      n++;
    }
  });
  return { logits, own, classes };
}

/** Mean nll of softmax(inverse · z). */
function nllAt({ logits, own, classes }: Pixels, inverse: number): number {
  let total = 0;
  for (let n = 0; n < own.length; n++) {
    const from = n * classes;
    let most = logits[from] as number;
    for (let c = 1; c < classes; c++) if ((logits[from + c] as number) > most) most = logits[from + c] as number;
    let sum = 0;
    for (let c = 0; c < classes; c++) sum += expOfNegative(((logits[from + c] as number) - most) * inverse);
    const p = expOfNegative(((logits[own[n] as number] as number) - most) * inverse) / sum;
    total -= lnOfPositive(p + NLL_EPSILON);
  }
  return total / own.length;
}
