// The example of docs/metrics.md.
import type { NdArray } from "../../../lib/metrics/index.js";

/** Four heads of three classes, 8×8: two discs, which the later heads see better. */
export function exampleImage(): { heads: NdArray; truth: NdArray<Uint8Array> } {
  const heads = new Float32Array(4 * 3 * 8 * 8);
  const truth = new Uint8Array(8 * 8);
  for (let y = 0, i = 0; y < 8; y++) {
    for (let x = 0; x < 8; x++, i++) {
      const inside = [0, 2.2 - Math.hypot(y - 2.5, x - 3), 1.6 - Math.hypot(y - 5.5, x - 5.5)] as const;
      truth[i] = inside.indexOf(Math.max(...inside));
      for (let k = 0; k < 4; k++) {
        heads[(k * 3 + 1) * 64 + i] = ((k + 1) / 2) * inside[1] + (1 - k / 4) * Math.sin(3 * k + y);
        heads[(k * 3 + 2) * 64 + i] = ((k + 1) / 2) * inside[2] + (1 - k / 4) * Math.cos(2 * k + x);
      }
    }
  }
  truth[0] = 255;
  return { heads: { data: heads, shape: [4, 3, 8, 8] }, truth: { data: truth, shape: [8, 8] } };
}

/** Six images: a confidence, their Dice, and that of another method. */
export const EXAMPLE_TABLE = {
  confidence: [0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
  dice: [0.95, 0.9, 0.6, 0.92, 0.7, 0.3],
  other: [0.93, 0.85, 0.66, 0.91, 0.5, 0.36],
};
