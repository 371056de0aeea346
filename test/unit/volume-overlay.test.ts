import { describe, expect, it } from "vitest";
import { type Grid, reorient } from "../../lib/grid/index.js";
import { overlay } from "../../lib/pictures/render.js";
import { volumeOverlay } from "../../lib/pictures/volume.js";

const SHAPE = [6, 8, 10] as const;
/** Voxels of 4 mm upwards, 2 mm forwards, 1 mm to the right. */
const GRID: Grid = {
  shape: SHAPE,
  affine: [
    [1, 0, 0, 5],
    [0, 2, 0, -7],
    [0, 0, 4, 9],
    [0, 0, 0, 1],
  ],
};
const image = { data: Uint8Array.from({ length: 480 }, (_, i) => (i * 7) % 200), shape: SHAPE };
const labels = { data: new Uint8Array(480), shape: SHAPE };
for (let z = 3; z < 5; z++)
  for (let y = 4; y < 8; y++) for (let x = 6; x < 9; x++) labels.data[(z * 8 + y) * 10 + x] = 1;

describe("a volume in three planes", () => {
  it("is the same picture however the volume is stored", () => {
    const options = { prediction: labels, truth: labels, sets: [{ inner: labels, outer: labels }] };
    const picture = volumeOverlay(image, GRID, options);
    for (const code of ["LPS", "SAR", "PIL", "LPI"]) {
      const turned = reorient({ ...image, grid: GRID }, code);
      const mask = reorient({ ...labels, grid: GRID }, code);
      const again = volumeOverlay(turned, turned.grid, {
        prediction: mask,
        truth: mask,
        sets: [{ inner: mask, outer: mask }],
      });
      expect([again.width, again.height]).toEqual([picture.width, picture.height]);
      expect(Buffer.compare(again.data, picture.data)).toBe(0);
    }
  });

  it("is in true proportions: axial, coronal, sagittal", () => {
    // 10 × 16 × 24 mm to the right, forwards and upwards; 420 pixels for 24 mm.
    const { width, height, data } = volumeOverlay(image, GRID);
    expect(height).toBe(420);
    expect(width).toBe(175 + 8 + 175 + 8 + 280);
    expect(data).toHaveLength(3 * width * height);
  });

  it("has the patient's right on the left and what is in front and above on top", () => {
    const one = { data: new Uint8Array(480), shape: SHAPE };
    // At the right, the front and the top of what is predicted to be there.
    one.data[(5 * 8 + 7) * 10 + 9] = 255;
    const prediction = { data: Uint8Array.from(one.data, (value) => value / 255), shape: SHAPE };
    const { width, data } = volumeOverlay(one, GRID, { prediction });
    const grey = (x: number, y: number) => data[3 * (y * width + x)] as number;
    // The axial plane is 175 × 280, centred on 420 rows.
    expect(grey(3, 73)).toBeGreaterThan(200);
    expect(grey(170, 345)).toBe(0);
    // The coronal plane, 175 × 420: the right on the left, above on top.
    expect(grey(183 + 3, 10)).toBeGreaterThan(200);
    expect(grey(183 + 170, 410)).toBe(0);
    // The sagittal plane, 280 × 420: the front on the left.
    expect(grey(366 + 5, 10)).toBeGreaterThan(200);
    expect(grey(366 + 275, 10)).toBe(0);
  });

  it("is the middle slice where nobody knows where it lies", () => {
    const slice = (volume: typeof image) => ({ data: volume.data.slice(3 * 80, 4 * 80), shape: [8, 10] });
    const drawn = volumeOverlay(image, null, { prediction: labels });
    const middle = overlay(slice(image), { prediction: slice(labels as typeof image) });
    expect([drawn.width, drawn.height]).toEqual([middle.width, middle.height]);
    expect(Buffer.compare(drawn.data, middle.data)).toBe(0);
  });
});
