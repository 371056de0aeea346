// Lesion by lesion: which are found, which are false, and whether the scores of a predicted one tell.
import type { NdArray } from "../arrays.js";
import type { Result } from "../inference/inference.js";
import { auroc } from "../metrics/index.js";
import { isMatched, lesions } from "../quality/lesions.js";
import { LESION_SCORES, type LesionSummary } from "../results/comparison.js";
import { type Column, toCsv } from "../results/table.js";
import { snake } from "../scores/scores.js";
import { structures } from "../scores/structures.js";
import { ownSpacing, ruleOf, type Scoring, withBackground } from "./records.js";
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

/** The lesions of one image; `labels` must have been asked for. @param ordered whether the heads have an order in depth */
export function imageLesions(result: Result, scoring: Scoring, ordered: boolean): ImageLesions {
  const { truth: stored } = result;
  if (!stored) throw new Error("unreachable: datasets for evaluation require masks");
  const { labels, ...rest } = withBackground(result, stored, scoring);
  if (!labels) throw new Error("unreachable: the masks of heads were asked for");
  const spacing = scoring.spacing ?? ownSpacing(result);
  return lesionsOf({ ...rest, labels, id: result.id }, { ...scoring, ...(spacing && { spacing }) }, ordered);
}

/** What lesions are told of: the truth S, and of the heads the fused mask S, each one's K×S, and the fused probabilities C×S. */
export interface LesionInput {
  id: string;
  mask: NdArray<Uint8Array>;
  truth: NdArray<Uint8Array>;
  probabilities: NdArray<Float32Array | Float64Array>;
  labels: NdArray<Uint8Array>;
}

/** {@link imageLesions} of arrays. @param scoring its spacing is the one of the arrays; without one all is in pixels */
export function lesionsOf(
  { id, mask, truth, probabilities, labels }: LesionInput,
  scoring: Omit<Scoring, "ignoreIndex"> & { ignoreIndex: number | null },
  ordered: boolean,
): ImageLesions {
  const { classes, scored, ignoreIndex, spacing } = scoring;
  const { lesionOverlap, neighbours } = ruleOf(scoring);
  if (truth.data.every((label) => label === ignoreIndex)) return { records: [], truth: new Map() };
  const placed = spacing && { spacing: [...spacing] };
  const counted = { data: mask.data.map((label, i) => (truth.data[i] === ignoreIndex ? 0 : label)), shape: mask.shape };
  const parts = structures({ mask: counted, labels, probabilities, truth }, { ordered, neighbours, ...placed });
  const of = lesions(mask, truth, { classes, ignoreIndex, lesionOverlap, neighbours, ...placed });
  const missed = scored.flatMap((c) =>
    (of[c]?.truth ?? []).filter(({ matched }) => !matched).map((one) => ({ ...one, class: c })),
  );
  return {
    records: [
      ...parts.map(({ box, centre, covered = 0, ...part }) => ({
        ...{ ...part, covered, id },
        is: isMatched(covered, lesionOverlap) ? ("true" as const) : ("false" as const),
      })),
      ...missed.map(({ class: c, voxels, volume, covered }) => ({
        ...{ id, class: c, is: "missed" as const, voxels, volume, covered },
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
      const tells = LESION_SCORES.map((name) => {
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
