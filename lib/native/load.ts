import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import type { NumericArray } from "../arrays.js";
import { readTextSync } from "../data/files.js";
import { LayerEnsemblesError } from "../errors.js";
import { isNative, type Stretching, useStretchKernel } from "../grid/index.js";
import { PACKAGE_ROOT } from "../package.js";
import type { Addon } from "./addon.js";
import { configuration, onConfigure } from "./configure.js";
import { inspectLibtorch, type Libtorch, libraryName, locateLibtorch } from "./locate.js";
import { LIBTORCH_VERSION } from "./package.js";
import { requireLoadable } from "./try-libtorch.js";

const requireFile = createRequire(import.meta.url);

/** The functions of native/preload.c. */
interface Preload {
  open(file: string): void;
  claim(folder: string): string;
  unclaim(): void;
  setDefault(name: string, value: string): void;
}

/** The files of the addon, before anything is loaded. */
export interface AddonFiles {
  readonly addon: string;
  readonly preload: string;
  /** The libtorch version that the addon was built for. */
  readonly builtFor: string;
}

/** What {@link loadAddon} loaded. */
export interface Loaded {
  readonly addon: Addon;
  readonly files: AddonFiles;
  readonly libtorch: Libtorch;
  /** Why a CUDA libtorch can only be used on the CPU here; null where it can, or where it has no CUDA. */
  readonly cudaProblem: string | null;
}

let loaded: Loaded | null = null;

/**
 * Loads libtorch and the addon; once per process and thread, later calls give the same. A libtorch that was never loaded
 * before is tried in a child process first, which takes about a second.
 * @throws LayerEnsemblesError: `ERR_LE_ADDON_NOT_FOUND`, `ERR_LE_LIBTORCH_NOT_FOUND`, `ERR_LE_LIBTORCH_VERSION` or
 * `ERR_LE_LIBTORCH_BROKEN`, each with the cure.
 */
export async function loadAddon(): Promise<Addon> {
  return load().addon;
}

/** What is loaded, or null. Loads nothing. */
export function loadedAddon(): Loaded | null {
  return loaded;
}

/** {@link loadAddon}, with everything that is known about it. Takes some 200 ms the first time. */
export function load(): Loaded {
  if (loaded) return loaded;
  const files = findAddon();
  const wanted = locateLibtorch({ libtorch: configuration().libtorch, version: files.builtFor });
  requireLoadable(files, wanted);
  const preload = requireNative<Preload>(files.preload);

  // Another thread of this process may have chosen before.
  const folder = preload.claim(wanted.folder);
  const libtorch =
    folder === wanted.folder ? wanted : inspectLibtorch(folder, "this process", { version: files.builtFor });
  if (!("version" in libtorch)) throw broken(folder, libtorch.reason);

  // With the default, any other busy process makes two-thread code 10 to 100 times slower. libgomp reads it when opened.
  preload.setDefault("OMP_WAIT_POLICY", "passive");
  const library = (name: string) => path.join(folder, "lib", libraryName(name));
  let cudaProblem: string | null = null;
  try {
    for (const name of ["c10", "torch_cpu"]) preload.open(library(name));
    if (existsSync(library("torch_cuda"))) {
      try {
        preload.open(library("torch_cuda"));
      } catch (error) {
        cudaProblem = (error as Error).message;
      }
    }
  } catch (error) {
    preload.unclaim();
    throw broken(folder, (error as Error).message, error);
  }
  const addon = requireNative<Addon>(files.addon);
  loaded = { addon, files, libtorch, cudaProblem };
  useStretchKernel((task) => (isNative(task) ? resample(addon, task) : undefined));
  const apply = () => {
    const { threads, allocator } = configuration();
    addon.configure({ ...(threads !== undefined && { threads }), ...(allocator !== undefined && { allocator }) });
  };
  apply();
  onConfigure(apply);
  return loaded;
}

/**
 * Finds the addon: `build/Release` of a checkout, else the prebuilt file for this platform.
 * @throws LayerEnsemblesError `ERR_LE_ADDON_NOT_FOUND`
 */
export function findAddon(root: string = PACKAGE_ROOT): AddonFiles {
  let addon: string;
  try {
    addon = (requireFile("node-gyp-build") as { path(folder: string): string }).path(root);
  } catch (error) {
    const platform = `${process.platform}-${process.arch}`;
    const fix = existsSync(path.join(root, "CMakeLists.txt"))
      ? "Fix: npm run build."
      : "Fix: build it from a checkout (npm ci && npm run build), or use a platform with a prebuilt one.";
    throw new LayerEnsemblesError(
      "ERR_LE_ADDON_NOT_FOUND",
      `Expected the native addon for ${platform} in ${root} but received none. ${fix}`,
      { cause: error },
    );
  }
  const folder = path.dirname(addon);
  const preload = [path.join(folder, "../preload/preload.node"), path.join(folder, "preload/preload.node")].find(
    existsSync,
  );
  if (!preload) {
    throw new LayerEnsemblesError(
      "ERR_LE_ADDON_NOT_FOUND",
      `Expected preload.node beside ${addon} but received none. Fix: npm run build, or install the package again.`,
    );
  }
  return { addon, preload, builtFor: readBuildInfo(path.join(folder, "build-info.json")) };
}

async function resample(addon: Addon, { data, shape, stretches, labels }: Stretching): Promise<NumericArray> {
  return (await addon.resample(data as Float32Array | Uint8Array, shape, stretches, labels)).data;
}

function readBuildInfo(file: string): string {
  try {
    const { libtorch } = JSON.parse(readTextSync(file));
    if (typeof libtorch === "string") return libtorch;
  } catch {}
  return LIBTORCH_VERSION;
}

function requireNative<T>(file: string): T {
  try {
    return requireFile(file) as T;
  } catch (error) {
    throw new LayerEnsemblesError(
      "ERR_LE_ADDON_NOT_FOUND",
      `Expected a native addon that can be loaded for ${file} but received: ${(error as Error).message}. ` +
        "Fix: npm run build in a checkout, or install the package again.",
      { cause: error },
    );
  }
}

function broken(folder: string, reason: string, cause?: unknown): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_LIBTORCH_BROKEN",
    `Expected a libtorch that can be opened for ${folder} but received: ${reason}. ` +
      "Fix: npx layer-ensembles install-libtorch --force, or name another folder in LAYER_ENSEMBLES_LIBTORCH.",
    { cause },
  );
}
