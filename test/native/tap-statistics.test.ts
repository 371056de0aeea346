// What predictions say of the features that they are made of.
import { describe, expect, it } from "vitest";
import { Backbone, DeepEnsemble, LayerEnsemble, McDropout, MultiHead, Plain } from "../../lib/index.js";
import { noise } from "../support/model.js";

const code = (value: string) => expect.objectContaining({ name: "LayerEnsemblesError", code: value });
const placement = { device: "cpu", precision: "fp32", inputSize: [32, 32] } as const;
const network = (seed: number, dropout = 0) =>
  Backbone.create("plain-unet", { width: 4, depth: 3, classes: 2, seed, ...(dropout && { dropout }) });
const image = noise([1, 21, 34], 3);

describe("tapStatistics", () => {
  it("are of every tapped layer, whichever heads are kept, and only where they are asked for", async () => {
    await using backbone = await network(1);
    await using model = await LayerEnsemble.create(backbone, {
      ...placement,
      taps: ["encoder.0", "encoder.1", "decoder.1"],
    });
    expect(await model.predict(image)).not.toHaveProperty("tapStatistics");
    expect(await model.predict(image, { tapStatistics: false })).not.toHaveProperty("tapStatistics");
    const { tapStatistics = {}, heads } = await model.predict(image, { skip: 2, tapStatistics: true });
    expect(heads).toEqual(["decoder.1", "final"]);
    // Beside them what goes in, of one channel: by nine thresholds, and by four differences.
    const of = ["(texture)", "(input)", "encoder.0", "encoder.1", "decoder.1"];
    expect(Object.keys(tapStatistics)).toEqual(of);
    expect(Object.values(tapStatistics).map(({ length }) => length)).toEqual([8, 18, 8, 16, 8]);
    for (const values of Object.values(tapStatistics)) {
      expect(values).toBeInstanceOf(Float32Array);
      // Of values from 0 up, as behind a ReLU: means from 0 up, and standard deviations too.
      expect(values.every((value) => value >= 0)).toBe(true);
    }
  });

  it("are of layers without heads, in the order that was asked for", async () => {
    await using backbone = await network(1);
    await using layered = await LayerEnsemble.create(backbone, { ...placement, taps: ["encoder.0", "decoder.1"] });
    const taps = ["decoder.1", "encoder.1", "encoder.0", "encoder.1"];
    const { tapStatistics: wanted = {} } = await layered.predict(image, { tapStatistics: taps });
    expect(Object.keys(wanted)).toEqual(["decoder.1", "encoder.1", "encoder.0"]);
    await using plain = await Plain.create(backbone, placement);
    const { tapStatistics = {} } = await plain.predict(image, { tapStatistics: taps });
    for (const tap of Object.keys(wanted))
      for (const [i, value] of wanted[tap]?.entries() ?? []) expect(tapStatistics[tap]?.[i]).toBeCloseTo(value, 5);
  });

  it("are, of methods without taps, of the layers that a Layer Ensemble would tap", async () => {
    await using backbone = await network(1);
    await using layered = await LayerEnsemble.create(backbone, placement);
    const { tapStatistics: wanted = {} } = await layered.predict(image, { tapStatistics: true });
    for (const made of [Plain.create(backbone, placement), MultiHead.create(backbone, { ...placement, heads: 3 })]) {
      await using model = await made;
      const { tapStatistics = {} } = await model.predict(image, { tapStatistics: true });
      expect(Object.keys(tapStatistics)).toEqual(Object.keys(wanted));
      for (const tap of Object.keys(wanted))
        for (const [i, value] of wanted[tap]?.entries() ?? []) expect(tapStatistics[tap]?.[i]).toBeCloseTo(value, 5);
    }
  });

  it("are of a deep ensemble's first member, and of dropout's passes the mean", async () => {
    await using ensemble = await DeepEnsemble.create(network, { ...placement, members: 2 });
    const { tapStatistics } = await ensemble.predict(image, { tapStatistics: true });
    const first = await ensemble.members[0]?.predict(image, { tapStatistics: true });
    expect(tapStatistics).toEqual(first?.tapStatistics);
    await using backbone = await network(1, 0.3);
    await using sampled = await McDropout.create(backbone, { ...placement, passes: 3 });
    const of = async (passes: number) =>
      (await sampled.predict(image, { passes, tapStatistics: ["decoder.1"] })).tapStatistics?.["decoder.1"]?.slice(
        0,
        1,
      );
    const [one, two] = [await of(1), await of(2)];
    expect(one).not.toEqual(two);
    expect(await of(2)).toEqual(two);
  });

  it("refuses layers that are unknown, and what are no names", async () => {
    await using backbone = await network(1);
    await using model = await LayerEnsemble.create(backbone, { ...placement, taps: ["encoder.0"] });
    await expect(model.predict(image, { tapStatistics: ["encoder.0", "encoder.9"] })).rejects.toThrow(
      code("ERR_LE_TAP"),
    );
    await expect(model.predict(image, { tapStatistics: [] })).rejects.toThrow(code("ERR_LE_OPTION"));
    await expect(model.predict(image, { tapStatistics: 1 as never })).rejects.toThrow(code("ERR_LE_OPTION"));
    const { tapStatistics = {} } = await model.predict(image, { tapStatistics: true });
    expect(Object.keys(tapStatistics)).toEqual(["(texture)", "(input)", "encoder.0"]);
  });
});
