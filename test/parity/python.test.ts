// examples/python/load.py gives what `predict` gives. Runs where LAYER_ENSEMBLES_PYTHON names a Python that has torch,
// safetensors, numpy and pillow.
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import type { NdArray } from "../../lib/arrays.js";
import { writePng } from "../../lib/data/encode-png.js";
import { makePhantoms } from "../../lib/data/phantoms.js";
import { type Preprocessing, preprocess, preprocessMask, restore } from "../../lib/data/preprocess.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { temporaryFolder } from "../support/libtorch.js";
import { smallModel } from "../support/model.js";
import { readNpz } from "../support/npz.js";

const python = process.env.LAYER_ENSEMBLES_PYTHON;

/** Float32 in NumPy's format. */
function npy({ data, shape }: NdArray): Buffer {
  const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(", ")},), }`.padEnd(117);
  const start = Buffer.from(`\x93NUMPY\x01\x00\x76\x00${header}\n`, "latin1");
  return Buffer.concat([start, Buffer.from(data.buffer, data.byteOffset, data.byteLength)]);
}

function runLoad(folder: string, image: string) {
  const out = path.join(folder, "result.npz");
  const script = path.join(PACKAGE_ROOT, "examples/python/load.py");
  const ended = spawnSync(python as string, [script, folder, image, "--out", out], { encoding: "utf8" });
  expect(ended.stderr).toBe("");
  const said = JSON.parse(ended.stdout) as { heads: string[]; aula: { value: number; empty: boolean } };
  return { ...said, probabilities: readNpz(out).probabilities as NdArray };
}

function largestDifference(a: NdArray | undefined, b: NdArray): number {
  expect(a?.shape).toEqual(b.shape);
  return b.data.reduce((worst, value, i) => Math.max(worst, Math.abs(value - (a?.data[i] as number))), 0);
}

describe.skipIf(!python)("a trained run folder in PyTorch", () => {
  it("gives the same probabilities and AULA, for a prepared image and for a PNG, within 1e-5", async () => {
    const folder = temporaryFolder();
    const preprocessing: Preprocessing = {
      size: [48, 56],
      resize: "pad",
      normalise: { kind: "percentile", low: 1, high: 99 },
      channels: 1,
    };
    const phantoms = makePhantoms({ count: 12, size: 64, seed: 3 });
    const samples = phantoms.map((phantom) => {
      const { image, placement } = preprocess(phantom.image, preprocessing);
      return { image, mask: preprocessMask(phantom.mask, placement) };
    });
    const { backbone, model } = await smallModel({ taps: ["encoder.1.5", "encoder.2", "decoder.1.2"], skip: 1 });
    await model.fit(samples, { epochs: 3, batchSize: 4, learningRate: 1e-2 });
    await model.save(folder, { preprocessing });

    const [phantom, sample] = [phantoms[0], samples[0]] as [(typeof phantoms)[0], (typeof samples)[0]];
    const mine = await model.predict(sample.image);
    writeFileSync(path.join(folder, "image.npy"), npy(sample.image));
    const prepared = runLoad(folder, path.join(folder, "image.npy"));
    expect(prepared.heads).toEqual(mine.heads);
    expect(largestDifference(mine.probabilities, prepared.probabilities)).toBeLessThan(1e-5);
    expect(prepared.aula.value).toBeCloseTo(mine.aula?.value as number, 9);
    expect(prepared.aula.empty).toBe(false);

    await writePng(path.join(folder, "image.png"), phantom.image);
    const stored = runLoad(folder, path.join(folder, "image.png"));
    const { placement } = preprocess(phantom.image, preprocessing);
    const restored = restore(mine.probabilities as NdArray, placement);
    expect(largestDifference(restored, stored.probabilities)).toBeLessThan(1e-5);
    await model.dispose();
    await backbone.dispose();
  });
});
