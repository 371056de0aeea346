// Loading libtorch for real, in child processes, from dist/ (npm run build).
import { spawnSync } from "node:child_process";
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import { libraryName, locateLibtorch } from "../../lib/native/locate.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { fakeLibtorch, temporaryFolder } from "../support/libtorch.js";

const real = locateLibtorch().folder;
const dist = (file: string) => JSON.stringify(pathToFileURL(path.join(PACKAGE_ROOT, "dist", file)).href);
const imports = `
import { loadAddon, load } from ${dist("native/load.js")};
import { configure } from ${dist("native/configure.js")};
import { Worker, isMainThread } from "node:worker_threads";
const attempt = async () => { try { await loadAddon(); return "loaded"; } catch (error) { return error.code + " " + error.message; } };
`;

/** Runs a module in a new process; gives what it printed. */
function run(program: string, env: NodeJS.ProcessEnv = {}): string {
  const file = path.join(temporaryFolder(), "program.mjs");
  writeFileSync(file, imports + program);
  const { LAYER_ENSEMBLES_LIBTORCH: _, LIBTORCH: __, OMP_WAIT_POLICY: ___, ...inherited } = process.env;
  const child = spawnSync(process.execPath, [file], {
    encoding: "utf8",
    env: { ...inherited, LAYER_ENSEMBLES_LIBTORCH: real, ...env },
    timeout: 60_000,
  });
  expect({ status: child.status, signal: child.signal, stderr: child.stderr }).toEqual({
    status: 0,
    signal: null,
    stderr: "",
  });
  return child.stdout.trim();
}

/** A copy of the real libtorch by links, with one library put in by the caller. */
function linkedLibtorch(replace: (library: string, original: string) => void): string {
  const folder = temporaryFolder();
  mkdirSync(path.join(folder, "lib"));
  const version = ["version.py", "build-version"].find((name) => existsSync(path.join(real, name))) ?? "";
  copyFileSync(path.join(real, version), path.join(folder, version));
  symlinkSync(path.join(real, "lib", libraryName("torch_cpu")), path.join(folder, "lib", libraryName("torch_cpu")));
  replace(path.join(folder, "lib", libraryName("c10")), path.join(real, "lib", libraryName("c10")));
  return folder;
}

describe("loadAddon", () => {
  it("loads once, and the process exits by itself", () => {
    expect(run("console.log(await attempt(), (await loadAddon()) === (await loadAddon()));")).toBe("loaded true");
  });

  it("makes OpenMP wait passively, unless the user says otherwise", () => {
    const program = "await loadAddon(); console.log(process.env.OMP_WAIT_POLICY);";
    expect(run(program)).toBe("passive");
    expect(run(program, { OMP_WAIT_POLICY: "active" })).toBe("active");
  });

  it("reports a libtorch that is missing, of another version, or cut short, with the cure", () => {
    const program = "console.log(await attempt());";
    expect(run(program, { LAYER_ENSEMBLES_LIBTORCH: "/nowhere" })).toMatch(
      /^ERR_LE_LIBTORCH_NOT_FOUND .*[\s\S]*\/nowhere\) is not a folder\nFix: /,
    );
    const old = fakeLibtorch(temporaryFolder(), { version: "2.5.1+cpu" });
    expect(run(program, { LAYER_ENSEMBLES_LIBTORCH: old })).toMatch(
      /^ERR_LE_LIBTORCH_VERSION [\s\S]*2\.5\.1\+cpu[\s\S]*Fix: /,
    );
    const short = linkedLibtorch((library, original) => {
      copyFileSync(original, library);
      truncateSync(library, 300_000);
    });
    expect(run(program, { LAYER_ENSEMBLES_LIBTORCH: short })).toMatch(
      /^ERR_LE_LIBTORCH_BROKEN [\s\S]*cut short[\s\S]*Fix: /,
    );
  });

  it("reports a library that the system refuses to open, and can then use another folder", () => {
    const bad = fakeLibtorch(temporaryFolder());
    const program = `
      configure({ libtorch: ${JSON.stringify(bad)} });
      console.log(await attempt());
      configure({ libtorch: ${JSON.stringify(real)} });
      console.log(await attempt(), load().libtorch.folder);`;
    const lines = run(program).split("\n");
    expect(lines[0]).toMatch(/^ERR_LE_LIBTORCH_BROKEN Expected libtorch in .* to load but received: .*libc10.*Fix: /);
    expect(lines.at(-1)).toBe(`loaded ${real}`);
  });

  it("outlives a library that ends the process which opens it", () => {
    const bad = linkedLibtorch((library) => {
      const source = path.join(temporaryFolder(), "crash.c");
      writeFileSync(source, "#include <stdlib.h>\n__attribute__((constructor)) static void crash(void) { abort(); }\n");
      const compiled = spawnSync("cc", ["-shared", "-fPIC", "-o", library, source], { encoding: "utf8" });
      expect(compiled.stderr).toBe("");
    });
    expect(run("console.log(await attempt());", { LAYER_ENSEMBLES_LIBTORCH: bad })).toMatch(
      /^ERR_LE_LIBTORCH_BROKEN .*it was killed by SIGABRT\. Fix: /,
    );
  });

  it("tries an unknown libtorch once, and again when a file of it has changed", () => {
    const folder = linkedLibtorch((library, original) => copyFileSync(original, library));
    const cache = temporaryFolder();
    const tried = () => {
      const marks = path.join(cache, "layer-ensembles/tried");
      return existsSync(marks) ? readdirSync(marks).sort() : [];
    };
    const env = { LAYER_ENSEMBLES_LIBTORCH: folder, XDG_CACHE_HOME: cache };
    const program = `
      import childProcess from "node:child_process";
      import { syncBuiltinESMExports } from "node:module";
      let trials = 0;
      const spawnSync = childProcess.spawnSync;
      childProcess.spawnSync = (...args) => { trials++; return spawnSync(...args); };
      syncBuiltinESMExports();
      console.log(await attempt(), trials);`;
    expect(run(program, env)).toBe("loaded 1");
    expect(tried()).toHaveLength(1);
    expect(run(program, env)).toBe("loaded 0");
    utimesSync(path.join(folder, "lib", libraryName("c10")), new Date(), new Date());
    expect(run(program, env)).toBe("loaded 1");
    expect(tried()).toHaveLength(2);
  });

  it("loads untried where no child process can be started, and where the cache cannot be written", () => {
    const program = `
      import childProcess from "node:child_process";
      import { syncBuiltinESMExports } from "node:module";
      if (process.env.NO_CHILDREN) childProcess.spawnSync = () => ({ error: Object.assign(new Error("spawnSync EPERM"), { code: "EPERM" }) });
      syncBuiltinESMExports();
      console.log(await attempt());`;
    const file = path.join(temporaryFolder(), "file");
    writeFileSync(file, "");
    expect(run(program, { XDG_CACHE_HOME: temporaryFolder(), NO_CHILDREN: "1" })).toBe("loaded");
    expect(run(program, { XDG_CACHE_HOME: file })).toBe("loaded");
  });

  it("refuses another libtorch once one is in use", () => {
    const program = `
      await loadAddon();
      configure({ threads: 1 });
      try { configure({ libtorch: "/elsewhere" }); } catch (error) { console.log(error.code, error.message); }`;
    expect(run(program)).toMatch(/^ERR_LE_OPTION .*Fix: call configure first\.$/);
  });

  it("works in worker threads that end, with one libtorch for the process", () => {
    const other = linkedLibtorch((library, original) => symlinkSync(original, library));
    const program = `
      if (isMainThread) {
        await loadAddon();
        for (let i = 0; i < 3; i++) {
          const worker = new Worker(new URL(import.meta.url), { env: { ...process.env, LAYER_ENSEMBLES_LIBTORCH: ${JSON.stringify(other)} } });
          worker.on("exit", (code) => console.log("exit", code));
        }
      } else console.log(load().libtorch.folder);`;
    expect(run(program).split("\n").sort()).toEqual([real, real, real, "exit 0", "exit 0", "exit 0"].sort());
  });

  it("works in a worker thread alone, in a process whose main thread never loads it", () => {
    const program = `
      if (isMainThread) new Worker(new URL(import.meta.url)).on("exit", (code) => console.log("exit", code));
      else console.log(await attempt());`;
    expect(run(program)).toBe("loaded\nexit 0");
  });
});
