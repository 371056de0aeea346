import type { Command } from "commander";
import { newCommand, runSession, toJson } from "./command.js";

/** `doctor`: what was found of libtorch, the addon and the devices, and how to fix what is missing. */
export function doctorCommand(): Command {
  return newCommand(
    "doctor",
    "show what was found of libtorch, the addon and the devices",
    "layer-ensembles doctor",
    "The exit code is 1 where training cannot run.",
  ).action((flags: { json?: boolean }) =>
    runSession(flags.json ?? false, async ({ json, print }) => {
      const { doctor, formatDiagnosis } = await import("../native/doctor.js");
      const diagnosis = doctor();
      await print(json ? toJson(diagnosis, 2) : `${formatDiagnosis(diagnosis).trimEnd()}\n`);
      if (!diagnosis.ok) process.exitCode = 1;
    }),
  );
}
