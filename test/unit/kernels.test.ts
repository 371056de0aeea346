// The kernels in WebAssembly against the definitions in TypeScript, which take their place where there is none.
import path from "node:path";
import fc from "fast-check";
import { afterEach, describe, expect, it, vi } from "vitest";
import { countNeighboursInScript } from "../../lib/agreement/counts.js";
import { countNeighboursInWasm } from "../../lib/agreement/neighbours.js";
import {
  type HeadSums,
  sumOfClasses,
  sumOfClassesInScript,
  sumOfHeads,
  sumOfHeadsInScript,
} from "../../lib/fusion/head-sums.js";
import { type Kernels, kernels } from "../../lib/fusion/kernels.js";
import { PACKAGE_ROOT } from "../../lib/package.js";
import { compileModule, MODULES } from "../../scripts/kernels.js";

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
  it("are what their sources compile to, and small enough for every browser to compile at once", async () => {
    for (const module of MODULES) {
      const binary = await compileModule(module);
      const { [module.constant]: compiled } = await import(path.join(PACKAGE_ROOT, module.compiled));
      expect(Buffer.from(binary).toString("base64")).toBe(compiled);
      expect(binary.length).toBeLessThanOrEqual(4096);
    }
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

  it("count the neighbours that TypeScript counts", () => {
    const cases = fc.record({
      heads: fc.integer({ min: 1, max: 12 }),
      classes: fc.integer({ min: 1, max: 16 }),
      // Single vectors, runs as long as a byte counts, and blocks as long as the memory, each with and without a rest.
      pixels: fc.oneof(
        fc.integer({ min: 1, max: 70 }),
        fc.integer({ min: 4060, max: 4100 }),
        fc.integer({ min: 31_740, max: 31_750 }),
        fc.constant(70_000),
      ),
      noise: fc.constantFrom(0, 0.01, 1),
      seed: fc.nat(1000),
    });
    fc.assert(
      fc.property(cases, ({ heads, classes, pixels, noise, seed }) => {
        const data = Uint8Array.from({ length: heads * pixels }, (_, i) => {
          const any = Math.abs(Math.sin(seed + i * 12.9898) * 43758.5453);
          return (any % 1 < noise ? Math.floor(any) : Math.floor((i % pixels) / 300)) % classes;
        });
        const actual = countNeighboursInWasm(data, heads, classes);
        expect(actual).toEqual(countNeighboursInScript({ data, shape: [heads, pixels] }, classes));
      }),
      { numRuns: 40 },
    );
  });

  it("leave labels that are no class, and more classes than they have room for, to TypeScript", () => {
    for (const bad of [3, 4, 127, 128, 254, 255]) {
      for (let at = 0; at < 2 * 35; at++) {
        const labels = new Uint8Array(2 * 35).fill(2);
        expect(countNeighboursInWasm(labels, 2, 3)?.counts[2]).toBe(35);
        labels[at] = bad;
        expect(countNeighboursInWasm(labels, 2, 3), `${bad} at ${at}`).toBeNull();
      }
    }
    expect(countNeighboursInWasm(new Uint8Array(20), 2, 17)).toBeNull();
  });

  it("are done without where there is no WebAssembly", async () => {
    vi.stubGlobal("WebAssembly", undefined);
    vi.resetModules();
    const alone = await import("../../lib/fusion/kernels.js");
    expect(alone.kernels()).toBeNull();
    const { aula } = await import("../../lib/agreement/index.js");
    const labels = { data: Uint8Array.of(0, 1, 1, 1, 0, 1), shape: [3, 2] };
    expect(aula(labels, 2).value).toBeCloseTo((2 / 3 + 2 / 3) / 2, 12);
    const { countNeighboursInWasm } = await import("../../lib/agreement/neighbours.js");
    expect(countNeighboursInWasm(labels.data, 3, 2)).toBeNull();
    const { scoreHeads } = await import("../../lib/quality/score.js");
    const data = Float32Array.from({ length: 3 * 2 * 50 }, (_, i) => 3 * Math.sin(i * i * 0.37));
    const slow = scoreHeads({ data, shape: [3, 2, 50] });
    vi.unstubAllGlobals();
    vi.resetModules();
    const fresh = await import("../../lib/quality/score.js");
    const quick = fresh.scoreHeads({ data, shape: [3, 2, 50] });
    expect(quick.labels).toEqual(slow.labels);
    expect(quick.aula?.value).toBe(slow.aula?.value);
    expectNear(quick.probabilities.data, slow.probabilities.data, 1e-9, "probabilities");
  });
});
