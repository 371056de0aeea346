// What a comparison finds: the contents of results.json. The tables, the figures and the report are made from this alone.
import type { RuleName } from "../certificate/index.js";
import type { Cropped } from "../data/cropped.js";
import type { Ignored } from "../data/labels.js";
import type { Units } from "../grid/index.js";
import type { LesionRule } from "../quality/lesions.js";
import type { MethodName } from "../runs/methods.js";
import type { ConfidenceName, ScoreName, ScoreRecord } from "../scores/scores.js";
import type { MapSummary } from "../uncertainty/index.js";
import type { OfMeasures, RankingName, SizeMeasure } from "./measures.js";

/**
 * Quality, uncertainty and agreement of one image under one run. What is not defined is null. Quality is the mean over the
 * foreground classes; of distances, over those that are defined, in the unit of `units`.
 */
export interface ImageRecord extends ScoreRecord, OfMeasures<number | null> {
  ece: number | null;
  id: string;
  /** The patient, say. */
  group: string | null;
  /** By scored foreground class, in the order of {@link Comparison.classNames}. */
  classDice: (number | null)[];
  classMhd: (number | null)[];
  /** Surfaces, sizes and lesions, by the same classes. Earlier versions do not say. */
  classSizes?: Record<SizeMeasure, (number | null)[]>;
  /** Pixels that do not count; where no other is left, there is no Dice, distance or likelihood. Earlier versions do not say. */
  ignored?: number;
  /** Share of the stored image that the network did not see, in [0, 1): of a volume larger than its input. Earlier versions do not say. */
  cropped?: number;
  /** In what a volume lies outside of the training's, a sentence each: no gate accepts it. Left out where there is nothing, and by earlier versions. */
  unlikeTraining?: string[];
  /** Agreement of neighbouring heads, shallow to deep: mean over the classes that AULA averages. Null with one head. */
  agreements: number[] | null;
}

/** One bin of a reliability diagram; null where it is empty. */
export interface ReliabilityBin {
  count: number;
  confidence: number | null;
  accuracy: number | null;
}

/** How bounds fared; null where there was none. */
export interface Coverage {
  /** Images that have a Dice and a predicted one. */
  images: number;
  /** Mean of |predicted - real|, and of |mean of the fit's images - real|. */
  error: number | null;
  constantError: number | null;
  /** Share of the images whose Dice is at least the lower bound. */
  lower: number | null;
  /** Share whose Dice is inside the interval, and its mean width. */
  interval: number | null;
  width: number | null;
  /** The same of the interval that is one for all images. */
  constantInterval: number | null;
  constantWidth: number | null;
}

/** Of a run's fit on some images, by class name; `""` is the mean over the foreground classes. */
export interface PredictedDiceCoverage {
  /** α: 1 - α of the images should be covered. */
  alpha: number;
  /** Whose distances the bounds are of. */
  from: string;
  of: Record<string, Coverage>;
}

/** What tells a predicted lesion that the truth has from one that it has not. */
export const LESION_SCORES = ["aulaNormalised", "pairwiseAgreement", "softDiceConfidence"] as const;

/** Detection of the lesions (connected parts) of one class over all images. */
export interface LesionSummary {
  /** Images with a pixel that counts. */
  cases: number;
  /** Of the truth. */
  lesions: number;
  /** How many of them are found. */
  found: number;
  /** `found` of `lesions`; null where there are none. */
  sensitivity: number | null;
  /** Predicted parts that the truth has not. */
  falsePositives: number;
  falsePositivesPerCase: number | null;
  /** Chance that a true part has the higher score than a false one; null without both. */
  auroc: Record<(typeof LESION_SCORES)[number], number | null>;
}

/** One run on one set of images. */
export interface RunRecord {
  /** Folder of the run, relative to the output folder. */
  run: string;
  method: MethodName;
  seed: number;
  /** Names of the kept heads, in depth order. */
  heads: string[];
  /** First heads left out. */
  skip: number;
  fusion: string;
  /** Trainable numbers, all members counted. */
  parameters: number;
  /** Milliseconds per image, prediction with all maps, batch of one; median. Measured on the first run of each method. */
  msPerImage: number;
  /** Over all pixels of all images that count. */
  calibration: { ece: number | null; brier: number | null; nll: number | null; bins: ReliabilityBin[] };
  images: ImageRecord[];
  /** How the predicted Dice fared, where the run has a fit of it. */
  predictedDice?: PredictedDiceCoverage;
  /** By name of the scored class, where lesions were asked for. */
  lesions?: Record<string, LesionSummary>;
  /** nll and Dice on validation by number of skipped heads, where `tune` measured them. */
  skipCurve?: SkipCurvePoint[];
}

/** Validation without its first T heads. */
export interface SkipCurvePoint {
  skip: number;
  nll: number;
  nllSd: number;
  dice: number;
  diceSd: number;
  aurc: number | null;
}

/**
 * A statistic of a method: the mean over its runs (seeds) of the statistic of each. The interval is a percentile bootstrap
 * over groups (images where there are none), the same resample for every seed. Null where it is not defined.
 */
export interface Estimate {
  value: number | null;
  low: number | null;
  high: number | null;
  /** Of each run, in the order of {@link MethodResult.runs}. */
  perRun: (number | null)[];
}

/** A mean over images. */
export interface MeanEstimate extends Estimate {
  /** Standard deviation over images (divisor n - 1) of each image's mean over the runs. */
  sd: number | null;
  /** Images with a value in some run, and in none. */
  n: number;
  leftOut: number;
  /** Images without a value, of each run. */
  leftOutPerRun: number[];
}

/**
 * LE against another method: on each image's mean over seeds, or where the unit of {@link Comparison.bootstrap} is the group
 * on each group's mean over such images, as slices of one patient are not independent. P-values are two-sided, and not
 * corrected for their number.
 */
export interface PairedTest {
  measure: "dice" | "mhd" | "nll";
  other: MethodName;
  /** Pairs: images or groups where both methods have a value. */
  n: number;
  /** Mean of LE minus mean of the other. */
  difference: number | null;
  wilcoxonP: number | null;
  tP: number | null;
}

/**
 * How well a confidence ranks images and finds failures: correlations with Dice and MHD; risk 1 - Dice; failure: Dice below
 * {@link Comparison.tau}; the area under the quality-control curve, and the flagged share that leaves 5 % of the failures unseen.
 */
export type ConfidenceResult = Record<RankingName, Estimate>;

/** How well a score ranks the images of a method. */
export interface ScoreRank {
  score: ScoreName;
  aurc: Estimate;
  /** AURC above that of the method's best score, on the same resamples; null for the best itself. */
  aboveBest: Estimate | null;
}

/** What certificates for a promise accept, over random halves of the images: made of one half and tried on the other. */
export interface AcceptancePoint {
  /** What is promised: the largest share of failures among what is accepted. */
  alpha: number;
  /** Mean share of the other half that is accepted; nothing is where nothing is proved. */
  accepted: number;
  /** Of the accepted, the share that failed, 0 where nothing is accepted: the mean over the halves. */
  failed: number;
  /** Its quantile at 1 - δ: what the promise bounds, but for the chance of a half's own. */
  failedHigh: number;
}

/** {@link AcceptancePoint}s of a score. */
export interface AcceptanceCurve {
  score: ScoreName;
  rule: RuleName;
  tau: number;
  delta: number;
  /** How many random halves. */
  halves: number;
  points: AcceptancePoint[];
}

/** A quality-control curve: failures that stay unseen, as a share of all images, against the flagged share. */
export interface QcCurve {
  f: number[];
  y: number[];
  random: number[];
  ideal: number[];
  area: number;
}

/** One method, all its seeds. */
export interface MethodResult {
  method: MethodName;
  /** Indices into {@link Comparison.runs}. */
  runs: number[];
  quality: OfMeasures<MeanEstimate>;
  /** By name of the scored class. */
  classDice: Record<string, MeanEstimate>;
  classMhd: Record<string, MeanEstimate>;
  /** Surfaces, sizes and lesions by name of the scored class. Earlier versions do not say. */
  classSizes?: Record<string, Record<SizeMeasure, MeanEstimate>>;
  /** Of the pixels of all images together; means over images are in `quality`. */
  pooled: Record<"ece" | "brier" | "nll", Estimate>;
  /** Null for a confidence that the method has not (AULA is LE's alone). */
  confidence: Record<ConfidenceName, ConfidenceResult | null>;
  /** Every score that the method has of each image, the lowest AURC first. Earlier versions do not say. */
  scoreRanks?: ScoreRank[];
  /** Of the method's first seed, by the score with the lowest AURC, and by AULA where it has that. Earlier versions do not say. */
  acceptance?: AcceptanceCurve[];
  /** Of the method's first seed. */
  qcCurves: Partial<Record<ConfidenceName, QcCurve>>;
  cost: { parameters: number; msPerImage: number; ratioToPlain: number | null };
}

/**
 * A method under a shift. The threshold is chosen in distribution, and held where the interval of `flaggedOut` is drawn. The
 * bootstrap draws both sets anew.
 */
export interface ShiftRow {
  method: MethodName;
  confidence: ConfidenceName;
  /** In distribution against out: 1 where every shifted image is less sure than every other. */
  auroc: Estimate;
  /** Means over images and runs, of the classes that are scored on both sets. */
  diceIn: number | null;
  diceOut: number | null;
  /** Confidence below which an image is flagged, per run. */
  thresholds: (number | null)[];
  /** Share of the images in distribution that this flags: the share asked for, or less where confidences are tied. */
  flaggedIn: number;
  flaggedOut: Estimate;
}

/**
 * The alarm over a stream of images that begin to differ, of the method's first seed: half of the images in distribution calibrate it,
 * the others are its first cases, and the shifted ones those after; in so many random orders.
 */
export interface AlarmStream {
  method: MethodName;
  /** What is watched together, in the direction of confidence. */
  watched: ScoreName[];
  /** Images that calibrate, and images of the stream before the change. */
  calibration: number;
  before: number;
  orders: number;
  /** From which value on there is alarm. */
  limit: number;
  /** The largest martingale after each image: of the first order, and what it is above and below in 95 % of the orders each. */
  values: number[];
  low: number[];
  high: number[];
  /** Share of the orders in which it goes off before the change. */
  falseAlarms: number;
  /** Of the others: shifted images until it goes off, the median; null where it does not in half of them. */
  delay: number | null;
  /** Share of the orders in which it never goes off. */
  missed: number;
}

/** An image that is shown, at its stored size; of a volume, its middle slice. */
export interface ShownImage {
  id: string;
  /** Why it was chosen. */
  why: ("best" | "worst" | "median" | "most certain" | "least certain")[];
  dice: Record<string, number | null>;
  aula: number | null;
  height: number;
  width: number;
  /** Base64 of the grey image, 8 bits, height×width, and of label maps: truth, each method's mask, LE's heads. */
  image: string;
  truth: string;
  masks: Partial<Record<MethodName, string>>;
  heads: { name: string; mask: string }[];
  /** Base64 of entropy maps, float32 little-endian, height×width, in nats. */
  entropy: Partial<Record<MethodName, string>>;
  agreements: number[] | null;
}

/** A comparison of methods on one set of images: results.json. */
export interface Comparison {
  /** 2; format 1 had of what is pooled the ECE alone, as `ece`. */
  format: 2;
  /** Versions, date (ISO), host CPU, libtorch. */
  made: Record<string, string>;
  title: string;
  data: {
    folder: string;
    split: string;
    images: number;
    groups: number;
    /** What does not count; earlier versions do not say. */
    ignored?: Ignored;
    /** What networks did not see, of the run that saw least; earlier versions do not say. */
    cropped?: Cropped;
    /** Images that a run was trained on or chosen by, where any is among them. */
    seen?: number;
    /** Volumes whose axes or voxels lie outside of some run's training, where there are any. */
    unlikeTraining?: number;
    /** Runs of other versions, of which it is not known whether images of these splits are among them. */
    unknown?: { run: string; splits: string[] }[];
  };
  /** Background first. */
  classNames: string[];
  /** Foreground classes that were scored, by index; the others count as background. */
  scored: number[];
  /** Of neighbouring pixels, in the unit of lengths; null: each volume's own. */
  spacing: number[] | null;
  /** Of lengths and sizes; earlier versions do not say: pixels where the spacing is 1. */
  units?: Units;
  /** When a lesion is found, and which pixels are of one; earlier versions do not say. */
  lesionRule?: LesionRule;
  /** An image has failed where its Dice is below this. */
  tau: number;
  /** Which summary of a map is its confidence. */
  summary: keyof MapSummary;
  bootstrap: { resamples: number; seed: number; unit: "group" | "image" };
  /** In the order plain, mh, de, mcd, le; those compared. */
  methods: MethodResult[];
  runs: RunRecord[];
  tests: PairedTest[];
  shown: ShownImage[];
  shift?: {
    folder: string;
    split: string;
    /** Shifted images, and those in distribution that they are compared with. */
    images: number;
    imagesIn: number;
    /** What does not count of the shifted images; earlier versions do not say. */
    ignored?: Ignored;
    /** What networks did not see of them, of the run that saw least; earlier versions do not say. */
    cropped?: Cropped;
    /** Shifted images that a run was trained on or chosen by, where any is among them. */
    seen?: number;
    /** Shifted volumes whose axes or voxels lie outside of some run's training, where there are any. */
    unlikeTraining?: number;
    scored: number[];
    /** In the order of {@link Comparison.runs}. */
    runs: RunRecord[];
    rows: ShiftRow[];
    /** Of the methods that have a confidence of every image. Earlier versions do not say. */
    streams?: AlarmStream[];
  };
}
