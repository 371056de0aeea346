// Builds what is out of date, then runs the C++ tests and the TypeScript tests.
//   npm test [-- <names or files, given to vitest; leaves out the C++ tests>]
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import path from "node:path";
import { PACKAGE_ROOT } from "../lib/package.js";
import { build, main } from "./build.js";

await main(async () => {
  const libtorch = await build();
  const filters = process.argv.slice(2);
  const env = {
    ...process.env,
    // The tests use the libtorch that was built against.
    LAYER_ENSEMBLES_LIBTORCH: libtorch.folder,
    OMP_WAIT_POLICY: process.env.OMP_WAIT_POLICY ?? "passive",
  };
  const results: [string, boolean][] = [];
  const run = (title: string, command: string, args: string[]) => {
    process.stdout.write(`\n${title}\n`);
    const result = spawnSync(command, args, { cwd: PACKAGE_ROOT, env, stdio: "inherit" });
    if (result.signal) process.stdout.write(`${title}: killed by ${result.signal}\n`);
    results.push([title, result.status === 0]);
  };
  if (filters.length === 0) run("C++ tests", path.join(PACKAGE_ROOT, "build", "core_tests"), []);
  const vitest = path.join(path.dirname(createRequire(import.meta.url).resolve("vitest/package.json")), "vitest.mjs");
  run("TypeScript tests", process.execPath, [vitest, "run", ...filters]);
  const failed = results.filter(([, passed]) => !passed);
  const summary = results.map(([title, passed]) => `${title} ${passed ? "passed" : "FAILED"}`).join(", ");
  process.stdout.write(`\n${failed.length ? "FAILED" : "OK"}: ${summary}.\n`);
  return failed.length ? 1 : 0;
});
