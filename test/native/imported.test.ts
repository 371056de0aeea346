// Networks from files, through the same calls as the package's own: nothing downstream may ask where one came from.
import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { random } from "../../bench/random.mjs";
import { autoTaps, Backbone, LayerEnsemble, type NdArray } from "../../lib/index.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { noise } from "../support/model.js";

const fixture = (name: string) => path.join(PACKAGE_ROOT, "test/fixtures", name);
const code = (value: string, message?: RegExp) =>
  expect.objectContaining({ code: value, ...(message && { message: expect.stringMatching(message) }) });

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "le-imported-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Bright squares on noise, and where they are. */
function squares(count: number, channels: number, size: number) {
  const next = random(7);
  return Array.from({ length: count }, () => {
    const image = Float32Array.from({ length: channels * size * size }, () => next() - 0.5);
    const mask = new Uint8Array(size * size);
    const [y0, x0] = [Math.floor((next() * size) / 2), Math.floor((next() * size) / 2)];
    for (let y = y0; y < y0 + size / 2; y++)
      for (let x = x0; x < x0 + size / 2; x++) {
        mask[y * size + x] = 1;
        for (let c = 0; c < channels; c++) image[(c * size + y) * size + x]! += 2;
      }
    return {
      image: { data: image, shape: [channels, size, size] },
      mask: { data: mask, shape: [size, size] } as NdArray<Uint8Array>,
    };
  });
}

/** Noise, whose lower part is class 1. */
const halves = (count: number, size: readonly number[]) =>
  Array.from({ length: count }, () => {
    const pixels = (size[0] as number) * (size[1] as number);
    return {
      image: noise([1, ...size]),
      mask: { data: new Uint8Array(pixels).fill(1, pixels >> 1), shape: size } as NdArray<Uint8Array>,
    };
  });

const largest = (a: NdArray, b: NdArray) =>
  a.data.reduce((most, x, i) => Math.max(most, Math.abs(x - (b.data[i] ?? 0))), 0);

describe.each([
  { format: "scripted", file: "script/block-scripted.pt", kind: "torchscript", copy: "backbone.pt" },
  { format: "traced", file: "script/block-traced.pt", kind: "torchscript", copy: "backbone.pt" },
  { format: "exported", file: "exported/dynamic.pt2", kind: "exported", copy: "backbone.pt2" },
])("a network that was $format", ({ file, kind, copy }) => {
  it("is tapped, trained, saved and loaded as any other", async () => {
    const backbone = await Backbone.load(fixture(file));
    expect(backbone.config.kind).toBe(kind);
    const layers = await backbone.probe([16, 16]);
    const taps = layers.filter(({ tappable, shape }) => tappable && shape?.length === 4).map(({ name }) => name);
    expect(taps.length).toBeGreaterThan(2);

    const placement = { device: "cpu", precision: "fp32" } as const;
    const model = await LayerEnsemble.create(backbone, { taps, final: false, inputSize: [16, 16], ...placement });
    expect(model.heads.map(({ name }) => name)).toEqual(taps);
    const run = path.join(folder, `run-${path.basename(file)}`);
    const history = await model.fit(squares(24, backbone.inChannels, 16), { epochs: 6, learningRate: 1e-2, run });
    const [first, last] = [history.epochs[0]!.loss, history.epochs.at(-1)!.loss];
    expect(last).toBeLessThan(0.8 * first);

    // The run needs nothing outside its folder.
    expect(existsSync(path.join(run, copy))).toBe(true);
    const description = JSON.parse(readFileSync(path.join(run, "run.json"), "utf8"));
    expect(description.backbone).toMatchObject({ kind, file: copy });
    const image = noise([backbone.inChannels, 21, 33]);
    const expected = await model.predict(image);
    expect(expected.mask.shape).toEqual([21, 33]);
    const loaded = await LayerEnsemble.load(run, placement);
    expect(largest((await loaded.predict(image)).probabilities!, expected.probabilities!)).toBeLessThan(1e-6);

    // The trained network by itself, in the format that it came in, and as a run's network.
    const saved = path.join(folder, `saved-${path.basename(file)}`);
    await backbone.save(saved);
    const heads = { taps, final: false, inputSize: [16, 16], ...placement };
    const [again, fromRun] = [await Backbone.load(saved), await Backbone.load(run)];
    const before = await (await LayerEnsemble.create(backbone, heads)).forward(image);
    for (const other of [again, fromRun]) {
      const after = await (await LayerEnsemble.create(other, heads)).forward(image);
      for (const [name, logits] of before) expect(largest(after.get(name)!, logits)).toBeLessThan(1e-5);
    }
    for (const disposable of [loaded, model, again, fromRun, backbone]) await disposable.dispose();
  });

  it("names the nearest layer for a tap that it has not", async () => {
    const backbone = await Backbone.load(fixture(file));
    const name = backbone.layers().find(({ tappable }) => tappable)!.name;
    await expect(LayerEnsemble.create(backbone, { taps: [`${name}x`] })).rejects.toEqual(
      code("ERR_LE_TAP", new RegExp(`Nearest: .*${name}`)),
    );
    await backbone.dispose();
  });
});

describe.each(["aliased.pt", "aliased-traced.pt", "aliased.pt2", "aliased-strict.pt2"])(
  "layers with several names, of %s",
  (name) => {
    it("are heads by any of them, once each", async () => {
      const backbone = await Backbone.load(fixture(`semantics/${name}`));
      const size = [8, 6];
      const layers = await backbone.probe(size);
      const aliasOf = Object.fromEntries(layers.map((layer) => [layer.name, layer.aliasOf]));
      expect(aliasOf).toMatchObject({
        "encoder.stages.0.conv": undefined,
        "encoder.stages.0.all_modules.0": "encoder.stages.0.conv",
        "decoder.encoder.stages.0.all_modules.2": "encoder.stages.0.nonlin",
      });
      const auto = autoTaps(layers, { image: size });
      expect(auto.map((tap) => aliasOf[tap])).toEqual(auto.map(() => undefined));
      expect(auto).toContain("encoder.stages.0");
      expect(await backbone.features(size)).toBe("decoder.stage");

      const options = { final: false, inputSize: size, device: "cpu", precision: "fp32" } as const;
      const by = (taps: string[]) => LayerEnsemble.create(backbone, { ...options, taps });
      await expect(by(["encoder.stages.0.conv", "encoder.stages.0.all_modules.0"])).rejects.toEqual(
        code("ERR_LE_TAP", /names of one layer/),
      );
      const [first, last] = [
        ["encoder.stages.0.nonlin", "decoder.stage.norm"],
        ["decoder.encoder.stages.0.all_modules.2", "decoder.stage.all_modules.1"],
      ];
      const model = await by(last);
      const run = path.join(folder, `run-${name}`);
      await model.fit(halves(8, size), { epochs: 2, run });
      const image = noise([1, ...size]);
      const expected = await model.predict(image);
      const description = JSON.parse(readFileSync(path.join(run, "run.json"), "utf8"));
      expect(description.ensemble.taps).toEqual(last);
      const loaded = await LayerEnsemble.load(run, { device: "cpu", precision: "fp32" });
      expect(largest((await loaded.predict(image)).probabilities!, expected.probabilities!)).toBeLessThan(1e-6);
      // The other names are the same layers.
      expect((await by(first)).heads.map(({ channels, size }) => ({ channels, size }))).toEqual(
        model.heads.map(({ channels, size }) => ({ channels, size })),
      );
      for (const disposable of [loaded, model, backbone]) await disposable.dispose();
    });
  },
);

describe.each(["axes-traced.pt", "axes.pt2"])("automatic taps of %s", (name) => {
  it("are maps of the image alone, also where other outputs have the shape of one", async () => {
    const backbone = await Backbone.load(fixture(`semantics/${name}`));
    const size = [8, 8];
    const layers = await backbone.probe(size);
    const shapes = Object.fromEntries(layers.map((layer) => [layer.name, layer.shape]));
    expect(shapes).toMatchObject({ conv: [1, 8, 8, 8], mix: [1, 8, 8, 8], volume: [1, 1, 8, 8, 8] });
    const take = (count: number) => autoTaps(layers, { image: size, final: false, count });
    expect(take(3)).toEqual(["conv", "one", "last"]);
    expect(() => take(4)).toThrow(/1 to 3/);
    // The larger image that the probe tries is forgotten.
    expect(await backbone.outputShape(size)).toEqual([1, 2, 8, 8]);
    await backbone.dispose();
  });
});

describe("a file", () => {
  it("of weights alone is refused with what to do", async () => {
    for (const name of ["weights/checkpoint.pth", "script/branches.safetensors"])
      await expect(Backbone.load(fixture(name))).rejects.toEqual(
        code("ERR_LE_CHECKPOINT", /weights alone.*loadWeights/),
      );
  });

  it("that is no network, or cut short, is refused by name", async () => {
    const [noise, cut] = [path.join(folder, "noise.pt"), path.join(folder, "cut.pt2")];
    writeFileSync(noise, "nothing of the kind");
    copyFileSync(fixture("exported/dynamic.pt2"), cut);
    truncateSync(cut, 9000);
    await expect(Backbone.load(noise)).rejects.toEqual(code("ERR_LE_CHECKPOINT", /noise\.pt/));
    await expect(Backbone.load(cut)).rejects.toEqual(code("ERR_LE_CHECKPOINT", /cut\.pt2/));
    await expect(Backbone.load(path.join(folder, "none.pt2"))).rejects.toEqual(code("ERR_LE_IO", /none\.pt2/));
  });

  it("that was frozen, or has higher-order operators, is refused with what to export instead", async () => {
    await expect(Backbone.load(fixture("script/frozen.pt"))).rejects.toEqual(code("ERR_LE_CHECKPOINT", /freeze/));
    await expect(Backbone.load(fixture("exported/higher_order.pt2"))).rejects.toEqual(
      code("ERR_LE_CHECKPOINT", /wrap_with_set_grad_enabled.*export/),
    );
  });

  it("that was recorded for inference alone says so when it is trained, and trains its heads", async () => {
    const backbone = await Backbone.load(fixture("semantics/no_way_back-traced.pt"));
    const options = { taps: ["conv"], inputSize: [4, 5], device: "cpu", precision: "fp32" } as const;
    const samples = halves(4, [4, 5]);
    const model = await LayerEnsemble.create(backbone, options);
    await expect(model.fit(samples, { epochs: 1, batchSize: 2 })).rejects.toEqual(
      code("ERR_LE_OPTION", /recorded for inference alone.*freezeBackbone/),
    );
    const heads = await LayerEnsemble.create(backbone, { ...options, freezeBackbone: true });
    expect((await heads.fit(samples, { epochs: 1, batchSize: 2 })).epochs).toHaveLength(1);
    for (const disposable of [heads, model, backbone]) await disposable.dispose();
  });

  it("gives 3D networks too", async () => {
    const backbone = await Backbone.load(fixture("script/volume.pt"));
    expect(backbone.spatialAxes).toBe(3);
    const size = [8, 12, 10];
    const taps = (await backbone.probe(size)).filter((layer) => layer.tappable && layer.shape?.length === 5);
    const model = await LayerEnsemble.create(backbone, {
      taps: taps.slice(0, 3).map((layer) => layer.name),
      inputSize: size,
      precision: "fp32",
    });
    const { mask, maps } = await model.predict(noise([backbone.inChannels, ...size]));
    expect(mask.shape).toEqual(size);
    expect(maps.entropy?.shape).toEqual(size);
    await model.dispose();
    await backbone.dispose();
  });

  it("that was recorded for one shape says which", async () => {
    const backbone = await Backbone.load(fixture("exported/volume.pt2"));
    expect(backbone.spatialAxes).toBe(3);
    expect(backbone.probeSize).toEqual([2, 2, 4]);
    await expect(backbone.probe([8, 12, 10])).rejects.toEqual(code("ERR_LE_SHAPE", /2×1×2×2×4.*1×1×8×12×10/));
    await backbone.dispose();
  });

  it("keeps bad options out", async () => {
    const file = fixture("script/block-scripted.pt");
    await expect(Backbone.load(file, { image: "picture" })).rejects.toEqual(code("ERR_LE_OPTION", /picture/));
    await expect(Backbone.load(file, { output: ["nowhere", 3] }).then((b) => b.probe([16, 16]))).rejects.toEqual(
      expect.objectContaining({ code: expect.stringMatching(/^ERR_LE_/) }),
    );
    await expect(Backbone.load(file, { channels: 1 } as object)).rejects.toEqual(code("ERR_LE_OPTION", /channels/));
  });
});
