import { option, type Values } from "../options.js";
import { LIBTORCH_VERSION } from "./package.js";

/** What the installer is doing. `done` and `total` are bytes; `total` is null where it is not known. */
export interface InstallProgress {
  readonly stage: "wait" | "download" | "pip" | "check" | "unpack" | "copy" | "note";
  /** For people: the address, the file, why a route was given up. */
  readonly detail: string;
  readonly done?: number;
  readonly total?: number | null;
}

export const INSTALL = {
  /** `cpu`, `cu130`, …. @default "cpu" */
  flavour: option.pattern("cpu, cu<version>, rocm<version> or xpu", /^(cpu|cu\d+|rocm[\d.]+|xpu)$/, {
    default: "cpu",
    text: "cpu, cu130, …",
    arg: "name",
  }),
  /** Address (http, https, file), zip archive, wheel, or folder to take libtorch from. @default the official archive, else pip */
  from: option.string({ text: "address, zip archive, wheel or folder to take it from", arg: "source" }),
  /**
   * The very folder to fill, new or empty; with `force` it may hold another libtorch. It is found where
   * `LAYER_ENSEMBLES_LIBTORCH` names it.
   * @default `<version>-<flavour>` in `cache`, where the search finds it
   */
  dir: option.string({
    otherwise: "in the user cache",
    text: "folder to fill, for LAYER_ENSEMBLES_LIBTORCH",
    arg: "folder",
  }),
  /** Expected SHA-256 of the archive, 64 hexadecimal digits. @default the known one of an official archive, else none */
  sha256: option.pattern("64 hexadecimal digits", /^[0-9a-f]{64}$/i, {
    text: "expected digest of the archive",
    arg: "digest",
  }),
  /** Exact version. @default LIBTORCH_VERSION */
  version: option.pattern(`a version such as ${LIBTORCH_VERSION}`, /^\d+\.\d+\.\d+$/, {
    default: LIBTORCH_VERSION,
    otherwise: "the one the addon is built for",
    text: "exact version",
    arg: "version",
  }),
  /** Replace what is installed. @default false */
  force: option.boolean({ default: false, text: "replace what is installed" }),
  /** Folder to install under, and to keep unfinished downloads in. @default cacheFolder() */
  cache: option.string(),
  /** Base address of the official archives. @default DOWNLOAD_BASE */
  base: option.string(),
  /** Milliseconds to wait for a server's first answer. @default 10000 */
  connectTimeout: option.number({ above: 0 }),
  signal: option.signal(),
  onProgress: option.callback<(progress: InstallProgress) => void>(),
};

/** Options of `installLibtorch`. */
export interface InstallOptions extends Values<typeof INSTALL> {}
