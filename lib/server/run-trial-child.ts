/** The process of a trial: see run-trial.ts. Loads a run, predicts once, and prints whether that went well. */
import { writeSync } from "node:fs";
import { text } from "node:stream/consumers";
import type { RunTrial, RunTrialReport } from "./run-trial.js";
import { loadModel } from "./served-model.js";

async function tryLoad(): Promise<RunTrialReport> {
  try {
    const { folder, device } = JSON.parse(await text(process.stdin)) as RunTrial;
    await loadModel("trial", folder, 1, { device, queue: {} });
    return {};
  } catch (error) {
    const { code, message } = error as Error & { code?: unknown };
    const known = typeof code === "string" && code.startsWith("ERR_LE_");
    return { error: { code: known ? code : "ERR_LE_CHECKPOINT", message } };
  }
}

tryLoad().then((report) => {
  writeSync(1, JSON.stringify(report));
  // At once: nothing that was made is worth taking apart.
  process.kill(process.pid, "SIGKILL");
});
