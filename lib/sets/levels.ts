import type { FloatArray } from "../checks.js";

/** Buckets are the upper 16 bits of a probability in single precision, whose order is that of the probabilities. */
export const BUCKETS = 0x3f80 + 1;

/**
 * From which probability on pixels are in a set. A pixel's score is the share of Σ p that lies in pixels of higher
 * probability; a set at λ holds the pixels whose score is at most λ. Equal probabilities share a score, so that a set is
 * all pixels from some probability on: that one is found without sorting more than the pixels near it.
 * @param p Probabilities of one class, S. What rounding left below 0 counts as 0, whose score is 1.
 * @param shares λ, from 0 to 1, ascending.
 * @returns For each λ, the least probability in its set: -∞ where it holds every pixel (λ = 1), +∞ where it holds none,
 * which is so for every λ below 1 where Σ p is 0.
 */
export function levelsOf(p: FloatArray, shares: ArrayLike<number>): Float64Array {
  const { above, counts, total } = massByBucket(p);
  const levels = new Float64Array(shares.length).fill(Number.POSITIVE_INFINITY);
  // The bucket of each level: the lowest that has a pixel whose score is small enough.
  const buckets = new Int32Array(shares.length).fill(-1);
  for (let j = 0, next = BUCKETS - 1, found = -1; j < shares.length; j++) {
    const share = shares[j] as number;
    if (share >= 1) levels[j] = Number.NEGATIVE_INFINITY;
    else if (total > 0) {
      for (; next >= 0 && (above[next] as number) / total <= share; next--) if (counts[next]) found = next;
      buckets[j] = found;
    }
  }
  const sorted = sortedBuckets(p, counts, buckets);
  for (let j = 0, bucket = -1, at = 0, higher = 0; j < shares.length; j++) {
    if (buckets[j] === -1) continue;
    const { values, start, end } = sorted(buckets[j] as number);
    if (buckets[j] !== bucket) {
      bucket = buckets[j] as number;
      at = end;
      higher = above[bucket] as number;
    }
    // From the highest down, while what lies above is little enough.
    for (; at > start && higher / total <= (shares[j] as number); at--) {
      levels[j] = values[at - 1] as number;
      higher += values[at - 1] as number;
    }
    if (levels[j] === Number.POSITIVE_INFINITY) levels[j] = levels[j - 1] as number;
  }
  return levels;
}

/** Of each bucket, how many pixels of positive probability it has, and Σ p of those in higher ones. */
function massByBucket(p: FloatArray): { above: Float64Array; counts: Uint32Array; total: number } {
  const above = new Float64Array(BUCKETS);
  const counts = new Uint32Array(BUCKETS);
  const bucketOf = bucketFinder();
  for (let i = 0; i < p.length; i++) {
    const value = p[i] as number;
    if (!(value > 0)) continue;
    const bucket = bucketOf(value);
    above[bucket] = (above[bucket] as number) + value;
    counts[bucket] = (counts[bucket] as number) + 1;
  }
  let total = 0;
  for (let bucket = BUCKETS - 1; bucket >= 0; bucket--) {
    const own = above[bucket] as number;
    above[bucket] = total;
    total += own;
  }
  return { above, counts, total };
}

/** The pixels of some buckets, each bucket's in ascending order. */
function sortedBuckets(p: FloatArray, counts: Uint32Array, wanted: Int32Array) {
  const starts = new Float64Array(BUCKETS).fill(-1);
  const ends = new Float64Array(BUCKETS);
  let size = 0;
  for (const bucket of new Set(wanted)) {
    if (bucket === -1) continue;
    starts[bucket] = ends[bucket] = size;
    size += counts[bucket] as number;
  }
  const values = p instanceof Float32Array ? new Float32Array(size) : new Float64Array(size);
  const bucketOf = bucketFinder();
  for (let i = 0; size > 0 && i < p.length; i++) {
    const value = p[i] as number;
    if (!(value > 0)) continue;
    const bucket = bucketOf(value);
    if ((starts[bucket] as number) < 0) continue;
    const end = ends[bucket] as number;
    values[end] = value;
    ends[bucket] = end + 1;
  }
  for (const bucket of new Set(wanted)) if (bucket !== -1) values.subarray(starts[bucket], ends[bucket]).sort();
  return (bucket: number) => ({ values, start: starts[bucket] as number, end: ends[bucket] as number });
}

/** Gives a positive value's bucket. Rounding to single precision keeps the order: a bucket's are above those of lower ones. */
export function bucketFinder(): (value: number) => number {
  const single = new Float32Array(1);
  const bits = new Uint32Array(single.buffer);
  return (value) => {
    single[0] = value;
    return Math.min((bits[0] as number) >>> 16, BUCKETS - 1);
  };
}
