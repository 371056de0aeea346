// Lesion by lesion: which are found, which are false, and whether the scores of a predicted one tell.
import type { Result } from "../inference/inference.js";
import { auroc } from "../metrics/index.js";
import { isMatched, lesions } from "../quality/lesions.js";
import { MEASURED } from "../quality/quality.js";
import { fixed } from "../results/format.js";
import { type Column, type Table, toCsv, toText } from "../results/table.js";
import { snake } from "../scores/scores.js";
import { structures } from "../scores/structures.js";
import { ownSpacing, type Scoring, withBackground } from "./records.js";
import type { Evaluated } from "./tables.js";

/** A part of a prediction, or of a truth that the prediction misses. */
export interface LesionRecord {
  /** Of the image. */
  id: string;
  /** Its class, by index. */
  class: number;
  /** A predicted part that the truth has or has not; a part of the truth that is not found. */
  is: "true" | "false" | "missed";
  voxels: number;
  /** In the unit of sizes. */
  volume: number;
  /** Share of it that the other mask has. */
  covered: number;
  /** In its zone; null for what is not predicted, and where there are too few heads. */
  aula: number | null;
  aulaNormalised: number | null;
  pairwiseAgreement: number | null;
  softDiceConfidence: number | null;
}

/** The lesions of one image. */
export interface ImageLesions {
  /** Predicted parts, largest first, then those that were missed. */
  records: LesionRecord[];
  /** By class: parts of the truth, and how many of them are found. Empty where no pixel counts. */
  truth: Map<number, { lesions: number; found: number }>;
}

/** What tells a true part from a false one. */
const TELLS = ["aulaNormalised", "pairwiseAgreement", "softDiceConfidence"] as const;

/** Detection over all images, of one class. */
export interface LesionSummary {
  /** Images with a pixel that counts. */
  cases: number;
  lesions: number;
  found: number;
  /** `found` of `lesions`; null where there are none. */
  sensitivity: number | null;
  falsePositives: number;
  falsePositivesPerCase: number | null;
  /** Chance that a true part has the higher score than a false one; null without both. */
  auroc: Record<(typeof TELLS)[number], number | null>;
}

/** The lesions of one image; `labels` must have been asked for. @param ordered whether the heads have an order in depth */
export function imageLesions(result: Result, scoring: Scoring, ordered: boolean): ImageLesions {
  const { classes, scored, ignoreIndex, lesionOverlap = MEASURED.lesionOverlap.default } = scoring;
  const { truth: stored } = result;
  if (!stored) throw new Error("unreachable: datasets for evaluation require masks");
  const { mask, truth, probabilities, labels } = withBackground(result, stored, scoring);
  if (!labels) throw new Error("unreachable: the masks of heads were asked for");
  if (truth.data.every((label) => label === ignoreIndex)) return { records: [], truth: new Map() };
  const spacing = scoring.spacing ?? ownSpacing(result);
  const placed = spacing && { spacing: [...spacing] };
  const counted = { data: mask.data.map((label, i) => (truth.data[i] === ignoreIndex ? 0 : label)), shape: mask.shape };
  const parts = structures({ mask: counted, labels, probabilities, truth }, { ordered, ...placed });
  const of = lesions(mask, truth, { classes, ignoreIndex, lesionOverlap, ...placed });
  const missed = scored.flatMap((c) =>
    (of[c]?.truth ?? []).filter(({ matched }) => !matched).map((one) => ({ ...one, class: c })),
  );
  return {
    records: [
      ...parts.map(({ box, centre, covered = 0, ...part }) => ({
        ...{ ...part, covered, id: result.id },
        is: isMatched(covered, lesionOverlap) ? ("true" as const) : ("false" as const),
      })),
      ...missed.map(({ class: c, voxels, volume, covered }) => ({
        ...{ id: result.id, class: c, is: "missed" as const, voxels, volume, covered },
        ...{ aula: null, aulaNormalised: null, pairwiseAgreement: null, softDiceConfidence: null },
      })),
    ],
    truth: new Map(
      scored.map((c) => {
        const all = of[c]?.truth ?? [];
        return [c, { lesions: all.length, found: all.filter(({ matched }) => matched).length }];
      }),
    ),
  };
}

/** By class name. */
export function summariseLesions(
  images: readonly ImageLesions[],
  { classNames, scored }: Pick<Evaluated, "classNames" | "scored">,
): Record<string, LesionSummary> {
  const cases = images.filter(({ truth }) => truth.size > 0).length;
  return Object.fromEntries(
    scored.map((c) => {
      const total = (name: "lesions" | "found") =>
        images.reduce((sum, { truth }) => sum + (truth.get(c)?.[name] ?? 0), 0);
      const parts = images.flatMap(({ records }) => records.filter((one) => one.class === c && one.is !== "missed"));
      const [all, found] = [total("lesions"), total("found")];
      const falsePositives = parts.filter(({ is }) => is === "false").length;
      const tells = TELLS.map((name) => {
        const known = parts.filter((one) => one[name] !== null);
        const area = areaOf(
          known.map((one) => one[name] as number),
          known.map(({ is }) => is === "false"),
        );
        return [name, area] as const;
      });
      const summary: LesionSummary = {
        ...{ cases, lesions: all, found, sensitivity: all === 0 ? null : found / all },
        ...{ falsePositives, falsePositivesPerCase: cases === 0 ? null : falsePositives / cases },
        auroc: Object.fromEntries(tells) as LesionSummary["auroc"],
      };
      return [classNames[c] as string, summary];
    }),
  );
}

function areaOf(confidence: readonly number[], failed: readonly boolean[]): number | null {
  const area = confidence.length === 0 ? Number.NaN : auroc(confidence, failed);
  return Number.isNaN(area) ? null : area;
}

/** Every record, for a file. */
export function lesionsCsv(images: readonly ImageLesions[], { classNames, units }: Evaluated): string {
  const numbers = [
    "voxels",
    "volume",
    "covered",
    "aula",
    "aulaNormalised",
    "pairwiseAgreement",
    "softDiceConfidence",
  ] as const;
  const columns = numbers.map(
    (name): Column<LesionRecord> => ({ head: name, csv: snake(name), format: String, of: (record) => record[name] }),
  );
  const rows = images.flatMap(({ records }) => records);
  return toCsv(
    { caption: "Lesions", name: { head: "image", of: ({ id }: LesionRecord) => id }, columns, rows },
    {
      id: ({ id }) => id,
      class: (one) => classNames[one.class] as string,
      is: ({ is }) => is,
      sizes: () => units.size,
    },
  );
}

/** For people. */
export function describeLesions(summary: Readonly<Record<string, LesionSummary>>, lesionOverlap: number): string {
  type Row = LesionSummary & { name: string };
  const column = (head: string, of: (row: Row) => number | null, decimals = 3): Column<Row> => ({
    ...{ head, of },
    format: (value) => fixed(value, decimals),
  });
  const table: Table<Row> = {
    caption: "Lesions",
    name: { head: "lesions of", of: ({ name }) => name },
    columns: [
      column("true", ({ lesions: all }) => all, 0),
      column("found", ({ found }) => found, 0),
      column("sensitivity", ({ sensitivity }) => sensitivity),
      column("false", ({ falsePositives }) => falsePositives, 0),
      column("per case", ({ falsePositivesPerCase }) => falsePositivesPerCase, 2),
      column("AUROC of AULA", ({ auroc: of }) => of.aulaNormalised),
      column("of agreement", ({ auroc: of }) => of.pairwiseAgreement),
      column("of soft Dice", ({ auroc: of }) => of.softDiceConfidence),
    ],
    rows: Object.entries(summary).map(([name, of]) => ({ name, ...of })),
  };
  return `${toText(table)}A part is found, or no false one, where the other mask covers ${fixed(lesionOverlap, 2)} of it. AUROC: true parts against false ones.\n`;
}
