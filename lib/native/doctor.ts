import { existsSync, readFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { type ErrorCode, LayerEnsemblesError } from "../errors.js";
import { PACKAGE_ROOT, PACKAGE_VERSION } from "../package.js";
import { configuration } from "./configure.js";
import { type AddonFiles, findAddon } from "./load.js";
import { type Libtorch, type Miss, notFound, searchLibtorch, userCache } from "./locate.js";
import { LIBTORCH_VERSION } from "./package.js";
import { findTools, type Tools } from "./tools.js";
import { tryLoading } from "./try-libtorch.js";

/** What {@link doctor} found. Plain data: `JSON.stringify` gives the machine-readable report. */
export interface Diagnosis {
  /** True where training and prediction can run. */
  readonly ok: boolean;
  readonly package: { readonly version: string; readonly folder: string };
  readonly system: {
    readonly node: string;
    readonly platform: string;
    readonly release: string;
    readonly glibc: string | null;
    readonly cpu: string;
    /** Cores that this process may use. */
    readonly cores: number;
    /** Bytes. */
    readonly memory: number;
    /** Of avx2, avx512f, avx512_bf16, amx_bf16; empty where they cannot be told. */
    readonly cpuFeatures: readonly string[];
  };
  readonly addon: AddonFiles | null;
  readonly libtorch: Libtorch | null;
  /** Where `install-libtorch` puts what it fetches, and where the libtorchs that loaded are remembered. */
  readonly cache: string;
  /** The steps of the search that gave nothing before one did. */
  readonly misses: readonly Miss[];
  /** What the loaded addon says of itself and of devices, from a child process; null where it could not be loaded. */
  readonly loaded: Readonly<Record<string, unknown>> | null;
  /** Why a CUDA libtorch can only be used on the CPU. */
  readonly cudaProblem: string | null;
  /** The programs that building from source needs; null in an installed package. */
  readonly tools: Tools | null;
  readonly problems: readonly Problem[];
}

/** One thing that is wrong, with its fix. */
export interface Problem {
  readonly code: ErrorCode | "TOOL";
  readonly message: string;
}

/** Looks at everything that the addon needs. Never throws, and loads the addon in a child process only. */
export function doctor(): Diagnosis {
  const problems: Problem[] = [];
  let files: AddonFiles | null = null;
  try {
    files = findAddon();
  } catch (error) {
    problems.push(problemOf(error));
  }
  const search = { libtorch: configuration().libtorch, version: files?.builtFor ?? LIBTORCH_VERSION };
  const { found, misses } = searchLibtorch(search);
  if (!found) problems.push(problemOf(notFound(misses, search)));

  const trial = files && found ? tryLoading(files, found) : null;
  if (trial?.problem) problems.push({ code: trial.code, message: trial.problem });

  const checkout = existsSync(path.join(PACKAGE_ROOT, "CMakeLists.txt"));
  const tools = checkout ? findTools() : null;
  for (const tool of Object.values(tools ?? {})) {
    if (tool.problem) problems.push({ code: "TOOL", message: tool.problem });
  }
  return {
    ok: trial?.info != null,
    package: { version: PACKAGE_VERSION, folder: PACKAGE_ROOT },
    system: {
      node: process.version,
      platform: `${process.platform}-${process.arch}`,
      release: os.release(),
      glibc: glibcVersion(),
      cpu: os.cpus()[0]?.model.trim() ?? "unknown",
      cores: os.availableParallelism(),
      memory: os.totalmem(),
      cpuFeatures: cpuFeatures(),
    },
    addon: files,
    libtorch: found,
    cache: userCache(),
    misses,
    loaded: trial?.info ?? null,
    cudaProblem: trial?.cudaProblem ?? null,
    tools,
    problems,
  };
}

/** The report for people. */
export function formatDiagnosis(diagnosis: Diagnosis): string {
  const { system, libtorch, addon, tools, loaded } = diagnosis;
  const rows: [string, string][] = [
    ["layer-ensembles", `${diagnosis.package.version} in ${diagnosis.package.folder}`],
    ["Node.js", `${system.node}, ${system.platform}${system.glibc ? `, glibc ${system.glibc}` : ""}`],
    ["CPU", `${system.cpu}, ${system.cores} cores, ${(system.memory / 2 ** 30).toFixed(0)} GiB`],
    ["CPU features", system.cpuFeatures.join(" ") || "none known"],
    ["addon", addon ? `${addon.addon} (for libtorch ${addon.builtFor})` : "not built"],
    ["libtorch", libtorch ? `${libtorch.version} ${libtorch.flavour} in ${libtorch.folder}` : "not found"],
    ...(libtorch ? ([["  found by", libtorch.source]] as [string, string][]) : []),
    ...diagnosis.misses.map((miss): [string, string] => [
      "  tried",
      `${miss.source}${miss.folder ? ` (${miss.folder})` : ""} ${miss.reason}`,
    ]),
    ["user cache", diagnosis.cache],
    ["loads", loaded ? "yes" : "no"],
    ...Object.entries(loaded ?? {}).map(([name, value]): [string, string] => [`  ${name}`, asText(value)]),
    ...(diagnosis.cudaProblem ? ([["  CUDA", `not usable: ${diagnosis.cudaProblem}`]] as [string, string][]) : []),
    ...Object.entries(tools ?? {}).map(([name, tool]): [string, string] => [
      name,
      tool.found ? `${tool.path} ${tool.version}` : "missing",
    ]),
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  const lines = rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`);
  const problems = diagnosis.problems.map((problem) => `\n${problem.code}: ${problem.message}`);
  const verdict = diagnosis.ok ? "\nReady." : "\nNot ready.";
  return [...lines, ...problems, verdict].join("\n");
}

function asText(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function problemOf(error: unknown): Problem {
  const code = error instanceof LayerEnsemblesError ? error.code : "ERR_LE_INTERNAL";
  return { code, message: (error as Error).message };
}

function glibcVersion(): string | null {
  const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined;
  return report?.header?.glibcVersionRuntime ?? null;
}

function cpuFeatures(): string[] {
  try {
    const flags = new Set(/^flags\s*:\s*(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.split(" "));
    return ["avx2", "avx512f", "avx512_bf16", "amx_bf16"].filter((flag) => flags.has(flag));
  } catch {
    return [];
  }
}
