// The kernels in WebAssembly against the definitions in TypeScript, which take their place where there is none.
import fc from "fast-check";
import { afterEach, describe, expect, it, vi } from "vitest";
import {
  type HeadSums,
  sumOfClasses,
  sumOfClassesInScript,
  sumOfHeads,
  sumOfHeadsInScript,
} from "../../lib/fusion/head-sums.js";
import { type Kernels, kernels } from "../../lib/fusion/kernels.js";
import { KERNELS } from "../../lib/fusion/kernels.wasm.js";
import { compileKernels } from "../../scripts/kernels.js";

const fast = kernels() as Kernels;

/** Logits of K heads, C×S each; some are as far apart as single precision allows. */
const someHeads = fc
  .record({
    heads: fc.integer({ min: 1, max: 40 }),
    classes: fc.integer({ min: 1, max: 9 }),
    pixels: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1020, max: 2100 })),
    scale: fc.constantFrom(0.1, 3, 50, 1e4, 3e38),
    seed: fc.integer(),
  })
  .map(({ heads, classes, pixels, scale, seed }) => ({
    classes,
    pixels,
    heads: Array.from({ length: heads }, (_, k) =>
      Float32Array.from({ length: classes * pixels }, (_, i) => scale * Math.sin(seed + k * 1.3 + i * i * 0.37)),
    ),
  }));

function expectNear(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number, where: string): void {
  expect(actual.length, where).toBe(expected.length);
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs((actual[i] as number) - (expected[i] as number));
    if (!(error <= tolerance)) expect.fail(`${where}[${i}]: ${actual[i]} and ${expected[i]}`);
  }
}

function expectSameSums(actual: HeadSums, expected: HeadSums): void {
  expect(actual.finite).toBe(expected.finite);
  expect(actual.labels).toEqual(expected.labels);
  expectNear(actual.probabilities, expected.probabilities, 1e-9, "probabilities");
  expectNear(actual.mean.most, expected.mean.most, 1e-9, "most");
  expectNear(actual.mean.squares, expected.mean.squares, 1e-9, "squares");
  // Single precision, of values up to 3.
  for (const name of ["expectedEntropy", "mutualInformation", "variance"] as const) {
    expectNear(actual[name], expected[name], 3e-7, name);
  }
  expectNear(actual.mean.entropy, expected.mean.entropy, 3e-7, "entropy");
}

afterEach(() => {
  vi.unstubAllGlobals();
  vi.resetModules();
});

describe("kernels", () => {
  it("are what their source compiles to, and small enough for every browser to compile at once", async () => {
    const binary = await compileKernels();
    expect(Buffer.from(binary).toString("base64")).toBe(KERNELS);
    expect(binary.length).toBeLessThanOrEqual(4096);
  });

  it("sum what TypeScript sums", () => {
    fc.assert(
      fc.property(someHeads, ({ heads, classes, pixels }) => {
        const actual = fast.sumOfHeads(heads, classes, pixels);
        expectSameSums(actual, sumOfHeadsInScript(heads, classes, pixels));
        expect(actual.finite).toBe(true);
        const mean = fast.sumOfClasses(actual.probabilities, classes, pixels);
        const expected = sumOfClassesInScript(actual.probabilities, classes, pixels);
        expect(mean.labels).toEqual(expected.labels);
        expectNear(mean.most, expected.most, 0, "most");
        expectNear(mean.entropy, expected.entropy, 3e-7, "entropy");
      }),
      { numRuns: 25 },
    );
  });

  it("work for as many classes as labels can name", () => {
    const [classes, pixels] = [256, 300];
    const heads = [0, 1].map((k) =>
      Float32Array.from({ length: classes * pixels }, (_, i) => 5 * Math.sin(k + i * i * 0.11)),
    );
    const actual = fast.sumOfHeads(heads, classes, pixels);
    expectSameSums(actual, sumOfHeadsInScript(heads, classes, pixels));
  });

  it("number the labels of the first and the second half of the heads", () => {
    const [classes, pixels] = [3, 1500];
    const heads = [0, 1, 2, 3, 4].map((k) =>
      Float32Array.from({ length: classes * pixels }, (_, i) => Math.sin(k + i * i * 0.11)),
    );
    const { labels, codes } = fast.sumOfHeads(heads, classes, pixels);
    const label = (k: number, i: number) => labels[k * pixels + i] as number;
    for (let i = 0; i < pixels; i++) {
      expect(codes?.[0][i]).toBe(3 * label(0, i) + label(1, i));
      expect(codes?.[1][i]).toBe(9 * label(2, i) + 3 * label(3, i) + label(4, i));
    }
  });

  it("find what is not finite, and nothing of it in the image after", () => {
    for (const classes of [1, 2, 3, 5]) {
      const pixels = 6;
      for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
        for (let at = 0; at < classes * pixels; at++) {
          const head = new Float32Array(classes * pixels).fill(1);
          head[at] = bad;
          const where = `${bad} at ${at} of ${classes} classes`;
          expect(sumOfHeads([head, head], classes, pixels).finite, where).toBe(false);
          expect(sumOfHeadsInScript([head, head], classes, pixels).finite, where).toBe(false);
        }
      }
      expect(sumOfHeads([new Float32Array(classes * 3)], classes, 3).finite).toBe(true);
    }
  });

  it("are exact where all heads are sure", () => {
    for (const classes of [2, 3]) {
      const heads = [1, 1, 1, 1, 0].map((label) =>
        Float32Array.from({ length: classes }, (_, c) => (c === label ? 1e4 : -1e4)),
      );
      const { probabilities, mean } = sumOfHeads(heads, classes, 1);
      expect([...probabilities]).toEqual([0.2, 0.8, 0].slice(0, classes));
      expect(mean.most[0]).toBe(0.8);
      expect([...sumOfClasses(Float64Array.of(1, 0), 2, 1).entropy]).toEqual([0]);
    }
  });

  it("are done without where there is no WebAssembly", async () => {
    vi.stubGlobal("WebAssembly", undefined);
    vi.resetModules();
    const alone = await import("../../lib/fusion/kernels.js");
    expect(alone.kernels()).toBeNull();
    const { scoreHeads } = await import("../../lib/metrics/score.js");
    const data = Float32Array.from({ length: 3 * 2 * 50 }, (_, i) => 3 * Math.sin(i * i * 0.37));
    const slow = scoreHeads({ data, shape: [3, 2, 50] });
    vi.unstubAllGlobals();
    vi.resetModules();
    const fresh = await import("../../lib/metrics/score.js");
    const quick = fresh.scoreHeads({ data, shape: [3, 2, 50] });
    expect(quick.labels).toEqual(slow.labels);
    expect(quick.aula?.value).toBe(slow.aula?.value);
    expectNear(quick.probabilities.data, slow.probabilities.data, 1e-9, "probabilities");
  });
});
