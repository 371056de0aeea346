import { type Calibration, calibration } from "../../../lib/metrics/index.js";
import { Random } from "../../../lib/random.js";
import type { ImageRecord } from "../../../lib/results/comparison.js";
import type { MethodName } from "../../../lib/runs/methods.js";
import type { AggregateSettings, MeasuredRun } from "../../../lib/study/aggregate.js";
import { pooledCalibration } from "../../../lib/study/evaluate.js";

/** Settings of an aggregation of {@link madeRun}s. */
export const SETTINGS: AggregateSettings = {
  classNames: ["background", "a", "b"],
  scored: [1, 2],
  tau: 0.5,
  summary: "sum",
  bootstrap: { resamples: 100, seed: 3, unit: "image" },
};

/** What a made-up run is like. */
export interface MadeOptions {
  method?: MethodName;
  seed?: number;
  images?: number;
  heads?: number;
  /** Images of one group in a row. Without it there are none. */
  perGroup?: number;
  /** Changes one image. */
  change?: (image: ImageRecord, i: number, random: Random) => Partial<ImageRecord>;
}

/** A run that nobody trained: random numbers, some of them tied, some MHDs undefined. */
export function madeRun(options: MadeOptions = {}): MeasuredRun {
  const { method = "le", seed = 0, images: count = 12, heads = 4, perGroup, change } = options;
  const random = new Random(seed * 7919 + method.length * 104729 + count);
  const tied = () => Math.round(random.uniform() * 8) / 8;
  const calibrations: Calibration[] = [];
  const images = Array.from({ length: count }, (_, i): ImageRecord => {
    const { probabilities, truth } = madePixels(random);
    const of = calibration(probabilities, truth);
    calibrations.push(of);
    const image: ImageRecord = {
      id: `image${String(i).padStart(3, "0")}`,
      group: perGroup === undefined ? null : `patient${Math.floor(i / perGroup)}`,
      dice: tied(),
      iou: random.uniform(),
      mhd: random.uniform() < 0.2 ? null : tied() * 9,
      hausdorff: random.uniform(),
      hd95: random.uniform(),
      assd: random.uniform(),
      classDice: [random.uniform(), random.uniform()],
      classMhd: [random.uniform(), null],
      nll: of.nll,
      brier: of.brier,
      ece: of.ece,
      empty: false,
      aula: method === "le" ? tied() : null,
      aulaNormalised: method === "le" ? random.uniform() : null,
      agreements: method === "le" ? [0.5, 0.7, 0.9] : null,
      pairwiseAgreement: heads > 1 ? tied() : null,
      predictedDice: null,
      aulaSlope: method === "le" ? 0.1 : null,
      softDiceConfidence: random.uniform(),
      "softDiceConfidence.final": random.uniform(),
      tapDistance: ((i * 5) % 7) / 7,
      predictionDepth: method === "le" ? 1 : null,
      uncertainty: { "entropy.sum": tied(), "mutualInformation.sum": tied(), "variance.sum": tied() },
    };
    return { ...image, ...change?.(image, i, random) };
  });
  return {
    calibration: calibrations,
    record: {
      run: `runs/${method}-${seed}`,
      method,
      seed,
      heads: Array.from({ length: heads }, (_, k) => `head${k}`),
      skip: 0,
      fusion: "mean",
      parameters: 1000,
      msPerImage: method === "plain" ? 2 : 3,
      calibration: pooledCalibration(calibrations),
      images,
    },
  };
}

/** Probabilities of two classes and a truth, eight pixels. */
export function madePixels(random: Random) {
  const p = Float32Array.from({ length: 8 }, () => random.uniform());
  return {
    probabilities: { data: Float32Array.of(...p.map((one) => 1 - one), ...p), shape: [2, 8] },
    truth: { data: Uint8Array.from(p, (one) => Number(random.uniform() < one)), shape: [8] },
  };
}
