// What definitions accept, and the errors for what they do not. Every check names the argument.
import { arrayType, type NdArray, type NumericArray, snapshot } from "./arrays.js";
import { type ErrorCode, LayerEnsemblesError } from "./errors.js";
import { describe } from "./options.js";

/** Numbers with a fraction: logits, probabilities, maps. */
export type FloatArray = Float32Array | Float64Array;

/** Labels are bytes. */
const MAX_CLASSES = 256;

export function fail(code: ErrorCode, argument: string, expected: string, received: string): never {
  throw new LayerEnsemblesError(code, `Expected ${expected} for ${argument} but received ${received}.`);
}

/** Neither NaN nor infinite. */
export function checkFinite(argument: string, values: ArrayLike<number>): void {
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i])) {
      fail("ERR_LE_VALUE", argument, "finite numbers", `${describe(values[i])} at index ${i}`);
    }
  }
}

/** A number of classes that byte labels can hold. */
export function checkClasses(argument: string, classes: number): void {
  if (!Number.isSafeInteger(classes) || classes < 1 || classes > MAX_CLASSES) {
    fail("ERR_LE_VALUE", argument, `an integer from 1 to ${MAX_CLASSES}`, describe(classes));
  }
}

interface LabelLimits {
  classes: number;
  /** The least number of axes, and their names. */
  rank: number;
  axes: string;
  /** Allowed besides 0..classes-1. */
  ignoreIndex?: number;
}

/**
 * Byte labels in 0..classes-1, or `ignoreIndex` where one is given.
 * @returns what they are now, each property read once; so do the checks below
 */
export function checkLabels(argument: string, labels: NdArray<Uint8Array>, limits: LabelLimits): NdArray<Uint8Array> {
  const own = checkLabelLayout(argument, labels, limits);
  checkLabelValues(argument, own, limits);
  return own;
}

/** The layout, not the values, of byte labels. */
export function checkLabelLayout(
  argument: string,
  labels: NdArray<Uint8Array>,
  { rank, axes }: LabelLimits,
): NdArray<Uint8Array> {
  const own = checkLayout(argument, labels, rank, axes);
  if (arrayType(own.data) !== "Uint8Array") fail("ERR_LE_SHAPE", argument, "a Uint8Array", describe(own.data));
  return own as NdArray<Uint8Array>;
}

export function checkLabelValues(
  argument: string,
  { data }: NdArray<Uint8Array>,
  { classes, ignoreIndex = -1 }: Pick<LabelLimits, "classes" | "ignoreIndex">,
): void {
  for (let i = 0; i < data.length; i++) {
    const label = data[i] as number;
    if (label >= classes && label !== ignoreIndex) {
      const or = ignoreIndex < 0 ? "" : ` or ${ignoreIndex}`;
      fail("ERR_LE_VALUE", argument, `labels from 0 to ${classes - 1}${or}`, `${label} at position ${i}`);
    }
  }
}

export function checkSameShape(argument: string, shape: readonly number[], expected: readonly number[]): void {
  if (shape.length !== expected.length || shape.some((size, axis) => size !== expected[axis])) {
    fail("ERR_LE_SHAPE", argument, `the shape ${expected.join("×")}`, shape.join("×"));
  }
}

export function checkFloats(
  argument: string,
  array: NdArray<FloatArray> | undefined,
  rank: number,
  axes: string,
): NdArray<FloatArray> {
  const own = checkLayout(argument, array, rank, axes);
  if (!["Float32Array", "Float64Array"].includes(arrayType(own.data) as string)) {
    fail("ERR_LE_SHAPE", argument, "a Float32Array or Float64Array", describe(own.data));
  }
  return own as NdArray<FloatArray>;
}

function checkLayout(
  argument: string,
  array: NdArray<NumericArray> | undefined,
  rank: number,
  axes: string,
): NdArray<NumericArray> {
  const own = snapshot(array);
  if (!own) return fail("ERR_LE_SHAPE", argument, `an array ${axes} with data and shape`, describe(array));
  const { data, shape } = own;
  if (shape.length < rank || !shape.every((size) => Number.isSafeInteger(size) && size > 0)) {
    fail("ERR_LE_SHAPE", argument, `a shape ${axes} of positive sizes`, describe(shape));
  }
  const size = shape.reduce((product, axis) => product * axis, 1);
  if (data.length !== size) fail("ERR_LE_SHAPE", argument, `${size} values (${shape.join("×")})`, `${data.length}`);
  return own;
}
