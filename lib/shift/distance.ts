// How far an image is from those of the training.
import { fail } from "../checks.js";
import type { ShiftFit } from "./fit.js";
import { coordinatesOf, meansOf, type Space } from "./space.js";
import { joined, STORED, type TapStatistics } from "./statistics.js";

/** The distance to this one of the training images by nearness is that of the measure `neighbours`. */
const NEIGHBOUR = 5;

/** What a fit knows of one layer. */
export interface TapSpace extends Space {
  /** The layer's name. */
  tap: string;
  /** What the statistics are of, side by side, and how many channels of each: the layer, and before the first one its input. */
  parts: readonly {
    /** A layer, or `(stored)`, `(texture)`, `(input)`. */
    of: string;
    /** How many numbers of each kind it has. */
    channels: number;
  }[];
  /** Of the measure `neighbours`: n×q, the training images' coordinates. */
  training?: Float32Array;
  /** The validation images' distances, ascending. */
  distances: Float64Array;
}

/** Below this a spread is that of one image. */
const LEAST_SPREAD = 1e-6;

/** How far an image is from those of the training at one layer. */
export interface LayerDistance {
  /** By the fit's measure, from 0 up; infinite for features that are not finite. */
  distance: number;
  /** Share of the validation images that are nearer, in [0, 1]. */
  rank: number;
}

/** How far an image is from those of the training. */
export interface TapDistance {
  /** Mean rank over the layers that the fit chose, in [0, 1]. */
  value: number;
  /** The largest of these ranks. */
  max: number;
  /**
   * How far ln(1 + distance) is above its mean over the validation images, in their standard deviations, at the layer of those
   * chosen where that is most: it still tells images apart that are farther than all of validation.
   */
  excess: number;
  /** Each layer, in depth order, chosen or not. */
  taps: Record<string, LayerDistance>;
}

/** The distance of an image's statistics, of D numbers, at one layer. */
export function distanceIn(space: TapSpace, vector: Float32Array): number {
  const own = coordinatesOf(space, vector);
  const distance = space.training ? neighbourDistance(space.training, own) : Math.hypot(...own);
  return Number.isFinite(distance) ? distance : Number.POSITIVE_INFINITY;
}

/** Of the fifth nearest of the training images, or the farthest of fewer. */
function neighbourDistance(training: Float32Array, own: Float64Array): number {
  const size = own.length;
  const squares = new Float64Array(training.length / size);
  for (let i = 0; i < squares.length; i++)
    for (let j = 0; j < size; j++)
      squares[i] = (squares[i] as number) + ((training[i * size + j] as number) - (own[j] as number)) ** 2;
  squares.sort();
  return Math.sqrt(squares[Math.min(NEIGHBOUR, squares.length) - 1] as number);
}

/** An image's statistics as a space has them. Where nothing says what its stored values were, they are taken for the training's mean. */
function vectorIn(space: TapSpace, image: TapStatistics): Float32Array {
  const channels = space.floor.length;
  let from = 0;
  return joined(
    space.parts.map((part) => {
      const start = from;
      from += part.channels;
      const vector = image[part.of];
      if (vector === undefined && part.of === STORED) {
        const means = meansOf(space);
        const half = (at: number) => means.subarray(at + start, at + from);
        return Float32Array.of(...half(0), ...half(channels));
      }
      if (vector?.length !== 2 * part.channels)
        fail(
          "ERR_LE_SHAPE",
          `the statistics of ${part.of}`,
          `the ${2 * part.channels} numbers that the shift fit has`,
          vector ? `${vector.length}` : "none",
        );
      return vector as Float32Array;
    }),
  );
}

/**
 * How far an image is from those that a fit was made of.
 * @throws ERR_LE_SHAPE for an image without one of the fit's layers, or with another number of its features
 */
export function tapDistance(fit: ShiftFit, image: TapStatistics): TapDistance {
  const { taps, chosen } = fit;
  const layers = Object.fromEntries(
    taps.map((space) => {
      const distance = distanceIn(space, vectorIn(space, image));
      return [space.tap, { distance, rank: below(space.distances, distance) / space.distances.length }] as const;
    }),
  );
  const ranks = chosen.map((tap) => (layers[tap] as LayerDistance).rank);
  return {
    value: ranks.reduce((sum, rank) => sum + rank, 0) / ranks.length,
    max: Math.max(...ranks),
    excess: Math.max(
      ...taps
        .filter(({ tap }) => chosen.includes(tap))
        .map(({ tap, distances }) => excessOf(distances, (layers[tap] as LayerDistance).distance)),
    ),
    taps: layers,
  };
}

function excessOf(distances: Float64Array, distance: number): number {
  const logs = distances.map(Math.log1p);
  const mean = logs.reduce((sum, value) => sum + value, 0) / logs.length;
  const squares = logs.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return (Math.log1p(distance) - mean) / Math.max(LEAST_SPREAD, Math.sqrt(squares / (logs.length - 1)));
}

/** How many of ascending numbers are below a value. */
function below(ascending: Float64Array, value: number): number {
  let [low, high] = [0, ascending.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((ascending[middle] as number) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
