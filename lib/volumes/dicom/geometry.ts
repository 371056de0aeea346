// Slices to a grid: PS3.3 C.7.6.2.1.1. Only positions and directions have a say; names, instance numbers and slice locations none.

import { LayerEnsemblesError } from "../../errors.js";
import type { Grid } from "../../grid/index.js";
import { affineOfSteps, LPS } from "../affine.js";
import { dot, type Frame, type Vector } from "./frames.js";

/** Slices of one volume, in order, and where they lie. */
export interface Stack {
  frames: readonly Frame[];
  grid: Grid | null;
  warnings: string[];
}

/** What a user may allow, knowing it. */
export interface Allowed {
  allowTilt?: boolean;
  allowUneven?: boolean;
}

/** Rounding of positions in files is no defect: half a micrometre at both ends, along three axes. */
const ROUNDING = 2e-3;
/** Of the spacing. */
const TOLERANCE = 0.01;

const minus = (a: Vector, b: Vector): Vector => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
const times = (a: Vector, factor: number): Vector => [a[0] * factor, a[1] * factor, a[2] * factor];
const length = (a: Vector) => Math.hypot(...a);
const shown = (value: number) => `${Number(value.toFixed(3))}`;

/** The direction in which slices are counted: row × column, of length 1. */
export function normalOf([a, b]: readonly [Vector, Vector]): Vector {
  const cross: Vector = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  return times(cross, 1 / length(cross));
}

/** A frame's name in messages. */
export function nameOf({ file, index }: Frame): string {
  return file.frames.length > 1 ? `${file.path} (frame ${index + 1})` : file.path;
}

/**
 * Orders the frames of one volume along the normal and makes their grid.
 * @throws ERR_LE_DATA for slices that are doubled, missing, uneven, tilted or without a place
 */
export function stackOf(frames: readonly Frame[], { allowTilt = false, allowUneven = false }: Allowed = {}): Stack {
  const [one] = frames as [Frame];
  const lost = frames.find(({ position, orientation, spacing }) => !position || !orientation || !spacing);
  if (lost) {
    const missing = !lost.position
      ? "no position (ImagePositionPatient)"
      : !lost.orientation
        ? "no orientation (ImageOrientationPatient)"
        : "no spacing in the patient (PixelSpacing)";
    if (frames.length === 1)
      return { frames, grid: null, warnings: [`${nameOf(lost)} has ${missing}: geometry unknown.`] };
    refuse(
      "a position, an orientation and a spacing for each slice",
      `${missing} in ${nameOf(lost)}`,
      "name the one file to read it without a place",
    );
  }
  const orientation = one.orientation as readonly [Vector, Vector];
  const [rowSpacing, columnSpacing] = one.spacing as readonly [number, number];
  const normal = normalOf(orientation);
  const slices = frames
    .map((frame) => ({ frame, at: frame.position as Vector, along: dot(frame.position as Vector, normal) }))
    .sort((a, b) => a.along - b.along);
  const [first, last] = [slices[0] as (typeof slices)[0], slices.at(-1) as (typeof slices)[0]];
  const warnings: string[] = [];
  let step: Vector;
  if (slices.length === 1) {
    if (one.depth === undefined) {
      const text = `${nameOf(one)} is a single slice without a thickness above 0: geometry unknown.`;
      return { frames, grid: null, warnings: [text] };
    }
    step = times(normal, one.depth);
  } else {
    step = times(minus(last.at, first.at), 1 / (slices.length - 1));
    checkSteps(slices, normal, { allowTilt, allowUneven }, warnings);
  }
  const [i, j] = [times(orientation[0], columnSpacing), times(orientation[1], rowSpacing)];
  const affine = affineOfSteps([i, j, step], first.at, LPS);
  if (!affine)
    return refuse("spacings and positions that numbers hold", `others in ${nameOf(one)}`, "the files are damaged");
  const shape = [slices.length, one.rows, one.columns] as const;
  return { frames: slices.map(({ frame }) => frame), grid: { shape, affine }, warnings };
}

interface Slice {
  frame: Frame;
  at: Vector;
  along: number;
}

function checkSteps(
  slices: readonly Slice[],
  normal: Vector,
  { allowTilt, allowUneven }: Allowed,
  warnings: string[],
): void {
  const gaps = slices.slice(1).map((slice, k) => ({
    before: slices[k] as Slice,
    after: slice,
    gap: slice.along - (slices[k] as Slice).along,
    step: minus(slice.at, (slices[k] as Slice).at),
  }));
  const sorted = gaps.map(({ gap }) => gap).sort((a, b) => a - b);
  const usual = sorted[(sorted.length - 1) >> 1] as number;
  const where = (slice: Slice) => `${nameOf(slice.frame)} at ${shown(slice.along)} mm`;
  const list = (some: typeof gaps) =>
    `${some
      .slice(0, 4)
      .map(({ before, after }) => `${where(before)} and ${where(after)}`)
      .join("; ")}${some.length > 4 ? `; … ${some.length} in all` : ""}`;

  const doubled = gaps.filter(({ gap }) => gap <= Math.max(TOLERANCE * usual, ROUNDING / 2));
  if (doubled.length > 0)
    refuse(
      "one slice at each position",
      `two at one: ${list(doubled)}`,
      "give the files of one volume alone, as a list",
    );

  const count = slices.length - 1;
  const [first, last] = [slices[0] as Slice, slices.at(-1) as Slice];
  const mean = (last.along - first.along) / count;
  const tolerance = Math.max(TOLERANCE * mean, ROUNDING);
  const uneven = gaps.filter(({ gap }) => Math.abs(gap - usual) > Math.max(TOLERANCE * usual, ROUNDING));
  // Small differences may add up along the stack.
  const drift = Math.max(...slices.map(({ along }, k) => Math.abs(along - first.along - k * mean)));
  if (uneven.length > 0 || drift > tolerance) {
    const holes = uneven.filter(({ gap }) => gap > 1.5 * usual);
    const missing =
      holes.length > 0 && holes.length === uneven.length && holes.every(({ gap }) => isMultiple(gap, usual));
    const steps = [...new Set(gaps.map(({ gap }) => shown(gap)))].slice(0, 8).join(", ");
    const received = missing
      ? `a missing slice between ${list(holes)}`
      : `steps of ${steps} mm${uneven.length > 0 ? `, between ${list(uneven)}` : `, up to ${shown(drift)} mm off an even grid from ${where(first)} to ${where(last)}`}`;
    if (!allowUneven)
      refuse(
        `slices ${shown(usual)} mm apart, within ${TOLERANCE * 100} %`,
        received,
        `allowUneven takes them as ${shown(mean)} mm apart, up to ${shown(drift)} mm from where they are`,
      );
    warnings.push(`Slices are uneven (${received}); taken as ${shown(mean)} mm apart, up to ${shown(drift)} mm off.`);
  }

  const sideways = (step: Vector) => minus(step, times(normal, dot(step, normal)));
  const total = sideways(minus(last.at, first.at));
  const meanSide = times(total, 1 / count);
  // Off the line that the first and the last slice make, before the line itself.
  const crooked = slices.filter(
    ({ at }, k) => length(minus(sideways(minus(at, first.at)), times(meanSide, k))) > tolerance,
  );
  if (crooked.length > 0) {
    const names = crooked.slice(0, 4).map(where).join(", ");
    refuse("slices above one another on a line", `${names} beside it`, "give the files of one volume alone, as a list");
  }
  if (length(meanSide) > tolerance) {
    const angle = (Math.atan2(length(total), last.along - first.along) * 180) / Math.PI;
    const received = `a gantry tilt of ${shown(angle)} degrees from ${where(first)} to ${where(last)}`;
    if (!allowTilt) refuse("steps between slices along their normal", received, "allowTilt keeps it as a sheared grid");
    warnings.push(`The grid is sheared: ${received}.`);
  }
}

const isMultiple = (gap: number, of: number) =>
  Math.abs(gap / of - Math.round(gap / of)) <= Math.max(TOLERANCE, ROUNDING / of) * Math.round(gap / of);

function refuse(expected: string, received: string, remedy: string): never {
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected ${expected} for a DICOM series but received ${received}; ${remedy}.`,
  );
}
