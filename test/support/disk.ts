// A disk without space.
import { closeSync, openSync, writeSync } from "node:fs";

/** Writes a file until there is no space left. */
export function fillDisk(file: string): void {
  const filler = openSync(file, "w");
  try {
    for (const bytes of [4096, 1]) for (;;) writeSync(filler, Buffer.alloc(bytes));
  } catch {
    closeSync(filler);
  }
}
