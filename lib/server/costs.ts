// What images and answers take, in bytes, from above: known before any of it is made, so that what is too much is refused
// and not tried. Constants are arrays that are there at the same time, a pixel; tests hold them against what was measured.

import { MAP_NAMES } from "../uncertainty/index.js";
import type { AnswerType } from "./answers.js";
import { type ImageKind, type ImageSize, type OutputName, wantsSets } from "./image-work.js";
import type { RequestedOutput } from "./kserve.js";
import { TENSORS } from "./kserve.js";

/** What an image takes. */
export interface ImageCost {
  /** From its decoding to its answer: the network's input, the prediction, the picture for an overlay. */
  held: number;
  /** While it is decoded and prepared. */
  prepare: number;
  /** While its answer is made. */
  finish: number;
}

const FLOAT = 4;
const DOUBLE = 8;
/** Arrays of an image as stored that a decoder and what follows have at the same time. */
const DECODING = 5;

/** An image whose answer has these outputs. */
export function imageCost(
  { size, bytes }: ImageSize,
  encoded: number,
  { preprocessing, classes, maps }: ImageKind,
  outputs: readonly OutputName[],
  arrays: boolean,
): ImageCost {
  const pixels = product(size);
  const { channels } = preprocessing;
  const input = product(preprocessing.size ?? size);
  const [rows = 1, columns = 1] = (preprocessing.size ?? size).slice(-2);
  const overlay = outputs.includes("overlay");
  const wanted = MAP_NAMES.filter((map) => outputs.includes(map)).length;
  const spatial = classes + Math.max(wanted, maps);
  // A pass of resampling along rows keeps all of the other side.
  const resampling = DOUBLE * Math.max((size.at(-2) ?? 1) * columns, rows * (size.at(-1) ?? 1));
  const shown = overlay ? pixels : 0;
  // Of each class both masks; labels, and what is sorted; of one class the edges of both in an overlay.
  const sets = wantsSets(outputs) ? pixels * (2 * (classes - 1) + 5 + (overlay ? 12 : 0)) : 0;
  return {
    held: FLOAT * input * (channels + 2 * spatial) + shown,
    prepare: encoded + DECODING * bytes + 2 * FLOAT * (pixels + input) * channels + resampling + 9 * shown,
    finish:
      FLOAT * pixels * (classes + wanted) +
      resampling +
      sets +
      pixels * (overlay ? 26 : 10) +
      (arrays ? 2 : 0) * outputBytes(pixels, classes, outputs),
  };
}

/** Arrays of the stored size that an answer has. */
export function outputBytes(pixels: number, classes: number, outputs: readonly OutputName[]): number {
  return outputs.reduce((sum, output) => {
    if (output === "mask") return sum + pixels;
    if (output === "inner" || output === "outer") return sum + pixels * (classes - 1);
    if (output === "overlay") return sum + 3 * pixels;
    return sum + FLOAT * pixels * (output === "probabilities" ? classes : 1);
  }, 0);
}

/** An answer of so many bytes of files, and all that is there while it is written. */
export function writingCost(type: AnswerType, files: number): number {
  return type === "application/json" ? files + Math.ceil(files / 3) * 4 : 2 * files;
}

/** Bytes of a number in JSON, with its comma, at most. */
const DIGITS = { UINT8: 4, BOOL: 6, FP32: 26, FP64: 26, BYTES: 10 } as Record<string, number>;
const WIDTH = { UINT8: 1, BOOL: 1, FP32: 4, FP64: 8, BYTES: 10 } as Record<string, number>;

/** The answer to an infer request, at most. */
export function inferBytes(
  outputs: readonly RequestedOutput[],
  images: number,
  pixels: number,
  classes: number,
): number {
  return outputs.reduce((sum, { name, binary }) => {
    const { datatype = "FP32", perImage } = TENSORS[name] ?? {};
    const count = images * (perImage === "S" ? pixels : perImage === "C×S" ? classes * pixels : 1);
    return sum + count * ((binary ? WIDTH : DIGITS)[datatype] ?? 26) + 200;
  }, 1000);
}

export function product(sides: readonly number[]): number {
  return sides.reduce((all, side) => all * side, 1);
}
