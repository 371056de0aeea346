import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { OPTIMIZER_OPTIONS, OPTIMIZERS, SCHEDULE_OPTIONS, SCHEDULES } from "../../lib/ensemble/fit-options.js";
import { LOSS_OPTIONS } from "../../lib/ensemble/losses.js";
import {
  Backbone,
  Dataset,
  type EpochEvent,
  type FitOptions,
  LayerEnsemble,
  LOSSES,
  type NdArray,
} from "../../lib/index.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { documentedDefaults, documentedValue } from "../support/documented.js";
import { discs, noise, smallModel } from "../support/model.js";

const code = (value: string) => expect.objectContaining({ name: "LayerEnsemblesError", code: value });

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "le-training-"));
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

describe("fit", () => {
  it("learns discs, every head of them, and reports what it does", async () => {
    const { backbone, model } = await smallModel({ width: 8, depth: 3 });
    const epochs: EpochEvent[] = [];
    const history = await model.fit(discs(48, 32), {
      validation: discs(16, 32, 2),
      epochs: 14,
      batchSize: 8,
      learningRate: 5e-3,
      onProgress: (event) => {
        if (event.type === "epoch") epochs.push(event);
      },
    });
    expect(epochs).toEqual(history.epochs);
    const last = epochs.at(-1);
    const names = model.heads.map((head) => head.name);
    expect(Object.keys(last?.validation?.heads ?? {}).sort()).toEqual([...names].sort());
    expect(last?.validation?.fused.dice).toBeGreaterThan(0.85);
    expect(last?.loss).toBeLessThan((epochs[0]?.loss ?? 0) * 0.5);
    const sum = Object.values(last?.losses ?? {}).reduce((a, b) => a + b, 0);
    expect(sum).toBeCloseTo(last?.loss ?? 0, 9);
    const [sample] = discs(1, 32, 3);
    const prediction = await model.predict(sample!.image);
    let both = 0;
    let size = 0;
    for (const [i, label] of prediction.mask.data.entries()) {
      both += label && sample!.mask.data[i] ? 2 : 0;
      size += label + (sample!.mask.data[i] as number);
    }
    expect(both / size).toBeGreaterThan(0.8);
    await model.dispose();
    await backbone.dispose();
  });

  it.each(LOSSES)("lowers %s", async (loss) => {
    const { backbone, model } = await smallModel({ classes: 3 });
    const history = await model.fit(discs(16, 24, 5, 3), { epochs: 6, batchSize: 4, learningRate: 5e-3, loss });
    expect(history.epochs.at(-1)?.loss).toBeLessThan(history.epochs[0]?.loss as number);
    await model.dispose();
    await backbone.dispose();
  });

  it("has the defaults that its doc comments tell, of every loss, optimiser and schedule", async () => {
    const documented = (file: string, specs: object) => {
      const all = documentedDefaults(path.join(PACKAGE_ROOT, "lib/ensemble", file));
      const own = Object.keys(specs).map((name) => [name, documentedValue(all[name])]);
      return Object.fromEntries(own.filter(([, value]) => value !== undefined));
    };
    const [losses, optimizers, schedules] = [
      documented("losses.ts", LOSS_OPTIONS),
      documented("fit-options.ts", OPTIMIZER_OPTIONS),
      documented("fit-options.ts", SCHEDULE_OPTIONS),
    ] as const;
    const weights = async (options: FitOptions) => {
      const { backbone, model } = await smallModel({ depth: 2 });
      await model.fit(discs(4, 16), { validation: discs(1, 16, 2), epochs: 2, batchSize: 2, ...options });
      const file = path.join(folder, "weights");
      await backbone.save(file);
      await model.dispose();
      await backbone.dispose();
      return readFileSync(file);
    };
    for (const [i, loss] of LOSSES.entries()) {
      const optimizer = OPTIMIZERS[i % OPTIMIZERS.length] as (typeof OPTIMIZERS)[number];
      const schedule = SCHEDULES[i % SCHEDULES.length] as (typeof SCHEDULES)[number];
      const short = await weights({ loss, optimizer, schedule });
      const long = await weights({
        loss: { name: loss, ...losses },
        optimizer: { name: optimizer, ...optimizers },
        schedule: { name: schedule, ...schedules },
      });
      expect([loss, optimizer, schedule, long.equals(short)]).toEqual([loss, optimizer, schedule, true]);
    }
  });

  it("gives the same weights for the same seed, and others for another", async () => {
    const weights = async (seed: number) => {
      const { backbone, model } = await smallModel({ dropout: 0.2 });
      await model.fit(discs(10, 24), {
        epochs: 2,
        batchSize: 3,
        seed,
        augment: { flipHorizontal: 0.5, rotation: 20, noise: 0.1 },
      });
      const file = path.join(folder, `${seed}-${Math.random()}.safetensors`);
      await backbone.save(file);
      await model.dispose();
      await backbone.dispose();
      return readFileSync(file);
    };
    const first = await weights(4);
    expect((await weights(4)).equals(first)).toBe(true);
    expect((await weights(5)).equals(first)).toBe(false);
  });

  it("with a loss of the caller's own equals the built-in one", async () => {
    // Cross-entropy written here: mean over pixels of -log softmax at the target; gradient (p - onehot) / pixels.
    const crossEntropy = (logits: NdArray, target: NdArray<Uint8Array>) => {
      const [n = 0, c = 0, h = 0, w = 0] = logits.shape;
      const pixels = h * w;
      const gradient = new Float32Array(logits.data.length);
      let value = 0;
      for (let i = 0; i < n; i++)
        for (let p = 0; p < pixels; p++) {
          const at = (k: number) => (i * c + k) * pixels + p;
          let z = 0;
          for (let k = 0; k < c; k++) z += Math.exp(logits.data[at(k)] as number);
          const label = target.data[i * pixels + p] as number;
          value -= Math.log(Math.exp(logits.data[at(label)] as number) / z) / (n * pixels);
          for (let k = 0; k < c; k++)
            gradient[at(k)] = (Math.exp(logits.data[at(k)] as number) / z - (k === label ? 1 : 0)) / (n * pixels);
        }
      return { value, gradient };
    };
    const losses = async (loss: "crossEntropy" | typeof crossEntropy) => {
      const { backbone, model } = await smallModel();
      const history = await model.fit(discs(8, 16), { epochs: 3, batchSize: 4, loss, augment: "none" });
      await model.dispose();
      await backbone.dispose();
      return history.epochs.map((epoch) => epoch.loss);
    };
    const [own, builtIn] = [await losses(crossEntropy), await losses("crossEntropy")];
    for (const [i, value] of own.entries()) expect(Math.abs(value - (builtIn[i] as number)) / value).toBeLessThan(1e-4);
  });

  it("rejects where the caller's loss throws or answers nonsense", async () => {
    const { backbone, model } = await smallModel();
    const fit = (loss: unknown) => model.fit(discs(4, 16), { loss: loss as never });
    await expect(
      fit(() => {
        throw new Error("no such luck");
      }),
    ).rejects.toThrow(/no such luck/);
    await expect(fit(() => 3)).rejects.toThrow(/value/);
    await expect(fit(() => ({ value: 1, gradient: new Float32Array(2) }))).rejects.toThrow(/numbers/);
    await model.dispose();
    await backbone.dispose();
  });

  it("leaves a frozen backbone as it was, batch-norm statistics too", async () => {
    const { backbone, model } = await smallModel({ freezeBackbone: true, final: false });
    const [before, after] = [path.join(folder, "before"), path.join(folder, "after")];
    await backbone.save(before);
    const history = await model.fit(discs(8, 24), { epochs: 3, batchSize: 4, learningRate: 1e-2 });
    await backbone.save(after);
    expect(readFileSync(after).equals(readFileSync(before))).toBe(true);
    expect(history.epochs[2]?.loss).toBeLessThan(history.epochs[0]?.loss as number);
    await model.dispose();
    await backbone.dispose();
  });

  it("validates on images of which a pixel counts, and refuses a validation without any", async () => {
    const held = discs(4, 16, 2);
    const [last] = discs(1, 16, 5) as typeof held;
    const blank = { ...last, mask: { data: new Uint8Array(256).fill(255), shape: [16, 16] } } as (typeof held)[0];
    const scores = async (validation: typeof held) => {
      const { backbone, model } = await smallModel();
      try {
        const { epochs } = await model.fit(discs(2, 16), { validation, epochs: 1 });
        return epochs[0]?.validation as NonNullable<(typeof epochs)[0]["validation"]>;
      } finally {
        await model.dispose();
        await backbone.dispose();
      }
    };
    const [without, withIt] = [await scores(held), await scores([...held, blank])];
    expect(withIt.fused.dice).toBeCloseTo(without.fused.dice, 6);
    expect(withIt.fused.nll).toBeCloseTo(without.fused.nll, 5);
    for (const [name, { dice }] of Object.entries(without.heads)) expect(withIt.heads[name]?.dice).toBeCloseTo(dice, 6);
    await expect(scores([blank])).rejects.toThrow("a pixel that counts in the masks of validation");
  });

  it("reads samples as class indices, and a dataset's ignored label with it", async () => {
    const { backbone, model } = await smallModel();
    const [first] = discs(1, 16) as [ReturnType<typeof discs>[0]];
    const full = { ...first, mask: { data: first.mask.data.map((label) => 255 * label), shape: [16, 16] } };
    await expect(model.fit([full], { epochs: 1 })).rejects.toThrow(
      /0 and 255 alone, as in training\[0\]\.mask.*ignoreIndex/,
    );
    const marked = {
      ...first,
      id: "a",
      mask: { data: first.mask.data.map((label, i) => (i < 9 ? 7 : label)), shape: [16, 16] },
    };
    const dataset = Dataset.fromSamples([marked], { classes: 2, labels: { ignore: 7 } });
    expect((await model.fit(dataset, { epochs: 1 })).epochs).toHaveLength(1);
    await model.dispose();
    await backbone.dispose();
  });

  it("stops early when validation gets no better", async () => {
    const { backbone, model } = await smallModel();
    const history = await model.fit(discs(6, 16), {
      validation: discs(4, 16, 2),
      epochs: 60,
      learningRate: 0,
      earlyStopping: 3,
    });
    expect(history.stopped).toBe("early");
    expect(history.epochs.length).toBe((history.best?.epoch ?? 0) + 1 + 3);
    await model.dispose();
    await backbone.dispose();
  });

  it("keeps the weights of the epoch with the lowest loss of validation", async () => {
    const { backbone, model } = await smallModel({ freezeBackbone: true });
    const samples = discs(6, 16);
    // The truth turned round: the better a network has learnt, the worse it is here.
    const validation = discs(4, 16, 2).map(({ image, mask: { data, shape } }) => ({
      image,
      mask: { data: data.map((label) => 1 - label), shape },
    }));
    const history = await model.fit(samples, { validation, epochs: 5, learningRate: 0.02, schedule: "constant" });
    const losses = history.epochs.map((epoch) => epoch.validation!.loss);
    expect(history.best).toEqual({ epoch: 0, loss: losses[0] });
    expect(losses.at(-1)).toBeGreaterThan(1.1 * losses[0]!);
    const again = await model.fit(samples, { validation, epochs: 1, learningRate: 0 });
    expect(again.epochs[0]!.validation!.loss).toBeCloseTo(losses[0]!, 5);
    await model.dispose();
    await backbone.dispose();
  });

  it("says so when it diverges", async () => {
    const { backbone, model } = await smallModel();
    const fit = model.fit(discs(8, 16), { epochs: 50, learningRate: 1e30, optimizer: "sgd", loss: "crossEntropy" });
    await expect(fit).rejects.toEqual(code("ERR_LE_DIVERGED"));
    await model.dispose();
    await backbone.dispose();
  });
});

describe("a run folder", () => {
  it("resumes to the same weights as an unbroken run", async () => {
    const train = async (run: string, stopAfter?: number, resume = false) => {
      const { backbone, model } = await smallModel({ dropout: 0.1 });
      const abort = new AbortController();
      const fit = model.fit(discs(12, 24), {
        validation: discs(4, 24, 2),
        epochs: 5,
        batchSize: 4,
        schedule: "onecycle",
        augment: { flipVertical: 0.5, scale: [0.9, 1.1] },
        run,
        resume,
        signal: abort.signal,
        onProgress: (event) => {
          if (event.type === "batch" && event.epoch === stopAfter && event.batch > 0) abort.abort(new Error("stop"));
        },
      });
      await (stopAfter === undefined ? fit : fit.catch(() => {}));
      await model.dispose();
      await backbone.dispose();
    };
    const [whole, broken] = [path.join(folder, "whole"), path.join(folder, "broken")];
    await train(whole);
    await train(broken, 1);
    await train(broken, 3, true);
    await train(broken, undefined, true);
    const weights = (run: string) => readFileSync(path.join(run, "weights.safetensors"));
    expect(weights(broken).equals(weights(whole))).toBe(true);
    const rows = (run: string) =>
      readFileSync(path.join(run, "history.csv"), "utf8")
        .trim()
        .split("\n")
        .map((row) => row.split(",")[0]);
    expect(rows(broken)).toEqual(rows(whole));
    expect(rows(broken)).toHaveLength(6);
  });

  it("is refused where it holds a run, or was begun with other options", async () => {
    const { backbone, model } = await smallModel();
    const run = path.join(folder, "run");
    await model.fit(discs(4, 16), { epochs: 1, run });
    await expect(model.fit(discs(4, 16), { epochs: 1, run })).rejects.toThrow(/holds a run.*resume/);
    const other = model.fit(discs(4, 16), { epochs: 2, run, resume: true, learningRate: 0.5 });
    await expect(other).rejects.toEqual(code("ERR_LE_CHECKPOINT"));
    await model.dispose();
    await backbone.dispose();
  });

  it("is all that prediction needs", async () => {
    const { backbone, model } = await smallModel({ skip: 1 });
    const run = path.join(folder, "run");
    await model.fit(discs(6, 24), { epochs: 2, run, notes: { classNames: ["background", "disc"] } });
    const image = noise([1, 29, 35]);
    const expected = await model.predict(image);
    await model.dispose();
    await backbone.dispose();
    const loaded = await LayerEnsemble.load(run, { device: "cpu", precision: "fp32" });
    expect(loaded.run?.notes.classNames).toEqual(["background", "disc"]);
    expect(loaded.skip).toBe(1);
    const actual = await loaded.predict(image);
    expect(actual.probabilities).toEqual(expected.probabilities);
    expect(actual.aula).toEqual(expected.aula);
    await loaded.save(path.join(folder, "copy"));
    const copy = await LayerEnsemble.load(path.join(folder, "copy"), { device: "cpu", precision: "fp32" });
    expect((await copy.predict(image)).probabilities).toEqual(expected.probabilities);
    await copy.dispose();
    await loaded.dispose();
  });

  it("that is damaged gives a typed error that names the file", async () => {
    const { backbone, model } = await smallModel();
    const run = path.join(folder, "run");
    await model.save(run);
    await model.dispose();
    await backbone.dispose();
    const [weights, json] = [path.join(run, "weights.safetensors"), path.join(run, "run.json")];
    const [goodWeights, goodJson] = [readFileSync(weights), readFileSync(json, "utf8")];
    const load = () => LayerEnsemble.load(run);
    await expect(LayerEnsemble.load(path.join(folder, "nowhere"))).rejects.toEqual(code("ERR_LE_CHECKPOINT"));
    for (const length of [0, 5, 100, goodWeights.length - 1]) {
      writeFileSync(weights, goodWeights.subarray(0, length));
      await expect(load()).rejects.toEqual(code("ERR_LE_CHECKPOINT"));
      await expect(load()).rejects.toThrow(weights);
    }
    writeFileSync(weights, goodWeights);
    writeFileSync(json, goodJson.replace('"width": 4', '"width": 8'));
    await expect(load()).rejects.toEqual(code("ERR_LE_CHECKPOINT"));
    for (const text of ["", "{", "[]", "{}", "null", goodJson.slice(0, 200)]) {
      writeFileSync(json, text);
      await expect(load()).rejects.toEqual(code("ERR_LE_CHECKPOINT"));
    }
    writeFileSync(json, goodJson);
    await (await load()).dispose();
  });

  it("that cannot be written leaves nothing half-made", async () => {
    const { backbone, model } = await smallModel();
    writeFileSync(path.join(folder, "file"), "");
    const fit = model.fit(discs(4, 16), { epochs: 1, run: path.join(folder, "file", "run") });
    await expect(fit).rejects.toEqual(code("ERR_LE_IO"));
    await expect(backbone.save(path.join(folder, "none", "w.safetensors"))).rejects.toEqual(code("ERR_LE_IO"));
    await model.dispose();
    await backbone.dispose();
  });
});

describe("weights of a backbone", () => {
  it("save and load by part, strictly unless asked otherwise", async () => {
    const unet = await Backbone.create("unet", { seed: 1 });
    const other = await Backbone.create("unet", { seed: 2 });
    const [encoder, whole] = [path.join(folder, "encoder"), path.join(folder, "whole")];
    await unet.save(encoder, { part: "encoder" });
    await unet.save(whole);
    await expect(other.loadWeights(encoder)).rejects.toEqual(code("ERR_LE_CHECKPOINT"));
    await other.loadWeights(encoder, { part: "encoder" });
    const loose = await other.loadWeights(whole, { strict: false });
    expect(loose).toMatchObject({ missing: [], unexpected: [], prefix: "" });
    const again = path.join(folder, "again");
    await other.save(again);
    expect(readFileSync(again).equals(readFileSync(whole))).toBe(true);
    await unet.dispose();
    await other.dispose();
  });

  it("come from state dicts of Python, and from nothing that asks for more", async () => {
    const resnet = await Backbone.create("resnet18", { classes: 0 });
    const fixture = (name: string) => path.join(import.meta.dirname, "../fixtures/weights", name);
    await expect(resnet.loadWeights(fixture("checkpoint.pth"))).rejects.toMatchObject({
      code: "ERR_LE_CHECKPOINT",
      message: expect.stringMatching(/checkpoint\.pth.*of which none fits: .*state_dict\.module\.weight/s),
    });
    // Not strict either: nothing would be loaded.
    await expect(resnet.loadWeights(fixture("legacy.pth"), { strict: false })).rejects.toMatchObject({
      code: "ERR_LE_CHECKPOINT",
      message: expect.stringContaining("bfloat16"),
    });
    await expect(resnet.loadWeights(fixture("module.pth"))).rejects.toMatchObject({
      code: "ERR_LE_CHECKPOINT",
      message: expect.stringContaining("save model.state_dict()"),
    });
    await resnet.dispose();
  });

  it("start an encoder, for any number of channels, without staying in the configuration", async () => {
    const donor = await Backbone.create("resnet18", { classes: 4, seed: 7 });
    const file = path.join(folder, "donor.safetensors");
    await donor.save(file);
    const fresh = await Backbone.create("unet", { inChannels: 1 });
    const started = await Backbone.create("unet", { inChannels: 1, encoderWeights: file });
    expect(started.config).toEqual(fresh.config);
    const [encoder, part] = [path.join(folder, "started"), path.join(folder, "part")];
    await started.save(encoder, { part: "encoder" });
    await donor.save(part, { part: "layer3" });
    const again = await Backbone.create("resnet18", { classes: 4, inChannels: 1 });
    await again.loadWeights(encoder, { strict: false });
    const same = path.join(folder, "same");
    await again.save(same, { part: "layer3" });
    expect(readFileSync(same).equals(readFileSync(part))).toBe(true);
    const create = (encoderWeights: string, encoder: "resnet18" | "resnet34" = "resnet18") =>
      Backbone.create("unet", { encoder, encoderWeights });
    await expect(create(file, "resnet34")).rejects.toEqual(code("ERR_LE_CHECKPOINT"));
    await expect(create(path.join(folder, "nowhere"))).rejects.toEqual(code("ERR_LE_IO"));
    await expect(Backbone.create("plain-unet", { encoderWeights: file })).rejects.toEqual(code("ERR_LE_OPTION"));
    for (const backbone of [donor, fresh, started, again]) await backbone.dispose();
  });
});
