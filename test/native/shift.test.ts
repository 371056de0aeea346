// What a run has learned of its training images: kept beside the weights, used by predictions, refused where it is not theirs.
import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { defaultPreprocessing, preprocess } from "../../lib/data/preprocess.js";
import { decodeSafetensors, encodeSafetensors } from "../../lib/data/safetensors.js";
import { Backbone, DeepEnsemble, LayerEnsemble, loadModel, type Model, readRun } from "../../lib/index.js";
import { readShift, shiftFile, writeShift } from "../../lib/runs/shift.js";
import { decide } from "../../lib/scores/gate.js";
import { fitShift, type ShiftOptions, type TapStatistics, tapDistance } from "../../lib/shift/index.js";
import { discs, noise } from "../support/model.js";

const code = (value: string) => expect.objectContaining({ name: "LayerEnsemblesError", code: value });
const placement = { device: "cpu", precision: "fp32" } as const;
const made = { ...placement, inputSize: [32, 32] };
const images = discs(24, 32, 5).map(({ image }) => image);
const far = noise([1, 32, 32], 9);
const shifts = async (folder: string) => (await readdir(folder)).filter((name) => name.startsWith("shift"));
let root: string;
const inside = (...parts: string[]) => path.join(root, ...parts);

/** Learns from the images, as `tune` does, and writes it into the model's run. */
async function learn(model: Model, folder: string, options: ShiftOptions = {}): Promise<TapStatistics[]> {
  const all = (await model.predict(images, { tapStatistics: true })).map(({ tapStatistics }) => tapStatistics ?? {});
  const fit = fitShift(all.slice(0, 16), all.slice(16), options);
  const run = await readRun(folder);
  const shift = await writeShift(folder, run, { fit, images: "0".repeat(64) });
  await writeFile(path.join(folder, "run.json"), JSON.stringify({ ...run, shift }));
  return all;
}

async function network(seed = 1): Promise<Backbone> {
  return Backbone.create("plain-unet", { width: 4, depth: 3, classes: 2, seed });
}

beforeAll(async () => {
  root = await mkdtemp(path.join(os.tmpdir(), "layer-ensembles-shift-"));
  await using backbone = await network();
  await using model = await LayerEnsemble.create(backbone, {
    ...made,
    taps: ["encoder.0", "encoder.1", "decoder.1"],
  });
  await model.save(inside("run"));
  await learn(model, inside("run"));
});
afterAll(() => rm(root, { recursive: true, force: true }));

describe("a run that knows its training images", () => {
  it("gives every prediction its distance, by the same numbers as the fit", async () => {
    const { fit } = await readShift(inside("run"), await readRun(inside("run")));
    await using model = await loadModel(inside("run"), placement);
    const [one, other] = await model.predict([images[20] as (typeof images)[0], far], { tapStatistics: true });
    expect(one?.tapDistance).toEqual(tapDistance(fit as NonNullable<typeof fit>, one?.tapStatistics ?? {}));
    expect(Object.keys(one?.tapDistance?.taps ?? {})).toEqual(["encoder.0", "encoder.1", "decoder.1"]);
    expect(other?.tapDistance?.excess).toBeGreaterThan((one?.tapDistance?.excess as number) + 2);
    // The statistics themselves only where they are asked for.
    const plain = await model.predict(far);
    expect(plain).not.toHaveProperty("tapStatistics");
    expect(plain.tapDistance).toEqual(other?.tapDistance);
    const named = await model.predict(far, { tapStatistics: ["decoder.0"] });
    expect(Object.keys(named.tapStatistics ?? {})).toEqual(["decoder.0"]);
    expect(named.tapDistance).toEqual(other?.tapDistance);
    const gate = { score: "softDiceConfidence", threshold: 0, distance: { threshold: 3 } } as const;
    expect(decide(plain, gate).reasons.map(({ code: reason }) => reason)).toContain("unlike-training");
    // The fit is to whole passes: of tiles nothing says how far they are.
    const tiled = await model.predict(far, { tile: [16, 16], tapStatistics: true });
    expect(tiled.tapDistance).toBeNull();
    expect(Object.keys(tiled.tapStatistics ?? {})).toEqual(Object.keys(one?.tapStatistics ?? {}));
    expect(decide(tiled, gate).reasons.map(({ code: reason }) => reason)).toContain("unlike-training");
    expect((await model.predict(far, { tile: "auto" })).tapDistance).toEqual(plain.tapDistance);
  });

  it("knows what was stored, where an image says so, and refuses what could not be", async () => {
    const preprocessing = { ...defaultPreprocessing };
    const many = discs(100, 32, 5).map(({ image }) => image);
    const stored = many.map((one, i) => ({
      ...one,
      data: one.data.map((v) => 100 + 3 * (i % 7) + (30 + (i % 5)) * v),
    }));
    const inputs = stored.map((one) => preprocess(one, preprocessing).image);
    const [last, input] = [stored[90], inputs[90]] as [(typeof stored)[0], (typeof inputs)[0]];
    const brighter = preprocess({ ...last, data: last.data.map((v) => 3 * v) }, preprocessing).image;
    const folder = inside("stored");
    await using model = await loadModel(inside("run"), placement);
    await model.save(folder);
    const all = (await model.predict(inputs, { tapStatistics: true })).map(({ tapStatistics }) => tapStatistics ?? {});
    expect(Object.keys(all[0] ?? {})).toEqual([
      "(stored)",
      "(texture)",
      "(input)",
      "encoder.0",
      "encoder.1",
      "decoder.1",
    ]);
    const fit = fitShift(all.slice(0, 80), all.slice(80));
    const run = await readRun(folder);
    const shift = await writeShift(folder, run, { fit, images: "0".repeat(64) });
    await writeFile(path.join(folder, "run.json"), JSON.stringify({ ...run, shift }));
    await using tuned = await loadModel(folder, placement);
    const [same, gained, plain] = await tuned.predict([
      ...[input, brighter, { data: brighter.data, shape: brighter.shape }],
    ]);
    // The network gets the same numbers.
    for (const [i, v] of brighter.data.entries()) expect(v).toBeCloseTo(input.data[i] as number, 4);
    expect(gained?.tapDistance?.excess).toBeGreaterThan((same?.tapDistance?.excess as number) + 1);
    expect(plain?.tapDistance?.excess).toBeLessThan(gained?.tapDistance?.excess as number);
    for (const odd of [[], [{ mean: Number.NaN, deviation: 1 }], [{ mean: 1, deviation: -1 }], [null], "x"])
      await expect(tuned.predict({ ...brighter, stored: odd as never })).rejects.toThrow(code("ERR_LE_VALUE"));
    const two = [...(brighter.stored ?? []), ...(brighter.stored ?? [])];
    await expect(tuned.predict({ ...brighter, stored: two })).rejects.toThrow(code("ERR_LE_SHAPE"));
  });

  it("has none where nothing was learned", async () => {
    await using backbone = await network();
    await using model = await LayerEnsemble.create(backbone, { ...made, taps: ["encoder.0"] });
    expect((await model.predict(far)).tapDistance).toBeNull();
  });

  it("keeps it when it is saved, and loses it when it is trained", async () => {
    await using model = await loadModel(inside("run"), placement);
    const before = await model.predict(far);
    await model.save(inside("saved"));
    await using saved = await loadModel(inside("saved"), placement);
    expect((await saved.predict(far)).tapDistance).toEqual(before.tapDistance);
    await (saved as LayerEnsemble).fit(discs(4, 32), { epochs: 1, augment: "none", checkKernels: false });
    expect((await saved.predict(far)).tapDistance).toBeNull();
    await saved.save(inside("trained"));
    expect(await readRun(inside("trained"))).not.toHaveProperty("shift");
    expect(await shifts(inside("trained"))).toEqual([]);
  });

  it("of a deep ensemble is of its members together", async () => {
    const options = { ...made, members: 2 };
    await using model = await DeepEnsemble.create(network, options);
    await model.save(inside("deep"));
    await learn(model, inside("deep"), { measure: "neighbours" });
    await using loaded = await loadModel(inside("deep"), placement);
    const found = (await loaded.predict(far)).tapDistance;
    expect(found?.excess).toBeGreaterThan(3);
    await loaded.save(inside("deep again"));
    await using again = await loadModel(inside("deep again"), placement);
    expect((await again.predict(far)).tapDistance).toEqual(found);
    const second = inside("deep", "members", "2", "weights.safetensors");
    await writeFile(second, await readFile(inside("deep", "members", "1", "weights.safetensors")));
    await using stale = await loadModel(inside("deep"), placement);
    expect(stale.shift).toMatchObject({ fit: null, stale: expect.stringContaining("of other weights") });
  });
});

describe("shift.safetensors", () => {
  const damaged = damager();
  /** A folder whose file is changed, and named by run.json as it is now. */
  function damager() {
    let count = 0;
    return async (change: (bytes: Buffer) => Uint8Array, isNamed = true) => {
      const folder = inside(`damaged ${count++}`);
      await using model = await loadModel(inside("run"), placement);
      await model.save(folder);
      const run = await readRun(folder);
      const file = path.join(folder, shiftFile(run.shift?.hash as string));
      const bytes = change(await readFile(file));
      const hash = createHash("sha256").update(bytes).digest("hex");
      await writeFile(isNamed ? path.join(folder, shiftFile(hash)) : file, bytes);
      if (isNamed) await writeFile(path.join(folder, "run.json"), JSON.stringify({ ...run, shift: { hash } }));
      return folder;
    };
  }

  it("is refused where it is of other weights, another file, or gone", async () => {
    const folder = await damaged((bytes) => bytes);
    await using backbone = await network(2);
    await using other = await LayerEnsemble.create(backbone, {
      ...made,
      taps: ["encoder.0", "encoder.1", "decoder.1"],
    });
    await other.save(inside("other"));
    const weights = path.join(folder, "weights.safetensors");
    const own = await readFile(weights);
    await writeFile(weights, await readFile(inside("other", "weights.safetensors")));
    const stale = await loadModel(folder);
    expect(stale.shift).toMatchObject({ fit: null, images: null, stale: expect.stringContaining("Run tune again") });
    const unknown = await stale.predict(far);
    expect(unknown.tapDistance).toBeNull();
    // What nobody knows is not taken for like the training.
    expect(decide(unknown, { threshold: 0, distance: { threshold: 99 } }).decision).toBe("review");
    await stale.save(inside("forgotten"));
    expect(await readRun(inside("forgotten"))).not.toHaveProperty("shift");
    await stale.dispose();
    await writeFile(weights, own);
    await (await loadModel(folder)).dispose();
    const swapped = await damaged((bytes) => Buffer.concat([bytes, Buffer.from("x")]), false);
    await expect(loadModel(swapped)).rejects.toThrow(/another file than run.json names/);
    for (const name of await shifts(folder)) await rm(path.join(folder, name));
    await expect(loadModel(folder)).rejects.toThrow(code("ERR_LE_CHECKPOINT"));
  });

  it("is refused where it is damaged or made up", async () => {
    const edit =
      (change: (tensors: ReturnType<typeof decodeSafetensors>) => void) =>
      (bytes: Buffer): Uint8Array => {
        const tensors = decodeSafetensors(bytes);
        change(tensors);
        return encodeSafetensors(tensors);
      };
    const header = (length: bigint) => (bytes: Buffer) => {
      bytes.writeBigUInt64LE(length);
      return bytes;
    };
    const first = (name: string, value: number) =>
      edit(({ arrays }) => {
        (arrays[name] as { data: Float32Array }).data[0] = value;
      });
    const cases: [string, (bytes: Buffer) => Uint8Array][] = [
      ["nothing", () => Buffer.alloc(0)],
      ["cut", (bytes) => bytes.subarray(0, bytes.length - 9)],
      ["header", header(2n ** 63n)],
      ["no JSON", header(40n)],
      ["array missing", edit(({ arrays }) => delete arrays["1.mean"])],
      ["NaN", first("0.whitening", Number.NaN)],
      ["infinite", first("0.mean", Number.POSITIVE_INFINITY)],
      ["descending", first("0.distances", 1e9)],
      ["negative", first("0.distances", -1)],
      ["shape", edit(({ arrays }) => Object.assign(arrays["0.whitening"] as object, { shape: [1, 4] }))],
      ["wrong rows", edit(({ arrays }) => Object.assign(arrays, { "0.mean": arrays["1.mean"] }))],
      [
        "validation",
        edit(({ arrays }) => Object.assign(arrays, { "0.distances": { data: Float64Array.of(1), shape: [1] } })),
      ],
      ["format", edit(({ metadata }) => Object.assign(metadata, { format: "3" }))],
      ["measure", edit(({ metadata }) => Object.assign(metadata, { measure: "neighbours" }))],
      ["unknown measure", edit(({ metadata }) => Object.assign(metadata, { measure: "euclid" }))],
      ["chosen", edit(({ metadata }) => Object.assign(metadata, { chosen: '["decoder.9"]' }))],
      ["none chosen", edit(({ metadata }) => Object.assign(metadata, { chosen: "[]" }))],
      ["twice", edit(({ metadata }) => Object.assign(metadata, { taps: '["encoder.0","encoder.0","decoder.1"]' }))],
      ["parts", edit(({ metadata }) => Object.assign(metadata, { parts: '[[["encoder.0",3]]]' }))],
      ["other parts", edit(({ metadata }) => Object.assign(metadata, { parts: "[]" }))],
      ["no list", edit(({ metadata }) => Object.assign(metadata, { taps: "{" }))],
      ["no images", edit(({ metadata }) => Object.assign(metadata, { trainingImages: "many" }))],
      ["no metadata", edit((tensors) => Object.assign(tensors, { metadata: {} }))],
    ];
    for (const [name, change] of cases) {
      const error = await damaged(change)
        .then(loadModel, (thrown) => thrown)
        .catch((thrown) => thrown);
      expect(error, name).toMatchObject({ code: "ERR_LE_CHECKPOINT" });
      expect(error.message, name).toMatch(/shift\.\w+\.safetensors but received/);
    }
  });

  it("may lie in run.json about nothing: what it is called is a SHA-256", async () => {
    const run = await readRun(inside("run"));
    const folder = await damaged((bytes) => bytes);
    for (const shift of [{}, { hash: "abc" }, { hash: 1 }, "x"]) {
      await writeFile(path.join(folder, "run.json"), JSON.stringify({ ...run, shift }));
      await expect(loadModel(folder)).rejects.toThrow(code("ERR_LE_CHECKPOINT"));
    }
  });
});
