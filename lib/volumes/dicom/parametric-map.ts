// DICOM Parametric Map of floats: PS3.3 A.75, C.8.32, C.7.6.24.
import type { NdArray } from "../../arrays.js";
import { checkFloats, type FloatArray, fail } from "../../checks.js";
import type { Grid } from "../../grid/index.js";
import { checkOptions, describe, option } from "../../options.js";
import { toBytes } from "../numbers.js";
import {
  CODE,
  type Code,
  codeItems,
  DERIVED_OPTIONS,
  type DerivedOptions,
  inSource,
  shortText,
  type WrittenInstance,
  writeDerived,
} from "./derived.js";

/** What is written: a value for each voxel. */
export interface WritableMap extends NdArray<FloatArray> {
  /** Where it lies. Default: where its source does */
  readonly grid?: Grid | null;
}

/** How a parametric map is written. */
export interface ParametricMapOptions extends DerivedOptions {
  /** What the values are called, such as `entropy`: at most 64 characters. */
  name: string;
  /** In what they are measured. @default UCUM 1, no units */
  unit?: Code;
  /** What they are, as a concept of a coding scheme. Default: only the name says so */
  quantity?: Code;
  /** The values that viewers show as black and white. Default: the least and the greatest there are */
  range?: readonly [black: number, white: number];
}

const OPTIONS = {
  ...DERIVED_OPTIONS,
  name: option.required(shortText(64)),
  unit: CODE,
  quantity: CODE,
  range: option.custom<readonly [number, number]>(
    "two finite numbers, the greater one last",
    (value) =>
      Array.isArray(value) && value.length === 2 && value.every(Number.isFinite) && Number(value[0]) < Number(value[1]),
  ),
};

const NO_UNIT: Code = { value: "1", scheme: "UCUM", meaning: "no units" };
const QUANTITY: Code = { value: "246205007", scheme: "SCT", meaning: "Quantity" };

/**
 * Writes a DICOM Parametric Map that refers to the series it was made of: the values in single precision, a frame for each slice, in
 * the series' own grid. Patient, study, frame of reference and modality are the source's, series and instance are new. The file is
 * there whole or not at all.
 * @param path of the file
 * @param volume [D, H, W], finite, in the grid of `options.source`; not to be changed before the file is written
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE for a volume in another grid, or values that are not finite in single precision
 * @throws ERR_LE_DATA for a source that no file can refer to, as `writeSegmentation`; ERR_LE_OPTION, ERR_LE_IO
 */
export async function writeParametricMap(
  path: string,
  volume: WritableMap,
  options: ParametricMapOptions,
): Promise<WrittenInstance> {
  const checked = checkOptions("writeParametricMap", options, OPTIONS) as ParametricMapOptions;
  const what = `the volume for ${path}`;
  const { data, shape } = checkFloats(what, volume, 3, "[D, H, W]");
  if (shape.length !== 3) fail("ERR_LE_SHAPE", what, "values [D, H, W]", describe(shape));
  const origin = inSource(path, shape, volume.grid, checked.source);
  const { texts } = origin.source;
  const values = data instanceof Float32Array ? data : Float32Array.from(data);
  let [least, greatest] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (!Number.isFinite(value))
      fail("ERR_LE_VALUE", what, "values that are finite in single precision", `${data[i]} at position ${i}`);
    least = Math.min(least, value);
    greatest = Math.max(greatest, value);
  }
  const [black, white] = checked.range ?? [least, greatest];
  const { name, unit = NO_UNIT, quantity } = checked;
  const [slices, rows, columns] = shape as [number, number, number];
  const plane = rows * columns;
  function* pieces() {
    for (let k = 0; k < slices; k++) yield toBytes(values.subarray(k * plane, (k + 1) * plane), false);
  }
  const kind = ["DERIVED", "PRIMARY", "VOLUME", "NONE"];
  return writeDerived(
    path,
    {
      title: name,
      sopClassUID: "1.2.840.10008.5.1.4.1.1.30",
      modality: texts.Modality || "OT",
      attributes: {
        // A segmentation has none. Where no part is named, nobody knows whether it has a side.
        ...((texts.Laterality || !texts.BodyPartExamined) && { Laterality: texts.Laterality ?? "" }),
        ImageType: kind,
        ContentLabel: "PARAMETRIC_MAP",
        ContentDescription: name,
        ContentQualification: "RESEARCH",
        SamplesPerPixel: 1,
        PhotometricInterpretation: "MONOCHROME2",
        BitsAllocated: 32,
        BurnedInAnnotation: "NO",
        RecognizableVisualFeatures: "NO",
        PresentationLUTShape: "IDENTITY",
        AcquisitionContextSequence: [],
      },
      shared: {
        FrameVOILUTSequence: [
          {
            WindowCenter: (black + white) / 2,
            WindowWidth: white > black ? white - black : 1,
            VOILUTFunction: "LINEAR_EXACT",
          },
        ],
        ParametricMapFrameTypeSequence: [{ FrameType: kind }],
        PixelValueTransformationSequence: [{ RescaleIntercept: 0, RescaleSlope: 1, RescaleType: "US" }],
        RealWorldValueMappingSequence: [
          {
            LUTExplanation: name,
            LUTLabel: name.slice(0, 16).trim(),
            DoubleFloatRealWorldValueFirstValueMapped: least,
            DoubleFloatRealWorldValueLastValueMapped: greatest,
            RealWorldValueIntercept: 0,
            RealWorldValueSlope: 1,
            MeasurementUnitsCodeSequence: codeItems(unit),
            ...(quantity && {
              QuantityDefinitionSequence: [
                {
                  ValueType: "CODE",
                  ConceptNameCodeSequence: codeItems(QUANTITY),
                  ConceptCodeSequence: codeItems(quantity),
                },
              ],
            }),
          },
        ],
      },
      dimensions: [],
      frames: Array.from({ length: slices }, (_, slice) => ({ slice, index: [], groups: {} })),
      pixels: { keyword: "FloatPixelData", bytes: 4 * values.length, pieces: pieces() },
    },
    origin,
    checked,
  );
}
