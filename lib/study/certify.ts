// A run's certificate: its calibration cases are predicted and judged, and what they prove is written into it.
import { createHash } from "node:crypto";
import path from "node:path";
import { type Certification, type CertifyOptions, certify, scoreThresholds } from "../certificate/index.js";
import type { Dataset } from "../data/dataset.js";
import type { LabelOptions } from "../data/labels.js";
import { nameOf } from "../data/names.js";
import type { Model } from "../ensemble/model.js";
import { LayerEnsemblesError } from "../errors.js";
import { datasetItems, type Item, infer, type OpenRun, openFolder, type Result } from "../inference/inference.js";
import { gated } from "../inference/record.js";
import { dice, meanOfClasses } from "../quality/overlap.js";
import type { CertificateContent } from "../runs/certificate.js";
import { fitHash, hashOf, hashOfBytes, type RunHashes, runHashes } from "../runs/identity.js";
import { chooseSplit, dataOf, type RunNotes, seenBy } from "../runs/notes.js";
import { type Outcome, predictedOtherwise, predictorOf, readOutcomes } from "../runs/outcomes.js";
import { predictedDiceText } from "../runs/predicted-dice.js";
import type { Run } from "../runs/run.js";
import { chosenScore, type RunTuning } from "../runs/tuning.js";
import { acceptability, type Gate, gateScore, watchedOf } from "../scores/gate.js";
import { type DiceIntervals, featuresFor, type PredictedDiceFit } from "../scores/predicted-dice.js";
import type { ScoreName } from "../scores/scores.js";
import { fitPixelSets, type PixelSetFit, pixelSetRisk, type SetRisk } from "../sets/index.js";
import { calibrateInterval, casesNeeded, type DiceCase } from "../tuning/predicted-dice.js";
import { selectItems } from "./selection.js";

/** How a run is certified. */
export interface CertifyRunOptions {
  /** What is promised, and by which rule. */
  promise: Omit<CertifyOptions, "thresholds">;
  /** The calibration images: a folder's split; or `outcomes`, the cases of the run's outcomes.jsonl. */
  from: { data: string; split: string; labels: LabelOptions; group?: string } | "outcomes";
  /** Share of the validation images that the first threshold accepts; higher ones are not tested. @default 0: the first that could pass */
  start?: number;
  /** @default that of the run's gate, else AULA where the heads allow it, else soft Dice confidence */
  score?: ScoreName;
  /** Expected loss of inner and outer masks, whose thresholds the same images shall choose. */
  sets?: number;
  signal: AbortSignal;
  /** Called after each image that is predicted. */
  onProgress?: (what: "thresholds" | "calibration", done: number, of: number) => void;
  /** Called with sentences for people. */
  onNote?: (text: string) => void;
}

/** What came of it. */
export interface CertifiedRun {
  certification: Certification;
  /** Of the certificate, as `writeCertificate` takes it; undefined where nothing was proved. */
  content?: CertificateContent;
  score: ScoreName;
  /** Thresholds of inner and outer masks, where they were asked for, whatever was proved of the gate. */
  sets?: PixelSetFit;
  /** Text of the run's predicted-dice.json with bounds of the same cases; undefined where the old ones stay. */
  predictedDice?: string;
}

/** Which Dice is judged: that of `evaluate`. */
const WHICH_DICE = "mean over the foreground classes, at the stored size, against the stored mask";

/** A calibration case. */
interface Case {
  id: string;
  /** κ; -Infinity for one that is not accepted whatever the threshold. */
  confidence: number;
  dice: number;
  group?: string;
  /** Tells whether the case is another: of its image and its mask. */
  content: string;
  /** What the alarm over a service's cases is to compare them with. */
  watched: Partial<Record<ScoreName, number>>;
  /** What inner and outer masks of it would do, where that is asked. */
  risk?: SetRisk;
  /** What the fit of predicted Dice reads of it, and its Dice by class, where the run has a fit. */
  ofFit?: Omit<DiceCase, "group">;
}

/**
 * Finds what a run's calibration cases prove. Nothing is written.
 * @throws ERR_LE_DATA for images that chose anything of the run, or of which that is not known; ERR_LE_CHECKPOINT for weights that have
 * changed since the run was tuned, or meanwhile; ERR_LE_OPTION
 */
export async function certifyRun(
  folder: string,
  { model, run, notes }: OpenRun,
  options: CertifyRunOptions,
): Promise<CertifiedRun> {
  const hashes = await runHashes(folder);
  checkTunedWeights(run, hashes, folder);
  const score =
    options.score ?? gateScore({ gate: run.gate, chosen: chosenScore(run) }, run.method, model.headNames.length);
  const fitBefore = await fitHash(folder);
  const judge = { score, ...(run.gate && { gate: run.gate }) };
  const { cases, source } =
    options.from === "outcomes"
      ? await casesOfOutcomes(folder, predictorOf(hashes, model), score, options)
      : await casesOfFolder(model, notes, judge, options.from, options);
  const { promise } = options;
  const thresholds =
    promise.rule === "joint" ? undefined : await validationThresholds(model, run, notes, judge, options);
  const after = [await runHashes(folder), await fitHash(folder)];
  if (JSON.stringify(after) !== JSON.stringify([hashes, fitBefore])) throw changedMeanwhile(folder);
  const certification = certify(
    {
      confidence: cases.map(({ confidence }) => confidence),
      dice: cases.map(({ dice }) => dice),
      ...groupsOf(cases),
    },
    { ...promise, ...(thresholds && { thresholds }) },
  );
  const sets = options.sets === undefined ? undefined : fitSets(cases, options.sets);
  const found = { certification, score, ...(sets && { sets }) };
  if (!certification.certified) return found;
  const { certified: _, ...proved } = certification;
  const calibrated = calibratedFit(model.predictedDice.fit, cases, options);
  const predictedDice = calibrated && predictedDiceText(calibrated, run, hashes.weights);
  const ids = cases.map(({ id, content }) => [id, content]).sort(([a = ""], [b = ""]) => (a < b ? -1 : 1));
  const content = {
    ...{ ...proved, score, dice: WHICH_DICE, source, precision: model.precision, ...(sets && { sets }) },
    hashes: {
      ...hashes,
      cases: hashOf(ids),
      fit: predictedDice === undefined ? fitBefore : hashOfBytes(predictedDice),
    },
    calibration: calibrationOf(cases),
  };
  return { ...found, content, ...(predictedDice !== undefined && { predictedDice }) };
}

/** The fit with bounds of the cases; undefined where the run has none, or a bound would need more cases. */
function calibratedFit(
  fit: PredictedDiceFit | null,
  cases: readonly Case[],
  { onNote }: CertifyRunOptions,
): PredictedDiceFit | undefined {
  if (!fit) return undefined;
  const keep = (why: string) => onNote?.(`The bounds of predicted Dice stay as they were: ${why}.`);
  const known = cases.flatMap(({ ofFit, group }) =>
    ofFit ? [{ ...ofFit, ...(group !== undefined && { group }) }] : [],
  );
  if (known.length === 0) {
    keep("outcomes do not tell what the fit reads");
    return undefined;
  }
  const alpha = fit.overall.intervals?.alpha ?? 0.1;
  const calibrated = calibrateInterval(fit, known, { alpha });
  const bands = [calibrated.overall, ...Object.values(calibrated.perClass)].flatMap(
    ({ intervals }) => (intervals as DiceIntervals).bands,
  );
  const fewest = Math.min(...bands.map(({ cases, groups = cases }) => groups));
  if (bands.every(({ both }) => both !== null)) return calibrated;
  keep(
    `they need ${casesNeeded(alpha)} cases (groups) whose mask is not empty, of each class, and there are ${fewest}`,
  );
  return undefined;
}

/** What is watched of the cases, ascending; what only some of them have is left out. */
function calibrationOf(cases: readonly Case[]): CertificateContent["calibration"] {
  const names = Object.keys(cases[0]?.watched ?? {}) as ScoreName[];
  const lists = names.map((name) => [name, cases.flatMap(({ watched }) => watched[name] ?? [])] as const);
  const whole = lists.filter(([, values]) => values.length === cases.length);
  return Object.fromEntries(whole.map(([name, values]) => [name, values.sort((a, b) => a - b)]));
}

/** Of all cases: what is surely lesion is asked whether the gate accepts or not. */
function fitSets(cases: readonly Case[], alpha: number): PixelSetFit {
  return fitPixelSets(
    cases.map(({ risk }) => risk as SetRisk),
    { inner: alpha, outer: alpha, ...groupsOf(cases) },
  );
}

/** A case without a group is one of its own. */
function groupsOf(cases: readonly Case[]): { groups?: string[] } {
  if (cases.every(({ group }) => group === undefined)) return {};
  return { groups: cases.map(({ id, group }) => (group === undefined ? `case ${id}` : `group ${group}`)) };
}

/** How a prediction's confidence is read. */
interface Judge {
  score: ScoreName;
  /** The run's, of which all but score and threshold holds. */
  gate?: Gate;
}

async function casesOfFolder(
  model: Model,
  notes: RunNotes,
  judge: Judge,
  { data, split, labels, group }: Exclude<CertifyRunOptions["from"], "outcomes">,
  { sets, signal, onProgress, onNote }: CertifyRunOptions,
): Promise<{ cases: Case[]; source: CertificateContent["source"] }> {
  checkChoseNothing(data, split, notes);
  const dataset = await openFolder(data, notes, labels, { masks: "required" });
  checkThere(dataset, split, dataOf(notes, data));
  const seen = seenBy(notes);
  const contents = new Map<string, string>();
  const all = datasetItems(chooseSplit(dataset, split, dataOf(notes, data)), notes.ignoreIndex, (id, content) => {
    const other = seen.find(content);
    if (other) throw choseSomething(`image ${id} of "${split}" is ${other.id} of "${other.split}"`);
    if (content !== undefined) contents.set(id, content);
  });
  const items = await selectItems(all, data, { where: [], ...(group !== undefined && { group }) });
  const { fit } = model.predictedDice;
  const cases: Case[] = [];
  let leftOut = 0;
  for await (const result of infer(model, items, { signal })) {
    const perClass = classDice(result, model.classes, notes.ignoreIndex);
    const value = meanOfClasses(perClass);
    if (Number.isNaN(value)) leftOut++;
    else {
      const asked = gated(result.prediction, result.placement, notes);
      cases.push({
        id: result.id,
        confidence: acceptability(asked, judge.score, judge.gate),
        watched: watchedOf(asked, judge.score, judge.gate),
        dice: value,
        ...(result.group !== undefined && { group: result.group }),
        content: bytesOf(result, contents.get(result.id)),
        ...(sets !== undefined && { risk: riskOf(result, notes.ignoreIndex) }),
        ...(fit && { ofFit: { features: featuresFor(fit, result.prediction), dice: perClass } }),
      });
    }
    onProgress?.("calibration", cases.length + leftOut, items.length);
  }
  if (leftOut > 0) onNote?.(`${leftOut} of ${items.length} images are left out: no pixel of their truth counts.`);
  return { cases, source: { data: path.resolve(data), split, leftOut } };
}

/** A folder without calibration images is what everybody has at first: says how to come by them. */
function checkThere(dataset: Dataset, split: string, { drawn, folder }: RunNotes["data"]): void {
  const splits = drawn ? Object.keys(drawn) : Object.keys(dataset.splits);
  if (split === "all" || splits.some((name) => nameOf(name) === nameOf(split))) return;
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected calibration images, of the split "${split}" of ${folder}, but received the splits ${splits.join(", ")} alone: ` +
      "keep some images out of the training, or name a split that chose nothing, such as --split test; docs/guarantee.md has an example.",
  );
}

/** As `evaluate` has it. */
function classDice({ mask, truth }: Result, classes: number, ignoreIndex: number): Record<number, number> {
  if (!truth) throw new Error("unreachable: datasets for calibration require masks");
  return dice(mask, truth, { classes, ignoreIndex });
}

function riskOf({ probabilities, truth }: Result, ignoreIndex: number): SetRisk {
  return pixelSetRisk(probabilities, truth as NonNullable<typeof truth>, { ignoreIndex });
}

/** A hash of an image and its truth. @param content that of the stored image; an image of one value has none */
function bytesOf({ image, truth }: Result, content: string | undefined): string {
  const hash = createHash("sha256");
  if (content === undefined) hash.update(image.shape.join("×")).update(image.data);
  else hash.update(content);
  return hash.update(truth?.data ?? "").digest("hex");
}

async function casesOfOutcomes(
  folder: string,
  predictor: string,
  score: ScoreName,
  { onNote }: CertifyRunOptions,
): Promise<{ cases: Case[]; source: CertificateContent["source"] }> {
  const { outcomes, torn } = await readOutcomes(folder);
  if (torn > 0)
    onNote?.(`warning: ${torn} bytes at the end of the outcomes are no whole line: a process was stopped there`);
  const own: Outcome[] = [];
  const leftOut = new Map<string, number>();
  for (const outcome of outcomes) {
    const { name } = outcome.score;
    const other = predictedOtherwise(outcome, predictor) ?? (name === score ? undefined : `the score ${name}`);
    if (other === undefined) own.push(outcome);
    else leftOut.set(other, (leftOut.get(other) ?? 0) + 1);
  }
  const others = outcomes.length - own.length;
  if (others > 0) {
    const of = Array.from(leftOut, ([other, count]) => `${count} of ${other}`).join(", ");
    onNote?.(`warning: ${others} of ${outcomes.length} outcomes are left out: ${of}`);
  }
  const cases = own.map(({ id, dice, group, content, acceptable, score: { value }, watched }): Case => {
    const confidence = acceptable && value !== null ? value : Number.NEGATIVE_INFINITY;
    return {
      ...{ id, dice, confidence, content: content ?? "" },
      watched: { ...watched, [score]: Math.max(confidence, -Number.MAX_VALUE) },
      ...(group !== undefined && { group }),
    };
  });
  return { cases, source: { data: null, split: null, leftOut: others } };
}

/**
 * Thresholds to test: as `tune` stored them, else quantiles of the score on the images that the run was tuned, or validated, with.
 * @throws ERR_LE_DATA where there are none
 */
async function validationThresholds(
  model: Model,
  run: Run,
  notes: RunNotes,
  judge: Judge,
  { start = 0, signal, onProgress }: CertifyRunOptions,
): Promise<number[]> {
  const stored = (run.tuning as Partial<RunTuning> | undefined)?.thresholds?.[judge.score];
  if (stored) return fromStart(stored, start);
  const items = await validationItems(notes);
  const confidence: number[] = [];
  for await (const { prediction, placement } of infer(model, items, { signal })) {
    confidence.push(acceptability(gated(prediction, placement, notes), judge.score, judge.gate));
    onProgress?.("thresholds", confidence.length, items.length);
  }
  return fromStart(scoreThresholds(confidence), start);
}

/** Without those that accept less than a share; the last accepts all. */
function fromStart(thresholds: readonly number[], start: number): number[] {
  return thresholds.slice(Math.max(0, Math.ceil(start * thresholds.length - 1e-9) - 1));
}

async function validationItems(notes: RunNotes): Promise<Item[]> {
  const { tuned, folder, valSplit } = notes.data;
  const split = tuned?.split ?? valSplit;
  if (split === null)
    throw new LayerEnsemblesError(
      "ERR_LE_DATA",
      "Expected a run with a validation split, of which the thresholds are quantiles, but received one that was trained without: tune it on one (--data), or take the rule joint, which needs none.",
    );
  const data = tuned?.folder ?? folder;
  const { drawn } = dataOf(notes, data);
  const ids = drawn && new Set((Object.hasOwn(drawn, split) ? (drawn[split] as string[]) : []).map(nameOf));
  const dataset = await openFolder(
    data,
    notes,
    {},
    {
      masks: "optional",
      only: (info) => (ids ? ids.has(nameOf(info.id)) : split === "all" || nameOf(info.split ?? "") === nameOf(split)),
    },
  );
  return datasetItems(chooseSplit(dataset, split, dataOf(notes, data)), notes.ignoreIndex);
}

/**
 * Refuses images by what their split is called: those of the run's training, validation and tuning, or all of that folder.
 * @throws ERR_LE_DATA also where the run does not record what it has seen
 */
function checkChoseNothing(data: string, split: string, notes: RunNotes): void {
  const { trainSplit, valSplit, folder, tuned } = notes.data;
  const here = path.resolve(data);
  const chose = [
    ...(here === folder ? [trainSplit, valSplit ?? trainSplit] : []),
    ...(here === tuned?.folder ? [tuned.split] : []),
  ].map(nameOf);
  const name = nameOf(split);
  if (chose.includes(name) || (split === "all" && chose.length > 0))
    throw choseSomething(`"${split}" of ${data} is what it was trained on, chosen by or tuned on`);
  const { unknown } = seenBy(notes);
  if (unknown.length > 0)
    throw choseSomething(
      `it does not record what its images of ${unknown.map((one) => `"${one}"`).join(" and ")} show: train or tune it again`,
    );
}

function choseSomething(received: string): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected calibration images that chose nothing of the run but received others: ${received}.`,
  );
}

/** @throws ERR_LE_CHECKPOINT where the run says which weights were tuned, and they are others now */
function checkTunedWeights({ tuning }: Run, { weights }: RunHashes, folder: string): void {
  const tuned = (tuning as Partial<RunTuning> | undefined)?.weights;
  if (tuned === undefined || tuned === weights) return;
  throw new LayerEnsemblesError(
    "ERR_LE_CHECKPOINT",
    `Expected the weights that were tuned in ${folder} but received others: the run was trained since. Tune it again, then certify it.`,
  );
}

function changedMeanwhile(folder: string): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_CHECKPOINT",
    `Expected ${folder} to stay as it was while it was certified but received another run there: certify it again.`,
  );
}
