import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { createWriteStream, existsSync } from "node:fs";
import { cp, mkdir, readdir, rename, rm, stat } from "node:fs/promises";
import path from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import yauzl from "yauzl";
import { crc32 } from "../data/crc.js";
import { openRegular } from "../data/files.js";
import { LayerEnsemblesError } from "../errors.js";
import { checkOptions, defaultsOf } from "../options.js";
import { DownloadError, download, hashFile, reasonOf, wrongChecksum } from "./download.js";
import { INSTALL, type InstallOptions, type InstallProgress } from "./install-options.js";
import { cacheFolder, inspectLibtorch, type Libtorch, libraryName, readVersion } from "./locate.js";
import { lock } from "./lock.js";

/** What {@link installLibtorch} did. */
export interface InstallResult extends Libtorch {
  /** False where a usable libtorch was there already. */
  readonly installed: boolean;
}

/** Where PyTorch publishes its C++ archives. */
export const DOWNLOAD_BASE = "https://download.pytorch.org/libtorch";

/** SHA-256 of official archives, by file name. */
const KNOWN_SHA256: Record<string, string> = {
  "libtorch-shared-with-deps-2.13.0+cpu.zip": "edbf4cbed78433d803e90a65f1752e57783d164bce66c95c0872b2ab8f5c159e",
  "libtorch-shared-with-deps-2.13.0+cu130.zip": "945c5a3d946a28b387ad9dc9fddda7ba03e35fae1375b84ebff15df789436f82",
  "libtorch-macos-arm64-2.13.0.zip": "1e10c6c4dc2764150c9fb2ad28e1889191302734e7f939108e5d2f22f21a06f8",
};

/**
 * Puts a libtorch into the user cache, where the search finds it. Safe to run several times at once; a download that was
 * cut off is resumed; the folder appears complete or not at all.
 * @throws LayerEnsemblesError: `ERR_LE_LIBTORCH_NOT_FOUND` (no route worked), `ERR_LE_LIBTORCH_BROKEN` (checksum, damaged
 * archive, no libtorch in it), `ERR_LE_LIBTORCH_VERSION`, `ERR_LE_IO` (no space, no permission), `ERR_LE_OPTION`.
 */
export async function installLibtorch(given: InstallOptions = {}): Promise<InstallResult> {
  const options = { ...defaultsOf(INSTALL), ...checkOptions("installLibtorch", given, INSTALL) };
  const { version, flavour, force } = options;
  const cache = path.resolve(options.cache ?? cacheFolder());
  const target = options.dir === undefined ? path.join(cache, `${version}-${flavour}`) : path.resolve(options.dir);
  const home = path.dirname(target);
  const report = options.onProgress ?? (() => {});
  try {
    await mkdir(home, { recursive: true });
    const lockFile = `${target}.lock`;
    const unlock = await lock(lockFile, options.signal, () =>
      report({ stage: "wait", detail: `another process is installing (${lockFile})` }),
    );
    try {
      if (!force && (!options.from || options.dir !== undefined)) {
        const source = options.dir === undefined ? "the user cache" : "dir";
        const present = inspectLibtorch(target, source, { version, headers: true });
        if ("version" in present) return { ...present, installed: false };
      }
      if (options.dir !== undefined) await requireReplaceable(target, force);
      await removeLeftovers(home, path.basename(target));
      const staging = path.join(home, `.${path.basename(target)}-${randomUUID()}`);
      try {
        const tree = await obtain({ ...options, cache, staging, report });
        const found = checkTree(tree, version, flavour);
        if (existsSync(target)) await rename(target, path.join(staging, "replaced"));
        await rename(tree, target);
        return { ...found, folder: target, source: found.source, installed: true };
      } finally {
        await rm(staging, { recursive: true, force: true });
      }
    } finally {
      await unlock();
    }
  } catch (error) {
    throw typed(error, home, options);
  }
}

interface Job extends InstallOptions {
  readonly version: string;
  readonly flavour: string;
  readonly cache: string;
  readonly staging: string;
  readonly report: (progress: InstallProgress) => void;
}

/** Brings an unpacked libtorch into `job.staging` and gives its folder. */
async function obtain(job: Job): Promise<string> {
  await mkdir(job.staging);
  const tree = path.join(job.staging, "libtorch");
  if (job.from) {
    const from = job.from.startsWith("file:") ? fileURLToPath(job.from) : job.from;
    if (/^https?:\/\//i.test(from)) {
      await unpack(await fetchArchive(from, job, job.sha256), tree, job);
      return tree;
    }
    const info = await stat(from).catch(() => null);
    if (!info?.isFile() && !info?.isDirectory()) {
      throw new LayerEnsemblesError(
        "ERR_LE_LIBTORCH_NOT_FOUND",
        `Expected an address, zip archive, wheel or folder for --from but received "${from}", which ${info ? "is none of these" : "does not exist"}`,
      );
    }
    if (info.isDirectory()) {
      await copyTree(from, tree, job);
    } else {
      if (job.sha256) await verify(from, job.sha256, job);
      await unpack(from, tree, job);
    }
    return tree;
  }

  const failures: string[] = [];
  const archive = officialArchive(job.version, job.flavour);
  if (archive) {
    const url = `${job.base ?? DOWNLOAD_BASE}/${archive.folder}/${encodeURIComponent(archive.name)}`;
    try {
      const zip = await fetchArchive(url, job, job.sha256 ?? KNOWN_SHA256[archive.name]);
      await unpack(zip, tree, job);
      await rm(zip, { force: true });
      return tree;
    } catch (error) {
      if (job.signal?.aborted || (error as NodeJS.ErrnoException).code === "ENOSPC") throw error;
      failures.push(`official archive: ${(error as Error).message}`);
      job.report({ stage: "note", detail: `${(error as Error).message}; trying pip instead` });
    }
  } else {
    failures.push(`official archive: there is none for ${process.platform} ${process.arch}`);
  }
  try {
    await unpack(await pipDownload(job), tree, job);
    return tree;
  } catch (error) {
    if (job.signal?.aborted || (error as NodeJS.ErrnoException).code === "ENOSPC") throw error;
    failures.push(`pip: ${(error as Error).message}`);
  }
  throw new LayerEnsemblesError(
    "ERR_LE_LIBTORCH_NOT_FOUND",
    `Expected a way to fetch libtorch ${job.version} (${job.flavour}) but received failures from each:\n` +
      `${failures.map((failure) => `  - ${failure}`).join("\n")}\n` +
      "Fix: download libtorch or a torch wheel on a machine with network access, then " +
      "npx layer-ensembles install-libtorch --from <zip, wheel or folder>.",
  );
}

/** The official archive for this platform, or null. */
function officialArchive(version: string, flavour: string): { folder: string; name: string } | null {
  const platform = `${process.platform}-${process.arch}`;
  if (platform === "linux-x64") {
    return { folder: flavour, name: `libtorch-shared-with-deps-${version}+${flavour}.zip` };
  }
  if (platform === "darwin-arm64" && flavour === "cpu") {
    return { folder: "cpu", name: `libtorch-macos-arm64-${version}.zip` };
  }
  return null;
}

function checkTree(tree: string, version: string, flavour: string): Libtorch {
  const found = inspectLibtorch(tree, "install-libtorch", { version });
  if (!("version" in found)) {
    const code = found.code === "ERR_LE_LIBTORCH_NOT_FOUND" ? "ERR_LE_LIBTORCH_BROKEN" : found.code;
    throw new LayerEnsemblesError(
      code,
      `Expected libtorch ${version} to install but received one that ${found.reason}`,
    );
  }
  if (found.flavour !== flavour && found.flavour !== "cuda") {
    throw new LayerEnsemblesError(
      "ERR_LE_LIBTORCH_VERSION",
      `Expected flavour ${flavour} of libtorch but received ${found.flavour}. Fix: add --flavour ${found.flavour}, or name another source with --from.`,
    );
  }
  return found;
}

// ---- download ----

/** Fetches `url` into the cache, resuming what an earlier attempt left. Gives the path of the complete file. */
async function fetchArchive(url: string, job: Job, sha256: string | undefined): Promise<string> {
  const folder = path.join(job.cache, "downloads");
  const name = decodeURIComponent(new URL(url).pathname.split("/").pop() || "archive").replace(/[^\w.+-]/g, "_");
  const file = path.join(folder, name);
  const { signal, connectTimeout, report } = job;
  if (/^http:/i.test(url) && !sha256)
    report({
      stage: "note",
      detail: `${url} is not encrypted, and no SHA-256 is known: whoever is on the way could put other code in its place. Use https, or --sha256`,
    });
  try {
    if (sha256 && existsSync(file)) {
      if ((await hashFile(file)) === sha256.toLowerCase()) return file;
      await rm(file);
    }
    await download(url, file, { sha256, signal, connectTimeout, report });
    return file;
  } catch (error) {
    if (!(error instanceof DownloadError)) throw error;
    const broken = error.kind === "checksum";
    throw new LayerEnsemblesError(
      broken ? "ERR_LE_LIBTORCH_BROKEN" : "ERR_LE_LIBTORCH_NOT_FOUND",
      broken ? `${error.message}. ${CHECKSUM_FIX}` : `Expected libtorch from ${url} but received: ${error.message}`,
      { cause: error.cause },
    );
  }
}

const CHECKSUM_FIX = "Fix: try again, or check the source of the file.";

async function verify(file: string, sha256: string, job: Job): Promise<void> {
  job.report({ stage: "check", detail: file });
  const wrong = await wrongChecksum(file, sha256);
  if (wrong) throw new LayerEnsemblesError("ERR_LE_LIBTORCH_BROKEN", `${wrong}. ${CHECKSUM_FIX}`);
}

// ---- pip ----

/** Lets pip fetch the torch wheel, by the indexes that it is set up for. Gives the wheel's path. */
async function pipDownload(job: Job): Promise<string> {
  const folder = path.join(job.staging, "pip");
  const named = `torch==${job.version}+${job.flavour}`;
  const plain = `torch==${job.version}`;
  const failures: string[] = [];
  // Outside Linux x86-64, and on some mirrors, the wheel has no flavour in its version.
  for (const requirement of job.flavour === "cpu" ? [named, plain] : [named]) {
    const command = ["-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"];
    job.report({ stage: "pip", detail: `python3 ${command.slice(0, 4).join(" ")} ${requirement}` });
    const failure = await run(
      "python3",
      [...command, "--progress-bar", "off", "--dest", folder, requirement],
      job.signal,
    );
    const wheel = failure === null ? (await readdir(folder)).find((name) => name.endsWith(".whl")) : undefined;
    if (wheel) return path.join(folder, wheel);
    failures.push(`${requirement}: ${failure ?? "no wheel was left"}`);
    if (failure && /cannot be run|No module named/.test(failure)) break;
  }
  throw new LayerEnsemblesError("ERR_LE_LIBTORCH_NOT_FOUND", failures.join("; "));
}

/** Runs a command. Null where it succeeds, else the last thing it said. */
function run(command: string, args: string[], signal: AbortSignal | undefined): Promise<string | null> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"], signal, killSignal: "SIGTERM" });
    let said = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      said = (said + text).slice(-4_000);
    });
    child.on("error", (error) => {
      if (signal?.aborted) reject(signal.reason);
      else resolve(`${command} cannot be run (${(error as NodeJS.ErrnoException).code}); install Python 3 with pip`);
    });
    child.on("close", (code) => {
      const lines = said.split("\n").map((line) => line.trim());
      const last = lines.filter((line) => line && !line.startsWith("[notice]")).pop() ?? `exit code ${code}`;
      resolve(code === 0 ? null : last.replace(/^ERROR: /, ""));
    });
  });
}

// ---- unpack and copy ----

/** What a libtorch consists of, in a folder called libtorch or torch in an archive; `licenses` are those of a wheel. */
const WANTED = /^(?:lib|include|share|licenses)\/|^(?:build-version|version\.py)$/;
/** Parts of a Python package that nothing here uses. */
const UNWANTED = /^lib\/libtorch_python\.|\.(?:a|lib|pyi?)$(?<!^version\.py)/;

/** Unpacks `lib`, `include` and `share` of a libtorch archive or torch wheel, and a wheel's licences. */
async function unpack(archive: string, tree: string, job: Job): Promise<void> {
  let zip: yauzl.ZipFile;
  try {
    await (await openRegular(archive)).close();
    zip = await new Promise((resolve, reject) =>
      yauzl.open(archive, { lazyEntries: true, autoClose: false }, (error, file) =>
        error ? reject(error) : resolve(file),
      ),
    );
  } catch (error) {
    throw damaged(archive, error);
  }
  try {
    const entries = await listEntries(zip);
    const total = entries.reduce((sum, [entry]) => sum + entry.uncompressedSize, 0);
    let done = 0;
    for (const [entry, name] of entries) {
      job.signal?.throwIfAborted();
      const file = path.join(tree, name);
      await mkdir(path.dirname(file), { recursive: true });
      const stream = await new Promise<Readable>((resolve, reject) =>
        zip.openReadStream(entry, (error, opened) => (error ? reject(error) : resolve(opened))),
      );
      let crc = 0;
      const counted = async function* (chunks: AsyncIterable<Buffer>) {
        for await (const chunk of chunks) {
          crc = crc32(chunk, crc);
          done += chunk.length;
          job.report({ stage: "unpack", detail: path.basename(archive), done, total });
          yield chunk;
        }
      };
      await pipeline(stream, counted, createWriteStream(file, { flags: "wx" }), { signal: job.signal });
      // yauzl checks sizes alone.
      if (crc !== entry.crc32) throw new Error(`the checksum of ${entry.fileName} is wrong`);
    }
  } catch (error) {
    if (job.signal?.aborted || (error as NodeJS.ErrnoException).syscall) throw error;
    throw damaged(archive, error);
  } finally {
    zip.close();
  }
}

/** The entries to unpack, each with its path below the libtorch folder. yauzl refuses absolute paths and "..". */
function listEntries(zip: yauzl.ZipFile): Promise<[yauzl.Entry, string][]> {
  return new Promise((resolve, reject) => {
    const entries: [yauzl.Entry, string][] = [];
    zip.on("error", reject);
    zip.on("end", () => resolve(entries));
    zip.on("entry", (entry: yauzl.Entry) => {
      const name = /^(?:libtorch|torch|torch-[^/]+\.dist-info(?=\/licenses\/))\/(.+)$/.exec(entry.fileName)?.[1];
      const isFile = ((entry.externalFileAttributes >>> 16) & 0o170000) !== 0o120000 && !entry.fileName.endsWith("/");
      if (name && isFile && WANTED.test(name) && !UNWANTED.test(name)) entries.push([entry, name]);
      zip.readEntry();
    });
    zip.readEntry();
  });
}

function damaged(archive: string, cause: unknown): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_LIBTORCH_BROKEN",
    `Expected a complete zip archive or wheel for ${path.basename(archive)} but received a damaged one: ${reasonOf(cause)}. ` +
      "Fix: download it again.",
    { cause },
  );
}

/** Copies a libtorch folder, a Python torch package, or the folder that holds either. */
async function copyTree(from: string, tree: string, job: Job): Promise<void> {
  const folders = [from, path.join(from, "torch"), path.join(from, "libtorch")];
  const folder = folders.find((candidate) => existsSync(path.join(candidate, "lib", libraryName("torch_cpu"))));
  if (!folder || !readVersion(folder)) {
    throw new LayerEnsemblesError(
      "ERR_LE_LIBTORCH_NOT_FOUND",
      `Expected a libtorch folder for --from but received "${from}", which holds no lib/${libraryName("torch_cpu")} or does not say its version`,
    );
  }
  job.report({ stage: "copy", detail: folder });
  await mkdir(tree);
  const parts = ["lib", "include", "share", "licenses", "build-version", "version.py"];
  const sources = new Map(parts.map((name) => [name, path.join(folder, name)]));
  if (!existsSync(path.join(folder, "licenses"))) sources.set("licenses", licencesOfPython(folder));
  for (const [name, from] of sources) {
    if (!existsSync(from)) continue;
    await cp(from, path.join(tree, name), {
      recursive: true,
      dereference: true,
      filter: (source) => !UNWANTED.test(path.relative(folder, source)),
    });
    job.signal?.throwIfAborted();
  }
}

/** Where pip puts the licences of the `torch` package in `folder`. */
function licencesOfPython(folder: string): string {
  return path.join(path.dirname(folder), `torch-${readVersion(folder)}.dist-info`, "licenses");
}

// ---- cleaning, errors ----

/** @throws ERR_LE_OPTION for a folder that the user chose and that holds something which must not be lost */
async function requireReplaceable(folder: string, force: boolean): Promise<void> {
  const entries = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  if (entries.length === 0) return;
  const isLibtorch = existsSync(path.join(folder, "lib", libraryName("torch_cpu")));
  if (force && isLibtorch) return;
  throw new LayerEnsemblesError(
    "ERR_LE_OPTION",
    `Expected a new or empty folder for dir but received "${folder}", which holds ${isLibtorch ? "another libtorch. Fix: add --force (force: true), or name another folder" : "other things. Fix: name another folder"}.`,
  );
}

/** Removes what killed runs left for the same target. Called under the lock. */
async function removeLeftovers(cache: string, name: string): Promise<void> {
  for (const entry of await readdir(cache)) {
    if (entry.startsWith(`.${name}-`)) await rm(path.join(cache, entry), { recursive: true, force: true });
  }
}

function typed(error: unknown, folder: string, options: InstallOptions): unknown {
  if (error instanceof LayerEnsemblesError) return error;
  if (options.signal?.aborted) return options.signal.reason;
  const { code, message } = error as NodeJS.ErrnoException;
  const setting = options.dir === undefined ? "set XDG_CACHE_HOME to" : "name";
  const fix =
    code === "ENOSPC"
      ? `free about 1 GB there, or ${setting} a folder on another disk`
      : `${setting} a folder that can be written`;
  return new LayerEnsemblesError(
    "ERR_LE_IO",
    `Expected to write libtorch to ${folder} but received ${message ?? error}. Fix: ${fix}.`,
    { cause: error },
  );
}
