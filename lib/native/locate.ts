import { spawnSync } from "node:child_process";
import { closeSync, existsSync, fstatSync, readdirSync, readSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { openRegularSync, readTextSync } from "../data/files.js";
import { type ErrorCode, LayerEnsemblesError } from "../errors.js";
import { PACKAGE_ROOT } from "../package.js";
import { LIBTORCH_VERSION } from "./package.js";

/** A usable libtorch: a folder with `lib/`, and with `include/` where it can be built against. */
export interface Libtorch {
  /** Absolute path of the folder that holds `lib/`. */
  readonly folder: string;
  /** Full version without the flavour, such as `2.13.0`. */
  readonly version: string;
  /** `cpu`, `cu130`, …; `cpu` where the folder does not say and holds no CUDA library. */
  readonly flavour: string;
  /** True where `include/` is there too. */
  readonly headers: boolean;
  /** Which step of the search found it. */
  readonly source: string;
}

/** One step of the search that gave nothing. */
export interface Miss {
  readonly source: string;
  /** The folder looked at, or null where the step names none. */
  readonly folder: string | null;
  /** One of the libtorch codes of {@link ErrorCode}. */
  readonly code: ErrorCode;
  /** What was wrong, as the end of a sentence: "is not set", "holds no lib/libtorch_cpu.so". */
  readonly reason: string;
}

/** What a search gave: the first usable libtorch, or null, and every step that gave none before it. */
export interface Search {
  readonly found: Libtorch | null;
  readonly misses: readonly Miss[];
}

/** Where and for what to search. */
export interface SearchOptions {
  /** `configure({ libtorch })`: a folder, or `"python"` for the torch of the active Python. */
  readonly libtorch?: string | undefined;
  /** The version whose major.minor must match. @default LIBTORCH_VERSION */
  readonly version?: string | undefined;
  /** Only this flavour. @default any, CUDA before cpu */
  readonly flavour?: string | undefined;
  /** Whether `include/` must be there. @default false */
  readonly headers?: boolean | undefined;
  /** @default process.env */
  readonly env?: NodeJS.ProcessEnv | undefined;
}

const LIBRARY_SUFFIX = process.platform === "darwin" ? ".dylib" : ".so";

/** The file name of a libtorch library on this platform: `libraryName("c10")` is `libc10.so` on Linux. */
export function libraryName(name: string): string {
  return `lib${name}${LIBRARY_SUFFIX}`;
}

/** The folder of what this package fetches for a user. */
export function userCache(env: NodeJS.ProcessEnv = process.env): string {
  const base = env.XDG_CACHE_HOME && path.isAbsolute(env.XDG_CACHE_HOME) ? env.XDG_CACHE_HOME : null;
  return path.join(base ?? path.join(env.HOME || os.homedir(), ".cache"), "layer-ensembles");
}

/** The folder that `install-libtorch` fills, one sub-folder per version and flavour. */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  return path.join(userCache(env), "libtorch");
}

/** `"2.13.0+cpu"` → `"2.13"`. C++ symbols and layouts are stable within one major.minor only. */
export function majorMinor(version: string): string {
  return version.split(".").slice(0, 2).join(".");
}

/**
 * Looks for libtorch: `configure({ libtorch })`, `LAYER_ENSEMBLES_LIBTORCH`, `LIBTORCH`, an installed
 * `@layer-ensembles/libtorch-<platform>-<flavour>`, the user cache. The first two are the user's explicit choice: where
 * one of them is set and unusable the search ends. The value `"python"` in either asks for the active Python's torch.
 */
export function searchLibtorch(options: SearchOptions = {}): Search {
  const env = options.env ?? process.env;
  const misses: Miss[] = [];
  for (const step of steps(options, env)) {
    if (step.folder === null) {
      misses.push({ source: step.source, folder: null, code: "ERR_LE_LIBTORCH_NOT_FOUND", reason: step.reason });
    } else {
      const result = inspectLibtorch(step.folder, step.source, options);
      if ("version" in result) return { found: result, misses };
      misses.push(result);
    }
    if (step.explicit) break;
  }
  return { found: null, misses };
}

/**
 * The libtorch to use.
 * @throws LayerEnsemblesError with `ERR_LE_LIBTORCH_NOT_FOUND`, or the code of the first libtorch that was there but
 * unusable; the message lists every step and ends with the cure.
 */
export function locateLibtorch(options: SearchOptions = {}): Libtorch {
  const { found, misses } = searchLibtorch(options);
  if (found) return found;
  throw notFound(misses, options);
}

/** The error for a search that found nothing. */
export function notFound(misses: readonly Miss[], options: SearchOptions = {}): LayerEnsemblesError {
  const version = options.version ?? LIBTORCH_VERSION;
  const code = misses.find((miss) => miss.code !== "ERR_LE_LIBTORCH_NOT_FOUND")?.code ?? "ERR_LE_LIBTORCH_NOT_FOUND";
  const tried = misses.map((miss) => `  - ${miss.source}${miss.folder ? ` (${miss.folder})` : ""} ${miss.reason}`);
  const what = options.headers ? "with its headers " : "";
  return new LayerEnsemblesError(
    code,
    `Expected libtorch ${majorMinor(version)} ${what}for the native addon but received none that can be used:\n` +
      `${tried.join("\n")}\n${cure(options)}`,
  );
}

/** What to do where no libtorch was found. */
export function cure(options: SearchOptions = {}): string {
  const flavour = options.flavour ? ` --flavour ${options.flavour}` : "";
  return (
    `Fix: npx layer-ensembles install-libtorch${flavour}, or set LAYER_ENSEMBLES_LIBTORCH to a folder whose lib/ holds ` +
    `${libraryName("torch_cpu")} (a Python "torch" package folder is one).`
  );
}

type Step = { source: string; explicit?: boolean } & ({ folder: string } | { folder: null; reason: string });

function* steps(options: SearchOptions, env: NodeJS.ProcessEnv): Generator<Step> {
  const settings: [string, string | undefined, boolean][] = [
    ["configure({ libtorch })", options.libtorch, true],
    ["LAYER_ENSEMBLES_LIBTORCH", env.LAYER_ENSEMBLES_LIBTORCH, true],
    ["LIBTORCH", env.LIBTORCH, false],
  ];
  for (const [source, value, explicit] of settings) {
    if (!value) yield { source, folder: null, reason: "is not set" };
    else if (explicit && value === "python") yield { ...pythonStep(source), explicit };
    else yield { source, folder: path.resolve(value), explicit };
  }

  const prefix = `@layer-ensembles/libtorch-${process.platform}-${process.arch}-`;
  const packages = flavoursFirst(["cu130", "cu128", "cu126", "cpu"], options.flavour);
  const installed = packages.map((flavour) => [flavour, packageFolder(prefix + flavour)] as const).filter((p) => p[1]);
  for (const [flavour, folder] of installed) yield { source: prefix + flavour, folder: folder as string };
  if (installed.length === 0) yield { source: `package ${prefix}*`, folder: null, reason: "is not installed" };

  const cache = cacheFolder(env);
  const wanted = `${majorMinor(options.version ?? LIBTORCH_VERSION)}.`;
  const entries = listFolder(cache).filter((name) => /^\d+\.\d+\.\d+-[a-z0-9]+$/.test(name));
  const matching = entries.filter((name) => name.startsWith(wanted));
  const flavours = flavoursFirst([...new Set(matching.map((name) => name.split("-")[1] as string))], options.flavour);
  const ordered = flavours.flatMap((flavour) =>
    matching.filter((name) => name.endsWith(`-${flavour}`)).sort((a, b) => patch(b) - patch(a)),
  );
  for (const name of ordered) yield { source: "the user cache", folder: path.join(cache, name) };
  if (ordered.length === 0) {
    const others = entries.length ? ` (only ${entries.join(", ")})` : "";
    const flavour = options.flavour ? `-${options.flavour}` : "";
    yield { source: `the user cache ${cache}`, folder: null, reason: `holds no ${wanted}x${flavour}${others}` };
  }
}

function patch(entry: string): number {
  return Number(entry.split("-")[0]?.split(".")[2]);
}

/** CUDA flavours first, newest first, then the others; or only the one asked for. */
function flavoursFirst(flavours: string[], only: string | undefined): string[] {
  const rank = (flavour: string) => (/^cu\d+$/.test(flavour) ? Number(flavour.slice(2)) : 0);
  return only ? [only] : flavours.sort((a, b) => rank(b) - rank(a));
}

function packageFolder(name: string): string | null {
  try {
    return path.dirname(createRequire(path.join(PACKAGE_ROOT, "package.json")).resolve(`${name}/package.json`));
  } catch {
    return null;
  }
}

function pythonStep(source: string): Step {
  const code =
    "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')";
  const python = spawnSync("python3", ["-c", code], { encoding: "utf8", timeout: 30_000 });
  const folder = python.status === 0 ? python.stdout.trim() : "";
  if (folder) return { source: `${source}: the active Python's torch`, folder };
  const reason = python.error ? `is "python", but python3 cannot be run` : `is "python", but that has no torch`;
  return { source, folder: null, reason };
}

function listFolder(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** Tells whether a folder is a libtorch that fits, and if not, why. Loads nothing. */
export function inspectLibtorch(folder: string, source: string, options: SearchOptions = {}): Libtorch | Miss {
  const miss = (code: ErrorCode, reason: string): Miss => ({ source, folder, code, reason });
  try {
    if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory()) {
      return miss("ERR_LE_LIBTORCH_NOT_FOUND", "is not a folder");
    }
    readdirSync(folder);
    for (const name of ["c10", "torch_cpu"]) {
      const file = path.join(folder, "lib", libraryName(name));
      if (!existsSync(file)) {
        // A folder that cannot be entered looks like one without the file.
        if (existsSync(path.join(folder, "lib"))) readdirSync(path.join(folder, "lib"));
        return miss("ERR_LE_LIBTORCH_NOT_FOUND", `holds no lib/${libraryName(name)}`);
      }
      const damage = damagedLibrary(file);
      if (damage) return miss("ERR_LE_LIBTORCH_BROKEN", `has a damaged lib/${libraryName(name)}: ${damage}`);
    }
    const full = readVersion(folder);
    if (!full) return miss("ERR_LE_LIBTORCH_BROKEN", "does not say its version (no version.py and no build-version)");
    const [version = "", label] = full.split("+");
    const wanted = options.version ?? LIBTORCH_VERSION;
    if (majorMinor(version) !== majorMinor(wanted)) {
      return miss("ERR_LE_LIBTORCH_VERSION", `has version ${full}, and ${majorMinor(wanted)} is needed`);
    }
    const cuda = existsSync(path.join(folder, "lib", libraryName("torch_cuda")));
    const flavour = label && /^(cpu|cu\d+|rocm[\d.]+|xpu)$/.test(label) ? label : cuda ? "cuda" : "cpu";
    if (options.flavour && options.flavour !== flavour) {
      return miss("ERR_LE_LIBTORCH_NOT_FOUND", `has flavour ${flavour}, and ${options.flavour} is asked for`);
    }
    const headers = existsSync(path.join(folder, "include", "ATen", "ATen.h"));
    if (options.headers && !headers) {
      return miss("ERR_LE_LIBTORCH_NOT_FOUND", "holds no include/ATen/ATen.h, which building needs");
    }
    return { folder, version, flavour, headers, source };
  } catch (error) {
    return miss("ERR_LE_LIBTORCH_BROKEN", `cannot be read: ${(error as Error).message}`);
  }
}

/** The version a libtorch folder states, with its flavour label if any: `2.13.0+cpu`. Null where it states none. */
export function readVersion(folder: string): string | null {
  const wheel = path.join(folder, "version.py");
  const archive = path.join(folder, "build-version");
  if (existsSync(wheel)) return /^__version__\s*=\s*['"]([^'"]+)['"]/m.exec(readTextSync(wheel))?.[1] ?? null;
  if (existsSync(archive)) return /^\d+\.\d+\S*/.exec(readTextSync(archive).trim())?.[0] ?? null;
  return null;
}

/**
 * Why a shared library cannot be loaded, from its ELF header, or null. A file that was cut short must not reach dlopen:
 * the loader maps it all the same, and the process then dies of SIGBUS.
 */
function damagedLibrary(file: string): string | null {
  if (process.platform !== "linux") return null;
  const descriptor = openRegularSync(file);
  try {
    const { size } = fstatSync(descriptor);
    const header = Buffer.alloc(64);
    const read = readSync(descriptor, header, 0, 64, 0);
    if (read < 64 || header.readUInt32BE(0) !== 0x7f454c46) return "it is no ELF file";
    if (header[4] !== 2 || header[5] !== 1) return "it is no 64-bit little-endian ELF file";
    const tableStart = Number(header.readBigUInt64LE(32));
    const entrySize = header.readUInt16LE(54);
    const count = header.readUInt16LE(56);
    if (entrySize !== 56) return "its ELF header is damaged";
    const table = Buffer.alloc(entrySize * count);
    let end = tableStart + table.length;
    if (end <= size && readSync(descriptor, table, 0, table.length, tableStart) === table.length) {
      for (let i = 0; i < count; i++) {
        const segment = table.subarray(i * entrySize);
        end = Math.max(end, Number(segment.readBigUInt64LE(8)) + Number(segment.readBigUInt64LE(32)));
      }
    }
    return end > size ? `it is cut short (${size} of at least ${end} bytes)` : null;
  } finally {
    closeSync(descriptor);
  }
}
