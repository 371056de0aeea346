import path from "node:path";
import type { Command } from "commander";
import { csvText, distinctNames } from "../data/csv.js";
import { writeAtomic } from "../data/files.js";
import { describeSeen, describeUnknown } from "../data/leaks.js";
import { PREDICTION_FUSIONS, type PredictionFusion } from "../fusion/index.js";
import type { DeviceFlags } from "../inference/device.js";
import { QUALITY_NAMES, type QualityName } from "../metrics/index.js";
import { fixed } from "../results/format.js";
import { MEASURES, POOLED } from "../results/measures.js";
import { formatTable } from "../results/text.js";
import { type ImageScoreName, SCORES, snake } from "../scores/scores.js";
import type { ImageScore } from "../study/records.js";
import {
  type Measure,
  type MeasureName,
  measureOf,
  OTHER_MEASURES,
  type SummariseOptions,
  type Summary,
} from "../study/summary.js";
import { integer, oneOf, text } from "./arguments.js";
import { newCommand, runSession, type Session, toJson } from "./command.js";
import { withDeviceOptions } from "./device-options.js";
import { type LabelFlags, labelsOf, noteIgnored, noteUnclear, withLabelOptions } from "./label-options.js";
import { counter, StatusLine } from "./progress.js";
import { type ScoringFlags, withScoringOptions } from "./scoring-options.js";

interface Flags extends DeviceFlags, ScoringFlags, LabelFlags {
  run: string;
  data?: string;
  split: string;
  out?: string;
  skip?: number;
  fusion?: PredictionFusion;
  json?: boolean;
}

/** `evaluate`: quality, calibration, confidence, and whether the one tells of the other. */
export function evaluateCommand(): Command {
  const command = newCommand(
    "evaluate",
    "measure quality, calibration and agreement on images with masks, and whether confidence finds the failures",
    "layer-ensembles evaluate --run runs/busi --data data/busi --split test",
    "Quality is measured at each image's stored size against its stored mask, after undoing the preprocessing.",
  )
    .requiredOption("--run <dir>", "run folder", text)
    .option("--data <dir>", "data folder (default: the one trained on)", text)
    .option("--split <name>", "which images; all for every one", text, "test")
    .option("--out <dir>", "folder for the tables and summary.json (default: RUN/evaluation-SPLIT)", text)
    .option("--skip <T>", "first heads to leave out (default: the run's)", integer({ min: 0 }))
    .option(
      "--fusion <name>",
      `${PREDICTION_FUSIONS.join(", ")} (default: as tuned, else mean)`,
      oneOf(PREDICTION_FUSIONS),
    );
  withLabelOptions(withScoringOptions(command), { labels: "as the run's", ignore: "the run's" });
  return withDeviceOptions(command).action((flags: Flags) =>
    runSession(flags.json ?? false, (session) => evaluate(flags, session)),
  );
}

async function evaluate(flags: Flags, session: Session): Promise<void> {
  const { checkOutput, writeTogether } = await import("./output.js");
  const { folderItems, openRun } = await import("../inference/inference.js");
  const { summarise } = await import("../study/summary.js");
  const { scoredClasses } = await import("../study/records.js");
  const { evaluateItems, keptBy } = await import("../study/evaluate.js");
  const { selectItems } = await import("../study/selection.js");
  const { seenBy } = await import("../runs/notes.js");
  const out = flags.out ?? path.join(flags.run, `evaluation-${flags.split}`);
  checkOutput(out, "--out");
  const { model, notes } = await openRun(flags.run, flags);
  const line = new StatusLine(process.stderr);
  try {
    const { classNames, ignoreIndex } = notes;
    const { method } = model;
    const scored = scoredClasses(flags.scoreClasses, classNames);
    const folder = flags.data ?? notes.data.folder;
    const selection = { where: flags.where ?? [], ...(flags.group !== undefined && { group: flags.group }) };
    const seen = new Set<string>();
    const all = await folderItems(folder, flags.split, notes, {
      masks: "required",
      labels: labelsOf(flags),
      allowDuplicates: flags.allowDuplicates ?? false,
      onSeen: (id) => seen.add(id),
      onUnclear: (mask) => noteUnclear(session, mask),
    });
    const items = await selectItems(all, folder, selection);
    const tell = counter(line, "evaluating", items.length);
    const { scores, heads } = await evaluateItems(model, items, {
      scoring: {
        classes: model.classes,
        scored,
        ignoreIndex,
        ...(flags.spacing && { spacing: flags.spacing }),
      },
      predict: {
        labels: true,
        signal: session.signal,
        ...(flags.skip !== undefined && { skip: flags.skip }),
        ...(flags.fusion !== undefined && { fusion: flags.fusion }),
      },
      onProgress: tell,
    });
    line.clear();
    scores.sort((a, b) => (a.aula ?? 0) - (b.aula ?? 0));
    const { tau, resamples, seed } = flags;
    const summary = summarise(scores, {
      ...{ classNames, scored, heads, tau, resamples, seed },
      ...(flags.unit && { unit: flags.unit }),
    });
    noteIgnored(session, summary.ignored, summary.images);
    if (seen.size > 0) session.note(describeSeen(seen.size, summary.images));
    const { unknown } = seenBy(notes);
    if (unknown.length > 0) session.note(`warning: ${describeUnknown(flags.run, unknown)}`);
    const facts = {
      run: path.resolve(flags.run),
      data: path.resolve(folder),
      split: flags.split,
      method,
      ...keptBy(model, heads, flags),
      classNames,
      scored,
      spacing: flags.spacing ?? null,
      measuredAt: "stored size",
      ...(seen.size > 0 && { seen: seen.size }),
      ...(unknown.length > 0 && { unknown }),
    };
    const tables = evaluationTables(scores, summary, { classNames, scored, heads });
    const written = Object.entries({ ...tables, "summary.json": toJson({ ...facts, ...summary }, 2) });
    await writeTogether(out, "summary.json", async (folder) => {
      for (const [name, content] of written) await writeAtomic(path.join(folder, name), content);
    });
    await session.print(
      session.json
        ? toJson({ ...facts, ...summary, scores }, 2)
        : `${describeImages(
            scores,
            scored.map((c) => classNames[c] as string),
          )}\n${describeSummary(summary)}\n` + `Written to ${out}: ${written.map(([name]) => name).join(", ")}\n`,
    );
  } finally {
    line.clear();
    await model.dispose();
  }
}

/** The CSV files by name. Numbers are not rounded; an empty cell is what is not defined. */
export function evaluationTables(
  scores: readonly ImageScore[],
  summary: Summary,
  { classNames, scored, heads }: Pick<SummariseOptions, "classNames" | "scored" | "heads">,
): Record<string, string> {
  const classes = scored.map((c) => [c, classNames[c] as string] as const);
  return {
    "images.csv": imagesCsv(scores, classes, heads),
    ...(Object.keys(summary.groups).length > 0 && { "groups.csv": groupsCsv(summary) }),
    "summary.csv": summaryCsv(summary),
    "confidences.csv": confidencesCsv(summary),
  };
}

/** The images by AULA, least agreement first; of many only the first and last ten. @param classes names of those scored */
export function describeImages(scores: readonly ImageScore[], classes: readonly string[]): string {
  const several = classes.length > 1;
  const rows = scores.map((score) => [
    score.id,
    fixed(score.dice),
    ...(several ? score.classDice.map((value) => fixed(value)) : []),
    fixed(score.mhd, 2),
    fixed(score.hd95, 2),
    fixed(score.nll),
    fixed(score.ece),
    fixed(score.aula) + (score.empty ? " (empty)" : ""),
    fixed(score.aulaNormalised),
    fixed(score.pairwiseAgreement),
  ]);
  return formatTable(
    [
      { heading: "image", align: "left" },
      { heading: "Dice" },
      ...(several ? classes.map((name) => ({ heading: `Dice of ${name}` })) : []),
      ...["MHD", "HD95", "nll", "ECE", "AULA", "normalised", "agreement"].map((heading) => ({ heading })),
    ],
    endsOf(rows, 10),
  );
}

/** The first and last rows, with dots between where there are more. */
function endsOf(rows: string[][], each: number): (string[] | null)[] {
  return rows.length > 2 * each + 2 ? [...rows.slice(0, each), null, ...rows.slice(-each)] : rows;
}

/** What measures are called in tables. */
const titleOf = (name: MeasureName) =>
  (name in MEASURES ? MEASURES[name as keyof typeof MEASURES] : SCORES[name as ImageScoreName]).title;

/** Means with spread and interval, per class, group and head; then how well each confidence ranks, and finds failures. */
export function describeSummary(summary: Summary): string {
  const { bootstrap, calibration } = summary;
  const row = (name: string, { mean, sd, low, high, n, leftOut }: Measure) => [
    name,
    fixed(mean),
    fixed(sd),
    low === null ? "–" : `${fixed(low)} to ${fixed(high)}`,
    String(n),
    leftOut === 0 ? "" : String(leftOut),
  ];
  const means = formatTable(
    [
      { heading: "mean over images", align: "left" },
      ...["mean", "± sd", `95 % interval (${bootstrap.unit}s)`, "images", "left out"].map((heading) => ({ heading })),
    ],
    [
      ...Object.entries(summary.means).map(([name, of]) => row(titleOf(name as MeasureName), of)),
      ...classRows(summary, row),
      ...Object.entries(summary.headDice).map(([name, of]) => row(`Dice of head ${name}`, of)),
    ],
  );
  const pixels = `Over all pixels: ${POOLED.map((name) => `${titleOf(name)} ${fixed(calibration[name], 4)} (${fixed(calibration[`${name}Low`], 4)} to ${fixed(calibration[`${name}High`], 4)})`).join(", ")}\n`;
  return [means, pixels, groupTable(summary), confidenceTable(summary)].filter((part) => part !== "").join("\n");
}

/** Of several classes: overlap and distance of each. */
function classRows({ classes }: Summary, row: (name: string, of: Measure) => string[]): string[][] {
  const names: QualityName[] = ["dice", "modifiedHausdorff", "hd95"];
  const all = Object.entries(classes);
  if (all.length < 2) return [];
  return all.flatMap(([title, of]) => names.map((name) => row(`${titleOf(name)} of ${title}`, of[name])));
}

/** Groups by Dice, where one has several images. */
function groupTable({ groups, bootstrap }: Summary): string {
  const all = Object.entries(groups).sort(([, a], [, b]) => a.dice - b.dice);
  if (bootstrap.unit !== "group" || all.length === 0) return "";
  const columns: MeasureName[] = ["dice", "modifiedHausdorff", "nll", "aulaNormalised", "pairwiseAgreement"];
  return formatTable(
    [
      { heading: "group", align: "left" },
      { heading: "images" },
      ...columns.map((name) => ({ heading: titleOf(name) })),
    ],
    endsOf(
      all.map(([group, of]) => [group, String(of.images), ...columns.map((name) => fixed(of[name]))]),
      5,
    ),
  );
}

function confidenceTable({ spearmanWithDice, failureDetection, tau, failed, withDice }: Summary): string {
  const table = formatTable(
    [
      { heading: "ranks images by", align: "left" },
      ...["Spearman with Dice", "95 % interval", "p", "AURC", "e-AURC", "AUGRC", "AUROC", "FPR95"].map((heading) => ({
        heading,
      })),
    ],
    Object.entries(spearmanWithDice).map(([name, { rho, low, high, p }]) => {
      const of = failureDetection[name];
      return [
        name,
        fixed(rho),
        low === null ? "–" : `${fixed(low)} to ${fixed(high)}`,
        Number.isNaN(p) ? "–" : p.toPrecision(2),
        ...[of?.aurc, of?.eaurc, of?.augrc, of?.auroc, of?.fpr95].map((estimate) => fixed(estimate?.value)),
      ];
    }),
  );
  return `${table}AUROC and FPR95 are of ${failed} failures among ${withDice}: Dice below ${fixed(tau, 2)}. Uncertainties find failures by minus their value.\n`;
}

const cell = (value: number | null | undefined) =>
  value === null || value === undefined || Number.isNaN(value) ? "" : value;

const COLUMNS = [...QUALITY_NAMES, ...OTHER_MEASURES];

function imagesCsv(
  scores: readonly ImageScore[],
  classes: readonly (readonly [number, string])[],
  heads: readonly string[],
): string {
  const maps = Object.keys(scores[0]?.uncertainty ?? {});
  return csvText(
    distinctNames([
      ...["id", "group", "empty", ...COLUMNS.map(snake)],
      ...classes.flatMap(([, title]) => QUALITY_NAMES.map((name) => `${snake(name)}_${title}`)),
      "ignored",
      ...maps.map(snake),
      ...heads.map((name) => `dice_head_${name}`),
    ]),
    scores.map((score) => [
      ...[score.id, score.group ?? "", String(score.empty)],
      ...COLUMNS.map((name) => cell(measureOf(score, name))),
      ...classes.flatMap(([c]) => QUALITY_NAMES.map((name) => cell(score.quality.perClass[c]?.[name]))),
      score.ignored ?? 0,
      ...maps.map((name) => cell(score.uncertainty[name])),
      ...score.headDice.map(cell),
    ]),
  );
}

function groupsCsv({ groups }: Summary): string {
  return csvText(
    ["group", "images", ...COLUMNS.map(snake)],
    Object.entries(groups).map(([group, of]) => [group, of.images, ...COLUMNS.map((name) => cell(of[name]))]),
  );
}

function summaryCsv({ means, classes, headDice, calibration }: Summary): string {
  const heads = Object.entries(headDice);
  const parts = distinctNames(["", ...heads.map(([name]) => `head ${name}`), ...Object.keys(classes)]);
  const row = (quantity: string, of: string, { mean, sd, low, high, n, leftOut }: Measure) => [
    ...[quantity, of, cell(mean), cell(sd), cell(low), cell(high), n, leftOut],
  ];
  return csvText(
    ["quantity", "of", "mean", "sd", "low", "high", "images", "left_out"],
    [
      ...Object.entries(means).map(([name, of]) => row(snake(name), "", of)),
      ...Object.values(classes).flatMap((measures, i) =>
        Object.entries(measures).map(([name, of]) => row(snake(name), parts[1 + heads.length + i] as string, of)),
      ),
      ...heads.map(([, of], k) => row("dice", parts[1 + k] as string, of)),
      ...POOLED.map((name) => [
        ...[`pooled_${name}`, "", cell(calibration[name]), ""],
        ...[cell(calibration[`${name}Low`]), cell(calibration[`${name}High`]), "", ""],
      ]),
    ],
  );
}

function confidencesCsv({ spearmanWithDice, failureDetection }: Summary): string {
  const [first] = Object.values(failureDetection);
  const statistics = Object.keys(first ?? {}) as (keyof NonNullable<typeof first>)[];
  return csvText(
    [
      ...["ranked_by", "spearman_with_dice", "spearman_with_dice_low", "spearman_with_dice_high", "p", "images"],
      ...statistics.flatMap((name) => [snake(name), `${snake(name)}_low`, `${snake(name)}_high`]),
    ],
    Object.entries(spearmanWithDice).map(([name, { rho, low, high, p, n }]) => [
      ...[name, cell(rho), cell(low), cell(high), cell(p), n],
      ...statistics.flatMap((statistic) => {
        const of = failureDetection[name]?.[statistic];
        return [cell(of?.value), cell(of?.low), cell(of?.high)];
      }),
    ]),
  );
}
