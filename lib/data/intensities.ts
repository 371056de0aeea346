// What the intensities of a training are, so that all images can be scaled by them alike.
import type { NdArray } from "../arrays.js";
import { mean, spread } from "../statistics/spread.js";
import { percentiles } from "./image.js";
import type { TrainingIntensity } from "./preprocess.js";

/** Most values of a channel of an image that count, at even distances. */
const MOST = 10_000;

/** Gathers intensities of what is labelled, image by image. */
export class Intensities {
  readonly #values: number[][] = [];

  /**
   * @param image parts×s values, a part for each scaling
   * @param mask s class indices; 0 and the ignored label do not count
   */
  add(image: NdArray<Float32Array>, mask: NdArray<Uint8Array>, ignoreIndex: number): void {
    const places: number[] = [];
    for (const [i, label] of mask.data.entries()) if (label !== 0 && label !== ignoreIndex) places.push(i);
    const taken = Math.min(MOST, places.length);
    const size = mask.data.length;
    for (let part = 0; part * size < image.data.length; part++) {
      this.#values[part] ??= [];
      for (let i = 0; i < taken; i++) {
        const place = places[Math.floor((i * places.length) / taken)] as number;
        this.#values[part]?.push(image.data[part * size + place] as number);
      }
    }
  }

  /** Of each part, as nnU-Net has it for CT; undefined where there are no two values. */
  result(): TrainingIntensity[] | undefined {
    const all = this.#values.map((values) => {
      const [low, high] = percentiles(Float64Array.from(values), [0.5, 99.5]) as [number, number];
      return { low, high, mean: mean(values), deviation: spread(values).sd };
    });
    return all.length > 0 && all.every(({ low, high, deviation }) => low < high && deviation > 0) ? all : undefined;
  }
}
