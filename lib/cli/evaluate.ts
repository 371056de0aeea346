import path from "node:path";
import type { Command } from "commander";
import { writeAtomic } from "../data/files.js";
import { describeSeen, describeUnknown } from "../data/leaks.js";
import { PREDICT } from "../ensemble/model.js";
import { type Defaults, defaultsOf, option, type Values } from "../options.js";
import { givenOf, RUN, runOf, text, withOptions } from "./arguments.js";
import { newCommand, runSession, type Session, toJson } from "./command.js";
import { noteCropped } from "./cropped-note.js";
import { DEVICE } from "./device-options.js";
import { labelSpecs, labelsOf, noteIgnored, noteUnclear } from "./label-options.js";
import { counter, StatusLine } from "./progress.js";
import { conditions, SCORING } from "./scoring-options.js";

const { skip, fusion } = PREDICT;

const OPTIONS = {
  run: RUN,
  data: option.string({ otherwise: "the one trained on", text: "data folder", arg: "dir" }),
  split: option.string({ default: "test", text: "which images; all for every one", arg: "name" }),
  out: option.string({
    ...{ otherwise: "RUN/evaluation-SPLIT", arg: "dir" },
    text: "folder for the tables and summary.json",
  }),
  skip,
  fusion,
  ...SCORING,
  ...labelSpecs({ labels: "as the run's", ignore: "the run's" }),
  ...DEVICE,
};

type Flags = Values<typeof OPTIONS> & Defaults<typeof OPTIONS> & { json?: boolean };

/** `evaluate`: quality, calibration, confidence, and whether the one tells of the other. */
export function evaluateCommand(): Command {
  const command = newCommand(
    "evaluate",
    "measure quality, calibration and agreement on images with masks, and whether confidence finds the failures",
    "layer-ensembles evaluate --run runs/busi --data data/busi --split test",
    "Quality is measured at each image's stored size against its stored mask, after undoing the preprocessing.",
  ).argument("[run]", "run folder", text);
  return withOptions(command, OPTIONS, { where: conditions }).action((run: string | undefined, flags: Flags) =>
    runSession(flags.json ?? false, (session) =>
      evaluate(runOf(run, flags), { ...defaultsOf(OPTIONS), ...flags }, session),
    ),
  );
}

async function evaluate(run: string, flags: Flags, session: Session): Promise<void> {
  const { checkOutput, writeTogether } = await import("./output.js");
  const { folderItems, openRun } = await import("../inference/inference.js");
  const { summarise } = await import("../study/summary.js");
  const { describeImages, describeSummary, evaluationTables } = await import("../study/tables.js");
  const { coverageOf, describeCoverage } = await import("../study/predicted-dice.js");
  const { scoredClasses } = await import("../study/records.js");
  const { evaluateItems, keptBy } = await import("../study/evaluate.js");
  const { selectItems } = await import("../study/selection.js");
  const { seenBy } = await import("../runs/notes.js");
  const out = flags.out ?? path.join(run, `evaluation-${flags.split}`);
  checkOutput(out, "--out");
  const { model, notes } = await openRun(run, flags);
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
        ...givenOf(flags, { skip, fusion }),
      },
      onProgress: tell,
    });
    line.clear();
    scores.sort((a, b) => (a.aula ?? 0) - (b.aula ?? 0));
    const { tau, resamples, seed } = flags;
    const evaluated = { classNames, scored, heads };
    const summary = summarise(scores, {
      ...{ ...evaluated, tau, resamples, seed },
      ...(flags.unit && { unit: flags.unit }),
    });
    noteIgnored(session, summary.ignored, summary.images);
    noteCropped(session, summary.cropped, summary.images, notes.preprocessing.size);
    if (seen.size > 0) session.note(describeSeen(seen.size, summary.images));
    const { unknown } = seenBy(notes);
    if (unknown.length > 0) session.note(`warning: ${describeUnknown(run, unknown)}`);
    const facts = {
      run: path.resolve(run),
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
    const { fit, stale } = model.predictedDice;
    if (stale) session.note(`warning: ${stale}`);
    const coverage = fit && coverageOf(scores, fit, evaluated);
    const summed = { ...facts, ...summary, ...(coverage && { predictedDice: coverage }) };
    const tables = evaluationTables(scores, summary, evaluated);
    const written = Object.entries({ ...tables, "summary.json": toJson(summed, 2) });
    await writeTogether(out, "summary.json", async (folder) => {
      for (const [name, content] of written) await writeAtomic(path.join(folder, name), content);
    });
    await session.print(
      session.json
        ? toJson({ ...summed, scores }, 2)
        : `${describeImages(scores, evaluated)}\n${describeSummary(summary)}\n${coverage ? `${describeCoverage(coverage)}\n` : ""}Written to ${out}: ${written.map(([name]) => name).join(", ")}\n`,
    );
  } finally {
    line.clear();
    await model.dispose();
  }
}
