import path from "node:path";
import type { Command } from "commander";
import { csvLine } from "../data/csv.js";
import { writeAtomic } from "../data/files.js";
import { PREDICTION_FUSIONS, type PredictionFusion } from "../ensemble/model.js";
import { integer, oneOf, text } from "./arguments.js";
import { newCommand, runSession, type Session, toJson } from "./command.js";
import { type DeviceFlags, withDeviceOptions } from "./device-options.js";
import type { ImageScore, Spread, Summary } from "./evaluation.js";
import { counter, StatusLine } from "./progress.js";
import { fixed, formatTable } from "./table.js";

interface Flags extends DeviceFlags {
  run: string;
  data?: string;
  split: string;
  out?: string;
  skip?: number;
  fusion?: PredictionFusion;
  json?: boolean;
}

/** `evaluate`: quality, confidence, and whether the one tells of the other. */
export function evaluateCommand(): Command {
  const command = newCommand(
    "evaluate",
    "measure Dice, nll and AULA on images with masks, and how well confidence ranks the images by Dice",
    "layer-ensembles evaluate --run runs/busi --data data/busi --split test",
    "Quality is measured at each image's stored size against its stored mask, after undoing the preprocessing.",
  )
    .requiredOption("--run <dir>", "run folder", text)
    .option("--data <dir>", "data folder (default: the one trained on)", text)
    .option("--split <name>", "which images; all for every one", text, "test")
    .option("--out <dir>", "folder for images.csv, summary.csv and summary.json (default: RUN/evaluation-SPLIT)", text)
    .option("--skip <T>", "first heads to leave out (default: the run's)", integer({ min: 0 }))
    .option(
      "--fusion <name>",
      `${PREDICTION_FUSIONS.join(", ")} (default: as tuned, else mean)`,
      oneOf(PREDICTION_FUSIONS),
    );
  return withDeviceOptions(command).action((flags: Flags) =>
    runSession(flags.json ?? false, (session) => evaluate(flags, session)),
  );
}

async function evaluate(flags: Flags, session: Session): Promise<void> {
  const { checkOutput } = await import("./output.js");
  const { folderItems, infer, openRun } = await import("./inference.js");
  const { scoreImage, summarise } = await import("./evaluation.js");
  const out = flags.out ?? path.join(flags.run, `evaluation-${flags.split}`);
  checkOutput(out, "--out");
  const { model, notes } = await openRun(flags.run, flags);
  const line = new StatusLine(process.stderr);
  try {
    const items = await folderItems(flags.data ?? notes.data.folder, flags.split, notes, "required");
    const options = {
      labels: true,
      signal: session.signal,
      ...(flags.skip !== undefined && { skip: flags.skip }),
      ...(flags.fusion !== undefined && { fusion: flags.fusion }),
    };
    const scores: ImageScore[] = [];
    let heads: string[] = [];
    const tell = counter(line, "evaluating", items.length);
    for await (const result of infer(model, items, options)) {
      heads = result.prediction.heads;
      scores.push(scoreImage(result, model.classes, notes.ignoreIndex));
      tell(scores.length);
    }
    line.clear();
    scores.sort((a, b) => (a.aula ?? 0) - (b.aula ?? 0));
    const summary = summarise(scores, notes.classNames, heads);
    const facts = {
      run: path.resolve(flags.run),
      data: path.resolve(flags.data ?? notes.data.folder),
      split: flags.split,
      skip: flags.skip ?? model.skip,
      fusion: flags.fusion ?? "mean",
      classes: notes.classNames,
      measuredAt: "stored size",
    };
    await writeAtomic(path.join(out, "images.csv"), imagesCsv(scores, notes.classNames, heads));
    await writeAtomic(path.join(out, "summary.csv"), summaryCsv(summary));
    await writeAtomic(path.join(out, "summary.json"), toJson({ ...facts, ...summary }, 2));
    await session.print(
      session.json
        ? toJson({ ...facts, ...summary, scores }, 2)
        : `${describeImages(scores, notes.classNames)}\n${describeSummary(summary)}\nWritten to ${out}: images.csv, summary.csv, summary.json\n`,
    );
  } finally {
    line.clear();
    await model.dispose();
  }
}

/** The images by AULA, least agreement first; of many only the first and last ten. */
export function describeImages(scores: readonly ImageScore[], classNames: readonly string[]): string {
  const several = classNames.length > 2;
  const rows = scores.map((score) => [
    score.id,
    fixed(score.dice),
    ...(several ? score.classDice.map((value) => fixed(value)) : []),
    fixed(score.nll),
    fixed(score.aula) + (score.empty ? " (empty)" : ""),
    fixed(score.aulaNormalised),
    fixed(score.pairwiseAgreement),
  ]);
  const shown = rows.length > 22 ? [...rows.slice(0, 10), null, ...rows.slice(-10)] : rows;
  return formatTable(
    [
      { heading: "image", align: "left" },
      { heading: "Dice" },
      ...(several ? classNames.slice(1).map((heading) => ({ heading })) : []),
      { heading: "nll" },
      { heading: "AULA" },
      { heading: "normalised" },
      { heading: "agreement" },
    ],
    shown,
  );
}

/** Means with their spread, per class and per head, and the rank correlations with Dice. */
export function describeSummary(summary: Summary): string {
  const row = (name: string, { mean, sd, n }: Spread) => [name, fixed(mean), fixed(sd), String(n)];
  const means = formatTable(
    [{ heading: "mean over images", align: "left" }, { heading: "mean" }, { heading: "± sd" }, { heading: "images" }],
    [
      row("Dice", summary.dice),
      ...Object.entries(summary.classDice).map(([name, value]) => row(`  class ${name}`, value)),
      row("nll", summary.nll),
      row("AULA", summary.aula),
      row("AULA, normalised", summary.aulaNormalised),
      ...Object.entries(summary.headDice).map(([name, value]) => row(`Dice of head ${name}`, value)),
    ],
  );
  const ranks = formatTable(
    [{ heading: "Spearman with Dice", align: "left" }, { heading: "rho" }, { heading: "p" }, { heading: "images" }],
    Object.entries(summary.spearmanWithDice).map(([name, { rho, p, n }]) => [
      name,
      fixed(rho),
      Number.isNaN(p) ? "–" : p.toPrecision(2),
      String(n),
    ]),
  );
  return `${means}\n${ranks}`;
}

const cell = (value: number | null | undefined) =>
  value === null || value === undefined || Number.isNaN(value) ? "" : value;

function imagesCsv(scores: readonly ImageScore[], classNames: readonly string[], heads: readonly string[]): string {
  const measures = Object.keys(scores[0]?.uncertainty ?? {});
  const header = [
    ...["id", "group", "dice"],
    ...classNames.slice(1).map((name) => `dice_${name}`),
    ...["nll", "aula", "aula_normalised", "empty", "pairwise_agreement", "soft_dice_confidence", "prediction_depth"],
    ...measures.map((name) => name.replace(".", "_")),
    ...heads.map((name) => `dice_head_${name}`),
  ];
  const rows = scores.map((score) => [
    score.id,
    score.group ?? "",
    cell(score.dice),
    ...score.classDice.map(cell),
    cell(score.nll),
    cell(score.aula),
    cell(score.aulaNormalised),
    String(score.empty),
    cell(score.pairwiseAgreement),
    cell(score.softDiceConfidence),
    cell(score.predictionDepth),
    ...measures.map((name) => cell(score.uncertainty[name])),
    ...score.headDice.map(cell),
  ]);
  return `${[header, ...rows].map(csvLine).join("\n")}\n`;
}

function summaryCsv(summary: Summary): string {
  const spreads: [string, Spread][] = [
    ["dice", summary.dice],
    ...Object.entries(summary.classDice).map(([name, value]): [string, Spread] => [`dice of class ${name}`, value]),
    ["nll", summary.nll],
    ["aula", summary.aula],
    ["aula normalised", summary.aulaNormalised],
    ...Object.entries(summary.headDice).map(([name, value]): [string, Spread] => [`dice of head ${name}`, value]),
  ];
  const lines = [
    ["quantity", "mean", "sd", "images", "left_out", "spearman_with_dice", "p"],
    ...spreads.map(([name, { mean, sd, n, leftOut }]) => [name, cell(mean), cell(sd), n, leftOut, "", ""]),
    ...Object.entries(summary.spearmanWithDice).map(([name, { rho, p, n }]) => [
      `rank of ${name}`,
      "",
      "",
      n,
      summary.images - n,
      cell(rho),
      cell(p),
    ]),
  ];
  return `${lines.map(csvLine).join("\n")}\n`;
}
