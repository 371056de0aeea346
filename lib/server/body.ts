// A request's body, from the socket into memory: bounded in bytes, in time, and in how slowly it may come.
import type { IncomingMessage } from "node:http";
import type { Transform } from "node:stream";
import { createBrotliDecompress, createGunzip, createInflate, createInflateRaw, type Zlib } from "node:zlib";
import { LayerEnsemblesError } from "../errors.js";
import type { Budget, Held } from "./budget.js";

/** Encodings of a body that are taken. */
export const ENCODINGS = ["gzip", "deflate", "br"] as const;

/** Milliseconds in which at least {@link MIN_BYTES} of a body must arrive. */
const WINDOW = 5000;
/** A thousandth of a slow mobile connection. */
const MIN_BYTES = 4096;

/** A body. */
export interface Body {
  bytes: Uint8Array;
  /** Its memory. */
  held: Held;
}

/** How a body is read. */
export interface BodyOptions {
  /** Most bytes, unpacked as well as packed. */
  maxBody: number;
  /** All bodies of the server. */
  budget: Budget;
  /** The header content-encoding. */
  encoding: string | undefined;
  /** The header content-length. */
  length: number | undefined;
  /** Ends the waiting. */
  signal: AbortSignal;
}

/** A content-encoding that can be read, in lower case; identity for none. */
export function encodingOf(header: string | undefined): (typeof ENCODINGS)[number] | "identity" | undefined {
  const name = (header ?? "identity")
    .trim()
    .toLowerCase()
    .replace(/^x-(?=gzip$)/, "");
  if (name === "" || name === "identity") return "identity";
  return ENCODINGS.find((known) => known === name);
}

/**
 * Reads a whole body. What is beyond its limits is thrown away as it comes, so that its client gets to read why.
 * @throws ERR_LE_TOO_LARGE, ERR_LE_TIMEOUT for one that comes too slowly, ERR_LE_BUSY where others are in its way, ERR_LE_DATA for a
 * damaged or cut one, `signal.reason`
 */
export function readBody(message: IncomingMessage, options: BodyOptions): Promise<Body> {
  const { maxBody, budget, encoding, length, signal } = options;
  return new Promise((resolve, reject) => {
    let held: Held | undefined;
    let settled = false;
    let arrived = 0;
    let before = 0;
    let decoder: (Transform & Zlib) | undefined;
    const bytes = new Growing(
      length === undefined || encodingOf(encoding) !== "identity" ? maxBody : Math.min(length, maxBody),
    );
    const watch = setInterval(() => {
      if (message.complete) return;
      if (arrived - before < MIN_BYTES)
        fail(
          new LayerEnsemblesError(
            "ERR_LE_TIMEOUT",
            `Expected at least ${MIN_BYTES} bytes of the body in ${WINDOW / 1000} s but received ${arrived - before}.`,
          ),
        );
      before = arrived;
    }, WINDOW);
    const settle = () => {
      settled = true;
      clearInterval(watch);
      signal.removeEventListener("abort", onAbort);
      decoder?.destroy();
    };
    const fail = (error: unknown) => {
      if (settled) return;
      settle();
      held?.release();
      message.removeListener("data", onPacked);
      message.resume();
      reject(error);
    };
    const onAbort = () => fail(signal.reason);
    const cut = () => fail(new LayerEnsemblesError("ERR_LE_DATA", "Expected a whole body but received a part of one."));
    const tooLarge = () =>
      fail(
        new LayerEnsemblesError("ERR_LE_TOO_LARGE", `Expected a body of at most ${maxBody} bytes but received more.`),
      );
    const onBytes = (part: Buffer) => {
      if (settled) return;
      if (bytes.length + part.length > maxBody) return tooLarge();
      try {
        held?.resize(bytes.capacityFor(part.length));
        bytes.add(part);
      } catch (error) {
        fail(error);
      }
    };
    const onEnd = () => {
      if (settled) return;
      settle();
      const whole = bytes.take();
      (held as Held).resize(whole.buffer.byteLength);
      resolve({ bytes: whole, held: held as Held });
    };
    const onPacked = (part: Buffer) => {
      arrived += part.length;
      if (arrived > maxBody) return tooLarge();
      if (decoder === undefined) return onBytes(part);
      if (!decoder.write(part)) {
        message.pause();
        decoder.once("drain", () => message.resume());
      }
    };
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) return onAbort();
    try {
      held = budget.take(0, {
        idle: () => !settled,
        evict: () =>
          fail(
            new LayerEnsemblesError(
              "ERR_LE_BUSY",
              "Expected room for a large body but others need it. Try again soon.",
            ),
          ),
      });
    } catch (error) {
      return fail(error);
    }
    message.on("error", cut).on("aborted", cut);
    const kind = encodingOf(encoding);
    if (kind === "identity") message.on("data", onPacked).on("end", onEnd);
    else {
      const start = (first: Buffer) => {
        if (settled) return;
        decoder = decoderOf(kind, first);
        decoder.on("data", onBytes).on("end", () => {
          // What follows a stream is passed over by zlib: two of them would be read as the first.
          const rest = arrived - (decoder?.bytesWritten ?? 0);
          if (rest === 0) return onEnd();
          fail(
            new LayerEnsemblesError(
              "ERR_LE_DATA",
              `Expected one stream in ${kind} but received ${rest} bytes after it.`,
            ),
          );
        });
        decoder.on("error", (error) =>
          fail(
            new LayerEnsemblesError(
              "ERR_LE_DATA",
              `Expected a body in ${kind} but received a damaged one: ${error.message}.`,
            ),
          ),
        );
        message.on("data", onPacked);
        onPacked(first);
      };
      message.once("data", start);
      message.on("end", () => (decoder ? decoder.end() : onEnd()));
    }
  });
}

function decoderOf(kind: string | undefined, first: Buffer): Transform & Zlib {
  if (kind === "gzip") return createGunzip();
  if (kind === "br") return createBrotliDecompress();
  // Some clients send deflate without the header of zlib that the name stands for.
  return ((first[0] ?? 0) & 15) === 8 ? createInflate() : createInflateRaw();
}

/** Bytes that come in parts, in one buffer that doubles; at most `limit`, so that a length that is told makes it exact. */
class Growing {
  #buffer = new Uint8Array(0);
  length = 0;

  constructor(readonly limit: number) {}

  /** The buffer's size once so many more bytes are in. */
  capacityFor(more: number): number {
    const wanted = this.length + more;
    if (wanted <= this.#buffer.length) return this.#buffer.length;
    return Math.max(wanted, Math.min(this.limit, Math.max(65_536, 2 * this.#buffer.length)));
  }

  add(part: Uint8Array): void {
    const capacity = this.capacityFor(part.length);
    if (capacity > this.#buffer.length) {
      const larger = new Uint8Array(capacity);
      larger.set(this.#buffer.subarray(0, this.length));
      this.#buffer = larger;
    }
    this.#buffer.set(part, this.length);
    this.length += part.length;
  }

  /** All of it, in a buffer of its own. */
  take(): Uint8Array {
    const whole = this.length === this.#buffer.length ? this.#buffer : this.#buffer.slice(0, this.length);
    this.#buffer = new Uint8Array(0);
    return whole;
  }
}
