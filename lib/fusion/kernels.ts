// The pass over the heads in WebAssembly SIMD, for what head-sums.ts defines: several times as fast. Everything happens
// within the call, on one thread; it works where JavaScript runs, in browsers and workers too.
import { instantiate } from "../wasm.js";
import { type ClassSums, type HeadSums, newClassSums, newHeadSums, total } from "./head-sums.js";
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
  const before = new Float64Array(classes);
  let check = 0;
  for (let start = 0; start < pixels; start += n) {
    const count = Math.min(n, pixels - start);
    wasm.begin();
    if (count < n) block.logits.fill(0); // what is left there may not be finite
    before.fill(0);
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
      addOfHead(block, count, before, sums.ofHeads.subarray(k * classes * 2, (k + 1) * classes * 2));
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

/**
 * Adds what the last head has in a block.
 * @param before C: sums of the probabilities of the heads before it; becomes those with it
 * @param to C×2: Σ p_c, Σ p_c over m = c
 */
function addOfHead(
  { n, classes, probabilities, most, labels }: Block,
  count: number,
  before: Float64Array,
  to: Float64Array,
) {
  let others = 0;
  for (let c = 1; c < classes; c++) {
    const sum = total(probabilities, c * n, count);
    const own = sum - (before[c] as number);
    before[c] = sum;
    to[c * 2] = (to[c * 2] as number) + own;
    others += own;
  }
  to[0] = (to[0] as number) + count - others;
  // Run by run of one label, so that its sum stays in a register.
  for (let i = 0; i < count; ) {
    const label = labels[i] as number;
    let sum = 0;
    for (; i < count && labels[i] === label; i++) sum += most[i] as number;
    to[label * 2 + 1] = (to[label * 2 + 1] as number) + sum;
  }
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
