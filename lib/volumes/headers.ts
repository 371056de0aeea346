// Headers of text, and the files of voxels that they name.
import { realpath } from "node:fs/promises";
import path from "node:path";
import { dataError } from "../data/image.js";
import { ByteStream, type VolumeInput, withBytes } from "./bytes.js";
import { bytesOf, type NumberType, numbersOf } from "./numbers.js";

/** Bytes of a header that is read. */
const MAX_HEADER = 1 << 20;

/** The lines of a header, one after another. @throws ERR_LE_DATA for one of more than 1 MiB */
export async function* headerLines(stream: ByteStream, name: string): AsyncGenerator<string> {
  let length = 0;
  for (let line = await stream.line(); line !== undefined; line = await stream.line()) {
    length += line.length + 1;
    if (length > MAX_HEADER) throw dataError(name, "volume", `a header of at most ${MAX_HEADER} bytes`, "a longer one");
    yield line;
  }
}

/**
 * Opens the file that a header says holds its voxels: in the header's folder or below, so that no header can have any other file read.
 * @throws ERR_LE_DATA
 */
async function openBeside({ path: header, name }: VolumeInput, file: string): Promise<ByteStream> {
  if (header === undefined)
    throw dataError(name, "volume", "a file that holds its voxels", `a header alone, of the voxels in ${file}`);
  const folder = await realpath(path.dirname(header));
  const there = path.resolve(folder, file);
  const target = await realpath(there).catch(() => there);
  const inside = [there, target].every((one) => one.startsWith(folder.endsWith(path.sep) ? folder : folder + path.sep));
  if (path.isAbsolute(file) || !inside)
    throw dataError(name, "volume", "voxels in a file of its own folder or below", `${file}`);
  return ByteStream.open({ path: target, name: path.join(path.dirname(header), file) });
}

/** How voxels are stored. */
export interface Stored {
  type: NumberType;
  bigEndian: boolean;
  packed: boolean;
  /** Bytes before the voxels, in a packed file of what comes out; -1 where the voxels are a raw file's last bytes. */
  skip: number;
}

/**
 * Reads the voxels, which are all that is left of the header's file, or of the one beside it.
 * @param beside its name, where the header names one
 * @throws ERR_LE_DATA
 */
export async function readVoxels(
  stream: ByteStream,
  input: VolumeInput,
  beside: string | undefined,
  count: number,
  stored: Stored,
) {
  const { name } = input;
  if (beside === undefined) return readNumbers(stream, count, name, stored);
  if (/^LIST\b/i.test(beside) || /%\d*d/.test(beside))
    throw dataError(name, "volume", "one file of voxels", `several (${beside})`);
  return withBytes(openBeside(input, beside), (file) => readNumbers(file, count, name, stored));
}

/** Reads the voxels that are all that is left, and closes what was opened on the way. @throws ERR_LE_DATA */
async function readNumbers(stream: ByteStream, count: number, name: string, stored: Stored) {
  const { type, bigEndian, packed, skip } = stored;
  const voxels = packed ? stream.unpacked() : stream;
  try {
    const length = count * bytesOf(type);
    await voxels.skip(skip < 0 ? Math.max(0, (voxels.left as number) - length) : skip, "what stands before the voxels");
    const bytes = await voxels.take(length, "voxels");
    await voxels.end();
    return numbersOf(bytes, type, bigEndian, name);
  } finally {
    if (packed) await voxels.close();
  }
}

/** A text of numbers that are finite, parted by white space; undefined for another text or count. */
export function finiteNumbers(text: string | undefined, count: number): number[] | undefined {
  const numbers = (text ?? "")
    .trim()
    .split(/\s+/)
    .map((one) => (one === "" ? Number.NaN : Number(one)));
  return numbers.length === count && numbers.every(Number.isFinite) ? numbers : undefined;
}

/** A text of a whole number; NaN for another. */
export function wholeNumber(text: string | undefined): number {
  return /^[+-]?\d{1,15}$/.test(text?.trim() ?? "") ? Number(text) : Number.NaN;
}
