// Predictions of images that are larger than a pass of the network (SPEC §19): what is asked for.
import type { NdArray } from "../arrays.js";
import { option, type Values } from "../options.js";

/** Spatial axes, slowest first; an image has the last two. */
export const AXES = ["depth", "height", "width"] as const;

const size = option.array(option.integer({ min: 1 }), { min: 2 });

/** By which tiles an image goes through the network. */
export const TILED = {
  /**
   * Size of the tiles by which an image is predicted: one number per spatial axis; `"auto"` for the size that the network was
   * made for (`inputSize`); or `"none"` for one pass of the whole image. Zeros surround an image that is smaller than a tile.
   * @default the run's own, of a training on patches; else "none"
   */
  tile: option.anyOf(option.oneOf(["auto", "none"]), size),
  /** By which part of a tile neighbours overlap, at least. @default 0.5 */
  overlap: option.number({ min: 0, below: 1, default: 0.5, text: "part of a tile that its neighbour covers too" }),
  /**
   * How much a tile's pixels count where tiles overlap: `"gaussian"` the more the nearer they are to its middle (σ an eighth of
   * its size, never below 1e-3), `"constant"` all the same.
   * @default "gaussian"
   */
  tileWeights: option.oneOf(["gaussian", "constant"], {
    default: "gaussian",
    text: "how pixels of overlapping tiles count: gaussian: most in a tile's middle; constant: all the same",
    arg: "how",
  }),
  /**
   * Axes along which tiles are mirrored: every tile is predicted mirrored along each set of them too, and the logits are
   * averaged. n axes make 2ⁿ passes.
   * @default none
   */
  mirror: option.array(option.oneOf(AXES), {
    otherwise: "none",
    text: "axes along which images are predicted mirrored too",
    arg: "list",
  }),
};

export const TILES = {
  ...TILED,
  /**
   * Spatial size of what is brought out, over the same extent: the logits are interpolated straight to it.
   * @default the image's own
   */
  outputSize: size,
  /**
   * Per spatial axis whether a pixel of the output takes what is between the image's pixels (`"linear"`), or what is at the nearest
   * of them, as of slices that lie far apart.
   * @default "linear" for all
   */
  outputOrder: option.array(option.oneOf(["linear", "nearest"]), { min: 2 }),
  /** Called after each batch of tiles, and after each slab of the result. */
  onProgress: option.callback<(event: TileEvent) => void>(),
};

/** How an image is predicted by tiles. */
export interface TileOptions extends Values<typeof TILES> {}

/** How far a prediction by tiles is. */
export interface TileEvent {
  /** Tiles through the network, or rows (a volume's planes) of the result that are out. The two go on in turn. */
  stage: "tiles" | "restore";
  /** How many. */
  done: number;
  /** How many there are. */
  of: number;
  /** Which of the images. */
  image: number;
}

/** How a prediction was made where it is not of one pass of the whole image. */
export interface TilesTaken {
  /** Of a tile: height and width, or depth, height and width. */
  size: readonly number[];
  /** By which part of a tile neighbours overlap, at least. */
  overlap: number;
  /** How much a tile's pixels count. */
  weights: "gaussian" | "constant";
  /** Axes along which tiles were mirrored. */
  mirror: readonly (typeof AXES)[number][];
}

/**
 * An image that is read piece by piece, for predictions by tiles of what is too large to be held. `rows` must not use the
 * model: its prediction waits for them.
 */
export interface ImageRows {
  /** C×H×W, or of a volume C×D×H×W. */
  readonly shape: readonly number[];
  /**
   * Its rows (a volume's planes) from `begin` on, before `end`: C×(end - begin)×W, or C×(end - begin)×H×W; finite numbers,
   * preprocessed as in training. Each row is asked for once, in order.
   */
  rows(begin: number, end: number): NdArray | Promise<NdArray>;
}
