// Weights that are no numbers: refused at every door, and never an answer.
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Backbone, DeepEnsemble, LayerEnsemble, MultiHead, type NdArray } from "../../lib/index.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { discs, noise, smallModel } from "../support/model.js";

const fixture = (name: string) => path.join(PACKAGE_ROOT, "test/fixtures", name);
const refused = (code: string, name: string) =>
  expect.objectContaining({ code, message: expect.stringContaining(`'${name}'`) });

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "le-numbers-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Entry = { dtype: string; shape: number[]; data_offsets: [number, number] };

/** The tensors of a safetensors file: what its header says, and their bytes. */
function tensorsOf(file: string) {
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const { __metadata__, ...header } = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Record<string, Entry>;
  return { bytes, begin: 8 + length, header };
}

/** A file of one of another's tensors, with `value` as the number in its middle. */
function spoiled(file: string, name: string, value: number): string {
  const { bytes, begin, header } = tensorsOf(file);
  const entry = header[name]!;
  const data = Buffer.from(bytes.subarray(begin + entry.data_offsets[0], begin + entry.data_offsets[1]));
  data.writeFloatLE(value, 4 * Math.floor(data.length / 8));
  const text = Buffer.from(JSON.stringify({ [name]: { ...entry, data_offsets: [0, data.length] } }));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  const made = path.join(folder, "spoiled.safetensors");
  writeFileSync(made, Buffer.concat([size, text, data]));
  return made;
}

/** Puts `value` into a weight of a file, in place. */
function spoil(file: string, name: string, value: number): void {
  const { bytes, begin, header } = tensorsOf(file);
  bytes.writeFloatLE(value, begin + header[name]!.data_offsets[0]);
  writeFileSync(file, bytes);
}

/** The weights of a network of its own, which an imported one saves within its program. */
async function saveWeights(backbone: Backbone, file: string): Promise<void> {
  if (!["torchscript", "exported"].includes(String(backbone.config.kind))) return backbone.save(file);
  const model = await LayerEnsemble.create(backbone, { device: "cpu", taps: "auto", final: false });
  await model.save(`${file}-run`);
  copyFileSync(path.join(`${file}-run`, "weights.safetensors"), file);
  await model.dispose();
}

const NETWORKS = {
  "plain-unet": () => Backbone.create("plain-unet", { width: 2, depth: 2 }),
  unet3d: () => Backbone.create("unet3d", { width: 2, depth: 2 }),
  unet: () => Backbone.create("unet", { attention: "scse", decoderChannels: [16, 16, 16, 16, 16] }),
  resnet18: () => Backbone.create("resnet18", { classes: 2 }),
  scripted: () => Backbone.load(fixture("script/block-scripted.pt"), { trust: true }),
  exported: () => Backbone.load(fixture("exported/dynamic.pt2")),
};

describe.each(Object.entries(NETWORKS))("a state dict for a network that is %s", (kind, make) => {
  it("is refused by name for NaN or infinity in any one weight, strict or not, and changes nothing", async () => {
    const backbone = await make();
    const [file, after] = [path.join(folder, kind), path.join(folder, `${kind}-after`)];
    await saveWeights(backbone, file);
    const names = Object.entries(tensorsOf(file).header).filter(
      ([name, { dtype }]) => dtype === "F32" && !name.startsWith("heads."),
    );
    expect(names.length).toBeGreaterThan(5);
    let values = 0;
    for (const [name] of names) {
      const value = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY][values++ % 3]!;
      await expect(backbone.loadWeights(spoiled(file, name, value), { strict: false }), name).rejects.toEqual(
        refused("ERR_LE_CHECKPOINT", name),
      );
    }
    const variance = names.find(([name]) => name.endsWith("running_var"))?.[0];
    if (variance)
      await expect(backbone.loadWeights(spoiled(file, variance, -1), { strict: false })).rejects.toEqual(
        refused("ERR_LE_CHECKPOINT", variance),
      );
    await saveWeights(backbone, after);
    expect(readFileSync(after).equals(readFileSync(file))).toBe(true);
    await backbone.dispose();
  });
});

describe("a weight that is NaN", () => {
  it("is refused where a run is loaded, of every method, and where a training goes on", async () => {
    const { backbone, model } = await smallModel();
    const le = path.join(folder, "le");
    await model.fit(discs(4, 32), { epochs: 1, batchSize: 2, run: le });
    const mh = path.join(folder, "mh");
    const heads = await MultiHead.create(backbone, { device: "cpu", precision: "fp32", inputSize: [32, 32], heads: 2 });
    await heads.save(mh);
    for (const [run, load] of [
      [le, LayerEnsemble.load.bind(LayerEnsemble)],
      [mh, MultiHead.load.bind(MultiHead)],
    ] as const) {
      const weights = path.join(run, "weights.safetensors");
      const name = Object.keys(tensorsOf(weights).header).find((each) => each.endsWith("running_mean"))!;
      for (const each of [name, "heads.0.weight"]) {
        const before = readFileSync(weights);
        spoil(weights, each, Number.NaN);
        await expect(load(run, { device: "cpu" })).rejects.toEqual(refused("ERR_LE_CHECKPOINT", each));
        // A backbone alone takes no heads.
        if (each === name) await expect(Backbone.load(run)).rejects.toEqual(refused("ERR_LE_CHECKPOINT", each));
        writeFileSync(weights, before);
      }
    }
    await heads.dispose();
    await model.dispose();
    await backbone.dispose();
  });

  it("is refused in a file of a network", async () => {
    for (const file of ["nan.pt", "nan.pt2", "infinite.pt", "infinite.pt2"])
      await expect(Backbone.load(fixture(`output/${file}`), { trust: true })).rejects.toMatchObject({
        code: "ERR_LE_CHECKPOINT",
        message: expect.stringMatching(/NaN|infinity/),
      });
  });

  it("is refused in a member of a deep ensemble", async () => {
    const make = (seed: number) => Backbone.create("plain-unet", { width: 2, depth: 2, seed });
    const ensemble = await DeepEnsemble.create(make, { members: 2, device: "cpu", inputSize: [16, 16] });
    const run = path.join(folder, "de");
    await ensemble.save(run);
    await ensemble.dispose();
    const weights = path.join(run, "members", "2", "weights.safetensors");
    const name = Object.keys(tensorsOf(weights).header)[0]!;
    spoil(weights, name, Number.POSITIVE_INFINITY);
    await expect(DeepEnsemble.load(run)).rejects.toEqual(refused("ERR_LE_CHECKPOINT", name));
  });
});

describe("numbers that become too large", () => {
  it("stop a training whose loss stays finite, before anything is written", async () => {
    const { backbone, model } = await smallModel();
    const run = path.join(folder, "overflow");
    // The variance of a batch is beyond float, so that batch norm gives zeros: the loss is an ordinary number.
    const samples = discs(4, 32).map(({ image, mask }) => ({
      image: { ...image, data: Float32Array.from(image.data, (x) => x * 1e30) },
      mask,
    }));
    await expect(model.fit(samples, { epochs: 1, batchSize: 2, run })).rejects.toMatchObject({
      code: "ERR_LE_DIVERGED",
      message: expect.stringMatching(/running_var|infinity|NaN|loss/),
    });
    await model.dispose();
    await backbone.dispose();
  });

  it.each([
    { channelsLast: true, precision: "fp32" },
    { channelsLast: false, precision: "fp32" },
    { channelsLast: true, precision: "bf16" },
  ] as const)("are refused by forward and predict alike: %o", async (placement) => {
    const { backbone, model } = await smallModel(placement);
    const weights = path.join(folder, "large");
    await backbone.save(weights);
    const name = Object.keys(tensorsOf(weights).header).find((each) => each.endsWith("running_mean"))!;
    // Finite, as a weight may be; what comes out of it is not.
    spoil(weights, name, -3e38);
    spoil(weights, name.replace("running_mean", "weight"), 3e38);
    await backbone.loadWeights(weights);
    const image: NdArray = noise([1, 32, 32]);
    for (const call of [() => model.predict(image), () => model.forward(image)])
      await expect(call()).rejects.toMatchObject({ code: "ERR_LE_VALUE" });
    await model.dispose();
    await backbone.dispose();
  });

  it("give forward the same answer whatever ran before", async () => {
    const { backbone, model } = await smallModel();
    const image = noise([1, 32, 32]);
    const first = [...(await model.forward(image)).values()];
    await model.predict(image);
    const second = [...(await model.forward(image)).values()];
    expect(second).toEqual(first);
    await model.dispose();
    await backbone.dispose();
  });
});
