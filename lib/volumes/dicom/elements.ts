// Elements to bytes: explicit little endian, PS3.5 §7.1.2. Attributes go by their keywords in PS3.6.
import { refuseFile } from "./parser.js";

/** The attributes that are written: tag and value representation by keyword. */
const DICTIONARY = {
  FileMetaInformationVersion: ["00020001", "OB"],
  MediaStorageSOPClassUID: ["00020002", "UI"],
  MediaStorageSOPInstanceUID: ["00020003", "UI"],
  TransferSyntaxUID: ["00020010", "UI"],
  ImplementationClassUID: ["00020012", "UI"],
  ImplementationVersionName: ["00020013", "SH"],
  SpecificCharacterSet: ["00080005", "CS"],
  ImageType: ["00080008", "CS"],
  InstanceCreationDate: ["00080012", "DA"],
  InstanceCreationTime: ["00080013", "TM"],
  SOPClassUID: ["00080016", "UI"],
  SOPInstanceUID: ["00080018", "UI"],
  StudyDate: ["00080020", "DA"],
  SeriesDate: ["00080021", "DA"],
  ContentDate: ["00080023", "DA"],
  StudyTime: ["00080030", "TM"],
  SeriesTime: ["00080031", "TM"],
  ContentTime: ["00080033", "TM"],
  AccessionNumber: ["00080050", "SH"],
  Modality: ["00080060", "CS"],
  Manufacturer: ["00080070", "LO"],
  ReferringPhysicianName: ["00080090", "PN"],
  CodeValue: ["00080100", "SH"],
  CodingSchemeDesignator: ["00080102", "SH"],
  CodeMeaning: ["00080104", "LO"],
  LongCodeValue: ["00080119", "UC"],
  TimezoneOffsetFromUTC: ["00080201", "SH"],
  StudyDescription: ["00081030", "LO"],
  SeriesDescription: ["0008103e", "LO"],
  ManufacturerModelName: ["00081090", "LO"],
  ReferencedSeriesSequence: ["00081115", "SQ"],
  ReferencedInstanceSequence: ["0008114a", "SQ"],
  ReferencedSOPClassUID: ["00081150", "UI"],
  ReferencedSOPInstanceUID: ["00081155", "UI"],
  ReferencedFrameNumber: ["00081160", "IS"],
  SourceImageSequence: ["00082112", "SQ"],
  FrameType: ["00089007", "CS"],
  DerivationImageSequence: ["00089124", "SQ"],
  DerivationCodeSequence: ["00089215", "SQ"],
  PatientName: ["00100010", "PN"],
  PatientID: ["00100020", "LO"],
  IssuerOfPatientID: ["00100021", "LO"],
  PatientBirthDate: ["00100030", "DA"],
  PatientSex: ["00100040", "CS"],
  PatientAge: ["00101010", "AS"],
  PatientSize: ["00101020", "DS"],
  PatientWeight: ["00101030", "DS"],
  ClinicalTrialSponsorName: ["00120010", "LO"],
  ClinicalTrialProtocolID: ["00120020", "LO"],
  ClinicalTrialProtocolName: ["00120021", "LO"],
  ClinicalTrialSiteID: ["00120030", "LO"],
  ClinicalTrialSiteName: ["00120031", "LO"],
  ClinicalTrialSubjectID: ["00120040", "LO"],
  ClinicalTrialSubjectReadingID: ["00120042", "LO"],
  PatientIdentityRemoved: ["00120062", "CS"],
  DeidentificationMethod: ["00120063", "LO"],
  DeidentificationMethodCodeSequence: ["00120064", "SQ"],
  BodyPartExamined: ["00180015", "CS"],
  SliceThickness: ["00180050", "DS"],
  SpacingBetweenSlices: ["00180088", "DS"],
  ContentQualification: ["00189004", "CS"],
  DeviceSerialNumber: ["00181000", "LO"],
  SoftwareVersions: ["00181020", "LO"],
  StudyInstanceUID: ["0020000d", "UI"],
  SeriesInstanceUID: ["0020000e", "UI"],
  StudyID: ["00200010", "SH"],
  SeriesNumber: ["00200011", "IS"],
  InstanceNumber: ["00200013", "IS"],
  ImagePositionPatient: ["00200032", "DS"],
  ImageOrientationPatient: ["00200037", "DS"],
  FrameOfReferenceUID: ["00200052", "UI"],
  Laterality: ["00200060", "CS"],
  PositionReferenceIndicator: ["00201040", "LO"],
  FrameContentSequence: ["00209111", "SQ"],
  PlanePositionSequence: ["00209113", "SQ"],
  PlaneOrientationSequence: ["00209116", "SQ"],
  DimensionIndexValues: ["00209157", "UL"],
  DimensionOrganizationUID: ["00209164", "UI"],
  DimensionIndexPointer: ["00209165", "AT"],
  FunctionalGroupPointer: ["00209167", "AT"],
  DimensionOrganizationSequence: ["00209221", "SQ"],
  DimensionIndexSequence: ["00209222", "SQ"],
  DimensionDescriptionLabel: ["00209421", "LO"],
  SamplesPerPixel: ["00280002", "US"],
  PhotometricInterpretation: ["00280004", "CS"],
  NumberOfFrames: ["00280008", "IS"],
  Rows: ["00280010", "US"],
  Columns: ["00280011", "US"],
  PixelSpacing: ["00280030", "DS"],
  BitsAllocated: ["00280100", "US"],
  BitsStored: ["00280101", "US"],
  HighBit: ["00280102", "US"],
  PixelRepresentation: ["00280103", "US"],
  BurnedInAnnotation: ["00280301", "CS"],
  RecognizableVisualFeatures: ["00280302", "CS"],
  LongitudinalTemporalInformationModified: ["00280303", "CS"],
  WindowCenter: ["00281050", "DS"],
  WindowWidth: ["00281051", "DS"],
  RescaleIntercept: ["00281052", "DS"],
  RescaleSlope: ["00281053", "DS"],
  RescaleType: ["00281054", "LO"],
  VOILUTFunction: ["00281056", "CS"],
  LossyImageCompression: ["00282110", "CS"],
  LossyImageCompressionRatio: ["00282112", "DS"],
  LossyImageCompressionMethod: ["00282114", "CS"],
  LUTExplanation: ["00283003", "LO"],
  SpatialLocationsPreserved: ["0028135a", "CS"],
  PixelMeasuresSequence: ["00289110", "SQ"],
  FrameVOILUTSequence: ["00289132", "SQ"],
  PixelValueTransformationSequence: ["00289145", "SQ"],
  AcquisitionContextSequence: ["00400555", "SQ"],
  MeasurementUnitsCodeSequence: ["004008ea", "SQ"],
  RealWorldValueMappingSequence: ["00409096", "SQ"],
  ParametricMapFrameTypeSequence: ["00409092", "SQ"],
  LUTLabel: ["00409210", "SH"],
  DoubleFloatRealWorldValueLastValueMapped: ["00409213", "FD"],
  DoubleFloatRealWorldValueFirstValueMapped: ["00409214", "FD"],
  QuantityDefinitionSequence: ["00409220", "SQ"],
  RealWorldValueIntercept: ["00409224", "FD"],
  RealWorldValueSlope: ["00409225", "FD"],
  ValueType: ["0040a040", "CS"],
  ConceptNameCodeSequence: ["0040a043", "SQ"],
  ConceptCodeSequence: ["0040a168", "SQ"],
  PurposeOfReferenceCodeSequence: ["0040a170", "SQ"],
  SegmentationType: ["00620001", "CS"],
  SegmentSequence: ["00620002", "SQ"],
  SegmentedPropertyCategoryCodeSequence: ["00620003", "SQ"],
  SegmentNumber: ["00620004", "US"],
  SegmentLabel: ["00620005", "LO"],
  SegmentAlgorithmType: ["00620008", "CS"],
  SegmentAlgorithmName: ["00620009", "LO"],
  SegmentIdentificationSequence: ["0062000a", "SQ"],
  ReferencedSegmentNumber: ["0062000b", "US"],
  RecommendedDisplayCIELabValue: ["0062000d", "US"],
  MaximumFractionalValue: ["0062000e", "US"],
  SegmentedPropertyTypeCodeSequence: ["0062000f", "SQ"],
  SegmentationFractionalType: ["00620010", "CS"],
  ContentLabel: ["00700080", "CS"],
  ContentDescription: ["00700081", "LO"],
  ContentCreatorName: ["00700084", "PN"],
  PresentationLUTShape: ["20500020", "CS"],
  SharedFunctionalGroupsSequence: ["52009229", "SQ"],
  PerFrameFunctionalGroupsSequence: ["52009230", "SQ"],
  FloatPixelData: ["7fe00008", "OF"],
  PixelData: ["7fe00010", "OB"],
} as const satisfies Record<string, readonly [tag: string, vr: string]>;

/** An attribute's name. */
export type Keyword = keyof typeof DICTIONARY;

/** Texts, numbers, bytes, or the items of a sequence. A list of texts or numbers is of several values. */
export type Value = string | number | readonly string[] | readonly number[] | Uint8Array | readonly Attributes[];

/** Attributes of a data set or of a sequence's item; those without a value are empty. */
export type Attributes = { readonly [K in Keyword]?: Value };

/** The tag of an attribute. */
export function tagOf(keyword: Keyword): number {
  return Number.parseInt(DICTIONARY[keyword][0], 16);
}

/** The name that dicom-parser gives an attribute. */
export function parsedName(keyword: Keyword): string {
  return `x${DICTIONARY[keyword][0]}`;
}

/** Value representations whose length has four bytes, after two that are 0. */
const LONG = new Set(["OB", "OF", "SQ", "UC"]);
/** Numbers, little-endian. */
const NUMBERS: Record<string, readonly [bytes: number, write: (view: DataView, at: number, value: number) => void]> = {
  US: [2, (view, at, value) => view.setUint16(at, value, true)],
  UL: [4, (view, at, value) => view.setUint32(at, value, true)],
  FD: [8, (view, at, value) => view.setFloat64(at, value, true)],
  AT: [
    4,
    (view, at, tag) => {
      view.setUint16(at, tag >>> 16, true);
      view.setUint16(at + 2, tag, true);
    },
  ],
};

/** How texts become bytes: `latin1` where they are bytes of a character set that is kept. */
export type TextEncoding = "utf8" | "latin1";

/** A file with its preamble and meta information, up to its pixel data. @param name of the file, for messages */
export function encodeFile(meta: Attributes, attributes: Attributes, name: string, texts: TextEncoding): Buffer {
  const group = encode(meta, name, texts);
  const length = Buffer.from([2, 0, 0, 0, 0x55, 0x4c, 4, 0, 0, 0, 0, 0]);
  length.writeUInt32LE(group.length, 8);
  return Buffer.concat([Buffer.alloc(128), Buffer.from("DICM"), length, group, encode(attributes, name, texts)]);
}

/** The head of an element whose value follows. @param bytes of the value, an even number below 2³² - 2 */
export function headOf(keyword: Keyword, bytes: number): Buffer {
  const vr = DICTIONARY[keyword][1];
  const head = Buffer.alloc(LONG.has(vr) ? 12 : 8);
  const tag = tagOf(keyword);
  head.writeUInt16LE(tag >>> 16, 0);
  head.writeUInt16LE(tag & 0xffff, 2);
  head.write(vr, 4, "latin1");
  if (LONG.has(vr)) head.writeUInt32LE(bytes, 8);
  else head.writeUInt16LE(bytes, 6);
  return head;
}

/** Most bytes of a value whose length has two bytes. */
const MOST_SHORT = 0xfffe;

function encode(attributes: Attributes, name: string, texts: TextEncoding): Buffer {
  const keywords = (Object.keys(attributes) as Keyword[]).filter((keyword) => attributes[keyword] !== undefined);
  keywords.sort((a, b) => tagOf(a) - tagOf(b));
  const parts = keywords.flatMap((keyword) => {
    const vr = DICTIONARY[keyword][1];
    const value = bytesOf(vr, attributes[keyword] as Value, name, texts);
    if (!LONG.has(vr) && value.length > MOST_SHORT)
      refuseFile(name, `at most ${MOST_SHORT} bytes of ${keyword}`, `${value.length}`);
    return [headOf(keyword, value.length), value];
  });
  return Buffer.concat(parts);
}

const ITEM = [0xfe, 0xff, 0x00, 0xe0, 0, 0, 0, 0];

function bytesOf(vr: string, value: Value, name: string, texts: TextEncoding): Buffer {
  if (value instanceof Uint8Array) return even(Buffer.from(value.buffer, value.byteOffset, value.byteLength), 0);
  if (vr === "SQ")
    return Buffer.concat(
      (value as readonly Attributes[]).flatMap((item) => {
        const body = encode(item, name, texts);
        const head = Buffer.from(ITEM);
        head.writeUInt32LE(body.length, 4);
        return [head, body];
      }),
    );
  const values = (Array.isArray(value) ? value : [value]) as readonly (string | number)[];
  const number = NUMBERS[vr];
  if (number) {
    const [bytes, write] = number;
    const out = Buffer.alloc(bytes * values.length);
    const view = new DataView(out.buffer, out.byteOffset, out.length);
    for (const [i, one] of values.entries()) write(view, i * bytes, one as number);
    return out;
  }
  const text = values.map((one) => (typeof one === "number" ? decimalText(one) : one)).join("\\");
  return even(Buffer.from(text, texts), vr === "UI" ? 0 : 0x20);
}

/** Padded to an even number of bytes. */
function even(bytes: Buffer, padding: number): Buffer {
  return bytes.length % 2 ? Buffer.concat([bytes, Buffer.from([padding])]) : bytes;
}

/** Most characters of a decimal text (DS). */
const MOST_DECIMAL = 16;

/** A number as a decimal text (DS): the nearest of at most 16 characters. */
export function decimalText(value: number): string {
  for (let digits = 17; ; digits--) {
    const text = `${Number(value.toPrecision(digits)) + 0}`;
    if (text.length <= MOST_DECIMAL) return text;
  }
}
