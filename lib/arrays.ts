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

/** How far apart neighbours along each axis are in an array of that shape. */
export function stridesOf(shape: readonly number[]): number[] {
  return shape.map((_, axis) => shape.slice(axis + 1).reduce((product, size) => product * size, 1));
}

const ARRAYS = {
  Float32Array,
  Float64Array,
  Uint8Array,
  Uint8ClampedArray,
  Int8Array,
  Uint16Array,
  Int16Array,
  Int32Array,
  Uint32Array,
} as const;

/** The name of a typed array's type. */
export type ArrayType = keyof typeof ARRAYS;

// The language's own getters, whatever a value says of itself.
const prototype = Object.getPrototypeOf(Uint8Array.prototype) as object;
const getter = (name: PropertyKey) =>
  Object.getOwnPropertyDescriptor(prototype, name)?.get as (this: unknown) => unknown;
const typeOf = getter(Symbol.toStringTag);
const bufferOf = getter("buffer");
const offsetOf = getter("byteOffset");
const lengthOf = getter("length");

/**
 * What a typed array of numbers is, also one of another realm (a vm context, an iframe), for which `instanceof` is false.
 * @returns undefined for anything else
 */
export function arrayType(value: unknown): ArrayType | undefined {
  const name = typeOf.call(value) as string | undefined;
  return name !== undefined && Object.hasOwn(ARRAYS, name) ? (name as ArrayType) : undefined;
}

/** The same memory as an array of this realm, of fixed length; empty where there is none any more. */
export function ownArray<T extends NumericArray>(array: T): T {
  const make = ARRAYS[arrayType(array) as ArrayType] as unknown as new (...args: unknown[]) => T;
  try {
    return new make(bufferOf.call(array), offsetOf.call(array), lengthOf.call(array));
  } catch {
    return new make(); // its buffer was detached
  }
}

/** A new array of zeros, of the type of another. */
export function zerosLike<T extends NumericArray>(array: T, length: number): T {
  return new ARRAYS[arrayType(array) as ArrayType](length) as T;
}

/** More axes than any array here has. */
const MOST_AXES = 8;

/**
 * What an array is now, each property read once: a getter may give something else the next time, and what it runs may take
 * the memory away. Of a shape the first nine sizes, as plain data: one that is a getter is not run, and is undefined.
 * @returns undefined for what is no `{data, shape}`
 */
export function snapshot(value: unknown): NdArray<NumericArray> | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const { data, shape } = value as Partial<NdArray<NumericArray>>;
  if (!Array.isArray(shape) || arrayType(data) === undefined) return undefined;
  const length = Math.min(shape.length, MOST_AXES + 1);
  const sizes = Array.from({ length }, (_, axis) => Object.getOwnPropertyDescriptor(shape, axis)?.value as number);
  return { data: ownArray(data as NumericArray), shape: sizes };
}
