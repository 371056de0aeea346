// Builds what is out of date: libtorch (fetched if none is found), the addons and the C++ tests, the TypeScript.
//   npm run build
// CXX, CC and CMAKE_BUILD_PARALLEL_LEVEL are respected.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { compileFunction } from "node:vm";
import typescript from "typescript";
import { LayerEnsemblesError } from "../lib/errors.js";
import { installLibtorch } from "../lib/native/install.js";
import { findAddon } from "../lib/native/load.js";
import { type Libtorch, readVersion, searchLibtorch } from "../lib/native/locate.js";
import { lock } from "../lib/native/lock.js";
import { LIBTORCH_VERSION } from "../lib/native/package.js";
import { installProgressPrinter } from "../lib/native/progress.js";
import { findTools } from "../lib/native/tools.js";
import { tryLoading } from "../lib/native/try-libtorch.js";
import { PACKAGE_ROOT } from "../lib/package.js";

const require = createRequire(import.meta.url);
const root = PACKAGE_ROOT;

/** Thrown with a message that is complete in itself; the stack is not shown. */
export class BuildError extends Error {}

/** Steps with their number and the time since the start, on stderr. */
export class Progress {
  private readonly start = performance.now();
  private step = 0;
  private lastText = "";

  constructor(private readonly steps: number) {}

  next(title: string): void {
    this.step++;
    this.lastText = "";
    process.stderr.write(`[${this.step}/${this.steps}] ${title}  (${this.elapsed()})\n`);
  }

  detail(text: string): void {
    process.stderr.write(`      ${text}  (${this.elapsed()})\n`);
  }

  /** Progress inside a step: a rewritten line on a terminal, every 10 % elsewhere. */
  percent(percent: number, text: string): void {
    if (process.stderr.isTTY) {
      const end = percent >= 100 ? "\n" : "";
      process.stderr.write(`\r\x1b[K      ${String(percent).padStart(3)} %  ${text}  (${this.elapsed()})${end}`);
    } else {
      const decade = `${Math.floor(percent / 10)}`;
      if (decade !== this.lastText) this.detail(`${String(percent).padStart(3)} %  ${text}`);
      this.lastText = decade;
    }
  }

  elapsed(): string {
    const seconds = Math.round((performance.now() - this.start) / 1000);
    return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  }
}

/** Makes sure of a compiler, cmake and make before anything is fetched. */
export function requireTools(): void {
  const problems = Object.values(findTools()).flatMap((tool) => (tool.problem ? [tool.problem] : []));
  if (problems.length) throw new BuildError(problems.join("\n"));
}

/** Finds libtorch with headers, or fetches it into the user cache. */
export async function provideLibtorch(progress: Progress): Promise<Libtorch> {
  const version = process.env.LAYER_ENSEMBLES_LIBTORCH_VERSION ?? LIBTORCH_VERSION;
  const { found, misses } = searchLibtorch({ headers: true, version });
  const chosen = misses.find((miss) => miss.source === "LAYER_ENSEMBLES_LIBTORCH" && miss.folder);
  if (chosen) {
    throw new BuildError(
      `Expected libtorch ${version} with headers in LAYER_ENSEMBLES_LIBTORCH but received ${chosen.folder}, which ${chosen.reason}. ` +
        "Fix: correct that variable, or unset it so that libtorch is found or fetched.",
    );
  }
  if (found) return found;
  for (const miss of misses) if (miss.folder) progress.detail(`${miss.source} (${miss.folder}) ${miss.reason}`);
  progress.detail(`no libtorch ${version} with headers found; fetching it (about 200 MB)`);
  return await installLibtorch({ version, onProgress: installProgressPrinter(process.stderr) });
}

/** Threads for compiling: one for each core, and 2 GB of memory for each. */
export function jobs(): number {
  const asked = Number(process.env.CMAKE_BUILD_PARALLEL_LEVEL);
  return asked > 0 ? asked : Math.max(1, Math.min(os.availableParallelism(), Math.floor(os.totalmem() / 2e9)));
}

/** Configures where the settings changed, then compiles what changed: all, or one target. */
export async function cmake(
  folder: string,
  settings: Record<string, string>,
  progress: Progress,
  target = "all",
): Promise<void> {
  const version = readVersion(settings.LIBTORCH ?? "");
  const wanted = JSON.stringify({ settings, version, compiler: findTools().compiler.path, root });
  const stamp = path.join(folder, "configured.json");
  if (!existsSync(stamp) || readFileSync(stamp, "utf8") !== wanted) {
    // A cache of another compiler or another libtorch cannot be trusted.
    rmSync(path.join(folder, "CMakeCache.txt"), { force: true });
    rmSync(path.join(folder, "CMakeFiles"), { force: true, recursive: true });
    mkdirSync(folder, { recursive: true });
    const defines = Object.entries(settings).map(([name, value]) => `-D${name}=${value}`);
    await run("cmake", ["-S", root, "-B", folder, ...defines], () => {});
    writeFileSync(stamp, wanted);
  }
  await run("cmake", ["--build", folder, "--target", target, "--parallel", String(jobs())], (line) => {
    const match = /^\[\s*(?:(\d+)%|(\d+)\/(\d+))\] (.*)/.exec(line);
    if (!match) return;
    const percent = match[1] ? Number(match[1]) : Math.floor((100 * Number(match[2])) / Number(match[3]));
    if (/Building|Linking/.test(match[4] ?? "")) progress.percent(percent, (match[4] ?? "").split("/").pop() ?? "");
  });
}

/** Runs a command; where it fails, shows what it said. */
async function run(command: string, args: string[], onLine: (line: string) => void): Promise<void> {
  const child = spawn(command, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  let rest = "";
  const listen = (text: string) => {
    said += text;
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    lines.forEach(onLine);
  };
  child.stdout.setEncoding("utf8").on("data", listen);
  child.stderr.setEncoding("utf8").on("data", listen);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  if (code === 0) return;
  const complaints = said.split("\n").filter((line) => !/^\[\s*\d+(?:%|\/\d+)\]/.test(line));
  throw new BuildError(`${complaints.join("\n").slice(-20_000)}\nFailed: ${command} ${args.join(" ")}`);
}

/** One text that changes when any file under the given paths does. */
function fingerprint(paths: string[]): string {
  const hash = createHash("sha256");
  const visit = (item: string) => {
    const info = statSync(item);
    if (info.isDirectory()) for (const name of readdirSync(item).sort()) visit(path.join(item, name));
    else hash.update(`${item} ${info.size} ${info.mtimeMs}\n`);
  };
  for (const item of paths) visit(path.resolve(root, item));
  return hash.digest("hex");
}

/**
 * Makes `dist`: CommonJS, file for file, which every Node.js can load from both kinds of module, and for each entry of
 * package.json's `exports` an ES module that gives the same objects. So there is one `LayerEnsemblesError` and one state in a
 * process, however a program and its dependencies load this package.
 */
function compileTypeScript(progress: Progress): void {
  const stamp = path.join(root, "build", "typescript.fingerprint");
  const now = fingerprint(["lib", "scripts/build.ts", "tsconfig.json", "tsconfig.build.json", "package.json"]);
  const dist = path.join(root, "dist");
  if (existsSync(dist) && existsSync(stamp) && readFileSync(stamp, "utf8") === now) {
    progress.detail("up to date");
    return;
  }
  rmSync(dist, { recursive: true, force: true });
  rmSync(stamp, { force: true });
  const tsc = require.resolve("typescript/bin/tsc");
  const result = spawnSync(process.execPath, [tsc, "-p", "tsconfig.build.json"], { cwd: root, stdio: "inherit" });
  if (result.status !== 0) throw new BuildError("Failed: tsc -p tsconfig.build.json");
  const lib = path.join(root, "lib");
  for (const file of readdirSync(lib, { recursive: true, encoding: "utf8" })) {
    if (!file.endsWith(".ts")) continue;
    const text = toCommonJs(readFileSync(path.join(lib, file), "utf8"), path.join("lib", file));
    writeFileSync(path.join(dist, file.replace(/\.ts$/, ".js")), text);
  }
  writeFileSync(path.join(dist, "package.json"), '{ "type": "commonjs" }\n');
  const { exports } = JSON.parse(readFileSync(path.join(root, "package.json"), "utf8"));
  for (const entry of Object.values<Entry | string>(exports)) {
    if (typeof entry === "string") continue;
    const file = `./${path.basename(entry.require.default)}`;
    const names = Object.keys(require(path.join(root, entry.require.default))).sort();
    writeFileSync(path.join(root, entry.import.default), `export { ${names.join(", ")} } from "${file}";\n`);
    writeFileSync(path.join(root, entry.import.types), `export * from "${file}";\n`);
  }
  writeFileSync(stamp, now);
}

/** A source file without its types, as CommonJS; `import()` stays, for packages that are ES modules alone. */
function toCommonJs(source: string, file: string): string {
  const text = typescript.transpileModule(
    // CommonJS has no import.meta. Not plain `require`, which a function may use as the name of its own.
    source.replaceAll("import.meta.url", 'module.require("node:url").pathToFileURL(__filename).href'),
    {
      fileName: file.replace(/\.ts$/, ".cts"),
      compilerOptions: {
        target: typescript.ScriptTarget.ES2022,
        module: typescript.ModuleKind.NodeNext,
        isolatedModules: true,
        removeComments: true,
      },
    },
  ).outputText;
  try {
    compileFunction(text.replace(/^#!.*/, ""), ["exports", "require", "module", "__filename", "__dirname"]);
  } catch (error) {
    // Such as an `await` outside functions, or a constant called `require`.
    throw new BuildError(`Expected ${file} to work as CommonJS too but received: ${(error as Error).message}`);
  }
  return text;
}

/** One entry of package.json's `exports`. */
interface Entry {
  import: { types: string; default: string };
  require: { types: string; default: string };
}

/** Loads a newly built addon in a child process: a symbol that is missing shows only there. */
function tryAddon(libtorch: Libtorch, progress: Progress): void {
  const files = findAddon();
  const stamp = path.join(root, "build", "loaded.fingerprint");
  const now = fingerprint([files.addon, files.preload]);
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === now) return;
  const { problem } = tryLoading(files, libtorch);
  if (problem) throw new BuildError(problem);
  writeFileSync(stamp, now);
  progress.detail("the addon loads");
}

/** Everything that `npm test` and `npm run demo` need. Two builds at the same time wait for each other. */
export async function build(): Promise<Libtorch> {
  requireTools();
  const progress = new Progress(3);
  mkdirSync(path.join(root, "build"), { recursive: true });
  const unlock = await lock(path.join(root, "build", ".lock"), undefined, () =>
    progress.detail("another build is running"),
  );
  try {
    return await buildAll(progress);
  } finally {
    await unlock();
  }
}

async function buildAll(progress: Progress): Promise<Libtorch> {
  progress.next("libtorch");
  const libtorch = await provideLibtorch(progress);
  progress.detail(`${libtorch.version} (${libtorch.flavour}) from ${libtorch.source}: ${libtorch.folder}`);
  progress.next("addon and C++ tests");
  const folder = path.join(root, "build");
  await cmake(folder, { LIBTORCH: libtorch.folder, CMAKE_JS_INC: require("node-api-headers").include_dir }, progress);
  const info = { libtorch: libtorch.version, flavour: libtorch.flavour };
  writeFileSync(path.join(folder, "Release", "build-info.json"), `${JSON.stringify(info)}\n`);
  progress.next("TypeScript");
  compileTypeScript(progress);
  tryAddon(libtorch, progress);
  process.stderr.write(`Built in ${progress.elapsed()}.\n`);
  return libtorch;
}

/** Runs a script's main function; an expected failure prints its message alone. */
export async function main(action: () => Promise<number | undefined>): Promise<void> {
  try {
    process.exitCode = (await action()) ?? 0;
  } catch (error) {
    const expected = error instanceof BuildError || error instanceof LayerEnsemblesError;
    process.stderr.write(`${expected ? error.message : (error as Error).stack}\n`);
    process.exitCode = 1;
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  await main(async () => {
    await build();
    return 0;
  });
}
