// Files of many frames that are made of a series, and refer to it: what segmentations and parametric maps share. PS3.3 A.51, A.75.
import { randomUUID } from "node:crypto";
import { fail } from "../../checks.js";
import { writeAtomic } from "../../data/files.js";
import type { Grid } from "../../grid/index.js";
import { describe, option } from "../../options.js";
import { PACKAGE_VERSION } from "../../package.js";
import { isSamePlace } from "../affine.js";
import type { Volume } from "../volume.js";
import { type Attributes, encodeFile, headOf, type Keyword, tagOf } from "./elements.js";
import { dot, type Vector } from "./frames.js";
import { normalOf } from "./geometry.js";
import { type Source, sourceOf } from "./source.js";

/** A concept of a coding scheme, such as `{ value: "10200004", scheme: "SCT", meaning: "Liver" }`. */
export interface Code {
  /** Its code in the scheme. */
  value: string;
  /** The scheme's designator (PS3.16 section 8), such as SCT for SNOMED CT, DCM, UCUM; 99… for one of your own. */
  scheme: string;
  /** What it means, in words. */
  meaning: string;
}

/** What every file made of a series may be told. */
export interface DerivedOptions {
  /** The series that it was made of, as `readVolume` gave it, with or without its data; in its grid it is written. */
  source: Omit<Volume, "data">;
  /** Of the new series. @default 300 */
  seriesNumber?: number;
  /** Of the new series. Default: what it is */
  seriesDescription?: string;
}

/** What was written. */
export interface WrittenInstance {
  /** Of the new series, which has this one file. */
  seriesInstanceUID: string;
  /** Of the file. */
  sopInstanceUID: string;
  /** How many it has. */
  frames: number;
}

/** A text of at most `most` characters that an element may hold: PS3.5 §6.2. */
export const shortText = (most: number) =>
  option.pattern(
    `a text of 1 to ${most} characters without backslashes and control characters`,
    new RegExp(`^(?=.*[^ ])[^\\\\\\x00-\\x1f\\x7f]{1,${most}}$`, "u"),
  );

/** {@link Code}, for checks. */
export const CODE = option.object<Code>({
  value: option.required(shortText(64)),
  scheme: option.required(shortText(16)),
  meaning: option.required(shortText(64)),
});

/** {@link DerivedOptions}, for checks. */
export const DERIVED_OPTIONS = {
  source: option.required(
    option.custom<Omit<Volume, "data">>(
      "a volume that readVolume gave",
      (value) => typeof value === "object" && value !== null,
    ),
  ),
  seriesNumber: option.integer({ min: 0, max: 2 ** 31 - 1, default: 300 }),
  seriesDescription: shortText(64),
};

/** A code as the items of a sequence. */
export function codeItems({ value, scheme, meaning }: Code): Attributes[] {
  const key = value.length > 16 ? "LongCodeValue" : "CodeValue";
  return [{ [key]: value, CodingSchemeDesignator: scheme, CodeMeaning: meaning }];
}

/** A frame of the file to be. */
export interface DerivedFrame {
  /** The slice of the source at which it is, from 0. */
  slice: number;
  /** Its places along the dimensions before that of the position, from 1. */
  index: readonly number[];
  /** Its functional groups besides those that every frame has. */
  groups: Attributes;
}

/** A file to be. */
export interface Derived {
  /** What it is, in words. */
  title: string;
  sopClassUID: string;
  modality: string;
  attributes: Attributes;
  /** What frames differ by besides their position: an attribute and its functional group. */
  dimensions: readonly (readonly [pointer: Keyword, group: Keyword])[];
  /** Functional groups that all frames share. */
  shared: Attributes;
  /** At least one. */
  frames: readonly DerivedFrame[];
  pixels: {
    keyword: "PixelData" | "FloatPixelData";
    /** In all. */
    bytes: number;
    /** One after another. */
    pieces: Iterable<Uint8Array>;
  };
}

/**
 * Checks that a volume is in the grid of the series that it is to refer to.
 * @param volume [D, H, W], or [C, D, H, W]
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, with what to do; as {@link sourceOf}
 */
export function inSource(
  name: string,
  shape: readonly number[],
  place: Grid | null | undefined,
  of: Omit<Volume, "data">,
): { source: Source; grid: Grid } {
  const { source, grid } = sourceOf(of, name);
  const remedy = "bring it back by restore, or resample it by nearest neighbours";
  if (`${shape.slice(-3)}` !== `${grid.shape}`) {
    const received = `${shape.slice(-3).join("×")} voxels; ${remedy}`;
    return fail("ERR_LE_SHAPE", `the volume for ${name}`, `the ${grid.shape.join("×")} voxels of its source`, received);
  }
  if (place && !(`${place.shape}` === `${grid.shape}` && isSamePlace(place, grid)))
    return fail("ERR_LE_VALUE", `the volume for ${name}`, "the grid of its source", `another; ${remedy}`);
  return { source, grid };
}

const EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1";
/** Of this package, whatever its version. */
const IMPLEMENTATION = "2.25.184630965802588547536030809547588074954";
/** A length of four bytes that is even, and not the one that stands for none. */
const MOST_BYTES = 2 ** 32 - 2;

/**
 * Writes a file that refers to its source. It is there whole or not at all.
 * @throws ERR_LE_VALUE for more pixels than a file holds; ERR_LE_OPTION for texts that the source's character set lacks; ERR_LE_IO
 */
export async function writeDerived(
  path: string,
  derived: Derived,
  { source, grid }: { source: Source; grid: Grid },
  {
    seriesNumber = DERIVED_OPTIONS.seriesNumber.default,
    seriesDescription = derived.title,
  }: Omit<DerivedOptions, "source">,
): Promise<WrittenInstance> {
  const { frames, pixels, sopClassUID } = derived;
  if (pixels.bytes > MOST_BYTES) {
    const received = `${pixels.bytes} (${frames.length} frames); write fewer of them into a file`;
    fail("ERR_LE_VALUE", `the pixels of ${path}`, `at most ${MOST_BYTES} bytes`, received);
  }
  // What is not copied.
  checkTexts(path, source, JSON.stringify([derived.attributes, derived.shared, seriesDescription]));
  const [sopInstanceUID, seriesInstanceUID] = [newUid(), newUid()];
  const meta: Attributes = {
    FileMetaInformationVersion: Buffer.from([0, 1]),
    MediaStorageSOPClassUID: sopClassUID,
    MediaStorageSOPInstanceUID: sopInstanceUID,
    TransferSyntaxUID: EXPLICIT_LITTLE_ENDIAN,
    ImplementationClassUID: IMPLEMENTATION,
    ImplementationVersionName: `LE ${PACKAGE_VERSION}`.slice(0, 16),
  };
  const attributes: Attributes = {
    ...headerOf(source),
    ...functionalGroups(derived, source),
    SOPClassUID: sopClassUID,
    SOPInstanceUID: sopInstanceUID,
    SeriesInstanceUID: seriesInstanceUID,
    SeriesNumber: seriesNumber,
    SeriesDescription: seriesDescription,
    Modality: derived.modality,
    NumberOfFrames: frames.length,
    Rows: grid.shape[1],
    Columns: grid.shape[2],
    ...derived.attributes,
  };
  const head = encodeFile(meta, attributes, path, source.characterSet === undefined ? "utf8" : "latin1");
  const padding = pixels.bytes % 2;
  function* content() {
    yield head;
    yield headOf(pixels.keyword, pixels.bytes + padding);
    yield* pixels.pieces;
    yield new Uint8Array(padding);
  }
  await writeAtomic(path, content());
  return { seriesInstanceUID, sopInstanceUID, frames: frames.length };
}

/** @throws ERR_LE_OPTION for texts that the source's character set, which is kept, may lack */
export function checkTexts(path: string, { characterSet }: Source, texts: string): void {
  const [foreign] = /[^ -~]+/.exec(texts) ?? [];
  if (characterSet === undefined || foreign === undefined) return;
  const received = `${describe(foreign)}: the source's texts are in ${characterSet || "no known character set"}`;
  fail("ERR_LE_OPTION", `the texts of ${path}`, "ASCII characters", received);
}

/** A UID that nobody else has: PS3.5 Annex B.2. */
function newUid(): string {
  return `2.25.${BigInt(`0x${randomUUID().replaceAll("-", "")}`)}`;
}

/** Patient, study, series, equipment, and what is referred to. */
function headerOf({ texts, characterSet = "ISO_IR 192", ...source }: Source): Attributes {
  const { seriesInstanceUID, slices, deidentification } = source;
  const { Modality: _, Laterality: __, TimezoneOffsetFromUTC, ...copied } = texts;
  const { date, time, offset } = clock(TimezoneOffsetFromUTC);
  const instances = new Map(slices.map(({ sopInstanceUID, sopClassUID }) => [sopInstanceUID, sopClassUID]));
  return {
    ...(characterSet !== "" && { SpecificCharacterSet: characterSet }),
    // Those that must be there, if without a value.
    PatientName: "",
    PatientID: "",
    PatientBirthDate: "",
    PatientSex: "",
    StudyDate: "",
    StudyTime: "",
    StudyID: "",
    AccessionNumber: "",
    ReferringPhysicianName: "",
    PositionReferenceIndicator: "",
    ...Object.fromEntries(Object.entries(copied).filter(([, text]) => text !== undefined)),
    ...(deidentification.length > 0 && { DeidentificationMethodCodeSequence: deidentification.flatMap(codeItems) }),
    ...(offset && { TimezoneOffsetFromUTC: offset }),
    InstanceCreationDate: date,
    InstanceCreationTime: time,
    SeriesDate: date,
    SeriesTime: time,
    ContentDate: date,
    ContentTime: time,
    InstanceNumber: 1,
    Manufacturer: "layer-ensembles",
    ManufacturerModelName: "layer-ensembles",
    DeviceSerialNumber: "1",
    SoftwareVersions: PACKAGE_VERSION,
    ContentCreatorName: "",
    ReferencedSeriesSequence: [
      {
        SeriesInstanceUID: seriesInstanceUID,
        ReferencedInstanceSequence: [...instances].map(([uid, classUid]) => ({
          ReferencedSOPClassUID: classUid,
          ReferencedSOPInstanceUID: uid,
        })),
      },
    ],
  };
}

/** Now, by the clock of the source's times where it says which that is, else by this machine's. */
function clock(offset: string | undefined): { date: string; time: string; offset?: string } {
  const now = new Date();
  const [, sign, hours, minutes] = /^([+-])(\d\d)(\d\d)$/.exec(offset ?? "") ?? [];
  const east = sign ? (sign === "-" ? -1 : 1) * (Number(hours) * 60 + Number(minutes)) : -now.getTimezoneOffset();
  const [date = "", time = ""] = new Date(now.getTime() + east * 60_000).toISOString().split("T");
  return {
    date: date.replaceAll("-", ""),
    time: time.slice(0, 8).replaceAll(":", ""),
    ...(sign && offset && { offset }),
  };
}

/** Dimensions, and where each frame lies and what it comes from: PS3.3 C.7.6.16, C.7.6.17. */
function functionalGroups({ dimensions, frames, shared }: Derived, source: Source): Attributes {
  const { slices, orientation, pixelSpacing } = source;
  const organization = newUid();
  const pointers = [...dimensions, ["ImagePositionPatient", "PlanePositionSequence"] as const];
  const used = [...new Set(frames.map(({ slice }) => slice))].sort((a, b) => a - b);
  const ranks = new Map(used.map((slice, i) => [slice, i + 1]));
  const between = stepOf(source);
  return {
    DimensionOrganizationSequence: [{ DimensionOrganizationUID: organization }],
    DimensionIndexSequence: pointers.map(([pointer, group]) => ({
      DimensionOrganizationUID: organization,
      DimensionIndexPointer: tagOf(pointer),
      FunctionalGroupPointer: tagOf(group),
      DimensionDescriptionLabel: pointer,
    })),
    SharedFunctionalGroupsSequence: [
      {
        PixelMeasuresSequence: [
          {
            PixelSpacing: pixelSpacing,
            SliceThickness: source.sliceThickness ?? between ?? "",
            ...(between !== undefined && { SpacingBetweenSlices: between }),
          },
        ],
        PlaneOrientationSequence: [{ ImageOrientationPatient: orientation }],
        ...shared,
      },
    ],
    PerFrameFunctionalGroupsSequence: frames.map(({ slice, index, groups }) => {
      const { position, sopClassUID, sopInstanceUID, frame } = slices[slice] as Source["slices"][0];
      return {
        FrameContentSequence: [{ DimensionIndexValues: [...index, ranks.get(slice) as number] }],
        PlanePositionSequence: [{ ImagePositionPatient: position }],
        DerivationImageSequence: [
          {
            DerivationCodeSequence: codeItems(DERIVATION),
            SourceImageSequence: [
              {
                ReferencedSOPClassUID: sopClassUID,
                ReferencedSOPInstanceUID: sopInstanceUID,
                ...(frame !== undefined && { ReferencedFrameNumber: frame }),
                PurposeOfReferenceCodeSequence: codeItems(PURPOSE),
                SpatialLocationsPreserved: "YES",
              },
            ],
          },
        ],
        ...groups,
      };
    }),
  };
}

const DERIVATION: Code = { value: "113076", scheme: "DCM", meaning: "Segmentation" };
const PURPOSE: Code = { value: "121322", scheme: "DCM", meaning: "Source image for image processing operation" };

/** Between slices, along their normal; undefined for one alone. */
function stepOf({ slices, orientation }: Source): number | undefined {
  const [first, last] = [slices[0], slices.at(-1)] as [Source["slices"][0], Source["slices"][0]];
  if (slices.length === 1) return undefined;
  const [a, b] = [orientation.slice(0, 3), orientation.slice(3)] as unknown as [Vector, Vector];
  const normal = normalOf([a, b]);
  return (dot(last.position, normal) - dot(first.position, normal)) / (slices.length - 1);
}
