// The register of what is measured of a prediction against its truth, and of a confidence against failures.
import type { Units } from "../grid/index.js";
import { QUALITY, type QualityName } from "../quality/register.js";
import type { ScoreEntry } from "../scores/register.js";
import { SCORES } from "../scores/scores.js";

/** How a measure is called and shown. */
interface Measure {
  title: string;
  /** What it is, in a line. */
  text: string;
  /** Absent where it is no matter of better or worse. */
  better?: "high" | "low";
  /** See `QualityMeasure`. @default "none" */
  unit?: "none" | "count" | "length" | "size" | "tolerance";
  /** Decimals. @default 3 */
  decimals?: number;
}

/** Measures of an image: its quality, and its calibration. */
export const MEASURES = {
  ...QUALITY,
  nll: {
    title: "nll",
    text: "negative log-likelihood of the truth, in nats per pixel; low is good",
    better: "low",
    decimals: 4,
  },
  brier: { title: "Brier score", text: "squared error of the probabilities; low is good", better: "low", decimals: 4 },
  ece: {
    title: "ECE",
    text: "expected calibration error: mean gap between confidence and accuracy over 15 bins, all pixels",
    better: "low",
    decimals: 4,
  },
  adaptiveEce: {
    title: "ECE, adaptive",
    text: "the same over bins of as many pixels each",
    better: "low",
    decimals: 4,
  },
  classwiseEce: {
    title: "ECE, class-wise",
    text: "the same of each class’s probability, mean over the classes",
    better: "low",
    decimals: 4,
  },
} as const satisfies Record<QualityName | (typeof LIKELIHOODS)[number], Measure>;

/** How a quantity is called and shown. */
export interface Look extends Pick<ScoreEntry, "title" | "short" | "decimals"> {
  /** Its unit, such as `mm`; empty for a number without. */
  unit: string;
}

/**
 * How what is measured of an image, or a score of it, is called and shown. What no register knows is called by its name.
 * @param units of lengths and sizes, which titles then name
 */
export function lookOf(name: string, units?: Units): Look {
  const registers: Record<string, Pick<ScoreEntry, "title" | "short" | "decimals">> = { ...SCORES, ...MEASURES };
  const {
    title,
    short = title,
    decimals,
  } = Object.hasOwn(registers, name) ? (registers[name] as ScoreEntry) : { title: name };
  const { unit: kind = "none" } = (MEASURES as Partial<Record<string, Measure>>)[name] ?? {};
  const unit = (units && unitNamed(kind, units)) ?? "";
  const said = unit && ` (${unit})`;
  return { title: title + said, short: short + said, ...(decimals !== undefined && { decimals }), unit };
}

function unitNamed(kind: NonNullable<Measure["unit"]>, { length, size, tolerance }: Units): string | undefined {
  if (kind === "tolerance")
    return tolerance === undefined
      ? undefined
      : `${tolerance} ${tolerance === 1 && length === "voxels" ? "voxel" : length}`;
  return kind === "length" ? length : kind === "size" ? size : undefined;
}

/** Measures of an image's probabilities. */
export const LIKELIHOODS = ["nll", "brier", "ece", "adaptiveEce", "classwiseEce"] as const;

/** Measures of an image by which methods are compared, by their names in results.json. */
export const COMPARED_MEASURES = {
  dice: "dice",
  iou: "iou",
  mhd: "modifiedHausdorff",
  hausdorff: "hausdorff",
  hd95: "hd95",
  assd: "assd",
  surfaceDice: "surfaceDice",
  volumeError: "volumeError",
  volume: "volume",
  trueVolume: "trueVolume",
  lesionSensitivity: "lesionSensitivity",
  falsePositives: "falsePositives",
  nll: "nll",
  brier: "brier",
} as const satisfies Record<string, keyof typeof MEASURES>;

/** Of surfaces, sizes and lesions, in a table of their own. */
export const SIZE_MEASURES = [
  "surfaceDice",
  "volume",
  "trueVolume",
  "volumeError",
  "lesionSensitivity",
  "falsePositives",
] as const satisfies readonly (keyof typeof COMPARED_MEASURES)[];

/** One of {@link SIZE_MEASURES}. */
export type SizeMeasure = (typeof SIZE_MEASURES)[number];

/** One of {@link COMPARED_MEASURES}. */
export type ComparedMeasure = keyof typeof COMPARED_MEASURES;

/** Those that results.json of every version has. */
export type FirstMeasure = "dice" | "iou" | "mhd" | "hausdorff" | "hd95" | "assd" | "nll" | "brier";

/** A value of each measure; of those that earlier versions do not know, perhaps. */
export type OfMeasures<T> = Record<FirstMeasure, T> & Partial<Record<ComparedMeasure, T>>;

/** How well a confidence ranks images by quality and finds failures (docs/metrics.md, §6), in the order of files. */
export const RANKINGS = {
  spearmanDice: {
    title: "Spearman with Dice",
    text: "rank correlation of a confidence with Dice: near 1 for a good one",
    better: "high",
  },
  spearmanMhd: {
    title: "Spearman with MHD",
    text: "rank correlation of a confidence with MHD: near −1 for a good one",
    better: "low",
  },
  aurc: {
    title: "AURC",
    text: "area under the risk-coverage curve, risk 1 − Dice; low is good",
    better: "low",
    decimals: 4,
  },
  eaurc: {
    title: "e-AURC",
    text: "what AURC has above that of the ideal order; low is good",
    better: "low",
    decimals: 4,
  },
  augrc: {
    title: "AUGRC",
    text: "the same for the generalised risk, which weighs silent failures by how many images are kept",
    better: "low",
    decimals: 4,
  },
  auroc: {
    title: "AUROC",
    text: "chance that an image that is good enough gets the higher confidence than one that failed; 0.5 is a coin",
    better: "high",
  },
  fpr95: {
    title: "FPR95",
    text: "share of the failures that pass where 95 % of the good images pass; low is good",
    better: "low",
  },
  qcArea: {
    title: "QC area",
    text: "area under the quality-control curve: failures unseen against share reviewed; low is good",
    better: "low",
    decimals: 4,
  },
  remaining5: {
    title: "5 % left at",
    text: "smallest reviewed share that leaves at most 5 % of the failures unseen",
    better: "low",
  },
} as const satisfies Record<string, Measure>;

/** One of {@link RANKINGS}. */
export type RankingName = keyof typeof RANKINGS;

/** Every {@link RankingName}. */
export const RANKING_NAMES = Object.keys(RANKINGS) as RankingName[];

/** Those about failures, not about correlation. */
export const FAILURE_NAMES = RANKING_NAMES.filter((name) => !name.startsWith("spearman")) as Exclude<
  RankingName,
  "spearmanDice" | "spearmanMhd"
>[];

/** Of the pixels of all images together. */
export const POOLED = ["ece", "brier", "nll"] as const;

/** One of {@link POOLED}. */
export type PooledName = (typeof POOLED)[number];
