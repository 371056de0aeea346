import path from "node:path";
import type { Command } from "commander";
import { readText } from "../data/files.js";
import { parseJson } from "../data/json.js";
import { LayerEnsemblesError } from "../errors.js";
import type { Comparison } from "../results/comparison.js";
import { newCommand, runSession, type Session } from "./command.js";
import { tellResults, writeResults } from "./compare.js";

/** `report`: the tables and the page of a comparison, made again from its results.json. */
export function reportCommand(): Command {
  const command = newCommand(
    "report",
    "make the tables, figures and page of a comparison again from its results.json",
    "layer-ensembles report comparison",
  ).argument("<folder>", "what compare wrote");
  return command.action((folder: string, flags: { json?: boolean }) =>
    runSession(flags.json ?? false, (session) => report(folder, session)),
  );
}

async function report(folder: string, session: Session): Promise<void> {
  const { comparison, text } = await readResults(path.join(folder, "results.json"));
  await tellResults(comparison, folder, await writeResults(comparison, folder, true, text), session);
}

async function readResults(file: string): Promise<{ comparison: Comparison; text: string }> {
  let received: string;
  try {
    const text = await readText(file, 2 ** 29);
    const comparison = parseJson(text) as Partial<Comparison> | null;
    if (comparison?.format === 2 && Array.isArray(comparison.methods))
      return { comparison: comparison as Comparison, text };
    const format = comparison?.format as unknown;
    received = format === 1 ? "those of an earlier version: run compare again" : "other JSON";
  } catch (error) {
    received = error instanceof Error ? error.message : String(error);
  }
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected the results of a comparison in ${file} but received ${received}.`,
  );
}
