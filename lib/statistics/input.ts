import { checkFinite, fail } from "../checks.js";

/** Two lists of finite numbers, one entry per image. */
export function checkPaired(
  [nameX, x]: [string, ArrayLike<number>],
  [nameY, y]: [string, ArrayLike<number>],
  atLeast: number,
): void {
  checkFinite(nameX, x);
  checkFinite(nameY, y);
  if (x.length !== y.length) {
    fail("ERR_LE_SHAPE", nameY, `${x.length} values, as many as of ${nameX},`, `${y.length}`);
  }
  if (x.length < atLeast) fail("ERR_LE_SHAPE", nameX, `at least ${atLeast} value`, `${x.length}`);
}
