import { readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it, vi } from "vitest";
import { configuration, configure } from "../../lib/native/configure.js";
import { doctor, formatDiagnosis } from "../../lib/native/doctor.js";
import { LIBTORCH_VERSION } from "../../lib/native/package.js";
import { findTools } from "../../lib/native/tools.js";
import { PACKAGE_ROOT, PACKAGE_VERSION } from "../../lib/package.js";

describe("configure", () => {
  it("keeps what is left out", () => {
    configure({ threads: 2 });
    configure({ allocator: "system" });
    configure({ threads: undefined } as never);
    expect(configuration()).toEqual({ threads: 2, allocator: "system" });
  });

  it.each([
    [{ thread: 2 }, /received 'thread'\. Did you mean 'threads'/],
    [{ threads: 0 }, /an integer from 1 to 1024 for option 'threads' of configure but received 0/],
    [{ allocator: "jemalloc" }, /one of "pool", "system"/],
    [{ libtorch: "" }, /a string that is not empty/],
  ])("refuses %j", (options, message) => {
    expect(() => configure(options as never)).toThrow(
      expect.objectContaining({ code: "ERR_LE_OPTION", message: expect.stringMatching(message) }),
    );
  });
});

describe("findTools", () => {
  it("names the missing tool and the fix in one sentence", () => {
    const tools = findTools({ PATH: "/nonexistent" });
    expect(tools.compiler.problem).toMatch(
      /^Expected a C\+\+20 compiler .* but received none \(tried c\+\+, g\+\+, clang\+\+\)\. Fix: /,
    );
    expect(tools.cmake.problem).toMatch(/^Expected cmake 3\.18 or newer for building but received none\. Fix: /);
    expect(tools.make.problem).toMatch(/^Expected make for building but received none\. Fix: /);
    expect(findTools({ ...process.env, CXX: "no-such-compiler" }).compiler.problem).toMatch("tried no-such-compiler");
  });
});

describe("doctor", () => {
  it("finds everything in a built checkout", () => {
    const diagnosis = doctor();
    expect(diagnosis.problems).toEqual([]);
    expect(diagnosis.ok).toBe(true);
    expect(formatDiagnosis(diagnosis)).toMatch(/^layer-ensembles +0\.\d[\s\S]*\nReady\.$/);
    expect(JSON.parse(JSON.stringify(diagnosis))).toMatchObject({ ok: true, package: { version: PACKAGE_VERSION } });
  });

  it("says what is wrong and how to mend it", () => {
    vi.stubEnv("LAYER_ENSEMBLES_LIBTORCH", "/nowhere");
    const diagnosis = doctor();
    vi.unstubAllEnvs();
    expect(diagnosis.ok).toBe(false);
    expect(diagnosis.problems.map(({ code }) => code)).toEqual(["ERR_LE_LIBTORCH_NOT_FOUND"]);
    expect(formatDiagnosis(diagnosis)).toMatch(/\/nowhere\) is not a folder[\s\S]*Fix: [\s\S]*\nNot ready\.$/);
  });
});

describe("versions", () => {
  it("are the same in package.json, in the core and in the changelog", () => {
    const read = (file: string) => readFileSync(path.join(PACKAGE_ROOT, file), "utf8");
    expect(/kVersion = "([^"]+)"/.exec(read("native/core/version.h"))?.[1]).toBe(PACKAGE_VERSION);
    expect(/^## (\S+)/m.exec(read("CHANGELOG.md"))?.[1]).toBe(PACKAGE_VERSION);
    expect(read("CONTRIBUTING.md")).toContain(`libtorch ${LIBTORCH_VERSION}`);
  });
});
