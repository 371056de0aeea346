// A DICOM file's elements: parsed by dicom-parser, read by this module's strict rules.
import { inflateRawSync } from "node:zlib";
import { LayerEnsemblesError } from "../../errors.js";
import { loadPeer } from "./peer.js";
import { type TransferSyntax, transferSyntaxes } from "./syntaxes.js";

/** An element as dicom-parser describes it. */
export interface Element {
  vr?: string;
  length: number;
  dataOffset: number;
  hadUndefinedLength?: boolean;
  items?: { dataSet?: DataSet }[];
}

/** A data set as dicom-parser gives it. */
export interface DataSet {
  byteArray: Uint8Array;
  elements: Record<string, Element | undefined>;
  string(tag: string, index?: number): string | undefined;
  uint16(tag: string, index?: number): number | undefined;
  uint32(tag: string, index?: number): number | undefined;
  double(tag: string, index?: number): number | undefined;
}

interface Parser {
  readPart10Header(bytes: Uint8Array): DataSet;
  parseDicom(
    bytes: Uint8Array,
    options: {
      inflater: (bytes: Uint8Array, position: number) => Uint8Array;
      vrCallback: (tag: string) => string | undefined;
    },
  ): DataSet;
}

/** A refusal of one file: Expected `expected` for `path` but received `received`. */
export function refuseFile(path: string, expected: string, received: string, cause?: unknown): never {
  const sentence = `Expected ${expected} for ${path} but received ${received}`;
  throw new LayerEnsemblesError("ERR_LE_DATA", sentence, { cause });
}

/** Whether bytes begin as a DICOM file does (PS3.10 §7.1). */
export function isDicom(bytes: Uint8Array): boolean {
  return Buffer.from(bytes.subarray(128, 132)).toString("latin1") === "DICM";
}

/**
 * Parses a DICOM file.
 * @param path for messages
 * @throws ERR_LE_DATA for a damaged file, and for a transfer syntax that is not in the register
 */
export async function parseDicom(bytes: Uint8Array, path: string): Promise<{ data: DataSet; syntax: TransferSyntax }> {
  const parser = await loadPeer<Parser>("dicom-parser", `DICOM files such as ${path}`);
  const parse = <T>(read: () => T): T => {
    try {
      return read();
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      return refuseFile(path, "a whole DICOM file", `one that is cut short or damaged (${reason})`, error);
    }
  };
  const uid = parse(() => parser.readPart10Header(bytes).string("x00020010")) ?? "";
  const syntax = transferSyntaxes.get(uid);
  // A private syntax may store anything in any order.
  if (!syntax) {
    const names = [...transferSyntaxes.values()].map(({ name }) => name).join(", ");
    return refuseFile(path, `a transfer syntax that is known (${names})`, `${uid || "none"}; convert the file`);
  }
  const inflater = (packed: Uint8Array, position: number) => {
    const body = packed.subarray(position);
    // Deflate gives at most 1032 bytes for one; images give some tens at the very most.
    const maxOutputLength = 2 ** 26 + 100 * body.length;
    return Buffer.concat([packed.subarray(0, position), inflateRawSync(body, { maxOutputLength })]);
  };
  // Implicit: what begins like an item would be taken for a sequence, pixels too.
  const vrCallback = (tag: string) => (tag === "x7fe00010" ? "OW" : undefined);
  return { data: parse(() => parser.parseDicom(bytes, { inflater, vrCallback })), syntax };
}

/** The numbers of a text element (DS, IS): undefined where it is missing or empty. */
export function decimals(data: DataSet, tag: string, path: string): number[] | undefined {
  const text = data.string(tag)?.replaceAll("\0", "").trim();
  if (!text) return undefined;
  const values = text.split("\\").map((part) => (part.trim() === "" ? Number.NaN : Number(part)));
  if (!values.every(Number.isFinite)) {
    const shown = `(${tag.slice(1, 5)},${tag.slice(5)})`;
    refuseFile(path, `finite numbers in ${shown}`, JSON.stringify(text.slice(0, 80)));
  }
  return values;
}

/** The data sets of a sequence's items; none where it is missing. */
export function itemsOf(data: DataSet | undefined, tag: string): DataSet[] {
  return data?.elements[tag]?.items?.flatMap(({ dataSet }) => (dataSet ? [dataSet] : [])) ?? [];
}
