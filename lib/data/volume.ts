// Volumes on their way into a network and back: turned to the same axes, cropped, resampled, and centred in its input.
import type { NdArray, NumericArray } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";
import {
  centre,
  crop,
  following,
  type Grid,
  type Moved,
  type Moving,
  nonZeroBox,
  ordersOf,
  orientationOf,
  type Placed,
  reorient,
  resampling,
  restoring,
  type Step,
  spacingOf,
  type Triple,
} from "../grid/index.js";
import { type OptionSpecs, option } from "../options.js";

/** [depth, height, width]. */
export type VolumeSize = Triple;

/** What of a volume is kept, before it is resampled. */
export const CROPS = ["none", "nonzero"] as const;

/** How volumes that have a place in the world are brought onto one kind of grid. Plain JSON. */
export interface GridPreprocessing {
  /** Where x, y and z grow: one of R or L, A or P, S or I each, such as RAS. Volumes are turned to the nearest such axes. */
  axes: string;
  /** Lengths of a voxel's edges along z, y and x of these axes in mm, to which volumes are resampled; null keeps each one's own. */
  spacing: Triple | null;
  /** `nonzero` cuts off the rim in which every channel is 0. */
  crop: (typeof CROPS)[number];
}

/** Whether this is a code of axes: of each of R or L, A or P, S or I one. */
export function isAxes(value: unknown): value is string {
  if (typeof value !== "string" || value.length !== 3) return false;
  return ["RL", "AP", "SI"].every((ends) => [...value].some((letter) => ends.includes(letter)));
}

/** Of {@link GridPreprocessing}, for checks. */
export const GRID_PREPROCESSING: OptionSpecs = {
  axes: option.required(option.custom("three letters, of R or L, A or P, S or I one each", isAxes)),
  spacing: option.required(option.orNull(option.array(option.number({ above: 0 }), { length: 3 }))),
  crop: option.required(option.oneOf(CROPS)),
};

/** Where a volume lies in the network's input: enough to undo what was done to it. Plain JSON. */
export interface VolumePlacement {
  /** As stored. */
  original: VolumeSize;
  /** Of the network's input. */
  size: VolumeSize;
  /** Before it was cropped or padded to that size. */
  content: VolumeSize;
  /** Where it lies as stored; null where the file does not say. */
  stored: Grid | null;
  /** Of the network's input; of a volume without a place of its own in voxels of 1 mm from 0. */
  grid: Grid;
  /** What was done, in order. */
  steps: readonly Step[];
}

/** Voxels of 1 mm from 0, for volumes that do not say where they lie: nothing is made of them but where voxels come from. */
function nowhere(shape: VolumeSize): Grid {
  return {
    shape,
    affine: [
      [1, 0, 0, 0],
      [0, 1, 0, 0],
      [0, 0, 1, 0],
      [0, 0, 0, 1],
    ],
  };
}

/**
 * Brings a volume into a network's input: turned and cropped, scaled, resampled, and centred in the size.
 * @param volume C×D×H×W, with its place; null for a file that does not say it, which is centred alone
 * @param how null exactly where there is no place
 * @param size null keeps what comes of it
 * @param scale scales intensities in place, once what does not count is cropped
 */
export function* placing(
  { data, shape, grid }: NdArray & { readonly grid: Grid | null },
  how: GridPreprocessing | null,
  size: VolumeSize | null,
  scale: (values: Float32Array) => void,
): Moving<{ image: NdArray; placement: VolumePlacement }> {
  const original = shape.slice(-3) as unknown as VolumeSize;
  let at: Placed<Float32Array> & { steps?: readonly Step[] } = { data, shape, grid: grid ?? nowhere(original) };
  if (how) {
    if (orientationOf(at.grid) !== how.axes) at = reorient(at, how.axes);
    const box = how.crop === "nonzero" ? nonZeroBox(at) : null;
    if (box && !isWhole(box, at.grid.shape)) at = crop(at, box);
  }
  // The caller's own values stay as they are.
  if (at.data === data) at = { ...at, data: data.slice() };
  scale(at.data);
  if (how?.spacing) {
    const moved = (yield* resampling(at, { spacing: how.spacing })) as Moved<Float32Array>;
    if (!isSame(moved.grid.shape, at.grid.shape)) at = moved;
  }
  const content = at.grid.shape;
  if (size && !isSame(size, content)) at = centre(at, size);
  const placement = {
    original,
    size: at.grid.shape,
    content,
    stored: grid,
    grid: at.grid,
    steps: at.steps ?? [],
  };
  return { image: { data: at.data, shape: at.shape }, placement };
}

function isSame(a: Triple, b: Triple): boolean {
  return a.every((side, axis) => side === b[axis]);
}

function isWhole({ start, end }: { start: Triple; end: Triple }, size: Triple): boolean {
  return isSame(start, [0, 0, 0]) && isSame(end, size);
}

/** Labels moved as their volume was, 0 where nothing was. @throws ERR_LE_SHAPE for another size than the stored one */
export function* placingMask(
  { data, shape }: NdArray<Uint8Array>,
  placement: VolumePlacement,
): Moving<NdArray<Uint8Array>> {
  const { original, grid, steps } = placement;
  checkEnd("for the mask", { data, shape }, original, 0);
  const moved = yield* following({ data, shape, grid: steps[0]?.from ?? grid }, { grid, steps });
  return { data: moved.data, shape: moved.shape };
}

/**
 * What was made in the network's input back at the stored size: floats linearly, labels by the nearest voxel. What had been
 * cropped is 0, and in several planes of floats, which are probabilities, certain background.
 * @param array D×H×W or C×D×H×W
 * @throws ERR_LE_SHAPE
 */
export function* unplacing<T extends Float32Array | Uint8Array>(
  array: NdArray<T>,
  { size, grid, steps, original }: VolumePlacement,
): Moving<NdArray<T>> {
  checkEnd("to restore", array, size, 1);
  const { data, shape } = array;
  const channels = shape.length === 4 ? (shape[0] as number) : 1;
  const background = data instanceof Float32Array && shape.length === 4;
  const fill = background ? Array.from({ length: channels }, (_, c) => (c === 0 ? 1 : 0)) : 0;
  const from = steps[0]?.from ?? grid;
  const restored = (yield* restoring({ data, shape, grid, steps }, from, { fill })) as Placed<T>;
  return { data: restored.data, shape: [...shape.slice(0, -3), ...original] };
}

/** What a prediction by tiles is asked for, so that it brings out the voxels that a volume was resampled from. */
export interface StraightOutput {
  /** Of {@link TileOptions}. */
  outputSize: readonly number[];
  outputOrder: readonly ("linear" | "nearest")[];
  /** Of what is brought out so: what is left to undo moves voxels, and changes none. */
  placement: VolumePlacement;
}

/**
 * Logits are interpolated once, from the heads' own resolution straight to the voxels that a volume was resampled from, in the
 * manner of {@link unplacing}.
 * @returns undefined where resampling was not the last of what was done
 */
export function straightOutput(placement: VolumePlacement): StraightOutput | undefined {
  const last = placement.steps.at(-1);
  if (last?.op !== "resample") return undefined;
  const { shape } = last.from;
  return {
    outputSize: shape,
    outputOrder: ordersOf(placement.grid, shape, "linear") as StraightOutput["outputOrder"],
    placement: { ...placement, size: shape, content: shape, grid: last.from, steps: placement.steps.slice(0, -1) },
  };
}

/** @throws ERR_LE_SHAPE for an array that does not end in `size`, or has more axes of planes than `most` */
function checkEnd(what: string, { data, shape }: NdArray<NumericArray>, size: VolumeSize, most: number): void {
  const lead = shape.length - 3;
  const fits = lead >= 0 && lead <= most && size.every((side, axis) => shape[lead + axis] === side);
  if (!fits || data.length !== shape.reduce((product, side) => product * side, 1))
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected an array that ends in ${size.join("×")} ${what} but received shape [${shape}] with ${data.length} values`,
    );
}

/** Lengths of a voxel's edges along z, y and x of other axes, to which the grid would be turned. */
export function spacingAlong(grid: Grid, axes: string): Triple {
  const own = orientationOf(grid);
  const spacing = spacingOf(grid);
  const ends = ["RL", "AP", "SI"];
  const worldOf = (letter: string) => ends.findIndex((pair) => pair.includes(letter));
  // x, y and z of a code are axes 2, 1 and 0 of a spacing.
  return [2, 1, 0].map((letter) => {
    const from = [...own].findIndex((one) => worldOf(one) === worldOf(axes[letter] as string));
    return spacing[2 - from] as number;
  }) as unknown as Triple;
}

/** The medians of the grids' spacings along z, y and x of the axes. */
export function medianSpacing(grids: readonly Grid[], axes: string): Triple {
  const all = grids.map((grid) => spacingAlong(grid, axes));
  return [0, 1, 2].map((axis) => {
    const sorted = all.map((spacing) => spacing[axis] as number).sort((a, b) => a - b);
    const half = sorted.length >> 1;
    return sorted.length % 2 === 1 ? sorted[half] : ((sorted[half - 1] as number) + (sorted[half] as number)) / 2;
  }) as unknown as Triple;
}

/** What grids there were in a training. Plain JSON. */
export interface GridRange {
  /** The codes of their axes as stored, such as LPS, in order. */
  orientations: string[];
  /** The least and the greatest spacing along z, y and x of the axes that volumes are turned to, in mm. */
  spacing: readonly [least: Triple, most: Triple];
}

/** The range of grids; undefined of none. */
export function gridRange(grids: readonly Grid[], axes: string): GridRange | undefined {
  if (grids.length === 0) return undefined;
  const all = grids.map((grid) => spacingAlong(grid, axes));
  const over = (pick: (...values: number[]) => number) =>
    [0, 1, 2].map((axis) => pick(...all.map((spacing) => spacing[axis] as number))) as unknown as Triple;
  return {
    orientations: [...new Set(grids.map(orientationOf))].sort(),
    spacing: [over(Math.min), over(Math.max)],
  };
}

/** How far outside of the training's a spacing may lie before it is said: what rounding in files makes of one and the same. */
const TOLERANCE = 0.01;

/**
 * In what a volume's grid is unlike those of the training, a sentence each.
 * @param axes that volumes are turned to
 */
export function unlikeRange(grid: Grid, { orientations, spacing: [least, most] }: GridRange, axes: string): string[] {
  const said: string[] = [];
  const own = orientationOf(grid);
  if (!orientations.includes(own)) said.push(`its axes run ${own}, those of the training ${orientations.join(", ")}`);
  const spacing = spacingAlong(grid, axes);
  const outside = [0, 1, 2].filter(
    (axis) => spacing[axis]! < least[axis]! * (1 - TOLERANCE) || spacing[axis]! > most[axis]! * (1 + TOLERANCE),
  );
  const shown = (values: Triple) => values.map((mm) => Number(mm.toPrecision(4))).join("×");
  if (outside.length > 0)
    said.push(
      `its voxels are ${shown(spacing)} mm (z×y×x of ${axes}), those of the training ${shown(least)} to ${shown(most)} mm`,
    );
  return said;
}
