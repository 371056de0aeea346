// Builds with sanitizers and runs what is tested: the C++ tests, and the addon in Node.js with the tests of the boundary.
//   npm run sanitize [-- <part of the name of a C++ test>]   AddressSanitizer and UndefinedBehaviorSanitizer
//   npm run sanitize -- --thread                             ThreadSanitizer: what threads share (jobs, allocator)
import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import path from "node:path";
import { parseArgs } from "node:util";
import { findTools } from "../lib/native/tools.js";
import { PACKAGE_ROOT } from "../lib/package.js";
import { BuildError, build, cmake, main, Progress, provideLibtorch, requireTools } from "./build.js";

const require = createRequire(import.meta.url);

/** The tests that run the addon, beside those of memory: a sanitizer takes memory of its own. */
const TESTS = ["test/native", "test/process/lifecycle.test.ts"];

await main(async () => {
  const { values, positionals } = parseArgs({
    options: { thread: { type: "boolean", default: false } },
    allowPositionals: true,
  });
  return values.thread ? await underThreadSanitizer(positionals) : await underAddressSanitizer(positionals);
});

async function underAddressSanitizer(filters: string[]): Promise<number> {
  const all = filters.length === 0;
  // Where the whole is to be run: the TypeScript of the addon's tests.
  if (all) await build();
  requireTools();
  const progress = new Progress(all ? 4 : 3);
  progress.next("libtorch");
  const libtorch = await provideLibtorch(progress);
  progress.next("addon and C++ tests with sanitizers");
  const folder = path.join(PACKAGE_ROOT, "build-sanitize", "build"); // as node-gyp-build wants it
  const settings = { LE_SANITIZE: "address", CMAKE_BUILD_TYPE: "RelWithDebInfo" };
  const headers = { CMAKE_JS_INC: require("node-api-headers").include_dir };
  await cmake(folder, { LIBTORCH: libtorch.folder, ...headers, ...settings }, progress);
  progress.next("C++ tests");
  const env = {
    ...process.env,
    // libtorch keeps memory of its own until the process ends; what is checked is use, not leaks at exit.
    ASAN_OPTIONS:
      process.env.ASAN_OPTIONS ??
      "detect_leaks=0:strict_string_checks=1:check_initialization_order=1:allocator_may_return_null=1",
    UBSAN_OPTIONS: process.env.UBSAN_OPTIONS ?? "print_stacktrace=1",
    OMP_WAIT_POLICY: "passive",
  };
  const core = execute(path.join(folder, "core_tests"), filters, env);
  if (!all) return core;
  progress.next("addon");
  const vitest = path.join(path.dirname(require.resolve("vitest/package.json")), "vitest.mjs");
  const addon = execute(process.execPath, [vitest, "run", "--testTimeout", "600000", ...TESTS], {
    ...env,
    LAYER_ENSEMBLES_LIBTORCH: libtorch.folder,
    LAYER_ENSEMBLES_TRIAL_MEMORY: "unlimited",
    // Where node-gyp-build looks first.
    LAYER_ENSEMBLES_PREBUILD: path.dirname(folder),
    // Node.js itself has none.
    LD_PRELOAD: sanitizerLibrary("asan"),
  });
  return core || addon;
}

async function underThreadSanitizer(filters: string[]): Promise<number> {
  requireTools();
  const progress = new Progress(3);
  progress.next("libtorch");
  const libtorch = await provideLibtorch(progress);
  progress.next("tests of what threads share");
  const folder = path.join(PACKAGE_ROOT, "build-sanitize-thread");
  const settings = { LIBTORCH: libtorch.folder, LE_SANITIZE: "thread", CMAKE_BUILD_TYPE: "RelWithDebInfo" };
  await cmake(folder, settings, progress, "thread_tests");
  progress.next("run");
  return execute(path.join(folder, "thread_tests"), filters, {
    ...process.env,
    TSAN_OPTIONS: process.env.TSAN_OPTIONS ?? "second_deadlock_stack=1:allocator_may_return_null=1",
    OMP_WAIT_POLICY: "passive",
  });
}

function execute(command: string, args: string[], env: NodeJS.ProcessEnv): number {
  const { status, signal } = spawnSync(command, args, { cwd: PACKAGE_ROOT, env, stdio: "inherit" });
  if (signal) process.stdout.write(`Killed by ${signal}\n`);
  return status ?? 1;
}

/** The compiler's own sanitizer library, for LD_PRELOAD. */
function sanitizerLibrary(name: string): string {
  const compiler = findTools().compiler.path ?? "c++";
  const file = spawnSync(compiler, [`-print-file-name=lib${name}.so`], { encoding: "utf8" }).stdout?.trim() ?? "";
  if (!path.isAbsolute(file)) throw new BuildError(`Expected lib${name}.so of ${compiler} but received none.`);
  return file;
}
