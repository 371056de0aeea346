// NRRD and MetaImage: headers of text, with their voxels or beside them.
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { deflateSync, gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encodeNpy } from "../../lib/data/npy-file.js";
import { readVolume } from "../../lib/volumes/index.js";
import { int16, textFile } from "../support/volume-files.js";

let root = "";
beforeAll(() => {
  root = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-text-"));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const counted = Array.from({ length: 24 }, (_, i) => i);
const refused = (reading: Promise<unknown>, message: RegExp) =>
  expect(reading).rejects.toMatchObject({ code: "ERR_LE_DATA", message: expect.stringMatching(message) });

/** A header of lines; a field that is undefined is left out. */
type Fields = Record<string, string | undefined>;
const lines = (fields: Fields, between: string) =>
  Object.entries(fields).flatMap(([key, value]) => (value === undefined ? [] : [`${key}${between}${value}`]));

const nrrdFields: Fields = {
  type: "short",
  dimension: "3",
  sizes: "4 3 2",
  space: "left-posterior-superior",
  "space directions": "(2,0,0) (0,3,0) (0,0,4)",
  "space origin": "(10,20,30)",
  endian: "little",
  encoding: "raw",
};
const nrrd = (fields: Fields = {}, voxels?: Uint8Array) =>
  textFile(["NRRD0004", "# a comment", ...lines({ ...nrrdFields, ...fields }, ": "), "key:=value", ""], voxels);

const metaFields: Fields = {
  ObjectType: "Image",
  NDims: "3",
  BinaryData: "True",
  BinaryDataByteOrderMSB: "False",
  TransformMatrix: "0 1 0 1 0 0 0 0 1",
  Offset: "10 20 30",
  CenterOfRotation: "9 9 9",
  AnatomicalOrientation: "RAI",
  ElementSpacing: "2 3 4",
  DimSize: "4 3 2",
  ElementType: "MET_SHORT",
};
const meta = (fields: Fields = {}, voxels?: Uint8Array) =>
  textFile(lines({ ...metaFields, ...fields, ElementDataFile: fields.ElementDataFile ?? "LOCAL" }, " = "), voxels);

describe("NRRD", () => {
  it.each([
    ["left-posterior-superior", [-1, -1, 1]],
    ["LPS", [-1, -1, 1]],
    ["right-anterior-superior", [1, 1, 1]],
    ["left-anterior-superior", [-1, 1, 1]],
  ])("in the space %s", async (space, [x, y, z]) => {
    const volume = await readVolume(nrrd({ space }));
    expect(volume).toMatchObject({ shape: [2, 3, 4], dtype: "int16", format: "nrrd", warnings: [] });
    expect(Array.from(volume.data)).toEqual(counted);
    expect(volume.grid?.affine.slice(0, 3)).toEqual([
      [2 * (x as number), 0, 0, 10 * (x as number)],
      [0, 3 * (y as number), 0, 20 * (y as number)],
      [0, 0, 4 * (z as number), 30 * (z as number)],
    ]);
  });

  it.each([
    [{ space: "scanner-xyz" }, /not one of the patient/],
    [{ space: undefined, "space dimension": "3" }, /no space/],
    [{ "space origin": undefined }, /missing or not finite/],
    [{ "space directions": "(2,0,0) (0,nan,0) (0,0,4)" }, /missing or not finite/],
    [{ "space directions": "(2,0,0) (0,3,0) (0,6,0)" }, /no inverse/],
    [{ "space units": '"furlong" "mm" "mm"' }, /space units/],
  ] as [Fields, RegExp][])("without a place for %j", async (fields, warning) => {
    const volume = await readVolume(nrrd(fields));
    expect(volume.grid).toBeNull();
    expect(volume.warnings.join()).toMatch(warning);
    expect(Array.from(volume.data)).toEqual(counted);
  });

  it("in other units is in millimetres, which is said", async () => {
    const volume = await readVolume(nrrd({ space: "RAS", "space units": '"m" "cm" "um"' }));
    expect(volume.grid?.affine.slice(0, 3)).toEqual([
      [2000, 0, 0, 10_000],
      [0, 30, 0, 200],
      [0, 0, 0.004, 0.03],
    ]);
    expect(volume.warnings.join()).toMatch(/converted to millimetres/);
  });

  it("in either byte order, packed, and behind bytes to skip", async () => {
    const data = async (fields: Fields, voxels: Uint8Array) =>
      Array.from((await readVolume(nrrd(fields, voxels))).data);
    expect(await data({ endian: "big" }, int16(24, true))).toEqual(counted);
    expect(await data({ encoding: "gzip" }, gzipSync(int16(24)))).toEqual(counted);
    const skipped = Buffer.concat([Buffer.alloc(5, 7), int16(24)]);
    expect(await data({ "byte skip": "5" }, skipped)).toEqual(counted);
    expect(await data({ "byte skip": "-1" }, skipped)).toEqual(counted);
    expect(await data({ encoding: "gz", "byte skip": "5" }, gzipSync(skipped))).toEqual(counted);
  });

  it("of several values of a voxel, first or last, becomes planes where they are asked for", async () => {
    const first = nrrd({ dimension: "4", sizes: "2 2 3 2", "space directions": "none (2,0,0) (0,3,0) (0,0,4)" });
    const last = nrrd({ dimension: "4", sizes: "2 3 2 2", "space directions": "(2,0,0) (0,3,0) (0,0,4) none" });
    await refused(readVolume(first), /ask for channels/);
    const planes = await readVolume(first, { channels: true });
    expect(planes.shape).toEqual([2, 2, 3, 2]);
    const even = counted.filter((value) => value % 2 === 0);
    expect(Array.from(planes.data)).toEqual([...even, ...even.map((value) => value + 1)]);
    expect(planes.grid?.affine[2]).toEqual([0, 0, 4, 30]);
    expect(Array.from((await readVolume(last, { channels: true })).data)).toEqual(counted);
  });

  it.each([
    ["bzip2", { encoding: "bzip2" }, /raw or gzip .* bzip2/],
    ["hex", { encoding: "hex" }, /hex/],
    ["text", { encoding: "ascii" }, /ascii/],
    ["blocks", { type: "block" }, /block/],
    ["no byte order", { endian: undefined }, /the endian/],
    ["sizes of another number", { sizes: "4 3" }, /3 sizes/],
    ["an empty axis", { sizes: "4 0 2" }, /3 sizes of 1 or more/],
    ["more voxels than it has", { sizes: "4 3 2000000" }, /48000000 bytes of voxels .* received 48/],
    ["fewer voxels than it has", { sizes: "4 3 1" }, /24 more/],
    ["more voxels than are allowed", { sizes: "9999 99999 99999" }, /at most 1000000000/],
    ["one axis", { dimension: "1", sizes: "24" }, /a dimension/],
    ["four axes of space", { dimension: "4", sizes: "2 2 3 2", "space directions": undefined }, /2 or 3 axes/],
    ["line skip", { "line skip": "2" }, /line skip/],
    ["a field twice", { Type: "short" }, /'type' once/],
    ["several files", { "data file": "%03d.raw 1 3 1" }, /several/],
    ["complex numbers", { kinds: "complex domain domain" }, /complex/],
  ] as [string, Fields, RegExp][])("is refused for %s", (_, fields, message) =>
    refused(readVolume(nrrd(fields)), message),
  );
});

describe("MetaImage", () => {
  it("lists the direction of each axis, in left-posterior-superior; its centre of rotation moves nothing", async () => {
    const volume = await readVolume(meta());
    expect(volume).toMatchObject({ shape: [2, 3, 4], dtype: "int16", format: "metaimage", warnings: [] });
    expect(Array.from(volume.data)).toEqual(counted);
    expect(volume.grid?.affine.slice(0, 3)).toEqual([
      [0, -3, 0, -10],
      [-2, 0, 0, -20],
      [0, 0, 4, 30],
    ]);
  });

  it("in either byte order, packed, and with several channels", async () => {
    const data = async (fields: Fields, voxels: Uint8Array, options = {}) =>
      Array.from((await readVolume(meta(fields, voxels), options)).data);
    expect(await data({ BinaryDataByteOrderMSB: "True" }, int16(24, true))).toEqual(counted);
    expect(await data({ CompressedData: "True" }, deflateSync(int16(24)))).toEqual(counted);
    await refused(
      readVolume(meta({ CompressedData: "True" }, Buffer.concat([deflateSync(int16(24)), Buffer.from("x")]))),
      /1 bytes after it/,
    );
    await refused(
      readVolume(meta({ CompressedData: "True" }, deflateSync(int16(24)).subarray(0, -1))),
      /whole compressed/,
    );
    const channels = { DimSize: "4 3 1", ElementNumberOfChannels: "2" };
    await refused(readVolume(meta(channels)), /ask for channels/);
    const even = counted.filter((value) => value % 2 === 0);
    expect(await data(channels, int16(24), { channels: true })).toEqual([...even, ...even.map((value) => value + 1)]);
  });

  it("says what it does not know", async () => {
    const spacingless = await readVolume(meta({ ElementSpacing: undefined }));
    expect(spacingless.grid).toBeNull();
    expect(spacingless.warnings.join()).toMatch(/ElementSpacing is not said/);
    const bare = await readVolume(
      meta({ TransformMatrix: undefined, Offset: undefined, BinaryDataByteOrderMSB: undefined }),
    );
    expect(bare.grid?.affine[0]).toEqual([-2, 0, 0, 0]);
    expect(bare.warnings).toHaveLength(2);
  });

  it.each([
    ["text", { BinaryData: "False" }, /binary voxels/],
    ["arrays", { ElementType: "MET_SHORT_ARRAY" }, /MET_SHORT_ARRAY/],
    ["another object", { ObjectType: "Tube" }, /Tube/],
    ["a list of files", { ElementDataFile: "LIST" }, /several/],
    ["a pattern of files", { ElementDataFile: "a%03d.raw 1 3 1" }, /several/],
    ["more voxels than it has", { DimSize: "4 3 2000000" }, /received 48/],
    ["no axes", { NDims: undefined }, /NDims/],
    ["two places that differ", { Position: "1 2 3" }, /two that differ/],
    ["a slope", { ElementToIntensityFunctionSlope: "2" }, /Slope 1/],
  ] as [string, Fields, RegExp][])("is refused for %s", (_, fields, message) =>
    refused(readVolume(meta(fields)), message),
  );
});

describe("voxels beside a header", () => {
  const header = (name: string, file: string) => {
    writeFileSync(
      path.join(root, name),
      name.endsWith("d") ? meta({ ElementDataFile: file }) : nrrd({ "data file": file }),
    );
    return readVolume(path.join(root, name));
  };

  it.each(["a.mhd", "a.nhdr"])("of %s are read from its folder or below, and nowhere else", async (name) => {
    mkdirSync(path.join(root, "folder/below"), { recursive: true });
    for (const file of ["voxels.raw", "folder/below/voxels.raw"]) writeFileSync(path.join(root, file), int16(24));
    const own = (file: string) => header(name, file);
    for (const file of ["voxels.raw", "folder/below/voxels.raw", "./voxels.raw"])
      expect(Array.from((await own(file)).data)).toEqual(counted);
    symlinkSync("/dev/zero", path.join(root, `${name}.link`));
    for (const file of ["../voxels.raw", "/dev/zero", path.join(root, "voxels.raw"), "folder/../../x", `${name}.link`])
      await refused(own(file), /its own folder or below/);
    await refused(own("none.raw"), /received none/);
    await refused(own("folder"), /a folder/);
    await refused(
      readVolume(name.endsWith("d") ? meta({ ElementDataFile: "a.raw" }) : nrrd({ "data file": "a.raw" })),
      /a header alone/,
    );
  });
});

describe("an array of NumPy", () => {
  it("is a volume without a place", async () => {
    const bytes = encodeNpy({ data: Float32Array.from(counted), shape: [2, 3, 4] });
    const volume = await readVolume(bytes);
    expect(volume).toMatchObject({ shape: [2, 3, 4], dtype: "float32", format: "npy", grid: null });
    expect(volume.warnings.join()).toMatch(/does not say where/);
    await refused(readVolume(encodeNpy({ data: Float32Array.from(counted), shape: [24] })), /D×H×W/);
  });
});

it("a header that never ends is refused", async () => {
  await refused(readVolume(Buffer.concat([Buffer.from("NRRD0004\n"), Buffer.alloc(1 << 20, "a")])), /lines of less/);
  await refused(readVolume(Buffer.from(`NRRD0004\n${"# comment\n".repeat(200_000)}`)), /a header of at most/);
});
