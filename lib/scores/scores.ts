// What is asked of the register of scores.
import { MAPS, type MapName, type MapSummary } from "../uncertainty/index.js";
import { COMPARED_MAPS, IMAGE_SCORES, MAP_SCORES, type Scored, type ScoreEntry } from "./register.js";

/** A score of a result as a whole. */
export type ImageScoreName = keyof typeof IMAGE_SCORES;

/** A score: one of a result as a whole, or a map and its summary, as `entropy.mean`. */
export type ScoreName = ImageScoreName | `${MapName}.${keyof MapSummary}`;

/** Every score by name. */
export const SCORES: Readonly<Record<ScoreName, ScoreEntry>> = { ...IMAGE_SCORES, ...MAP_SCORES };

/** Every {@link ScoreName}. */
export const SCORE_NAMES = Object.keys(SCORES) as ScoreName[];

/** Every {@link ImageScoreName}. */
export const IMAGE_SCORE_NAMES = Object.keys(IMAGE_SCORES) as ImageScoreName[];

/** A score of a result; NaN where it is not defined, as AULA is not with fewer than three heads. */
export function scoreOf(result: Scored, name: ScoreName): number {
  return SCORES[name].of(result) ?? Number.NaN;
}

/** A score in the direction of confidence, higher where the result is surer; NaN where it is not defined. */
export function confidenceOf(result: Scored, name: ScoreName): number {
  return asConfidence(name, scoreOf(result, name));
}

/** Less sure than any result of which a score says something: what an empty one is ranked by. JSON has no -Infinity. */
export const LEAST_SURE = -Number.MAX_VALUE;

/**
 * What images are ranked by: {@link confidenceOf}, and of an empty result {@link LEAST_SURE} whatever the score, as the gate sends it to
 * a person whatever its threshold. There the heads agree about nothing: AULA and pairwise agreement are full and entropy is low by
 * definition, so that by their values what every layer misses would be the surest. NaN where the score is not defined.
 */
export function rankedConfidence(result: Scored, name: ScoreName): number {
  const value = confidenceOf(result, name);
  return result.empty && !Number.isNaN(value) ? LEAST_SURE : value;
}

/** A score's value in the direction of confidence. */
export function asConfidence(name: ScoreName, value: number): number {
  return SCORES[name].surer === "low" ? -value : value;
}

/** A score's name with underscores, as metrics, tensors and columns have it: `soft_dice_confidence`, `entropy_mean`. */
export function snake(name: string): string {
  return name.replaceAll(".", "_").replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

/** What a method must have for a score. @returns undefined where it has it */
export function lacking(name: ScoreName, heads: number, ordered = true): string | undefined {
  const { needs } = SCORES[name];
  if (heads >= needs.heads && (ordered || !needs.ordered)) return undefined;
  return `${name}, which needs ${needs.heads} heads${needs.ordered ? " in order" : ""}`;
}

/** The scores of a result as a whole, null where they are not defined. */
export type ScoreValues = Record<ImageScoreName, number | null>;

/** An image's scores as files hold them, null where they are not defined. */
export interface ScoreRecord extends ScoreValues {
  /** Whether no kept head of any member finds any foreground. */
  empty: boolean;
  /** `entropy.sum`, `entropy.mean`, `entropy.foreground`, … of every map that there is. */
  uncertainty: Record<string, number>;
}

/** All scores of a result. */
export function recordScores(result: Scored): ScoreRecord {
  const of = (name: ScoreName) => {
    const value = scoreOf(result, name);
    return Number.isNaN(value) ? null : value;
  };
  const image = Object.fromEntries(IMAGE_SCORE_NAMES.map((name) => [name, of(name)])) as Record<
    ImageScoreName,
    number | null
  >;
  const maps = (Object.keys(MAP_SCORES) as ScoreName[]).flatMap((name) => {
    const value = of(name);
    return value === null ? [] : [[name, value]];
  });
  return { empty: result.empty, ...image, uncertainty: Object.fromEntries(maps) };
}

/** Scores that images are ranked by, in files of one method: those that are there, and do not rank as another. */
export function rankingScores(records: readonly ScoreRecord[]): ScoreName[] {
  const maps = Object.keys(records[0]?.uncertainty ?? {}) as ScoreName[];
  return [...IMAGE_SCORE_NAMES.filter((name) => !SCORES[name].ranksAs), ...maps];
}

/** A score that is in a file; null where it is not defined. */
export function recordedScore(record: ScoreRecord, name: ScoreName): number | null {
  // A file of an earlier version does not have every score.
  return (name in IMAGE_SCORES ? record[name as ImageScoreName] : record.uncertainty[name]) ?? null;
}

type Compared = {
  [Name in ImageScoreName]: (typeof IMAGE_SCORES)[Name] extends { compared: false } ? never : Name;
}[ImageScoreName];

/** A confidence that methods are compared by: a score, or a map, of which the comparison says the summary. */
export type ConfidenceName = Compared | (typeof COMPARED_MAPS)[number];

/** Every {@link ConfidenceName}, the most telling of agreement first. */
export const CONFIDENCES = [
  ...IMAGE_SCORE_NAMES.filter((name) => SCORES[name].compared ?? true),
  ...COMPARED_MAPS,
] as ConfidenceName[];

const isMap = (name: string): name is MapName => Object.hasOwn(MAPS, name);

/** The score behind a confidence; a score is behind itself. */
export function scoreBehind(name: ConfidenceName | ScoreName, summary: keyof MapSummary): ScoreName {
  return isMap(name) ? `${name}.${summary}` : name;
}

/** What a confidence is called: that of a score which is low for surer results by a minus before it. */
export function confidenceTitle(name: ConfidenceName): string {
  return isMap(name) ? `−${MAPS[name].title}` : `${SCORES[name].surer === "low" ? "−" : ""}${SCORES[name].title}`;
}

/** What a confidence is, in a sentence. */
export function confidenceText(name: ConfidenceName): string {
  return isMap(name) ? `minus the image’s summary of the map of ${MAPS[name].title}` : SCORES[name].text;
}

/** What an axis of a confidence is called, with its unit. */
export function confidenceAxis(name: ConfidenceName, summary: keyof MapSummary): string {
  const { title, unit, surer } = SCORES[scoreBehind(name, summary)];
  return `${surer === "low" ? "−" : ""}${title}${unit ? ` (${unit})` : ""}`;
}

/** A recorded image's confidence, as images are ranked by it; null where it has none, or its heads are too few for one that tells. */
export function recordedConfidence(
  record: ScoreRecord,
  name: ConfidenceName | ScoreName,
  { heads, summary }: { heads: number; summary: keyof MapSummary },
): number | null {
  const score = scoreBehind(name, summary);
  return heads < SCORES[score].needs.heads ? null : recordedRank(record, score);
}

/** {@link rankedConfidence} of a record; null where the score is not defined. */
export function recordedRank(record: ScoreRecord, name: ScoreName): number | null {
  const value = recordedScore(record, name);
  if (value === null || Number.isNaN(value)) return null;
  return record.empty ? LEAST_SURE : asConfidence(name, value);
}

/** A confidence of every image; null where some image has none. */
export function recordedConfidences(
  records: readonly ScoreRecord[],
  name: ConfidenceName | ScoreName,
  given: Parameters<typeof recordedConfidence>[2],
): Float64Array | null {
  const values = records.map((record) => recordedConfidence(record, name, given));
  return values.some((value) => value === null) ? null : Float64Array.from(values as number[]);
}

/** The first of the confidences, AULA before all, that something has; null where it has none. */
export function suited<T>(
  has: (name: ConfidenceName) => T | null | undefined,
): { name: ConfidenceName; value: T } | null {
  for (const name of CONFIDENCES) {
    const value = has(name);
    if (value !== null && value !== undefined) return { name, value };
  }
  return null;
}
