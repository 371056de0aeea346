import { join } from "node:path";
import { writeAtomic } from "../../data/files.js";
import type { Comparison } from "../../results/comparison.js";
import { comparisonFigures, rasterise } from "../figures/index.js";
import { comparisonPage } from "./page.js";

/**
 * Writes `report.html`, `figures/NAME.svg` and `figures/NAME.png` into a folder, which is made if missing.
 * @returns the paths, relative to the folder
 * @throws ERR_LE_IO
 */
export async function writeReport(comparison: Comparison, folder: string): Promise<string[]> {
  const figures = await comparisonFigures(comparison);
  const written: string[] = [];
  const write = async (path: string, content: string | Uint8Array) => {
    await writeAtomic(join(folder, path), content);
    written.push(path);
  };
  for (const { name, svg } of figures) {
    await write(join("figures", `${name}.svg`), svg);
    await write(join("figures", `${name}.png`), await rasterise(svg));
  }
  await write("report.html", comparisonPage(comparison, figures));
  return written;
}
