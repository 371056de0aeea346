import path from "node:path";
import type { Command } from "commander";
import { writeAtomic } from "../data/files.js";
import { LABEL_OPTIONS } from "../data/labels.js";
import { PREDICT } from "../ensemble/model.js";
import { placement } from "../inference/device.js";
import { defaultsOf, option, type Values } from "../options.js";
import { MEASURED } from "../quality/quality.js";
import type { Comparison } from "../results/comparison.js";
import type { ShiftOptions } from "../study/compare.js";
import { SUMMARISE } from "../study/summary-options.js";
import { givenOf, withOptions } from "./arguments.js";
import { newCommand, runSession, type Session, toJson, UsageError } from "./command.js";
import { DEVICE } from "./device-options.js";
import { labelSpecs, labelsOf, noteUnclear } from "./label-options.js";
import { counter, StatusLine } from "./progress.js";
import { CLASSES, CONDITIONS, conditions, SCORING } from "./scoring-options.js";

const OPTIONS = {
  data: option.string({ otherwise: "the one that the first run was trained on", text: "data folder", arg: "dir" }),
  split: option.string({ default: "test", text: "which images; all for every one", arg: "name" }),
  out: option.required(option.string({ text: "folder to write to", arg: "dir" })),
  title: option.string({ otherwise: "data folder and split", text: "title of the report" }),
  summary: option.oneOf(["sum", "mean", "foreground"], {
    default: "sum",
    text: "which summary of a map is its confidence",
  }),
  skip: option.with(PREDICT.skip, {
    ...{ otherwise: "each run's own", arg: "T" },
    text: "first heads to leave out, of Layer Ensembles alone",
  }),
  fusion: PREDICT.fusion,
  ...SCORING,
  lesions: option.boolean({
    text: "also lesion by lesion, per class: what is found and false over all images, and whether the scores of a part tell",
  }),
  ood: option.string({ text: "data folder of a shifted set, for the shift table", arg: "dir" }),
  oodSplit: option.string({ otherwise: "ood, else test, else all", text: "which of its images", arg: "name" }),
  oodWhere: option.with(CONDITIONS, {
    text: "only those of its images whose split.csv says so; repeatable",
    arg: "condition",
  }),
  oodClasses: option.with(CLASSES, {
    otherwise: "those scored",
    text: "classes that are annotated in both sets: Dice in and out is of these",
  }),
  referenceWhere: option.with(CONDITIONS, {
    ...{ otherwise: "all", arg: "condition" },
    text: "which of the other images they are compared with, so that nothing but the shift differs",
  }),
  flag: option.number({
    ...{ min: 0, max: 0.99, default: 0.1, arg: "share" },
    text: "share of the images in distribution to flag",
  }),
  oodLabels: option.with(LABEL_OPTIONS.scale, {
    ...{ otherwise: "as the runs'", arg: "scale" },
    text: "what its masks hold, as of --labels",
  }),
  report: option.boolean({ default: true, text: "write no report.html and no figures" }),
  ...labelSpecs({ labels: "as the runs'", ignore: "the runs'" }),
  ...DEVICE,
};

interface Flags extends Values<typeof OPTIONS> {
  json?: boolean;
}

const { data, title, spacing, skip, fusion, lesions, allowDuplicates, threads } = OPTIONS;

const PARSERS = { where: conditions, oodWhere: conditions, referenceWhere: conditions };

/** `compare`: methods in quality, calibration, failure detection and cost, over seeds. */
export function compareCommand(): Command {
  const command = newCommand(
    "compare",
    "compare trained methods, over their seeds, in quality, calibration, finding failures, and cost",
    "layer-ensembles compare runs/plain-* runs/le-* --data data/busi --split test --out comparison\n" +
      "layer-ensembles compare runs/* --data data/acdc --out comparison --ood data/sunnybrook --ood-classes 2,3 " +
      "--reference-where phase=ED",
    "Runs of one method with different seeds are averaged. Writes results.json, tables/*.csv, and the report.",
  ).argument("<runs...>", "run folders of train");
  return withOptions(command, OPTIONS, PARSERS).action((runs: string[], flags: Flags) =>
    runSession(flags.json ?? false, (session) => compare(runs, flags, session)),
  );
}

async function compare(runs: string[], flags: Flags, session: Session): Promise<void> {
  const shift = shiftFlags(flags);
  const { out, split, summary, report } = { ...defaultsOf(OPTIONS), ...flags };
  const { checkOutput } = await import("./output.js");
  const { compareRuns } = await import("../study/compare.js");
  checkOutput(out, "--out");
  const line = new StatusLine(process.stderr);
  const notes = new Set<string>();
  let written: string[] = [];
  let comparison: Comparison;
  try {
    comparison = await compareRuns({
      runs,
      ...givenOf(flags, {
        data,
        title,
        spacing,
        skip,
        fusion,
        lesions,
        allowDuplicates,
        threads,
        ...MEASURED,
        ...SUMMARISE,
      }),
      ...{ out, split, summary },
      selection: { where: flags.where ?? [], ...(flags.group !== undefined && { group: flags.group }) },
      signal: session.signal,
      onProgress: (what, done, total) => counter(line, what, total)(done),
      ...defined({ scored: flags.scoreClasses, shift }),
      labels: labelsOf(flags),
      onNote: (note) => void notes.add(note),
      onUnclear: (mask) => noteUnclear(session, mask),
      ...placement(flags),
    });
    written = await writeResults(comparison, out, report);
  } finally {
    line.clear();
  }
  for (const note of notes) session.note(`note: ${note}`);
  await tellResults(comparison, out, written, session);
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
    flag: flag ?? OPTIONS.flag.default,
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
