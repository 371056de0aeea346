// The network's own output, and the feature map that it is made of: by data flow, as PyTorch has them.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { Backbone, LayerEnsemble, McDropout, MultiHead, type NdArray, Plain } from "../../lib/index.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { readSafetensors } from "../support/safetensors.js";

const FOLDER = path.join(PACKAGE_ROOT, "test/fixtures/output");
const EXPECTED = readSafetensors(path.join(FOLDER, "expected.safetensors"));
const FEATURES = JSON.parse(readFileSync(path.join(FOLDER, "networks.json"), "utf8")) as Record<
  string,
  { features: string | null }
>;
const CPU = { classes: 3, device: "cpu", precision: "fp32", inputSize: [16, 16] } as const;

const array = (name: string) => EXPECTED[name] as { shape: number[]; data: Float32Array };
const IMAGE: NdArray = { data: array("image").data, shape: [2, 16, 16] };
const load = (file: string) => Backbone.load(path.join(FOLDER, file), { trust: true });

function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance = 1e-4) {
  expect(actual.length).toBe(expected.length);
  let worst = 0;
  for (let i = 0; i < actual.length; i++) worst = Math.max(worst, Math.abs(actual[i]! - expected[i]!));
  expect(worst).toBeLessThan(tolerance);
}

/** A head's logits of N×C×H×W: a convolution of 3×3 with a border of zeros. */
function head({ shape, data }: ReturnType<typeof array>, weight: Float32Array, bias: Float32Array) {
  const [, channels = 0, height = 0, width = 0] = shape;
  const at = (k: number, y: number, x: number) =>
    y < 0 || x < 0 || y >= height || x >= width ? 0 : data[(k * height + y) * width + x]!;
  return Array.from(bias, (offset, c) =>
    Float32Array.from({ length: height * width }, (_, i) => {
      let sum = offset;
      for (let k = 0; k < channels; k++)
        for (let tap = 0; tap < 9; tap++)
          sum +=
            weight[(c * channels + k) * 9 + tap]! *
            at(k, Math.floor(i / width) + Math.floor(tap / 3) - 1, (i % width) + (tap % 3) - 1);
      return sum;
    }),
  );
}

/** Square maps, resized to `size` × `size`: bilinear, with the corners of pixels aligned (align_corners=False). */
function resized(maps: Float32Array[], size: number): number[] {
  const side = Math.sqrt(maps[0]!.length);
  const at = (i: number) => Math.min(side - 1, Math.max(0, ((i + 0.5) * side) / size - 0.5));
  return maps.flatMap((map) =>
    Array.from({ length: size * size }, (_, i) => {
      const [y, x] = [at(Math.floor(i / size)), at(i % size)];
      const [y0, x0] = [Math.floor(y), Math.floor(x)];
      const [y1, x1] = [Math.min(side - 1, y0 + 1), Math.min(side - 1, x0 + 1)];
      const row = (r: number) => map[r * side + x0]! * (1 - x + x0) + map[r * side + x1]! * (x - x0);
      return row(y0) * (1 - y + y0) + row(y1) * (y - y0);
    }),
  );
}

const FILES = Object.keys(FEATURES).map((name) => ({ name, file: `${name}.pt` }));
FILES.push(
  ...["auxiliary", "deeplab", "supervised", "encoder", "scaled", "softmax"].map((name) => ({
    name,
    file: `${name}.pt2`,
  })),
);

describe.each(FILES)("the output of $file", ({ name, file }) => {
  const { features } = FEATURES[name]!;

  it(features ? `is made of ${features}` : "is made of no one map, which is said", async () => {
    const backbone = await load(file);
    if (features) {
      expect(await backbone.features([16, 16])).toMatch(new RegExp(`^${features}(\\.\\d+)?$`));
      const model = await MultiHead.create(backbone, { ...CPU, heads: 2 });
      const tap = await backbone.features([16, 16]);
      expect(model.heads.map((head) => head.name)).toEqual([`${tap}#1`, `${tap}#2`]);
      const run = mkdtempSync(path.join(os.tmpdir(), "le-output-"));
      await model.save(run);
      const weights = readSafetensors(path.join(run, "weights.safetensors"));
      rmSync(run, { recursive: true });
      [...(await model.forward(IMAGE)).values()].forEach((logits, k) => {
        const [weight, bias] = ["weight", "bias"].map((name) => weights[`heads.${k}.${name}`]!.data as Float32Array);
        expectClose(logits.data, resized(head(array(`${name}.features`), weight!, bias!), 16));
      });
      await model.dispose();
    } else {
      for (const refused of [backbone.features([16, 16]), MultiHead.create(backbone, CPU)])
        await expect(refused).rejects.toMatchObject({
          code: "ERR_LE_OPTION",
          message: expect.stringContaining("option 'tap'"),
        });
    }
    await backbone.dispose();
  });

  const { shape } = array(`${name}.output`);
  if (/softmax|sigmoid/.test(name))
    it("is probabilities, of which no softmax is taken", async () => {
      const backbone = await load(file);
      for (const refused of [
        () => Plain.create(backbone, CPU),
        () => LayerEnsemble.create(backbone, { ...CPU, taps: ["body"] }),
      ])
        await expect(refused()).rejects.toMatchObject({
          code: "ERR_LE_OPTION",
          message: expect.stringMatching(/probabilities.*option 'final'/s),
        });
      const without = await LayerEnsemble.create(backbone, { ...CPU, taps: ["body"], final: false });
      expect(without.heads.map((head) => head.name)).toEqual(["body"]);
      await without.dispose();
      await backbone.dispose();
    });
  else if (shape.length === 4 && shape[1] === 3)
    it("is the plain network's head, with PyTorch's logits", async () => {
      const backbone = await load(file);
      const model = await Plain.create(backbone, CPU);
      expect(model.heads.map((head) => head.name)).toEqual(["final"]);
      const [logits] = [...(await model.forward(IMAGE)).values()];
      expectClose(logits!.data, array(`${name}.output`).data);
      await model.dispose();
      await backbone.dispose();
    });
  else
    it("is no map of as many channels as classes, so that the plain network's head is on its features", async () => {
      const backbone = await load(file);
      const model = await Plain.create(backbone, CPU);
      expect(model.heads.map((head) => head.name)).toEqual([await backbone.features([16, 16])]);
      await model.dispose();
      await backbone.dispose();
    });
});

describe("a network of several results", () => {
  it.each(["results.pt", "results.pt2"])("%s is refused by their names until one is chosen", async (file) => {
    const own = async (output?: string) => {
      const from = { trust: true, ...(output !== undefined && { output }) };
      const backbone = await Backbone.load(path.join(FOLDER, file), from);
      const tap = await backbone.features([16, 16]);
      await backbone.dispose();
      return tap;
    };
    await expect(own()).rejects.toMatchObject({
      code: "ERR_LE_OPTION",
      message: expect.stringMatching(/option 'output'.*edges, masks/s),
    });
    expect(await own("masks")).toMatch(/^high/);
    expect(await own("edges")).toMatch(/^low/);
  });
});

describe("the package's own networks", () => {
  it.each([
    ["unet", {}],
    ["plain-unet", {}],
    ["unet3d", {}],
  ] as const)("%s: every method is on its output, or on what that is made of", async (kind, options) => {
    const dims = kind === "unet3d" ? [8, 16, 16] : [32, 32];
    const small = kind === "unet" ? { decoderChannels: [16, 8, 8, 8, 8] } : { width: 4, depth: 3 };
    const backbone = await Backbone.create(kind, { classes: 3, dropout: 0.1, ...small, ...options } as object);
    const tap = await backbone.features(dims);
    const layers = await backbone.probe(dims);
    // What the classifier, the one layer behind it with as many channels as classes, takes.
    const classifier = layers.findIndex((layer) => layer.shape?.[1] === 3 && layer.parameters > 0);
    expect(layers.findIndex((layer) => layer.name === tap)).toBeLessThan(classifier);
    expect(await backbone.outputShape(dims)).toEqual([1, 3, ...dims]);
    const where = { ...CPU, inputSize: dims };
    for (const [make, heads] of [
      [() => Plain.create(backbone, where), ["final"]],
      [() => MultiHead.create(backbone, { ...where, heads: 2 }), [`${tap}#1`, `${tap}#2`]],
      [() => McDropout.create(backbone, { ...where, passes: 2 }), ["final"]],
    ] as const) {
      const model = await make();
      expect(model.heads.map((head) => head.name)).toEqual(heads);
      await model.dispose();
    }
    await backbone.dispose();
  });
});
