// A run that was trained on parts of its images is read by tiles of them: what was validated, tuned and certified is that.
import { type OptionSpecs, option } from "../options.js";

/** How the images of a run are predicted where nothing else is said: by tiles. */
export interface RunTiles {
  /** Of a tile: height and width, or depth, height and width. */
  size: number[];
  /** By which part of a tile neighbours overlap, at least. */
  overlap: number;
  /** How much a tile's pixels count. */
  weights: "gaussian" | "constant";
}

/** What each field may be, in run.json. */
export const RUN_TILES: OptionSpecs = {
  size: option.required(option.array(option.integer({ min: 1, max: 65536 }), { min: 2 })),
  overlap: option.required(option.number({ min: 0, below: 1 })),
  weights: option.required(option.oneOf(["gaussian", "constant"])),
};

/** What may be chosen of tiles for a prediction. */
export interface ChosenTiles {
  /** Their size; `"auto"`: the network's input size. */
  tile?: "auto" | "none" | readonly number[] | undefined;
  /** By which part of a tile neighbours overlap. */
  overlap?: number | undefined;
  /** How much a tile's pixels count. */
  tileWeights?: "gaussian" | "constant" | undefined;
  /** Axes along which images are mirrored too. */
  mirror?: readonly string[] | undefined;
}

/**
 * Whether a prediction is made as a run's own are: those which its tuning and its certificate saw. Of others neither holds.
 * @param run what run.json says of it
 */
export function inOwnWay(
  { tiles, ensemble }: { tiles?: RunTiles | null | undefined; ensemble: { inputSize: readonly number[] } },
  { tile, overlap, tileWeights, mirror = [] }: ChosenTiles,
): boolean {
  if (mirror.length > 0) return false;
  if (!tiles) return tile === undefined || tile === "none";
  const size = tile === "auto" ? ensemble.inputSize : (tile ?? tiles.size);
  return (
    String(size) === String(tiles.size) &&
    (overlap ?? tiles.overlap) === tiles.overlap &&
    (tileWeights ?? tiles.weights) === tiles.weights
  );
}

/** What of a run does not hold for a prediction that is made in another way than its own, in words. */
export function otherWay({ tiles }: { tiles?: RunTiles | undefined }): string {
  const how = tiles
    ? `predictions by tiles of ${tiles.size.join("×")} with an overlap of ${tiles.overlap}`
    : "whole passes";
  const other = tiles ? "others" : "predictions by tiles";
  return `the predicted Dice and the distance from the training's images, which were fitted to ${how}, are left out of ${other}`;
}
