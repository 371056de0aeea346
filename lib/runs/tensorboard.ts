import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { type FileHandle, open, readdir, rm } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { crc32c } from "../data/crc.js";
import { ioError, makeFolders, readRegular } from "../data/files.js";
import { LayerEnsemblesError } from "../errors.js";

/**
 * Writes scalars as a TensorBoard event file (`events.out.tfevents.…`): TFRecord framing with masked CRC-32C, around
 * `tensorflow.Event` messages.
 */
export class TensorBoardWriter {
  /** The event file. */
  readonly path: string;
  readonly #file: FileHandle;
  #last: Promise<void> = Promise.resolve();

  private constructor(path: string, file: FileHandle) {
    this.path = path;
    this.#file = file;
  }

  /**
   * Opens an event file in a folder, which is made if missing. Without `fromStep` a new file is begun, and event files that
   * are there stay. With it, the folder's newest event file goes on: events of that step and later are cut off in all of
   * them first, and so is a record that a killed process left half-written. A file of which nothing is left is removed.
   * @throws ERR_LE_IO
   */
  static async open(folder: string, options: { fromStep?: number } = {}): Promise<TensorBoardWriter> {
    const { fromStep } = options;
    try {
      await makeFolders(folder);
      const existing = fromStep === undefined ? undefined : await cutOff(folder, fromStep);
      if (existing !== undefined) return new TensorBoardWriter(existing, await open(existing, APPEND));
      const stamp = (Date.now() / 1000).toFixed(3).padStart(14, "0");
      const path = join(folder, `events.out.tfevents.${stamp}.${hostname()}.${randomBytes(8).toString("hex")}`);
      const writer = new TensorBoardWriter(path, await open(path, APPEND | constants.O_CREAT | constants.O_EXCL));
      await writer.#append(fileVersion());
      return writer;
    } catch (error) {
      throw error instanceof LayerEnsemblesError ? error : ioError(folder, "a folder for event files", error);
    }
  }

  /**
   * Writes scalars of one step. TensorBoard groups tags by what stands before a slash: "loss/train".
   * @param wallTime seconds since 1970; now by default
   * @throws ERR_LE_IO
   */
  scalars(values: Readonly<Record<string, number>>, step: number, wallTime: number = Date.now() / 1000): Promise<void> {
    const summary = Object.entries(values).map(([tag, value]) => {
      const number = Buffer.alloc(4);
      number.writeFloatLE(value);
      const body = Buffer.concat([bytesField(1, Buffer.from(tag)), Buffer.from([(2 << 3) | 5]), number]);
      return bytesField(1, body);
    });
    return this.#append(event(step, wallTime, bytesField(5, Buffer.concat(summary))));
  }

  /** Flushes and closes the file. */
  async close(): Promise<void> {
    await this.#last.catch(() => {});
    await this.#file.sync();
    await this.#file.close();
  }

  #append(message: Buffer): Promise<void> {
    const bytes = record(message);
    this.#last = this.#last
      .catch(() => {})
      .then(() => this.#file.appendFile(bytes))
      .catch((error) => {
        throw ioError(this.path, "writable", error);
      });
    return this.#last;
  }
}

/** No link is followed. */
const APPEND = constants.O_WRONLY | constants.O_APPEND | constants.O_NOFOLLOW;

/** Cuts off what a folder's event files have of a step and later; gives the newest file that has some before. */
async function cutOff(folder: string, fromStep: number): Promise<string | undefined> {
  let newest: string | undefined;
  for (const path of await eventFiles(folder)) {
    const bytes = await readRegular(path);
    const keep = lengthBefore(bytes, fromStep);
    if (keep <= record(fileVersion()).length) {
      await rm(path);
      continue;
    }
    newest = path;
    if (keep === bytes.length) continue;
    const file = await open(path, constants.O_WRONLY | constants.O_NOFOLLOW);
    await file.truncate(keep).finally(() => file.close());
  }
  return newest;
}

/** As event files are called here; those of other programs have no thousandths in their time. */
const OWN = /^events\.out\.tfevents\.\d+\.\d{3}\..+\.(?:\d+|[0-9a-f]{16})$/;

async function eventFiles(folder: string): Promise<string[]> {
  const names = await readdir(folder);
  return names
    .filter((name) => OWN.test(name))
    .sort()
    .map((name) => join(folder, name));
}

/** Length of the leading records that are whole and of steps before this one. */
function lengthBefore(bytes: Buffer, step: number): number {
  for (const { start, message, damaged } of records(bytes)) {
    if (damaged) return start;
    const found = [...fields(message)];
    const at = found.find((field) => field.number === 2)?.value ?? 0;
    if (found.some((field) => field.number === 5) && at >= step) return start;
  }
  let end = 0;
  for (const { next } of records(bytes)) end = next;
  return end;
}

function* records(bytes: Buffer) {
  for (let start = 0; start + 16 <= bytes.length; ) {
    const length = Number(bytes.readBigUInt64LE(start));
    const next = start + 16 + length;
    const header = bytes.subarray(start, start + 8);
    if (masked(header) !== bytes.readUInt32LE(start + 8)) {
      yield { start, next: start, message: header, damaged: true };
      return;
    }
    if (next > bytes.length) return;
    const message = bytes.subarray(start + 12, start + 12 + length);
    yield { start, next, message, damaged: masked(message) !== bytes.readUInt32LE(next - 4) };
    start = next;
  }
}

/** The TFRecord frame: length, its checksum, the message, its checksum. */
function record(message: Buffer): Buffer {
  const out = Buffer.alloc(message.length + 16);
  out.writeBigUInt64LE(BigInt(message.length), 0);
  out.writeUInt32LE(masked(out.subarray(0, 8)), 8);
  message.copy(out, 12);
  out.writeUInt32LE(masked(message), 12 + message.length);
  return out;
}

/** TFRecord's masked checksum: rotated right by 15 bits, plus a constant. */
function masked(bytes: Uint8Array): number {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

function fileVersion(): Buffer {
  return event(0, Date.now() / 1000, bytesField(3, Buffer.from("brain.Event:2")));
}

/** `tensorflow.Event`: double wall_time = 1, int64 step = 2, then what is given. */
function event(step: number, wallTime: number, rest: Buffer): Buffer {
  const time = Buffer.alloc(9);
  time[0] = (1 << 3) | 1;
  time.writeDoubleLE(wallTime, 1);
  return Buffer.concat([time, Buffer.from([2 << 3]), varint(step), rest]);
}

function bytesField(number: number, content: Buffer): Buffer {
  return Buffer.concat([Buffer.from([(number << 3) | 2]), varint(content.length), content]);
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let left = value;
  while (left >= 128) {
    bytes.push((left % 128) | 128);
    left = Math.floor(left / 128);
  }
  return Buffer.from([...bytes, left]);
}

/** The fields of a protocol-buffer message, and the values of those that are varints. */
function* fields(message: Buffer): Generator<{ number: number; value?: number }> {
  let at = 0;
  const readVarint = () => {
    let value = 0;
    for (let scale = 1; at < message.length; scale *= 128) {
      const byte = message[at++]!;
      value += (byte & 127) * scale;
      if (byte < 128) break;
    }
    return value;
  };
  while (at < message.length) {
    const key = readVarint();
    const kind = key & 7;
    if (kind === 0) {
      yield { number: key >> 3, value: readVarint() };
    } else {
      at += kind === 1 ? 8 : kind === 5 ? 4 : readVarint();
      yield { number: key >> 3 };
    }
  }
}
