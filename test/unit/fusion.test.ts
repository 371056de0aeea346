import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { argmax, FUSIONS, fuse, labelMaps, type NdArray, skipHeads, softmax } from "../../lib/metrics/index.js";
import { bytes, expectError, floats, logitHeads, stack } from "./support/heads.js";

const near = (values: ArrayLike<number>, expected: number[]) => {
  expect(values.length).toBe(expected.length);
  for (const [i, value] of expected.entries()) expect(values[i]).toBeCloseTo(value, 6);
};

describe("softmax", () => {
  it("normalises over the classes of each pixel", () => {
    const { data, shape } = softmax(floats([0, Math.log(3), 0, 0], [2, 2]));
    near(data, [0.5, 0.75, 0.5, 0.25]);
    expect(shape).toEqual([2, 2]);
  });

  it("survives logits that overflow exp", () => {
    near(softmax(floats([3e38, -3e38, -3e38, 3e38], [2, 2])).data, [1, 0, 0, 1]);
  });

  it("takes double precision too", () => {
    near(softmax({ data: Float64Array.of(1e300, 0), shape: [2, 1] }).data, [1, 0]);
  });
});

describe("fuse", () => {
  // Two heads, two classes, one pixel: p = (0.5, 0.5) and (0.1, 0.9).
  const heads = [floats([0, 0], [2, 1]), floats([0, Math.log(9)], [2, 1])];

  it("computes each fusion as defined", () => {
    near(fuse(heads).data, [0.3, 0.7]);
    near(fuse(heads, { weights: [3, 1] }).data, [0.4, 0.6]);
    near(fuse(heads, { fusion: "logit-mean" }).data, [0.25, 0.75]);
    near(fuse(heads, { fusion: "logit-mean", weights: [0, 2] }).data, [0.1, 0.9]);
    near(fuse(heads, { fusion: "vote" }).data, [0.5, 0.5]);
    near(fuse(heads, { fusion: "last" }).data, [0.1, 0.9]);
  });

  it("gives probabilities that sum to 1, for every fusion and shape of input", () => {
    fc.assert(
      fc.property(logitHeads(), fc.constantFrom(...FUSIONS), ({ heads, classes, pixels }, fusion) => {
        const { data, shape } = fuse(heads, { fusion });
        expect(shape).toEqual(heads[0]?.shape);
        for (let i = 0; i < pixels; i++) {
          let sum = 0;
          for (let c = 0; c < classes; c++) {
            const p = data[c * pixels + i] as number;
            expect(p).toBeGreaterThanOrEqual(0);
            expect(p).toBeLessThanOrEqual(1);
            sum += p;
          }
          expect(sum).toBeCloseTo(1, 6);
        }
        expect(fuse(stack(heads), { fusion })).toEqual({ data, shape });
      }),
    );
  });

  it("does not depend on the heads' order, save for last", () => {
    fc.assert(
      fc.property(logitHeads(), fc.constantFrom("mean", "vote"), ({ heads }, fusion) => {
        near(fuse([...heads].reverse(), { fusion }).data, [...fuse(heads, { fusion }).data]);
      }),
    );
  });

  it("equals the head where all heads are the same", () => {
    fc.assert(
      fc.property(logitHeads(), fc.constantFrom("mean", "logit-mean", "last"), ({ heads: [head] }, fusion) => {
        near(fuse([head, head, head] as NdArray[], { fusion, weights: [1, 0, 5] }).data, [
          ...softmax(head as NdArray).data,
        ]);
      }),
    );
  });

  it("keeps the given heads as they are", () => {
    fc.assert(
      fc.property(logitHeads(), fc.constantFrom(...FUSIONS), ({ heads }, fusion) => {
        const before = stack(heads);
        fuse(heads, { fusion });
        expect(stack(heads)).toEqual(before);
      }),
    );
  });

  it("refuses what it cannot fuse", () => {
    expectError(() => fuse([]), "ERR_LE_SHAPE", "heads", "empty array");
    expectError(
      () => fuse([floats([0, 0], [2, 1]), floats([0, 0, 0], [3, 1])]),
      "ERR_LE_SHAPE",
      "heads[1]",
      "2×1",
      "3×1",
    );
    expectError(() => fuse(floats([0, 0], [2, 1])), "ERR_LE_SHAPE", "heads", "K×C×S");
    expectError(() => fuse([floats([0, 0, 0], [2, 1])]), "ERR_LE_SHAPE", "heads[0]", "2 values", "3");
    expectError(() => fuse([floats([], [2, 0])]), "ERR_LE_SHAPE", "positive sizes", "[2, 0]");
    expectError(() => fuse([floats([0, Number.NaN], [2, 1])]), "ERR_LE_VALUE", "heads", "NaN at index 1");
    expectError(() => fuse([floats([Number.NEGATIVE_INFINITY, 0], [2, 1])]), "ERR_LE_VALUE", "-Infinity at index 0");
    expectError(() => fuse(bytes([0, 0], [1, 2, 1]) as never), "ERR_LE_SHAPE", "Float32Array", "Uint8Array");
    expectError(() => fuse(null as never), "ERR_LE_SHAPE", "heads", "null");
    expectError(() => fuse([[0, 1]] as never), "ERR_LE_SHAPE", "heads[0]");
    expectError(() => fuse([floats(new Array(257).fill(0), [257, 1])]), "ERR_LE_VALUE", "256", "257");
    expectError(() => fuse(heads, { fusion: "staple" as never }), "ERR_LE_OPTION", "fusion", "logit-mean", "staple");
    expectError(() => fuse(heads, { weight: [1] } as never), "ERR_LE_OPTION", "'weights'");
    expectError(() => fuse(heads, { weights: [1] }), "ERR_LE_OPTION", "2 weights", "1");
    expectError(() => fuse(heads, { weights: [0, 0] }), "ERR_LE_OPTION", "positive", "[0, 0]");
    expectError(() => fuse(heads, { weights: [1, -1] }), "ERR_LE_OPTION", "weights");
    expectError(() => fuse(heads, { weights: [1e308, 1e308] }), "ERR_LE_OPTION", "finite sum");
  });
});

describe("labels", () => {
  it("go to the lower class where classes are tied", () => {
    const map = floats([1, 0, 2, 1, 5, 2, 0, 5, 2], [3, 3]);
    expect(argmax(map)).toEqual(bytes([0, 1, 0]));
    expect(labelMaps([map, map])).toEqual(bytes([0, 1, 0, 0, 1, 0], [2, 3]));
  });

  it("are the first highest value of each pixel", () => {
    fc.assert(
      fc.property(logitHeads(), ({ heads, classes, pixels }) => {
        const labels = labelMaps(heads);
        expect(labels.shape).toEqual([heads.length, ...(heads[0]?.shape.slice(1) ?? [])]);
        heads.forEach(({ data }, k) => {
          for (let i = 0; i < pixels; i++) {
            const values = Array.from({ length: classes }, (_, c) => data[c * pixels + i] as number);
            expect(labels.data[k * pixels + i]).toBe(values.indexOf(Math.max(...values)));
          }
        });
      }),
    );
  });
});

describe("skipHeads", () => {
  it("leaves out the first T, without copying", () => {
    const all = floats([0, 1, 2, 3, 4, 5], [3, 2, 1]);
    const kept = skipHeads(all, 1);
    expect(kept.map((head) => [...head.data])).toEqual([
      [2, 3],
      [4, 5],
    ]);
    expect(kept[0]?.data.buffer).toBe(all.data.buffer);
  });

  it("leaves at least one head", () => {
    const all = floats([0, 1, 2, 3], [2, 2, 1]);
    for (const skip of [2, -1, 0.5, Number.NaN])
      expectError(() => skipHeads(all, skip), "ERR_LE_VALUE", "skip", `${skip}`);
  });
});
