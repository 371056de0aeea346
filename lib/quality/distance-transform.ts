/**
 * Squared Euclidean distance of every position to the nearest source, exact: one axis after the other, along the last by
 * two scans, along the others by the lower envelope of parabolas (Felzenszwalb & Huttenlocher, 2012). Linear in the number
 * of positions.
 * @param sources S: not 0 at the sources.
 * @param shape S, one axis or more.
 * @param spacing Distance of neighbours along each axis, positive.
 * @returns S, in the square of the spacing's unit; infinite everywhere where there is no source.
 */
export function squaredDistances(
  sources: Uint8Array,
  shape: readonly number[],
  spacing: readonly number[],
): Float64Array {
  const out = new Float64Array(sources.length);
  const last = shape.length - 1;
  scanLines(sources, shape[last] as number, (spacing[last] as number) ** 2, out);
  let stride = shape[last] as number;
  for (let axis = last - 1; axis >= 0; axis--) {
    const size = shape[axis] as number;
    envelopes(out, size, stride, (spacing[axis] as number) ** 2);
    stride *= size;
  }
  return out;
}

/** Along contiguous lines. */
function scanLines(sources: Uint8Array, size: number, unit: number, out: Float64Array): void {
  for (let start = 0; start < sources.length; start += size) {
    const end = start + size;
    let d = Number.POSITIVE_INFINITY;
    for (let i = start; i < end; i++) {
      d = sources[i] !== 0 ? 0 : d + 1;
      out[i] = d;
    }
    if (d === Number.POSITIVE_INFINITY) continue;
    d = Number.POSITIVE_INFINITY;
    for (let i = end - 1; i >= start; i--) {
      const before = out[i] as number;
      d = before === 0 ? 0 : d + 1;
      const nearest = Math.min(before, d);
      out[i] = nearest * nearest * unit;
    }
  }
}

/** Along every line of `size` positions that are `stride` apart: min over j of f(j) + unit (i - j)². */
function envelopes(values: Float64Array, size: number, stride: number, unit: number): void {
  // The parabolas of the envelope: where each has its vertex, its height there, and where it begins to be the lowest.
  const vertex = new Int32Array(size);
  const height = new Float64Array(size);
  const begin = new Float64Array(size + 1);
  const block = size * stride;
  for (let outer = 0; outer < values.length; outer += block) {
    for (let line = outer; line < outer + stride; line++) {
      let top = -1;
      for (let q = 0, at = line; q < size; q++, at += stride) {
        const h = values[at] as number;
        if (h === Number.POSITIVE_INFINITY) continue;
        let from = Number.NEGATIVE_INFINITY;
        while (top >= 0) {
          const v = vertex[top] as number;
          from = ((h - (height[top] as number)) / unit + (q - v) * (q + v)) / (2 * (q - v));
          if (from > (begin[top] as number)) break;
          top--;
          from = Number.NEGATIVE_INFINITY;
        }
        top++;
        vertex[top] = q;
        height[top] = h;
        begin[top] = from;
      }
      if (top < 0) continue;
      begin[top + 1] = Number.POSITIVE_INFINITY;
      for (let q = 0, at = line, k = 0; q < size; q++, at += stride) {
        while ((begin[k + 1] as number) < q) k++;
        const d = q - (vertex[k] as number);
        values[at] = (height[k] as number) + unit * d * d;
      }
    }
  }
}
