// What prebuildify calls instead of node-gyp: maps `rebuild --target=… --arch=… --release` to cmake-js, which brings the build
// folder of `npm run build` up to date, and leaves a copy of the addon where prebuildify looks for it. A copy: prebuildify
// strips the file and moves it away.
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const cmakeJs = createRequire(import.meta.url).resolve("cmake-js/bin/cmake-js");
const args = ["build", "--directory", root, "--target", "layer_ensembles", "--log-level", "error"];
const { status } = spawnSync(process.execPath, [cmakeJs, ...args], { stdio: ["ignore", "ignore", "inherit"] });
if (status !== 0) process.exit(status ?? 1);
mkdirSync("build/Release", { recursive: true });
copyFileSync(path.join(root, "build/Release/layer-ensembles.node"), "build/Release/layer-ensembles.node");
