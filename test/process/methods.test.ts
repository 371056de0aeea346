// Every method from the command line: trained, killed and gone on with, and used as any other run. And a study of them.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writePhantoms } from "../../lib/data/phantoms.js";
import { Backbone, Dataset, LayerEnsemble } from "../../lib/index.js";
import { cli } from "../support/cli.js";

let folder: string;
let data: string;
const network = ["--backbone", "plain-unet", "--width", "4", "--depth", "2", "--size", "32", "--device", "cpu"];
const inside = (...parts: string[]) => path.join(folder, ...parts);
const train = (run: string, ...more: string[]) => cli(["train", "--data", data, "--run", run, ...network, ...more]);

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-methods-"));
  data = inside("data");
  await writePhantoms(data, { count: 24, size: 40, seed: 1 });
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("train --method", () => {
  it.each([
    ["plain", [], ["final"]],
    ["mh", ["--heads", "3"], ["decoder.0#1", "decoder.0#2", "decoder.0#3"]],
    ["mcd", ["--passes", "4"], ["pass 1", "pass 2", "pass 3", "pass 4"]],
    ["de", ["--members", "2", "--jobs", "2"], ["member 1", "member 2"]],
  ])("%s makes a run that predicts and evaluates as any other", async (method, more, heads) => {
    const run = inside(method);
    const trained = await train(run, "--method", method, "--epochs", "2", ...more, "--json");
    expect(trained).toMatchObject({ code: 0 });
    expect(JSON.parse(trained.stdout)).toMatchObject({ run, method });
    const out = inside(`${method}-out`);
    const predicted = await cli(["predict", "--run", run, "--data", data, "--split", "test", "--out", out]);
    expect(predicted).toMatchObject({ code: 0 });
    const [first] = readFileSync(path.join(out, "predictions.jsonl"), "utf8").trim().split("\n");
    expect(JSON.parse(first as string)).toMatchObject({ heads, aula: null });
    const evaluated = await cli(["evaluate", "--run", run, "--split", "test", "--fusion", "staple", "--json"]);
    expect(evaluated).toMatchObject({ code: 0 });
    expect(JSON.parse(evaluated.stdout)).toMatchObject({ fusion: "staple" });
  });

  it("trains to the same weights as its port to the API", async () => {
    const [run, port] = [inside("run"), inside("port")];
    const seed = 3;
    expect(await train(run, "--epochs", "2", "--seed", String(seed))).toMatchObject({ code: 0 });
    const dataset = await Dataset.fromFolder(data, { size: 32 });
    const backbone = await Backbone.create("plain-unet", { width: 4, depth: 2, seed });
    const model = await LayerEnsemble.create(backbone, { inputSize: [32, 32], seed, device: "cpu" });
    await model.fit(dataset.split("train"), { validation: dataset.split("val"), epochs: 2, seed, run: port });
    await model.dispose();
    await backbone.dispose();
    const [ours, theirs] = [port, run].map((folder) => readFileSync(path.join(folder, "weights.safetensors")));
    expect(ours?.equals(theirs as Buffer)).toBe(true);
  });

  it.each([
    [["--method", "plain", "--members", "3"], "--members is for --method de, not plain"],
    [["--passes", "3"], "--passes is for --method mcd, not le"],
    [["--method", "mcdd"], "Did you mean mcd?"],
    [["--method", "mh", "--taps", "decoder.0,encoder.0"], "--method mh has its heads on one layer, but --taps names 2"],
  ])("refuses %j", async (more, message) => {
    const { code, stderr } = await train(inside("refused"), "--epochs", "1", ...more);
    expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining(message) });
    expect(existsSync(inside("refused"))).toBe(false);
  });

  it("goes on with the members of a deep ensemble where it was killed, to the same weights", async () => {
    const options = ["--method", "de", "--members", "2", "--epochs", "3", "--threads", "1"];
    const [whole, broken] = [inside("whole"), inside("broken")];
    expect(await train(whole, ...options)).toMatchObject({ code: 0 });
    let killed = 0;
    for (const place of ["member 1 of 2\n[^]*epoch 2/3", "member 2 of 2\n[^]*epoch 1/3"]) {
      const args = existsSync(broken) ? ["train", "--run", broken, "--resume"] : undefined;
      const onProgress = (stderr: string, kill: (signal: NodeJS.Signals) => void) => {
        if (new RegExp(place).test(stderr)) kill("SIGKILL");
      };
      const line = args ?? ["train", "--data", data, "--run", broken, ...network, ...options];
      if ((await cli(line, { onProgress })).signal === "SIGKILL") killed++;
    }
    expect(killed).toBeGreaterThan(0);
    const refused = await cli(["train", "--data", data, "--run", broken, ...network, ...options]);
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining("--resume") });
    expect(await cli(["train", "--run", broken, "--resume", "--jobs", "2"])).toMatchObject({ code: 0 });
    for (const member of ["1", "2"]) {
      const weights = (run: string) => readFileSync(path.join(run, "members", member, "weights.safetensors"));
      expect(weights(broken).equals(weights(whole))).toBe(true);
    }
  });
});

describe("study", () => {
  const flags = { backbone: "plain-unet", width: 4, depth: 2, size: "32", device: "cpu", epochs: 2, threads: 1 };
  const write = (name: string, config: object) => {
    writeFileSync(inside(name), JSON.stringify({ data: "data", out: "study", train: flags, ...config }));
    return inside(name);
  };

  it("trains every method and goes on where it was stopped", async () => {
    const methods = { plain: {}, de: { members: 2 }, le: {} };
    const config = write("study.json", { methods, seeds: [0, 7] });
    let stopped = false;
    const first = await cli(["study", config, "--train-only"], {
      onProgress: (stderr, kill) => {
        if (!stopped && stderr.includes("training 3 of 6")) {
          stopped = true;
          kill("SIGTERM");
        }
      },
    });
    expect(first.code).toBe(143);
    const second = await cli(["study", config, "--train-only"]);
    expect(second).toMatchObject({ code: 0, stdout: expect.stringContaining("as a member") });
    expect(second.stderr).not.toContain("training 1 of 6");
    const weights = (...run: string[]) => readFileSync(inside("study", "runs", ...run, "weights.safetensors"));
    // The plain network of a seed is the first member of the ensemble of that seed.
    expect(weights("plain-7").equals(weights("de-7", "members", "1"))).toBe(true);
    expect(weights("plain-7").equals(weights("plain-0"))).toBe(false);
    expect(await cli(["study", config, "--train-only"])).toMatchObject({ code: 0, stderr: "" });
    // What was trained otherwise is not what the file says now.
    const ledger = inside("study", "study.json");
    const before = readFileSync(ledger);
    const other = write("other.json", { methods, seeds: [0, 7], train: { ...flags, epochs: 3 } });
    expect(await cli(["study", other, "--train-only"])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/ERR_LE_OPTION.*--epochs 2.*--epochs 3/s),
    });
    expect(readFileSync(ledger).equals(before)).toBe(true);
    for (const damaged of [
      "{",
      "null",
      "[]",
      '{"trained": {"le-0": -1}}',
      '{"trained": {"le-0": "x"}}',
      '{"trained": []}',
    ]) {
      writeFileSync(ledger, damaged);
      const ended = await cli(["study", config, "--dry-run"]);
      expect({ code: ended.code, stderr: ended.stderr }).toEqual({
        code: 1,
        stderr: expect.stringContaining("ERR_LE_DATA"),
      });
    }
  });

  it.each([
    [{ methods: { lee: {} } }, 1, "'lee'. Did you mean 'le'?"],
    [{ methods: {} }, 1, "at least one method"],
    [{ methods: { le: {} }, train: { epoch: 3 } }, 2, "unknown option '--epoch'"],
    [{ methods: { le: {} }, seeds: [1, 1] }, 1, "distinct seeds"],
    [{ methods: { le: {} }, trian: {} }, 1, "'trian'. Did you mean 'train'?"],
  ])("refuses %j", async (config, code, message) => {
    const ended = await cli(["study", write("wrong.json", config)]);
    expect({ code: ended.code, stderr: ended.stderr }).toEqual({ code, stderr: expect.stringContaining(message) });
  });
});
