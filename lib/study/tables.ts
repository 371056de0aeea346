// The tables of an evaluation, each declared once for the terminal and for files.
import { distinctNames } from "../data/csv.js";
import type { Units } from "../grid/index.js";
import { QUALITY_NAMES } from "../metrics/index.js";
import type { LesionRule } from "../quality/lesions.js";
import type { LesionSummary } from "../results/comparison.js";
import { bracketed, fixed, pValue } from "../results/format.js";
import { FAILURE_NAMES, lookOf, POOLED } from "../results/measures.js";
import { type Column, type Table, toCsv, toText } from "../results/table.js";
import { describeLesionRule, lesionsTable, rankingColumn } from "../results/tables.js";
import type { GateDecision } from "../scores/gate.js";
import { snake } from "../scores/scores.js";
import type { Spread } from "../statistics/spread.js";
import type { ImageScore } from "./records.js";
import {
  type Correlation,
  type FailureDetection,
  MEASURE_NAMES,
  type Measure,
  type MeasureName,
  measureOf,
  type SummariseOptions,
  type Summary,
} from "./summary.js";

/** What was evaluated. */
export type Evaluated = Pick<SummariseOptions, "classNames" | "scored" | "heads" | "units">;

/** Of an image, on the terminal. */
export const TOLD = ["dice", "hd95", "modifiedHausdorff", "nll", "ece", "aula", "aulaNormalised", "pairwiseAgreement"];

/** A measure or score of an image. @param told on the terminal too @param units of lengths and sizes, where there may be any */
export function imageColumn<Row extends { empty?: boolean }>(
  name: string,
  of: (row: Row) => number | null | undefined,
  told = false,
  units?: Units,
): Column<Row> {
  const { title, short = title, decimals } = lookOf(name, units);
  return {
    head: short,
    format: (value) => fixed(value, decimals),
    csv: snake(name),
    of: (row) => of(row) ?? null,
    ...(name === "aula" && { note: ({ empty }) => (empty ? "(empty)" : "") }),
    ...(!told && { page: "column" }),
  };
}

/** Everything that is measured of each image. */
function imagesTable(
  scores: readonly ImageScore[],
  { classNames, scored, heads, units }: Evaluated,
): Table<ImageScore> {
  return {
    caption: "Images",
    name: { head: "image", of: ({ id }) => id },
    columns: [
      ...MEASURE_NAMES.map((name) =>
        imageColumn<ImageScore>(name, (score) => measureOf(score, name), TOLD.includes(name), units),
      ),
      ...scored.flatMap((c) =>
        QUALITY_NAMES.map((name) => ({
          ...imageColumn<ImageScore>(
            name,
            ({ quality }) => quality.perClass[c]?.[name],
            name === "dice" && scored.length > 1,
            units,
          ),
          head: `${lookOf(name, units).title} of ${classNames[c]}`,
          csv: `${snake(name)}_${classNames[c]}`,
        })),
      ),
      imageColumn("ignored", ({ ignored = 0 }) => ignored),
      imageColumn("cropped", ({ cropped = 0 }) => cropped),
      ...Object.keys(scores[0]?.uncertainty ?? {}).map((name) =>
        imageColumn<ImageScore>(name, ({ uncertainty }) => uncertainty[name]),
      ),
      ...heads.map((head, k) => ({
        ...imageColumn<ImageScore>("dice", ({ headDice }) => headDice[k]),
        head: `Dice of head ${head}`,
        csv: `dice_head_${head}`,
      })),
    ],
    rows: scores,
  };
}

const OF_GROUPS: readonly MeasureName[] = ["dice", "modifiedHausdorff", "nll", "aulaNormalised", "pairwiseAgreement"];

type Group = Summary["groups"][string] & { group: string; empty?: boolean };

/** Means over the images of each group. */
function groupsTable({ groups, units }: Summary): Table<Group> {
  return {
    caption: "Groups",
    name: { head: "group", of: ({ group }) => group },
    columns: [
      { head: "images", csv: "images", format: String, of: ({ images }) => images },
      ...MEASURE_NAMES.map((name) => imageColumn<Group>(name, (of) => of[name], OF_GROUPS.includes(name), units)),
    ],
    rows: Object.entries(groups).map(([group, of]) => ({ group, ...of })),
  };
}

/** A mean and its spread, of what and over what. */
export interface Averaged {
  /** What it is, for people. */
  title: string;
  /** In files: the measure, its unit, and what of the image or the network it is of. */
  quantity: string;
  unit: string;
  part: string;
  of: { [Key in keyof Spread]: Spread[Key] | null } & Partial<Pick<Measure, "low" | "high">>;
  /** How many of its mean. @default 3 */
  decimals?: number | undefined;
  /** In files alone. */
  untold?: boolean;
}

/** Means. @param over what; @param unit that is drawn for their intervals, where they have them */
export function meansTable(rows: readonly Averaged[], over: string, unit?: string): Table<Averaged> {
  const number = (name: "mean" | "sd" | "low" | "high", head: string): Column<Averaged> => ({
    head,
    csv: name,
    format: (value, { decimals }) => fixed(value, decimals),
    of: ({ of }) => of[name] ?? null,
  });
  return {
    caption: "Means",
    name: { head: `over all ${over}`, of: ({ title }) => title },
    columns: [
      number("mean", "mean"),
      number("sd", "± sd"),
      ...(unit === undefined
        ? []
        : [
            {
              head: `95 % interval (${unit}s)`,
              of: ({ of: { low = null, high = null }, decimals }: Averaged) =>
                bracketed(low, high, (value) => fixed(value, decimals)) || "–",
            },
          ]),
      { ...number("low", "low"), page: "column" },
      { ...number("high", "high"), page: "column" },
      { head: over, csv: "images", format: String, of: ({ of }) => of.n },
      { head: "left out", csv: "left_out", format: (n) => (n === 0 ? "" : String(n)), of: ({ of }) => of.leftOut },
    ],
    rows,
  };
}

/** Of several classes, on the terminal. */
const OF_CLASSES = ["dice", "modifiedHausdorff", "hd95"];

/** The means of images, classes and heads, and what is over all pixels. */
function averages({ means, classes, headDice, calibration, units }: Summary): Averaged[] {
  const heads = Object.entries(headDice);
  const titles = Object.keys(classes);
  const parts = distinctNames(["", ...heads.map(([name]) => `head ${name}`), ...titles]);
  const row = (name: string, of: Averaged["of"], at = 0, more = "", untold = false): Averaged => {
    const { title, decimals, unit } = lookOf(name, units);
    return { title: title + more, quantity: snake(name), unit, part: parts[at] as string, of, decimals, untold };
  };
  return [
    ...Object.entries(means).map(([name, of]) => row(name, of)),
    ...Object.values(classes).flatMap((measures, i) =>
      Object.entries(measures).map(([name, of]) =>
        row(name, of, 1 + heads.length + i, ` of ${titles[i]}`, titles.length < 2 || !OF_CLASSES.includes(name)),
      ),
    ),
    ...heads.map(([head, of], k) => row("dice", of, 1 + k, ` of head ${head}`)),
    ...POOLED.map((name) => {
      const bounds = { low: calibration[`${name}Low`], high: calibration[`${name}High`] };
      const of = { mean: calibration[name], sd: null, n: null, leftOut: null, ...bounds };
      return { ...row(name, of, 0, " of all pixels"), quantity: `pooled_${name}` };
    }),
  ];
}

type Ranked = Correlation & Partial<Pick<Measure, "low" | "high">> & { name: string; finds?: FailureDetection };

/** How well each score ranks images by Dice, and whether it finds the failures. @param of how many of what */
export function ranksTable(
  spearman: Readonly<Record<string, Omit<Ranked, "name" | "finds">>>,
  of: string,
  failures?: Summary["failureDetection"],
): Table<Ranked> {
  const told = ["aurc", "eaurc", "augrc", "auroc", "fpr95"];
  return {
    caption: "Ranking",
    name: { head: "ranks by", of: ({ name }) => name },
    columns: [
      {
        ...rankingColumn<Ranked>("spearmanDice", ({ rho, low = null, high = null }) => ({ value: rho, low, high })),
        csv: "spearman_with_dice",
      },
      { head: "p", csv: "p", format: pValue, of: ({ p }) => p },
      { head: of, csv: "images", format: String, of: ({ n }) => n },
      ...(failures ? FAILURE_NAMES : []).map((name) => ({
        ...rankingColumn<Ranked>(name, ({ finds }) => finds?.[name] ?? null),
        page: told.includes(name) ? ("interval" as const) : ("column" as const),
      })),
    ],
    rows: Object.entries(spearman).map(([name, ranks]) => {
      const finds = failures?.[name];
      return { name, ...ranks, ...(finds && { finds }) };
    }),
  };
}

/** The CSV files by name. @param decisions of the gate, by image, where there is one */
export function evaluationTables(
  scores: readonly ImageScore[],
  summary: Summary,
  evaluated: Evaluated,
  decisions: ReadonlyMap<string, GateDecision> = new Map(),
): Record<string, string> {
  const { groups, bootstrap, spearmanWithDice, failureDetection, units } = summary;
  const lengths = () => units.length;
  return {
    "images.csv": toCsv(imagesTable(scores, evaluated), {
      id: ({ id }) => id,
      group: ({ group }) => group,
      empty: ({ empty }) => String(empty),
      lengths,
      ...(decisions.size > 0 && {
        decision: ({ id }: ImageScore) => decisions.get(id)?.decision,
        reasons: ({ id }: ImageScore) =>
          decisions
            .get(id)
            ?.reasons.map(({ code }) => code)
            .join(" "),
      }),
      ...(scores.some(({ unlikeTraining }) => unlikeTraining) && {
        unlike_training: ({ unlikeTraining }: ImageScore) => unlikeTraining?.join("; "),
      }),
    }),
    ...(Object.keys(groups).length > 0 && {
      "groups.csv": toCsv(groupsTable(summary), { group: ({ group }) => group, lengths }),
    }),
    "summary.csv": toCsv(meansTable(averages(summary), "images", bootstrap.unit), {
      quantity: ({ quantity }) => quantity,
      of: ({ part }) => part,
      unit: ({ unit }) => unit,
    }),
    "confidences.csv": toCsv(ranksTable(spearmanWithDice, "images", failureDetection), {
      ranked_by: ({ name }) => name,
    }),
  };
}

/** The images in their order; of many only the first and last ten. */
export function describeImages(scores: readonly ImageScore[], evaluated: Evaluated): string {
  return toText(imagesTable(scores, evaluated), 10);
}

/** Means with spread and interval, per class and head; groups by Dice; how well each confidence ranks, and finds failures. */
export function describeSummary(summary: Summary): string {
  const { bootstrap, failed, withDice, tau, spearmanWithDice, failureDetection } = summary;
  const groups = groupsTable(summary);
  const byDice = [...groups.rows].sort((a, b) => a.dice - b.dice);
  return [
    toText(
      meansTable(
        averages(summary).filter(({ untold }) => !untold),
        "images",
        bootstrap.unit,
      ),
    ),
    ...(bootstrap.unit === "group" && byDice.length > 0 ? [toText({ ...groups, rows: byDice }, 5)] : []),
    `${toText(ranksTable(spearmanWithDice, "images", failureDetection))}AUROC and FPR95 are of ${failed} failures among ${withDice}: Dice below ${fixed(tau, 2)}. Uncertainties find failures by minus their value.\n`,
  ].join("\n");
}

/** Detection of lesions by class name. */
export function describeLesions(summary: Readonly<Record<string, LesionSummary>>, rule: LesionRule): string {
  const table = lesionsTable(
    Object.entries(summary).map(([name, of]) => ({ name, ...of })),
    rule,
  );
  return `${toText(table)}${describeLesionRule(rule)}\n`;
}
