// Predictions by tiles: one tile is a prediction as ever; several are what the definition says, step by step; and what is
// too large to be held is read row by row.
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { define } from "../../lib/grid/stretching.js";
import {
  Backbone,
  DeepEnsemble,
  type ImageRows,
  LayerEnsemble,
  McDropout,
  type Model,
  MultiHead,
  type NdArray,
  Plain,
  type Prediction,
  type PredictOptions,
  type TileEvent,
} from "../../lib/index.js";
import { scoreHeads } from "../../lib/metrics/index.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { noise, smallModel, smallVolumeModel } from "../support/model.js";

const code = (value: string, message?: RegExp) =>
  expect.objectContaining({ code: value, ...(message && { message: expect.stringMatching(message) }) });
const fixture = (name: string) => path.join(PACKAGE_ROOT, "test/fixtures", name);

let images: Awaited<ReturnType<typeof smallModel>>;
let volumes: Awaited<ReturnType<typeof smallVolumeModel>>;
beforeAll(async () => {
  images = await smallModel({ classes: 3 });
  volumes = await smallVolumeModel({ depth: 2 });
});
afterAll(async () => {
  for (const { model, backbone } of [images, volumes]) {
    await model.dispose();
    await backbone.dispose();
  }
});

/** A box of an array whose last axes are spatial: what lies outside is 0. */
function crop({ data, shape }: NdArray, begin: readonly number[], size: readonly number[]): NdArray {
  const spatial = shape.slice(-size.length);
  const leading = shape.slice(0, shape.length - size.length);
  const planes = leading.reduce((a, b) => a * b, 1);
  const count = size.reduce((a, b) => a * b, 1);
  const whole = spatial.reduce((a, b) => a * b, 1);
  const out = new Float32Array(planes * count);
  for (let p = 0; p < planes; p++)
    for (let i = 0; i < count; i++) {
      const at = indexOf(i, size).map((index, axis) => index + (begin[axis] as number));
      if (at.every((index, axis) => index >= 0 && index < (spatial[axis] as number)))
        out[p * count + i] = data[p * whole + placeOf(at, spatial)] as number;
    }
  return { data: out, shape: [...leading, ...size] };
}

function indexOf(place: number, size: readonly number[]): number[] {
  const index = new Array<number>(size.length);
  for (let axis = size.length - 1, rest = place; axis >= 0; axis--) {
    index[axis] = rest % (size[axis] as number);
    rest = Math.floor(rest / (size[axis] as number));
  }
  return index;
}

function placeOf(index: readonly number[], size: readonly number[]): number {
  return index.reduce((place, i, axis) => place * (size[axis] as number) + i, 0);
}

/** C×S mirrored along some of its spatial axes. */
function mirrored({ data, shape }: NdArray, axes: readonly number[]): NdArray {
  const size = shape.slice(1);
  const count = size.reduce((a, b) => a * b, 1);
  const out = new Float32Array(data.length);
  for (let i = 0; i < data.length; i++) {
    const index = indexOf(i % count, size).map((at, axis) =>
      axes.includes(axis) ? (size[axis] as number) - 1 - at : at,
    );
    out[i] = data[Math.floor(i / count) * count + placeOf(index, size)] as number;
  }
  return { data: out, shape };
}

/** First rows of the tiles along one axis, as nnU-Net and MONAI lay them. */
function startsOf(image: number, tile: number, overlap: number): number[] {
  const rest = Math.max(0, image - tile);
  const steps = Math.ceil(rest / (tile * (1 - overlap)));
  const even = (x: number) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));
  return Array.from({ length: steps + 1 }, (_, i) => (i === 0 ? 0 : even((rest / steps) * i)));
}

/**
 * Each head's logits over the image, by the definition: for each tile and each mirroring of it the logits at the tile's size,
 * turned back; the mean of those of all tiles, weighted by exp(-x²/2σ²), at least 1e-3. For heads whose samples lie between
 * the tiles' offsets, so that they are brought to the tile's size first.
 */
async function headsByDefinition(
  model: Model,
  image: NdArray,
  tile: readonly number[],
  overlap: number,
  mirror: readonly number[] = [],
  weigh: "gaussian" | "constant" = "gaussian",
): Promise<NdArray[]> {
  const size = image.shape.slice(1);
  const padded = size.map((side, axis) => Math.max(side, tile[axis] as number));
  const before = size.map((side, axis) => Math.floor(((padded[axis] as number) - side) / 2));
  const starts = padded.map((side, axis) => startsOf(side, tile[axis] as number, overlap));
  const count = tile.reduce((a, b) => a * b, 1);
  const all = padded.reduce((a, b) => a * b, 1);
  const weights = Float64Array.from({ length: count }, (_, i) => {
    if (weigh === "constant") return 1;
    const distances = indexOf(i, tile).map(
      (at, axis) => (at - ((tile[axis] as number) - 1) / 2) / ((tile[axis] as number) / 8),
    );
    return Math.max(1e-3, Math.exp(-distances.reduce((sum, x) => sum + x * x, 0) / 2));
  });
  let sets: number[][] = [[]];
  for (const axis of mirror) sets = sets.flatMap((set) => [set, [...set, axis]]);
  let sums: Float64Array[] = [];
  const total = new Float64Array(all);
  let offsets: number[][] = [[]];
  for (const axis of starts) offsets = offsets.flatMap((before) => axis.map((start) => [...before, start]));
  for (const offset of offsets) {
    const part = crop(
      image,
      offset.map((start, axis) => start - (before[axis] as number)),
      tile,
    );
    for (const set of sets) {
      const heads = [...(await model.forward(mirrored(part, set))).values()].map(({ data, shape }) =>
        mirrored({ data, shape: shape.slice(1) }, set),
      );
      if (sums.length === 0) sums = heads.map(({ shape }) => new Float64Array((shape[0] as number) * all));
      for (let i = 0; i < count; i++) {
        const at = placeOf(
          indexOf(i, tile).map((index, axis) => index + (offset[axis] as number)),
          padded,
        );
        total[at]! += weights[i] as number;
        for (const [k, { data, shape }] of heads.entries())
          for (let c = 0; c < (shape[0] as number); c++)
            (sums[k] as Float64Array)[c * all + at]! += (weights[i] as number) * (data[c * count + i] as number);
      }
    }
  }
  return sums.map((sum) => {
    const data = Float32Array.from(sum, (value, i) => value / (total[i % all] as number));
    return crop({ data, shape: [sum.length / all, ...padded] }, before, size);
  });
}

function expectNear(
  actual: NdArray | undefined,
  expected: { data: ArrayLike<number>; shape: readonly number[] },
  by: number,
) {
  expect(actual?.shape).toEqual([...expected.shape]);
  const data = actual?.data as Float32Array;
  let worst = 0;
  for (let i = 0; i < data.length; i++)
    worst = Math.max(worst, Math.abs((data[i] as number) - (expected.data[i] as number)));
  expect(worst).toBeLessThan(by);
}

/** Everything of a prediction that a definition on the logits gives too. */
function expectByDefinition(made: Prediction, heads: readonly NdArray[]) {
  const expected = scoreHeads(heads, { values: "logits" });
  expectNear(made.probabilities, expected.probabilities, 2e-5);
  for (const [name, map] of Object.entries(made.maps))
    if (name !== "disagreement" && name !== "variationRatio") expectNear(map, expected.maps[name as "entropy"], 1e-4);
  const different = (a: ArrayLike<number>, b: ArrayLike<number>) =>
    Array.from(a).filter((label, i) => label !== b[i]).length / a.length;
  expect(different(made.mask.data, expected.mask.data)).toBeLessThan(1e-3);
  expect(different(made.labels?.data as Uint8Array, expected.labels.data)).toBeLessThan(1e-3);
  expect(made.pairwiseAgreement.overall).toBeCloseTo(expected.pairwiseAgreement.overall, 3);
  expect(made.softDiceConfidence.overall).toBeCloseTo(expected.softDiceConfidence.overall, 3);
  if (made.aula) expect(made.aula.value).toBeCloseTo(expected.aula?.value as number, 2);
  expect(made.summaries.entropy?.mean).toBeCloseTo(expected.summaries.entropy.mean, 4);
}

/** All that is the same of two predictions of one image, to the bit. */
const comparable = ({ tiles: _tiles, ...prediction }: Prediction) => prediction;

describe("one tile that is the image", () => {
  it("is an untiled prediction, of any method, to the bit", async () => {
    const network = (seed: number, dropout = 0) =>
      Backbone.create("plain-unet", { width: 4, depth: 2, classes: 2, seed, ...(dropout && { dropout }) });
    const placed = { device: "cpu", precision: "fp32", inputSize: [24, 16] } as const;
    const models: Model[] = [
      await LayerEnsemble.create(await network(1), placed),
      await Plain.create(await network(2), placed),
      await MultiHead.create(await network(3), { ...placed, heads: 3 }),
      await McDropout.create(await network(4, 0.3), { ...placed, passes: 3 }),
      await DeepEnsemble.create((seed) => network(seed), { ...placed, members: 2 }),
    ];
    const image = noise([1, 24, 16], 3);
    for (const model of models) {
      const options = { labels: true, tapStatistics: true } satisfies PredictOptions;
      const whole = await model.predict(image, options);
      const auto = await model.predict(image, { ...options, tile: "auto" });
      expect(auto).toEqual(whole);
      expect(auto).not.toHaveProperty("tiles");
      expect(await model.predict(image, { ...options, tile: [24, 16], overlap: 0.3 })).toEqual(whole);
      expect(await model.predict(image, { ...options, tile: "none" })).toEqual(whole);
      // Brought out at another size it is the same pass: rounding alone is between its statistics.
      const larger = await model.predict(image, { ...options, outputSize: [48, 16] });
      expect(larger.mask.shape).toEqual([48, 16]);
      expect(larger.tiles).toEqual({ size: [24, 16], overlap: 0.5, weights: "gaussian", mirror: [] });
      for (const [tap, values] of Object.entries(whole.tapStatistics ?? {}))
        for (const [i, value] of values.entries()) expect(larger.tapStatistics?.[tap]?.[i]).toBeCloseTo(value, 5);
      await model.dispose();
      await model.backbone.dispose();
    }
  });

  it("is one of a volume as well", async () => {
    const volume = noise([1, 8, 16, 16], 4);
    const whole = await volumes.model.predict(volume);
    expect(await volumes.model.predict(volume, { tile: "auto" })).toEqual(whole);
  });
});

describe("an output of another size", () => {
  it("is what the logits say between the image's voxels, or at the nearest of them", async () => {
    const { model } = volumes;
    const volume = noise([1, 9, 20, 18], 6);
    const tile = [8, 16, 16] as const;
    const heads = await headsByDefinition(model, volume, tile, 0.5);
    const outputSize = [21, 33, 12] as const;
    for (const outputOrder of [
      ["linear", "linear", "linear"],
      ["nearest", "linear", "linear"],
      ["nearest", "linear", "nearest"],
    ] as const) {
      const made = await model.predict(volume, {
        tile: [...tile],
        outputSize: [...outputSize],
        outputOrder,
        labels: true,
      });
      const stretches = outputSize.map((size, axis) => ({
        ...{ axis: axis + 1, size },
        between: outputOrder[axis] as "linear" | "nearest",
      }));
      const there = heads.map(({ data, shape }) => ({
        data: define({ data, shape, stretches, labels: false }) as Float32Array,
        shape: [shape[0] as number, ...outputSize],
      }));
      expectByDefinition(made, there);
    }
    await expect(model.predict(volume, { tile: "auto", outputOrder: ["nearest", "linear"] })).rejects.toEqual(
      code("ERR_LE_OPTION", /option 'outputOrder'/),
    );
  });
});

describe("several tiles", () => {
  it("are what the definition says of images", async () => {
    const { model } = images;
    const image = noise([1, 45, 70], 5);
    const made = await model.predict(image, { tile: [16, 24], labels: true });
    expect(made.tiles).toEqual({ size: [16, 24], overlap: 0.5, weights: "gaussian", mirror: [] });
    expectByDefinition(made, await headsByDefinition(model, image, [16, 24], 0.5));
    expect(comparable(await model.predict(image, { tile: [16, 24], labels: true, batchSize: 4 })).mask).toEqual(
      made.mask,
    );

    const other = { tile: [16, 16], overlap: 0.2, tileWeights: "constant", mirror: ["width"] } as const;
    const turned = await model.predict(image, { ...other, labels: true });
    expect(turned.tiles).toEqual({ size: [16, 16], overlap: 0.2, weights: "constant", mirror: ["width"] });
    expectByDefinition(turned, await headsByDefinition(model, image, [16, 16], 0.2, [1], "constant"));
  });

  it("are what the definition says of volumes, and of images smaller than a tile", async () => {
    const volume = noise([1, 11, 21, 13], 6);
    const made = await volumes.model.predict(volume, {
      tile: [8, 8, 16],
      overlap: 0.4,
      mirror: ["depth", "width"],
      labels: true,
    });
    expectByDefinition(made, await headsByDefinition(volumes.model, volume, [8, 8, 16], 0.4, [0, 2]));
    // The network's input is 32×32: zeros surround the image.
    const small = noise([1, 19, 45], 7);
    const padded = await images.model.predict(small, { tile: "auto", labels: true });
    expect(padded.tiles?.size).toEqual([32, 32]);
    expectByDefinition(padded, await headsByDefinition(images.model, small, [32, 32], 0.5));
  });

  it("mirror the whole image where there are none", async () => {
    const image = noise([1, 20, 28], 8);
    const made = await images.model.predict(image, { mirror: ["height"], labels: true });
    expect(made.tiles?.size).toEqual([20, 28]);
    expectByDefinition(made, await headsByDefinition(images.model, image, [20, 28], 0.5, [0]));
  });

  it.each([
    { format: "TorchScript", file: "script/block-scripted.pt" },
    { format: "torch.export", file: "exported/dynamic.pt2" },
  ])("go through a network of $format", async ({ file }) => {
    await using backbone = await Backbone.load(fixture(file));
    const channels = backbone.inChannels;
    const layers = await backbone.probe([16, 16]);
    await using model = await LayerEnsemble.create(backbone, {
      device: "cpu",
      precision: "fp32",
      inputSize: [32, 32],
      taps: layers.filter(({ tappable, shape }) => tappable && shape?.length === 4).map(({ name }) => name),
      final: false,
    });
    const image = noise([channels, 41, 55], 9);
    const made = await model.predict(image, { tile: "auto", labels: true });
    expectByDefinition(made, await headsByDefinition(model, image, [32, 32], 0.5));
  });

  it("of a list of images are each image's own, and keep the heads and fusion that are asked for", async () => {
    const { model } = images;
    const [a, b] = [noise([1, 40, 24], 1), noise([1, 16, 33], 2)] as const;
    const options = { tile: [16, 16], skip: 1, fusion: "staple", maps: ["variance"], probabilities: false } as const;
    const both = await model.predict([a, b], options);
    expect(both.map(({ mask }) => mask.shape)).toEqual([
      [40, 24],
      [16, 33],
    ]);
    expect(both[1]).toEqual(await model.predict(b, options));
    expect(both[0]?.heads).toEqual(model.headNames.slice(1));
    expect(both[0]?.staple?.confusion).toHaveLength(model.headNames.length - 1);
    expect(Object.keys(both[0]?.maps ?? {})).toEqual(["variance"]);
    expect(both[0]).not.toHaveProperty("probabilities");
  });
});

/** An image that is read as it is asked for, and what was asked. */
function rowsOf({ data, shape }: NdArray) {
  const [channels = 1, height = 1, ...others] = shape;
  const row = others.reduce((a, b) => a * b, 1);
  const asked: [number, number][] = [];
  const image: ImageRows = {
    shape,
    async rows(begin, end) {
      asked.push([begin, end]);
      await new Promise((resolve) => setImmediate(resolve));
      const some = new Float32Array(channels * (end - begin) * row);
      for (let c = 0; c < channels; c++)
        some.set(data.subarray((c * height + begin) * row, (c * height + end) * row), c * (end - begin) * row);
      return { data: some, shape: [channels, end - begin, ...others] };
    },
  };
  return { image, asked };
}

describe("an image that is read by rows", () => {
  it("is predicted as one that is held, and each row is asked for once", async () => {
    await using backbone = await Backbone.create("plain-unet", {
      width: 4,
      depth: 2,
      inChannels: 2,
      classes: 2,
      seed: 1,
    });
    await using model = await LayerEnsemble.create(backbone, { device: "cpu", precision: "fp32", inputSize: [16, 16] });
    const held = noise([2, 43, 21], 3);
    const { image, asked } = rowsOf(held);
    const made = await model.predict(image, { tile: "auto" });
    expect(made).toEqual(await model.predict(held, { tile: "auto" }));
    expect(asked[0]).toEqual([0, 16]);
    for (const [i, [begin, end]] of asked.entries()) {
      expect(begin).toBe(i === 0 ? 0 : asked[i - 1]?.[1]);
      expect(end).toBeGreaterThan(begin);
    }
    expect(asked.at(-1)?.[1]).toBe(43);
    const whole = rowsOf(noise([2, 16, 16], 3));
    expect(await model.predict(whole.image, { tile: "auto" })).toEqual(await model.predict(noise([2, 16, 16], 3)));
    await expect(model.predict(image)).rejects.toEqual(code("ERR_LE_OPTION", /option 'tile' for image 0/));
  });

  it("that cannot be read, or is not what its shape says, fails with what was wrong", async () => {
    const { model } = images;
    const { image } = rowsOf(noise([1, 40, 40], 1));
    const cause = new RangeError("the disk is gone");
    const attempt = (rows: ImageRows["rows"], shape: readonly number[] = image.shape) =>
      model.predict({ shape, rows }, { tile: [16, 16] });
    await expect(attempt((begin, end) => (begin > 0 ? Promise.reject(cause) : image.rows(begin, end)))).rejects.toBe(
      cause,
    );
    await expect(
      attempt(() => {
        throw cause;
      }),
    ).rejects.toBe(cause);
    await expect(attempt((begin, end) => image.rows(begin, end - 1))).rejects.toEqual(
      code("ERR_LE_SHAPE", /Expected shape \[1, 16, 40\] for rows 0 to 15 of image 0 but received \[1, 15, 40\]/),
    );
    await expect(attempt(async () => null as unknown as NdArray)).rejects.toEqual(code("ERR_LE_SHAPE"));
    await expect(attempt(image.rows, [1, 40])).rejects.toEqual(code("ERR_LE_SHAPE", /3 positive sizes/));
    await expect(attempt(image.rows, [1, 40, 1.5])).rejects.toEqual(code("ERR_LE_SHAPE"));
    await expect(attempt(image.rows, [2, 40, 40])).rejects.toEqual(code("ERR_LE_SHAPE", /1 channels/));
    const bad = noise([1, 40, 40], 1);
    bad.data[39 * 40] = Number.NaN;
    await expect(model.predict([noise([1, 8, 8]), bad], { tile: [16, 16] })).rejects.toEqual(
      code("ERR_LE_VALUE", /finite numbers for image 1/),
    );
    // The model is as it was.
    expect((await model.predict(image, { tile: [16, 16] })).mask.shape).toEqual([40, 40]);
  });
});

describe("a prediction by tiles", () => {
  it("tells how far it is, and stops when it is told to", async () => {
    const { model } = images;
    const events: TileEvent[] = [];
    const image = noise([1, 40, 24], 1);
    await model.predict([image, image], { tile: [16, 16], onProgress: (event) => events.push(event) });
    const of = (stage: string, index: number) =>
      events.filter((event) => event.stage === stage && event.image === index).map(({ done }) => done);
    expect(of("tiles", 0)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(of("tiles", 1)).toEqual(of("tiles", 0));
    expect(of("restore", 1).at(-1)).toBe(40);
    expect(new Set(events.map((event) => `${event.stage} ${event.of}`))).toEqual(new Set(["tiles 8", "restore 40"]));

    const stop = new AbortController();
    const reason = new Error("no longer wanted");
    const stopped = model.predict(noise([1, 200, 200], 1), {
      tile: [16, 16],
      overlap: 0.9,
      signal: stop.signal,
      onProgress: () => stop.abort(reason),
    });
    await expect(stopped).rejects.toBe(reason);
    // Rows that never come do not hold it.
    const waiting = new AbortController();
    const never = model.predict(
      {
        shape: [1, 40, 40],
        rows: () => {
          setTimeout(() => waiting.abort(reason), 10);
          return new Promise<NdArray>(() => {});
        },
      },
      { tile: [16, 16], signal: waiting.signal },
    );
    await expect(never).rejects.toBe(reason);
    const thrown = new Error("in the caller's own function");
    const failing = model.predict(image, {
      tile: [16, 16],
      onProgress: () => {
        throw thrown;
      },
    });
    await expect(failing).rejects.toBe(thrown);
  });

  it("refuses options that do not fit", async () => {
    const { model } = images;
    const image = noise([1, 24, 24], 1);
    const attempt = (options: object) => model.predict(image, options as PredictOptions);
    const wrong: [object, RegExp][] = [
      [{ tile: [16] }, /option 'tile'/],
      [{ tile: [8, 16, 16] }, /Expected 2 values \(height, width\) for option 'tile'/],
      [{ tile: [0, 16] }, /option 'tile'/],
      [{ tile: "all" }, /option 'tile'/],
      [{ tile: [16, 16], overlap: 1 }, /option 'overlap'/],
      [{ tile: [16, 16], overlap: -0.1 }, /option 'overlap'/],
      [{ overlap: 0.3 }, /Expected option 'tile' with 'overlap'/],
      [{ tile: "none", tileWeights: "constant" }, /Expected option 'tile' with 'tileWeights'/],
      [{ tile: [16, 16], tileWeights: "triangle" }, /option 'tileWeights'/],
      [{ mirror: ["depth"] }, /axes of height, width, each once, for option 'mirror'/],
      [{ mirror: ["width", "width"] }, /each once/],
      [{ outputSize: [24] }, /option 'outputSize'/],
      [{ outputSize: [24, 24, 24] }, /option 'outputSize'/],
    ];
    for (const [options, message] of wrong)
      await expect(attempt(options)).rejects.toEqual(code("ERR_LE_OPTION", message));
    await expect(model.predict(noise([1, 2, 24, 24]), { tile: "auto" })).rejects.toEqual(code("ERR_LE_SHAPE"));
  });
});
