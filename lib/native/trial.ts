import { spawn } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import path from "node:path";
import { type ErrorCode, LayerEnsemblesError } from "../errors.js";
import { PACKAGE_ROOT } from "../package.js";
import { load } from "./load.js";

/** What one reading of a model file in a trial may take. */
export interface TrialLimits {
  /** @default 10, and 10 more for each GB of the file */
  seconds?: number;
  /** Bytes of memory. @default 4 GB, and 4 times the file */
  memory?: number;
}

const GB = 1e9;
/** Files that came through, with what they were then. */
const passed = new Set<string>();

/** What the child prints: nothing is wrong, or the error. */
export interface TrialReport {
  error?: { code: string; message: string; cause?: string };
}

/**
 * Reads a model file in a process of its own first. libtorch's reader of TorchScript was not written for files that one
 * does not trust: a damaged one may end its process, never end, or take all memory. Each file is tried once per process.
 * @param config what the addon's `createBackbone` takes, with an absolute `file`
 * @throws what reading it threw; ERR_LE_CHECKPOINT where the trial crashed, or went over its limits; ERR_LE_IO where no
 *   process could be started
 */
export async function tryModel(
  config: Readonly<Record<string, unknown>> & { file: string },
  limits: TrialLimits = {},
): Promise<void> {
  const { size, mtimeMs, ino } = statSync(config.file);
  const seconds = limits.seconds ?? 10 * (1 + size / GB);
  // A sanitizer takes far more memory than what it watches.
  const lifted = process.env.LAYER_ENSEMBLES_TRIAL_MEMORY === "unlimited";
  const memory = limits.memory ?? (lifted ? Number.POSITIVE_INFINITY : 4 * GB + 4 * size);
  const key = JSON.stringify([config, size, mtimeMs, ino]);
  if (passed.has(key)) return;
  const child = path.join(PACKAGE_ROOT, "dist/native/trial-child.js");
  if (!existsSync(child))
    throw new LayerEnsemblesError("ERR_LE_IO", `Expected ${child} but received none. Fix: npm run build.`);
  const { libtorch } = load();
  const report = await new Promise<TrialReport | string>((resolve, reject) => {
    // Data segments only: V8 and libtorch reserve far more addresses than they use.
    const started = spawn(
      "/bin/sh",
      [
        "-c",
        'ulimit -d "$0"; ulimit -c 0; exec "$@"',
        memory === Number.POSITIVE_INFINITY ? "unlimited" : String(Math.ceil(memory / 1024)),
        process.execPath,
        child,
      ],
      {
        stdio: ["pipe", "pipe", "ignore"],
        env: { ...process.env, LAYER_ENSEMBLES_LIBTORCH: libtorch.folder, NODE_OPTIONS: "" },
        timeout: Math.ceil(seconds * 1000),
        killSignal: "SIGKILL",
      },
    );
    let out = "";
    started.stdout.setEncoding("utf8").on("data", (text) => {
      out += text;
    });
    started.stdin.on("error", () => {}); // a child that is gone; its exit says more
    started.stdin.end(JSON.stringify(config));
    started.on("error", (cause) =>
      reject(
        new LayerEnsemblesError(
          "ERR_LE_IO",
          `Expected a process in which to try ${config.file} but received: ${cause.message}. Fix: pass trust: true for a file of your own.`,
          { cause },
        ),
      ),
    );
    started.on("close", (status, signal) => {
      if (started.killed) return resolve(`took longer than ${Math.ceil(seconds)} seconds`);
      try {
        resolve(JSON.parse(out) as TrialReport);
      } catch {
        resolve(`ended its process (${signal ?? `exit code ${status}`}; it may use ${(memory / GB).toFixed(1)} GB)`);
      }
    });
  });
  if (typeof report === "string")
    throw new LayerEnsemblesError(
      "ERR_LE_CHECKPOINT",
      `Expected a sound TorchScript file at ${config.file} but received one whose reading, in a trial, ${report}.`,
    );
  if (report.error) {
    const { code, message, cause } = report.error;
    throw new LayerEnsemblesError(
      code as ErrorCode,
      message,
      cause === undefined ? undefined : { cause: new Error(cause) },
    );
  }
  passed.add(key);
}
