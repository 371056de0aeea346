import { randomBytes } from "node:crypto";
import { closeSync, constants, fstatSync, openSync, readFileSync, type Stats } from "node:fs";
import { type FileHandle, lstat, mkdir, open, readdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { LayerEnsemblesError } from "../errors.js";

/** What a killed process may have left beside a file or in a folder: {@link temporaryName}, or as earlier versions called it. */
const TEMPORARY = /\.(?:[0-9a-f]{16}|\d+[.-]\d+|\d+)\.tmp$/;

/** A name beside `path` that no other process has; process numbers are alike in containers. */
export function temporaryName(path: string): string {
  return `${path}.${randomBytes(8).toString("hex")}.tmp`;
}

/** Whether a file or folder has a {@link temporaryName}: it is not finished. */
export function isTemporary(path: string): boolean {
  return /\.[0-9a-f]{16}\.tmp$/.test(path);
}

/** Removes what killed processes left in a folder. The caller holds the folder's lock. */
export async function removeTemporaries(folder: string): Promise<void> {
  for (const name of await readdir(folder))
    if (TEMPORARY.test(name)) await rm(join(folder, name), { recursive: true, force: true });
}

/** What a file is to hold. Pieces are asked for one after another, as they are written. */
export type FileContent = string | Uint8Array | Iterable<Uint8Array>;

/**
 * Writes a file to a temporary name beside it, flushes it and renames it, so that a reader sees the old content or the
 * new one and never a part. Missing folders are made. A link at `path` is replaced, not followed.
 * @throws ERR_LE_IO where the file system refuses (no space, no permission, read-only), or `path` is a folder, device, pipe or socket
 */
export async function writeAtomic(path: string, content: FileContent): Promise<void> {
  await writeTogether([[path, content]]);
}

/**
 * Writes files that belong together as {@link writeAtomic} writes one: all are on the disk before the first takes its place, so that
 * none does where there is no space for another.
 * @param files in the order in which they take their places
 * @throws ERR_LE_IO
 */
export async function writeTogether(files: readonly (readonly [path: string, content: FileContent])[]): Promise<void> {
  const written: { path: string; temporary: string }[] = [];
  let at = "";
  try {
    for (const [path, content] of files) {
      at = path;
      const temporary = temporaryName(path);
      written.push({ path, temporary });
      await checkReplaceable(path);
      await makeFolders(dirname(path));
      const file = await open(temporary, "wx");
      try {
        await writeFile(file, content);
        await file.sync();
      } finally {
        await file.close();
      }
    }
    for (const { path, temporary } of written) {
      at = path;
      await rename(temporary, path);
    }
  } catch (error) {
    for (const { temporary } of written) await rm(temporary, { force: true }).catch(() => {});
    throw error instanceof LayerEnsemblesError ? error : ioError(at, "writable", error);
  }
}

/**
 * Checks that a file may be put at `path`: a rename would put it in the place of a device or a pipe, too.
 * @throws ERR_LE_IO where something else than a regular file is there, or behind a link there
 */
export async function checkReplaceable(path: string): Promise<void> {
  const info = await stat(path).catch(() => undefined);
  if (info && !info.isFile()) throw ioError(path, "a new or regular file", kindOf(info));
}

/**
 * Makes a folder and those above it, one after another: Node's recursive `mkdir` never ends where a file system says that
 * nothing is there and lets nothing be made, as /proc does.
 * @returns the first folder that was made; undefined where all were there
 * @throws ERR_LE_IO
 */
export async function makeFolders(folder: string): Promise<string | undefined> {
  const missing: string[] = [];
  let at = resolve(folder);
  for (; ; at = dirname(at)) {
    const found = await stat(at).catch((error) => {
      if (isMissing(error)) return undefined;
      throw ioError(folder, "a folder that can be made", error);
    });
    if (found?.isDirectory()) break;
    if (found) throw ioError(folder, "a folder that can be made", `a file at ${at}`);
    missing.unshift(at);
    if (at === dirname(at)) throw ioError(folder, "a folder that can be made", "no root");
  }
  for (const one of missing)
    await mkdir(one).catch(async (error) => {
      const made = error.code === "EEXIST" ? await stat(one).catch(() => undefined) : undefined;
      if (!made?.isDirectory()) throw ioError(folder, "a folder that can be made", error);
    });
  return missing[0];
}

/**
 * Opens a regular file for reading. A pipe or device, which could make a reader wait for ever, is refused without a wait.
 * @throws the file system's error, or an Error that says what else is there
 */
export async function openRegular(path: string): Promise<FileHandle> {
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const info = await file.stat();
    if (!info.isFile()) throw new Error(`${kindOf(info)}, which is no regular file`);
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/**
 * The bytes of a regular file.
 * @param limit most bytes @default 2 GiB, Node's own
 * @throws as {@link openRegular}
 */
export async function readRegular(path: string, limit = 2 ** 31 - 1): Promise<Buffer> {
  const file = await openRegular(path);
  try {
    const { size } = await file.stat();
    if (size > limit) throw new Error(`${size} bytes, more than ${limit}`);
    return await file.readFile();
  } finally {
    await file.close();
  }
}

/** {@link openRegular} at once; the caller closes it. @returns the file descriptor */
export function openRegularSync(path: string): number {
  const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const info = fstatSync(file);
  if (info.isFile()) return file;
  closeSync(file);
  throw new Error(`${kindOf(info)}, which is no regular file`);
}

/** {@link readText} at once. @throws as {@link openRegular} */
export function readTextSync(path: string): string {
  const file = openRegularSync(path);
  try {
    return readFileSync(file, "utf8");
  } finally {
    closeSync(file);
  }
}

/** The text of a regular file of at most 256 MiB. @throws as {@link openRegular} */
export async function readText(path: string, limit = 2 ** 28): Promise<string> {
  return (await readRegular(path, limit)).toString("utf8");
}

/** {@link readText} of a file that may be left out: undefined where nothing is. @throws as {@link openRegular} */
export async function readTextIfAny(path: string): Promise<string | undefined> {
  try {
    return await readText(path);
  } catch (error) {
    if (await isAbsent(path)) return undefined;
    throw error;
  }
}

/** Whether nothing is at a path: a link that leads nowhere is something that somebody meant to be there. */
export async function isAbsent(path: string): Promise<boolean> {
  return lstat(path).then(() => false, isMissing);
}

function kindOf(info: Stats): string {
  if (info.isDirectory()) return "a folder";
  if (info.isFIFO()) return "a pipe";
  if (info.isSocket()) return "a socket";
  return "a device";
}

/** An ERR_LE_IO for a file-system error: "Expected `path` to be …, but received ENOSPC: …". */
export function ioError(path: string, expected: string, cause: unknown): LayerEnsemblesError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new LayerEnsemblesError("ERR_LE_IO", `Expected ${path} to be ${expected} but received ${reason}`, { cause });
}

/** True for a file-system error that says "no such file or folder". */
export function isMissing(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code === "ENOENT" || code === "ENOTDIR";
}
