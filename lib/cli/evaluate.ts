import { existsSync } from "node:fs";
import path from "node:path";
import type { Command } from "commander";
import { writeAtomic } from "../data/files.js";
import { describeSeen, describeUnknown } from "../data/leaks.js";
import { type Model, PREDICT } from "../ensemble/model.js";
import { type Defaults, defaultsOf, option, type Values } from "../options.js";
import { MEASURED } from "../quality/quality.js";
import { fixed } from "../results/format.js";
import type { Certificate } from "../runs/certificate.js";
import { RUN_FILES, type Run } from "../runs/run.js";
import { type GateDecision, watchedValues } from "../scores/gate.js";
import { recordedRank } from "../scores/scores.js";
import type { ImageLesions } from "../study/lesions.js";
import type { ImageScore } from "../study/records.js";
import { givenOf, RUN, runOf, text, withOptions } from "./arguments.js";
import { newCommand, runSession, type Session, toJson } from "./command.js";
import { noteCropped } from "./cropped-note.js";
import { DEVICE } from "./device-options.js";
import { labelSpecs, labelsOf, noteIgnored, noteUnclear } from "./label-options.js";
import { counter, StatusLine } from "./progress.js";
import { conditions, SCORING } from "./scoring-options.js";
import { atOwnSize, noteTiles, TILE_PARSERS, TILING, tilesOf } from "./tile-options.js";

const { skip, fusion } = PREDICT;
const { spacing } = SCORING;

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
  ...TILING,
  ...SCORING,
  lesions: option.boolean({
    text: "also lesion by lesion: lesions.csv, with the scores of each predicted one, and what is found and false per class",
  }),
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
  return withOptions(command, OPTIONS, { where: conditions, ...TILE_PARSERS }).action(
    (run: string | undefined, flags: Flags) =>
      runSession(flags.json ?? false, (session) =>
        evaluate(runOf(run, flags), { ...defaultsOf(OPTIONS), ...flags }, session),
      ),
  );
}

async function evaluate(run: string, flags: Flags, session: Session): Promise<void> {
  const { checkOutput, writeTogether } = await import("./output.js");
  const { folderItems, notesAtOwnSize, openRun } = await import("../inference/inference.js");
  const { summarise } = await import("../study/summary.js");
  const { describeImages, describeLesions, describeSummary, evaluationTables } = await import("../study/tables.js");
  const { coverageOf, describeCoverage } = await import("../study/predicted-dice.js");
  const { imageLesions, lesionsCsv, summariseLesions } = await import("../study/lesions.js");
  const { describeBlind, scoredClasses } = await import("../study/records.js");
  const { evaluateItems, keptBy } = await import("../study/evaluate.js");
  const { selectItems } = await import("../study/selection.js");
  const { seenBy } = await import("../runs/notes.js");
  const { gated } = await import("../inference/record.js");
  const { chosenOtherwise } = await import("../runs/certificate.js");
  const { decideAs, describeGate, summariseGate } = await import("../study/gating.js");
  const { describeUnlike } = await import("../results/files.js");
  const out = flags.out ?? path.join(run, `evaluation-${flags.split}`);
  checkOutput(out, "--out");
  const { model, run: described, notes: ofRun } = await openRun(run, flags);
  const line = new StatusLine(process.stderr);
  try {
    const notes = atOwnSize(flags) ? notesAtOwnSize(ofRun) : ofRun;
    noteTiles(session, model, described, flags);
    const tiles = tilesOf(flags);
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
    const certificate = await certificateFor({ folder: run, model, run: described }, flags, session);
    const watched: [id: string, Record<string, number | null>][] = [];
    const decisions = new Map<string, GateDecision>();
    // A gate is of the run's own heads and fusion.
    const asked = chosenOtherwise(described, flags) ? { gate: undefined } : { gate: described.gate, certificate };
    const tell = counter(line, "evaluating", items.length);
    const scoring = {
      ...{ classes: model.classes, scored, ignoreIndex },
      ...givenOf(flags, { spacing, ...MEASURED }),
    };
    const parts: ImageLesions[] = [];
    const { scores, heads, units } = await evaluateItems(model, items, {
      ...{ notes, scoring },
      predict: {
        labels: true,
        signal: session.signal,
        ...givenOf(flags, { skip, fusion }),
        ...tiles,
      },
      onResult: (result) => {
        const { id, placement } = result;
        const prediction = gated(result.prediction, placement, notes);
        const decision = decideAs(prediction, asked);
        if (decision) decisions.set(id, decision);
        if (certificate) watched.push([id, watchedValues(prediction, certificate, described.gate)]);
        if (flags.lesions) parts.push(imageLesions(result, scoring, method === "le"));
      },
      onProgress: tell,
    });
    line.clear();
    const sureness = (score: ImageScore) => recordedRank(score, "aula") ?? 0;
    scores.sort((a, b) => sureness(a) - sureness(b));
    const { tau, resamples, seed } = flags;
    const evaluated = { classNames, scored, heads, units };
    const summary = summarise(scores, {
      ...{ ...evaluated, tau, resamples, seed },
      ...(flags.unit && { unit: flags.unit }),
    });
    noteIgnored(session, summary.ignored, summary.images);
    const blind = describeBlind(scores);
    if (blind) session.note(`note: ${blind}`);
    noteCropped(session, summary.cropped, summary.images, notes.preprocessing.size);
    if (seen.size > 0) session.note(describeSeen(seen.size, summary.images));
    const { unknown } = seenBy(notes);
    if (unknown.length > 0) session.note(`warning: ${describeUnknown(run, unknown)}`);
    const unlike = scores.filter(({ unlikeTraining }) => unlikeTraining).length;
    if (unlike > 0) session.note(`warning: ${describeUnlike(unlike, summary.images)}`);
    const gate = summariseGate(
      scores.flatMap(({ id, dice }) => {
        const decision = decisions.get(id);
        return decision ? [{ ...decision, dice }] : [];
      }),
      asked,
      summary.tau,
    );
    const facts = {
      run: path.resolve(run),
      data: path.resolve(folder),
      split: flags.split,
      method,
      ...keptBy(model, heads, flags),
      classNames,
      scored,
      spacing: flags.spacing ?? null,
      lesionOverlap: flags.lesionOverlap,
      neighbours: flags.neighbours,
      measuredAt: "stored size",
      ...(Object.keys(tiles).length > 0 ? { tiles } : described.tiles && { tiles: described.tiles }),
      ...(seen.size > 0 && { seen: seen.size }),
      ...(unknown.length > 0 && { unknown }),
    };
    const { fit, stale } = model.predictedDice;
    if (stale) session.note(`warning: ${stale}`);
    const coverage = fit && coverageOf(scores, fit, evaluated);
    const lesions = flags.lesions ? summariseLesions(parts, evaluated) : undefined;
    const alarm = certificate && (await alarmOver(watched, certificate));
    const summed = {
      ...{ ...facts, ...summary },
      ...(lesions && { lesions }),
      ...(coverage && { predictedDice: coverage }),
      ...(gate && { gate }),
      ...(alarm && { alarm: alarm.summary }),
    };
    const tables = evaluationTables(scores, summary, evaluated, decisions);
    const more = lesions ? { "lesions.csv": lesionsCsv(parts, evaluated) } : {};
    const written = Object.entries({ ...tables, ...more, ...alarm?.files, "summary.json": toJson(summed, 2) });
    await writeTogether(out, "summary.json", async (folder) => {
      for (const [name, content] of written) await writeAtomic(path.join(folder, name), content);
    });
    await session.print(
      session.json
        ? toJson(
            { ...summed, scores: scores.map((score) => ({ ...score, ...decisionOf(decisions.get(score.id)) })) },
            2,
          )
        : `${describeImages(scores, evaluated)}\n${describeSummary(summary)}\n${lesions ? `${describeLesions(lesions, flags)}\n` : ""}${coverage ? `${describeCoverage(coverage)}\n` : ""}${gate ? `${describeGate(gate)}\n` : ""}${alarm ? `${alarm.text}\n` : ""}Written to ${out}: ${written.map(([name]) => name).join(", ")}\n`,
    );
  } finally {
    line.clear();
    await model.dispose();
  }
}

/** What the gate said of an image, as files have it. */
function decisionOf(decided: GateDecision | undefined) {
  if (!decided) return undefined;
  const { decision, reasons } = decided;
  return { decision, reasons };
}

/** The certificate that holds for what is predicted here; that it holds no longer is told. */
async function certificateFor(
  { folder, model, run }: { folder: string; model: Model; run: Run },
  flags: Flags,
  session: Session,
): Promise<Certificate | undefined> {
  if (!existsSync(path.join(folder, RUN_FILES.certificate))) return undefined;
  const { chosenOtherwise, inPrecision, verifyCertificate } = await import("../runs/certificate.js");
  const verdict = inPrecision(await verifyCertificate(folder), model.precision);
  if (!verdict.valid) session.note(`The alarm over these images is not told: ${verdict.message}`);
  return verdict.valid && chosenOtherwise(run, flags) === undefined ? verdict.certificate : undefined;
}

/** What the alarm of a certificate says of the images in the order in which they were evaluated. */
async function alarmOver(watched: readonly [id: string, Record<string, number | null>][], certificate: Certificate) {
  const { certifiedStream } = await import("../study/stream.js");
  const { alarmFigure, rasterise } = await import("../report/figures/index.js");
  const { csvOf } = await import("../results/table.js");
  const { values, ...stream } = certifiedStream(
    watched.map(([, one]) => one),
    certificate,
  );
  const { limit, firedAt, calibration, cases } = stream;
  const highest = Math.max(...values);
  const off = firedAt === null ? "it does not go off" : `it goes off at image ${firedAt}, ${watched[firedAt - 1]?.[0]}`;
  const svg = await alarmFigure({ values, limit, firedAt });
  return {
    summary: { ...stream, highest },
    text: `The alarm over these ${cases} images in their order, calibrated by ${calibration}: at most ${fixed(highest, 1)} of ${limit}; ${off}.`,
    files: {
      "alarm.csv": csvOf(
        ["image", "id", "martingale"],
        values.map((value, i) => [i + 1, watched[i]?.[0], value]),
      ),
      "alarm.svg": svg,
      "alarm.png": await rasterise(svg),
    },
  };
}
