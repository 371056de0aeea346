// A run.json that somebody has damaged or made up: refused as such, whatever is in it.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseJson } from "../../lib/data/json.js";
import type { Model } from "../../lib/ensemble/model.js";
import { Backbone, DeepEnsemble, LayerEnsemble, loadModel, McDropout, MultiHead, Plain } from "../../lib/index.js";
import { openRun } from "../../lib/inference/inference.js";
import { METHODS, type MethodName } from "../../lib/runs/methods.js";
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

const network = (seed: number) =>
  Backbone.create("plain-unet", { inChannels: 1, classes: 2, width: 2, depth: 2, dropout: 0.1, seed });
const OPTIONS = { classes: 2, inputSize: [16, 16] } as const;
const MAKERS: Record<MethodName, () => Promise<Model>> = {
  le: async () => LayerEnsemble.create(await network(0), OPTIONS),
  plain: async () => Plain.create(await network(0), OPTIONS),
  mh: async () => MultiHead.create(await network(0), { ...OPTIONS, heads: 3 }),
  mcd: async () => McDropout.create(await network(0), { ...OPTIONS, passes: 3 }),
  de: () => DeepEnsemble.create(network, { ...OPTIONS, members: 2 }),
};

/** Makes `folder` a run of a method, tuned, with all that run.json may say. */
async function makeRun(method: MethodName): Promise<void> {
  rmSync(folder, { recursive: true, force: true });
  const model = await MAKERS[method]();
  await model.save(folder, NOTES);
  const heads = model.headNames.slice(0, 2);
  await model.dispose();
  sound = JSON.parse(readFileSync(file(), "utf8"));
  Object.assign(sound, {
    prediction: {
      ...{ fusion: "mean", heads, temperature: 1.1 },
      weights: heads.map((_, k) => 1 + k),
      temperatures: heads.map((_, k) => 1 + k / 2),
    },
    gate: { score: "aula", threshold: 1, rule: "made up" },
    training: { precision: "fp32", channelsLast: false, epochs: 1 },
    tuning: {
      ...{ data: "/data", split: "val", contents: [["b", "hash2"]] },
      curve: [{ skip: 0, nll: 1, nllSd: null, dice: 0.5, diceSd: 0.1, aurc: 0.2 }],
    },
  });
}

beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-run-json-"));
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

/** What JSON.parse makes of numbers that are too large. */
const INFINITY = "\u221e";
const json = (value: unknown) =>
  (JSON.stringify(value) ?? "").replaceAll(`"${INFINITY}"`, "1e999").replaceAll(`"-${INFINITY}"`, "-1e999");

function changed(at: Path, change: (holder: Record<string, unknown>, name: string) => void): string {
  const copy = structuredClone({ root: sound });
  const names = ["root", ...at].map(String);
  const last = names.pop() as string;
  change(
    names.reduce<Record<string, unknown>>((inner, name) => inner[name] as Record<string, unknown>, copy),
    last,
  );
  return json(copy.root);
}

describe.each(METHODS)("run.json of %s", (method) => {
  beforeAll(() => makeRun(method));

  it("is taken as it was written, with fields that a later version may add", async () => {
    expect(await outcome(JSON.stringify(sound))).toBe("ok");
    const more = { ...sound, later: 1, ensemble: { ...(sound.ensemble as object), later: [1] } };
    expect(await outcome(JSON.stringify(more))).toBe("ok");
  });

  it("is refused where any field is of another type or absurd, and never crashes", async () => {
    const deep = [...Array(60)].reduce((inner) => [inner], 1);
    const values: unknown[] = [null, true, "x", "x".repeat(100_000), -1, 0.5, 1e9, 1e308, INFINITY, `-${INFINITY}`];
    values.push([], {}, deep, [null], { a: { b: 1 } });
    const wrong: string[] = [];
    for (const at of paths(sound)) {
      const name = at.join(".");
      const results = new Map<string, string>();
      for (const value of values)
        results.set(
          JSON.stringify(value).slice(0, 50),
          await outcome(changed(at, (holder, last) => Object.assign(holder, { [last]: value }))),
        );
      results.set("nothing", await outcome(changed(at, (holder, last) => delete holder[last])));
      for (const [value, result] of results) {
        if (result !== "ERR_LE_CHECKPOINT" && result !== "ok") wrong.push(`${name} = ${value}: ${result}`);
      }
    }
    expect(wrong).toEqual([]);
  });
});

describe("run.json", () => {
  beforeAll(() => makeRun("le"));

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
    ["prediction.temperature", INFINITY],
    ["prediction.temperature", `-${INFINITY}`],
    ["prediction.temperatures", [1, INFINITY]],
    ["prediction.weights", [INFINITY, 1]],
    ["gate.threshold", "low"],
    ["gate.threshold", null],
    ["gate.threshold", undefined],
    ["gate.threshold", INFINITY],
    ["gate.threshold", `-${INFINITY}`],
    ["gate.score", "luck"],
    ["training.precision", "fp33"],
    ["training.channelsLast", "no"],
    ["tuning.data", 5],
    ["tuning.split", {}],
    ["tuning.curve", 3],
    ["tuning.curve", [{ skip: "x" }]],
    ["tuning.score", "aula"],
    ["tuning.score", { name: "luck" }],
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
      JSON.stringify(sound).replace('"temperature":1.1', '"temperature":NaN'),
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
