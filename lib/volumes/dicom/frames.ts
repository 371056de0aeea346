// What a DICOM file says of each of its frames.
import { type DataSet, decimals, itemsOf, refuseFile } from "./parser.js";
import type { TransferSyntax } from "./syntaxes.js";

/** Three numbers in the patient's coordinates (LPS), millimetres for places. */
export type Vector = readonly [number, number, number];

/** A file with frames, without its pixels. */
export interface ImageFile {
  path: string;
  /** Bytes of the file, unpacked where it is deflated. */
  size: number;
  seriesUid: string;
  instanceUid: string;
  classUid: string;
  frames: Frame[];
}

/** A frame without its pixels. */
export interface Frame {
  file: ImageFile;
  /** From 0. */
  index: number;
  rows: number;
  columns: number;
  bitsAllocated: number;
  bitsStored: number;
  signed: boolean;
  slope: number;
  intercept: number;
  /** Of the first pixel's centre. */
  position?: Vector;
  /** Direction cosines of a row (along which the column index grows) and of a column. */
  orientation?: readonly [row: Vector, column: Vector];
  /** Between rows and between columns. */
  spacing?: readonly [row: number, column: number];
  /** Between slices along their normal, as the file says. */
  between?: number;
  thickness?: number;
  /** Of a segmentation, the segment that it is of. */
  segment?: number;
  /** What must be equal within a volume, by its name in a list of candidates; empty where the file does not say. */
  same: Readonly<Record<string, string>>;
  /** What tells volumes at the same places apart. */
  apart: Readonly<Record<string, string>>;
}

/** Classes of files that describe others, not images. */
const directoryClass = "1.2.840.10008.1.3.10";
const segmentationClass = "1.2.840.10008.5.1.4.1.1.66.4";

/** A DICOM file that holds no image. */
export interface NoImage {
  path: string;
  seriesUid: string;
  /** Why, in words. */
  reason: string;
}

/**
 * Reads a file's frames.
 * @throws ERR_LE_DATA for an image that cannot be read right: colour, floats, no pixel data, contradictions
 */
export function framesOf(data: DataSet, syntax: TransferSyntax, path: string): ImageFile | NoImage {
  const text = (tag: string, of = data) => of.string(tag)?.replaceAll("\0", "").trim() ?? "";
  const classUid = text("x00080016") || text("x00020002");
  const seriesUid = text("x0020000e");
  if (classUid === directoryClass || text("x00020002") === directoryClass)
    return { path, seriesUid, reason: "a DICOMDIR, a list of other files" };
  if (data.elements.x7fe00008 || data.elements.x7fe00009)
    refuseFile(path, "integer pixel data", "Float Pixel Data, which are not read");
  const rows = data.uint16("x00280010");
  const columns = data.uint16("x00280011");
  const pixels = data.elements.x7fe00010;
  if (!rows && !columns && !pixels)
    return {
      path,
      seriesUid,
      reason: `no image (class ${classUid || "unknown"}, ${text("x00080060") || "no modality"})`,
    };
  if (!pixels || pixels.length === 0) refuseFile(path, "an image", "no pixel data");
  if (!rows || !columns)
    return refuseFile(path, "Rows and Columns above 0", `${rows ?? "none"} and ${columns ?? "none"}`);
  const samples = data.uint16("x00280002") ?? 1;
  const photometric = text("x00280004");
  if (samples !== 1 || !["MONOCHROME1", "MONOCHROME2"].includes(photometric))
    refuseFile(
      path,
      "grey values (1 sample, MONOCHROME1 or MONOCHROME2)",
      `${samples} samples, ${photometric || "no photometric interpretation"}`,
    );
  const layout = layoutOf(data, path);
  if (data.elements.x00283000)
    refuseFile(path, "a slope and an intercept", "a table of values (Modality LUT Sequence)");
  const fractional = classUid === segmentationClass && text("x00620001") === "FRACTIONAL";
  if (fractional) refuseFile(path, "a segmentation of whole voxels", "a FRACTIONAL one");
  if (syntax.bigEndian && ![8, 16].includes(layout.bitsAllocated))
    refuseFile(path, "8 or 16 bits allocated in big endian", `${layout.bitsAllocated}`);

  const count = decimals(data, "x00280008", path)?.[0] ?? 1;
  if (!Number.isSafeInteger(count) || count < 1) refuseFile(path, "a whole number of frames above 0", `${count}`);
  const bits = rows * columns * count * layout.bitsAllocated;
  // What is packed may be much smaller, but a frame has a fragment of 8 bytes at the least.
  const held = syntax.coding ? count * 8 : Math.ceil(bits / 8);
  if (held > pixels.length || held > data.byteArray.length - pixels.dataOffset) {
    const there = Math.min(pixels.length, data.byteArray.length - pixels.dataOffset);
    refuseFile(
      path,
      `at least ${held} bytes of pixel data (${count} × ${rows} × ${columns})`,
      `${there}; the file is cut short`,
    );
  }
  if (!syntax.coding && pixels.length > held + 1)
    refuseFile(path, `${held} bytes of pixel data (${count} × ${rows} × ${columns})`, `${pixels.length}`);

  const shared = itemsOf(data, "x52009229")[0];
  const perFrame = itemsOf(data, "x52009230");
  if (perFrame.length > 0 && perFrame.length !== count)
    refuseFile(path, `functional groups of ${count} frames`, `${perFrame.length}`);
  const file: ImageFile = {
    path,
    size: data.byteArray.length,
    seriesUid,
    instanceUid: text("x00080018"),
    classUid,
    frames: [],
  };
  for (let index = 0; index < count; index++) {
    /** The macro of a frame, else of all of them, else the file itself: what has the attribute. */
    const find = (sequence: string, tag: string, whole = true) =>
      [perFrame[index], shared]
        .map((group) => itemsOf(group, sequence)[0])
        .concat(whole ? [data] : [])
        .find((group) => group?.elements[tag] && group.elements[tag].length > 0);
    const numbers = (sequence: string, tag: string, whole?: boolean) => {
      const from = find(sequence, tag, whole);
      return from && decimals(from, tag, path);
    };
    const shown = (sequence: string, tag: string) => {
      const from = find(sequence, tag);
      return from ? text(tag, from) : "";
    };
    const integer = (sequence: string, tag: string, long = false) => {
      const from = find(sequence, tag);
      return `${(long ? from?.uint32(tag) : from?.uint16(tag)) ?? ""}`;
    };
    const float = (sequence: string, tag: string) => `${find(sequence, tag)?.double(tag) ?? ""}`;
    // One place for all frames is a place of none.
    const position = numbers("x00209113", "x00200032", count === 1);
    const orientation = numbers("x00209116", "x00200037");
    const spacing = numbers("x00289110", "x00280030");
    const slope = numbers("x00289145", "x00281053")?.[0] ?? 1;
    if (slope === 0) refuseFile(path, "a rescale slope other than 0", "0");
    const thickness = numbers("x00289110", "x00180050")?.[0];
    const between = numbers("x00289110", "x00180088")?.[0];
    const segment = Number(integer("x0062000a", "x0062000b"));
    const segmented = classUid === segmentationClass;
    if (segmented && !segment) refuseFile(path, "a segment for each frame", `none for frame ${index + 1}`);
    const frame: Frame = {
      file,
      index,
      rows,
      columns,
      ...layout,
      slope,
      intercept: numbers("x00289145", "x00281052")?.[0] ?? 0,
      ...(position && { position: vector(position, "a position", path) }),
      ...(orientation && { orientation: axes(orientation, path) }),
      ...(spacing && { spacing: pair(spacing, path) }),
      ...(between !== undefined && between > 0 && { between }),
      ...(thickness !== undefined && thickness > 0 && { thickness }),
      ...(segmented && { segment }),
      same: {
        acquisition: integer("x00209111", "x00209156") || shown("x00209111", "x00200012"),
        echo:
          float("x00189114", "x00189082") ||
          decimalText(numbers("x00189114", "x00180081")) ||
          shown("x00189114", "x00180086"),
        stack: shown("x00209111", "x00209056"),
        time: integer("x00209111", "x00209128", true) || decimalText(numbers("x00209111", "x00200100")),
        diffusion: float("x00189117", "x00189087"),
        segment: segmented ? "" : integer("x0062000a", "x0062000b"),
        // Files of a series number their segments each by itself.
        segmentation: segmented ? file.instanceUid : "",
        frame: text("x00200052"),
        kind: text("x00080008").split("\\")[2]?.trim() ?? "",
        photometric,
        type: typeName(layout),
        units: shown("x00289145", "x00281054"),
      },
      apart: {
        image: shown("x00189226", "x00089007") || text("x00080008"),
        trigger: float("x00189118", "x00209153") || decimalText(numbers("x00189118", "x00181060")),
      },
    };
    file.frames.push(frame);
  }
  return file;
}

/** The type of stored values, such as `int16`. */
export function typeName({ bitsAllocated, signed }: Pick<Frame, "bitsAllocated" | "signed">): string {
  return `${signed ? "" : "u"}int${Math.max(8, bitsAllocated)}`;
}

function layoutOf(data: DataSet, path: string): Pick<Frame, "bitsAllocated" | "bitsStored" | "signed"> {
  const bitsAllocated = data.uint16("x00280100") ?? 0;
  const bitsStored = data.uint16("x00280101") ?? bitsAllocated;
  const highBit = data.uint16("x00280102") ?? bitsStored - 1;
  const representation = data.uint16("x00280103") ?? 0;
  if (![1, 8, 16, 32].includes(bitsAllocated)) refuseFile(path, "1, 8, 16 or 32 bits allocated", `${bitsAllocated}`);
  if (bitsStored < 1 || bitsStored > bitsAllocated || highBit !== bitsStored - 1 || representation > 1) {
    const received = `${bitsStored} stored, high bit ${highBit}, representation ${representation}`;
    refuseFile(path, `1 to ${bitsAllocated} bits stored, the lowest ones, signed or not (1 or 0)`, received);
  }
  return { bitsAllocated, bitsStored, signed: representation === 1 && bitsAllocated > 1 };
}

function decimalText(values: readonly number[] | undefined): string {
  return values?.join("\\") ?? "";
}

function vector(values: readonly number[], what: string, path: string): Vector {
  if (values.length !== 3) refuseFile(path, `three numbers for ${what}`, `${values.length}`);
  return values as unknown as Vector;
}

function pair(values: readonly number[], path: string): readonly [number, number] {
  const [row = 0, column = 0] = values;
  if (values.length !== 2 || !(row > 0) || !(column > 0))
    refuseFile(path, "a pixel spacing of two numbers above 0", values.join("\\"));
  return [row, column];
}

function axes(values: readonly number[], path: string): readonly [Vector, Vector] {
  const row = vector(values.slice(0, 3), "the direction of a row", path);
  const column = vector(values.slice(3), "the direction of a column", path);
  const unit = (of: Vector) => Math.abs(Math.hypot(...of) - 1) < 1e-3;
  if (!unit(row) || !unit(column) || Math.abs(dot(row, column)) > 1e-3)
    refuseFile(path, "directions of length 1 at a right angle", values.join("\\"));
  return [row, column];
}

export function dot(a: Vector, b: Vector): number {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}
