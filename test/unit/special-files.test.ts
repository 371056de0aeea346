// Pipes, devices, sockets and folders where files are expected: refused at once, never waited for.
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.js";
import { encodePng } from "../../lib/data/encode-png.js";
import { openRegular, readText, readTextIfAny, readTextSync } from "../../lib/data/files.js";
import { readImage } from "../../lib/data/image.js";
import { readNpy } from "../../lib/data/npy-file.js";
import { readNpz } from "../../lib/data/npz.js";
import { readStoredMask } from "../../lib/data/stored.js";
import { hashFile } from "../../lib/native/download.js";
import { readVersion } from "../../lib/native/locate.js";
import { readRun } from "../../lib/runs/run.js";
import { TensorBoardWriter } from "../../lib/runs/tensorboard.js";
import { readStudy } from "../../lib/study/config.js";
import { tableOf } from "../../lib/study/selection.js";

let folder: string;
const inside = (...names: string[]) => path.join(folder, ...names);
const socket = createServer();
beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "le-special-"));
  spawnSync("mkfifo", [inside("pipe")]);
  symlinkSync(inside("pipe"), inside("link-to-pipe"));
  symlinkSync("/dev/zero", inside("link-to-device"));
  symlinkSync("/dev/tty", inside("link-to-terminal"));
  mkdirSync(inside("folder"));
  symlinkSync(inside("folder"), inside("link-to-folder"));
  await new Promise<void>((resolve) => socket.listen(inside("socket"), resolve));
  mkdirSync(inside("data", "images"), { recursive: true });
  writeFileSync(inside("data", "images", "a.png"), await encodePng({ data: new Uint8Array(16), shape: [4, 4] }));
});
afterAll(() => {
  socket.close();
  rmSync(folder, { recursive: true, force: true });
});

const KINDS = ["pipe", "link-to-pipe", "link-to-device", "link-to-terminal", "folder", "link-to-folder", "socket"];

describe("a special file", () => {
  it.each(KINDS)("is refused by every reader: %s", async (kind) => {
    const put = (at: string, ending = "") => {
      mkdirSync(path.dirname(inside(at)), { recursive: true });
      rmSync(inside(at), { recursive: true, force: true });
      symlinkSync(inside(kind), inside(at));
      return inside(at) + ending;
    };
    await expect(openRegular(inside(kind))).rejects.toThrow();
    await expect(readText(inside(kind))).rejects.toThrow();
    await expect(readTextIfAny(inside(kind))).rejects.toThrow();
    expect(() => readTextSync(inside(kind))).toThrow();
    await expect(hashFile(inside(kind))).rejects.toThrow();
    put("libtorch/version.py");
    expect(() => readVersion(inside("libtorch"))).toThrow();
    const code = (value: string) => ({ name: "LayerEnsemblesError", code: value });
    for (const ending of ["png", "jpg", "tif"]) {
      await expect(readImage(put(`x.${ending}`))).rejects.toMatchObject(code("ERR_LE_DATA"));
      await expect(readStoredMask(inside(`x.${ending}`), undefined)).rejects.toMatchObject(code("ERR_LE_DATA"));
    }
    await expect(readNpy(put("x.npy"))).rejects.toMatchObject(code("ERR_LE_DATA"));
    await expect(readNpz(put("x.npz"), ["heads"])).rejects.toMatchObject(code("ERR_LE_DATA"));
    put("run/run.json");
    await expect(readRun(inside("run"))).rejects.toMatchObject(code("ERR_LE_CHECKPOINT"));
    await expect(readStudy(put("study.json"))).rejects.toMatchObject(code("ERR_LE_DATA"));
    put("events/events.out.tfevents.1.000.host.1");
    await expect(TensorBoardWriter.open(inside("events"), { fromStep: 1 })).rejects.toThrow();
    cpSync(inside("data"), inside(`data-${kind}`), { recursive: true });
    put(`data-${kind}/split.csv`);
    await expect(tableOf(inside(`data-${kind}`))).rejects.toMatchObject(code("ERR_LE_DATA"));
    await expect(Dataset.fromFolder(inside(`data-${kind}`))).rejects.toMatchObject(code("ERR_LE_DATA"));
  });

  it("is a link that leads nowhere, too, where a file may be left out", async () => {
    expect(await readTextIfAny(inside("none"))).toBeUndefined();
    symlinkSync(inside("none"), inside("leads-nowhere"));
    await expect(readTextIfAny(inside("leads-nowhere"))).rejects.toThrow("ENOENT");
    for (const name of ["masks", "split.csv"]) {
      const data = inside(`dangling-${name}`);
      cpSync(inside("data"), data, { recursive: true });
      expect((await Dataset.fromFolder(data, { masks: "optional" })).length).toBe(1);
      symlinkSync(inside("none"), path.join(data, name));
      await expect(Dataset.fromFolder(data, { masks: "optional" })).rejects.toMatchObject({ code: "ERR_LE_DATA" });
    }
  });

  it("may be what a link to a regular file leads to", async () => {
    writeFileSync(inside("text"), "text");
    symlinkSync(inside("text"), inside("link-to-text"));
    expect(await readText(inside("link-to-text"))).toBe("text");
    await expect(readText(inside("link-to-text"), 3)).rejects.toThrow("more than 3");
  });
});
