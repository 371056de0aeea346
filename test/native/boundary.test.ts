import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Backbone, LayerEnsemble, LayerEnsemblesError } from "../../lib/index.js";
import type { Addon } from "../../lib/native/addon.js";
import { loadAddon } from "../../lib/native/load.js";
import { PACKAGE_VERSION } from "../../lib/native/package.js";
import { discs, noise, smallModel } from "../support/model.js";

const code = (value: string) => expect.objectContaining({ name: "LayerEnsemblesError", code: value });

let addon: Addon;
beforeAll(async () => {
  addon = await loadAddon();
});

describe("foreign objects", () => {
  it("are refused with a TypeError, never read", async () => {
    const { backbone, model } = await smallModel();
    await expect(LayerEnsemble.prototype.predict.call({} as never, [noise([1, 8, 8])])).rejects.toThrow(TypeError);
    const predict = addon.predict as unknown as (...args: unknown[]) => unknown;
    for (const foreign of [{}, null, 1, "x", [], new Map(), addon.createDataset(), addon.createControl()])
      expect(() => predict(foreign, [], [], {})).toThrow(TypeError);
    const dispose = addon.disposeBackbone as unknown as (...args: unknown[]) => unknown;
    expect(() => dispose(addon.createDataset())).toThrow(TypeError);
    expect(() => dispose()).toThrow(TypeError);
    await model.dispose();
    await backbone.dispose();
  });

  it("and wrong arguments throw before any thread sees them", async () => {
    const { backbone, model } = await smallModel();
    const add = addon.addSample as unknown as (...args: unknown[]) => unknown;
    const dataset = addon.createDataset();
    expect(() => add(dataset, new Float64Array(4), [1, 2, 2], new Uint8Array(4))).toThrow(/Float32Array/);
    expect(() => add(dataset, new Float32Array(4), [1, 2, 3], new Uint8Array(4))).toThrow(/6 numbers/);
    expect(() => add(dataset, new Float32Array(4), [1, 2, 2], new Uint8Array(3))).toThrow(/4 labels/);
    expect(() => add(dataset, new Float32Array(4), [1, -2, -2], new Uint8Array(4))).toThrow(/at least 0/);
    expect(() => add(dataset, new Float32Array(4), [2 ** 40, 2 ** 40, 2], new Uint8Array(4))).toThrow();
    await model.dispose();
    await backbone.dispose();
  });
});

describe("the addon", () => {
  it("is of this package's version, and says what it runs on", () => {
    expect(addon.info()).toMatchObject({ addon: PACKAGE_VERSION, libtorch: expect.stringMatching(/^2\.\d+\.\d+/) });
  });
});

describe("options", () => {
  it("that do not exist are refused with the nearest that does", async () => {
    const { backbone, model } = await smallModel();
    await expect(model.predict(noise([1, 8, 8]), { fusoin: "mean" } as never)).rejects.toThrow(/'fusoin'.*'fusion'/);
    await expect(Backbone.create("unet", { encodr: "resnet18" } as never)).rejects.toThrow(/'encodr'.*'encoder'/);
    await expect(Backbone.create("unett" as never)).rejects.toEqual(code("ERR_LE_OPTION"));
    await expect(LayerEnsemble.create(backbone, { tap: [] } as never)).rejects.toThrow(/'tap'.*'taps'/);
    await expect(model.fit([], { epoch: 1 } as never)).rejects.toThrow(/'epoch'.*'epochs'/);
    await expect(model.fit(discs(2, 16), { optimizer: { name: "adam", beta: [0, 0] } as never })).rejects.toThrow(
      /'beta'/,
    );
    await expect(model.fit(discs(2, 16), { epochs: "3" as never })).rejects.toThrow(/integer.*'epochs'.*"3"/);
    await model.dispose();
    await backbone.dispose();
  });
});

describe("bad input", () => {
  it("to predict is a typed error that names it", async () => {
    const { backbone, model } = await smallModel();
    const bad = noise([1, 8, 8]);
    bad.data[7] = Number.NaN;
    await expect(model.predict(bad)).rejects.toEqual(code("ERR_LE_VALUE"));
    await expect(model.predict([noise([1, 8, 8]), noise([3, 8, 8])])).rejects.toThrow(/image 1.*\[3, 8, 8\]/);
    await expect(model.predict(noise([8, 8]))).rejects.toEqual(code("ERR_LE_SHAPE"));
    await expect(model.predict({ data: new Float32Array(3), shape: [1, 2, 2] })).rejects.toEqual(code("ERR_LE_SHAPE"));
    await expect(model.predict(noise([1, 8, 8]), { skip: 99 })).rejects.toThrow(/skip.*99/);
    await expect(model.predict(noise([1, 8, 8]), { weights: [1] })).rejects.toThrow(LayerEnsemblesError);
    await expect(model.predict(noise([1, 8, 8]), { fusion: "median" as never })).rejects.toEqual(code("ERR_LE_OPTION"));
    expect(await model.predict([])).toEqual([]);
    await model.dispose();
    await backbone.dispose();
  });

  it("to fit is a typed error that names the sample", async () => {
    const { backbone, model } = await smallModel();
    const samples = discs(3, 16);
    await expect(model.fit([])).rejects.toEqual(code("ERR_LE_DATA"));
    const labelled = discs(3, 16);
    labelled[1]!.mask.data[3] = 7;
    await expect(model.fit(labelled)).rejects.toThrow(/training\[1\].*7/);
    const nan = discs(3, 16);
    nan[2]!.image.data[0] = Number.POSITIVE_INFINITY;
    await expect(model.fit(nan)).rejects.toThrow(/training\[2\]/);
    await expect(model.fit([samples[0]!, discs(1, 8)[0]!])).rejects.toThrow(/16×16.*8×8/);
    await expect(model.fit(samples, { headWeights: [1] })).rejects.toThrow(/headWeights/);
    await model.dispose();
    await backbone.dispose();
  });

  it("of taps names the nearest layers", async () => {
    const backbone = await Backbone.create("plain-unet", { width: 4, depth: 2 });
    const [first] = backbone.layers().filter((layer) => layer.tappable);
    await expect(LayerEnsemble.create(backbone, { taps: [`${first?.name}x`] })).rejects.toThrow(
      new RegExp(first!.name),
    );
    await expect(LayerEnsemble.create(backbone, { taps: [`${first?.name}x`] })).rejects.toEqual(code("ERR_LE_TAP"));
    await expect(LayerEnsemble.create(backbone, { taps: [], final: false })).rejects.toEqual(code("ERR_LE_OPTION"));
    await expect(LayerEnsemble.create(backbone, { device: "cuda:63" })).rejects.toEqual(code("ERR_LE_DEVICE"));
    await backbone.dispose();
  });
});

describe("abort", () => {
  it("rejects with the signal's reason, before and during work", async () => {
    const { backbone, model } = await smallModel();
    const reason = new Error("enough");
    await expect(model.predict(noise([1, 32, 32]), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const abort = new AbortController();
    let batches = 0;
    const training = model.fit(discs(64, 32), {
      epochs: 1000,
      batchSize: 2,
      signal: abort.signal,
      onProgress: (event) => {
        if (event.type === "batch" && ++batches === 2) abort.abort(reason);
      },
    });
    await expect(training).rejects.toBe(reason);
    expect(batches).toBeLessThan(20);
    const prediction = await model.predict(noise([1, 32, 32])); // the model is still usable
    expect(prediction.mask.shape).toEqual([32, 32]);
    await model.dispose();
    await backbone.dispose();
  });

  it("rejects with what a progress callback throws", async () => {
    const { backbone, model } = await smallModel();
    const thrown = new Error("callback");
    const onProgress = () => {
      throw thrown;
    };
    await expect(model.fit(discs(4, 16), { epochs: 100, onProgress })).rejects.toBe(thrown);
    await model.dispose();
    await backbone.dispose();
  });
});

describe("dispose", () => {
  it("waits for jobs in flight, and use after it throws", async () => {
    const { backbone, model } = await smallModel();
    const pending = model.predict(Array.from({ length: 8 }, (_, i) => noise([1, 64, 64], i)));
    const disposed = model.dispose();
    expect(await pending).toHaveLength(8);
    await disposed;
    await model.dispose(); // again: nothing
    await expect(model.predict(noise([1, 8, 8]))).rejects.toEqual(code("ERR_LE_DISPOSED"));
    await expect(model.forward(noise([1, 8, 8]))).rejects.toEqual(code("ERR_LE_DISPOSED"));
    await expect(model.fit([])).rejects.toEqual(code("ERR_LE_DISPOSED"));
    expect(backbone.layers().length).toBeGreaterThan(3); // the backbone is its maker's
    await backbone.dispose();
    expect(() => backbone.layers()).toThrow(/disposed/);
    await expect(LayerEnsemble.create(backbone)).rejects.toEqual(code("ERR_LE_DISPOSED"));
  });

  it("may come before a result has reached JavaScript", async () => {
    for (let i = 0; i < 20; i++) {
      const { backbone, model } = await smallModel();
      const pending = model.forward(noise([1, 1, 16, 16]));
      const disposed = model.dispose();
      const until = performance.now() + 15; // this thread is busy while both jobs end on theirs
      while (performance.now() < until);
      expect((await pending).size).toBe(model.heads.length);
      await disposed;
      await backbone.dispose();
    }
  });

  it("of the backbone ends its ensembles too", async () => {
    const { backbone, model } = await smallModel();
    await backbone[Symbol.asyncDispose]();
    await expect(model.predict(noise([1, 8, 8]))).rejects.toEqual(code("ERR_LE_DISPOSED"));
    await model.dispose();
  });
});

describe("the event loop", () => {
  it("goes on while a network works", async () => {
    const { backbone, model } = await smallModel({ width: 16 });
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    const training = model.fit(discs(32, 64), { epochs: 2, batchSize: 4 });
    await training;
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(10);
    await model.dispose();
    await backbone.dispose();
  });
});

afterAll(() => {
  addon.trimMemory();
});
