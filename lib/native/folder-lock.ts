import { AsyncLocalStorage } from "node:async_hooks";
import { rmdir } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { makeFolders, removeTemporaries } from "../data/files.js";
import { LayerEnsemblesError } from "../errors.js";
import { findAddon } from "./load.js";

/** The functions of native/preload.c that lock. */
interface Locks {
  lockFolder(folder: string): object | null;
  unlockFolder(lock: object): void;
}

/** The folders that the work under way has locked. */
const held = new AsyncLocalStorage<readonly string[]>();

/**
 * Works on a folder that nobody else writes to meanwhile: no other process, and no other call of this one. The folder is made
 * where it is missing, and what killed processes left in it is removed. The lock ends with the process, however that ends.
 * What has the folder locked may lock it again. Where the work fails, folders that were made and are empty go.
 * @param work gets whether the folder was made
 * @throws ERR_LE_BUSY at once where another has it, with nothing changed; ERR_LE_IO
 */
export async function withFolder<T>(folder: string, work: (made: boolean) => Promise<T>): Promise<T> {
  const absolute = path.resolve(folder);
  const outer = held.getStore() ?? [];
  if (outer.includes(absolute)) return work(false);
  const first = await makeFolders(absolute);
  const locks = createRequire(import.meta.url)(findAddon().preload) as Locks;
  const lock = take(locks, absolute, folder);
  try {
    await removeTemporaries(absolute);
    return await held.run([...outer, absolute], () => work(first !== undefined));
  } catch (error) {
    if (first !== undefined) await removeEmpty(absolute, first);
    throw error;
  } finally {
    locks.unlockFolder(lock);
  }
}

/**
 * Keeps a folder that nobody else writes to, until it is given back or the process ends.
 * @returns gives it back
 * @throws as {@link withFolder}
 */
export function holdFolder(folder: string): Promise<() => Promise<void>> {
  return new Promise((resolve, reject) => {
    const work: Promise<void> = withFolder(folder, () => {
      return new Promise<void>((end) => {
        const release = () => {
          end();
          return work;
        };
        resolve(release);
      });
    });
    work.catch(reject);
  });
}

/** Removes a folder and those above it, up to the one that was made first, as far as nothing came to be in them. */
async function removeEmpty(folder: string, first: string): Promise<void> {
  for (let at = folder; at.length >= first.length; at = path.dirname(at)) {
    const removed = await rmdir(at).then(
      () => true,
      () => false,
    );
    if (!removed) return;
  }
}

function take(locks: Locks, absolute: string, folder: string): object {
  let lock: object | null;
  try {
    lock = locks.lockFolder(absolute);
  } catch (cause) {
    throw new LayerEnsemblesError(
      "ERR_LE_IO",
      `Expected a folder that can be locked for ${folder} but received: ${(cause as Error).message}.`,
      { cause },
    );
  }
  if (lock) return lock;
  throw new LayerEnsemblesError(
    "ERR_LE_BUSY",
    `Expected a folder that nobody else writes to but received ${folder}, which another training or command is writing: wait for its end, or choose another folder.`,
  );
}
