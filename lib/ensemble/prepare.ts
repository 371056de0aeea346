// What is found out about a machine before it trains: which numbers are faster, and which of libtorch's kernels are wrong.
import { createHash } from "node:crypto";
import type { Addon, Handle, RawKernel } from "../native/addon.js";
import { takeDetours, tryKernels } from "../native/kernels.js";
import { MachineMemory, machineFile } from "../native/machine-memory.js";
import { callNative } from "./call.js";
import type { PreparedEvent } from "./training.js";

/** How much faster than float32 a step must be for bfloat16 to be worth its rounding. */
const WORTH = 0.9;

/** A training that is about to begin. */
export interface Preparation {
  addon: Addon;
  /** The network. */
  handle: Handle;
  training: Handle;
  validation: Handle | null;
  /** As `fit` of the addon takes them. */
  settings: object;
  /** Whether the faster numbers are to be found; else `precision` it is. */
  choose: boolean;
  precision: "fp32" | "bf16";
  /** Whether kernels are tried. */
  check: boolean;
  /** Beside its convolutions, what tells this network from another. */
  network: unknown;
}

interface StepSeconds {
  fp32: number;
  bf16: number;
}

const isStepSeconds = (value: unknown): value is StepSeconds =>
  Object(value) === value &&
  Number.isFinite((value as StepSeconds).fp32) &&
  Number.isFinite((value as StepSeconds).bf16);

/**
 * Checks the kernels that a training on the CPU will use, and then times a step in each precision where that is to be
 * chosen: a wrong kernel may end the process, so it is not timed before. Both are done once on a machine.
 * @throws as `fit` for a training that cannot begin; ERR_LE_LIBTORCH_BROKEN; `signal.reason`
 */
export async function prepare(
  given: Preparation,
  signal: AbortSignal,
  onProgress: (done: number, of: number) => void,
): Promise<PreparedEvent> {
  const { addon, handle, training, validation, settings, choose, precision, check } = given;
  // Tests train some thousand networks of a few weights.
  if (process.env.LAYER_ENSEMBLES_PREPARE_TRAINING === "off" || !(choose || check))
    return { type: "prepared", precision, stepSeconds: null, kernels: null };
  const kernelsIn = (numbers: "fp32" | "bf16") =>
    callNative(addon, signal, (control) =>
      addon.trainingKernels(handle, training, validation, settings, numbers, control),
    );
  const own = await kernelsIn(precision);
  const inFloat = choose ? await kernelsIn("fp32") : own;
  const all = choose ? [...own, ...inFloat] : own;
  const trial = check ? await tryKernels(all, { signal, onProgress }) : null;
  if (check) takeDetours(all); // before any is timed
  const prepared = (
    numbers: "fp32" | "bf16",
    used: RawKernel[],
    stepSeconds: StepSeconds | null = null,
  ): PreparedEvent => ({
    type: "prepared",
    precision: numbers,
    stepSeconds,
    kernels: trial && { kernels: used.length, detours: takeDetours(used), ...trial },
  });
  if (!choose) return prepared(precision, own);

  const memory = new MachineMemory(machineFile("steps"), isStepSeconds);
  const what = JSON.stringify([given.network, own.map(({ call }) => call)]);
  const key = createHash("sha256").update(what).digest("hex");
  let seconds = memory.get(key);
  if (!seconds) {
    seconds = await callNative(addon, signal, (control) =>
      addon.timeSteps(handle, training, validation, settings, control),
    );
    memory.set(key, seconds);
  }
  return seconds.bf16 < WORTH * seconds.fp32 ? prepared("bf16", own, seconds) : prepared("fp32", inFloat, seconds);
}
