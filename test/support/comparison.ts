// A made-up comparison: noisy images of one disc or two, methods of some skill, and the statistics that follow from them.

import { Random } from "../../lib/random.js";
import type {
  AcceptanceCurve,
  Comparison,
  ConfidenceResult,
  Coverage,
  Estimate,
  ImageRecord,
  MeanEstimate,
  MethodResult,
  RunRecord,
  ShownImage,
} from "../../lib/results/comparison.js";
import { METHODS, type MethodName } from "../../lib/runs/methods.js";
import {
  CONFIDENCES,
  type ConfidenceName,
  rankingScores,
  recordedConfidence,
  recordedConfidences,
  type ScoreName,
} from "../../lib/scores/scores.js";
import { augrc, aurc, auroc, eaurc, fpr95, qualityControlCurve, spearman } from "../../lib/statistics/index.js";
import { rankScores } from "../../lib/study/score-ranks.js";
import { resamplesOf } from "../../lib/study/statistics.js";
import { alarmStreams } from "../../lib/study/stream.js";

/** What to make. */
export interface ComparisonOptions {
  /** @default all */
  methods?: readonly MethodName[];
  /** Background included. @default 2 */
  classes?: number;
  /** @default 60 */
  images?: number;
  /** @default 2 */
  seeds?: number;
  /** @default true */
  shift?: boolean;
  /** @default true */
  shown?: boolean;
  /** Whether every number that may be null is. @default false */
  nulls?: boolean;
  /** Heads of LE. @default 8 */
  heads?: number;
  /** Height and width of the shown images. @default [64, 80] */
  size?: readonly [height: number, width: number];
  title?: string;
}

const skill: Record<MethodName, number> = { plain: 0, mh: 0.005, de: 0.03, mcd: 0.01, le: 0.025 };
const tau = 0.8;

/** A comparison that has the form of a real one; the same options give the same one. */
export function makeComparison(options: ComparisonOptions = {}): Comparison {
  const { methods = METHODS, classes = 2, images = 60, seeds = 2, heads = 8, nulls = false } = options;
  const scored = Array.from({ length: classes - 1 }, (_, i) => i + 1);
  const runs = methods.flatMap((method) =>
    Array.from({ length: seeds }, (_, seed) => makeRun(method, seed, images, 0, { ...options, heads, classes })),
  );
  const results = methods.map((method): MethodResult => {
    const own = runs.flatMap((run, i) => (run.method === method ? [i] : []));
    return methodResult(method, own, runs, nulls);
  });
  const comparison: Comparison = {
    format: 2,
    made: {
      date: "2026-01-02T03:04:05.000Z",
      "layer-ensembles": "0.1.0",
      node: "v20",
      libtorch: "2.13.0",
      cpu: "Some CPU <8 cores>",
    },
    title: options.title ?? "Five methods & <phantoms>",
    data: { folder: "data/phantoms", split: "test", images, groups: nulls ? 0 : images / 2 },
    classNames: ["background", "lesion", "cyst", "duct"].slice(0, classes),
    scored,
    spacing: [1, 1],
    tau,
    summary: "sum",
    bootstrap: { resamples: 2000, seed: 0, unit: "group" },
    methods: results,
    runs,
    tests: methods.includes("le")
      ? (["dice", "mhd", "nll"] as const).flatMap((measure) =>
          methods
            .filter((method) => method !== "le")
            .map((other) => {
              const mean = (method: MethodName) =>
                results.find((result) => result.method === method)!.quality[measure].value;
              const [a, b] = [mean("le"), mean(other)];
              const difference = a === null || b === null ? null : a - b;
              const p = difference === null ? null : Math.exp(-Math.abs(difference) * 400);
              return { measure, other, n: images, difference, wilcoxonP: p, tP: p };
            }),
        )
      : [],
    shown: options.shown === false ? [] : makeShown(methods, classes, heads, options.size ?? [64, 80], nulls),
  };
  if (options.shift !== false) {
    const shifted = methods.flatMap((method) =>
      Array.from({ length: seeds }, (_, seed) => makeRun(method, seed, images, 0.35, { ...options, heads, classes })),
    );
    comparison.shift = {
      folder: "data/other",
      split: "test",
      images,
      imagesIn: images,
      scored,
      runs: shifted,
      rows: results.flatMap((result) =>
        CONFIDENCES.filter((name) => result.confidence[name] !== null).map((confidence) => {
          const inside = confidences(runs[result.runs[0]!]!, confidence);
          const outside = confidences(shifted.find((run) => run.method === result.method)!, confidence);
          const threshold = inside.toSorted((a, b) => a - b)[Math.floor(inside.length / 10)]!;
          const labels = [...inside.map(() => 0), ...outside.map(() => 1)];
          return {
            method: result.method,
            confidence,
            auroc: estimate(nulls ? Number.NaN : auroc([...inside, ...outside], labels), seeds),
            diceIn: nulls ? null : 0.85,
            diceOut: nulls ? null : 0.6,
            thresholds: Array.from({ length: seeds }, () => (nulls ? null : threshold)),
            flaggedIn: 0.1,
            flaggedOut: estimate(outside.filter((value) => value < threshold).length / outside.length, seeds),
          };
        }),
      ),
      streams: alarmStreams(runs, shifted, { summary: "sum", seed: 0 }),
    };
  }
  return comparison;
}

function makeRun(
  method: MethodName,
  seed: number,
  count: number,
  harder: number,
  { heads = 8, classes = 2, nulls = false }: ComparisonOptions,
): RunRecord {
  const random = new Random(seed * 10 + METHODS.indexOf(method));
  const difficulties = new Random(7);
  const names = headNames(method, heads);
  const images = Array.from({ length: count }, (_, i): ImageRecord => {
    const difficulty = Math.min(1, difficulties.uniform() ** 2 + harder * difficulties.uniform());
    const dice = Math.max(0, Math.min(1, 0.95 - 0.75 * difficulty + skill[method] + 0.04 * random.normal()));
    const empty = method === "le" && i === 3;
    const doubt = Math.max(0.01, difficulty + 0.12 * random.normal());
    const agreements = Array.from({ length: names.length - 1 }, (_, j) =>
      Math.max(0, Math.min(1, 1 - doubt * (0.9 - 0.08 * j) * random.uniform(0.5, 1))),
    );
    const ordered = method === "le" && !nulls;
    const aula = agreements.slice(1).reduce((sum, value, j) => sum + (value + agreements[j]!) / 2, 0);
    return {
      id: `image-${String(i).padStart(3, "0")}`,
      group: nulls ? null : `patient-${i >> 1}`,
      dice: empty ? 0 : dice,
      iou: dice / (2 - dice),
      mhd: nulls || empty ? null : 12 * (1 - dice),
      hausdorff: nulls ? null : 30 * (1 - dice),
      hd95: nulls ? null : 25 * (1 - dice),
      assd: nulls ? null : 9 * (1 - dice),
      classDice: Array.from({ length: classes - 1 }, () => dice),
      classMhd: Array.from({ length: classes - 1 }, () => null),
      nll: nulls ? null : 0.02 + 0.2 * doubt,
      brier: nulls ? null : 0.02 + 0.1 * doubt,
      ece: nulls ? null : 0.01,
      empty,
      aula: ordered ? (empty ? names.length - 2 : aula) : null,
      aulaNormalised: ordered ? aula / (names.length - 2) : null,
      agreements: ordered ? agreements : null,
      pairwiseAgreement:
        names.length > 1 && !nulls ? Math.max(0, Math.min(1, 1 - 0.8 * doubt + 0.03 * random.normal())) : null,
      predictedDice: null,
      aulaSlope: ordered ? doubt / names.length : null,
      softDiceConfidence: Math.max(0, 1 - 0.6 * doubt + 0.05 * random.normal()),
      "softDiceConfidence.final": Math.max(0, 1 - 0.6 * doubt + 0.05 * random.normal()),
      tapDistance: Math.min(1, 0.8 * doubt),
      predictionDepth: ordered ? 1 + Math.min(names.length - 2, Math.round(doubt * names.length)) : null,
      uncertainty: {
        "entropy.sum": 900 * doubt * random.uniform(0.7, 1),
        "mutualInformation.sum": 200 * doubt * random.uniform(0.6, 1),
        "variance.sum": 50 * doubt * random.uniform(0.8, 1),
      },
    };
  });
  const bins = Array.from({ length: 15 }, (_, i) => {
    const confidence = (i + 0.5) / 15;
    const count = i < 6 && classes === 2 ? 0 : Math.round(100 * Math.exp((i - 6) * 0.7));
    const over = { plain: 0.12, mh: 0.1, de: 0.02, mcd: 0.06, le: 0.03 }[method];
    return count === 0
      ? { count, confidence: null, accuracy: null }
      : { count, confidence, accuracy: Math.max(0, confidence - over * 4 * confidence * (1 - confidence)) };
  });
  return {
    run: `runs/${method}-${seed}`,
    method,
    seed,
    heads: names,
    skip: method === "le" ? 2 : 0,
    fusion: "mean",
    parameters: method === "de" ? 3 * 14_300_000 : 14_300_000 + (method === "le" ? 52_000 : 0),
    msPerImage: { plain: 21, mh: 22, de: 64, mcd: 210, le: 24.5 }[method] + seed,
    calibration: {
      ece: nulls ? null : 0.02,
      brier: nulls ? null : 0.04,
      nll: nulls ? null : 0.08,
      bins: nulls ? [] : bins,
    },
    images,
    ...(method !== "plain" &&
      !nulls && {
        predictedDice: {
          alpha: 0.1,
          from: "out-of-fold",
          of: coverages(["lesion", "cyst", "duct"].slice(0, classes - 1)),
        },
      }),
    ...(method === "le" &&
      !nulls && {
        skipCurve: Array.from({ length: names.length }, (_, skip) => ({
          skip,
          nll: 0.07 + 0.004 * (skip - 2.4) ** 2,
          nllSd: 0.03 + 0.002 * skip,
          dice: 0.871 - 0.003 * Math.abs(skip - 3),
          diceSd: 0.1,
          aurc: 0.05,
        })),
      }),
  };
}

/** Of each class, and over several. */
function coverages(names: readonly string[]): Record<string, Coverage> {
  const all = names.length > 1 ? ["", ...names] : names;
  const of = (i: number) => ({ error: 0.1, constantError: 0.15, lower: 0.9, interval: 0.92 - 0.03 * i, width: 0.4 });
  const constant = { constantInterval: 0.91, constantWidth: 0.55 };
  return Object.fromEntries(all.map((name, i) => [name, { images: 60, ...of(i), ...constant }]));
}

function methodResult(method: MethodName, runs: number[], all: readonly RunRecord[], nulls: boolean): MethodResult {
  const own = runs.map((i) => all[i]!);
  const first = own[0]!;
  const quality = (name: "dice" | "iou" | "mhd" | "hausdorff" | "hd95" | "assd" | "nll" | "brier") =>
    meanEstimate(own.map((run) => run.images.map((image) => image[name])));
  const confidence = Object.fromEntries(
    CONFIDENCES.map((name) => [
      name,
      confidences(first, name).length === 0 ? null : confidenceResult(name, own, nulls),
    ]),
  ) as Record<ConfidenceName, ConfidenceResult | null>;
  const present = CONFIDENCES.filter((name) => confidence[name] !== null);
  return {
    method,
    runs,
    quality: {
      dice: quality("dice"),
      iou: quality("iou"),
      mhd: quality("mhd"),
      hausdorff: quality("hausdorff"),
      hd95: quality("hd95"),
      assd: quality("assd"),
      nll: quality("nll"),
      brier: quality("brier"),
    },
    classDice: Object.fromEntries(
      first.images[0]!.classDice.map((_, c) => [
        ["lesion", "cyst", "duct"][c]!,
        meanEstimate(own.map((run) => run.images.map((image) => image.classDice[c]!))),
      ]),
    ),
    pooled: {
      ece: estimate(
        nulls ? Number.NaN : { plain: 0.031, mh: 0.027, de: 0.009, mcd: 0.018, le: 0.011 }[method],
        runs.length,
      ),
      brier: estimate(nulls ? Number.NaN : 0.04, runs.length),
      nll: estimate(nulls ? Number.NaN : 0.08, runs.length),
    },
    classMhd: {},
    confidence,
    ...(!nulls && { scoreRanks: scoreRanks(first), acceptance: acceptance(confidence.aula ? ["aula"] : []) }),
    qcCurves: Object.fromEntries(
      present.map((name) => [name, qualityControlCurve(confidences(first, name), diceOf(first, name), { tau })]),
    ),
    cost: {
      parameters: first.parameters,
      msPerImage: first.msPerImage,
      ratioToPlain: nulls ? null : first.msPerImage / 21,
    },
  };
}

function confidenceResult(name: ConfidenceName, runs: readonly RunRecord[], nulls: boolean): ConfidenceResult {
  const of = (statistic: (confidence: number[], dice: number[]) => number) => {
    const values = runs.map((run) => statistic(confidences(run, name), diceOf(run, name)));
    return estimate(nulls ? Number.NaN : values.reduce((sum, value) => sum + value, 0) / values.length, runs.length);
  };
  const risk = (dice: number[]) => dice.map((value) => 1 - value);
  const failed = (dice: number[]) => dice.map((value) => Number(value < tau));
  return {
    spearmanDice: of((confidence, dice) => spearman(confidence, dice).rho),
    spearmanMhd: of((confidence, dice) => -spearman(confidence, dice).rho),
    aurc: of((confidence, dice) => aurc(confidence, risk(dice))),
    eaurc: of((confidence, dice) => eaurc(confidence, risk(dice))),
    augrc: of((confidence, dice) => augrc(confidence, risk(dice))),
    auroc: of((confidence, dice) => auroc(confidence, failed(dice))),
    fpr95: of((confidence, dice) => fpr95(confidence, failed(dice))),
    qcArea: of((confidence, dice) => qualityControlCurve(confidence, dice, { tau }).area),
    remaining5: of((confidence, dice) => qualityControlCurve(confidence, dice, { tau }).remaining5),
  };
}

const given = ({ heads }: RunRecord) => ({ heads: heads.length, summary: "sum" }) as const;

function confidences(run: RunRecord, name: ConfidenceName): number[] {
  return run.images.map((image) => recordedConfidence(image, name, given(run))).filter((value) => value !== null);
}

function diceOf(run: RunRecord, name: ConfidenceName): number[] {
  return run.images
    .filter((image) => recordedConfidence(image, name, given(run)) !== null)
    .map((image) => image.dice as number);
}

/** Of entropy, and of other scores. */
function acceptance(others: readonly ScoreName[]): AcceptanceCurve[] {
  return (["entropy.sum", ...others] as const).map((score, line) => ({
    ...{ score, rule: "conditional", tau, delta: 0.1, halves: 100 },
    points: [0.1, 0.2, 0.3].map((alpha) => ({
      alpha,
      accepted: Math.max(0, 3 * alpha - 0.3 - 0.1 * line),
      failed: alpha < 0.2 ? 0 : 0.7 * alpha,
      failedHigh: alpha < 0.2 ? 0 : 1.1 * alpha,
    })),
  }));
}

/** Of one run, images drawn each alone. */
function scoreRanks(run: RunRecord) {
  const { images } = run;
  const units = { count: images.length, of: Int32Array.from(images, (_, i) => i) };
  const known = rankingScores(images).flatMap((name) => {
    const values = recordedConfidences(images, name, given(run));
    return values ? [[name, values]] : [];
  });
  const dice = Float64Array.from(images, (image) => image.dice ?? Number.NaN);
  return rankScores([{ dice, confidences: Object.fromEntries(known) }], resamplesOf(units, 50, 0));
}

function estimate(value: number, runs: number): Estimate {
  if (Number.isNaN(value))
    return { value: null, low: null, high: null, perRun: Array.from({ length: runs }, () => null) };
  const half = 0.08 * Math.abs(value) + 0.002;
  return {
    value,
    low: value - half,
    high: value + half,
    perRun: Array.from({ length: runs }, (_, i) => value + 0.01 * i),
  };
}

function meanEstimate(perRun: readonly (readonly (number | null)[])[]): MeanEstimate {
  const present = perRun.map((values) => values.filter((value) => value !== null));
  const n = present[0]!.length;
  const means = present.map((values) => values.reduce((sum, value) => sum + value, 0) / values.length);
  const value = means.reduce((sum, mean) => sum + mean, 0) / means.length;
  const sd = Math.sqrt(present[0]!.reduce((sum, x) => sum + (x - means[0]!) ** 2, 0) / Math.max(1, n - 1));
  return {
    ...estimate(value, perRun.length),
    sd: n > 1 ? sd : null,
    n,
    leftOut: perRun[0]!.length - n,
    leftOutPerRun: perRun.map((values, i) => values.length - present[i]!.length),
  };
}

function headNames(method: MethodName, heads: number): string[] {
  const count = method === "plain" ? 1 : method === "de" ? 3 : heads;
  return Array.from({ length: count }, (_, k) =>
    method === "le" && k < count - 1 ? `decoder.blocks.${k}.conv2.relu` : method === "le" ? "final" : `${method}.${k}`,
  );
}

/** Discs in noise. The fainter the disc, the further the outlines are from it and from each other. */
function makeShown(
  methods: readonly MethodName[],
  classes: number,
  heads: number,
  [height, width]: readonly [number, number],
  nulls: boolean,
): ShownImage[] {
  const reasons: ShownImage["why"][] = [["best", "most certain"], ["median"], ["worst"], ["least certain"]];
  return reasons.map((why, i) => {
    const random = new Random(100 + i);
    const hard = i / (reasons.length - 1);
    const disc = (dx: number, dy: number, grow: number) => {
      const labels = new Uint8Array(height * width);
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const r = Math.hypot(x - width * 0.45 - dx, y - height / 2 - dy) / (height * 0.28 * grow);
          if (r < 1) labels[y * width + x] = r < 0.55 && classes > 2 ? 2 : 1;
        }
      }
      return labels;
    };
    const truth = disc(0, 0, 1);
    const wobble = (size: number) =>
      disc(size * random.normal(), size * random.normal(), 1 + 0.03 * size * random.normal());
    const image = Uint8Array.from(truth, (label) =>
      Math.max(0, Math.min(255, 60 + label * 70 * (1 - 0.8 * hard) + 22 * random.normal())),
    );
    const entropy = (strength: number) => {
      const map = new Float32Array(height * width);
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const r = Math.hypot(x - width * 0.45, y - height / 2) - height * 0.28;
          map[y * width + x] = Math.LN2 * Math.exp(-((r / (2 + 6 * hard)) ** 2)) * strength;
        }
      }
      return base64(new Uint8Array(map.buffer));
    };
    const ordered = methods.includes("le");
    return {
      id: `image-00${i}`,
      why,
      dice: Object.fromEntries(methods.map((method) => [method, 0.95 - 0.6 * hard])),
      aula: ordered && !nulls ? (heads - 2) * (1 - 0.5 * hard) : null,
      height,
      width,
      image: base64(image),
      truth: base64(truth),
      masks: Object.fromEntries(methods.map((method) => [method, base64(wobble(0.5 + 3 * hard))])),
      heads: ordered
        ? headNames("le", heads).map((name, k) => ({ name, mask: base64(wobble((0.4 + 5 * hard) * (1 - k / heads))) }))
        : [],
      entropy: nulls ? {} : Object.fromEntries(methods.map((method) => [method, entropy(method === "de" ? 0.7 : 1)])),
      agreements:
        ordered && !nulls
          ? Array.from({ length: heads - 1 }, (_, j) => 1 - hard * 0.8 * (1 - j / heads) * random.uniform(0.5, 1))
          : null,
    };
  });
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("base64");
}
