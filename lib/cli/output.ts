import { accessSync, constants, existsSync, statSync } from "node:fs";
import { mkdir, readdir, rename, rm } from "node:fs/promises";
import path from "node:path";
import { ioError } from "../data/files.js";
import { LayerEnsemblesError } from "../errors.js";

/**
 * Checks that a folder can be written to, or made, without making it.
 * @throws ERR_LE_IO
 */
export function checkOutput(folder: string, option: string): void {
  let existing = path.resolve(folder);
  while (!existsSync(existing)) existing = path.dirname(existing);
  const what = `Expected a folder that can be written for ${option} but received ${folder}`;
  if (!statSync(existing).isDirectory()) {
    throw new LayerEnsemblesError("ERR_LE_IO", `${what}: ${existing} is a file.`);
  }
  try {
    accessSync(existing, constants.W_OK | constants.X_OK);
  } catch (cause) {
    throw new LayerEnsemblesError("ERR_LE_IO", `${what}: no permission to write to ${existing}.`, { cause });
  }
}

/**
 * Lets `write` fill a temporary folder, and moves what is in it to `folder` once all of it is there: where `write` fails,
 * nothing is left behind. Files that `folder` has already are replaced by those of the same name and kept otherwise.
 * @throws ERR_LE_IO, and what `write` throws
 */
export async function writeTogether(folder: string, write: (temporary: string) => Promise<void>): Promise<void> {
  const target = path.resolve(folder);
  const temporary = existsSync(target) ? path.join(target, `.${process.pid}.tmp`) : `${target}.${process.pid}.tmp`;
  let made: string | undefined;
  try {
    made = await mkdir(temporary, { recursive: true }).catch((error) => {
      throw ioError(folder, "a folder that can be made", error);
    });
    await write(temporary);
    await moveInto(temporary, target).catch((error) => {
      throw ioError(folder, "writable", error);
    });
    await rm(temporary, { recursive: true, force: true });
  } catch (error) {
    await rm(made ?? temporary, { recursive: true, force: true }).catch(() => {});
    throw error;
  }
}

async function moveInto(from: string, to: string): Promise<void> {
  if (!existsSync(to)) return rename(from, to);
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const [source, target] = [path.join(from, entry.name), path.join(to, entry.name)];
    if (entry.isDirectory()) await moveInto(source, target);
    else await rename(source, target);
  }
}
