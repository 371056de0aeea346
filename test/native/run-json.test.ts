// A run.json that somebody has damaged or made up: refused as such, whatever is in it.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseJson } from "../../lib/data/json.js";
import { Backbone, LayerEnsemble, loadModel } from "../../lib/index.js";
import { openRun } from "../../lib/runs/inference.js";
import { runFacts } from "../../lib/study/runs.js";

let folder: string;
let sound: Record<string, unknown>;
const file = () => path.join(folder, "run.json");

const NOTES = {
  preprocessing: {
    size: [16, 16],
    resize: "stretch",
    normalise: { kind: "percentile", low: 1, high: 99 },
    channels: 1,
  },
  classNames: ["background", "lesion"],
  ignoreIndex: 255,
  labels: { ignore: 255, scale: "index" },
  data: {
    folder: "/data",
    trainSplit: "train",
    valSplit: "val",
    drawn: { train: ["a"], val: ["b"] },
    contents: { training: [["a", "hash"]], validation: [["b", "hash2"]] },
  },
  options: { seed: 1 },
};

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-run-json-"));
  const backbone = await Backbone.create("plain-unet", { inChannels: 1, classes: 2, width: 2, depth: 2 });
  const model = await LayerEnsemble.create(backbone, { classes: 2, inputSize: [16, 16] });
  await model.save(folder, NOTES);
  const heads = model.headNames.slice(0, 2);
  await model.dispose();
  await backbone.dispose();
  sound = JSON.parse(readFileSync(file(), "utf8"));
  Object.assign(sound, {
    prediction: { fusion: "mean", heads, weights: [1, 2], temperatures: [1, 1.5], temperature: 1.1 },
    gate: { score: "aula", threshold: 1, rule: "made up" },
    tuning: { curve: [{ skip: 0, nll: 1, nllSd: null, dice: 0.5, diceSd: 0.1, aurc: 0.2 }] },
  });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What a run is opened for, by the command line and the API. */
async function use(): Promise<void> {
  const { model } = await openRun(folder, { device: "cpu" });
  try {
    await model.predict({ data: new Float32Array(256), shape: [1, 16, 16] });
  } finally {
    await model.dispose();
  }
  await runFacts(folder);
}

/** "ok", or the code of a typed error. */
const outcome = (text: string) => {
  writeFileSync(file(), text);
  return use().then(
    () => "ok",
    (error) => (error.name === "LayerEnsemblesError" ? error.code : `${error.name}: ${error.message}`),
  );
};

type Path = (string | number)[];
function* paths(value: unknown, at: Path = []): Generator<Path> {
  yield at;
  if (typeof value === "object" && value !== null)
    for (const name of Array.isArray(value) ? value.keys() : Object.keys(value))
      yield* paths((value as Record<string, unknown>)[name as string], [...at, name]);
}

function changed(at: Path, change: (holder: Record<string, unknown>, name: string) => void): string {
  const copy = structuredClone({ root: sound });
  const names = ["root", ...at].map(String);
  const last = names.pop() as string;
  change(
    names.reduce<Record<string, unknown>>((inner, name) => inner[name] as Record<string, unknown>, copy),
    last,
  );
  return JSON.stringify(copy.root) ?? "";
}

describe("run.json", () => {
  it("is taken as it was written, with fields that a later version may add", async () => {
    expect(await outcome(JSON.stringify(sound))).toBe("ok");
    const more = { ...sound, later: 1, ensemble: { ...(sound.ensemble as object), later: [1] } };
    expect(await outcome(JSON.stringify(more))).toBe("ok");
  });

  it("is refused where any field is of another type or absurd, and never crashes", async () => {
    const values = [null, true, "x", "x".repeat(100_000), -1, 0.5, 1e9, 1e308, [], {}, [[[]]], [null], { a: { b: 1 } }];
    const wrong: string[] = [];
    for (const at of paths(sound)) {
      const name = at.join(".");
      for (const value of values) {
        const result = await outcome(changed(at, (holder, last) => Object.assign(holder, { [last]: value })));
        if (result !== "ERR_LE_CHECKPOINT" && result !== "ok")
          wrong.push(`${name} = ${JSON.stringify(value)}: ${result}`);
      }
      const removed = await outcome(changed(at, (holder, last) => delete holder[last]));
      if (removed !== "ERR_LE_CHECKPOINT" && removed !== "ok") wrong.push(`no ${name}: ${removed}`);
    }
    expect(wrong).toEqual([]);
  });

  it.each([
    ["passes", 1_000_000_000],
    ["members", 1_000_000_000],
    ["skip", -1],
    ["skip", 1e12],
    ["backbone.width", 1_000_000],
    ["backbone.depth", 40],
    ["backbone.inChannels", 1_000_000_000],
    ["backbone.classes", 1_000_000_000],
    ["backbone", null],
    ["backbone.kind", "constructor"],
    ["backbone.file", "/etc/passwd"],
    ["backbone.file", "../backbone.pt"],
    ["ensemble.classes", 1_000_000_000],
    ["ensemble.inputSize", undefined],
    ["ensemble.inputSize", [65536, 65536]],
    ["ensemble.headsPerTap", 1_000_000_000],
    ["ensemble.taps", ["__proto__"]],
    ["ensemble.dropout", 1],
    ["prediction.heads", "encoder.0"],
    ["prediction.heads", ["nobody"]],
    ["prediction.weights", [0, 0]],
    ["prediction.weights", [1]],
    ["prediction.temperatures", [1, 0]],
    ["prediction.temperature", -1],
    ["gate.threshold", "low"],
    ["tuning.curve", 3],
    ["tuning.curve", [{ skip: "x" }]],
    ["notes.preprocessing.channels", 1e9],
    ["notes.preprocessing.normalise.low", 99],
    ["notes.preprocessing.size", [1e9, 1e9]],
    ["notes.classNames", ["background"]],
    ["notes.labels.scale", "auto"],
    ["notes.data.contents", { training: [["a"]], validation: [] }],
  ])("is refused with %s = %j", async (name, value) => {
    expect(await outcome(changed(name.split("."), (holder, last) => Object.assign(holder, { [last]: value })))).toBe(
      "ERR_LE_CHECKPOINT",
    );
  });

  it("is refused with text that is no run's", async () => {
    const deep = "[".repeat(3_000_000);
    const nested = JSON.stringify(sound).replace(
      '"notes":{',
      `"notes":{"deep":${"[".repeat(5000)}${"]".repeat(5000)},`,
    );
    for (const text of [
      "",
      "{",
      "null",
      "3",
      "[]",
      '"run"',
      deep,
      nested,
      '{"format":1}',
      '{"__proto__":{"format":1}}',
    ])
      expect(await outcome(text)).toBe("ERR_LE_CHECKPOINT");
    await expect(loadModel(folder)).rejects.toMatchObject({ code: "ERR_LE_CHECKPOINT" });
    // A name that every object inherits is a field like any other.
    const own = JSON.stringify(sound).replace("{", '{"__proto__":{"skip":9},"constructor":1,');
    expect(await outcome(own)).toBe("ok");
  });
});

describe("parseJson", () => {
  it("gives what JSON.parse gives, and refuses what would take memory or the stack", () => {
    for (const text of ['{"a":"[\\"[","b":[1,{"c":null}]}', '"[[["', "[]", " 1 "])
      expect(parseJson(text)).toEqual(JSON.parse(text));
    expect(() => parseJson("[".repeat(101) + "]".repeat(101))).toThrow("nests more than 100 deep");
    expect(() => parseJson(`[${"[],".repeat(4_000_001)}[]]`)).toThrow("more than 4000000");
    for (const text of ["]", '"', '"\\', "{]"]) expect(() => parseJson(text)).toThrow(SyntaxError);
  });
});
