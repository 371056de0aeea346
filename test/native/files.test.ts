// Folders that one writer has at a time, and files that appear whole or not at all.
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { makeFolders, temporaryName, writeAtomic } from "../../lib/data/files.js";
import { Backbone, LayerEnsemble } from "../../lib/index.js";
import { withFolder } from "../../lib/native/folder-lock.js";
import { findAddon } from "../../lib/native/load.js";
import { writeChoice } from "../../lib/runs/tuning.js";
import { discs, smallModel } from "../support/model.js";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-files-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const inside = (...names: string[]) => path.join(folder, ...names);

/** A process that has locked a folder. */
async function holder(locked: string): Promise<ChildProcess> {
  const code = `const lock = require(${JSON.stringify(findAddon().preload)}).lockFolder(${JSON.stringify(locked)});
    console.log(lock ? "held" : "refused"); setInterval(() => lock, 1000);`;
  const child = spawn(process.execPath, ["-e", code], { stdio: ["ignore", "pipe", "inherit"] });
  const said = await new Promise<string>((resolve) => child.stdout?.once("data", (text) => resolve(String(text))));
  expect(said.trim()).toBe("held");
  return child;
}

const busy = { code: "ERR_LE_BUSY", message: expect.stringMatching(/nobody else writes to but received/) };

describe("a folder's lock", () => {
  it("is had by one process, and dies with it", async () => {
    mkdirSync(inside("run"));
    writeFileSync(inside("run", "weights.safetensors.0123456789abcdef.tmp"), "of a killed process");
    const child = await holder(inside("run"));
    const gone = new Promise((resolve) => child.once("exit", resolve));
    try {
      await expect(withFolder(inside("run"), async () => {})).rejects.toMatchObject(busy);
      // Another way to the same folder.
      symlinkSync(inside("run"), inside("link"));
      await expect(withFolder(inside("link"), async () => {})).rejects.toMatchObject(busy);
      expect(readdirSync(inside("run"))).toHaveLength(1); // nothing changed
    } finally {
      child.kill("SIGKILL");
      await gone;
    }
    expect(await withFolder(inside("run"), async () => readdirSync(inside("run")))).toEqual([]);
  });

  it("is had by one call of a process, which may ask again", async () => {
    let release = () => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    let first: Promise<void> = Promise.resolve();
    await new Promise<void>((locked, reject) => {
      first = withFolder(inside("calls"), async (made) => {
        expect(made).toBe(true);
        await withFolder(inside("calls"), async (again) => expect(again).toBe(false));
        locked();
        await released;
      });
      first.catch(reject);
    });
    await expect(withFolder(inside("calls"), async () => {})).rejects.toMatchObject(busy);
    release();
    await first;
    await withFolder(inside("calls"), async () => {});
  });

  it("ends where the work fails", async () => {
    const fail = withFolder(inside("fails"), async () => Promise.reject(new Error("of the work")));
    await expect(fail).rejects.toThrow("of the work");
    await withFolder(inside("fails"), async () => {});
  });
});

describe("a run's folder", () => {
  it("has one training, and no other writer meanwhile", async () => {
    const [first, second] = [await smallModel(), await smallModel({ seed: 2 })];
    const run = inside("trained");
    let tried: Promise<unknown[]> | undefined;
    await first.model.fit(discs(4, 32), {
      epochs: 3,
      run,
      onProgress: ({ type }) => {
        if (type !== "epoch") return;
        tried ??= Promise.allSettled([
          second.model.fit(discs(4, 32), { epochs: 1, run }),
          second.model.fit(discs(4, 32), { epochs: 1, run, resume: true }),
          second.model.save(run),
          writeChoice(run, { skip: 1, prediction: {}, tuning: {} as never }),
        ]);
      },
    });
    const all = (await tried) as PromiseSettledResult<unknown>[];
    for (const one of all) expect(one).toMatchObject({ status: "rejected", reason: busy });
    expect(readFileSync(path.join(run, "history.csv"), "utf8").trim().split("\n")).toHaveLength(1 + 3);
    const again = await LayerEnsemble.load(run);
    expect(again.run?.skip).toBe(0);
    for (const { model, backbone } of [first, second]) {
      await model.dispose();
      await backbone.dispose();
    }
    await again.dispose();
  });

  it("is not left behind by a training that cannot begin", async () => {
    const { model, backbone } = await smallModel();
    await expect(model.fit([], { epochs: 1, run: inside("none", "run") })).rejects.toThrow("Expected");
    expect(existsSync(inside("none", "run"))).toBe(false);
    await model.dispose();
    await backbone.dispose();
  });
});

describe("a file", () => {
  it("is never written through a link, and its temporary name is nobody else's", async () => {
    writeFileSync(inside("precious"), "stays");
    symlinkSync(inside("precious"), inside("linked.json"));
    await writeAtomic(inside("linked.json"), "new");
    expect(readFileSync(inside("precious"), "utf8")).toBe("stays");
    expect(readFileSync(inside("linked.json"), "utf8")).toBe("new");
    const names = new Set(Array.from({ length: 100 }, () => temporaryName("file")));
    expect(names.size).toBe(100);
  });

  it("never takes the place of a pipe, a device or a folder, also behind a link", async () => {
    spawnSync("mkfifo", [inside("pipe")]);
    symlinkSync(inside("pipe"), inside("link-to-pipe"));
    symlinkSync("/dev/null", inside("link-to-device"));
    mkdirSync(inside("a-folder"));
    const network = await Backbone.load(path.join(import.meta.dirname, "../fixtures/script/block-traced.pt"));
    const before = readdirSync(folder).sort();
    for (const name of ["pipe", "link-to-pipe", "link-to-device", "a-folder"]) {
      await expect(writeAtomic(inside(name), "text")).rejects.toMatchObject({ code: "ERR_LE_IO" });
      await expect(network.save(inside(name))).rejects.toMatchObject({ code: "ERR_LE_IO" });
    }
    expect(readdirSync(folder).sort()).toEqual(before);
    expect(lstatSync(inside("pipe")).isFIFO()).toBe(true);
    expect(lstatSync(inside("link-to-pipe")).isSymbolicLink()).toBe(true);
    await network.dispose();
  });

  it.each([
    ["/proc/layer-ensembles/run", "/proc"],
    ["/sys/layer-ensembles/run", "/sys"],
    ["/dev/null/run", "/dev/null"],
  ])("below %s is refused at once", async (place) => {
    await expect(makeFolders(place)).rejects.toMatchObject({ code: "ERR_LE_IO" });
    await expect(writeAtomic(path.join(place, "a.json"), "")).rejects.toMatchObject({ code: "ERR_LE_IO" });
  });
});
