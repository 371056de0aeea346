// Small files of volumes, byte by byte.

/** What a NIfTI file has other than the usual: 4×3×2 voxels of int16, 0 to 23. */
export interface NiftiFields {
  version?: 1 | 2;
  big?: boolean;
  pair?: boolean;
  dim?: number[];
  datatype?: number;
  bitpix?: number;
  pixdim?: number[];
  offset?: number;
  slope?: number;
  intercept?: number;
  units?: number;
  qform?: number;
  sform?: number;
  quaternion?: number[];
  qoffset?: number[];
  srow?: number[];
  magic?: string;
  /** The voxels' bytes. */
  voxels?: Uint8Array;
  /** Between the header's end and the voxels. */
  before?: Uint8Array;
}

/** The header of a NIfTI file, and its voxels unless it is one of a pair. */
export function niftiFile(fields: NiftiFields = {}): Buffer {
  const { version = 1, big = false, pair = false, dim = [3, 4, 3, 2] } = fields;
  const { pixdim = [1, 2, 3, 4], slope = 0, intercept = 0, units = 2, qform = 0, sform = 0 } = fields;
  const size = version === 1 ? 348 : 540;
  const bytes = Buffer.alloc(size);
  const view = new DataView(bytes.buffer, bytes.byteOffset, size);
  const little = !big;
  const one = version === 1;
  const real = (at: number, values: readonly number[]) =>
    values.forEach((value, i) => {
      if (one) view.setFloat32(at + 4 * i, value, little);
      else view.setFloat64(at + 8 * i, value, little);
    });
  const code = (at: number, value: number) =>
    one ? view.setInt16(at, value, little) : view.setInt32(at, value, little);
  view.setInt32(0, size, little);
  const magic = fields.magic ?? `${pair ? "ni" : "n+"}${version}\0${one ? "" : "\r\n\x1a\n"}`;
  bytes.write(magic, one ? 344 : 4, "latin1");
  for (let i = 0; i < 8; i++)
    if (one) view.setInt16(40 + 2 * i, dim[i] ?? 1, little);
    else view.setBigInt64(16 + 8 * i, BigInt(dim[i] ?? 1), little);
  view.setInt16(one ? 70 : 12, fields.datatype ?? 4, little);
  view.setInt16(one ? 72 : 14, fields.bitpix ?? 16, little);
  real(one ? 76 : 104, pixdim);
  const offset = fields.offset ?? (pair ? 0 : size + 4);
  if (one) view.setFloat32(108, offset, little);
  else view.setBigInt64(168, BigInt(offset), little);
  real(one ? 112 : 176, [slope, intercept]);
  if (one) view.setUint8(123, units);
  else view.setInt32(500, units, little);
  code(one ? 252 : 344, qform);
  code(one ? 254 : 348, sform);
  real(one ? 256 : 352, [...(fields.quaternion ?? [0, 0, 0]), ...(fields.qoffset ?? [0, 0, 0])]);
  real(one ? 280 : 400, fields.srow ?? [2, 0, 0, -10, 0, 3, 0, -20, 0, 0, 4, 30]);
  if (pair) return bytes;
  return Buffer.concat([bytes, fields.before ?? Buffer.alloc(4), fields.voxels ?? int16(24, big)]);
}

/** 0, 1, 2, … */
export function int16(count: number, big = false): Buffer {
  const bytes = Buffer.from(Int16Array.from({ length: count }, (_, i) => i).buffer);
  return big ? bytes.swap16() : bytes;
}

/** A header of lines with what follows. */
export function textFile(lines: readonly string[], voxels: Uint8Array = int16(24)): Buffer {
  return Buffer.concat([Buffer.from(`${lines.join("\n")}\n`), voxels]);
}
