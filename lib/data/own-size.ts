import { LayerEnsemblesError } from "../errors.js";
import type { Preprocessing } from "./preprocess.js";

/**
 * A run's preprocessing for images that are predicted at their own size, by tiles.
 * @throws ERR_LE_OPTION where the training's images were scaled to a size: at their own they would show things of another size
 */
export function atOwnSize(preprocessing: Preprocessing): Preprocessing {
  const { size, resize } = preprocessing;
  if (size?.length === 2 && resize !== "none-with-pad")
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected a run whose images kept their scale (train --resize none-with-pad, or images of one size) for option 'tile' but received one whose images were scaled to ${size.join("×")} (${resize}): by tiles the network would see things of another size than in training.`,
    );
  return { ...preprocessing, size: null };
}
