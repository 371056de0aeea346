import type { Model } from "../ensemble/model.js";
import { TILES } from "../ensemble/tile-options.js";
import { type OptionSpec, option, type Values } from "../options.js";
import type { Run } from "../runs/run.js";
import { inOwnWay, otherWay } from "../runs/tiles.js";
import { givenOf, type Parser, size } from "./arguments.js";
import type { Session } from "./command.js";

const { default: overlap, ...ofOverlap } = TILES.overlap;
const { default: weights, ...ofWeights } = TILES.tileWeights;

/** What a command is told of tiles. */
export const TILING = {
  tile: option.with(TILES.tile, {
    text: "predict images at their own size by tiles of HEIGHTxWIDTH (volumes: DEPTHxHEIGHTxWIDTH); auto: of the network's input size; none: each at the network's input size",
    ...{ otherwise: "the run's own, of a training by patches; else none", arg: "size" },
  }),
  overlap: { ...ofOverlap, otherwise: String(overlap) } as OptionSpec<number>,
  tileWeights: { ...ofWeights, otherwise: weights } as OptionSpec<typeof weights | "constant">,
  mirror: TILES.mirror,
};

const tile: Parser<"auto" | "none" | readonly number[]> = (text) =>
  text === "auto" || text === "none" ? text : size(text);

/** Reads what no specification can read. */
export const TILE_PARSERS = { tile };

/** The same as options of a prediction. */
export function tilesOf(flags: Values<typeof TILING>): Values<typeof TILING> {
  return givenOf(flags, TILING);
}

/** Whether images are predicted at their own size. */
export function atOwnSize({ tile }: Values<typeof TILING>): boolean {
  return tile !== undefined && tile !== "none";
}

/** Says what of a run is left out of predictions that are not made as its own are, where it has that. */
export function noteTiles(session: Session, model: Model, run: Run, tiles: Values<typeof TILING>): void {
  if (!inOwnWay(run, tiles) && (model.predictedDice.fit || model.shift.fit)) session.note(`note: ${otherWay(run)}`);
}
