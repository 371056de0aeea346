import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import fc from "fast-check";
import { zipSync } from "fflate";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseNpy } from "../../lib/data/npy.js";
import { readNpz } from "../../lib/data/npz.js";
import { LayerEnsemblesError } from "../../lib/errors.js";
import { expectError } from "./support/heads.js";

function npy(descr: string, shape: string, data: ArrayLike<number>, { version = 1, order = "False" } = {}): Buffer {
  const header = `{'descr': '${descr}', 'fortran_order': ${order}, 'shape': (${shape}), }\n`;
  const start = Buffer.alloc(version === 1 ? 10 : 12);
  start.set([0x93, 78, 85, 77, 80, 89, version, 0]);
  if (version === 1) start.writeUInt16LE(header.length, 8);
  else start.writeUInt32LE(header.length, 8);
  return Buffer.concat([start, Buffer.from(header, "latin1"), Buffer.from(data)]);
}

const raw = (data: ArrayBufferView) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

describe("parseNpy", () => {
  it.each([
    ["<f4", new Float32Array([0.5, -2]), Float32Array, [0.5, -2]],
    ["<f8", new Float64Array([0.1, 1e300]), Float64Array, [0.1, 1e300]],
    [
      "<f2",
      new Uint16Array([0x3c00, 0xc500, 0x0001, 0x7c00]),
      Float32Array,
      [1, -5, 2 ** -24, Number.POSITIVE_INFINITY],
    ],
    ["|u1", new Uint8Array([0, 255]), Uint8Array, [0, 255]],
    ["|b1", new Uint8Array([0, 1]), Uint8Array, [0, 1]],
    ["|i1", new Int8Array([-3, 4]), Int8Array, [-3, 4]],
    ["<u2", new Uint16Array([7, 65535]), Uint16Array, [7, 65535]],
    ["<i2", new Int16Array([-7, 7]), Int16Array, [-7, 7]],
    ["<u4", new Uint32Array([4294967295]), Uint32Array, [4294967295]],
    ["<i4", new Int32Array([-9]), Int32Array, [-9]],
    ["<i8", new BigInt64Array([-5n, 7n]), Float64Array, [-5, 7]],
    ["<u8", new BigUint64Array([5n]), Float64Array, [5]],
  ] as const)("reads %s", (descr, data, type, values) => {
    for (const version of [1, 2, 3]) {
      const array = parseNpy(npy(descr, `${data.length},`, raw(data), { version }), "x");
      expect(array.data).toBeInstanceOf(type);
      expect([...array.data]).toEqual(values);
      expect(array.shape).toEqual([data.length]);
    }
  });

  it("reads any shape, none and empty ones too", () => {
    expect(parseNpy(npy("|u1", "", [7]), "x")).toEqual({ data: Uint8Array.of(7), shape: [] });
    expect(parseNpy(npy("|u1", "2, 3", [1, 2, 3, 4, 5, 6]), "x").shape).toEqual([2, 3]);
    expect(parseNpy(npy("|u1", "3, 0", []), "x")).toEqual({ data: new Uint8Array(0), shape: [3, 0] });
    expect(parseNpy(npy("|u1", "2L, 1L", [1, 2], { order: "False" }), "x").shape).toEqual([2, 1]);
  });

  it("reads either byte order, and either order of the axes", () => {
    const big = Buffer.alloc(8);
    big.writeInt32BE(-7, 0);
    big.writeInt32BE(70000, 4);
    expect([...parseNpy(npy(">i4", "2,", big), "x").data]).toEqual([-7, 70000]);
    const fortran = parseNpy(npy("|u1", "2, 3", [1, 2, 3, 4, 5, 6], { order: "True" }), "x");
    expect(fortran).toEqual({ data: Uint8Array.of(1, 3, 5, 2, 4, 6), shape: [2, 3] });
    const cube = Array.from({ length: 24 }, (_, i) => i);
    const { data } = parseNpy(npy("|u1", "2, 3, 4", cube, { order: "True" }), "x");
    const expected = cube.map((i) => Math.floor(i / 12) + 2 * (Math.floor(i / 4) % 3) + 6 * (i % 4));
    expect([...data]).toEqual(expected);
    expect([...parseNpy(npy("|b1", "3,", [0, 1, 255]), "x").data]).toEqual([0, 1, 1]);
  });

  it("refuses what it cannot read, before it makes anything large", () => {
    const refused = (bytes: Uint8Array, ...words: string[]) =>
      expectError(() => parseNpy(bytes, "case.npy"), "ERR_LE_DATA", "case.npy", ...words);
    refused(new Uint8Array(0), "empty");
    refused(Buffer.from("PK\x03\x04 something"), "NumPy");
    refused(npy("|u1", "2,", [1, 2], { version: 9 }), "version 9");
    refused(npy("|O", "1,", [0]), "Python objects");
    refused(npy("<c8", "1,", [0, 0, 0, 0, 0, 0, 0, 0]), "complex numbers ('<c8')");
    refused(npy("<f4x", "1,", [0, 0, 0, 0]), "'<f4x'");
    refused(npy("<f4", "3,", [0, 0, 0, 0]), "12 of them data", "4 of them data");
    refused(npy("<f4", "1,", new Array(9).fill(0)), "4 of them data", "9 of them data");
    refused(npy("<f8", "99999999999, 99999999999", []), "of them data");
    refused(npy("<f8", "99999999999999999999,", []), "axes");
    refused(npy("|u1", new Array(40).fill(1).join(","), [1]), "at most 32 axes");
    const cut = npy("<f4", "1,", [0, 0, 0, 0]);
    refused(cut.subarray(0, 30), "header");
    cut.writeUInt16LE(65535, 8);
    refused(cut, "header");
    const long = npy("<f4", "1,", [0, 0, 0, 0], { version: 2 });
    long.writeUInt32LE(0xffffffff, 8);
    refused(long, "header");
  });

  it("reads or refuses any bytes", () => {
    const good = npy("<f4", "1, 2", new Array(8).fill(1));
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.nat(255), fc.nat(good.length), (at, byte, length) => {
        const bytes = Uint8Array.from(good.subarray(0, length));
        if (at < length) bytes[at] = byte;
        try {
          const { data, shape } = parseNpy(bytes, "x");
          expect(data.length).toBe(shape.reduce((a, b) => a * b, 1));
        } catch (error) {
          expect(error).toBeInstanceOf(LayerEnsemblesError);
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe("readNpz", () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-npz-"));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const write = (bytes: Uint8Array) => {
    const file = path.join(folder, "x.npz");
    writeFileSync(file, bytes);
    return file;
  };
  const arrays = {
    "a.npy": npy("|u1", "3,", [1, 2, 3]),
    "b.npy": npy("<f4", "1,", raw(new Float32Array([0.5]))),
    "c.txt": Buffer.from("no array"),
  };
  const error = (file: string, limits = {}, names = ["a", "b"]) =>
    readNpz(file, names, limits).then(
      () => "",
      (thrown) => {
        expect(thrown).toBeInstanceOf(LayerEnsemblesError);
        expect(thrown.code).toBe("ERR_LE_DATA");
        return thrown.message as string;
      },
    );

  it.each([0, 9] as const)("reads the arrays asked for (compression %d)", async (level) => {
    const file = write(zipSync(arrays, { level }));
    expect(await readNpz(file, ["a", "b", "c", "d"])).toEqual({
      a: { data: Uint8Array.of(1, 2, 3), shape: [3] },
      b: { data: Float32Array.of(0.5), shape: [1] },
    });
    expect(Object.keys(await readNpz(file, ["b"]))).toEqual(["b"]);
  });

  it("keeps its limits", async () => {
    const zeros = npy("|u1", "1000000,", new Uint8Array(1_000_000));
    const file = write(zipSync({ "a.npy": zeros }, { level: 9 }));
    expect(await error(file, { maxBytes: 1000 })).toContain("at most 1000 bytes");
    expect(await error(file, { maxEntries: 0 })).toContain("at most 0 arrays");
    expect(await error(file)).toBe("");
  });

  it("refuses an entry that is not as long as the archive says, and a wrong checksum", async () => {
    const bytes = Buffer.from(zipSync({ "a.npy": arrays["a.npy"] }, { level: 0 }));
    const directory = bytes.indexOf(Buffer.from([0x50, 0x4b, 1, 2]));
    const changed = (at: number, change: (value: number) => number) => {
      const copy = Buffer.from(bytes);
      copy.writeUInt32LE(change(copy.readUInt32LE(directory + at)) >>> 0, directory + at);
      return write(copy);
    };
    expect(await error(changed(16, (crc) => crc ^ 1))).toContain("checksum of a.npy");
    expect(await error(changed(24, (size) => size + 5))).toContain("x.npz");
    expect(await error(changed(24, () => 0xfffffff0))).toMatch(/at most \d+ bytes|cannot be read/);
  });

  it("reads or refuses any bytes", async () => {
    const good = zipSync(arrays, { level: 6 });
    await fc.assert(
      fc.asyncProperty(fc.nat(good.length - 1), fc.nat(255), fc.nat(good.length), async (at, byte, length) => {
        const bytes = Uint8Array.from(good.subarray(0, length < 10 ? good.length : length));
        if (at < bytes.length) bytes[at] = byte;
        await error(write(bytes));
      }),
      { numRuns: 200 },
    );
  });
});
