// A model file that would end, hang or exhaust the process that reads it must only end its trial.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { tryModel } from "../../lib/native/trial.js";

const folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-trial-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function file(name: string, content: string | Buffer): string {
  const full = path.join(folder, name);
  writeFileSync(full, content);
  return full;
}

describe("a trial", () => {
  it("brings the reader's own error with its code", async () => {
    const config = { kind: "torchscript", file: file("noise.pt", "this is no archive") };
    await expect(tryModel(config)).rejects.toMatchObject({
      code: "ERR_LE_CHECKPOINT",
      message: expect.stringContaining("noise.pt"),
    });
  });

  it("ends at its limit of time", async () => {
    const config = { kind: "torchscript", file: file("slow.pt", "x") };
    await expect(tryModel(config, { seconds: 0.05 })).rejects.toMatchObject({
      code: "ERR_LE_CHECKPOINT",
      message: expect.stringMatching(/slow\.pt.*took longer than 1 seconds/),
    });
  });

  it("ends at its limit of memory", async () => {
    const config = { kind: "torchscript", file: file("large.pt", "x") };
    // Too little even to load Node's own program: with a little more it may wait for memory that never comes.
    await expect(tryModel(config, { memory: 1e6 })).rejects.toMatchObject({
      code: "ERR_LE_CHECKPOINT",
      message: expect.stringMatching(/large\.pt.*ended its process \(.*may use 0\.0 GB/),
    });
  });
});
