import path from "node:path";
import type { Command } from "commander";
import { writeAtomic } from "../data/files.js";
import { PREDICTION_FUSIONS, type PredictionFusion } from "../fusion/index.js";
import { type DeviceFlags, placement } from "../inference/device.js";
import type { Comparison } from "../results/comparison.js";
import type { ShiftOptions } from "../study/compare.js";
import type { Condition } from "../study/selection.js";
import { integer, number, oneOf, text } from "./arguments.js";
import { newCommand, runSession, type Session, toJson, UsageError } from "./command.js";
import { withDeviceOptions } from "./device-options.js";
import { type LabelFlags, labelsOf, noteUnclear, SCALES, withLabelOptions } from "./label-options.js";
import { counter, StatusLine } from "./progress.js";
import { classes, conditions, type ScoringFlags, withScoringOptions } from "./scoring-options.js";

interface Flags extends DeviceFlags, ScoringFlags, LabelFlags {
  data?: string;
  split: string;
  out: string;
  title?: string;
  summary: Comparison["summary"];
  skip?: number;
  fusion?: PredictionFusion;
  ood?: string;
  oodSplit?: string;
  oodWhere?: Condition[];
  oodClasses?: number[];
  referenceWhere?: Condition[];
  oodLabels?: LabelFlags["labels"];
  flag?: number;
  report: boolean;
  json?: boolean;
}

const SUMMARIES = ["sum", "mean", "foreground"] as const;

/** `compare`: methods in quality, calibration, failure detection and cost, over seeds. */
export function compareCommand(): Command {
  const command = newCommand(
    "compare",
    "compare trained methods, over their seeds, in quality, calibration, finding failures, and cost",
    "layer-ensembles compare runs/plain-* runs/le-* --data data/busi --split test --out comparison\n" +
      "layer-ensembles compare runs/* --data data/acdc --out comparison --ood data/sunnybrook --ood-classes 2,3 " +
      "--reference-where phase=ED",
    "Runs of one method with different seeds are averaged. Writes results.json, tables/*.csv, and the report.",
  )
    .argument("<runs...>", "run folders of train")
    .option("--data <dir>", "data folder (default: the one that the first run was trained on)", text)
    .option("--split <name>", "which images; all for every one", text, "test")
    .requiredOption("--out <dir>", "folder to write to", text)
    .option("--title <text>", "title of the report", text)
    .option("--summary <name>", `of a map, as a confidence: ${SUMMARIES.join(", ")}`, oneOf(SUMMARIES), "sum")
    .option("--skip <T>", "first heads to leave out, of Layer Ensembles (default: each run's own)", integer({ min: 0 }))
    .option(
      "--fusion <name>",
      `${PREDICTION_FUSIONS.join(", ")} (default: as tuned, else mean)`,
      oneOf(PREDICTION_FUSIONS),
    );
  withScoringOptions(command)
    .option("--ood <dir>", "data folder of a shifted set, for the shift table", text)
    .option("--ood-split <name>", "which of its images (default: ood, else test, else all)", text)
    .option("--ood-where <condition>", "only those of its images whose split.csv says so; repeatable", conditions)
    .option("--ood-classes <list>", "classes that are annotated in both sets (default: those scored)", classes)
    .option(
      "--reference-where <condition>",
      "which of the other images they are compared with (default: all)",
      conditions,
    )
    .option(
      "--flag <share>",
      "share of the images in distribution to flag (default: 0.1)",
      number({ min: 0, max: 0.99 }),
    )
    .option("--ood-labels <scale>", "what its masks hold, as of --labels (default: as the runs')", oneOf(SCALES))
    .option("--no-report", "write no report.html and no figures");
  withLabelOptions(command, { labels: "as the runs'", ignore: "the runs'" });
  return withDeviceOptions(command).action((runs: string[], flags: Flags) =>
    runSession(flags.json ?? false, (session) => compare(runs, flags, session)),
  );
}

async function compare(runs: string[], flags: Flags, session: Session): Promise<void> {
  const shift = shiftFlags(flags);
  const { checkOutput } = await import("./output.js");
  const { compareRuns } = await import("../study/compare.js");
  checkOutput(flags.out, "--out");
  const line = new StatusLine(process.stderr);
  let written: string[] = [];
  let comparison: Comparison;
  try {
    comparison = await compareRuns({
      runs,
      out: flags.out,
      split: flags.split,
      tau: flags.tau,
      summary: flags.summary,
      resamples: flags.resamples,
      seed: flags.seed,
      selection: { where: flags.where ?? [], ...(flags.group !== undefined && { group: flags.group }) },
      signal: session.signal,
      onProgress: (what, done, total) => counter(line, what, total)(done),
      ...defined({
        data: flags.data,
        title: flags.title,
        spacing: flags.spacing,
        skip: flags.skip,
        fusion: flags.fusion,
      }),
      ...defined({ scored: flags.scoreClasses, unit: flags.unit, shift, allowDuplicates: flags.allowDuplicates }),
      labels: labelsOf(flags),
      onUnclear: (mask) => noteUnclear(session, mask),
      ...placement(flags),
      ...defined({ threads: flags.threads }),
    });
    written = await writeResults(comparison, flags.out, flags.report);
  } finally {
    line.clear();
  }
  await tellResults(comparison, flags.out, written, session);
}

/**
 * Writes results.json, the tables and, where asked for, the report, all or nothing.
 * @param text results.json as it is, where it is
 * @returns their paths, relative to the folder
 */
export async function writeResults(
  comparison: Comparison,
  out: string,
  report: boolean,
  text = toJson(comparison),
): Promise<string[]> {
  const { writeTogether } = await import("./output.js");
  const { csvTables } = await import("../results/files.js");
  const tables = csvTables(comparison);
  const written = ["results.json", ...Object.keys(tables).map((name) => `tables/${name}`)];
  await writeTogether(out, "results.json", async (folder) => {
    for (const [name, content] of Object.entries(tables)) await writeAtomic(path.join(folder, "tables", name), content);
    await writeAtomic(path.join(folder, "results.json"), text);
    if (!report) return;
    const { writeReport } = await import("../report/comparison/index.js");
    written.push(...(await writeReport(comparison, folder)));
  });
  return written;
}

/** Prints the tables, or all but the pictures as JSON. */
export async function tellResults(
  comparison: Comparison,
  out: string,
  written: readonly string[],
  session: Session,
): Promise<void> {
  const { describeComparison } = await import("../results/files.js");
  await session.print(
    session.json
      ? toJson({ ...comparison, shown: comparison.shown.map(withoutPictures) }, 2)
      : `${describeComparison(comparison)}\nWritten to ${out}: ${written.join(", ")}\n`,
  );
}

function shiftFlags(flags: Flags): ShiftOptions | undefined {
  const { ood, oodSplit, oodWhere, oodClasses, oodLabels, referenceWhere, flag } = flags;
  if (ood === undefined) {
    const alone = Object.entries({
      "--ood-split": oodSplit,
      "--ood-where": oodWhere,
      "--ood-classes": oodClasses,
      "--ood-labels": oodLabels,
      "--reference-where": referenceWhere,
      "--flag": flag,
    }).find(([, value]) => value !== undefined);
    if (alone) throw new UsageError(`${alone[0]} needs --ood <dir>`);
    return undefined;
  }
  return {
    folder: ood,
    where: oodWhere ?? [],
    reference: referenceWhere ?? [],
    flag: flag ?? 0.1,
    ...defined({ split: oodSplit, scored: oodClasses, labels: oodLabels && { scale: oodLabels } }),
  };
}

/** What of an object is not undefined. */
function defined<T extends object>(of: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(of).filter(([, value]) => value !== undefined)) as never;
}

function withoutPictures({ image, truth, masks, heads, entropy, ...rest }: Comparison["shown"][number]) {
  return { ...rest, heads: heads.map(({ name }) => name) };
}
