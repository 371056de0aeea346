// Feeds damaged copies of the fixtures to the readers of files, each for a share of the time; see native/fuzz.
//   npm run fuzz -- [--minutes 30] [--seed 1] [--kind weights] [--sanitize]
// What failed is left in build-fuzz/failures; the exit code is then 1.
//
// With --api it calls the JavaScript API instead, in random order and with arguments that lie, run code and take memory away:
// one child process for each seed, which must end by itself, in time and with the exit code that it announced.
//   npm run fuzz -- --api [--minutes 30] [--seed 1]
// A process that failed is repeated by its seed: node --expose-gc native/fuzz/api_fuzz.mjs . SEED 60
//
// With --volumes damaged NIfTI, NRRD, MetaImage, NumPy and DICOM files go through readVolume, a thousand in each child process:
//   npm run fuzz -- --volumes [--minutes 30] [--seed 1]
// A process that failed is repeated by its seed: node --import tsx scripts/fuzz-volumes.ts SEED 1000
import { spawn, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { PACKAGE_ROOT } from "../lib/package.js";
import { BuildError, build, cmake, main, Progress, provideLibtorch, requireTools } from "./build.js";

/** Which fixtures are examples of which kind, by the end of their names. */
const KINDS = {
  safetensors: [".safetensors"],
  weights: [".pth", ".pt", ".safetensors"],
  exported: [".pt2"],
  torchscript: [".pt"],
} as const;
type Kind = keyof typeof KINDS;

/** Seconds after which a child process counts as hanging. It works for one or two on an idle machine. */
const HANGS_AFTER = 120;
/** Bytes of data that a child process may take. */
const MEMORY = 8e9;

await main(async () => {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string", default: "30" },
      seed: { type: "string", default: "1" },
      kind: { type: "string" },
      sanitize: { type: "boolean", default: false },
      api: { type: "boolean", default: false },
      volumes: { type: "boolean", default: false },
    },
  });
  const [minutes, first] = [Number(values.minutes), Number(values.seed)];
  if (values.volumes) return inChildren(minutes, first, (seed) => fuzzOnce(volumesOf(seed), process.env));
  if (values.api) return fuzzApi(minutes, first);
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
    ? { LE_SANITIZE: "address", CMAKE_BUILD_TYPE: "RelWithDebInfo" }
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

/** The JavaScript API in child processes; gives the exit code. */
async function fuzzApi(minutes: number, first: number): Promise<number> {
  const libtorch = await build();
  const folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-fuzz-"));
  const env = {
    ...process.env,
    LAYER_ENSEMBLES_LIBTORCH: libtorch.folder,
    OMP_WAIT_POLICY: "passive",
    OMP_NUM_THREADS: "2",
    TMPDIR: folder,
  };
  const script = path.join(PACKAGE_ROOT, "native/fuzz/api_fuzz.mjs");
  const own = (seed: number) => ["--expose-gc", "--max-old-space-size=1024", script, PACKAGE_ROOT, String(seed), "60"];
  try {
    return await inChildren(minutes, first, (seed) => fuzzOnce(own(seed), env));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** What Node is to run for damaged volumes. */
function volumesOf(seed: number): string[] {
  const script = path.join(PACKAGE_ROOT, "scripts/fuzz-volumes.ts");
  return ["--import", "tsx", "--max-old-space-size=1024", script, String(seed), "1000"];
}

/** Runs child processes, each with the next seed, until the time is over; gives the exit code. */
async function inChildren(minutes: number, first: number, once: (seed: number) => Promise<string>): Promise<number> {
  if (!(minutes > 0 && minutes < Number.POSITIVE_INFINITY) || !Number.isSafeInteger(first))
    throw new BuildError("Expected --minutes above 0 and --seed a whole number.");
  const end = performance.now() + minutes * 60_000;
  let seed = first;
  let failed = 0;
  for (; performance.now() < end; seed++) {
    const problem = await once(seed);
    if (problem) {
      failed++;
      process.stdout.write(`seed ${seed}: ${problem}\n`);
    }
    if ((seed - first) % 50 === 49) process.stderr.write(`${seed - first + 1} processes, ${failed} failed\n`);
  }
  process.stdout.write(`${seed - first} processes (seeds ${first} to ${seed - 1}), ${failed} failed\n`);
  return failed > 0 ? 1 : 0;
}

/** What was wrong with one child process; empty where nothing was. */
function fuzzOnce(args: readonly string[], env: NodeJS.ProcessEnv): Promise<string> {
  const limit = 'ulimit -d "$0"; ulimit -c 0; exec "$@"';
  const node = [process.execPath, ...args];
  return new Promise((resolve, reject) => {
    const child = spawn("/bin/sh", ["-c", limit, String(MEMORY / 1024), ...node], {
      env,
      stdio: ["ignore", "pipe", "pipe"],
      timeout: HANGS_AFTER * 1000,
      killSignal: "SIGKILL",
    });
    let out = "";
    let errors = "";
    child.stdout.setEncoding("utf8").on("data", (text) => {
      out += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text) => {
      errors = (errors + text).slice(-3000);
    });
    child.on("error", reject);
    child.on("close", (code, signal) => {
      const wrong = out.split("\n").filter((line) => line.startsWith("WRONG"));
      const announced = Number(/^end with (\d+)$/m.exec(out)?.[1]);
      if (child.killed) wrong.push(`did not end in ${HANGS_AFTER} seconds`);
      else if (signal) wrong.push(`killed by ${signal}: ${errors}`);
      else if (code !== announced) wrong.push(`ended with ${code}, not ${announced}: ${errors}`);
      resolve(wrong.join("\n"));
    });
  });
}
