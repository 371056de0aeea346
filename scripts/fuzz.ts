// Feeds damaged copies of the fixtures to the readers of files, each for a share of the time; see native/fuzz.
//   npm run fuzz -- [--minutes 30] [--seed 1] [--kind weights] [--sanitize]
// What failed is left in build-fuzz/failures; the exit code is then 1.
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { PACKAGE_ROOT } from "../lib/native/package.js";
import { BuildError, cmake, main, Progress, provideLibtorch, requireTools } from "./build.js";

/** Which fixtures are examples of which kind, by the end of their names. */
const KINDS = {
  safetensors: [".safetensors"],
  weights: [".pth", ".pt", ".safetensors"],
  exported: [".pt2"],
  torchscript: [".pt"],
} as const;
type Kind = keyof typeof KINDS;

await main(async () => {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string", default: "30" },
      seed: { type: "string", default: "1" },
      kind: { type: "string" },
      sanitize: { type: "boolean", default: false },
    },
  });
  const kinds = Object.keys(KINDS).filter((kind) => (values.kind ?? kind) === kind) as Kind[];
  const seconds = (Number(values.minutes) * 60) / kinds.length;
  if (!(seconds > 0 && seconds < Number.POSITIVE_INFINITY) || !/^\d+$/.test(values.seed))
    throw new BuildError(
      `Expected --minutes above 0, --seed a whole number, --kind one of ${Object.keys(KINDS).join(", ")}.`,
    );
  requireTools();
  const progress = new Progress(2 + kinds.length);
  progress.next("libtorch");
  const libtorch = await provideLibtorch(progress);
  progress.next("fuzzer");
  const folder = path.join(PACKAGE_ROOT, values.sanitize ? "build-fuzz-sanitize" : "build-fuzz");
  const sanitize: Record<string, string> = values.sanitize
    ? { LE_SANITIZE: "ON", CMAKE_BUILD_TYPE: "RelWithDebInfo" }
    : {};
  await cmake(folder, { LIBTORCH: libtorch.folder, LE_FUZZ: "ON", LE_TESTS: "OFF", ...sanitize }, progress);

  const failures = path.join(folder, "failures");
  rmSync(failures, { recursive: true, force: true });
  const env = { ...process.env, OMP_WAIT_POLICY: "passive", ASAN_OPTIONS: "detect_leaks=0" };
  let failed = false;
  for (const kind of kinds) {
    progress.next(kind);
    const corpus = path.join(folder, "corpus", kind);
    if (collect(kind, corpus) === 0) {
      progress.detail(`no fixture ends in ${KINDS[kind].join(" or ")}: left out`);
      continue;
    }
    const args = [kind, corpus, String(seconds), values.seed, failures];
    const { status, signal } = spawnSync(path.join(folder, "reader_fuzz"), args, { env, stdio: "inherit" });
    if (signal) process.stdout.write(`Killed by ${signal}\n`);
    failed ||= status !== 0;
  }
  if (failed) process.stdout.write(`Failures are in ${failures}\n`);
  return failed ? 1 : 0;
});

/** Copies the fixtures of a kind into an empty folder; gives their number. */
function collect(kind: Kind, folder: string): number {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const fixtures = path.join(PACKAGE_ROOT, "test/fixtures");
  const files = readdirSync(fixtures, { recursive: true, encoding: "utf8" }).filter((name) =>
    KINDS[kind].some((end) => name.endsWith(end)),
  );
  for (const name of files) copyFileSync(path.join(fixtures, name), path.join(folder, name.replaceAll(path.sep, "-")));
  return files.length;
}
