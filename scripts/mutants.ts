// Makes one small mistake in the core after another and asks whether a test of `npm test` notices; exit code 1 where none does.
//   npm run mutants [-- --only TEXT]   (mistakes whose name contains TEXT; may be given several times)
// Works on a copy of the tracked files as they are now, in a worktree of its own.
import { spawn, spawnSync } from "node:child_process";
import { readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { PACKAGE_ROOT } from "../lib/package.js";
import { MUTANTS, type Mutant, mutate } from "../test/mutants.js";
import { BuildError, main } from "./build.js";

/** Of one test file, or of a build; a mistake may make a loop endless. */
const MINUTES = 10;

/** Those of test/unit need no addon and no `dist`. */
const needsBuild = ({ tests }: Mutant) => tests.some((test) => !test.startsWith("test/unit/"));
const isCpp = (test: string) => !test.endsWith(".test.ts");

await main(async () => {
  const { only } = parseArgs({ options: { only: { type: "string", multiple: true } } }).values;
  const mutants = MUTANTS.filter(({ name }) => !only || only.some((text) => name.includes(text)));
  if (mutants.length === 0) throw new BuildError(`Expected part of a mistake's name for --only but received ${only}.`);
  // Always the same place, so that ccache knows the second time what it compiled the first time.
  const tree = path.join(PACKAGE_ROOT, "build", "mutants");
  let stopped = false;
  process.on("SIGINT", () => {
    stopped = true;
  });
  const run = async (command: string, args: string[]) => {
    const ended = await runIn(tree, command, args);
    if (stopped) throw new BuildError("Stopped.");
    return ended;
  };
  const drop = () => {
    rmSync(tree, { recursive: true, force: true });
    git("worktree", "prune");
  };
  const build = async () => {
    const { status, output } = await run(process.execPath, ["--import", "tsx", "scripts/build.ts"]);
    if (status !== 0) throw new BuildError(output);
  };
  /** The first test that fails. */
  const failing = async (tests: readonly string[]): Promise<string | undefined> => {
    for (const test of tests) {
      const { status, output } = isCpp(test)
        ? await run("build/core_tests", [test])
        : await run(process.execPath, ["node_modules/vitest/vitest.mjs", "run", "--bail=1", "--reporter=json", test]);
      if (status !== 0) return isCpp(test) ? test : (firstFailed(output) ?? test);
    }
    return undefined;
  };
  try {
    drop(); // what a run that was killed has left
    git("worktree", "add", "--detach", tree, git("stash", "create") || "HEAD");
    symlinkSync(path.join(PACKAGE_ROOT, "node_modules"), path.join(tree, "node_modules"));
    process.stderr.write("Without a mistake first.\n");
    if (mutants.some(needsBuild)) await build();
    const already = await failing([...new Set(mutants.flatMap(({ tests }) => tests))]);
    if (already)
      throw new BuildError(`Expected tests that pass without a mistake but received one that fails: ${already}`);
    let alive = 0;
    for (const mutant of mutants) {
      const file = path.join(tree, mutant.file);
      const source = readFileSync(file, "utf8");
      process.stdout.write(mutant.name.padEnd(68));
      writeFileSync(file, mutate(source, mutant));
      if (needsBuild(mutant)) await build();
      const killer = await failing(mutant.tests);
      if (!killer) alive++;
      process.stdout.write(`${killer ?? "ALIVE"}\n`);
      writeFileSync(file, source);
    }
    process.stdout.write(`\n${mutants.length - alive} noticed, ${alive} alive.\n`);
    return alive > 0 ? 1 : 0;
  } finally {
    drop();
  }
});

function git(...args: string[]): string {
  const { status, stdout, stderr } = spawnSync("git", args, { cwd: PACKAGE_ROOT, encoding: "utf8" });
  if (status !== 0) throw new BuildError(`Failed: git ${args.join(" ")}: ${stderr}`);
  return stdout.trim();
}

async function runIn(cwd: string, command: string, args: string[]): Promise<{ status: number | null; output: string }> {
  const child = spawn(path.resolve(cwd, command), args, {
    cwd,
    timeout: MINUTES * 60_000,
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  return { status, output };
}

/** The name of the test that failed, from vitest's JSON. */
function firstFailed(output: string): string | undefined {
  return /"fullName":"((?:[^"\\]|\\.)*)","status":"failed"/.exec(output)?.[1];
}
