import { buffer } from "node:stream/consumers";
import yauzl from "yauzl";
import type { NdArray, NumericArray } from "../arrays.js";
import { LayerEnsemblesError } from "../errors.js";
import { crc32 } from "./crc.js";
import { openRegular } from "./files.js";
import { parseNpy } from "./npy.js";

/** Limits of {@link readNpz}. */
export interface NpzLimits {
  /** Bytes of all arrays that are read, unpacked. @default 4 GiB */
  maxBytes?: number;
  /** Entries of the archive. @default 10000 */
  maxEntries?: number;
}

/**
 * Reads arrays from a NumPy `.npz` file, stored or deflated.
 * @param names Keys of the arrays to read; those that the file lacks are left out. Other entries are not unpacked.
 * @throws ERR_LE_DATA for a file that is missing, damaged, or over the limits
 */
export async function readNpz(
  file: string,
  names: readonly string[],
  { maxBytes = 2 ** 32, maxEntries = 10_000 }: NpzLimits = {},
): Promise<Record<string, NdArray<NumericArray>>> {
  await openRegular(file).then(
    (opened) => opened.close(),
    (error) => {
      throw damaged(file, error);
    },
  );
  const zip = await openZip(file);
  try {
    if (zip.entryCount > maxEntries) refuse(file, `at most ${maxEntries} arrays`, `${zip.entryCount}`);
    const arrays: Record<string, NdArray<NumericArray>> = {};
    let total = 0;
    for await (const entry of entries(zip, file)) {
      const name = entry.fileName.replace(/\.npy$/, "");
      if (!names.includes(name) || !entry.fileName.endsWith(".npy")) continue;
      if (Object.hasOwn(arrays, name)) refuse(file, "distinct arrays", `"${name}" twice`);
      total += entry.uncompressedSize;
      if (total > maxBytes) refuse(file, `at most ${maxBytes} bytes of arrays`, `${total} or more`);
      arrays[name] = parseNpy(await unpack(zip, entry, file), `"${name}" in ${file}`);
    }
    return arrays;
  } finally {
    zip.close();
  }
}

function openZip(file: string): Promise<yauzl.ZipFile> {
  return new Promise((resolve, reject) =>
    yauzl.open(file, { lazyEntries: true, autoClose: false }, (error, zip) => {
      if (error) reject(damaged(file, error));
      else {
        // What nobody waits for any more must not end the process.
        zip.on("error", () => {});
        resolve(zip);
      }
    }),
  );
}

async function* entries(zip: yauzl.ZipFile, file: string): AsyncGenerator<yauzl.Entry> {
  for (let read = 0; read < zip.entryCount; read++) {
    yield await new Promise<yauzl.Entry>((resolve, reject) => {
      const onEntry = (entry: yauzl.Entry) => settle(() => resolve(entry));
      const onEnd = () => settle(() => reject(damaged(file, new Error("it has fewer entries than it says"))));
      const onError = (error: Error) => settle(() => reject(damaged(file, error)));
      const settle = (act: () => void) => {
        zip.off("entry", onEntry).off("end", onEnd).off("error", onError);
        act();
      };
      zip.on("entry", onEntry).on("end", onEnd).on("error", onError);
      zip.readEntry();
    });
  }
}

/** yauzl ends the stream with an error where the entry is longer or shorter than the archive says; it leaves the checksum to us. */
async function unpack(zip: yauzl.ZipFile, entry: yauzl.Entry, file: string): Promise<Uint8Array> {
  let bytes: Uint8Array;
  try {
    const stream = await new Promise<NodeJS.ReadableStream>((resolve, reject) =>
      zip.openReadStream(entry, (error, opened) => (error ? reject(error) : resolve(opened))),
    );
    bytes = await buffer(stream);
  } catch (error) {
    throw damaged(file, error as Error);
  }
  if (crc32(bytes) !== entry.crc32) throw damaged(file, new Error(`the checksum of ${entry.fileName} is wrong`));
  return bytes;
}

function damaged(file: string, cause: Error): LayerEnsemblesError {
  const missing = (cause as NodeJS.ErrnoException).code === "ENOENT";
  const received = missing ? "none" : `one that cannot be read: ${cause.message}`;
  return new LayerEnsemblesError("ERR_LE_DATA", `Expected an .npz file for ${file} but received ${received}.`, {
    cause,
  });
}

function refuse(file: string, expected: string, received: string): never {
  throw new LayerEnsemblesError("ERR_LE_DATA", `Expected ${expected} for ${file} but received ${received}.`);
}
