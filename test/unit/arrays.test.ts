import { createContext, runInContext } from "node:vm";
import { describe, expect, it } from "vitest";
import { arrayType, type NdArray, type NumericArray, ownArray, snapshot } from "../../lib/arrays.js";
import * as metrics from "../../lib/metrics/index.js";
import { checkOptions, option } from "../../lib/options.js";

const other = runInContext(
  "({ Float32Array, Float64Array, Uint8Array, Array })",
  createContext({}),
) as typeof globalThis;

const heads = { data: Float32Array.from({ length: 192 }, (_, i) => Math.sin(i * 1.7) * 2), shape: [3, 2, 4, 8] };
const truth = { data: Uint8Array.from({ length: 32 }, (_, i) => Number(i % 5 === 0)), shape: [4, 8] };
const logits = { data: heads.data.slice(0, 64), shape: [2, 4, 8] };
const shares = metrics.softmax(logits);
const labels = metrics.labelMaps(heads);

/** Every function that takes arrays, as calls on what `of` makes of them. */
const calls = (of: <T extends NdArray<NumericArray>>(array: T) => T): Record<string, () => unknown> => ({
  scoreHeads: () => metrics.scoreHeads(of(heads), { truth: of(truth) }),
  fuse: () => metrics.fuse(of(heads), { fusion: "logit-mean" }),
  staple: () => metrics.staple(of(labels), 2),
  labelMaps: () => metrics.labelMaps(of(heads)),
  mutualInformation: () => metrics.mutualInformation([of(shares), of(shares)]),
  disagreement: () => metrics.disagreement(of(labels), 2),
  summarise: () => metrics.summarise(of({ data: shares.data.subarray(0, 32), shape: [4, 8] }), of(truth)),
  softDiceConfidence: () => metrics.softDiceConfidence(of(shares)),
  aula: () => metrics.aula(of(labels), 2),
  dice: () => metrics.dice(of(truth), of(truth), { classes: 2 }),
  quality: () => metrics.quality(of(truth), of(truth), { classes: 2 }),
  hausdorff: () => metrics.hausdorff(of(truth), of(truth), { classes: 2 }),
  nll: () => metrics.nll(of(shares), of(truth)),
  calibration: () => metrics.calibration(of(shares), of(truth)),
  skipCurve: () => metrics.skipCurve([{ heads: of(heads), truth: of(truth) }]),
  fitTemperature: () => metrics.fitTemperature([of(logits)], [of(truth)]),
  fitHeadWeights: () => metrics.fitHeadWeights([[of(shares), of(shares)]], [of(truth)]),
});

describe("arrays of another realm", () => {
  const foreign = <T extends NdArray<NumericArray>>({ data, shape }: T) =>
    ({ data: other[arrayType(data) as "Uint8Array"].from(data), shape: other.Array.from(shape) }) as unknown as T;
  const own = calls((array) => array);
  for (const [name, call] of Object.entries(calls(foreign)))
    it(`give the same in ${name}`, () => {
      expect(foreign(truth).data instanceof Uint8Array).toBe(false);
      expect(call()).toEqual(own[name]?.());
    });
});

describe("each property of an array is read once", () => {
  for (const name of Object.keys(calls((array) => array)))
    it(`by ${name}, and each of its sizes as plain data`, () => {
      const counts: { data: number; shape: number }[] = [];
      const counted = <T extends NdArray<NumericArray>>({ data, shape }: T) => {
        const reads = { data: 0, shape: 0 };
        counts.push(reads);
        return {
          get data() {
            // What a second look would find.
            return reads.data++ === 0 ? data : new (data.constructor as Float32ArrayConstructor)(1e6);
          },
          get shape() {
            return reads.shape++ === 0 ? shape : new Array(2 ** 32 - 1);
          },
        } as unknown as T;
      };
      calls(counted)[name]?.();
      for (const reads of counts) expect(reads).toEqual({ data: 1, shape: 1 });
    });
});

describe("snapshot", () => {
  it("knows arrays by what they are, not by what they say", () => {
    expect(snapshot({ data: new Float32Array(2), shape: [2] })?.data).toEqual(new Float32Array(2));
    const swapped = Object.setPrototypeOf(new Uint8Array(4), Float32Array.prototype);
    expect(arrayType(swapped)).toBe("Uint8Array");
    const lying = Object.defineProperty(new Float32Array(2), "length", { value: 100 });
    expect(ownArray(lying)).toHaveLength(2);
    for (const data of [Object.create(Float32Array.prototype), new Proxy(new Float32Array(2), {}), [1, 2], null])
      expect(snapshot({ data, shape: [2] })).toBeUndefined();
    expect(snapshot(undefined)).toBeUndefined();
  });

  it("has no memory where there is none any more, and keeps its length where more comes", () => {
    const gone = new Float32Array(4);
    structuredClone(gone.buffer, { transfer: [gone.buffer] });
    expect(ownArray(gone)).toHaveLength(0);
    const Resizable = ArrayBuffer as unknown as new (
      bytes: number,
      options: object,
    ) => ArrayBuffer & { resize(bytes: number): void };
    const buffer = new Resizable(16, { maxByteLength: 64 });
    const own = ownArray(new Float32Array(buffer));
    buffer.resize(64);
    expect(own).toHaveLength(4);
    buffer.resize(4);
    expect(own).toHaveLength(0);
  });

  it("of a shape that never ends takes no more than an error shows", () => {
    expect(snapshot({ data: new Float32Array(0), shape: new Array(2 ** 32 - 1) })?.shape).toHaveLength(9);
  });
});

describe("options", () => {
  it("are what they were when they were checked", () => {
    let reads = 0;
    const given = {
      get one() {
        return reads++ === 0 ? 1 : Number.NaN;
      },
      list: [1, 2],
      inner: { deep: [3] },
    };
    const specs = {
      one: option.number(),
      list: option.array(option.number()),
      inner: option.object({ deep: option.array(option.number()) }),
    };
    const checked = checkOptions("test", given, specs);
    given.list[0] = Number.NaN;
    given.inner.deep[0] = Number.NaN;
    expect(checked).toEqual({ one: 1, list: [1, 2], inner: { deep: [3] } });
    expect(reads).toBe(1);
    const sparse = { list: new Array(2 ** 32 - 1) };
    expect(() => checkOptions("test", sparse, specs)).toThrow(/at most 1000000 values.*'list'/);
    expect(() => checkOptions("test", { list: new Array(3) }, specs)).toThrow(/'list'/);
  });
});
