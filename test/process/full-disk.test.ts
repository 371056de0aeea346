// A file system without space, or that is read-only, under every command that writes: one line, exit code 1, and what was
// there is there as before.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { encodeNpy } from "../../lib/data/npy-file.js";
import { writePhantoms } from "../../lib/data/phantoms.js";
import { OutcomeFile, readOutcomes } from "../../lib/runs/outcomes.js";
import { cli } from "../support/cli.js";
import { fillDisk } from "../support/disk.js";
import { noise } from "../support/model.js";

const CPU = ["--device", "cpu"];
const SMALL = ["--backbone", "plain-unet", "--width", "4", "--depth", "2", "--size", "24", ...CPU, "--epochs", "1"];
const folder = mkdtempSync(path.join(os.tmpdir(), "le-full-"));
const inside = (...names: string[]) => path.join(folder, ...names);
/** The file system. */
const disk = inside("disk");
const on = (...names: string[]) => path.join(disk, ...names);
mkdirSync(disk);
const mount = (...args: string[]) => spawnSync("mount", args).status === 0;
const mounted = mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", disk);

const good = async (...args: string[]) => {
  const { code, stderr } = await cli(args);
  expect(code, stderr).toBe(0);
};

const predictSplit = (split: string) => {
  const given = ["--run", on("run"), "--data", inside("data"), "--out", on("predictions")];
  return ["predict", ...given, "--split", split, ...CPU];
};

beforeAll(async () => {
  if (!mounted) return;
  await writePhantoms(inside("data"), { count: 16, size: 24, seed: 1 });
  writeFileSync(inside("heads.npy"), encodeNpy(noise([4, 2, 6, 6])));
  await good("train", "--data", inside("data"), "--run", on("run"), ...SMALL);
  await good(...predictSplit("val"));
  await good("evaluate", "--run", on("run"), "--out", on("evaluation"), ...CPU);
  await good("score", inside("heads.npy"), "--csv", on("scores.csv"));
  await good("compare", on("run"), "--out", on("comparison"), "--no-report", ...CPU);
  cpSync(on("run"), on("tuned"), { recursive: true });
  await good("tune", on("tuned"), ...CPU);
  mkdirSync(on("study"));
  writeFileSync(
    inside("study.json"),
    JSON.stringify({
      data: inside("data"),
      out: on("study"),
      methods: { plain: {} },
      seeds: [0],
      train: { backbone: "plain-unet", width: 4, depth: 2, size: "24", epochs: 1, device: "cpu" },
    }),
  );
}, 120_000);
afterAll(() => {
  // A lock that this process had keeps its folder open until it is collected.
  if (mounted) spawnSync("umount", ["-l", disk]);
  rmSync(folder, { recursive: true, force: true });
});

/** By path, what is in each file. */
const contents = () =>
  Object.fromEntries(
    readdirSync(disk, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && entry.name !== "filler")
      .map(({ parentPath, name }) => path.join(parentPath, name))
      .map((file) => [path.relative(disk, file), createHash("sha256").update(readFileSync(file)).digest("hex")]),
  );

const COMMANDS: [name: string, args: () => string[]][] = [
  ["train", () => ["train", "--data", inside("data"), "--run", on("new"), ...SMALL]],
  [
    "train, a deep ensemble",
    () => ["train", "--data", inside("data"), "--run", on("new"), "--method", "de", "--members", "2", ...SMALL],
  ],
  ["train --resume", () => ["train", "--run", on("run"), "--resume", "--epochs", "3", ...CPU]],
  ["predict", () => predictSplit("test")],
  ["predict, anew", () => ["predict", "--run", on("run"), "--data", inside("data"), "--out", on("new"), ...CPU]],
  ["evaluate", () => ["evaluate", "--run", on("run"), "--out", on("evaluation"), "--split", "val", ...CPU]],
  ["score", () => ["score", inside("heads.npy"), inside("heads.npy"), "--csv", on("scores.csv")]],
  ["compare", () => ["compare", on("tuned"), "--out", on("comparison"), ...CPU]],
  ["report", () => ["report", on("comparison")]],
  ["tune", () => ["tune", on("tuned"), "--rule", "dice", "--fit", "temperature", ...CPU]],
  [
    "certify",
    () => ["certify", on("tuned"), "--split", "test", "--alpha", "0.9", "--delta", "0.9", "--tau", "0.01", ...CPU],
  ],
  ["study", () => ["study", inside("study.json")]],
  ["demo", () => ["demo", "--out", on("demo")]],
];

const fill = () => fillDisk(on("filler"));

const check = async (args: string[]) => {
  const before = contents();
  const { code, signal, stderr } = await cli(args);
  const errors = stderr.split("\n").filter((line) => /^error|^\s+at /.test(line));
  expect(errors, stderr).toHaveLength(1);
  expect(errors[0]).toMatch(/^error \[ERR_LE_IO\]: Expected .*/);
  expect({ code, signal }).toEqual({ code: 1, signal: null });
  expect(contents()).toMatchObject(before);
};

it.skipIf(!mounted).each(COMMANDS)("%s says that no space is left", async (_, args) => {
  fill();
  await check(args());
});

it.skipIf(!mounted).each(COMMANDS)("%s says that nothing can be written", async (_, args) => {
  rmSync(on("filler"), { force: true });
  expect(mount("-o", "remount,ro", disk)).toBe(true);
  try {
    await check(args());
  } finally {
    mount("-o", "remount,rw", disk);
  }
});

it.skipIf(!mounted)("an outcome that has no room leaves those before it, and is taken once there is", async () => {
  rmSync(on("filler"), { force: true });
  const outcomes = new OutcomeFile(on("run"), () => true);
  const outcome = (id: string) => ({
    ...{ id, date: "2026-01-01T00:00:00Z", predictor: "p", acceptable: true, dice: 0.9 },
    score: { name: "aula" as const, value: 1 },
  });
  await outcomes.append(outcome("first"));
  fill();
  const before = contents();
  // Longer than what is left of the last block.
  for (let i = 0; i < 3; i++)
    await expect(outcomes.append({ ...outcome("long"), group: "g".repeat(5000) })).rejects.toMatchObject({
      code: "ERR_LE_IO",
    });
  expect(contents()).toEqual(before);
  rmSync(on("filler"));
  await outcomes.append(outcome("second"));
  const { outcomes: read, torn } = await readOutcomes(on("run"));
  expect([read.map(({ id }) => id), torn]).toEqual([["first", "second"], 0]);
});
