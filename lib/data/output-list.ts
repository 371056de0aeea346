// Which files of a folder a command wrote, and whether all of them are there.
import { existsSync } from "node:fs";
import { realpath } from "node:fs/promises";
import path from "node:path";
import { LayerEnsemblesError } from "../errors.js";
import { ioError, isTemporary, readTextIfAny, writeAtomic } from "./files.js";
import { parseJson } from "./json.js";

/** In the folder, so that the next time none of an earlier, larger output stays. */
const LIST = ".layer-ensembles-files.json";

/** What {@link LIST} says. */
export interface OutputList {
  /** Paths below the folder. */
  files: string[];
  /** The file that says what the others are: there where all of them are. */
  index?: string;
}

/** Writes the list, atomically. @throws ERR_LE_IO */
export async function writeOutputList(folder: string, { index, files }: Required<OutputList>): Promise<void> {
  await writeAtomic(path.join(folder, LIST), `${JSON.stringify({ index, files: [...files].sort() })}\n`);
}

/**
 * The folder's list; undefined where it has none.
 * @throws ERR_LE_IO where it cannot be read, or names files that are not below the folder
 */
export async function readOutputList(folder: string): Promise<OutputList | undefined> {
  const file = path.join(folder, LIST);
  const text = await readTextIfAny(file).catch((error) => {
    throw ioError(file, "readable", error);
  });
  if (text === undefined) return undefined;
  try {
    const { index, files } = parseJson(text) as { index?: unknown; files: unknown[] };
    if (files.every(isBelow) && (index === undefined || isBelow(index)))
      return { files: files as string[], ...(index !== undefined && { index: index as string }) };
  } catch {}
  throw new LayerEnsemblesError(
    "ERR_LE_IO",
    `Expected the list of what a command wrote in ${file} but received one that is damaged: remove the folder, or choose another.`,
  );
}

function isBelow(name: unknown): boolean {
  return typeof name === "string" && !path.isAbsolute(name) && !name.split("/").includes("..") && name !== "";
}

/**
 * Refuses a file or folder that a killed command has left half-done: below what it had not yet moved into place, or below a
 * folder whose output is not whole.
 * @throws ERR_LE_DATA
 */
export async function checkWhole(file: string): Promise<void> {
  const real = await realpath(file).catch(() => path.resolve(file));
  for (let at = real; at !== path.dirname(at); at = path.dirname(at)) {
    if (isTemporary(at)) throw partial(file, "what a command that was killed had not finished");
    const { index } = (await readOutputList(at)) ?? {};
    if (index !== undefined && !existsSync(path.join(at, index)))
      throw partial(
        file,
        `a part of the output in ${at}, which has no ${index}: a command was killed, or is writing it`,
      );
  }
}

function partial(file: string, received: string): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected whole output for ${file} but received ${received}. Run the command again.`,
  );
}
