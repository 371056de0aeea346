// The pass over the heads in WebAssembly SIMD, for what head-sums.ts defines: several times as fast. Everything happens
// within the call, on one thread; works where JavaScript runs, browsers and workers too.
import type { ClassSums, HeadSums } from "./head-sums.js";
import { KERNELS } from "./kernels.wasm.js";

/** The pass over the heads, as fast as it goes. */
export interface Kernels {
  /** {@link sumOfHeads} of logits in single precision. */
  sumOfHeads(heads: readonly Float32Array[], classes: number, pixels: number): HeadSums;
  /** {@link sumOfClasses}. */
  sumOfClasses(probabilities: Float64Array, classes: number, pixels: number): ClassSums;
}

/** What wasm/kernels.ts exports: addresses of arrays, then sizes. */
interface Exports {
  memory: { readonly buffer: ArrayBuffer };
  /** z, probabilities, squares, entropy, products, labels, codes; then scratch, C and n. */
  addHead(...of: [...SevenNumbers, number, number, number]): number;
  /** The same arrays, then n. */
  addHeadOfTwo(...of: [...SevenNumbers, number]): number;
  addLogarithms(entropy: number, products: number, n: number): void;
  measure(
    probabilities: number,
    most: number,
    labels: number,
    squares: number,
    entropy: number,
    classes: number,
    n: number,
    divisor: number,
  ): void;
}

type SevenNumbers = [number, number, number, number, number, number, number];

/** What is used of the global WebAssembly, which only the types of browsers declare. */
interface Compiler {
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object) => { exports: Exports };
}

/** Up to so many pixels are worked on together, fewer if there are many classes, so that all stays in a fast cache. */
const LARGEST_BLOCK = 1024;
/** Heads whose Σ exp are multiplied before a logarithm is taken: at most 256³² in all. */
const HEADS_PER_LOGARITHM = 32;

let loaded: Kernels | null | undefined;

/** Null where there is no WebAssembly with SIMD, or a page's policy forbids it. Compiled once, in about a millisecond. */
export function kernels(): Kernels | null {
  if (loaded === undefined) {
    try {
      const bytes = Uint8Array.from(atob(KERNELS), (letter) => letter.charCodeAt(0));
      const { Instance, Module } = (globalThis as unknown as { WebAssembly: Compiler }).WebAssembly;
      loaded = around(new Instance(new Module(bytes)).exports);
    } catch {
      loaded = null;
    }
  }
  return loaded;
}

function around(wasm: Exports): Kernels {
  return {
    sumOfHeads: (heads, classes, pixels) => sumOfHeads(wasm, heads, classes, pixels),
    sumOfClasses: (probabilities, classes, pixels) => sumOfClasses(wasm, probabilities, classes, pixels),
  };
}

/** The arrays of a block of n pixels in the module's memory, one after the other from where its constants end. */
function workspace({ memory }: Exports, classes: number, pixels: number) {
  const { buffer } = memory;
  const perPixel = 12 * classes + 64;
  const start = 2048;
  const most = Math.floor((buffer.byteLength - start - 32 * classes) / perPixel);
  const n = Math.min(LARGEST_BLOCK, most, pixels + 3) & ~3;
  let end = start;
  const take = (bytes: number) => {
    const at = end;
    end += bytes;
    return at;
  };
  const doubles = (length: number) => new Float64Array(buffer, take(length * 8), length);
  return {
    n,
    probabilities: doubles(classes * n),
    squares: doubles(n),
    entropy: doubles(n),
    products: doubles(n),
    most: doubles(n),
    squaresOfMean: doubles(n),
    scratch: take(32 * classes),
    z: new Float32Array(buffer, take(4 * classes * n), classes * n),
    codes: new Int32Array(buffer, take(4 * n), n),
    labels: new Uint8Array(buffer, take(n), n),
  };
}

function sumOfHeads(wasm: Exports, heads: readonly Float32Array[], classes: number, pixels: number): HeadSums {
  const block = workspace(wasm, classes, pixels);
  const { n } = block;
  const [entropy, products] = [block.entropy.byteOffset, block.products.byteOffset];
  const arrays = [block.z, block.probabilities, block.squares, block.entropy, block.products, block.labels, block.codes];
  const addresses = arrays.map((array) => array.byteOffset) as SevenNumbers;
  const mean = newClassSums(pixels);
  const codes: [Int32Array, Int32Array] = [new Int32Array(pixels), new Int32Array(pixels)];
  const sums: HeadSums = {
    probabilities: new Float64Array(classes * pixels),
    entropy: new Float64Array(pixels),
    squares: new Float64Array(pixels),
    labels: new Uint8Array(heads.length * pixels),
    mean,
    codes,
    finite: true,
  };
  const middle = heads.length >> 1;
  let check = 0;
  for (let start = 0; start < pixels; start += n) {
    const count = Math.min(n, pixels - start);
    block.probabilities.fill(0);
    block.squares.fill(0);
    block.entropy.fill(0);
    block.products.fill(1);
    block.codes.fill(0);
    if (count < n) block.z.fill(0);
    heads.forEach((head, k) => {
      if (k === middle) {
        put(block.codes, count, codes[0], start);
        block.codes.fill(0);
      }
      for (let c = 0; c < classes; c++) {
        const from = c * pixels + start;
        block.z.set(head.subarray(from, from + count), c * n);
      }
      check +=
        classes === 2
          ? wasm.addHeadOfTwo(...addresses, n)
          : wasm.addHead(...addresses, block.scratch, classes, n);
      put(block.labels, count, sums.labels, k * pixels + start);
      if (k % HEADS_PER_LOGARITHM === HEADS_PER_LOGARITHM - 1) wasm.addLogarithms(entropy, products, n);
    });
    wasm.addLogarithms(entropy, products, n);
    put(block.codes, count, codes[1], start);
    put(block.entropy, count, sums.entropy, start);
    put(block.squares, count, sums.squares, start);
    measure(wasm, block, classes, heads.length);
    for (let c = 0; c < classes; c++) {
      sums.probabilities.set(block.probabilities.subarray(c * n, c * n + count), c * pixels + start);
    }
    putClassSums(block, count, mean, start);
  }
  sums.finite = check === 0;
  return sums;
}

function sumOfClasses(wasm: Exports, probabilities: Float64Array, classes: number, pixels: number): ClassSums {
  const block = workspace(wasm, classes, pixels);
  const { n } = block;
  const of = newClassSums(pixels);
  for (let start = 0; start < pixels; start += n) {
    const count = Math.min(n, pixels - start);
    for (let c = 0; c < classes; c++) {
      const from = c * pixels + start;
      block.probabilities.set(probabilities.subarray(from, from + count), c * n);
    }
    measure(wasm, block, classes, 1);
    putClassSums(block, count, of, start);
  }
  return of;
}

type Block = ReturnType<typeof workspace>;

/** Where the heads' own entropy was read already, that of their mean takes its place. */
function measure(wasm: Exports, block: Block, classes: number, divisor: number): void {
  wasm.measure(
    block.probabilities.byteOffset,
    block.most.byteOffset,
    block.labels.byteOffset,
    block.squaresOfMean.byteOffset,
    block.entropy.byteOffset,
    classes,
    block.n,
    divisor,
  );
}

function putClassSums(block: Block, count: number, { most, labels, squares, entropy }: ClassSums, start: number): void {
  put(block.most, count, most, start);
  put(block.labels, count, labels, start);
  put(block.squaresOfMean, count, squares, start);
  put(block.entropy, count, entropy, start);
}

/** The first `count` of `from` to `to`, from `start` on. */
function put<T extends Float64Array | Int32Array | Uint8Array>(from: T, count: number, to: T, start: number): void {
  to.set(from.subarray(0, count), start);
}

/** For S pixels. */
export function newClassSums(pixels: number): ClassSums {
  return {
    most: new Float64Array(pixels),
    labels: new Uint8Array(pixels),
    squares: new Float64Array(pixels),
    entropy: new Float64Array(pixels),
  };
}
