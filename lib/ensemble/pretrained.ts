import { existsSync } from "node:fs";
import path from "node:path";
import { makeFolders } from "../data/files.js";
import { LayerEnsemblesError } from "../errors.js";
import { DownloadError, type DownloadProgress, download, wrongChecksum } from "../native/download.js";
import { userCache } from "../native/locate.js";
import { lock } from "../native/lock.js";
import { checkOptions, option } from "../options.js";
import { ENCODERS, type EncoderName } from "./zoo.js";

/** Where torchvision's weights are published. */
export const WEIGHTS_BASE = "https://download.pytorch.org/models";

/** torchvision's `IMAGENET1K_V1`; a name ends in the first digits of its file's SHA-256. */
const IMAGENET: Readonly<Record<EncoderName, string>> = {
  resnet18: "resnet18-f37072fd.pth",
  resnet34: "resnet34-b627a593.pth",
  resnet50: "resnet50-0676ba61.pth",
  resnet101: "resnet101-63fe2227.pth",
};

/** Options of {@link imagenetWeights}. */
export interface WeightsOptions {
  /** Folder that keeps the files. @default `layer-ensembles/weights` in the user cache (`XDG_CACHE_HOME`, `~/.cache`) */
  cache?: string;
  /** Address of the folder that has the files. @default WEIGHTS_BASE */
  base?: string;
  /** Stops the download; the promise rejects with `signal.reason`. */
  signal?: AbortSignal;
  /** Called as bytes arrive, and once where another process is already fetching the file. */
  onProgress?: (progress: DownloadProgress | { stage: "wait"; detail: string }) => void;
}

/**
 * The file of torchvision's ImageNet weights for a ResNet, from the cache or fetched into it once. `Backbone.create` takes
 * it as `encoderWeights` (and fetches it itself for `"imagenet"`); a `resnet18` of three channels and 1000 classes takes
 * it by `loadWeights`.
 * @param name `resnet18`, `resnet34`, `resnet50` or `resnet101`
 * @throws ERR_LE_IO where it cannot be fetched, with its address and where to put it; ERR_LE_CHECKPOINT where a file, there
 *   or fetched, is not the published one: it is not used; ERR_LE_OPTION; the signal's reason
 */
export async function imagenetWeights(name: string, options: WeightsOptions = {}): Promise<string> {
  checkOptions("imagenetWeights", { name }, { name: option.required(option.oneOf(ENCODERS)) });
  checkOptions("imagenetWeights", options, {
    cache: option.string(),
    base: option.string(),
    signal: option.signal(),
    onProgress: option.callback(),
  });
  return fetchWeights(IMAGENET[name as EncoderName], options);
}

/**
 * A published weight file whose name ends in the first digits of its SHA-256, from the cache or fetched into it.
 * @internal
 */
export async function fetchWeights(name: string, options: WeightsOptions): Promise<string> {
  const folder = path.resolve(options.cache ?? path.join(userCache(), "weights"));
  const file = path.join(folder, name);
  const url = `${options.base ?? WEIGHTS_BASE}/${name}`;
  const sha256 = /-([0-9a-f]{8,64})\.\w+$/.exec(name)?.[1] as string;
  const { signal, onProgress: report = () => {} } = options;
  try {
    await makeFolders(folder);
    const unlock = await lock(`${file}.lock`, signal, () =>
      report({ stage: "wait", detail: `another process is fetching ${name}` }),
    );
    try {
      if (!existsSync(file)) await download(url, file, { sha256, signal, report });
      // Also what was there before: an earlier version of this file, or one that the user has put there, may be damaged.
      else {
        const wrong = await wrongChecksum(file, sha256, file);
        if (wrong)
          throw new LayerEnsemblesError("ERR_LE_CHECKPOINT", `${wrong}. Fix: remove it, and it is fetched anew.`);
      }
      return file;
    } finally {
      await unlock();
    }
  } catch (error) {
    if (error instanceof LayerEnsemblesError && error.code !== "ERR_LE_IO") throw error;
    if (signal?.aborted) throw signal.reason;
    if (error instanceof DownloadError && error.kind === "checksum")
      throw new LayerEnsemblesError("ERR_LE_CHECKPOINT", `${error.message}. It was not kept.`);
    throw new LayerEnsemblesError(
      "ERR_LE_IO",
      `Expected the weights ${url} but received: ${(error as Error).message}. ` +
        `Fix: fetch that file elsewhere and put it at ${file}, or name a file with encoderWeights: FILE (--encoder-weights FILE).`,
      { cause: error },
    );
  }
}
