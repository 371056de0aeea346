import type { NdArray } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";
import { writeAtomic } from "./files.js";
import type { Orientation } from "./orientation.js";
import { withOrientation } from "./png.js";

/** A picture to look at: RGB, one byte each, interleaved. */
export interface Picture {
  /** height × width × 3 bytes. */
  data: Uint8Array;
  width: number;
  height: number;
}

/**
 * Encodes a PNG: a {@link Picture} in colour, an H×W array of bytes (grey values or class indices) or of 16-bit values
 * in grey. Values are stored exactly; no colour profile is added.
 * @throws ERR_LE_SHAPE where the data does not fit the size
 */
export async function encodePng(picture: Picture | NdArray<Uint8Array> | NdArray<Uint16Array>): Promise<Buffer> {
  const { default: sharp } = await import("sharp");
  const { data } = picture;
  const [height, width] = "shape" in picture ? (picture.shape as [number, number]) : [picture.height, picture.width];
  const channels = "shape" in picture ? 1 : 3;
  const flat = !("shape" in picture) || picture.shape.length === 2;
  if (!flat || data.length === 0 || data.length !== height * width * channels) {
    const received = "shape" in picture ? `shape [${picture.shape}]` : `${height}×${width}`;
    throw new LayerEnsemblesError(
      "ERR_LE_SHAPE",
      `Expected H×W values, at least one, for the PNG but received ${received} with ${data.length} values`,
    );
  }
  const space = channels === 3 ? "srgb" : data instanceof Uint16Array ? "grey16" : "b-w";
  return sharp(data, { raw: { width, height, channels }, limitInputPixels: false })
    .toColourspace(space)
    .png({ compressionLevel: 6, palette: false, adaptiveFiltering: channels === 3 })
    .toBuffer();
}

/**
 * Writes a PNG in one piece: see {@link encodePng}.
 * @param orientation EXIF orientation that the file shall carry; the pixels are in the order that it names. @default 1
 * @throws ERR_LE_SHAPE, ERR_LE_IO
 */
export async function writePng(
  path: string,
  picture: Picture | NdArray<Uint8Array> | NdArray<Uint16Array>,
  orientation: Orientation = 1,
): Promise<void> {
  await writeAtomic(path, withOrientation(await encodePng(picture), orientation));
}

/**
 * Probabilities or shares in [0, 1] as grey values, H×W; 8 bits (255 levels) or 16 bits (65 535 levels).
 * @param bits @default 8
 */
export function probabilityToGrey(map: NdArray, bits: 8 | 16 = 8): NdArray<Uint8Array> | NdArray<Uint16Array> {
  const top = bits === 8 ? 255 : 65535;
  const level = (value: number) => Math.round(Math.min(1, Math.max(0, value)) * top);
  const Type = bits === 8 ? Uint8Array : Uint16Array;
  const data = new Type(map.data.length);
  // Not Type.from, which takes a mapped value at a time through an iterator: twenty times as long.
  for (let i = 0; i < data.length; i++) data[i] = level(map.data[i]!);
  return { data, shape: map.shape } as NdArray<Uint8Array> | NdArray<Uint16Array>;
}
