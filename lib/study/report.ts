import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Comparison } from "./results.js";

/**
 * Writes report.html and figures/ of a comparison, where this package has what makes them.
 * @returns the files written, relative to `out`
 */
export async function writeReport(comparison: Comparison, out: string): Promise<string[]> {
  const module = new URL("../report/report.js", import.meta.url);
  if (!existsSync(fileURLToPath(module))) return [];
  const report = (await import(module.href)) as { writeReport(of: Comparison, out: string): Promise<string[]> };
  return report.writeReport(comparison, out);
}
