// DICOM Segmentation: PS3.3 A.51, C.8.20.
import { type NdArray, type NumericArray, snapshot } from "../../arrays.js";
import { checkFloats, type FloatArray, fail } from "../../checks.js";
import type { Grid } from "../../grid/index.js";
import { checkOptions, describe, option } from "../../options.js";
import { toLabels } from "../labels.js";
import type { Volume } from "../volume.js";
import {
  CODE,
  type Code,
  checkTexts,
  codeItems,
  DERIVED_OPTIONS,
  type DerivedFrame,
  type DerivedOptions,
  inSource,
  shortText,
  type WrittenInstance,
  writeDerived,
} from "./derived.js";
import type { Attributes } from "./elements.js";
import { sourceOf } from "./source.js";

/** The greatest probability as it is stored. */
const MOST = 255;
/** How far beyond 0 and 1 a probability may lie by the rounding of sums. */
const ROUNDING = 1e-4;
const TISSUE: Code = { value: "85756007", scheme: "SCT", meaning: "Tissue" };

/** What is segmented: a class of a label map, or a channel of probabilities. */
export interface Segment {
  /** The label, or the channel: a whole number from 1; 0 is the background, which is no segment. */
  label: number;
  /** What it is called: at most 64 characters. */
  name: string;
  /** What it is (SegmentedPropertyTypeCodeSequence). @default SCT 85756007, Tissue */
  code?: Code;
  /** Of what kind that is (SegmentedPropertyCategoryCodeSequence). @default SCT 85756007, Tissue */
  category?: Code;
  /** How viewers are to show it: red, green and blue (sRGB), from 0 to 255 each. Default: as they like */
  colour?: readonly [red: number, green: number, blue: number];
}

/** What is written: labels as a BINARY segmentation, probabilities as a FRACTIONAL one. */
export type WritableSegmentation = {
  /** Where it lies. Default: where its source does */
  readonly grid?: Grid | null;
} & (
  | {
      /** [D, H, W], whole numbers from 0. */
      readonly labels: NdArray<NumericArray>;
      /** Not besides labels. */
      readonly probabilities?: undefined;
    }
  | {
      /** [C, D, H, W], from 0 to 1, the background's first. */
      readonly probabilities: NdArray<FloatArray>;
      /** Not besides probabilities. */
      readonly labels?: undefined;
    }
);

/** How a segmentation is written. */
export interface SegmentationOptions extends DerivedOptions {
  /** What each label is, in the order in which segments are numbered, from 1. */
  segments: readonly Segment[];
  /** Writes a frame of every segment for every slice, also where nothing is. @default false */
  emptyFrames?: boolean;
  /** The name of what made it. @default "layer-ensembles" */
  algorithm?: string;
}

/** Of a segment: what LO holds. */
const NAME = shortText(64);

const SEGMENT = {
  label: option.required(option.integer({ min: 1, max: 65_535 })),
  name: option.required(NAME),
  code: CODE,
  category: CODE,
  colour: option.array(option.integer({ min: 0, max: 255 }), { length: 3 }),
};

const OPTIONS = {
  ...DERIVED_OPTIONS,
  segments: option.required(
    option.array(
      option.custom<Segment>("an object of options", (value) => typeof value === "object" && value !== null),
      { min: 1 },
    ),
  ),
  emptyFrames: option.boolean({ default: false }),
  algorithm: shortText(64),
};

/**
 * Writes a DICOM Segmentation that refers to the series it was made of: a frame for each segment and slice that it is in, in the
 * series' own grid. Labels are stored as bits (BINARY), probabilities as bytes (FRACTIONAL: 255 times the probability, rounded).
 * Patient, study and frame of reference are the source's, series and instance are new. The file is there whole or not at all.
 * @param path of the file
 * @param volume in the grid of `options.source`; not to be changed before the file is written
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE for a volume in another grid, a label (channel) without a segment, no probabilities
 * @throws ERR_LE_DATA for a source that no file can refer to: without a place, a patient or UIDs of its own, or of uneven slices
 * @throws ERR_LE_OPTION, ERR_LE_IO
 */
export async function writeSegmentation(
  path: string,
  volume: WritableSegmentation,
  options: SegmentationOptions,
): Promise<WrittenInstance> {
  const context = "writeSegmentation";
  const checked = checkOptions(context, options, OPTIONS) as SegmentationOptions;
  const segments = checkSegments(context, checked.segments);
  const name = `the volume for ${path}`;
  const { labels, probabilities, grid: place } = volume;
  if ((labels === undefined) === (probabilities === undefined))
    fail("ERR_LE_SHAPE", name, "either labels or probabilities", describe(volume));
  const stored = labels
    ? binary(name, labels, segments)
    : fractional(name, probabilities as NdArray<FloatArray>, segments);
  const origin = inSource(path, stored.shape, place, checked.source);
  const slices = origin.grid.shape[0];
  const all = Array.from(segments, (_, s) => Array.from({ length: slices }, (_, k) => ({ s, k }))).flat();
  const filled = checked.emptyFrames ? all : all.filter(({ s, k }) => stored.has(s, k));
  // A file has frames, so that nothing found is written as frames in which nothing is.
  const frames = filled.length > 0 ? filled : all;
  const algorithm = checked.algorithm ?? "layer-ensembles";
  const [, rows, columns] = origin.grid.shape;
  return writeDerived(
    path,
    {
      title: "Segmentation",
      sopClassUID: "1.2.840.10008.5.1.4.1.1.66.4",
      modality: "SEG",
      attributes: {
        ImageType: ["DERIVED", "PRIMARY"],
        ContentLabel: "SEGMENTATION",
        ContentDescription: "Segmentation",
        SamplesPerPixel: 1,
        PhotometricInterpretation: "MONOCHROME2",
        PixelRepresentation: 0,
        ...stored.attributes,
        SegmentSequence: segments.map((segment, s) => segmentItem(segment, s + 1, algorithm)),
      },
      shared: {},
      dimensions: [["ReferencedSegmentNumber", "SegmentIdentificationSequence"]],
      frames: frames.map(
        ({ s, k }): DerivedFrame => ({
          slice: k,
          index: [s + 1],
          groups: { SegmentIdentificationSequence: [{ ReferencedSegmentNumber: s + 1 }] },
        }),
      ),
      pixels: {
        keyword: "PixelData",
        bytes: Math.ceil((frames.length * rows * columns * stored.bits) / 8),
        pieces: stored.pieces(frames),
      },
    },
    origin,
    checked,
  );
}

/**
 * Checks names of segments before there is anything to segment.
 * @param what messages call them, such as "the class names"
 * @throws ERR_LE_OPTION for one that is empty or too long, has a backslash or a control character, or is another one's, too
 */
export function checkSegmentNames(what: string, names: readonly string[]): void {
  const seen = new Set<string>();
  for (const name of names) {
    if (!NAME.accepts(name))
      fail("ERR_LE_OPTION", what, `${NAME.expected} each, as segments of DICOM have,`, describe(name));
    // Spaces at the ends mean nothing: PS3.5 §6.2.
    const own = name.trim();
    if (seen.has(own))
      fail(
        "ERR_LE_OPTION",
        what,
        "names that differ, as segments of DICOM are told apart by them,",
        `${describe(own)} twice`,
      );
    seen.add(own);
  }
}

/**
 * Whether files can refer to a series, and have these texts: asked before there is anything to write.
 * @throws ERR_LE_DATA, ERR_LE_OPTION as {@link writeSegmentation}
 */
export function checkSource(name: string, source: Omit<Volume, "data">, texts: readonly string[]): void {
  checkTexts(name, sourceOf(source, name).source, texts.join(""));
}

function checkSegments(context: string, given: readonly Segment[]): Segment[] {
  if (given.length > 65_535)
    fail("ERR_LE_OPTION", `option 'segments' of ${context}`, "at most 65535", `${given.length}`);
  const segments = given.map((segment, i) => checkOptions(`segments[${i}] of ${context}`, segment, SEGMENT) as Segment);
  const seen = new Set<number>();
  for (const { label } of segments) {
    if (seen.has(label))
      fail("ERR_LE_OPTION", `option 'segments' of ${context}`, "one for each label", `two of ${label}`);
    seen.add(label);
  }
  checkSegmentNames(
    `option 'segments' of ${context}`,
    segments.map(({ name }) => name),
  );
  return segments;
}

function segmentItem({ name, code, category, colour }: Segment, number: number, algorithm: string): Attributes {
  return {
    SegmentNumber: number,
    SegmentLabel: name,
    SegmentAlgorithmType: "AUTOMATIC",
    SegmentAlgorithmName: algorithm,
    SegmentedPropertyCategoryCodeSequence: codeItems(category ?? TISSUE),
    SegmentedPropertyTypeCodeSequence: codeItems(code ?? TISSUE),
    ...(colour && { RecommendedDisplayCIELabValue: labOf(colour) }),
  };
}

/** A segment, from 0, in a slice. */
interface Place {
  s: number;
  k: number;
}

/** How frames are stored. */
interface Stored {
  /** Of the volume that was given. */
  shape: readonly number[];
  /** Bits of a pixel. */
  bits: 1 | 8;
  attributes: Attributes;
  /** Whether a segment is anywhere in a slice. */
  has(s: number, k: number): boolean;
  pieces(frames: readonly Place[]): Iterable<Uint8Array>;
}

/** Labels as bits: PS3.5 §8.1.1, from the lowest one on, frames without a gap. */
function binary(name: string, given: NdArray<NumericArray>, segments: readonly Segment[]): Stored {
  const own = snapshot(given);
  if (own?.shape.length !== 3 || own.data.length !== own.shape.reduce((a, b) => a * b, 1))
    return fail("ERR_LE_SHAPE", name, "labels [D, H, W]", describe(own?.shape ?? given));
  const { shape } = own;
  const [slices, rows, columns] = shape as [number, number, number];
  const plane = rows * columns;
  const { data } = toLabels(own.data, 0, (expected, received) => fail("ERR_LE_VALUE", name, expected, received));
  const numbers = new Uint16Array(65_536);
  for (const [s, { label }] of segments.entries()) numbers[label] = s + 1;
  const found = new Uint8Array(segments.length * slices);
  for (let k = 0, i = 0; k < slices; k++)
    for (const end = i + plane; i < end; i++) {
      const label = data[i] as number;
      if (label === 0) continue;
      const number = numbers[label] as number;
      if (number === 0) fail("ERR_LE_VALUE", name, "labels that option 'segments' names", `${label} at position ${i}`);
      found[(number - 1) * slices + k] = 1;
    }
  return {
    shape,
    bits: 1,
    attributes: { SegmentationType: "BINARY", BitsAllocated: 1, BitsStored: 1, HighBit: 0 },
    has: (s, k) => found[s * slices + k] === 1,
    *pieces(frames) {
      let [begun, held] = [0, 0];
      for (const { s, k } of frames) {
        const { label } = segments[s] as Segment;
        const bytes = new Uint8Array(Math.ceil((held + plane) / 8));
        bytes[0] = begun;
        for (let i = k * plane, at = held, end = held + plane; at < end; i++, at++)
          if (data[i] === label) bytes[at >> 3] = (bytes[at >> 3] as number) | (1 << (at & 7));
        const whole = (held + plane) >> 3;
        held = (held + plane) & 7;
        begun = held > 0 ? (bytes[whole] as number) : 0;
        yield bytes.subarray(0, whole);
      }
      if (held > 0) yield Uint8Array.of(begun);
    },
  };
}

/** Probabilities as bytes. */
function fractional(name: string, given: NdArray<FloatArray>, segments: readonly Segment[]): Stored {
  const { data, shape } = checkFloats(name, given, 4, "[C, D, H, W]");
  if (shape.length !== 4) fail("ERR_LE_SHAPE", name, "probabilities [C, D, H, W]", describe(shape));
  const [channels, slices, rows, columns] = shape as [number, number, number, number];
  const plane = rows * columns;
  const labels = new Set(segments.map(({ label }) => label));
  const without = Array.from({ length: channels }, (_, c) => c).find((c) => c > 0 && !labels.has(c));
  const beyond = segments.find(({ label }) => label >= channels);
  if (without !== undefined || beyond) {
    const received = beyond ? `a segment of channel ${beyond.label}` : `none of channel ${without}`;
    fail("ERR_LE_VALUE", name, `a segment for each of channels 1 to ${channels - 1}`, received);
  }
  for (let i = 0; i < data.length; i++) {
    const value = data[i] as number;
    if (!(value >= -ROUNDING && value <= 1 + ROUNDING))
      fail("ERR_LE_VALUE", name, "probabilities from 0 to 1", `${value} at position ${i}`);
  }
  const frame = ({ s, k }: Place) => {
    const from = ((segments[s] as Segment).label * slices + k) * plane;
    return data.subarray(from, from + plane);
  };
  return {
    shape,
    bits: 8,
    attributes: {
      SegmentationType: "FRACTIONAL",
      SegmentationFractionalType: "PROBABILITY",
      MaximumFractionalValue: MOST,
      BitsAllocated: 8,
      BitsStored: 8,
      HighBit: 7,
    },
    has: (s, k) => frame({ s, k }).some((value) => byteOf(value) > 0),
    *pieces(frames) {
      for (const place of frames) yield Uint8Array.from(frame(place), byteOf);
    },
  };
}

function byteOf(probability: number): number {
  return Math.round(Math.min(1, Math.max(0, probability)) * MOST);
}

/** A colour as DICOM has it: CIELab of the profile connection space (D50), in 16 bits each. PS3.3 C.10.7.1.1. */
function labOf(colour: readonly number[]): number[] {
  const linear = colour.map((one) => (one / 255 <= 0.04045 ? one / 255 / 12.92 : ((one / 255 + 0.055) / 1.055) ** 2.4));
  // sRGB to XYZ, adapted to D50 by Bradford's matrix, each row by the white's: IEC 61966-2-1, ICC.1:2022 Annex E.
  const [x, y, z] = [
    [0.4360747, 0.3850649, 0.1430804, 0.9642],
    [0.2225045, 0.7168786, 0.0606169, 1],
    [0.0139322, 0.0971045, 0.7141733, 0.8249],
  ].map(([r = 0, g = 0, b = 0, white = 1]) => {
    const t = (r * (linear[0] as number) + g * (linear[1] as number) + b * (linear[2] as number)) / white;
    return t > 216 / 24389 ? Math.cbrt(t) : ((24389 / 27) * t + 16) / 116;
  }) as [number, number, number];
  const lab = [(116 * y - 16) / 100, (500 * (x - y) + 128) / 255, (200 * (y - z) + 128) / 255];
  return lab.map((one) => Math.round(Math.min(1, Math.max(0, one)) * 65_535));
}
