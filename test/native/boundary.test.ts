import { readFileSync } from "node:fs";
import path from "node:path";
import { runInNewContext } from "node:vm";
import { beforeAll, describe, expect, it } from "vitest";
import { Backbone, configure, Dataset, LayerEnsemble, LayerEnsemblesError } from "../../lib/index.js";
import type { Addon } from "../../lib/native/addon.js";
import { loadAddon } from "../../lib/native/load.js";
import { PACKAGE_ROOT, PACKAGE_VERSION } from "../../lib/package.js";
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
  it("rejects with what a signal's own reason throws, and does not end the process", async () => {
    const { backbone, model } = await smallModel();
    const [abort, own] = [new AbortController(), new Error("own")];
    Object.defineProperty(abort.signal, "reason", {
      get() {
        throw own;
      },
    });
    const onProgress = () => abort.abort();
    await expect(model.fit(discs(8, 32), { epochs: 1000, signal: abort.signal, onProgress })).rejects.toBe(own);
    await model.dispose();
    await backbone.dispose();
  });

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

describe("an argument", () => {
  it("is read once, and its memory after the last getter", async () => {
    const { backbone, model } = await smallModel();
    const reads = new Map<string, number>();
    const counted = <T extends object>(object: T): T =>
      new Proxy(object, {
        get(target, name, self) {
          reads.set(String(name), (reads.get(String(name)) ?? 0) + 1);
          return Reflect.get(target, name, self);
        },
      });
    await model.predict(counted(noise([1, 8, 8])), counted({ maps: ["entropy"] as const, batchSize: 2, skip: 1 }));
    for (const name of ["data", "shape", "maps", "batchSize", "skip"])
      expect([name, reads.get(name)]).toEqual([name, 1]);
    // Options that differ from read to read are what they were when they were checked.
    let read = 0;
    const optimizer = {
      name: "sgd" as const,
      get momentum() {
        return read++ === 0 ? 0.5 : Number.NaN;
      },
    };
    const changing = { optimizer, epochs: 1 };
    expect((await model.fit(discs(2, 16), changing)).stopped).toBe("epochs");
    expect(read).toBe(1);
    await model.dispose();
    await backbone.dispose();
  });

  it("whose getter takes the memory away is refused, never read", async () => {
    const { backbone, model } = await smallModel();
    const takers: ((buffer: ArrayBuffer) => void)[] = [
      (buffer) => structuredClone(buffer, { transfer: [buffer] }),
      (buffer) => (buffer as ArrayBuffer & { resize(n: number): void }).resize(8),
    ];
    for (const take of takers) {
      const Resizable = ArrayBuffer as unknown as new (bytes: number, options: object) => ArrayBuffer;
      const resizable = () => new Resizable(64 * 64 * 4, { maxByteLength: 64 * 64 * 4 });
      const places = {
        "the shape": (data: Float32Array) => ({
          data,
          get shape() {
            take(data.buffer as ArrayBuffer);
            return [1, 64, 64];
          },
        }),
        "an option": (data: Float32Array) => ({ data, shape: [1, 64, 64] }),
      };
      for (const make of Object.values(places)) {
        const data = new Float32Array(resizable());
        const image = make(data);
        const options = {
          get maps(): [] {
            if (data.length > 2) take(data.buffer as ArrayBuffer);
            return [];
          },
        };
        await expect(model.predict(image, options)).rejects.toEqual(code("ERR_LE_SHAPE"));
        expect(data.length).toBeLessThan(3);
      }
      const data = new Float32Array(resizable());
      const samples = [{ image: places["the shape"](data), mask: { data: new Uint8Array(64 * 64), shape: [64, 64] } }];
      await expect(model.fit(samples)).rejects.toEqual(code("ERR_LE_SHAPE"));
    }
    // The addon itself, without the checks before it: the shape is read before the memory is looked at.
    const data = new Float32Array(64);
    const shape = Object.defineProperty([1, 8, 8], 1, {
      get() {
        structuredClone(data.buffer, { transfer: [data.buffer] });
        return 8;
      },
    });
    expect(() => addon.addSample(addon.createDataset(), data, shape, new Uint8Array(64))).toThrow(/64 numbers/);
    await model.dispose();
    await backbone.dispose();
  });

  it("of any size or nesting ends in an error, at once", async () => {
    const { backbone, model } = await smallModel();
    const endless = new Array(2 ** 32 - 1);
    for (const shape of [endless, [0, 2 ** 53, 2 ** 53], [1, 0, 0], [1, 2 ** 31, 2 ** 31]]) {
      await expect(model.predict({ data: new Float32Array(0), shape })).rejects.toEqual(code("ERR_LE_SHAPE"));
      await expect(model.forward({ data: new Float32Array(0), shape })).rejects.toEqual(code("ERR_LE_SHAPE"));
    }
    await expect(model.predict(noise([1, 8, 8]), { weights: endless })).rejects.toEqual(code("ERR_LE_OPTION"));
    await expect(backbone.probe(endless)).rejects.toEqual(code("ERR_LE_OPTION"));
    const wide = Array.from({ length: 100 }, () => 0) as unknown[];
    const deep = Array.from({ length: 10 }).reduce<unknown[]>(
      (inner) => Array.from({ length: 100 }, () => inner),
      wide,
    );
    expect(() => addon.createBackbone({ kind: "unet", deep })).toThrow(/at most 1000000 values/);
    const add = (shape: number[]) =>
      addon.addSample(addon.createDataset(), new Float32Array(0), shape, new Uint8Array(0));
    expect(() => add([0, 2 ** 53, 2 ** 53])).toThrow(/size|integer/);
    expect(() => add([0, 2 ** 52, 2 ** 52])).toThrow(expect.objectContaining({ code: "ERR_LE_SHAPE" }));
    await model.dispose();
    await backbone.dispose();
  });

  it("may be an array of another realm, of memory that is shared, or of a subclass: the same numbers", async () => {
    const { backbone, model } = await smallModel();
    const own = noise([1, 16, 16]);
    const expected = await model.predict(own);
    const other = runInNewContext("({ Float32Array, Uint8Array, Array })") as typeof globalThis;
    const shared = new Float32Array(new SharedArrayBuffer(own.data.byteLength));
    shared.set(own.data);
    const given = [other.Float32Array.from(own.data), shared, class extends Float32Array {}.from(own.data)];
    for (const data of given) {
      const shape = other.Array.from(own.shape);
      expect((await model.predict({ data, shape })).probabilities?.data).toEqual(expected.probabilities?.data);
      expect([...(await model.forward({ data, shape })).keys()]).toEqual(model.headNames);
    }
    const samples = discs(2, 16).map(({ image, mask }) => ({
      image: { data: other.Float32Array.from(image.data), shape: image.shape },
      mask: { data: other.Uint8Array.from(mask.data), shape: mask.shape },
    }));
    expect((await model.fit(samples, { epochs: 1 })).stopped).toBe("epochs");
    const dataset = Dataset.fromSamples(samples.map((sample, i) => ({ id: `${i}`, ...sample })));
    expect((await dataset.load(0)).mask?.data).toEqual(discs(2, 16)[0]?.mask.data);
    // What only claims to be one is not.
    for (const data of [Object.create(Float32Array.prototype), new Proxy(own.data, {}), new DataView(own.data.buffer)])
      await expect(model.predict({ data, shape: own.shape })).rejects.toEqual(code("ERR_LE_SHAPE"));
    const lying = Object.defineProperty(new Float32Array(4), "length", { value: 256 });
    await expect(model.predict({ data: lying, shape: [1, 16, 16] })).rejects.toEqual(code("ERR_LE_SHAPE"));
    await model.dispose();
    await backbone.dispose();
  });
});

describe("a job that is given up", () => {
  it("owns what the other side touches: a custom loss that aborts, and goes on", async () => {
    const { backbone, model } = await smallModel();
    const spin = (ms: number) => {
      for (const end = performance.now() + ms; performance.now() < end; );
    };
    for (const place of ["loss", "progress", "loss", "progress"]) {
      const abort = new AbortController();
      const stop = () => {
        abort.abort(place);
        spin(120); // longer than a question's next look at the signal
      };
      let calls = 0;
      const loss = ({ data }: { data: Float32Array }) => {
        if (place === "loss" && ++calls === 3) stop();
        return { value: 1, gradient: new Float32Array(data.length) };
      };
      const onProgress = () => place === "progress" && stop();
      await expect(
        model.fit(discs(8, 32), { epochs: 50, batchSize: 2, loss, onProgress, signal: abort.signal }),
      ).rejects.toBe(place);
    }
    expect((await model.predict(noise([1, 32, 32]))).mask.data).toHaveLength(1024);
    await model.dispose();
    await backbone.dispose();
  });

  it("leaves a pass between two operations, also of a network that loops for ever, and the model can be used again", async () => {
    const file = path.join(PACKAGE_ROOT, "test/fixtures/script/endless.pt");
    const backbone = await Backbone.load(file, { trust: true });
    const model = await LayerEnsemble.create(backbone, { device: "cpu", inputSize: [8, 8], taps: ["a"] });
    const image = (value: number) => ({ data: new Float32Array(64).fill(value), shape: [1, 8, 8] });
    for (const call of ["predict", "forward"] as const) {
      const [abort, reason] = [new AbortController(), new Error(call)];
      setTimeout(() => abort.abort(reason), 50);
      await expect(model[call](image(200), { signal: abort.signal })).rejects.toBe(reason);
      expect((await model.predict(image(1))).mask.data).toHaveLength(64); // not behind one that was left to itself
    }
    await model.dispose();
    await backbone.dispose();
  });
});

describe("one signal", () => {
  it("serves any number of calls without a warning, and each of them", async () => {
    const { backbone, model } = await smallModel();
    const warnings: string[] = [];
    const listen = (warning: Error) => warnings.push(warning.name);
    process.on("warning", listen);
    const abort = new AbortController();
    const done = Array.from({ length: 30 }, (_, i) => model.predict(noise([1, 8, 8], i), { signal: abort.signal }));
    await Promise.all(done);
    const image = noise([1, 128, 128]);
    const stopped = Array.from({ length: 30 }, () => model.predict(image, { signal: abort.signal }).catch((e) => e));
    abort.abort("enough");
    expect((await Promise.all(stopped)).slice(10)).toEqual(Array(20).fill("enough")); // the first may have ended before
    await new Promise((resolve) => setImmediate(resolve));
    process.off("warning", listen);
    expect(warnings).toEqual([]);
    await model.dispose();
    await backbone.dispose();
  });
});

describe.runIf(process.platform === "linux")("threads", () => {
  it("end with the disposal of their network, not with its garbage collection", async () => {
    const count = () => Number(/Threads:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1]);
    const before = count();
    for (let i = 0; i < 40; i++) await (await Backbone.create("plain-unet", { width: 1, depth: 1 })).dispose();
    expect(count()).toBeLessThan(before + 10);
  });
});

describe("memory of the process", () => {
  it("may be switched between the allocators while networks hold copies of their weights", async () => {
    const { backbone, model } = await smallModel({ width: 8 });
    for (const allocator of ["system", "pool", "system", "pool"] as const) {
      await model.predict(noise([1, 32, 32]));
      configure({ allocator });
      await model.fit(discs(2, 16), { epochs: 1 }); // drops the copies
    }
    await model.dispose();
    await backbone.dispose();
  });
});
