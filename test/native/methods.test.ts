// The methods that Layer Ensembles are compared with: the same prediction, the same run folder.
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import { afterAll, describe, expect, it } from "vitest";
import {
  Backbone,
  DeepEnsemble,
  LayerEnsemble,
  loadModel,
  McDropout,
  type Model,
  MultiHead,
  Plain,
  readRun,
} from "../../lib/index.js";
import * as metrics from "../../lib/metrics/index.js";
import { discs, noise, smallModel } from "../support/model.js";

const code = (value: string) => expect.objectContaining({ name: "LayerEnsemblesError", code: value });
const placement = { device: "cpu", precision: "fp32", inputSize: [32, 32] } as const;
const network = (seed: number, dropout = 0) =>
  Backbone.create("plain-unet", { width: 4, depth: 3, classes: 2, seed, ...(dropout && { dropout }) });
const image = noise([1, 21, 34], 3);

const folders: string[] = [];
async function folder(): Promise<string> {
  const made = await mkdtemp(path.join(os.tmpdir(), "layer-ensembles-methods-"));
  folders.push(made);
  return path.join(made, "run");
}
afterAll(() => Promise.all(folders.map((made) => rm(made, { recursive: true, force: true }))));

async function free(...models: Model[]): Promise<void> {
  for (const model of models) {
    await model.dispose();
    await model.backbone.dispose();
  }
}

describe("Plain", () => {
  it("has the network's own output as its one head, and no agreement", async () => {
    const model = await Plain.create(await network(1), placement);
    expect(model.headNames).toEqual(["final"]);
    const result = await model.predict(image);
    expect(result.heads).toEqual(["final"]);
    expect(result.aula).toBeNull();
    expect(result.predictionDepth).toBeNull();
    expect(result.pairwiseAgreement.overall).toBeNaN();
    await free(model);
  });

  it("puts its head on the last feature map of a network that has no such output", async () => {
    const backbone = await Backbone.create("resnet18", { inChannels: 1, classes: 0 });
    const model = await Plain.create(backbone, { ...placement, classes: 3, inputSize: [64, 64] });
    expect(model.headNames).toEqual(["layer4"]);
    await free(model);
  });
});

describe("MultiHead", () => {
  it("has heads of different first weights on the last feature map", async () => {
    const model = await MultiHead.create(await network(1), { ...placement, heads: 4 });
    expect(model.heads.map(({ name }) => name)).toEqual(["decoder.1#1", "decoder.1#2", "decoder.1#3", "decoder.1#4"]);
    const logits = [...(await model.forward(image)).values()].map(({ data }) => data.join());
    expect(new Set(logits).size).toBe(4);
    const result = await model.predict(image);
    expect(result.aula).toBeNull(); // no order in depth
    expect(result.pairwiseAgreement.overall).toBeLessThanOrEqual(1);
    await free(model);
  });
});

describe("McDropout", () => {
  it("draws the same for an image whatever shares its batch, and other numbers for another seed", async () => {
    const model = await McDropout.create(await network(1, 0.3), { ...placement, passes: 11 });
    expect(model.headNames).toHaveLength(11);
    expect(model.headNames.at(-1)).toBe("pass 11");
    const alone = await model.predict(image, { seed: 7 });
    const [, beside] = await model.predict([noise([1, 21, 34], 9), image], { seed: 7 });
    expect(beside?.probabilities?.data).toEqual(alone.probabilities?.data);
    const other = await model.predict(image, { seed: 8 });
    expect(other.probabilities?.data).not.toEqual(alone.probabilities?.data);
    expect(Math.max(...(alone.maps.mutualInformation?.data ?? []))).toBeGreaterThan(0);
    await free(model);
  });

  it("fuses the logits that forward brings out", async () => {
    const model = await McDropout.create(await network(1, 0.3), { ...placement, passes: 3 });
    const logits = [...(await model.forward(image, { seed: 7 })).values()];
    expect(new Set(logits.map(({ data }) => data.join())).size).toBe(3);
    const heads = logits.map(({ data, shape }) => ({ data, shape: shape.slice(1) }));
    const fused = metrics.fuse(heads);
    const result = await model.predict(image, { seed: 7 });
    for (const [i, p] of fused.data.entries()) expect(result.probabilities?.data[i]).toBeCloseTo(p, 4);
    const more = await model.predict(image, { passes: 5 });
    expect(more.heads).toHaveLength(5);
    await free(model);
  });

  it("drops what the head drops, and is refused where nothing does", async () => {
    const backbone = await network(1);
    await expect(McDropout.create(backbone, placement)).rejects.toEqual(code("ERR_LE_OPTION"));
    const model = await McDropout.create(backbone, { ...placement, tap: "decoder.1", dropout: 0.5, passes: 3 });
    expect(Math.max(...((await model.predict(image)).maps.variance?.data ?? []))).toBeGreaterThan(0);
    await free(model);
    const plain = await Plain.create(await network(1, 0.3), placement);
    await expect(plain.predict(image, { passes: 3 })).rejects.toThrow(/'passes'/);
    await free(plain);
  });

  it("leaves later predictions of the network without dropout", async () => {
    const backbone = await network(1, 0.3);
    const plain = await Plain.create(backbone, placement);
    const before = await plain.predict(image);
    const dropping = await McDropout.create(backbone, { ...placement, passes: 3 });
    await dropping.predict(image);
    const after = await plain.predict(image);
    expect(after.probabilities?.data).toEqual(before.probabilities?.data);
    await dropping.dispose();
    await free(plain);
  });
});

describe("DeepEnsemble", () => {
  it("takes one head of each member", async () => {
    const model = await DeepEnsemble.create((seed) => network(seed), { ...placement, members: 3, seed: 5 });
    const members = [];
    for (const member of model.members) members.push([...(await member.forward(image)).values()][0]!);
    const heads = members.map(({ data, shape }) => ({ data, shape: shape.slice(1) }));
    const result = await model.predict(image, { labels: true });
    expect(result.heads).toEqual(["member 1", "member 2", "member 3"]);
    const fused = metrics.fuse(heads);
    for (const [i, p] of fused.data.entries()) expect(result.probabilities?.data[i]).toBeCloseTo(p, 4);
    expect(result.labels).toEqual(metrics.labelMaps(heads));
    expect(model.parameters).toBe(3 * (model.members[0]?.parameters ?? 0));
    await model.dispose();
    await expect(model.predict(image)).rejects.toEqual(code("ERR_LE_DISPOSED"));
  });

  it("can be asked from several sides at once", async () => {
    const model = await DeepEnsemble.create((seed) => network(seed), { ...placement, members: 2 });
    const [first, second] = model.members as [Plain, Plain];
    const expected = await model.predict(image);
    const all = await Promise.all(Array.from({ length: 12 }, (_, i) => [model, second, first][i % 3]!.predict(image)));
    for (const [i, result] of all.entries())
      if (i % 3 === 0) expect(result.probabilities?.data).toEqual(expected.probabilities?.data);
    await model.dispose();
  });

  it("trains its members from different seeds, into folders that it goes on from", async () => {
    const run = await folder();
    const data = discs(8, 32);
    const options = { epochs: 2, batchSize: 4, validation: discs(4, 32, 9), run, seed: 3 };
    const model = await DeepEnsemble.create((seed) => network(seed), { ...placement, members: 2, seed: 3 });
    const seen = new Set<number>();
    const histories = await model.fit(data, { ...options, onProgress: ({ member }) => seen.add(member) });
    expect(histories).toHaveLength(2);
    expect([...seen]).toEqual([1, 2]);
    expect(histories[0]?.epochs[1]?.loss).not.toBe(histories[1]?.epochs[1]?.loss);
    const expected = await model.predict(image);
    await model.dispose();

    const loaded = await loadModel(run, { device: "cpu", precision: "fp32" });
    expect(loaded).toBeInstanceOf(DeepEnsemble);
    expect((await loaded.predict(image)).probabilities?.data).toEqual(expected.probabilities?.data);
    await loaded.dispose();

    const again = await DeepEnsemble.create((seed) => network(seed), { ...placement, members: 2, seed: 3 });
    const resumed = await again.fit(data, { ...options, resume: true });
    expect(resumed).toEqual(histories); // nothing was left to do
    expect((await again.predict(image)).probabilities?.data).toEqual(expected.probabilities?.data);
    await again.dispose();

    await rm(path.join(run, "members", "2", "weights.safetensors"));
    await expect(loadModel(run)).rejects.toThrow(/member 2/);
  });
});

/** A model that trains, and writes itself down. */
type Trained = LayerEnsemble | DeepEnsemble;
const methods: [string, () => Promise<Trained>][] = [
  ["plain", async () => Plain.create(await network(1), placement)],
  ["mh", async () => MultiHead.create(await network(1), { ...placement, heads: 3 })],
  ["mcd", async () => McDropout.create(await network(1, 0.2), { ...placement, passes: 4 })],
  ["le", async () => LayerEnsemble.create(await network(1), placement)],
  ["de", async () => DeepEnsemble.create((seed) => network(seed), { ...placement, members: 2 })],
] as [string, () => Promise<unknown>][] as [string, () => Promise<Trained>][];

describe("a run folder", () => {
  it.each(methods)("of %s holds all that its prediction needs", async (method, make) => {
    const run = await folder();
    const model = await make();
    await model.save(run);
    expect(await readRun(run)).toMatchObject({ method });
    const loaded = await loadModel(run, { device: "cpu", precision: "fp32" });
    expect(loaded.method).toBe(method);
    expect(loaded.headNames).toEqual(model.headNames);
    expect(loaded.parameters).toBe(model.parameters);
    const [expected, actual] = [await model.predict(image), await loaded.predict(image)];
    expect(actual.probabilities?.data).toEqual(expected.probabilities?.data);
    await loaded.dispose();
    await free(model);
    if (method !== "le") await expect(LayerEnsemble.load(run)).rejects.toThrow(/layer ensemble.*loadModel/i);
    if (method !== "de") await expect(DeepEnsemble.load(run)).rejects.toEqual(code("ERR_LE_CHECKPOINT"));
  });

  it.each(methods)("of %s is the same when it is saved again, with what others wrote there", async (_method, make) => {
    const run = await folder();
    const model = await make();
    await model.save(run, { purpose: "test" });
    const file = (at: string) => path.join(at, "run.json");
    const contents = async (at: string) => JSON.parse(await readFile(file(at), "utf8"));
    const tuned = {
      prediction: { temperature: 1.5 },
      gate: { score: "aula", threshold: 0.75, rule: "flags a fifth" },
      tuning: { date: "2026-01-01", curve: [] },
    };
    await writeFile(file(run), JSON.stringify({ ...(await contents(run)), ...tuned, later: { version: 2 } }));
    const loaded = (await loadModel(run, { device: "cpu", precision: "fp32" })) as Trained;
    const copy = await folder();
    await loaded.save(copy);
    expect(await contents(copy)).toEqual(await contents(run));
    // What was chosen for its weights does not hold for others.
    await loaded.fit(discs(4, 32), { epochs: 1, batchSize: 2 });
    await loaded.save(copy);
    const retrained = await contents(copy);
    for (const name of Object.keys(tuned)) expect(retrained).not.toHaveProperty(name);
    expect(retrained.later).toEqual({ version: 2 });
    const again = await loadModel(copy, { device: "cpu", precision: "fp32" });
    expect((await again.predict(image)).probabilities?.data).toEqual((await loaded.predict(image)).probabilities?.data);
    await again.dispose();
    await loaded.dispose();
    await free(model);
  });

  it.each(methods)("of %s gives one state or the other where it is replaced while it is opened", async (_, make) => {
    const run = await folder();
    const first = await make();
    const other = await make();
    await other.fit(discs(4, 32), { epochs: 1, batchSize: 2 });
    const models = { first, other };
    const expected = new Map<string, unknown>();
    for (const [name, model] of Object.entries(models))
      expected.set(name, (await model.predict(image)).probabilities?.data);
    await first.save(run, { which: "first" });
    let reading = true;
    const writer = (async () => {
      for (let i = 0; reading; i++) {
        const which = i % 2 === 0 ? "other" : "first";
        await models[which].save(run, { which });
        await setTimeout(40 * (i % 7));
      }
    })();
    const seen = new Set<string>();
    try {
      for (let i = 0; i < 15; i++) {
        const loaded = await loadModel(run, { device: "cpu", precision: "fp32" });
        const which = loaded.run?.notes.which as string;
        seen.add(which);
        expect((await loaded.predict(image)).probabilities?.data, which).toEqual(expected.get(which));
        await loaded.dispose();
      }
    } finally {
      reading = false;
      await writer;
    }
    expect(seen.size).toBe(2);
    await free(first, other);
  });

  it("that was left half replaced is refused, and whole again once it is saved", async () => {
    const run = await folder();
    const model = await LayerEnsemble.create(await network(1), placement);
    await model.save(run);
    await writeFile(path.join(run, ".replacing"), "");
    await expect(loadModel(run)).rejects.toThrow(/whole run.*save it again/);
    await model.save(run);
    await (await loadModel(run)).dispose();
    await free(model);
  });

  it("of which some members are replaced, and the others could not be, is refused", async () => {
    const run = await folder();
    const model = await DeepEnsemble.create((seed) => network(seed), { ...placement, members: 2 });
    await model.save(run);
    const weights = path.join(run, "members", "2", "weights.safetensors");
    const before = await readFile(weights);
    await rm(weights);
    await mkdir(weights); // nothing can take its place
    await expect(model.save(run)).rejects.toEqual(code("ERR_LE_IO"));
    await rm(weights, { recursive: true });
    await writeFile(weights, before);
    await expect(loadModel(run)).rejects.toThrow(/whole run.*save it again/);
    await model.save(run);
    await (await loadModel(run)).dispose();
    await free(model);
  });

  it("that holds a saved model is not trained over", async () => {
    const run = await folder();
    const model = await LayerEnsemble.create(await network(1), placement);
    await model.save(run);
    const before = await readFile(path.join(run, "run.json"), "utf8");
    for (const resume of [false, true])
      await expect(model.fit(discs(4, 32), { run, epochs: 1, resume })).rejects.toThrow(/holds a model that was saved/);
    expect(await readFile(path.join(run, "run.json"), "utf8")).toBe(before);
    await free(model);
  });

  it.each(methods)("of %s keeps what others wrote there when its training goes on", async (_, make) => {
    const run = await folder();
    const model = await make();
    await model.fit(discs(4, 32), { run, epochs: 1, batchSize: 2 });
    const file = path.join(run, "run.json");
    const written = JSON.parse(await readFile(file, "utf8"));
    await writeFile(file, JSON.stringify({ ...written, later: 2 }));
    await model.fit(discs(4, 32), { run, epochs: 2, batchSize: 2, resume: true });
    expect(JSON.parse(await readFile(file, "utf8"))).toMatchObject({ later: 2, method: written.method });
    await free(model);
  });

  it.each(methods)("of %s is not begun where an option is wrong, and no sample is read", async (_method, make) => {
    const run = path.join(await folder(), "run");
    const model = await make();
    let read = 0;
    function* samples() {
      for (const sample of discs(4, 32)) {
        read++;
        yield sample;
      }
    }
    for (const options of [
      { run, epoch: 3 },
      { run, epochs: 0 },
      { run, earlyStopping: 2 },
    ] as object[])
      await expect(model.fit(samples(), options)).rejects.toEqual(code("ERR_LE_OPTION"));
    expect({ read, made: existsSync(run) }).toEqual({ read: 0, made: false });
    await model.fit(discs(4, 32), { run, epochs: 1, batchSize: 2 });
    await expect(model.fit(samples(), { run })).rejects.toEqual(code("ERR_LE_IO"));
    expect(read).toBe(0);
    await free(model);
  });

  it("without a method is a layer ensemble's, as written before there were others", async () => {
    const run = await folder();
    const { backbone, model } = await smallModel();
    await model.save(run);
    const file = path.join(run, "run.json");
    const { method: _, ...old } = JSON.parse(await readFile(file, "utf8"));
    await writeFile(file, JSON.stringify(old));
    expect((await readRun(run)).method).toBe("le");
    await writeFile(file, JSON.stringify({ ...old, method: "xyz" }));
    await expect(readRun(run)).rejects.toThrow(/"plain", "mh", "de", "mcd", "le".*"xyz"/);
    await model.dispose();
    await backbone.dispose();
  });
});

describe("a tuned run", () => {
  it("predicts as was chosen, unless the call chooses otherwise", async () => {
    const run = await folder();
    const { backbone, model } = await smallModel();
    await model.save(run);
    const names = model.headNames;
    const heads = [names[1], names[3], names[4]] as string[];
    const prediction = { heads, weights: [1, 0, 2], temperatures: [1, 2, 0.5], temperature: 1.5 };
    const file = path.join(run, "run.json");
    await writeFile(file, JSON.stringify({ ...JSON.parse(await readFile(file, "utf8")), prediction }));
    const tuned = await loadModel(run, { device: "cpu", precision: "fp32" });
    const actual = await tuned.predict(image);
    expect(actual.heads).toEqual(heads);
    const expected = await model.predict(image, prediction);
    expect(actual.probabilities?.data).toEqual(expected.probabilities?.data);
    const untuned = await tuned.predict(image, { skip: 0 });
    expect(untuned.probabilities?.data).toEqual((await model.predict(image)).probabilities?.data);
    await expect(model.predict(image, { heads: ["decodr.0"] })).rejects.toThrow(/'decodr\.0'.*'decoder\.0'/);
    await tuned.dispose();
    await model.dispose();
    await backbone.dispose();
  });
});

describe("the numbers of a loaded run", () => {
  it("are those of its training, unless a call says otherwise, and stay on record", async () => {
    const run = await folder();
    const model = await Plain.create(await network(5), { ...placement, precision: "fp32", channelsLast: false });
    await model.fit(discs(4, 32), { epochs: 1, batchSize: 2 });
    await model.save(run);
    await free(model);
    const record = async (at: string) => JSON.parse(await readFile(path.join(at, "run.json"), "utf8")).training;
    expect(await record(run)).toMatchObject({ precision: "fp32", channelsLast: false });

    const loaded = await loadModel(run, { device: "cpu" });
    expect(loaded.precision).toBe("fp32");
    await loaded.dispose();

    const other = await loadModel(run, { device: "cpu", precision: "bf16" });
    expect(other.precision).toBe("bf16");
    const copy = await folder();
    await other.save(copy);
    expect(await record(copy)).toMatchObject({ precision: "fp32", channelsLast: false });
    await other.dispose();
  });
});
