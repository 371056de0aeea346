// What npm would publish, installed into an empty folder with scripts switched off and no compiler in reach.
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { writePhantoms } from "../../lib/data/phantoms.js";
import { libraryName, locateLibtorch } from "../../lib/native/locate.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { checkSymbols, symbolNeeds } from "../../scripts/check-symbols.js";
import { layOut } from "../../scripts/pack-libtorch.js";
import { prebuild } from "../../scripts/prebuild.js";
import { fakeArchive, fakeLibtorch, temporaryFolder } from "../support/libtorch.js";

const require = createRequire(import.meta.url);
const libtorch = locateLibtorch().folder;
/** Where require() of ES modules can be switched off, it is: the oldest supported Node.js has none. */
const WITHOUT_REQUIRE_ESM = process.allowedNodeEnvironmentFlags.has("--experimental-require-module")
  ? ["--no-experimental-require-module"]
  : [];

vi.setConfig({ testTimeout: 150_000 });

let root = "";
/** The folder of a project that has installed the package. */
let project = "";
let tarball = "";

interface Ended {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** Runs a program in the project, with nothing on PATH but node and npm. */
function run(command: string, args: readonly string[], { env = {}, cwd = project, uid = {} } = {}): Ended {
  const { NODE_OPTIONS: _, LIBTORCH: __, ...inherited } = process.env;
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd,
    encoding: "utf8",
    timeout: 100_000,
    env: { ...inherited, PATH: path.join(root, "bin"), LAYER_ENSEMBLES_LIBTORCH: libtorch, ...env },
    ...uid,
  });
  if (error) throw error;
  return { status, stdout, stderr };
}

const node = (args: readonly string[]) => run(process.execPath, [...WITHOUT_REQUIRE_ESM, ...args]);
const cli = (args: readonly string[], options?: Parameters<typeof run>[2]) =>
  run(path.join(project, "node_modules/.bin/layer-ensembles"), args, options);

/** Runs npm and gives what it printed, as JSON says it. */
function npm(args: readonly string[], cwd: string) {
  const ended = run("npm", [...args, "--json", "--no-audit", "--no-fund"], { cwd });
  expect(ended).toMatchObject({ status: 0 });
  return JSON.parse(ended.stdout || "null");
}

/** The program of that name on this process's PATH. */
function which(name: string): string {
  for (const folder of (process.env.PATH ?? "").split(path.delimiter)) {
    const file = path.join(folder, name);
    if (statSync(file, { throwIfNoEntry: false })?.isFile()) return realpathSync(file);
  }
  throw new Error(`no ${name} on PATH`);
}

beforeAll(async () => {
  root = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-package-"));
  mkdirSync(path.join(root, "bin"));
  symlinkSync(process.execPath, path.join(root, "bin/node"));
  symlinkSync(which("npm"), path.join(root, "bin/npm"));
  await prebuild();
  const [{ filename }] = npm(["pack", "--ignore-scripts", "--pack-destination", root], PACKAGE_ROOT);
  tarball = path.join(root, filename);
  project = path.join(root, "project");
  mkdirSync(project);
  writeFileSync(path.join(project, "package.json"), JSON.stringify({ name: "project", private: true }));
  npm(["install", "--ignore-scripts", "--prefer-offline", tarball], project);
}, 240_000);

afterAll(() => rmSync(root, { recursive: true, force: true }));

describe("the packed package", () => {
  it("is below 2.5 MB, runs no script on installation, and holds neither sources nor tests", () => {
    expect(statSync(tarball).size).toBeLessThan(2_500_000);
    const folder = path.join(project, "node_modules/layer-ensembles");
    const { scripts } = JSON.parse(readFileSync(path.join(folder, "package.json"), "utf8"));
    for (const name of ["preinstall", "install", "postinstall", "prepare"]) expect(scripts).not.toHaveProperty(name);
    const platform = `prebuilds/${process.platform}-${process.arch}`;
    const libc = process.platform === "linux" ? ".glibc" : "";
    for (const file of [`layer-ensembles${libc}.node`, "preload/preload.node", "build-info.json"])
      expect(statSync(path.join(folder, platform, file)).isFile()).toBe(true);
    for (const name of ["lib", "native", "test", "scripts", "CMakeLists.txt"])
      expect(statSync(path.join(folder, name), { throwIfNoEntry: false })).toBeUndefined();
  });

  it("has a doctor that finds it ready, with its prebuilt addon", () => {
    const { status, stdout } = cli(["doctor", "--json"]);
    const diagnosis = JSON.parse(stdout);
    expect(diagnosis).toMatchObject({ ok: true, problems: [], tools: null, libtorch: { folder: libtorch } });
    expect(diagnosis.addon.addon).toMatch(/node_modules.layer-ensembles.prebuilds.[\w-]+.layer-ensembles[\w.]*\.node$/);
    expect(status).toBe(0);
    expect(cli(["doctor"]).stdout).toMatch(/\nReady\.\n$/);
  });

  it("is one package to import and to require, by every entry", () => {
    writeFileSync(
      path.join(project, "both.mjs"),
      `import { createRequire } from "node:module";
      const require = createRequire(import.meta.url);
      for (const entry of ["layer-ensembles", "layer-ensembles/metrics", "layer-ensembles/volumes", "layer-ensembles/server", "layer-ensembles/cli"]) {
        const imported = await import(entry), required = require(entry);
        const names = Object.keys(required).sort();
        if (String(Object.keys(imported).sort()) !== String(names)) throw new Error(entry + " has other names");
        for (const name of names) if (imported[name] !== required[name]) throw new Error(entry + " has two " + name);
        console.log(entry, names.length > 0);
      }
      const { LayerEnsemblesError, configure } = require("layer-ensembles");
      const { fuse, LayerEnsemblesError: again } = await import("layer-ensembles/metrics");
      console.log(again === LayerEnsemblesError);
      try { configure({ thread: 1 }); } catch (error) { console.log(error instanceof again, error.code); }`,
    );
    const { stdout, stderr } = node(["both.mjs"]);
    expect(stderr).toBe("");
    expect(stdout).toBe(
      "layer-ensembles true\nlayer-ensembles/metrics true\nlayer-ensembles/volumes true\nlayer-ensembles/server true\nlayer-ensembles/cli true\ntrue\ntrue ERR_LE_OPTION\n",
    );
  });

  it("trains and predicts by the command line, and by the example as ES module and as CommonJS", async () => {
    const data = path.join(project, "data");
    const [first] = await writePhantoms(data, { count: 6, size: 32, seed: 1 });
    const image = path.join(data, "images", `${first?.id}.png`);
    const training =
      "--backbone plain-unet --width 4 --depth 3 --size 32x32 --epochs 1 --batch-size 2 --seed 1 --device cpu";
    const trained = cli(["train", "--data", data, "--run", "run", "--json", ...training.split(" ")]);
    expect(trained).toMatchObject({ status: 0 });
    const predicted = cli(["predict", "--run", "run", "--out", "out", "--json", "--maps", "none", image]);
    expect(predicted).toMatchObject({ status: 0 });
    const { area, aula } = JSON.parse(predicted.stdout);

    const example = readFileSync(path.join(PACKAGE_ROOT, "examples/predict.mjs"), "utf8");
    expect(example.trim().split("\n").length).toBeLessThanOrEqual(12);
    const body = example.replace(/^import (.*) from "(.*)";$/m, 'const $1 = require("$2");');
    writeFileSync(path.join(project, "predict.mjs"), example);
    writeFileSync(path.join(project, "predict.cjs"), `(async () => {\n${body}})();\n`);
    const answers = ["predict.mjs", "predict.cjs"].map((file) => node([file, "run", image]));
    expect(answers[0]).toMatchObject({ status: 0, stderr: "" });
    expect(answers[1]).toEqual(answers[0]);
    const [, pixels, agreement] = /: (\d+) foreground pixels, AULA ([\d.]+)/.exec(answers[0]?.stdout ?? "") ?? [];
    expect(Number(pixels) + Object.values<number>(area)[0]!).toBe(32 * 32);
    expect(agreement).toBe(aula.normalised.toFixed(3));
  });

  it("can be run as a command line within a program", () => {
    writeFileSync(
      path.join(project, "within.mjs"),
      `import { main } from "layer-ensembles/cli";
      console.log(await main(["doctor", "--json"]), await main(["doctr"]), process.exitCode);`,
    );
    const { stdout, stderr } = node(["within.mjs"]);
    expect(stdout).toMatch(/^\{[\s\S]*\}\s+0 2 undefined\n$/);
    expect(stderr).toBe("error: unknown command 'doctr' (Did you mean doctor?)\n");
  });

  it("has types for strict TypeScript, as ES module and as CommonJS", () => {
    const program = (entry: string) => `
      import { Backbone, LayerEnsemble, LayerEnsemblesError, type NdArray, type Prediction } from "layer-ensembles";
      import { dice } from "layer-ensembles/metrics";
      import { main } from "layer-ensembles/cli";
      export async function ${entry}(image: NdArray): Promise<number> {
        const backbone = await Backbone.create("unet", { encoder: "resnet18", inChannels: 1, classes: 2 });
        const model = await LayerEnsemble.create(backbone, { taps: "auto", classes: 2 });
        const result: Prediction = await model.predict(image, { skip: 1 });
        // @ts-expect-error: a misspelled option is an error
        await model.predict(image, { skp: 1 }).catch((error: unknown) => error instanceof LayerEnsemblesError && error.code);
        const code: number = await main([]);
        return result.mask.data.length + dice.length + code;
      }`;
    writeFileSync(path.join(project, "module.mts"), program("module"));
    writeFileSync(path.join(project, "common.cts"), program("common"));
    const options = {
      strict: true,
      noEmit: true,
      target: "es2022",
      module: "node16",
      lib: ["es2023", "esnext.disposable"],
      types: ["node"],
      typeRoots: [path.join(PACKAGE_ROOT, "node_modules/@types")],
    };
    writeFileSync(
      path.join(project, "tsconfig.json"),
      JSON.stringify({ compilerOptions: options, files: ["module.mts", "common.cts"] }),
    );
    const { stdout, status } = node([require.resolve("typescript/bin/tsc"), "-p", "."]);
    expect({ stdout, status }).toEqual({ stdout: "", status: 0 });
  });

  it("satisfies publint and are-the-types-wrong", () => {
    const bin = (name: string) => path.join(PACKAGE_ROOT, "node_modules/.bin", name);
    const lint = node([bin("publint"), "--strict", tarball]);
    expect(lint).toMatchObject({ status: 0, stdout: expect.stringContaining("All good!") });
    // Resolution as of Node.js 10 knows no entries but the first.
    const types = node([bin("attw"), tarball, "--profile", "node16", "--no-color", "--no-emoji"]);
    expect(types).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/metrics" +│ OK \(CJS\) +│ OK \(ESM\) +│ OK/),
    });
  });
});

describe("check-symbols", () => {
  it.skipIf(process.platform !== "linux")("names what is newer than the oldest supported system", () => {
    const folder = temporaryFolder();
    const compile = (name: string, source: string) => {
      writeFileSync(path.join(folder, `${name}.c`), source);
      const args = ["-shared", "-fPIC", "-o", path.join(folder, `${name}.so`), path.join(folder, `${name}.c`)];
      expect(spawnSync("cc", args, { encoding: "utf8" }).stderr).toBe("");
      return path.join(folder, `${name}.so`);
    };
    const old = compile("old", "#include <stdlib.h>\nvoid* f(void) { return malloc(1); }\n");
    expect(symbolNeeds(old)).toMatchObject({ newest: { GLIBC: expect.stringMatching(/^2\./) }, exceeding: [] });
    // A library of its own stands for that of a newer system.
    writeFileSync(path.join(folder, "new.map"), "GLIBC_2.99 { global: later; };\n");
    writeFileSync(path.join(folder, "new.c"), "void later(void) {}\n");
    const map = `-Wl,--version-script=${path.join(folder, "new.map")}`;
    const library = path.join(folder, "libnew.so");
    spawnSync("cc", ["-shared", "-fPIC", map, "-o", library, path.join(folder, "new.c")]);
    writeFileSync(path.join(folder, "user.c"), "void later(void);\nvoid f(void) { later(); }\n");
    const user = path.join(folder, "user.so");
    spawnSync("cc", ["-shared", "-fPIC", "-o", user, path.join(folder, "user.c"), library]);
    expect(symbolNeeds(user).exceeding).toEqual(["later@GLIBC_2.99"]);
    expect(() => checkSymbols([old, user])).toThrow(/user\.so: later@GLIBC_2\.99\nFix: /);
  });
});

describe("libtorch, as an installed package sees it", () => {
  const doctor = (folder: string, options = {}) => {
    const { status, stdout } = cli(["doctor", "--json"], { env: { LAYER_ENSEMBLES_LIBTORCH: folder }, ...options });
    const { ok, problems, libtorch } = JSON.parse(stdout);
    return { status, ok, problems, libtorch };
  };
  const problem = (code: string, message: RegExp) => ({
    status: 1,
    ok: false,
    problems: [{ code, message: expect.stringMatching(message) }],
  });
  const CURE = "Fix: npx layer-ensembles install-libtorch, or set LAYER_ENSEMBLES_LIBTORCH to a folder";

  it("not found", () => {
    expect(doctor(path.join(root, "nowhere"))).toMatchObject(
      problem("ERR_LE_LIBTORCH_NOT_FOUND", new RegExp(`nowhere\\) is not a folder\n${CURE}`)),
    );
    expect(doctor("", { env: { LAYER_ENSEMBLES_LIBTORCH: "", XDG_CACHE_HOME: root } })).toMatchObject(
      problem("ERR_LE_LIBTORCH_NOT_FOUND", new RegExp(`LIBTORCH is not set[^]*holds no 2\\.13\\.x\n${CURE}`)),
    );
  });

  it("of another version", () => {
    const old = fakeLibtorch(temporaryFolder(), { version: "2.5.1+cpu" });
    expect(doctor(old)).toMatchObject(
      problem("ERR_LE_LIBTORCH_VERSION", new RegExp(`has version 2\\.5\\.1\\+cpu, and 2\\.13 is needed\n${CURE}`)),
    );
  });

  it("cut short", () => {
    const short = fakeLibtorch(temporaryFolder());
    truncateSync(path.join(short, "lib", libraryName("torch_cpu")), 1000);
    expect(doctor(short)).toMatchObject(
      problem("ERR_LE_LIBTORCH_BROKEN", new RegExp(`cut short \\(1000 of at least 200000 bytes\\)\n${CURE}`)),
    );
  });

  it("in a folder that may not be read", () => {
    const locked = fakeLibtorch(temporaryFolder());
    chmodSync(path.join(locked, "lib"), 0);
    chmodSync(locked, 0o755);
    chmodSync(root, 0o755);
    // To root nothing is locked: ask as somebody else.
    const uid = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
    const cause = new RegExp(`cannot be read: EACCES: permission denied[^]*\n${CURE}`);
    expect(doctor(locked, { uid })).toMatchObject(problem("ERR_LE_LIBTORCH_BROKEN", cause));
    chmodSync(path.join(locked, "lib"), 0o755);
  });

  it("as an archive with the wrong SHA-256", () => {
    const archive = path.join(temporaryFolder(), "libtorch.zip");
    writeFileSync(archive, fakeArchive());
    const cache = temporaryFolder();
    const install = ["install-libtorch", "--from", archive, "--sha256", "0".repeat(64)];
    expect(cli(install, { env: { XDG_CACHE_HOME: cache } })).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/^error \[ERR_LE_LIBTORCH_BROKEN\]: Expected SHA-256 0+ for .*Fix: try again/m),
    });
  });

  it("from the package that scripts/pack-libtorch makes, installed beside it", () => {
    // Small libraries in place of the real ones, which take minutes to pack.
    const made = temporaryFolder();
    mkdirSync(path.join(made, "lib"));
    const compile = (name: string, ...needed: string[]) => {
      const file = path.join(made, "lib", name);
      const source = path.join(made, "empty.c");
      writeFileSync(source, "int unused;\n");
      const links = needed.map((library) => path.join(made, "lib", library));
      const args = ["-shared", "-fPIC", "-Wl,--no-as-needed", `-Wl,-soname,${name}`, "-o", file, source, ...links];
      expect(spawnSync("cc", args, { encoding: "utf8" }).stderr).toBe("");
    };
    compile("libc10.so");
    compile("libgomp.so.1");
    compile("libtorch_cpu.so", "libc10.so", "libgomp.so.1");
    compile("libshm.so", "libtorch_cpu.so");
    mkdirSync(path.join(made, "licenses/third_party/fmt"), { recursive: true });
    for (const file of ["LICENSE", "third_party/fmt/LICENSE"]) writeFileSync(path.join(made, "licenses", file), "MIT");
    const folder = temporaryFolder();
    layOut({ folder: made, version: "2.13.0", flavour: "cpu", headers: false, source: "test" }, folder);
    const [{ filename, files }] = npm(["pack", "--pack-destination", root], folder);
    expect(files.map((file: { path: string }) => file.path).sort()).toEqual([
      "NOTICE",
      "README.md",
      "build-version",
      "lib/libc10.so",
      "lib/libgomp.so.1",
      "lib/libtorch_cpu.so",
      "licenses/LICENSE",
      "licenses/third_party/fmt/LICENSE",
      "package.json",
    ]);
    npm(["install", "--ignore-scripts", "--prefer-offline", "--no-save", path.join(root, filename)], project);
    const { libtorch, problems } = doctor("");
    expect(libtorch).toEqual({
      folder: path.join(realpathSync(project), "node_modules/@layer-ensembles/libtorch-linux-x64-cpu"),
      version: "2.13.0",
      flavour: "cpu",
      headers: false,
      source: "@layer-ensembles/libtorch-linux-x64-cpu",
    });
    // It is found; that these libraries are empty shows only when the addon asks them for something.
    expect(problems).toMatchObject([{ message: expect.stringContaining("undefined symbol") }]);
  });
});
