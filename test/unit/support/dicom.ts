// DICOM files, made element by element: PS3.5 §7, PS3.10 §7.1.
import { deflateRawSync } from "node:zlib";

/** By tag, such as "00280010"; the items of a sequence are sets of elements. */
export type Elements = Record<string, Value>;
type Value = readonly [vr: string, value: string | number | readonly number[] | Uint8Array | readonly Elements[]];

const long = new Set(["OB", "OW", "SQ", "UN", "OF", "OD"]);
const widths: Record<string, number> = { US: 2, UL: 4, FD: 8 };

export const syntaxes = {
  implicit: "1.2.840.10008.1.2",
  explicit: "1.2.840.10008.1.2.1",
  deflated: "1.2.840.10008.1.2.1.99",
  big: "1.2.840.10008.1.2.2",
  encapsulated: "1.2.840.10008.1.2.1.98",
  rle: "1.2.840.10008.1.2.5",
};

/** Values whose length is undefined: they end with a delimiter. */
const packed = new WeakSet<Uint8Array>();

interface Coding {
  implicit?: boolean;
  big?: boolean;
}

function integer(value: number, bytes: 2 | 4, big = false): Buffer {
  const out = Buffer.alloc(bytes);
  if (big) out.writeUIntBE(value, 0, bytes);
  else out.writeUIntLE(value, 0, bytes);
  return out;
}

function bytesOf([vr, value]: Value, coding: Coding): Buffer {
  if (value instanceof Uint8Array) return value as Buffer;
  if (typeof value === "string") return Buffer.from(value.length % 2 ? `${value}${vr === "UI" ? "\0" : " "}` : value);
  if (vr === "SQ")
    return Buffer.concat(
      (value as readonly Elements[]).map((item) => {
        const body = elementsOf(item, coding);
        const tag = [integer(0xfffe, 2, coding.big), integer(0xe000, 2, coding.big)];
        return Buffer.concat([...tag, integer(body.length, 4, coding.big), body]);
      }),
    );
  const numbers = (typeof value === "number" ? [value] : value) as readonly number[];
  const width = widths[vr] as number;
  const out = Buffer.alloc(width * numbers.length);
  for (const [i, number] of numbers.entries()) {
    if (vr === "FD") coding.big ? out.writeDoubleBE(number, 8 * i) : out.writeDoubleLE(number, 8 * i);
    else integer(number, width as 2 | 4, coding.big).copy(out, width * i);
  }
  return out;
}

function elementsOf(elements: Elements, coding: Coding): Buffer {
  return Buffer.concat(
    Object.keys(elements)
      .sort()
      .map((tag) => {
        const value = elements[tag] as Value;
        const [vr] = value;
        const body = bytesOf(value, coding);
        const undefinedLength = packed.has(body);
        const length = undefinedLength ? 0xffffffff : body.length;
        const head = [integer(Number.parseInt(tag.slice(0, 4), 16), 2, coding.big)];
        head.push(integer(Number.parseInt(tag.slice(4), 16), 2, coding.big));
        if (!coding.implicit) head.push(Buffer.from(vr));
        if (coding.implicit) head.push(integer(length, 4));
        else if (long.has(vr)) head.push(Buffer.alloc(2), integer(length, 4, coding.big));
        else head.push(integer(length, 2, coding.big));
        return Buffer.concat([...head, body]);
      }),
  );
}

/** A file with a preamble and a header of its own. @param syntax the transfer syntax's UID */
export function dicomFile(elements: Elements, syntax = syntaxes.explicit): Buffer {
  const meta = elementsOf(
    { "00020002": elements["00080016"] ?? ["UI", "1.2"], "00020003": ["UI", "1.2.3"], "00020010": ["UI", syntax] },
    {},
  );
  const size = elementsOf({ "00020000": ["UL", meta.length] }, {});
  const body = elementsOf(elements, { implicit: syntax === syntaxes.implicit, big: syntax === syntaxes.big });
  const data = syntax === syntaxes.deflated ? deflateRawSync(body) : body;
  return Buffer.concat([Buffer.alloc(128), Buffer.from("DICM"), size, meta, data]);
}

/** Encapsulated pixel data. @param table the basic offset table: none where it is left out */
export function encapsulated(fragments: readonly Uint8Array[], table: readonly number[] = []): Buffer {
  const item = (body: Uint8Array) =>
    Buffer.concat([Buffer.from([0xfe, 0xff, 0x00, 0xe0]), integer(body.length, 4), body]);
  const offsets = Buffer.concat(table.map((offset) => integer(offset, 4)));
  return Buffer.concat([item(offsets), ...fragments.map(item), Buffer.from([0xfe, 0xff, 0xdd, 0xe0, 0, 0, 0, 0])]);
}

/** An axial slice of 3 columns and 2 rows, the values from `first` on in 16 bits, at z = `z` mm. */
export function slice(z: number, first: number, extra: Elements = {}): Elements {
  const pixels = Buffer.alloc(12);
  for (let i = 0; i < 6; i++) pixels.writeUInt16LE(first + i, 2 * i);
  return {
    "00080016": ["UI", "1.2.840.10008.5.1.4.1.1.2"],
    "00080018": ["UI", `1.2.3.${Math.round(z * 1000) + 100000}`],
    "0020000e": ["UI", "1.2.4"],
    "00200032": ["DS", `-10\\-20\\${z}`],
    "00200037": ["DS", "1\\0\\0\\0\\1\\0"],
    "00280002": ["US", 1],
    "00280004": ["CS", "MONOCHROME2"],
    "00280010": ["US", 2],
    "00280011": ["US", 3],
    "00280030": ["DS", "0.5\\0.25"],
    "00280100": ["US", 16],
    "00280101": ["US", 16],
    "00280102": ["US", 15],
    "00280103": ["US", 0],
    "7fe00010": ["OW", pixels],
    ...extra,
  };
}

/** Elements without some. */
export function without(elements: Elements, ...tags: string[]): Elements {
  return Object.fromEntries(Object.entries(elements).filter(([tag]) => !tags.includes(tag)));
}

/** An enhanced file: the slices' pixels one after another, their places in functional groups. */
export function enhanced(zs: readonly number[], extra: Elements = {}): Elements {
  const single = slice(0, 0);
  const pixels = zs.map((z) => slice(z, 10 * z)["7fe00010"]?.[1] as Uint8Array);
  return {
    ...without(single, "00200032", "00200037", "00280030"),
    "00280008": ["IS", `${zs.length}`],
    "52009229": [
      "SQ",
      [
        {
          "00289110": ["SQ", [{ "00280030": ["DS", "0.5\\0.25"] }]],
          "00209116": ["SQ", [{ "00200037": ["DS", "1\\0\\0\\0\\1\\0"] }]],
        },
      ],
    ],
    "52009230": ["SQ", zs.map((z): Elements => ({ "00209113": ["SQ", [{ "00200032": ["DS", `-10\\-20\\${z}`] }]] }))],
    "7fe00010": ["OW", Buffer.concat(pixels)],
    ...extra,
  };
}
