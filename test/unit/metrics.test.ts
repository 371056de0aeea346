import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { argmax, brier, dice, fuse, iou, nll } from "../../lib/metrics/index.js";
import { bytes, expectError, floats, logitHeads } from "./support/heads.js";

describe("dice and iou", () => {
  it("are worked out by hand", () => {
    const [prediction, truth] = [bytes([0, 1, 1, 2, 2, 2]), bytes([1, 1, 0, 2, 2, 0])];
    expect(dice(prediction, truth, { classes: 3 })).toEqual({ 1: 0.5, 2: 0.8 });
    expect(iou(prediction, truth, { classes: 3 })).toEqual({ 1: 1 / 3, 2: 2 / 3 });
  });

  it("are 1 where both are empty and 0 where one is", () => {
    const [prediction, truth] = [bytes([0, 1]), bytes([2, 0])];
    expect(dice(prediction, truth, { classes: 4 })).toEqual({ 1: 0, 2: 0, 3: 1 });
    expect(iou(prediction, truth, { classes: 4 })).toEqual({ 1: 0, 2: 0, 3: 1 });
  });

  it("leave ignored pixels out of both masks", () => {
    expect(dice(bytes([1, 1, 0]), bytes([1, 255, 255]), { classes: 2 })).toEqual({ 1: 1 });
    expect(dice(bytes([1, 1, 0]), bytes([1, 7, 7]), { classes: 2, ignoreIndex: 7 })).toEqual({ 1: 1 });
    expect(dice(bytes([1, 1]), bytes([0, 255]), { classes: 2, ignoreIndex: 255 })).toEqual({ 1: 0 });
  });

  it("are undefined where no pixel is left", () => {
    expect(dice(bytes([1, 1]), bytes([255, 255]), { classes: 3 })).toEqual({ 1: Number.NaN, 2: Number.NaN });
    expect(iou(bytes([0, 0]), bytes([7, 7]), { classes: 2, ignoreIndex: 7 })).toEqual({ 1: Number.NaN });
  });

  it("leave nothing out for null, nor by themselves of 256 classes", () => {
    expect(() => dice(bytes([1]), bytes([255]), { classes: 2, ignoreIndex: null })).toThrow(
      "labels from 0 to 1 for truth",
    );
    expect(dice(bytes([255, 0]), bytes([255, 0]), { classes: 256 })[255]).toBe(1);
    expect(dice(bytes([0, 0]), bytes([255, 0]), { classes: 256 })[255]).toBe(0);
  });

  it("are symmetric, from 0 to 1, and dice = 2 iou / (1 + iou)", () => {
    const label = fc.integer({ min: 0, max: 3 });
    fc.assert(
      fc.property(fc.array(fc.tuple(label, label), { minLength: 1, maxLength: 30 }), (pairs) => {
        const [a, b] = [bytes(pairs.map(([x]) => x)), bytes(pairs.map(([, y]) => y))];
        const overlap = dice(a, b, { classes: 4 });
        expect(dice(b, a, { classes: 4 })).toEqual(overlap);
        expect(dice(a, a, { classes: 4 })).toEqual({ 1: 1, 2: 1, 3: 1 });
        for (const [c, j] of Object.entries(iou(a, b, { classes: 4 }))) {
          expect(j).toBeGreaterThanOrEqual(0);
          expect(j).toBeLessThanOrEqual(1);
          expect(overlap[Number(c)]).toBeCloseTo((2 * j) / (1 + j), 12);
        }
      }),
    );
  });

  it("refuse masks and labels that do not fit", () => {
    const mask = bytes([0, 1]);
    expectError(() => dice(mask, bytes([0, 1, 0]), { classes: 2 }), "ERR_LE_SHAPE", "truth", "2", "3");
    expectError(
      () => iou(mask, bytes([0, 2]), { classes: 2 }),
      "ERR_LE_VALUE",
      "truth",
      "0 to 1 or 255",
      "2 at position 1",
    );
    expectError(() => dice(bytes([0, 255]), mask, { classes: 2 }), "ERR_LE_VALUE", "prediction", "255 at position 1");
    expectError(() => dice(mask, mask, {} as never), "ERR_LE_OPTION", "'classes'", "nothing");
    expectError(() => dice(mask, mask, { classes: 0 }), "ERR_LE_VALUE", "'classes'", "0");
    expectError(() => dice(mask, mask, { classes: 2, ignore: 3 } as never), "ERR_LE_OPTION", "'ignore'");
    expectError(() => dice(mask, mask, { classes: 2, ignoreIndex: 256 }), "ERR_LE_OPTION", "'ignoreIndex'", "256");
    expectError(() => dice(mask, floats([0, 1]) as never, { classes: 2 }), "ERR_LE_SHAPE", "Uint8Array");
    expectError(() => dice({ data: [0, 1], shape: [2] } as never, mask, { classes: 2 }), "ERR_LE_SHAPE", "prediction");
  });
});

describe("nll and brier", () => {
  // Three pixels, two classes; ŷ = 0, 1, 0.
  const p = floats([0.75, 0.5 - 0.25, 1, 0.25, 0.75, 0], [2, 3]);
  const log = (value: number) => -Math.log(value + 1e-5);

  it("are worked out by hand", () => {
    expect(nll(p, bytes([0, 1, 1]))).toBeCloseTo((2 * log(0.75) + log(0)) / 3, 12);
    expect(brier(p, bytes([0, 1, 1]))).toBeCloseTo((0.125 + 0.125 + 2) / 3, 12);
  });

  it("leave ignored pixels out", () => {
    expect(nll(p, bytes([0, 255, 0]), { ignoreIndex: 255 })).toBeCloseTo((log(0.75) + log(1)) / 2, 12);
    expect(brier(p, bytes([9, 1, 9]), { ignoreIndex: 9 })).toBeCloseTo(0.125, 12);
  });

  it("can be of the pixels that are foreground in truth or prediction", () => {
    expect(nll(p, bytes([0, 0, 0]), { foreground: true })).toBeCloseTo(log(0.25), 12);
    expect(nll(p, bytes([1, 255, 0]), { foreground: true })).toBeCloseTo(log(0.25), 12);
    expect(brier(p, bytes([0, 1, 1]), { foreground: true })).toBeCloseTo((0.125 + 2) / 2, 12);
  });

  it("are undefined where no pixel is left", () => {
    expect(nll(p, bytes([255, 255, 255]))).toBeNaN();
    expect(brier(p, bytes([255, 255, 255]))).toBeNaN();
    expect(brier(floats([1, 0], [2, 1]), bytes([0]), { foreground: true })).toBeNaN();
  });

  it("stay in their ranges, lowest for a sure and right prediction", () => {
    fc.assert(
      fc.property(logitHeads(), fc.nat(), ({ heads, classes, pixels }, seed) => {
        const fused = fuse(heads);
        const shape = fused.shape.slice(1);
        const truth = bytes(
          Array.from({ length: pixels }, (_, i) => (seed + i) % classes),
          [...shape],
        );
        expect(nll(fused, truth)).toBeGreaterThanOrEqual(-1e-5);
        expect(nll(fused, truth)).toBeLessThanOrEqual(11.513);
        expect(brier(fused, truth)).toBeGreaterThanOrEqual(0);
        expect(brier(fused, truth)).toBeLessThanOrEqual(2);
        const sure = fuse(heads.slice(0, 1), { fusion: "vote" });
        expect(nll(sure, argmax(sure))).toBeCloseTo(-1e-5, 9);
        expect(brier(sure, argmax(sure))).toBe(0);
      }),
    );
  });

  it("refuse what does not fit", () => {
    expectError(() => nll(p, bytes([0, 1])), "ERR_LE_SHAPE", "truth", "3", "2");
    expectError(() => nll(p, bytes([0, 1, 2])), "ERR_LE_VALUE", "truth", "2 at position 2");
    expectError(() => brier(floats([0.6, 0.6], [2, 1]), bytes([0])), "ERR_LE_VALUE", "probabilities", "sum to 1");
    expectError(() => nll(p, bytes([0, 1, 0]), { foregroundOnly: true } as never), "ERR_LE_OPTION", "'foregroundOnly'");
    expectError(() => nll(p, bytes([0, 1, 0]), { foreground: 1 as never }), "ERR_LE_OPTION", "'foreground'", "1");
  });
});

describe("the module", () => {
  it("runs anywhere: it imports no package, no Node module and nothing of the addon", () => {
    const seen = new Set<string>();
    const visit = (file: URL) => {
      if (seen.has(file.href)) return;
      seen.add(file.href);
      for (const [, from = ""] of readFileSync(file, "utf8").matchAll(/\bfrom "([^"]+)"|\bimport\(/g)) {
        expect(from, file.href).toMatch(/^\.\.?\/.*\.js$/);
        visit(new URL(from.replace(/\.js$/, ".ts"), file));
      }
    };
    visit(new URL("../../lib/metrics/index.ts", import.meta.url));
    const parts = [...seen].map((href) => /\/lib\/(\w+)/.exec(href)?.[1]);
    expect([...new Set(parts)].sort()).toEqual([
      "agreement",
      "arrays",
      "certificate",
      "checks",
      "errors",
      "fusion",
      "grid",
      "metrics",
      "options",
      "quality",
      "random",
      "scores",
      "sets",
      "shift",
      "statistics",
      "tuning",
      "uncertainty",
      "wasm",
    ]);
  });
});
