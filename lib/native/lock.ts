import { randomUUID } from "node:crypto";
import { open, rename, rm, stat, utimes } from "node:fs/promises";
import os from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { ioError, isMissing, readText } from "../data/files.js";

/** Milliseconds between two signs of life. */
const BEAT = 5_000;
/** Milliseconds without one after which a lock counts as abandoned. */
const STALE = 60_000;

/**
 * Takes a lock file, waiting for a living holder; gives the function that releases it. A holder shows life by touching
 * the file. The lock of a process that ended without releasing it is taken over.
 * @param onWait Called once, where there is something to wait for.
 */
export async function lock(
  file: string,
  signal: AbortSignal | undefined,
  onWait: () => void,
): Promise<() => Promise<void>> {
  const token = JSON.stringify({ pid: process.pid, host: os.hostname(), id: randomUUID() });
  for (let told = false; ; ) {
    try {
      const handle = await open(file, "wx");
      await handle.writeFile(token);
      await handle.close();
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    const held = await readText(file).catch((error) => {
      if (isMissing(error)) return null;
      throw ioError(file, "a lock", error);
    });
    if (held === null) continue;
    if (await isStale(file, held)) {
      // Only one of several waiters can rename the file away.
      const aside = `${file}.${randomUUID()}`;
      await rename(file, aside).then(
        () => rm(aside, { force: true }),
        () => {},
      );
      continue;
    }
    if (!told) onWait();
    told = true;
    await sleep(200, undefined, { signal });
  }
  const beat = setInterval(() => {
    const now = new Date();
    utimes(file, now, now).catch(() => {});
  }, BEAT);
  beat.unref();
  return async () => {
    clearInterval(beat);
    if ((await readText(file).catch(() => null)) === token) await rm(file, { force: true });
  };
}

async function isStale(file: string, held: string): Promise<boolean> {
  const info = await stat(file).catch(() => null);
  if (info && Date.now() - info.mtimeMs > STALE) return true;
  try {
    const { pid, host } = JSON.parse(held);
    if (host !== os.hostname()) return false;
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ESRCH";
  }
}
