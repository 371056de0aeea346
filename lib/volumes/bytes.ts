// Bytes of a file one after another. A header may claim any size: nothing is held that the file has not been seen to hold.
import { pipeline, Readable } from "node:stream";
import { createUnzip } from "node:zlib";
import { openRegular } from "../data/files.js";
import { dataError, unreadable } from "../data/image.js";

const CHUNK = 1 << 20;
const MAX_LINE = 1 << 16;
const NONE = new Uint8Array(0);

/** Where a volume is read from. */
export interface VolumeInput {
  /** A file or a folder. Absent where there are only bytes. */
  readonly path?: string;
  /** All of a file. */
  readonly bytes?: Uint8Array;
  /** What messages call it. */
  readonly name: string;
}

/** Bytes that are taken in their order, from a file, from memory, or unpacked as they are taken. */
export class ByteStream {
  readonly #name: string;
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #close: () => Promise<void> | void;
  /** Read and not taken. */
  #held: Uint8Array = NONE;
  /** How many are left; undefined where they are unpacked on the way. */
  #left: number | undefined;

  private constructor(
    name: string,
    chunks: AsyncIterator<Uint8Array>,
    left: number | undefined,
    close: () => Promise<void> | void,
  ) {
    this.#name = name;
    this.#chunks = chunks;
    this.#left = left;
    this.#close = close;
  }

  /** @throws ERR_LE_DATA for what is no regular file or cannot be opened */
  static async open({ path, bytes, name }: VolumeInput): Promise<ByteStream> {
    if (bytes) return new ByteStream(name, pieces(bytes), bytes.length, () => {});
    let file: Awaited<ReturnType<typeof openRegular>>;
    try {
      file = await openRegular(path as string);
    } catch (error) {
      throw unreadable(name, "volume", error);
    }
    const { size } = await file.stat();
    const chunks = async function* () {
      for (;;) {
        const chunk = Buffer.allocUnsafe(CHUNK);
        const { bytesRead } = await file.read(chunk, 0, CHUNK, null);
        if (bytesRead === 0) return;
        yield chunk.subarray(0, bytesRead);
      }
    };
    return new ByteStream(name, chunks(), size, () => file.close());
  }

  /** As {@link open}, and unpacked where the bytes begin as gzip does. */
  static async openUnpacked(input: VolumeInput): Promise<ByteStream> {
    const stream = await ByteStream.open(input);
    try {
      const head = await stream.peek(2);
      return head[0] === 0x1f && head[1] === 0x8b ? stream.unpacked() : stream;
    } catch (error) {
      await stream.close();
      throw error;
    }
  }

  /** How many bytes are left; undefined where that shows only once they are unpacked. */
  get left(): number | undefined {
    return this.#left;
  }

  /** What follows, unpacked: gzip or zlib, told apart by the bytes. This one is not to be used any more. */
  unpacked(): ByteStream {
    const engine = createUnzip({ chunkSize: 1 << 18 });
    let fed = 0;
    const packed = async function* (this: ByteStream) {
      for (; this.#held.length > 0 || (await this.#fill()); this.#held = NONE) {
        fed += this.#held.length;
        yield this.#held;
      }
    };
    pipeline(Readable.from(packed.call(this)), engine, () => {}); // errors come out of the engine, too
    const chunks = async function* (name: string) {
      try {
        yield* engine as AsyncIterable<Uint8Array>;
      } catch (error) {
        const { code, message } = error as NodeJS.ErrnoException;
        if (!code?.startsWith("Z_")) throw error;
        throw dataError(name, "volume", "a whole compressed stream", message, error);
      }
      if (engine.bytesWritten !== fed)
        throw dataError(name, "volume", "one compressed stream", `${fed - engine.bytesWritten} bytes after it`);
    };
    return new ByteStream(this.#name, chunks(this.#name), undefined, async () => {
      engine.destroy();
      await this.close();
    });
  }

  /** The next bytes, at most `length`, which stay to be taken. */
  async peek(length: number): Promise<Buffer> {
    while (this.#held.length < length) {
      const before = this.#held;
      if (!(await this.#fill())) break;
      if (before.length > 0) this.#held = Buffer.concat([before, this.#held]);
    }
    const there = Math.min(length, this.#held.length);
    return Buffer.from(this.#held.buffer, this.#held.byteOffset, there);
  }

  /** The next line, without its end; undefined where nothing is left. @throws ERR_LE_DATA for one of more than 64 KiB */
  async line(): Promise<string | undefined> {
    const head = await this.peek(MAX_LINE);
    if (head.length === 0) return undefined;
    const end = head.indexOf(0x0a);
    if (end < 0 && head.length === MAX_LINE)
      throw dataError(this.#name, "volume", `lines of less than ${MAX_LINE} bytes in its header`, "a longer one");
    const text = head.toString("utf8", 0, end < 0 ? head.length : end);
    await this.skip(end < 0 ? head.length : end + 1, "a line");
    return text.replace(/\r$/, "");
  }

  /**
   * The next bytes, as memory of their own.
   * @param what they are, for the message
   * @throws ERR_LE_DATA where there are fewer
   */
  async take(length: number, what: string): Promise<Uint8Array<ArrayBuffer>> {
    const short = (there: number) => dataError(this.#name, "volume", `${length} bytes of ${what}`, `${there}`);
    if (this.#left !== undefined) {
      if (length > this.#left) throw short(this.#left);
      this.#left -= length;
    }
    const parts: Uint8Array[] = [];
    let there = 0;
    while (there < length) {
      if (this.#held.length === 0 && !(await this.#fill())) throw short(there);
      const part = this.#held.subarray(0, length - there);
      this.#held = this.#held.subarray(part.length);
      parts.push(part);
      there += part.length;
    }
    const taken = new Uint8Array(length);
    for (let at = 0, i = 0; i < parts.length; i++) {
      taken.set(parts[i] as Uint8Array, at);
      at += (parts[i] as Uint8Array).length;
      parts[i] = NONE; // its memory goes as that of `taken` is filled
    }
    return taken;
  }

  /** Passes over bytes. @throws ERR_LE_DATA where there are fewer */
  async skip(length: number, what: string): Promise<void> {
    if (this.#left !== undefined && length > this.#left)
      throw dataError(this.#name, "volume", `${length} bytes of ${what}`, `${this.#left}`);
    for (let rest = length; rest > 0; ) {
      const step = Math.min(rest, CHUNK);
      await this.take(step, what);
      rest -= step;
    }
  }

  /** Checks that nothing is left: what a header does not tell of may be a part of what it should. @throws ERR_LE_DATA */
  async end(): Promise<void> {
    if (this.#held.length > 0 || (await this.#fill())) {
      const more = this.#left === undefined ? "more" : `${this.#left} more`;
      throw dataError(this.#name, "volume", "the bytes that its header tells of", more);
    }
  }

  async close(): Promise<void> {
    await this.#close();
  }

  /** Holds the next bytes; false at the end. */
  async #fill(): Promise<boolean> {
    for (;;) {
      const { value, done } = await this.#chunks.next();
      if (done) return false;
      if (value.length === 0) continue;
      this.#held = value;
      return true;
    }
  }
}

/** Opens, works and closes. */
export async function withBytes<T>(opened: Promise<ByteStream>, work: (stream: ByteStream) => Promise<T>): Promise<T> {
  const stream = await opened;
  try {
    return await work(stream);
  } finally {
    await stream.close();
  }
}

async function* pieces(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += CHUNK) yield bytes.subarray(at, at + CHUNK);
}
