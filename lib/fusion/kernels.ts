// The pass over the heads in WebAssembly SIMD, for what head-sums.ts defines: several times as fast. Everything happens
// within the call, on one thread; it works where JavaScript runs, in browsers and workers too.
import { instantiate } from "../wasm.js";
import { type ClassSums, type HeadSums, newClassSums, newHeadSums } from "./head-sums.js";
import { KERNELS } from "./kernels.wasm.js";

/** What {@link kernels} has. */
export interface Kernels {
  /** {@link sumOfHeads} of logits in single precision. */
  sumOfHeads(heads: readonly Float32Array[], classes: number, pixels: number): HeadSums;
  /** {@link sumOfClasses}. */
  sumOfClasses(probabilities: Float64Array, classes: number, pixels: number): ClassSums;
}

/** What wasm/kernels.ts exports: its memory, where arrays are in it, and what it does with them. */
interface Exports extends Record<ArrayName, { readonly value: number }> {
  memory: { readonly buffer: ArrayBuffer };
  size(classes: number, n: number): number;
  layOut(classes: number, n: number): void;
  begin(): void;
  addHead(): void;
  addLogarithms(): void;
  measure(heads: number): number;
}

type ArrayName =
  | "headSums"
  | "logits"
  | "probabilities"
  | "most"
  | "squaresOfMean"
  | "entropyOfMean"
  | "expectedEntropy"
  | "mutualInformation"
  | "variance"
  | "codes"
  | "labels"
  | "labelsOfMean";

/** Up to so many pixels are worked on together, fewer if there are many classes, so that all stays in a fast cache. */
const LARGEST_BLOCK = 1024;
const HEADS_PER_LOGARITHM = 32;
/** A logit beside 0 whose class has no probability at all. */
const SURELY_NOT = -1000;

let loaded: Kernels | null | undefined;

/** Null where there is no WebAssembly with SIMD. */
export function kernels(): Kernels | null {
  if (loaded === undefined) {
    const wasm = instantiate<Exports>(KERNELS);
    loaded = wasm && {
      sumOfHeads: (heads, classes, pixels) => sumOfHeads(wasm, heads, classes, pixels),
      sumOfClasses: (probabilities, classes, pixels) => sumOfClasses(wasm, probabilities, classes, pixels),
    };
  }
  return loaded;
}

type Block = ReturnType<typeof layOut>;

/** Views of the arrays of a block of n pixels. */
function layOut(wasm: Exports, classes: number, pixels: number) {
  const { buffer } = wasm.memory;
  let n = Math.min(LARGEST_BLOCK, pixels + 3) & ~3;
  while (wasm.size(classes, n) > buffer.byteLength) n = (n >> 1) & ~3;
  wasm.layOut(classes, n);
  const at = (name: ArrayName) => wasm[name].value;
  const singles = (name: ArrayName) => new Float32Array(buffer, at(name), n);
  return {
    classes,
    n,
    headSums: new Float64Array(buffer, at("headSums"), classes * 4),
    logits: new Float32Array(buffer, at("logits"), classes * n),
    probabilities: new Float64Array(buffer, at("probabilities"), classes * n),
    most: new Float64Array(buffer, at("most"), n),
    squaresOfMean: new Float64Array(buffer, at("squaresOfMean"), n),
    entropyOfMean: singles("entropyOfMean"),
    expectedEntropy: singles("expectedEntropy"),
    mutualInformation: singles("mutualInformation"),
    variance: singles("variance"),
    codes: new Int32Array(buffer, at("codes"), n),
    labels: new Uint8Array(buffer, at("labels"), n),
    labelsOfMean: new Uint8Array(buffer, at("labelsOfMean"), n),
  };
}

function sumOfHeads(wasm: Exports, heads: readonly Float32Array[], classes: number, pixels: number): HeadSums {
  const block = layOut(wasm, classes, pixels);
  const { n } = block;
  const sums = newHeadSums(heads.length, classes, pixels);
  const codes: [Int32Array, Int32Array] = [new Int32Array(pixels), new Int32Array(pixels)];
  const middle = heads.length >> 1;
  let check = 0;
  for (let start = 0; start < pixels; start += n) {
    const count = Math.min(n, pixels - start);
    wasm.begin();
    if (count < n) {
      // What is left there may not be finite. Surely class 0, so that it can be taken from the sums of heads.
      block.logits.fill(0, 0, n);
      block.logits.fill(SURELY_NOT, n);
    }
    block.headSums.fill(0);
    heads.forEach((head, k) => {
      if (k === middle) {
        put(block.codes, count, codes[0], start);
        block.codes.fill(0);
      }
      for (let c = 0; c < classes; c++) {
        const from = c * pixels + start;
        block.logits.set(head.subarray(from, from + count), c * n);
      }
      wasm.addHead();
      addSums(block.headSums, n - count, sums.ofHeads, k * classes * 2);
      put(block.labels, count, sums.labels, k * pixels + start);
      if (k % HEADS_PER_LOGARITHM === HEADS_PER_LOGARITHM - 1) wasm.addLogarithms();
    });
    put(block.codes, count, codes[1], start);
    wasm.addLogarithms();
    check += wasm.measure(heads.length);
    for (let c = 0; c < classes; c++) {
      sums.probabilities.set(block.probabilities.subarray(c * n, c * n + count), c * pixels + start);
    }
    putMean(block, count, sums.mean, start);
    put(block.expectedEntropy, count, sums.expectedEntropy, start);
    if (heads.length === 1) continue;
    put(block.mutualInformation, count, sums.mutualInformation, start);
    put(block.variance, count, sums.variance, start);
  }
  return { ...sums, codes, finite: check === 0 };
}

function sumOfClasses(wasm: Exports, probabilities: Float64Array, classes: number, pixels: number): ClassSums {
  const block = layOut(wasm, classes, pixels);
  const { n } = block;
  const sums = newClassSums(pixels);
  for (let start = 0; start < pixels; start += n) {
    const count = Math.min(n, pixels - start);
    wasm.begin();
    for (let c = 0; c < classes; c++) {
      const from = c * pixels + start;
      block.probabilities.set(probabilities.subarray(from, from + count), c * n);
    }
    wasm.measure(1);
    putMean(block, count, sums, start);
  }
  return sums;
}

function putMean(block: Block, count: number, to: ClassSums, start: number): void {
  put(block.most, count, to.most, start);
  put(block.labelsOfMean, count, to.labels, start);
  put(block.squaresOfMean, count, to.squares, start);
  put(block.entropyOfMean, count, to.entropy, start);
}

/** Adds the pairs of sums to `to`, from `at` on, without the block's pixels behind the image; clears them. */
function addSums(pairs: Float64Array, behind: number, to: Float64Array, at: number): void {
  for (let i = 0; i < pairs.length; i += 2) {
    const sum = (pairs[i] as number) + (pairs[i + 1] as number) - (i < 4 ? behind : 0);
    to[at + i / 2] = (to[at + i / 2] as number) + sum;
  }
  pairs.fill(0);
}

/** The first `count` of `from` to `to`, from `start` on. */
function put<T extends Float32Array | Float64Array | Int32Array | Uint8Array>(
  from: T,
  count: number,
  to: T,
  start: number,
): void {
  to.set(from.subarray(0, count), start);
}
