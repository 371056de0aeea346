/**
 * Which input positions each output position along one axis takes, and with what weights: output i takes those from
 * `first[i]` on, one for each weight from `start[i]` up to `start[i + 1]`. In flat arrays, as an axis may be millions long.
 */
interface Taps {
  first: Int32Array;
  start: Int32Array;
  weights: Float64Array;
}

/** @param range The input positions [first, last) that an output position takes. */
function tapsOf(
  to: number,
  range: (i: number) => [first: number, last: number],
  weigh: (i: number, first: number, weights: Float64Array) => void,
): Taps {
  const first = new Int32Array(to);
  const start = new Int32Array(to + 1);
  for (let i = 0; i < to; i++) {
    const [from, last] = range(i);
    first[i] = from;
    start[i + 1] = start[i]! + last - from;
  }
  const weights = new Float64Array(start[to]!);
  for (let i = 0; i < to; i++) weigh(i, first[i]!, weights.subarray(start[i], start[i + 1]));
  return { first, start, weights };
}

/**
 * Weights of bilinear resampling along one axis, with pixel centres at half integers (`align_corners=false`). When
 * shrinking, the triangle is widened by the scale, so that every input pixel counts (`antialias=True` of PyTorch).
 */
function triangleTaps(from: number, to: number): Taps {
  const scale = from / to;
  const support = Math.max(1, scale);
  const centreOf = (i: number) => (i + 0.5) * scale;
  return tapsOf(
    to,
    (i) => {
      const centre = centreOf(i);
      return [Math.max(0, Math.floor(centre - support + 0.5)), Math.min(from, Math.floor(centre + support + 0.5))];
    },
    (i, first, weights) => {
      const centre = centreOf(i);
      let sum = 0;
      for (let j = 0; j < weights.length; j++) {
        weights[j] = Math.max(0, 1 - Math.abs((first + j + 0.5 - centre) / support));
        sum += weights[j]!;
      }
      for (let j = 0; j < weights.length; j++) weights[j]! /= sum;
    },
  );
}

/** How much of each input pixel lies under each output pixel, along one axis. */
function areaTaps(from: number, to: number): Taps {
  const scale = from / to;
  return tapsOf(
    to,
    (i) => [Math.floor(i * scale), Math.min(from, Math.ceil((i + 1) * scale))],
    (i, first, weights) => {
      const [start, end] = [i * scale, (i + 1) * scale];
      for (let j = 0; j < weights.length; j++)
        weights[j] = Math.max(0, Math.min(end, first + j + 1) - Math.max(start, first + j)) / scale;
    },
  );
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
        const end = columns.start[x + 1]!;
        let at = source + columns.first[x]!;
        let sum = 0;
        for (let j = columns.start[x]!; j < end; j++) sum += columns.weights[j]! * data[at++]!;
        narrow[y * newWidth + x] = sum;
      }
    }
    for (let y = 0; y < newHeight; y++) {
      const [first, start] = [rows.first[y]!, rows.start[y]!];
      line.fill(0);
      for (let j = start; j < rows.start[y + 1]!; j++) {
        const source = (first + j - start) * newWidth;
        const weight = rows.weights[j]!;
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
    const [rowStart, rowEnd] = [rows.start[y]!, rows.start[y + 1]!];
    for (let x = 0; x < newWidth; x++) {
      const [columnStart, columnEnd] = [columns.start[x]!, columns.start[x + 1]!];
      const corner = rows.first[y]! * width + columns.first[x]!;
      let best = data[corner]!;
      for (let i = rowStart, source = corner; i < rowEnd; i++, source += width)
        for (let j = columnStart, at = source; j < columnEnd; j++)
          cover[data[at++]!]! += rows.weights[i]! * columns.weights[j]!;
      // Areas that are equal on paper may differ in the last bits.
      for (let i = rowStart, source = corner; i < rowEnd; i++, source += width)
        for (let j = columnStart, at = source; j < columnEnd; j++) {
          const label = data[at++]!;
          const lead = cover[label]! - cover[best]!;
          if (lead > 1e-9 || (lead > -1e-9 && label < best)) best = label;
        }
      for (let i = rowStart, source = corner; i < rowEnd; i++, source += width)
        for (let j = columnStart, at = source; j < columnEnd; j++) cover[data[at++]!] = 0;
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
