/** The process of a trial: see trial.ts. Reads one model file, and prints whether that went well. */
import { writeSync } from "node:fs";
import { text } from "node:stream/consumers";
import { load } from "./load.js";
import type { TrialReport } from "./trial.js";

async function tryRead(): Promise<TrialReport> {
  try {
    const config = JSON.parse(await text(process.stdin)) as object;
    const { addon } = load();
    const { ready } = addon.createBackbone(config);
    await ready;
    return {};
  } catch (error) {
    const { code, message, detail } = error as Error & { code?: unknown; detail?: unknown };
    return {
      error: {
        code: typeof code === "string" && code.startsWith("ERR_LE_") ? code : "ERR_LE_CHECKPOINT",
        message,
        ...(typeof detail === "string" && { cause: detail }),
      },
    };
  }
}

tryRead().then((report) => {
  writeSync(1, JSON.stringify(report));
  // At once: nothing that the file made is worth taking apart.
  process.kill(process.pid, "SIGKILL");
});
