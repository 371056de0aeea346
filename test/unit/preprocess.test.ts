import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { percentiles } from "../../lib/data/image.js";
import {
  type Preprocessing,
  place,
  preprocess,
  preprocessMask,
  restore,
  restoreLabels,
} from "../../lib/data/preprocess.js";
import { resizeBilinear, resizeLabels, resizeNearest } from "../../lib/data/resample.js";

const plain: Preprocessing = { size: null, resize: "stretch", normalise: { kind: "none" }, channels: 1 };

describe("resizeBilinear", () => {
  const source = Float32Array.from({ length: 35 }, (_, i) => (i * 7919) % 13);

  // torch.nn.functional.interpolate(mode="bilinear", align_corners=False, antialias=True), torch 2.13.
  test.each([
    [
      [3, 4],
      [
        1.47619, 4.588572, 8.268571, 8.462584, 3.047619, 6.16, 9.262221, 4.904762, 4.619047, 7.731429, 8.811428,
        2.142857,
      ],
    ],
    [
      [2, 11],
      [
        1.0, 1.909091, 3.181818, 4.454545, 5.727273, 7.0, 8.272728, 9.384297, 10.280992, 6.987604, 4.136364, 3.0,
        3.909091, 5.181818, 6.454545, 7.727272, 9.0, 10.272726, 8.966944, 4.22314, 2.702479, 2.0,
      ],
    ],
  ] as const)("agrees with PyTorch's antialiased resizing to %j", (size, expected) => {
    const out = resizeBilinear(source, 1, [5, 7], size);
    expect(out).toHaveLength(expected.length);
    expected.forEach((value, i) => {
      expect(out[i]).toBeCloseTo(value, 4);
    });
  });

  test("keeps a constant, and never leaves the range of its input", () => {
    const size = fc.integer({ min: 1, max: 17 });
    fc.assert(
      fc.property(size, size, size, size, fc.integer(), (h, w, newH, newW, seed) => {
        const data = Float32Array.from({ length: 2 * h * w }, (_, i) =>
          i < h * w ? 3.25 : ((i * 31 + seed) >>> 0) % 7,
        );
        const out = resizeBilinear(data, 2, [h, w], [newH, newW]);
        const [first, second] = [out.subarray(0, newH * newW), out.subarray(newH * newW)];
        for (const value of first) expect(value).toBeCloseTo(3.25, 5);
        for (const value of second) {
          expect(value).toBeGreaterThanOrEqual(0);
          expect(value).toBeLessThanOrEqual(6);
        }
      }),
    );
  });

  test("every pixel counts when shrinking: the mean stays", () => {
    const data = new Float32Array(64 * 64);
    data[30 * 64 + 36] = 256;
    const out = resizeBilinear(data, 1, [64, 64], [8, 8]);
    const sum = out.reduce((total, value) => total + value, 0);
    expect(sum).toBeCloseTo(256 / 64, 3);
  });
});

describe("resizeLabels", () => {
  test("takes the label that covers most, the lower one on a tie", () => {
    const labels = Uint8Array.from([1, 1, 2, 2, 1, 2, 2, 2, 0, 3, 4, 4, 0, 3, 5, 5]);
    expect([...resizeLabels(labels, [4, 4], [2, 2])]).toEqual([1, 2, 0, 4]);
    expect([...resizeLabels(labels.toReversed(), [4, 4], [2, 2])]).toEqual([4, 0, 2, 1]);
  });

  test("weighs partly covered pixels", () => {
    expect([...resizeLabels(Uint8Array.from([7, 9, 9]), [1, 3], [1, 2])]).toEqual([7, 9]);
    expect([...resizeLabels(Uint8Array.from([1, 2, 2, 1, 1]), [1, 5], [1, 2])]).toEqual([2, 1]);
  });

  test("repeats pixels when enlarging by a whole factor", () => {
    expect([...resizeLabels(Uint8Array.from([1, 200]), [1, 2], [2, 4])]).toEqual([1, 1, 200, 200, 1, 1, 200, 200]);
  });

  test("makes no label that was not there", () => {
    const size = fc.integer({ min: 1, max: 12 });
    fc.assert(
      fc.property(size, size, size, size, fc.integer({ min: 1, max: 1000 }), (h, w, newH, newW, seed) => {
        const labels = Uint8Array.from({ length: h * w }, (_, i) => (i * seed) % 5);
        const there = new Set(labels);
        for (const label of resizeLabels(labels, [h, w], [newH, newW])) expect(there).toContain(label);
        for (const label of resizeNearest(labels, 1, [h, w], [newH, newW])) expect(there).toContain(label);
      }),
    );
  });
});

describe("resizeNearest", () => {
  test("takes the pixel under the centre of the new one", () => {
    const labels = Uint8Array.from([1, 2, 3, 4, 5]);
    expect([...resizeNearest(labels, 1, [1, 5], [1, 1])]).toEqual([3]);
    expect([...resizeNearest(labels, 1, [5, 1], [3, 1])]).toEqual([1, 3, 5]);
    expect([...resizeNearest(labels.subarray(0, 2), 1, [1, 2], [1, 3])]).toEqual([1, 2, 2]);
  });
});

describe("percentiles", () => {
  test("agree with NumPy's linear method", () => {
    // np.percentile([3, 1, 4, 1, 5, 9, 2, 6], [0, 0.5, 25, 50, 99.5, 100])
    const found = percentiles(Float32Array.from([3, 1, 4, 1, 5, 9, 2, 6]), [0, 0.5, 25, 50, 99.5, 100]);
    [1, 1, 1.75, 3.5, 8.895, 9].forEach((value, i) => {
      expect(found[i]).toBeCloseTo(value, 5);
    });
  });

  test("equal a sort's order statistics", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: -9, max: 9 }), { minLength: 1, maxLength: 60 }), (values) => {
        const sorted = [...values].sort((a, b) => a - b);
        const levels = sorted.map((_, i) => (sorted.length === 1 ? 0 : (100 * i) / (sorted.length - 1)));
        percentiles(Float32Array.from(values), levels).forEach((value, i) => {
          expect(value).toBeCloseTo(sorted[i]!, 4);
        });
      }),
    );
  });
});

describe("preprocess", () => {
  const gradient = { data: Uint16Array.from({ length: 24 }, (_, i) => i * 1000), shape: [4, 6] };

  test("z-score gives mean 0 and standard deviation 1", () => {
    const { image } = preprocess(gradient, { ...plain, normalise: { kind: "zscore" } });
    const mean = image.data.reduce((sum, value) => sum + value, 0) / 24;
    const variance = image.data.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 24;
    expect(mean).toBeCloseTo(0, 6);
    expect(variance).toBeCloseTo(1, 5);
    expect(image.shape).toEqual([1, 4, 6]);
  });

  test.each(["zscore", "percentile"] as const)("a constant image becomes zeros with %s", (kind) => {
    const normalise = kind === "zscore" ? { kind } : { kind, low: 0.5, high: 99.5 };
    const constant = { data: new Float32Array(35).fill(0.1), shape: [1, 5, 7] };
    const { image } = preprocess(constant, { ...plain, normalise, size: [9, 9], resize: "pad" });
    expect([...image.data].every((value) => Object.is(value, 0))).toBe(true);
  });

  test("percentiles become 0 and 1, and what lies outside is clipped", () => {
    const data = Float32Array.from({ length: 201 }, (_, i) => i);
    data[200] = 1e6;
    const { image } = preprocess(
      { data, shape: [1, 1, 201] },
      { ...plain, normalise: { kind: "percentile", low: 10, high: 90 } },
    );
    expect(image.data[20]).toBe(0);
    expect(image.data[0]).toBe(0);
    expect(image.data[180]).toBe(1);
    expect(image.data[200]).toBe(1);
    expect(image.data[100]).toBeCloseTo(0.5, 6);
  });

  test("keeps 16-bit values exactly", () => {
    const data = Uint16Array.from([0, 1, 255, 256, 40001, 65535]);
    const { image } = preprocess({ data, shape: [1, 2, 3] }, plain);
    expect([...image.data]).toEqual([...data]);
  });

  test("repeats grey for three channels, and takes luma of RGB for one", () => {
    const grey = preprocess({ data: Uint8Array.from([5, 9]), shape: [1, 1, 2] }, { ...plain, channels: 3 });
    expect([...grey.image.data]).toEqual([5, 9, 5, 9, 5, 9]);
    const rgb = preprocess({ data: Uint8Array.from([10, 200, 10, 100, 10, 0]), shape: [3, 1, 2] }, plain);
    expect(rgb.image.data[0]).toBe(10);
    expect(rgb.image.data[1]).toBeCloseTo(0.299 * 200 + 0.587 * 100, 4);
  });

  test("pads centred, with zeros, keeping the aspect ratio", () => {
    const placement = place([100, 50], { ...plain, size: [64, 64], resize: "pad" });
    expect(placement.content).toEqual({ top: 0, left: 16, height: 64, width: 32 });
    const { image } = preprocess(
      { data: new Uint8Array(5000).fill(7), shape: [100, 50] },
      { ...plain, size: [64, 64], resize: "pad" },
    );
    expect(image.data[15]).toBe(0);
    expect(image.data[16]).toBeCloseTo(7, 5);
    expect(image.data[47]).toBeCloseTo(7, 5);
    expect(image.data[48]).toBe(0);
  });

  test("without resizing, a larger image is an error", () => {
    const record: Preprocessing = { ...plain, size: [4, 5], resize: "none-with-pad" };
    expect(() => preprocess(gradient, record)).toThrow(/Expected at most 4×5 .* received 4×6/);
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY])("%d is an error that says where", (value) => {
    const data = new Float32Array(6);
    data[4] = value;
    for (const kind of ["none", "zscore"] as const) {
      const record = { ...plain, normalise: { kind } };
      expect(() => preprocess({ data, shape: [2, 3] }, record)).toThrow(`received ${value} at index 4`);
    }
  });

  test.each([[[6]], [[2, 2, 3]], [[2, 4]], [[1, 1, 1, 2, 3]], [[0, 6]]])("shape %j is an error", (shape) => {
    expect(() => preprocess({ data: new Float32Array(6), shape }, plain)).toThrow(/^Expected H×W/);
  });
});

describe("restore", () => {
  const side = fc.integer({ min: 1, max: 20 });
  const resize = fc.constantFrom("stretch", "pad", "none-with-pad") as fc.Arbitrary<Preprocessing["resize"]>;

  test("says what the stored values were, whatever is made of them", () => {
    const image = { data: Float32Array.of(10, 20, 30, 40), shape: [1, 2, 2] };
    const expected = [{ mean: 25, deviation: Math.sqrt(125) }];
    for (const kind of ["none", "zscore"] as const)
      expect(preprocess(image, { ...plain, normalise: { kind } }).image.stored).toEqual(expected);
    const window = { ...plain, normalise: { kind: "window", low: 0, high: 20 } } as const;
    expect(preprocess(image, { ...window, size: [4, 4] }).image.stored).toEqual(expected);
    // Each channel that is scaled alone.
    const two = { data: Float32Array.of(1, 1, 1, 1, 0, 0, 4, 4), shape: [2, 2, 2] };
    const each = preprocess(two, { ...plain, channels: 2, perChannel: true }).image.stored;
    expect(each).toEqual([
      { mean: 1, deviation: 0 },
      { mean: 2, deviation: 2 },
    ]);
    expect(preprocess(two, { ...plain, channels: 2 }).image.stored).toHaveLength(1);
    const volume = { data: Float32Array.from({ length: 8 }, (_, i) => i), shape: [1, 2, 2, 2] };
    expect(preprocess(volume, plain).image.stored).toEqual([{ mean: 3.5, deviation: Math.sqrt(5.25) }]);
  });

  test("gives the stored size back, and probabilities still sum to 1", () => {
    fc.assert(
      fc.property(side, side, side, side, resize, (h, w, newH, newW, how) => {
        const size: [number, number] = how === "none-with-pad" ? [h + newH, w + newW] : [newH, newW];
        const placement = place([h, w], { ...plain, size, resize: how });
        const plane = size[0] * size[1];
        const first = Float32Array.from({ length: plane }, (_, i) => (i % 11) / 10);
        const data = new Float32Array(2 * plane);
        data.set(first);
        data.set(
          first.map((p) => 1 - p),
          plane,
        );
        const restored = restore({ data, shape: [2, ...size] }, placement);
        expect(restored.shape).toEqual([2, h, w]);
        for (let i = 0; i < h * w; i++) expect(restored.data[i]! + restored.data[h * w + i]!).toBeCloseTo(1, 5);
      }),
    );
  });

  test("undoes padding exactly", () => {
    fc.assert(
      fc.property(side, side, side, side, (h, w, moreH, moreW) => {
        const record: Preprocessing = { ...plain, size: [h + moreH, w + moreW], resize: "none-with-pad" };
        const data = Float32Array.from({ length: h * w }, (_, i) => i);
        const labels = Uint8Array.from(data, (value) => value % 7);
        const { image, placement } = preprocess({ data, shape: [h, w] }, record);
        expect(restore(image, placement).data).toEqual(data);
        const moved = preprocessMask({ data: labels, shape: [h, w] }, placement);
        expect(restoreLabels(moved, placement).data).toEqual(labels);
      }),
    );
  });

  test("brings a resized mask back to where it was", () => {
    const labels = new Uint8Array(120 * 90);
    for (let y = 30; y < 80; y++) for (let x = 20; x < 60; x++) labels[y * 90 + x] = 1;
    const placement = place([120, 90], { ...plain, size: [64, 64], resize: "pad" });
    const back = restoreLabels(preprocessMask({ data: labels, shape: [120, 90] }, placement), placement);
    const both = labels.reduce((sum, label, i) => sum + (label && back.data[i] ? 1 : 0), 0);
    const either = labels.reduce((sum, label, i) => sum + (label || back.data[i] ? 1 : 0), 0);
    expect(both / either).toBeGreaterThan(0.93);
  });

  test("refuses an array of another size", () => {
    const placement = place([5, 5], { ...plain, size: [8, 8] });
    expect(() => restore({ data: new Float32Array(25), shape: [5, 5] }, placement)).toThrow(/ends in 8×8 .* \[5,5\]/);
    expect(() => preprocessMask({ data: new Uint8Array(20), shape: [4, 5] }, placement)).toThrow("Expected 5×5 labels");
  });

  test("a record and a placement survive JSON", () => {
    const { placement } = preprocess({ data: new Uint8Array(12), shape: [3, 4] }, { ...plain, size: [8, 8] });
    expect(JSON.parse(JSON.stringify(placement))).toEqual(placement);
  });
});
