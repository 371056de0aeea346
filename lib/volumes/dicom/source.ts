// What is kept of a series for the files that refer to it: as a volume's opaque header.
import { TextDecoder } from "node:util";
import { fail } from "../../checks.js";
import type { Grid } from "../../grid/index.js";
import { describe } from "../../options.js";
import type { Volume } from "../volume.js";
import type { Code } from "./derived.js";
import { type Keyword, parsedName } from "./elements.js";
import type { Frame, Vector } from "./frames.js";
import { type DataSet, itemsOf } from "./parser.js";

/** The attributes of patient, study and place that a derived file has of its source: PS3.3 C.7.1 to C.7.4. */
const COPIED = [
  ...(["StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyDescription", "StudyID"] as const),
  ...(["PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"] as const),
  ...(["PatientSize", "PatientWeight", "PatientIdentityRemoved", "DeidentificationMethod"] as const),
  ...(["ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName"] as const),
  ...(["ClinicalTrialSiteID", "ClinicalTrialSiteName", "ClinicalTrialSubjectID"] as const),
  ...(["ClinicalTrialSubjectReadingID", "TimezoneOffsetFromUTC", "BodyPartExamined", "Laterality"] as const),
  ...(["StudyInstanceUID", "FrameOfReferenceUID", "PositionReferenceIndicator", "LossyImageCompression"] as const),
  ...(["LossyImageCompressionRatio", "LossyImageCompressionMethod"] as const),
  "LongitudinalTemporalInformationModified",
] satisfies Keyword[];

/** The one patient, study and space that a derived file can be of. */
const ONE = ["PatientID", "StudyInstanceUID", "FrameOfReferenceUID"] as const satisfies (typeof COPIED)[number][];

/** A source's texts, also those that are there without a value. */
export type SourceTexts = { readonly [K in (typeof COPIED)[number] | "Modality"]?: string | undefined };

/** A slice's frame, and where it lies. */
export interface SourceSlice {
  sopClassUID: string;
  sopInstanceUID: string;
  /** Its number, where the file has several. */
  frame: number | undefined;
  position: Vector;
}

/** A series, as a file that refers to it needs it. Plain JSON. */
export interface Source {
  texts: SourceTexts;
  /** How the patient's identity was removed, as codes. */
  deidentification: Code[];
  /** The character set of the texts, which are its bytes; absent where they are Unicode. */
  characterSet: string | undefined;
  seriesInstanceUID: string;
  orientation: readonly number[];
  /** Between rows and between columns. */
  pixelSpacing: readonly [row: number, column: number];
  /** Undefined where files do not say, or differ. */
  sliceThickness: number | undefined;
  /** By their positions, ascending. */
  slices: SourceSlice[];
  /** Why no file can refer to it: what was expected, and what came. */
  fault?: readonly [expected: string, received: string];
}

/** Character sets of one byte a character, and those that hold all of Unicode: PS3.3 C.12.1.1.2, by the names of the Encoding Standard. */
const CHARACTER_SETS: Record<string, string> = {
  "": "utf-8",
  "ISO_IR 6": "utf-8",
  "ISO_IR 192": "utf-8",
  "ISO_IR 100": "iso-8859-1",
  "ISO_IR 101": "iso-8859-2",
  "ISO_IR 109": "iso-8859-3",
  "ISO_IR 110": "iso-8859-4",
  "ISO_IR 144": "iso-8859-5",
  "ISO_IR 127": "iso-8859-6",
  "ISO_IR 126": "iso-8859-7",
  "ISO_IR 138": "iso-8859-8",
  "ISO_IR 148": "iso-8859-9",
  "ISO_IR 166": "windows-874",
  "ISO_IR 203": "iso-8859-15",
  GB18030: "gb18030",
  GBK: "gbk",
};

/** What a file says of patient, study and place. */
export interface FileTexts {
  texts: SourceTexts;
  deidentification: Code[];
  /** That of texts that are kept as bytes. */
  characterSet?: string;
}

/** Reads the texts of a file: as Unicode where its character set is known and they are of it, else as its bytes. */
export function textsOf(data: DataSet): FileTexts {
  const all = (decoder?: TextDecoder): FileTexts => {
    const keywords = [...COPIED, "Modality"] as const;
    const codes = itemsOf(data, parsedName("DeidentificationMethodCodeSequence"));
    return {
      texts: Object.fromEntries(keywords.map((keyword) => [keyword, textIn(data, keyword, decoder)])),
      deidentification: codes.map((code) => ({
        value: textIn(code, "CodeValue") ?? "",
        scheme: textIn(code, "CodingSchemeDesignator") ?? "",
        meaning: textIn(code, "CodeMeaning", decoder) ?? "",
      })),
    };
  };
  try {
    const decoder = decoderOf(data, true);
    if (decoder) return all(decoder);
  } catch {
    // Bytes of another character set than the file says: they are copied as they are.
  }
  return { ...all(), characterSet: textIn(data, "SpecificCharacterSet") ?? "" };
}

/**
 * What decodes a file's texts; undefined where their character set is not known.
 * @param fatal whether it throws for those of another one
 */
export function decoderOf(data: DataSet, fatal: boolean): TextDecoder | undefined {
  const label = CHARACTER_SETS[textIn(data, "SpecificCharacterSet") ?? ""];
  return label === undefined ? undefined : new TextDecoder(label, { fatal, ignoreBOM: true });
}

/** A text without its padding: its bytes as characters where nothing decodes them. Undefined where it is not there. */
export function textIn(data: DataSet, keyword: Keyword, decoder?: TextDecoder): string | undefined {
  const element = data.elements[parsedName(keyword)];
  if (!element) return undefined;
  const bytes = data.byteArray.subarray(element.dataOffset, element.dataOffset + element.length);
  const text = decoder ? decoder.decode(bytes) : Buffer.from(bytes).toString("latin1");
  return text.replaceAll("\0", "").trim();
}

/**
 * The header of a volume of DICOM.
 * @param frames in the order of the slices; all have a place
 * @param files what each of their files says
 * @param uneven how slices lie, where they were taken as evenly apart
 */
export function sourceHeader(frames: readonly Frame[], files: readonly FileTexts[], uneven?: string): Uint8Array {
  const [first] = frames as [Frame];
  const [{ texts, deidentification, characterSet }] = files as [FileTexts];
  const lossy = files.find((file) => file.texts.LossyImageCompression === "01")?.texts;
  const thickness = frames.every((frame) => frame.thickness === first.thickness) ? first.thickness : undefined;
  const source: Source = {
    texts: {
      ...texts,
      LossyImageCompression: lossy ? "01" : "00",
      LossyImageCompressionRatio: lossy?.LossyImageCompressionRatio,
      LossyImageCompressionMethod: lossy?.LossyImageCompressionMethod,
    },
    deidentification,
    characterSet,
    seriesInstanceUID: first.file.seriesUid,
    orientation: (first.orientation as NonNullable<Frame["orientation"]>).flat(),
    pixelSpacing: first.spacing as NonNullable<Frame["spacing"]>,
    sliceThickness: thickness,
    slices: frames.map(({ file, index, position }) => ({
      sopClassUID: file.classUid,
      sopInstanceUID: file.instanceUid,
      frame: file.frames.length > 1 ? index + 1 : undefined,
      position: position as Vector,
    })),
  };
  const fault = faultOf(source, files) ?? (uneven ? (["slices evenly apart", uneven] as const) : undefined);
  return Buffer.from(JSON.stringify({ ...source, fault }));
}

/** A UID: PS3.5 §9.1. Leading zeros, which it forbids, are in files all the same. */
const UID = /^[0-9]+(\.[0-9]+)*$/;

/** Why no file can refer to a series. */
function faultOf({ texts, seriesInstanceUID, slices }: Source, files: readonly FileTexts[]): Source["fault"] {
  for (const keyword of ONE) {
    const values = [...new Set(files.map((file) => file.texts[keyword] || "none"))];
    if (values.length > 1) return [`one ${keyword} in all of them`, values.slice(0, 3).join(", ")];
  }
  const uids: Record<string, string | undefined> = {
    SeriesInstanceUID: seriesInstanceUID,
    StudyInstanceUID: texts.StudyInstanceUID,
    FrameOfReferenceUID: texts.FrameOfReferenceUID,
  };
  for (const { sopClassUID, sopInstanceUID } of slices)
    for (const [name, uid] of Object.entries({ ...uids, SOPClassUID: sopClassUID, SOPInstanceUID: sopInstanceUID }))
      if (!uid || uid.length > 64 || !UID.test(uid)) return [`a UID as ${name}`, uid ? describe(uid) : "none"];
  const seen = new Set<string>();
  for (const { sopInstanceUID, frame } of slices) {
    const one = `${sopInstanceUID} ${frame ?? ""}`;
    if (seen.has(one)) return ["a SOPInstanceUID of its own in each", `${sopInstanceUID} twice`];
    seen.add(one);
  }
  return undefined;
}

/**
 * The series that a volume was read from.
 * @param name of the file that is to refer to it
 * @throws ERR_LE_OPTION for a volume of something else; ERR_LE_DATA for a series that no file can refer to
 */
export function sourceOf(volume: Omit<Volume, "data">, name: string): { source: Source; grid: Grid } {
  const { format, header, grid } = volume;
  if (format !== "dicom")
    return fail(
      "ERR_LE_OPTION",
      "option 'source'",
      "a volume that readVolume gave of a DICOM series",
      `one of ${describe(format)}`,
    );
  if (!grid) return fail("ERR_LE_DATA", `the source of ${name}`, "slices with a place", "one without");
  const source = header && parse(header);
  if (!source || source.slices.length !== grid.shape[0])
    return fail("ERR_LE_OPTION", "option 'source'", "a volume as readVolume gave it", "one without its header");
  if (source.fault) {
    const [expected, received] = source.fault;
    const remedy = "write it in a format that refers to no source, such as NIfTI";
    return fail("ERR_LE_DATA", `the source of ${name}`, expected, `${received}; ${remedy}`);
  }
  return { source, grid };
}

function parse(header: Uint8Array): Source | undefined {
  try {
    return JSON.parse(Buffer.from(header).toString());
  } catch {
    return undefined;
  }
}
