// How far two masks are apart, per foreground class of one image, in two or three dimensions.
import { stridesOf } from "../arrays.js";
import { squaredDistances } from "./distance-transform.js";
import { cut, type Masks, type Region } from "./regions.js";

/** The nearest distances between two masks, both directions. */
export interface Distances {
  /** Between boundaries, pooled, ascending. */
  pooled: Float64Array;
  /** Mean of each direction. */
  boundaryMeans: [number, number];
  /** Mean of each direction between whole masks. */
  maskMeans: [number, number];
}

/** Between the masks of a class; null where one of them is empty. */
export function distancesOf(masks: Masks, c: number, region: Region): Distances | null {
  return region.predicted > 0 && region.real > 0 ? distances(masks, c, region) : null;
}

/**
 * Distances between the two masks of a class that both have. All happens in the box around both, with a margin of one pixel
 * so that every pixel of a mask has neighbours. One transform per mask is enough, that of its boundary: the pixel of a mask
 * that is nearest to a pixel outside is on its boundary, as from any other one a step towards that pixel stays in the mask.
 */
function distances(masks: Masks, c: number, region: Region): Distances {
  const { shape, a, b } = cut(masks, c, region);
  const edgeA = boundary(a, shape);
  const edgeB = boundary(b, shape);
  const toA = squaredDistances(edgeA.flags, shape, masks.spacing);
  const toB = squaredDistances(edgeB.flags, shape, masks.spacing);
  const pooled = new Float64Array(edgeA.at.length + edgeB.at.length);
  const sumA = roots(toB, edgeA.at, pooled, 0);
  const sumB = roots(toA, edgeB.at, pooled, edgeA.at.length);
  pooled.sort();
  let outsideB = 0;
  let outsideA = 0;
  for (let i = 0; i < a.length; i++) {
    if (a[i] === b[i]) continue;
    if (a[i] === 1) outsideB += Math.sqrt(toB[i] as number);
    else outsideA += Math.sqrt(toA[i] as number);
  }
  return {
    pooled,
    boundaryMeans: [sumA / edgeA.at.length, sumB / edgeB.at.length],
    maskMeans: [outsideB / region.predicted, outsideA / region.real],
  };
}

/** The pixels of a mask with a face neighbour outside it. The mask does not touch the border of its box. */
function boundary(mask: Uint8Array, shape: readonly number[]): { flags: Uint8Array; at: Int32Array } {
  const flags = new Uint8Array(mask.length);
  const at = new Int32Array(mask.length);
  const strides = stridesOf(shape);
  let n = 0;
  for (let i = 0; i < mask.length; i++) {
    if (mask[i] === 0) continue;
    let inside = 1;
    for (let axis = 0; axis < strides.length; axis++) {
      const stride = strides[axis] as number;
      inside &= (mask[i - stride] as number) & (mask[i + stride] as number);
    }
    if (inside === 1) continue;
    flags[i] = 1;
    at[n++] = i;
  }
  return { flags, at: at.subarray(0, n) };
}

/** Writes the roots of some squares to `out`, from `start` on, and returns their sum. */
function roots(squares: Float64Array, at: Int32Array, out: Float64Array, start: number): number {
  let sum = 0;
  for (let i = 0; i < at.length; i++) {
    const root = Math.sqrt(squares[at[i] as number] as number);
    out[start + i] = root;
    sum += root;
  }
  return sum;
}
