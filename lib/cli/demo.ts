import { existsSync, readdirSync } from "node:fs";
import { rm } from "node:fs/promises";
import path from "node:path";
import type { Command } from "commander";
import type { NdArray } from "../arrays.js";
import type { Dataset } from "../data/dataset.js";
import { writeAtomic } from "../data/files.js";
import type { LayerEnsemble } from "../ensemble/layer-ensemble.js";
import { LayerEnsemblesError } from "../errors.js";
import { type DeviceFlags, placement, setThreads } from "../inference/device.js";
import { duration } from "../results/format.js";
import type { RunNotes } from "../runs/notes.js";
import { integer, text, withOptions } from "./arguments.js";
import { newCommand, runSession, type Session, toJson } from "./command.js";
import { DEVICE } from "./device-options.js";
import { counter, StatusLine, trainingProgress } from "./progress.js";

interface Flags extends DeviceFlags {
  out: string;
  seed: number;
  images: number;
  epochs: number;
  json?: boolean;
}

const SIZE = 96;

/** The file by which a folder is known as the demo's own. */
const MARK = "demo.json";

/** `demo`: the whole path on images that it makes itself. */
export function demoCommand(): Command {
  const command = newCommand(
    "demo",
    "train on made-up images in at most two minutes and show the result as a page",
    "layer-ensembles demo --out demo-output",
    "The images hold bright and faint, sharp and blurred lesions, and some that cannot be seen.",
  )
    .option("--out <dir>", "folder for the images, the run and the page", text, "demo-output")
    .option("--seed <n>", "seed of the images and the training", integer({ min: 0 }), 0)
    .option("--images <n>", "number of images", integer({ min: 40 }), 240)
    .option("--epochs <n>", "epochs of training", integer({ min: 1 }), 20);
  return withOptions(command, DEVICE).action((flags: Flags) =>
    runSession(flags.json ?? false, (session) => demo(flags, session)),
  );
}

async function demo(flags: Flags, session: Session): Promise<void> {
  const { checkOutput } = await import("./output.js");
  checkOutput(flags.out, "--out");
  // An earlier demo is replaced; anything else is the user's own.
  if (existsSync(flags.out) && readdirSync(flags.out).length > 0 && !existsSync(path.join(flags.out, MARK)))
    throw new LayerEnsemblesError(
      "ERR_LE_IO",
      `Expected a new or empty folder for --out, or an earlier demo's, but received ${flags.out}, which holds other files.`,
    );
  setThreads(flags);
  const { loadAddon } = await import("../native/load.js");
  await loadAddon(); // before anything is written: without it there is nothing to show
  const { withFolder } = await import("../native/folder-lock.js");
  await withFolder(flags.out, () => makeDemo(flags, session));
}

async function makeDemo(flags: Flags, session: Session): Promise<void> {
  const { Dataset } = await import("../data/dataset.js");
  const { writePhantoms } = await import("../data/phantoms.js");
  const { Backbone } = await import("../ensemble/backbone.js");
  const { LayerEnsemble } = await import("../ensemble/layer-ensemble.js");
  const folders = { data: path.join(flags.out, "data"), run: path.join(flags.out, "run") };
  const line = new StatusLine(process.stderr);
  const { signal } = session;

  session.note(`making ${flags.images} phantom images in ${folders.data}`);
  for (const folder of Object.values(folders)) await rm(folder, { recursive: true, force: true });
  await writeAtomic(
    path.join(flags.out, MARK),
    toJson({ seed: flags.seed, images: flags.images, epochs: flags.epochs }),
  );
  const phantoms = await writePhantoms(folders.data, { count: flags.images, size: SIZE, seed: flags.seed });
  const difficulty = new Map(phantoms.map((phantom) => [phantom.id, phantom.difficulty]));
  const dataset = await Dataset.fromFolder(folders.data, { size: SIZE, classes: ["background", "lesion"] });

  const started = performance.now();
  const backbone = await Backbone.create("plain-unet", {
    inChannels: 1,
    classes: 2,
    width: 12,
    depth: 4,
    seed: flags.seed,
  });
  try {
    const model = await LayerEnsemble.create(backbone, {
      classes: 2,
      inputSize: [SIZE, SIZE],
      seed: flags.seed,
      precision: "fp32", // faster than bf16 for so few channels
      ...placement(flags),
    });
    try {
      session.note(`training ${model.heads.length} heads on ${model.device} in ${model.precision}`);
      const history = await model.fit(dataset.split("train"), {
        validation: dataset.split("val"),
        epochs: flags.epochs,
        learningRate: 4e-3,
        seed: flags.seed,
        run: folders.run,
        signal,
        onProgress: trainingProgress(line),
        notes: { ...notesOf(dataset, folders.data) },
      });
      line.clear();
      const trained = duration((performance.now() - started) / 1000);
      const made = `plain U-Net with ${model.heads.length} heads, ${history.epochs.length} epochs in ${trained}`;
      await show(model, dataset.split("test"), difficulty, `${made} on ${model.device}`, flags, line, session);
    } finally {
      line.clear();
      await model.dispose();
    }
  } finally {
    await backbone.dispose();
  }
}

/** So that `predict` and `evaluate` work with the demo's run, too. */
function notesOf(dataset: Dataset, folder: string): RunNotes {
  return {
    preprocessing: dataset.preprocessing,
    classNames: dataset.classNames,
    ignoreIndex: dataset.ignoreIndex,
    labels: dataset.labels,
    data: { folder: path.resolve(folder), trainSplit: "train", valSplit: "val", drawn: null },
    options: {},
  };
}

async function show(
  model: LayerEnsemble,
  test: Dataset,
  difficulty: ReadonlyMap<string, string>,
  made: string,
  flags: Flags,
  line: StatusLine,
  session: Session,
): Promise<void> {
  const { demoPage } = await import("../report/demo-page.js");
  const { describeImages, describeSummary } = await import("../study/tables.js");
  const { summarise } = await import("../study/summary.js");
  const { commonUnits, scoredClasses, scoreImage } = await import("../study/records.js");
  const { datasetItems, infer } = await import("../inference/inference.js");
  const scored = scoredClasses(undefined, test.classNames);
  const scores = [];
  const images = [];
  let heads: string[] = [];
  const tell = counter(line, "predicting", test.length);
  for await (const result of infer(model, datasetItems(test), { labels: true, signal: session.signal })) {
    const score = scoreImage(result, { classes: model.classes, scored, ignoreIndex: test.ignoreIndex });
    heads = result.prediction.heads;
    scores.push(score);
    const { entropy } = result.maps;
    images.push({
      id: result.id,
      difficulty: difficulty.get(result.id) ?? "unknown",
      dice: score.dice ?? Number.NaN,
      aula: score.aula ?? 0,
      agreements: result.prediction.aula?.agreements[1] ?? [],
      image: result.image,
      truth: result.truth as NdArray<Uint8Array>,
      prediction: result.mask,
      ...(entropy && { entropy }),
      ...(result.labels && { labels: result.labels }),
    });
    tell(scores.length);
  }
  line.clear();
  scores.sort((a, b) => (a.aula ?? 0) - (b.aula ?? 0));
  const evaluated = { classNames: test.classNames, scored, heads, units: commonUnits(scores) };
  const summary = summarise(scores, evaluated);
  const spearman = summary.spearmanWithDice.aula?.rho ?? Number.NaN;
  const page = path.resolve(flags.out, "index.html");
  await writeAtomic(page, await demoPage({ images, heads, classes: model.classes, spearman, notes: [made] }));
  await session.print(
    session.json
      ? toJson({ page, run: path.resolve(flags.out, "run"), ...summary, scores }, 2)
      : `${describeImages(scores, evaluated)}\n${describeSummary(summary)}\n${made}.\nOpen ${page}\n`,
  );
}
