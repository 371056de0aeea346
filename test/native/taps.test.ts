import path from "node:path";
import { describe, expect, it } from "vitest";
import { autoTaps, Backbone, LayerEnsemble, type NdArray } from "../../lib/index.js";
import { temporaryFolder } from "../support/libtorch.js";
import { noise, smallModel } from "../support/model.js";
import { readSafetensors, type Tensor } from "../support/safetensors.js";

/** Convolution of C×H×W with 3×3 kernels and a border of zeros, by its definition. */
function convolve({ data, shape }: NdArray, weight: Tensor, bias?: Tensor): Float32Array {
  const [channels, height, width] = shape as [number, number, number];
  const out = new Float32Array(weight.shape[0]! * height * width);
  return out.map((_, at) => {
    const [o, y, x] = [Math.floor(at / (height * width)), Math.floor(at / width) % height, at % width];
    let sum = Number(bias?.data[o] ?? 0);
    for (let c = 0; c < channels; c++)
      for (let k = 0; k < 9; k++) {
        const [v, u] = [y + Math.floor(k / 3) - 1, x + (k % 3) - 1];
        if (v < 0 || v >= height || u < 0 || u >= width) continue;
        sum += Number(weight.data[(o * channels + c) * 9 + k]) * data[(c * height + v) * width + u]!;
      }
    return sum;
  });
}

describe("layers", () => {
  it("come in execution order with shapes once probed", async () => {
    const backbone = await Backbone.create("unet", { encoder: "resnet18", inChannels: 1, classes: 3 });
    expect(backbone.layers().every((layer) => layer.shape === undefined)).toBe(true);
    const layers = await backbone.probe([64, 96]);
    const find = (name: string) => layers.findIndex((layer) => layer.name === name);
    expect(find("encoder.conv1")).toBeLessThan(find("encoder.layer1.0.conv1"));
    expect(find("encoder.layer4")).toBeLessThan(find("decoder.blocks.0"));
    expect(layers[find("encoder.layer1.0.relu")]).toMatchObject({ type: "ReLU", calls: 2, shape: [1, 64, 16, 24] });
    expect(layers[find("segmentation_head")]).toMatchObject({ shape: [1, 3, 64, 96] });
    expect(layers.find((layer) => layer.name === "decoder.blocks")).toMatchObject({ tappable: false, calls: 0 });
    const parameters = layers
      .filter((layer) => !layer.name.includes("."))
      .reduce((sum, layer) => sum + layer.parameters, 0);
    // segmentation_models_pytorch.Unet("resnet18") has 14 328 209 with 3 input channels and 1 class.
    expect(parameters).toBe(14_328_209 - 2 * 64 * 49 + 2 * 145);
    await backbone.dispose();
  });

  it("give automatic taps at every resolution of the network", async () => {
    const backbone = await Backbone.create("unet", { encoder: "resnet18" });
    const layers = await backbone.probe([128, 128]);
    expect(autoTaps(layers)).toEqual([
      "encoder.relu",
      "encoder.layer1",
      "encoder.layer2",
      "encoder.layer3",
      "encoder.layer4",
      "decoder.blocks.0",
      "decoder.blocks.1",
      "decoder.blocks.2",
      "decoder.blocks.3",
    ]);
    expect(autoTaps(layers, { count: 3 })).toEqual(["encoder.relu", "encoder.layer4", "decoder.blocks.3"]);
    expect(() => autoTaps(layers, { count: 99 })).toThrow(/1 to \d\d for the count.*99/);
    await backbone.dispose();
  });

  it("give as many automatic taps as asked for, also where there are fewer resolutions", async () => {
    const backbone = await Backbone.create("resnet18", { classes: 0 });
    const layers = await backbone.probe([64, 64]);
    const place = new Map(layers.map(({ name }, i) => [name, i]));
    const five = ["relu", "layer1", "layer2", "layer3", "layer4"];
    expect(autoTaps(layers, { final: false }).slice(0, 5)).toEqual(five);
    for (const count of [2, 7, 10, 20]) {
      const names = autoTaps(layers, { count });
      expect(new Set(names).size).toBe(count);
      expect(names).toEqual([...names].sort((a, b) => (place.get(a) ?? 0) - (place.get(b) ?? 0)));
      if (count >= 7) expect(names).toEqual(expect.arrayContaining(five));
      // A block's last step gives the block's own output: it is never tapped beside the block.
      expect(names.some((name) => names.includes(`${name}.1`))).toBe(false);
    }
    await backbone.dispose();
  });

  it("give no automatic tap that is pooled to a single place, in attention or in a pyramid", async () => {
    const scse = await Backbone.create("unet", { attention: "scse", decoderChannels: [64, 32, 32, 16, 16] });
    const encoder = ["encoder.relu", "encoder.layer1", "encoder.layer2", "encoder.layer3", "encoder.layer4"];
    const blocks = [0, 1, 2, 3].map((i) => `decoder.blocks.${i}`);
    expect(autoTaps(await scse.probe([64, 64]))).toEqual([...encoder, ...blocks]);
    await scse.dispose();
    const deeplab = await Backbone.create("deeplabv3plus", { decoderChannels: 16, encoder: "resnet34" });
    expect(autoTaps(await deeplab.probe([64, 64]))).toEqual([
      ...["encoder.relu", "encoder.layer1", "encoder.layer2", "decoder.aspp", "decoder"],
    ]);
    await deeplab.dispose();
  });
});

describe("taps", () => {
  it("are ordered by execution, or as given", async () => {
    const backbone = await Backbone.create("unet");
    const taps = ["decoder.blocks.2", "encoder.layer1", "encoder.layer4"];
    const make = (order: "execution" | "given") => LayerEnsemble.create(backbone, { taps, order, final: false });
    const byDepth = await make("execution");
    expect(byDepth.heads.map((head) => head.name)).toEqual(["encoder.layer1", "encoder.layer4", "decoder.blocks.2"]);
    const given = await make("given");
    expect(given.heads.map((head) => head.name)).toEqual(taps);
    await byDepth.dispose();
    await given.dispose();
    await backbone.dispose();
  });

  it("may be any layer that gives a feature map, repeated and in-place ones too", async () => {
    const backbone = await Backbone.create("unet");
    const all = (await backbone.probe([64, 64])).filter((layer) => layer.tappable && layer.shape?.length === 4);
    const model = await LayerEnsemble.create(backbone, { taps: all.map((layer) => layer.name), precision: "fp32" });
    expect(model.heads.length).toBe(all.length + 1);
    const logits = await model.forward(noise([1, 1, 40, 72]));
    expect([...logits.keys()]).toEqual(model.heads.map((head) => head.name));
    for (const head of logits.values()) expect(head.shape).toEqual([1, 2, 40, 72]);
    await model.dispose();
    await backbone.dispose();
  });

  it("that were overwritten in place keep the value their layer returned", async () => {
    // The ReLU works in place on the batch norm's output, whose head must see the negative numbers that were there before.
    const taps = ["encoder.0.1", "encoder.0.2"];
    const { backbone, model } = await smallModel({ taps, final: false });
    const folder = temporaryFolder();
    await model.save(folder);
    const weights = readSafetensors(path.join(folder, "weights.safetensors"));
    const image = noise([1, 9, 14]);
    const logits = await model.forward(image);
    // A new batch norm has mean 0 and variance 1.
    const norm = convolve(image, weights["encoder.0.0.weight"]!).map((value) => value / Math.sqrt(1 + 1e-5));
    for (const [i, values] of [norm, norm.map((value) => Math.max(0, value))].entries()) {
      const maps = { data: values, shape: [4, 9, 14] };
      const expected = convolve(maps, weights[`heads.${i}.weight`]!, weights[`heads.${i}.bias`]);
      const actual = logits.get(taps[i]!)!.data;
      expect(Math.max(...expected.map((value, j) => Math.abs(value - actual[j]!))), taps[i]).toBeLessThan(1e-5);
    }
    await model.dispose();
    await backbone.dispose();
  });

  it("leave the network's own output unchanged", async () => {
    const backbone = await Backbone.create("unet");
    const plain = await LayerEnsemble.create(backbone, { taps: [], precision: "fp32" });
    const tapped = await LayerEnsemble.create(backbone, { precision: "fp32" });
    expect(plain.heads.map((head) => head.name)).toEqual(["final"]);
    const image = noise([1, 97, 130]);
    const [a, b] = [await plain.forward(image), await tapped.forward(image)];
    expect(b.get("final")).toEqual(a.get("final"));
    const prediction = await plain.predict(image);
    expect(prediction.aula).toBeNull();
    expect(prediction.pairwiseAgreement.overall).toBeNaN();
    await plain.dispose();
    await tapped.dispose();
    await backbone.dispose();
  });

  it("of a network with other outputs leave final out, or refuse it", async () => {
    const backbone = await Backbone.create("plain-unet", { classes: 5, width: 4, depth: 2 });
    const model = await LayerEnsemble.create(backbone, { classes: 3 });
    expect(model.heads.some((head) => head.name === "final")).toBe(false);
    await expect(LayerEnsemble.create(backbone, { classes: 3, final: true })).rejects.toThrow(/3 channels.*5/);
    await model.dispose();
    await backbone.dispose();
  });

  it("of a classifier give a segmentation ensemble", async () => {
    const backbone = await Backbone.create("resnet18");
    const model = await LayerEnsemble.create(backbone, { taps: ["layer1", "layer2", "layer3", "layer4"] });
    const { aula, mask } = await model.predict(noise([3, 45, 61]));
    expect(mask.shape).toEqual([45, 61]);
    expect(aula?.value).toBeGreaterThanOrEqual(0);
    await expect(LayerEnsemble.create(backbone, { taps: ["fc"] })).rejects.toThrow(/4 axes.*'fc'.*2/);
    await model.dispose();
    await backbone.dispose();
  });
});

describe("images", () => {
  it("of different sizes share a call, and each gets what it gets alone", async () => {
    const { backbone, model } = await smallModel({ width: 8 });
    const images = [noise([1, 40, 24], 1), noise([1, 17, 33], 2), noise([1, 40, 24], 3), noise([1, 1, 1], 4)];
    const together = await model.predict(images);
    for (const [i, image] of images.entries()) {
      const alone = await model.predict(image);
      expect(together[i]?.mask.shape).toEqual(image.shape.slice(1));
      const difference = alone.probabilities!.data.map((p, j) => Math.abs(p - together[i]!.probabilities!.data[j]!));
      expect(Math.max(...difference)).toBeLessThan(1e-5);
    }
    await model.dispose();
    await backbone.dispose();
  });
});
