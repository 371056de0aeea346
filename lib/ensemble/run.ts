import path from "node:path";
import { isMissing, readText, writeAtomic } from "../data/files.js";
import { LayerEnsemblesError } from "../errors.js";
import { METHODS, type MethodName } from "./methods.js";
import type { PredictionFusion } from "./model.js";

/** Version of run.json's layout. */
const FORMAT = 1;
/** No run.json is as long; what is longer would take memory before it could be refused. */
const MAX_BYTES = 2 ** 26;

/** The files of a run folder. */
export const RUN_FILES = {
  run: "run.json",
  weights: "weights.safetensors",
  state: "state.safetensors",
  history: "history.csv",
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
  gate?: {
    /** Name of the score: see {@link GATE_SCORES}. */
    score: string;
    /** Images below it are to be looked at. */
    threshold: number;
    /** How the threshold was chosen, for the record. */
    rule: string;
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
 * @throws ERR_LE_CHECKPOINT where it is missing, cut short or of a later format
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
  let run: Run;
  try {
    run = JSON.parse(text) as Run;
  } catch (cause) {
    throw new LayerEnsemblesError("ERR_LE_CHECKPOINT", `Expected JSON in ${file} but received a damaged file.`, {
      cause,
    });
  }
  const sound =
    typeof run === "object" &&
    run !== null &&
    typeof run.backbone === "object" &&
    Array.isArray(run.ensemble?.taps) &&
    Number.isInteger(run.ensemble?.classes);
  if (!sound)
    throw new LayerEnsemblesError(
      "ERR_LE_CHECKPOINT",
      `Expected a run's description in ${file} but received other JSON.`,
    );
  if (run.format !== FORMAT)
    throw new LayerEnsemblesError(
      "ERR_LE_CHECKPOINT",
      `Expected format ${FORMAT} in ${file} but received ${run.format}: use the version of layer-ensembles that wrote it.`,
    );
  const { method = "le" } = run;
  if (!METHODS.includes(method))
    throw new LayerEnsemblesError(
      "ERR_LE_CHECKPOINT",
      `Expected one of ${METHODS.join(", ")} for the method in ${file} but received ${JSON.stringify(method)}.`,
    );
  return { ...run, method, notes: run.notes ?? {}, skip: run.skip ?? 0 };
}

/** Writes run.json, atomically; the folder is made. @throws ERR_LE_IO */
export async function writeRun(folder: string, run: Omit<Run, "format">): Promise<void> {
  await writeAtomic(path.join(folder, RUN_FILES.run), `${JSON.stringify({ format: FORMAT, ...run }, null, 2)}\n`);
}
