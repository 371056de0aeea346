// From the caller's samples to a dataset of the addon.
import { arrayType, snapshot } from "../arrays.js";
import { contentOf } from "../data/leaks.js";
import { LayerEnsemblesError } from "../errors.js";
import type { Addon, Handle } from "../native/addon.js";
import { describe } from "../options.js";
import { fromNative } from "./call.js";
import { checkImage } from "./model.js";
import { knownOf, type SampleGuard } from "./sample-guard.js";
import type { SampleSource, TrainingSample } from "./training.js";

/** Samples that the addon has already: several networks can be trained on them. */
export class Gathered {
  constructor(readonly handle: Handle) {}
}

/**
 * Copies samples into memory of the addon, one at a time.
 * @param what names them in errors
 * @throws ERR_LE_DATA for none, or one without a mask; ERR_LE_SHAPE; `signal.reason`
 */
export async function gather(
  addon: Addon,
  source: SampleSource | Gathered,
  spatialAxes: number,
  what: string,
  signal: AbortSignal | undefined,
  guard: SampleGuard,
): Promise<Gathered> {
  if (source instanceof Gathered) return source;
  const dataset = addon.createDataset();
  let index = 0;
  for await (const sample of source) {
    signal?.throwIfAborted();
    const known = knownOf(sample);
    const image = checkImage(sample.image, `${what}[${index}].image`, [spatialAxes + 1]);
    const [, ...size] = image.shape;
    const mask = checkMask(sample.mask, `${what}[${index}]`, size);
    // Samples that are no dataset's do not say what they show.
    const shown = guard.compares && typeof known.content !== "string" ? contentOf(image) : undefined;
    guard.see(what, index, known, mask, shown);
    try {
      addon.addSample(dataset, image.data, image.shape, mask);
    } catch (error) {
      throw fromNative(error);
    }
    index++;
  }
  if (index === 0)
    throw new LayerEnsemblesError("ERR_LE_DATA", `Expected at least one sample for ${what} but received none.`);
  guard.check(what);
  return new Gathered(dataset);
}

function checkMask(given: TrainingSample["mask"], what: string, size: readonly number[]): Uint8Array {
  if (!given) throw new LayerEnsemblesError("ERR_LE_DATA", `Expected a mask for ${what} but received none.`);
  const mask = snapshot(given);
  if (!mask || arrayType(mask.data) !== "Uint8Array")
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected {data: Uint8Array, shape} as the mask of ${what} but received ${describe(mask?.data ?? given)}.`,
    );
  if (mask.shape.join("×") !== size.join("×"))
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected a mask of ${size.join("×")} for ${what} but received ${mask.shape.join("×")}.`,
    );
  return mask.data as Uint8Array;
}
