import { spawn } from "node:child_process";
import path from "node:path";
import { type ErrorCode, LayerEnsemblesError } from "../errors.js";
import type { DeviceFlags } from "../inference/device.js";
import { load } from "../native/load.js";
import { PACKAGE_ROOT } from "../package.js";

/** What the child is told. */
export interface RunTrial {
  folder: string;
  device: DeviceFlags;
}

/** What the child prints: nothing is wrong, or the error. */
export interface RunTrialReport {
  error?: { code: string; message: string };
}

/** MiB of objects that reading a run may take. */
const HEAP = 256;
const SECONDS = 120;

/**
 * Loads a run in a process of its own, and predicts once: what a damaged one does to a process, it does to that one.
 * @param signal Ends the trial.
 * @throws what loading it threw; ERR_LE_CHECKPOINT where the trial crashed or took too long
 */
export async function tryRun(trial: RunTrial, signal: AbortSignal): Promise<void> {
  const { libtorch } = load();
  const child = path.join(PACKAGE_ROOT, "dist/server/run-trial-child.js");
  const report = await new Promise<RunTrialReport | string>((resolve, reject) => {
    const started = spawn(process.execPath, [`--max-old-space-size=${HEAP}`, child], {
      stdio: ["pipe", "pipe", "ignore"],
      env: { ...process.env, LAYER_ENSEMBLES_LIBTORCH: libtorch.folder, NODE_OPTIONS: "" },
      timeout: SECONDS * 1000,
      killSignal: "SIGKILL",
      signal,
    });
    let out = "";
    started.stdout.setEncoding("utf8").on("data", (text) => {
      out += text;
    });
    started.stdin.on("error", () => {}); // a child that is gone; its exit says more
    started.stdin.end(JSON.stringify(trial));
    started.on("error", reject);
    started.on("close", (status, how) => {
      try {
        resolve(JSON.parse(out) as RunTrialReport);
      } catch {
        resolve(
          started.killed
            ? `took longer than ${SECONDS} seconds`
            : `ended its process (${how ?? `exit code ${status}`})`,
        );
      }
    });
  });
  if (typeof report === "string")
    throw new LayerEnsemblesError(
      "ERR_LE_CHECKPOINT",
      `Expected a sound run at ${trial.folder} but received one whose loading, in a trial, ${report}.`,
    );
  if (report.error) throw new LayerEnsemblesError(report.error.code as ErrorCode, report.error.message);
}
