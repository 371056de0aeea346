// What a request may choose of tiles, and what the operator lets it.
import type { PredictOptions } from "../ensemble/model.js";
import { TILES } from "../ensemble/tile-options.js";
import { passesOf } from "../ensemble/tiles.js";
import { LayerEnsemblesError } from "../errors.js";
import { type OptionSpec, option, type Values } from "../options.js";
import type { Run } from "../runs/run.js";

const SIZE = /^(auto|none|[1-9]\d{0,4}(x[1-9]\d{0,4}){1,2})$/;

/** Choices of a prediction by tiles, as text has them. */
export const TILE_CHOICES = {
  /** Size of the tiles, such as `256x256`, by which an image is predicted at its own size; `auto`: the network's input size. @default the run's own, of a training by patches; else none */
  tile: {
    ...option.pattern("auto, none, or a size such as 256x256 (of volumes 64x128x128)", SIZE, {
      text: "Size of tiles by which the image is predicted at its own size, such as 256x256; auto: of the network's input size; none: one pass at the network's input size",
      otherwise: "the run's own, of a training by patches; else none",
    }),
    kind: "string",
  } as OptionSpec<string>,
  /** By which part of a tile its neighbours overlap it, at least. @default 0.5 */
  overlap: option.number({
    ...{ min: 0, below: 1, otherwise: String(TILES.overlap.default) },
    text: "By which part of a tile its neighbours overlap it, with tile; below 1",
  }),
  /** Axes along which images are predicted mirrored too. @default none */
  mirror: option.with(TILES.mirror, { text: "Axes along which images are predicted mirrored too" }),
};

/** What was chosen of them. */
export interface TileChoices extends Values<typeof TILE_CHOICES> {}

/** Whether an image is predicted at its own size. */
export function byTiles({ tile }: TileChoices): boolean {
  return tile !== undefined && tile !== "none";
}

/** The same as options of a prediction. */
export function tilesOf({ tile, overlap, mirror }: TileChoices): Pick<PredictOptions, "tile" | "overlap" | "mirror"> {
  const size = tile === undefined || tile === "auto" || tile === "none" ? tile : tile.split("x").map(Number);
  return {
    ...(size !== undefined && { tile: size }),
    ...(overlap !== undefined && { overlap }),
    ...(mirror !== undefined && { mirror }),
  };
}

/**
 * @param run by whose own tiles it goes where none are chosen
 * @param shape of the network's input, C×s
 * @throws ERR_LE_TOO_LARGE for more passes than `maxPasses`
 */
export function checkPasses(
  choices: TileChoices,
  shape: readonly number[],
  { tiles, ensemble }: Pick<Run, "tiles" | "ensemble">,
  maxPasses: number,
): void {
  const own = tiles && { tile: tiles.size, overlap: tiles.overlap };
  const passes = passesOf({ ...own, ...tilesOf(choices) }, shape.slice(1), ensemble.inputSize);
  if (passes <= maxPasses) return;
  throw new LayerEnsemblesError(
    "ERR_LE_TOO_LARGE",
    `Expected at most ${maxPasses} passes of the network for an image but received one that takes ${passes}: choose larger tiles, less overlap or fewer mirrored axes.`,
  );
}
