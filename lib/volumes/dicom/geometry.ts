// Slices to a grid: PS3.3 C.7.6.2.1.1. Only positions and directions have a say; names, instance numbers and slice locations none.

import { LayerEnsemblesError } from "../../errors.js";
import type { Grid } from "../../grid/index.js";
import { affineOfSteps, LPS } from "../affine.js";
import { dot, type Frame, type Vector } from "./frames.js";

/** Slices of one volume, in order, and where they lie. */
export interface Stack {
  frames: readonly Frame[];
  /** The slice that each frame is of, from 0. */
  places: readonly number[];
  /** Slices. */
  depth: number;
  grid: Grid | null;
  warnings: string[];
  /** How slices lie that were taken as evenly apart. */
  uneven?: string | undefined;
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
  const unplaced = { frames, places: [0], depth: 1, grid: null };
  const lost = frames.find(({ position, orientation, spacing }) => !position || !orientation || !spacing);
  if (lost) {
    const missing = !lost.position
      ? "no position (ImagePositionPatient)"
      : !lost.orientation
        ? "no orientation (ImageOrientationPatient)"
        : "no spacing in the patient (PixelSpacing)";
    if (frames.length === 1) return { ...unplaced, warnings: [`${nameOf(lost)} has ${missing}: geometry unknown.`] };
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
  let uneven: string | undefined;
  if (slices.length === 1) {
    const depth = one.between ?? one.thickness;
    if (depth === undefined) {
      const text = `${nameOf(one)} is a single slice without a thickness above 0: geometry unknown.`;
      return { ...unplaced, warnings: [text] };
    }
    step = times(normal, depth);
  } else {
    step = times(minus(last.at, first.at), 1 / (slices.length - 1));
    uneven = checkSteps(slices, normal, { allowTilt, allowUneven }, warnings);
  }
  const [i, j] = [times(orientation[0], columnSpacing), times(orientation[1], rowSpacing)];
  const affine = affineOfSteps([i, j, step], first.at, LPS);
  if (!affine)
    return refuse("spacings and positions that numbers hold", `others in ${nameOf(one)}`, "the files are damaged");
  const shape = [slices.length, one.rows, one.columns] as const;
  const places = slices.map((_, k) => k);
  return {
    frames: slices.map(({ frame }) => frame),
    places,
    depth: slices.length,
    grid: { shape, affine },
    warnings,
    uneven,
  };
}

/** Nearer than this, in millimetres, is the same place. */
const SAME = 1e-3;
/** Most slices between the first and the last frame of a segmentation. */
const MOST_SLICES = 65_536;

/**
 * Orders the frames of a segmentation, which has several at a place, and none where nothing is: its slices are those from the first
 * frame to the last, as far apart as the file says, else as the nearest of them.
 * @throws ERR_LE_DATA as {@link stackOf}; for two frames of a segment at one place
 */
export function segmentStackOf(frames: readonly Frame[], allowed: Allowed = {}): Stack {
  const [one] = frames as [Frame];
  if (frames.some(({ position, orientation }) => !position || !orientation)) return stackOf(frames, allowed);
  const normal = normalOf(one.orientation as readonly [Vector, Vector]);
  const along = new Map(frames.map((frame) => [frame, dot(frame.position as Vector, normal)]));
  const at = (frame: Frame) => along.get(frame) as number;
  const sorted = frames.toSorted((a, b) => at(a) - at(b));
  const [first, last] = [sorted[0] as Frame, sorted.at(-1) as Frame];
  const distinct = sorted.filter((frame, i) => i === 0 || at(frame) - at(sorted[i - 1] as Frame) > SAME);
  const nearest = Math.min(...distinct.slice(1).map((frame, i) => at(frame) - at(distinct[i] as Frame)));
  const count = distinct.length > 1 ? Math.round((at(last) - at(first)) / (one.between ?? nearest)) : 0;
  if (count >= MOST_SLICES) refuse(`at most ${MOST_SLICES} slices`, `${count + 1}`, "the file is damaged");
  const place = (frame: Frame) =>
    count > 0 ? Math.round(((at(frame) - at(first)) / (at(last) - at(first))) * count) : 0;
  const there = new Set(distinct.map(place));
  const [from, step] = [first.position as Vector, minus(last.position as Vector, first.position as Vector)];
  const none = Array.from({ length: count }, (_, k) => k).filter((k) => !there.has(k));
  const between = none.map((k) => ({ ...first, position: minus(from, times(step, -k / count)) }));
  const { depth, grid, warnings } = stackOf([...distinct, ...between], allowed);
  const seen = new Set<string>();
  for (const frame of sorted) {
    const key = `${frame.segment} ${place(frame)}`;
    if (seen.has(key))
      refuse("one frame for each segment and slice", `${nameOf(frame)} besides another`, "the file is damaged");
    seen.add(key);
  }
  return { frames: sorted, places: sorted.map(place), depth, grid, warnings };
}

interface Slice {
  frame: Frame;
  at: Vector;
  along: number;
}

/** @returns how slices lie that are uneven, where that is allowed */
function checkSteps(
  slices: readonly Slice[],
  normal: Vector,
  { allowTilt, allowUneven }: Allowed,
  warnings: string[],
): string | undefined {
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
  let allowed: string | undefined;
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
    allowed = received;
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
  return allowed;
}

const isMultiple = (gap: number, of: number) =>
  Math.abs(gap / of - Math.round(gap / of)) <= Math.max(TOLERANCE, ROUNDING / of) * Math.round(gap / of);

function refuse(expected: string, received: string, remedy: string): never {
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected ${expected} for a DICOM series but received ${received}; ${remedy}.`,
  );
}
