// What threads do for audited cases: packing the mask that was served, and comparing it with the right one.
import { deflateRawSync, inflateRawSync } from "node:zlib";
import type { NdArray, NumericArray } from "../arrays.js";
import { applyLabels, checkMasks, countLabels, ignoredLabel, type LabelRule } from "../data/labels.js";
import { decodeMask } from "../data/mask.js";
import { LayerEnsemblesError } from "../errors.js";
import { meanDice } from "../quality/overlap.js";

/** A mask of class indices as it was served, packed. */
export interface KeptMask {
  bytes: Uint8Array;
  shape: readonly number[];
}

/** Packs a mask, quickly. */
export function packMask({ data, shape }: NdArray<Uint8Array>): KeptMask {
  // A copy of its own: what deflate gives may lie in a pool.
  return { bytes: Uint8Array.from(deflateRawSync(data, { level: 1 })), shape: [...shape] };
}

/** A mask that a person made, and the one that was served. */
export interface JudgedMask {
  /** A PNG or .npy file. */
  bytes: Uint8Array;
  served: KeptMask;
  classes: number;
  /** The stored number that does not count; -1 where all count. */
  ignoreIndex: number;
}

/**
 * Dice of a served mask with the right one: the mean over the foreground classes, as `certify` measures it. Masks hold class indices,
 * and those of two classes may hold 0 and 255, as answers do.
 * @throws ERR_LE_DATA, ERR_LE_SHAPE, ERR_LE_VALUE
 */
export async function judgeMask({ bytes, served, classes, ignoreIndex }: JudgedMask): Promise<{ dice: number }> {
  const size = served.shape.reduce((product, side) => product * side, 1);
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const stored = await decodeMask(file, "given", { maxPixels: size });
  const counts = countLabels("given", stored.data);
  const rule = ruleOf(stored, classes, ignoreIndex);
  checkMasks([counts], rule, classes);
  const truth = { data: applyLabels(stored.data, rule), shape: stored.shape };
  const mask = { data: new Uint8Array(inflateRawSync(served.bytes)), shape: [...served.shape] };
  const dice = meanDice(mask, truth, { classes, ignoreIndex: ignoredLabel(rule) });
  if (Number.isNaN(dice))
    throw new LayerEnsemblesError("ERR_LE_DATA", "Expected a mask with a pixel that counts but received none.");
  return { dice };
}

/** How a mask says what it means: of two classes, one of 0 and 255 has no other foreground. */
function ruleOf({ data }: NdArray<NumericArray>, classes: number, ignoreIndex: number): LabelRule {
  const ignore = ignoreIndex < 0 ? null : ignoreIndex;
  const isDouble = classes === 2 && data.includes(255 as never) && !data.includes(1 as never);
  return isDouble ? { scale: "0/255", ignore: ignore === 255 ? null : ignore } : { scale: "index", ignore };
}
