import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { type ErrorCode, LayerEnsemblesError } from "../errors.js";
import type { AddonFiles } from "./load.js";
import { cure, type Libtorch, libraryName, userCache } from "./locate.js";

/** What loading in a child process showed. */
export interface Trial {
  /** The addon's `info()`; null where it did not load. */
  readonly info: Record<string, unknown> | null;
  readonly cudaProblem: string | null;
  /** `ERR_LE_IO` where no child process could be started, so that nothing is known. */
  readonly code: ErrorCode;
  /** Why it did not load. */
  readonly problem: string | null;
}

/** Plain CommonJS, so that it runs the same from a checkout and from the package. */
const TRIAL = `
const [preloadFile, addonFile, cuda, ...libraries] = process.argv.slice(1);
const preload = require(preloadFile);
let cudaProblem = null;
for (const file of libraries) preload.open(file);
if (cuda) try { preload.open(cuda); } catch (error) { cudaProblem = error.message; }
const addon = require(addonFile);
console.log(JSON.stringify({ info: addon.info ? addon.info() : {}, cudaProblem }));
`;

/**
 * Loads everything in a child process, with every symbol looked up at once: a library that crashes must not take the caller
 * with it.
 */
export function tryLoading(files: AddonFiles, libtorch: Libtorch): Trial {
  const library = (name: string) => path.join(libtorch.folder, "lib", libraryName(name));
  const cuda = existsSync(library("torch_cuda")) ? library("torch_cuda") : "";
  const libraries = [library("c10"), library("torch_cpu")];
  const child = spawnSync(process.execPath, ["-e", TRIAL, files.preload, files.addon, cuda, ...libraries], {
    encoding: "utf8",
    timeout: 120_000,
    env: {
      ...process.env,
      OMP_WAIT_POLICY: process.env.OMP_WAIT_POLICY ?? "passive",
      NODE_OPTIONS: "",
      ELECTRON_RUN_AS_NODE: "1",
      LD_BIND_NOW: "1",
    },
  });
  const failed = { info: null, cudaProblem: null };
  const refusal = child.error as NodeJS.ErrnoException | undefined;
  if (refusal && refusal.code !== "ETIMEDOUT") {
    const problem = `Expected a process in which to try libtorch but received: ${refusal.message}. Fix: allow child processes.`;
    return { ...failed, code: "ERR_LE_IO", problem };
  }
  try {
    if (child.status === 0) {
      const { info, cudaProblem } = JSON.parse(child.stdout.trim().split("\n").pop() ?? "");
      return { info, cudaProblem, code: "ERR_LE_INTERNAL", problem: null };
    }
  } catch {}
  const stderr = (child.stderr ?? "").trim();
  const said = /^(?:\w*Error): (.*)$/m.exec(stderr)?.[1] ?? stderr.split("\n").pop();
  const how = child.signal ? `it was killed by ${child.signal}` : said || `exit code ${child.status}`;
  const problem = `Expected libtorch in ${libtorch.folder} and the addon ${files.addon} to load but received: ${how}.`;
  if (how.startsWith(files.addon)) {
    const fix = "Fix: npm run build in a checkout, or install the package again.";
    return { ...failed, code: "ERR_LE_ADDON_NOT_FOUND", problem: `${problem} ${fix}` };
  }
  return { ...failed, code: "ERR_LE_LIBTORCH_BROKEN", problem: `${problem} ${cure()}` };
}

/**
 * Makes sure that a libtorch loads, in a child process the first time that it is seen, so that a bad one cannot end this
 * process. One that loaded is remembered in the user cache, by the path, size and time of its files and the addon's: later it
 * costs a few file look-ups. Where no child process can be started it passes untried.
 * @throws LayerEnsemblesError `ERR_LE_LIBTORCH_BROKEN` or `ERR_LE_ADDON_NOT_FOUND`
 */
export function requireLoadable(files: AddonFiles, libtorch: Libtorch): void {
  const mark = path.join(userCache(), "tried", fingerprint(files, libtorch));
  if (existsSync(mark)) return;
  const { code, problem } = tryLoading(files, libtorch);
  if (problem && code !== "ERR_LE_IO") throw new LayerEnsemblesError(code, problem);
  if (problem) return;
  try {
    mkdirSync(path.dirname(mark), { recursive: true });
    writeFileSync(mark, `${libtorch.folder}\n`);
  } catch {
    // A cache that cannot be written costs another trial.
  }
}

/** Changes where any of the files does, and with the system, which may share its home folder with another. */
function fingerprint(files: AddonFiles, libtorch: Libtorch): string {
  const lib = path.join(libtorch.folder, "lib");
  const libraries = readdirSync(lib).filter((name) => /^lib(?:c10|torch|gomp|omp|iomp)/.test(name));
  const hash = createHash("sha256").update(`${process.version} ${process.arch} ${os.release()}\n`);
  for (const file of [files.addon, files.preload, ...libraries.sort().map((name) => path.join(lib, name))]) {
    const { size, mtimeMs } = statSync(file);
    hash.update(`${file} ${size} ${mtimeMs}\n`);
  }
  return hash.digest("hex");
}
