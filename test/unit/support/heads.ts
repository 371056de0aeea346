import fc from "fast-check";
import { expect } from "vitest";
import { type ErrorCode, LayerEnsemblesError, type NdArray } from "../../../lib/metrics/index.js";

export interface HeadsCase {
  heads: NdArray[];
  classes: number;
  pixels: number;
}

/** K heads of logits, C×H×W, many of them tied or saturated. */
export function logitHeads({ minHeads = 1, minClasses = 1 } = {}): fc.Arbitrary<HeadsCase> {
  const logit = fc.oneof(
    fc.integer({ min: -3, max: 3 }),
    fc.float({ min: -20, max: 20, noNaN: true }),
    fc.constantFrom(-1e4, 1e4, 3e38),
  );
  return fc
    .record({
      k: fc.integer({ min: minHeads, max: 6 }),
      classes: fc.integer({ min: minClasses, max: 4 }),
      spatial: fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 1, maxLength: 3 }),
    })
    .chain(({ k, classes, spatial }) => {
      const pixels = spatial.reduce((a, b) => a * b, 1);
      const values = fc.array(logit, { minLength: k * classes * pixels, maxLength: k * classes * pixels });
      return values.map((all) => ({
        classes,
        pixels,
        heads: Array.from({ length: k }, (_, j) => ({
          data: Float32Array.from(all.slice(j * classes * pixels, (j + 1) * classes * pixels)),
          shape: [classes, ...spatial],
        })),
      }));
    });
}

/** The same heads as one K×C×S array. */
export function stack(heads: readonly NdArray[]): NdArray {
  const first = heads[0] as NdArray;
  const data = new Float32Array(heads.length * first.data.length);
  heads.forEach((head, k) => {
    data.set(head.data, k * first.data.length);
  });
  return { data, shape: [heads.length, ...first.shape] };
}

/** K×S label maps from one string of digits per head. */
export function labelsOf(...rows: string[]): NdArray<Uint8Array> {
  return { data: Uint8Array.from(rows.join(""), Number), shape: [rows.length, rows[0]?.length ?? 0] };
}

export function floats(values: number[], shape: number[] = [values.length]): NdArray {
  return { data: Float32Array.from(values), shape };
}

export function bytes(values: number[], shape: number[] = [values.length]): NdArray<Uint8Array> {
  return { data: Uint8Array.from(values), shape };
}

/** Throws a typed error whose sentence names all of `words`. */
export function expectError(run: () => unknown, code: ErrorCode, ...words: string[]): void {
  let error: unknown;
  try {
    run();
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(LayerEnsemblesError);
  const { code: actual, message } = error as LayerEnsemblesError;
  expect(actual).toBe(code);
  expect(message).toMatch(/^Expected .+ for .+ but received .+\./);
  for (const word of words) expect(message).toContain(word);
}

/** Whether nobody can tell what 255 means in a truth: it holds 0 and 255 alone. */
export function isUnclear(labels: ArrayLike<number>): boolean {
  const all = new Set(Array.from(labels));
  return all.size === 2 && all.has(0) && all.has(255);
}
