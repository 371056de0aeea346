import { accessSync, constants, existsSync, statSync } from "node:fs";
import { lstat, mkdir, readdir, rename, rm, rmdir } from "node:fs/promises";
import path from "node:path";
import { checkReplaceable, ioError, isMissing, makeFolders, readRegular, temporaryName } from "../data/files.js";
import { readOutputList, writeOutputList } from "../data/output-list.js";
import { LayerEnsemblesError } from "../errors.js";
import { withFolder } from "../native/folder-lock.js";
import { SET_NAMES } from "../sets/index.js";

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

/** Folders in which commands write, to refuse those of others before the work instead of after it. */
const OUTPUT_FOLDERS = ["masks", "probabilities", "overlays", ...SET_NAMES, "tables", "figures"];

/**
 * Lets `write` fill a temporary folder, and moves what is in it to `folder` once all of it is there: where `write` fails,
 * nothing is left behind. What an earlier call has put there goes, and what others have is never mixed with it: folders in
 * which others have files are refused. One writer at a time has the folder.
 * @param index the file that says what the others are: gone while they are changed, and there again once they are whole
 * @throws ERR_LE_IO, ERR_LE_BUSY where another command writes the folder, and what `write` throws
 */
export async function writeTogether(
  folder: string,
  index: string,
  write: (temporary: string) => Promise<void>,
): Promise<void> {
  const target = path.resolve(folder);
  await withFolder(target, async () => {
    const { files: listed = [] } = (await readOutputList(target)) ?? {};
    // Where the index is, files of the names to be written are of an earlier output, listed or not.
    const own = existsSync(path.join(target, index));
    if (!own)
      await refuseForeign(
        target,
        OUTPUT_FOLDERS.map((name) => `${name}/`),
        listed,
      );
    const temporary = temporaryName(`${target}/`);
    try {
      await mkdir(temporary);
      await write(temporary);
      const files = await filesBelow(temporary);
      await refuseForeign(target, files, own ? [...listed, ...files] : listed);
      await checkPlaces(target, [...listed, ...files]);
      await replaceFiles(target, temporary, files, listed, index);
    } catch (error) {
      throw error instanceof LayerEnsemblesError || !(error as NodeJS.ErrnoException).syscall
        ? error
        : ioError(folder, "writable", error);
    } finally {
      await rm(temporary, { recursive: true, force: true }).catch(() => {});
    }
  });
}

/** Below a folder that a killed process may have left half-changed, the list names all files of both outputs. */
async function replaceFiles(
  target: string,
  temporary: string,
  files: readonly string[],
  before: readonly string[],
  index: string,
): Promise<void> {
  const list = (names: Iterable<string>) => writeOutputList(target, { index, files: [...names] });
  await list(new Set([...files, ...before]));
  // What an index that stays as it is says of the others holds meanwhile, too; and a command may have been given no more than it.
  if (!(await isSame(path.join(target, index), path.join(temporary, index))))
    await rm(path.join(target, index), { force: true });
  for (const name of before.filter((one) => !files.includes(one))) {
    await rm(path.join(target, name), { force: true });
    for (let up = path.dirname(name); up !== "."; up = path.dirname(up))
      await rmdir(path.join(target, up)).catch(() => {}); // where it is empty
  }
  for (const name of [...files.filter((one) => one !== index), ...files.filter((one) => one === index)]) {
    await makeFolders(path.dirname(path.join(target, name)));
    await rename(path.join(temporary, name), path.join(target, name));
  }
  await list(files);
}

async function isSame(file: string, other: string): Promise<boolean> {
  const [a, b] = await Promise.all([file, other].map((one) => readRegular(one).catch(() => undefined)));
  return a !== undefined && b !== undefined && a.equals(b);
}

/** Refuses a folder below the output's that has files of others: a mask there could be taken for one that was predicted. */
async function refuseForeign(folder: string, files: readonly string[], before: readonly string[]): Promise<void> {
  const known = new Set(before);
  for (const below of new Set(
    files.map((name) => name.slice(0, Math.max(0, name.lastIndexOf("/")))).filter((name) => name !== ""),
  )) {
    const there = await readdir(path.join(folder, below)).catch((error) => {
      if (isMissing(error)) return [];
      throw error;
    });
    const other = there.find((name) => !known.has(`${below}/${name}`));
    const info = other === undefined ? undefined : await lstat(path.join(folder, below, other));
    if (info && !info.isDirectory()) throw foreign(folder, `${below}/${other} of something else`);
  }
}

/**
 * Checks where files below a folder are to be removed or written: neither happens where a link to a folder leads, nor to a
 * pipe, a device, a socket or a folder.
 * @throws ERR_LE_IO
 */
export async function checkPlaces(folder: string, files: readonly string[]): Promise<void> {
  const above = new Set<string>();
  for (const name of files) for (let up = path.dirname(name); up !== "."; up = path.dirname(up)) above.add(up);
  for (const below of above) {
    const info = await lstat(path.join(folder, below)).catch(() => undefined);
    if (!info || info.isDirectory()) continue;
    const received = `${path.join(folder, below)}, ${info.isSymbolicLink() ? "a link" : "which is none"}`;
    throw new LayerEnsemblesError(
      "ERR_LE_IO",
      `Expected a folder to write in but received ${received}: remove it, or choose another folder.`,
    );
  }
  for (const name of files) await checkReplaceable(path.join(folder, name));
}

function foreign(folder: string, holds: string): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_IO",
    `Expected a new folder, or one that this command wrote, for --out but received ${folder}, which holds ${holds}: remove it, or choose another folder.`,
  );
}

async function filesBelow(folder: string): Promise<string[]> {
  const files: string[] = [];
  for (const name of await readdir(folder, { recursive: true }))
    if ((await lstat(path.join(folder, name))).isFile()) files.push(name.split(path.sep).join("/"));
  return files;
}
