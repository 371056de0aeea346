import { createHash } from "node:crypto";
import { createWriteStream } from "node:fs";
import { mkdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { openRegular } from "../data/files.js";

/** What a download is doing. */
export interface DownloadProgress {
  /** `download`: bytes arrive. `check`: the SHA-256 is taken. `note`: something to tell. */
  readonly stage: "download" | "check" | "note";
  /** The address, the file, why an attempt was given up. */
  readonly detail: string;
  /** Bytes so far. */
  readonly done?: number;
  /** Bytes in all; null where it is not known. */
  readonly total?: number | null;
}

/** Options of {@link download}. */
export interface DownloadOptions {
  /** SHA-256 that the file must have, or the hexadecimal digits with which it must begin. @default any */
  readonly sha256?: string | undefined;
  /** Milliseconds to wait for a server's first answer. @default 10000 */
  readonly connectTimeout?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly report: (progress: DownloadProgress) => void;
}

/** A file that could not be fetched, or that is not the one expected. */
export class DownloadError extends Error {
  constructor(
    readonly kind: "unreachable" | "checksum",
    message: string,
    cause?: unknown,
  ) {
    super(message, { cause });
  }
}

const IDLE_TIMEOUT = 60_000;
const ATTEMPTS = 5;

/**
 * Fetches `url` into `file`, which appears complete, or not at all. What an earlier attempt left beside it (`.part`) is
 * gone on with where the server's file is still the same.
 * @throws DownloadError; the file system's own errors; the signal's reason
 */
export async function download(url: string, file: string, options: DownloadOptions): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true });
  const part = `${file}.part`;
  let lastFailure: unknown;
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    let delivers = false;
    try {
      await fetchInto(part, url, options, () => {
        delivers = true;
      });
      if (options.sha256) await verifyPart(part, file, options);
      await rename(part, file);
      await rm(`${part}.json`, { force: true });
      return;
    } catch (error) {
      if (error instanceof DownloadError || options.signal?.aborted) throw error;
      if ((error as NodeJS.ErrnoException).syscall && (error as NodeJS.ErrnoException).code !== "ECONNRESET")
        throw error;
      lastFailure = error;
      // A server that cannot be reached is given up at once; one that breaks off gets further attempts while it delivers.
      if (!delivers) break;
      const now = (await stat(part).catch(() => null))?.size ?? 0;
      options.report({ stage: "note", detail: `${reasonOf(error)}; resuming at ${now} bytes` });
      await sleep(Math.min(200 * 2 ** attempt, 5_000), undefined, { signal: options.signal });
    }
  }
  throw new DownloadError("unreachable", reasonOf(lastFailure), lastFailure);
}

async function verifyPart(part: string, file: string, options: DownloadOptions): Promise<void> {
  options.report({ stage: "check", detail: file });
  const wrong = await wrongChecksum(part, options.sha256 as string, path.basename(file));
  if (!wrong) return;
  await rm(part, { force: true });
  await rm(`${part}.json`, { force: true });
  throw new DownloadError("checksum", wrong);
}

/** What is wrong with a file's SHA-256, given whole or by its first digits; null where nothing is. */
export async function wrongChecksum(file: string, sha256: string, name = path.basename(file)): Promise<string | null> {
  const actual = await hashFile(file);
  const expected = sha256.toLowerCase();
  if (actual.startsWith(expected)) return null;
  const what = expected.length < actual.length ? `a SHA-256 that begins with ${expected}` : `SHA-256 ${expected}`;
  return `Expected ${what} for ${name} but received ${actual}`;
}

/** The SHA-256 of a regular file, in hexadecimal digits. */
export async function hashFile(file: string): Promise<string> {
  const hash = createHash("sha256");
  const opened = await openRegular(file);
  for await (const chunk of opened.createReadStream()) hash.update(chunk);
  return hash.digest("hex");
}

/** An error's message with that of its cause, as `fetch` has it. */
export function reasonOf(error: unknown): string {
  const cause = (error as { cause?: { code?: string; message?: string } })?.cause;
  const message = (error as Error)?.message ?? String(error);
  return cause?.message ? `${message} (${cause.message})` : cause?.code ? `${message} (${cause.code})` : message;
}

/** One request that completes `part`, from where it stands if the server's file is still the same. */
async function fetchInto(part: string, url: string, job: DownloadOptions, onData: () => void): Promise<void> {
  const had = await stat(part).catch(() => null);
  const tag = had ? await readTag(`${part}.json`, url) : null;
  if (had && !tag) await rm(part, { force: true });
  const start = had && tag ? had.size : 0;

  const watchdog = new AbortController();
  const signal = job.signal ? AbortSignal.any([job.signal, watchdog.signal]) : watchdog.signal;
  let timer: NodeJS.Timeout | undefined;
  const expectWithin = (milliseconds: number, what: string) => {
    clearTimeout(timer);
    timer = setTimeout(() => watchdog.abort(new Error(`${what} within ${milliseconds / 1000} s`)), milliseconds);
  };
  try {
    expectWithin(job.connectTimeout ?? 10_000, "the server did not answer");
    const headers: Record<string, string> = { "accept-encoding": "identity" };
    if (start > 0 && tag) Object.assign(headers, { range: `bytes=${start}-`, "if-range": tag });
    const response = await fetchByProxy(url, { headers, signal });
    if (response.status === 416) {
      await response.body?.cancel();
      await rm(part, { force: true });
      return await fetchInto(part, url, job, onData);
    }
    if (!response.ok || !response.body) throw new HttpError(`HTTP ${response.status} ${response.statusText}`);
    const resumed = response.status === 206;
    const offset = resumed ? start : 0;
    const length = Number(response.headers.get("content-length") ?? Number.NaN);
    const total = Number.isFinite(length) ? offset + length : null;
    const newTag = response.headers.get("etag") ?? response.headers.get("last-modified");
    if (newTag && !newTag.startsWith("W/")) await writeFile(`${part}.json`, JSON.stringify({ url, tag: newTag }));
    else await rm(`${part}.json`, { force: true });

    let done = offset;
    const counted = async function* (body: AsyncIterable<Uint8Array>) {
      for await (const chunk of body) {
        done += chunk.length;
        onData();
        expectWithin(IDLE_TIMEOUT, "no data came");
        job.report({ stage: "download", detail: url, done, total });
        yield chunk;
      }
    };
    job.report({ stage: "download", detail: url, done, total });
    const body = Readable.fromWeb(response.body as import("node:stream/web").ReadableStream);
    await pipeline(body, counted, createWriteStream(part, { flags: resumed ? "a" : "w" }), { signal });
    if (total !== null && done !== total) throw new HttpError(`the server sent ${done} of ${total} bytes`);
  } catch (error) {
    throw watchdog.signal.aborted ? watchdog.signal.reason : error;
  } finally {
    clearTimeout(timer);
  }
}

class HttpError extends Error {}

/** `fetch`, by way of the proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY (or the same in lower case) name for the address. */
async function fetchByProxy(url: string, options: { headers: Record<string, string>; signal: AbortSignal }) {
  const { getProxyForUrl } = await import("proxy-from-env");
  const proxy = getProxyForUrl(url);
  if (!proxy) return fetch(url, options);
  // The fetch of Node.js knows no proxies before version 24.
  const undici = await import("undici");
  return undici.fetch(url, { ...options, dispatcher: new undici.ProxyAgent(proxy) });
}

async function readTag(file: string, url: string): Promise<string | null> {
  try {
    const saved = JSON.parse(await readFile(file, "utf8"));
    return saved.url === url && typeof saved.tag === "string" ? saved.tag : null;
  } catch {
    return null;
  }
}
