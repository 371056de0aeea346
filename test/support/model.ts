import { random } from "../../bench/random.mjs";
import { Backbone, type EnsembleOptions, LayerEnsemble, type NdArray, type TrainingSample } from "../../lib/index.js";

/** An image of noise, C×H×W. */
export function noise(shape: number[], seed = 1): NdArray {
  const next = random(seed);
  const data = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => next() * 2 - 1);
  return { data, shape };
}

/** Bright discs on noise, and where they are: learnable in seconds. */
export function discs(
  count: number,
  size: number,
  seed = 1,
  classes = 2,
): (TrainingSample & { mask: NdArray<Uint8Array> })[] {
  const next = random(seed);
  return Array.from({ length: count }, () => {
    const image = Float32Array.from({ length: size * size }, () => next() - 0.5);
    const mask = new Uint8Array(size * size);
    for (let c = 1; c < classes; c++) {
      const radius = size * (0.12 + 0.12 * next());
      const y0 = radius + next() * (size - 2 * radius);
      const x0 = radius + next() * (size - 2 * radius);
      for (let y = 0; y < size; y++)
        for (let x = 0; x < size; x++)
          if ((y - y0) ** 2 + (x - x0) ** 2 < radius ** 2) {
            mask[y * size + x] = c;
            image[y * size + x] = (image[y * size + x] as number) + 1.5 * c;
          }
    }
    return { image: { data: image, shape: [1, size, size] }, mask: { data: mask, shape: [size, size] } };
  });
}

/** A small network on the CPU in fp32: fast to make and exact to compare. */
export async function smallModel(options: EnsembleOptions & { width?: number; depth?: number } = {}) {
  const { width = 4, depth = 3, ...rest } = options;
  const backbone = await Backbone.create("plain-unet", { width, depth, classes: rest.classes ?? 2, seed: 1 });
  const model = await LayerEnsemble.create(backbone, {
    device: "cpu",
    precision: "fp32",
    inputSize: [32, 32],
    ...rest,
  });
  return { backbone, model };
}

/** The same for volumes. */
export async function smallVolumeModel(options: EnsembleOptions & { width?: number; depth?: number } = {}) {
  const { width = 4, depth = 3, ...rest } = options;
  const backbone = await Backbone.create("unet3d", { width, depth, classes: rest.classes ?? 2, seed: 1 });
  const model = await LayerEnsemble.create(backbone, {
    device: "cpu",
    precision: "fp32",
    inputSize: [8, 16, 16],
    ...rest,
  });
  return { backbone, model };
}

/** Bright balls on noise, D×H×W, and where they are: learnable in seconds. */
export function balls(
  count: number,
  [depth, height, width]: readonly [number, number, number],
  seed = 1,
): (TrainingSample & { mask: NdArray<Uint8Array> })[] {
  const next = random(seed);
  return Array.from({ length: count }, () => {
    const image = Float32Array.from({ length: depth * height * width }, () => next() - 0.5);
    const mask = new Uint8Array(image.length);
    const radius = Math.min(depth, height, width) * (0.25 + 0.15 * next());
    const [z0, y0, x0] = [depth, height, width].map((side) => radius + next() * (side - 2 * radius)) as [
      number,
      number,
      number,
    ];
    for (let z = 0, i = 0; z < depth; z++)
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++, i++)
          if ((z - z0) ** 2 + (y - y0) ** 2 + (x - x0) ** 2 < radius ** 2) {
            mask[i] = 1;
            image[i] = (image[i] as number) + 1.5;
          }
    return {
      image: { data: image, shape: [1, depth, height, width] },
      mask: { data: mask, shape: [depth, height, width] },
    };
  });
}
