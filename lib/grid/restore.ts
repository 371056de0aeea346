import type { NumericArray } from "../arrays.js";
import { fail } from "../checks.js";
import { checkOptions, describe, option } from "../options.js";
import type { Grid } from "./grid.js";
import { turn, turnBack } from "./orientation.js";
import { type Checked, checkGrid, checkPlaced, type Moved, type Placed, type Step, type Triple } from "./placed.js";
import { resamplingLabels, stretch } from "./resample.js";
import { byDefinition, type Moving } from "./stretching.js";
import { type Fill, view } from "./window.js";

/** For {@link restore}. */
export interface RestoreOptions {
  /** How values between voxels are found; default `"nearest"` for integers (labels) and `"linear"` for floats (probabilities). */
  readonly order?: "nearest" | "linear";
  /**
   * What lies outside of what was cropped: a number, 0 by default, or one for each channel, such as 1 for the background's
   * probability and 0 for the others'.
   */
  readonly fill?: Fill;
}

const OPTIONS = {
  order: option.oneOf(["nearest", "linear"]),
  fill: option.anyOf(option.number(), option.array(option.number())),
};

type Undo<S> = (volume: Checked<NumericArray>, step: S, options: Required<RestoreOptions>) => Moved | Moving<Moved>;

const UNDO: { [Op in Step["op"]]: Undo<Step & { op: Op }> } = {
  reorient: (volume, { axes, flips }) => turnBack(volume, axes, flips),
  window: (volume, { start, from }, { fill }) => view(volume, start.map((at) => 0 - at) as never, from.shape, fill),
  resample: (volume, { from }, { order }) => stretch(volume, from.shape, order),
};

/**
 * A volume in the grid that it, or the volume that it was made of, was read in: its steps undone, last one first.
 * @param volume With the `steps` of the volume that a mask or probabilities were predicted of.
 * @param original The grid that the first step began from, which the result has as it is: the same object.
 * @throws LayerEnsemblesError `ERR_LE_VALUE` where the steps begin from another grid; `ERR_LE_OPTION`, `ERR_LE_SHAPE`
 */
export function restore(volume: Placed, original: Grid, options: RestoreOptions = {}): Placed {
  return byDefinition(restoring(volume, original, options));
}

/** {@link restore}. */
export function* restoring(volume: Placed, original: Grid, options: RestoreOptions = {}): Moving<Placed> {
  const own = checkPlaced("the volume", volume);
  const { order, fill = 0 } = checkOptions("restore", options, OPTIONS);
  checkGrid("the original grid", original);
  const first = own.steps[0]?.from ?? own.grid;
  if (JSON.stringify([first.shape, first.affine]) !== JSON.stringify([original.shape, original.affine])) {
    fail(
      "ERR_LE_VALUE",
      "the original grid",
      `the grid that the steps begin from, ${JSON.stringify(first)},`,
      JSON.stringify(original),
    );
  }
  const float = own.data instanceof Float32Array || own.data instanceof Float64Array;
  const how = { order: order ?? (float ? "linear" : "nearest"), fill } as Required<RestoreOptions>;
  let at: Checked<NumericArray> = own;
  for (const step of own.steps.toReversed()) {
    checkGrid("the grid of a step", step.from);
    const undo = UNDO[step.op] as Undo<Step> | undefined;
    if (!undo) return fail("ERR_LE_VALUE", "a step", `one of ${Object.keys(UNDO).join(", ")}`, describe(step.op));
    const { data, shape } = yield* done(undo(at, step, how));
    at = checkPlaced("a step's result", { data, shape, grid: step.from });
  }
  return { data: at.data, shape: at.shape, grid: original };
}

/** What comes of a step that asks for nothing, or for interpolation. */
function* done(moved: Moved | Moving<Moved>): Moving<Moved> {
  return "next" in moved ? yield* moved : moved;
}

/**
 * A label map moved as its image was: the same axes, the same window (0 outside), and labels by their shares on the new
 * voxels, as {@link resampleLabels}.
 * @param labels In the grid that the image's first step began from.
 * @param image What was made of the image: its grid, and the steps that led there.
 * @throws LayerEnsemblesError `ERR_LE_SHAPE`, `ERR_LE_VALUE`
 */
export function followLabels<T extends NumericArray>(
  labels: Placed<T>,
  image: { readonly grid: Grid; readonly steps: readonly Step[] },
): Moved<T> {
  return byDefinition(following(labels, image));
}

/** Where an image came to lie, and by which steps. */
interface Route {
  readonly grid: Grid;
  readonly steps: readonly Step[];
}

/** {@link followLabels}. */
export function* following<T extends NumericArray>(labels: Placed<T>, image: Route): Moving<Moved<T>> {
  const { steps } = image;
  let at: Checked<T> = checkPlaced("the labels", labels);
  for (const [i, step] of steps.entries()) {
    const { shape } = (steps[i + 1]?.from ?? image.grid) as Grid;
    const moved = yield* done(DO[step.op](at as Checked<NumericArray>, step as never, shape));
    at = checkPlaced("the labels", moved) as Checked<T>;
  }
  return at;
}

type Do<S> = (labels: Checked<NumericArray>, step: S, to: Triple) => Moved | Moving<Moved>;

const DO: { [Op in Step["op"]]: Do<Step & { op: Op }> } = {
  reorient: (labels, { axes, flips }) => turn(labels, axes, flips),
  window: (labels, { start }, to) => view(labels, start, to, 0),
  resample: (labels, _, to) => resamplingLabels(labels, { shape: to }),
};
