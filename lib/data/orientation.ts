// EXIF orientation: how the stored rows and columns of a picture lie when it is shown. Masks are drawn on the picture as it is
// shown, so images are turned when they are read, and what is laid on the file is turned back.
import type { NdArray, NumericArray } from "../arrays.js";

/**
 * EXIF's and TIFF's orientation, where the stored first row and first column are when the picture is shown: 1 top left (as
 * stored), 2 top right (mirrored), 3 bottom right (turned by 180°), 4 bottom left (upside down), 5 left top (transposed),
 * 6 right top (turned clockwise), 7 right bottom (transposed about the other diagonal), 8 left bottom (turned
 * counter-clockwise).
 */
export type Orientation = 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8;

/** A tag's value; what is no orientation counts as none, as viewers have it. */
export function toOrientation(value: number | undefined): Orientation {
  return value !== undefined && Number.isInteger(value) && value >= 1 && value <= 8 ? (value as Orientation) : 1;
}

/** [height, width] as shown of a picture of this stored size, and the other way round. */
export function orientSize([height, width]: readonly [number, number], orientation: Orientation): [number, number] {
  return orientation > 4 ? [width, height] : [height, width];
}

/**
 * Turns planes as the orientation says.
 * @param array H×W or C×H×W as stored
 * @returns the same as shown; the very array for orientation 1
 */
export function orient<T extends NumericArray>(array: NdArray<T>, orientation: Orientation = 1): NdArray<T> {
  if (orientation === 1) return array;
  const [height, width] = array.shape.slice(-2) as [number, number];
  const leading = array.shape.slice(0, -2);
  const plane = height * width;
  // Where the shown first pixel is stored, and how far a step to the right and one down lead.
  const right = orientation === 2 || orientation === 3 || orientation === 7 || orientation === 8;
  const bottom = orientation === 3 || orientation === 4 || orientation === 6 || orientation === 7;
  const first = (right ? width - 1 : 0) + (bottom ? plane - width : 0);
  const [alongRow, alongColumn] = [right ? -1 : 1, bottom ? -width : width];
  const [dx, dy] = orientation > 4 ? [alongColumn, alongRow] : [alongRow, alongColumn];
  const [shownHeight, shownWidth] = orientSize([height, width], orientation);
  const data = new (array.data.constructor as new (length: number) => T)(array.data.length);
  let target = 0;
  for (let start = first; target < data.length; start += plane)
    for (let y = 0; y < shownHeight; y++)
      for (let x = 0; x < shownWidth; x++) data[target++] = array.data[start + y * dy + x * dx] as number;
  return { data, shape: [...leading, shownHeight, shownWidth] };
}

/**
 * Undoes {@link orient}.
 * @param array H×W or C×H×W as shown
 * @returns the same as stored; the very array for orientation 1
 */
export function orientBack<T extends NumericArray>(array: NdArray<T>, orientation: Orientation = 1): NdArray<T> {
  // A quarter turn is undone by the other; everything else by itself.
  return orient(array, orientation === 6 ? 8 : orientation === 8 ? 6 : orientation);
}

/**
 * The orientation that a block of EXIF names, which has the form of a TIFF.
 * @returns 1 where it names none, or is damaged
 */
export function exifOrientation(exif: Uint8Array): Orientation {
  const prefix = Buffer.from(exif.subarray(0, 6)).toString("latin1") === "Exif\0\0" ? 6 : 0;
  const bytes = Buffer.from(exif.buffer, exif.byteOffset + prefix, exif.byteLength - prefix);
  if (bytes.length < 8) return 1;
  const order = bytes.toString("latin1", 0, 2);
  if (order !== "II" && order !== "MM") return 1;
  const little = order === "II";
  const short = (at: number) => (little ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at));
  const long = (at: number) => (little ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at));
  const directory = long(4);
  if (short(2) !== 42 || directory + 2 > bytes.length) return 1;
  const entries = short(directory);
  for (let i = 0; i < entries; i++) {
    const at = directory + 2 + i * 12;
    if (at + 12 > bytes.length) return 1;
    if (short(at) === 274) return toOrientation(short(at + 2) === 3 ? short(at + 8) : long(at + 8));
  }
  return 1;
}
