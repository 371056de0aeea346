import path from "node:path";
import type { DeviceFlags } from "../inference/device.js";
import { openRun } from "../inference/inference.js";
import type { RunNotes } from "../runs/notes.js";
import type { RunPredictedDice } from "../runs/predicted-dice.js";
import type { Run } from "../runs/run.js";
import { chosenScore } from "../runs/tuning.js";
import { checkGate, type Gate, gateScore } from "../scores/gate.js";
import type { ScoreName } from "../scores/scores.js";
import type { ServedCertificate } from "./certificate.js";
import { PredictionQueue, type Predictor, type QueueOptions } from "./queue.js";

/** How a run is loaded. */
export interface ServedModelOptions {
  /** Where it runs, in which numbers and on how many threads. */
  device: DeviceFlags;
  queue: QueueOptions;
  /** In place of the run's own; null for none. */
  gate?: Gate | null;
}

/** One loaded state of a run; a reload makes a new one. */
export interface ServedModel {
  /** The name it is asked for by. */
  readonly name: string;
  /** Absolute path of the run. */
  readonly folder: string;
  /** Counts the loads of this name, from 1. */
  readonly version: number;
  /** How its training prepared images, and its classes. */
  readonly notes: RunNotes;
  /** Its run.json. */
  readonly run: Run;
  /** Numbers in which it runs. */
  readonly precision: "fp32" | "bf16";
  /** 2 for images, 3 for volumes. */
  readonly spatialAxes: 2 | 3;
  /** From which score on a person should look; undefined without one. */
  readonly gate: Gate | undefined;
  /** The score that its gate asks, or would. */
  readonly score: ScoreName;
  /** How the Dice of its masks is predicted, or why it is not. */
  readonly predictedDice: RunPredictedDice;
  /** Tells outcomes of this state of the run from those of others; undefined where none are taken. */
  readonly predictor?: string;
  /** What is promised of what is accepted, and whether it holds. */
  readonly certificate: ServedCertificate;
  /** Where its images wait. */
  readonly queue: PredictionQueue;
  /** Finishes what was accepted, then frees the model. */
  close(): Promise<void>;
}

/** A run as it was loaded, before its certificate is looked at. */
export type LoadedModel = Omit<ServedModel, "certificate" | "predictor">;

/**
 * Loads a run and predicts once, so that the first request is not the slow one.
 * @throws ERR_LE_CHECKPOINT, ERR_LE_OPTION for a gate that is none
 */
export async function loadModel(
  name: string,
  folder: string,
  version: number,
  options: ServedModelOptions,
): Promise<LoadedModel> {
  const { model, run, notes } = await openRun(folder, options.device);
  const size = notes.preprocessing.size ?? run.ensemble.inputSize;
  let gate: Gate | undefined;
  try {
    gate = gateOf(run.gate && checkGate(run.gate), options.gate);
    await warmUp(model, [notes.preprocessing.channels, ...size]);
  } catch (error) {
    await model.dispose();
    throw error;
  }
  const queue = new PredictionQueue(model, options.queue);
  let closing: Promise<void> | undefined;
  return {
    name,
    folder: path.resolve(folder),
    version,
    notes,
    run,
    precision: model.precision,
    spatialAxes: model.backbone.spatialAxes,
    gate,
    score: gateScore({ gate, chosen: chosenScore(run) }, run.method, model.headNames.length),
    predictedDice: model.predictedDice,
    queue,
    close() {
      closing ??= queue.close().then(() => model.dispose());
      return closing;
    },
  };
}

async function warmUp(model: Predictor, shape: readonly number[]): Promise<void> {
  const count = shape.reduce((product, side) => product * side, 1);
  await model.predict([{ data: new Float32Array(count), shape }], { maps: [] });
}

/** The gate in force. One that was given asks for a score; what the run's asks of the distance holds beside it. */
function gateOf(own: Gate | undefined, given: Gate | null | undefined): Gate | undefined {
  if (given === null) return undefined;
  return given ? { ...(own?.distance && { distance: own.distance }), ...given } : own;
}
