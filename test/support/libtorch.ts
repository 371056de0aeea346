import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { zipSync } from "fflate";
import { onTestFinished } from "vitest";
import { libraryName } from "../../lib/native/locate.js";

/** An empty folder that is removed after the test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** An ELF file of `size` bytes with one segment over all of it: passes for a library until it is opened. */
export function fakeLibrary(size = 4096): Buffer {
  const file = Buffer.alloc(size, 7);
  file.fill(0, 0, 120);
  file.writeUInt32BE(0x7f454c46, 0);
  file.set([2, 1, 1], 4);
  file.writeUInt16LE(3, 16); // ET_DYN
  file.writeUInt16LE(62, 18); // x86-64
  file.writeBigUInt64LE(64n, 32); // the segment table follows the header
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(1, 56);
  file.writeUInt32LE(1, 64); // PT_LOAD
  file.writeBigUInt64LE(BigInt(size), 64 + 32);
  return file;
}

/** The files of a tiny libtorch, by path. */
export function fakeFiles({ version = "2.13.0+cpu", wheel = false, headers = true } = {}): Record<string, Buffer> {
  return {
    [`lib/${libraryName("c10")}`]: fakeLibrary(),
    [`lib/${libraryName("torch_cpu")}`]: fakeLibrary(200_000),
    ...(headers && { "include/ATen/ATen.h": Buffer.from("#pragma once\n") }),
    ...(wheel
      ? { "version.py": Buffer.from(`__all__ = []\n__version__ = '${version}'\n`) }
      : { "build-version": Buffer.from(`${version}\n`) }),
  };
}

/** Writes a tiny libtorch and gives its folder. */
export function fakeLibtorch(folder: string, options?: Parameters<typeof fakeFiles>[0]): string {
  for (const [name, content] of Object.entries(fakeFiles(options))) {
    mkdirSync(path.dirname(path.join(folder, name)), { recursive: true });
    writeFileSync(path.join(folder, name), content);
  }
  return folder;
}

/** A zip archive (below `libtorch/`) or wheel (below `torch/`) of a tiny libtorch. */
export function fakeArchive(options: Parameters<typeof fakeFiles>[0] = {}, extra: Record<string, Buffer> = {}): Buffer {
  const top = options.wheel ? "torch" : "libtorch";
  const files = Object.entries(fakeFiles(options)).map(([name, content]) => [`${top}/${name}`, content] as const);
  // Stored, so that cutting the archive cuts the data.
  return Buffer.from(zipSync({ ...Object.fromEntries(files), ...extra }, { level: 0 }));
}
