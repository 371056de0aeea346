import { readFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

/** This package's folder; the same two levels up from `lib/native` and from `dist/native`. */
export const PACKAGE_ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");

/** This package's version, from its package.json. */
export const PACKAGE_VERSION: string = JSON.parse(
  readFileSync(path.join(PACKAGE_ROOT, "package.json"), "utf8"),
).version;

/** The libtorch that is fetched where none is named, and that published binaries are built for. */
export const LIBTORCH_VERSION = "2.13.0";
