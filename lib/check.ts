import type { NdArray, NumericArray } from "./arrays.js";
import { LayerEnsemblesError } from "./errors.js";

/** ERR_LE_SHAPE where an array's numbers do not fit its shape. */
export function checkArray(array: NdArray<NumericArray>, what: string): void {
  const count = array.shape.reduce((product, side) => product * side, 1);
  if (count !== array.data.length)
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected ${count} numbers for ${what} of shape [${array.shape.join(", ")}] but received ${array.data.length}.`,
    );
}

/** ERR_LE_SHAPE where `shape` is not `expected`. */
export function checkShape(shape: readonly number[], expected: readonly number[], what: string): void {
  if (shape.length !== expected.length || shape.some((side, axis) => side !== expected[axis]))
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected shape [${expected.join(", ")}] for ${what} but received [${shape.join(", ")}].`,
    );
}

/**
 * ERR_LE_VALUE where the numbers of C×S are no probabilities: outside [0, 1], or not summing to 1 within 1e-3.
 */
export function checkProbabilities(probabilities: NdArray, what: string): void {
  checkArray(probabilities, what);
  const [classes = 0] = probabilities.shape;
  const { data } = probabilities;
  if (probabilities.shape.length < 2 || classes < 2)
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected classes × space with at least 2 classes for ${what} but received [${probabilities.shape.join(", ")}].`,
    );
  const pixels = data.length / classes;
  for (let i = 0; i < pixels; i++) {
    let sum = 0;
    for (let c = 0; c < classes; c++) {
      const p = data[c * pixels + i] as number;
      if (!(p >= 0 && p <= 1 + 1e-6))
        throw new LayerEnsemblesError("ERR_LE_VALUE", `Expected probabilities for ${what} but received ${p} at ${i}.`);
      sum += p;
    }
    if (Math.abs(sum - 1) > 1e-3)
      throw new LayerEnsemblesError(
        "ERR_LE_VALUE",
        `Expected probabilities that sum to 1 for ${what} but received a sum of ${sum} at ${i}.`,
      );
  }
}

/** ERR_LE_VALUE where a label is no class and not the ignored one. */
export function checkLabels(labels: NdArray<Uint8Array>, classes: number, what: string, ignoreIndex = -1): void {
  checkArray(labels, what);
  const wrong = labels.data.find((label) => label >= classes && label !== ignoreIndex);
  if (wrong !== undefined)
    throw new LayerEnsemblesError(
      "ERR_LE_VALUE",
      `Expected labels from 0 to ${classes - 1} for ${what} but received ${wrong}.`,
    );
}
