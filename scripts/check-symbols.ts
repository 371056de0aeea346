// Checks that native files load on glibc 2.28 with the libstdc++ of GCC 8, whatever they were compiled on.
//   npx tsx scripts/check-symbols.ts [files; by default the addons in prebuilds/]
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { PACKAGE_ROOT } from "../lib/package.js";
import { BuildError, main } from "./build.js";

/** The newest version of each library's symbols that may be needed: what libtorch's own builds keep to. */
const NEWEST: Record<string, string> = {
  GLIBC: "2.28",
  GLIBCXX: "3.4.25",
  CXXABI: "1.3.11",
  GCC: "7.0.0",
};

/** What one file needs of the system's libraries. */
export interface Needs {
  /** By library: the newest version that is needed. */
  newest: Record<string, string>;
  /** The symbols above the limits, such as `fstat@GLIBC_2.33`. */
  exceeding: string[];
}

/** Reads the versions of the symbols that a Linux shared library needs. */
export function symbolNeeds(file: string): Needs {
  const result = spawnSync("readelf", ["--wide", "--dyn-syms", file], { encoding: "utf8", maxBuffer: 2 ** 28 });
  if (result.status !== 0)
    throw new BuildError(`Expected readelf (binutils) to read ${file} but received: ${result.error ?? result.stderr}`);
  const needs: Needs = { newest: {}, exceeding: [] };
  for (const [, symbol = "", library = "", version = ""] of result.stdout.matchAll(/UND (\S+)@([A-Z]+)_(\d[\d.]*)/g)) {
    const limit = NEWEST[library];
    if (!limit || compare(version, needs.newest[library] ?? "0") > 0) needs.newest[library] = version;
    if (!limit || compare(version, limit) > 0) needs.exceeding.push(`${symbol}@${library}_${version}`);
  }
  return needs;
}

function compare(a: string, b: string): number {
  return a.localeCompare(b, "en", { numeric: true });
}

/** All `.node` files below a folder. */
function addonsIn(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".node"))
    .map((file) => path.join(folder, file));
}

/** Prints what each file needs. @throws BuildError where one needs more than is allowed */
export function checkSymbols(files: readonly string[]): void {
  const wrong: string[] = [];
  for (const file of files) {
    const { newest, exceeding } = symbolNeeds(file);
    const text = Object.entries(newest).map(([library, version]) => `${library}_${version}`);
    process.stderr.write(`${path.relative(PACKAGE_ROOT, file)} needs ${text.join(", ")}\n`);
    wrong.push(...exceeding.map((symbol) => `  ${path.basename(file)}: ${symbol}`));
  }
  if (wrong.length === 0) return;
  const limits = Object.entries(NEWEST).map(([library, version]) => `${library}_${version}`);
  throw new BuildError(
    `Expected no symbol newer than ${limits.join(", ")} but received:\n${wrong.join("\n")}\n` +
      "Fix: an older version of it in native/glibc.c, or a build on an older system (manylinux_2_28).",
  );
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  await main(async () => {
    const named = process.argv.slice(2);
    const files = named.length ? named : addonsIn(path.join(PACKAGE_ROOT, "prebuilds"));
    if (files.length === 0)
      throw new BuildError("Expected files, or addons in prebuilds/, but received none. Fix: npm run prebuild.");
    checkSymbols(files);
    return 0;
  });
}
