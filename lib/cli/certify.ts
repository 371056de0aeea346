import path from "node:path";
import type { Command } from "commander";
import { CERTIFICATE_RULES, PROMISE, type TestedThreshold } from "../certificate/index.js";
import { option, type Values } from "../options.js";
import { bracketed, fixed, percent, pValue } from "../results/format.js";
import { formatTable } from "../results/text.js";
import { RUN_FILES } from "../runs/run.js";
import { SCORE_NAMES, SCORES } from "../scores/scores.js";
import { SET_NAMES } from "../sets/index.js";
import type { CertifiedRun } from "../study/certify.js";
import { givenOf, RUN, runOf, text, withOptions } from "./arguments.js";
import { newCommand, runSession, type Session, toJson, UsageError } from "./command.js";
import { DEVICE } from "./device-options.js";
import { labelSpecs, labelsOf } from "./label-options.js";
import { counter, StatusLine } from "./progress.js";

/** In the order of its help and of docs/cli.md. */
const OPTIONS = {
  run: RUN,
  data: option.string({ text: "data folder", otherwise: "the one trained on", arg: "dir" }),
  split: option.string({
    text: "calibration images: a split that chose nothing",
    default: "calibration",
    arg: "name",
  }),
  fromOutcomes: option.boolean({ text: "calibrate with the audited cases of the run's outcomes.jsonl instead" }),
  renew: option.string({
    text: "take the certificate that the alarm over served cases has voided for valid again, for this reason; nothing else is done",
    arg: "why",
  }),
  state: option.string({
    text: "folder of the alarm to renew: --state of serve, and the run's name there",
    otherwise: "in the run",
    arg: "dir",
  }),
  ...PROMISE,
  // Of no use to a renewal.
  alpha: { ...PROMISE.alpha, required: false },
  start: option.number({
    min: 0,
    max: 1,
    text: "first threshold to test: the one that accepts this share of validation; to be said before a table was seen",
    otherwise: "the first that could pass",
    arg: "share",
  }),
  score: option.oneOf(SCORE_NAMES, {
    text: "score that is asked, in the direction of confidence",
    otherwise: "that of the run's gate, else aula; softDiceConfidence without three heads in order",
  }),
  sets: option.number({
    above: 0,
    below: 1,
    text: "choose thresholds of inner and outer masks too: the share of the truth that the outer ones miss on average, and of the inner ones that is false",
    arg: "share",
  }),
  group: option.string({
    text: "column of split.csv with the groups (patients) of images",
    otherwise: "group",
    arg: "column",
  }),
  dryRun: option.boolean({ text: "only print" }),
  ...labelSpecs({ labels: "as the run's", ignore: "the run's" }),
  ...DEVICE,
};

interface Flags extends Values<typeof OPTIONS> {
  json?: boolean;
}

/** `certify`: a threshold that calibration cases prove, and what is promised of it, written into the run. */
export function certifyCommand(): Command {
  const command = newCommand(
    "certify",
    "find the gate's lowest threshold that calibration images prove to keep a promise, and write it as a certificate",
    "layer-ensembles certify runs/busi --data data/busi --split calibration --alpha 0.1 --tau 0.8 --delta 0.1 --dry-run\n" +
      'layer-ensembles certify runs/busi --renew "new probe; 40 of its cases audited, 2 failed"',
    "Predicts the calibration images with the run's settings and measures their Dice as evaluate does: the mean over the foreground " +
      "classes, at the stored size. They must have chosen nothing of the run. Thresholds are quantiles of the score on the run's " +
      "validation images. Exit code 1 where nothing is proved. docs/guarantee.md says what is promised.",
  ).argument("[run]", "run folder", text);
  return withOptions(command, OPTIONS).action((run: string | undefined, flags: Flags) =>
    runSession(flags.json ?? false, (session) => {
      const folder = runOf(run, flags);
      return flags.renew === undefined
        ? certifyFolder(folder, flags, session)
        : renewFolder(folder, flags.renew, flags, session);
    }),
  );
}

async function renewFolder(folder: string, reason: string, { state }: Flags, session: Session): Promise<void> {
  const { renewCertificate } = await import("../runs/alarm.js");
  const renewal = await renewCertificate(folder, reason, state);
  const { voidSince } = renewal;
  await session.print(
    session.json
      ? toJson({ run: path.resolve(folder), ...renewal }, 2)
      : `Renewed: the certificate of ${folder}, void since ${voidSince ?? "an unknown time"}. A server takes it up at SIGHUP.\n`,
  );
}

async function certifyFolder(folder: string, flags: Flags, session: Session): Promise<void> {
  const { alpha, fromOutcomes, dryRun = false } = flags;
  if (alpha === undefined) throw new UsageError("expected --alpha, the largest share of failures, or --renew");
  if (flags.state !== undefined) throw new UsageError("expected --state with --renew alone");
  if (fromOutcomes && (flags.data !== undefined || flags.group !== undefined || flags.sets !== undefined))
    throw new UsageError("expected --from-outcomes, or --data, --group and --sets, not both");
  const { checkOutput, checkPlaces } = await import("./output.js");
  const { openRun } = await import("../inference/inference.js");
  const { certifyRun } = await import("../study/certify.js");
  const { writeCertificate } = await import("../runs/certificate.js");
  if (!dryRun) {
    checkOutput(folder, "the run");
    await checkPlaces(folder, [RUN_FILES.certificate, RUN_FILES.predictedDice]);
  }
  const opened = await openRun(folder, flags);
  const line = new StatusLine(process.stderr);
  try {
    const { group, split = OPTIONS.split.default } = flags;
    const images = { split, labels: labelsOf(flags), ...(group !== undefined && { group }) };
    const tell: Record<string, (done: number) => void> = {};
    const found = await certifyRun(folder, opened, {
      promise: { ...givenOf(flags, PROMISE), alpha },
      from: fromOutcomes ? "outcomes" : { data: flags.data ?? opened.notes.data.folder, ...images },
      ...(flags.score && { score: flags.score }),
      ...(flags.sets !== undefined && { sets: flags.sets }),
      ...(flags.start !== undefined && { start: flags.start }),
      signal: session.signal,
      onProgress: (what, done, of) => {
        tell[what] ??= counter(line, what === "thresholds" ? "thresholds from validation" : "calibrating", of);
        tell[what](done);
      },
      onNote: (note) => session.note(note),
    });
    line.clear();
    const { certification, content } = found;
    const { predictedDice } = found;
    const files = [RUN_FILES.certificate, ...(predictedDice === undefined ? [] : [RUN_FILES.predictedDice])];
    const written = content && !dryRun ? files : [];
    const certificate = content && !dryRun ? await writeCertificate(folder, content, predictedDice) : content;
    if (predictedDice !== undefined && !dryRun)
      session.note(
        "The bounds of predicted Dice are of the calibration's cases now, for cases exchangeable with them.",
      );
    if (!certification.certified) process.exitCode = 1;
    await session.print(
      session.json
        ? toJson(
            {
              run: path.resolve(folder),
              written,
              score: found.score,
              sets: found.sets,
              ...certification,
              ...certificate,
            },
            2,
          )
        : `${describe(found)}\n${describeSets(found, opened.notes.classNames)}${ending(folder, written, certification.certified)}\n`,
    );
  } finally {
    line.clear();
    await opened.model.dispose();
  }
}

function ending(folder: string, written: readonly string[], certified: boolean): string {
  if (written.length > 0)
    return (
      `Written to ${folder}: ${written.join(", ")}\n` +
      `It decides in layer-ensembles serve ${folder}; a server that runs takes it up at SIGHUP.`
    );
  return certified ? "Nothing is written (--dry-run)." : "Nothing is written; a certificate that the run has stays.";
}

/** The sentence, the threshold, and all thresholds that were looked at. */
function describe({ certification, score }: CertifiedRun): string {
  const { rule, steps, cases, groups } = certification;
  const several = groups < cases;
  const { compared } = CERTIFICATE_RULES[rule];
  const named = `${SCORES[score].surer === "low" ? "-" : ""}${score}`;
  const table = formatTable(
    [
      { heading: "threshold" },
      { heading: "accepted" },
      ...(several ? [{ heading: "groups" }] : []),
      ...["failed", compared, "passed"].map((heading) => ({ heading })),
    ],
    steps.map((step) => [
      fixed(step.threshold, 4),
      String(step.accepted),
      ...(several ? [String(step.groups)] : []),
      String(Number(step.failures.toPrecision(6))),
      step.value === null ? "–" : pValue(step.value),
      passed(step),
    ]),
  );
  const of = several ? `${cases} cases in ${groups} groups` : `${cases} cases`;
  if (!certification.certified) return `${certification.message}\n\n${table}`;
  const { claim, threshold, accepted, failures, share } = certification;
  return (
    `${claim}\n\nAccept where ${named} is at least ${Number(threshold.toPrecision(6))}: ${accepted} of ${of}, ` +
    `${percent(share.value)} ${bracketed(share.low, share.high, percent)}; ${Number(failures.toPrecision(6))} of them failed. ` +
    `Rule ${rule}.\n\n${table}`
  );
}

/** Thresholds of inner and outer masks, and what is promised of them; empty where they were not asked for. */
function describeSets({ sets }: CertifiedRun, classNames: readonly string[]): string {
  if (!sets) return "";
  const rows = Object.entries(sets.perClass).flatMap(([c, fit]) =>
    SET_NAMES.map((name) => ({ name, className: classNames[Number(c)] as string, ...fit[name] })),
  );
  const table = formatTable(
    [
      { heading: "class", align: "left" },
      { heading: "mask", align: "left" },
      ...["threshold", "cases", "mean loss", "bound", "of the image"].map((heading) => ({ heading })),
    ],
    rows.map(({ className, name, share, cases, risk, bound, size }) => [
      ...[className, name, fixed(share, 4), String(cases), fixed(risk, 4), fixed(bound, 4)],
      size === null ? "–" : percent(size),
    ]),
  );
  const sentences = rows.map(({ className, sentence }) =>
    classNames.length > 2 ? `${className}: ${sentence}` : sentence,
  );
  return `${sentences.join("\n")}\n\n${table}\n`;
}

function passed({ passed }: TestedThreshold): string {
  if (passed === null) return "not tested";
  return passed ? "yes" : "no";
}
