// Counts labels, and those that two heads have in common, for AULA. lib/agreement/neighbours.ts calls it and is where to start
// reading; kernels.ts says how it is compiled. A vector of 128 bits holds the labels of 16 pixels.

/** A byte counts so many vectors at most. */
const RUN: usize = 255 * 16;

// Addresses: 16 classes' numbers of pixels of the first head, and of both; then labels.
const COUNTS: usize = 1024;
const LABELS: usize = 2048;

/** Where the numbers are: 16 of 32 bits for the one head, and 16 for both. */
export function counts(): usize { return COUNTS; }

/** Where there is room for labels, up to the end of the memory. */
export function labels(): usize { return LABELS; }

/** The sum of 16 bytes. */
@inline function sum(bytes: v128): i32 {
  const words = i32x4.extadd_pairwise_i16x8_u(i16x8.extadd_pairwise_i8x16_u(bytes));
  return i32x4.extract_lane(words, 0) + i32x4.extract_lane(words, 1) + i32x4.extract_lane(words, 2) +
    i32x4.extract_lane(words, 3);
}

/** Counts n labels at `own`, n a multiple of 16, and those of them that are also at `other`. */
export function count(own: usize, other: usize, n: usize, classes: i32): void {
  memory.fill(COUNTS, 0, 128);
  for (let start: usize = 0; start < n; start += RUN) {
    const end = own + min(start + RUN, n);
    for (let c = 0; c < classes; c++) {
      const label = i8x16.splat(<i8>c);
      let ofOwn = i8x16.splat(0);
      let ofBoth = i8x16.splat(0);
      for (let a = own + start, b = other + start; a < end; a += 16, b += 16) {
        const is = i8x16.eq(v128.load(a), label); // -1 where it is
        ofOwn = i8x16.sub(ofOwn, is);
        ofBoth = i8x16.sub(ofBoth, v128.and(is, i8x16.eq(v128.load(b), label)));
      }
      const at = COUNTS + c * 4;
      store<i32>(at, load<i32>(at) + sum(ofOwn));
      store<i32>(at + 64, load<i32>(at + 64) + sum(ofBoth));
    }
  }
}
