import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { installLibtorch } from "../../lib/native/install.js";
import type { InstallProgress } from "../../lib/native/install-options.js";
import { libraryName, searchLibtorch } from "../../lib/native/locate.js";
import { fakeArchive, fakeLibtorch, temporaryFolder } from "../support/libtorch.js";
import { cutOff, serve, serveProxy, unreachable } from "../support/server.js";

const sha256 = (data: Buffer) => createHash("sha256").update(data).digest("hex");
const error = (code: string, message: string | RegExp) =>
  expect.objectContaining({ name: "LayerEnsemblesError", code, message: expect.stringMatching(message) });

/** Puts a `python3` before all others. */
function fakePython(script: string): void {
  const folder = temporaryFolder();
  writeFileSync(path.join(folder, "python3"), `#!/bin/sh\n${script}\n`);
  chmodSync(path.join(folder, "python3"), 0o755);
  vi.stubEnv("PATH", `${folder}:${process.env.PATH}`);
  onTestFinished(() => {
    vi.unstubAllEnvs();
  });
}

const noPython = () => fakePython('echo "/usr/bin/python3: No module named pip" >&2; exit 1');
const partsOf = (cache: string) => (existsSync(cache) ? readdirSync(cache).filter((name) => name !== "downloads") : []);

describe("installLibtorch --from", () => {
  it.each([
    ["an archive", false],
    ["a wheel", true],
  ])("%s, checked by its SHA-256, into a folder that the search then finds", async (_, wheel) => {
    const root = temporaryFolder();
    const data = fakeArchive(
      { wheel },
      { "torch/lib/libtorch_python.so": Buffer.from("x"), "torch/__init__.py": Buffer.from("") },
    );
    const file = path.join(root, wheel ? "torch.whl" : "libtorch.zip");
    writeFileSync(file, data);
    const cache = path.join(root, "layer-ensembles/libtorch");
    const result = await installLibtorch({ from: file, sha256: sha256(data).toUpperCase(), cache });
    expect(result).toMatchObject({
      folder: path.join(cache, "2.13.0-cpu"),
      version: "2.13.0",
      flavour: "cpu",
      installed: true,
    });
    expect(partsOf(cache)).toEqual(["2.13.0-cpu"]);
    expect(readdirSync(path.join(result.folder, "lib")).sort()).toEqual(
      [libraryName("c10"), libraryName("torch_cpu")].sort(),
    );
    expect(existsSync(path.join(result.folder, "__init__.py"))).toBe(false);
    expect(searchLibtorch({ version: "2.13.0", headers: true, env: { XDG_CACHE_HOME: root } }).found?.folder).toBe(
      result.folder,
    );
    await expect(installLibtorch({ cache, base: unreachable })).resolves.toMatchObject({ installed: false });
  });

  it("a folder, a folder that holds one, and a file: address", async () => {
    const root = temporaryFolder();
    fakeLibtorch(path.join(root, "site-packages/torch"), { wheel: true });
    for (const from of ["site-packages", "site-packages/torch"]) {
      const cache = path.join(root, `cache-${path.basename(from)}`);
      const { folder } = await installLibtorch({ from: path.join(root, from), cache });
      expect(readFileSync(path.join(folder, "version.py"), "utf8")).toContain("2.13.0+cpu");
      expect(existsSync(path.join(folder, "include/ATen/ATen.h"))).toBe(true);
    }
    writeFileSync(path.join(root, "a.zip"), fakeArchive());
    const from = pathToFileURL(path.join(root, "a.zip")).href;
    await expect(installLibtorch({ from, cache: path.join(root, "c") })).resolves.toMatchObject({ installed: true });
  });

  it("refuses what is no libtorch, is cut short, fails its SHA-256 or is of another version, and leaves nothing", async () => {
    const root = temporaryFolder();
    const cache = path.join(root, "cache");
    const data = fakeArchive();
    const install = (name: string, content: Buffer, options = {}) => {
      writeFileSync(path.join(root, name), content);
      return installLibtorch({ from: path.join(root, name), cache, ...options });
    };
    await expect(install("short.zip", data.subarray(0, 100_000))).rejects.toThrow(
      error("ERR_LE_LIBTORCH_BROKEN", /short\.zip but received a damaged one.*Fix: download it again/),
    );
    await expect(install("text.zip", Buffer.from("<html>"))).rejects.toThrow(
      error("ERR_LE_LIBTORCH_BROKEN", "text.zip"),
    );
    await expect(install("sum.zip", data, { sha256: "0".repeat(64) })).rejects.toThrow(
      error("ERR_LE_LIBTORCH_BROKEN", new RegExp(`Expected SHA-256 0{64} for sum.zip but received ${sha256(data)}`)),
    );
    await expect(install("old.zip", fakeArchive({ version: "2.4.0+cpu" }))).rejects.toThrow(
      error("ERR_LE_LIBTORCH_VERSION", "has version 2.4.0"),
    );
    await expect(install("cuda.zip", fakeArchive({ version: "2.13.0+cu130" }))).rejects.toThrow(
      error("ERR_LE_LIBTORCH_VERSION", "--flavour cu130"),
    );
    await expect(installLibtorch({ from: path.join(root, "none.zip"), cache })).rejects.toThrow(
      error("ERR_LE_LIBTORCH_NOT_FOUND", "does not exist"),
    );
    await expect(installLibtorch({ from: root, cache })).rejects.toThrow(
      error("ERR_LE_LIBTORCH_NOT_FOUND", "holds no lib"),
    );
    expect(partsOf(cache)).toEqual([]);
  });

  it.each([false, true])("finds one wrong bit in a file, in an archive and in a wheel: %s", async (wheel) => {
    const root = temporaryFolder();
    const data = fakeArchive(
      { wheel },
      { [`${wheel ? "torch" : "libtorch"}/share/words`]: Buffer.from("right words") },
    );
    data[data.indexOf("right words")]! ^= 1;
    writeFileSync(path.join(root, "bit.zip"), data);
    const cache = path.join(root, "cache");
    await expect(installLibtorch({ from: path.join(root, "bit.zip"), cache })).rejects.toThrow(
      error("ERR_LE_LIBTORCH_BROKEN", "the checksum of"),
    );
    expect(partsOf(cache)).toEqual([]);
  });

  it("warns of an address that anybody on the way may answer", async () => {
    const data = fakeArchive();
    const { base } = await serve(data);
    const told: string[] = [];
    const onProgress = ({ stage, detail }: InstallProgress) => stage === "note" && told.push(detail);
    await installLibtorch({ from: `${base}/x.zip`, cache: temporaryFolder(), onProgress });
    expect(told).toEqual([expect.stringContaining("not encrypted")]);
    await installLibtorch({ from: `${base}/x.zip`, cache: temporaryFolder(), sha256: sha256(data), onProgress });
    expect(told).toHaveLength(1);
  });

  it("never writes outside its folder", async () => {
    const root = temporaryFolder();
    writeFileSync(path.join(root, "evil.zip"), fakeArchive({}, { "libtorch/lib/../../../../evil": Buffer.from("x") }));
    const cache = path.join(root, "a/b/cache");
    await expect(installLibtorch({ from: path.join(root, "evil.zip"), cache })).rejects.toThrow(
      error("ERR_LE_LIBTORCH_BROKEN", "invalid relative path"),
    );
    expect(readdirSync(root).sort()).toEqual(["a", "evil.zip"]);
  });

  it("keeps what is installed where a replacement fails, and replaces it where it succeeds", async () => {
    const root = temporaryFolder();
    const cache = path.join(root, "cache");
    writeFileSync(path.join(root, "a.zip"), fakeArchive());
    writeFileSync(path.join(root, "b.zip"), fakeArchive({}, { "libtorch/share/new": Buffer.from("x") }));
    writeFileSync(path.join(root, "bad.zip"), fakeArchive().subarray(0, 1000));
    const { folder } = await installLibtorch({ from: path.join(root, "a.zip"), cache });
    await expect(installLibtorch({ from: path.join(root, "bad.zip"), cache })).rejects.toThrow();
    expect(existsSync(path.join(folder, "lib"))).toBe(true);
    await installLibtorch({ from: path.join(root, "b.zip"), cache });
    expect(existsSync(path.join(folder, "share/new"))).toBe(true);
    expect(partsOf(cache)).toEqual(["2.13.0-cpu"]);
  });
});

describe("installLibtorch by download", () => {
  it("resumes where the connection broke", async () => {
    const data = fakeArchive();
    const { base, requests } = await serve(data, (n, _, response) => n === 1 && cutOff(response, data, 0, 100_000));
    const cache = temporaryFolder();
    const seen: InstallProgress[] = [];
    await installLibtorch({ from: `${base}/x.zip`, sha256: sha256(data), cache, onProgress: (p) => seen.push(p) });
    expect(requests).toHaveLength(2);
    const resumedAt = Number(/bytes=(\d+)-/.exec(requests[1]?.range ?? "")?.[1]);
    expect(resumedAt).toBeGreaterThan(0);
    expect(resumedAt).toBeLessThanOrEqual(100_000);
    const downloads = seen.filter((p) => p.stage === "download");
    expect(downloads.at(-1)).toMatchObject({ done: data.length, total: data.length });
  });

  it("continues what an aborted run left, and rejects with the signal's reason", async () => {
    const data = fakeArchive();
    const { base, requests } = await serve(data, (n, _, response) => {
      if (n > 1) return false;
      response.writeHead(200, { etag: '"1"', "content-length": data.length });
      response.write(data.subarray(0, 80_000));
      return true;
    });
    const cache = temporaryFolder();
    const controller = new AbortController();
    // What has come is reported before it is written.
    const abort = () => controller.abort(new Error("enough"));
    const stop = (p: InstallProgress) => (p.done ?? 0) >= 80_000 && setTimeout(abort, 100);
    const first = installLibtorch({ from: `${base}/x.zip`, cache, signal: controller.signal, onProgress: stop });
    await expect(first).rejects.toThrow(/^enough$/);
    expect(partsOf(cache)).toEqual([]);
    await installLibtorch({ from: `${base}/x.zip`, cache, sha256: sha256(data) });
    expect(requests[1]?.range).toMatch(/^bytes=[1-9]\d*-$/);
  });

  it("starts again where the server's file has changed", async () => {
    const old = fakeArchive({ version: "2.13.0" });
    const data = fakeArchive({}, { "libtorch/share/new": Buffer.alloc(50) });
    const { base, requests } = await serve(
      data,
      (n, _, response) => n === 1 && cutOff(response, old, 0, 100_000, '"old"'),
      '"new"',
    );
    const cache = temporaryFolder();
    const { folder } = await installLibtorch({ from: `${base}/x.zip`, sha256: sha256(data), cache });
    expect(requests[1]?.range).toBeDefined();
    expect(existsSync(path.join(folder, "share/new"))).toBe(true);
  });

  it("drops a file with the wrong SHA-256, so that the next run starts clean", async () => {
    const data = fakeArchive();
    const { base, requests } = await serve(data);
    const cache = temporaryFolder();
    const from = `${base}/x.zip`;
    await expect(installLibtorch({ from, cache, sha256: "1".repeat(64) })).rejects.toThrow(
      error("ERR_LE_LIBTORCH_BROKEN", "Expected SHA-256 1{64} for x.zip"),
    );
    expect(readdirSync(path.join(cache, "downloads"))).toEqual([]);
    await installLibtorch({ from, cache, sha256: sha256(data) });
    expect(requests[1]?.range).toBeUndefined();
  });

  it("gives up on a server that refuses, is silent or is not there", async () => {
    const { base } = await serve(Buffer.alloc(0), (_, request, response) => {
      if (request.url === "/404.zip") response.writeHead(404).end();
      return true;
    });
    const cache = temporaryFolder();
    await expect(installLibtorch({ from: `${base}/404.zip`, cache })).rejects.toThrow(
      error("ERR_LE_LIBTORCH_NOT_FOUND", "404.zip but received: HTTP 404"),
    );
    await expect(installLibtorch({ from: `${base}/silent.zip`, cache, connectTimeout: 100 })).rejects.toThrow(
      error("ERR_LE_LIBTORCH_NOT_FOUND", "did not answer within 0.1 s"),
    );
    await expect(installLibtorch({ from: `${unreachable}/x.zip`, cache })).rejects.toThrow(
      error("ERR_LE_LIBTORCH_NOT_FOUND", /x\.zip but received: fetch failed/),
    );
  });

  it("fetches once where several run at the same time", async () => {
    const data = fakeArchive();
    const { base, requests } = await serve(data);
    const cache = temporaryFolder();
    noPython();
    const results = await Promise.all([1, 2, 3].map(() => installLibtorch({ cache, base, sha256: sha256(data) })));
    expect(results.map((result) => result.installed).sort()).toEqual([false, false, true]);
    expect(requests).toHaveLength(1);
  });
});

describe.skipIf(`${process.platform}-${process.arch}` !== "linux-x64")("installLibtorch without a source", () => {
  it("takes the official archive", async () => {
    const data = fakeArchive({ version: "2.12.1+cu130" });
    const { base, requests } = await serve(data);
    noPython();
    const cache = temporaryFolder();
    const result = await installLibtorch({ cache, base, version: "2.12.1", flavour: "cu130" });
    expect(requests.map(({ url }) => url)).toEqual(["/cu130/libtorch-shared-with-deps-2.12.1%2Bcu130.zip"]);
    expect(result.folder).toBe(path.join(cache, "2.12.1-cu130"));
    expect(readdirSync(path.join(cache, "downloads"))).toEqual([]);
  });

  it("falls back to pip, and says so", async () => {
    const wheel = path.join(temporaryFolder(), "torch-2.13.0-cp312-manylinux.whl");
    writeFileSync(wheel, fakeArchive({ wheel: true, version: "2.13.0+cpu" }));
    fakePython(`
for argument; do last=$argument; [ "$previous" = --dest ] && dest=$argument; previous=$argument; done
[ "$last" = "torch==2.13.0" ] || { echo "ERROR: No matching distribution found for $last" >&2; exit 1; }
mkdir -p "$dest" && cp ${wheel} "$dest"`);
    const notes: string[] = [];
    const cache = temporaryFolder();
    const onProgress = (p: InstallProgress) => p.stage !== "unpack" && notes.push(`${p.stage} ${p.detail}`);
    const result = await installLibtorch({ cache, base: unreachable, onProgress });
    expect(result.folder).toBe(path.join(cache, "2.13.0-cpu"));
    expect(notes.join("\n")).toMatch(
      /note .*127\.0\.0\.1:9.*trying pip instead\npip python3 -m pip download --no-deps torch==2\.13\.0\+cpu\npip .* torch==2\.13\.0$/,
    );
  });

  it("refuses an official archive with another SHA-256 than the known one", async () => {
    const { base } = await serve(fakeArchive());
    noPython();
    await expect(installLibtorch({ cache: temporaryFolder(), base })).rejects.toThrow(
      error("ERR_LE_LIBTORCH_NOT_FOUND", /official archive: Expected SHA-256 edbf4cb[\s\S]*pip: /),
    );
  });

  it("lists every failure and the cure where no route works", async () => {
    noPython();
    const cache = temporaryFolder();
    await expect(installLibtorch({ cache, base: unreachable })).rejects.toThrow(
      error("ERR_LE_LIBTORCH_NOT_FOUND", /official archive: [\s\S]*pip: .*No module named pip[\s\S]*Fix: .*--from/),
    );
    expect(partsOf(cache)).toEqual([]);
  });
});

describe("installLibtorch behind a proxy", () => {
  it("goes by HTTP_PROXY, unless NO_PROXY names the server", async () => {
    const data = fakeArchive();
    const { base, requests } = await serve(data);
    const { address, targets } = await serveProxy();
    vi.stubEnv("http_proxy", undefined);
    vi.stubEnv("HTTP_PROXY", address);
    onTestFinished(() => {
      vi.unstubAllEnvs();
    });
    const from = `${base}/x.zip`;
    await installLibtorch({ from, cache: temporaryFolder() });
    expect(targets).toEqual([]); // vitest.config.ts has the servers of tests in NO_PROXY
    vi.stubEnv("NO_PROXY", "elsewhere.example");
    vi.stubEnv("no_proxy", undefined);
    await installLibtorch({ from, cache: temporaryFolder(), sha256: sha256(data) });
    expect(targets).toEqual([base.replace("http://", "")]);
    expect(requests).toHaveLength(2);
    vi.stubEnv("HTTP_PROXY", unreachable);
    await expect(installLibtorch({ from, cache: temporaryFolder() })).rejects.toThrow(
      error("ERR_LE_LIBTORCH_NOT_FOUND", /x\.zip but received: fetch failed/),
    );
    expect(requests).toHaveLength(2);
  });
});

describe("installLibtorch into a folder of the user's choice", () => {
  it("fills one that is new or empty, which is then found by LAYER_ENSEMBLES_LIBTORCH", async () => {
    const root = temporaryFolder();
    const from = fakeLibtorch(temporaryFolder());
    const cache = path.join(root, "cache");
    mkdirSync(path.join(root, "empty"));
    for (const dir of [path.join(root, "new/libtorch"), path.join(root, "empty")]) {
      await expect(installLibtorch({ from, dir, cache })).resolves.toMatchObject({ folder: dir, installed: true });
      expect(searchLibtorch({ env: { LAYER_ENSEMBLES_LIBTORCH: dir } }).found?.folder).toBe(dir);
      await expect(installLibtorch({ dir, cache })).resolves.toMatchObject({ folder: dir, installed: false });
    }
    expect(readdirSync(root).sort()).toEqual(["empty", "new"]);
    expect(readdirSync(path.join(root, "new"))).toEqual(["libtorch"]);
  });

  it("fills it once where several run at the same time", async () => {
    const from = fakeLibtorch(temporaryFolder());
    const dir = path.join(temporaryFolder(), "libtorch");
    const results = await Promise.all([1, 2, 3].map(() => installLibtorch({ from, dir })));
    expect(results.filter(({ installed }) => installed)).toHaveLength(1);
    expect(results.map(({ folder }) => folder)).toEqual([dir, dir, dir]);
  });

  it("replaces a libtorch only by force, and other things never", async () => {
    const dir = fakeLibtorch(temporaryFolder(), { version: "2.12.0" });
    const from = fakeLibtorch(temporaryFolder());
    await expect(installLibtorch({ from, dir })).rejects.toThrow(
      error("ERR_LE_OPTION", "holds another libtorch. Fix: add --force"),
    );
    expect(searchLibtorch({ version: "2.12.0", env: { LAYER_ENSEMBLES_LIBTORCH: dir } }).found?.folder).toBe(dir);
    await expect(installLibtorch({ from, dir, force: true })).resolves.toMatchObject({ version: "2.13.0" });

    const precious = temporaryFolder();
    writeFileSync(path.join(precious, "thesis.tex"), "");
    await expect(installLibtorch({ from, dir: precious, force: true })).rejects.toThrow(
      error("ERR_LE_OPTION", "holds other things"),
    );
    expect(readdirSync(precious)).toEqual(["thesis.tex"]);
  });
});

describe("installLibtorch and licences", () => {
  it("keeps those of a wheel and of an installed Python package", async () => {
    const licences = { "torch-2.13.0+cpu.dist-info/licenses/third_party/fmt/LICENSE": Buffer.from("MIT") };
    const root = temporaryFolder();
    writeFileSync(path.join(root, "torch.whl"), fakeArchive({ wheel: true }, licences));
    fakeLibtorch(path.join(root, "site-packages/torch"), { wheel: true });
    for (const [name, content] of Object.entries(licences)) {
      mkdirSync(path.dirname(path.join(root, "site-packages", name)), { recursive: true });
      writeFileSync(path.join(root, "site-packages", name), content);
    }
    for (const from of ["torch.whl", "site-packages/torch"]) {
      const { folder } = await installLibtorch({ from: path.join(root, from), cache: path.join(root, "cache") });
      expect(readFileSync(path.join(folder, "licenses/third_party/fmt/LICENSE"), "utf8")).toBe("MIT");
    }
  });
});

describe("installLibtorch and what others left", () => {
  it("takes over the lock and removes the leftovers of a killed run", async () => {
    const cache = temporaryFolder();
    const dead = spawnSync(process.execPath, ["-e", ""]).pid;
    writeFileSync(path.join(cache, "2.13.0-cpu.lock"), JSON.stringify({ pid: dead, host: os.hostname(), id: "x" }));
    mkdirSync(path.join(cache, ".2.13.0-cpu-0000/libtorch/lib"), { recursive: true });
    await installLibtorch({ from: fakeLibtorch(temporaryFolder()), cache });
    expect(partsOf(cache)).toEqual(["2.13.0-cpu"]);
  });

  it("takes over a lock that shows no life, also of another machine or without content", async () => {
    const cache = temporaryFolder();
    const lock = path.join(cache, "2.13.0-cpu.lock");
    const from = fakeLibtorch(temporaryFolder());
    for (const content of [JSON.stringify({ pid: 1, host: "elsewhere", id: "x" }), ""]) {
      writeFileSync(lock, content);
      utimesSync(lock, new Date(0), new Date(0));
      await expect(installLibtorch({ from, cache })).resolves.toMatchObject({ installed: true });
    }
  });

  it("waits for a living holder, and can be stopped while it waits", async () => {
    const cache = temporaryFolder();
    writeFileSync(
      path.join(cache, "2.13.0-cpu.lock"),
      JSON.stringify({ pid: process.pid, host: os.hostname(), id: "x" }),
    );
    const controller = new AbortController();
    const onProgress = (p: InstallProgress) => p.stage === "wait" && controller.abort(new Error("no patience"));
    const from = fakeLibtorch(temporaryFolder());
    await expect(installLibtorch({ from, cache, signal: controller.signal, onProgress })).rejects.toThrow(
      "no patience",
    );
    expect(partsOf(cache)).toEqual(["2.13.0-cpu.lock"]);
  });

  it("says what to do where the cache cannot be written", async () => {
    const file = path.join(temporaryFolder(), "file");
    writeFileSync(file, "");
    await expect(installLibtorch({ cache: path.join(file, "cache") })).rejects.toThrow(
      error("ERR_LE_IO", /Expected to write libtorch to .*cache but received ENOTDIR.*Fix: set XDG_CACHE_HOME/),
    );
  });
});

describe("installLibtorch options", () => {
  it.each([
    [{ flavour: "../x" }, "for option 'flavour'"],
    [{ flavour: "gpu" }, "for option 'flavour'"],
    [{ version: "2.13" }, "for option 'version'"],
    [{ sha256: "abc" }, "64 hexadecimal digits"],
  ])("refuses %j", async (options, message) => {
    await expect(installLibtorch({ cache: "/nonexistent", ...options })).rejects.toThrow(
      error("ERR_LE_OPTION", message),
    );
  });
});
