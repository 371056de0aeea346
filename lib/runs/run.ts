import { existsSync } from "node:fs";
import { rm, stat } from "node:fs/promises";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import { isMissing, readText, writeAtomic } from "../data/files.js";
import { parseJson } from "../data/json.js";
import { SEEN_IMAGES } from "../data/leaks.js";
import { LayerEnsemblesError } from "../errors.js";
import { PREDICTION_FUSIONS, type PredictionFusion } from "../fusion/index.js";
import { checkFields, checkOptions, type OptionSpecs, option } from "../options.js";
import { PACKAGE_VERSION } from "../package.js";
import { GATE, type Gate } from "../scores/gate.js";
import { SCORE_NAMES } from "../scores/scores.js";
import { METHODS, type MethodName, MOST_PASSES } from "./methods.js";
import { RUN_TILES, type RunTiles } from "./tiles.js";

/** Version of run.json's layout. */
const FORMAT = 1;
/** No run.json is as long; what is longer would take memory before it could be refused. */
const MAX_BYTES = 2 ** 26;

/** Of the dummy image that finds the heads' sizes. */
const MOST_PIXELS = 2 ** 25;

/** The files of a run folder. */
export const RUN_FILES = {
  run: "run.json",
  weights: "weights.safetensors",
  state: "state.safetensors",
  history: "history.csv",
  /** How its masks' Dice is predicted. */
  predictedDice: "predicted-dice.json",
  /** What `tune` learned of the training's images, before the ending with a part of its hash: see {@link RunShift}. */
  shift: "shift.safetensors",
  /** What is promised of its gate: see {@link Certificate}. */
  certificate: "certificate.json",
  /** Cases that were looked at after they were served: see {@link Outcome}. */
  outcomes: "outcomes.jsonl",
  /** Where the alarm over its stream stands, and who began it anew: see {@link AlarmRecord}. */
  alarm: "alarm",
  /** There while files of a whole run are replaced, one after the other. */
  replacing: ".replacing",
} as const;

/** The copy of a network that came from a file, by kind. */
export const MODEL_FILES = { torchscript: "backbone.pt", exported: "backbone.pt2" } as const;

/** What run.json says: all that loading a model needs beside its weights, and how it came to be. */
export interface Run {
  /** Version of run.json's layout; 1. */
  format: number;
  /** Versions that wrote it. */
  versions: Record<string, string>;
  /** Left out by versions that knew layer ensembles alone. */
  method: MethodName;
  /** Deep ensembles: how many networks; each has a run folder of its own in `members/1`, `members/2`, … */
  members?: number;
  /** Monte Carlo dropout: passes of each image. */
  passes?: number;
  /** {@link Backbone.config}; `file` is relative to the run's folder. */
  backbone: Record<string, unknown>;
  /** Options of the ensemble; `taps` in head order. */
  ensemble: {
    /** Names of the tapped layers, in depth order. */
    taps: string[];
    /** Number of classes with background. */
    classes: number;
    /** Whether the network's own output is the last head. */
    final: boolean;
    /** Before each head's convolution, 0 to below 1. */
    dropout: number;
    /** Whether the heads alone were trained. */
    freezeBackbone: boolean;
    /** Spatial size of the image of the probe: [H, W] or [D, H, W]. */
    inputSize: number[];
    /** Seed of the heads' initial weights. */
    seed: number;
    /** Multi-head: heads of different first weights on the tap. */
    headsPerTap?: number;
  };
  /** First heads left out of predictions, unless a call says otherwise. */
  skip: number;
  /** By which tiles images are predicted unless a call says otherwise, of a training on patches; absent: each in one pass. */
  tiles?: RunTiles;
  /** How heads are fused unless a call says otherwise; chosen on validation. */
  prediction?: {
    /** How heads are fused. @default "mean" */
    fusion?: PredictionFusion;
    /** Names of the kept heads, instead of `skip`. */
    heads?: string[];
    /** One per kept head. */
    weights?: number[];
    /** τ of each kept head. */
    temperatures?: number[];
    /** τ of the fused probabilities. */
    temperature?: number;
  };
  /** Images whose score is below the threshold are to be looked at; chosen on validation. */
  gate?: Gate;
  /** The fit of what the training's images look like, in a file whose name has a part of its hash. */
  shift?: {
    /** Hexadecimal. */
    hash: string;
  };
  /** How prediction and gate were chosen. */
  tuning?: Record<string, unknown>;
  /** Options of training, as given. */
  training?: Record<string, unknown>;
  /** Caller's facts: preprocessing, class names, where the data came from. */
  notes: Record<string, unknown>;
}

/**
 * Reads a run folder's run.json.
 * @throws ERR_LE_CHECKPOINT where it is missing, cut short damaged, or of a later format
 */
export async function readRun(folder: string): Promise<Run> {
  const file = path.join(folder, RUN_FILES.run);
  let text: string;
  try {
    text = await readText(file, MAX_BYTES);
  } catch (cause) {
    const what = isMissing(cause) ? "no such file" : String(cause);
    throw new LayerEnsemblesError(
      "ERR_LE_CHECKPOINT",
      `Expected a run's ${RUN_FILES.run} at ${file} but received ${what}.`,
      {
        cause,
      },
    );
  }
  let run: unknown;
  try {
    run = parseJson(text);
  } catch (cause) {
    throw damagedRun(file, (cause as Error).message, cause);
  }
  const { format } = (run ?? {}) as Partial<Run>;
  if (typeof format === "number" && format !== FORMAT)
    throw new LayerEnsemblesError(
      "ERR_LE_CHECKPOINT",
      `Expected format ${FORMAT} in ${file} but received ${format}: use the version of layer-ensembles that wrote it.`,
    );
  const checked = described(file, () => checkRun(run as Run));
  await checkWeightsHold(folder, checked.backbone, file);
  return checked;
}

/** What each field of run.json may be. Fields that are not named are kept as they are. */
const RUN: OptionSpecs = {
  format: option.required(option.oneOf([FORMAT])),
  versions: option.record(option.string({ empty: true })),
  method: option.oneOf(METHODS),
  members: option.integer({ min: 1, max: 1000 }),
  passes: option.integer({ min: 1, max: MOST_PASSES }),
  backbone: option.required(option.custom("an object", isObject)),
  ensemble: option.required(option.custom("an object", isObject)),
  skip: option.integer({ min: 0, max: 1_000_000 }),
  tiles: option.object(RUN_TILES),
  prediction: option.custom("an object", isObject),
  gate: option.custom("an object", isObject),
  shift: option.object({ hash: option.required(option.sha256()) }),
  tuning: option.custom("an object", isObject),
  training: option.custom("an object", isObject),
  notes: option.custom("an object", isObject),
};

const seed = option.integer({ min: 0 });
const ENSEMBLE: OptionSpecs = {
  taps: option.required(option.array(option.string())),
  classes: option.required(option.integer({ min: 2, max: 255 })),
  final: option.required(option.boolean()),
  dropout: option.required(option.number({ min: 0, below: 1 })),
  freezeBackbone: option.required(option.boolean()),
  inputSize: option.required(
    option.custom(
      `two or three integers from 1 to 65536 of a product of at most ${MOST_PIXELS}`,
      (value) =>
        option.array(option.integer({ min: 1, max: 65536 })).accepts(value) &&
        [2, 3].includes((value as number[]).length) &&
        (value as number[]).reduce((product, side) => product * side, 1) <= MOST_PIXELS,
    ),
  ),
  seed,
  headsPerTap: option.integer({ min: 1, max: 1000 }),
};

const PREDICTION: OptionSpecs = {
  fusion: option.oneOf(PREDICTION_FUSIONS),
  heads: option.array(option.string(), { min: 1 }),
  weights: option.array(option.number({ min: 0 }), { min: 1 }),
  temperatures: option.array(option.number({ above: 0 }), { min: 1 }),
  temperature: option.number({ above: 0 }),
};

/** What of a training its predictions repeat. */
const TRAINING: OptionSpecs = { precision: option.oneOf(["auto", "fp32", "bf16"]), channelsLast: option.boolean() };

const TUNING: OptionSpecs = {
  data: option.string(),
  split: option.string(),
  contents: SEEN_IMAGES,
  curve: option.array(option.custom("an object", isObject)),
  weights: option.string(),
  thresholds: option.record(option.array(option.number())),
  score: option.custom("an object", isObject),
};
const CHOSEN_SCORE: OptionSpecs = { name: option.required(option.oneOf(SCORE_NAMES)) };
const CURVE_POINT: OptionSpecs = {
  skip: option.required(option.integer({ min: 0 })),
  ...Object.fromEntries(
    ["nll", "nllSd", "dice", "diceSd", "aurc"].map((name) => [name, option.orNull(option.number())]),
  ),
};

/** A value of a network's configuration: its own maker knows which. */
const setting = option.anyOf(option.string({ empty: true }), option.number(), option.boolean(), option.oneOf([null]));
const NETWORK = option.record(
  option.anyOf(setting, option.array(option.anyOf(setting, option.array(setting))), option.record(setting)),
);

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** @throws ERR_LE_OPTION that names the field */
function checkRun(value: Run): Run {
  const run = checkFields("the run", value, RUN);
  checkOptions("the run", { backbone: run.backbone }, { backbone: NETWORK });
  const { file } = run.backbone;
  if (file !== undefined)
    checkOptions(
      "'backbone'",
      { file },
      {
        file: option.custom(
          "the name of a file in the run's folder",
          (name) => typeof name === "string" && name !== "" && !/[/\\\0]/.test(name) && name !== "." && name !== "..",
        ),
      },
    );
  const { prediction, gate, tuning, training } = run;
  if (tuning) {
    const { curve = [], score } = checkFields("'tuning'", tuning, TUNING) as { curve?: object[]; score?: object };
    for (const point of curve) checkFields("'curve' of 'tuning'", point, CURVE_POINT);
    if (score) checkFields("'score' of 'tuning'", score, CHOSEN_SCORE);
  }
  if (training) checkFields("'training'", training, TRAINING);
  return {
    ...run,
    method: run.method ?? "le",
    ensemble: checkFields("'ensemble'", run.ensemble, ENSEMBLE),
    skip: run.skip ?? 0,
    ...(prediction && { prediction: checkFields("'prediction'", prediction, PREDICTION) }),
    ...(gate && { gate: checkFields("'gate'", gate, GATE) }),
    notes: run.notes ?? {},
  };
}

/**
 * Refuses sizes of a network that its weights cannot have, before memory is taken for them: layers of c channels have at
 * least c² weights.
 */
async function checkWeightsHold(folder: string, backbone: Record<string, unknown>, file: string): Promise<void> {
  const weights = path.join(folder, RUN_FILES.weights);
  const info = await stat(weights).catch(() => null);
  const { width = 0, depth = 4, decoderChannels = [], segmentationChannels = 0, inChannels = 1 } = backbone;
  const channels = [(width as number) * 2 ** ((depth as number) - 1), decoderChannels, segmentationChannels].flat();
  const widest = Math.max(...(channels as number[]), Math.sqrt(inChannels as number));
  const most = info ? info.size / 4 : 2 ** 32;
  if (widest ** 2 <= most) return;
  const size = info ? `the ${info.size} bytes of ${weights}` : "any weights";
  throw damagedRun(file, `a network of ${widest} channels, which ${size} cannot hold`);
}

/**
 * Checks that the heads, weights and temperatures that tuning chose are those of the model.
 * @param names of all heads
 * @throws ERR_LE_CHECKPOINT
 */
export function checkPrediction({ prediction = {}, skip }: Run, names: readonly string[], folder: string): void {
  const { heads = names.slice(skip), ...lists } = prediction;
  described(path.join(folder, RUN_FILES.run), () =>
    checkOptions(
      "'prediction'",
      { heads, weights: lists.weights, temperatures: lists.temperatures },
      {
        heads: option.custom(
          `different heads of ${names.slice(0, 20).join(", ")}`,
          (value) => new Set(value as string[]).size === heads.length && heads.every((name) => names.includes(name)),
        ),
        weights: option.custom(
          `${heads.length} numbers that are not all 0`,
          (value) => (value as number[]).length === heads.length && (value as number[]).some((weight) => weight > 0),
        ),
        temperatures: option.array(option.number({ above: 0 }), { length: heads.length }),
      },
    ),
  );
}

/**
 * Work that takes values of a run's files for what they should be.
 * @throws ERR_LE_CHECKPOINT that names the file, for ERR_LE_OPTION of the work
 */
export function described<T>(file: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw asDamaged(file, error);
  }
}

/** ERR_LE_OPTION, ERR_LE_TAP and ERR_LE_SHAPE of what a file says, as ERR_LE_CHECKPOINT of that file. */
export function asDamaged(file: string, error: unknown): unknown {
  const { code, message } = error as LayerEnsemblesError;
  return ["ERR_LE_OPTION", "ERR_LE_TAP", "ERR_LE_SHAPE"].includes(code) ? damagedRun(file, message, error) : error;
}

function damagedRun(file: string, received: string, cause?: unknown): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_CHECKPOINT",
    `Expected a run's description in ${file} but received one that is damaged: ${received.replace(/\.$/, "")}.`,
    { cause },
  );
}

/** What a tuning chose. */
export type Tuned = Pick<Run, "prediction" | "gate" | "shift" | "tuning">;

/** What run.json says of a tuning, if there was one. */
export function tunedOf({ prediction, gate, shift, tuning }: Partial<Run> = {}): Tuned {
  return {
    ...(prediction && { prediction }),
    ...(gate && { gate }),
    ...(shift && { shift }),
    ...(tuning && { tuning }),
  };
}

/** What is written again of a run beside what its model knows by itself: fields of later versions and of others too. */
export function keptOf({ prediction, gate, shift, tuning, ...run }: Partial<Run> = {}, tuned: Tuned): Partial<Run> {
  return { ...run, ...tuned };
}

/** What a model, or a command, says of a run. */
export type RunContent = Omit<Run, "format" | "versions">;

/** Writes run.json, atomically; the folder is made. @throws ERR_LE_IO */
export async function writeRun(folder: string, run: RunContent, libtorch?: string): Promise<void> {
  const versions = { "layer-ensembles": PACKAGE_VERSION, ...(libtorch && { libtorch }), node: process.version };
  await writeAtomic(
    path.join(folder, RUN_FILES.run),
    `${JSON.stringify({ format: FORMAT, ...run, versions }, null, 2)}\n`,
  );
}

/**
 * Writes a run of several files into a folder that may hold another: who opens it meanwhile waits, and who opens what a killed
 * process has left is told.
 * @param writes write all files but run.json, one after another; each leaves the old one or the new
 * @throws ERR_LE_IO; the folder holds what it did where the first could not be written, else it is known as half replaced
 */
export async function replaceRun(
  folder: string,
  writes: readonly (() => Promise<void>)[],
  writeDescription: () => Promise<void>,
): Promise<void> {
  const marker = path.join(folder, RUN_FILES.replacing);
  await writeAtomic(marker, "");
  let isHalf = false;
  try {
    for (const write of writes) {
      await write();
      isHalf = true;
    }
    await writeDescription();
    isHalf = false;
  } finally {
    if (!isHalf) await rm(marker, { force: true });
  }
}

/** How long a run that is replaced is waited for. */
const PATIENCE = { tries: 200, milliseconds: 20 };

/**
 * Makes something of a run folder as it is at one time: where the folder is replaced meanwhile, it is made again.
 * @param make of what run.json says, which is read once
 * @throws what `make` throws; ERR_LE_CHECKPOINT for a folder that is no run, or stays half replaced
 */
export async function ofOneState<T extends { dispose(): Promise<void> }>(
  folder: string,
  make: (run: Run) => Promise<T>,
): Promise<T> {
  for (let tries = 1; ; tries++) {
    const before = await stateOf(folder);
    try {
      if (before === null) throw halfReplaced(folder);
      const made = await make(await readRun(folder));
      if ((await stateOf(folder)) === before) return made;
      await made.dispose();
      throw halfReplaced(folder);
    } catch (error) {
      const isWhole = before !== null && (await stateOf(folder)) === before;
      if (isWhole || tries === PATIENCE.tries) throw error;
    }
    await setTimeout(PATIENCE.milliseconds);
  }
}

/** Tells one run.json from another; null while a run is replaced. */
async function stateOf(folder: string): Promise<string | null> {
  const found = await stat(path.join(folder, RUN_FILES.run), { bigint: true }).catch(() => undefined);
  if (existsSync(path.join(folder, RUN_FILES.replacing))) return null;
  return found ? `${found.ino} ${found.mtimeNs} ${found.size}` : "none";
}

function halfReplaced(folder: string): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_CHECKPOINT",
    `Expected a whole run in ${folder} but received one of which some files are replaced and others not: wait for what writes it, or save it again where that was stopped.`,
  );
}
