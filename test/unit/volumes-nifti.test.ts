// NIfTI: where the voxels lie, what they are worth, and what is refused.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readVolume, spacingOf } from "../../lib/volumes/index.js";
import { int16, type NiftiFields, niftiFile } from "../support/volume-files.js";

let root = "";
beforeAll(() => {
  root = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-nifti-"));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const read = (fields: NiftiFields, options = {}) => readVolume(niftiFile(fields), options);
const affineOf = async (fields: NiftiFields) => {
  const { grid } = await read(fields);
  return grid?.affine.slice(0, 3).map((row) => row.map((value) => Math.round(value * 1e6) / 1e6 + 0));
};
const refused = (reading: Promise<unknown>, message: RegExp) =>
  expect(reading).rejects.toMatchObject({ code: "ERR_LE_DATA", message: expect.stringMatching(message) });

const versions = [1, 2].flatMap((version) => [false, true].map((big) => ({ version, big }) as NiftiFields));

describe.each(versions)("version $version, big endian $big", (version) => {
  it("has its voxels with x fastest, its sform, and its type", async () => {
    const volume = await read({ ...version, sform: 1 });
    expect(Array.from(volume.data)).toEqual(Array.from({ length: 24 }, (_, i) => i));
    expect(volume).toMatchObject({ shape: [2, 3, 4], dtype: "int16", format: "nifti", nonFinite: 0, warnings: [] });
    expect(volume.grid).toEqual({
      shape: [2, 3, 4],
      affine: [
        [2, 0, 0, -10],
        [0, 3, 0, -20],
        [0, 0, 4, 30],
        [0, 0, 0, 1],
      ],
    });
  });

  it("has the sform before the qform, the qform before neither", async () => {
    const both = { ...version, qform: 1, sform: 1, quaternion: [0, 0, 1], qoffset: [5, 6, 7] };
    expect(await affineOf(both)).toEqual([
      [2, 0, 0, -10],
      [0, 3, 0, -20],
      [0, 0, 4, 30],
    ]);
    expect(await affineOf({ ...both, sform: 0 })).toEqual([
      [-2, 0, 0, 5],
      [0, -3, 0, 6],
      [0, 0, 4, 7],
    ]);
    const volume = await read({ ...version });
    expect(volume.grid?.affine.slice(0, 3)).toEqual([
      [-2, 0, 0, 3],
      [0, 3, 0, -3],
      [0, 0, 4, -2],
    ]);
    expect(volume.warnings.join()).toMatch(/orientation and position are unknown/);
  });

  it("applies the slope, and an intercept only with one", async () => {
    const first = async (fields: NiftiFields) => Array.from((await read({ ...version, ...fields })).data.slice(0, 3));
    expect(await first({ slope: 0, intercept: 5 })).toEqual([0, 1, 2]);
    expect(await first({ slope: Number.NaN, intercept: 5 })).toEqual([0, 1, 2]);
    expect(await first({ slope: 1, intercept: 5 })).toEqual([5, 6, 7]);
    expect(await first({ slope: 0.5, intercept: -1 })).toEqual([-1, -0.5, 0]);
    expect((await read({ ...version, slope: 0.5 })).data).toBeInstanceOf(Float32Array);
    await refused(read({ ...version, slope: 1, intercept: Number.NaN }), /a finite scl_inter/);
  });

  it("passes over extensions, and takes the offset of a pair", async () => {
    const size = version.version === 1 ? 348 : 540;
    const before = Buffer.alloc(36, 1);
    const extended = await read({ ...version, before, offset: size + 36 });
    expect(Array.from(extended.data.slice(0, 2))).toEqual([0, 1]);
    const stem = path.join(root, `pair-${version.version}-${version.big}`);
    writeFileSync(`${stem}.hdr`, niftiFile({ ...version, pair: true, offset: 16 }));
    await refused(readVolume(`${stem}.hdr`), /other part .*\.img/);
    writeFileSync(`${stem}.img`, Buffer.concat([Buffer.alloc(16, 9), int16(24, version.big)]));
    for (const ending of [".hdr", ".img"])
      expect((await readVolume(`${stem}${ending}`)).data).toEqual(Int16Array.from({ length: 24 }, (_, i) => i));
  });
});

describe("an affine", () => {
  it("turns the third axis round where pixdim[0] is negative; 0 counts as 1", async () => {
    const third = async (qfac: number) => (await affineOf({ qform: 1, pixdim: [qfac, 2, 3, 4] }))?.map((row) => row[2]);
    expect([await third(-1), await third(0), await third(1)]).toEqual([
      [0, 0, -4],
      [0, 0, 4],
      [0, 0, 4],
    ]);
  });

  it("is no NaN where the quaternion is longer than 1, as single precision stores a rotation by 180°", async () => {
    const third = 1 / Math.sqrt(3);
    const { grid } = await read({ qform: 1, pixdim: [1, 1, 1, 1], quaternion: [third + 1e-7, third, third] });
    expect(grid?.affine[0][0]).toBeCloseTo(-1 / 3, 6);
    expect(grid?.affine[0][1]).toBeCloseTo(2 / 3, 6);
  });

  it("keeps shear", async () => {
    const srow = [2, 1, 0, 0, 0, 3, 0, 0, 0, 0, 4, 0];
    expect(await affineOf({ sform: 2, srow })).toEqual([srow.slice(0, 4), srow.slice(4, 8), srow.slice(8)]);
  });

  it("is in millimetres whatever its unit, which is said", async () => {
    const [millimetres, unknown] = [await read({ sform: 1 }), await read({ sform: 1, units: 0 })];
    expect([...millimetres.warnings, ...unknown.warnings]).toEqual([]);
    expect(unknown.grid).toEqual(millimetres.grid);
    const metres = await read({ sform: 1, units: 1 });
    expect(metres.grid?.affine[0]).toEqual([2000, 0, 0, -10_000]);
    expect(metres.warnings.join()).toMatch(/metres; the affine was converted/);
    const micrometres = await read({ sform: 1, units: 3 + 8 });
    expect(spacingOf(micrometres.grid as never)).toEqual([0.004, 0.003, 0.002]);
    expect(micrometres.warnings.join()).toMatch(/micrometres/);
  });

  it("is not invented where it has no inverse, no number or no voxel size", async () => {
    for (const fields of [
      { sform: 1, srow: [2, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0] },
      { sform: 1, srow: [Number.NaN, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4, 0] },
      { qform: 1, pixdim: [1, 0, 3, 4] },
      { pixdim: [1, 2, Number.POSITIVE_INFINITY, 4] },
    ]) {
      const volume = await read(fields);
      expect(volume.grid).toBeNull();
      expect(volume.warnings.join()).toMatch(/where the voxels lie is unknown/);
    }
  });
});

describe("axes", () => {
  it("of a plane are one slice, and a fourth of length 1 is none", async () => {
    expect((await read({ dim: [2, 6, 4] })).shape).toEqual([1, 4, 6]);
    expect((await read({ dim: [5, 4, 3, 2, 1, 1] })).shape).toEqual([2, 3, 4]);
    expect((await read({ dim: [3, 4, 3, 2, 77] })).shape).toEqual([2, 3, 4]);
  });

  it("beyond space are channels where they are asked for", async () => {
    await refused(read({ dim: [4, 4, 3, 1, 2] }), /2 \(4×3×1×2\); ask for channels/);
    const volume = await read({ dim: [4, 4, 3, 1, 2] }, { channels: true });
    expect(volume.shape).toEqual([2, 1, 3, 4]);
    expect((await read({ dim: [5, 4, 3, 1, 1, 2] }, { channels: true })).shape).toEqual([2, 1, 3, 4]);
    await refused(read({ dim: [5, 2, 3, 1, 2, 2] }, { channels: true }), /at most one axis/);
  });
});

describe("a file is refused", () => {
  it.each([
    ["RGB", { datatype: 128, bitpix: 24 }, /colours \(RGB24\)/],
    ["complex", { datatype: 32, bitpix: 64 }, /complex/],
    ["long double", { datatype: 1536, bitpix: 128 }, /long doubles/],
    ["an unknown type", { datatype: 77 }, /datatype 77/],
    ["bitpix that contradicts the type", { bitpix: 32 }, /bitpix 16/],
    ["no axis", { dim: [0, 4, 3, 2] }, /dim\[0\]/],
    ["eight axes", { dim: [8, 4, 3, 2] }, /dim\[0\]/],
    ["an empty axis", { dim: [3, 4, 0, 2] }, /4×0×2/],
    ["a negative axis", { dim: [3, 4, -3, 2] }, /4×-3×2/],
    ["more voxels than the file has", { dim: [3, 30000, 30000, 1] }, /1800000000 bytes of voxels.*received 48/],
    ["more voxels than are allowed", { dim: [3, 32000, 32000, 32000] }, /at most 1000000000/],
    ["fewer voxels than the file has", { dim: [3, 4, 3, 1] }, /24 more/],
    ["another magic", { magic: "n+9\0" }, /n\+1 or ni1/],
    ["an offset within the header", { offset: 100 }, /vox_offset/],
    ["an offset behind the end", { offset: 4000 }, /what stands before/],
    ["a header of a pair alone", { magic: "ni1\0" }, /header of a pair/],
  ] as [string, NiftiFields, RegExp][])("for %s", async (_, fields, message) => {
    await refused(readVolume(niftiFile(fields), { format: "nifti" }), message);
    await refused(readVolume(gzipSync(niftiFile(fields)), { format: "nifti" }), /Expected/);
  });

  it("cut short anywhere, packed or not", async () => {
    const whole = niftiFile({ sform: 1 });
    const packed = gzipSync(whole);
    for (let length = 0; length < whole.length; length += 13)
      await refused(readVolume(whole.subarray(0, length), { format: "nifti" }), /Expected/);
    for (let length = 0; length < packed.length; length += 5)
      await refused(readVolume(packed.subarray(0, length), { format: "nifti" }), /Expected/);
  });

  it("with something behind its gzip stream", async () => {
    await refused(readVolume(Buffer.concat([gzipSync(niftiFile()), Buffer.from("more")])), /whole compressed stream/);
    expect((await readVolume(gzipSync(niftiFile()))).shape).toEqual([2, 3, 4]);
  });

  it("of gzip that unpacks to more than its header tells of, without unpacking it", async () => {
    // Members one after another are one stream; so the bomb takes no memory here.
    const zeros = gzipSync(Buffer.alloc(1 << 20));
    const bomb = Buffer.concat([gzipSync(niftiFile()), ...Array.from({ length: 1000 }, () => zeros)]);
    const before = process.memoryUsage.rss();
    await refused(readVolume(bomb), /received more/);
    expect(process.memoryUsage.rss() - before).toBeLessThan(100_000_000);
  });

  it("that is missing, a folder or a device", async () => {
    await refused(readVolume(path.join(root, "none.nii")), /received none/);
    await refused(readVolume("/dev/zero", { format: "nifti" }), /a device/);
    await refused(readVolume(Buffer.alloc(0)), /an empty file/);
    await refused(readVolume(Buffer.from("something else")), /another kind of file/);
  });

  it("of 64-bit integers that a double does not hold", async () => {
    const file = (value: bigint) => {
      const voxels = Buffer.from(BigInt64Array.from([value, 2n]).buffer);
      return read({ dim: [3, 2, 1, 1], datatype: 1024, bitpix: 64, voxels });
    };
    expect(Array.from((await file(-(2n ** 53n - 1n))).data)).toEqual([-(2 ** 53 - 1), 2]);
    await refused(file(2n ** 53n + 1n), /within ±/);
  });
});

describe("values", () => {
  const floats = (values: number[]) => ({
    dim: [3, values.length, 1, 1],
    datatype: 16,
    bitpix: 32,
    voxels: Buffer.from(Float32Array.from(values).buffer),
  });

  it("that are not finite are kept, counted and told of", async () => {
    const volume = await read(floats([1, Number.NaN, Number.NEGATIVE_INFINITY]));
    expect(volume.nonFinite).toBe(2);
    expect(Array.from(volume.data)).toEqual([1, Number.NaN, Number.NEGATIVE_INFINITY]);
    expect(volume.warnings.at(-1)).toBe("2 values are not finite.");
  });

  it("are labels within a thousandth of a whole number, which is told of", async () => {
    const label = { kind: "label" };
    const near = await read(floats([0, 0.9995, 2]), label);
    expect(near.data).toEqual(Uint8Array.of(0, 1, 2));
    expect(near.warnings.at(-1)).toMatch(/stored as float32 and were rounded, by at most 0.0005/);
    expect((await read(floats([0, 300]), label)).data).toEqual(Uint16Array.of(0, 300));
    for (const value of [0.998, -1, 65_536, Number.NaN, Number.POSITIVE_INFINITY])
      await refused(read(floats([0, value]), label), /whole numbers from 0 to 65535/);
    expect((await read({ slope: 1, intercept: 3 }, label)).data.slice(0, 2)).toEqual(Uint8Array.of(3, 4));
  });
});
