/** Typed arrays that hold numbers. */
export type NumericArray =
  | Float32Array
  | Float64Array
  | Uint8Array
  | Uint8ClampedArray
  | Int8Array
  | Uint16Array
  | Int16Array
  | Int32Array
  | Uint32Array;

/** A dense array in C order: `data.length` is the product of `shape`. */
export interface NdArray<T extends NumericArray = Float32Array> {
  /** The values, the last axis running fastest. */
  readonly data: T;
  /** Lengths of the axes, the first one slowest: [C, H, W] for an image of C×H×W. */
  readonly shape: readonly number[];
}
