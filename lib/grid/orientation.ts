import { type NumericArray, stridesOf, zerosLike } from "../arrays.js";
import { fail } from "../checks.js";
import { describe } from "../options.js";
import type { Grid } from "./grid.js";
import {
  affineOf,
  type Checked,
  checkGrid,
  checkPlaced,
  columnsOf,
  determinant,
  type Matrix,
  type Moved,
  type Placed,
  shapeOver,
  type Triple,
  type Vector,
} from "./placed.js";

/** The ends of the world's x, y and z: towards them it grows, and shrinks. */
const ENDS = ["RL", "AP", "SI"] as const;

/** For each of x, y and z of a code: which world axis it runs along, and which way. */
interface Run {
  readonly world: number;
  readonly backwards: boolean;
}

/**
 * The directions in which x, y and z of a grid grow, such as `"RAS"`: the permutation of axes and flips nearest to the affine.
 * For an oblique or sheared affine that of the rotation nearest to it (its polar factor), the clearest axis taking its
 * direction first, as nibabel's `io_orientation` does.
 * @throws LayerEnsemblesError `ERR_LE_SHAPE`, `ERR_LE_VALUE` for a grid that is none
 */
export function orientationOf(grid: Grid): string {
  checkGrid("the grid", grid);
  return codeOf(grid);
}

function codeOf({ affine }: Grid): string {
  const rotation = polar(columnsOf(affine).reverse().map(unit) as Matrix);
  const strength = rotation.map((column) => Math.max(...column.map((value) => value * value)));
  const free = new Set([0, 1, 2]);
  const code: string[] = [];
  for (const axis of [0, 1, 2].sort((a, b) => strength[b]! - strength[a]!)) {
    const column = rotation[axis] as Vector;
    const world = [...free].reduce((best, i) => (Math.abs(column[i]!) > Math.abs(column[best]!) ? i : best));
    free.delete(world);
    code[axis] = ENDS[world]![column[world]! < 0 ? 1 : 0] as string;
  }
  return code.join("");
}

function unit(vector: Vector): Vector {
  const length = Math.hypot(...vector);
  return vector.map((value) => value / length) as Vector;
}

/** The orthogonal matrix nearest to a regular one, by Newton's iteration (Higham 1986): the mean of it and its inverse transposed. */
function polar(matrix: Matrix): Matrix {
  let at = matrix;
  for (let i = 0; i < 100; i++) {
    const inverse = inverseTransposed(at);
    const next = at.map((row, r) => row.map((value, c) => (value + inverse[r]![c]!) / 2)) as Matrix;
    const change = Math.max(...next.flatMap((row, r) => row.map((value, c) => Math.abs(value - at[r]![c]!))));
    at = next;
    if (change < 1e-14) break;
  }
  return at;
}

function inverseTransposed(matrix: Matrix): Matrix {
  const [a, b, c] = matrix;
  const scale = 1 / determinant(matrix);
  return [cross(b, c), cross(c, a), cross(a, b)].map((row) => row.map((value) => value * scale)) as Matrix;
}

function cross([a, b, c]: Vector, [d, e, f]: Vector): Vector {
  return [b * f - c * e, c * d - a * f, a * e - b * d];
}

/**
 * A volume with its axes in another order and direction, so that x, y and z grow in the directions of `code`. No value
 * changes, and every one stays where it is in the world.
 * @param code One of the 48 codes of {@link orientationOf}, such as `"RAS"`: R or L, A or P, S or I, one of each.
 * @throws LayerEnsemblesError `ERR_LE_OPTION` for another code, `ERR_LE_SHAPE`, `ERR_LE_VALUE`
 */
export function reorient<T extends NumericArray>(volume: Placed<T>, code: string): Moved<T> {
  const own = checkPlaced("the volume", volume);
  const to = runsOf(code);
  if (!to) return fail("ERR_LE_OPTION", "the orientation", "one of R or L, A or P, S or I each", describe(code));
  const from = runsOf(codeOf(own.grid)) as Run[];
  // x, y and z of the codes are axes 2, 1 and 0 of the array.
  const source = to.map(({ world }) => from.findIndex((run) => run.world === world));
  const flips = to.map(({ backwards }, i) => backwards !== from[source[i]!]!.backwards).reverse();
  return turn(own, source.map((axis) => 2 - axis).reverse() as unknown as Triple, flips);
}

function runsOf(code: string): Run[] | undefined {
  const runs = [...String(code)].map((letter) => {
    const world = ENDS.findIndex((ends) => ends.includes(letter));
    return { world, backwards: ENDS[world]?.[1] === letter };
  });
  const worlds = runs.map(({ world }) => world).sort();
  return String(worlds) === "0,1,2" ? runs : undefined;
}

/** Axis k of the result is axis `axes[k]` of the volume, backwards where `flips[k]`. */
export function turn<T extends NumericArray>(volume: Checked<T>, axes: Triple, flips: readonly boolean[]): Moved<T> {
  const { data, grid, channels, size, steps } = volume;
  const [depth, height, width] = axes.map((axis) => size[axis]) as unknown as Triple;
  const last = [depth - 1, height - 1, width - 1];
  const strides = axes.map((axis, k) => stridesOf(size)[axis]! * (flips[k] ? -1 : 1)) as unknown as Triple;
  const first = strides.reduce((sum, stride, k) => sum + (flips[k] ? -stride * last[k]! : 0), 0);
  const out = zerosLike(data, data.length);
  const plane = depth * height * width;
  let to = 0;
  for (let c = 0; c < channels; c++) {
    for (let z = 0; z < depth; z++) {
      for (let y = 0; y < height; y++) {
        let from = c * plane + first + z * strides[0] + y * strides[1];
        for (const end = to + width; to < end; to++, from += strides[2]) out[to] = data[from] as number;
      }
    }
  }
  const old = columnsOf(grid.affine);
  const at = [0, 0, 0] as [number, number, number];
  const columns = axes.map((axis, k) => {
    if (!flips[k]) return old[axis] as Vector;
    at[axis] = last[k] as number;
    return old[axis]!.map((value) => 0 - value) as Vector; // 0 - 0 is no -0
  });
  const shape = [depth, height, width] as const;
  return {
    data: out,
    shape: shapeOver(volume, shape),
    grid: { shape, affine: affineOf(grid.affine, columns, at) },
    steps: [...steps, { op: "reorient", from: grid, axes, flips }],
  };
}

/** Undoes {@link turn}. */
export function turnBack<T extends NumericArray>(
  volume: Checked<T>,
  axes: Triple,
  flips: readonly boolean[],
): Moved<T> {
  const back = [0, 1, 2].map((axis) => axes.indexOf(axis));
  return turn(
    volume,
    back as unknown as Triple,
    back.map((k) => flips[k] as boolean),
  );
}
