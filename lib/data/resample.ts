/** One output position: which input positions it takes, and with what weights (summing to 1). */
interface Tap {
  first: number;
  weights: Float64Array;
}

/**
 * Weights of bilinear resampling along one axis, with pixel centres at half integers (`align_corners=false`). When
 * shrinking, the triangle is widened by the scale, so that every input pixel counts (`antialias=True` of PyTorch).
 */
function triangleTaps(from: number, to: number): Tap[] {
  const scale = from / to;
  const support = Math.max(1, scale);
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support + 0.5));
    const last = Math.min(from, Math.floor(centre + support + 0.5));
    const weights = new Float64Array(last - first);
    let sum = 0;
    for (let j = 0; j < weights.length; j++) {
      weights[j] = Math.max(0, 1 - Math.abs((first + j + 0.5 - centre) / support));
      sum += weights[j]!;
    }
    for (let j = 0; j < weights.length; j++) weights[j]! /= sum;
    return { first, weights };
  });
}

/** How much of each input pixel lies under each output pixel, along one axis. */
function areaTaps(from: number, to: number): Tap[] {
  const scale = from / to;
  return Array.from({ length: to }, (_, i) => {
    const [start, end] = [i * scale, (i + 1) * scale];
    const first = Math.floor(start);
    const last = Math.min(from, Math.ceil(end));
    const weights = new Float64Array(last - first);
    for (let j = 0; j < weights.length; j++) {
      weights[j] = Math.max(0, Math.min(end, first + j + 1) - Math.max(start, first + j)) / scale;
    }
    return { first, weights };
  });
}

/**
 * Bilinear resampling of planes, without aliasing when shrinking.
 * @param data planes × from[0] × from[1] values
 * @returns planes × to[0] × to[1] values
 */
export function resizeBilinear(
  data: Float32Array,
  planes: number,
  from: readonly [height: number, width: number],
  to: readonly [height: number, width: number],
): Float32Array {
  const [height, width] = from;
  const [newHeight, newWidth] = to;
  if (height === newHeight && width === newWidth) return data.slice();
  const columns = triangleTaps(width, newWidth);
  const rows = triangleTaps(height, newHeight);
  const narrow = new Float64Array(height * newWidth);
  const line = new Float64Array(newWidth);
  const out = new Float32Array(planes * newHeight * newWidth);
  for (let plane = 0; plane < planes; plane++) {
    for (let y = 0; y < height; y++) {
      const source = (plane * height + y) * width;
      for (let x = 0; x < newWidth; x++) {
        const { first, weights } = columns[x]!;
        let sum = 0;
        for (let j = 0; j < weights.length; j++) sum += weights[j]! * data[source + first + j]!;
        narrow[y * newWidth + x] = sum;
      }
    }
    for (let y = 0; y < newHeight; y++) {
      const { first, weights } = rows[y]!;
      line.fill(0);
      for (let j = 0; j < weights.length; j++) {
        const source = (first + j) * newWidth;
        const weight = weights[j]!;
        for (let x = 0; x < newWidth; x++) line[x]! += weight * narrow[source + x]!;
      }
      out.set(line, (plane * newHeight + y) * newWidth);
    }
  }
  return out;
}

/**
 * Resampling of labels by area: each output pixel takes the label that covers most of it, the lower one where two cover
 * the same. Enlarging by whole factors repeats pixels. No label appears that was not there.
 * @param data from[0] × from[1] labels
 * @returns to[0] × to[1] labels
 */
export function resizeLabels(
  data: Uint8Array,
  from: readonly [height: number, width: number],
  to: readonly [height: number, width: number],
): Uint8Array {
  const [height, width] = from;
  const [newHeight, newWidth] = to;
  if (height === newHeight && width === newWidth) return data.slice();
  const rows = areaTaps(height, newHeight);
  const columns = areaTaps(width, newWidth);
  const cover = new Float64Array(256);
  const out = new Uint8Array(newHeight * newWidth);
  for (let y = 0; y < newHeight; y++) {
    const row = rows[y]!;
    for (let x = 0; x < newWidth; x++) {
      const column = columns[x]!;
      let best = data[row.first * width + column.first]!;
      for (let i = 0; i < row.weights.length; i++) {
        const source = (row.first + i) * width + column.first;
        for (let j = 0; j < column.weights.length; j++)
          cover[data[source + j]!]! += row.weights[i]! * column.weights[j]!;
      }
      // Areas that are equal on paper may differ in the last bits.
      for (let i = 0; i < row.weights.length; i++) {
        const source = (row.first + i) * width + column.first;
        for (let j = 0; j < column.weights.length; j++) {
          const label = data[source + j]!;
          const lead = cover[label]! - cover[best]!;
          if (lead > 1e-9 || (lead > -1e-9 && label < best)) best = label;
        }
      }
      for (let i = 0; i < row.weights.length; i++) {
        const source = (row.first + i) * width + column.first;
        for (let j = 0; j < column.weights.length; j++) cover[data[source + j]!] = 0;
      }
      out[y * newWidth + x] = best;
    }
  }
  return out;
}

/**
 * Resampling of labels by the nearest pixel centre.
 * @param data planes × from[0] × from[1] labels
 * @returns planes × to[0] × to[1] labels
 */
export function resizeNearest(
  data: Uint8Array,
  planes: number,
  from: readonly [height: number, width: number],
  to: readonly [height: number, width: number],
): Uint8Array {
  const [height, width] = from;
  const [newHeight, newWidth] = to;
  const nearest = (size: number, newSize: number) =>
    Uint32Array.from({ length: newSize }, (_, i) => Math.min(size - 1, Math.floor(((i + 0.5) * size) / newSize)));
  const rows = nearest(height, newHeight);
  const columns = nearest(width, newWidth);
  const out = new Uint8Array(planes * newHeight * newWidth);
  let target = 0;
  for (let plane = 0; plane < planes; plane++) {
    for (let y = 0; y < newHeight; y++) {
      const source = (plane * height + rows[y]!) * width;
      for (let x = 0; x < newWidth; x++) out[target++] = data[source + columns[x]!]!;
    }
  }
  return out;
}
