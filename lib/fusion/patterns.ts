// The K labels of a pixel as one pattern. Heads mostly agree, so that an image has far fewer patterns than pixels, and
// what depends on the labels alone is worked out once per pattern.

/** Which combinations of labels occur, and where. */
export interface Patterns {
  /** K. */
  heads: number;
  /** D×K: the labels of each pattern. */
  labels: Uint8Array;
  /** D: number of pixels with the pattern. */
  counts: Float64Array;
  /** S: the pattern of each pixel. Patterns are numbered in the order of their first pixel. */
  of: Int32Array;
}

/** Up to so many pairs a table holds the numbers of the pairs; beyond, a map. */
const LARGEST_TABLE = 1 << 22;

/** Finds the patterns of the heads from `first` to before `end` of K×S label maps. */
export function findPatterns(maps: Uint8Array, heads: number, classes: number, first = 0, end = heads): Patterns {
  const pixels = maps.length / heads;
  let of: Int32Array = new Int32Array(pixels);
  let patterns = 1;
  const prefixes: Numbering[] = [];
  for (let k = first; k < end; k++) {
    const numbering = pairUp(of, patterns, maps.subarray(k * pixels, (k + 1) * pixels), classes);
    prefixes.push(numbering);
    of = numbering.of;
    patterns = numbering.pairs;
  }
  const own = end - first;
  const labels = new Uint8Array(patterns * own);
  for (let d = 0; d < patterns; d++) {
    for (let k = own - 1, at = d; k >= 0; k--) {
      const { left, right } = prefixes[k] as Numbering;
      labels[d * own + k] = right[at] as number;
      at = left[at] as number;
    }
  }
  const counts = new Float64Array(patterns);
  for (let i = 0; i < pixels; i++) counts[of[i] as number]!++;
  return { heads: own, labels, counts, of };
}

/** Distinct pairs, numbered in the order of their first position. */
export interface Numbering {
  /** Number of distinct pairs. */
  pairs: number;
  /** By pair: its two halves. */
  left: Int32Array;
  right: Int32Array;
  /** By position: its pair. */
  of: Int32Array;
}

/** Numbers the pairs (a[i], b[i]), with a[i] in 0..sizeA-1 and b[i] in 0..sizeB-1. */
export function pairUp(a: Int32Array, sizeA: number, b: Int32Array | Uint8Array, sizeB: number): Numbering {
  const of = new Int32Array(a.length);
  const most = Math.min(a.length, sizeA * sizeB);
  const left = new Int32Array(most);
  const right = new Int32Array(most);
  let pairs = 0;
  if (sizeA * sizeB <= LARGEST_TABLE) {
    // Numbers from 1, so that 0 is one that was not met yet.
    const numbers = new Int32Array(sizeA * sizeB);
    for (let i = 0; i < a.length; i++) {
      const [first, second] = [a[i] as number, b[i] as number];
      const key = first * sizeB + second;
      let number = numbers[key] as number;
      if (number === 0) {
        left[pairs] = first;
        right[pairs] = second;
        number = numbers[key] = ++pairs;
      }
      of[i] = number - 1;
    }
  } else {
    const numbers = new Map<number, number>();
    for (let i = 0; i < a.length; i++) {
      const key = (a[i] as number) * sizeB + (b[i] as number);
      let number = numbers.get(key);
      if (number === undefined) {
        left[pairs] = a[i] as number;
        right[pairs] = b[i] as number;
        number = pairs++;
        numbers.set(key, number);
      }
      of[i] = number;
    }
  }
  return { pairs, left, right, of };
}
