// The space in which the distance between images is measured at one layer, and what of it an image's statistics come to.
import { symmetricEigen } from "./symmetric-eigen.js";

/** Most dimensions of a space, unless told. */
export const DIMENSIONS = 64;
/** Training images for each dimension, at least. */
export const IMAGES_PER_DIMENSION = 4;
/** Below this share of the largest variance a direction is rounding alone. */
const RANK = 1e-12;
/** Share of a channel's mean deviation over the training images that is its floor, and least share of the layer's largest. */
const [FLOOR, LEAST_FLOOR] = [0.01, 1e-6];
/** Below this share of its mean a number's deviation is: single precision has no more digits. */
const CONSTANT = 1e-7;

/**
 * Of statistics [μ, σ], C means and C standard deviations, their forms w = [μ / (σ + floor), ln(σ + floor)]: an image's
 * contrast multiplies all of μ and σ, and so only adds to C of these numbers. Coordinates y = A (w - mean) in which the training images have the mean 0 and, but for shrinkage, the covariance 1: the
 * length of y is the Mahalanobis distance.
 */
export interface Space {
  /** C: added to each channel's deviation, so that one that is still has a logarithm. */
  floor: Float32Array;
  /** D = 2C: the training images' mean. */
  mean: Float32Array;
  /** q×D in row order: standardisation, principal axes and the factor of Σ⁻¹ in one. */
  whitening: Float32Array;
}

/**
 * Standardises the forms (a constant number counts for nothing), takes the first principal components, min(q, D, n/4) of them, and
 * whitens by the covariance that Ledoit & Wolf 2004 shrink.
 * @param vectors n of D numbers each, finite; n at least 4
 */
export function fitSpace(vectors: readonly Float32Array[], dimensions = DIMENSIONS): Space {
  const n = vectors.length;
  const size = vectors[0]?.length ?? 0;
  const floor = floorOf(vectors, size / 2);
  const { mean, scale, rows } = standardise(
    vectors.map((vector) => formsOf(vector, floor)),
    size,
  );
  const { values, axes } = principalAxes(rows, n, size);
  const real = values.findIndex((value) => !(value > RANK * (values[0] as number)));
  const rank = real < 0 ? values.length : real;
  const count = Math.min(dimensions, size, Math.floor(n / IMAGES_PER_DIMENSION), rank);
  const variances = shrink(rows, values.subarray(0, count), axes, size, n);
  const whitening = new Float32Array(count * size);
  for (let j = 0; j < count; j++) {
    const factor = 1 / Math.sqrt(variances[j] as number);
    for (let d = 0; d < size; d++)
      whitening[j * size + d] = (factor * (axes[j * size + d] as number)) / (scale[d] as number);
  }
  return { floor, mean: Float32Array.from(mean), whitening };
}

/** An image's coordinates in a space. */
export function coordinatesOf({ floor, mean, whitening }: Space, vector: Float32Array): Float64Array {
  const size = mean.length;
  const from = formsOf(vector, floor);
  for (let d = 0; d < size; d++) from[d] = (from[d] as number) - (mean[d] as number);
  const coordinates = new Float64Array(whitening.length / size);
  // It is most of what a distance costs. Four rows at a time, whose sums do not wait for each other; the last one again where fewer are left.
  const last = coordinates.length - 1;
  for (let j = 0; j <= last; j += 4) {
    const [j1, j2, j3] = [Math.min(j + 1, last), Math.min(j + 2, last), Math.min(j + 3, last)];
    const [row, row1, row2, row3] = [j * size, j1 * size, j2 * size, j3 * size];
    let sum = 0;
    let sum1 = 0;
    let sum2 = 0;
    let sum3 = 0;
    for (let d = 0; d < size; d++) {
      const value = from[d] as number;
      sum += (whitening[row + d] as number) * value;
      sum1 += (whitening[row1 + d] as number) * value;
      sum2 += (whitening[row2 + d] as number) * value;
      sum3 += (whitening[row3 + d] as number) * value;
    }
    coordinates[j] = sum;
    coordinates[j1] = sum1;
    coordinates[j2] = sum2;
    coordinates[j3] = sum3;
  }
  return coordinates;
}

/** Statistics [μ, σ] whose forms are the training's mean. */
export function meansOf({ floor, mean }: Space): Float32Array {
  const channels = floor.length;
  const statistics = new Float32Array(2 * channels);
  for (let c = 0; c < channels; c++) {
    const deviation = Math.exp(mean[channels + c] as number);
    statistics[c] = (mean[c] as number) * deviation;
    statistics[channels + c] = deviation - (floor[c] as number);
  }
  return statistics;
}

function floorOf(vectors: readonly Float32Array[], channels: number): Float32Array {
  const floor = new Float32Array(channels);
  for (let c = 0; c < channels; c++) {
    let sum = 0;
    for (const vector of vectors) sum += vector[channels + c] as number;
    floor[c] = (FLOOR * sum) / vectors.length;
  }
  const least = LEAST_FLOOR * Math.max(...floor, Number.MIN_VALUE);
  // Of a layer that is still as a whole, any will do: its forms are constant.
  return floor.map((value) => Math.max(value, least, 1e-30));
}

/** [μ / (σ + floor), ln(σ + floor)]. */
function formsOf(vector: Float32Array, floor: Float32Array): Float64Array {
  const channels = floor.length;
  const forms = new Float64Array(2 * channels);
  for (let c = 0; c < channels; c++) {
    const deviation = (vector[channels + c] as number) + (floor[c] as number);
    forms[c] = (vector[c] as number) / deviation;
    forms[channels + c] = Math.log(deviation);
  }
  return forms;
}

function standardise(vectors: readonly Float64Array[], size: number) {
  const n = vectors.length;
  const mean = new Float64Array(size);
  const scale = new Float64Array(size);
  for (const vector of vectors)
    for (let d = 0; d < size; d++) mean[d] = (mean[d] as number) + (vector[d] as number) / n;
  for (const vector of vectors)
    for (let d = 0; d < size; d++)
      scale[d] = (scale[d] as number) + ((vector[d] as number) - (mean[d] as number)) ** 2 / n;
  for (let d = 0; d < size; d++) {
    const deviation = Math.sqrt(scale[d] as number);
    // Of a constant number nothing is left.
    scale[d] = deviation > CONSTANT * Math.abs(mean[d] as number) ? deviation : Number.POSITIVE_INFINITY;
  }
  const rows = new Float64Array(n * size);
  for (const [i, vector] of vectors.entries())
    for (let d = 0; d < size; d++)
      rows[i * size + d] = ((vector[d] as number) - (mean[d] as number)) / (scale[d] as number);
  return { mean, scale, rows };
}

/** Variances, in descending order, and unit axes of n centred rows: by way of whichever matrix of products is smaller. */
function principalAxes(rows: Float64Array, n: number, size: number): { values: Float64Array; axes: Float64Array } {
  if (size <= n) {
    const { values, vectors } = symmetricEigen(products(transposed(rows, n, size), size, n, n), size);
    return { values, axes: vectors };
  }
  const { values, vectors } = symmetricEigen(products(rows, n, size, n), n);
  const axes = new Float64Array(n * size);
  for (let j = 0; j < n; j++) {
    const axis = axes.subarray(j * size, (j + 1) * size);
    for (let i = 0; i < n; i++) addTimes(axis, vectors[j * n + i] as number, rows, i * size);
    const length = Math.sqrt(axis.reduce((sum, x) => sum + x * x, 0)) || 1;
    for (let d = 0; d < size; d++) axis[d] = (axis[d] as number) / length;
  }
  return { values, axes };
}

/** Rows times rows, divided by n. */
function products(rows: Float64Array, count: number, length: number, n: number): Float64Array {
  const result = new Float64Array(count * count);
  for (let i = 0; i < count; i++)
    for (let j = 0; j <= i; j++) {
      let sum = 0;
      for (let k = 0; k < length; k++) sum += (rows[i * length + k] as number) * (rows[j * length + k] as number);
      result[i * count + j] = sum / n;
      result[j * count + i] = sum / n;
    }
  return result;
}

function transposed(rows: Float64Array, n: number, size: number): Float64Array {
  const result = new Float64Array(n * size);
  for (let i = 0; i < n; i++) for (let d = 0; d < size; d++) result[d * n + i] = rows[i * size + d] as number;
  return result;
}

function addTimes(to: Float64Array, factor: number, from: Float64Array, start: number): void {
  for (let d = 0; d < to.length; d++) to[d] = (to[d] as number) + factor * (from[start + d] as number);
}

/**
 * The eigenvalues of the covariance of Ledoit & Wolf 2004, ρ μ I + (1 - ρ) S with μ = tr S / q: S is diagonal here, as its
 * axes are its own.
 */
function shrink(
  rows: Float64Array,
  variances: Float64Array,
  axes: Float64Array,
  size: number,
  n: number,
): Float64Array {
  const q = variances.length;
  const mu = variances.reduce((sum, value) => sum + value, 0) / q;
  const squares = variances.reduce((sum, value) => sum + value * value, 0);
  let fourth = 0;
  for (let i = 0; i < n; i++) {
    let length = 0;
    for (let j = 0; j < q; j++) {
      let score = 0;
      for (let d = 0; d < size; d++) score += (axes[j * size + d] as number) * (rows[i * size + d] as number);
      length += score * score;
    }
    fourth += length * length;
  }
  const spread = squares - q * mu * mu;
  const error = Math.min(spread, (fourth / n - squares) / n);
  const rho = error > 0 ? error / spread : 0;
  return variances.map((value) => rho * mu + (1 - rho) * value);
}
