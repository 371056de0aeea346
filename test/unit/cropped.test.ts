import fc from "fast-check";
import { expect, it } from "vitest";
import { croppedOf, croppedShare, describeCropped } from "../../lib/data/cropped.js";
import { preprocess, preprocessMask, restore } from "../../lib/data/preprocess.js";

const sides = fc.tuple(...Array(3).fill(fc.integer({ min: 1, max: 6 }))) as fc.Arbitrary<[number, number, number]>;
const count = (shape: readonly number[]) => shape.reduce((product, side) => product * side, 1);

it("is the share of a volume's voxels that the network does not see, counted", () => {
  fc.assert(
    fc.property(sides, sides, (stored, size) => {
      const image = { data: new Float32Array(count(stored)), shape: [1, ...stored] };
      const { placement } = preprocess(image, { size, resize: "stretch", normalise: { kind: "none" }, channels: 1 });
      const all = { data: new Uint8Array(count(stored)).fill(1), shape: stored };
      const seen = preprocessMask(all, placement).data.reduce((sum, voxel) => sum + voxel, 0);
      expect(croppedShare(placement)).toBeCloseTo(1 - seen / count(stored), 12);
      expect(croppedShare(placement)).toBeLessThan(1);
      const back = restore({ data: new Float32Array(count(size)).fill(1), shape: size }, placement);
      expect(back.data.reduce((sum, value) => sum + value, 0)).toBe(seen);
    }),
  );
});

it("is nothing of an image, which is resampled or padded", () => {
  for (const resize of ["stretch", "pad"] as const) {
    const image = { data: new Float32Array(40 * 30), shape: [40, 30] };
    const { placement } = preprocess(image, { size: [8, 8], resize, normalise: { kind: "none" }, channels: 1 });
    expect(croppedShare(placement)).toBe(0);
  }
});

it("sums up and says it, and says nothing where nothing is cropped", () => {
  const cropped = croppedOf([0, 0.25, 0.75, 0]);
  expect(cropped).toEqual({ images: 2, mean: 0.5, most: 0.75 });
  expect(describeCropped(cropped, 4, [8, 16, 16])).toBe(
    "2 of 4 volumes are larger than the network's input of 8×16×16: 50 % on average, at most 75 %, of their voxels are cropped and not segmented, but taken for background; scores and predicted Dice are of what was kept (train takes a larger --size)",
  );
  expect(describeCropped(croppedOf([0.125]), 1)).toMatch(
    /^1 of 1 volumes is larger than the network's input: 13 % of its/,
  );
  expect(croppedOf([0, 0])).toEqual({ images: 0, mean: null, most: null });
  expect(describeCropped(croppedOf([0]), 1, [8, 8, 8])).toBeUndefined();
});
