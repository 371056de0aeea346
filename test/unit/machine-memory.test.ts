import { spawnSync } from "node:child_process";
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { MachineMemory } from "../../lib/native/machine-memory.js";

const isNumber = (value: unknown): value is number => typeof value === "number";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "le-machine-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** As another process finds it: this one keeps what it has read. */
function elsewhere(file: string, keys: string[]): unknown[] {
  const script = `
    import { MachineMemory } from ${JSON.stringify(path.resolve("lib/native/machine-memory.ts"))};
    const memory = new MachineMemory(process.argv[1], (value) => typeof value === "number");
    console.log(JSON.stringify(JSON.parse(process.argv[2]).map((key) => memory.get(key) ?? null)));`;
  const { stdout, stderr } = spawnSync(
    process.execPath,
    ["--import", "tsx", "--input-type=module", "-e", script, file, JSON.stringify(keys)],
    { encoding: "utf8" },
  );
  if (!stdout) throw new Error(stderr);
  return JSON.parse(stdout);
}

describe("MachineMemory", () => {
  it("keeps what it is told, for other processes too", () => {
    const file = path.join(folder, "deep", "a.jsonl");
    const memory = new MachineMemory(file, isNumber);
    expect(memory.get("a")).toBeUndefined();
    memory.set("a", 1);
    memory.set("b", 2);
    memory.set("a", 3);
    expect(memory.get("a")).toBe(3);
    expect(elsewhere(file, ["a", "b", "c"])).toEqual([3, 2, null]);
  });

  it("passes over lines that were cut off, are no JSON, or hold something else", () => {
    const file = path.join(folder, "a.jsonl");
    writeFileSync(file, '["a",1]\n["b","text"]\n{"c":1}\nnull\n["d"]\n[4,4]\n["e",');
    const memory = new MachineMemory(file, isNumber);
    expect(["a", "b", "c", "d", "e"].map((key) => memory.get(key))).toEqual([
      1,
      undefined,
      undefined,
      undefined,
      undefined,
    ]);
    memory.set("f", 6); // behind the line that was cut off
    expect(elsewhere(file, ["a", "e", "f"])).toEqual([1, null, 6]);
  });

  it("serves its process where the disk takes nothing, or is not what it should be", () => {
    writeFileSync(path.join(folder, "file"), "");
    const below = new MachineMemory(path.join(folder, "file", "a.jsonl"), isNumber);
    below.set("a", 1);
    expect(below.get("a")).toBe(1);
    mkdirSync(path.join(folder, "folder"));
    const instead = new MachineMemory(path.join(folder, "folder"), isNumber);
    instead.set("a", 2);
    expect(instead.get("a")).toBe(2);
    expect(new MachineMemory(path.join(folder, "folder"), isNumber).get("a")).toBe(2);
  });

  it("adds lines and rewrites none: several processes write side by side", () => {
    const file = path.join(folder, "a.jsonl");
    const memory = new MachineMemory(file, isNumber);
    memory.set("mine", 1);
    appendFileSync(file, '\n["theirs",2]\n');
    memory.set("mine too", 3);
    expect(readFileSync(file, "utf8").split("\n").filter(Boolean)).toEqual([
      '["mine",1]',
      '["theirs",2]',
      '["mine too",3]',
    ]);
  });
});
