// One whole layer ensemble against PyTorch: scripts/parity/make_step_fixture.py made the numbers.
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LayerEnsemble } from "../../lib/index.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { readSafetensors, type Tensor } from "../support/safetensors.js";

const FIXTURE = path.join(PACKAGE_ROOT, "test/fixtures/step");
const expected = readSafetensors(path.join(FIXTURE, "expected.safetensors"));

let folder: string;
let model: LayerEnsemble;
beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "le-step-"));
  cpSync(FIXTURE, folder, { recursive: true });
  model = await LayerEnsemble.load(folder, { device: "cpu", precision: "fp32" });
});
afterAll(async () => {
  await model.dispose();
  rmSync(folder, { recursive: true, force: true });
});

/** Largest difference, relative to the largest magnitude of the expected tensor. */
function error(actual: Tensor["data"] | undefined, name: string): number {
  const want = expected[name]?.data;
  if (!actual || !want || actual.length !== want.length) throw new Error(`${name} is missing or of another size`);
  let [worst, largest] = [0, 0];
  for (let i = 0; i < want.length; i++) {
    worst = Math.max(worst, Math.abs(Number(actual[i]) - Number(want[i])));
    largest = Math.max(largest, Math.abs(Number(want[i])));
  }
  return worst / Math.max(largest, 1e-12);
}

describe("a layer ensemble equals PyTorch's", () => {
  const input = expected.input as Tensor;

  it("in the logits of every head, within 1e-5 relative", async () => {
    const logits = await model.forward({ data: input.data as Float32Array, shape: input.shape });
    expect([...logits.keys()]).toEqual(["encoder.0", "encoder.1", "final"]);
    for (const [name, head] of logits) expect(error(head.data, `logits/${name}`)).toBeLessThan(1e-5);
  });

  it("in every weight and buffer after three Adam steps, within 1e-5 relative, and in the loss", async () => {
    const [n = 0, c = 0, h = 0, w = 0] = input.shape;
    const target = expected.target?.data as BigInt64Array;
    const samples = Array.from({ length: n }, (_, i) => ({
      image: { data: (input.data as Float32Array).slice(i * c * h * w, (i + 1) * c * h * w), shape: [c, h, w] },
      mask: { data: Uint8Array.from(target.slice(i * h * w, (i + 1) * h * w), Number), shape: [h, w] },
    }));
    const history = await model.fit(samples, {
      epochs: 3,
      batchSize: n,
      learningRate: 1e-2,
      optimizer: "adam",
      schedule: "constant",
      loss: "diceCrossEntropy",
      headGradient: 1,
      clipNorm: 0,
      augment: "none",
    });
    expect(Math.abs((history.epochs[2]?.loss as number) - Number(expected.loss?.data[0]))).toBeLessThan(1e-4);
    await model.save(folder);
    const weights = readSafetensors(path.join(folder, "weights.safetensors"));
    const names = Object.keys(expected).filter((name) => name.startsWith("after/"));
    expect(Object.keys(weights).sort()).toEqual(names.map((name) => name.slice(6)).sort());
    const errors = names
      .map((name) => ({ name, error: error(weights[name.slice(6)]?.data, name) }))
      .filter(({ error }) => error > 1e-5);
    expect(errors).toEqual([]);
  });
});
