import { chmodSync, mkdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { cacheFolder, libraryName, locateLibtorch, readVersion, searchLibtorch } from "../../lib/native/locate.js";
import { fakeLibtorch, temporaryFolder } from "../support/libtorch.js";

/** A search that sees nothing but what the test gives. */
function search(env: NodeJS.ProcessEnv, options: Parameters<typeof searchLibtorch>[0] = {}) {
  return searchLibtorch({ version: "2.13.0", ...options, env: { XDG_CACHE_HOME: "/nonexistent", ...env } });
}

describe("searchLibtorch", () => {
  it("records every step that gave nothing, in order", () => {
    const { found, misses } = search({ LIBTORCH: "/nowhere" });
    expect(found).toBeNull();
    expect(misses.map(({ source }) => source)).toEqual([
      "configure({ libtorch })",
      "LAYER_ENSEMBLES_LIBTORCH",
      "LIBTORCH",
      `package @layer-ensembles/libtorch-${process.platform}-${process.arch}-*`,
      "the user cache /nonexistent/layer-ensembles/libtorch",
    ]);
    expect(misses[2]).toMatchObject({
      folder: "/nowhere",
      code: "ERR_LE_LIBTORCH_NOT_FOUND",
      reason: "is not a folder",
    });
  });

  it("prefers configure, then LAYER_ENSEMBLES_LIBTORCH, then LIBTORCH, then the cache", () => {
    const root = temporaryFolder();
    const folder = (name: string) => fakeLibtorch(path.join(root, name));
    const cached = fakeLibtorch(path.join(root, "cache/layer-ensembles/libtorch/2.13.0-cpu"));
    const env: NodeJS.ProcessEnv = {
      XDG_CACHE_HOME: path.join(root, "cache"),
      LIBTORCH: folder("c"),
      LAYER_ENSEMBLES_LIBTORCH: folder("b"),
    };
    expect(search(env, { libtorch: folder("a") }).found?.folder).toBe(path.join(root, "a"));
    expect(search(env).found?.folder).toBe(path.join(root, "b"));
    delete env.LAYER_ENSEMBLES_LIBTORCH;
    expect(search(env).found?.folder).toBe(path.join(root, "c"));
    delete env.LIBTORCH;
    expect(search(env).found).toEqual({
      folder: cached,
      version: "2.13.0",
      flavour: "cpu",
      headers: true,
      source: "the user cache",
    });
  });

  it("stops at an explicit choice that is unusable, and passes over LIBTORCH", () => {
    const root = temporaryFolder();
    fakeLibtorch(path.join(root, "layer-ensembles/libtorch/2.13.0-cpu"));
    const env = { XDG_CACHE_HOME: root };
    expect(search({ ...env, LAYER_ENSEMBLES_LIBTORCH: "/nowhere" }).found).toBeNull();
    expect(search(env, { libtorch: "/nowhere" }).found).toBeNull();
    expect(search({ ...env, LIBTORCH: "/nowhere" }).found?.source).toBe("the user cache");
  });

  it("takes the newest patch and prefers CUDA in the cache, unless a flavour is asked for", () => {
    const root = temporaryFolder();
    const cache = path.join(root, "layer-ensembles/libtorch");
    for (const name of ["2.13.0-cpu", "2.13.2-cpu", "2.13.10-cpu", "2.12.9-cpu", "2.13.0-cu126", "2.13.0-cu130"]) {
      fakeLibtorch(path.join(cache, name), { version: name.replace("-", "+") });
    }
    const env = { XDG_CACHE_HOME: root };
    expect(search(env).found?.folder).toBe(path.join(cache, "2.13.0-cu130"));
    expect(search(env, { flavour: "cpu" }).found?.folder).toBe(path.join(cache, "2.13.10-cpu"));
    expect(search(env, { version: "2.12.0" }).found?.folder).toBe(path.join(cache, "2.12.9-cpu"));
    const { found, misses } = search(env, { version: "2.11.0" });
    expect(found).toBeNull();
    expect(misses.at(-1)?.reason).toMatch(/holds no 2\.11\.x \(only .*2\.12\.9-cpu/);
  });

  it("asks for headers only where they are needed", () => {
    const folder = fakeLibtorch(temporaryFolder(), { headers: false });
    expect(search({ LIBTORCH: folder }).found?.headers).toBe(false);
    expect(search({ LIBTORCH: folder }, { headers: true }).misses[2]?.reason).toMatch("include/ATen/ATen.h");
  });

  it("reads the version of a wheel and of an archive", () => {
    const root = temporaryFolder();
    expect(readVersion(fakeLibtorch(path.join(root, "a"), { wheel: true, version: "2.14.1+cu130" }))).toBe(
      "2.14.1+cu130",
    );
    expect(readVersion(fakeLibtorch(path.join(root, "b"), { version: "2.13.0" }))).toBe("2.13.0");
    expect(readVersion(root)).toBeNull();
  });
});

describe("locateLibtorch names what is wrong and the cure", () => {
  const locate =
    (folder: string, options = {}) =>
    () =>
      locateLibtorch({ version: "2.13.0", ...options, env: { LAYER_ENSEMBLES_LIBTORCH: folder } });
  const error = (code: string, message: string | RegExp) =>
    expect.objectContaining({ name: "LayerEnsemblesError", code, message: expect.stringMatching(message) });

  it("nothing found", () => {
    expect(() => locateLibtorch({ env: { XDG_CACHE_HOME: "/nonexistent" } })).toThrow(
      error("ERR_LE_LIBTORCH_NOT_FOUND", /LIBTORCH is not set[\s\S]*Fix: npx layer-ensembles install-libtorch/),
    );
    expect(locate(temporaryFolder())).toThrow(error("ERR_LE_LIBTORCH_NOT_FOUND", `holds no lib/${libraryName("c10")}`));
  });

  it("another version", () => {
    const folder = fakeLibtorch(temporaryFolder(), { version: "2.5.1+cpu" });
    expect(locate(folder)).toThrow(error("ERR_LE_LIBTORCH_VERSION", /has version 2\.5\.1\+cpu, and 2\.13 is needed/));
    expect(locate(fakeLibtorch(temporaryFolder(), { version: "2.130.0" }))).toThrow(
      error("ERR_LE_LIBTORCH_VERSION", "2.130.0"),
    );
    expect(locate(fakeLibtorch(temporaryFolder(), { version: "2.13.7+cpu" }))).not.toThrow();
  });

  it("no version", () => {
    const folder = fakeLibtorch(temporaryFolder());
    rmSync(path.join(folder, "build-version"));
    expect(locate(folder)).toThrow(error("ERR_LE_LIBTORCH_BROKEN", "does not say its version"));
  });

  it.skipIf(process.platform !== "linux")("a library that was cut short, is empty, or is no library", () => {
    const folder = fakeLibtorch(temporaryFolder());
    const library = path.join(folder, "lib", libraryName("torch_cpu"));
    truncateSync(library, 150_000);
    expect(locate(folder)).toThrow(error("ERR_LE_LIBTORCH_BROKEN", /cut short \(150000 of at least 200000 bytes\)/));
    truncateSync(library, 0);
    expect(locate(folder)).toThrow(error("ERR_LE_LIBTORCH_BROKEN", "no ELF file"));
    writeFileSync(library, "version https://git-lfs.github.com/spec/v1\n".repeat(5));
    expect(locate(folder)).toThrow(error("ERR_LE_LIBTORCH_BROKEN", "no ELF file"));
  });

  it("a folder that cannot be read", () => {
    const folder = temporaryFolder();
    writeFileSync(path.join(folder, "lib"), "");
    expect(locate(folder)).toThrow(error("ERR_LE_LIBTORCH_BROKEN", "cannot be read"));
  });

  it.skipIf(process.getuid?.() === 0)("a folder without permission", () => {
    const folder = fakeLibtorch(temporaryFolder());
    chmodSync(path.join(folder, "lib"), 0);
    expect(locate(folder)).toThrow(error("ERR_LE_LIBTORCH_BROKEN", "EACCES"));
    chmodSync(path.join(folder, "lib"), 0o755);
  });

  it("another flavour", () => {
    const root = temporaryFolder();
    mkdirSync(path.join(root, "x"));
    expect(locate(fakeLibtorch(path.join(root, "x")), { flavour: "cu130" })).toThrow(
      error("ERR_LE_LIBTORCH_NOT_FOUND", /has flavour cpu, and cu130[\s\S]*install-libtorch --flavour cu130/),
    );
  });
});

describe("cacheFolder", () => {
  it("follows XDG_CACHE_HOME where that is absolute, else ~/.cache", () => {
    expect(cacheFolder({ XDG_CACHE_HOME: "/c", HOME: "/h" })).toBe("/c/layer-ensembles/libtorch");
    expect(cacheFolder({ XDG_CACHE_HOME: "relative", HOME: "/h" })).toBe("/h/.cache/layer-ensembles/libtorch");
    expect(cacheFolder({ HOME: "/h" })).toBe("/h/.cache/layer-ensembles/libtorch");
  });
});
