// Numbers of many digits as single precision, in which networks work.
import type { NumericArray } from "../arrays.js";

/** Whether rounding an image's numbers to single precision leaves of their differences what an image of 8 bits has. */
export class Rounding {
  #low = Number.POSITIVE_INFINITY;
  #high = Number.NEGATIVE_INFINITY;
  #error = 0;

  /** The numbers in single precision. */
  round(values: NumericArray): Float32Array {
    const rounded = Float32Array.from(values);
    for (let i = 0; i < rounded.length; i++) {
      const value = values[i] as number;
      const error = Math.abs(value - (rounded[i] as number));
      if (error > this.#error) this.#error = error;
      if (value < this.#low) this.#low = value;
      if (value > this.#high) this.#high = value;
    }
    return rounded;
  }

  /** What is wrong with the numbers, for an error: as much is rounded away as tells them apart. Undefined where all is well. */
  get lost(): { expected: string; received: string } | undefined {
    const range = this.#high - this.#low;
    if (!(range > 0 && this.#error > range / 512)) return undefined;
    return {
      expected: "numbers that single precision tells apart (subtract their least, or rescale them)",
      received: `numbers from ${this.#low} to ${this.#high}`,
    };
  }
}
