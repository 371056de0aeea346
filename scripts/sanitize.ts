// Builds the C++ tests with AddressSanitizer and UndefinedBehaviorSanitizer in build-sanitize, and runs them.
//   npm run sanitize [-- <part of a test's name>]
import { spawnSync } from "node:child_process";
import path from "node:path";
import { PACKAGE_ROOT } from "../lib/native/package.js";
import { cmake, main, Progress, provideLibtorch, requireTools } from "./build.js";

await main(async () => {
  requireTools();
  const progress = new Progress(3);
  progress.next("libtorch");
  const libtorch = await provideLibtorch(progress);
  progress.next("C++ tests with sanitizers");
  const folder = path.join(PACKAGE_ROOT, "build-sanitize");
  await cmake(
    folder,
    { LIBTORCH: libtorch.folder, LE_SANITIZE: "address", CMAKE_BUILD_TYPE: "RelWithDebInfo" },
    progress,
  );
  progress.next("run");
  const env = {
    ...process.env,
    // libtorch keeps memory of its own until the process ends; what is checked is use, not leaks at exit.
    ASAN_OPTIONS: process.env.ASAN_OPTIONS ?? "detect_leaks=0:strict_string_checks=1:check_initialization_order=1",
    UBSAN_OPTIONS: process.env.UBSAN_OPTIONS ?? "print_stacktrace=1",
    OMP_WAIT_POLICY: "passive",
  };
  const tests = spawnSync(path.join(folder, "core_tests"), process.argv.slice(2), { env, stdio: "inherit" });
  if (tests.signal) process.stdout.write(`Killed by ${tests.signal}\n`);
  return tests.status ?? 1;
});
