// The K labels of a pixel as one pattern. Heads mostly agree, so that an image has far fewer patterns than pixels, and
// what depends on the labels alone is worked out once per pattern. K heads, S pixels, D patterns.

/** Which combinations of labels occur, and where; patterns are numbered in the order of their first pixel. */
export interface Patterns {
  /** K. */
  heads: number;
  /** D×K: the labels of each pattern. */
  labels: Uint8Array;
  /** D: number of pixels with the pattern. */
  counts: Float64Array;
  /** S: the pattern of each pixel. */
  of: Int32Array;
  /** The same of the heads before and after the middle. */
  halves: readonly [Half, Half];
}

/** The patterns of some of the heads. */
export interface Half {
  /** Index of the first of these heads. */
  first: number;
  /** Number of these heads; may be 0. */
  heads: number;
  /** Number of their patterns. */
  patterns: number;
  /** Patterns×heads. */
  labels: Uint8Array;
  /** D: their pattern in each pattern of all heads. */
  of: Int32Array;
}

/** Up to so many possible codes are looked up in a table; beyond, in a map. */
const LARGEST_TABLE = 1 << 22;
/** Codes that may grow beyond this are numbered anew, so that the table stays in a fast cache. */
const LARGEST_CODE = 1 << 16;

/**
 * Finds the patterns of K×S label maps.
 * @param codes Of the heads before and after the middle, where known: S numbers in base C, a digit for each head's label. They
 * are used where they are small, and overwritten.
 */
export function findPatterns(
  maps: Uint8Array,
  heads: number,
  classes: number,
  codes?: readonly [Int32Array, Int32Array],
): Patterns {
  const pixels = maps.length / heads;
  const middle = heads >> 1;
  const numbers = (half: 0 | 1, first: number, end: number) =>
    codes && classes ** (end - first) <= LARGEST_CODE
      ? numberCodes(codes[half], classes ** (end - first))
      : numberHeads(maps, pixels, classes, first, end);
  const a = numbers(0, 0, middle);
  const b = numbers(1, middle, heads);
  const [sizeA, sizeB] = [a.first.length, b.first.length];
  const all = numberPairs(a.of, sizeA, b.of, sizeB);
  const counts = new Float64Array(all.first.length);
  for (let i = 0; i < pixels; ) {
    const start = i;
    const pattern = all.of[i] as number;
    do i++;
    while (all.of[i] === pattern);
    counts[pattern] = (counts[pattern] as number) + (i - start);
  }
  const half = (own: Numbers, first: number, end: number): Half => ({
    first,
    heads: end - first,
    patterns: own.first.length,
    labels: labelsAt(maps, pixels, own.first, first, end),
    of: all.first.map((i) => own.of[i] as number),
  });
  return {
    heads,
    labels: labelsAt(maps, pixels, all.first, 0, heads),
    counts,
    of: all.of,
    halves: [half(a, 0, middle), half(b, middle, heads)],
  };
}

/** Positions by what they hold, numbered in the order in which it first occurs. */
interface Numbers {
  /** By number: the first position with it. */
  first: Int32Array;
  /** By position: its number. */
  of: Int32Array;
}

/** Numbers the label patterns of the heads from `first` to before `end`. */
function numberHeads(maps: Uint8Array, pixels: number, classes: number, first: number, end: number): Numbers {
  let codes: Int32Array = new Int32Array(pixels);
  let size = 1;
  for (let k = first; k < end; k++) {
    if (size > 1 && size * classes > LARGEST_CODE) {
      const numbers = numberCodes(codes, size);
      codes = numbers.of;
      size = numbers.first.length;
    }
    if (size * classes > LARGEST_TABLE) {
      const numbers = numberPairs(codes, size, Int32Array.from(maps.subarray(k * pixels, (k + 1) * pixels)), classes);
      codes = numbers.of;
      size = numbers.first.length;
      continue;
    }
    appendLabels(codes, maps, k * pixels, classes);
    size *= classes;
  }
  return numberCodes(codes, size);
}

function appendLabels(codes: Int32Array, maps: Uint8Array, from: number, classes: number): void {
  for (let i = 0; i < codes.length; i++) codes[i] = (codes[i] as number) * classes + (maps[from + i] as number);
}

/** Numbers codes in 0..size-1, size being small enough for a table, in their place. */
function numberCodes(codes: Int32Array, size: number): Numbers {
  // From 1, so that 0 is a code that was not met yet.
  const numbers = new Int32Array(size);
  const first = new Int32Array(Math.min(codes.length, size));
  let met = 0;
  let before = -1;
  let number = 0;
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i] as number;
    // Mostly as the pixel before.
    if (code !== before) {
      before = code;
      number = numbers[code] as number;
      if (number === 0) {
        first[met] = i;
        number = numbers[code] = ++met;
      }
    }
    codes[i] = number - 1;
  }
  return { first: first.slice(0, met), of: codes };
}

/** Numbers the pairs (a[i], b[i]) of numbers in 0..sizeA-1 and 0..sizeB-1. */
function numberPairs(a: Int32Array, sizeA: number, b: Int32Array, sizeB: number): Numbers {
  if (sizeA * sizeB <= LARGEST_TABLE) {
    const codes = new Int32Array(a.length);
    for (let i = 0; i < a.length; i++) codes[i] = (a[i] as number) * sizeB + (b[i] as number);
    return numberCodes(codes, sizeA * sizeB);
  }
  const numbers = new Map<number, number>();
  const first: number[] = [];
  const of = new Int32Array(a.length);
  for (let i = 0; i < a.length; i++) {
    const code = (a[i] as number) * sizeB + (b[i] as number);
    let number = numbers.get(code);
    if (number === undefined) {
      number = first.length;
      first.push(i);
      numbers.set(code, number);
    }
    of[i] = number;
  }
  return { first: Int32Array.from(first), of };
}

/** Patterns×heads: the labels at the first pixel of each pattern. */
function labelsAt(maps: Uint8Array, pixels: number, at: Int32Array, first: number, end: number): Uint8Array {
  const labels = new Uint8Array(at.length * (end - first));
  let to = 0;
  for (const i of at) for (let k = first; k < end; k++) labels[to++] = maps[k * pixels + i] as number;
  return labels;
}
