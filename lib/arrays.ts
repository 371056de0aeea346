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
  readonly data: T;
  readonly shape: readonly number[];
}
