// nnU-Net's network: what it is given is kept, and what could not be is refused. That it computes what nnU-Net's does, scripts/parity
// shows by PyTorch, and LAYER_ENSEMBLES_NNUNET by a trained one.
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { readNpy } from "../../lib/data/npy-file.js";
import { Backbone, LayerEnsemble, loadModel } from "../../lib/index.js";
import { balls, noise } from "../support/model.js";

const code = (value: string) => expect.objectContaining({ name: "LayerEnsemblesError", code: value });
/** A folder of a trained nnU-Net with intermediate arrays. */
const TRAINED = process.env.LAYER_ENSEMBLES_NNUNET ?? "";
const SLICES = {
  strides: [
    [1, 1, 1],
    [1, 2, 2],
    [2, 2, 2],
  ],
  kernels: [
    [1, 3, 3],
    [3, 3, 3],
    [3, 3, 3],
  ],
};

describe("dynunet", () => {
  it("has heads on its levels, and comes back from a run with its strides and kernels", async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), "layer-ensembles-dynunet-"));
    try {
      await using backbone = await Backbone.create("dynunet", { width: 4, widest: 8, ...SLICES });
      expect(backbone.config).toMatchObject({ depth: 3, ...SLICES });
      await using model = await LayerEnsemble.create(backbone, {
        inputSize: [7, 18, 16],
        device: "cpu",
        precision: "fp32",
      });
      expect(model.heads.map(({ name }) => name)).toEqual(
        expect.arrayContaining([
          "encoder.stages.0",
          "encoder.stages.1",
          "encoder.stages.2",
          "decoder.stages.0",
          "final",
        ]),
      );
      const volumes = balls(4, [7, 18, 16]);
      const { epochs } = await model.fit(volumes, { epochs: 3, batchSize: 2, augment: "none", checkKernels: false });
      expect(epochs[2]?.loss).toBeLessThan(epochs[0]?.loss as number);
      await model.save(folder);
      await using again = await loadModel(folder, { device: "cpu", precision: "fp32" });
      // Sides that its strides do not divide are cut, not refused.
      const other = noise([1, 9, 21, 14], 3);
      expect((await again.predict(other)).probabilities?.data).toEqual(
        (await model.predict(other)).probabilities?.data,
      );
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  it("refuses what no such network could have", async () => {
    const of = (options: object) => Backbone.create("dynunet", { width: 4, ...options });
    await expect(of({ depth: 1 })).rejects.toEqual(code("ERR_LE_OPTION"));
    await expect(
      of({
        strides: [
          [2, 2, 2],
          [2, 2, 2],
        ],
      }),
    ).rejects.toThrow(/stride of 1 along each axis of the first/);
    await expect(
      of({
        kernels: [
          [3, 3, 3],
          [2, 3, 3],
        ],
      }),
    ).rejects.toThrow(/odd numbers/);
    await expect(
      of({
        kernels: [
          [3, 3],
          [3, 3],
        ],
      }),
    ).rejects.toThrow(/3 numbers for each stage/);
    await expect(of({ strides: SLICES.strides, depth: 4 })).rejects.toThrow(/4 stages/);
    await expect(of({ width: 64, widest: 32 })).rejects.toEqual(code("ERR_LE_OPTION"));
    await expect(Backbone.create("unet3d", { kernels: SLICES.kernels })).rejects.toEqual(code("ERR_LE_OPTION"));
  });

  it.skipIf(!existsSync(TRAINED))("gives the logits of nnU-Net with the weights of nnU-Net", async () => {
    await using backbone = await Backbone.create("dynunet", { classes: 3, width: 8, widest: 32, depth: 4 });
    // Under further names the file has each weight once more.
    const { missing } = await backbone.loadWeights(path.join(TRAINED, "fold_0", "checkpoint_final.pth"), {
      strict: false,
    });
    expect(missing).toEqual([]);
    const options = { classes: 3, taps: ["decoder.stages.1"], inputSize: [40, 56, 40], precision: "fp32" } as const;
    await using model = await LayerEnsemble.create(backbone, { ...options, device: "cpu" });
    const array = async (name: string) =>
      (await readNpy(path.join(TRAINED, "intermediate", name))).data as Float32Array;
    const tile = { data: await array("04_tile_input.npy"), shape: [1, 40, 56, 40] };
    const found = (await model.forward(tile)).get("final")?.data as Float32Array;
    const wanted = await array("05_tile_fold0_head2.npy");
    expect(found.reduce((most, value, i) => Math.max(most, Math.abs(value - (wanted[i] as number))), 0)).toBeLessThan(
      1e-3,
    );
  });
});
