import { mkdir, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { LayerEnsemblesError } from "../errors.js";

let counter = 0;

/**
 * Writes a file to a temporary name beside it, flushes it and renames it, so that a reader sees the old content or the
 * new one and never a part. Missing folders are made.
 * @throws ERR_LE_IO where the file system refuses (no space, no permission, read-only)
 */
export async function writeAtomic(path: string, content: string | Uint8Array): Promise<void> {
  const temporary = `${path}.${process.pid}.${counter++}.tmp`;
  try {
    await mkdir(dirname(path), { recursive: true });
    const file = await open(temporary, "w");
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw ioError(path, "writable", error);
  }
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
