// Makes what a package carries for this platform: prebuilds/<platform>-<arch>/layer-ensembles.<libc>.node with preload.node
// and the version of the libtorch that they were built for. Needs a build.
//   npm run prebuild
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { PACKAGE_ROOT } from "../lib/package.js";
import { BuildError, build, main } from "./build.js";
import { checkSymbols } from "./check-symbols.js";

const prebuildify: (options: object) => Promise<void> = promisify(createRequire(import.meta.url)("prebuildify"));

/** The oldest Node.js that is supported; a Node-API addon built for it serves all later ones. */
const OLDEST_NODE = "20.9.0";

/** Fills the folder of this platform from the build, and gives its path. @throws BuildError */
export async function prebuild(): Promise<string> {
  const folder = path.join(PACKAGE_ROOT, "prebuilds", `${process.platform}-${process.arch}`);
  const work = path.join(PACKAGE_ROOT, "build", "prebuild");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  const strip = process.platform !== "win32";
  await prebuildify({
    cwd: work,
    out: PACKAGE_ROOT,
    name: "layer-ensembles",
    napi: true,
    targets: [`node@${OLDEST_NODE}`],
    tagLibc: process.platform === "linux",
    strip,
    nodeGyp: `"${process.execPath}" "${path.join(PACKAGE_ROOT, "scripts", "prebuild-shim.mjs")}"`,
    shell: true,
  });
  // In a folder of its own, where node-gyp-build does not take it for the addon.
  const preload = path.join(folder, "preload", "preload.node");
  mkdirSync(path.dirname(preload));
  copyFileSync(path.join(PACKAGE_ROOT, "build", "preload", "preload.node"), preload);
  if (strip && spawnSync("strip", process.platform === "darwin" ? ["-Sx", preload] : [preload]).status !== 0)
    throw new BuildError(`Failed: strip ${preload}`);
  copyFileSync(path.join(PACKAGE_ROOT, "build", "Release", "build-info.json"), path.join(folder, "build-info.json"));
  const addons = readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".node"))
    .map((file) => path.join(folder, file));
  for (const file of addons)
    process.stderr.write(`${path.relative(PACKAGE_ROOT, file)}: ${(statSync(file).size / 1e6).toFixed(2)} MB\n`);
  if (process.platform === "linux") checkSymbols(addons);
  return folder;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  await main(async () => {
    await build();
    await prebuild();
    return 0;
  });
}
